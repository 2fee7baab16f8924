"""Files of a run folder: written whole beside their place, forced to disk, and renamed; a file is there or it is not.

A folder has one writer, by a lock of the operating system, which dies with the process that holds it, however it dies.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout
from pandas.api.types import is_numeric_dtype

from spp.errors import StoreError, first_line
from spp.frame.schema import VERSION, Column, ModuleColumn
from spp.layers import kind_of_name
from spp.vocabulary import LayerKind

RUN_FILE = "run.json"
MANIFEST = "manifest"
"""Key in ``run.json``: the rows and checksums of the tables beside it, or how many parts a run that grows had at least."""
PARTS = "parts"
DRAFT = ".draft-"
"""What the names of unfinished files begin with."""
NEW = ".new"
"""A whole run inside the folder of the one it replaces: as long as it is there, it is what the folder holds."""
LOCK_FILE = ".lock"


def put(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a file that then takes the place of ``path`` at once; nothing is left behind when it fails."""
    draft = path.with_name(f"{DRAFT}{os.getpid()}-{path.name}")
    try:
        write(draft)
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def put_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as parquet."""
    put(path, partial(_write_table, table))


def _write_table(table: pd.DataFrame, path: Path) -> None:
    # pyarrow takes no path that is not UTF-8
    with path.open("wb") as file:
        table.to_parquet(file, index=False)


def put_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV, with an apostrophe before text that a spreadsheet would run as a formula."""
    inert = table.rename(columns=_inert)
    for name in inert:
        column = inert[name]
        if not is_numeric_dtype(column) and any(_inert(value) is not value for value in column.unique()):
            inert[name] = column.astype(object).map(_inert)
    put(path, lambda draft: inert.to_csv(draft, index=False))


def _inert(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def put_text(path: Path, text: str) -> None:
    """Write a text."""
    put(path, lambda draft: _write_text(draft, text))


def put_facts(folder: Path, run: Mapping[str, Any]) -> None:
    """Write ``run.json``."""
    text = json.dumps({"format": VERSION, **run}, indent=2, default=str) + "\n"
    put_text(folder / RUN_FILE, text)


def located(folder: str | Path) -> Path:
    """A folder that need not be there, as an absolute path.

    Raises:
        StoreError: No folder can be there: the name is too long or no text of the file system, or nobody may look.
    """
    try:
        path = Path(folder).expanduser().absolute()
        with suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    # a NUL or a lone surrogate is a ValueError, a home that nobody knows a RuntimeError
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise StoreError("a run is in a folder", received=reason, where=ascii(str(folder)[:80])) from error
    return path


def read_facts(folder: Path, shown: str) -> dict[str, Any]:
    """The facts of a run folder.

    Args:
        folder: The folder.
        shown: How the user named it.

    Raises:
        StoreError: It is no run folder, was written by a later version, or ``run.json`` is damaged.
    """
    place = home(folder)
    if not (place / RUN_FILE).is_file():
        what = f"a folder without {RUN_FILE}" if folder.is_dir() else "no such folder"
        raise StoreError(
            "a run is a folder that trace.save, spp.watch or spp analyze wrote", received=what, where=shown
        )
    try:
        run = read_json(place / RUN_FILE)
        version = run.pop("format", None)
        if not isinstance(version, int) or version < 1:
            raise ValueError(f"format {str(version)[:40]}")
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{RUN_FILE} needs to hold the facts of a run", received=f"something else ({error})", where=shown
        ) from error
    if version > VERSION:
        raise StoreError(
            f"this spp reads runs up to version {VERSION}",
            received=f"version {version}",
            where=shown,
            remedy="Upgrade torch-spp",
        )
    return run


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: It is something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def home(folder: Path) -> Path:
    """Where a run folder's files are: beside each other, or in ``NEW`` where a process was killed while it moved them."""
    return folder / NEW if (folder / NEW / RUN_FILE).is_file() else folder


def is_run(folder: Path) -> bool:
    """Whether a folder is a run of ours: other programs have a ``run.json`` too, and some have a ``format`` in it."""
    place = home(folder)
    try:
        facts = read_json(place / RUN_FILE)
    except (OSError, ValueError):
        return False
    if type(facts.get("format")) is not int:
        return False
    versions = facts.get("versions")
    return MANIFEST in facts or (isinstance(versions, dict) and "spp" in versions)


