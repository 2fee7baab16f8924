"""Mean and spread of each neuron's inputs over its linear region, and their running form.

With weights ``P (N, O)`` and inputs ``X (N, F)``: mass ``S = sum_n P_no``, mean ``M = P^T X / S``, biased variance
``V = P^T X^2 / S - M^2``. Everything is computed for inputs minus a pivot, the mean over the batch, since uncentred sums of
squares lose the variance of inputs that are far from zero. Weights are divided by the mass first, which costs samples times
neurons and not neurons times features.
"""

from __future__ import annotations

from ctypes import CDLL
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from spp.nn.neuronwise.outer import Outer, blocks

CACHED = 1 << 16
"""Elements of the weight that are worked on at a time: with the three other tensors of its shape, 1 MiB of float32."""


@dataclass(slots=True)
class Region:
    """Statistics of linear regions, and the sums of the gradient, of one backward pass.

    Attributes:
        pivot: What was subtracted from the inputs, one number per feature or channel, broadcast to ``(O, *F)``.
        weight_gradient: ``(O, *F)``, ``sum_n delta_no (x_nf - pivot_f)``.
        bias_gradient: ``(O,)``, ``gb = sum_n delta_no``.
        share: ``(O,)``, mean of ``P`` over the samples; 0 for a dead neuron.
        offset: ``(O, *F)``, the region's mean minus pivot; 0 for a dead neuron.
        second: ``(O, *F)``, the region's mean square of inputs minus pivot, plus the eps that was asked for; 0 for a dead
            neuron.
        least: ``(O,)``, what the variance is at least: eps, and 1 + eps for a dead neuron.
        scale: ``(O,)``, what offset and second are still to be multiplied by; None for nothing.
    """

    pivot: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor
    share: Tensor
    offset: Tensor
    second: Tensor
    least: Tensor
    scale: Tensor | None = None

    def settle(self) -> None:
        """Multiply offset and second by the scale, in place."""
        if self.scale is not None:
            for tensor in (self.offset, self.second):
                tensor.mul_(per_neuron(self.scale, tensor))
            self.scale = None

    def parts(self) -> list[Part]:
        """The same in parts of some neurons each.

        On a processor its caches hold a part through several operations; on an accelerator the whole is one part.
        """
        neurons, numbers = len(self.offset), self.offset.numel()
        size = neurons if self.offset.device.type != "cpu" else CACHED * neurons // max(numbers, 1)
        bias, least = per_neuron(self.bias_gradient, self.offset), per_neuron(self.least, self.offset)
        own = (self.weight_gradient, bias, self.offset, self.second, least)
        if size >= neurons:
            return [Part(self.pivot, *own)]
        pieces = list(zip(*(torch.split(tensor, max(size, 1)) for tensor in own), strict=True))
        pivots = torch.split(self.pivot, max(size, 1)) if len(self.pivot) > 1 else [self.pivot] * len(pieces)
        return [Part(pivot, *piece) for pivot, piece in zip(pivots, pieces, strict=True)]


class Part(NamedTuple):
    """Some neurons of a ``Region``, as views; what is one number per neuron there is ``(O, 1, ...)`` here."""

    pivot: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor
    offset: Tensor
    second: Tensor
    least: Tensor

    def variance(self, out: Tensor) -> Tensor:
        """The biased variance over the region, 1 for a dead neuron, plus the eps that was asked for; in ``out``."""
        torch.addcmul(self.second, self.offset, self.offset, value=-1, out=out)
        return out.clamp_(min=self.least)


def per_neuron(vector: Tensor, like: Tensor) -> Tensor:
    """``(O,)`` as ``(O, 1, ...)``."""
    return vector.view(-1, *(1,) * (like.ndim - 1))


def smallest_mass(dtype: torch.dtype) -> float:
    """Masses up to this are taken for zero: products with them would lose digits to underflow."""
    info = torch.finfo(dtype)
    return info.tiny / info.eps


