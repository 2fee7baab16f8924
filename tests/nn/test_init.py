"""Inits measured on real layers: the spread of their weights, and of what comes out of them."""

from math import sqrt

import pytest
import torch
from torch import nn

from spp import models
from spp.errors import InputError, UnknownNameError
from spp.nn import INITS, BatchRenorm, StandardizedConv2d, initialize_, lsuv_, zero_gamma_
from spp.nn.init import delta_orthogonal_, fans, fixup_scale
from spp.nn.residual import residual_blocks

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
        "delta_orthogonal": sqrt(1 / (fan_out // kernel * (kernel if kind != "linear" else 1)))
        if kind != "linear"
        else sqrt(1 / max(fan_in, fan_out)),
        "small_normal": 0.01,
        "efficientnet": sqrt(1 / (3 * fan_out)) if kind == "linear" else sqrt(2 / fan_out),
    }[name]


WIDENING = [kind for kind in LAYERS if kind != "narrowing conv"]
BY_LAYER = [name for name in INITS if INITS[name].finish is None]
PAIRS = [(name, kind) for name in BY_LAYER for kind in (WIDENING if name == "delta_orthogonal" else LAYERS)]


@pytest.mark.parametrize(("name", "kind"), PAIRS)
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


@pytest.mark.parametrize(("dims", "stride", "groups"), [(1, 1, 1), (2, 2, 1), (2, 1, 4), (3, 2, 1)])
@pytest.mark.parametrize(("name", "gain"), [("lecun", 1), ("he", 2)])
def test_transposed_convolutions_keep_and_double_the_variance_too(name, gain, dims, stride, groups):
    torch.manual_seed(0)
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
    layer = initialize_(kind(64, 64, 4, stride=stride, groups=groups), name)
    # places at the rim see fewer taps
    inner = (slice(None), slice(None), *[slice(4, -4)] * dims)
    out = layer(torch.randn(8, 64, *[10] * dims))[inner]
    assert out.square().mean().item() == pytest.approx(gain, rel=0.15)


def test_a_transposed_convolution_may_be_delta_orthogonal():
    weight = initialize_(nn.ConvTranspose2d(16, 32, 3), "delta_orthogonal").weight.detach()
    centre = weight[:, :, 1, 1]
    assert torch.allclose(centre @ centre.T, torch.eye(16), atol=1e-5)
    assert weight.square().sum() == pytest.approx(16, rel=1e-5)


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


@pytest.mark.parametrize("name", BY_LAYER)
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


class TestNumbersOfTheSheet:
    def std(self, layer, name):
        torch.manual_seed(0)
        return initialize_(layer, name).weight.double().std().item()

    def test_he(self):
        layer = nn.Conv2d(256, 512, 3)
        assert (sqrt(2 / fans(layer)[0]), sqrt(2 / fans(layer)[1])) == pytest.approx((0.0294627825, 0.0208333333))
        assert self.std(layer, "he") == pytest.approx(0.0294627825, rel=2e-3)
        assert self.std(layer, "he_fan_out") == pytest.approx(0.0208333333, rel=2e-3)

    def test_xavier(self):
        layer = nn.Linear(100, 50)
        assert self.std(layer, "xavier") == pytest.approx(0.1154700538, rel=0.02)
        assert 0.199 < layer.weight.abs().max().item() <= 0.2

    def test_lecun(self):
        assert self.std(nn.Linear(100, 500), "lecun") == pytest.approx(0.1, rel=0.01)

    def test_torch(self):
        layer = nn.Linear(100, 500)
        assert self.std(layer, "default") == pytest.approx(1 / sqrt(300), rel=0.01)
        assert max(layer.weight.abs().max().item(), layer.bias.abs().max().item()) <= 0.1

    def test_gains_that_torch_has(self):
        """Other than ``spp.nn.gain`` by convention or by approximation: not to be mixed up."""
        gains = [nn.init.calculate_gain(name) for name in ("tanh", "selu")]
        assert [*gains, nn.init.calculate_gain("leaky_relu", 0.2)] == pytest.approx([5 / 3, 3 / 4, 1.3867504906])

    def test_fixup(self):
        found = [fixup_scale(branches, layers) for branches, layers in ((8, 2), (16, 3), (54, 2))]
        assert found == pytest.approx([0.3535533906, 0.5, 0.1360827635], abs=1e-10)


def test_orthogonal_keeps_norms_exactly_where_square():
    layer = initialize_(nn.Linear(64, 64).double(), "orthogonal")
    x = torch.randn(5, 64, dtype=torch.float64)
    torch.testing.assert_close(layer(x).norm(dim=1), x.norm(dim=1), rtol=1e-12, atol=0)


class TestDeltaOrthogonal:
    @pytest.mark.parametrize(("inputs", "outputs", "groups"), [(8, 8, 1), (8, 20, 1), (8, 16, 4)])
    @pytest.mark.parametrize("mode", ["zeros", "circular"])
    def test_keeps_the_norm_of_every_position(self, inputs, outputs, groups, mode):
        layer = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode=mode, groups=groups).double()
        initialize_(layer, "delta_orthogonal")
        x = torch.randn(2, inputs, 6, 5, dtype=torch.float64)
        torch.testing.assert_close(layer(x).norm(dim=1), x.norm(dim=1), rtol=1e-12, atol=0)

    def test_and_a_he_convolution_does_not(self):
        layer = initialize_(nn.Conv2d(8, 8, 3, padding=1), "he")
        x = torch.randn(2, 8, 6, 5)
        assert (layer(x).norm(dim=1) / x.norm(dim=1) - 1).abs().max() > 0.3

    def test_gain_and_centre(self):
        weight = delta_orthogonal_(torch.randn(6, 4, 5, 3), gain=2.0)
        assert weight.abs().amax((0, 1)).nonzero().tolist() == [[2, 1]]
        torch.testing.assert_close(weight[:, :, 2, 1].T @ weight[:, :, 2, 1], 4 * torch.eye(4))

    def test_impossible_layers(self):
        with pytest.raises(
            InputError, match=r"init 'delta_orthogonal' of layer '1': .* as many outputs as inputs; got 8 to 4"
        ):
            initialize_(nn.Sequential(nn.ReLU(), nn.Conv2d(8, 4, 3)), "delta_orthogonal")
        with pytest.raises(InputError, match=r"has a centre, so its sides are odd; got \(2, 3\)"):
            delta_orthogonal_(torch.empty(4, 4, 2, 3))


