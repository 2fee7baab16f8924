"""Neuron-wise gradients against explicit coordinates, to 1e-12 in float64, for every mode, nonlinearity and kind of layer."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from spp.nn import make_activation
from spp.nn.neuronwise import MODES, WEIGHTINGS, NeuronwiseConv1d, NeuronwiseConv2d, NeuronwiseLinear

_spec = importlib.util.spec_from_file_location("neuronwise_oracle", Path(__file__).with_name("neuronwise_oracle.py"))
oracle = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(oracle)

ACTIVATIONS = ("relu", "tanh", "softplus", "selu", "silu", "gelu")
OTHERS = (
    "relu6",
    "leaky_relu",
    "elu",
    "gelu_tanh",
    "mish",
    "hard_swish",
    "sigmoid",
    "hard_sigmoid",
    "hard_tanh",
    "softsign",
)
EPS = 1e-3
DOUBLE = torch.float64


def assert_equal(found, expected, scale=1.0):
    """To 1e-12 of the largest element: sums of many terms are no better, element by element."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * scale * float(expected.abs().max().clamp(min=1)))


def backward(layer, x, phi, upstream):
    phi(layer(x)).backward(upstream)
    return layer.weight.grad, None if layer.bias is None else layer.bias.grad


def modes(bias):
    return [mode for mode in MODES if bias or mode != "coords_centre"]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("name", ACTIVATIONS + OTHERS)
def test_linear(name, bias):
    x, upstream = torch.randn(33, 5, dtype=DOUBLE) + 2, torch.randn(33, 4, dtype=DOUBLE)
    for mode in modes(bias):
        layer = NeuronwiseLinear(5, 4, bias, activation=name, mode=mode, eps=EPS, dtype=DOUBLE)
        weight, own = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
        phi = make_activation(name)
        expected = oracle.gradients(x, weight, own, phi, upstream, mode, EPS)
        for found, wanted in zip(backward(layer, x, phi, upstream), expected, strict=True):
            if found is not None:
                assert_equal(found, wanted)


@pytest.mark.parametrize("weighting", list(WEIGHTINGS))
@pytest.mark.parametrize("name", ["silu", "gelu", "mish", "tanh"])
def test_weightings(name, weighting):
    x, upstream = torch.randn(40, 3, dtype=DOUBLE), torch.randn(40, 4, dtype=DOUBLE)
    layer = NeuronwiseLinear(3, 4, activation=name, weighting=weighting, eps=EPS, dtype=DOUBLE)
    phi = make_activation(name)
    expected = oracle.gradients(x, layer.weight.detach(), layer.bias.detach(), phi, upstream, "coords", EPS, weighting)
    for found, wanted in zip(backward(layer, x, phi, upstream), expected, strict=True):
        assert_equal(found, wanted)


@pytest.mark.parametrize("mode", list(MODES))
def test_leading_axes_are_samples(mode):
    x, upstream = torch.randn(3, 7, 5, dtype=DOUBLE), torch.randn(3, 7, 4, dtype=DOUBLE)
    layer = NeuronwiseLinear(5, 4, activation="gelu", mode=mode, eps=EPS, dtype=DOUBLE)
    rows, tops = x.flatten(0, 1), upstream.flatten(0, 1)
    expected = oracle.gradients(rows, layer.weight.detach(), layer.bias.detach(), nn.GELU(), tops, mode, EPS)
    for found, wanted in zip(backward(layer, x, nn.GELU(), upstream), expected, strict=True):
        assert_equal(found, wanted)


GEOMETRIES = [
    {"stride": 1, "padding": 0, "dilation": 1, "groups": 1},
    {"stride": 2, "padding": 1, "dilation": 1, "groups": 2},
    {"stride": 1, "padding": 2, "dilation": 2, "groups": 1},
    {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2), "groups": 4},
]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_conv2d(name, geometry, bias):
    x = torch.randn(2, 4, 6, 7, dtype=DOUBLE) + 1
    for mode in modes(bias):
        layer = NeuronwiseConv2d(4, 8, 3, bias=bias, activation=name, mode=mode, eps=EPS, dtype=DOUBLE, **geometry)
        phi = make_activation(name)
        upstream = torch.randn_like(layer(x))
        weight, own = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
        expected = oracle.conv_gradients(x, weight, own, phi, upstream, mode, EPS, **geometry)
        for found, wanted in zip(backward(layer, x, phi, upstream), expected, strict=True):
            if found is not None:
                assert_equal(found, wanted)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("padding_mode", ["zeros", "circular", "reflect", "replicate"])
def test_every_padding_counts_as_input(padding_mode, padding):
    x = torch.randn(2, 3, 6, 6, dtype=DOUBLE) + 3
    layer = NeuronwiseConv2d(
        3, 4, 3, padding=padding, padding_mode=padding_mode, activation="relu", eps=EPS, dtype=DOUBLE
    )
    upstream = torch.randn_like(layer(x))
    padded = x
    if padding == "same":
        padded = nn.functional.pad(x, (1,) * 4, mode="constant" if padding_mode == "zeros" else padding_mode)
    expected = oracle.conv_gradients(
        padded,
        layer.weight.detach(),
        layer.bias.detach(),
        torch.relu,
        upstream,
        "coords",
        EPS,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
    )
    for found, wanted in zip(backward(layer, x, torch.relu, upstream), expected, strict=True):
        assert_equal(found, wanted)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_conv1d_is_conv2d_of_one_row(name, bias):
    x = torch.randn(3, 4, 11, dtype=DOUBLE)
    for mode in modes(bias):
        layer = NeuronwiseConv1d(4, 6, 3, 2, 2, 2, 2, bias, activation=name, mode=mode, eps=EPS, dtype=DOUBLE)
        phi = make_activation(name)
        upstream = torch.randn_like(layer(x))
        weight, own = layer.weight.detach().unsqueeze(2), None if layer.bias is None else layer.bias.detach()
        geometry = {"stride": (1, 2), "padding": (0, 2), "dilation": (1, 2), "groups": 2}
        expected = oracle.conv_gradients(x.unsqueeze(2), weight, own, phi, upstream.unsqueeze(2), mode, EPS, **geometry)
        found = backward(layer, x, phi, upstream)
        assert_equal(found[0], expected[0].squeeze(2))
        if bias:
            assert_equal(found[1], expected[1])


def test_small_blocks_give_the_same(monkeypatch):
    from spp.nn.neuronwise import gradient

    monkeypatch.setattr(gradient, "BLOCK", 1)
    x, upstream = torch.randn(200, 5, dtype=DOUBLE), torch.randn(200, 4, dtype=DOUBLE)
    assert len(list(gradient.blocks(200, 1000, 20))) == 50
    layer = NeuronwiseLinear(5, 4, activation="relu", eps=EPS, dtype=DOUBLE)
    expected = oracle.gradients(x, layer.weight.detach(), layer.bias.detach(), torch.relu, upstream, "coords", EPS)
    for found, wanted in zip(backward(layer, x, torch.relu, upstream), expected, strict=True):
        assert_equal(found, wanted)
