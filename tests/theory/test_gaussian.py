"""Expectations against closed forms, high-precision integration and the reference sheet."""

from math import acos, asin, erf, exp, pi, sqrt

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from spp.errors import InputError, UnknownNameError
from spp.nn import ACTIVATIONS
from spp.theory.gaussian import (
    Nonlinearity,
    fourth_moment,
    jacobian,
    moments,
    nonlinearity,
    pair_moment,
    second_moment_slope,
    slope_moments,
)

correlations = st.floats(-1, 1)
variances = st.floats(0.01, 30)


def relu_pair(c):
    return (sqrt(1 - c * c) + c * (pi - acos(c))) / (2 * pi)


@settings(max_examples=25, deadline=None)
@given(correlations, variances)
def test_relu_has_the_closed_form_of_cho_and_saul(c, variance):
    assert pair_moment("relu", c, 0.0, variance) == pytest.approx(variance * relu_pair(c), rel=1e-12, abs=1e-14)
    assert pair_moment("relu", c, 0.0, variance, slopes=True) == pytest.approx((pi - acos(c)) / (2 * pi), abs=1e-13)


@settings(max_examples=25, deadline=None)
@given(correlations, variances)
def test_erf_has_the_closed_form_of_williams(c, variance):
    closed = 2 / pi * asin(2 * c * variance / (1 + 2 * variance))
    assert pair_moment("erf", c, 0.0, variance) == pytest.approx(closed, rel=1e-10, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.floats(-3, 3), st.floats(0.05, 20))
def test_shifted_relu_has_its_closed_form(mean, variance):
    s = sqrt(variance)
    density, below = exp(-(mean**2) / (2 * variance)) / sqrt(2 * pi), (1 + erf(mean / s / sqrt(2))) / 2
    first, second = moments("relu", mean, variance)
    assert first == pytest.approx(mean * below + s * density, rel=1e-11, abs=1e-13)
    assert second == pytest.approx((mean**2 + variance) * below + mean * s * density, rel=1e-11, abs=1e-13)


@pytest.mark.parametrize("name", ["relu6", "hard_swish", "softsign", "gelu", "mish", "hard_tanh"])
def test_matches_adaptive_integration(name):
    row = ACTIVATIONS[name]

    def value(u):
        return float(row.function(torch.tensor(float(u), dtype=torch.float64)))

    kinks = sorted({-14.0, -4.0, *((k - 0.3) / sqrt(1.7) for k in row.kinks), 4.0, 14.0})
    for power, found in zip((1, 2), moments(name, 0.3, 1.7), strict=True):
        direct = mpmath.quad(lambda z, p=power: value(0.3 + sqrt(1.7) * z) ** p * mpmath.npdf(z), kinks, maxdegree=8)
        assert found == pytest.approx(float(direct), rel=1e-10)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_pair_of_one_is_the_square_and_of_zero_the_product(name):
    mean, second = moments(name, 0.2, 1.3)
    assert pair_moment(name, 1.0, 0.2, 1.3) == pytest.approx(second, rel=1e-12)
    assert pair_moment(name, 0.0, 0.2, 1.3) == pytest.approx(mean**2, rel=1e-9, abs=1e-13)
    nearly = pair_moment(name, 1 - 1e-9, 0.2, 1.3)
    assert nearly == pytest.approx(second, rel=1e-7)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_pairs_match_sampling(name):
    rng = np.random.default_rng(0)
    u1 = rng.standard_normal(2_000_000)
    u2 = -0.6 * u1 + 0.8 * rng.standard_normal(u1.size)
    phi = nonlinearity(name)
    product = phi.value(0.1 + 1.2 * u1) * phi.value(0.1 + 1.2 * u2)
    found = pair_moment(name, -0.6, 0.1, 1.44)
    assert found == pytest.approx(product.mean(), abs=5 * product.std() / sqrt(u1.size))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_by_parts(name):
    """Stein's lemma, ``E[phi(u) (u - m)] = v E[phi'(u)]``, and the Jacobian against finite differences."""
    phi, step = nonlinearity(name), 1e-4
    table = jacobian(name, 0.2, 1.3)
    assert slope_moments(name, 0.2, 1.3)[0] == pytest.approx(table[0, 0], rel=1e-7)  # torch keeps 1/6 in float32

    def both(m, v):
        mean, second = moments(phi, m, v)
        return np.array([mean, second - mean**2])

    by_mean = (both(0.2 + step, 1.3) - both(0.2 - step, 1.3)) / (2 * step)
    by_variance = (both(0.2, 1.3 + step) - both(0.2, 1.3 - step)) / (2 * step)
    assert table == pytest.approx(np.stack([by_mean, by_variance], axis=1), abs=1e-6)
    rise = (moments(name, 0.2, 1.3 + step)[1] - moments(name, 0.2, 1.3 - step)[1]) / (2 * step)
    assert second_moment_slope(name, 0.2, 1.3) == pytest.approx(rise, abs=1e-6)


def test_a_gain_multiplies_and_a_constant_has_no_slope():
    assert moments(Nonlinearity(F.relu, (0.0,), gain=3.0))[1] == pytest.approx(4.5)
    assert slope_moments(Nonlinearity(F.relu, (0.0,), gain=3.0))[1] == pytest.approx(4.5)
    assert slope_moments(torch.ones_like) == (0.0, 0.0)
    assert moments("relu", 2.0, 0.0) == (2.0, 4.0)
    assert fourth_moment("relu") == pytest.approx(1.5)
    assert pair_moment("relu", 0.5, squared=True) < fourth_moment("relu")


def test_what_is_asked_wrongly_is_said():
    with pytest.raises(InputError, match=r"correlation is between -1 and 1; got 1\.5"):
        pair_moment("relu", 1.5)
    with pytest.raises(InputError, match="variance is at least 0; got -1"):
        moments("relu", 0.0, -1.0)
    with pytest.raises(InputError, match="positive variance; got 0"):
        jacobian("relu", 0.0, 0.0)
    with pytest.raises(UnknownNameError, match=r"unknown activation 'rellu'\. Did you mean 'relu'"):
        moments("rellu")
