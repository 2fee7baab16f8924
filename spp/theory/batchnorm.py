"""How fast BatchNorm makes gradients explode (Yang, Pennington, Rao, Sohl-Dickstein & Schoenholz 2019, arXiv 1902.08129).

In a deep network of Linear, BatchNorm and activation the second moment of the gradient grows by the same factor at every
layer on the way back, whatever the weights' scale. Over an infinite batch it is ``E[phi'^2] / Var[phi]``: the slopes pass the
gradient on, and the normalization divides by the variance that the activation left. ReLU has ``pi / (pi - 1) = 1.4669``.

Over a batch of B the normalized units of a neuron are exactly uniform on a sphere, ``x = sqrt(B) u`` with ``u`` a unit vector
orthogonal to (1, .., 1), independent of their norm, so that the factor is exact too. With ``d = phi'(x)``,

    B / ((B - 1) (B - 3)) * E[ sum_i d_i^2 (1 - 1/B - u_i^2) - (sum_i d_i^2 - (sum_i d_i)^2 / B - (u . d)^2) / B ]
        / (E[phi(x_1)^2] - E[phi(x_1) phi(x_2)])

where the first sum is the trace of the Jacobian's square, the bracket behind it what the centring takes away, and
``B / (B - 3)`` the mean of the inverse squared norm. Without activation this is the paper's ``(B - 2) / (B - 3)``.
"""

from __future__ import annotations

from math import inf, pi, sqrt

import numpy as np

from spp.errors import InputError
from spp.nn.gains import Array
from spp.theory.gaussian import Activation, Nonlinearity, moments, nonlinearity, slope_moments
from spp.theory.quadrature import panels

# Of each panel.
NODES = 24
# The mean of the inverse squared norm, and the density of two coordinates, want more values than that.
SMALLEST = 4


def batchnorm_gradient_factor(activation: Activation, batch: float = inf) -> float:
    """What Linear, BatchNorm and activation multiply the second moment of the gradient with, going back one layer.

    Args:
        activation: ``phi``, behind BatchNorm.
        batch: Values over which BatchNorm takes its statistics: samples, and positions where these are independent.

    Raises:
        InputError: The batch is not larger than 4, or the activation is constant.
    """
    phi = nonlinearity(activation)
    if batch == inf:
        mean, second = moments(phi)
        if not second - mean**2 > 1e-12 * second:
            raise InputError("BatchNorm wants an activation that passes a signal on", received="a constant one")
        return slope_moments(phi)[1] / (second - mean**2)
    if not batch > SMALLEST:
        raise InputError(f"the factor is finite for batches above {SMALLEST}", received=f"{batch:g}", where="batch")
    _, single, x = _first(phi, batch)
    u, slope, value = x / sqrt(batch), phi.slope(x), phi.value(x)
    squared = (slope**2) @ single
    kept = batch * ((slope**2 * (1 - 1 / batch - u**2)) @ single)
    pairs = _sphere_two(phi, batch)
    one_by_one = batch * (batch - 1)
    sum_of_slopes = batch * squared + one_by_one * pairs["slopes"]
    along = batch * ((u**2 * slope**2) @ single) + one_by_one * pairs["along"]
    centred = batch * squared - sum_of_slopes / batch - along
    passed = (value**2) @ single - pairs["values"]
    return float(batch / ((batch - 1) * (batch - 3)) * (kept - centred / batch) / passed)


def batchnorm_gradient_norm_factor(activation: Activation, batch: float = inf) -> float:
    """The same for the norm of the gradient: the square root, 1.2112 for ReLU."""
    return sqrt(batchnorm_gradient_factor(activation, batch))


def _angles(batch: float, cuts: Array) -> tuple[Array, Array]:
    """Nodes in the angle ``theta`` of one coordinate ``sin(theta)``, cut at ``cuts``; of shape (..., M)."""
    end = min(pi / 2, 12 / sqrt(batch))
    grid = np.broadcast_to(np.linspace(-end, end, 17), (*cuts.shape[:-1], 17))
    return panels(np.sort(np.concatenate([grid, np.clip(cuts, -end, end)], axis=-1), axis=-1), NODES)


def _first(phi: Nonlinearity, batch: float) -> tuple[Array, Array, Array]:
    """Angle, weight and value of one unit: ``x = sqrt(B - 1) sin(theta)``, ``theta`` of density ``cos^(B - 3)``."""
    scale = sqrt(batch - 1)
    cuts = np.arcsin(np.clip(np.array(phi.kinks, dtype=float) / scale, -1, 1))
    theta, weight = _angles(batch, cuts)
    weight = weight * np.cos(theta) ** (batch - 3)
    return theta, weight / weight.sum(), scale * np.sin(theta)


def _sphere_two(phi: Nonlinearity, batch: float) -> dict[str, float]:
    """Expectations over two coordinates, which have the correlation ``-1 / (B - 1)``."""
    theta, outer, x1 = _first(phi, batch)
    scale, rho = sqrt(batch - 1), -1 / (batch - 1)
    width = scale * sqrt(1 - rho**2) * np.cos(theta)
    kinks = np.array(phi.kinks, dtype=float)
    cuts = np.arcsin(np.clip((kinks - rho * x1[:, None]) / width[:, None], -1, 1))
    angle, inner = _angles(batch, cuts)
    inner = inner * np.cos(angle) ** (batch - 4)
    inner = inner / inner.sum(-1, keepdims=True)
    x2 = rho * x1[:, None] + width[:, None] * np.sin(angle)

    def expect(first: Array, second: Array) -> float:
        return float((first * (second * inner).sum(-1)) @ outer)

    slope1, slope2 = phi.slope(x1), phi.slope(x2)
    return {
        "values": expect(phi.value(x1), phi.value(x2)),
        "slopes": expect(slope1, slope2),
        "along": expect(x1 * slope1, x2 * slope2) / batch,
    }
