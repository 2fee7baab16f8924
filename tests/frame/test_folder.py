"""A run folder: only what is ours is removed, no part is lost unseen, and whatever kills a writer leaves a whole run."""

import json
import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import spp
from spp.errors import StoreError

ROOT = Path(__file__).resolve().parents[2]


def traced(width=4):
    torch.manual_seed(0)
    return spp.trace(nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2)), torch.randn(5, 3))


def watched(path, steps=6, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with spp.watch(model, optimizer, **{"every": 2, "flush": 0, "path": path, **options}):
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(5, 3)).square().sum().backward()
            optimizer.step()


def one_line(error):
    return str(error.value) and "\n" not in str(error.value)


# -- what is not ours ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["{}", '{"format": "csv"}', '{"format": 3, "name": "mine"}', "not json", "[1]"])
def test_a_folder_with_a_run_file_of_somebody_else_is_refused_and_keeps_everything(tmp_path, text):
    mine = {"run.json": text, "src.py": "print()", "parts.txt": "a", "frame.parquet": "a table of mine"}
    for name, content in mine.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(
        StoreError, match=r"only a run folder is overwritten; got a folder with another run\.json"
    ) as error:
        traced().save(tmp_path, overwrite=True)
    assert one_line(error)
    with pytest.raises(StoreError, match="a run is written to a folder of its own"):
        spp.watch(nn.Linear(2, 2), path=tmp_path, overwrite=True)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == mine


def _neighbours(folder):
    (folder / "src.py").write_text("mine")
    (folder / "figures").mkdir()
    (folder / "figures" / "a.png").write_text("mine")
    return {"src.py", "figures"}


@pytest.mark.parametrize("first", ["trace", "watch"])
@pytest.mark.parametrize("then", ["trace", "watch"])
def test_what_lies_in_a_run_folder_besides_the_run_stays(tmp_path, first, then):
    folder = tmp_path / "run"
    traced().save(folder) if first == "trace" else watched(folder)
    names = _neighbours(folder)
    traced(8).save(folder, overwrite=True) if then == "trace" else watched(folder, 1, overwrite=True)
    assert names <= {file.name for file in folder.iterdir()} and (folder / "figures" / "a.png").read_text() == "mine"
    loaded = spp.load(folder)
    assert loaded.run["parameters"] == (50 if then == "trace" else 26)
    assert loaded.frame["step"].unique().tolist() == [0]
    assert not (folder / "parts").exists() if then == "trace" else not (folder / "frame.parquet").exists()


@pytest.mark.parametrize("then", ["trace", "watch"])
def test_a_symbolic_link_costs_neither_the_run_nor_what_it_leads_to(tmp_path, then):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious").write_text("mine")
    watched(tmp_path / "run")
    (tmp_path / "run" / "data").symlink_to(tmp_path / "data")
    (tmp_path / "run" / "nonfinite").symlink_to(tmp_path / "data")
    traced().save(tmp_path / "run", overwrite=True) if then == "trace" else watched(tmp_path / "run", 1, overwrite=True)
    assert spp.load(tmp_path / "run").frame["step"].unique().tolist() == [0]
    assert (tmp_path / "run" / "data" / "precious").read_text() == "mine"


# -- parts --------------------------------------------------------------------------------------------------------------------


def _missing(parts):
    (parts / "frame-000002.parquet").unlink()


def _renamed(parts):
    (parts / "frame-000002.parquet").rename(parts / "frame-000002 (conflicted copy).parquet")


def _doubled(parts):
    shutil.copy(parts / "frame-000002.parquet", parts / "frame-000002 (conflicted copy).parquet")


def _exchanged(parts):
    shutil.copy(parts / "frame-000001.parquet", parts / "frame-000002.parquet")


def _further(parts):
    shutil.copy(parts / "frame-000002.parquet", parts / "frame-000009.parquet")


def _last_line_gone(parts):
    manifest = parts / "manifest.jsonl"
    manifest.write_text("".join(manifest.read_text().splitlines(keepends=True)[:-1]))


def _middle_line_gone(parts):
    lines = (parts / "manifest.jsonl").read_text().splitlines(keepends=True)
    (parts / "manifest.jsonl").write_text(lines[0] + lines[2])


def _manifest_gone(parts):
    (parts / "manifest.jsonl").unlink()


@pytest.mark.parametrize(
    "damage", [_missing, _renamed, _doubled, _exchanged, _further, _last_line_gone, _middle_line_gone, _manifest_gone]
)
def test_no_part_is_lost_or_won_in_silence(tmp_path, damage):
    watched(tmp_path / "run")
    damage(tmp_path / "run" / "parts")
    with pytest.raises(StoreError, match=r"frame-00000|manifest\.jsonl") as error:
        spp.load(tmp_path / "run")
    assert one_line(error)


