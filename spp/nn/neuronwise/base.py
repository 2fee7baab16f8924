"""What neuron-wise layers share: options, statistics, and the gradients of weight and bias."""

from __future__ import annotations

from collections.abc import Iterator
from ctypes import CDLL
from typing import Any, Self

import torch
from torch import Tensor, nn

from spp.errors import InputError, UnknownNameError
from spp.nn.neuronwise import native
from spp.nn.neuronwise.gradient import WeightGradient
from spp.nn.neuronwise.outer import Outer
from spp.nn.neuronwise.regions import Nonlinearity, check_weighting
from spp.nn.neuronwise.statistics import Part, Region, measure, merge_, newest_part, per_neuron
from spp.nn.neuronwise.transform import check_mode, row_dot, transform_

STATISTICS = ("batch", "running")
"""Where mean and spread come from: the batch of this backward pass, or moving averages over passes."""
RUNNING = ("running_share", "running_mean", "running_var")


def widened(dtype: torch.dtype) -> torch.dtype:
    """What statistics of tensors of ``dtype`` are computed and kept in: float32 for half precision."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def narrowed(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """A gradient in ``dtype``; finite values stay finite, others stay what they are, for a loss scaler to see."""
    if gradient.dtype == dtype:
        return gradient
    most = torch.finfo(dtype).max
    return torch.where(gradient.isfinite(), gradient.clamp(-most, most), gradient).to(dtype)


class NeuronwiseLayer(nn.Module):
    """What the layers share: options, statistics and the weight gradient.

    Attributes:
        activation: The ``Nonlinearity`` that follows the layer.
        mode: A name of ``spp.nn.neuronwise.MODES``.
        statistics: ``batch`` or ``running``.
        weighting: A name of ``spp.nn.neuronwise.WEIGHTINGS``.
        eps: Added to the variance.
        momentum: Weight of the newest pass in running statistics; 0 freezes them.
        sync: Whether statistics are taken over all ranks of the default process group.
    """

    weight: Tensor
    bias: Any
    running_share: Tensor
    running_mean: Tensor
    running_var: Tensor

    def set_neuronwise(
        self,
        activation: str | nn.Module | Nonlinearity,
        *,
        mode: str = "coords",
        statistics: str = "batch",
        weighting: str = "clamp",
        eps: float = 1e-5,
        momentum: float = 0.1,
        sync: bool = False,
    ) -> None:
        """Check and set the options, and forget all statistics.

        Raises:
            UnknownNameError: A name is in none of the tables.
            InputError: The mode needs a bias, or a number is out of range.
        """
        self.activation = Nonlinearity.of(activation)
        check_mode(mode, bias=self.bias is not None)
        if statistics not in STATISTICS:
            raise UnknownNameError("statistics", str(statistics), STATISTICS)
        check_weighting(weighting)
        if not eps >= 0:
            raise InputError("eps is at least 0", received=repr(eps))
        if not 0 <= momentum <= 1:
            raise InputError("momentum is in [0, 1]", received=repr(momentum))
        self.mode, self.statistics, self.weighting = mode, statistics, weighting
        self.eps, self.momentum, self.sync = eps, momentum, sync
        weight = self.weight.detach()
        wide = widened(weight.dtype)
        features = weight.shape[1] * getattr(self, "groups", 1)
        # Working memory, which holds the newest share, mean minus pivot, mean square of inputs minus pivot (plus eps), the
        # pivot, and what both means are still to be multiplied by: to allocate it in every pass costs as much as to use it. It
        # is no buffer, since DistributedDataParallel would send it to all ranks before every forward pass.
        self._newest = (
            weight.new_zeros(len(weight), dtype=wide),
            torch.zeros_like(weight, dtype=wide),
            torch.ones_like(weight, dtype=wide),
            self.outer().spread(weight.new_zeros(features, dtype=wide)).clone(),
            weight.new_ones(len(weight), dtype=wide),
        )
        if statistics == "running":
            for name, tensor in zip(RUNNING, self._newest, strict=False):
                self.register_buffer(name, tensor.clone())
        native.start()

    def neuronwise_statistics(self) -> dict[str, Tensor]:
        """Statistics of each neuron's inputs over its linear region.

        Returns:
            ``input_mean`` and ``input_std``, of the shape of the weight ``(O, *F)``, and ``active_share`` ``(O,)``, the mean of
            the region's weights over samples. They are those of the newest backward pass, or the running ones. A neuron whose
            region has been empty has no statistics: NaN, and an active share of 0. Empty before the first backward pass.
        """
        if self.statistics == "running":
            share, mean, var = (getattr(self, name).detach() for name in RUNNING)
        else:
            share, offset, square, pivot, scale = self._newest
            column = per_neuron(scale, offset)
            offset, square = offset * column, square * column
            mean, var = offset + pivot, (square - self.eps).addcmul(offset, offset, value=-1).clamp(min=0)
        if not bool(share.any()):
            return {}
        hole = per_neuron(share == 0, mean)
        return {
            "input_mean": mean.masked_fill(hole, torch.nan),
            "input_std": var.sqrt().masked_fill(hole, torch.nan),
            "active_share": share.clone(),
        }

    def outer(self) -> Outer:
        """How this kind of layer sums neuron times input."""
        raise NotImplementedError  # linear layers and convolutions each have their own; this class is no layer by itself

    def tap(self, x: Tensor, z: Tensor, weight: Tensor) -> Tensor:
        """Outputs ``z`` of the layer with a detached weight, made to give weight and bias their gradient.

        Args:
            x: The layer's inputs.
            z: Its outputs; the same tensor is returned.
            weight: Its weight, not detached.
        """
        result: Tensor = WeightGradient.apply(z, x.detach(), weight, self.bias, self)  # type: ignore[no-untyped-call]
        return result

    def gradients(self, x: Tensor, p: Tensor, delta: Tensor, weight_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Neuron-wise gradients of weight and bias; keeps or updates the statistics.

        Args:
            x: Inputs of the layer.
            p: How much each sample counts in each neuron's region.
            delta: Gradient with respect to the outputs, of the shape of ``p``.
            weight_dtype: What the gradients are returned in.
        """
        dtype = widened(delta.dtype)
        running = self.statistics == "running"
        trained = self.bias is not None and self.bias.requires_grad
        moves = trained and self.mode.startswith("coords")
        library = native.kernel_for(x, p, delta)
        region = measure(
            self.outer(),
            x,
            delta,
            p,
            dtype,
            sync=self.sync,
            eps=0.0 if running else self.eps,
            reuse=self._newest[1:3] if self._newest[1].dtype == dtype else (None, None),
            library=library,
        )
        weight, bias = region.weight_gradient, region.bias_gradient
        if library is not None and native.takes(region, *(self._wide(dtype)[1:] if running else ())):
            total = self._finish(library, region, bias=trained)
        else:
            region.settle()
            moved: list[Tensor] = []
            for part, square in self._with_spread(region):
                own, offset = part.weight_gradient, part.offset
                transform_(self.mode, own, part.bias_gradient, offset, part.pivot, square, bias=trained)
                if moves:
                    moved.append(row_dot(offset, own, square))
            # the pivot's part apart, so that the mean itself is never built
            total = torch.cat(moved) + row_dot(region.pivot, weight) if moves else None
        self._keep(region)
        if total is not None:
            bias = bias - total  # moved by sum_f M_f weight_f
        return narrowed(weight, weight_dtype), narrowed(bias, weight_dtype)

    def _finish(self, library: CDLL, region: Region, *, bias: bool) -> Tensor | None:
        """Transform the gradient and update running statistics in one pass; what the bias moves by, if it does."""
        if self.statistics == "batch":
            return native.finish_(library, region, self.mode, bias=bias)
        share, mean, var = wide = self._wide(region.second.dtype)
        updated = self.training and self.momentum > 0
        newest = newest_part(share, region.share, self.momentum) if updated else None
        moved = native.finish_(library, region, self.mode, bias=bias, running=(mean, var), newest=newest, eps=self.eps)
        if updated:
            self._store(wide)
        return moved

    def _wide(self, dtype: torch.dtype) -> list[Tensor]:
        """Running share, mean and variance in ``dtype``: the buffers themselves, or copies."""
        return [getattr(self, name).to(dtype) for name in RUNNING]

    def _store(self, wide: list[Tensor]) -> None:
        for name, tensor in zip(RUNNING, wide, strict=True):
            if getattr(self, name) is not tensor:
                getattr(self, name).copy_(tensor)

    def _with_spread(self, region: Region) -> Iterator[tuple[Part, Tensor]]:
        """The region in parts, each with the variance plus eps to divide by, in a tensor that may be overwritten."""
        parts = region.parts()
        scratch = torch.empty_like(parts[0].offset)
        if self.statistics == "batch":
            for part in parts:
                yield part, part.variance(out=scratch[: len(part.offset)])
            return
        share, mean, var = wide = self._wide(region.second.dtype)
        updated = self.training and self.momentum > 0
        if updated:
            newest = per_neuron(newest_part(share, region.share, self.momentum), mean)
            weights = zip(
                *(torch.split(tensor, len(scratch)) for tensor in (newest, newest * (1 - newest))), strict=True
            )
        for part, own_mean, own_var in zip(parts, *(torch.split(t, len(scratch)) for t in (mean, var)), strict=True):
            square = scratch[: len(own_mean)]
            if updated:
                merged, between = next(weights)
                merge_(own_mean, own_var, part, merged, between, square)
            torch.sub(own_mean, part.pivot, out=part.offset)
            yield part, torch.add(own_var, self.eps, out=square)
        if updated:
            self._store(wide)

    def _keep(self, region: Region) -> None:
        share, offset, second, pivot, scale = self._newest
        share.copy_(region.share)
        pivot.copy_(region.pivot)
        if region.scale is None:
            scale.fill_(1)
        else:
            scale.copy_(region.scale)
        for kept, new in ((offset, region.offset), (second, region.second)):
            if kept is not new:
                kept.copy_(new)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # Checkpoints of the ordinary layer have no statistics: those of this layer stay as they are then.
        own = [name for name in RUNNING if name in self._buffers]
        if own and not any(prefix + name in state_dict for name in own):
            state_dict = {**state_dict, **{prefix + name: self._buffers[name] for name in own}}
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # Statistics follow the weight to its device, but stay wide where it becomes half precision.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        wide = widened(self.weight.dtype)
        if self.statistics == "running":
            for name in RUNNING:
                self._buffers[name] = getattr(self, name).to(wide)
        share, offset, second, pivot, scale = (fn(tensor).to(wide) for tensor in self._newest)
        self._newest = share, offset, second, pivot, scale
        return self

    def extra_repr(self) -> str:
        """Show torch's own arguments, then the options."""
        options = f"activation={self.activation.name}, mode={self.mode}, statistics={self.statistics}"
        return f"{super().extra_repr()}, {options}"
