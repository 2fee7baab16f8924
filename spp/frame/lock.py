"""One writer for a folder: a lock of the operating system, which dies with the process that holds it, however it dies."""

from __future__ import annotations

import os
from pathlib import Path

from spp.errors import StoreError

try:
    import fcntl
except ImportError:  # Windows has no such locks; there, nothing keeps two writers apart
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".lock"
_MINE: set[Path] = set()
"""A process is not kept out by its own locks, so those it holds are remembered here."""


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
