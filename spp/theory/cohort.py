"""The samples of a batch by their length, where a norm over the batch leaves the lengths as they are.

BatchNorm sets the scale of every channel, not of any sample: a sample that is longer than the others stays so from layer to
layer, and gets longer where the activation grows faster than linearly. The log of the length (the mean of squares over units,
in units of the batch's) soon is far from normal. So its density is followed point by point: moved by the exact map of each
activation, and widened by what a finite number of units adds.

Long samples have larger means behind an activation than short ones. BatchNorm takes the batch's mean away, not that difference:
all channels have one direction in common, up for long samples and down for short ones, each with a coefficient ``s ~ N(0, 1)``
of its own. Units are

    x_i = (common_i s + rest_i z_i) sqrt(l_i / T),    common_i^2 + rest_i^2 = 1,    z_i ~ N(0, 1),

with the channel's norm ``T = T(s) (1 - l_i / B) + x_i^2 / B``, in which the sample itself has a share: none of a batch of B is
longer than B times the mean. Where ``s > 0`` the few long samples lie above a kink, where ``s < 0`` below, so that channels
differ, and with them draws of the weights. Other corrections of order ``1 / B`` nearly cancel (0.3 / B of a length for ReLU).
Batches of a few samples cannot count on that: they are not followed by length (:mod:`spp.theory.normalizing`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from spp.nn.gains import Array
from spp.theory import density, quadrature
from spp.theory.gaussian import Nonlinearity
from spp.theory.quadrature import QUICK

VALUES, SHARES = np.polynomial.hermite_e.hermegauss(7)
"""Values of ``s``, and the share of channels that have them."""
SHARES = SHARES / SHARES.sum()
SELF = 0.9
"""A single sample does not make more of a channel's norm than that."""
FREE = 4.0
"""A channel's sample variance does not have fewer degrees of freedom than that: its inverse must have a mean."""


@dataclass(frozen=True, eq=False)
class Cohort:
    """Samples by the log of their length, without their mean over the batch.

    Attributes:
        logs: The log of the length at each point; of shape (K,), as the others.
        weights: Share of the samples.
        common: Cosine with the direction that all channels have in common.
        noise: Variance that the log still has around its point.
        batch: Number of samples.
        normal: Whether a norm over the batch has just been applied, so that the mean length is 1 and units are normal.
    """

    logs: Array
    weights: Array
    common: Array
    noise: Array
    batch: int
    normal: bool = False

    @classmethod
    def lognormal(cls, variance: float, batch: int) -> Cohort:
        """Nothing in common, and a normal log of that variance."""
        logs, weights = density.normal(variance)
        return cls(logs, weights, np.zeros_like(logs), np.zeros_like(logs), batch)

    @property
    def variance(self) -> float:
        """Of the log of the length."""
        return density.variance_of(self.logs, self.weights) + float(self.weights @ self.noise)

    def mixed(self, width: int) -> Cohort:
        """Behind random weights to so many units: the mean of ``n`` squares of normal values has the variance ``2 / n``."""
        return replace(self, noise=self.noise + 2 / width, normal=False)

    def normalized(self) -> Cohort:
        """Behind a norm over the batch, on points of equal distance: the noise has become part of the density."""
        rows = (self.logs[None], self.weights[None], self.noise[None], self.common[None])
        logs, (weights,), (common,) = density.widened(*rows)
        logs = logs - np.log(weights @ np.exp(logs))
        return Cohort(logs, weights, common, np.zeros_like(logs), self.batch, normal=True)

    def split(self) -> tuple[Array, Array, Array]:
        """What units have in common, (K, S) for the values of ``s``, the variance of the rest, (K, S), and ``T(s)``, (S,)."""
        lengths = np.exp(self.logs)
        shared = np.outer(self.common * np.sqrt(lengths), VALUES)
        rest = (lengths * (1 - self.common**2))[:, None]
        norms = self.weights @ (shared**2 + rest)
        return shared / np.sqrt(norms), rest / norms, norms

    def inverse_norms(self) -> Array:
        """Mean of one over the sample variance of channels of each ``s``; of shape (S,)."""
        shared, rest, norms = self.split()
        free = (self.batch - 1) / (self.weights @ (rest**2 + 2 * shared**2 * rest))  # few long samples leave few
        free = np.maximum(free, FREE)
        return free / (free - 2) / norms

    def sent_through_norm(self, before: Cohort, gradient: ByLength | None) -> tuple[float, float, ByLength]:
        """A gradient on its way back through the norm that made these samples of ``before``.

        Returns:
            What one over the channels' variance multiplies it with, in units of one over the mean variance; how much of it is
            along the signal, in units of what a single one of a channel's values has; and how it depends on the length then.
        """
        inverse = self.inverse_norms() * SHARES
        if gradient is None or gradient.logs is not self.logs:
            return float(inverse.sum()), 1.0, ByLength(before.logs, np.ones_like(before.logs))
        relative = gradient.relative
        each = relative @ inverse if relative.ndim == 2 else relative * inverse.sum()  # (K,)
        mean = float(self.weights @ each)
        shift = float(np.log(before.weights @ np.exp(before.logs + before.noise / 2)))
        relative = density.around(before.logs - shift, before.noise, self.logs, each / mean)
        return mean, gradient.along, ByLength(before.logs, relative)


