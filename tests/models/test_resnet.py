import pytest
import torch
from torch import nn

from spp import models
from spp.nn import gain


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_blocks_are_activated_sums(name):
    torch.manual_seed(0)
    model = models.build(name, norm="group").eval().double()
    for index, changed in ((0, name == "resnet50"), (1, False)):
        block = model.stage1[index]
        x = torch.randn(2, block.conv1.in_channels, 8, 8, dtype=torch.float64)
        layers = 3 if name == "resnet50" else 2
        branch = x
        for number in range(1, layers + 1):
            branch = getattr(block, f"norm{number}")(getattr(block, f"conv{number}")(branch))
            branch = branch.relu() if number < layers else branch
        skip = block.shortcut.norm(block.shortcut.conv(x)) if changed else x
        assert (block.shortcut is None) != changed
        torch.testing.assert_close(block(x), (branch + skip).relu())


def test_the_stride_is_on_the_3x3_convolution():
    block = models.build("resnet50").stage2[0]
    assert (block.conv1.stride, block.conv2.stride, block.conv2.kernel_size) == ((1, 1), (2, 2), (3, 3))
    assert block.shortcut.conv.stride == (2, 2)


@pytest.mark.parametrize(("name", "sides"), [("resnet18", [16, 16, 8, 4, 2]), ("resnet18_cifar", [64, 64, 32, 16, 8])])
def test_map_sizes(name, sides):
    model = models.build(name)
    found = []
    for part in (model.stem, model.stage1, model.stage2, model.stage3, model.stage4):
        part.register_forward_hook(lambda module, inputs, output: found.append(output.shape[-1]))
    model(torch.randn(2, 3, 64, 64))
    assert found == sides


def test_names_read_well():
    names = [name for name, module in models.build("resnet18").named_modules() if not list(module.children())]
    assert names[:10] == [
        *("stem.conv", "stem.norm", "stem.act", "stem.pool"),
        *("stage1.0.conv1", "stage1.0.norm1", "stage1.0.act1", "stage1.0.conv2", "stage1.0.norm2", "stage1.0.act2"),
    ]
    assert {"stage2.0.shortcut.conv", "stage2.0.shortcut.norm"} <= set(names)
    assert names[-3:] == ["head.pool", "head.flatten", "head.fc"]


def test_without_a_norm_a_he_branch_doubles_the_second_moment():
    """ReLU halves it, each convolution doubles it, and the branch has one more convolution than activations."""
    torch.manual_seed(0)
    model = models.build("resnet34_cifar", norm="none", init="he")
    moments = []
    for part in (model.stem.act, model.stage1[0].conv2):
        part.register_forward_hook(lambda module, inputs, output: moments.append(output.square().mean().item()))
    with torch.no_grad():
        model(torch.randn(4, 3, 32, 32))
    assert moments[1] == pytest.approx(2 * moments[0], rel=0.15)


def test_shortcut_modules_exist_only_where_the_shape_changes():
    model = models.build("resnet50")
    with_shortcut = [name for name, module in model.named_modules() if name.endswith("shortcut")]
    assert with_shortcut == [f"stage{stage}.0.shortcut" for stage in (1, 2, 3, 4)]
    assert all(isinstance(model.get_submodule(name).norm, nn.BatchNorm2d) for name in with_shortcut)


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_cifar_resnets_have_the_layers_of_their_name(depth):
    with torch.device("meta"):
        model = models.build(f"resnet{depth}")
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth
    assert [model.get_submodule(f"stage{stage}")[0].conv1.out_channels for stage in (1, 2, 3)] == [16, 32, 64]
    assert model.config.total_stride == 4


def test_the_shortcut_without_parameters_keeps_every_second_pixel_and_adds_zero_channels():
    block = models.build("resnet20").stage2[0]
    x = torch.randn(2, 16, 6, 6)
    out = block.shortcut(x)
    assert torch.equal(out[:, :16], x[:, :, ::2, ::2])
    assert out[:, 16:].abs().max() == 0
    assert out.shape == (2, 32, 3, 3)
    assert repr(block.shortcut) == "Pad(16, stride=2)"


def test_pooled_projections():
    torch.manual_seed(0)
    block = models.build("resnet18", shortcut="pool").stage2[0].eval()
    x = torch.randn(2, 64, 5, 6)
    pooled = nn.functional.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)
    torch.testing.assert_close(block.shortcut(x), block.shortcut.norm(block.shortcut.conv(pooled)))
    assert block.shortcut.conv.stride == (1, 1)


def test_weight_standardization_beside_group_norm():
    """The pair that its authors propose."""
    model = models.build("resnet18_cifar", norm="group", weight_norm="ws", depths=(1, 1), widths=(8, 16))
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert all(conv.rule == "ws" for conv in convs)
    assert sum(isinstance(m, nn.GroupNorm) for m in model.modules()) == len(convs)


def test_scaled_weight_standardization_has_gain_and_bias_where_batch_norm_has_scale_and_shift():
    def names(norm):
        with torch.device("meta"):
            return sum(p.numel() for p in models.build("resnet50", norm=norm).parameters())

    assert names("scaled_ws") == names("batch")


def test_the_activation_has_the_gain_that_the_norm_asks_for():
    def act(**changes):
        with torch.device("meta"):
            return models.build("resnet18", **changes).stem.act

    assert isinstance(act(), nn.ReLU)
    assert act(norm="scaled_ws").gain == gain("relu", "gamma")
    assert act(norm="mp").gain == gain("relu", "rms")
    assert isinstance(act(norm="scaled_ws", gain="none"), nn.ReLU)
    assert act(norm="batch", gain="rms", activation="silu").gain == gain("silu", "rms")


@pytest.mark.parametrize("norm", ["frn", "evonorm_b0", "evonorm_s0"])
def test_norms_that_activate_take_the_activations_place_but_not_behind_the_merge(norm):
    block = models.build("resnet18_cifar", norm=norm, depths=(1, 1), widths=(32, 32)).stage1[0]
    assert isinstance(block.act1, nn.Identity)
    assert isinstance(block.act2, nn.ReLU)
    parameters = {name for name, _ in block.norm1.named_parameters()}
    assert {name for name, _ in block.norm2.named_parameters()} == parameters - {"tau", "v"} == {"weight", "bias"}
