"""Changes of shape: where channels and positions are afterwards."""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F

from spp.theory.field import FLOAT, Field, Gradient, even


def flatten(x: Field, shape: torch.Size) -> Field:
    """Channels and positions as features: every position's mean is a feature's now."""
    second, p = x.second, x.positions
    same = p == 1 and shape[1] == len(x.channels)
    out = x.like(
        shape,
        1,
        profile=torch.tensor(second, dtype=FLOAT),
        mean=x.mean,
        pooled=second,
        between=x.across * second,
        channels=x.channels if same else even(shape[1]),
    )
    space, channels = x.profile.shape, x.channels

    def back(g: Gradient) -> Gradient:
        sent = g.placed(torch.full(space, g.second, dtype=FLOAT), 0.0 if p > 1 else 1.0)
        sent.channels = g.channels if same else torch.ones_like(channels)
        return sent

    return out.made_of((x, back))


def moved(x: Field, order: tuple[int, ...], shape: torch.Size) -> Field | None:
    """The same with its axes in another order; None where the batch would move."""
    if order[0] != 0:
        return None
    before = [a for a in range(1, len(order)) if a != x.axis]
    turn = tuple(before.index(a) for a in order[1:] if a != x.axis)
    back = tuple(turn.index(i) for i in range(len(turn)))
    out = x.like(shape, order.index(x.axis), profile=x.profile.permute(turn))
    out.free = x.free
    return out.made_of((x, lambda g: g.placed(g.profile.permute(back))))


def reshaped(x: Field, shape: torch.Size) -> Field | None:
    """The same with positions laid out otherwise, or with axes of size 1 more or fewer; None for anything else."""
    if len(shape) < 2 or shape[0] != x.samples:
        return None
    if x.axis == 1 and shape[1] == x.width:
        axis = 1
    elif x.axis == len(x.shape) - 1 and shape[-1] == x.width:
        axis = len(shape) - 1
    else:
        return flatten(x, shape) if len(shape) == 2 and shape[1] == prod(x.shape[1:]) else None
    space = tuple(n for a, n in enumerate(shape) if a not in (0, axis))
    before = x.profile.shape
    out = x.like(shape, axis, profile=x.profile.reshape(space))
    return out.made_of((x, lambda g: g.placed(g.profile.reshape(before))))


def strided(x: Field, parts: tuple[slice, ...], shape: torch.Size) -> Field:
    """Some of the positions."""
    before = x.profile.shape

    def back(g: Gradient) -> Gradient:
        whole = torch.zeros(before, dtype=FLOAT)
        whole[parts] = g.profile
        return g.placed(whole)

    return x.on(x.profile[parts], shape).made_of((x, back))


def padded(x: Field, pads: tuple[int, ...], mode: str, shape: torch.Size) -> Field:
    """Zeros, or the signal itself, around the map; what the latter's gradients add, they add evenly."""
    root = F.pad(x.root[None, None], pads, mode=mode)[0, 0]
    before = x.profile.shape
    starts = [
        max(pads[2 * (len(before) - 1 - a)], 0) if 2 * (len(before) - 1 - a) < len(pads) else 0
        for a in range(len(before))
    ]
    inner = tuple(slice(start, start + n) for start, n in zip(starts, before, strict=True))

    def back(g: Gradient) -> Gradient:
        found = g.profile[inner]
        kept = float(found.sum())
        return g.placed(found * (float(g.profile.sum()) / kept if mode != "constant" and kept else 1.0))

    return x.on(root.square(), shape).made_of((x, back))


def cut(x: Field) -> Field:
    """The same without a way back."""
    return x.like()
