"""Run folders: the frames as parquet, the facts as ``run.json``.

A saved run is written beside its final place and renamed, so that what bears the name is whole. A run that grows is that of a
watch: its rows are appended as parts that are each there whole or not at all.

    run.json               facts; which part each session begins with, and at which step
    modules.parquet        one row per module
    unmeasured.parquet     what could not be measured so far
    parts/blocks-000001.parquet, parts/frame-000001.parquet, ...

A part's frame is written after its blocks (of which there is no file where there are none): with it the part is there. Nothing
is ever changed, so a run can be read while it is written, and whatever kills the writer leaves everything up to its last flush.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from spp.errors import StoreError
from spp.frame.files import DRAFT, LOCK_FILE, RUN_FILE, Lock, failed, put_facts, put_table, read_facts, read_table
from spp.frame.schema import (
    BLOCK_COLUMNS,
    CHANNEL_COLUMNS,
    COLUMNS,
    EXPONENT_COLUMNS,
    MODULE_COLUMNS,
    UNMEASURED_COLUMNS,
    VERSION,
    WATCH_BLOCK_COLUMNS,
    WATCH_COLUMNS,
    Column,
    Spec,
    check,
)
from spp.frame.steps import as_declared, joined

WATCH = "watch"
"""The ``kind`` of a run that a watch wrote."""
PARTS = "parts"
SESSIONS, NEXT_STEP = "sessions", "next_step"
SAME = ("model", "parameters")
"""Facts in which a run that is continued agrees with its beginning."""
TABLES: dict[str, Mapping[Any, Spec]] = {
    "frame": COLUMNS,
    "blocks": BLOCK_COLUMNS,
    "modules": MODULE_COLUMNS,
    "unmeasured": UNMEASURED_COLUMNS,
    "exponents": EXPONENT_COLUMNS,
    "channels": CHANNEL_COLUMNS,
}
WATCH_TABLES: dict[str, Mapping[Any, Spec]] = {**TABLES, "frame": WATCH_COLUMNS, "blocks": WATCH_BLOCK_COLUMNS}
"""Those of a watch."""
OPTIONAL = ("exponents", "channels")
"""Tables that are written only where they hold something."""


def check_writable(folder: str | Path, *, overwrite: bool = False) -> Path:
    """The folder as an absolute path, if a run can be written there; to be asked before the work, not after.

    Raises:
        StoreError: It exists and is not empty (and ``overwrite`` is False), is a file, or cannot be written to.
    """
    path = Path(folder).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise StoreError(
            "a run is saved in a folder", received="a file", where=str(folder), remedy="Choose another name"
        )
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise StoreError(
                "an existing run is not overwritten silently",
                received="a folder that is not empty",
                where=str(folder),
                remedy="Choose another folder or allow overwriting",
            )
        if not (path / RUN_FILE).is_file():
            raise StoreError(
                "only a run folder is overwritten",
                received=f"a folder without {RUN_FILE}",
                where=str(folder),
                remedy="Choose another folder",
            )
    parent = path
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK) or not _can_write(parent):
        raise StoreError(
            "the output folder can be written to", received=f"no right to write in {parent}", where=str(folder)
        )
    return path


def _can_write(folder: Path) -> bool:
    """Ask by doing: access rights alone miss read-only file systems, and root passes every check."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def write(
    folder: str | Path,
    tables: Mapping[str, pd.DataFrame],
    run: Mapping[str, Any],
    *,
    overwrite: bool = False,
    csv: bool = True,
) -> Path:
    """Write a run folder: ``frame.parquet`` (and ``frame.csv``), the other tables, and ``run.json``.

    Raises:
        StoreError: See :func:`check_writable`; or writing failed, in which case nothing is left behind.
    """
    path = check_writable(folder, overwrite=overwrite)
    facts = json.dumps({"format": VERSION, **run}, indent=2, default=str)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise failed(folder, error) from error
    try:
        draft.chmod(0o755)
        for name, table in tables.items():
            if name in OPTIONAL and table.empty:
                continue
            table.to_parquet(draft / f"{name}.parquet", index=False)
        if csv:
            tables["frame"].to_csv(draft / "frame.csv", index=False)
        (draft / RUN_FILE).write_text(facts + "\n", encoding="utf-8")
        if path.is_dir() and not any(path.iterdir()):
            for file in sorted(
                draft.iterdir(), key=lambda f: f.name == RUN_FILE
            ):  # run.json last: with it the run is whole
                file.replace(path / file.name)
        elif path.is_dir():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
            path.rename(old / "old")
            draft.rename(path)
            shutil.rmtree(old)
        else:
            draft.rename(path)
    except OSError as error:
        raise failed(folder, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return path


def read(folder: str | Path) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """The tables and facts of a run folder.

    Raises:
        StoreError: It is no run folder, was written by a later version, or is damaged.
    """
    path = Path(folder).expanduser()
    run = read_facts(path, str(folder))
    watched = run.get("kind") == WATCH
    if watched and grows(path):
        return read_parts(path, run, str(folder)), run
    tables = {}
    for name, columns in (WATCH_TABLES if watched else TABLES).items():
        if name in OPTIONAL and not (path / f"{name}.parquet").exists():
            continue
        tables[name] = check(as_declared(read_table(path / f"{name}.parquet", str(folder)), columns), columns)
    return tables, run


class RunWriter:
    """Appends to a run folder.

    Args:
        folder: Where; parents are made.
        resume: Continue the run that is there, if one is.
        overwrite: Replace the run that is there, if one is.

    Raises:
        StoreError: The folder is a file, holds something else, or holds a run and neither was allowed.
    """

    def __init__(self, folder: str | Path, *, resume: bool = False, overwrite: bool = False) -> None:
        self.shown = str(folder)
        self.path = Path(folder).expanduser().absolute()
        self._resume, self._overwrite = resume, overwrite
        self._lock: Lock | None = None
        self._run: dict[str, Any] = {}
        self._number = 0
        self._check()

    def open(self, run: Mapping[str, Any], start: int | None) -> int:
        """Take the folder, write ``run.json``, and return the number of the first step.

        Args:
            run: Facts about the run.
            start: Number of the first step; None continues after the last step that was flushed.

        Raises:
            StoreError: Another writer has the folder, it cannot be written, or the run in it is of another model or of a later
                version.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = Lock(self.path, self.shown)
            lock.take()
        except StoreError:
            raise
        except OSError as error:
            raise failed(self.shown, error) from error
        try:
            self._check()  # once more: it may have changed since
            first = self._begin(dict(run), start)
        except BaseException as error:
            lock.release()
            if isinstance(error, OSError) and not isinstance(error, StoreError):
                raise failed(self.shown, error) from error
            raise
        self._lock = lock
        return first

    def append(
        self,
        frame: pd.DataFrame,
        blocks: pd.DataFrame,
        *,
        next_step: int,
        modules: pd.DataFrame | None = None,
        unmeasured: pd.DataFrame | None = None,
    ) -> None:
        """Write a part; when it returns, the part is on disk.

        Args:
            frame: Rows with the columns of ``WATCH_COLUMNS``.
            blocks: Rows with the columns of ``WATCH_BLOCK_COLUMNS``.
            next_step: The step that is going on.
            modules: All modules, where they have changed since the last part.
            unmeasured: All that was not measured, where that has changed.

        Raises:
            StoreError: The part cannot be written; the run stays as it was.
        """
        try:
            for name, table in (("modules", modules), ("unmeasured", unmeasured)):
                if table is not None:
                    put_table(self.path / f"{name}.parquet", table)
            where = _part(self.path, "blocks", self._number)
            if len(blocks):
                put_table(where, blocks)
            else:
                where.unlink(missing_ok=True)  # of a part whose writer was killed before its frame
            put_table(_part(self.path, "frame", self._number), frame)
            self._number += 1
            self._run[NEXT_STEP] = next_step
            put_facts(self.path, self._run)
        except OSError as error:
            raise failed(self.shown, error) from error

    def close(self, facts: Mapping[str, Any] | None = None) -> None:
        """Write the last facts and give the folder back.

        Raises:
            StoreError: The facts cannot be written; the folder is given back nevertheless.
        """
        if self._lock is None:
            return
        try:
            if facts is not None:
                self._run.update(facts)
                put_facts(self.path, self._run)
        except OSError as error:
            raise failed(self.shown, error) from error
        finally:
            self._lock.release()
            self._lock = None

    @property
    def opened(self) -> bool:
        """Whether this writer has ever had the folder."""
        return self._number > 0

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The frame and the blocks of everything that was flushed, earlier sessions included."""
        tables = read_parts(self.path, self._run, self.shown)
        return tables["frame"], tables["blocks"]

    def unmeasured(self) -> pd.DataFrame:
        """What earlier sessions could not measure."""
        return _whole(self.path, "unmeasured", UNMEASURED_COLUMNS, self.shown)

    def _check(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise StoreError(
                "a run is saved in a folder", received="a file", where=self.shown, remedy="Choose another name"
            )
        if not self.path.is_dir():
            return
        if (self.path / RUN_FILE).is_file():
            if not (self._resume or self._overwrite):
                raise StoreError(
                    "an existing run is not overwritten silently",
                    received="a folder that holds one",
                    where=self.shown,
                    remedy="Pass resume=True to continue it, overwrite=True to replace it, or choose another folder",
                )
        elif any(not _leftover(file) for file in self.path.iterdir()):
            raise StoreError(
                "a run is written to a folder of its own",
                received=f"a folder that holds other things and no {RUN_FILE}",
                where=self.shown,
                remedy="Choose another folder",
            )

    def _begin(self, run: dict[str, Any], start: int | None) -> int:
        known = (self.path / RUN_FILE).is_file()
        if known and self._resume:
            before = read_facts(self.path, self.shown)
            self._same(before, run)
            first = _continued(self.path, before) if start is None else start
            sessions = before.get(SESSIONS, [])
        else:
            if known:
                self._clear()
            sessions, first, before = [], start or 0, {}
        for file in [*self.path.glob(f"{DRAFT}*"), *(self.path / PARTS).glob(f"{DRAFT}*")]:
            file.unlink(missing_ok=True)
        (self.path / PARTS).mkdir(exist_ok=True)
        self._number = max(_numbers(self.path), default=0) + 1
        sessions = [*sessions, {"part": self._number, "start": first}]
        self._run = {**before, **run, NEXT_STEP: first, SESSIONS: sessions}
        put_facts(self.path, self._run)
        return first

    def _same(self, before: dict[str, Any], run: dict[str, Any]) -> None:
        if before.get("kind") != WATCH or not (self.path / PARTS).is_dir():
            raise StoreError(
                "a run that is continued was written by spp.watch as it went",
                received="a saved trace" if before.get("kind") != WATCH else "a watch that was saved in one piece",
                where=self.shown,
                remedy="Choose another folder",
            )
        if any(key in before and before[key] != run.get(key) for key in SAME):
            raise StoreError(
                f"a run is continued with the model it began with, {before.get('model')} of "
                f"{before.get('parameters'):,} parameters",
                received=f"{run.get('model')} of {run.get('parameters'):,}",
                where=self.shown,
                remedy="Choose another folder",
            )

    def _clear(self) -> None:
        """Make room for a new run; ``run.json`` goes first, so that no half of the old one passes for a run."""
        for file in sorted(self.path.iterdir(), key=lambda f: f.name != RUN_FILE):
            if file.name == LOCK_FILE:
                continue
            if file.is_dir():
                shutil.rmtree(file)
            else:
                file.unlink()


def read_parts(path: Path, run: Mapping[str, Any], shown: str) -> dict[str, pd.DataFrame]:
    """The tables of a run that grows, as far as it has been flushed.

    A session that began at a step which an earlier one had already passed (training was taken up again from a checkpoint)
    replaces that session's rows from there on.

    Raises:
        StoreError: A part cannot be read.
    """
    frames: list[pd.DataFrame] = []
    blocks: list[pd.DataFrame] = []
    sessions = [(int(s["part"]), int(s["start"])) for s in run.get(SESSIONS, [])]
    for number in sorted(_numbers(path)):
        end = min((start for part, start in sessions if part > number), default=None)
        for found, name in ((frames, "frame"), (blocks, "blocks")):
            file = _part(path, name, number)
            if name == "blocks" and not file.exists():
                continue
            table = read_table(file, shown)
            found.append(table if end is None else table[table[Column.STEP] < end])
    tables = {"frame": joined(frames, WATCH_COLUMNS), "blocks": joined(blocks, WATCH_BLOCK_COLUMNS)}
    tables["modules"] = _whole(path, "modules", MODULE_COLUMNS, shown)
    tables["unmeasured"] = _whole(path, "unmeasured", UNMEASURED_COLUMNS, shown)
    return tables


def _whole(path: Path, name: str, columns: Mapping[Any, Spec], shown: str) -> pd.DataFrame:
    """A table that is in one piece, empty before the first flush."""
    file = path / f"{name}.parquet"
    return joined([read_table(file, shown)] if file.exists() else [], columns)


def grows(path: Path) -> bool:
    """Whether a run folder holds parts."""
    return (path / PARTS).is_dir()


def _numbers(path: Path) -> list[int]:
    """The parts that are there whole."""
    return [int(file.stem.rpartition("-")[2]) for file in (path / PARTS).glob("frame-*.parquet")]


def _part(path: Path, name: str, number: int) -> Path:
    return path / PARTS / f"{name}-{number:06d}.parquet"


def _continued(path: Path, run: Mapping[str, Any]) -> int:
    """The step after the last one that is on disk; a kill may have come between a part and ``run.json``."""
    numbers = _numbers(path)
    last = read_table(_part(path, "frame", max(numbers)), str(path))[Column.STEP].max() if numbers else -1
    return max(int(run.get(NEXT_STEP, 0)), int(last) + 1)


def _leftover(file: Path) -> bool:
    """Whether a file is what a writer leaves that was killed before its run began."""
    return file.name == LOCK_FILE or file.name.startswith(DRAFT) or (file.name == PARTS and not any(file.glob("[!.]*")))
