"""Residual branches: how they are dropped, gated and summed with their skips."""

from math import hypot, sqrt

import torch
from torch import Tensor


def stochastic_depth(x: Tensor, rate: float, *, training: bool, rescale: bool = True) -> Tensor:
    """Drop whole samples and scale the kept ones by ``1 / (1 - rate)`` (Huang et al. 2016, arXiv 1603.09382).

    ``y[n] = x[n] * b[n] / (1 - rate)`` with ``b[n] ~ Bernoulli(1 - rate)``, so that ``E[y] = x``.

    Args:
        x: ``(N, ...)``.
        rate: Probability that a sample is dropped, in ``[0, 1)``.
        training: Whether to drop at all; if not, ``x`` itself is returned.
        rescale: Whether kept samples are scaled; the NF-ResNets of Brock et al. (2021) leave them as they are.
    """
    # nothing is drawn at rate 0, so that the random state stays
    if not training or rate == 0:
        return x
    keep = 1 - rate
    kept = torch.empty((x.shape[0],) + (1,) * (x.ndim - 1), dtype=x.dtype, device=x.device).bernoulli_(keep)
    return x * (kept / keep) if rescale else x * kept


def squeeze_excite(x: Tensor, gate: Tensor) -> Tensor:
    """Scale each channel of each sample by its gate: ``y[n, c, ...] = x[n, c, ...] * gate[n, c]``.

    Args:
        x: ``(N, C, H, W)``.
        gate: ``(N, C, 1, 1)``.
    """
    return x * gate


def doubled_squeeze_excite(x: Tensor, gate: Tensor) -> Tensor:
    """``2 * x * gate``: a gate of 1/2 leaves the variance as it is (Brock et al. 2021, arXiv 2101.08692).

    Args:
        x: ``(N, C, H, W)``.
        gate: ``(N, C, 1, 1)``.
    """
    return x * (2 * gate)


def magnitude_squeeze_excite(x: Tensor, gate: Tensor) -> Tensor:
    """``x * gate / sqrt((1 - gate)^2 + gate^2)``: a gate of 1/2 halves the variance (Dewyse 2025).

    Args:
        x: ``(N, C, H, W)``.
        gate: ``(N, C, 1, 1)``.
    """
    return x * (gate * torch.rsqrt((1 - gate).square() + gate.square()))


def mp_weights(weight: Tensor | float) -> tuple[Tensor | float, Tensor | float]:
    """What skip and branch are multiplied with in a magnitude-preserving sum (Karras et al. 2023, arXiv 2312.02696).

    ``((1 - w), w) / sqrt((1 - w)^2 + w^2)``: the sum of uncorrelated tensors of equal variance keeps that variance.

    Args:
        weight: Share ``w`` of the branch: a number or a tensor of one element.

    Returns:
        Weight of the skip, weight of the branch.
    """
    if isinstance(weight, Tensor):
        scale = torch.rsqrt((1 - weight).square() + weight.square())
        return (1 - weight) * scale, weight * scale
    norm = hypot(1 - weight, weight)
    return (1 - weight) / norm, weight / norm


def mp_sum(skip: Tensor, branch: Tensor, weight: Tensor | float = 0.5) -> Tensor:
    """Magnitude-preserving sum: ``((1 - w) skip + w branch) / sqrt((1 - w)^2 + w^2)`` (Karras et al. 2023; Dewyse 2025).

    Args:
        skip: Any tensor.
        branch: A tensor of the same shape.
        weight: Share ``w`` of the branch.
    """
    of_skip, of_branch = mp_weights(weight)
    return branch * of_branch + skip * of_skip


def mp_cat(a: Tensor, b: Tensor, *, axis: int = 1, weight: float = 0.5) -> Tensor:
    """Magnitude-preserving concatenation (Karras et al. 2023, arXiv 2312.02696).

    Both parts contribute to the total in the proportion ``(1 - w) : w`` whatever their channels ``Na`` and ``Nb``:
    ``cat(a * c (1 - w) / sqrt(Na), b * c w / sqrt(Nb))`` with ``c = sqrt((Na + Nb) / ((1 - w)^2 + w^2))``.

    Args:
        a: ``(N, Na, ...)``.
        b: ``(N, Nb, ...)``.
        axis: Along which they are joined.
        weight: Share ``w`` of ``b``.
    """
    channels_a, channels_b = a.shape[axis], b.shape[axis]
    scale = sqrt(channels_a + channels_b) / hypot(1 - weight, weight)
    parts = (a * (scale * (1 - weight) / sqrt(channels_a)), b * (scale * weight / sqrt(channels_b)))
    return torch.cat(parts, dim=axis)
