"""NF-ResNets and NF-EfficientNets: their books, and the signal they promise."""

import pytest
import torch
from torch import nn

from spp import models
from spp.data import gaussian
from spp.nn import ScaledActivation, StandardizedConv2d, gain
from spp.nn.residual import residual_blocks


def spread(x):
    x = x.detach().double()
    return x.var((0, 2, 3), correction=0).mean().item(), x.mean((0, 2, 3)).square().mean().item()


def watch(model, branch_end, batch):
    """``{block: (ACV of the branch, ACV, ACSM)}`` of one pass at init."""
    found = {}
    for name, block in model.named_modules():
        if name in residual_blocks(model):
            found[name] = [0.0, 0.0, 0.0]
            block.get_submodule(branch_end).register_forward_hook(
                lambda _m, _i, out, name=name: found[name].__setitem__(0, spread(out)[0])
            )
            block.register_forward_hook(
                lambda _m, _i, out, name=name: found[name].__setitem__(slice(1, 3), spread(out))
            )
    with torch.no_grad():
        model(batch)
    return found


def test_the_books_of_nf_resnet_50():
    with torch.device("meta"):
        model = models.build("nf_resnet50")
    betas = [block.beta for block in residual_blocks(model).values()]
    assert betas == pytest.approx(
        [
            *(1, 1.019804, 1.03923),
            *(1.058301, 1.019804, 1.03923, 1.058301),
            *(1.077033, 1.019804, 1.03923, 1.058301, 1.077033, 1.095445),
            *(1.113553, 1.019804, 1.03923),
        ],
        abs=5e-7,
    )
    rates = [block.drop_rate for block in residual_blocks(model).values()]
    assert rates == pytest.approx([0.1 * index / 16 for index in range(16)])


def test_parts_of_nf_resnet_50():
    with torch.device("meta"):
        model = models.build("nf_resnet50")
    counts = {"conv": 0, "gain": 0, "bias": 0, "skip_gain": 0}
    for name, parameter in model.named_parameters():
        if not name.startswith("head"):
            key = name.rpartition(".")[2]
            counts["conv" if key == "weight" else key] += parameter.numel()
    assert counts == {"conv": 23_454_912, "gain": 26_560, "bias": 26_560, "skip_gain": 16}
    assert all(isinstance(m, StandardizedConv2d) for m in model.modules() if isinstance(m, nn.Conv2d))
    acts = [m for m in model.modules() if isinstance(m, ScaledActivation)]
    assert len(acts) == 16 * 3 + 1
    assert {act.gain for act in acts} == {gain("relu")}


def test_with_a_closed_skip_the_variance_of_a_stage_is_flat_and_with_an_open_one_it_is_not():
    torch.manual_seed(0)
    batch = gaussian(4, (3, 32, 32))
    arguments = {"depths": (3, 3), "widths": (32, 64), "stem": "cifar", "input_shape": (3, 32, 32), "drop_path": 0.0}
    closed = [row[1] for row in watch(models.build("nf_resnet50", **arguments), "conv3", batch).values()]
    assert closed[:3] == pytest.approx(3 * closed[:1], rel=1e-6)
    options = {"gain": 1.0, "alpha": 1.0}
    opened = [
        row[1]
        for row in watch(models.build("nf_resnet50", residual_options=options, **arguments), "conv3", batch).values()
    ]
    assert opened[2] > 1.8 * opened[0]


@pytest.fixture(scope="module")
def plot():
    """Branch ACV, ACV and ACSM by block, of NF-ResNet-50 with open skips at 64x64."""
    torch.manual_seed(0)
    model = models.build("nf_resnet50", residual_options={"gain": 1.0}, drop_path=0.0)
    return watch(model, "conv3", gaussian(16, (3, 64, 64)))


def test_signal_propagation_is_the_paper_s(plot):
    """Branches of unit variance but for zero padding, variance 1 + k alpha^2, no mean: the reference sheet's numbers."""
    stages = {stage: [row for name, row in plot.items() if name.startswith(f"stage{stage}.")] for stage in (1, 2, 3, 4)}
    branch = [sum(row[0] for row in rows) / len(rows) for rows in stages.values()]
    assert branch == pytest.approx([0.98, 0.90, 0.73, 0.45], abs=0.05)
    for rows in stages.values():
        for k, (_, acv, acsm) in enumerate(rows, 1):
            assert acv == pytest.approx(1 + 0.04 * k, rel=0.25)
            assert acsm < 0.03


