"""Norms: what is subtracted, what is divided by, and what that does to gradients.

Backwards a norm multiplies the gradient with its scale and takes two directions out of it, the mean and the signal itself: of
``n`` normalized values ``1 - 2 / n`` of the second moment is left (``1 - 1 / n`` where no mean is subtracted).
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from spp.theory.field import FLOAT, Field, Gradient, even, unit, wide


def batch_norm(
    x: Field,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    eps: float,
) -> Field:
    """``F.batch_norm``: over batch and space with the batch's statistics, or an affine map with the running ones."""
    if not training and mean is not None and var is not None:
        scale = (wide(var) + eps).rsqrt()
        return affine(affine(x, scale, -wide(mean) * scale), weight, bias)
    n, p = x.samples, x.positions
    root, flat, within, across, acsm = x.root, x.flat, x.within, x.across, x.acsm
    with_mean = ((1 - within) * x.profile / p + within * root * flat**0.5) / n + (1 - 1 / n) * across * root * flat**0.5
    variance = x.acv * x.channels  # of each channel
    kept = variance / (variance + eps)  # below 1 where eps counts
    factor = float(kept.mean()) / x.acv if x.acv > 0 else 0.0
    pooled = max(x.pooled - acsm, 0.0) * factor
    lengths, scatter = x.centred or (x.lengths, x.scatter)
    out = Field(
        shape=x.shape,
        axis=x.axis,
        profile=(x.profile - 2 * with_mean + acsm).clamp(min=0) * factor,
        mean=0.0,
        pooled=pooled,
        between=-pooled / (n - 1) if n > 1 else 0.0,  # so that every channel's mean over the batch is 0
        channels=unit(kept),
        lengths=lengths,
        scatter=scatter,
    )
    # the mean of the inverse of a sample variance is above the inverse of the variance; 1 where n p is large
    count = n if p == 1 else n * p / (1 + (p - 1) * within**2)
    inverse = (variance + eps).reciprocal() * ((count - 1) / (count - 3) if count > 4 else 1.0)

    def back(g: Gradient) -> Gradient:
        pooled = g.within * g.flat + (1 - g.within) * g.second / p
        taken = (pooled / n + (1 - 1 / n) * g.across * g.flat) / g.second if g.second else 0.0  # the mean's share
        sent = g.scaled(max(1 - taken - 1 / (n * p), 0.0), inverse)
        sent.across = -pooled / ((n - 1) * g.flat) if n > 1 and g.flat else 0.0
        return sent

    return affine(out.made_of((x, back)), weight, bias)


def group_norm(x: Field, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Field:
    """``F.group_norm``: per sample, over space and the channels of a group; with a channel a group, instance norm."""
    size, p, nu2 = x.width // groups, x.positions, x.nu**2
    within, flat, root = x.within, x.flat, x.root
    own = within - nu2
    with_mean = nu2 * root * flat**0.5 + (own * root * flat**0.5 + (1 - within) * x.profile / p) / size
    taken = nu2 * flat + (own * flat + (1 - within) * x.second / p) / size
    profile = (x.profile - 2 * with_mean + taken).clamp(min=0)
    scale = 1 / (float(profile.mean()) + eps)
    between = x.between - nu2 * flat - (x.across - nu2) * flat / size
    out = Field(
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


def layer_norm(
    x: Field, shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, eps: float
) -> Field | None:
    """``F.layer_norm`` over the channels of each position, or over channels and space; None over anything else."""
    rank = len(x.shape)
    axes = set(range(rank - len(shape), rank))
    if x.free and x.axis not in axes:
        x = named(x, rank - 1)
    if len(axes) > 1 and axes == set(range(1, rank)):
        at = x.axis - 1  # elements have scales of their own: a channel's is their root mean square
        scale = None if weight is None else wide(weight).movedim(at, 0).flatten(1).square().mean(1).sqrt()
        return group_norm(x, 1, scale, None if bias is None else wide(bias).movedim(at, 0).flatten(1).mean(1), eps)
    width, nu2 = prod(shape), x.nu**2
    if axes != {x.axis} or width < 2:
        return None
    within, across = ((c - nu2) / (1 - nu2) if nu2 < 1 else 0.0 for c in (x.within, x.across))
    out = _each_position(x, x.profile * ((1 - nu2) * (1 - 1 / width)), (0.0, within, across), eps, 1 - 2 / width)
    out.level = True
    return affine(out, weight, bias)


def rms_norm(x: Field, shape: tuple[int, ...], weight: Tensor | None, eps: float) -> Field | None:
    """``F.rms_norm`` over the channels of each position; None over anything else."""
    rank = len(x.shape)
    if x.free and len(shape) == 1 and x.axis != rank - 1:
        x = named(x, rank - 1)
    if len(shape) != 1 or x.axis != rank - 1:
        return None
    return affine(_each_position(x, x.profile, (x.nu, x.within, x.across), eps, 1 - 1 / shape[0]), weight)


def affine(x: Field, scale: Tensor | None, shift: Tensor | None = None) -> Field:
    """``scale[c] * x + shift[c]``, each channel's own or one number."""
    if scale is None and shift is None:
        return x
    a = even(x.width) if scale is None else wide(scale).reshape(-1).expand(x.width)
    b = torch.zeros(x.width, dtype=FLOAT) if shift is None else wide(shift).reshape(-1).expand(x.width)
    weight = a.square() * x.channels
    factor, cross, add = float(weight.mean()), 2 * float((a * b).mean()) * x.nu, float(b.square().mean())
    plus = cross * x.flat**0.5 + add
    out = x.like(
        profile=(factor * x.profile + cross * x.root + add).clamp(min=0),
        mean=float(a.mean()) * x.mean + float(b.mean()),
        pooled=factor * x.pooled + plus,
        between=factor * x.between + plus,
        channels=unit(weight),
    )
    out.level = x.level and not bool(b.any())
    return out.made_of((x, lambda g: g.scaled(1.0, a.square())))


def _each_position(
    x: Field, variance: Tensor, correlations: tuple[float, float, float], eps: float, left: float
) -> Field:
    """Every position of every sample divided by its own ``sqrt(variance + eps)``: ``(nu, within, across)`` are what is left."""
    nu, within, across = correlations
    profile = variance / (variance + eps)
    out = x.like(profile=profile)
    out.mean, out.between = nu * out.flat**0.5, across * out.flat
    out.correlate(within)
    out.spread, out.lengths, out.centred = 0.0, 0.0, None
    return out.made_of((x, lambda g: g.scaled(left / (variance + eps))))


def named(x: Field, axis: int) -> Field:
    """An input that is alike in all directions, with its channels on another axis."""
    space = [n for a, n in enumerate(x.shape) if a not in (0, axis)]
    profile = torch.full(space, x.second, dtype=FLOAT)
    out = x.like(axis=axis, profile=profile, pooled=x.second / max(profile.numel(), 1), channels=even(x.shape[axis]))
    return out.made_of((x, lambda g: Gradient(torch.full(x.profile.shape, g.second, dtype=FLOAT), 0.0, x.channels)))
