"""Element-wise functions of a normal tensor: the q-map and the c-map at every position, forwards and backwards.

Functions of functions, ``x * sigmoid(x)`` say, are composed and evaluated at the normal tensor that they come from, since what
an activation gives out is not normal.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from spp.nn.gains import Array
from spp.theory.field import FLOAT, Backward, Field, Gradient, unit
from spp.theory.finite import TINY, Maps, Pairs
from spp.theory.gaussian import Nonlinearity, moments

KNOTS = 33
"""Where a profile or the channels have more values than that, a map is interpolated between so many."""
NEARLY = 0.2
"""Channels whose scales spread less than that are mapped by the local power law."""
Function = Callable[[Tensor], Tensor]


def unary(x: Field, function: Function, kinks: tuple[float, ...] = ()) -> Field:
    """``function(x)``."""
    if x.source is None or x.function is None:
        return of_normal(x, Nonlinearity(function, kinks))
    inner = x.function
    out = of_normal(
        x.source, Nonlinearity(lambda u: function(inner.function(u)), (*inner.kinks, *_preimages(inner, kinks)))
    )
    out.shadows = [(x, _through(x, Nonlinearity(function, kinks)))]
    return out


def known_as(x: Field, out: Field, function: Function) -> Field:
    """``out``, whose moments are known, as ``function(x)``, so that what follows can be composed with it."""
    inner = x.function or Nonlinearity(_same)
    out.source, out.function = x.source or x, Nonlinearity(lambda u: function(inner.function(u)), inner.kinks)
    return out


def binary(x: Field, y: Field, function: Callable[[Tensor, Tensor], Tensor]) -> Field | None:
    """``function(x, y)`` where both are functions of the same normal tensor; None where they are not."""
    root = x.source or x
    if (y.source or y) is not root or x.shape != y.shape:
        return None
    f, g = (z.function or Nonlinearity(_same) for z in (x, y))
    out = of_normal(root, Nonlinearity(lambda u: function(f.function(u), g.function(u)), tuple({*f.kinks, *g.kinks})))
    out.shadows = [(z, _partial(x, y, z, root, function)) for z in {id(x): x, id(y): y}.values() if z is not root]
    return out


def of_normal(x: Field, phi: Nonlinearity) -> Field:
    """``phi(x)`` for a normal ``x``: ``E[phi^2]`` at each position, ``E[phi phi']`` for each kind of pair."""
    maps, pairs = Maps(x, phi), Pairs(x, phi)
    profile, ratio = _mapped(maps.second, x.profile), _by_channel(maps.second, x.second, x.channels)
    seconds = maps.over(np.array([x.second]))[1][0]
    second, root = float(maps.weights @ seconds), float(maps.weights @ np.sqrt(seconds))
    alike = root**2 / second if second else 0.0  # two samples of different length have less in common
    out = Field(
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


def _through(x: Field, phi: Nonlinearity, known: Pairs | None = None) -> Backward:
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


def _partial(x: Field, y: Field, z: Field, root: Field, function: Callable[[Tensor, Tensor], Tensor]) -> Backward:
    """The gradient that one of two operands would show: ``E[(df/dz)^2]`` at the mean of the profile."""

    def back(g: Gradient) -> Gradient:
        nu, q = root.nu, root.second
        f, h = (w.function or Nonlinearity(_same) for w in (x, y))

        def slope(u: Tensor) -> Tensor:
            with torch.enable_grad():
                a, b = f.function(u).detach().requires_grad_(), h.function(u).detach().requires_grad_()
                wanted = [t for t, w in ((a, x), (b, y)) if w is z]
                found = torch.autograd.grad(function(a, b).sum(), wanted, allow_unused=True)
            return sum((t for t in found if t is not None), torch.zeros_like(u))

        return g.scaled(moments(Nonlinearity(slope, (*f.kinks, *h.kinks)), nu * q**0.5, q * (1 - nu**2))[1])

    return back


def _mapped(function: Callable[[Array], Array], values: Tensor) -> Tensor:
    """``function`` of every value: of each different one, or of knots between where these are many."""
    largest = float(values.max()) if values.numel() else 0.0
    if not largest > 0:
        return torch.full_like(values, float(function(np.zeros(1))[0]))
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
    return (
        torch.from_numpy(np.interp(r, knots, np.array(found) / here)).to(FLOAT)
        if here > 0
        else torch.ones_like(channels)
    )


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


def _same(u: Tensor) -> Tensor:
    return u
