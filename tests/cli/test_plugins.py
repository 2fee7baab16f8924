"""Modules from outside the package that register things: ``--plugin``, ``SPP_PLUGINS``, entry points."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import spp as library
from spp import plugins
from spp.nn import NORMS

ZOO = """
from torch import nn
from spp.models import SOURCES
from spp.models.sources import Plan

def make(num_classes=2):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, num_classes))

def zoo(asked):
    "Networks of my zoo."
    return Plan(f"zoo-{asked.name}", asked.facts(), (3, 2, 2), lambda: make(**asked.changes))

SOURCES.register("zoo", zoo)
"""
NORM = """
from torch import nn
from spp.nn import NORMS

class Halved(nn.Module):
    def forward(self, x):
        return x / 2

NORMS.register("halved", type(NORMS["none"])(make=lambda place: Halved(), description="half of it", statistics=False))
"""


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    """Write a plugin into the current folder; what it registers is taken out again."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "_loaded", set())
    tables = (library.models.SOURCES, NORMS)
    before = [set(table) for table in tables]

    def write(text: str) -> str:
        name = f"plugin_{abs(hash(request.node.name))}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield write
    for table, names in zip(tables, before, strict=True):
        for name in set(table) - names:
            table.unregister(name)


def test_a_network_of_a_plugin_is_traced_and_traced_again(spp, tiny, module):
    zoo = module(ZOO)
    words = ("--plugin", zoo, "--model", "zoo:small", "--num-classes", "4", "--batch-size", "3", "--no-figures")
    run = spp("analyze", *words, "--json").json["run"]
    assert (run["model"], run["num_classes"], run["arguments"]["plugin"]) == ("zoo:small", 4, [zoo])
    assert spp(*run["argv"], "--out", "again").json["folder"] == "again"
    assert spp("list", "sources", "--plugin", zoo).out.splitlines()[-1].split(maxsplit=1) == [
        "zoo",
        "Networks of my zoo.",
    ]


def test_a_norm_of_a_plugin_is_a_norm_like_others(spp, tiny, module):
    halved = module(NORM)
    done = spp(*tiny, "--plugin", halved, "--norm", "halved", "--out", "run")
    assert done.code == 0, done.err
    frame = library.load("run").frame
    assert (frame.loc[frame["name"].str.endswith(".norm"), "type"] == "Halved").all()
    assert "halved" in spp("list", "norms", "--plugin", halved).out
    assert library.models.build("ffn", norm="halved").config.norm == "halved"


def test_plugins_of_the_environment(spp, module, monkeypatch):
    monkeypatch.setenv("SPP_PLUGINS", f"{module(ZOO)}, json")
    assert "zoo" in spp("list", "sources", "--json").json


def test_installed_plugins(spp, monkeypatch):
    monkeypatch.setattr(plugins, "_loaded", set())
    called = []
    point = SimpleNamespace(name="zoo", value="zoo.norms", dist=None, load=lambda: called.append(1))
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point] if group == "spp.plugins" else [])
    assert spp("list", "norms").code == spp("list", "norms").code == 0
    assert called == [1]
    broken = SimpleNamespace(name="bad", value="bad", dist=SimpleNamespace(name="bad-package"), load=lambda: 1 / 0)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [broken])
    assert spp("list", "norms").err == (
        "Error: entry point bad of bad-package: a plugin is a module that can be imported; "
        "got 'bad', which raises ZeroDivisionError: division by zero.\n"
    )


@pytest.mark.parametrize("words", [("list", "norms"), ("info",), ("analyze", "--model", "ffn"), ("study", "list")])
def test_a_plugin_that_is_not_there_is_one_line_of_every_command(spp, module, words):
    done = spp(*words, "--plugin", "no_such_plugin")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "Error: --plugin: a plugin is a module that can be imported; got 'no_such_plugin', which raises "
        "ModuleNotFoundError: No module named 'no_such_plugin'.\n"
    )
    assert not Path("runs").exists()


def test_a_resumed_run_remembers_its_plugins(spp, module):
    zoo = module(ZOO.replace("12", "64").replace("(3, 2, 2)", "(1, 8, 8)"))
    words = ("train", "--plugin", zoo, "--model", "zoo:small", "--epochs", "1", "--batch-size", "600", "--out", "run")
    assert spp(*words, "-q").code == 0
    library.models.SOURCES.unregister("zoo")
    plugins._loaded.clear()
    del sys.modules[zoo]
    done = spp("train", "--resume", "--out", "run", "--epochs", "2", "-q")
    assert done.code == 0, done.err
    assert json.loads(Path("run/run.json").read_text())["arguments"]["plugin"] == [zoo]
