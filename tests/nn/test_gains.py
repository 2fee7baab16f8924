"""Gains against the reference sheet, closed forms, the published (sampled) constants, and real layers."""

from math import asin, exp, pi, sqrt

import mpmath
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spp.errors import InputError, UnknownNameError
from spp.nn import ACTIVATIONS, GAINS, PUBLISHED_GAMMAS, gain, gain_of, initialize_, make_activation
from spp.nn.gains import moments

#                mean, variance, gamma, rms gain
SHEET = {
    "identity": (0, 1, 1, 1),
    "relu": (0.398942280401, 0.340845056908, 1.712858550450, 1.414213562373),
    "relu6": (0.398942280245, 0.340845055108, 1.712858554972, 1.414213565095),
    "leaky_relu": (0.394952857597, 0.344062240276, 1.704831627177, 1.414142856998),
    "elu": (0.160520572267, 0.619178563372, 1.270843417850, 1.245198300701),
    "celu": (0.160520572267, 0.619178563372, 1.270843417850, 1.245198300701),
    "selu": (0, 1, 1, 1),
    "gelu": (0.282094791774, 0.345644011024, 1.700926243363, 1.533530441196),
    "gelu_tanh": (0.282038588079, 0.345647945868, 1.700916561695, 1.533580521666),
    "silu": (0.206620964142, 0.313083296994, 1.787187222100, 1.676532470331),
    "mish": (0.240403888375, 0.394548162830, 1.592025381099, 1.486847581273),
    "softplus": (0.806059183347, 0.271514501801, 1.919125980108, 1.041866835535),
    "log_sigmoid": (-0.806059183347, 0.271514501801, 1.919125980108, 1.041866835535),
    "sigmoid": (0.5, 0.043379035858, 4.801313372040, 1.846228545339),
    "tanh": (0, 0.394294490398, 1.592537419723, 1.592537419723),
    "softsign": (0, 0.183014021267, 2.337533363109, 2.337533363109),
    "erf": (0, 0.464559054398, 1.467166950489, 1.467166950489),
    "sin": (0, 0.432332358382, 1.520866623179, 1.520866623179),
    "hard_swish": (0.166216700656, 0.303939383561, 1.813871473813, 1.736657212767),
    "hard_sigmoid": (0.5, 0.027639091057, 6.015034486637, 1.897840424730),
    "hard_tanh": (0, 0.516058550962, 1.392036140448, 1.392036140448),
    "tanhshrink": (0, 0.182883471194, 2.338367530102, 2.338367530102),
    "squared_relu": (0.5, 1.25, 0.894427191000, 0.816496580928),
}


def test_the_sheet_has_every_activation():
    assert set(SHEET) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", SHEET)
def test_matches_the_sheet_to_twelve_digits(name):
    row = ACTIVATIONS[name]
    mean, second = moments(row.function, kinks=row.kinks)
    assert (mean, second - mean**2, gain(name, "gamma"), gain(name, "rms")) == pytest.approx(
        SHEET[name], rel=1e-11, abs=1e-12
    )


def test_closed_forms_to_fifteen_digits():
    assert gain("relu") == pytest.approx(sqrt(2 / (1 - 1 / pi)), rel=1e-14)
    assert gain("relu", "rms") == pytest.approx(sqrt(2), rel=1e-14)
    assert gain("erf") == pytest.approx((2 / pi * asin(2 / 3)) ** -0.5, rel=1e-14)
    assert gain("sin") == pytest.approx(((1 - exp(-2)) / 2) ** -0.5, rel=1e-14)
    assert gain("squared_relu") == pytest.approx(1.25**-0.5, rel=1e-14)


