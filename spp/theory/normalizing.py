"""Norms: what is subtracted, what is divided by, and what that does to gradients.

Backwards a norm multiplies the gradient with its scale and takes two directions out of it, the mean and the signal itself: of
``n`` normalized values ``1 - 2 / n`` of the second moment is left (``1 - 1 / n`` where no mean is subtracted).
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from spp.theory.field import FLOAT, Field, Gradient, even, unit


def batch_norm(
    x: Field, mean: Tensor | None, var: Tensor | None, weight: Tensor | None, bias: Tensor | None, training: bool, eps: float
) -> Field:
    """``F.batch_norm``: over batch and space with the batch's statistics, or an affine map with the running ones."""
    if not training and mean is not None and var is not None:
        scale = (_wide(var) + eps).rsqrt()
        return affine(affine(x, scale, -_wide(mean) * scale), *_affine_of(weight, bias))
    n, p = x.samples, x.positions
    root, flat, within, across = x.profile.clamp(min=0).sqrt(), x.rms, x.within, x.across
    shared = ((1 - within) * x.profile / p + within * root * flat) / n + (1 - 1 / n) * across * root * flat  # E[x m]
    acsm, acv = x.acsm, x.acv
    variance = acv * x.channels  # of each channel
    kept = float((variance / (variance + eps)).mean())  # below 1 where eps counts
    scale = kept / acv if acv > 0 else 0.0
    profile = (x.profile - 2 * shared + acsm).clamp(min=0) * scale
    pooled = max(x.pooled - acsm, 0.0) * scale
    between = -pooled / (n - 1) if n > 1 else 0.0  # so that every channel's mean over the batch is 0
    out = Field(x.shape, x.axis, profile, 0.0, pooled, between, unit(variance / (variance + eps)))
    out.lengths = x.lengths if x.centred is None else x.centred
    # the inverse of a sample variance is larger on the mean than the inverse of the variance; 1 where n p is large
    count = n * p if p == 1 else n * p / (1 + (p - 1) * within**2)
    inverse = (count - 1) / (count - 3) if count > 4 else 1.0
    inverse_variance = (variance + eps).reciprocal() * inverse

    def back(g: Gradient) -> Gradient:
        joint, second = g.channels * inverse_variance, g.second
        flat = float(g.profile.clamp(min=0).sqrt().mean()) ** 2
        pooled = g.within * flat + (1 - g.within) * second / p
        taken = (pooled / n + (1 - 1 / n) * g.across * flat) / second if second else 0.0  # the mean's share
        left = max(1 - taken - 1 / (n * p), 0.0)
        away = -pooled / ((n - 1) * flat) if n > 1 and flat else 0.0
        return Gradient(g.profile * (float(joint.mean()) * left), g.within, unit(joint), g.spread, away)

    out.parents = [(x, back)]
    return affine(out, *_affine_of(weight, bias))


