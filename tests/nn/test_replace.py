"""Another norm in foreign models: what is recognized, what is kept, what is left and why."""

import copy
from collections import Counter

import pytest
import torch
from torch import nn

from spp import models
from spp.errors import InputError, UnknownNameError
from spp.nn import (
    NORMS,
    AffineLayer,
    BatchRenorm,
    ChannelLayerNorm,
    ChannelRMSNorm,
    ChannelsFirst,
    ChannelsLast,
    DyT,
    EvoNormS0,
    GhostBatchNorm,
    StandardizedConv2d,
    make_norm,
    replace_norm,
)
from tests import foreign


def after(result):
    return Counter(swap.after for swap in result.replaced)


def before(result):
    return Counter(swap.before for swap in result.replaced)


class TestKnownClasses:
    @pytest.mark.parametrize(
        ("old", "shape"),
        [
            (lambda: nn.BatchNorm1d(8), (4, 8)),
            (lambda: nn.BatchNorm1d(8), (4, 8, 5)),
            (lambda: nn.BatchNorm2d(8), (4, 8, 5, 3)),
            (lambda: nn.BatchNorm3d(8), (4, 8, 3, 2, 2)),
            (lambda: nn.GroupNorm(2, 8), (4, 8, 5, 3)),
            (lambda: nn.GroupNorm(2, 8), (4, 8)),
            (lambda: nn.InstanceNorm2d(8, affine=True), (4, 8, 5, 3)),
            (lambda: nn.LayerNorm(8), (4, 8)),
            (lambda: nn.LayerNorm(8), (4, 5, 8)),
            (lambda: nn.LayerNorm(8), (4, 5, 3, 8)),
            (lambda: nn.RMSNorm(8), (4, 5, 8)),
            (lambda: AffineLayer(8), (4, 8, 5, 3)),
            (lambda: DyT(8, channel_axis=-1), (4, 5, 8)),
            (lambda: ChannelLayerNorm(8), (4, 8, 5, 3)),
            (lambda: ChannelRMSNorm(8), (4, 8, 5, 3)),
            (lambda: BatchRenorm(8), (4, 8, 5, 3)),
            (lambda: GhostBatchNorm(8), (4, 8, 5, 3)),
            (lambda: ChannelsLast(nn.BatchNorm1d(8)), (4, 5, 8)),
            (lambda: ChannelsFirst(nn.BatchNorm1d(8)), (4, 8, 5, 3)),
        ],
    )
    @pytest.mark.parametrize("name", [name for name in NORMS if name != "neuronwise"])  # which takes no norm's place
    def test_every_norm_for_every_norm(self, old, shape, name):
        torch.manual_seed(0)
        layer = old()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.uniform_(0.5, 1.5)
        x = torch.randn(shape)
        model = nn.Sequential(layer)
        options = {"groups": 4} if name == "group" else {}
        result = replace_norm(model, name, **options)
        assert result.model is model
        if result.left:
            assert NORMS[name].spatial or not NORMS[name].normalizes_alone
            assert model[0] is layer
            return
        channels_last = (
            isinstance(layer, nn.LayerNorm | nn.RMSNorm | ChannelsLast) or getattr(layer, "channel_axis", 1) == -1
        )
        if NORMS[name].weights is None:
            options = {"learned_eps": False} if name == "frn" else options
            dims = len(shape) - 2
            reference = make_norm(name, 8, dims=dims, activated=False, channels_last=channels_last, **options)
            self.copy_affine(layer, reference)
        else:
            reference = AffineLayer(8, channel_axis=-1 if channels_last else 1)
            self.copy_affine(layer, reference)
        if "eps" in result.replaced[-1].kept:
            getattr(reference, "norm", reference).eps = getattr(layer, "norm", layer).eps
        torch.testing.assert_close(model(x), reference(x), rtol=1e-5, atol=1e-5)

    def copy_affine(self, layer, reference):
        source = getattr(layer, "norm", layer)
        target = getattr(reference, "norm", reference)
        for key in ("weight", "bias"):
            if getattr(source, key, None) is not None and getattr(target, key, None) is not None:
                getattr(target, key).data.copy_(getattr(source, key))

    def test_group_norm_is_compared_with_its_own_groups(self):
        model = nn.Sequential(nn.BatchNorm2d(64))
        replace_norm(model, "group", groups=4)
        assert model[0].num_groups == 4

    def test_the_very_same_parameters_stay(self):
        old = nn.BatchNorm2d(4)
        weight, bias = old.weight, old.bias
        result = replace_norm(nn.Sequential(old), "dyt")
        assert result.model[0].weight is weight
        assert result.model[0].bias is bias
        assert result.replaced[0].kept == ("weight", "bias")
        assert replace_norm(nn.Sequential(old), "rms").replaced[0].lost == ("bias",)

    @pytest.mark.parametrize("name", ["batch", "batch_minus", "ghost_batch", "batch_renorm"])
    def test_running_statistics_and_epsilon_stay(self, name):
        torch.manual_seed(0)
        old = nn.BatchNorm2d(4, eps=1e-3, momentum=0.01)
        for _ in range(3):
            old(2 * torch.randn(5, 4, 3, 3) + 1)
        nn.init.uniform_(old.weight)
        model = nn.Sequential(copy.deepcopy(old)).eval()
        result = replace_norm(model, name)
        assert "running statistics" in result.replaced[0].kept
        assert (model[0].eps, model[0].momentum) == (1e-3, 0.01)
        x = torch.randn(2, 4, 3, 3)
        expected = old.eval()(x)
        expected = (
            (expected - old.bias.view(-1, 1, 1)) / old.weight.view(-1, 1, 1) if name == "batch_minus" else expected
        )
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)

    def test_precision_flags_and_device_stay(self):
        model = nn.Sequential(nn.BatchNorm2d(4).to(torch.bfloat16).eval(), nn.LayerNorm(4).double())
        replace_norm(model, "dyt")
        assert not model[0].training
        assert model[1].training
        assert (model[0].alpha.dtype, model[1].alpha.dtype) == (torch.bfloat16, torch.float64)
        with torch.device("meta"):
            meta = nn.Sequential(nn.BatchNorm2d(4))
        assert replace_norm(meta, "dyt").model[0].alpha.is_meta

    def test_frozen_parameters_stay_frozen(self):
        old = nn.LayerNorm(4)
        old.weight.requires_grad_(False)
        assert not replace_norm(nn.Sequential(old), "rms").model[0].weight.requires_grad

    def test_a_shared_norm_stays_shared(self):
        norm = nn.LayerNorm(4)
        model = nn.ModuleDict({"a": norm, "b": nn.Sequential(norm)})
        result = replace_norm(model, "rms")
        assert len(result.replaced) == 1
        assert model["a"] is model["b"][0]

    def test_a_model_that_is_itself_a_norm(self):
        old = nn.LayerNorm(4)
        result = replace_norm(old, "rms")
        assert isinstance(result.model, nn.RMSNorm)
        assert result.model.weight is old.weight