class TestLSUV:
    def network(self, scale):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 16, 3), nn.Tanh(), nn.Conv2d(16, 24, 3, groups=2), nn.ReLU(), nn.Flatten()]
        model = nn.Sequential(*layers, nn.Linear(24 * 16, 10))
        for layer in (model[0], model[2], model[5]):
            nn.init.normal_(layer.weight, std=scale)
            nn.init.zeros_(layer.bias)
        return model, torch.randn(64, 3, 8, 8) * 3 + 1

    @pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
    @pytest.mark.parametrize("orthogonal", [True, False])
    def test_every_layer_ends_within_the_tolerance(self, scale, orthogonal):
        model, x = self.network(scale)
        done = lsuv_(model, x, tolerance=0.02, orthogonal=orthogonal)
        assert list(done) == ["0", "2", "5"]
        for index, name in ((1, "0"), (3, "2"), (6, "5")):
            variance = model[:index](x).var(correction=0).item()
            assert variance == pytest.approx(1, abs=0.02)
            assert done[name].after == pytest.approx(variance, rel=1e-4)
            assert abs(done[name].before - 1) > 0.02 or done[name].steps == 0

    def test_without_it_they_do_not(self):
        model, x = self.network(1e-4)
        assert model(x).var().item() < 1e-6

    def test_one_step_suffices_without_bias_and_none_where_nothing_is_to_do(self):
        layer = nn.Linear(50, 50, bias=False)
        x = torch.randn(4000, 50)
        assert lsuv_(layer, x * 7)[""].steps == 1
        assert lsuv_(initialize_(nn.Linear(50, 50), "orthogonal"), x)[""].steps == 0

    def test_a_standardized_weight_is_rescaled_by_its_gain(self):
        torch.manual_seed(0)
        model = nn.Sequential(StandardizedConv2d(3, 8, 3, rule="scaled_ws"))
        x = 5 * torch.randn(16, 3, 8, 8)
        assert lsuv_(model, x)["0"].steps == 1
        assert model(x).var().item() == pytest.approx(1, abs=0.01)

    def test_statistics_of_norms_and_flags_stay(self):
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), BatchRenorm(8), nn.Linear(8, 8)).train()
        kept = {key: value.clone() for key, value in model.named_buffers()}
        lsuv_(model, torch.randn(32, 4))
        assert all(torch.equal(kept[key], value) for key, value in model.named_buffers())
        assert model.training
        assert not any(module._forward_hooks for module in model.modules())

    def test_a_shared_layer_is_set_at_its_first_call(self):
        layer = nn.Linear(6, 6)
        done = lsuv_(nn.Sequential(layer, nn.Tanh(), layer), torch.randn(100, 6) * 4)
        assert list(done) == ["0"]

    def test_effnet_without_norm_comes_alive(self):
        """The arm that a re-run of Peerthum & Stamp needs: no norm, and a one-off rescaling to unit variance."""
        torch.manual_seed(0)
        model = models.build("effnet_b0", norm="none", input_shape=(3, 32, 32), drop_path=0.0, dropout=0.0)
        x = torch.randn(16, 3, 32, 32)
        with torch.no_grad():
            assert model(x).var().item() < 1e-6
            lsuv_(model, x)
            assert model(x).var().item() == pytest.approx(1, rel=0.1)

    def test_batches_of_several_inputs(self):
        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(4, 4)

            def forward(self, a, *, b=0.0):
                return self.fc(a + b)

        for batch in ((torch.randn(50, 4),), {"a": torch.randn(50, 4), "b": torch.randn(50, 4)}):
            assert list(lsuv_(Two(), batch)) == ["fc"]

    def test_a_dead_layer_is_named(self):
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        with pytest.raises(
            InputError, match=r"layer '0': LSUV needs outputs that vary .*; got a variance of 0\. Give it a"
        ):
            lsuv_(model, torch.zeros(5, 4))
        with pytest.raises(InputError, match=r"got a variance of nan"):
            lsuv_(model, torch.full((5, 4), float("nan")))
        assert not any(module._forward_hooks for module in model.modules())
        with pytest.raises(InputError, match=r"the tolerance is positive and there is at least one step; got 0 and 10"):
            lsuv_(model, torch.randn(5, 4), tolerance=0)


