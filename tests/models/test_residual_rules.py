"""Every residual rule in every family: what it computes, what it refuses, and that a tracer sees its merges."""

import pytest
import torch
from torch import nn

import spp
from spp import models
from spp.errors import InputError, UnknownNameError
from spp.nn import RESIDUALS, SE_SCALES, SqueezeExcite
from spp.nn.residual import residual_blocks

FAMILIES = {
    "resnet18_cifar": {"depths": (2, 2), "widths": (8, 16), "input_shape": (3, 16, 16)},
    "resnet50_cifar": {"depths": (2, 2), "widths": (4, 8), "input_shape": (3, 16, 16)},
    "resnetv2_18_cifar": {"depths": (2, 2), "widths": (8, 16), "input_shape": (3, 16, 16)},
    "resnetv2_50_cifar": {"depths": (2, 2), "widths": (4, 8), "input_shape": (3, 16, 16)},
    "effnet_b0": {"input_shape": (3, 64, 64), "width_multiplier": 0.25, "depth_multiplier": 0.4},
}
PAIRS = [
    (name, rule)
    for name in FAMILIES
    for rule in models.config(name).residuals
    if "18" not in name or rule in ("plain", "fixup", "nf")
]


def build(name, rule, **changes):
    torch.manual_seed(0)
    return models.build(name, residual=rule, num_classes=5, **FAMILIES[name], **changes)


def open_skips(model):
    """Gains that close the branch at init are opened."""
    for block in residual_blocks(model).values():
        for key in ("skip_gain", "layer_scale"):
            if hasattr(block, key):
                nn.init.constant_(getattr(block, key), 0.5)
    return model


def test_each_family_takes_the_rules_that_are_made_for_it():
    found = {name: set(models.config(name).residuals) for name in FAMILIES}
    assert found["resnet18_cifar"] == set(RESIDUALS) - {"nf"}
    assert found["resnetv2_50_cifar"] == found["effnet_b0"] == set(RESIDUALS) - {"fixup"}


