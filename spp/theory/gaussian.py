"""Expectations of an activation under a normal distribution, of one variable and of two correlated ones.

Quadrature is Gauss-Legendre between the activation's kinks (Gauss-Hermite nodes straddle them and are good to a few digits
only). In two variables ``u1 = m + s z1`` and ``u2 = m + s (c z1 + sqrt(1 - c^2) z2)`` the inner integral is cut where ``u2``
meets a kink, for each outer node anew, and the outer one where ``u1`` does and around where the inner one turns.

Everything else in this package that is an integral is computed here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import pi, sqrt

import numpy as np
import torch
from torch import Tensor

from spp.errors import InputError
from spp.nn.activations import find_activation
from spp.nn.gains import Array, normal_nodes

REACH, NODES, WIDEST = 9.0, 16, 2.0
"""In two variables: where integration ends (density below 1e-18), nodes of a panel, and the widest panel."""


@dataclass(frozen=True)
class Nonlinearity:
    """An element-wise function and what the quadrature must know about it.

    Attributes:
        function: From a float64 tensor to one of the same shape, differentiable by autograd.
        kinks: Where it, or its derivative, jumps.
        gain: What it is multiplied with.
    """

    function: Callable[[Tensor], Tensor]
    kinks: tuple[float, ...] = ()
    gain: float = 1.0

    def value(self, x: Array) -> Array:
        """``gain * function(x)``."""
        with torch.no_grad(), torch.device("cpu"):
            out: Array = self.function(torch.from_numpy(np.ascontiguousarray(x))).numpy()
        return self.gain * out

    def slope(self, x: Array) -> Array:
        """Its derivative at ``x``, away from kinks."""
        with torch.enable_grad(), torch.inference_mode(False), torch.device("cpu"):
            at = torch.from_numpy(np.ascontiguousarray(x)).clone().requires_grad_()
            out = self.function(at)
            if not out.requires_grad:  # a constant function
                return np.zeros_like(x)
            (slope,) = torch.autograd.grad(out.sum(), at)
        found: Array = slope.numpy()
        return self.gain * found


Activation = str | Callable[[Tensor], Tensor] | Nonlinearity
"""A name of ``spp.nn.ACTIVATIONS``, a smooth function of a float64 tensor, or a :class:`Nonlinearity` with its kinks."""


def nonlinearity(activation: Activation) -> Nonlinearity:
    """What ``activation`` stands for.

    Raises:
        UnknownNameError: No activation has that name.
    """
    if isinstance(activation, Nonlinearity):
        return activation
    if isinstance(activation, str):
        row = find_activation(activation)
        return Nonlinearity(row.function, row.kinks)
    return Nonlinearity(activation)


def moments(activation: Activation, mean: float = 0.0, variance: float = 1.0) -> tuple[float, float]:
    """``(E[phi(u)], E[phi(u)^2])`` for ``u ~ N(mean, variance)``.

    Args:
        activation: ``phi``.
        mean: Of its input.
        variance: Of its input, at least 0.
    """
    phi = nonlinearity(activation)
    u, weight = normal_points(phi, mean, variance)
    values = phi.value(u)
    return float(values @ weight), float(values**2 @ weight)


def moments_of_many(phi: Nonlinearity, mean: Array, variance: Array, *, slopes: bool = False) -> tuple[Array, Array]:
    """First and second moments of ``phi`` (or of its slope) for many normal inputs at once.

    Args:
        phi: The function.
        mean: Of each input; of shape (K,).
        variance: Of each input, at least 0; of shape (K,).
        slopes: Take ``phi'`` for ``phi``.

    Returns:
        Both of shape (K,).
    """
    scale = np.sqrt(np.maximum(variance, 0.0))
    widest = max(min(WIDEST, 2 / max(float(scale.max()), 1e-300)), 1 / 32)
    grid = np.linspace(-REACH, REACH, int(np.ceil(2 * REACH / widest)) + 1)
    edges = np.broadcast_to(grid, (len(mean), len(grid)))
    if phi.kinks:
        cuts = (np.array(phi.kinks) - mean[:, None]) / np.maximum(scale, 1e-150)[:, None]
        edges = np.sort(np.concatenate([edges, np.clip(cuts, -REACH, REACH)], axis=1), axis=1)
    z, weight = _between(edges)
    values = (phi.slope if slopes else phi.value)(mean[:, None] + scale[:, None] * z)
    return (values * weight).sum(1), (values**2 * weight).sum(1)


def fourth_moment(activation: Activation, mean: float = 0.0, variance: float = 1.0) -> float:
    """``E[phi(u)^4]``; the arguments as for :func:`moments`."""
    phi = nonlinearity(activation)
    u, weight = normal_points(phi, mean, variance)
    return float(phi.value(u) ** 4 @ weight)


def slope_moments(activation: Activation, mean: float = 0.0, variance: float = 1.0) -> tuple[float, float]:
    """``(E[phi'(u)], E[phi'(u)^2])``; the arguments as for :func:`moments`."""
    phi = nonlinearity(activation)
    u, weight = normal_points(phi, mean, variance)
    slopes = phi.slope(u)
    return float(slopes @ weight), float(slopes**2 @ weight)


def jacobian(activation: Activation, mean: float = 0.0, variance: float = 1.0) -> Array:
    """Derivatives of ``(E[phi], Var[phi])`` by the mean and the variance of the input; of shape (2, 2).

    Rows are ``E[phi]`` and ``Var[phi]``, columns the input's mean and variance. By parts, for any ``g``:
    ``dE[g]/dm = E[g z] / s`` and ``dE[g]/dv = E[g (z^2 - 1)] / (2 v)`` with ``u = m + s z``, so no derivative is taken.
    """
    if not variance > 0:
        raise InputError("the Jacobian of the moments wants a positive variance", received=repr(variance))
    phi = nonlinearity(activation)
    u, weight = normal_points(phi, mean, variance)
    z, values = (u - mean) / sqrt(variance), phi.value(u)
    first, second = (
        np.array([(g * z) @ weight / sqrt(variance), (g * (z**2 - 1)) @ weight / (2 * variance)])
        for g in (values, values**2)
    )
    return np.array([first, second - 2 * (values @ weight) * first])


def second_moment_slope(activation: Activation, mean: float = 0.0, variance: float = 1.0) -> float:
    """``dE[phi(u)^2]/dv``, which is ``E[phi'^2] + E[phi'' phi]``, as ``E[phi phi' z] / s`` (right at kinks too)."""
    phi = nonlinearity(activation)
    u, weight = normal_points(phi, mean, variance)
    return float((phi.value(u) * phi.slope(u) * (u - mean)) @ weight / variance)


def pair_moment(
    activation: Activation,
    correlation: float,
    mean: float = 0.0,
    variance: float = 1.0,
    *,
    slopes: bool = False,
    squared: bool = False,
) -> float:
    """``E[phi(u1) phi(u2)]`` for ``u1, u2 ~ N(mean, variance)`` of the given correlation.

    Args:
        activation: ``phi``.
        correlation: Of the two, in ``[-1, 1]``.
        mean: Of each.
        variance: Of each, at least 0.
        slopes: Take ``phi'`` for ``phi``.
        squared: Square it first.

    Raises:
        InputError: The correlation is outside ``[-1, 1]``.
    """
    if not -1 <= correlation <= 1:
        raise InputError("a correlation is between -1 and 1", received=repr(correlation))
    phi = nonlinearity(activation)
    plain = phi.slope if slopes else phi.value
    take: Callable[[Array], Array] = (lambda x: plain(x) ** 2) if squared else plain
    if variance == 0 or abs(correlation) == 1:
        u, weight = normal_points(phi, mean, variance, mirrored=True)
        return float((take(u) * take(mean + np.sign(correlation) * (u - mean) if variance else u)) @ weight)
    scale = sqrt(variance)
    kinks = tuple((kink - mean) / scale for kink in phi.kinks)
    widest = max(min(WIDEST, 2 / scale), 1 / 32)
    z1, w1 = _outer_nodes(kinks, correlation, widest)
    z2, w2 = _inner_nodes(kinks, z1, correlation, widest)
    across = correlation * z1[:, None] + sqrt(1 - correlation**2) * z2
    inner = (take(mean + scale * across) * w2).sum(1)
    return float((take(mean + scale * z1) * inner) @ w1)


def normal_points(phi: Nonlinearity, mean: float, variance: float, *, mirrored: bool = False) -> tuple[Array, Array]:
    """Values of the input and their weights; ``mirrored`` cuts at the kinks' mirror images about the mean too."""
    if not variance >= 0:
        raise InputError("a variance is at least 0", received=repr(variance))
    if variance == 0:
        return np.array([float(mean)]), np.ones(1)
    scale = sqrt(variance)
    kinks = [(kink - mean) / scale for kink in phi.kinks]
    z, weight = _standard(tuple(kinks + [-k for k in kinks] * mirrored), max(min(1.0, 2 / scale), 1 / 32))
    return mean + scale * z, weight


