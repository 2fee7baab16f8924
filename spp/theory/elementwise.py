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
from spp.theory.gaussian import (
    Nonlinearity,
    moments,
    moments_of_many,
    normal_points,
    pair_moment,
    second_moment_slope,
    slope_moments,
)

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
    out.between = out.mean**2 + alike * pairs.beyond_mean(x.across) * out.flat
    common = out.mean**2 / out.flat if out.flat else 0.0
    out.correlate(common + alike * pairs.beyond_mean(x.within) if out.positions > 1 else 1.0)
    return out.made_of((x, _through(x, phi, pairs)))


class Maps:
    """Expectations over one element of a normal tensor, over samples of different length too."""

    def __init__(self, x: Field, phi: Nonlinearity) -> None:
        self.nu, self.phi, self.lengths = x.nu, phi, x.lengths
        if x.lengths > 1e-4:
            nodes, weights = np.polynomial.hermite_e.hermegauss(9)
            self.at = np.exp(np.sqrt(x.lengths) * nodes - x.lengths / 2)
            self.weights = weights / weights.sum()
        else:
            self.at = self.weights = np.ones(1)

    def second(self, q: Array) -> Array:
        """``E[phi^2]`` for each second moment ``q`` of the input."""
        found: Array = self.over(q)[1] @ self.weights
        return found

    def first(self, q: Array) -> Array:
        """``E[phi]`` for each ``q``."""
        found: Array = self.over(q)[0] @ self.weights
        return found

    def chi(self, q: Array) -> Array:
        """``E[phi'^2]`` for each ``q``, at the mean length: longer samples have other gradients too."""
        return moments_of_many(self.phi, self.nu * np.sqrt(q), q * (1 - self.nu**2), slopes=True)[1]

    def over(self, q: Array) -> tuple[Array, Array]:
        """``E[phi]`` and ``E[phi^2]`` for each ``q`` and each length, both of shape (len(q), lengths)."""
        each = np.outer(q, self.at).ravel()
        mean = np.repeat(self.nu * np.sqrt(q), len(self.at))  # the common mean has no length
        first, second = moments_of_many(self.phi, mean, each * (1 - self.nu**2))
        return first.reshape(len(q), -1), second.reshape(len(q), -1)


