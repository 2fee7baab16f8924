"""Damaged and hostile files: one line each that names the file, and exit code 2 on the command line."""

import json
import random
import re
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import spp
from spp.errors import InputError, SppError, StoreError
from spp_cli.main import cli

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


@pytest.fixture(params=["trace", "watch", "version-1-trace", "version-1-watch"])
def folder(request, tmp_path):
    if request.param == "trace":
        return spp.trace(network(), torch.randn(5, 3)).save(tmp_path / "run")
    if request.param == "watch":
        model = network()
        with spp.watch(model, every=1, flush=0, path=tmp_path / "run"):
            for _ in range(3):
                model(torch.randn(5, 3)).sum().backward()
        return tmp_path / "run"
    return Path(shutil.copytree(GOLDEN / request.param, tmp_path / "run"))


def told(act):
    """The one line that is said, or nothing where it worked."""
    try:
        act()
    except SppError as error:
        assert "\n" not in str(error) and len(str(error)) < 600
        return str(error)
    return ""


def fails(*words):
    """What the command line says of it."""
    done = CliRunner().invoke(cli, [str(word) for word in words])
    assert done.exit_code == 2, (done.output, done.exception)
    assert done.stderr.startswith(("Error: ", "Usage: ")) and "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("Error: ")
    return line


def test_flipped_and_truncated_files(folder):
    random.seed(3)
    files = sorted(f for f in folder.rglob("*") if f.suffix in (".json", ".jsonl", ".parquet"))
    said = 0
    for _ in range(20):
        file = random.choice(files)
        whole = file.read_bytes()
        damaged = bytearray(whole[: random.randrange(len(whole))] if random.random() < 0.4 else whole)
        for _ in range(random.choice([0, 1, 5, 50]) if damaged else 0):
            damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
        file.write_bytes(damaged)
        said += bool(told(lambda: str(spp.load(folder))))
        file.write_bytes(whole)
    assert said >= 5


FACTS = {
    "format": ["two", None, 1.5, -1, 0, [], {}, 10**30],
    "sessions": [3, "a", [1], [{}], [{"part": "x", "start": 0}]],
    "manifest": ["a", [], {"frame.parquet": 3}, {"frame.parquet": {}}],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in FACTS.items() for value in values])
def test_facts_that_are_something_else(folder, key, value):
    facts = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**facts, key: value}))
    line = told(lambda: spp.load(folder))
    assert line or key != "format"


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "null", '{"format": 1' + "0" * 5000 + "}"])
def test_run_files_that_no_parser_takes(folder, text):
    (folder / "run.json").write_text(text)
    assert "run.json needs to hold the facts of a run; got something else" in told(lambda: spp.load(folder))
    assert "run.json needs to hold the facts of a run" in fails("report", folder)
    assert "run.json" in told(lambda: spp.watch(network(), path=folder, resume=True).start())
    assert "run.json" in fails("train", "--resume", "--out", folder)


@pytest.mark.parametrize("name", ["x\0y", "x\ud800y", "x" * 300])
def test_folders_that_cannot_be(tmp_path, name):
    trace = spp.trace(network(), torch.randn(5, 3))
    for act in (
        lambda: trace.save(tmp_path / name),
        lambda: spp.load(tmp_path / name),
        lambda: spp.watch(network(), path=tmp_path / name),
    ):
        assert "a run is in a folder; got " in told(act)


def test_a_lone_surrogate_in_a_name(tmp_path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module("a\ud800", nn.Linear(3, 3))

        def forward(self, x):
            return self._modules["a\ud800"](x)

    line = r"names are text that UTF-8 can hold; got 'a\ud800"
    assert line in told(lambda: spp.trace(Odd(), torch.randn(2, 3)))
    model = Odd()
    with pytest.warns(spp.errors.SppWarning, match=re.escape(line)), spp.watch(model, path=tmp_path / "run", flush=0):
        model(torch.randn(2, 3)).sum().backward()


def test_checkpoints_with_keys_that_are_no_names(tmp_path):
    torch.save({1: torch.zeros(2), 2: torch.zeros(2)}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="a checkpoint is a mapping of names to tensors; got the key 1, a int"):
        spp.models.build("ffn", checkpoint=tmp_path / "weights.pt")
    assert "got the key 1" in fails("analyze", "--model", "ffn", "--checkpoint", tmp_path / "weights.pt")


def test_a_checkpoint_that_unpacks_to_more_than_it_is(tmp_path):
    torch.save({"weight": torch.zeros(4_000_000)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry))
    assert (tmp_path / "bomb.pt").stat().st_size < 100_000
    with pytest.raises(InputError, match=r"got [\d,]+ bytes that unpack to 16,0"):
        spp.models.build("ffn", checkpoint=tmp_path / "bomb.pt")
    assert "bytes that unpack to" in fails("analyze", "--model", "ffn", "--data", tmp_path / "bomb.pt")


@pytest.mark.parametrize(
    "state", [{1: 2, "format": 1}, {"format": "one"}, [1], {"format": 1, "recipe": 3}, {"format": 1}]
)
def test_checkpoints_of_a_run_that_are_none(tmp_path, state):
    from spp.training.checkpoints import LAST, Checkpoints

    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "checkpoints" / LAST)
    try:
        found = Checkpoints(tmp_path).read(LAST)
    except StoreError as error:
        assert "a checkpoint needs to be readable" in str(error) and "\n" not in str(error)
    else:
        assert found is not None and all(isinstance(key, str) for key in found)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 3, 8, 8), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 3), }" + " " * 60_000,
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 3), }",
        "(" * 5_000,
    ],
)
def test_headers_of_arrays_that_promise_too_much(tmp_path, header):
    text = header.encode() + b"\n"
    (tmp_path / "data.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + b"\0" * 64)
    assert "a .npy file needs to hold an array" in fails("analyze", "--model", "ffn", "--data", tmp_path / "data.npy")


def test_an_array_is_read_as_before(tmp_path):
    from spp_cli.inputs import _load

    for array in (np.ones((4, 3), np.float32), np.zeros((0, 3), np.float32)):
        np.save(tmp_path / "data.npy", array)
        assert _load(tmp_path / "data.npy")[0].shape == array.shape


@pytest.mark.parametrize(
    "facts",
    [{}, {"seconds": 1.0}, {"tables": ["../../secret"], "seconds": 1.0}, {"tables": 3, "seconds": 1}, [1], None],
)
def test_cells_of_a_study_that_are_none(tmp_path, facts):
    from spp.studies import STUDIES, run
    from spp.studies.study import Setup

    study = next(iter(STUDIES.values()))
    place = tmp_path / "study" / "cells" / next(iter(study.cells(Setup()))).folder
    text = "[" * 100_000 if facts is None else json.dumps(facts)

    class Enough(Exception):
        pass

    def enough(progress):
        raise Enough

    with pytest.raises(Enough):
        run(study, tmp_path / "study", report=enough)
    place.mkdir(parents=True)
    (place / "cell.json").write_text(text)
    line = told(lambda: run(study, tmp_path / "study", report=enough))
    assert "a file of a study holds its facts" in line and f"Remove {place}" in line