@lru_cache(maxsize=512)
def _standard(kinks: tuple[float, ...], widest: float) -> tuple[Array, Array]:
    return normal_nodes(kinks, widest=widest)


_LEGENDRE = np.polynomial.legendre.leggauss(NODES)


def _between(edges: Array) -> tuple[Array, Array]:
    """Nodes and normal weights of the panels between ``edges``, of shape (..., P + 1); the results have (..., P * NODES)."""
    nodes, weights = _LEGENDRE
    half, middle = np.diff(edges) / 2, (edges[..., 1:] + edges[..., :-1]) / 2
    z = (middle[..., None] + half[..., None] * nodes).reshape(*edges.shape[:-1], -1)
    weight = (half[..., None] * weights).reshape(z.shape) * np.exp(-(z**2) / 2) / sqrt(2 * pi)
    return z, weight


def _outer_nodes(kinks: tuple[float, ...], correlation: float, widest: float) -> tuple[Array, Array]:
    """Cut where ``u1`` meets a kink, and finer and finer towards where the inner integral turns, which is near ``kink / c``."""
    cuts = list(kinks)
    turn = sqrt(1 - correlation**2) / max(abs(correlation), 1e-3)
    if turn < 1:
        steps = turn * 2.0 ** np.arange(-1, 7)
        cuts += [kink / correlation + sign * step for kink in kinks for sign in (-1, 1) for step in steps]
    grid = np.linspace(-REACH, REACH, int(np.ceil(2 * REACH / widest)) + 1)
    return _between(np.unique(np.concatenate([grid, np.clip(cuts, -REACH, REACH)])))


def _inner_nodes(kinks: tuple[float, ...], z1: Array, correlation: float, widest: float) -> tuple[Array, Array]:
    """For each ``z1``, cut where ``u2 = c z1 + sqrt(1 - c^2) z2`` meets a kink; of shape (len(z1), M)."""
    rest = sqrt(1 - correlation**2)
    step = min(WIDEST, widest / rest)
    grid = np.linspace(-REACH, REACH, int(np.ceil(2 * REACH / step)) + 1)
    if not kinks:
        z2, weight = _between(grid)
        return z2[None], weight[None]
    cuts = np.stack([np.clip((kink - correlation * z1) / rest, -REACH, REACH) for kink in kinks], axis=1)
    return _between(np.sort(np.concatenate([np.broadcast_to(grid, (len(z1), len(grid))), cuts], axis=1), axis=1))
