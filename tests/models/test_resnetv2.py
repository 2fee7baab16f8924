"""Pre-activation ResNets, against their definition and the closed form of their Signal Propagation Plot."""

from math import pi

import pytest
import torch
from torch import nn

from spp import models
from spp.data import gaussian
from spp.errors import UnknownNameError


@pytest.mark.parametrize("name", ["resnetv2_18", "resnetv2_50"])
def test_the_projection_is_fed_by_the_normalized_activation(name):
    torch.manual_seed(0)
    model = models.build(name, norm="group").double()
    for block in (model.stage2[0], model.stage2[1]):
        x = torch.randn(2, block.norm1.num_channels, 8, 8, dtype=torch.float64)
        normalized = block.norm1(x).relu()
        branch = block.conv2(block.norm2(block.conv1(normalized)).relu())
        if name == "resnetv2_50":
            branch = block.conv3(block.norm3(branch).relu())
        skip = x if block.shortcut is None else block.shortcut(normalized)
        torch.testing.assert_close(block(x), branch + skip)
    assert model.stage2[0].shortcut is not None
    assert model.stage2[1].shortcut is None


def test_names_read_well():
    names = [name for name, module in models.build("resnetv2_18").named_modules() if not list(module.children())]
    assert names[:4] == ["stem.conv", "stem.pool", "stage1.0.norm1", "stage1.0.act1"]
    assert names[-5:] == ["final.norm", "final.act", "head.pool", "head.flatten", "head.fc"]


@pytest.fixture(scope="module")
def signals():
    """ACSM and ACV at the end of each block and ACV of each branch, of (3, 4, 6, 3) blocks at 64x64."""
    torch.manual_seed(0)
    model = models.build("resnetv2_50", norm="batch", init="he")
    found = {}

    def hook(key):
        def keep(module, inputs, output):
            x = output.double()
            found[key] = (
                x.mean((0, 2, 3)).square().mean().item(),
                x.var((0, 2, 3), correction=0).mean().item(),
            )

        return keep

    for stage in (2, 3, 4):
        for index, block in enumerate(model.get_submodule(f"stage{stage}"), 1):
            block.register_forward_hook(hook((stage, index, "sum")))
            block.conv3.register_forward_hook(hook((stage, index, "branch")))
    with torch.no_grad():
        model(gaussian(16, (3, 64, 64)))
    return found


@pytest.mark.parametrize(("stage", "blocks"), [(2, 4), (3, 6), (4, 3)])
def test_signal_propagation_is_the_closed_form(signals, stage, blocks):
    for k in range(1, blocks + 1):
        acsm, acv = signals[stage, k, "sum"]
        assert acv == pytest.approx((k + 1) * (1 - 1 / pi), rel=0.05)
        assert acsm == pytest.approx((k + 1) / pi, rel=0.2)
        assert signals[stage, k, "branch"][1] == pytest.approx(1 - 1 / pi, rel=0.05)


def test_without_a_norm_the_second_moment_grows_with_every_block():
    torch.manual_seed(0)
    model = models.build("resnetv2_18", norm="none", init="he")
    moments = []
    for stage in (1, 2, 3, 4):
        for block in model.get_submodule(f"stage{stage}"):
            block.register_forward_hook(lambda module, inputs, output: moments.append(output.square().mean().item()))
    with torch.no_grad():
        model(gaussian(4, (3, 64, 64)))
    # A branch has unit gain up to padding, so a block about doubles; projections start anew from the activated half.
    assert moments[-1] > 8 * moments[0]


def test_the_norm_may_stand_behind_the_activation():
    models_ = {}
    for order in ("norm_act", "act_norm"):
        torch.manual_seed(0)
        models_[order] = models.build("resnetv2_50", depths=(1, 2), widths=(8, 16), norm="group", order=order).double()
    first, last = models_.values()
    assert [name for name, _ in first.named_parameters()] == [name for name, _ in last.named_parameters()]
    block, x = last.stage2[1], torch.randn(2, 64, 8, 8, dtype=torch.float64)
    out = block.conv1(block.norm1(x.relu()))
    out = block.conv3(block.norm3(block.conv2(block.norm2(out.relu())).relu()))
    torch.testing.assert_close(block(x), x + out)
    torch.testing.assert_close(last.final(x), last.final.norm(x.relu()))
    small = models.build("resnetv2_18", depths=(1, 1), widths=(8, 16), norm="evonorm_s0", order="act_norm")
    assert isinstance(small.stage1[0].act1, nn.ReLU)  # a norm that is an activation too is a norm alone there
    with pytest.raises(UnknownNameError, match=r"unknown order 'last'.*norm_act, act_norm"):
        models.build("resnetv2_50", order="last")
    with pytest.raises(UnknownNameError, match=r"unknown order 'act_norm'.*Known: norm_act"):
        models.build("resnet50", order="act_norm")


def test_with_the_norm_behind_the_activation_branches_have_no_mean():
    """Brock et al. 2021: the mean shift is the doing of activation and convolution, with no norm between them."""
    torch.manual_seed(0)
    model = models.build(
        "resnetv2_50", depths=(2, 2), widths=(64, 128), init="lecun", order="act_norm", input_shape=(3, 32, 32)
    )
    found = []
    for block in (*model.stage1, *model.stage2):
        block.conv3.register_forward_hook(lambda module, inputs, output: found.append(output.double()))
    with torch.no_grad():
        model(gaussian(16, (3, 32, 32)))
    for out in found:
        assert out.mean((0, 2, 3)).square().mean() < 1e-10
        assert out.var((0, 2, 3), correction=0).mean() == pytest.approx(1, rel=0.05)
