"""Run folders: the frames as parquet, the facts as ``run.json``.

A saved run is written beside its final place and renamed, so that what bears the name is whole. A run that grows is that of a
watch: its rows are appended as parts that are each there whole or not at all.

    run.json               facts; which part each session begins with, and at which step; how many parts there were at least
    modules.parquet        one row per module
    unmeasured.parquet     what could not be measured so far
    parts/blocks-000001.parquet, parts/frame-000001.parquet, ...
    parts/manifest.jsonl   a line for each part: rows and checksums of its files, its ``steps``, and the step that followed

A part's line is written after its files (none of blocks where there are none): with it the part is there. Nothing is ever
changed, so a run can be read while it is written, and whatever kills the writer leaves everything up to its last flush.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import BaseFileLock

from spp.capture.recorder import MODES
from spp.errors import InputError, StoreError, first_line
from spp.frame.build import StepRow, build_steps
from spp.frame.files import (
    DRAFT,
    LOCK_FILE,
    MANIFEST,
    NEW,
    PARTS,
    RUN_FILE,
    account,
    failed,
    home,
    is_leftover,
    is_run,
    located,
    locked,
    put,
    put_csv,
    put_facts,
    put_table,
    put_text,
    read_facts,
    read_table,
)
from spp.frame.schema import (
    BLOCK_COLUMNS,
    CHANNEL_COLUMNS,
    COLUMNS,
    EXPONENT_COLUMNS,
    MODULE_COLUMNS,
    STEP_COLUMNS,
    UNMEASURED_COLUMNS,
    WATCH_BLOCK_COLUMNS,
    WATCH_COLUMNS,
    Column,
    Spec,
    StepColumn,
    check,
)
from spp.frame.steps import as_declared, joined

WATCH = "watch"
"""The ``kind`` of a run that a watch wrote."""
PARTS_FILE = f"{PARTS}/manifest.jsonl"
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
    "steps": STEP_COLUMNS,
    "inputs": COLUMNS,
}
WATCH_TABLES: dict[str, Mapping[Any, Spec]] = {**TABLES, "frame": WATCH_COLUMNS, "blocks": WATCH_BLOCK_COLUMNS}
"""Those of a watch."""
FILES = (PARTS_FILE, *(f"{name}.parquet" for name in TABLES), "frame.csv", "history.csv", "history.parquet")
"""What runs write into their folder, training included."""
_NUMBERED = re.compile(r"(?P<name>frame|blocks)-(?P<part>\d{6,})\.parquet|(last|best)\.pt")
OPTIONAL = ("exponents", "channels", "steps", "inputs")
"""Tables that are written only where they hold something."""


def check_writable(folder: str | Path, *, overwrite: bool = False) -> Path:
    """The folder as an absolute path, if a run can be written there; to be asked before the work, not after.

    Raises:
        StoreError: It exists and is not empty (and ``overwrite`` is False), is a file, or cannot be written to.
    """
    path = located(folder)
    if path.exists() and not path.is_dir():
        raise StoreError(
            "a run is saved in a folder", received="a file", where=str(folder), remedy="Choose another name"
        )
    if path.is_dir() and holds_something(path):
        if not overwrite:
            raise StoreError(
                "an existing run is not overwritten silently",
                received="a folder that is not empty",
                where=str(folder),
                remedy="Choose another folder or allow overwriting",
            )
        if not is_run(path):
            raise StoreError(
                "only a run folder is overwritten",
                received=f"a folder {'with another' if (path / RUN_FILE).exists() else 'without'} {RUN_FILE}",
                where=str(folder),
                remedy="Choose another folder",
            )
    parent = path
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK) or not _can_write(parent):
        raise StoreError(
            "a run needs a folder that can be written", received=f"no right to write in {parent}", where=str(folder)
        )
    return path


def holds_something(folder: Path) -> bool:
    """Whether more lies in a folder than what killed writers leave."""
    return home(folder) != folder or not all(map(is_leftover, folder.iterdir()))


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
    kept = {f"{name}.parquet": table for name, table in tables.items() if name not in OPTIONAL or len(table)}
    with ExitStack() as at_the_end:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            there = path.is_dir()
            if (path / LOCK_FILE).exists():
                at_the_end.callback(locked(path, str(folder)).release)
            _settle(path)
            draft = Path(
                tempfile.mkdtemp(prefix=DRAFT if there else f".{path.name}-", dir=path if there else path.parent)
            )
            at_the_end.callback(shutil.rmtree, draft, ignore_errors=True)
            draft.chmod(0o755)
            for name, table in kept.items():
                put_table(draft / name, table)
            if csv:
                put_csv(draft / "frame.csv", tables["frame"])
            manifest = {name: account(draft / name, len(table)) for name, table in kept.items()}
            put_facts(draft, {**run, MANIFEST: manifest})
            # the one step in which the new run takes the place of the old one
            draft.rename(path / NEW if there else path)
            _settle(path)
        except OSError as error:
            raise error if isinstance(error, StoreError) else failed(folder, error) from error
    return path


def _settle(path: Path) -> None:
    """Move a new run out of ``NEW``, also one whose writer was killed over it; what is not a run's stays where it is."""
    new, moved = path / NEW, path / f"{DRAFT}{NEW}"
    if (new / RUN_FILE).is_file():
        remove(path)
        for file in new.iterdir():
            put(path / file.name, partial(shutil.copyfile, file))
        # only now, and at once: until then the folder's run is the one in here
        new.rename(moved)
    shutil.rmtree(moved, ignore_errors=True)