@pytest.mark.parametrize("damage", [_renamed, _doubled])
def test_in_a_run_of_version_1_too(tmp_path, damage):
    shutil.copytree(ROOT / "tests" / "golden" / "version-1-watch", tmp_path / "run")
    damage(tmp_path / "run" / "parts")
    with pytest.raises(StoreError, match=r"frame-000002 \(conflicted copy\)\.parquet") as error:
        spp.load(tmp_path / "run")
    assert one_line(error)


def test_a_run_without_a_manifest_is_continued_with_one(tmp_path):
    watched(tmp_path / "run", 4)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    facts.pop("manifest")
    (tmp_path / "run" / "run.json").write_text(json.dumps(facts))
    (tmp_path / "run" / "parts" / "manifest.jsonl").unlink()
    watched(tmp_path / "run", 2, resume=True)
    assert spp.load(tmp_path / "run").frame["step"].unique().tolist() == [0, 2, 4]
    (tmp_path / "run" / "parts" / "frame-000001.parquet").unlink()
    with pytest.raises(StoreError, match=r"frame-000001\.parquet of a run needs to be readable; got no such file"):
        spp.load(tmp_path / "run")


def test_a_table_of_a_saved_run_that_was_exchanged_is_named(tmp_path):
    traced().save(tmp_path / "run")
    traced(8).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "modules.parquet", tmp_path / "run" / "modules.parquet")
    with pytest.raises(
        StoreError, match=r"modules\.parquet of a run needs to be readable; got a file that was changed"
    ) as error:
        spp.load(tmp_path / "run")
    assert one_line(error)
    assert "manifest" not in spp.load(tmp_path / "other").run


# -- kills --------------------------------------------------------------------------------------------------------------------


def test_leftovers_of_an_early_kill_block_nothing(tmp_path):
    def leave(name):
        folder = tmp_path / name
        (folder / "parts").mkdir(parents=True)
        (folder / ".lock").write_text("123456\n")
        (folder / ".draft-123456-run.json").write_text('{"form')
        (folder / ".draft-abcdef").mkdir()
        return folder

    traced().save(leave("trace"))
    watched(leave("watch"), 1)
    watched(leave("resumed"), 1, resume=True)
    for name in ("trace", "watch", "resumed"):
        assert len(spp.load(tmp_path / name).frame)
    from spp.training.checkpoints import check_folder

    check_folder(leave("train"), resume=True)
    check_folder(leave("fresh"), resume=False)


@pytest.mark.parametrize(("kind", "every", "most"), [("trace", 10, 400), ("watch", 10, 400), ("removed", 3, 100)])
def test_killed_at_file_system_calls_an_overwritten_run_is_the_old_or_the_new_one(python, kind, every, most):
    """A share; a run that is given up can be given up again, wherever that ended."""
    done = python((ROOT / "benchmarks" / "overwrites.py").read_text(), kind, "--every", every)
    assert done.returncode == 0, done.stderr
    assert most / 20 <= int(done.stdout.split()[1]) < most


def test_killed_at_calls_and_at_random_a_run_goes_on_to_the_bits_of_its_twin(python):
    """A share of what stands in docs/performance.md."""
    words = ["--what", "watch,train", "--kills", "1", "--calls", "1"]
    done = python((ROOT / "benchmarks" / "kills.py").read_text(), *words)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines()[2:]]
    assert [row[1].strip() for row in rows] == ["watch", "train"]
    assert all(int(row[4]) == 3 and int(row[-2]) == 0 for row in rows)


def test_a_second_writer_of_a_run_that_is_watched_is_refused(python, tmp_path):
    model = nn.Linear(2, 2)
    with warnings.catch_warnings(action="ignore"), spp.watch(model, path=tmp_path / "run"):
        shutil.copytree(tmp_path / "run", tmp_path / "backup")  # opens and closes the file of the lock
        with pytest.raises(StoreError, match="a run has one writer"):
            traced().save(tmp_path / "run", overwrite=True)
        other = python(
            "import sys, spp, torch; spp.watch(torch.nn.Linear(2, 2), path=sys.argv[1], resume=True).start()",
            tmp_path / "run",
        )
        assert f"a run has one writer; got a folder that process {os.getpid()} is writing to" in other.stderr
        with spp.watch(nn.Linear(2, 2), path=tmp_path / "backup", resume=True):
            pass


def test_a_second_runner_of_a_study_is_refused(tmp_path):
    from spp.studies import STUDIES, run

    study = next(iter(STUDIES.values()))

    class Enough(Exception):
        pass

    def second(progress):
        with pytest.raises(StoreError, match="a run has one writer; got a folder that"):
            run(study, tmp_path / "study")
        raise Enough

    with pytest.raises(Enough):
        run(study, tmp_path / "study", report=second)
    with pytest.raises(Enough):  # the first one's end gives the folder back
        run(study, tmp_path / "study", report=second)
