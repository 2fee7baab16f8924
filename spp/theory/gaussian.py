"""Expectations of an activation under a normal distribution, of one variable and of two correlated ones.

Quadrature is Gauss-Legendre between the activation's kinks (Gauss-Hermite nodes straddle them and are good to a few digits
only), see :mod:`spp.theory.quadrature`. The standard deviation ``s`` may be of any size for functions that are nearly linear or
constant away from 0, as activations are; oscillating ones are followed up to ``s = 8``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from spp import _torch
from spp.errors import InputError
from spp.nn.activations import ACTIVATIONS
from spp.nn.gains import Array
from spp.theory import quadrature
from spp.theory.quadrature import FINE, Accuracy


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
        # No default device either.
        with torch.no_grad(), _torch.unseen_functions():
            out: Array = self.function(torch.from_numpy(np.ascontiguousarray(x))).numpy()
        return self.gain * out

    def slope(self, x: Array) -> Array:
        """Its derivative at ``x``, away from kinks."""
        return self.both(x)[1]

    def both(self, x: Array) -> tuple[Array, Array]:
        """Value and slope at ``x``."""
        with torch.enable_grad(), torch.inference_mode(False), _torch.unseen_functions():
            at = torch.from_numpy(np.ascontiguousarray(x)).clone().requires_grad_()
            out = self.function(at)
            if not out.requires_grad:  # a constant function
                return self.gain * out.numpy(), np.zeros_like(x)
            (slope,) = torch.autograd.grad(out.sum(), at)
        return self.gain * out.detach().numpy(), self.gain * slope.numpy()


# No activation.
IDENTITY = Nonlinearity(lambda u: u)
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
        row = ACTIVATIONS.row(activation)
        return Nonlinearity(row.function, row.kinks)
    return Nonlinearity(activation)


def moments(activation: Activation, mean: float = 0.0, variance: float = 1.0) -> tuple[float, float]:
    """``(E[phi(u)], E[phi(u)^2])`` for ``u ~ N(mean, variance)``.

    Args:
        activation: ``phi``.
        mean: Of its input.
        variance: Of its input, at least 0.
    """
    phi, u, weight = _points(activation, mean, variance)
    values = phi.value(u)
    return float(values @ weight), float(values**2 @ weight)


def moments_of_many(
    phi: Nonlinearity, mean: Array, variance: Array, *, slopes: bool = False, accuracy: Accuracy = FINE
) -> tuple[Array, Array]:
    """First and second moments of ``phi`` (or of its slope) for many normal inputs at once.

    Args:
        phi: The function.
        mean: Of each input; of shape (K,).
        variance: Of each input, at least 0; of shape (K,).
        slopes: Take ``phi'`` for ``phi``.
        accuracy: How finely.

    Returns:
        Both of shape (K,).
    """
    scale = np.sqrt(np.maximum(variance, 0.0))
    z, weight = quadrature.many(np.array(phi.kinks, dtype=float), mean, scale, accuracy)
    values = (phi.slope if slopes else phi.value)(mean[:, None] + scale[:, None] * z)
    return (values * weight).sum(1), (values**2 * weight).sum(1)


def fourth_moment(activation: Activation, mean: float = 0.0, variance: float = 1.0) -> float:
    """``E[phi(u)^4]``; the arguments as for :func:`moments`."""
    phi, u, weight = _points(activation, mean, variance)
    return float(phi.value(u) ** 4 @ weight)


def slope_moments(activation: Activation, mean: float = 0.0, variance: float = 1.0) -> tuple[float, float]:
    """``(E[phi'(u)], E[phi'(u)^2])``; the arguments as for :func:`moments`."""
    phi, u, weight = _points(activation, mean, variance)
    slopes = phi.slope(u)
    return float(slopes @ weight), float(slopes**2 @ weight)


def jacobian(activation: Activation, mean: float = 0.0, variance: float = 1.0) -> Array:
    """Derivatives of ``(E[phi], Var[phi])`` by the mean and the variance of the input; of shape (2, 2).

    Rows are ``E[phi]`` and ``Var[phi]``, columns the input's mean and variance. By parts, for any ``g``:
    ``dE[g]/dm = E[g z] / s`` and ``dE[g]/dv = E[g (z^2 - 1)] / (2 v)`` with ``u = m + s z``, so no derivative is taken.
    """
    if not variance > 0:
        raise InputError("the Jacobian of the moments wants a positive variance", received=repr(variance))
    phi, u, weight = _points(activation, mean, variance)
    z, values = (u - mean) / sqrt(variance), phi.value(u)
    first, second = (
        np.array([(g * z) @ weight / sqrt(variance), (g * (z**2 - 1)) @ weight / (2 * variance)])
        for g in (values, values**2)
    )
    return np.array([first, second - 2 * (values @ weight) * first])


def second_moment_slope(activation: Activation, mean: float = 0.0, variance: float = 1.0) -> float:
    """``dE[phi(u)^2]/dv``, which is ``E[phi'^2] + E[phi'' phi]``, as ``E[phi phi' z] / s`` (right at kinks too)."""
    phi, u, weight = _points(activation, mean, variance)
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
    phi = nonlinearity(activation)
    u1, u2, weight = pair_points(phi, correlation, mean, variance)
    plain = phi.slope if slopes else phi.value
    power = 2 if squared else 1
    return float((plain(u1) ** power * plain(u2) ** power * weight).sum())


def pair_points(
    phi: Nonlinearity, correlation: float, mean: float, variance: float, accuracy: Accuracy = FINE
) -> tuple[Array, Array, Array]:
    """Values ``u1`` of shape (M, 1) and ``u2`` and weights, both of shape (M, L), for a pair of normal inputs.

    Args:
        phi: What the pair is put into.
        correlation: Of the two, in ``[-1, 1]``; at its ends, L is 1.
        mean: Of each.
        variance: Of each, at least 0.
        accuracy: How finely.

    Raises:
        InputError: The correlation is outside ``[-1, 1]``.
    """
    if not -1 <= correlation <= 1:
        raise InputError("a correlation is between -1 and 1", received=repr(correlation))
    if variance == 0 or abs(correlation) == 1:
        u, weight = normal_points(phi, mean, variance, mirrored=correlation < 0, accuracy=accuracy)
        u, weight = u[:, None], weight[:, None]
        return u, mean + np.sign(correlation) * (u - mean) if variance else u, weight
    scale = sqrt(variance)
    z1, w1, z2, w2 = quadrature.two(np.array(phi.kinks, dtype=float), mean, scale, correlation, accuracy)
    across = correlation * z1[:, None] + sqrt(1 - correlation**2) * z2
    return mean + scale * z1[:, None], mean + scale * across, w1[:, None] * w2


def normal_points(
    phi: Nonlinearity, mean: float, variance: float, *, mirrored: bool = False, accuracy: Accuracy = FINE
) -> tuple[Array, Array]:
    """Values of the input and their weights; ``mirrored`` cuts at the kinks' mirror images about the mean too."""
    if not variance >= 0:
        raise InputError("a variance is at least 0", received=repr(variance))
    if variance == 0:
        return np.array([float(mean)]), np.ones(1)
    kinks = np.array(phi.kinks, dtype=float)
    cuts = np.concatenate([kinks, 2 * mean - kinks]) if mirrored else kinks
    (z,), (weight,) = quadrature.many(cuts, np.array([mean]), np.array([sqrt(variance)]), accuracy)
    return mean + sqrt(variance) * z, weight


def _points(activation: Activation, mean: float, variance: float) -> tuple[Nonlinearity, Array, Array]:
    phi = nonlinearity(activation)
    return phi, *normal_points(phi, mean, variance)
