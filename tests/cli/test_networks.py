"""``--model`` and ``--checkpoint``: bundled networks, factories, and files that do not fit."""

from pathlib import Path

import pandas as pd
import pytest
import torch

import spp as library

FACTORIES = """
from torch import nn

answer = 42

class Nets:
    @staticmethod
    def small(num_classes=3, norm="none"):
        return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, num_classes))

def plain():
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 2))

def broken():
    raise ValueError("no weights today")

def number():
    return 7

class Cracked(nn.Module):
    def forward(self, x):
        raise ArithmeticError("cracked")

def normed():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.BatchNorm1d(4 * 36), nn.Linear(4 * 36, 2))

def cracked():
    return nn.Sequential(nn.Flatten(), Cracked())

class Divides(nn.Module):
    def forward(self, x):
        return x / 0

def cracked_late():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), Divides(), Cracked())
"""


@pytest.fixture
def factories(tmp_path, monkeypatch, request):
    """A module of factories in the current folder, under a name of its own, since imports are cached."""
    name = f"factories_{abs(hash(request.node.name))}"
    Path(tmp_path, f"{name}.py").write_text(FACTORIES)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    return name


def test_a_factory_of_the_current_folder(spp, factories):
    words = ("--model", f"{factories}:Nets.small", "--norm", "batch", "--num-classes", "5", "--batch-size", "2")
    done = spp("analyze", *words, "--image-size", "8x6", "--json", "--no-figures")
    assert done.code == 0
    run = done.json["run"]
    assert done.json["folder"] == "runs/small-batch"
    assert (run["model"], run["norm"], run["input_shape"]) == (f"{factories}:Nets.small", "batch", [3, 8, 6])
    assert run["parameters"] == 48 * 8 + 8 + 8 * 5 + 5


@pytest.mark.parametrize(
    ("name", "words", "line"),
    [
        ("nothing", (), "--model names a factory as package.module:factory; got AttributeError"),
        ("answer", (), "the factory needs to be something to call; got int."),
        ("number", (), "the factory needs to return a torch module; got int."),
        ("plain", ("--init", "he"), "the factory needs to take init='he'; got got an unexpected keyword"),
        ("plain", ("--norm", "dyt"), "--norm dyt needs layers to replace; got a Sequential with none that can be."),
        ("broken", (), "the factory needs to return a model; got ValueError: no weights today."),
    ],
)
def test_factories_that_do_not_work(spp, factories, name, words, line):
    done = spp("analyze", "--model", f"{factories}:{name}", *words)
    assert done.code == 2
    assert done.err.startswith(f"Error: {factories}:{name}: {line}")
    assert len(done.err.splitlines()) == 1
    assert not Path("runs").exists()


def test_the_norms_of_a_users_network_are_replaced(spp, factories):
    words = (
        "--model",
        f"{factories}:normed",
        "--norm",
        "dyt",
        "--batch-size",
        "2",
        "--image-size",
        "8",
        "--no-figures",
    )
    run = spp("analyze", *words, "--json").json["run"]
    assert (run["norm"], run["replaced"], run["left"]) == ("dyt", 2, {})
    shown = spp("analyze", *words)
    assert "norm dyt, 2 layers replaced" in shown.out
    frame = pd.read_parquet(Path("runs/normed-dyt/frame.parquet"))
    assert set(frame.loc[frame["name"].isin(["1", "3"]), "type"]) == {"DyT"}


def test_a_module_that_is_not_there(spp):
    done = spp("analyze", "--model", "no_such_module:net")
    assert done.code == 2
    assert done.err == (
        "Error: no_such_module:net: --model names a factory as package.module:factory; "
        "got ModuleNotFoundError: No module named 'no_such_module'.\n"
    )


def test_a_model_that_fails_is_one_line_with_its_module(spp, factories):
    done = spp("analyze", "--model", f"{factories}:cracked", "--batch-size", "2", "--image-size", "8")
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert "cracked" in done.err
    assert "'1'" in done.err or " 1 " in done.err
    assert not Path("runs").exists()


