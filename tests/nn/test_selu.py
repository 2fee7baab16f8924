"""Self-normalizing networks, against the paper's numbers and real layers."""

import mpmath
import numpy as np
import pytest
import torch
from torch import nn

from spp.nn import initialize_, selu
from spp.nn.gains import moments

MAP = [  # mean, omega, variance, tau -> mean', variance'
    ((0, 0, 1, 1), (0, 1)),
    ((0, 0, 1.5, 1), (0.0449834377070055, 1.3715310036425)),
    ((0, 0, 0.8, 0.95), (-0.0208881153638494, 0.805990888129325)),
    ((0.1, 0.1, 1.5, 1.1), (0.0677251016898786, 1.48157495827116)),
    ((0.1, -0.1, 0.8, 0.95), (-0.0310605017922177, 0.803711757679113)),
    ((1, 1, 1, 1), (1.03856301901849, 1.13406188980607)),
]


def test_the_constants_are_the_fixed_points():
    with mpmath.workdps(40):
        root = mpmath.erfc(1 / mpmath.sqrt(2))
        e = mpmath.sqrt(mpmath.e)
        alpha = -mpmath.sqrt(2 / mpmath.pi) / (root * e - 1)
        inner = 2 * mpmath.erfc(mpmath.sqrt(2)) * mpmath.e**2 + mpmath.pi * root**2 * mpmath.e
        inner += -2 * (2 + mpmath.pi) * root * e + mpmath.pi + 2
        scale = (1 - root * e) * mpmath.sqrt(2 * mpmath.pi) / mpmath.sqrt(inner)
    assert (float(alpha), float(scale)) == (selu.ALPHA, selu.LAMBDA)
    assert pytest.approx(1.758099340847376859940217520812279577, rel=1e-15) == selu.LAMBDA * selu.ALPHA
    x = torch.tensor([1.0, -1e9], dtype=torch.float64)
    assert nn.functional.selu(x).tolist() == pytest.approx([selu.LAMBDA, -selu.LAMBDA * selu.ALPHA], rel=1e-15)


@pytest.mark.parametrize(("before", "after"), MAP)
def test_moment_map(before, after):
    assert selu.selu_moments(*before) == pytest.approx(after, rel=1e-13, abs=1e-15)


@pytest.mark.parametrize(("mean", "omega", "variance", "tau"), [case[0] for case in MAP])
def test_moment_map_is_direct_integration(mean, omega, variance, tau):
    m, s = mean * omega, (variance * tau) ** 0.5
    first, second = moments(lambda z: nn.functional.selu(m + s * z), kinks=(-m / s,))
    expected = selu.selu_moments(mean, omega, variance, tau)
    assert (first, second - first**2) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_iteration_returns_to_the_fixed_point():
    state, found = (0.0, 2.0), []
    for _ in range(5):
        state = selu.selu_moments(state[0], 0.0, state[1], 1.0)
        found.append(state[1])
    assert found == pytest.approx(
        [1.71447807166, 1.52142365227, 1.38671752659, 1.29035708752, 1.22006546149], rel=1e-11
    )


def jacobian(omega=0.0, h=1e-5):
    def at(mean, variance):
        return np.array(selu.selu_moments(mean, omega, variance, 1.0))

    return np.stack([(at(h, 1) - at(-h, 1)) / (2 * h), (at(0, 1 + h) - at(0, 1 - h)) / (2 * h)], axis=1)


def test_the_fixed_point_attracts():
    found = jacobian()
    np.testing.assert_allclose(found, [[0, 0.0888347551069], [0, 0.782647883197]], atol=1e-9)
    assert np.linalg.norm(found, 2) == pytest.approx(0.7877, abs=5e-5)
    assert jacobian(omega=0.1)[0, 0] == pytest.approx(0.0985231116186, abs=1e-9)


def test_gradients_grow_by_seven_percent():
    assert selu.selu_gradient_factor() == pytest.approx(1.07157499245579926, rel=1e-15)
    assert selu.selu_gradient_factor() ** 32 == pytest.approx(9.135, abs=1e-3)
    slope = lambda z: torch.where(z > 0, selu.LAMBDA, selu.LAMBDA * selu.ALPHA * torch.exp(z))  # noqa: E731
    mean, second = moments(slope, kinks=(0,))
    assert mean == pytest.approx(0.985231116185796, rel=1e-12)
    assert second == pytest.approx(selu.selu_gradient_factor(), rel=1e-12)


@pytest.mark.parametrize(
    ("rate", "a", "b"),
    [
        (0.05, 0.95484447600503088, 0.08393557219381019),
        (0.1, 0.92128451614971148, 0.16197097005757023),
        (0.5, 0.88640489466593185, 0.77919393051803165),
    ],
)
def test_alpha_dropout(rate, a, b):
    found = selu.alpha_dropout_affine(rate)
    assert found == pytest.approx((a, b), rel=1e-14)
    torch.manual_seed(0)
    x = torch.randn(200_000, dtype=torch.float64)
    y = nn.AlphaDropout(rate)(x)
    dropped = torch.isclose(y, torch.tensor(-found[0] * selu.LAMBDA * selu.ALPHA + found[1], dtype=y.dtype), rtol=1e-6)
    assert dropped.double().mean().item() == pytest.approx(rate, abs=0.01)
    torch.testing.assert_close(y[~dropped], found[0] * x[~dropped] + found[1], rtol=1e-6, atol=1e-6)
    assert (y.mean().item(), y.var().item()) == pytest.approx((0, 1), abs=0.02)


def test_ordinary_dropout_does_not_keep_the_moments_of_selu():
    torch.manual_seed(0)
    y = nn.Dropout(0.1)(torch.randn(200_000, dtype=torch.float64))
    assert abs(y.var().item() - 1) > 0.05


@pytest.mark.parametrize(("init", "survives"), [("lecun", True), ("he", False), ("xavier", True), ("default", False)])
def test_a_deep_stack_keeps_unit_variance_with_lecun_weights_only(init, survives):
    torch.manual_seed(0)
    layers = [layer for _ in range(32) for layer in (nn.Linear(256, 256, bias=False), nn.SELU())]
    with torch.no_grad():
        y = initialize_(nn.Sequential(*layers), init)(torch.randn(512, 256))
    assert (0.8 < y.var().item() < 1.25) == survives
