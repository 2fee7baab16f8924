"""Every rule against the layer itself: a wide random network with the layer in it, measured over a few draws of its weights."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spp
from spp.nn import SqueezeExcite, StandardizedConv2d, StochasticDepth
from spp.theory import attach, predict
from spp.theory.rules import RULES
from spp.theory.rules.elementwise import unary


class Through(nn.Module):
    """A function as a module."""

    def __init__(self, function, *children):
        super().__init__()
        self.function, self.inner = function, nn.ModuleList(children)

    def forward(self, x):
        return self.function(x, *self.inner)


def compare(make, shape, *, draws=2, rel=0.1, acsm=None, gradient=0.15, names=None):
    """Every leaf's second moment (and ACSM, where asked for) and gradient, as geometric means over draws of the weights."""
    second, means, backward = [], [], []
    for seed in range(draws):
        torch.manual_seed(1000 + seed)
        model = make()
        prediction = predict(model, shape)
        assert (prediction["reason"] == "").all(), prediction[prediction["reason"] != ""]
        frame = attach(spp.trace(model, spp.data.gaussian(shape[0], shape[1:], seed=seed), seed=seed).frame, prediction)
        frame = frame[frame["leaf"] if names is None else frame["name"].isin(names)]
        rows = frame[frame["signal"] == "activation"].set_index("name")
        second.append(rows["mean_square"] / (rows["acsm_predicted"] + rows["acv_predicted"]))
        means.append(rows["acsm"] / rows["acsm_predicted"])
        rows = frame[(frame["signal"] == "gradient") & frame["mean_square"].gt(0)].set_index("name")
        backward.append(rows["mean_square"] / rows["gradient_predicted"])
    for values, tolerance in ((second, rel), (means, acsm), (backward, gradient)):
        if tolerance is not None:
            found = np.exp(np.mean([np.log(v) for v in values], 0))
            assert found == pytest.approx(np.ones_like(found), rel=tolerance), dict(
                zip(values[0].index, found, strict=True)
            )


def he(layer):
    nn.init.normal_(layer.weight, std=(2 / layer.weight[0].numel()) ** 0.5)
    if layer.bias is not None:
        nn.init.normal_(layer.bias, std=0.3)
    return layer


def conv(i, o, k, **options):
    return he(nn.Conv2d(i, o, k, **options))


CONVOLUTIONS = {
    "plain": {"padding": 1},
    "strided": {"stride": 2, "padding": 1},
    "valid": {},
    "dilated": {"padding": 2, "dilation": 2},
    "grouped": {"padding": 1, "groups": 8},
    "same": {"padding": "same"},
    "circular": {"padding": 1, "padding_mode": "circular"},
    "reflected": {"padding": 1, "padding_mode": "reflect"},
}


@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolutions(options):
    compare(
        lambda: nn.Sequential(
            conv(8, 64, 3, padding=1), nn.ReLU(), conv(64, 128, 3, **options), nn.ReLU(), conv(128, 64, 1)
        ),
        (16, 8, 9, 9),
    )


def test_depthwise_convolutions_pass_the_scales_of_channels_on():
    def make():
        depthwise = conv(256, 256, 3, padding=1, groups=256)
        return nn.Sequential(conv(8, 256, 1), nn.ReLU(), depthwise, nn.BatchNorm2d(256), nn.ReLU(), conv(256, 64, 1))

    compare(make, (16, 8, 8, 8), gradient=0.2)


@pytest.mark.parametrize("dims", [1, 3])
def test_convolutions_of_other_ranks(dims):
    kind = {1: nn.Conv1d, 3: nn.Conv3d}[dims]
    compare(
        lambda: nn.Sequential(
            he(kind(8, 64, 3, padding=1)),
            nn.Tanh(),
            he(kind(64, 96, 3, stride=2, padding=1)),
            nn.ReLU(),
            he(kind(96, 64, 1)),
        ),
        (16, 8, *(5,) * dims),
    )


def test_standardized_weights_take_the_common_mean_away():
    def make():
        return nn.Sequential(
            nn.ReLU(), StandardizedConv2d(64, 256, 1, rule="scaled_ws", bias=False), nn.ReLU(), conv(256, 64, 1)
        )

    torch.manual_seed(0)
    rows = predict(make(), (16, 64, 8, 8)).set_index("name")
    assert rows.loc["0", "acsm_predicted"] == pytest.approx(1 / (2 * np.pi), rel=0.02)
    assert rows.loc["1", "acsm_predicted"] < 0.01
    compare(make, (16, 64, 8, 8))


NORMS = {
    "batch": lambda: nn.BatchNorm2d(96),
    "batch_of_biased": lambda: nn.Sequential(Through(lambda x: x + 3.0), nn.BatchNorm2d(96)),
    "group": lambda: nn.GroupNorm(8, 96),
    "one_group": lambda: nn.GroupNorm(1, 96),
    "instance": lambda: nn.InstanceNorm2d(96),
    "layer": lambda: spp.nn.make_norm("layer", 96),
    "rms": lambda: spp.nn.make_norm("rms", 96),
    "affine": lambda: spp.nn.make_norm("affine", 96),
    "dyt": lambda: spp.nn.make_norm("dyt", 96),
    "batch_eval": lambda: nn.BatchNorm2d(96).eval(),
    "layer_over_space": lambda: nn.LayerNorm((96, 8, 8)),
}


