"""Mean-field theory of wide fully connected networks with random weights: length, angle and gradient from layer to layer.

Weights are ``W_ij ~ N(0, sigma_w^2 / N_in)``, biases ``b_i ~ N(0, sigma_b^2)``, and a layer is ``z = W phi(z_before) + b``.
``sw2`` stands for ``sigma_w^2`` and ``sb2`` for ``sigma_b^2``; ``q`` is the mean square of the pre-activations over units,
``c`` the cosine of those of two inputs of the same ``q``. All are dimensionless, in the units of the input.

Sources: Poole et al. 2016 (arXiv 1606.05340) for ``q`` and ``c``, Schoenholz et al. 2017 (arXiv 1611.01232) for depth scales
and gradients, Yang, Pennington, Rao, Sohl-Dickstein & Schoenholz 2019 (arXiv 1902.08129) for BatchNorm, Cho & Saul 2009 for
the closed form of ReLU, which the tests compare with. The map of self-normalizing networks (Klambauer et al. 2017, arXiv
1706.02515) and its constants are :mod:`spp.nn.selu`'s; here are its Jacobian and its orbit.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, log, pi, sqrt

import numpy as np

from spp.errors import InputError
from spp.nn.gains import Array
from spp.nn.selu import selu_moments
from spp.theory.gaussian import (
    Activation,
    Nonlinearity,
    fourth_moment,
    jacobian,
    moments,
    nonlinearity,
    pair_moment,
    second_moment_slope,
    slope_moments,
)
from spp.theory.quadrature import panels

# Relative width at which a bisection ends, and relative change at which a point counts as fixed.
CLOSE = 1e-14
# A mean square below the first counts as 0, above the second as infinite.
LEAST, MOST = 1e-12, 1e12
# Of a panel in the angles between the units of a batch.
NODES = 24
# BatchNorm's mean of the inverse squared norm, and the density of two coordinates, want more values than that.
SMALLEST = 4


def q_map(activation: Activation, q: float, sw2: float, sb2: float = 0.0) -> float:
    """The next layer's mean square: ``q' = sw2 E[phi(sqrt(q) z)^2] + sb2`` (Poole et al. 2016, eq. 3).

    Args:
        activation: ``phi``, see :data:`spp.theory.gaussian.Activation`.
        q: Mean square of the pre-activations, at least 0.
        sw2: Variance of the weights times their fan-in.
        sb2: Variance of the biases.
    """
    return sw2 * moments(activation, 0.0, q)[1] + sb2


def q_slope(activation: Activation, q: float, sw2: float) -> float:
    """``dq'/dq = sw2 (E[phi'^2] + E[phi'' phi])``; at ``q = 0`` its limit from above."""
    return sw2 * second_moment_slope(activation, 0.0, max(q, 1e-16))


def chi(activation: Activation, q: float, sw2: float) -> float:
    """``chi_1 = sw2 E[phi'(sqrt(q) z)^2]``: growth of small distances and, backwards, of gradients (Schoenholz et al., eq. 5).

    Below 1 is the ordered phase, where inputs become alike and gradients vanish; above 1 the chaotic one, where they part
    and gradients explode.
    """
    return sw2 * slope_moments(activation, 0.0, max(q, 1e-16))[1]


def fixed_point(activation: Activation, sw2: float, sb2: float = 0.0, *, start: float = 1.0) -> float:
    """The mean square ``q*`` that depth leads to from ``start``; 0 and infinity are answers too.

    Args:
        activation: ``phi``.
        sw2: Variance of the weights times their fan-in.
        sb2: Variance of the biases.
        start: Mean square of the first pre-activations, above 0. Where every length is kept, as in a ReLU network of
            ``sw2 = 2``, it is the answer.
    """
    phi = nonlinearity(activation)

    def rise(q: float) -> float:
        return q_map(phi, q, sw2, sb2) - q

    if abs(rise(start)) <= 1e-12 * start:
        return start
    up = rise(start) > 0
    here, step = start, 1.25 if up else 0.8
    while (rise(here * step) > 0) == up:
        here *= step
        if not LEAST < here < MOST:
            return inf if up else 0.0
    return _root(rise, *sorted((here, here * step)))


def correlation_map(activation: Activation, c: float, q: float, sw2: float, sb2: float = 0.0) -> float:
    """The next layer's cosine of two inputs of one length: ``c' = (sw2 E[phi(u1) phi(u2)] + sb2) / q'`` (Poole et al., eq. 5).

    Args:
        activation: ``phi``.
        c: Cosine of their pre-activations, in ``[-1, 1]``.
        q: Their mean square, above 0; ``q*`` for the map at the fixed point.
        sw2: Variance of the weights times their fan-in.
        sb2: Variance of the biases.
    """
    return (sw2 * pair_moment(activation, c, 0.0, q) + sb2) / q_map(activation, q, sw2, sb2)


def fixed_correlation(activation: Activation, q: float, sw2: float, sb2: float = 0.0) -> float:
    """The cosine ``c*`` that depth leads to: 1 in the ordered phase, less than 1 in the chaotic one.

    Args:
        activation: ``phi``.
        q: Fixed point of the length, above 0.
        sw2: Variance of the weights times their fan-in.
        sb2: Variance of the biases.
    """
    phi = nonlinearity(activation)
    if chi(phi, q, sw2) * q <= q_map(phi, q, sw2, sb2) * (1 + 1e-9):
        return 1.0

    def rise(c: float) -> float:
        return correlation_map(phi, c, q, sw2, sb2) - c

    if rise(0.0) <= 1e-13:
        return 0.0
    return _root(rise, 0.0, 1 - 1e-9)


def length_scale(activation: Activation, q: float, sw2: float) -> float:
    """``xi_q``: layers over which a deviation of the length falls by ``e``; infinite where it does not fall at all.

    ``1 / xi_q = -log(chi_1 + sw2 E[phi'' phi])`` (Schoenholz et al., eq. 8), where the bracket is ``dq'/dq``.
    """
    return _scale(q_slope(activation, q, sw2))


def correlation_scale(activation: Activation, q: float, sw2: float, c: float = 1.0) -> float:
    """``xi_c``: layers over which a deviation of the cosine from ``c*`` falls by ``e`` (Schoenholz et al., eq. 9).

    ``1 / xi_c = -log(sw2 E[phi'(u1) phi'(u2)])`` at ``c*``; in the ordered phase, where ``c* = 1``, that is ``-log(chi_1)``.
    """
    return _scale(sw2 * pair_moment(activation, c, 0.0, q, slopes=True))


def critical_point(activation: Activation, q: float) -> tuple[float, float]:
    """``(sw2, sb2)`` of the edge of chaos whose fixed point is ``q``: ``chi_1 = 1`` and ``q' = q``.

    Raises:
        InputError: Bounded lengths there would need a negative variance of the biases.
    """
    phi = nonlinearity(activation)
    sw2 = 1 / slope_moments(phi, 0.0, q)[1]
    sb2 = q - sw2 * moments(phi, 0.0, q)[1]
    if sb2 < -1e-12 * q:
        raise InputError(
            "the edge of chaos has a variance of the biases of at least 0",
            received=f"{sb2:.3g} for q = {q:g}",
            remedy="This activation has no critical point at this length.",
        )
    return sw2, max(sb2, 0.0)


def critical_line(activation: Activation, sb2: float) -> tuple[float, float]:
    """``(sw2, q)`` of the edge of chaos for a given variance of the biases, above 0.

    Raises:
        InputError: ``sb2`` is not positive, or the edge does not get there for any ``q`` up to 1000.
    """
    if not sb2 > 0:
        raise InputError(
            "a point of the critical line is looked up by a positive variance of the biases", received=repr(sb2)
        )
    phi = nonlinearity(activation)

    def above(q: float) -> float:
        return q - moments(phi, 0.0, q)[1] / slope_moments(phi, 0.0, q)[1] - sb2

    q = 1e-4
    while above(q) < 0:
        q *= 1.5
        if q > 1000:
            raise InputError("the critical line needs to reach that variance of the biases", received=f"sb2 = {sb2:g}")
    q = _root(above, q / 1.5, q)
    return 1 / slope_moments(phi, 0.0, q)[1], q


def backward(second_moment: float, n_in: int, n_out: int, sw2: float, activation: Activation, q: float) -> float:
    """Mean square of the gradient at the pre-activations below a layer, from that above it.

    ``qt_l = qt_{l+1} (N_{l+1} / N_l) sw2 E[phi'(sqrt(q) z)^2]`` (Schoenholz et al., eq. 12): every one of the ``N_{l+1}`` units
    sends back ``delta W phi'``, and ``W`` has variance ``sw2 / N_l``.

    Args:
        second_moment: Mean square over the units above, ``qt_{l+1}``.
        n_in: Units below, ``N_l``.
        n_out: Units above, ``N_{l+1}``.
        sw2: Variance of the weights times ``n_in``.
        activation: Between the two.
        q: Mean square of the pre-activations below.
    """
    return second_moment * n_out / n_in * chi(activation, q, sw2)


def finite_width_rate(activation: Activation, q: float = 1.0) -> float:
    """What a layer adds to the variance of the log of the length, times its width: ``E[phi^4] / E[phi^2]^2 - 1``.

    The mean square of ``n`` units ``phi(sqrt(q) z_i)`` has that relative variance over ``n``: 5 for ReLU, 2 without activation
    (Hanin & Rolnick 2018, arXiv 1803.01719, in the form of a sum over layers).
    """
    second = moments(activation, 0.0, q)[1]
    return fourth_moment(activation, 0.0, q) / second**2 - 1


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


def batchnorm_gradient_factor(activation: Activation, batch: float = inf) -> float:
    """What Linear, BatchNorm and activation multiply the second moment of the gradient with, going back one layer.

    In a deep network of these the second moment grows by the same factor at every layer on the way back, whatever the
    weights' scale (Yang et al. 2019, arXiv 1902.08129). Over an infinite batch it is ``E[phi'^2] / Var[phi]``: the slopes pass
    the gradient on, and the normalization divides by the variance that the activation left. ReLU has
    ``pi / (pi - 1) = 1.4669``.

    Over a batch of B the normalized units of a neuron are exactly uniform on a sphere, ``x = sqrt(B) u`` with ``u`` a unit
    vector orthogonal to (1, .., 1), independent of their norm, so that the factor is exact too. With ``d = phi'(x)``,

        B / ((B - 1) (B - 3)) * E[ sum_i d_i^2 (1 - 1/B - u_i^2) - (sum_i d_i^2 - (sum_i d_i)^2 / B - (u . d)^2) / B ]
            / (E[phi(x_1)^2] - E[phi(x_1) phi(x_2)])

    where the first sum is the trace of the Jacobian's square, the bracket behind it what the centring takes away, and
    ``B / (B - 3)`` the mean of the inverse squared norm. Without activation this is the paper's ``(B - 2) / (B - 3)``.

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


def _scale(rate: float) -> float:
    if abs(rate - 1) < 1e-11 or rate > 1:
        return inf
    return -1 / log(rate) if rate > 0 else 0.0


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where ``function`` changes its sign between ``low`` and ``high``, by the method of Ridders, ending in a bisection."""
    f_low, f_high = function(low), function(high)
    for _ in range(200):
        if f_low == 0 or f_high == 0 or high - low <= CLOSE * abs(high):
            break
        middle = (low + high) / 2
        f_middle = function(middle)
        root = sqrt(f_middle**2 - f_low * f_high)
        guess = middle + (middle - low) * (1 if f_low > f_high else -1) * f_middle / root if root else middle
        for at, value in sorted(((middle, f_middle), (guess, function(guess)))):
            if not low < at < high:
                continue
            if (value > 0) == (f_low > 0):
                low, f_low = at, value
            else:
                high, f_high = at, value
                break
    return low if abs(f_low) < abs(f_high) else high
