"""Element-wise functions of a normal tensor: the q-map and the c-map at every position, forwards and backwards.

Functions of functions, ``x * sigmoid(x)`` say, are composed and evaluated at the normal tensor that they come from, since what
an activation gives out is not normal. The maps are those of Poole et al. 2016 (arXiv 1606.05340), the way back that of
Schoenholz et al. 2017 (arXiv 1611.01232).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spp.nn.gains import Array
from spp.theory.finite_width import TINY, Maps, Pairs
from spp.theory.gaussian import Nonlinearity, moments
from spp.theory.moments_state import FLOAT, Backward, Gradient, MomentsState, unit
from spp.theory.rules import rule

# Where a profile or the channels have more values than that, a map is interpolated between so many.
KNOTS = 33
# Channels whose scales spread less than that are mapped by the local power law.
NEARLY = 0.2
Function = Callable[[Tensor], Tensor]
# Functions of torch.nn.functional or torch that jump, or whose slope jumps, and where.
AT_ZERO = ("relu", "leaky_relu", "elu", "celu", "selu", "softsign", "abs")
KINKS = dict.fromkeys(AT_ZERO, (0.0,)) | {"relu6": (0.0, 6.0), "hardswish": (-3.0, 3.0), "hardsigmoid": (-3.0, 3.0)}
# Further functions of one tensor.
SMOOTH = (
    "gelu silu mish softplus logsigmoid tanhshrink sigmoid tanh erf sin cos exp square neg expm1 atan sqrt rsqrt "
    "reciprocal"
)


def unary(x: MomentsState, function: Function, kinks: tuple[float, ...] = ()) -> MomentsState:
    """``function(x)``, with the values of ``x`` where it, or its slope, jumps."""
    source, inner = x.as_function()
    if source is x:
        return of_normal(x, Nonlinearity(function, kinks))
    composed = Nonlinearity(lambda u: function(inner.function(u)), (*inner.kinks, *_preimages(inner, kinks)))
    out = of_normal(source, composed)
    out.shadows = [(x, _through(x, Nonlinearity(function, kinks)))]
    return out


def known_as(x: MomentsState, out: MomentsState, function: Function) -> MomentsState:
    """``out``, whose moments are known, as ``function(x)``, so that what follows can be composed with it."""
    out.source, inner = x.as_function()
    out.function = Nonlinearity(lambda u: function(inner.function(u)), inner.kinks)
    return out


def binary(x: MomentsState, y: MomentsState, function: Callable[[Tensor, Tensor], Tensor]) -> MomentsState | None:
    """``function(x, y)`` where both are functions of the same normal tensor; None where they are not."""
    (root, f), (other, g) = x.as_function(), y.as_function()
    if other is not root or x.shape != y.shape:
        return None
    joint = Nonlinearity(lambda u: function(f.function(u), g.function(u)), tuple({*f.kinks, *g.kinks}))
    out = of_normal(root, joint)

    def slope(z: MomentsState, u: Tensor) -> Tensor:
        # Under predict's no_grad, and for x and y that may be one.
        with torch.enable_grad():
            a, b = f.function(u).detach().requires_grad_(), g.function(u).detach().requires_grad_()
            wanted = [t for t, w in ((a, x), (b, y)) if w is z]
            found = torch.autograd.grad(function(a, b).sum(), wanted, allow_unused=True)
        return sum((t for t in found if t is not None), torch.zeros_like(u))

    def shown(z: MomentsState) -> Backward:
        # The gradient that one of the operands would show: E[(df/dz)^2] at the mean of the profile.
        partial_slope = Nonlinearity(partial(slope, z), (*f.kinks, *g.kinks))
        return lambda sent: sent.scaled(
            moments(partial_slope, root.nu * root.second**0.5, root.second * (1 - root.nu**2))[1]
        )

    out.shadows = [(z, shown(z)) for z in {id(x): x, id(y): y}.values() if z is not root]
    return out


def of_normal(x: MomentsState, phi: Nonlinearity) -> MomentsState:
    """``phi(x)`` for a normal ``x``: ``E[phi^2]`` at each position, ``E[phi phi']`` for each kind of pair."""
    maps, pairs = Maps(x, phi), Pairs(x, phi)
    profile, ratio = _mapped(maps.second, x.profile), _by_channel(maps.second, x.second, x.channels)
    seconds = maps.here[1]
    second, root = float(maps.weights @ seconds), float(maps.weights @ np.sqrt(seconds))
    # Two samples of different length have less in common.
    alike = root**2 / second if second else 0.0
    out = MomentsState(
        shape=x.shape,
        axis=x.axis,
        profile=profile * float(ratio.mean()),
        mean=float(_mapped(maps.first, x.profile).mean()),
        pooled=0.0,
        between=0.0,
        channels=unit(ratio),
        spread=pairs.spread(),
        lengths=pairs.lengths(maps),
        scatter=pairs.scatter(),
        centred=pairs.centred(maps),
        source=x,
        function=phi,
    )
    out.between = out.mean**2 + alike * pairs.beyond_mean(pairs.across) * out.flat
    common = out.mean**2 / out.flat if out.flat else 0.0
    out.correlate(common + alike * pairs.beyond_mean(pairs.within) if out.positions > 1 else 1.0)
    return out.made_of((x, _through(x, phi, pairs)))


def _through(x: MomentsState, phi: Nonlinearity, known: Pairs | None = None) -> Backward:
    """The way back through ``phi``: ``E[phi'^2]`` at each position."""

    def back(g: Gradient) -> Gradient:
        maps, pairs = Maps(x, phi), known or Pairs(x, phi)
        sent = g.scaled(_mapped(maps.chi, x.profile), _by_channel(maps.chi, x.second, x.channels))
        if pairs.chi > TINY:
            if x.positions > 1 and g.within:
                sent.within = g.within * pairs.at(pairs.within).slopes() / pairs.chi
            if g.across:
                sent.across = g.across * pairs.at(pairs.across).slopes() / pairs.chi
            sent.spread = g.spread + max(pairs.average(slopes=True) / pairs.chi**2 - 1, 0.0) / x.width
        return sent

    return back


def _mapped(function: Callable[[Array], Array], values: Tensor) -> Tensor:
    """``function`` of every value: of each different one, or of knots between where these are many."""
    largest = float(values.max()) if values.numel() else 0.0
    if not largest > 0:
        return torch.full_like(values, float(function(np.zeros(1))[0]))
    # Values that differ by rounding alone are one: the inside of a padded map has hundreds of those.
    at, where = np.unique(np.round(values.flatten().numpy() / largest, 12), return_inverse=True)
    at = at * largest
    if len(at) > KNOTS:
        knots = np.geomspace(max(at[0], at[-1] * 1e-9, 1e-300), max(at[-1], 1e-300), KNOTS)
        found = np.interp(at, knots, function(knots))
    else:
        found = function(np.maximum(at, 0.0))
    return torch.from_numpy(found[where.reshape(-1)]).reshape(values.shape)


def _by_channel(function: Callable[[Array], Array], q: float, channels: Tensor) -> Tensor:
    """``function(q r) / function(q)`` for each channel's ``r``."""
    if float(channels.max() - channels.min()) < 1e-6:
        return torch.ones_like(channels)
    r = channels.numpy()
    if float(channels.std()) < NEARLY:
        here, more = function(np.array([q, 1.1 * q]))
        rate = np.log(max(more, 1e-300) / here) / np.log(1.1) if here > 0 else 0.0
        return torch.from_numpy(np.maximum(r, 0.0) ** rate).to(FLOAT)
    knots = np.unique(np.quantile(r, np.linspace(0, 1, KNOTS)))
    here, *found = function(q * np.concatenate([[1.0], knots]))
    if not here > 0:
        return torch.ones_like(channels)
    return torch.from_numpy(np.interp(r, knots, np.array(found) / here)).to(FLOAT)


def _preimages(inner: Nonlinearity, kinks: tuple[float, ...]) -> tuple[float, ...]:
    """Where a function crosses the kinks of the next one, on a grid refined by bisection."""
    grid: Array = np.linspace(-40.0, 40.0, 4001)
    found = []
    for kink in kinks:
        sign = np.sign(inner.value(grid) - kink)
        for i in np.flatnonzero(sign[:-1] * sign[1:] < 0):
            low, high = grid[i], grid[i + 1]
            for _ in range(50):
                middle = (low + high) / 2
                if np.sign(inner.value(np.array([middle]))[0] - kink) == sign[i]:
                    low = middle
                else:
                    high = middle
            found.append(float(low))
    return tuple(found)


def _function_rule(
    function: Callable[..., Tensor], kinks: tuple[float, ...], x: MomentsState, *args: Any, **kwargs: Any
) -> MomentsState:
    # In place or not, the moments are the same; but autograd refuses to write into the leaf that the slope is taken at.
    args = args[:-1] if args and isinstance(args[-1], bool) else args
    options = {k: v for k, v in kwargs.items() if k != "inplace"}
    return unary(x, lambda u: function(u, *args, **options), kinks)


for _name, _kinks in (KINKS | dict.fromkeys(SMOOTH.split(), ())).items():
    # torch spells one function up to six times; methods and in-place forms reach __torch_function__ as themselves.
    _forms = [
        getattr(_room, form, None) for _room in (F, torch, Tensor) for form in (_name, f"{_name}_", f"__{_name}__")
    ]
    _known = [form for form in _forms if form is not None]
    rule(*_known)(partial(_function_rule, _known[0], _kinks))


@rule(torch.clamp, Tensor.clamp, Tensor.clamp_, torch.clip, Tensor.clip, Tensor.clip_)
def clamp(x: MomentsState, min: float | None = None, max: float | None = None) -> MomentsState | None:
    """Values cut off at numbers."""
    ends = [v for v in (min, max) if v is not None]
    if not all(isinstance(v, int | float) for v in ends):
        return None
    return unary(x, lambda u: torch.clamp(u, min, max), tuple(map(float, ends)))


@rule(F.hardtanh, F.hardtanh_)
def hardtanh(
    x: MomentsState, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> MomentsState | None:
    """``clamp`` under another name."""
    return clamp(x, min_val, max_val)


@rule(torch.pow, Tensor.pow, Tensor.__pow__)
def power(x: MomentsState, exponent: Any) -> MomentsState | None:
    """Positive whole powers."""
    return unary(x, lambda u: u**exponent) if isinstance(exponent, int) and exponent >= 1 else None


@rule(F.prelu, torch.prelu)
def prelu(x: MomentsState, weight: Tensor) -> MomentsState:
    """One slope below 0 for all channels: the mean of theirs."""
    slope = float(weight.detach().double().mean())
    return unary(x, lambda u: torch.where(u > 0, u, slope * u), (0.0,))
