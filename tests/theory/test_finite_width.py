"""What finite width makes vary, against sampling of a single layer, and the quick quadrature against the fine one."""

import numpy as np
import pytest
import torch
from torch import nn

from spp.nn import ACTIVATIONS, make_activation
from spp.theory import finite_width_rate, predict
from spp.theory.gaussian import nonlinearity, pair_moment
from spp.theory.moments_state import FLOAT, MomentsState, even
from spp.theory.rules.elementwise import Couple, of_normal

WIDTH, DRAWS = 256, 6000


def two_samples(cosine: float) -> MomentsState:
    """Two samples of pre-activations of unit variance, as a first layer of this width draws them from inputs of this cosine."""
    x = MomentsState(
        shape=torch.Size((2, WIDTH)),
        axis=1,
        profile=torch.tensor(1.0, dtype=FLOAT),
        mean=0.0,
        pooled=1.0,
        between=cosine,
        channels=even(WIDTH),
        lengths=2 * (1 - cosine**2) / WIDTH,
        scatter=(1 - cosine**2) ** 2 / WIDTH,
    )
    x.spread = 2 * x.overlap() / WIDTH
    return x


@pytest.mark.parametrize("cosine", [0.0, 0.6, 0.95, 0.999])
@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "selu", "sigmoid"])
def test_variances_of_a_layer(name, cosine):
    """The log of the mean square, the difference of two samples' and their cosine, over draws: as predicted within 12 %."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, DRAWS, WIDTH))
    phi = nonlinearity(name)
    one, two = phi.value(a), phi.value(cosine * a + np.sqrt(1 - cosine**2) * b)
    squares = (one**2).mean(1), (two**2).mean(1)
    found = of_normal(two_samples(cosine), phi)
    unsure = {"rel": 0.12, "abs": 0.02 / WIDTH**2}
    assert found.spread == pytest.approx(np.log((squares[0] + squares[1]) / 2).var(), **unsure)
    assert found.lengths == pytest.approx(np.log(squares[0] / squares[1]).var() / 2, **unsure)
    assert found.scatter == pytest.approx(((one * two).mean(1) / np.sqrt(squares[0] * squares[1])).var(), **unsure)


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "selu"])
def test_where_all_inputs_point_the_same_way_a_layer_adds_its_rate(name):
    """``E[phi^4] / E[phi^2]^2 - 1`` over the width, 5 for ReLU, and nothing that tells two samples apart."""
    found = of_normal(two_samples(1.0), nonlinearity(name))
    assert found.spread * WIDTH == pytest.approx(finite_width_rate(name), rel=1e-4)
    assert found.lengths == pytest.approx(0, abs=1e-7)
    assert found.scatter == pytest.approx(0, abs=1e-9)
    if name == "relu":
        assert finite_width_rate(name) == pytest.approx(5)


@pytest.mark.parametrize("mean", [0.0, 0.3, -1.0])
def test_a_scale_passes_through_relu_as_it_is(mean):
    """ReLU is homogeneous: a common scale of all pre-activations, their mean too, is the scale of what it gives out."""
    x = two_samples(1.0)
    x.mean, x.profile, x.between = mean, x.profile + mean**2, x.between + mean**2
    without = of_normal(x, nonlinearity("relu")).spread
    x.spread += 0.1
    assert of_normal(x, nonlinearity("relu")).spread == pytest.approx(without + 0.1, rel=1e-9)


@pytest.mark.parametrize("correlation", [-0.4, 0.0, 0.5, 0.97, 0.9999])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_quick_quadrature_is_right_to_four_digits(name, correlation):
    phi = nonlinearity(name)
    for mean, variance in ((0.0, 1.0), (0.2, 0.3), (-0.1, 9.0)):
        quick, one = (Couple(phi, c, mean, variance) for c in (correlation, 1.0))
        for slopes, squared in ((False, False), (False, True), (True, False), (True, True)):
            fine = pair_moment(phi, correlation, mean, variance, slopes=slopes, squared=squared)
            power = 2 if squared else 1
            take = (lambda c, p=power: c.slopes(p)) if slopes else (lambda c, p=power: c.values(p, p))
            assert take(quick) == pytest.approx(fine, abs=1e-4 * take(one))


def test_a_deep_and_narrow_network_is_followed_to_the_end():
    """A hundred layers of sixteen units, where lengths differ by decades: finite, and 5 / n a layer still."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(100):
        linear = nn.Linear(16, 16, bias=False)
        nn.init.normal_(linear.weight, std=(2 / 16) ** 0.5)
        layers += [linear, nn.ReLU()]
    table = predict(nn.Sequential(*layers), (64, 16))
    assert (table["reason"] == "").all()
    variance = table.loc[table["type"] == "ReLU", "log_spread_predicted"].to_numpy() ** 2
    assert (variance[-1] - variance[20]) / (99 - 20) * 16 == pytest.approx(5, rel=0.2)


@pytest.mark.parametrize("name", ["gelu", "silu"])
@pytest.mark.parametrize("norm", ["batch", "none", "twice"])
def test_three_units_a_layer_are_followed_to_the_end(name, norm):
    """Where draws differ by decades of decades, and where norms follow each other: finite, and no warning."""
    torch.manual_seed(0)
    layers = []
    for _ in range(25):
        linear = nn.Linear(3, 3, bias=False)
        nn.init.normal_(linear.weight, std=3**0.5)
        again = [nn.BatchNorm1d(3), nn.Linear(3, 3, bias=False)] if norm == "twice" else []
        layers += [linear, *again, *([] if norm == "none" else [nn.BatchNorm1d(3)]), make_activation(name)]
    table = predict(nn.Sequential(*layers), (64, 3))
    assert (table["reason"] == "").all()
    columns = ["acsm_predicted", "acv_predicted", "gradient_predicted", "log_spread_predicted"]
    assert np.isfinite(table[columns].to_numpy(float)).all()