@dataclass(frozen=True, eq=False)
class ByLength:
    """How the second moment of gradients depends on the length of the sample.

    Attributes:
        logs: Of a cohort, which it is known for.
        relative: In units of the mean; of shape (K,), or (K, S) where channels of each ``s`` have their own.
        along: Second moment of gradient times signal, in units of the product of both.
    """

    logs: Array
    relative: Array
    along: float = 1.0


class Units:
    """The values of one channel's units, at each length, each ``s`` and each quadrature node.

    Attributes:
        x: Behind the norm.
        value: ``phi``.
        slope: Its derivative by ``x``.
        rest: Variance of what is not in common; of shape (K, S).
    """

    def __init__(self, cohort: Cohort, phi: Nonlinearity, scale: float) -> None:
        middle, self.rest, _ = cohort.split()
        means, spreads = middle.reshape(-1, 1), np.sqrt(self.rest).reshape(-1, 1)
        kinks = np.array(phi.kinks, dtype=float)
        z, self._weight = quadrature.many(kinks, scale * means[:, 0], scale * spreads[:, 0], QUICK)
        x = means + spreads * z
        x = x / np.sqrt(1 - np.minimum((means**2 + spreads**2) / cohort.batch, SELF) + x**2 / cohort.batch)
        self.x = x / float(cohort.weights @ self.over(x**2)) ** 0.5
        self.value, slope = phi.both(scale * self.x)
        self.slope = scale * slope

    def expect(self, values: Array) -> Array:
        """At each length and each ``s``; of shape (K, S)."""
        found: Array = (values * self._weight).sum(1).reshape(self.rest.shape)
        return found

    def over(self, values: Array) -> Array:
        """At each length, over all channels; of shape (K,)."""
        found: Array = self.expect(values) @ SHARES
        return found

    def everywhere(self, values: Array) -> Array:
        """What each ``s`` has, at every length."""
        return np.broadcast_to(values, self.rest.shape).reshape(-1, 1)


class Activated:
    """What an activation makes of normalized samples.

    Attributes:
        second: ``E[phi^2]``.
        mean: ``E[phi]``.
        between: ``E[phi_i phi_j]`` of two samples in one channel.
        spread: Variance of the log of ``second`` over draws of the weights.
        before: The samples.
        cohort: The samples behind it, without their mean over the batch.
    """

    def __init__(self, cohort: Cohort, phi: Nonlinearity, scale: float, width: int) -> None:
        self.before, self._width, self._scale = cohort, width, scale
        w, units = cohort.weights, Units(cohort, phi, scale)
        first, second, turn = (units.expect(values) for values in (units.value, units.value**2, units.slope))
        self._slopes, self._along = units.expect(units.slope**2), units.expect(units.slope**2 * units.x**2)
        self.second, self.mean = float(w @ second @ SHARES), float(w @ first @ SHARES)
        lost = 2 * (w @ (turn * units.rest)) * (w @ turn) - (w @ units.rest) * (w @ turn) ** 2
        # what the mean over the batch had, pairs lack
        self.between = float(((w @ first) ** 2 - lost / cohort.batch) @ SHARES)
        self.spread = self._variance(units, second) / self.second**2 if self.second > 0 else 0.0
        self.cohort = self._behind(units, first)

    def sent_back(self, gradient: ByLength | None) -> tuple[float, ByLength]:
        """What a gradient is multiplied with, and how it then depends on the length and on ``s``."""
        w = self.before.weights
        came = gradient.relative if gradient is not None and gradient.logs is self.cohort.logs else np.ones(len(w))
        found = self._slopes * came[:, None]
        mean = float(w @ found @ SHARES)
        if not mean > 0:
            return 0.0, ByLength(self.before.logs, np.ones_like(found))
        along = float((w * came) @ self._along @ SHARES) / mean
        return mean / self._scale**2, ByLength(self.before.logs, found / mean, along)

    def _variance(self, units: Units, second: Array) -> float:
        """Of the second moment over draws, where a norm has fixed every channel's sum and sum of squares."""
        w, x, batch = self.before.weights, units.x, self.before.batch
        grows, tilts = w @ units.expect(units.value * units.slope * x), w @ units.expect(2 * units.value * units.slope)
        left = units.value**2 - units.everywhere(grows) * x**2 - units.everywhere(tilts) * x
        own = w @ (units.expect(left**2) - units.expect(left) ** 2) @ SHARES / batch
        channels = (w @ second - self.second) ** 2 @ SHARES
        at_length = second @ SHARES - (grows @ SHARES) * units.over(x**2)  # all channels see the same samples
        return float((own + channels) / self._width + w @ (at_length - w @ at_length) ** 2 / batch)

    def _behind(self, units: Units, first: Array) -> Cohort:
        w, batch = self.before.weights, self.before.batch
        centred = units.value - units.everywhere(w @ first)
        second = np.maximum(units.over(centred**2), 1e-300)
        rate = units.over(centred * units.slope * units.x * (1 - units.x**2 / batch)) / second
        noise = np.maximum(units.over(centred**4) / second**2 - 1 - 2 * rate**2, 0.0) / self._width
        apart, root = first - w @ first, np.sqrt(w)
        pairs = (apart * SHARES) @ apart.T  # what samples of two lengths have in common, and its largest part
        values, vectors = np.linalg.eigh(root[:, None] * pairs * root)
        common = np.sqrt(max(values[-1], 0.0) / second) * vectors[:, -1] / root
        common = np.clip(common * np.copysign(1.0, common[-1]), -0.999, 0.999)
        return Cohort(np.log(second / (w @ second)), w, common, noise, batch)