class TestWeights:
    def test_convolutions_are_standardized_and_norms_leave_their_scale_and_shift(self):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1, stride=2)
        )
        nn.init.uniform_(model[1].weight)
        weight = model[0].weight
        x = torch.randn(2, 3, 7, 7)
        expected = nn.Sequential(
            StandardizedConv2d(3, 8, 3, bias=True, rule="scaled_ws"),
            nn.ReLU(),
            StandardizedConv2d(8, 4, 1, stride=2, rule="scaled_ws", options={"gamma": 1.7}),
        )
        expected[0].load_state_dict({"weight": weight, "bias": model[1].bias, "gain": 1.7 * model[1].weight})
        expected[2].load_state_dict({**model[3].state_dict(), "gain": torch.ones(4)})
        result = replace_norm(model, "scaled_ws", gamma=1.7)
        torch.testing.assert_close(model(x), expected(x), rtol=1e-5, atol=1e-5)
        assert model[0].weight is weight
        assert [swap.name for swap in result.replaced] == ["0", "1", "3"]
        assert after(result) == {"StandardizedConv2d(scaled_ws)": 2, "AffineLayer": 1}

    def test_what_cannot_be_standardized_is_left(self):
        class Special(nn.Conv2d):
            pass

        model = nn.Sequential(Special(3, 3, 3), nn.Conv2d(4, 4, 1, groups=4), nn.ConvTranspose2d(3, 3, 3))
        result = replace_norm(model, "ws")
        assert [left.reason.split(",")[0] for left in result.left] == [
            "its class is not one of torch's plain convolutions",
            "each output has a single input",
            "its class is not one of torch's plain convolutions",
        ]


class TestFused:
    """timm's norms with their activation inside."""

    def effnet(self):
        timm = foreign.timm()
        torch.manual_seed(0)
        return timm.create_model("efficientnet_b0", num_classes=5).eval()

    def test_the_activation_stays_behind_the_new_norm(self):
        model = self.effnet()
        old = [
            (name, type(module.act))
            for name, module in model.named_modules()
            if type(module).__name__ == "BatchNormAct2d"
        ]
        result = replace_norm(model, "affine")
        assert [swap.name for swap in result.replaced] == [name for name, _ in old]
        assert all(type(model.get_submodule(name).act) is act for name, act in old)
        assert model(torch.randn(2, 3, 64, 64)).shape == (2, 5)

    def test_batch_norm_for_batch_norm_changes_nothing(self):
        model = self.effnet()
        x = torch.randn(2, 3, 64, 64)
        expected = model(x)
        assert len(replace_norm(model, "batch").replaced) == 49
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)

    def test_norms_with_their_own_activation_take_the_place_of_both(self):
        model = self.effnet()
        result = replace_norm(model, "evonorm_s0")
        assert (len(result.replaced), len(result.left)) == (33, 16)
        assert isinstance(model.bn1.act, nn.Identity)
        assert isinstance(model.bn1.norm, EvoNormS0)
        assert {left.reason for left in result.left} == {
            "evonorm_s0 is norm and activation in one, and no activation is fused with this norm"
        }


