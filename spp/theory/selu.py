"""The map of self-normalizing networks: mean and variance from layer to layer (Klambauer et al. 2017, arXiv 1706.02515).

The map itself and the constants are :mod:`spp.nn.selu`'s; here are its Jacobian, its orbit and its gradients.
"""

from __future__ import annotations

import numpy as np

from spp.nn.gains import Array
from spp.nn.selu import selu_gradient_factor as selu_gradient_factor
from spp.nn.selu import selu_moments as selu_moments
from spp.theory.gaussian import jacobian


def selu_jacobian(mean: float = 0.0, omega: float = 0.0, variance: float = 1.0, tau: float = 1.0) -> Array:
    """Derivatives of the next layer's (mean, variance) by this one's; of shape (2, 2), rows are the next layer's.

    The chain rule over ``m = mean * omega`` and ``v = variance * tau`` (section 3 of the paper). The fixed point (0, 1)
    attracts where the spectral norm is below 1: 0.7877 for ``omega = 0``, ``tau = 1``.

    Args:
        mean: Of each input.
        omega: Sum of the unit's weights.
        variance: Of each input, above 0.
        tau: Sum of their squares, above 0.

    Raises:
        InputError: ``variance * tau`` is not positive.
    """
    return jacobian("selu", mean * omega, variance * tau) @ np.diag([omega, tau])


def selu_orbit(
    mean: float, variance: float, layers: int, *, omega: float = 0.0, tau: float = 1.0
) -> list[tuple[float, float]]:
    """Mean and variance after each of so many layers, from those of the input.

    Args:
        mean: Of the input.
        variance: Of the input, above 0.
        layers: How many.
        omega: Sum of each unit's weights.
        tau: Sum of their squares.
    """
    found = []
    for _ in range(layers):
        mean, variance = selu_moments(mean, omega, variance, tau)
        found.append((mean, variance))
    return found
