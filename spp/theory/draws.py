"""The second moment over draws of the weights, where its log is far from normal.

A draw that came out a little smaller is made smaller still by an activation that shrinks small signals more than large ones,
as GELU does: some draws collapse early, others late, and so do the samples of one draw, whose mean square then is that of the
last one. A variance that is carried on at a rate sees none of that. So two kinds of densities of logs are carried on point by
point, by the exact map: of the level of a draw, and around it, for draws of several levels, of its samples.

Mean and variance of the log of ``S``, the mean over B samples, come from the Laplace transform of the density, heavy tails or
not: with ``E`` of the standard exponential distribution, ``P(E / S > u) = E[exp(-u S)] = E[exp(-u s / B)]^B`` for one sample
``s``, and ``log E`` has the mean ``-0.5772`` and the variance ``pi^2 / 6``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import erf, factorial, log, pi, sqrt

import numpy as np

from spp.nn.gains import Array
from spp.theory import density, quadrature
from spp.theory.gaussian import Nonlinearity
from spp.theory.quadrature import QUICK

ORDERS = 6
"""Powers of the correlation that are told apart; what is of higher order goes with the next one."""
LEVELS = np.linspace(-3.5, 3.5, 15)
"""Draws that are followed, by their place in a normal order."""
OFTEN = np.exp(-(LEVELS**2) / 2) / np.exp(-(LEVELS**2) / 2).sum()
BELOW = np.array([(1 + erf(z / sqrt(2))) / 2 for z in LEVELS])
"""How many draws are below them."""
HEAVY = 0.02
"""Relative variance of a mean over the batch above which its log is taken by the Laplace transform."""
MOST = 400
"""Steps of the transform, about."""
KNOTS = 0.2
"""Between logs where a map is evaluated."""
EXTREME = 200.0
"""Log of a second moment beyond which activations are taken to be homogeneous: numbers end there."""
Noisy = Callable[[Array], tuple[Array, Array, Array]]
"""Of a log before: the log behind, and the variances that all samples of a draw have in common, and that each has by itself."""


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws by the log of their level, in units of the tensor's second moment.

    Attributes:
        levels: The log of the level at each point; of shape (K,).
        weights: Share of the draws; of shape (K,).
        at: The log of samples in units of the level; of shape (M,).
        samples: Share of the samples, for the draws at ``LEVELS``; of shape (15, M).
        batch: Number of samples.
    """

    levels: Array
    weights: Array
    at: Array
    samples: Array
    batch: int

    @classmethod
    def normal(cls, spread: float, lengths: float, batch: int) -> Draws:
        """Normal logs of these variances: of draws, and of the samples of one."""
        levels, weights = density.normal(spread)
        at, samples = density.normal(lengths)
        return cls(levels - spread / 2, weights, at - lengths / 2, np.tile(samples, (len(LEVELS), 1)), batch)

    @property
    def variance(self) -> float:
        """Of the log of the second moment over the batch."""
        mean, variance = self.batches()
        means = self._followed() + mean
        return float(OFTEN @ (means - OFTEN @ means) ** 2 + OFTEN @ variance)

    def moved(self, move: Noisy) -> Draws:
        """Behind a layer that does this to every sample; its noise is a factor of mean 1."""
        followed = self._followed()[:, None]
        many = len(self.levels), len(followed)
        every = move(np.concatenate([self.levels, followed[:, 0], (followed + self.at).ravel()]))
        (levels, common, _), (base, base_shared, _), (logs, shared, own) = (
            [found[part] for found in every]
            for part in (slice(many[0]), slice(many[0], sum(many)), slice(sum(many), None))
        )
        levels, (weights,), _ = density.widened((levels - common / 2)[None], self.weights[None], common[None])
        logs, shared, own = (found.reshape(len(followed), -1) for found in (logs, shared, own))
        logs = logs - base[:, None] - (shared - base_shared[:, None] + own) / 2
        at, samples, _ = density.widened(logs, self.samples, own)
        return Draws(levels, weights, at, samples, self.batch)

    def _followed(self) -> Array:
        """The levels at ``LEVELS``."""
        found: Array = np.interp(BELOW, np.cumsum(self.weights) - self.weights / 2, self.levels)
        return found

    def batches(self) -> tuple[Array, Array]:
        """Mean and variance of the log of a batch's mean, in units of the level, for each draw that is followed."""
        high, low = float(self.at.max()), float(self.at.min())
        squares = np.exp(np.maximum(self.at - high, -150.0))
        mean = self.samples @ squares
        relative = (self.samples @ squares**2 / mean**2 - 1) / self.batch
        if not (relative > HEAVY).any():
            return np.log(mean) + high - relative / 2, relative
        step = max(density.WIDEST, (high - low) / MOST)
        u = np.arange(-high - 12, -low + 4, step) + log(self.batch)
        one = np.exp(-np.exp(np.minimum(u[:, None] + self.at - log(self.batch), 9.0)))  # exp(-u s / B)
        above = (self.samples @ one.T) ** self.batch
        share, middle = above[:, :-1] - above[:, 1:], (u[1:] + u[:-1]) / 2
        share = share / share.sum(1, keepdims=True)
        found = share @ middle
        variance = share @ middle**2 - found**2 - step**2 / 12 - pi**2 / 6
        return -np.euler_gamma - found, np.maximum(variance, 0.0)


def through(
    phi: Nonlinearity, mean: float, variance: float, behind: float, common: list[float], own: list[float]
) -> Noisy:
    """What an activation does to normal samples of which a log of 0 has this mean and variance.

    With ``a_k`` the coefficients of ``phi^2 / E[phi^2]`` in Hermite polynomials, two units of correlation ``c`` have
    ``E[phi1^2 phi2^2] / E[phi^2]^2 - 1 = sum_k a_k^2 c^k``, ``k = 1, 2, ...``: so much, over the width, all samples of a draw
    have in common. The second came with the input.

    Args:
        phi: The function.
        mean: Of the input.
        variance: Of the input.
        behind: The second moment behind it that has a log of 0.
        common: The mean of ``c^k`` over pairs of samples, from ``k = 0`` to one more than ``ORDERS``, over the width.
        own: The same over pairs of positions of a sample, less ``common``.
    """
    size = log(mean**2 + variance)

    def measured(logs: Array) -> tuple[Array, Array, Array]:
        inner = np.clip(logs, -EXTREME - size, EXTREME - size)
        scale = np.exp(inner / 2)
        z, weight = quadrature.many(np.array(phi.kinks, dtype=float), mean * scale, variance**0.5 * scale, QUICK)
        squares = phi.value(scale[:, None] * (mean + variance**0.5 * z)) ** 2
        second = np.maximum((squares * weight).sum(1), 1e-300)
        relative = squares / second[:, None]
        last, basis, parts = np.ones_like(z), z, [np.zeros_like(second)]
        for k in range(1, ORDERS + 1):
            parts.append((relative * basis * weight).sum(1) ** 2 / factorial(k))
            last, basis = basis, z * basis - k * last
        rest = np.maximum((relative**2 * weight).sum(1) - 1 - np.sum(parts, 0), 0.0)
        parts[2] = np.zeros_like(second)
        every = np.stack([*parts, rest])
        return np.log(second) + logs - inner, np.maximum(common @ every, 0.0), np.maximum(own @ every, 0.0)

    def move(logs: Array) -> tuple[Array, Array, Array]:
        knots = np.linspace(logs.min(), logs.max(), int((logs.max() - logs.min()) / KNOTS) + 2)
        found, shared, alone = (np.interp(logs, knots, values) for values in measured(knots))
        return found - log(behind), shared, alone

    return move