class Pairs:
    """Expectations over two elements of a normal tensor, at the mean of its profile and of its lengths."""

    def __init__(self, x: Field, phi: Nonlinearity) -> None:
        self.x, self.phi = x, phi
        nu, q = x.nu, x.second
        self.mean, self.variance, self.nu2 = nu * q**0.5, q * (1 - nu**2), nu**2
        self.second = moments(phi, self.mean, self.variance)[1]
        self.chi = slope_moments(phi, self.mean, self.variance)[1]
        self._known: dict[tuple[float, bool, bool], float] = {}

    def value(self, correlation: float, *, slopes: bool = False, squared: bool = False) -> float:
        """For elements whose correlation about zero is this."""
        key = correlation, slopes, squared
        if key not in self._known:
            c = (correlation - self.nu2) / (1 - self.nu2) if self.nu2 < 1 else 1.0
            c = c * float(np.exp(self.x.lengths / 4)) if c < 1 else c  # the angle, without the difference in length
            c = min(1.0, max(-1.0, c))
            self._known[key] = pair_moment(self.phi, c, self.mean, self.variance, slopes=slopes, squared=squared)
        return self._known[key]

    def beyond_mean(self, correlation: float) -> float:
        """What ``phi``'s values have in common besides their mean, as a share of their second moment."""
        mean = moments(self.phi, self.mean, self.variance)[0]
        return (self.value(correlation) - mean**2) / self.second if self.second else 0.0

    def average(self, *, slopes: bool = False) -> float:
        """``E[phi1^2 phi2^2]`` (or of slopes) over all pairs of a channel: other samples, other positions, itself."""
        n, p = self.x.samples, self.x.positions
        off = self.x.scatter**0.5
        if self.x.scatter < 1e-6 or self.x.across + off > 1:
            off = 0.0
        around = [self.x.across - off, self.x.across + off] if off else [self.x.across]
        total = (1 - 1 / n) * sum(self.value(c, slopes=slopes, squared=True) for c in around) / len(around)
        total += 1 / (n * p) * self.value(1.0, slopes=slopes, squared=True)
        if p > 1:
            total += (1 - 1 / p) / n * self.value(self.x.within, slopes=slopes, squared=True)
        return total

    @property
    def rate(self) -> float:
        """``d log E[phi^2] / d log q``."""
        if not self.second > 0 or not self.variance > 0:
            return 0.0
        return self.x.second * second_moment_slope(self.phi, self.mean, self.variance) / self.second

    @property
    def tilt(self) -> float:
        """``E[phi^2 z] / E[phi^2]``: how the second moment goes with the sum of the ``z``."""
        u, weight = normal_points(self.phi, self.mean, self.variance)
        if not self.variance > 0:
            return 0.0
        found = float((self.phi.value(u) ** 2 * (u - self.mean)) @ weight)
        return found / float(np.sqrt(self.variance)) / self.second

    def spread(self) -> float:
        """Variance of the log of the second moment behind the activation, see ``docs/theory.md``."""
        if not self.second > 0:
            return 0.0
        own = self.average() / self.second**2 - 1 - 2 * self.rate**2 * self.x.overlap()
        own -= self.tilt**2 * self.x.across if self.x.level else 0.0
        return max(self.rate**2 * self.x.spread + own / self.x.width, 0.0)

    def scatter(self) -> float:
        """Variance of the correlation from pair to pair behind the activation, which multiplies it by the c-map's slope."""
        if not self.second > 0:
            return 0.0
        slope = self.x.second * self.value(self.x.across, slopes=True) / self.second
        own = (1 - self.beyond_mean(self.x.across) ** 2) ** 2 - slope**2 * (1 - self.x.across**2) ** 2
        return slope**2 * self.x.scatter + max(own, 0.0) / self.x.width

    def lengths(self, maps: Maps) -> float:
        """Variance of the log of a sample's second moment behind the activation."""
        if not self.second > 0:
            return 0.0
        passed = _variance_of_log(maps.over(np.array([self.x.second]))[1][0], maps.weights)
        own = (self.value(1.0, squared=True) - self.value(self.x.across, squared=True)) / self.second**2
        own -= 2 * self.rate**2 * (1 - self.x.across**2)
        return passed + max(own, 0.0) / self.x.width

    def centred(self, maps: Maps) -> float | None:
        """The same without the mean over the batch; None where samples have more in common than the function's mean."""
        if abs(self.x.across) > 0.1 or abs(self.x.nu) > 0.1 or not self.second > 0:
            return None
        first, second = (found[0] for found in maps.over(np.array([self.x.second])))
        mean = float(maps.weights @ first)
        passed = _variance_of_log(second - 2 * first * mean + mean**2, maps.weights)
        u, weight = normal_points(self.phi, self.mean, self.variance)
        values = (self.phi.value(u) - mean) ** 2
        left = float(values @ weight)
        rate = float((values * ((u - self.mean) ** 2 / self.variance - 1)) @ weight) / (2 * left)
        own = float(values**2 @ weight) / left**2 - 1 - 2 * rate**2
        return passed + max(own, 0.0) / self.x.width


def _variance_of_log(values: Array, weights: Array) -> float:
    logs = np.log(np.maximum(values, 1e-300))
    return float(weights @ (logs - weights @ logs) ** 2)


def _through(x: Field, phi: Nonlinearity, known: Pairs | None = None) -> Backward:
    """The way back through ``phi``: ``E[phi'^2]`` at each position."""

    def back(g: Gradient) -> Gradient:
        maps, pairs = Maps(x, phi), known or Pairs(x, phi)
        sent = g.scaled(_mapped(maps.chi, x.profile), _by_channel(maps.chi, x.second, x.channels))
        if pairs.chi > 0:
            if x.positions > 1 and g.within:
                sent.within = g.within * pairs.value(x.within, slopes=True) / pairs.chi
            if g.across:
                sent.across = g.across * pairs.value(x.across, slopes=True) / pairs.chi
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
    at, where = np.unique(np.round(values.flatten().numpy(), 12), return_inverse=True)
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
