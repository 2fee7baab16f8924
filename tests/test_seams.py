"""One file outside the package adds a row to every kind of table, in Python and as a plugin: that of ``docs/extending.md``."""

import json
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import spp
from spp.errors import UnknownNameError
from spp.registry import Registry

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "extending.md").read_text()
*BLOCKS, USE = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^    spp (.*)$", PAGE, re.MULTILINE)

ROWS = {
    "norms": ("halved", "half of it"),
    "layers": ("LowRank", "linear: the class and its subclasses"),
    "models": ("pair", "a layer of rank 4 and two more"),
    "data": ("ramps", "straight lines, each steeper than the one before"),
    "statistics": ("crest", "largest magnitude over rms"),
    "rules": ("peaky", "a layer whose peaks stand far above its rms"),
    "kinds": ("crest", "The crest factor of activations and gradients by layer."),
    "optimizers": ("nadam", "Adam with Nesterov's momentum"),
    "activations": ("shrink", "towards zero by 1/2"),
    "inits": ("unit", "unit normal"),
}
"""What ``spp list KIND`` shows last, once the file of the page is a plugin."""

SHELL = """
import json, shlex, sys
from click.testing import CliRunner
from spp_cli.main import cli

for line in sys.stdin:
    done = CliRunner().invoke(cli, shlex.split(line))
    print(json.dumps([done.exit_code, done.stdout, done.stderr if done.exception is None else repr(done.exception)]))
"""


def tables() -> dict[str, Registry]:
    """Every open table of the package, by where it is."""
    rooms = [import_module(f"spp.{name}") for name in (*spp._ROOMS, "nn.neuronwise")]
    pairs = ((f"{room.__name__}.{name}", value) for room in rooms for name, value in vars(room).items())
    return {place: value for place, value in pairs if isinstance(value, Registry)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder outside the package with the file of the page, and nothing else."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "mine.py").write_text("\n".join(BLOCKS))
    return folder


@pytest.fixture(scope="module")
def shell(folder):
    """What each command of the page, and ``spp list`` of every kind, came to in a process of its own."""
    lines = [f"list {kind} --plugin mine" for kind in ROWS]
    commands = [f"{line} --no-figures" if line.startswith("analyze") else line for line in COMMANDS]
    done = subprocess.run(
        [sys.executable, "-c", SHELL],
        cwd=folder,
        input="\n".join([*lines, *commands]),
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return dict(zip([*lines, *COMMANDS], answers, strict=True))


@pytest.fixture
def mine(folder, monkeypatch):
    """The same file, imported; what it registers is taken out again."""
    monkeypatch.syspath_prepend(str(folder))
    before = {place: set(table) for place, table in tables().items()}
    yield import_module("mine")
    del sys.modules["mine"]
    for place, table in tables().items():
        for name in set(table) - before[place]:
            table.unregister(name)
            with pytest.raises(UnknownNameError, match=f"unknown {table.kind} '{name}'"):
                table.row(name)


@pytest.mark.parametrize("kind", ROWS)
def test_every_row_is_listed(shell, kind):
    code, out, _ = shell[f"list {kind} --plugin mine"]
    assert code == 0
    assert tuple(out.splitlines()[-1].split(maxsplit=1)) == ROWS[kind]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_page_works(shell, line):
    code, _, error = shell[line]
    assert code == 0, error
    assert "mine" in shlex.split(line)


def test_what_the_command_line_measured(shell, folder, mine):
    run = spp.load(folder / "runs" / "pair-halved")
    assert (run.info["norm"], run.info["activation"], run.info["data"]) == ("halved", "shrink", "ramps")
    assert run.info["arguments"]["plugin"] == ["mine"]
    frame = run.frame[run.frame["rms"] > 0]  # biases begin at zero
    np.testing.assert_allclose(frame["crest"], frame["abs_max"] / frame["rms"], rtol=1e-12)
    layers = run.modules[run.modules["type"] == "LowRank"]
    (layer,) = layers[["name", "kind", "fan_in", "fan_out"]].itertuples(index=False, name=None)
    assert layer == ("first", "linear", 64, 32)
    assert "Halved" in set(frame["type"]) and "peaky" in set(run.findings["rule"])
    assert (folder / "runs" / "pair-halved" / "crest.png").read_bytes().startswith(b"\x89PNG")
    (trained,) = (json.loads(file.read_text()) for file in folder.glob("runs/pair-*-digits/run.json"))
    assert trained["arguments"]["optimizer"] == "nadam"
    assert [path.name for path in folder.iterdir() if path.suffix == ".py"] == ["mine.py"]


def test_the_same_in_python(mine):
    names = {"spp": spp}
    exec(compile(USE, "extending.md", "exec"), names)
    run = names["run"]
    assert run.frame["crest"].notna().any() and "peaky" in set(run.findings["rule"])
    activations, gradients = run.plot("crest").panels
    assert activations.statistic == gradients.statistic == "crest"
    assert spp.models.recipe_of(spp.models.build("pair", init="unit"))["init"] == "unit"
    with pytest.raises(UnknownNameError, match="Did you mean 'halved'"):
        spp.models.build("pair", norm="halvd")


def test_the_page_names_every_table():
    rows = re.findall(r"^\| `([\w.]+)\.(\w+)`(.*?) \|", PAGE, re.MULTILINE)
    named = {f"{room}.{name}" for room, first, more in rows for name in (first, *re.findall(r"\w+", more))}
    every = tables()
    assert named <= set(every)
    # a table may have a second name, as SE_SCALES
    assert {id(table) for table in every.values()} == {id(every[place]) for place in named}
