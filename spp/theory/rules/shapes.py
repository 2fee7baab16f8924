"""Changes of shape, parts and joins: where channels and positions are afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spp.theory.moments_state import FLOAT, Backward, Gradient, MomentsState, even, unit
from spp.theory.rules import rule


@rule(
    *(Tensor.contiguous, Tensor.clone, torch.clone, Tensor.to, Tensor.type, Tensor.float, Tensor.double),
    *(Tensor.type_as, Tensor.cpu, Tensor.cuda),
    several=True,
)
def unchanged(x: Any, *args: Any, **kwargs: Any) -> MomentsState | None:
    """Another layout, precision or device."""
    return x if isinstance(x, MomentsState) else None


@rule(Tensor.detach, torch.detach, Tensor.data.__get__)  # type: ignore[attr-defined]
def detach(x: MomentsState) -> MomentsState:
    """The same without a way back."""
    return x.like()


@rule(
    *(torch.flatten, Tensor.flatten, torch.reshape, Tensor.reshape, Tensor.view, Tensor.reshape_as, Tensor.view_as),
    *(torch.squeeze, Tensor.squeeze, torch.unsqueeze, Tensor.unsqueeze, torch.unflatten, Tensor.unflatten),
    several=True,
)
def reshape(x: Any, *args: Any, result: Tensor, **kwargs: Any) -> MomentsState | None:
    """Positions laid out otherwise, axes of size 1 more or fewer, or all as features; None for anything else."""
    shape = result.shape
    if not isinstance(x, MomentsState) or x.shape == shape:
        return x if isinstance(x, MomentsState) else None
    if len(shape) < 2 or shape[0] != x.samples:
        return None
    if x.axis == 1 and shape[1] == x.width:
        axis = 1
    elif x.axis == len(x.shape) - 1 and shape[-1] == x.width:
        axis = len(shape) - 1
    else:
        return _flattened(x, shape) if len(shape) == 2 and shape[1] == prod(x.shape[1:]) else None
    space = tuple(n for a, n in enumerate(shape) if a not in (0, axis))
    before = x.profile.shape
    out = x.like(shape=shape, axis=axis, profile=x.profile.reshape(space))
    return out.made_of((x, lambda g: g.placed(g.profile.reshape(before))))


def _flattened(x: MomentsState, shape: torch.Size) -> MomentsState:
    """Channels and positions as features: every position's mean is a feature's now."""
    second, p = x.second, x.positions
    same = p == 1 and shape[1] == len(x.channels)
    out = x.like(
        shape=shape,
        axis=1,
        profile=torch.tensor(second, dtype=FLOAT),
        pooled=second,
        between=x.across * second,
        channels=x.channels if same else even(shape[1]),
    )

    def back(g: Gradient) -> Gradient:
        sent = g.placed(torch.full(x.profile.shape, g.second, dtype=FLOAT), 0.0 if p > 1 else 1.0)
        return sent if same else sent.with_channels(torch.ones_like(x.channels))

    return out.made_of((x, back))


def moved(function: Callable[..., Tensor], x: MomentsState, *args: Any, **kwargs: Any) -> MomentsState | None:
    """The axes in another order; None where the batch would move."""
    # A tensor whose axes are as long as their numbers tells the order, however the function spells it.
    order = tuple(function(torch.empty(tuple(range(len(x.shape))), device="meta"), *args, **kwargs).shape)
    if order[0] != 0:
        return None
    before = [a for a in range(1, len(order)) if a != x.axis]
    turn = tuple(before.index(a) for a in order[1:] if a != x.axis)
    back = tuple(turn.index(i) for i in range(len(turn)))
    shape = torch.Size([x.shape[a] for a in order])
    out = x.like(shape=shape, axis=order.index(x.axis), profile=x.profile.permute(turn), free=x.free)
    return out.made_of((x, lambda g: g.placed(g.profile.permute(back))))


for _name in ("permute", "transpose", "swapaxes", "movedim", "moveaxis"):
    rule(getattr(torch, _name), getattr(Tensor, _name))(partial(moved, getattr(Tensor, _name)))


@rule(torch.cat, torch.concat, torch.concatenate, several=True)
def cat(tensors: Sequence[Any], dim: int = 0, *, result: Tensor) -> MomentsState | None:
    """Tensors side by side along their channels; None where one is a constant or they do not fit."""
    parts = [x for x in tensors if isinstance(x, MomentsState)]
    first, axis = parts[0], dim % result.dim()
    if len(parts) < len(tensors) or any(x.axis != axis or x.profile.shape != first.profile.shape for x in parts):
        return None
    total = sum(x.width for x in parts)
    share = [x.width / total for x in parts]

    def average(name: str) -> float:
        return sum(s * float(getattr(x, name)) for s, x in zip(share, parts, strict=True))

    out = first.like(
        shape=result.shape,
        profile=torch.stack([s * x.profile for s, x in zip(share, parts, strict=True)]).sum(0),
        channels=unit(torch.cat([x.channels * x.second for x in parts])),
        centred=None,
        **{name: average(name) for name in ("mean", "pooled", "between", "spread", "lengths")},
    )
    start = 0
    for x in parts:
        out.parents.append((x, _part_of(slice(start, start + x.width))))
        start += x.width
    return out


@rule(torch.chunk, Tensor.chunk, torch.split, Tensor.split, torch.tensor_split)
def chunk(x: MomentsState, size: Any, dim: int = 0, *, result: Sequence[Tensor]) -> list[MomentsState] | None:
    """Parts along the channels."""
    if dim % len(x.shape) != x.axis:
        return None
    found, start = [], 0
    for part in result:
        found.append(_chosen(x, slice(start, start + part.shape[x.axis]), part.shape))
        start += part.shape[x.axis]
    return found


@rule(Tensor.__getitem__)
def getitem(x: MomentsState, index: Any, *, result: Tensor) -> MomentsState | None:
    """Slices of channels and of space; None for anything else."""
    shape, rank = result.shape, len(x.shape)
    parts = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(p, slice) or p is Ellipsis for p in parts) or shape[0] != x.samples:
        return None
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts = (*parts[:at], *(slice(None),) * (rank - len(parts) + 1), *parts[at + 1 :])
    parts = (*parts, *(slice(None),) * (rank - len(parts)))
    if shape[x.axis] != x.width:
        x = _chosen(x, parts[x.axis], torch.Size([*x.shape[: x.axis], shape[x.axis], *x.shape[x.axis + 1 :]]))
    if x.shape == shape:
        return x
    space = tuple(p for a, p in enumerate(parts) if a not in (0, x.axis))

    def back(g: Gradient) -> Gradient:
        whole = torch.zeros(x.profile.shape, dtype=FLOAT)
        whole[space] = g.profile
        return g.placed(whole)

    return x.on(x.profile[space], shape).made_of((x, back))


@rule(F.pad)
def pad(
    x: MomentsState, pad: Sequence[int], mode: str = "constant", value: Any = None, *, result: Tensor
) -> MomentsState | None:
    """Zeros, or the signal itself, around the map, and zeros as channels; what the signal's gradients add, they add evenly."""
    if x.axis != 1 or value:
        return None
    rank, before = len(x.shape), x.profile.shape
    # torch counts from the last axis back: two numbers for each.
    pairs = [*zip(pad[::2], pad[1::2], strict=True), *((0, 0),) * (rank - len(pad) // 2)][::-1]
    batch, channels, around = pairs[0], pairs[1], pairs[2:]
    if any(batch) or (any(channels) and mode != "constant"):
        return None
    if any(channels):
        x = _with_zero_channels(x, *channels)
    if not any(map(any, around)):
        return x
    inner = tuple(slice(max(start, 0), max(start, 0) + n) for (start, _), n in zip(around, before, strict=True))
    root = F.pad(x.root[None, None], [n for pair in reversed(around) for n in pair], mode=mode)[0, 0]

    def back(g: Gradient) -> Gradient:
        found = g.profile[inner]
        kept = float(found.sum())
        return g.placed(found * (float(g.profile.sum()) / kept if mode != "constant" and kept else 1.0))

    return x.on(root.square(), result.shape).made_of((x, back))


def _chosen(x: MomentsState, part: slice, shape: torch.Size) -> MomentsState:
    """Some of the channels."""
    share = float(x.channels[part].mean())

    def back(g: Gradient) -> Gradient:
        whole = torch.zeros(x.width, dtype=FLOAT)
        whole[part] = g.channels
        return g.scaled(len(g.channels) / x.width).with_channels(whole)

    return _share(x, share, share**0.5, x.channels[part], shape).made_of((x, back))


def _with_zero_channels(x: MomentsState, before: int, after: int) -> MomentsState:
    share = x.width / (x.width + before + after)
    channels = F.pad(x.channels, (before, after))
    out = _share(x, share, share, channels, torch.Size([x.shape[0], len(channels), *x.shape[2:]]))
    return out.made_of((x, _part_of(slice(before, before + x.width))))


def _share(x: MomentsState, share: float, of_mean: float, channels: Tensor, shape: torch.Size) -> MomentsState:
    """Other channels, which have this share of the second moments and of the mean."""
    moments = {name: getattr(x, name) * share for name in ("profile", "pooled", "between")}
    return x.like(shape=shape, mean=x.mean * of_mean, channels=unit(channels), **moments)


def _part_of(part: slice) -> Backward:
    return lambda g: g.scaled(float(g.channels[part].mean())).with_channels(g.channels[part])