@pytest.mark.parametrize("words", [(), ("--stop-at-nonfinite",)])
def test_a_pass_that_fails_leaves_what_it_measured_in_a_new_folder(spp, factories, words):
    asked = ("analyze", "--model", f"{factories}:cracked_late", "--batch-size", "4", "--image-size", "4", *words)
    done = spp(*asked)
    assert done.code == 2 and done.err.rstrip().endswith(". --out with a new folder keeps what was measured until then")
    done = spp(*asked, "--out", "part")
    assert done.code == 2 and done.err.rstrip().endswith(". What was measured until then is in part")
    assert len(done.err.splitlines()) == 1 and "(Divides)" in done.err
    part = library.load("part")
    assert ("non-finite" if words else "cracked") in part.info["partial"]
    assert set(part.frame["name"]) == {"0", "1", "2"}
    # a run that is there already is worth more
    whole = ("analyze", "--model", f"{factories}:plain", "--batch-size", "4", "--no-figures", "--out", "whole")
    assert spp(*whole).code == 0
    done = spp(*asked, "--out", "whole", "--overwrite")
    assert done.err.rstrip().endswith(". --out with a new folder keeps what was measured until then")
    assert "partial" not in library.load("whole").info


@pytest.fixture
def state(tmp_path):
    torch.manual_seed(5)
    return library.models.build("ffn").state_dict()


def test_a_checkpoint_is_what_is_measured(spp, tiny, state):
    state = {
        key: torch.full_like(value, 0.5) if key.endswith("linear.weight") else value for key, value in state.items()
    }
    torch.save({"state_dict": state, "epoch": 3}, "weights.pt")
    assert spp(*tiny, "--checkpoint", "weights.pt", "--out", "run").code == 0
    frame = library.load("run").frame
    weights = frame[(frame.signal == "weight") & frame.name.str.endswith(".linear") & (frame.output == "weight")]
    assert len(weights) == 9
    assert (weights["mean"] == 0.5).all() and (weights["var"] == 0).all()


def test_keys_that_do_not_fit_are_listed(spp, tiny, state):
    state["head.fc.bias"] = torch.zeros(7)
    state["extra.weight"] = state.pop("layer1.linear.weight")
    torch.save(state, "weights.pt")
    done = spp(*tiny, "--checkpoint", "weights.pt")
    assert done.code == 2
    assert done.err == (
        "Error: weights.pt: a checkpoint needs the keys of the network; got 1 missing: layer1.linear.weight; "
        "1 unexpected: extra.weight; 1 of another shape: head.fc.bias 7 instead of 100. "
        "Build the network as it was when it was saved (--norm, --num-classes, ...).\n"
    )
    assert not Path("runs").exists()


def test_long_lists_of_keys_are_counted(spp, tiny):
    torch.save({f"key{i}": torch.zeros(1) for i in range(9)}, "weights.pt")
    err = spp(*tiny, "--checkpoint", "weights.pt").err
    assert "9 unexpected: key0, key1, key2, key3, key4 and 4 more" in err


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x04."])
def test_files_that_are_no_checkpoint(spp, tiny, content):
    Path("weights.pt").write_bytes(content)
    done = spp(*tiny, "--checkpoint", "weights.pt")
    assert done.code == 2
    assert done.err.startswith("Error: weights.pt: a checkpoint is a state dict saved by torch.save; got ")
    assert len(done.err.splitlines()) == 1


def test_code_in_a_checkpoint_is_not_run(spp, tiny):
    torch.save({"weight": torch.nn.Linear(2, 2)}, "weights.pt")  # a pickled module: loading it would run code
    done = spp(*tiny, "--checkpoint", "weights.pt")
    assert done.code == 2
    assert done.err.startswith("Error: weights.pt: a checkpoint is a state dict saved by torch.save; got ")


def test_evaluation_mode(spp, tiny):
    run = spp(*tiny, "--eval", "--json").json["run"]
    assert run["training"] is False


@pytest.mark.parametrize(
    ("arguments", "typed"),
    [("", "in Python `spp.nn.initialize_(model, 'he')`"), ("init='small_normal'", "`--init he`")],
)
def test_remedies_are_options_where_the_factory_takes_them_and_else_python(spp, tmp_path, arguments, typed):
    text = f"""
import spp
from torch import nn

def deep({arguments}):
    layers = [part for _ in range(12) for part in (nn.Linear(32, 32), nn.ReLU())]
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), *layers, nn.Linear(32, 2))
    return spp.nn.initialize_(net, {"init" if arguments else "'small_normal'"})
"""
    module = f"deep{len(arguments)}"
    (tmp_path / f"{module}.py").write_text(text)
    words = (
        "analyze",
        "--model",
        f"{module}:deep",
        "--image-size",
        8,
        "--no-figures",
        "--json",
        "--fail-on",
        "warning",
    )
    done = spp(*words)
    found, *_ = done.json["findings"]
    assert (done.code, found["rule"], found["remedy"]) == (1, "vanishing", f"{typed}.")
    if arguments:
        assert spp(*words, *typed.strip("`").split(), "--out", "mended").code == 0
