"""``spp analyze`` end to end, as a user meets it."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import spp as library
from spp.diagnosis import REMEDIES
from spp_cli.main import cli

WORDS = ("analyze", "--model", "resnet18_cifar", "--batch-size", "4", "--seed", "3")
FILES = [
    "blocks.parquet",
    "frame.csv",
    "frame.parquet",
    "inputs.parquet",
    "modules.parquet",
    "report.html",
    "run.json",
    "spp-layers.pdf",
    "spp-layers.png",
    "spp.pdf",
    "spp.png",
    "unmeasured.parquet",
]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """One run of a residual network: the folder it ran in, and what it printed."""
    folder = tmp_path_factory.mktemp("ran")
    before = Path.cwd()
    os.chdir(folder)
    try:
        result = CliRunner().invoke(cli, WORDS)
    finally:
        os.chdir(before)
    assert result.exit_code == 0, result.output
    return folder, result


def test_the_run_folder_holds_everything(ran):
    folder = ran[0] / "runs" / "resnet18_cifar-batch"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert (folder / "spp.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "spp-layers.pdf").read_bytes().startswith(b"%PDF")


def test_theory_is_added_and_drawn_where_asked_for(spp, tmp_path, undrawn):
    done = spp("analyze", "--model", "ffn", "--batch-size", "4", "--theory", "--no-report", "--out", "run")
    assert done.code == 0, done.err
    folder = tmp_path / "run"
    assert {"spp-theory.png", "spp-theory.pdf"} <= {path.name for path in folder.iterdir()}
    frame = library.load(folder).frame
    assert frame.loc[frame["signal"] == "activation", "acv_predicted"].notna().all()
    assert library.load(folder).run["arguments"]["theory"] is True


def test_the_numbers_are_those_of_the_library(ran):
    torch.manual_seed(3)
    model = library.models.build("resnet18_cifar")
    expected = library.trace(model, library.data.gaussian(4, (3, 32, 32), seed=3), seed=3)
    found = library.load(ran[0] / "runs" / "resnet18_cifar-batch")
    pd.testing.assert_frame_equal(found.frame, expected.frame)
    pd.testing.assert_frame_equal(found.blocks, expected.blocks)


def test_what_is_printed(ran):
    lines = ran[1].stdout.splitlines()
    assert lines[0] == "resnet18_cifar: norm batch, activation relu, init he_fan_out, training mode"
    assert lines[1].startswith("11,173,962 parameters, seed 3, ")
    assert lines[2] == "gaussian 4 x 3x32x32, loss probe"
    assert lines[4].split() == ["component", "ACSM", "ACV", "branch", "ACV", "gradient", "leaves"]
    names = [line.split()[0] for line in lines[6:16]]
    assert names == ["stem", *(f"stage{stage}.{block}" for stage in range(1, 5) for block in range(2)), "head"]
    assert [line[:2] for line in lines if line[:2] in ("1.", "2.", "3.", "4.")] == ["1.", "2.", "3."]
    assert lines[-1] == f"runs/resnet18_cifar-batch: {' '.join(FILES)}"
    assert ran[1].stderr == ""


def test_a_pipe_gets_80_columns_and_no_colours(ran):
    *text, files = ran[1].stdout.splitlines()
    assert max(len(line) for line in text) <= 80
    assert "\x1b" not in ran[1].stdout
    assert files.endswith("unmeasured.parquet")  # a path is never broken over two lines


def test_the_table_shows_the_frame(ran):
    found = library.load(ran[0] / "runs" / "resnet18_cifar-batch")
    ends = found.frame[found.frame.signal == "activation"].set_index("name")
    for line in ran[1].stdout.splitlines()[7:15]:
        name, acsm, acv, branch, *_ = line.split()
        assert float(acsm) == pytest.approx(ends.loc[name, "acsm"], rel=6e-3)
        assert float(acv) == pytest.approx(ends.loc[name, "acv"], rel=6e-3)
        expected = found.blocks.set_index("block").loc[name, "branch_acv"]
        assert float(branch) == pytest.approx(expected, rel=6e-3)


def test_run_json_is_enough_to_run_it_again(ran, spp):
    run = json.loads((ran[0] / "runs" / "resnet18_cifar-batch" / "run.json").read_text())
    assert run["versions"]["torch"] == torch.__version__
    done = spp(*run["argv"], "--no-figures", "--out", "again")
    assert done.code == 0
    pd.testing.assert_frame_equal(
        library.load("again").frame, library.load(ran[0] / "runs" / "resnet18_cifar-batch").frame
    )


def test_networks_without_residual_blocks_have_the_same_files(spp, tiny, undrawn):
    done = spp(*(word for word in tiny if word != "--no-figures"))
    assert done.code == 0
    assert sorted(path.name for path in Path("runs/ffn-batch_minus").iterdir()) == FILES
    assert "branch ACV" not in done.out


def test_an_existing_run_is_never_overwritten_silently(spp, tiny):
    assert spp(*tiny, "--quiet").out == "runs/ffn-batch_minus\n"
    before = Path("runs/ffn-batch_minus/frame.csv").read_bytes()
    assert spp(*tiny, "--quiet", "--seed", "1").out == "runs/ffn-batch_minus-2\n"
    refused = spp(*tiny, "--seed", "1", "--out", "runs/ffn-batch_minus")
    assert refused.code == 2
    assert refused.err == (
        "Error: --out: a run folder is new or empty; got runs/ffn-batch_minus. Choose another folder, or add --overwrite.\n"
    )
    assert Path("runs/ffn-batch_minus/frame.csv").read_bytes() == before
    assert spp(*tiny, "--seed", "1", "--out", "runs/ffn-batch_minus", "--overwrite").code == 0
    assert Path("runs/ffn-batch_minus/frame.csv").read_bytes() != before


def test_numbers_without_figures(spp, tiny):
    assert spp(*tiny).code == 0
    found = sorted(path.name for path in Path("runs/ffn-batch_minus").iterdir())
    assert found == [name for name in FILES if not name.startswith("spp") and name != "report.html"]


def test_the_page_of_a_saved_run_is_written_again(spp, ran):
    folder = ran[0] / "runs" / "resnet18_cifar-batch"
    before = (folder / "report.html").read_bytes()
    assert spp("report", folder, "--out", "page.html").out == "page.html\n"
    assert Path("page.html").read_bytes() == before
    done = spp("report", "nowhere")
    assert done.code == 2 and "got no such folder" in done.err


def test_figures_without_a_report(spp, tiny, undrawn):
    words = [word for word in tiny if word != "--no-figures"]
    done = spp(*words, "--no-report")
    assert done.err == ""
    names = {path.name for path in Path("runs/ffn-batch_minus").iterdir()}
    assert "spp.png" in names and "report.html" not in names


def test_without_plotly_it_says_once_how_to_get_the_report(spp, tiny, monkeypatch, undrawn):
    monkeypatch.setattr("spp.report.available", lambda: False)
    done = spp(*(word for word in tiny if word != "--no-figures"))
    assert done.code == 0
    assert done.err == 'For report.html, an interactive page: pip install "torch-spp[report]"\n'
    assert not Path("runs/ffn-batch_minus/report.html").exists()
    assert "report.html" not in done.out


def test_json_is_one_object_and_nothing_else(spp, tiny):
    done = spp(*tiny, "--json")
    assert done.err == ""
    assert set(done.json) == {"folder", "files", "run", "findings", "facts", "components"}
    assert len(done.json["facts"]) == 3
    assert [row["component"] for row in done.json["components"]][:2] == ["flatten", "layer1"]
    assert set(done.json["files"]) == {path.name for path in Path(done.json["folder"]).iterdir()}


def test_json_stays_valid_where_numbers_are_not(spp, tiny):
    """NaN is no JSON; every number of a network fed with NaN is missing."""
    torch.save(torch.full((4, 3, 8, 8), float("nan")), "mine.pt")
    done = spp(*tiny, "--norm", "none", "--data", "mine.pt", "--json")
    assert done.code == 0
    components = json.loads(done.out, parse_constant=pytest.fail)["components"]
    assert components[0]["acv"] is None


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--model", "ffn", "--norm", "bach"), "unknown norm 'bach'. Did you mean 'batch', "),
        (("--model", "effnet_b0", "--image-size", "8"), "model 'effnet_b0': an image is at least 32x32"),
        (
            ("--model", "ffn", "--batch-size", "1"),
            "takes statistics over the batch, so it trains on more than one sample",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(spp, words, line):
    done = spp("analyze", *words)
    assert (done.code, done.out) == (2, "")
    assert line in done.err
    assert len(done.err.splitlines()) == 1
    assert not Path("runs").exists()


def test_a_folder_that_cannot_be_written_is_found_before_the_work(spp, tiny, monkeypatch):
    Path("file").write_text("in the way")
    monkeypatch.setattr(library, "trace", lambda *_, **__: pytest.fail("the work began"))
    done = spp(*tiny, "--out", "file/run")
    assert done.code == 2
    assert done.err == (
        "Error: --out: a run needs a folder that can be written; got file/run (Not a directory). "
        "Choose another folder with --out.\n"
    )


def test_a_missing_gpu_is_said(spp, tiny):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = spp(*tiny, "--device", "cuda")
    assert (
        done.err == "Error: --device: --device cuda needs a CUDA device that torch sees; got none. Use --device cpu.\n"
    )


def test_selections(spp, tiny):
    assert spp(*tiny, "--include", "layer2*", "--include", "head*", "--exclude", "*.act", "--out", "run").code == 0
    names = set(library.load("run").frame["name"])
    assert names == {"layer2", "layer2.linear", "layer2.norm", "head", "head.fc"}


def test_a_selection_of_nothing_is_bad_input(spp, tiny):
    done = spp(*tiny, "--include", "nothing*")
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert not Path("runs").exists()


def test_no_progress_bar_in_a_pipe(spp, tiny):
    done = spp(*tiny, "--batches", "3", "--quiet")
    assert (done.out, done.err) == ("runs/ffn-batch_minus\n", "")


def test_a_progress_bar_on_a_terminal(terminal, tiny, tmp_path, monkeypatch, capsys):
    """It ends full, and standard output is JSON alone."""
    monkeypatch.chdir(tmp_path)
    shown = terminal()
    with pytest.raises(SystemExit) as stop:
        cli([*tiny, "--batches", "3", "--json"])
    assert stop.value.code == 0
    assert "3/3" in shown.getvalue()
    assert json.loads(capsys.readouterr().out)["run"]["batches"] == 3


DEEP = """
import spp
from torch import nn

