"""Norms: what is subtracted, what is divided by, and the consequence for gradients.

Backwards a norm multiplies the gradient with its scale and takes two directions out of it, the mean and the signal itself: of
``n`` normalized values ``1 - 2 / n`` of the second moment is left (``1 - 1 / n`` where no mean is subtracted). For BatchNorm
see Yang et al. 2019 (arXiv 1902.08129).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from spp.theory.moments_state import Gradient, MomentsState, unit, wide
from spp.theory.rules import rule
from spp.theory.rules.arithmetic import affine


@rule(F.batch_norm)
def batch_norm(
    x: MomentsState,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> MomentsState | None:
    """Over batch and space with the batch's statistics, or an affine map with the running ones."""
    if x.axis != 1:
        return None
    if not training and running_mean is not None and running_var is not None:
        scale = (wide(running_var) + eps).rsqrt()
        return affine(affine(x, scale, -wide(running_mean) * scale), weight, bias)
    n, p = x.samples, x.positions
    root, flat, within, across, acsm = x.root, x.flat, x.within, x.across, x.acsm
    with_mean = ((1 - within) * x.profile / p + within * root * flat**0.5) / n + (1 - 1 / n) * across * root * flat**0.5
    # Of each channel.
    variance = x.acv * x.channels
    # Below 1 where eps counts.
    kept = variance / (variance + eps)
    factor = float(kept.mean()) / x.acv if x.acv > 0 else 0.0
    pooled = max(x.pooled - acsm, 0.0) * factor
    lengths, scatter = x.centred or (x.lengths, x.scatter)
    out = MomentsState(
        shape=x.shape,
        axis=x.axis,
        profile=(x.profile - 2 * with_mean + acsm).clamp(min=0) * factor,
        mean=0.0,
        pooled=pooled,
        # So that every channel's mean over the batch is 0.
        between=-pooled / (n - 1) if n > 1 else 0.0,
        channels=unit(kept),
        lengths=lengths,
        scatter=scatter,
    )
    # The mean of the inverse of a sample variance is above the inverse of the variance; 1 where n p is large.
    count = n if p == 1 else n * p / (1 + (p - 1) * within**2)
    inverse = (variance + eps).reciprocal() * ((count - 1) / (count - 3) if count > 4 else 1.0)

    def back(g: Gradient) -> Gradient:
        pooled = g.within * g.flat + (1 - g.within) * g.second / p
        # The mean's share.
        taken = (pooled / n + (1 - 1 / n) * g.across * g.flat) / g.second if g.second else 0.0
        sent = g.scaled(max(1 - taken - 1 / (n * p), 0.0), inverse)
        sent.across = -pooled / ((n - 1) * g.flat) if n > 1 and g.flat else 0.0
        return sent

    return affine(out.made_of((x, back)), weight, bias)


@rule(F.group_norm)
def group_norm(
    x: MomentsState, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> MomentsState | None:
    """Per sample, over space and the channels of a group."""
    return _over_groups(x, num_groups, weight, bias, eps) if x.axis == 1 else None


@rule(F.instance_norm)
def instance_norm(
    x: MomentsState,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> MomentsState | None:
    """Per sample and channel, over space, or an affine map with the running statistics."""
    if not use_input_stats:
        return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    return group_norm(x, x.width, weight, bias, eps)


@rule(F.layer_norm)
def layer_norm(
    x: MomentsState,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> MomentsState | None:
    """Over the channels of each position, or over channels and space; None over anything else."""
    rank = len(x.shape)
    axes = set(range(rank - len(normalized_shape), rank))
    if x.axis not in axes:
        x = x.channels_last()
    if len(axes) > 1 and axes == set(range(1, rank)):
        # Elements have scales of their own: a channel's is their root mean square.
        at = x.axis - 1
        scale = None if weight is None else wide(weight).movedim(at, 0).flatten(1).square().mean(1).sqrt()
        return _over_groups(x, 1, scale, None if bias is None else wide(bias).movedim(at, 0).flatten(1).mean(1), eps)
    width, nu2 = prod(normalized_shape), x.nu**2
    if axes != {x.axis} or width < 2:
        return None
    within, across = ((c - nu2) / (1 - nu2) if nu2 < 1 else 0.0 for c in (x.within, x.across))
    out = _each_position(x, x.profile * ((1 - nu2) * (1 - 1 / width)), (0.0, within, across), eps, 1 - 2 / width)
    out.level = True
    return affine(out, weight, bias)


@rule(F.rms_norm)
def rms_norm(
    x: MomentsState,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    *,
    result: Tensor,
) -> MomentsState | None:
    """Over the channels of each position; None over anything else."""
    x = x.channels_last()
    if len(normalized_shape) != 1 or x.axis != len(x.shape) - 1:
        return None
    eps = torch.finfo(result.dtype).eps if eps is None else eps
    return affine(_each_position(x, x.profile, (x.nu, x.within, x.across), eps, 1 - 1 / normalized_shape[0]), weight)


def _over_groups(x: MomentsState, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> MomentsState:
    size, p, nu2 = x.width // groups, x.positions, x.nu**2
    within, flat, root = x.within, x.flat, x.root
    own = within - nu2
    with_mean = nu2 * root * flat**0.5 + (own * root * flat**0.5 + (1 - within) * x.profile / p) / size
    taken = nu2 * flat + (own * flat + (1 - within) * x.second / p) / size
    profile = (x.profile - 2 * with_mean + taken).clamp(min=0)
    scale = 1 / (float(profile.mean()) + eps)
    between = x.between - nu2 * flat - (x.across - nu2) * flat / size
    out = MomentsState(
        shape=x.shape,
        axis=x.axis,
        profile=profile * scale,
        mean=0.0,
        pooled=max(x.pooled - taken, 0.0) * scale,
        between=between * scale,
        channels=x.channels,
        scatter=x.scatter,
        level=groups == 1,
    )
    left = max(1 - 2 / (size * p), 0.0)
    return affine(out.made_of((x, lambda g: g.scaled(left * scale))), weight, bias)


def _each_position(
    x: MomentsState, variance: Tensor, correlations: tuple[float, float, float], eps: float, left: float
) -> MomentsState:
    """Every position of every sample over its own ``sqrt(variance + eps)``; behind it ``nu, within, across`` are given."""
    out = x.like(profile=variance / (variance + eps), spread=0.0, lengths=0.0, centred=None)
    return out.correlated(*correlations).made_of((x, lambda g: g.scaled(left / (variance + eps))))