def remove(path: Path, *, facts: bool = True) -> None:
    """Remove from a folder what a run wrote there, and leave the rest.

    Args:
        path: The folder.
        facts: Remove ``run.json`` too.
    """
    inside = [*(path / PARTS).glob("*.parquet"), *(path / "checkpoints").glob("*.pt")]
    for file in [*(file for file in inside if _NUMBERED.fullmatch(file.name)), *(path / name for name in FILES)]:
        if file.is_symlink() or not file.is_dir():
            file.unlink(missing_ok=True)
    sweep(path)
    if is_run(path / "nonfinite"):
        remove(path / "nonfinite")
    # a folder that is not empty, or a link to one, is left
    for name in (PARTS, "checkpoints", "nonfinite"):
        with suppress(OSError):
            (path / name).rmdir()
    # last: by it what a kill leaves of the rest is known for ours, and can be removed
    if facts:
        (path / RUN_FILE).unlink(missing_ok=True)


def sweep(path: Path, inside: Sequence[str] = ("", PARTS, "checkpoints")) -> None:
    """Remove what killed writers left unfinished in a folder, and in those inside it, that this process has."""
    for draft in [draft for name in inside for draft in (path / name).glob(f"{DRAFT}*")]:
        if draft.is_dir() and not draft.is_symlink():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


def read(folder: str | Path) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """The tables and facts of a run folder.

    Raises:
        StoreError: It is no run folder, was written by a later version, or is damaged.
    """
    path, shown = located(folder), str(folder)
    run = read_facts(path, shown)
    place = home(path)
    manifest = run.get(MANIFEST)
    if _grows(place, run):
        tables = read_parts(place, run, shown)
    else:
        tables = {}
        for name, columns in (WATCH_TABLES if run.get("kind") == WATCH else TABLES).items():
            file = place / f"{name}.parquet"
            entry = manifest.get(file.name) if isinstance(manifest, dict) else None
            if name in OPTIONAL and entry is None and (manifest is not None or not file.exists()):
                continue
            tables[name] = _declared(read_table(file, shown, entry), columns, f"{file.name} of {shown}")
    run.pop(MANIFEST, None)
    return tables, run


def _declared(table: pd.DataFrame, columns: Mapping[Any, Spec], shown: str) -> pd.DataFrame:
    try:
        return check(as_declared(table, columns), columns)
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        raise StoreError(
            "a table of a run needs the columns of the schema", received=first_line(error), where=shown
        ) from error


