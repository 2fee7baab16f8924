"""Run a study: every cell that is not finished yet, in as many processes as are asked for, then the verdicts.

Its folder holds ``study.json``, and a folder for each finished cell, which is there whole or not at all.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spp.errors import InputError, MissingExtraError, SppError, StoreError
from spp.frame.files import DRAFT, failed, is_leftover, locked, read_table
from spp.frame.runs import sweep
from spp.studies.publish import Published, described, publish, read_json, write_json
from spp.studies.study import Cell, Results, Setup, Study, Tables

STUDY_FILE, CELL_FILE, CELLS = "study.json", "cell.json", "cells"
FORMAT = 2
"""Version of the folder's layout; in 1 a study was ``quick`` or full."""


class StudyError(SppError, RuntimeError):
    """A cell of a study failed; the cause is what it raised."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a study stands.

    Attributes:
        cell: The cell that has just been finished; None at the beginning.
        done: Cells that are finished, with those of earlier runs.
        total: All cells.
        seconds_left: Estimated from what the finished cells took; None before the first one of any run.
    """

    cell: Cell | None
    done: int
    total: int
    seconds_left: float | None


Report = Callable[[Progress], None]


def run(
    study: Study,
    out: str | Path,
    setup: Setup | None = None,
    *,
    jobs: int = 1,
    backend: str = "loky",
    report: Report | None = None,
) -> Published:
    """Run a study, or go on with it, and write what came out.

    Each cell computes on one thread, wherever it runs, so that on a CPU its numbers are the same to the bit with any number
    of jobs, and after any interruption.

    Args:
        study: See :data:`spp.studies.STUDIES`.
        out: Its folder; finished cells in it are not run again.
        setup: At which size; tiny if left out.
        jobs: Cells at a time; -1 for one per core.
        backend: Of joblib: ``loky`` for processes on this machine, or ``dask`` or ``ray`` once they are registered.
        report: Called at the beginning and after each cell.

    Raises:
        InputError: The folder holds another study or another size, the study has no such size, data are missing, or
            ``jobs`` is 0.
        StoreError: The folder cannot be read or written.
        StudyError: A cell failed; those that are finished stay finished.
        MissingExtraError: joblib is not installed.
    """
    setup = setup or Setup()
    # joblib would take 0 for an error of its own, and -2 for all cores but one
    if jobs == 0 or jobs < -1:
        raise InputError("jobs are a positive number, or -1 for one per core", received=str(jobs), where="jobs")
    study.check(setup)
    cells = list(study.cells(setup))
    shelf = Shelf(out, study, setup)
    lock = locked(shelf.folder, str(out))
    try:
        sweep(shelf.folder, ("", CELLS))
        seconds = dict(shelf.read(cells).seconds)

        def tell(cell: Cell | None) -> None:
            """The rest takes what the finished cells took per unit of their cost, over the jobs."""
            spent = sum(one.cost for one in seconds)
            left = sum(one.cost for one in cells if one not in seconds) / ((os.cpu_count() or 1) if jobs < 0 else jobs)
            if report is not None:
                time_left = left * sum(seconds.values()) / spent if spent else None
                report(Progress(cell, len(seconds), len(cells), time_left))

        tell(None)
        todo = [cell for cell in cells if cell not in seconds]
        for cell, tables, taken in _measured(study, todo, setup, jobs, backend):
            shelf.put(cell, tables, taken)
            seconds[cell] = taken
            tell(cell)
        # read again, since tables of all cells are not held while cells are measured
        return publish(study, setup, shelf.read(cells), shelf.folder)
    finally:
        lock.release()


def _measured(
    study: Study, cells: list[Cell], setup: Setup, jobs: int, backend: str
) -> Iterator[tuple[Cell, Tables, float]]:
    """Cells as they are finished."""
    if jobs == 1:
        yield from (_work(study.name, study.measure, cell, setup) for cell in cells)
        return
    try:
        # an extra, and needed for more than one job only
        from joblib import Parallel, delayed, parallel_config
    except ImportError as error:
        raise MissingExtraError("joblib", "studies", purpose="running cells in parallel") from error
    with parallel_config(backend=backend, n_jobs=jobs):
        # one cell at a time and none in advance: what is interrupted loses the cells in work and no others
        yield from Parallel(return_as="generator_unordered", pre_dispatch="n_jobs", batch_size=1)(
            delayed(_work)(study.name, study.measure, cell, setup) for cell in cells
        )


