"""Nodes and weights against the standard normal density, in one variable and in two, cut where the integrand turns.

An activation of ``u = m + s z`` turns at its kinks, and around ``u = 0`` on a scale of 1; further out it is nearly linear or
constant. For a large ``s`` that is a narrow place in ``z``: panels grow in proportion to their distance from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, log2, pi, sqrt

import numpy as np

from spp.nn.gains import Array


@dataclass(frozen=True)
class Accuracy:
    """How finely to integrate.

    Attributes:
        reach: Where integration ends, in standard deviations.
        nodes: Of a panel.
        widest: Width of the widest panel.
        rungs: Of the ladder by which panels grow away from a narrow turn of the inner integral.
    """

    reach: float
    nodes: int
    widest: float
    rungs: int


# To twelve digits; the density is below 1e-18 at the ends.
FINE = Accuracy(reach=9.0, nodes=16, widest=2.0, rungs=8)
# To five digits, for predictions, of which finite width leaves three; about a tenth of the points in two variables.
QUICK = Accuracy(reach=6.5, nodes=10, widest=3.25, rungs=3)
# Up to this ``s`` panels are even, which oscillating functions need; beyond, they are graded.
EVEN = 8.0


def many(kinks: Array, mean: Array, scale: Array, accuracy: Accuracy = FINE) -> tuple[Array, Array]:
    """Nodes ``z`` and weights, (K, M), for functions of ``mean + scale z`` with these kinks; means and scales are (K,)."""
    scale = np.maximum(scale, 1e-150)
    grid, steps = _grid(float(scale.max()), accuracy)
    cuts = (kinks - mean[:, None]) / scale[:, None]
    if len(steps):
        cuts = np.concatenate([cuts, (steps - mean[:, None]) / scale[:, None]], axis=1)
    return _panels(_cut(grid, cuts), accuracy.nodes)


def two(
    kinks: Array, mean: float, scale: float, correlation: float, accuracy: Accuracy = FINE
) -> tuple[Array, Array, Array, Array]:
    """Nodes and weights ``z1, w1`` of shape (M,), and ``z2, w2`` of shape (M, L), which are cut for each ``z1`` anew.

    They are for products of functions of ``mean + scale z1`` and of ``mean + scale (c z1 + sqrt(1 - c^2) z2)``.
    """
    rest = sqrt(1 - correlation**2)
    grid, steps = _grid(scale, accuracy)
    marks = np.concatenate([kinks, steps])
    # Where z itself is cut.
    points = (marks - mean) / scale
    cuts, turn = [points], rest / max(abs(correlation), 1e-3)
    if turn < 1:  # the inner integral turns near kink / c, on the scale of turn
        ladder = turn * 2.0 ** np.linspace(-1, 6, accuracy.rungs)
        near = (kinks - mean) / scale / correlation
        cuts += [(near[:, None] + sign * ladder).ravel() for sign in (-1, 1)]
        if len(steps):
            cuts.append(-mean / scale / correlation + np.concatenate([-ladder, [0.0], ladder]))
    outer = np.concatenate([grid, *cuts])
    z1, w1 = _panels(np.unique(outer[abs(outer) <= accuracy.reach])[None], accuracy.nodes)
    inner_grid, _ = _grid(scale * rest, accuracy)
    z2, w2 = _panels(_cut(inner_grid, (points - correlation * z1[0][:, None]) / rest), accuracy.nodes)
    return z1[0], w1[0], z2, w2


def _grid(scale: float, accuracy: Accuracy) -> tuple[Array, Array]:
    """Even panels, and for large scales the values of ``u`` where further cuts make them graded."""
    even = accuracy.widest / max(scale, 1.0) if scale <= EVEN else accuracy.widest
    grid = np.linspace(-accuracy.reach, accuracy.reach, ceil(2 * accuracy.reach / even) + 1)
    if scale <= EVEN:
        return grid, np.zeros(0)
    ladder = 2.0 ** np.arange(ceil(log2(scale * accuracy.widest)) + 1)
    return grid, np.concatenate([-ladder[::-1], [0.0], ladder])


def _cut(grid: Array, cuts: Array) -> Array:
    """Edges: the grid and the cuts of each row, in order."""
    rows = np.broadcast_to(grid, (len(cuts), len(grid)))
    if not cuts.shape[1]:
        return rows
    return np.sort(np.concatenate([rows, np.clip(cuts, grid[0], grid[-1])], axis=1), axis=1)


@lru_cache(maxsize=4)
def _legendre(nodes: int) -> tuple[Array, Array]:
    found: tuple[Array, Array] = np.polynomial.legendre.leggauss(nodes)
    return found


def panels(edges: Array, count: int) -> tuple[Array, Array]:
    """Gauss-Legendre nodes and weights of the panels between edges, (..., P + 1); the results are (..., P * count)."""
    nodes, weights = _legendre(count)
    half, middle = np.diff(edges) / 2, (edges[..., 1:] + edges[..., :-1]) / 2
    at = (middle[..., None] + half[..., None] * nodes).reshape(*edges.shape[:-1], -1)
    return at, (half[..., None] * weights).reshape(at.shape)


def _panels(edges: Array, count: int) -> tuple[Array, Array]:
    """The same with the normal density in the weights."""
    z, weight = panels(edges, count)
    return z, weight * np.exp(-(z**2) / 2) / sqrt(2 * pi)