@pytest.mark.parametrize("make_norm", NORMS.values(), ids=NORMS)
def test_norms(make_norm):
    def make():
        norm = make_norm()
        for name, parameter in norm.named_parameters():
            if name.endswith("weight"):
                nn.init.uniform_(parameter, 0.5, 1.5)
            elif name.endswith("bias"):
                nn.init.normal_(parameter, std=0.2)
        return nn.Sequential(conv(8, 96, 3, padding=1), nn.ReLU(), conv(96, 96, 1), norm, nn.ReLU(), conv(96, 64, 1))

    compare(make, (16, 8, 8, 8), draws=4, rel=0.12, gradient=0.2)


@pytest.mark.parametrize("norm", ["batch", "layer", "rms", "affine", "dyt", "batch_minus"])
def test_norms_of_vectors(norm):
    def make():
        return nn.Sequential(
            he(nn.Linear(256, 512)), spp.nn.make_norm(norm, 512, dims=0), nn.ReLU(), he(nn.Linear(512, 512))
        )

    compare(make, (64, 256))


POOLS = {
    "max": nn.MaxPool2d(3, 2, 1),
    "max_even": nn.MaxPool2d(2),
    "average": nn.AvgPool2d(2),
    "average_padded": nn.AvgPool2d(3, 2, 1),
    "average_uncounted": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "adaptive": nn.AdaptiveAvgPool2d(4),
    "global": nn.AdaptiveAvgPool2d(1),
    "mean": Through(lambda x: x.mean((2, 3), keepdim=True)),
}


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_pooling(pool):
    def make():
        # 1x1 convolutions of independent pixels: neighbours share no more than a sample does
        return nn.Sequential(conv(32, 128, 1), pool, conv(128, 128, 1))

    compare(make, (16, 32, 8, 8), rel=0.12, gradient=None if "max" in type(pool).__name__.lower() else 0.2)


def test_maximum_of_an_activation_and_its_gradient():
    def make():
        return nn.Sequential(conv(32, 128, 1), nn.ReLU(), nn.MaxPool2d(2), conv(128, 128, 1))

    compare(make, (16, 32, 8, 8), rel=0.12, gradient=0.25, names=["1", "2", "3"])


def test_squeeze_and_excitation():
    def make():
        gate = SqueezeExcite(128, 32, "relu", scale="plain")
        for layer in (gate.reduce, gate.expand):
            he(layer)
        return nn.Sequential(conv(16, 128, 1), nn.ReLU(), gate, conv(128, 64, 1))

    compare(make, (16, 16, 8, 8), rel=0.12, gradient=0.3, names=["1", "2", "3"])


DROPS = {
    "dropout": nn.Dropout(0.3),
    "channels": nn.Dropout2d(0.3),
    "alpha": nn.AlphaDropout(0.2),
    "depth": StochasticDepth(0.4),
    "depth_unscaled": StochasticDepth(0.4, rescale=False),
}


@pytest.mark.parametrize("drop", DROPS.values(), ids=DROPS)
def test_random_drops(drop):
    def make():
        return nn.Sequential(conv(16, 128, 1), nn.SELU(), drop, conv(128, 64, 1))

    compare(make, (64, 16, 4, 4), draws=6, rel=0.15, gradient=0.15)
    model = make().eval()
    rows = predict(model, (8, 16, 4, 4)).set_index("name")
    assert rows.loc["2", "acv_predicted"] == rows.loc["1", "acv_predicted"]


def test_functions_of_functions_are_evaluated_where_the_signal_is_normal():
    """``x sigmoid(x)`` and ``relu(x)^2`` by parts, a shift and a scale, in place and not."""

    def make():
        return nn.Sequential(
            OrderedDict(
                linear1=he(nn.Linear(256, 512)),
                swish=Through(lambda x: x * torch.sigmoid(x)),
                linear2=he(nn.Linear(512, 512)),
                squared=Through(lambda x: F.relu(x).square()),
                linear3=he(nn.Linear(512, 512)),
                shifted=Through(lambda x: F.relu6(x + 3.0) / 6 * x),
                linear4=he(nn.Linear(512, 512)),
                inplace=nn.ReLU(inplace=True),
                clamped=Through(lambda x: torch.clamp(x, 0.5, 1.0)),
                linear5=he(nn.Linear(512, 512)),
            )
        )

    compare(make, (64, 256), acsm=0.15, gradient=0.2, names=["swish", "squared", "shifted", "clamped", "linear5"])
    torch.manual_seed(0)
    model = nn.Sequential(he(nn.Linear(256, 512, bias=False)), Through(lambda x: x * torch.sigmoid(x)))
    rows = predict(model, (64, 256)).set_index("name")
    direct = nn.Sequential(model[0], nn.SiLU())
    expected = predict(direct, (64, 256)).set_index("name")
    columns = ["acsm_predicted", "acv_predicted", "log_spread_predicted"]
    assert rows.loc["1", columns].tolist() == pytest.approx(expected.loc["1", columns].tolist(), rel=1e-9)


