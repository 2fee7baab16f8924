"""Densities of logs, as weights of points, that exact maps move and independent noise widens."""

from __future__ import annotations

import numpy as np

from spp.nn.gains import Array

WIDEST, STEPS, MOST = 0.1, 64, 4096
"""The widest step between points of a grid, how many steps there are where that is not too wide, and at most."""
LEAST = 1e-7
"""A point with a smaller weight is dropped."""
_SIDES, _SHARE = np.array([-1.0, 0.0, 1.0])[:, None, None], np.array([1 / 6, 2 / 3, 1 / 6])[:, None, None]


def normal(variance: float) -> tuple[Array, Array]:
    """Points and weights of a normal density of mean 0; both of shape (K,)."""
    z = np.linspace(-4, 4, 33)
    weights = np.exp(-(z**2) / 2)
    return max(variance, 0.0) ** 0.5 * z, weights / weights.sum()


def variance_of(logs: Array, weights: Array) -> float:
    """Of a density."""
    return float(weights @ (logs - weights @ logs) ** 2)


def widened(logs: Array, weights: Array, noise: Array, carried: Array | None = None) -> tuple[Array, Array, Array]:
    """Densities on one even grid, with a variance of its own added at each point.

    Each point becomes three, with the first five moments of a normal one, of which each is shared between its neighbours on
    the grid. Sharing adds a variance too, which is left out of the three's.

    Args:
        logs: Where the points are; of shape (R, K) for R densities, as the others.
        weights: How much is there.
        noise: Variance to add.
        carried: Something that the points have, which is averaged; left out, 0.

    Returns:
        Points, of shape (M,), and the weights and what they have, of shape (R, M).
    """
    across = float(logs.max() - logs.min()) + 4 * float(noise.max()) ** 0.5
    step = max(min(WIDEST, across / STEPS), across / MOST) or 1.0
    reach = np.sqrt(3 * noise)
    for _ in range(3):
        at = (logs + _SIDES * reach) / step
        part = at - np.floor(at)
        reach = np.sqrt(3 * np.maximum(noise - (_SHARE * part * (1 - part)).sum(0) * step**2, 0.0))
    at = (logs + _SIDES * reach) / step
    below = np.floor(at)
    first, columns = int(below.min()), int(below.max() - below.min()) + 2
    part = at - below
    where = (below - first).astype(int) + columns * np.arange(len(logs))[:, None]
    amounts = _SHARE * weights * np.stack([1 - part, part])  # (2, 3, R, K)
    where = np.stack([where, where + 1])

    def gathered(values: Array) -> Array:
        sums: Array = np.bincount(where.ravel(), values.ravel(), minlength=columns * len(logs)).astype(float)
        return sums.reshape(len(logs), -1)

    found = gathered(amounts)
    kept = found.max(0) > LEAST
    found = found[:, kept]
    had = found * 0 if carried is None else gathered(amounts * carried)[:, kept] / np.maximum(found, 1e-300)
    return (first + np.flatnonzero(kept)) * step, found / found.sum(1, keepdims=True), had


def around(logs: Array, noise: Array, at: Array, values: Array) -> Array:
    """The mean, around each point, of what has these values ``at`` other points: the way back through :func:`widened`."""
    found: Array = (_SHARE[:, 0] * np.interp(logs + _SIDES[:, 0] * np.sqrt(3 * noise), at, values)).sum(0)
    return found