@pytest.mark.parametrize("slope", [0.01, 0.2, 0.7])
def test_leaky_relu_of_any_slope(slope):
    def leaky(x):
        return F.leaky_relu(x, slope)

    var = (1 + slope**2) / 2 - (1 - slope) ** 2 / (2 * pi)
    assert gain_of(leaky, "gamma", kinks=(0,)) == pytest.approx(var**-0.5, rel=1e-13)
    assert gain_of(leaky, "rms", kinks=(0,)) == pytest.approx(sqrt(2 / (1 + slope**2)), rel=1e-13)
    if slope == 0.2:
        assert gain_of(leaky, "gamma", kinks=(0,)) == pytest.approx(1.546460060361, abs=1e-11)
        assert gain_of(leaky, "rms", kinks=(0,)) == pytest.approx(1.386750490563, abs=1e-11)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("silu", lambda x: x / (1 + mpmath.exp(-x))),
        ("mish", lambda x: x * mpmath.tanh(mpmath.log(1 + mpmath.exp(x)))),
        ("gelu", lambda x: x * mpmath.ncdf(x)),
    ],
)
def test_matches_integration_to_thirty_digits(name, function):
    with mpmath.workdps(30):
        first, second = (
            mpmath.quad(lambda x, n=n: function(x) ** n * mpmath.npdf(x), [-14, -7, 0, 7, 14]) for n in (1, 2)
        )
    assert gain(name, "gamma") == pytest.approx(float((second - first**2) ** -0.5), rel=1e-12)
    assert gain(name, "rms") == pytest.approx(float(second**-0.5), rel=1e-12)


def test_without_its_kink_a_gain_is_right_to_a_few_digits_only():
    def shifted(x):
        return F.relu(x - 0.3)

    exact, blind = gain_of(shifted, "gamma", kinks=(0.3,)), gain_of(shifted, "gamma")
    assert 1e-8 < abs(blind - exact) < 1e-2


def test_a_wider_input_has_other_moments():
    assert moments(F.relu, kinks=(0,), scale=3.0)[1] == pytest.approx(4.5, rel=1e-13)


@pytest.mark.parametrize("name", PUBLISHED_GAMMAS)
def test_the_published_constants_were_sampled(name):
    assert abs(PUBLISHED_GAMMAS[name] / gain(name, "gamma") - 1) < 1.5e-3
    assert name == "identity" or PUBLISHED_GAMMAS[name] != pytest.approx(gain(name, "gamma"), rel=1e-6)


@pytest.mark.parametrize("shape", [(256, 512), (512, 128), (300, 300)], ids=["in<out", "in>out", "square"])
@pytest.mark.parametrize("name", ["relu", "silu", "gelu", "tanh", "selu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unit_second_moment_in_unit_second_moment_out_with_lecun_and_the_rms_gain(name, shape, dtype):
    torch.manual_seed(0)
    layer = initialize_(nn.Linear(*shape, bias=False), "lecun").to(dtype)
    x = torch.randn(2048, shape[0]).to(dtype)
    with torch.no_grad():
        kept = layer(make_activation(name, "rms")(x)).double().square().mean().item()
        lost = layer(make_activation(name)(x)).double().square().mean().item()
    assert kept == pytest.approx(1, rel=0.1)
    assert lost == pytest.approx(gain(name, "rms") ** -2, rel=0.1)
    if name != "selu":
        assert abs(lost - 1) > 0.3


def test_names_and_impossible_gains():
    assert gain("relu", "none") == 1
    with pytest.raises(
        UnknownNameError, match=r"unknown gain 'gama'\. Did you mean 'gamma'\? Known: none, gamma, rms\."
    ):
        gain("relu", "gama")
    with pytest.raises(UnknownNameError, match=r"unknown activation 'rellu'\."):
        gain("rellu")
    with pytest.raises(InputError, match=r"gain 'gamma' needs an activation that passes a signal on; got 0 of it"):
        gain_of(torch.ones_like, "gamma")
    assert all(GAINS.values())


def test_a_default_device_changes_nothing():
    with torch.device("meta"):
        assert gain_of(F.relu, "rms", kinks=(0,)) == pytest.approx(sqrt(2))