def deep(init="small_normal"):
    layers = [part for _ in range(12) for part in (nn.Linear(32, 32), nn.ReLU())]
    return spp.nn.initialize_(nn.Sequential(nn.Flatten(), nn.Linear(192, 32), *layers, nn.Linear(32, 2)), init)
"""


def test_remedies_are_tried_where_asked_for(spp, tmp_path, monkeypatch):
    (tmp_path / "tried.py").write_text(DEEP)
    words = (
        "analyze",
        "--model",
        "tried:deep",
        "--image-size",
        8,
        "--batch-size",
        16,
        "--no-figures",
        "--try-remedies",
    )
    done = spp(*words, "--json", "--out", "a")
    assert done.code == 0, done.err
    tried = done.json["remedies"]
    assert done.json["findings"][0]["rule"] == tried[0]["rule"] == "vanishing"
    assert (tried[0]["gone"], tried[0]["errors"], tried[0]["failed"]) == (1, 0, "")
    assert "remedies.csv" in done.json["files"]
    table = pd.read_csv(tmp_path / "a" / "remedies.csv")
    assert list(table["remedy"]) == [row["remedy"] for row in tried] and "`--init he`" in set(table["remedy"])
    told = " ".join(spp(*words, "--out", "b").out.split())
    assert f"Tried: {tried[0]['remedy']}: vanishing is gone, 0 errors, 0 warnings; per layer forward ÷" in told
    assert {row["remedy"] for row in tried} >= {"`--init he`", "in Python `spp.calibrate(model, batch)`"}


def test_what_its_own_trial_refutes_is_not_printed(spp, tmp_path, monkeypatch):
    def shrink(model, one, case):
        for parameter in model.parameters():
            parameter.data.mul_(0.99)
        return model

    # an init that changes the weights and heals nothing
    monkeypatch.setitem(REMEDIES._rows, "init", replace(REMEDIES.row("init"), change=shrink))
    (tmp_path / "refuted.py").write_text(DEEP)
    words = "analyze", "--model", "refuted:deep", "--image-size", 8, "--batch-size", 16, "--no-figures"
    assert "Try: `--init he`" in spp(*words).out
    told = " ".join(spp(*words, "--try-remedies").out.split())
    assert "--init he" not in told and "Try: " in told


def test_an_interrupt_keeps_the_remedies_that_were_tried(spp, tmp_path, monkeypatch):
    from spp.remedy_trials import Trials

    monkeypatch.setattr("spp.remedy_trials.try_remedies", lambda *args, **options: Trials((), 4))
    done = spp("analyze", "--model", "ffn", "--batch-size", 4, "--no-figures", "--try-remedies")
    assert done.code == 130 and "interrupted: 4 trials were left out" in " ".join(done.out.split())
