"""``spp plot``: figures of saved runs, with no model at hand."""

import json
from pathlib import Path

import pytest

import spp as library


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two saved runs of one network."""
    folder = tmp_path_factory.mktemp("saved")
    for norm in ("none", "batch"):
        model = library.models.build("ffn", norm=norm, input_shape=(1, 4, 4))
        trace = library.trace(model, library.data.gaussian(4, (1, 4, 4), seed=0), exponents=True, channels=True)
        trace.run.update(model="ffn", norm=norm)
        trace.save(folder / norm)
    return folder


def test_a_run_is_drawn_into_its_folder(spp, runs):
    done = spp(
        "plot", runs / "none", "--signal", "gradient", "--statistic", "acsm", "--format", "pdf", "--style", "paper"
    )
    file = runs / "none" / "layers-gradient-acsm.pdf"
    assert done.out == f"{file}\n" and file.read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--kind", "channels"], "channels.png"),
        (["--kind", "distribution", "--layer", "layer3.act"], "distribution-layer3.act.png"),
        (["--step", "0"], "components-step0.png"),
    ],
)
def test_every_kind_can_be_asked_for(spp, runs, words, name):
    assert spp("plot", runs / "none", *words, "--out", ".").out == f"{name}\n"
    assert Path(name).read_bytes().startswith(b"\x89PNG")


def test_several_runs_are_compared(spp, runs):
    done = spp("plot", runs / "none", runs / "batch", "--signal", "gradient", "--out", "both.svg", "--width", "4.5")
    assert done.out == "both.svg\n" and "norm none and norm batch compared" in Path("both.svg").read_text()


def test_several_formats_of_one_figure(spp, runs):
    done = spp("plot", runs / "none", "--signal", "gradient", "--format", "pgf", "--format", "svg", "--out", ".")
    assert done.out.splitlines() == ["layers-gradient.pgf", "layers-gradient.svg"]


def test_latex_prints_the_environment_alone(spp, runs):
    done = spp(
        "plot", runs / "none", "--format", "png", "--format", "pdf", "--width", "single", "--latex", "--out", "."
    )
    assert done.out.splitlines()[:3] == [
        r"\begin{figure}[t]",
        r"  \centering",
        r"  \includegraphics[width=\columnwidth]{components.pdf}",
    ]
    assert done.err == "components.png\ncomponents.pdf\n"


def test_the_same_run_gives_the_same_bytes(spp, runs):
    for name in ("a.pdf", "b.pdf"):
        spp("plot", runs / "batch", "--signal", "gradient", "--out", name)
    assert Path("a.pdf").read_bytes() == Path("b.pdf").read_bytes()


def test_neither_model_nor_tensor_is_made(python, runs, tmp_path):
    script = (
        "import sys, torch\n"
        "def forbidden(*a, **k): raise AssertionError('a tensor was made or a module called')\n"
        "import spp.plot, spp.run\n"  # modules may have tables of constants; what counts is the drawing
        "torch.Tensor.__add__ = torch.tensor = torch.empty = torch.zeros = forbidden\n"
        "torch.nn.Module.__call__ = torch.nn.Module.__init__ = forbidden\n"
        "from spp_cli.main import cli\n"
        f"cli(['plot', {str(runs / 'none')!r}, '--out', {str(tmp_path / 'x.png')!r}])"
    )
    done = python(script)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.png").is_file()


def _line(done) -> str:
    assert done.code == 2
    lines = [line for line in done.err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1 and "Traceback" not in done.err
    return lines[0]


def test_wrong_input_is_one_clear_line(spp, runs, tmp_path):
    none = runs / "none"
    known = "mean, var, std, mean_square, rms, acsm, acv, min, max, abs_max, zero_fraction, dead_fraction, "
    assert f"unknown statistic 'acvv'. Did you mean 'acv' or 'acsm'? Known: {known}" in _line(
        spp("plot", none, "--statistic", "acvv")
    )
    assert "Known: components, layers, blocks, compare, evolution" in _line(spp("plot", none, "--kind", "curves"))
    wanted = "a run is a folder that trace.save, spp.watch or spp analyze wrote; got no such folder"
    assert wanted in _line(spp("plot", "nowhere"))
    assert "got a folder without run.json" in _line(spp("plot", tmp_path))
    assert "got --kind blocks. Leave it out" in _line(spp("plot", none, none, "--kind", "blocks"))
    assert "shows one step; got 2 of them" in _line(spp("plot", none, "--step", "0", "--step", "1"))
    assert "got step 9. Steps: 0." in _line(spp("plot", none, "--step", "9"))
    assert "'wide' is neither single, double nor a number of inches" in _line(spp("plot", none, "--width", "wide"))
    assert "--out is a folder that is there" in _line(spp("plot", none, "--out", "nowhere"))
    assert "a file's format is its suffix" in _line(spp("plot", none, "--out", "a.pdf", "--format", "png"))
    assert "more than one step; got step 0 alone" in _line(spp("plot", none, "--kind", "evolution"))
    assert 'Draw kind="layers" instead' in _line(spp("plot", none, "--kind", "blocks"))
    assert "Add them with spp.theory.predict" in _line(spp("plot", none, "--kind", "theory"))


def test_a_run_of_a_later_version_or_without_rows_is_said_in_one_line(spp, runs):
    later = library.load(runs / "none").save("later")
    run = json.loads((later / "run.json").read_text())
    (later / "run.json").write_text(json.dumps(run | {"format": 99}))
    assert "reads runs up to version" in _line(spp("plot", later)) and "got version 99" in _line(spp("plot", later))
    (later / "run.json").write_text("[]")
    assert "run.json needs to hold the facts of a run; got something else" in _line(spp("plot", later))
    trace = library.load(runs / "none")
    trace.frame = trace.frame.iloc[:0]
    trace.save("empty")
    assert "a figure needs at least one measured tensor; got an empty frame" in _line(spp("plot", "empty"))


def test_training_runs_beside_each_other(spp, runs, request):
    words = ("train", "--model", "ffn", "--epochs", "2", "--batch-size", "600", "--include", "*.act")
    for norm in ("batch", "batch_minus"):
        assert spp(*words, "--norm", norm, "--out", norm).code == 0
    figure = ("--kind", "evolution", "--signal", "gradient", "--statistic", "mean_square")
    done = spp("plot", "batch_minus", "batch", *figure, "--step", "0", "--step", "2", "--out", "both.svg")
    assert done.out == "both.svg\n"
    assert "norm batch_minus and norm batch beside each other" in Path("both.svg").read_text()
    request.getfixturevalue("undrawn")
    assert spp("plot", "batch", *figure).out == "batch/evolution-gradient-mean_square.png\n"
    line = _line(spp("plot", "batch_minus", "batch", *figure, "--step", "1"))
    assert line == "Error: step: a figure draws a step that was measured; got step 1. Steps: 0, 2."