def group_norm(x: Field, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Field:
    """``F.group_norm``: per sample, over space and the channels of a group; with a channel a group, instance norm."""
    size, p = x.width // groups, x.positions
    nu, within, across = x.relative_mean, x.within, x.across
    root, flat = x.profile.clamp(min=0).sqrt(), x.rms
    own = within - nu**2
    shared = nu**2 * root * flat + (own * root * flat + (1 - within) * x.profile / p) / size
    taken = nu**2 * flat**2 + (own * flat**2 + (1 - within) * x.second / p) / size
    taken_between = nu**2 * flat**2 + (across - nu**2) * flat**2 / size
    return _normalized(
        x,
        (x.profile - 2 * shared + taken).clamp(min=0),
        x.pooled - taken,
        x.between - taken_between,
        float((x.profile - 2 * shared + taken).mean()),
        eps,
        1 - 2 / (size * p) if size * p > 2 else 0.0,
        weight,
        bias,
    )


def layer_norm(x: Field, shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, eps: float) -> Field | None:
    """``F.layer_norm`` over the channels of each position, or over channels and space; None over anything else."""
    rank = len(x.shape)
    axes = set(range(rank - len(shape), rank))
    if x.free and x.axis not in axes:
        x.axis = rank - 1
    if axes == set(range(1, rank)) and len(axes) > 1:
        flat = [None if t is None else _wide(t).movedim(x.axis - 1, 0).flatten(1).mean(1) for t in (weight, bias)]
        return group_norm(x, 1, *flat, eps)
    if axes != {x.axis}:
        return None
    nu, width = x.relative_mean, prod(shape)
    if width < 2:
        return None
    kept = (1 - nu**2) * (1 - 1 / width)
    profile = x.profile * kept
    within, across = ((c - nu**2) / (1 - nu**2) if nu**2 < 1 else 0.0 for c in (x.within, x.across))
    return _by_position(x, profile, within, across, 0.0, eps, 1 - 2 / width, weight, bias)


def rms_norm(x: Field, shape: tuple[int, ...], weight: Tensor | None, eps: float) -> Field | None:
    """``F.rms_norm`` over the channels of each position; None over anything else."""
    rank = len(x.shape)
    if x.free and len(shape) == 1:
        x.axis = rank - 1
    if len(shape) != 1 or x.axis != rank - 1:
        return None
    return _by_position(
        x, x.profile, x.within, x.across, x.relative_mean, eps, 1 - 1 / shape[0], weight, None
    )


def affine(x: Field, scale: Tensor | None, shift: Tensor | None = None) -> Field:
    """``scale[c] * x + shift[c]``, each channel's own or one number."""
    if scale is None and shift is None:
        return x
    a = even(x.width) if scale is None else _wide(scale).reshape(-1).expand(x.width)
    b = torch.zeros(x.width, dtype=FLOAT) if shift is None else _wide(shift).reshape(-1).expand(x.width)
    weight = a.square() * x.channels
    factor, cross, add = float(weight.mean()), 2 * float((a * b).mean()) * x.relative_mean, float(b.square().mean())
    root = x.profile.clamp(min=0).sqrt()
    plus = cross * float(root.mean()) + add
    out = Field(
        x.shape,
        x.axis,
        (factor * x.profile + cross * root + add).clamp(min=0),
        float(a.mean()) * x.mean + float(b.mean()),
        factor * x.pooled + plus,
        factor * x.between + plus,
        unit(weight),
        x.spread,
        x.lengths,
        x.centred,
    )

    def back(g: Gradient) -> Gradient:
        joint = g.channels * a.square()
        return replace(g, profile=g.profile * float(joint.mean()), channels=unit(joint))

    out.parents = [(x, back)]
    return out


def _by_position(
    x: Field,
    variance: Tensor,
    within: float,
    across: float,
    nu: float,
    eps: float,
    left: float,
    weight: Tensor | None,
    bias: Tensor | None,
) -> Field:
    """Every position of every sample divided by its own ``sqrt(variance + eps)``."""
    profile = variance / (variance + eps)
    flat, second, p = float(profile.sqrt().mean()), float(profile.mean()), profile.numel()
    pooled = within * (flat**2 - second / p) + second / p
    out = Field(x.shape, x.axis, profile, nu * flat, pooled, across * flat**2, x.channels)

    def back(g: Gradient) -> Gradient:
        return g.scaled(left / (variance + eps))

    out.parents = [(x, back)]
    return affine(out, *_affine_of(weight, bias))


def _normalized(
    x: Field,
    profile: Tensor,
    pooled: float,
    between: float,
    variance: float,
    eps: float,
    left: float,
    weight: Tensor | None,
    bias: Tensor | None,
) -> Field:
    """What is left of ``x``, divided by one number for the sample (and group)."""
    scale = 1 / (variance + eps)
    out = Field(x.shape, x.axis, profile * scale, 0.0, max(pooled, 0.0) * scale, between * scale, x.channels)
    out.parents = [(x, lambda g: g.scaled(left * scale))]
    return affine(out, *_affine_of(weight, bias))


def _affine_of(weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    return (None if weight is None else _wide(weight)), (None if bias is None else _wide(bias))


def _wide(t: Tensor) -> Tensor:
    return t.detach().to("cpu", FLOAT)
