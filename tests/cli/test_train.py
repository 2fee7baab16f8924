"""``spp train`` end to end: what it prints and writes, how it is resumed, what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import spp as library
from spp import training
from spp.data import AUGMENTATIONS
from spp.training.recipe import PRECISIONS
from spp.training.results import News
from spp_cli import train as command
from spp_cli.options import Call, call_of, words_for
from spp_cli.train import recipe_of, train
from spp_cli.training_report import Report
from tests.data import files

WORDS = ("train", "--model", "ffn", "--norm", "batch", "--epochs", "3", "--batch-size", "300", "--lr", "0.01")


@pytest.fixture(autouse=True)
def _one_thread(_calm: None) -> None:
    torch.set_num_threads(1)


def parsed(words: list[str]) -> Call:
    return call_of(train.make_context("train", words[1:]))


def test_a_run_prints_its_epochs_and_writes_its_folder(spp):
    done = spp(*WORDS)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "ffn: 90,110 parameters, norm batch, activation relu, init he_fan_out"
    assert lines[1] == "digits: 1,150 images of 1x8x8 to learn from, 287 for validation, 360 for the test"
    assert lines[2].startswith("3 epochs of 4 steps of 300 images, adam at lr 0.01, schedule constant, seed 0, ")
    assert lines[4].split() == ["epoch", "loss", "accuracy", "val.", "loss", "val.", "accuracy", "lr", "seconds"]
    assert [line.split()[0] for line in lines[5:8]] == ["0", "1", "2"]
    assert lines[9].startswith("test, last weights (epoch 2): loss ")
    assert lines[-2] == "worst finding: none"
    folder = Path("runs/ffn-batch-digits")
    files_written = "checkpoints/ history.csv history.parquet modules.parquet parts/ run.json unmeasured.parquet"
    assert lines[-1] == f"{folder}: {files_written}"
    history = pd.read_parquet(folder / "history.parquet")
    assert list(history) == [str(column) for column in training.results.History]
    run = json.loads((folder / "run.json").read_text())
    assert (run["steps_per_epoch"], run["images"]["train"], run["num_classes"]) == (4, 1150, 10)
    assert run["test"]["last"]["accuracy"] == pytest.approx(
        float(lines[9].rpartition("accuracy ")[2].removesuffix(" %")) / 100, abs=1e-3
    )


def test_the_numbers_are_those_of_the_library(spp):
    found = spp(*WORDS, "--seed", "5", "--json").json
    data = library.data.splits("digits", seed=5)
    torch.manual_seed(5)
    model = library.models.build("ffn", norm="batch", input_shape=(1, 8, 8), num_classes=10)
    fitted = training.fit(model, data, training.Recipe(epochs=3, batch_size=300, lr=0.01, seed=5))
    columns = ["epoch", "step", "lr", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy"]
    pd.testing.assert_frame_equal(pd.DataFrame(found["history"])[columns], fitted.history[columns], rtol=1e-12)
    assert found["test"] == fitted.test
    assert found["stopped"] is None


def test_the_checkpoint_goes_into_analyze_and_into_another_run(spp):
    assert spp(*WORDS, "--out", "run").code == 0
    weights = "run/checkpoints/best.pt"
    network = ("--model", "ffn", "--norm", "batch", "--num-classes", "10", "--checkpoint", weights)
    np.save("mine.npy", np.zeros((4, 1, 8, 8), np.float32))
    assert spp("analyze", *network, "--data", "mine.npy", "--batch-size", "4", "--no-figures").code == 0
    again = spp("train", *network, "--epochs", "1", "--lr", "1e-9", "--batch-size", "300", "--json").json
    first = json.loads(Path("run/run.json").read_text())
    assert again["test"]["last"]["accuracy"] > first["test"]["best"]["accuracy"] - 0.05  # running statistics moved on
    assert again["history"][0]["train_accuracy"] > 0.7


def test_the_run_says_how_to_run_it_again(spp):
    first = spp(*WORDS, "--optimizer", "sgd", "--nesterov", "--agc", "0.05", "--json").json
    again = spp(*first["run"]["argv"]).json
    assert again["folder"] != first["folder"]
    assert again["test"] == first["test"]


@pytest.mark.parametrize(
    ("every", "steps"), [("epoch", [0, 4, 8]), ("5", [0, 5, 10]), ("log", [0, 1, 2, 3, 4, 5, 6, 8, 10])]
)
def test_what_is_measured(spp, every, steps):
    assert spp(*WORDS, "--every", every, "--include", "*.act", "--out", "run").code == 0
    run = library.load("run")
    assert sorted(set(run.frame.loc[run.frame["mode"] == "train", "step"])) == steps
    assert set(run.frame["type"]) == {"ReLU"}
    assert (run.run["model"], run.run["norm"], run.run["kind"], run.run["steps_per_epoch"]) == (
        "ffn",
        "batch",
        "watch",
        4,
    )


def test_nothing_is_measured_where_nobody_asks(spp):
    assert spp(*WORDS, "--every", "never", "--out", "run").code == 0
    assert sorted(path.name for path in Path("run").iterdir()) == [
        ".lock",
        "checkpoints",
        "history.csv",
        "history.parquet",
        "run.json",
    ]
    assert spp("train", "--resume", "--out", "run", "--epochs", "4").code == 0


def test_the_worst_finding_is_printed_with_what_to_try(spp):
    done = spp(*WORDS, "--norm", "none", "--init", "default", "--activation", "sigmoid", "--out", "run")
    line, remedy = [line for line in done.out.splitlines() if line.startswith(("worst finding", "Try: "))]
    found = json.loads(Path("run/run.json").read_text())["finding"]
    assert line == f"worst finding, {found['severity']} at step 0: {found['message']}"
    assert remedy == f"Try: {found['remedy']}"
    assert found["severity"] in ("error", "warning") and found["rule"]


def test_a_terminal_gets_a_bar_with_loss_accuracy_and_the_worst_finding(terminal, capsys):
    shown = terminal()
    finding = {"severity": "error", "step": 4, "rule": "dead", "name": "layer3.act"}
    row = dict.fromkeys(training.results.History, 0.5) | {"epoch": 1}
    with Report(parsed(["train", "--model", "ffn"]), Path("run")) as report:
        report(News(1, 3, 1, 2, 0.25, 0.9, finding=finding))
        report(News(1, 3, 2, 2, 0.5, 0.5, row=row, finding=finding))
    drawn = shown.getvalue()
    assert "epoch 1:" in drawn and "4/6" in drawn
    assert "loss 0.5, accuracy 50.0 %, error at step 4: dead, layer3.act" in drawn
    assert capsys.readouterr().out.splitlines()[-1].split()[:4] == ["1", "0.5", "50.0", "%"]


def test_quiet_prints_the_folder(spp):
    done = spp(*WORDS, "-q")
    assert (done.out, done.err) == ("runs/ffn-batch-digits\n", "")


def test_resuming_goes_on_with_the_same_options(spp):
    whole = spp(*WORDS, "--out", "whole", "--json").json
    spp(*WORDS[:-4], "--lr", "0.01", "--batch-size", "300", "--epochs", "2", "--out", "run")
    done = spp("train", "--resume", "--out", "run", "--epochs", "3", "--json").json
    assert done["test"] == whole["test"]
    assert len(done["history"]) == 3
    assert spp("train", "--resume", "--out", "run", "--json").json["test"] == whole["test"]


def test_resume_begins_a_run_that_is_not_there(spp):
    assert spp(*WORDS, "--resume", "--out", "run").code == 0
    assert spp(*WORDS, "--resume", "--out", "run").code == 0


def test_overwrite_leaves_nothing_of_the_run_before(spp):
    spp(*WORDS, "--out", "run")
    Path("run/nonfinite").mkdir()
    assert spp(*WORDS, "--out", "run").code == 2
    assert spp(*WORDS, "--out", "run", "--overwrite", "--epochs", "1").code == 0
    assert not Path("run/nonfinite").exists()
    assert len(pd.read_csv("run/history.csv")) == 1


def test_a_loss_that_is_not_finite_is_said_and_traced(spp):
    done = spp(*WORDS[:-1], "1e9", "--norm", "none", "--optimizer", "sgd", "--out", "run")
    assert done.code == 1
    assert done.err.startswith("Error: the loss is not finite at step ")
    assert "so the run was stopped there. +inf and -inf are made in layer" in done.err
    assert done.err.endswith("The folder nonfinite holds a trace of that batch; --keep-going trains on.\n")
    assert (library.load("run/nonfinite").frame["nonfinite"] > 0).any()
    on = spp(*WORDS[:-1], "1e9", "--norm", "none", "--optimizer", "sgd", "--keep-going", "--json")
    assert (on.code, len(on.json["history"])) == (0, 3)
    assert on.json["history"][2]["train_loss"] is None


def test_cifar_and_folders_of_images(spp):
    Path("data").mkdir()
    files.write_cifar("cifar10", Path("data"), images=2)
    done = spp("train", "--model", "ffn", "--data", "cifar10", "--epochs", "1", "--json").json
    assert (done["run"]["input_shape"], done["run"]["images"]["train"]) == ([3, 32, 32], 8)
    files.write_images(Path("images"), {"a": 8, "b": 8})
    done = spp(
        "train", "--model", "resnet18_cifar", "--data", "images", "--image-size", "16", "--epochs", "1", "--json"
    )
    assert (done.json["run"]["input_shape"], done.json["run"]["num_classes"]) == ([3, 16, 16], 2)
    done = spp("train", "--model", "resnet20", "--data", "images", "--epochs", "1", "--json").json
    assert done["run"]["input_shape"] == [3, 32, 32]


def test_a_network_of_ones_own(spp):
    Path("own.py").write_text(
        "from torch import nn\ndef make(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, num_classes))\n"
    )
    done = spp("train", "--model", "own:make", "--epochs", "4", "--lr", "0.01", "--json").json
    assert done["test"]["last"]["accuracy"] > 0.5


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("train",), "Error: Missing option '--model'."),
        (("train", "--resume"), "Error: --resume: a run is resumed from its folder; got no --out."),
        (
            ("train", "--resume", "--out", "none"),
            "Error: --resume: --resume needs a run to go on with; got no none/run.json. Give --model to begin one.",
        ),
        (
            (*WORDS, "--precision", "float16", "--device", "cpu"),
            "Error: precision: float16 is for accelerators; got cpu.",
        ),
        ((*WORDS, "--nesterov"), "Error: nesterov: nesterov is a form of SGD with momentum; got optimizer='adam'"),
        ((*WORDS, "--optimizer", "sdg"), "Error: optimizer: unknown optimizer 'sdg'. Did you mean 'sgd'? Known: sgd,"),
        ((*WORDS, "--schedule", "cosin"), "Error: schedule: unknown schedule 'cosin'. Did you mean 'cosine'"),
        ((*WORDS, "--augment", "flip"), "Error: augment: unknown augmentation 'flip'. "),
        (
            (*WORDS, "--data", "gaussian"),
            "Error: images to train on come from a data set that reads them; got 'gaussian'",
        ),
        (
            (*WORDS, "--data", "digit"),
            "Error: unknown data set 'digit'. Did you mean 'digits' or 'emnist_digits'? Known: ",
        ),
        (
            (*WORDS, "--data", "cifar10"),
            "Error: data: CIFAR-10 lies in a local folder as data_batch_1.bin, ..., test_b",
        ),
        (
            (*WORDS, "--num-classes", "4"),
            "Error: the network needs an output for each of the 10 classes; got 4 outputs.",
        ),
        (("train", "--model", "resnet50"), "Error: model 'resnet50': an image is at least 32x32, since the network"),
        ((*WORDS, "--every", "0"), "Error: Invalid value for '--every': '0' is neither a positive number of steps nor"),
        ((*WORDS, "--lr", "0"), "Error: Invalid value for '--lr': 0.0 is not in the range x>0."),
    ],
)
def test_what_is_refused(spp, words, line):
    done = spp(*words)
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith(line)
    assert not Path("runs").exists() or not any(Path("runs").iterdir())


def test_another_run_is_not_gone_on_with(spp):
    spp(*WORDS, "--out", "run")
    done = spp("train", "--resume", "--out", "run", "--lr", "0.5", "--norm", "none")
    assert done.code == 2
    assert done.err == (
        "Error: --resume: a resumed run keeps the options it began with; got --lr 0.5, not 0.01; --norm none, not batch. "
        "Leave them out, or begin a new run.\n"
    )
    spp("analyze", "--model", "ffn", "--batch-size", "4", "--no-figures", "--out", "trace")
    assert "goes on with its own runs; got a run of another command" in spp("train", "--resume", "--out", "trace").err


def test_choices_are_those_of_the_library():
    assert PRECISIONS == command.PRECISIONS
    defaults = parsed(["train", "--model", "ffn"])
    assert recipe_of(defaults) == training.Recipe()
    assert set(training.Recipe.__slots__) <= set(vars(defaults))


@settings(deadline=None)
@given(
    norm=st.none() | st.sampled_from(["batch", "none"]),
    size=st.none() | st.tuples(st.integers(1, 600), st.integers(1, 600)),
    rates=st.tuples(st.none() | st.floats(1e-9, 10), st.none() | st.floats(1e-9, 10)),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    augment=st.none() | st.sampled_from(AUGMENTATIONS.names),
)
def test_a_request_can_be_asked_for_again(norm, size, rates, flags, augment):
    fields = vars(parsed(["train", "--model", "ffn"]))
    fields |= {"norm": norm, "image_size": size, "augment": augment, "lr": rates[0], "agc": rates[1]}
    fields |= dict(zip(("nesterov", "keep_going", "as_json"), flags, strict=True))
    call = Call(**fields)
    assert parsed(words_for(train, call)) == call


def start(*words):
    """The command in a process of its own, that Ctrl-C can be sent to."""
    path = os.pathsep.join(path for path in (str(Path(library.__file__).parents[1]), *sys.path) if path)
    script = "import sys; from spp_cli.main import cli; cli(sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", script, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )


def test_ctrl_c_saves_the_run_and_says_how_to_go_on(spp):
    long = (*WORDS[:6], "4000", *WORDS[7:], "--every", "50", "--out", "run")
    process = start(*long)
    history = Path("run/history.csv")
    # no clock says when to give up: the training ends in any case
    while process.poll() is None and not (history.exists() and len(history.read_text().splitlines()) > 3):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, err
    assert err == "Interrupted, and saved. Go on with: spp train --resume --out run\n"
    done = len(pd.read_csv(history))
    assert out.splitlines()[-1].split()[0] == str(done - 1)
    resumed = spp("train", "--resume", "--out", "run", "--epochs", str(done + 2), "--json").json
    whole = spp(*WORDS[:6], str(done + 2), *WORDS[7:], "--json").json
    assert resumed["test"] == whole["test"]
