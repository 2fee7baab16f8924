"""Sums, products and what is dropped at random: two tensors that are taken to be independent of each other."""

from __future__ import annotations

import torch

from spp.nn.selu import ALPHA, LAMBDA, alpha_dropout_affine
from spp.theory.field import FLOAT, Backward, Field, Gradient, blend, even, unit


def add(x: Field, y: Field, sign: float = 1.0) -> Field | None:
    """``x + sign * y`` for tensors that have nothing in common but a common mean; None where shapes differ."""
    if x.shape != y.shape or x.axis != y.axis:
        return None
    nu = sign * x.nu * y.nu
    cross = 2 * nu * (x.flat * y.flat) ** 0.5
    total = x.second + y.second
    share = x.second / total if total else 0.5
    out = x.like(
        profile=(x.profile + y.profile + 2 * nu * x.root * y.root).clamp(min=0),
        mean=x.mean + sign * y.mean,
        pooled=x.pooled + y.pooled + cross,
        between=x.between + y.between + cross,
        channels=share * x.channels + (1 - share) * y.channels,
    )
    out.spread = blend(share, x.spread, y.spread)
    out.lengths = blend(share, x.lengths, y.lengths)
    out.centred = None
    out.scatter = blend(share, x.scatter, y.scatter)
    return out.made_of((x, _itself), (y, _itself))


def multiply(x: Field, y: Field) -> Field | None:
    """``x * y`` for independent tensors, of which one may be broadcast over space or over channels; None for others."""
    if (x.positions, x.width) < (y.positions, y.width):
        x, y = y, x
    over_space = y.positions == 1 and x.positions > 1
    if y.width not in (1, x.width) or x.samples != y.samples:
        return None
    if not over_space and y.profile.shape != x.profile.shape:
        return None
    gate = y.second if over_space else y.profile
    within = 1.0 if over_space else y.within
    channels = x.channels * y.channels
    out = x.like(profile=x.profile * gate * float(channels.mean()), mean=x.mean * y.mean, channels=unit(channels))
    if not over_space:
        out.mean = x.nu * y.nu * out.flat**0.5
    out.between = x.across * y.across * out.flat
    out.correlate(x.within * within)
    out.spread, out.lengths = x.spread + y.spread, x.lengths + y.lengths
    out.centred = None

    def to_x(g: Gradient) -> Gradient:
        sent = g.scaled(gate, y.channels)
        sent.within = g.within * within
        return sent

    def to_y(g: Gradient) -> Gradient:
        sent = g.scaled(x.profile, x.channels)
        if not over_space:
            return sent.placed(sent.profile, g.within * x.within)
        both, p = g.within * x.within, x.positions
        summed = p * (both * p * sent.flat + (1 - both) * sent.second)
        return sent.placed(torch.full(y.profile.shape, summed, dtype=FLOAT), 1.0)

    return out.made_of((x, to_x)) if y.width < x.width else out.made_of((x, to_x), (y, to_y))


def mask(shape: torch.Size, keep: float) -> Field:
    """Ones with probability ``keep``, else zeros, over the batch alone, as stochastic depth draws them."""
    profile = torch.full((1,) * max(len(shape) - 2, 0), keep, dtype=FLOAT)
    return Field(shape=shape, axis=1, profile=profile, mean=keep, pooled=keep, between=keep**2, channels=even(1))


def dropout(x: Field, rate: float) -> Field:
    """Each element kept with probability ``1 - rate`` and divided by it: variance is added that no two elements share."""
    keep = max(1 - rate, 1e-300)
    out = x.like(profile=x.profile / keep, pooled=x.pooled + x.second * (1 / keep - 1) / x.positions)
    return out.made_of((x, lambda g: g.placed(g.profile / keep, g.within * keep)))


def dropout_of_channels(x: Field, rate: float) -> Field:
    """As :func:`dropout`, for whole channels of a sample."""
    keep = max(1 - rate, 1e-300)
    return x.like(profile=x.profile / keep, pooled=x.pooled / keep).made_of((x, lambda g: g.scaled(1 / keep)))


def alpha_dropout(x: Field, rate: float) -> Field:
    """Dropout of self-normalizing networks: ``a (x d + low (1 - d)) + b`` with SELU's lowest value ``low``."""
    a, b = alpha_dropout_affine(rate)
    keep, low = 1 - rate, -LAMBDA * ALPHA
    kept, base = a * keep, a * low * rate + b  # the mean over d is kept x + base
    profile = keep * (a**2 * x.profile + 2 * a * b * x.nu * x.root + b**2) + rate * (a * low + b) ** 2
    cross = 2 * kept * base * x.mean + base**2
    own = float(profile.mean()) - kept**2 * x.second - cross
    out = x.like(
        profile=profile,
        mean=kept * x.mean + base,
        pooled=kept**2 * x.pooled + cross + own / x.positions,
        between=kept**2 * x.between + cross,
    )
    return out.made_of((x, lambda g: g.placed(g.profile * (a**2 * keep), g.within * keep)))


def joined(parts: list[Field], shape: torch.Size) -> Field | None:
    """Tensors side by side along their channels; None where they do not fit."""
    first = parts[0]
    if any(x.axis != first.axis or x.profile.shape != first.profile.shape for x in parts):
        return None
    total = sum(x.width for x in parts)
    share = [x.width / total for x in parts]

    def average(values: list[float]) -> float:
        return sum(s * value for s, value in zip(share, values, strict=True))

    profile = torch.stack([s * x.profile for s, x in zip(share, parts, strict=True)]).sum(0)
    out = first.like(
        shape,
        profile=profile,
        mean=average([x.mean for x in parts]),
        pooled=average([x.pooled for x in parts]),
        between=average([x.between for x in parts]),
        channels=unit(torch.cat([x.channels * x.second for x in parts])),
    )
    out.spread, out.lengths = average([x.spread for x in parts]), average([x.lengths for x in parts])
    out.centred = None
    start = 0
    for x in parts:
        out.parents.append((x, _part_of(slice(start, start + x.width))))
        start += x.width
    return out


def chosen(x: Field, part: slice, shape: torch.Size) -> Field:
    """Some of the channels."""
    share = float(x.channels[part].mean())
    out = x.like(
        shape,
        profile=x.profile * share,
        mean=x.mean * share**0.5,
        pooled=x.pooled * share,
        between=x.between * share,
        channels=unit(x.channels[part]),
    )
    width = x.width

    def back(g: Gradient) -> Gradient:
        whole = torch.zeros(width, dtype=FLOAT)
        whole[part] = g.channels
        sent = g.scaled(len(g.channels) / width)
        sent.channels = unit(whole)
        return sent

    return out.made_of((x, back))


def with_zero_channels(x: Field, before: int, after: int, shape: torch.Size) -> Field:
    """Zeros as further channels."""
    width = x.width + before + after
    share = x.width / width
    channels = torch.zeros(width, dtype=FLOAT)
    channels[before : before + x.width] = x.channels
    out = x.like(
        shape,
        profile=x.profile * share,
        mean=x.mean * share,
        pooled=x.pooled * share,
        between=x.between * share,
        channels=unit(channels),
    )
    return out.made_of((x, _part_of(slice(before, before + x.width))))


def _part_of(part: slice) -> Backward:
    def back(g: Gradient) -> Gradient:
        sent = g.scaled(float(g.channels[part].mean()))
        sent.channels = unit(g.channels[part])
        return sent

    return back


def _itself(g: Gradient) -> Gradient:
    return g
