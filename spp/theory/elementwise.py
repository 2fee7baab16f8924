"""Element-wise functions of a normal tensor: the q-map and the c-map at every position, forwards and backwards.

Functions of functions, ``x * sigmoid(x)`` say, are composed and evaluated at the normal tensor that they come from, since what an
activation gives out is not normal.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from spp.nn.gains import Array
from spp.theory.field import FLOAT, Field, Gradient, unit
from spp.theory.gaussian import Nonlinearity, moments, pair_moment, second_moment_slope, slope_moments

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
    out = of_normal(x.source, Nonlinearity(lambda u: function(inner.function(u)), (*inner.kinks, *_preimages(inner, kinks))))
    out.shadows = [(x, _through(x, Nonlinearity(function, kinks)))]
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
    nu = x.relative_mean

    def square(q: float) -> float:
        return moments(phi, nu * q**0.5, q * (1 - nu**2))[1]

    def first(q: float) -> float:
        return moments(phi, nu * q**0.5, q * (1 - nu**2))[0]

    mean_q = x.second
    profile, ratio = _mapped(square, x.profile), _by_channel(square, mean_q, x.channels)
    pairs = Pairs(x, phi)
    second = square(mean_q)
    out = Field(
        x.shape,
        x.axis,
        profile * float(ratio.mean()),
        float(_mapped(first, x.profile).mean()),
        0.0,
        0.0,
        unit(ratio),
        source=x,
        function=phi,
    )
    flat, p = out.rms**2, out.positions
    within = pairs.value(x.within) / second if second else 0.0
    out.pooled = within * (flat - out.second / p) + out.second / p
    out.between = pairs.value(x.across) / second * flat if second else 0.0
    out.spread = pairs.spread(second)
    out.parents = [(x, _through(x, phi))]
    return out


class Pairs:
    """Expectations over two elements of a normal tensor, at the mean of its profile."""

    def __init__(self, x: Field, phi: Nonlinearity) -> None:
        self.x, self.phi = x, phi
        nu, q = x.relative_mean, x.second
        self.mean, self.variance, self.nu2 = nu * q**0.5, q * (1 - nu**2), nu**2

    def value(self, correlation: float, *, slopes: bool = False, squared: bool = False) -> float:
        """For elements whose correlation about zero is this."""
        c = (correlation - self.nu2) / (1 - self.nu2) if self.nu2 < 1 else 1.0
        c = min(1.0, max(-1.0, c))
        return pair_moment(self.phi, c, self.mean, self.variance, slopes=slopes, squared=squared)

    def average(self, *, slopes: bool = False) -> float:
        """``E[phi1^2 phi2^2]`` (or of slopes) over all pairs of a channel: other samples, other positions, itself."""
        n, p = self.x.samples, self.x.positions
        total = (1 - 1 / n) * self.value(self.x.across, slopes=slopes, squared=True)
        total += 1 / (n * p) * self.value(1.0, slopes=slopes, squared=True)
        if p > 1:
            total += (1 - 1 / p) / n * self.value(self.x.within, slopes=slopes, squared=True)
        return total

    def spread(self, second: float) -> float:
        """Variance of the log of the second moment behind the activation, see ``docs/theory.md``."""
        x = self.x
        if not second > 0 or not x.second > 0:
            return 0.0
        rate = x.second * second_moment_slope(self.phi, self.mean, self.variance) / second if self.variance > 0 else 0.0
        own = self.average() / second**2 - 1 - 2 * rate**2 * x.overlap()
        return max(rate**2 * x.spread + own / x.width, 0.0)


def _through(x: Field, phi: Nonlinearity) -> Callable[[Gradient], Gradient]:
    """The way back through ``phi``: ``E[phi'^2]`` at each position."""

    def back(g: Gradient) -> Gradient:
        nu = x.relative_mean

        def chi(q: float) -> float:
            return slope_moments(phi, nu * q**0.5, q * (1 - nu**2))[1]

        pairs = Pairs(x, phi)
        here = chi(x.second)
        profile, ratio = g.profile * _mapped(chi, x.profile), _by_channel(chi, x.second, x.channels)
        within, spread = g.within, g.spread
        if here > 0:
            if x.positions > 1:
                within *= pairs.value(x.within, slopes=True) / here
            spread += max(pairs.average(slopes=True) / here**2 - 1, 0.0) / x.width
        joint = g.channels * ratio
        return Gradient(profile * float(joint.mean()), within, unit(joint), spread)

    return back


def _partial(x: Field, y: Field, z: Field, root: Field, function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Gradient], Gradient]:
    """The gradient that one of two operands would show: ``E[(df/dz)^2]`` at the mean of the profile."""

    def back(g: Gradient) -> Gradient:
        nu, q = root.relative_mean, root.second
        f, h = (w.function or Nonlinearity(_same) for w in (x, y))

        def slope(u: Tensor) -> Tensor:
            with torch.enable_grad():
                a, b = f.function(u).detach().requires_grad_(), h.function(u).detach().requires_grad_()
                wanted = [t for t, w in ((a, x), (b, y)) if w is z]
                found = torch.autograd.grad(function(a, b).sum(), wanted, allow_unused=True)
            return sum((t for t in found if t is not None), torch.zeros_like(u))

        return g.scaled(moments(Nonlinearity(slope, (*f.kinks, *h.kinks)), nu * q**0.5, q * (1 - nu**2))[1])

    return back


def _mapped(function: Callable[[float], float], values: Tensor) -> Tensor:
    """``function`` at every value, which is evaluated at each different one, or at knots between where these are many."""
    at, where = np.unique(np.round(values.flatten().numpy(), 12), return_inverse=True)
    if len(at) > KNOTS:
        knots = np.geomspace(max(at[0], at[-1] * 1e-9, 1e-300), max(at[-1], 1e-300), KNOTS)
        found = np.interp(at, knots, np.array([function(float(q)) for q in knots]))
    else:
        found = np.array([function(float(q)) for q in at])
    return torch.from_numpy(found[where.reshape(-1)]).reshape(values.shape)


def _by_channel(function: Callable[[float], float], q: float, channels: Tensor) -> Tensor:
    """``function(q r) / function(q)`` for each channel's ``r``."""
    if float(channels.max() - channels.min()) < 1e-6:
        return torch.ones_like(channels)
    here = function(q)
    if not here > 0:
        return torch.ones_like(channels)
    r = channels.numpy()
    if float(channels.std()) < NEARLY:
        rate = np.log(max(function(1.1 * q), 1e-300) / here) / np.log(1.1)
        return torch.from_numpy(np.maximum(r, 0.0) ** rate).to(FLOAT)
    knots = np.unique(np.quantile(r, np.linspace(0, 1, KNOTS)))
    found = np.array([function(float(q * k)) / here for k in knots])
    return torch.from_numpy(np.interp(r, knots, found)).to(FLOAT)


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