def measure(
    outer: Outer,
    x: Tensor,
    delta: Tensor,
    p: Tensor,
    dtype: torch.dtype,
    *,
    sync: bool,
    eps: float = 0.0,
    reuse: tuple[Tensor | None, Tensor | None] = (None, None),
    library: CDLL | None = None,
) -> Region:
    """Sums over every neuron's linear region, and those of its gradient, in one sweep over the samples.

    Args:
        outer: How this kind of layer sums neuron times input.
        x: Inputs of the layer.
        delta: Gradient with respect to its outputs.
        p: How much each sample counts in each neuron's region, of the shape of ``delta``.
        dtype: What to compute in.
        sync: Whether to take the statistics over all ranks of the default process group.
        eps: Added to the variance.
        reuse: Tensors ``(O, *F)`` of ``dtype`` that may be overwritten to hold offset and mean square.
        library: The kernel, where the tensors are such as it reads.
    """
    x, delta, p = outer.rows(x, delta, p)
    samples = [axis for axis in range(x.ndim) if axis != 1]
    pivot = x.mean(samples, dtype=dtype) if x.numel() else x.new_zeros(x.shape[1], dtype=dtype)
    bias = delta.sum(samples, dtype=dtype)
    cut = list(blocks(len(x), max(x.numel(), p.numel()), len(pivot) * p.shape[1]))
    kept = p.dtype == dtype  # and not to be overwritten
    if dtype != torch.float32:
        library = None
    masks = library is not None and p.dtype == torch.bool and outer.looks_up(x, p)
    later = library is not None and not masks  # whether it is left to the kernel to divide by the mass
    if len(cut) == 1 and not masks:
        p = as_numbers(p, dtype)  # whole, since numbers are faster to sum than truth values
    mass = (p.view(torch.uint8) if masks else p).sum(samples, dtype=dtype)
    count: Tensor | int = max(p.numel() // max(p.shape[1], 1), 1)
    if sync:
        count = mass.new_tensor(p.numel() // max(p.shape[1], 1))
        for part in (pivot, mass, count):
            _sum_over_ranks(part)
        pivot /= _world()
        count.clamp_(min=1)
    dead = mass <= smallest_mass(dtype)
    column = (-1, *(1,) * (p.ndim - 2))
    each = mass.reciprocal().masked_fill_(dead, 0)  # weights that sum to 1 over the region, or to 0
    added = mass.new_tensor(eps)
    sums: list[Tensor] = []
    for rows in cut:
        inputs = outer.centre(x[rows].to(dtype), pivot)
        new = [outer.sum(delta[rows].to(dtype), inputs)]
        if library is not None and masks:
            into = (sums[1], sums[2]) if sums else _room(reuse, new[0])
            outer.look_up(library, p[rows], inputs, each, 0 if sync else eps, bool(sums), into)
            sums = [sums[0].add_(new[0]) if sums else new[0], *into]
            continue
        weights = as_numbers(p[rows], dtype)
        if not later:
            weights = weights * each.view(column) if kept else weights.mul_(each.view(column))
        spare = (None, None) if sums else reuse
        new.append(outer.sum(weights, inputs, spare[0]))
        # eps comes in where it costs samples times features: weights sum to 1, sooner or later
        new.append(outer.sum(weights, torch.addcmul(added, inputs, inputs, out=inputs), spare[1]))
        sums = [total.add_(part) for total, part in zip(sums, new, strict=True)] if sums else new
        del weights, inputs, new
    gradient, offset, second = sums
    if sync:
        for part in (offset, second):
            _sum_over_ranks(part)
        if masks:
            second.add_(eps)  # once, not once a rank
    share = (mass / count).masked_fill_(dead, 0)
    least = dead.to(dtype) + eps
    return Region(outer.spread(pivot), gradient, bias, share, offset, second, least, each if later else None)


def _room(reuse: tuple[Tensor | None, Tensor | None], like: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors whose numbers lie in order, those to reuse where they do."""
    first, second = (
        torch.empty_like(like, memory_format=torch.contiguous_format)
        if spare is None or not spare.is_contiguous()
        else spare
        for spare in reuse
    )
    return first, second


def as_numbers(p: Tensor, dtype: torch.dtype) -> Tensor:
    """Region weights in ``dtype``; bytes are widened several times faster than truth values."""
    return (p.view(torch.uint8) if p.dtype == torch.bool else p).to(dtype)


def newest_part(share: Tensor, newest: Tensor, momentum: float) -> Tensor:
    """Fold a region's share into the running one, in place.

    Args:
        share: ``(O,)``, the running mean of ``P``.
        newest: ``(O,)``, that of the newest region.
        momentum: In [0, 1]; 0 freezes the statistics, 1 keeps the newest alone.

    Returns:
        ``(O,)``, the weight of the newest region in the merged statistics of each neuron, for ``merge_``.
    """
    share.mul_(1 - momentum).add_(newest, alpha=momentum)
    empty = share <= smallest_mass(share.dtype)
    return torch.where(empty, 1, momentum * newest / torch.where(empty, 1, share)).clamp_(max=1)


def merge_(mean: Tensor, var: Tensor, newest: Part, part: Tensor, between: Tensor, scratch: Tensor) -> None:
    """Fold a region's statistics into running ones, in place.

    Equal to moving averages of the sums ``S / N``, ``P^T X / N`` and ``P^T X^2 / N`` with weight ``momentum`` of the newest,
    whose ratios need no correction for the start; kept as mean and variance, which are merged without cancellation (Chan,
    Golub & LeVeque 1983). A dead neuron's share decays, its mean and variance stay until nothing is left of the share; then
    they are the batch's mean and 1, as in the region.

    Args:
        mean: ``(O, *F)``, of some neurons, as all that follows.
        var: ``(O, *F)``.
        newest: Without eps; its offset is used up.
        part: ``(O, 1, ...)``, of ``newest_part``.
        between: ``part (1 - part)``.
        scratch: ``(O, *F)``, overwritten.
    """
    var.lerp_(newest.variance(out=scratch), part)
    step = newest.offset.add_(newest.pivot).sub_(mean)
    mean.addcmul_(part, step)
    var.addcmul_(between, step.mul_(step))


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _sum_over_ranks(tensor: Tensor) -> None:
    if _world() > 1:
        dist.all_reduce(tensor)