class TestTorchvision:
    @pytest.mark.parametrize(
        ("network", "arguments", "count", "found"),
        [
            ("resnet18", {}, 20, {"BatchNorm2d"}),
            ("convnext_tiny", {}, 23, {"LayerNorm2d", "LayerNorm"}),
            ("swin_t", {}, 29, {"LayerNorm"}),
            (
                "VisionTransformer",
                {"image_size": 32, "patch_size": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64},
                5,
                {"LayerNorm"},
            ),
        ],
    )
    @pytest.mark.parametrize("name", ["dyt", "batch", "scaled_ws"])
    def test_runs_and_trains(self, network, arguments, count, found, name):
        torch.manual_seed(0)
        model = getattr(foreign.torchvision().models, network)(**arguments, num_classes=4)
        result = replace_norm(model, name)
        norms = [swap for swap in result.replaced if "Conv" not in swap.before]
        assert len(norms) == count
        assert {swap.before for swap in norms} == found
        assert not result.left
        side = arguments.get("image_size", 64)
        model(torch.randn(2, 3, side, side)).square().mean().backward()
        assert all(p.grad is not None for p in model.parameters())

    def test_frozen_batch_norm(self):
        ops = foreign.torchvision().ops
        layer = ops.FrozenBatchNorm2d(4)
        layer.weight.copy_(torch.arange(4.0))
        result = replace_norm(nn.Sequential(layer), "affine")
        assert torch.equal(result.model[0].weight, torch.arange(4.0))
        assert not result.model[0].weight.requires_grad


SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50}
HEADS = {"num_key_value_heads": 2, "head_dim": 16}


class TestTransformers:
    @pytest.mark.parametrize(
        ("family", "fields", "norm", "count"),
        [
            ("Llama", SMALL, "LlamaRMSNorm", 5),
            ("Gemma", {**SMALL, **HEADS}, "GemmaRMSNorm", 5),
            ("Qwen3", {**SMALL, **HEADS}, "Qwen3RMSNorm", 9),
            ("Olmo", {**SMALL, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}, "OlmoLayerNorm", 5),
            ("Bert", SMALL, "LayerNorm", 5),
        ],
    )
    def test_families(self, family, fields, norm, count):
        library = foreign.transformers()
        torch.manual_seed(0)
        config = getattr(library, f"{family}Config")(**fields)
        model = getattr(library, f"{family}Model")(config).eval()
        tokens = torch.randint(0, 50, (2, 7))
        with torch.no_grad():
            expected = model(tokens).last_hidden_state
            same = replace_norm(copy.deepcopy(model), "rms" if "RMS" in norm else "layer")
            assert before(same) == {norm: count}
            torch.testing.assert_close(same.model(tokens).last_hidden_state, expected, rtol=1e-3, atol=1e-3)
            for name in ("dyt", "batch", "group"):
                result = replace_norm(copy.deepcopy(model), name)
                assert len(result.replaced) == count
                assert result.model(tokens).last_hidden_state.isfinite().all()


def test_transformer_encoder_layers_are_kept_off_their_fused_kernel():
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True), 2)
    x = torch.randn(2, 5, 16)
    result = replace_norm(model, "rms")
    assert result.notes == ("fused evaluation switched off in 2 TransformerEncoderLayer",)
    expected = model(x)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), expected, rtol=1e-5, atol=1e-5)


def test_bundled_networks_too():
    model = models.build("resnet18_cifar", depths=(1, 1), widths=(8, 8))
    result = replace_norm(model, "group")
    assert before(result) == {"BatchNorm2d": 6}
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_the_account():
    model = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm1d(4), nn.BatchNorm2d(4))
    assert str(replace_norm(model, "instance")).splitlines() == [
        "instance: 2 layers replaced, 1 left",
        "  2 BatchNorm2d -> InstanceNorm2d",
        "  without a place in the new layer: 2 weight",
        "  without a place in the new layer: 2 bias",
        "  left: 1 BatchNorm1d (1): instance takes statistics over space, and the module does not say that it has any",
    ]


def test_unknown_names_and_options_change_nothing():
    model = nn.Sequential(nn.BatchNorm2d(4))
    old = model[0]
    with pytest.raises(UnknownNameError, match=r"unknown norm 'dit'\. .*Known: none, batch, "):
        replace_norm(model, "dit")
    with pytest.raises(UnknownNameError, match=r"norm 'dyt': unknown option 'beta'\. Known: alpha\."):
        replace_norm(model, "dyt", beta=1.0)
    with pytest.raises(InputError, match=r"norm 'group' of 4 channels: an option is not possible there; got groups=3"):
        replace_norm(model, "group", groups=3)
    assert model[0] is old
