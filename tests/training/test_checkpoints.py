"""Checkpoints: whole or not there, and read without running code."""

import pickle

import pandas as pd
import pytest
import torch

from spp.errors import StoreError
from spp.training.checkpoints import BEST, FORMAT, LAST, Checkpoints, write_history

STATE = {"a": torch.arange(3.0), "b": [1, {"c": None}], "d": (2, "x")}


def test_what_is_kept_is_read_again(tmp_path):
    kept = Checkpoints(tmp_path / "run")
    assert kept.read(LAST) is None
    kept.keep(LAST, STATE)
    found = kept.read(LAST)
    assert torch.equal(found.pop("a"), STATE["a"])
    assert found == {"b": [1, {"c": None}], "d": (2, "x")}
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [LAST]


def test_without_a_folder_the_best_is_a_copy_in_memory():
    kept, weights = Checkpoints(None), torch.zeros(2)
    kept.keep(BEST, {"model": {"w": weights}})
    weights += 1
    assert kept.read(BEST)["model"]["w"].tolist() == [0, 0]


def test_a_writing_that_fails_leaves_the_one_before(tmp_path, monkeypatch):
    kept = Checkpoints(tmp_path)
    kept.keep(LAST, STATE)
    save = torch.save

    def full(state, path):
        save(state, path)
        path.write_bytes(path.read_bytes()[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        StoreError, match=r"checkpoints: a run needs a place that can be written; got No space left on device\."
    ):
        kept.keep(LAST, {"a": 2})
    assert kept.read(LAST)["d"] == (2, "x")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [LAST]


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b"nothing"), r"last\.pt: a checkpoint needs to be readable; got "),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), r"last\.pt: a checkpoint needs to be readable; got "),
        (lambda path: path.write_bytes(pickle.dumps(Evil())), r"last\.pt: a checkpoint needs to be readable; got "),
        (lambda path: torch.save({"no": "format"}, path), r"a checkpoint needs to be readable; got 'format'"),
        (
            lambda path: torch.save({"format": FORMAT + 1}, path),
            r"up to version 1; got version 2\. Upgrade torch-spp",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch remarks on pickles that it refuses
def test_damaged_checkpoints(write, message, tmp_path, capsys):
    kept = Checkpoints(tmp_path)
    kept.keep(LAST, STATE)
    write(tmp_path / "checkpoints" / LAST)
    with pytest.raises(StoreError, match=message):
        kept.read(LAST)
    assert "code ran" not in capsys.readouterr().out


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="a run needs a place that can be written"):
        Checkpoints(tmp_path / "file").keep(LAST, STATE)


def test_tables_come_as_parquet_and_csv(tmp_path):
    table = pd.DataFrame({"epoch": [0, 1], "loss": [0.5, float("nan")]})
    write_history(tmp_path, table)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "history.parquet"), table)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "history.csv"), table)
