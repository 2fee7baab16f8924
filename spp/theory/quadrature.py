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
class Rule:
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


FINE = Rule(reach=9.0, nodes=16, widest=2.0, rungs=8)
"""To twelve digits; the density is below 1e-18 at the ends."""
QUICK = Rule(reach=6.5, nodes=10, widest=3.25, rungs=3)
"""To five digits, for predictions, of which finite width leaves three; about a tenth of the points in two variables."""
EVEN = 8.0
"""Up to this ``s`` panels are even, which oscillating functions need; beyond, they are graded."""


def one(kinks: Array, mean: float, scale: float, rule: Rule = FINE) -> tuple[Array, Array]:
    """Nodes ``z`` and weights for functions of ``mean + scale z`` with these kinks (of ``u``), the scale above 0."""
    z, weight = many(kinks, np.array([mean]), np.array([scale]), rule)
    return z[0], weight[0]


def many(kinks: Array, mean: Array, scale: Array, rule: Rule = FINE) -> tuple[Array, Array]:
    """The same for several means and scales, of shape (K,), at once; the results are of shape (K, M)."""
    scale = np.maximum(scale, 1e-150)
    grid, steps = _grid(float(scale.max()), rule)
    cuts = (kinks - mean[:, None]) / scale[:, None]
    if len(steps):
        cuts = np.concatenate([cuts, (steps - mean[:, None]) / scale[:, None]], axis=1)
    return _panels(_cut(grid, cuts), rule.nodes)


def two(
    kinks: Array, mean: float, scale: float, correlation: float, rule: Rule = FINE
) -> tuple[Array, Array, Array, Array]:
    """Nodes and weights ``z1, w1`` of shape (M,), and ``z2, w2`` of shape (M, L), which are cut for each ``z1`` anew.

    They are for products of functions of ``mean + scale z1`` and of ``mean + scale (c z1 + sqrt(1 - c^2) z2)``.
    """
    rest = sqrt(1 - correlation**2)
    grid, steps = _grid(scale, rule)
    marks = np.concatenate([kinks, steps])
    points = (marks - mean) / scale  # where z itself is cut
    cuts, turn = [points], rest / max(abs(correlation), 1e-3)
    if turn < 1:  # the inner integral turns near kink / c, on the scale of turn
        ladder = turn * 2.0 ** np.linspace(-1, 6, rule.rungs)
        near = (kinks - mean) / scale / correlation
        cuts += [(near[:, None] + sign * ladder).ravel() for sign in (-1, 1)]
        if len(steps):
            cuts.append(-mean / scale / correlation + np.concatenate([-ladder, [0.0], ladder]))
    outer = np.concatenate([grid, *cuts])
    z1, w1 = _panels(np.unique(outer[abs(outer) <= rule.reach])[None], rule.nodes)
    inner_grid, _ = _grid(scale * rest, rule)
    z2, w2 = _panels(_cut(inner_grid, (points - correlation * z1[0][:, None]) / rest), rule.nodes)
    return z1[0], w1[0], z2, w2


def _grid(scale: float, rule: Rule) -> tuple[Array, Array]:
    """Even panels, and for large scales the values of ``u`` where further cuts make them graded."""
    even = rule.widest / max(scale, 1.0) if scale <= EVEN else rule.widest
    grid = np.linspace(-rule.reach, rule.reach, ceil(2 * rule.reach / even) + 1)
    if scale <= EVEN:
        return grid, np.zeros(0)
    ladder = 2.0 ** np.arange(ceil(log2(scale * rule.widest)) + 1)
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


def _panels(edges: Array, count: int) -> tuple[Array, Array]:
    """Nodes and weights of the panels between edges, (K, P + 1); the results are (K, P * count)."""
    nodes, weights = _legendre(count)
    half, middle = np.diff(edges) / 2, (edges[:, 1:] + edges[:, :-1]) / 2
    z = (middle[..., None] + half[..., None] * nodes).reshape(len(edges), -1)
    return z, (half[..., None] * weights).reshape(z.shape) * np.exp(-(z**2) / 2) / sqrt(2 * pi)
