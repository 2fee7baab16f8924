"""Rows of the tables from outside the package, used by name wherever a name is taken; and out again."""

import json
from contextlib import contextmanager

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from spp import models
from spp.errors import InputError, UnknownNameError
from spp.nn import (
    ACTIVATIONS,
    GAINS,
    INITS,
    NORMS,
    RESIDUALS,
    SE_SCALES,
    SE_SCALINGS,
    WEIGHT_NORMS,
    Activation,
    Gain,
    Init,
    Norm,
    Residual,
    SEScale,
    StandardizedLinear,
    WeightNorm,
    gain,
    gain_of,
    initialize_,
    make_activation,
    make_norm,
    replace_norm,
)
from spp.nn.neuronwise import MODES, NeuronwiseLinear
from spp.nn.neuronwise.gradient import Mode
from spp_cli.main import cli


class MyNorm(nn.Module):
    def __init__(self, channels, power=1.0):
        super().__init__()
        self.weight, self.power = nn.Parameter(torch.ones(channels)), power

    def forward(self, x):
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return x / x.square().mean(1, keepdim=True).add(1e-5).pow(self.power / 2) * self.weight.view(shape)


MINE = Norm(make=lambda place, power=1.0: MyNorm(place.channels, power), description="a norm of my own")
TINY = {"depth": 3, "width": 8, "input_shape": (3, 4, 4), "num_classes": 5}
SMALL = {"input_shape": (3, 32, 32), "width_multiplier": 0.25, "depth_multiplier": 0.3, "num_classes": 5}


@contextmanager
def registered(table, row, name="mine"):
    assert table.register(name, row) is row
    try:
        assert name in table and table.describe(name)
        yield
    finally:
        table.unregister(name)
    assert name not in table
    with pytest.raises(UnknownNameError, match=f"unknown {table.kind} '{name}'"):
        table.row(name)


@pytest.mark.parametrize("table", [NORMS, WEIGHT_NORMS, ACTIVATIONS, GAINS, INITS, RESIDUALS, SE_SCALINGS, MODES])
def test_a_name_is_taken_once(table):
    name = table.names[0]
    with pytest.raises(InputError, match=f"names of the table of {table.kind}s are unique; got '{name}' once more"):
        table.register(name, table[name])
    assert table.register(name, table[name], replace=True) is table[name]


def test_a_norm(tmp_path):
    with registered(NORMS, MINE):
        assert isinstance(make_norm("mine", 4, dims=0), MyNorm)
        model = models.build("ffn", norm="mine", norm_options={"power": 0.5}, **TINY)
        assert [m.power for m in model.modules() if isinstance(m, MyNorm)] == [0.5, 0.5]
        found = replace_norm(models.build("resnet18_cifar", depths=(1, 1), widths=(8, 8)), "mine")
        assert str(found).splitlines()[1] == "  6 BatchNorm2d -> MyNorm"
        with pytest.raises(UnknownNameError, match=r"unknown option 'pwoer'. Did you mean 'power'"):
            make_norm("mine", 4, pwoer=2)
        words = ["analyze", "--model", "ffn", "--norm", "mine", "--batch-size", "4", "--no-figures"]
        done = CliRunner().invoke(cli, [*words, "--out", str(tmp_path / "run"), "--json"])
        assert done.exit_code in (0, 1) and json.loads(done.stdout)["run"]["norm"] == "mine"
        assert "a norm of my own" in CliRunner().invoke(cli, ["list", "norms"]).stdout
    with pytest.raises(UnknownNameError, match="unknown norm 'mine'"):
        models.build("ffn", norm="mine")


def test_a_rule_for_weights():
    def halved(weight, gain, **options):
        return weight * options.get("factor", 0.5)

    rule = WeightNorm(halved, "half of the weight", centred=False, options=("factor",))
    with registered(WEIGHT_NORMS, rule):
        layer = StandardizedLinear(3, 4, rule="mine", options={"factor": 0.25})
        assert torch.equal(layer.effective_weight(), layer.weight * 0.25)
        with registered(NORMS, Norm(lambda place: nn.Identity(), "no norm", statistics=False, weights="mine")):
            model = models.build("ffn", norm="mine", norm_options={"factor": 2}, **TINY)
            assert model.layer1.linear.rule == "mine" and model.layer1.linear.options == {"factor": 2}


def test_an_activation_and_a_gain():
    with registered(ACTIVATIONS, Activation(nn.Softsign, lambda x: 2 * nn.functional.softsign(x), "mine", (0.0,))):
        assert gain("mine") == pytest.approx(gain("softsign") / 2)
        model = models.build("ffn", activation="mine", gain="gamma", norm="none", **TINY)
        assert model.layer1.act.name == "mine" and model.layer1.act.gain == pytest.approx(gain("mine"))
        with registered(GAINS, Gain(lambda mean, second: 4 * second, "half of rms")):
            assert gain("relu", "mine") == pytest.approx(gain("relu", "rms") / 2)
            assert gain_of(torch.tanh, "mine") == pytest.approx(gain("tanh", "rms") / 2)
            assert make_activation("relu", "mine").gain == gain("relu", "mine")
    # the name may come to mean another function
    with registered(ACTIVATIONS, Activation(nn.Tanh, torch.tanh, "mine")):
        assert gain("mine") == gain("tanh")


def test_an_init():
    with registered(INITS, Init(lambda layer: nn.init.constant_(layer.weight, 0.5), "one half everywhere")):
        assert bool((initialize_(nn.Linear(3, 4), "mine").weight == 0.5).all())
        model = models.build("ffn", init="mine", head_init="default", **TINY)
        assert bool((model.layer1.linear.weight == 0.5).all()) and not bool((model.head.fc.weight == 0.5).any())


def test_a_residual_rule():
    rule = Residual(
        "x / 2 + a f(x)",
        lambda channels, options: {"skip_gain": torch.full((), float(options["start"]))},
        lambda block, options: (block.skip_gain, 0.5),
        defaults={"start": 0.25},
    )
    with registered(RESIDUALS, rule):
        model = models.build("effnet_b0", residual="mine", residual_options={"start": 2}, **SMALL)
        block = model.stage7[0] if model.stage7[0].rule else next(m for m in model.modules() if getattr(m, "rule", ""))
        x = torch.ones(2, 1, 1, 1)
        assert torch.equal(block.eval().weigh_branch(x), 2 * x) and torch.equal(block.weigh_skip(x), x / 2)
        assert "mine" in models.config("resnet50").residuals


def test_a_scaling_of_the_gate():
    assert SE_SCALES is SE_SCALINGS
    with registered(SE_SCALINGS, SEScale(lambda x, gate: x - gate, "less the gate")):
        model = models.build("effnet_b0", se="mine", **SMALL)
        assert model.stage2[0].se.scale == "mine"
        x = torch.ones(1, 2, 3, 3)
        assert torch.equal(model.stage2[0].se.apply_gate(x, x[:, :, :1, :1]), torch.zeros_like(x))


def test_a_mode_of_neuronwise_gradients():
    x, upstream = torch.randn(9, 3), torch.randn(9, 4)
    found = []
    with registered(MODES, Mode("as outer", coords=False, power=1)):
        for mode in ("mine", "outer"):
            torch.manual_seed(0)
            layer = NeuronwiseLinear(3, 4, activation="relu", mode=mode)
            torch.relu(layer(x)).backward(upstream)
            found.append(layer.weight.grad)
    assert torch.equal(*found)