class Branches(nn.Module):
    """Sums, differences, joins, parts, slices, padding."""

    def __init__(self):
        super().__init__()
        self.first, self.left, self.right = conv(8, 64, 1), conv(64, 64, 3, padding=1), conv(64, 64, 1)
        self.joined, self.last, self.out = nn.Identity(), conv(128, 96, 1), conv(48, 64, 1)
        self.sliced, self.padded, self.reduced, self.parts = (nn.Identity() for _ in range(4))

    def forward(self, x):
        x = F.relu(self.first(x))
        left, right = self.left(x), self.right(x)
        x = torch.cat([left + 0.5 * right, x - left], dim=1)
        x = F.relu_(self.last(self.joined(x)))
        x, _ = x.chunk(2, dim=1)
        x = self.parts(x)
        x = self.sliced(x[:, :, ::2, 1:])
        x = self.padded(F.pad(x, (1, 0, 2, 1)))
        return self.out(self.reduced(x[:, :, 2:-1, 1:]))


def test_sums_joins_and_slices():
    names = ["joined", "last", "parts", "sliced", "padded", "out"]
    compare(Branches, (16, 8, 8, 8), draws=6, rel=0.2, gradient=0.3, names=names)  # 48 channels are few


def test_tokens():
    """Layers on (N, T, F): Linear and LayerNorm over the last axis, permuted in between."""

    def make():
        return nn.Sequential(
            he(nn.Linear(64, 256)),
            nn.LayerNorm(256),
            nn.GELU(),
            Through(lambda x: x.transpose(1, 2)),
            Through(lambda x: x.permute(0, 2, 1)),
            he(nn.Linear(256, 128)),
            nn.RMSNorm(128),
        )

    compare(make, (16, 10, 64))


def test_flattening_a_map():
    def make():
        return nn.Sequential(conv(8, 64, 1), nn.ReLU(), nn.Flatten(), he(nn.Linear(64 * 16, 256)))

    compare(make, (32, 8, 4, 4), acsm=0.2)


def test_a_tensor_in_place_of_a_shape_gives_its_own_moments():
    torch.manual_seed(0)
    model = nn.Sequential(conv(3, 64, 3, padding=1), nn.ReLU(), conv(64, 64, 1))
    images = 2 + 3 * torch.randn(16, 3, 1, 1) + torch.randn(16, 3, 8, 8)  # a mean, and pixels that go together
    rows = attach(spp.trace(model, images).frame, predict(model, images))
    rows = rows[rows["leaf"] & (rows["signal"] == "activation")]
    assert rows["mean_square"].tolist() == pytest.approx(
        (rows["acsm_predicted"] + rows["acv_predicted"]).tolist(), rel=0.25
    )
    noise = predict(model, (16, 3, 8, 8))
    assert rows["mean_square"].iloc[0] > 5 * (noise["acsm_predicted"] + noise["acv_predicted"]).iloc[0]


def test_standardized_weights_take_out_a_mean_that_longer_samples_have_more_of():
    """Behind a max pool samples differ in length and have a common mean, of which nothing is left."""

    torch.manual_seed(0)
    first = StandardizedConv2d(3, 128, 7, padding=3, rule="scaled_ws", bias=False)
    model = nn.Sequential(
        first, nn.MaxPool2d(3, 2), nn.ReLU(), StandardizedConv2d(128, 128, 1, rule="scaled_ws", bias=False)
    )
    shape = (8, 3, 16, 16)
    frame = attach(spp.trace(model, spp.data.gaussian(shape[0], shape[1:], seed=0)).frame, predict(model, shape))
    rows = frame[(frame["signal"] == "activation") & frame["leaf"]].set_index("name")
    before, behind = rows.loc["2"], rows.loc["3"]
    assert before["acsm_predicted"] > 0.5 * before["mean_square"]
    assert max(behind["acsm_predicted"], behind["acsm"]) < 0.01 * behind["mean_square"]
    assert before["acsm_predicted"] + before["acv_predicted"] == pytest.approx(before["mean_square"], rel=0.04)
    predicted = (behind["acsm_predicted"] + behind["acv_predicted"]) / (
        before["acsm_predicted"] + before["acv_predicted"]
    )
    assert predicted == pytest.approx(behind["mean_square"] / before["mean_square"], rel=0.02)


def test_a_rule_from_outside_is_one_function():
    """Entered by its decorator, used by whatever model calls torch's function, and said to be missing before."""

    def make():
        return nn.Sequential(he(nn.Linear(256, 512)), Through(torch.special.ndtr), he(nn.Linear(512, 512)))

    assert predict(make(), (64, 256))["reason"].tolist() == ["", *["no rule for special_ndtr"] * 3]

    @spp.theory.rule(torch.special.ndtr)
    def ndtr(x: spp.theory.MomentsState) -> spp.theory.MomentsState:
        return unary(x, torch.special.ndtr)

    try:
        compare(make, (64, 256))
    finally:
        del RULES[torch.special.ndtr]