def test_and_without_weight_standardization_the_mean_shifts(plot):
    """The same network with plain Gaussian weights of variance 1/fan_in, and the gain kept."""
    torch.manual_seed(0)
    model = models.build("nf_resnet50", norm="none", gain="gamma", residual_options={"gain": 1.0}, drop_path=0.0)
    shifted = watch(model, "conv3", gaussian(16, (3, 64, 64)))
    assert max(row[2] for row in shifted.values()) > 3
    assert max(row[0] for row in shifted.values()) > 3
    assert max(row[2] for row in plot.values()) < 0.03


@pytest.mark.parametrize(
    ("side", "factor"),
    [(2, 0.4444), (4, 0.6944), (7, 0.8186), (8, 0.8403), (14, 0.9070), (16, 0.9184), (28, 0.9530), (56, 0.9763)],
)
def test_what_zero_padding_takes(side, factor):
    """The share of a 3x3 kernel's taps that fall inside the map: ((3H - 2) / (3H))^2."""
    ones = torch.ones(1, 1, side, side, dtype=torch.float64)
    share = nn.functional.conv2d(ones, torch.ones(1, 1, 3, 3, dtype=torch.float64), padding=1).mean().item() / 9
    assert share == pytest.approx(((3 * side - 2) / (3 * side)) ** 2, rel=1e-12)
    assert share == pytest.approx(factor, abs=6e-5)
    if side <= 8:
        torch.manual_seed(0)
        layer = StandardizedConv2d(64, 256, 3, padding=1, rule="scaled_ws", bias=False)
        with torch.no_grad():
            variance = layer(torch.randn(64, 64, side, side)).square().mean().item()
        assert variance == pytest.approx(factor, rel=0.04)


def test_the_betas_of_nf_efficientnet_reset_where_there_is_no_skip():
    with torch.device("meta"):
        model = models.build("effnet_b0_nf")
    blocks = [block for stage in range(1, 8) for block in model.get_submodule(f"stage{stage}")]
    merging = [False, False, True, False, True, False, True, True, False, True, True, False, True, True, True, False]
    expected, variance = [], 1.0
    for merges in merging:
        expected.append(variance**0.5)
        variance = variance + 0.04 if merges else 1.0
    assert [block.merges for block in blocks] == merging
    assert [block.beta for block in blocks] == pytest.approx(expected)
    assert max(expected) == pytest.approx(1.12**0.5)


def test_nf_efficientnet_keeps_its_signal_where_the_bare_network_loses_it():
    found = {}
    for name, changes in (
        ("effnet_b0_nf", {"residual_options": {"gain": 1.0}}),
        ("effnet_b0", {"norm": "none"}),
        ("effnet_b0_gain", {}),
    ):
        torch.manual_seed(0)
        model = models.build(name, drop_path=0.0, dropout=0.0, num_classes=100, **changes)
        model.final.conv.register_forward_pre_hook(
            lambda _m, inputs, name=name: found.update({name: spread(inputs[0])[0]})
        )
        with torch.no_grad():
            model(gaussian(4, (3, 96, 96)))
    assert 0.1 < found["effnet_b0_nf"] < 2
    # plain squeeze-and-excitation quarters the variance in each of the 16 blocks of both
    assert 100 * found["effnet_b0"] < found["effnet_b0_gain"] < 1e-5


def test_a_block_without_a_skip_is_not_scaled_by_alpha():
    """The thesis multiplies there too, and the variance falls to alpha^2."""
    torch.manual_seed(0)
    model = models.build("effnet_b0_nf", drop_path=0.0, input_shape=(3, 64, 64)).eval().double()
    block = model.stage2[0]
    x = torch.randn(2, 16, 32, 32, dtype=torch.float64)
    act = block.pre_act
    branch = act(block.expand(act(x) / block.beta))
    branch = block.project(block.se(act(block.depthwise(branch))))
    torch.testing.assert_close(block(x), branch)