def is_leftover(file: Path) -> bool:
    """Whether a file is what a writer leaves that was killed before its run began."""
    return (
        file.name in (LOCK_FILE, NEW)
        or file.name.startswith(DRAFT)
        or (file.name == PARTS and not any(file.glob("[!.]*")))
    )


def account(path: Path, rows: int) -> dict[str, Any]:
    """What a manifest says of a file."""
    return {"rows": rows, "sha256": _checksum(path)}


def read_table(path: Path, shown: str, entry: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """One parquet file.

    Args:
        path: The file.
        shown: How the user named its folder.
        entry: What the manifest says of it; None where there is no manifest.

    Raises:
        StoreError: It is not there, is not the file that was written, or cannot be read.
    """
    try:
        if entry is not None and entry["sha256"] != _checksum(path):
            raise ValueError("a file that was changed after it was written")
        with path.open("rb") as file:
            table = pd.read_parquet(file)
    # whatever pyarrow meets in a damaged file
    except Exception as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else first_line(error)
        raise StoreError(f"{path.name} of a run needs to be readable", received=reason, where=shown) from error
    return _completed(table)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _completed(table: pd.DataFrame) -> pd.DataFrame:
    """The columns that runs of before lack: the kind as far as the names of classes tell, what nobody measured missing."""
    if Column.KIND not in table and {Column.TYPE, Column.LEAF} <= set(table):
        kinds = [
            kind_of_name(str(t), bool(leaf)) for t, leaf in zip(table[Column.TYPE], table[Column.LEAF], strict=True)
        ]
        kind = pd.Categorical([str(k) for k in kinds], list(map(str, LayerKind)))
        table.insert(list(table).index(Column.TYPE) + 1, str(Column.KIND), pd.Series(kind, index=table.index))
    if Column.CALLED not in table and Column.NUMEL in table:
        missing = pd.Series(pd.NA, index=table.index, dtype="Int64")
        table.insert(list(table).index(Column.DTYPE) + 1, str(Column.CALLED), missing)
    if Column.NAN not in table and Column.NONFINITE in table and Column.NUMEL in table:
        # none of each where there are none at all
        counts = pd.Series(0, index=table.index, dtype="Int64").mask(table[Column.NONFINITE] > 0)
        for column in (Column.NEGINF, Column.POSINF, Column.NAN):
            table.insert(list(table).index(Column.NONFINITE) + 1, str(column), counts)
    if ModuleColumn.INPUTS in table and ModuleColumn.INPUT_ROWS not in table:
        table[str(ModuleColumn.INPUT_ROWS)] = pd.Series(None, index=table.index, dtype="str")
    return table


def failed(shown: object, error: OSError) -> StoreError:
    """What the operating system said, as an error of the store."""
    return StoreError(
        "a run needs a place that can be written", received=error.strerror or str(error), where=str(shown)
    )


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _sync_folder(folder: Path) -> None:
    """Force the renaming itself to disk, where folders can be opened for that (not on Windows)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # file systems that cannot are those on which renaming is written through
    finally:
        os.close(handle)


def locked(folder: Path, shown: str) -> BaseFileLock:
    """Take a folder until the lock's ``release()`` or the end of the process; children that are forked do not inherit it.

    Args:
        folder: Which folder; it exists.
        shown: How the user named it.

    Raises:
        StoreError: Somebody else has it, in this process or another.
    """
    path = folder / LOCK_FILE
    # flock, not lockf, which is lost as soon as anybody in the process closes the file, shutil.copytree for one;
    # not for one thread: a watch may be closed in another
    lock = FileLock(path, blocking=False, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        holder = ""
        # Windows lets nobody read what is locked
        with suppress(OSError):
            holder = path.read_text(errors="replace")[:32].strip()
        who = "another process" if not holder else f"process {holder}"
        if holder == str(os.getpid()):
            who = "another watch of this process"
        raise StoreError(
            "a run has one writer",
            received=f"a folder that {who} is writing to",
            where=shown,
            remedy="End that one first, or choose another folder",
        ) from error
    # where the file system has no locks the file itself is one, with a content of its own
    if not isinstance(lock, SoftFileLock):
        with suppress(OSError):
            path.write_text(f"{os.getpid()}\n")
    return lock
