"""Second moments and correlations behind an activation, and how these vary: expectations over one element and over two.

Finite width makes three variances, each of order ``1 / n`` for ``n`` units, which depth adds up. A mean over units of ``f(z)``
has the variance ``Var[f] / n``; the part that came in with the ``z`` was counted by the linear layer before and is taken off.
Hanin & Rolnick 2018 (arXiv 1803.01719) have the sum over layers; ``docs/theory.md`` has the terms.
"""

from __future__ import annotations

from functools import cached_property
from math import copysign

import numpy as np

from spp.nn.gains import Array
from spp.theory.gaussian import Nonlinearity, moments_of_many, pair_points
from spp.theory.moments_state import MomentsState, clip
from spp.theory.quadrature import QUICK

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
