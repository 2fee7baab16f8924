"""Mean and spread of each neuron's inputs over its linear region, and their running form.

With weights ``P (N, O)`` and inputs ``X (N, F)``: mass ``S = sum_n P_no``, mean ``M = P^T X / S``, biased variance
``V = P^T X^2 / S - M^2``. Everything is computed for inputs minus a pivot, the mean over the batch, since uncentred sums of
squares lose the variance of inputs that are far from zero. Weights are divided by the mass first, which costs samples times
neurons and not neurons times features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
        var: ``(O, *F)``, the region's biased variance, 1 for a dead neuron; plus the eps that was asked for. Before
            ``centre_`` it is the weighted mean square of inputs minus pivot.
        least: ``(O,)``, what ``var`` is at least: eps, and 1 + eps for a dead neuron.
    """

    pivot: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor
    share: Tensor
    offset: Tensor
    var: Tensor
    least: Tensor

    def of(self, rows: slice) -> Region:
        """The same of some neurons, as views."""
        parts = (self.weight_gradient, self.bias_gradient, self.share, self.offset, self.var, self.least)
        return Region(self.pivot[rows] if len(self.pivot) > 1 else self.pivot, *(part[rows] for part in parts))

    def centre_(self) -> None:
        """Subtract the squared mean from ``var``."""
        self.var.addcmul_(self.offset, self.offset, value=-1).clamp_(min=per_neuron(self.least, self.var))


def per_neuron(vector: Tensor, like: Tensor) -> Tensor:
    """``(O,)`` as ``(O, 1, ...)``."""
    return vector.view(-1, *(1,) * (like.ndim - 1))


def neuron_blocks(weight: Tensor) -> Iterator[slice]:
    """Slices of the neurons that stay in a processor's cache through several operations; on an accelerator, all at once."""
    size = len(weight) if weight.device.type != "cpu" else max(1, CACHED * len(weight) // max(weight.numel(), 1))
    for start in range(0, len(weight), max(size, 1)):
        yield slice(start, start + size)


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
) -> Region:
    """Sums over every neuron's linear region, and those of its gradient, in one sweep over the samples.

    In the result ``var`` is not yet centred: ``Region.centre_`` is to be called once, on the whole or on each of its parts.

    Args:
        outer: How this kind of layer sums neuron times input.
        x: Inputs of the layer.
        delta: Gradient with respect to its outputs.
        p: How much each sample counts in each neuron's region, of the shape of ``delta``.
        dtype: What to compute in.
        sync: Whether to take the statistics over all ranks of the default process group.
        eps: Added to the variance.
        reuse: Tensors ``(O, *F)`` of ``dtype`` that may be overwritten to hold offset and variance.
    """
    x, delta, p = outer.rows(x, delta, p)
    samples = [axis for axis in range(x.ndim) if axis != 1]
    pivot = x.mean(samples, dtype=dtype) if x.numel() else x.new_zeros(x.shape[1], dtype=dtype)
    bias = delta.sum(samples, dtype=dtype)
    cut = list(blocks(len(x), max(x.numel(), p.numel()), len(pivot) * p.shape[1]))
    if len(cut) == 1:
        p = as_numbers(p, dtype)  # whole, since numbers are faster to sum than truth values
    mass = p.sum(samples, dtype=dtype)
    count = mass.new_tensor(p.numel() // max(p.shape[1], 1))
    if sync:
        for part in (pivot, mass, count):
            _sum_over_ranks(part)
        pivot /= _world()
    dead = mass <= smallest_mass(dtype)
    column = (-1, *(1,) * (p.ndim - 2))
    each = torch.where(dead, 0, 1 / mass).view(column)  # weights that sum to 1 over the region, or to 0
    added = mass.new_tensor(eps)
    sums: list[Tensor] = []
    for rows in cut:
        weights = as_numbers(p[rows], dtype) * each
        inputs = outer.centre(x[rows].to(dtype), pivot)
        spare = (None, None) if sums else reuse
        new = [outer.sum(delta[rows].to(dtype), inputs), outer.sum(weights, inputs, spare[0])]
        # eps comes in where it costs samples times features: weights sum to 1
        new.append(outer.sum(weights, torch.addcmul(added, inputs, inputs, out=inputs), spare[1]))
        sums = [total.add_(part) for total, part in zip(sums, new, strict=True)] if sums else new
        del weights, inputs, new
    gradient, offset, var = sums
    if sync:
        for part in (offset, var):
            _sum_over_ranks(part)
    share = torch.where(dead, 0, mass / count.clamp(min=1))
    return Region(outer.spread(pivot), gradient, bias, share, offset, var, dead.to(dtype) + eps)


def as_numbers(p: Tensor, dtype: torch.dtype) -> Tensor:
    """Region weights in ``dtype``; bytes are widened several times faster than truth values."""
    return (p.view(torch.uint8) if p.dtype == torch.bool else p).to(dtype)


def merge_(share: Tensor, mean: Tensor, var: Tensor, region: Region, momentum: float) -> None:
    """Fold a region's statistics into running ones, in place.

    Equal to moving averages of the sums ``S / N``, ``P^T X / N`` and ``P^T X^2 / N`` with weight ``momentum`` of the newest,
    whose ratios need no correction for the start; kept as mean and variance, which are merged without cancellation (Chan,
    Golub & LeVeque 1983). A dead neuron's share decays, its mean and variance stay until nothing is left of the share; then
    they are the batch's mean and 1, as in the region.

    Args:
        share: ``(O,)``.
        mean: ``(O, *F)``.
        var: ``(O, *F)``.
        region: The newest; its offset is used up.
        momentum: In [0, 1]; 0 freezes the statistics, 1 keeps the newest alone.
    """
    share.mul_(1 - momentum).add_(region.share, alpha=momentum)
    empty = share <= smallest_mass(share.dtype)
    part = torch.where(empty, 1, momentum * region.share / torch.where(empty, 1, share)).clamp_(max=1)
    part = per_neuron(part, mean)  # weight of the newest in the merged statistics
    step = region.offset.add_(region.pivot).sub_(mean)
    mean.addcmul_(part, step)
    var.lerp_(region.var, part).addcmul_(part * (1 - part), step.mul_(step))


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _sum_over_ranks(tensor: Tensor) -> None:
    if _world() > 1:
        dist.all_reduce(tensor)
