"""A network from outside the package, by name like one of ours."""

from dataclasses import dataclass

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import spp
from spp import models
from spp.errors import InputError, UnknownNameError
from spp.nn import make_activation, make_norm
from spp_cli.main import cli


@dataclass(frozen=True, kw_only=True)
class MyConfig(models.Config):
    width: int = 6


class MyNet(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.conv = nn.Conv2d(config.input_shape[0], config.width, 3, padding=1)
        self.norm = make_norm(config.norm, config.width)
        self.act = make_activation(config.activation)
        self.head = nn.Linear(config.width, config.num_classes)

    def forward(self, x):
        return self.head(self.act(self.norm(self.conv(x))).mean((2, 3)))


@pytest.fixture
def mine():
    row = MyConfig(name="mynet", description="a network of my own", input_shape=(3, 8, 8), num_classes=5)
    models.MODELS.register("mynet", models.Model(row, MyNet))
    yield
    models.MODELS.unregister("mynet")
    with pytest.raises(UnknownNameError, match="unknown model 'mynet'"):
        models.build("mynet")


def test_it_is_built_by_name_with_all_arguments(mine):
    assert models.names()[-1] == "mynet" and models.describe("mynet") == "a network of my own"
    model = models.build("mynet", norm="group", activation="tanh", init="lecun", num_classes=7, width=4)
    assert type(model) is MyNet and isinstance(model.norm, nn.GroupNorm) and isinstance(model.act, nn.Tanh)
    assert model.head.weight.shape == (7, 4) and not model.conv.bias.any()
    assert models.recipe_of(model)["norm"] == "group"
    models.check_input("mynet", (3, 16, 16))
    with pytest.raises(UnknownNameError, match=r"unknown argument 'widht'. Did you mean .*'width'"):
        models.build("mynet", widht=3)
    with pytest.raises(
        InputError, match=r"model 'mynet': the rule 'ws' is for weights.*; got MyNet\. Let spp.models.Parts"
    ):
        models.build("mynet", norm="ws")
    frame = spp.trace(model, torch.randn(4, 3, 8, 8)).frame
    assert "conv" in set(frame["name"])


def test_the_command_line_knows_it(mine, tmp_path):
    words = ["analyze", "--model", "mynet", "--norm", "rms", "--batch-size", "4", "--no-figures"]
    done = CliRunner().invoke(cli, [*words, "--out", str(tmp_path / "run")])
    assert done.exit_code in (0, 1), done.output
    assert "a network of my own" in CliRunner().invoke(cli, ["list", "models"]).stdout