class RunWriter:
    """Appends to a run folder.

    Args:
        folder: Where; parents are made.
        resume: Continue the run that is there, if one is.
        overwrite: Replace the run that is there, if one is.

    Attributes:
        earlier: Facts of the session that is continued; empty where none of its steps are kept.

    Raises:
        StoreError: The folder is a file, holds something else, or holds a run and neither was allowed.
    """

    def __init__(self, folder: str | Path, *, resume: bool = False, overwrite: bool = False) -> None:
        self.shown = str(folder)
        self.path = located(folder)
        self._resume, self._overwrite = resume, overwrite
        self._lock: BaseFileLock | None = None
        self._process = 0
        self._run: dict[str, Any] = {}
        self.earlier: dict[str, Any] = {}
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
            lock = locked(self.path, self.shown)
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
        self._lock, self._process = lock, os.getpid()
        return first

    def append(
        self,
        frame: pd.DataFrame,
        blocks: pd.DataFrame,
        *,
        next_step: int,
        modules: pd.DataFrame | None = None,
        unmeasured: pd.DataFrame | None = None,
        steps: Sequence[StepRow] = (),
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a part; when it returns, the part is on disk.

        Args:
            frame: Rows with the columns of ``WATCH_COLUMNS``.
            blocks: Rows with the columns of ``WATCH_BLOCK_COLUMNS``.
            next_step: The step that is going on.
            modules: All modules, where they have changed since the last part.
            unmeasured: All that was not measured, where that has changed.
            steps: Rows of the ``steps``.
            facts: What has become known of the run.

        Raises:
            StoreError: The part cannot be written; the run stays as it was.
        """
        if self.forked:
            raise StoreError("a run has one writer", received="a process that was forked from it", where=self.shown)
        try:
            if facts and {**self._run, **facts} != self._run:
                self._run.update(facts)
                put_facts(self.path, self._run)
            for name, table in (("modules", modules), ("unmeasured", unmeasured)):
                if table is not None:
                    put_table(self.path / f"{name}.parquet", table)
            beside = [name for name in ("modules", "unmeasured") if (self.path / f"{name}.parquet").exists()]
            line: dict[str, Any] = {"part": self._number, NEXT_STEP: next_step, "beside": beside, "steps": steps}
            for name, table in (("blocks", blocks), ("frame", frame)):
                where = _part(self.path, name, self._number)
                if len(table):
                    put_table(where, table)
                    line[name] = account(where, len(table))
            self._log(line)
            self._number += 1
        except OSError as error:
            raise failed(self.shown, error) from error

    def close(self, facts: Mapping[str, Any] | None = None) -> None:
        """Write the last facts and give the folder back.

        Raises:
            StoreError: The facts cannot be written; the folder is given back nevertheless.
        """
        if self._lock is None or self.forked:
            return
        try:
            if facts is not None:
                self._run.update(facts)
                put_facts(self.path, self._run | {MANIFEST: self._number - 1})
        except OSError as error:
            raise failed(self.shown, error) from error
        finally:
            self._lock.release()
            self._lock = None

    @property
    def opened(self) -> bool:
        """Whether this writer has ever had the folder."""
        return self._number > 0

    @property
    def forked(self) -> bool:
        """Whether this process is a child of the one that opened the run, whose run it stays."""
        return self.opened and os.getpid() != self._process

    def read(self) -> dict[str, pd.DataFrame]:
        """The tables of everything that was flushed, earlier sessions included."""
        return read_parts(self.path, self._run, self.shown)

    def before(self) -> Iterator[dict[str, pd.DataFrame]]:
        """Of each part of earlier sessions the ``frame`` and the ``blocks``, if any, without rows that were replaced."""
        return (tables for _, tables in _kept(self.path, self._run, self.shown))

    def beside(self, name: str) -> pd.DataFrame:
        """The ``modules`` or ``unmeasured`` of earlier sessions."""
        return _whole(self.path, name, TABLES[name], self.shown)

    def _check(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise StoreError(
                "a run is saved in a folder", received="a file", where=self.shown, remedy="Choose another name"
            )
        if not self.path.is_dir():
            return
        if is_run(self.path):
            if not (self._resume or self._overwrite):
                raise StoreError(
                    "an existing run is not overwritten silently",
                    received="a folder that holds one",
                    where=self.shown,
                    remedy="Pass resume=True to continue it, overwrite=True to replace it, or choose another folder",
                )
        elif holds_something(self.path):
            raise StoreError(
                "a run is written to a folder of its own",
                received=f"a folder that holds other things and no {RUN_FILE} of ours",
                where=self.shown,
                remedy="Choose another folder",
            )

    def _begin(self, run: dict[str, Any], start: int | None) -> int:
        _settle(self.path)
        known = is_run(self.path)
        before: dict[str, Any] = {}
        lines: list[dict[str, Any]] = []
        if known and self._resume:
            before = read_facts(self.path, self.shown)
            self._same(before, run)
            lines = _lines(self.path, before, self.shown)
        sweep(self.path)
        (self.path / PARTS).mkdir(exist_ok=True)
        self._number = max(_numbers(self.path) if known and not self._resume else _listed(lines), default=0) + 1
        first = (_continued(self.path, before, lines) if start is None and before else start) or 0
        self.earlier = before if first else {}
        sessions = [*before.get(SESSIONS, []), {"part": self._number, "start": first}]
        self._run = {**before, **run, NEXT_STEP: first, SESSIONS: sessions, MANIFEST: self._number - 1}
        if before:
            self._resumed(lines)
        # with this the old run is given up and the new one is there: its parts are those from its first session on
        put_facts(self.path, self._run)
        if known and not before:
            remove(self.path, facts=False)
            (self.path / PARTS).mkdir(exist_ok=True)
        return first

    def _resumed(self, lines: list[dict[str, Any]]) -> None:
        """Have a manifest that ends with the last whole part, also where an earlier spp wrote none."""
        text = "".join(json.dumps(line) + "\n" for line in lines)
        put_text(self.path / PARTS_FILE, text)
        for name in ("frame", "blocks"):
            _part(self.path, name, self._number).unlink(missing_ok=True)

    def _log(self, line: dict[str, Any]) -> None:
        """Add a line to the manifest; when it returns, it is on disk."""
        with (self.path / PARTS_FILE).open("ab") as file:
            end = file.tell()
            try:
                file.write(json.dumps(line).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                # what is left of a line would be the beginning of the next one
                os.truncate(file.fileno(), end)
                raise

    def _same(self, before: dict[str, Any], run: dict[str, Any]) -> None:
        if not _grows(self.path, before):
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


def read_parts(path: Path, run: Mapping[str, Any], shown: str) -> dict[str, pd.DataFrame]:
    """The tables of a run that grows, as far as it has been flushed.

    A session that began at a step which an earlier one had already passed (training was taken up again from a checkpoint)
    replaces that session's rows from there on.

    Raises:
        StoreError: A part cannot be read, is missing, or is one too many.
    """
    parts = list(_kept(path, run, shown))
    beside = parts[-1][0].get("beside", ()) if parts else ()
    return {
        "frame": joined([tables["frame"] for _, tables in parts if "frame" in tables], WATCH_COLUMNS),
        "blocks": joined([tables["blocks"] for _, tables in parts if "blocks" in tables], WATCH_BLOCK_COLUMNS),
        "steps": joined([tables["steps"] for _, tables in parts], STEP_COLUMNS),
        "modules": _whole(path, "modules", MODULE_COLUMNS, shown, "modules" in beside),
        "unmeasured": _whole(path, "unmeasured", UNMEASURED_COLUMNS, shown, "unmeasured" in beside),
    }


def _kept(path: Path, run: Mapping[str, Any], shown: str) -> Iterator[tuple[dict[str, Any], dict[str, pd.DataFrame]]]:
    """Each part's line, and of its tables the rows that no later session has replaced."""
    sessions = _sessions(run, shown)
    for line in _lines(path, run, shown):
        end = min((start for part, start in sessions if part > line["part"]), default=None)
        tables: dict[str, pd.DataFrame] = {}
        for name in {"frame", "blocks"} & line.keys():
            table = read_table(_part(path, name, line["part"]), shown, line[name])
            if end is not None:
                stays = table[Column.STEP] < end
                if run.get("optimizer"):
                    # an evaluation after the last step before: that step is over, and the next one's number is its own
                    stays |= (table[Column.STEP] == end) & (table[Column.MODE] == MODES[1])
                table = table[stays]
            tables[name] = table
        steps = build_steps(line.get("steps", ()))
        tables["steps"] = steps if end is None else steps[steps[StepColumn.STEP] < end]
        yield line, tables


def _sessions(run: Mapping[str, Any], shown: str) -> list[tuple[int, int]]:
    """The first part and the first step of each session."""
    try:
        return [(int(s["part"]), int(s["start"])) for s in run.get(SESSIONS, [])]
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{RUN_FILE} needs to hold the sessions of a run", received="something else", where=shown
        ) from error


