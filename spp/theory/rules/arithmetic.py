"""Sums, products and random drops: two tensors that are taken to be independent of each other, or one and a constant.

Operands that are functions of one normal tensor are an exception: they are composed (:mod:`spp.theory.rules.elementwise`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from spp.nn.selu import ALPHA, LAMBDA, alpha_dropout_affine
from spp.theory.moments_state import FLOAT, Gradient, MomentsState, blend, even, unit, wide
from spp.theory.rules import Symbol, rule
from spp.theory.rules.elementwise import binary, known_as

Operand = MomentsState | Tensor | float


@rule(torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__, several=True)
def add(x: Operand, other: Operand, *, alpha: float = 1, out: Any = None, result: Tensor) -> MomentsState | None:
    """``x + alpha * other``, where one may be a number or have one for each channel."""
    alpha = float(alpha)
    if isinstance(x, MomentsState):
        return _sum(x, other, alpha) if isinstance(other, MomentsState) else _shifted(x, other, alpha, result)
    if not isinstance(other, MomentsState):
        return None
    scaled = other if alpha == 1 else affine(other, torch.tensor(alpha, dtype=FLOAT))
    return _shifted(scaled, x, 1.0, result)


@rule(torch.sub, Tensor.sub, Tensor.sub_, Tensor.__sub__, Tensor.__isub__, several=True)
def sub(x: Operand, other: Operand, *, alpha: float = 1, result: Tensor) -> MomentsState | None:
    """``x - alpha * other``."""
    return add(x, other, alpha=-float(alpha), result=result)


@rule(torch.rsub, Tensor.__rsub__)
def rsub(x: MomentsState, other: Tensor | float, *, result: Tensor) -> MomentsState | None:
    """``other - x``."""
    negative = _scaled(x, -1.0, result)
    return None if negative is None else _shifted(negative, other, 1.0, result)


@rule(
    torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__, torch.multiply, several=True
)
def mul(x: Operand, other: Operand, *, out: Any = None, result: Tensor) -> MomentsState | None:
    """``x * other``, where one may be a number or have one for each channel."""
    if isinstance(x, MomentsState) and isinstance(other, MomentsState):
        joint = binary(x, other, torch.mul)
        return joint if joint is not None else _product(x, other)
    return _scaled(x, other, result) if isinstance(x, MomentsState) else _scaled(other, x, result)


@rule(torch.div, Tensor.div, Tensor.div_, Tensor.__truediv__, Tensor.__itruediv__, torch.true_divide, several=True)
def div(x: Operand, other: Operand, *, result: Tensor) -> MomentsState | None:
    """``x / other`` for a constant ``other``, or for two functions of one normal tensor."""
    if isinstance(other, MomentsState):
        return binary(x, other, torch.div) if isinstance(x, MomentsState) else None
    return _scaled(x, 1 / other, result)


def affine(x: MomentsState, scale: Tensor | None, shift: Tensor | None = None) -> MomentsState:
    """``scale[c] * x + shift[c]``, one for each channel or one number."""
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
        level=x.level and not bool(b.any()),
    )
    return out.made_of((x, lambda g: g.scaled(1.0, a.square())))


def _shifted(x: MomentsState, other: Tensor | float, sign: float, result: Tensor) -> MomentsState | None:
    """A constant added."""
    return _with_constant(x, other, result, lambda b: affine(x, None, sign * b), lambda u, b: u + sign * b)


def _scaled(x: Operand, other: Operand, result: Tensor) -> MomentsState | None:
    """A constant factor."""
    if not isinstance(x, MomentsState) or isinstance(other, MomentsState):
        return None
    return _with_constant(x, other, result, lambda a: affine(x, a), lambda u, a: u * a)


def _with_constant(
    x: MomentsState,
    values: Tensor | float,
    result: Tensor,
    changed: Callable[[Tensor], MomentsState],
    function: Callable[[Tensor, float], Tensor],
) -> MomentsState | None:
    """``function(x, values)`` for a number, or for one for each channel where broadcasting makes ``values`` that."""
    if isinstance(values, int | float) or values.numel() == 1:
        number = float(values)
        return known_as(x, changed(torch.tensor(number, dtype=FLOAT)), lambda u: function(u, number))
    full = (1,) * (result.dim() - values.dim()) + tuple(values.shape)
    if result.shape != x.shape or values.numel() != x.width or full[x.axis] != x.width:
        return None
    return changed(wide(values).reshape(-1))


def _sum(x: MomentsState, y: MomentsState, sign: float) -> MomentsState | None:
    """``x + sign * y`` for tensors that share nothing but a common mean; None where shapes differ."""
    if abs(sign) != 1:
        return None
    joint = binary(x, y, lambda u, v: u + sign * v)
    if joint is not None or x.shape != y.shape or x.axis != y.axis:
        return joint
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
        spread=blend(share, x.spread, y.spread),
        lengths=blend(share, x.lengths, y.lengths),
        scatter=blend(share, x.scatter, y.scatter),
        centred=None,
    )
    return out.made_of((x, _itself), (y, _itself))


def _product(x: MomentsState, y: MomentsState) -> MomentsState | None:
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
    out = x.like(
        profile=x.profile * gate * float(channels.mean()),
        mean=x.mean * y.mean,
        channels=unit(channels),
        spread=x.spread + y.spread,
        lengths=x.lengths + y.lengths,
        centred=None,
    )
    if not over_space:
        out.mean = x.nu * y.nu * out.flat**0.5
    out.between = x.across * y.across * out.flat
    out.correlate(x.within * within)

    def to_x(g: Gradient) -> Gradient:
        sent = g.scaled(gate, y.channels)
        return sent.placed(sent.profile, g.within * within)

    def to_y(g: Gradient) -> Gradient:
        sent = g.scaled(x.profile, x.channels)
        if not over_space:
            return sent.placed(sent.profile, g.within * x.within)
        both, p = g.within * x.within, x.positions
        summed = p * (both * p * sent.flat + (1 - both) * sent.second)
        return sent.placed(torch.full(y.profile.shape, summed, dtype=FLOAT), 1.0)

    return out.made_of((x, to_x)) if y.width < x.width else out.made_of((x, to_x), (y, to_y))


def _itself(g: Gradient) -> Gradient:
    return g


@rule(F.dropout)
def dropout(x: MomentsState, p: float = 0.5, training: bool = True, inplace: bool = False) -> MomentsState:
    """Each element kept with probability ``1 - p`` and divided by it: variance is added that no two elements share."""
    if not training or p == 0:
        return x
    keep = max(1 - p, 1e-300)
    out = x.like(profile=x.profile / keep, pooled=x.pooled + x.second * (1 / keep - 1) / x.positions)
    return out.made_of((x, lambda g: g.placed(g.profile / keep, g.within * keep)))


@rule(F.dropout1d, F.dropout2d, F.dropout3d)
def dropout_of_channels(x: MomentsState, p: float = 0.5, training: bool = True, inplace: bool = False) -> MomentsState:
    """As :func:`dropout`, for whole channels of a sample."""
    if not training or p == 0:
        return x
    keep = max(1 - p, 1e-300)
    return x.like(profile=x.profile / keep, pooled=x.pooled / keep).made_of((x, lambda g: g.scaled(1 / keep)))


@rule(F.alpha_dropout)
def alpha_dropout(x: MomentsState, p: float = 0.5, training: bool = False, inplace: bool = False) -> MomentsState:
    """Dropout of self-normalizing networks: ``a (x d + low (1 - d)) + b`` with SELU's lowest value ``low``."""
    if not training or p == 0:
        return x
    a, b = alpha_dropout_affine(p)
    keep, low = 1 - p, -LAMBDA * ALPHA
    # The mean over d is kept x + base.
    kept, base = a * keep, a * low * p + b
    profile = keep * (a**2 * x.profile + 2 * a * b * x.nu * x.root + b**2) + p * (a * low + b) ** 2
    cross = 2 * kept * base * x.mean + base**2
    own = float(profile.mean()) - kept**2 * x.second - cross
    out = x.like(
        profile=profile,
        mean=kept * x.mean + base,
        pooled=kept**2 * x.pooled + cross + own / x.positions,
        between=kept**2 * x.between + cross,
    )
    return out.made_of((x, lambda g: g.placed(g.profile * (a**2 * keep), g.within * keep)))


class RandomMasks(TorchFunctionMode):
    """Turns random masks over samples, as stochastic depth draws them, into symbols of their probabilities."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Follow one call."""
        # A mask is drawn into a tensor that does not depend on the input, so no symbol would see it.
        if func is Tensor.bernoulli_ and len(args) == 2 and isinstance(args[1], float):
            drawn, keep = args
            if drawn.dim() > 1 and drawn.numel() == drawn.shape[0]:
                made = torch.empty(drawn.shape, dtype=drawn.dtype, device="meta")
                place = drawn.place if isinstance(drawn, Symbol) else drawn.device
                return Symbol.of(made, place, _mask(drawn.shape, keep))
        return func(*args, **(kwargs or {}))


def _mask(shape: torch.Size, keep: float) -> MomentsState:
    """Ones with probability ``keep``, else zeros, over the batch alone."""
    profile = torch.full((1,) * max(len(shape) - 2, 0), keep, dtype=FLOAT)
    return MomentsState(shape=shape, axis=1, profile=profile, mean=keep, pooled=keep, between=keep**2, channels=even(1))