def _work(name: str, measure: Callable[[Cell, Setup], Tables], cell: Cell, setup: Setup) -> tuple[Cell, Tables, float]:
    """Measure one cell, on one thread: how many share a sum decides how it is rounded."""
    started, threads = time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        tables = measure(cell, setup)
    # its message says what is wrong and what to do already
    except SppError:
        raise
    except Exception as error:
        raise StudyError(
            "a cell of a study ends with its tables",
            received=f"{type(error).__name__}: {error}",
            where=f"{name}, {cell}",
        ) from error
    finally:
        torch.set_num_threads(threads)
    return cell, tables, time.perf_counter() - started


class Shelf:
    """Finished cells of one study, on disk.

    Args:
        folder: Of the study.
        study: Which.
        setup: At which size.

    Raises:
        InputError: The folder holds another study, or the same one at another size.
        StoreError: It cannot be written, or is no such folder.
    """

    def __init__(self, folder: str | Path, study: Study, setup: Setup) -> None:
        self.folder = Path(folder).expanduser()
        facts = {"format": FORMAT, "study": study.name, "setup": described(setup)}
        try:
            if (self.folder / STUDY_FILE).is_file():
                self._compare(read_json(self.folder / STUDY_FILE), facts)
                return
            if self.folder.is_dir() and not all(map(is_leftover, self.folder.iterdir())):
                raise StoreError(
                    "a study goes into a folder of its own",
                    received="a folder that holds something else",
                    where=str(folder),
                    remedy="Choose another folder",
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / STUDY_FILE, facts)
        except OSError as error:
            # our own StoreError is an OSError too
            raise error if isinstance(error, StoreError) else failed(folder, error) from error

    def put(self, cell: Cell, tables: Tables, seconds: float) -> None:
        """Keep what a cell measured: written beside its place, and renamed.

        Raises:
            StoreError: It cannot be written.
        """
        place = self._place(cell)
        draft = place.with_name(f"{DRAFT}{os.getpid()}-{place.name}")
        facts = {"parameters": dict(cell.parameters), "seconds": seconds, "tables": list(tables)}
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            for name, table in tables.items():
                table.to_parquet(draft / f"{name}.parquet", index=False)
            write_json(draft / CELL_FILE, facts)
            # renaming a folder is one step of the file system: after a kill it is there whole or not at all
            draft.replace(place)
        except OSError as error:
            raise failed(place, error) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def read(self, cells: list[Cell]) -> Results:
        """What the finished ones among ``cells`` measured.

        Raises:
            StoreError: A file is damaged; the message says what to remove to have the cell run again.
        """
        tables: dict[Cell, Tables] = {}
        seconds: dict[Cell, float] = {}
        for cell in cells:
            place = self._place(cell)
            if (place / CELL_FILE).is_file():
                names, seconds[cell] = _facts(place / CELL_FILE)
                tables[cell] = {name: read_table(place / f"{name}.parquet", str(place)) for name in names}
        return Results(tuple(tables), tables, seconds)

    def _place(self, cell: Cell) -> Path:
        return self.folder / CELLS / cell.folder

    def _compare(self, stored: dict[str, Any], own: dict[str, Any]) -> None:
        setup = stored.get("setup")
        if stored.get("format") == 1 and isinstance(setup, dict) and "quick" in setup:
            size = "tiny" if setup["quick"] else "full"
            stored = {**stored, "format": FORMAT, "setup": {"size": size, "device": setup.get("device")}}
        differing = [key for key in own if stored.get(key) != own[key]]
        if differing:
            raise InputError(
                "a study goes on in the folder in which it began, at the size at which it began",
                received="; ".join(f"{key} {own[key]} instead of {stored.get(key)}" for key in differing),
                where=str(self.folder),
                remedy="Choose another folder.",
            )


def _facts(file: Path) -> tuple[list[str], float]:
    """The names of a cell's tables, and the seconds it took."""
    facts = read_json(file)
    names, seconds = facts.get("tables"), facts.get("seconds")
    # a name with a slash in it would lead out of the cell's folder
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) and Path(name).name == name for name in names)
        or not isinstance(seconds, int | float)
    ):
        raise StoreError(
            "a file of a study holds its facts",
            received="one without the names of tables and the seconds",
            where=str(file),
            remedy=f"Remove {file.parent}",
        )
    return names, float(seconds)
