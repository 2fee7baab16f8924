"""A study runs each cell once, in any number of processes, and goes on where it was interrupted."""

from __future__ import annotations

import compileall
import hashlib
import importlib
import json
import platform
import signal
import zipfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from pandas.testing import assert_frame_equal

from spp.errors import InputError, StoreError, UnknownNameError
from spp.studies import STUDIES, Cell, Progress, Results, Setup, Size, Study, StudyError, draw, find, names, run
from spp.studies.publish import machine, markdown
from spp.studies.run import Shelf
from spp_cli.study import study
from tests.processes import Forked
from tests.studies.conftest import MEASURED, measure, registered


def test_every_cell_is_measured_once_and_everything_is_written(tiny: Study, tmp_path: Path) -> None:
    seen: list[Progress] = []
    published = run(tiny, tmp_path / "out", report=seen.append)
    assert [f"norm={norm} seed={seed}" for norm in ("none", "batch") for seed in (868, 67)] == MEASURED
    assert [progress.done for progress in seen] == [0, 1, 2, 3, 4] and seen[-1].seconds_left == 0
    assert seen[0].seconds_left is None and all(p.seconds_left is not None for p in seen[1:])
    assert sorted(published.files) == sorted(
        ["README.md", "verdicts.json", "signals.parquet", "blocks.parquet", "table.md", "table.tex", "table.csv"]
    )
    assert all((tmp_path / "out" / name).stat().st_size for name in published.files)
    facts = json.loads((tmp_path / "out" / "verdicts.json").read_text())
    assert facts["claims"][0]["outcome"] == "confirmed" and facts["claims"][0]["numbers"]["variance"] < 2
    page = (tmp_path / "out" / "README.md").read_text()
    criteria = hashlib.sha256((Path(__file__).parent / "conftest.py").read_bytes()).hexdigest()
    assert facts["criteria"] == criteria and f"Criteria sha256: {criteria}." in page
    assert "**confirmed**" in page and "T1, criterion, fixed before the run: confirmed below 2" in page
    assert_frame_equal(pd.read_csv(tmp_path / "out" / "table.csv"), published.tables["table"])


def test_text_of_a_table_that_a_spreadsheet_would_run_is_text(tiny: Study, tmp_path: Path) -> None:
    arms = ["=1+1", "@SUM(A1)", "+x", "-1", "none"]
    table = pd.DataFrame({"arm": arms, "=name": [-1.5, 2.0, -3.0, 4.0, 5.0]})
    run(replace(tiny, tables=lambda results, setup: {"table": table}), tmp_path)
    written = pd.read_csv(tmp_path / "table.csv")
    assert written["arm"].tolist() == ["'=1+1", "'@SUM(A1)", "'+x", "'-1", "none"]
    # numbers are numbers, also below zero
    assert written["'=name"].tolist() == table["=name"].tolist()