@pytest.mark.parametrize(("name", "rule"), PAIRS)
def test_trains_and_a_tracer_sees_each_branch_end_before_it_is_dropped_and_weighted(name, rule):
    model = open_skips(build(name, rule, drop_path=0.5))
    ends = {}
    for path, block in residual_blocks(model).items():
        last = block.get_submodule(block.branch_norm or block.branch[-1])
        last.register_forward_hook(
            lambda _m, _i, out, path=path: ends.__setitem__(
                path, out.detach().double().var((0, 2, 3), correction=0).mean().item()
            )
        )
    trace = spp.trace(model, spp.data.gaussian(4, model.config.input_shape), signals=("activation",))
    assert len(ends) >= 2
    assert list(trace.blocks["block"]) == list(ends)
    assert list(trace.blocks["branch_acv"]) == pytest.approx(list(ends.values()), rel=1e-5)

    model(torch.randn(3, *model.config.input_shape)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("rule", ["skipinit", "rezero", "nf"])
@pytest.mark.parametrize("name", ["resnetv2_50_cifar", "effnet_b0"])
def test_a_closed_skip_leaves_identity_blocks(name, rule):
    model = build(name, rule).eval()
    for block in residual_blocks(model).values():
        if getattr(block, "shortcut", None) is None:
            x = torch.randn(2, block.get_submodule(block.branch[0]).in_channels, 8, 8)
            assert torch.equal(block(x), x)


def test_a_fixup_block_is_the_activated_input_at_init():
    model = build("resnet50_cifar", "fixup")
    assert (model.config.norm, model.config.init) == ("none", "fixup")
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(model.stage1[1](x), x.relu())


def test_fixup_is_the_published_block():
    """conv(x + b1a), act(. + b1b), conv(. + b2a), act(. + b2b), conv(. + b3a) * scale + b3b, and x + b1a."""
    model = build("resnet50_cifar", "fixup", init="he").double()
    for index in (0, 1):
        block = model.stage2[index]
        with torch.no_grad():
            for parameter in (block.bias_in, block.bias_out, block.skip_gain, block.biases):
                parameter.copy_(torch.randn_like(parameter))
        x = torch.randn(2, block.conv1.in_channels, 8, 8, dtype=torch.float64)
        b1b, b2a, b2b, b3a = block.biases
        out = block.conv1(x + block.bias_in)
        out = block.conv2((out + b1b).relu() + b2a)
        out = block.conv3((out + b2b).relu() + b3a) * block.skip_gain + block.bias_out
        skip = x + block.bias_in if block.shortcut is None else block.shortcut(x + block.bias_in)
        torch.testing.assert_close(block(x), (out + skip).relu())
        assert (block.shortcut is None) == (index == 1)


def test_sums_that_keep_the_variance_do_and_the_plain_one_does_not():
    """Branches of unit variance on a stream of unit variance: pre-activation blocks with BatchNorm and LeCun weights."""
    variances = {}
    for rule in ("plain", "sqrt2", "mp"):
        torch.manual_seed(0)
        model = models.build(
            "resnetv2_18_cifar", residual=rule, depths=(8, 1), widths=(64, 64), init="lecun", gain="rms"
        )
        with torch.no_grad():
            x = torch.randn(8, 64, 16, 16)
            variances[rule] = model.stage1(x).var().item()
    assert variances["plain"] > 5
    assert variances["sqrt2"] == pytest.approx(1, abs=0.25)
    assert variances["mp"] == pytest.approx(variances["sqrt2"], rel=1e-4)


@pytest.mark.parametrize("se", SE_SCALES)
@pytest.mark.parametrize("name", FAMILIES)
def test_gates_stand_in_every_block_and_scale_as_named(name, se):
    with torch.device("meta"):
        model = models.build(name, se=se, **FAMILIES[name])
    gates = [module for module in model.modules() if isinstance(module, SqueezeExcite)]
    assert all(gate.scale == se for gate in gates)
    assert (len(gates) == 0) == (se == "none")


def test_se_resnet_gates_the_end_of_the_branch():
    torch.manual_seed(0)
    model = models.build("resnetv2_50", se="doubled", depths=(1, 1), widths=(8, 8)).eval().double()
    block = model.stage1[0]
    assert block.se.reduce.out_channels == 32 // 4
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    out = block.act1(block.norm1(x))
    branch = block.conv3(block.act3(block.norm3(block.conv2(block.act2(block.norm2(block.conv1(out)))))))
    gate = block.se.gate(block.se.expand(block.se.act(block.se.reduce(block.se.pool(branch)))))
    torch.testing.assert_close(block(x), 2 * gate * branch + block.shortcut(out))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "resnet18",
            {"residual": "nf"},
            r"model 'resnet18': residual rule 'nf' is not made for this network\. Rules for it: plain, skipinit, .*fixup\.",
        ),
        ("effnet_b0", {"residual": "fixup"}, r"'fixup' is not made for this network\. Rules for it: plain, .*, nf\."),
        (
            "resnet18",
            {"residual": "fixup", "norm": "batch"},
            r"'fixup' stands in place of a norm; got norm='batch'\. Norms for it: none\.",
        ),
        (
            "resnetv2_18",
            {"residual": "nf", "norm": "group"},
            r"'nf' foretells the variance.*; got norm='group'\. Norms for it: none, affine, dyt, ws, scaled_ws, centred_wn, mp",
        ),
        (
            "resnet18",
            {"norm": "scaled_ws", "weight_norm": "ws"},
            r"norm 'scaled_ws' already says what becomes of the weights; got weight_norm='ws'\. Leave weight_norm out",
        ),
        ("resnet18", {"residual_options": {"alpha": 1}}, r"residual 'plain': unknown option 'alpha'\. Known: none\."),
        (
            "resnet18",
            {"residual_options": 3},
            r"model 'resnet18': residual_options is a mapping from option to value; got 3",
        ),
        (
            "effnet_b0",
            {"norm": "dyt", "norm_options": {"alpha": "x"}},
            r"norm 'dyt' .*option is not possible.*alpha='x'",
        ),
        (
            "resnetv2_18",
            {"shortcut": "pad"},
            r"model 'resnetv2_18': unknown shortcut 'pad'\. .*Known: projection, pool\.",
        ),
        ("ffn", {"first_norm": "ws"}, r"norm 'ws' acts on the weights of the whole network.*Give norm='ws' instead"),
        ("resnet18", {"gain": "gama"}, r"unknown gain 'gama'\. Did you mean 'gamma'\? Known: none, gamma, rms\."),
        ("resnet18", {"se": "double"}, r"unknown squeeze-and-excitation scaling 'double'\. Did you mean 'doubled'"),
        ("resnet18", {"head_init": "hee"}, r"unknown init 'hee'\. Did you mean 'he'"),
    ],
)
def test_combinations_that_make_no_sense_fail_at_build(name, changes, message):
    with pytest.raises((InputError, UnknownNameError), match=message):
        models.build(name, **changes)


def test_a_new_rule_brings_its_norm_and_init_and_a_new_norm_forgets_the_options_of_the_old():
    assert models.config("resnet50", residual="fixup").init == "fixup"
    assert models.config("resnet50", residual="fixup", init="he").init == "he"
    assert models.config("resnetv2_50", residual="nf").norm == "scaled_ws"
    assert models.config("effnet_b0_dyt_sn").norm_options == (("alpha", 1.0),)
    assert models.config("effnet_b0_dyt_sn", norm="batch").norm_options == ()
