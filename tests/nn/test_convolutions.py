"""Standardized weights: the sheet's numbers, the laws they obey in real layers, and their negatives."""

import numpy as np
import pytest
import torch
from torch import nn

from spp.errors import InputError, UnknownNameError
from spp.nn import (
    WEIGHT_NORMS,
    StandardizedConv1d,
    StandardizedConv2d,
    StandardizedConv3d,
    StandardizedLinear,
    functional,
    initialize_,
    make_activation,
)
from tests import foreign

ROW = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)


def check(weight, *expected):
    assert weight.flatten().tolist() == pytest.approx(expected, abs=1e-10)


def test_the_sheets_numbers():
    check(functional.standardized_weight(ROW, eps=0.0), -1.1618950039, -0.3872983346, 0.3872983346, 1.1618950039)
    check(functional.scaled_standardized_weight(ROW), -0.6708203932, -0.2236067977, 0.2236067977, 0.6708203932)
    check(functional.centred_normalized_weight(ROW), -0.6708203932, -0.2236067977, 0.2236067977, 0.6708203932)


def test_weight_standardization_is_its_reference_code():
    """Mean over each axis in turn, torch's (unbiased) standard deviation, 1e-5 added to it."""
    torch.manual_seed(0)
    weight = torch.randn(5, 3, 3, 3, dtype=torch.float64) * 1e-4
    centred = weight - weight.mean(1, keepdim=True).mean(2, keepdim=True).mean(3, keepdim=True)
    std = centred.view(5, -1).std(1).view(-1, 1, 1, 1) + 1e-5
    torch.testing.assert_close(functional.standardized_weight(weight), centred / std, rtol=1e-12, atol=1e-12)


def test_edm2_in_two_numbers():
    """The stored weight is normalized by the training step, and again by the layer."""
    weight = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    check(functional.magnitude_preserving_weight(functional.rms_normalized(weight)), 0.5999400043, 0.7999200057)


