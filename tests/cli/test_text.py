"""Text of the user's in a terminal and in files, and what does not fit into memory: one line each, as it is."""

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

import spp as library
from spp.errors import InputError, TraceError, memory_lacking

NETWORK = """
import torch
from torch import nn

NAME = {name!r}

class Flat(nn.Module):
    def __init__(self, weight=0.0):
        super().__init__()
        self.stem = nn.Linear(12, 4)
        self.add_module(NAME, nn.Linear(4, 4))
        self._modules[NAME].weight.data.mul_(weight)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self._modules[NAME](self.stem(x.flatten(1))))
"""


@pytest.fixture
def named(spp, monkeypatch):
    """Write a module with a network whose dead layer has that name; returns the words that trace it."""

    def write(name: str, module: str = "named_network") -> tuple[str, ...]:
        Path(f"{module}.py").write_text(NETWORK.format(name=name), encoding="utf-8")
        # as an import from the current folder leaves it
        monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
        monkeypatch.delitem(sys.modules, module, raising=False)
        return "analyze", "--model", f"{module}:Flat", "--image-size", "2", "--batch-size", "4", "--no-figures"

    return write


@pytest.mark.parametrize("name", ["[/x]", "[red]x[/red]", "[link=a]b", "\x1b[31mred\x07", "two\nlines", "a\u202eb\x9b"])
def test_a_name_is_text_in_a_terminal(spp, named, name):
    """Of ``[/x]`` rich made a traceback, of ``[red]`` nothing at all, and ESC went to the terminal as it was."""
    done = spp(*named(name), "--out", "run")
    assert done.code == 0
    shown = name.encode("unicode_escape").decode()
    table, _, diagnosis = done.out.partition("Diagnosis")
    assert shown in table and shown in diagnosis
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", done.out)
    assert shown in str(library.load("run"))
    spp(*named(name), "--seed", "1", "--out", "other")
    checked = spp("check", "run", "--baseline", "other", "--tolerance", "1e-9")
    assert checked.code in (0, 1) and "\x1b" not in checked.out


@pytest.mark.parametrize(
    "words",
    [
        ("compare", "--model", "ffn", "a\nb"),
        ("analyze", "--mo\rdel", "ffn"),
        ("plot", "--kind", "a\x1b[31m\nb", "run"),
        ("a\nb",),
    ],
)
def test_what_was_typed_is_quoted_in_one_line(spp, words):
    done = spp(*words)
    assert done.code == 2
    assert done.err.rstrip("\n").split("\n")[-1].startswith("Error: ")
    assert "\x1b" not in done.err
    assert "\r" not in done.err


def test_an_error_is_one_line_whatever_it_names(spp):
    for name in ("a\nb", "\x1b[2J", "\ud800", "a\u2028b"):
        assert len(str(InputError("a rule", received=name, where=name)).splitlines()) == 1
        done = spp("analyze", "--model", name)
        assert done.code == 2 and len(done.err.splitlines()) == 1 and "\x1b" not in done.err


