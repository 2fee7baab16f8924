"""``spp check`` and ``--fail-on`` as a team's CI meets them: what is printed, and the exit code."""

import inspect
import json
import re
import sys

import pytest

RUN = (
    "analyze",
    "--model",
    "ffn",
    "--norm",
    "none",
    "--image-size",
    "8",
    "--batch-size",
    "8",
    "--no-figures",
    "--quiet",
)


@pytest.fixture
def runs(spp):
    for name, words in {"base": (), "same": (), "moved": ("--init", "lecun"), "seed": ("--seed", "1")}.items():
        assert spp(*RUN, *words, "--out", name).code == 0
    return spp


def test_the_same_run_is_fine(runs):
    done = runs("check", "same", "--baseline", "base")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("Nothing moved: ")
    assert done.out.endswith("within tolerance and one seed.\n")


def test_a_moved_layer_is_named_and_the_exit_code_is_1(runs):
    done = runs("check", "moved", "--baseline", "base")
    assert done.code == 1
    lines = done.out.splitlines()
    assert lines[0] == "The runs differ in init: he_fan_out -> lecun."
    assert lines[1].split() == ["layer", "signal", "baseline", "rms", "now", "change", "allowed"]
    assert lines[3].split()[:2] == ["layer1.linear", "activation"]
    assert "layers moved, layer1.linear first" in done.out
    assert max(map(len, lines)) <= 80


def test_a_seed_is_no_change(runs):
    done = runs("check", "seed", "--baseline", "base")
    assert done.code == 0, done.out
    assert "The runs differ in seed: 0 -> 1." in done.out


def test_json(runs):
    done = runs("check", "moved", "--baseline", "base", "--seeds", "seed", "--json")
    report = json.loads(done.out, parse_constant=pytest.fail)
    assert (done.code, report["same"], report["spread"]) == (1, False, "seeds")
    assert {"signal", "name", "baseline", "now", "change", "allowed"} <= set(report["moved"][0])


def test_wrong_use(spp, tmp_path):
    (tmp_path / "empty").mkdir()
    done = spp("check", "empty", "--baseline", "empty")
    assert done.code == 2
    assert done.err.startswith("Error: empty: a run is a folder that ")


def test_findings_in_the_terminal_and_fail_on(spp):
    sick = ("analyze", "--model", "ffn", "--norm", "none", "--init", "default", "--image-size", "8", "--no-figures")
    done = spp(*sick, "--fail-on", "warning", "--out", "one")
    assert done.code == 1
    assert "Diagnosis: 1 warning" in done.out
    assert "Try: `--init he`" in done.out
    cured = spp(*sick[:6], "he", *sick[7:], "--fail-on", "warning", "--out", "two")
    assert cured.code == 0
    assert "Diagnosis: nothing to report." in cured.out
    noted = json.loads(spp(*sick, "--json", "--out", "three").out)["findings"]
    assert noted[0]["rule"] == "vanishing"
    assert noted[0]["severity"] == "warning"


def test_remedies_name_options_that_exist():
    """Every remedy for the shell is an option of the command line, and what the rules' source gives it is a name it knows."""
    import spp as library
    from spp.diagnosis import REMEDIES, RULES
    from spp.nn import ACTIVATIONS, INITS, NORMS, RESIDUALS, SE_SCALES
    from spp_cli.analyze import analyze

    known = {"norm": NORMS, "init": INITS, "activation": ACTIVATIONS, "residual": RESIDUALS, "se": SE_SCALES}
    known["model"] = library.models.names()
    options = {option for parameter in analyze.params for option in parameter.opts}
    shells = [shell.split()[0] for kind in REMEDIES if (shell := REMEDIES.row(kind).shell)]
    assert len(shells) > 5 and set(shells) <= options
    sources = {inspect.getsource(sys.modules[row.check.__module__]) for row in RULES.values()}
    typed = [words for source in sources for words in re.findall(r'remedy\("(\w+)", "(\w+)"', source)]
    assert len(typed) > 5
    for kind, value in typed:
        assert kind not in known or value in known[kind], (kind, value)
