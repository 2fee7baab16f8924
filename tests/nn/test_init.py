"""Inits measured on real layers: the spread of their weights, and of what comes out of them."""

from math import sqrt

import pytest
import torch
from torch import nn

from spp.errors import UnknownNameError
from spp.nn import INITS, initialize_
from spp.nn.init import fans

LAYERS = {
    "conv": lambda: nn.Conv2d(256, 512, 3),
    "narrowing conv": lambda: nn.Conv2d(512, 128, 3),
    "1x1": lambda: nn.Conv2d(256, 512, 1),
    "grouped": lambda: nn.Conv2d(256, 512, 3, groups=8),
    "depthwise": lambda: nn.Conv2d(1152, 1152, 5, groups=1152),
    "conv1d": lambda: nn.Conv1d(64, 96, 5),
    "conv3d": lambda: nn.Conv3d(16, 32, 3),
    "linear": lambda: nn.Linear(512, 300),
}
# (fan_in, fan_out), by hand
FANS = {
    "conv": (256 * 9, 512 * 9),
    "narrowing conv": (512 * 9, 128 * 9),
    "1x1": (256, 512),
    "grouped": (32 * 9, 64 * 9),
    "depthwise": (25, 25),
    "conv1d": (64 * 5, 96 * 5),
    "conv3d": (16 * 27, 32 * 27),
    "linear": (512, 300),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_fans_count_groups(kind):
    assert fans(LAYERS[kind]()) == FANS[kind]


def expected_std(name, layer, kind):
    fan_in, fan_out = FANS[kind]
    kernel = layer.weight[0, 0].numel()
    return {
        "default": sqrt(1 / (3 * fan_in)),
        "he": sqrt(2 / fan_in),
        "he_fan_out": sqrt(2 / fan_out),
        "he_groups_blind": sqrt(2 / (kernel * layer.weight.shape[0])),
        "lecun": sqrt(1 / fan_in),
        "xavier": sqrt(2 / (fan_in + fan_out)),
        # rows or columns of unit norm, whichever are fewer
        "orthogonal": sqrt(1 / max(fan_in, fan_out // kernel)),
        "efficientnet": sqrt(1 / (3 * fan_out)) if kind == "linear" else sqrt(2 / fan_out),
    }[name]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", INITS)
def test_measured_spread_of_the_weights(name, kind):
    torch.manual_seed(0)
    layer = initialize_(LAYERS[kind](), name)
    weight = layer.weight.detach().double()
    assert weight.square().mean().sqrt().item() == pytest.approx(expected_std(name, layer, kind), rel=0.02)
    assert abs(weight.mean()) < 4 * weight.std() / sqrt(weight.numel())
    assert (layer.bias.abs().max() == 0) == (name != "default")


@pytest.mark.parametrize("kind", [kind for kind in LAYERS if kind not in ("conv1d", "conv3d")])
def test_lecun_keeps_unit_variance_and_he_doubles_it(kind):
    torch.manual_seed(0)
    layer = LAYERS[kind]()
    shape = (256, 512) if kind == "linear" else (8, layer.in_channels, 12, 12)
    x = torch.randn(shape)
    with torch.no_grad():
        unit = initialize_(layer, "lecun")(x).square().mean().item()
        double = initialize_(layer, "he")(x).square().mean().item()
    assert unit == pytest.approx(1, rel=0.1)
    assert double == pytest.approx(2, rel=0.1)


def test_the_groups_blind_init_starves_depthwise_convolutions():
    torch.manual_seed(0)
    layer = initialize_(nn.Conv2d(1152, 1152, 5, groups=1152), "he_groups_blind")
    variance = layer(torch.randn(4, 1152, 12, 12)).square().mean().item()
    assert variance == pytest.approx(2 / 1152, rel=0.1)


@pytest.mark.parametrize("kind", ["conv", "narrowing conv", "1x1", "linear"])
def test_without_groups_fan_out_is_torchs(kind):
    layer = LAYERS[kind]()
    torch.manual_seed(3)
    initialize_(layer, "he_fan_out")
    torch.manual_seed(3)
    reference = nn.init.kaiming_normal_(torch.empty_like(layer.weight), mode="fan_out", nonlinearity="relu")
    torch.testing.assert_close(layer.weight.detach(), reference, rtol=1e-6, atol=0)


@pytest.mark.parametrize("groups", [1, 4])
def test_orthogonal_within_each_group(groups):
    layer = initialize_(nn.Conv2d(16, 32, 3, groups=groups).double(), "orthogonal")
    for block in layer.weight.detach().chunk(groups):
        rows = block.flatten(1)
        torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows), dtype=torch.float64))


def test_default_is_torchs_own_bit_for_bit():
    torch.manual_seed(5)
    reference = nn.Linear(20, 30)
    layer = nn.Linear(20, 30)
    torch.manual_seed(5)
    initialize_(layer, "default")
    assert torch.equal(layer.weight, reference.weight)
    assert torch.equal(layer.bias, reference.bias)


def test_norms_are_left_alone_and_the_model_is_returned():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    nn.init.constant_(model[1].weight, 7)
    assert initialize_(model, "he") is model
    assert torch.equal(model[1].weight, torch.full((4,), 7.0))


@pytest.mark.parametrize("name", INITS)
def test_meta_tensors_are_no_hindrance(name):
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Linear(3, 4))
        assert initialize_(model, name)[1].weight.is_meta


def test_unknown_init_names_the_nearest_and_all():
    with pytest.raises(
        UnknownNameError, match=r"unknown init 'lecunn'\. Did you mean 'lecun'\? Known: default, he, .*eff"
    ):
        initialize_(nn.Linear(1, 1), "lecunn")


def test_every_init_has_a_description():
    assert all(row.description for row in INITS.values())
