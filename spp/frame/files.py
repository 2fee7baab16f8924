"""Files of a run folder: written whole beside their place, forced to disk, and renamed; a file is there or it is not.

A folder has one writer, by a lock of the operating system, which dies with the process that holds it, however it dies.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from spp.errors import StoreError
from spp.frame.schema import VERSION, Column
from spp.layers import kind_of_name
from spp.vocabulary import LayerKind

try:
    import fcntl
except ImportError:  # Windows has no such locks; there, nothing keeps two writers apart
    fcntl = None  # type: ignore[assignment]

RUN_FILE = "run.json"
DRAFT = ".draft-"
"""What the names of unfinished files begin with."""
LOCK_FILE = ".lock"
_MINE: set[Path] = set()
"""A process is not kept out by its own locks, so those it holds are remembered here."""


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
    put(path, lambda draft: table.to_parquet(draft, index=False))


def put_text(path: Path, text: str) -> None:
    """Write a text."""
    put(path, lambda draft: _write_text(draft, text))


def put_facts(folder: Path, run: Mapping[str, Any]) -> None:
    """Write ``run.json``."""
    text = json.dumps({"format": VERSION, **run}, indent=2, default=str) + "\n"
    put_text(folder / RUN_FILE, text)


def read_facts(folder: Path, shown: str) -> dict[str, Any]:
    """The facts of a run folder.

    Args:
        folder: The folder.
        shown: How the user named it.

    Raises:
        StoreError: It is no run folder, was written by a later version, or ``run.json`` is damaged.
    """
    if not (folder / RUN_FILE).is_file():
        what = f"a folder without {RUN_FILE}" if folder.is_dir() else "no such folder"
        raise StoreError(
            "a run is a folder that trace.save, spp.watch or spp analyze wrote", received=what, where=shown
        )
    try:
        run: dict[str, Any] = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        version = run.pop("format")
    except (json.JSONDecodeError, KeyError, AttributeError, TypeError, UnicodeDecodeError) as error:
        raise StoreError(f"{RUN_FILE} holds the facts of a run", received="something else", where=shown) from error
    if version > VERSION:
        raise StoreError(
            f"this spp reads runs up to version {VERSION}",
            received=f"version {version}",
            where=shown,
            remedy="Upgrade torch-spp",
        )
    return run


def read_table(path: Path, shown: str) -> pd.DataFrame:
    """One parquet file.

    Raises:
        StoreError: It cannot be read.
    """
    try:
        table = pd.read_parquet(path)
    except Exception as error:
        raise StoreError(f"{path.name} of a run can be read", received=str(error), where=shown) from error
    return _with_kind(table)


def _with_kind(table: pd.DataFrame) -> pd.DataFrame:
    """The column that version 1 lacked in tables of layers, as far as the names of their classes tell."""
    if Column.KIND not in table and {Column.TYPE, Column.LEAF} <= set(table):
        kinds = [
            kind_of_name(str(t), bool(leaf)) for t, leaf in zip(table[Column.TYPE], table[Column.LEAF], strict=True)
        ]
        kind = pd.Categorical([str(k) for k in kinds], list(map(str, LayerKind)))
        table.insert(list(table).index(Column.TYPE) + 1, str(Column.KIND), pd.Series(kind, index=table.index))
    return table


def failed(shown: object, error: OSError) -> StoreError:
    """What the operating system said, as an error of the store."""
    return StoreError("the run can be written", received=error.strerror or str(error), where=str(shown))


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


class Lock:
    """Holds a folder until :meth:`release` or the end of the process; children that are forked do not inherit it.

    Args:
        folder: Which folder; it exists.
        shown: How the user named it.
    """

    def __init__(self, folder: Path, shown: str) -> None:
        self._folder, self._shown = folder.resolve(), shown
        self._file: int | None = None

    def take(self) -> None:
        """Take the lock.

        Raises:
            StoreError: Somebody else has it, in this process or another.
        """
        if self._folder in _MINE:
            raise self._taken("another watch of this process")
        path = self._folder / LOCK_FILE
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(file, 32).decode(errors="replace").strip()
            os.close(file)
            raise self._taken(f"process {holder}" if holder else "another process") from error
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        self._file = file
        _MINE.add(self._folder)

    def release(self) -> None:
        """Give it back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            _MINE.discard(self._folder)

    def _taken(self, holder: str) -> StoreError:
        return StoreError(
            "a run has one writer", received=f"a folder that {holder} is writing to", where=self._shown,
            remedy="End that one first, or choose another folder",
        )  # fmt: skip
