"""Element-wise functions of a normal tensor: the q-map and the c-map at every position, forwards and backwards.

Functions of functions, ``x * sigmoid(x)`` say, are composed and evaluated at the normal tensor that they come from, since what
an activation gives out is not normal. The maps are those of Poole et al. 2016 (arXiv 1606.05340), the way back that of
Schoenholz et al. 2017 (arXiv 1611.01232).

Finite width makes three variances, each of order ``1 / n`` for ``n`` units, which depth adds up. A mean over units of ``f(z)``
has the variance ``Var[f] / n``; the part that came in with the ``z`` was counted by the linear layer before and is taken off.
Hanin & Rolnick 2018 (arXiv 1803.01719) have the sum over layers; ``docs/theory.md`` has the terms.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from math import copysign
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spp.nn.gains import Array
from spp.theory.gaussian import Nonlinearity, moments, moments_of_many, pair_points
from spp.theory.moments_state import FLOAT, Backward, Gradient, MomentsState, clip, unit
from spp.theory.quadrature import QUICK
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
# Variances below that are as good as none: their squares are.
TINY = 1e-150
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


class Maps:
    """Expectations over one element of a normal tensor, over samples of different length too."""

    def __init__(self, x: MomentsState, phi: Nonlinearity) -> None:
        self.x, self.nu, self.phi, self.lengths = x, x.nu, phi, x.lengths
        self.at = self.weights = np.ones(1)
        # Lengths are lognormal of mean 1; where they hardly differ, one node does for nine.
        if x.lengths > 1e-4:
            self.at, self.weights = np.exp(np.sqrt(x.lengths) * _NODES - x.lengths / 2), _WEIGHTS
        self._known: dict[bytes, tuple[Array, Array]] = {}

    @cached_property
    def here(self) -> tuple[Array, Array]:
        """``E[phi]`` and ``E[phi^2]`` at each length, at the second moment of the input."""
        first, second = self.over(np.array([self.x.second]))
        return first[0], second[0]

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
        return moments_of_many(self.phi, self.nu * np.sqrt(q), q * (1 - self.nu**2), slopes=True, accuracy=QUICK)[1]

    def over(self, q: Array) -> tuple[Array, Array]:
        """``E[phi]`` and ``E[phi^2]`` for each ``q`` and each length, both of shape (len(q), lengths)."""
        key = q.tobytes()
        if key not in self._known:
            each = np.outer(q, self.at).ravel()
            # A longer sample has a larger mean too.
            mean = self.nu * np.sqrt(each)
            first, second = moments_of_many(self.phi, mean, each * (1 - self.nu**2), accuracy=QUICK)
            self._known[key] = first.reshape(len(q), -1), second.reshape(len(q), -1)
        return self._known[key]

    def variance_of_log(self, values: Array, rate: float) -> float:
        """Of what has these values at the lengths; where those hardly differ, by its rate ``d log / d log q``."""
        if len(self.at) == 1:
            return rate**2 * self.lengths
        logs = np.log(np.maximum(values, 1e-300))
        return float(self.weights @ (logs - self.weights @ logs) ** 2)


class Couple:
    """The activation and its slope at two normal values of one correlation, for expectations of their products."""

    def __init__(self, phi: Nonlinearity, correlation: float, mean: float, variance: float) -> None:
        self.u1, u2, self.weight = pair_points(phi, correlation, mean, variance, QUICK)
        self.value1, self.slope1 = phi.both(self.u1)
        self.value2, self.slope2 = phi.both(u2)

    def values(self, first: int = 1, second: int = 1) -> float:
        """``E[phi1^first phi2^second]``."""
        return self._mean(self.value1**first, self.value2**second)

    def slopes(self, power: int = 1) -> float:
        """``E[(phi1' phi2')^power]``."""
        return self._mean(self.slope1**power, self.slope2**power)

    def one(self, values: Array) -> float:
        """The expectation of ``values`` at the first, for a correlation of 1: then the two are one."""
        return float(values[:, 0] @ self.weight[:, 0])

    def _mean(self, one: Array, two: Array) -> float:
        return float(one[:, 0] @ np.einsum("ij,ij->i", two, self.weight))


class Pairs:
    """Expectations over two elements of a normal tensor, at the mean of its profile and of its lengths.

    Attributes:
        second: ``E[phi^2]``.
        chi: ``E[phi'^2]``.
        across: Cosine of two samples' inputs.
        within: Cosine of two positions of one sample.
    """

    def __init__(self, x: MomentsState, phi: Nonlinearity) -> None:
        # What all have in common, in units of cosines.
        self.x, self.phi, self.nu2 = x, phi, x.angle(x.nu**2)
        self.mean, self.variance = copysign((self.nu2 * x.second) ** 0.5, x.nu), x.second * (1 - self.nu2)
        self.across, self.within = x.angle(x.across), x.angle(x.within)
        self._known: dict[float, Couple] = {}
        one = self.at(1.0)
        self.first, self.second, self.chi = one.one(one.value1), one.values(), one.slopes()

    def at(self, cosine: float) -> Couple:
        """Two elements whose inputs have this cosine."""
        if cosine not in self._known:
            c = (cosine - self.nu2) / (1 - self.nu2) if self.nu2 < 1 else 1.0
            self._known[cosine] = Couple(self.phi, clip(c), self.mean, self.variance)
        return self._known[cosine]

    def beyond_mean(self, cosine: float) -> float:
        """What ``phi``'s values have in common besides their mean, as a share of their second moment."""
        return (self.at(cosine).values() - self.first**2) / self.second if self.second else 0.0

    def average(self, *, slopes: bool = False) -> float:
        """``E[phi1^2 phi2^2]`` (or of slopes) over all pairs of a channel: other samples, other positions, itself."""
        n, p = self.x.samples, self.x.positions
        off = min(self.x.scatter**0.5, 1 - self.across)
        around = [self.across] if off < 1e-3 else [max(self.across - off, -1.0), self.across + off]

        def joint(cosine: float) -> float:
            return self.at(cosine).slopes(2) if slopes else self.at(cosine).values(2, 2)

        total = (1 - 1 / n) * sum(map(joint, around)) / len(around) + joint(1.0) / (n * p)
        return total + (1 - 1 / p) / n * joint(self.within) if p > 1 else total

    @cached_property
    def rate(self) -> float:
        """``d log E[phi(t u)^2] / d log t^2`` at ``t = 1``: 1 for what is homogeneous, 0 for what saturates."""
        one = self.at(1.0)
        if not self.second > 0 or not self.variance > TINY:
            return 0.0
        return one.one(one.value1 * one.slope1 * one.u1) / self.second

    @property
    def tilt(self) -> float:
        """``E[phi^2 z] / E[phi^2]``: how the second moment goes with the sum of the ``z``."""
        one = self.at(1.0)
        if not self.variance > TINY:
            return 0.0
        return one.one(one.value1**2 * (one.u1 - self.mean)) / float(np.sqrt(self.variance)) / self.second

    def spread(self) -> float:
        """Variance of the log of the second moment behind the activation.

        The mean over ``n`` units and over the batch of ``phi^2`` has the relative variance
        ``(E[phi1^2 phi2^2] / E[phi^2]^2 - 1) / n``, a mean over all pairs of the batch: ``kappa / n`` where all inputs point
        the same way (``docs/theory.md``).
        """
        if not self.second > TINY:
            return 0.0
        own = self.average() / self.second**2 - 1 - 2 * self.rate**2 * self.x.overlap()
        own -= self.tilt**2 * self.across if self.x.level else 0.0
        return max(self.rate**2 * self.x.spread + own / self.x.width, 0.0)

    def scatter(self) -> float:
        """Variance of the cosine from pair to pair behind the activation, which multiplies it by the c-map's slope.

        The cosine ``r`` of ``n`` pairs varies by ``(E[a^2 b^2] (1 + r^2 / 2) - 2 r E[a^3 b] + r^2 E[a^4] / 2) / n`` in
        units of ``E[a^2]^2``, which is ``(1 - r^2)^2 / n`` for normal ones and nothing where all are alike.
        """
        if not self.second > TINY:
            return 0.0
        pair = self.at(self.across)
        r, slope = pair.values() / self.second, self.x.second * pair.slopes() / self.second
        own = pair.values(2, 2) * (1 + r**2 / 2) - 2 * r * pair.values(3, 1) + r**2 * self.at(1.0).values(2, 2) / 2
        own = own / self.second**2 - slope**2 * (1 - self.across**2) ** 2
        return slope**2 * self.x.scatter + max(own, 0.0) / self.x.width

    def lengths(self, maps: Maps) -> float:
        """Variance of the log of a sample's second moment behind the activation."""
        if not self.second > TINY:
            return 0.0
        passed = maps.variance_of_log(maps.here[1], self.rate)
        own = (self.at(1.0).values(2, 2) - self.at(self.across).values(2, 2)) / self.second**2
        own -= 2 * self.rate**2 * (1 - self.across**2)
        return passed + max(own, 0.0) / self.x.width

    def centred(self, maps: Maps) -> tuple[float, float] | None:
        """Both without the mean over the batch; None where samples have more in common than the function's mean."""
        if abs(self.x.across) > 0.1 or abs(self.x.nu) > 0.1 or not self.second > 0 or not self.variance > TINY:
            return None
        first, second = maps.here
        mean, one = float(maps.weights @ first), self.at(1.0)
        values = (one.value1 - mean) ** 2
        left = one.one(values)
        if not left > TINY:
            return None
        rate = one.one(values * ((one.u1 - self.mean) ** 2 / self.variance - 1)) / (2 * left)
        passed = maps.variance_of_log(second - 2 * first * mean + mean**2, rate)
        own = one.one(values**2) / left**2 - 1 - 2 * rate**2
        # Of the c-map at 0.
        slope = self.variance * one.one(one.slope1) ** 2 / left
        scatter = slope**2 * self.x.scatter + max(1 - slope**2, 0.0) / self.x.width
        return passed + max(own, 0.0) / self.x.width, scatter


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
