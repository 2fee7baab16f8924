import math

import numpy as np
import pytest
import torch

from spp.errors import UnknownNameError
from spp.nn import ACTIVATIONS, ScaledActivation, gain, make_activation

X = np.array([-7.0, -2.0, -0.3, 0.0, 0.4, 1.5, 8.0])
SIGMOID = 1 / (1 + np.exp(-X))
SOFTPLUS = np.log1p(np.exp(X))
NORMAL_CDF = np.array([(1 + math.erf(x / math.sqrt(2))) / 2 for x in X])
LAMBDA, ALPHA = 1.0507009873554805, 1.6732632423543773

EXPECTED = {
    "relu": np.maximum(X, 0),
    "relu6": np.clip(X, 0, 6),
    "leaky_relu": np.where(X > 0, X, 0.01 * X),
    "elu": np.where(X > 0, X, np.expm1(X)),
    "selu": LAMBDA * np.where(X > 0, X, ALPHA * np.expm1(X)),
    "gelu": X * NORMAL_CDF,
    "gelu_tanh": X / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (X + 0.044715 * X**3))),
    "silu": X * SIGMOID,
    "mish": X * np.tanh(SOFTPLUS),
    "hard_swish": X * np.clip(X + 3, 0, 6) / 6,
    "softplus": SOFTPLUS,
    "sigmoid": SIGMOID,
    "hard_sigmoid": np.clip(X + 3, 0, 6) / 6,
    "tanh": np.tanh(X),
    "hard_tanh": np.clip(X, -1, 1),
    "softsign": X / (1 + np.abs(X)),
    "squared_relu": np.maximum(X, 0) ** 2,
    "celu": np.where(X > 0, X, np.expm1(X)),
    "log_sigmoid": -np.log1p(np.exp(-X)),
    "tanhshrink": X - np.tanh(X),
    "erf": np.array([math.erf(x) for x in X]),
    "sin": np.sin(X),
    "identity": X,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_matches_its_formula_and_leaves_the_input_alone(name):
    x = torch.from_numpy(X.copy())
    y = make_activation(name)(x)
    np.testing.assert_allclose(y.numpy(), EXPECTED[name], rtol=1e-12, atol=1e-14)
    assert np.array_equal(x.numpy(), X)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_function_and_module_are_the_same_and_a_gain_multiplies_it(name):
    x = torch.from_numpy(X)
    assert torch.equal(ACTIVATIONS[name].function(x), make_activation(name)(x))
    torch.testing.assert_close(make_activation(name, 2.5)(x), 2.5 * make_activation(name)(x), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        make_activation(name, "rms")(x), gain(name, "rms") * make_activation(name)(x), rtol=1e-12, atol=1e-12
    )


def test_a_gain_of_one_is_no_gain():
    assert type(make_activation("selu", "gamma")) is torch.nn.SELU
    assert type(make_activation("relu", "none")) is torch.nn.ReLU
    assert type(make_activation("relu", "gamma")) is ScaledActivation


def test_each_call_is_a_new_module():
    assert make_activation("relu") is not make_activation("relu")


def test_unknown_activation_names_the_nearest_and_all():
    with pytest.raises(
        UnknownNameError, match=r"unknown activation 'rellu'\. Did you mean 'relu'.*Known: relu, .*ident"
    ):
        make_activation("rellu")


def test_every_activation_has_a_description():
    assert all(row.description for row in ACTIVATIONS.values())
