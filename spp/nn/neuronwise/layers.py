"""Linear and convolution layers whose weight gradients are taken in each neuron's own coordinates.

Forward and input gradient are torch's own: the layer is called with its weight detached, and a step behind it, which leaves
the values alone, hands the gradient on and computes those of weight and bias.
"""

from __future__ import annotations

from typing import Any, Self, TypedDict, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spp.errors import InputError, UnknownNameError
from spp.nn.neuronwise.gradient import (
    MODES,
    ConvOuter,
    LinearOuter,
    WeightGradient,
    check_mode,
    measure,
    merge_,
    newest_part,
    per_neuron,
    row_dot,
    transform_,
)
from spp.nn.neuronwise.regions import WEIGHTINGS, Nonlinearity

STATISTICS = ("batch", "running")
"""Where mean and spread come from: the batch of this backward pass, or moving averages over passes."""
RUNNING = ("running_share", "running_mean", "running_var")


class Options(TypedDict, total=False):
    """What neuron-wise layers take by keyword beside their activation; ``NeuronwiseLinear`` says what each means."""

    mode: str
    statistics: str
    weighting: str
    eps: float
    momentum: float
    sync: bool


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
        WEIGHTINGS.row(weighting)
        if not eps >= 0:
            raise InputError("eps is at least 0", received=repr(eps))
        if not 0 <= momentum <= 1:
            raise InputError("momentum is in [0, 1]", received=repr(momentum))
        self.mode, self.statistics, self.weighting = mode, statistics, weighting
        self.eps, self.momentum, self.sync = eps, momentum, sync
        weight = self.weight.detach()
        wide = widened(weight.dtype)
        features = weight.shape[1] * getattr(self, "groups", 1)
        # The newest share, mean minus pivot, mean square of inputs minus pivot (plus eps), and the pivot. They are kept as
        # working memory: to allocate it in every pass costs as much as to use it. They are no buffers, since
        # DistributedDataParallel would send those to all ranks before every forward pass.
        self._newest = (
            weight.new_zeros(len(weight), dtype=wide),
            torch.zeros_like(weight, dtype=wide),
            torch.ones_like(weight, dtype=wide),
            self.outer().spread(weight.new_zeros(features, dtype=wide)).clone(),
        )
        if statistics == "running":
            for name, tensor in zip(RUNNING, self._newest, strict=False):
                self.register_buffer(name, tensor.clone())

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
            share, offset, square, pivot = self._newest
            mean, var = offset + pivot, (square - self.eps).addcmul(offset, offset, value=-1).clamp(min=0)
        if not bool(share.any()):
            return {}
        empty = per_neuron(share == 0, mean)
        return {
            "input_mean": mean.masked_fill(empty, torch.nan),
            "input_std": var.sqrt().masked_fill(empty, torch.nan),
            "active_share": share.clone(),
        }

    def outer(self) -> LinearOuter | ConvOuter:
        """How this kind of layer sums neuron times input."""
        # linear layers and convolutions each have their own; this class is no layer by itself
        raise NotImplementedError

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
        running = self.statistics == "running"
        trained = self.bias is not None and self.bias.requires_grad
        share, offset, second, pivot = self._newest
        region = measure(
            self.outer(),
            x,
            delta,
            p,
            widened(delta.dtype),
            sync=self.sync,
            eps=0.0 if running else self.eps,
            reuse=(offset, second),
        )
        newest = None
        if running and self.training and self.momentum > 0:
            newest = newest_part(self.running_share, region.share, self.momentum)
        mode = MODES[self.mode]
        moved: list[Tensor] = []
        scratch: Tensor | None = None
        for rows, part in region.parts():
            scratch = torch.empty_like(part.offset) if scratch is None else scratch[: len(part.offset)]
            if running:
                mean, var = self.running_mean[rows], self.running_var[rows]
                if newest is not None:
                    merge_(mean, var, part, newest[rows], scratch)
                torch.sub(mean, part.pivot, out=part.offset)
                square = torch.add(var, self.eps, out=scratch)
            else:
                square = part.variance(out=scratch)
            own = part.weight_gradient
            bias_gradient = per_neuron(part.bias_gradient, own)
            transform_(mode, own, bias_gradient, part.offset, part.pivot, square, bias=trained)
            if trained and mode.coords:
                moved.append(row_dot(part.offset, own, square))
        weight, bias = region.weight_gradient, region.bias_gradient
        if moved:
            # moved by sum_f M_f weight_f, the pivot's part apart, so that the mean itself is never built
            bias = bias - (torch.cat(moved) + row_dot(region.pivot, weight))
        share.copy_(region.share)
        pivot.copy_(region.pivot)
        for kept, new in ((offset, region.offset), (second, region.second)):
            if kept is not new:
                kept.copy_(new)
        return narrowed(weight, weight_dtype), narrowed(bias, weight_dtype)

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
        share, offset, second, pivot = (fn(tensor).to(wide) for tensor in self._newest)
        self._newest = share, offset, second, pivot
        return self

    def extra_repr(self) -> str:
        """Show torch's own arguments, then the options."""
        options = f"activation={self.activation.name}, mode={self.mode}, statistics={self.statistics}"
        return f"{super().extra_repr()}, {options}"