class TestBranchInits:
    def test_fixup_scales_branches_and_zeroes_their_ends(self):
        torch.manual_seed(0)
        model = models.build("resnet50", residual="fixup", init="fixup", depths=(2, 2, 2, 2), num_classes=7)
        factor = fixup_scale(8, 3)
        for block in residual_blocks(model).values():
            for name in ("conv1", "conv2"):
                weight = getattr(block, name).weight
                expected = factor * sqrt(2 / (weight.shape[0] * weight[0, 0].numel()))
                assert weight.std().item() == pytest.approx(expected, rel=0.03)
            assert block.conv3.weight.abs().max() == 0
        assert model.head.fc.weight.abs().max() == 0
        assert model.stem.conv.weight.std().item() == pytest.approx(sqrt(2 / (64 * 49)), rel=0.03)

    def test_zero_gamma(self):
        model = models.build("resnet18_cifar", zero_gamma=True)
        assert all(block.norm2.weight.abs().max() == 0 for block in residual_blocks(model).values())
        assert all((block.norm1.weight == 1).all() for block in residual_blocks(model).values())
        nf = models.build("nf_resnet50", zero_gamma=True, depths=(1, 1, 1, 1))
        assert all(block.conv3.gain.abs().max() == 0 for block in residual_blocks(nf).values())

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (
                lambda: initialize_(nn.Linear(2, 2), "fixup"),
                r"init 'fixup' scales residual branches.*; got Linear\. Take",
            ),
            (
                lambda: zero_gamma_(nn.Linear(2, 2)),
                r"zero-gamma needs a network with residual blocks of spp's; got Linear",
            ),
            (
                lambda: models.build("resnet18", norm="batch_minus", zero_gamma=True),
                r"stage1\.0: zero-gamma needs a scale at the end .*; got BatchNorm2d and a plain convolution\. Take a norm",
            ),
            (lambda: models.build("resnetv2_18", zero_gamma=True), r"zero-gamma needs a scale at the end"),
        ],
    )
    def test_where_they_do_not_fit(self, call, message):
        with pytest.raises(InputError, match=message):
            call()
