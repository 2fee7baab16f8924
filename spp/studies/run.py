"""Run a study: every cell that is not finished yet, in as many processes as are asked for, then the verdicts.

Its folder holds ``study.json``, and a folder for each finished cell, which is there whole or not at all.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from socket import create_connection
from threading import Lock
from typing import Any
from urllib.parse import urlsplit
from warnings import catch_warnings, simplefilter

import torch

from spp.errors import InputError, MissingExtraError, SppError, StoreError, UnknownNameError, first_line
from spp.frame.files import DRAFT, failed, is_leftover, locked, read_table
from spp.frame.runs import sweep
from spp.studies.publish import Published, damaged, described, machine, publish, read_json, write_json
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
    address: str | None = None,
    report: Report | None = None,
) -> Published:
    """Run a study, or go on with it, and write what came out.

    Each cell computes on one thread, wherever it runs, so that on a CPU its numbers are the same to the bit with any number
    of jobs, and after any interruption.

    Args:
        study: See :data:`spp.studies.STUDIES`.
        out: Its folder; finished cells in it are not run again.
        setup: At which size; tiny if left out.
        jobs: Cells at a time, on this machine; -1 for one per core. A cluster takes as many as it has cores.
        backend: ``loky`` for processes on this machine, ``dask`` or ``ray`` for a cluster whose machines have this library
            and see the data at the same place; only this process writes into ``out``.
        address: Of Dask's scheduler, as ``tcp://host:8786``, or of Ray's cluster; Ray has a rule of its own where it is left
            out: the session that is open, ``RAY_ADDRESS``, or one on this machine.
        report: Called at the beginning and after each cell.

    Raises:
        InputError: The folder holds another study or another size, the study has no such size, data are missing,
            ``jobs`` is 0, or nothing answers at the address.
        StoreError: The folder cannot be read or written.
        StudyError: A cell failed, or who ran it; those that are finished stay finished.
        MissingExtraError: joblib, distributed or ray is not installed.
    """
    setup = setup or Setup()
    # joblib would take 0 for an error of its own, and -2 for all cores but one
    if jobs == 0 or jobs < -1:
        raise InputError("jobs are a positive number, or -1 for one per core", received=str(jobs), where="jobs")
    if backend not in BACKENDS:
        raise UnknownNameError("backend", backend, BACKENDS, where="backend")
    if (backend == "dask" and address is None) or (backend == "loky" and address is not None):
        raise InputError(
            "a Dask cluster is found by the address of its scheduler, and processes of this machine have none",
            received=f"backend {backend} and {'no address' if address is None else address}",
            where="address",
        )
    study.check(setup)
    cells = list(study.cells(setup))
    with _sole(Shelf(out, study, setup), str(out)) as shelf:
        seconds, started = dict(shelf.read(cells).seconds), time.perf_counter()
        before = sum(seconds.values())

        def tell(cell: Cell | None) -> None:
            """The rest takes what the finished cells took per unit of their cost, over the jobs."""
            spent, took = sum(one.cost for one in seconds), sum(seconds.values())
            left = sum(one.cost for one in cells if one not in seconds)
            at_once = float(jobs if jobs > 0 else os.cpu_count() or 1)
            if backend != "loky":
                # nobody knows how many machines will come and go: as many as there were on average
                at_once = max(1.0, (took - before) / (time.perf_counter() - started))
            if report is not None:
                report(Progress(cell, len(seconds), len(cells), left * took / spent / at_once if spent else None))

        tell(None)
        todo = [cell for cell in cells if cell not in seconds]
        work = partial(_work, study.name, study.measure, setup)
        # closed here: workers are let go of before somebody else may have the folder
        with closing(_measured(work, todo, jobs, backend, address)) as measured:
            for cell, tables, facts in measured:
                shelf.put(cell, tables, facts)
                seconds[cell] = facts["seconds"]
                tell(cell)
        # read again, since tables of all cells are not held while cells are measured
        return publish(study, setup, shelf.read(cells), shelf.folder)


def draw(study: Study, out: str | Path) -> Published:
    """Judge, tabulate and draw again what a run stored, without running anything.

    Where cells are missing, the page and ``verdicts.json`` name them, no claim is judged, and tables or figures that cannot
    do without them are left out.

    Args:
        study: See :data:`spp.studies.STUDIES`.
        out: Folder of the study.

    Raises:
        InputError: The folder holds another study.
        StoreError: The folder holds none, or cannot be read or written.
    """
    setup = Shelf.setup(Path(out).expanduser())
    cells = list(study.cells(setup))
    with _sole(Shelf(out, study, setup), str(out)) as shelf:
        results = shelf.read(cells)
        return publish(study, setup, results, shelf.folder, [cell for cell in cells if cell not in results.tables])


@contextmanager
def _sole(shelf: Shelf, shown: str) -> Iterator[Shelf]:
    """Nobody else writes there; what a killed one left half-written is taken away."""
    lock = locked(shelf.folder, shown)
    try:
        sweep(shelf.folder, ("", CELLS))
        yield shelf
    finally:
        lock.release()


# --- where cells are measured ----------------------------------------------------------------------------------------

Done = tuple[Cell, Tables, dict[str, Any]]
"""A cell, its tables, and the seconds and the machine that it took."""


def _measured(
    work: partial[Done], cells: Sequence[Cell], jobs: int, backend: str, address: str | None
) -> Generator[Done]:
    """Cells as they are finished."""
    if backend == "loky" and jobs == 1:
        yield from map(work, cells)
        return
    try:
        yield from BACKENDS[backend](work, cells, jobs if backend == "loky" else address)
    except SppError:
        raise
    # a worker that was killed, one that lacks a library, a cluster that is gone: each backend has its own words for it
    except Exception as error:
        raise StudyError(
            "who measures the cells of a study stays until they are done",
            received=f"{type(error).__name__}: {first_line(error)}",
            where=address or backend,
            remedy="Finished cells are kept; run the study again to go on.",
        ) from error


def _on_this_machine(work: partial[Done], cells: Sequence[Cell], jobs: Any) -> Iterator[Done]:
    try:
        # an extra, and needed for more than one job only
        from joblib import Parallel, delayed, parallel_config
    except ImportError as error:
        raise MissingExtraError("joblib", "studies", purpose="running cells in parallel") from error
    with parallel_config(backend="loky", n_jobs=jobs):
        # one cell at a time and none in advance: what is interrupted loses the cells in work and no others
        parallel = Parallel(return_as="generator_unordered", pre_dispatch="n_jobs", batch_size=1)
        measured = parallel(delayed(work)(cell) for cell in cells)
        try:
            # not yield from, which would close it outside of what follows
            for done in measured:  # noqa: UP028
                yield done
        finally:
            # joblib warns of the cells in work when it is left early, which is what was asked for
            with catch_warnings():
                simplefilter("ignore", UserWarning)
                measured.close()


def _on_dask(work: partial[Done], cells: Sequence[Cell], address: Any) -> Iterator[Done]:
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise MissingExtraError("distributed", "dask", purpose="sending cells to a Dask cluster") from error
    try:
        client = Client(address, set_as_default=False)
    except (OSError, ValueError) as error:
        raise _unanswered("a Dask scheduler", address, error) from error
    # leaving takes back the cells that are not finished
    with client:
        # pure=False: the same cell is measured again for another run; no list of futures is kept, so that the cluster
        # forgets tables as they come
        futures = client.map(work, cells, pure=False)
        measured = as_completed(futures, loop=client.loop, with_results=True)
        del futures
        yield from (done for _, done in measured)


def _on_ray(work: partial[Done], cells: Sequence[Cell], address: Any) -> Iterator[Done]:
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "ray", purpose="sending cells to Ray") from error
    own = not ray.is_initialized()
    if own:
        try:
            # Ray would wait for it without an end
            if address and (place := urlsplit(address if "//" in address else f"//{address}")).port:
                create_connection((place.hostname, place.port), timeout=10).close()
            ray.init(address, log_to_driver=False, logging_level="ERROR")
        except (OSError, ValueError) as error:
            raise _unanswered("Ray", address, error) from error
    # Ray takes functions, no partial ones
    remote, waiting = ray.remote(work.func), []
    try:
        waiting = [remote.remote(*work.args, cell) for cell in cells]
        while waiting:
            (done,), waiting = ray.wait(waiting)
            yield ray.get(done)
    except ray.exceptions.RayTaskError as error:
        # its own text is a traceback of another machine
        raise error.cause from None
    finally:
        for one in waiting:
            ray.cancel(one, force=True)
        if own:
            ray.shutdown()


def _unanswered(what: str, address: str, error: Exception) -> InputError:
    return InputError(f"{what} answers at its address", received=first_line(error), where=str(address))


BACKENDS: Mapping[str, Callable[[partial[Done], Sequence[Cell], Any], Iterator[Done]]] = {
    "loky": _on_this_machine,
    "dask": _on_dask,
    "ray": _on_ray,
}

_ALONE = Lock()


def _work(name: str, measure: Callable[[Cell, Setup], Tables], setup: Setup, cell: Cell) -> Done:
    """Measure one cell, on one thread: how many share a sum decides how it is rounded."""
    # the number of threads and the random state that networks are drawn from belong to the process: a worker of Dask
    # with several threads would measure several cells between them
    with _ALONE:
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
        return cell, tables, {"seconds": time.perf_counter() - started, "machine": machine(setup.device)}


# --- what is kept ----------------------------------------------------------------------------------------------------


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
        facts = {"format": FORMAT, "study": study.name, "setup": described(setup), "seeds": setup.seeds}
        try:
            if (self.folder / STUDY_FILE).is_file():
                stored = _described(self.folder)
                self._compare(stored, facts)
                # more seeds than before: draw asks for these
                if stored != facts:
                    write_json(self.folder / STUDY_FILE, facts)
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

    @staticmethod
    def setup(folder: Path) -> Setup:
        """What a study was last run at.

        Raises:
            StoreError: The folder holds no study, or its file is damaged.
        """
        if not (folder / STUDY_FILE).is_file():
            raise StoreError(
                "what a run stored can be drawn",
                received=f"a folder without {STUDY_FILE}",
                where=str(folder),
                remedy="Run the study first",
            )
        facts = _described(folder)
        try:
            return Setup(**facts["setup"], seeds=facts.get("seeds"))
        except (TypeError, KeyError, InputError) as error:
            raise damaged(folder / STUDY_FILE, error) from error

    def put(self, cell: Cell, tables: Tables, facts: Mapping[str, Any]) -> None:
        """Keep what a cell measured, and ``facts`` about it: written beside its place, and renamed.

        Raises:
            StoreError: It cannot be written.
        """
        place = self._place(cell)
        draft = place.with_name(f"{DRAFT}{os.getpid()}-{place.name}")
        stored = {"parameters": dict(cell.parameters), **facts, "tables": list(tables)}
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            for name, table in tables.items():
                table.to_parquet(draft / f"{name}.parquet", index=False)
            write_json(draft / CELL_FILE, stored)
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
        machines: dict[Cell, str] = {}
        for cell in cells:
            place = self._place(cell)
            if (place / CELL_FILE).is_file():
                names, seconds[cell], machines[cell] = _facts(place / CELL_FILE)
                tables[cell] = {name: read_table(place / f"{name}.parquet", str(place)) for name in names}
        return Results(tuple(tables), tables, seconds, machines)

    def _place(self, cell: Cell) -> Path:
        return self.folder / CELLS / cell.folder

    def _compare(self, stored: dict[str, Any], own: dict[str, Any]) -> None:
        differing = [key for key in own if key != "seeds" and stored.get(key) != own[key]]
        if differing:
            raise InputError(
                "a study goes on in the folder in which it began, at the size at which it began",
                received="; ".join(f"{key} {own[key]} instead of {stored.get(key)}" for key in differing),
                where=str(self.folder),
                remedy="Choose another folder.",
            )


def _described(folder: Path) -> dict[str, Any]:
    """``study.json``, as of today."""
    stored = read_json(folder / STUDY_FILE)
    setup = stored.get("setup")
    if stored.get("format") == 1 and isinstance(setup, dict) and "quick" in setup:
        size = "tiny" if setup["quick"] else "full"
        stored |= {"format": FORMAT, "setup": {"size": size, "device": setup.get("device")}}
    return stored


def _facts(file: Path) -> tuple[list[str], float, str]:
    """The names of a cell's tables, the seconds it took, and where."""
    facts = read_json(file)
    names, seconds = facts.get("tables"), facts.get("seconds")
    # a name with a slash in it would lead out of the cell's folder
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) and Path(name).name == name for name in names)
        or not isinstance(seconds, int | float)
    ):
        raise damaged(file, "one without the names of tables and the seconds")
    # an older version kept no machine
    return names, float(seconds), str(facts.get("machine", ""))
