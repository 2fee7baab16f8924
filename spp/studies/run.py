"""Run a study: every cell that is not finished yet, in as many processes as are asked for, then the verdicts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spp.errors import InputError, MissingExtraError, SppError
from spp.studies.publish import Published, publish
from spp.studies.store import Shelf
from spp.studies.study import Cell, Setup, Study, Tables


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
        setup: At which size; quick if left out.
        jobs: Cells at a time; -1 for one per core.
        backend: Of joblib: ``loky`` for processes on this machine, or ``dask`` or ``ray`` once they are registered.
        report: Called at the beginning and after each cell.

    Raises:
        InputError: The folder holds another study or another size, data are missing, or ``jobs`` is 0.
        StoreError: The folder cannot be read or written.
        StudyError: A cell failed; those that are finished stay finished.
        MissingExtraError: joblib is not installed.
    """
    setup, report = setup or Setup(), report or _silent
    if jobs == 0 or jobs < -1:
        raise InputError("jobs are a positive number, or -1 for one per core", received=str(jobs), where="jobs")
    cells = list(study.cells(setup))
    shelf = Shelf(out, study, setup)
    clock = _Clock(cells, shelf, jobs)
    report(Progress(None, clock.done, len(cells), clock.seconds_left()))
    todo = [cell for cell in cells if not shelf.has(cell)]
    for cell, tables, seconds in _measured(study, todo, setup, jobs, backend):
        shelf.put(cell, tables, seconds)
        clock.add(cell, seconds)
        report(Progress(cell, clock.done, len(cells), clock.seconds_left()))
    return publish(study, setup, shelf.read(cells), shelf.folder)


class _Clock:
    """How long the rest will take: what the finished cells took per unit of their cost, for what is left, over the jobs."""

    def __init__(self, cells: list[Cell], shelf: Shelf, jobs: int) -> None:
        import os

        self._jobs = (os.cpu_count() or 1) if jobs < 0 else jobs
        known = shelf.read(cells)
        self.done = len(known.cells)
        self._seconds, self._spent = sum(known.seconds.values()), sum(cell.cost for cell in known.cells)
        self._left = sum(cell.cost for cell in cells) - self._spent

    def add(self, cell: Cell, seconds: float) -> None:
        self.done, self._seconds = self.done + 1, self._seconds + seconds
        self._spent, self._left = self._spent + cell.cost, self._left - cell.cost

    def seconds_left(self) -> float | None:
        return None if not self._spent else max(self._left, 0.0) * self._seconds / self._spent / self._jobs


def _measured(
    study: Study, cells: list[Cell], setup: Setup, jobs: int, backend: str
) -> Iterator[tuple[Cell, Tables, float]]:
    """Cells as they are finished."""
    if jobs == 1:
        yield from (_work(study, cell, setup) for cell in cells)
        return
    try:
        from joblib import Parallel, delayed, parallel_config
    except ImportError as error:
        raise MissingExtraError("joblib", "studies", purpose="running cells in parallel") from error
    with parallel_config(backend=backend, n_jobs=jobs):
        yield from Parallel(return_as="generator_unordered", pre_dispatch="n_jobs", batch_size=1)(
            delayed(_work)(study, cell, setup) for cell in cells
        )


def _work(study: Study, cell: Cell, setup: Setup) -> tuple[Cell, Tables, float]:
    """Measure one cell, on one thread."""
    started = time.perf_counter()
    with _one_thread():
        try:
            tables = study.measure(cell, setup)
        except SppError:
            raise
        except Exception as error:
            raise StudyError(
                "a cell of a study ends with its tables",
                received=f"{type(error).__name__}: {error}",
                where=f"{study.name}, {cell}",
            ) from error
    return cell, tables, time.perf_counter() - started


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _silent(progress: Any) -> None:
    """Tell nobody."""