@pytest.mark.parametrize("gamma", [1.0, 1.7128585504496627])
def test_scaled_rows_sum_to_zero_and_have_the_norm_gamma_times_gain(gamma):
    torch.manual_seed(0)
    weight, gain = torch.randn(6, 4, 3, 3, dtype=torch.float64) + 5, torch.rand(6, dtype=torch.float64)
    rows = functional.scaled_standardized_weight(weight, gain, gamma=gamma).flatten(1)
    torch.testing.assert_close(rows.sum(1), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(rows.norm(dim=1), gamma * gain, rtol=1e-12, atol=0)


def test_the_floor_of_the_released_code():
    """``rsqrt(max(var * fan_in, 1e-4))``: rows below the floor are scaled by 100."""
    weight = ROW * 1e-3
    torch.testing.assert_close(
        functional.scaled_standardized_weight(weight), 100 * (weight - weight.mean()), rtol=1e-12, atol=0
    )
    assert functional.scaled_standardized_weight(torch.ones(2, 4)).abs().max() == 0


LAYERS = {
    "widening": (64, 128, 3, 1),
    "narrowing": (128, 32, 3, 1),
    "grouped": (64, 64, 3, 8),
    "depthwise": (256, 256, 5, 256),
    "pointwise": (64, 96, 1, 1),
}


def spread(y):
    """Average channel variance and average channel squared mean."""
    y = y.detach().double()
    return y.var((0, 2, 3), correction=0).mean().item(), y.mean((0, 2, 3)).square().mean().item()


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", LAYERS)
def test_unit_variance_in_unit_variance_out_and_no_mean(kind, dtype, activation):
    """And without the gain it is not, nor without standardization."""
    torch.manual_seed(0)
    inputs, outputs, side, groups = LAYERS[kind]
    shape = {"padding": side // 2, "padding_mode": "circular", "groups": groups, "bias": False}
    layer = StandardizedConv2d(inputs, outputs, side, rule="scaled_ws", **shape)
    plain = nn.Conv2d(inputs, outputs, side, **shape)
    plain.weight.data.copy_(initialize_(layer, "lecun").weight)
    x = torch.randn(8, inputs, 16, 16)
    x, layer, plain = x.to(dtype), layer.to(dtype), plain.to(dtype)
    gained = make_activation(activation, "gamma")(x)
    acv, acsm = spread(layer(gained))
    # a grouped convolution has few inputs, so that single rows differ more; their mean does not
    assert acv == pytest.approx(1, rel=0.05)
    assert acsm < 0.02
    without_gain = spread(layer(make_activation(activation)(x)))[0]
    assert without_gain < 0.4
    assert spread(plain(gained))[1] > 5 * max(acsm, 0.01)


def test_a_gain_of_the_weights_does_what_a_gain_of_the_activation_does():
    torch.manual_seed(0)
    one = StandardizedConv2d(8, 6, 3, rule="scaled_ws", options={"gamma": 1.7128585504496627}).double()
    other = StandardizedConv2d(8, 6, 3, rule="scaled_ws").double()
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(one(x.relu()), other(make_activation("relu", "gamma")(x)), rtol=1e-6, atol=1e-6)


def test_plain_standardization_multiplies_the_second_moment_by_the_fan_in():
    """The reason why networks of nothing else need learning rates of 1e-4 to 1e-7."""
    torch.manual_seed(0)
    layer = StandardizedConv2d(64, 64, 3, rule="ws", bias=False)
    assert layer(torch.randn(4, 64, 10, 10)).square().mean().item() == pytest.approx(64 * 9, rel=0.05)


@pytest.mark.parametrize("shape", [(256, 512), (512, 128)], ids=["in<out", "in>out"])
def test_magnitude_preserving_weights_keep_the_second_moment_whatever_their_scale(shape):
    torch.manual_seed(0)
    layer = StandardizedLinear(*shape, bias=False, rule="mp")
    x = make_activation("silu", "rms")(torch.randn(2048, shape[0]))
    for factor in (1.0, 50.0):
        layer.weight.data.mul_(factor)
        assert layer(x).square().mean().item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("rule", WEIGHT_NORMS)
@pytest.mark.parametrize(
    ("ours", "plain", "shape", "arguments"),
    [
        (StandardizedConv1d, nn.Conv1d, (2, 4, 9), {"stride": 2, "padding": 1}),
        (StandardizedConv2d, nn.Conv2d, (2, 4, 7, 6), {"dilation": 2, "groups": 2}),
        (StandardizedConv2d, nn.Conv2d, (2, 4, 7, 6), {"padding": 1, "padding_mode": "reflect"}),
        (StandardizedConv3d, nn.Conv3d, (2, 4, 5, 4, 4), {"padding": "same"}),
    ],
)
def test_is_torchs_layer_with_the_effective_weight(ours, plain, shape, arguments, rule):
    torch.manual_seed(0)
    layer = ours(4, 6, 3, rule=rule, **arguments).double()
    twin = plain(4, 6, 3, **arguments).double()
    twin.load_state_dict({"weight": layer.effective_weight(), "bias": layer.bias})
    x = torch.randn(shape, dtype=torch.float64)
    assert torch.equal(layer(x), twin(x))
    assert isinstance(layer, plain)
    assert (layer.gain is not None) == WEIGHT_NORMS[rule].gain


def test_the_gain_is_one_for_each_output_and_can_be_left_out():
    assert StandardizedConv2d(4, 6, 3, rule="scaled_ws").gain.tolist() == [1.0] * 6
    assert StandardizedLinear(4, 6, rule="scaled_ws", gain=False).gain is None


class TestAgainstTimm:
    def test_scaled_ws(self):
        """timm adds an eps to the variance where the released code has a floor."""
        torch.manual_seed(0)
        theirs = foreign.timm().layers.ScaledStdConv2d(6, 8, 3, gamma=1.7, eps=1e-3).double()
        ours = StandardizedConv2d(6, 8, 3, padding=1, rule="scaled_ws", options={"gamma": 1.7, "eps": 1e-3, "floor": 0})
        ours = ours.double()
        nn.init.uniform_(theirs.gain, 0.5, 2)
        ours.load_state_dict({key: value.view_as(ours.state_dict()[key]) for key, value in theirs.state_dict().items()})
        x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-8, atol=1e-8)
        for layer in (ours, theirs):
            layer(x).square().sum().backward()
        torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(ours.gain.grad, theirs.gain.grad.flatten(), rtol=1e-8, atol=1e-10)

    def test_ws_but_for_the_biased_spread(self):
        theirs = foreign.timm().layers.StdConv2d(6, 8, 3, eps=1e-12).double()
        ours = StandardizedConv2d(6, 8, 3, padding=1, bias=False, rule="ws", options={"eps": 0}).double()
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
        torch.testing.assert_close(ours(x), theirs(x) * np.sqrt(53 / 54), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: StandardizedConv2d(4, 4, 3, rule="scaledws"),
            r"unknown weight norm 'scaledws'\. Did you mean 'scaled_ws'.*Known: ws, scaled_ws, centred_wn, mp\.",
        ),
        (
            lambda: StandardizedLinear(4, 4, rule="ws", options={"gamma": 2.0}),
            r"weight norm 'ws': unknown option 'gamma'\. Known: eps\.",
        ),
        (
            lambda: StandardizedLinear(4, 4, rule="ws", options={"eps": -1}),
            r"weight norm 'ws': option 'eps' is a number, at least 0; got -1\.",
        ),
        (
            lambda: StandardizedLinear(4, 4, rule="ws", gain=True),
            r"weight norm 'ws' has no gain\. Rules with a gain: scaled_ws, centred_wn\.",
        ),
        (
            lambda: StandardizedConv2d(4, 4, 1, groups=4, rule="scaled_ws"),
            r"centres the inputs of each output unit, so there are at least two; got .*\(4, 1, 1, 1\)\. Leave this",
        ),
    ],
)
def test_impossible_layers(call, message):
    with pytest.raises((UnknownNameError, InputError), match=message):
        call()
    assert StandardizedConv2d(4, 4, 1, groups=4, rule="mp").effective_weight().abs().sub(1).abs().max() < 0.1