@pytest.mark.parametrize("name", [b"with space", b"no\xffutf8", b"line\nbreak"])
def test_a_pipe_gets_the_path_as_it_is(python, tmp_path, name):
    words = ["analyze", "--model", "ffn", "--batch-size", "4", "--no-figures", "-q", "--out", os.fsdecode(name)]
    code = "from spp_cli.main import cli; cli(prog_name='spp')"
    done = python(code, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert os.fsencode(done.stdout) == name + b"\n"


def test_a_letter_that_the_encoding_lacks_is_escaped(spp, named, tmp_path):
    words = named("层×")
    code = "import sys; from spp_cli.main import cli; cli(prog_name='spp')"
    env = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert rb"\u5c42\xd7" in done.stdout


def test_text_that_a_spreadsheet_would_run_is_text(spp, named):
    torch.manual_seed(0)
    for name in ("=1+1", "@SUM(A1)", "+x", "-1"):
        model = torch.nn.Sequential()
        model.add_module(name, torch.nn.Linear(3, 3))
        trace = library.trace(model, -torch.ones(4, 3))
        trace.save("run", overwrite=True)
        with Path("run/frame.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert {row["name"] for row in rows} == {f"'{name}", ""}
        assert not any(cell.startswith(("=", "+", "@")) for row in rows for cell in row.values())
        # numbers are numbers: a mean below zero has its sign and nothing before it
        pd.testing.assert_series_equal(pd.read_csv("run/frame.csv")["mean"], trace.frame["mean"])
        assert (trace.frame["mean"] < 0).any()
        assert library.load("run").frame["name"].isin([name, ""]).all()


def test_the_line_that_goes_on_can_be_typed(spp, monkeypatch):
    from spp.training.checkpoints import Interrupted

    def stop(*args, **more):
        raise Interrupted(2)

    monkeypatch.setattr("spp.training.fit", stop)
    done = spp("train", "--model", "ffn", "--epochs", "1", "--out", "my $(run); it's")
    line = done.err.rpartition("Go on with: ")[2].strip()
    assert shlex.split(line) == ["spp", "train", "--resume", "--out", "my $(run); it's"]


# -- memory -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "lacking"),
    [
        (("analyze", "--model", "resnet18", "--batch-size", "3000000000"), "1.6 PiB"),
        (("analyze", "--model", "ffn", "--num-classes", "1000000000000"), r"\d+ TiB"),
        (("analyze", "--model", "resnet18", "--image-size", "10000000"), r"[\d.]+ PiB"),
        (("analyze", "--model", "ffn", "--batch-size", "9" * 20), "what was asked for"),
        (("analyze", "--model", "ffn", "--batches", "9" * 17), "what was asked for"),
        (("compare", "--model", "resnet18", "--norm", "none", "--batch-size", "3000000000"), "1.6 PiB"),
        (("train", "--model", "ffn", "--num-classes", "1000000000000"), r"[\d.]+ TiB"),
    ],
)
def test_what_does_not_fit_into_memory_is_one_line(spp, words, lacking):
    done = spp(*words)
    assert done.code == 2
    line = f"needs? to fit into memory; got no room for {lacking}. Take a smaller batch, smaller samples or a smaller network."
    assert re.search(line, done.err) and len(done.err.splitlines()) == 1
    assert not list(Path().glob("runs/*"))


class Hungry(torch.nn.Module):
    """Raises in its forward pass."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error


@pytest.mark.parametrize(
    ("error", "lacking"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"), "2 GiB"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB). Tried to allocate 512.5 MiB"), "512 MiB"),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "what was asked for",
        ),
        (MemoryError(), "what was asked for"),
        (MemoryError("Unable to allocate 728. TiB for an array with shape (1,)"), "728 TiB"),
    ],
)
def test_a_forward_without_memory_says_what_to_do(error, lacking):
    assert memory_lacking(error) == lacking
    with pytest.raises(TraceError) as caught:
        library.trace(Hungry(error), torch.ones(2, 2))
    assert str(caught.value).startswith(
        f"the model (Hungry): the forward pass ran out of memory for {lacking}; got float32"
    )
    assert str(caught.value).endswith("Take a smaller batch, smaller samples or a smaller network.")


@pytest.mark.parametrize(
    "error", [ValueError("no"), RuntimeError("size mismatch"), InputError("the memory of an elephant")]
)
def test_other_errors_are_none_of_memory(error):
    assert memory_lacking(error) == ""


# -- names of modules, and what is checked before the work --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "remedy"),
    [
        ("mymod.py", "mymod:Net"),
        ("nets/mymod.py", "nets.mymod:Net"),
        ("./mymod.py:Big", "mymod:Big"),
        ("/somewhere/mymod.py", "mymod:Net"),
        ("../mymod.py:make", "mymod:make"),
    ],
)
def test_a_file_in_the_place_of_a_module(spp, model, remedy):
    done = spp("analyze", "--model", model)
    assert done.code == 2 and done.out == ""
    assert f"--model names a network of one's own as module:factory; got {model}. Write {remedy}, with" in done.err
    with pytest.raises(InputError, match=f"Write {remedy}, with"):
        library.models.build(model)


def test_a_file_of_the_current_folder_hides_nothing_of_python(tmp_path):
    """``random.py`` beside a network was what torch imported."""
    modules = ["random", "queue", "statistics"]
    for module in modules:
        (tmp_path / f"{module}.py").write_text("raise RuntimeError('mine')")
    (tmp_path / "mine.py").write_text("")
    code = """
import sys
sys.path[:] = [p for p in sys.path if p]
from spp_cli.main import cli
if sys.argv[1] == "list":
    cli(prog_name="spp")
for module in sys.argv[1:]:
    try:
        cli(["analyze", "--model", f"{module}:Net"], prog_name="spp")
    except SystemExit as end:
        print(end.code)
"""
    words = [sys.executable, "-P", "-c", code]
    own = {
        "cwd": tmp_path,
        "capture_output": True,
        "text": True,
        "env": os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    }
    listed = subprocess.run([*words, "list", "norms", "--plugin", "mine"], **own)
    assert listed.returncode == 0, listed.stderr
    wrong = subprocess.run([*words, *modules], **own)
    assert wrong.stdout.split() == ["2"] * len(modules), wrong.stderr
    for module in modules:
        assert re.search(rf"has no attribute 'Net'. The module is .*{module}.py\.", wrong.stderr)
    assert str(tmp_path) not in wrong.stderr


def test_more_lines_than_a_figure_has_are_refused_before_anything_is_traced(spp, monkeypatch):
    norms = [word for norm in ("none", "batch", "layer") for word in ("--norm", norm)]
    acts = [word for act in ("relu", "tanh", "gelu") for word in ("--activation", act)]
    monkeypatch.setattr("spp_cli.compare.traced", lambda *given: pytest.fail("something was traced"))
    done = spp("compare", "--model", "ffn", *norms, *acts, "--seed", "0", "--seed", "1")
    assert done.err == "Error: one figure has room for 8 lines; got 9 combinations. Leave some out.\n"
    assert done.code == 2 and not Path("runs").exists()


def test_what_is_given_twice_is_one_run_and_names_are_numbered(spp, named, undrawn):
    """Two runs of one name ended the comparison after the first of them was traced."""
    words = [*named("x"), *named("y", "named_other")[1:3]]
    done = spp("compare", *words[1:], "--seed", "0", "--seed", "0", "--out", "both", "--json")
    assert done.code == 0, done.err
    assert [run["folder"] for run in done.json["runs"]] == ["Flat", "Flat-2"]
