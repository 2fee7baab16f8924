"""Section 2 of the reference sheet, as this package gives it; constants and alpha dropout are tested with ``spp.nn``."""

import numpy as np
import pytest

from spp.nn.selu import selu_gradient_factor, selu_moments
from spp.theory import mean_field
from spp.theory.gaussian import moments, slope_moments

MAP = [
    ((0, 0, 1, 1), (0, 1)),
    ((0, 0, 1.5, 1), (0.0449834377070055, 1.3715310036425)),
    ((0, 0, 0.8, 0.95), (-0.0208881153638494, 0.805990888129325)),
    ((0.1, 0.1, 1.5, 1.1), (0.0677251016898786, 1.48157495827116)),
    ((0.1, -0.1, 0.8, 0.95), (-0.0310605017922177, 0.803711757679113)),
    ((1, 1, 1, 1), (1.03856301901849, 1.13406188980607)),
]


@pytest.mark.parametrize(("before", "after"), MAP)
def test_the_map_and_the_quadrature_give_the_sheets_numbers(before, after):
    assert selu_moments(*before) == pytest.approx(after, rel=1e-13, abs=1e-15)
    mean, omega, variance, tau = before
    first, second = moments("selu", mean * omega, variance * tau)
    assert (first, second - first**2) == pytest.approx(after, rel=1e-12, abs=1e-12)


def test_orbit():
    expected = [1.71447807166, 1.52142365227, 1.38671752659, 1.29035708752, 1.22006546149]
    assert [variance for _, variance in mean_field.selu_orbit(0, 2, 5)] == pytest.approx(expected, abs=2e-11)


def test_jacobian_at_the_fixed_point():
    table = mean_field.selu_jacobian()
    assert table == pytest.approx(np.array([[0, 0.0888347551069], [0, 0.782647883197]]), abs=1e-12)
    assert np.linalg.norm(table, 2) == pytest.approx(0.7877, abs=5e-5)
    assert mean_field.selu_jacobian(omega=0.1)[0, 0] == pytest.approx(0.0985231116186, abs=1e-13)


@pytest.mark.parametrize(("mean", "omega", "variance", "tau"), [case[0] for case in MAP])
def test_jacobian_is_the_maps_derivative(mean, omega, variance, tau):
    step = 1e-5
    by_mean = np.subtract(
        selu_moments(mean + step, omega, variance, tau), selu_moments(mean - step, omega, variance, tau)
    )
    by_variance = np.subtract(
        selu_moments(mean, omega, variance + step, tau), selu_moments(mean, omega, variance - step, tau)
    )
    expected = np.stack([by_mean, by_variance], axis=1) / (2 * step)
    assert mean_field.selu_jacobian(mean, omega, variance, tau) == pytest.approx(expected, abs=1e-8)


def test_gradients_grow():
    factor = selu_gradient_factor()
    assert factor == pytest.approx(1.07157499245579926, abs=1e-15)
    assert factor == pytest.approx(mean_field.chi("selu", 1.0, 1.0), abs=1e-13)
    assert factor**32 == pytest.approx(9.135, abs=5e-4)
    assert slope_moments("selu")[0] == pytest.approx(0.985231116185796, abs=1e-14)