def _lines(path: Path, run: Mapping[str, Any], shown: str) -> list[dict[str, Any]]:
    """What the manifest says of each part; without one, as before there were manifests, what the folder says.

    Raises:
        StoreError: A part is missing, or there is one that nobody wrote.
    """
    # before the manifest, which may get further lines meanwhile
    there = {file.name for file in (path / PARTS).glob("[!.]*.parquet")}
    first = min((part for part, _ in _sessions(run, shown)), default=1)
    expected = run.get(MANIFEST)
    lines: list[dict[str, Any]] = []
    if expected is None:
        for number in sorted(_numbers(path)):
            names = [name for name in ("blocks", "frame") if _part(path, name, number).exists()]
            lines.append({"part": number, **dict.fromkeys(names)})
    else:
        lines = [line for line in _manifest(path, shown) if line["part"] >= first]
        numbers = [line["part"] for line in lines]
        if numbers != list(range(first, first + len(lines))) or first + len(lines) <= int(expected):
            raise StoreError(
                f"{PARTS_FILE} of a run needs to list its parts, {first} to {expected} at least",
                received=f"{len(lines)} of them",
                where=shown,
                remedy="Restore the file from a copy of the run",
            )
    known = {_part(path, name, line["part"]).name for line in lines for name in ("frame", "blocks") if name in line}
    going_on = max(_listed(lines), default=first - 1) + 1
    for name in sorted(there - known):
        match = _NUMBERED.fullmatch(name)
        # parts of a run that was replaced, and the one that is being written
        if match is None or not (int(match["part"]) < first or int(match["part"]) == going_on):
            raise StoreError(
                "a run needs the parts that were written to it, and no others",
                received=f"{PARTS}/{name}, which {PARTS_FILE} does not list",
                where=shown,
                remedy="Remove it, or give it its old name if it was renamed",
            )
    return lines