def test_criteria_are_hashed_in_a_zip_too_and_said_to_be_unknown_without_source(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "def judge(results, setup):\n    return None\n"
    with zipfile.ZipFile(tmp_path / "zipped.zip", "w") as archive:
        archive.writestr("criteria_in_zip.py", source)
    (tmp_path / "criteria_compiled.py").write_text(source)
    compileall.compile_dir(tmp_path, legacy=True, quiet=1)
    (tmp_path / "criteria_compiled.py").unlink()
    monkeypatch.syspath_prepend(str(tmp_path / "zipped.zip"))
    monkeypatch.syspath_prepend(str(tmp_path))
    hashes = {}
    for name in ("criteria_in_zip", "criteria_compiled"):
        judge = importlib.import_module(name).judge
        one = replace(tiny, claims=(replace(tiny.claims[0], judge=judge),))
        hashes[name] = one.criteria
    assert hashes == {"criteria_in_zip": hashlib.sha256(source.encode()).hexdigest(), "criteria_compiled": None}


def test_a_page_begins_with_what_was_claimed_and_run_and_ends_with_what_it_shows(tiny: Study, tmp_path: Path) -> None:
    published = run(replace(tiny, limits=lambda setup: [f"Nothing at the size {setup.size}."]), tmp_path)
    page, facts = (tmp_path / "README.md").read_text(), json.loads((tmp_path / "verdicts.json").read_text())
    places = [page.index(words) for words in (
        "# A tiny study",
        "**Size: tiny**, minutes on a CPU",
        "## What was claimed",
        "- **T1**: BatchNorm gives unit variance. (Ioffe & Szegedy (2015))",
        "## What was run here",
        "4 cells, ",
        "each on one thread; 2 seeds (868, 67).",
        f"- 4 on cpu: {machine('cpu')}",
        "## What came out",
        "| T1 | **confirmed** |",
        "## What this run cannot say",
        "- Nothing at the size tiny.",
        "## Tables",
    )]  # fmt: skip
    assert places == sorted(places) and facts["machines"] == {machine("cpu"): 4} and facts["missing"] == []
    assert machine("cpu").endswith(f"python {platform.python_version()}") and f"torch {torch.__version__}" in page
    assert set(published.results.machines.values()) == {machine("cpu")}


def test_a_run_is_drawn_again_without_running(tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran, folder = run(tiny, "studies/tiny-tiny", Setup(seeds=3)), tmp_path / "studies" / "tiny-tiny"
    files = {name: (folder / name).read_bytes() for name in ran.files}
    for name in ran.files:
        (folder / name).unlink()
    MEASURED.clear()
    assert draw(tiny, folder).files == ran.files and MEASURED == []
    assert {name: (folder / name).read_bytes() for name in ran.files} == files
    # a table that a later version adds reaches the page
    later = replace(tiny, tables=lambda results, setup: {"later": results["signals"][["norm"]].drop_duplicates()})
    with registered(later):
        said = CliRunner().invoke(study, ["draw", "tiny"], catch_exceptions=False)
    assert "T1 confirmed" in said.output and "later.md" in said.output and "Not finished" not in said.output
    assert "**later**" in (folder / "README.md").read_text() and MEASURED == []


def test_of_a_run_that_is_not_finished_the_missing_cells_are_named(tiny: Study, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    def needs_all(results: Results, setup: Setup) -> dict[str, pd.DataFrame]:
        return {"table": results.of("signals", norm="batch")[["absent"]]}

    with pytest.raises(KeyboardInterrupt):
        run(tiny, tmp_path, report=interrupt)
    drawn = draw(replace(tiny, tables=needs_all), tmp_path)
    assert [str(cell) for cell in drawn.missing] == ["norm=batch seed=868", "norm=batch seed=67"]
    assert [verdict.outcome for verdict in drawn.verdicts.values()] == ["not decided"]
    page = (tmp_path / "README.md").read_text()
    assert "**Not finished:** 2 of 4 cells are missing." in page and "- Cells are missing: norm=batch seed=67." in page
    assert "| It is not judged while 2 of 4 cells are missing. |" in page and drawn.tables == {}
    with registered(tiny):
        said = CliRunner().invoke(study, ["draw", "tiny", "--out", str(tmp_path)], catch_exceptions=False)
    assert "Not finished, 2 of 4 cells are missing:\n  norm=batch seed=868\n  norm=batch seed=67\n" in said.output
    # whatever fails with all cells there is a fault of the study
    run(tiny, tmp_path)
    with pytest.raises(KeyError, match="absent"):
        draw(replace(tiny, tables=needs_all), tmp_path)


def test_what_is_no_run_cannot_be_drawn(tiny: Study, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"a folder without study\.json\. Run the study first"):
        draw(tiny, tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "study.json").write_text('{"format": 2, "study": "tiny", "setup": {"size": "huge"}}')
    with pytest.raises(StoreError, match=r"a file of a study holds its facts; got .*unknown size 'huge'"):
        draw(tiny, tmp_path)


KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from spp.studies import Size, affine_batchnorm as study, publish, run
from spp.studies.run import Shelf

where, folder = sys.argv[1:]
small = {"input_shape": (1, 8, 8), "widths": (4, 4, 8, 8)}
changes = {"depths": (18,), "costs": (0.4,), "batches": (256,), "rates": (0.03,), "epochs": 1, "seeds": 1, "changes": small}
study.PLANS[Size.TINY] = replace(study.PLANS[Size.TINY], **changes)
done, measure, replaced, put = [], study.measure, Path.replace, publish.put_table

def end(at):
    if where == at:
        os.kill(os.getpid(), signal.SIGKILL)

def measured(cell, setup):
    tables = measure(cell, setup)
    if done.append(cell) or len(done) == 3:
        end("in a cell")
    return tables

def renamed(path, target):
    if Path(target).parent.name == "cells" and len(done) == 3:
        end("before a cell is there")
    return replaced(path, target)

def written(path, table):
    put(path, table)
    end("in the tables")

Path.replace, publish.put_table = renamed, written
run(replace(study.STUDY, measure=measured, figures=None), folder)
"""


@pytest.mark.slow
def test_a_real_study_that_is_killed_at_three_points_ends_with_the_same_bytes(python: Forked, tmp_path: Path) -> None:
    def go(where: str, folder: str) -> int:
        return python(KILLED, where, tmp_path / folder).returncode

    assert go("", "whole") == 0
    ended = [go(where, "part") for where in ("in a cell", "before a cell is there", "in the tables", "")]
    assert ended == [-signal.SIGKILL] * 3 + [0]
    whole, part = (
        {file.name: file.read_bytes() for file in (tmp_path / name).glob("*.*") if file.name not in TIMED}
        for name in ("whole", "part")
    )
    assert part == whole and {"outcome.parquet", "gap.csv", "accuracy.tex"} <= set(whole)
    assert not list((tmp_path / "part").rglob(".draft*"))


TIMED = (".lock", "README.md", "verdicts.json", "study.json")
"""The page and the verdicts tell how long it took."""


def test_results_carry_the_parameters_of_their_cells(tiny: Study, tmp_path: Path) -> None:
    results = run(tiny, tmp_path).results
    signals = results["signals"]
    assert list(signals.columns[:2]) == ["norm", "seed"]
    one = results.of("signals", norm="batch", seed=67)
    expected = measure(Cell.of(norm="batch", seed=67), Setup())["signals"]
    numbers = expected.select_dtypes("number").columns
    assert len(one) == len(expected) and len(numbers) > 15
    assert_frame_equal(one[numbers], expected[numbers], check_exact=True, check_dtype=False)
    assert results.of("signals", norm="layer").empty and results["nothing"].empty
    signals["norm"] = "changed by a reader"
    assert set(results["signals"]["norm"]) == {"none", "batch"}


def test_an_interrupted_study_goes_on_to_the_same_bits(tiny: Study, tmp_path: Path) -> None:
    whole = run(tiny, tmp_path / "whole").results["signals"]
    MEASURED.clear()

    def interrupt(progress: Progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny, tmp_path / "part", report=interrupt)
    assert len(MEASURED) == 2
    MEASURED.clear()
    part = run(tiny, tmp_path / "part").results["signals"]
    assert_frame_equal(part, whole, check_exact=True)
    assert len(MEASURED) == 2
    MEASURED.clear()
    run(tiny, tmp_path / "part")
    assert MEASURED == []


def test_what_a_killed_one_left_half_written_is_taken_away(tiny: Study, tmp_path: Path) -> None:
    run(tiny, tmp_path, Setup(seeds=1))
    (tmp_path / ".draft-123-table.md").write_text("half")
    (tmp_path / "cells" / ".draft-123-norm=none").mkdir()
    (tmp_path / "cells" / ".draft-123-norm=none" / "signals.parquet").write_text("half")
    run(tiny, tmp_path, Setup(seeds=1))
    assert not list(tmp_path.rglob(".draft*"))


def test_more_seeds_are_added_to_what_is_there(tiny: Study, tmp_path: Path) -> None:
    run(tiny, tmp_path, Setup(seeds=1))
    MEASURED.clear()
    assert len(run(tiny, tmp_path, Setup(seeds=7)).results.cells) == 14
    assert len(MEASURED) == 12 and "norm=none seed=868" not in MEASURED
    assert {cell["seed"] for cell in tiny.cells(Setup(seeds=7))} == {868, 67, 472, 362, 970, 1, 2}


def test_another_size_or_study_in_the_same_folder_is_refused(tiny: Study, tmp_path: Path) -> None:
    run(tiny, tmp_path, Setup(seeds=1))
    with pytest.raises(InputError, match=r"at the size at which it began; got setup .*Choose another folder\."):
        run(tiny, tmp_path, Setup(size=Size.FULL))
    with pytest.raises(InputError, match="got study other instead of tiny"):
        run(replace(tiny, name="other"), tmp_path)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "file").touch()
    with pytest.raises(StoreError, match="a study goes into a folder of its own"):
        run(tiny, tmp_path / "else")


def test_a_size_without_a_plan_is_refused_at_every_door(tiny: Study, tmp_path: Path) -> None:
    refused = "size: tiny has a plan for the sizes tiny, full; got real."
    with pytest.raises(InputError) as caught:
        run(tiny, tmp_path / "out", Setup(size=Size.REAL))
    assert str(caught.value) == refused and not (tmp_path / "out").exists()
    with pytest.raises(UnknownNameError, match=r"unknown size 'rael'.*Did you mean 'real'\? Known: tiny, real, full\."):
        Setup(size="rael")  # type: ignore[arg-type]
    for name in names():
        one = find(name)
        assert all(len(one.cells(Setup(size=size))) and one.arrangement(Setup(size=size)) for size in one.sizes)
    with registered(tiny):
        said = CliRunner().invoke(study, ["run", "tiny", "--size", "real", "--out", str(tmp_path / "out")])
        assert str(said.exception) == refused and said.output == "" and not (tmp_path / "out").exists()
        said = CliRunner().invoke(study, ["run", "tiny", "--size", "real", "--quick"])
        assert said.exit_code == 2 and "--quick is another name of --size tiny; got --size real too." in said.output


@pytest.mark.parametrize(
    ("words", "older", "folder"),
    [
        (["--quick"], "", "tiny-tiny"),
        (["--size", "tiny"], "", "tiny-tiny"),
        (["--size", "tiny"], "tiny-quick", "tiny-quick"),
        ([], "", "tiny-full"),
        ([], "tiny", "tiny"),
    ],
)
def test_a_folder_is_named_after_the_size_and_older_ones_go_on(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], older: str, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    size = Size.TINY if words else Size.FULL
    if older:
        run(tiny, Path("studies", older), Setup(size=size))
        facts = {"format": 1, "study": "tiny", "setup": {"quick": size is Size.TINY, "device": "cpu"}}
        Path("studies", older, "study.json").write_text(json.dumps(facts))
        MEASURED.clear()
    with registered(tiny):
        CliRunner().invoke(study, ["run", "tiny", "--device", "cpu", *words], catch_exceptions=False)
    assert [place.name for place in Path("studies").iterdir()] == [folder] and len(MEASURED) == (0 if older else 4)


def test_a_failing_cell_is_named_and_the_finished_ones_are_kept(tiny: Study, tmp_path: Path) -> None:
    def fails(cell: Cell, setup: Setup) -> dict[str, pd.DataFrame]:
        if cell["norm"] == "batch":
            raise ZeroDivisionError("no")
        return measure(cell, setup)

    with pytest.raises(StudyError, match=r"tiny, norm=batch seed=868: .* got ZeroDivisionError: no") as caught:
        run(replace(tiny, measure=fails), tmp_path)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert len(Shelf(tmp_path, tiny, Setup()).read(list(tiny.cells(Setup()))).cells) == 2
    assert not list(tmp_path.glob("cells/.draft*"))


def test_a_damaged_cell_says_what_to_remove(tiny: Study, tmp_path: Path) -> None:
    run(tiny, tmp_path, Setup(seeds=1))
    file = next(tmp_path.glob("cells/norm=batch*/cell.json"))
    file.write_text("{")
    with pytest.raises(StoreError, match=r"Remove .*norm=batch-seed=868"):
        run(tiny, tmp_path, Setup(seeds=1))


@pytest.mark.parametrize("jobs", [0, -2])
def test_jobs_are_at_least_one(tiny: Study, tmp_path: Path, jobs: int) -> None:
    with pytest.raises(InputError, match=f"jobs are a positive number, or -1 for one per core; got {jobs}"):
        run(tiny, tmp_path, jobs=jobs)


def test_a_study_from_outside_is_run_by_its_name(tiny: Study, tmp_path: Path) -> None:
    with registered(tiny):
        assert find("tiny") is tiny and names()[-1] == "tiny" and STUDIES.describe("tiny") == "A tiny study"
        listed, ran = (
            CliRunner().invoke(study, line.split(), catch_exceptions=False)
            for line in ("list", f"run tiny --size tiny --seeds 1 --out {tmp_path / 'out'}")
        )
        assert "tiny              A tiny study\n" in listed.output
        assert ran.exit_code == 0 and "T1 confirmed: BatchNorm gives unit variance." in ran.output
    with pytest.raises(UnknownNameError, match="unknown study 'tiny'"):
        find("tiny")


def test_folders_of_cells_are_told_apart() -> None:
    cells = [Cell.of(a=a, b=b) for a in ("x/y", "x-y", "x" * 300, "x" * 301) for b in (0.1, 0.10000001)]
    assert len({cell.folder for cell in cells}) == len(cells)
    assert all(len(cell.folder) < 100 and "/" not in cell.folder for cell in cells)
    assert Cell.of(1.0, a=1) == Cell.of(9.0, a=1)


def test_markdown_escapes_what_would_end_a_column() -> None:
    assert markdown(pd.DataFrame({"a": ["x|y"], "b": [0.123456]})) == "| a | b |\n| --- | --- |\n| x\\|y | 0.1235 |"