class NeuronwiseLinear(NeuronwiseLayer, nn.Linear):
    """``torch.nn.Linear`` with neuron-wise weight gradients.

    Forward and input gradient are bit-identical to torch's. With gradient ``delta (N, O)`` with respect to the outputs,
    region weights ``P = phi'(z)`` and the mean ``M`` and spread ``s`` of the inputs over ``P``, the weight gradient is, by
    ``mode``, ``(gW - M gb) / s^2`` (``coords``), ``(gW - M gb) / s`` (``outer``), or ``gW - M gb`` (``*_centre``); ``coords*``
    changes the bias gradient as well. See ``docs/neuronwise.md``.

    A frozen weight makes it an ordinary layer. Under autocast and for half precision the weight gradient is computed in
    float32. Differentiating twice raises.

    Args:
        in_features: Size of the last axis of the input.
        out_features: Size of the last axis of the output.
        bias: Whether there is a bias; without one ``coords`` only divides by the variance.
        activation: The nonlinearity that follows the layer, which stays a module of its own: a name of
            ``spp.nn.ACTIVATIONS``, a module, or a ``Nonlinearity``.
        device: As torch has it.
        dtype: As torch has it.
        options: ``mode``: ``coords`` (default), ``coords_centre``, ``outer`` or ``outer_centre``.
            ``statistics``: ``batch`` (default), or ``running`` for moving averages, updated in every backward pass in training
            mode.
            ``weighting``: What negative derivatives count: ``clamp`` (nothing, default), ``abs``, or ``square`` for ``phi'^2``.
            ``eps``: Added to the variance, 1e-5.
            ``momentum``: Weight of the newest pass in running statistics, 0.1.
            ``sync``: Take statistics over all ranks of the default process group rather than per rank.

    Raises:
        UnknownNameError: A name is in none of the tables.
        InputError: ``coords_centre`` without bias, an unknown kind of activation, or a number out of range.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        activation: str | nn.Module | Nonlinearity,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias, device=device, dtype=dtype)
        self.set_neuronwise(activation, **options)

    def outer(self) -> LinearOuter:
        """Sums over rows."""
        return LinearOuter()

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in_features)`` to ``(..., out_features)``."""
        weight = self.weight
        if not (torch.is_grad_enabled() and weight.requires_grad):
            return F.linear(x, weight, self.bias)
        fixed, bias = weight.detach(), None if self.bias is None else self.bias.detach()
        if x.ndim < 3 or x.is_contiguous():
            return self.tap(x, F.linear(x, fixed, bias), weight)
        # Here torch asks whether the weight needs a gradient, and takes other kernels, with other bits, where it does not.
        z = F.linear(x.contiguous(), fixed)
        return self.tap(x, z if bias is None else z.add_(bias), weight)


class _Conv(NeuronwiseLayer, nn.modules.conv._ConvNd):
    """What convolutions of one and two axes share."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        *args: Any,
        activation: str | nn.Module | Nonlinearity,
        **kwargs: Any,
    ) -> None:
        kind: Any = nn.Conv1d if isinstance(self, nn.Conv1d) else nn.Conv2d
        own = {key: kwargs.pop(key) for key in Options.__annotations__ if key in kwargs}
        kind.__init__(self, in_channels, out_channels, kernel_size, *args, **kwargs)
        self.set_neuronwise(activation, **own)

    def outer(self) -> ConvOuter:
        """Sums over positions of all images, features being patches."""
        padding = tuple(self._reversed_padding_repeated_twice)
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        return ConvOuter(shape, self.stride, self.dilation, self.groups, padding, self.padding_mode)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, *S)`` to ``(N, out_channels, *S')``, with or without ``N``."""
        convolve: Any = self._conv_forward
        weight = self.weight
        if not (torch.is_grad_enabled() and weight.requires_grad):
            plain: Tensor = convolve(x, weight, self.bias)
            return plain
        z = convolve(x, weight.detach(), None if self.bias is None else self.bias.detach())
        return self.tap(x, z, weight)


class NeuronwiseConv1d(_Conv, nn.Conv1d):
    """``torch.nn.Conv1d`` with neuron-wise weight gradients: its arguments, and the options of ``NeuronwiseLinear``."""


class NeuronwiseConv2d(_Conv, nn.Conv2d):
    """``torch.nn.Conv2d`` with neuron-wise weight gradients: its arguments, and the options of ``NeuronwiseLinear``.

    Each position of each image is a sample, and its features are the patch under the kernel, padding included.
    """