def _manifest(path: Path, shown: str) -> list[dict[str, Any]]:
    """The lines of a manifest that are whole."""
    file = path / PARTS_FILE
    try:
        # behind the last line break is what a killed writer had begun
        lines = [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]] if file.exists() else []
        if not all(type(line["part"]) is int and isinstance(line.get("beside", []), list) for line in lines):
            raise ValueError("lines without the number of a part")
        return lines
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StoreError(
            f"{PARTS_FILE} of a run needs to be readable", received=first_line(error), where=shown
        ) from error


def _listed(lines: list[dict[str, Any]]) -> list[int]:
    return [line["part"] for line in lines]


def _whole(path: Path, name: str, columns: Mapping[Any, Spec], shown: str, needed: bool = False) -> pd.DataFrame:
    """A table that is in one piece, empty before the first flush."""
    file = path / f"{name}.parquet"
    tables = [read_table(file, shown)] if needed or file.exists() else []
    return _declared(joined(tables, columns), columns, f"{file.name} of {shown}")


def _grows(path: Path, run: Mapping[str, Any]) -> bool:
    """Whether a run is in parts."""
    manifest = run.get(MANIFEST)
    return run.get("kind") == WATCH and (isinstance(manifest, int) or (manifest is None and (path / PARTS).is_dir()))


def _numbers(path: Path) -> list[int]:
    """The parts whose frames lie in a folder."""
    found = [_NUMBERED.fullmatch(file.name) for file in (path / PARTS).glob("frame-*.parquet")]
    return [int(match["part"]) for match in found if match]


def _part(path: Path, name: str, number: int) -> Path:
    return path / PARTS / f"{name}-{number:06d}.parquet"


def _continued(path: Path, run: Mapping[str, Any], lines: list[dict[str, Any]]) -> int:
    """The step after the last one that is on disk; a kill may have come before ``run.json`` said so."""
    if lines and NEXT_STEP in lines[-1]:
        return max(int(run.get(NEXT_STEP, 0)), int(lines[-1][NEXT_STEP]))
    last = read_table(_part(path, "frame", lines[-1]["part"]), str(path))[Column.STEP].max() if lines else -1
    return max(int(run.get(NEXT_STEP, 0)), int(last) + 1)
