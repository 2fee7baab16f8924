"""How a run is stopped, and what it goes on from.

Ctrl-C and a polite kill are put off until the step is whole: a checkpoint taken within one would be of no run. Checkpoints are
written whole or not at all, and read without running any code in them.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pandas as pd
import torch

from spp.errors import InputError, StoreError, first_line
from spp.frame.files import RUN_FILE, put, put_csv, put_facts, put_table, read_facts
from spp.frame.runs import check_writable
from spp.models.sources.checkpoint import check_size

FORMAT = 1
LAST, BEST = "last.pt", "best.pt"
# a terminal or a connection that closes; Windows has none
HANGUP = getattr(signal, "SIGHUP", None)
SIGNALS = [number for number in (signal.SIGINT, signal.SIGTERM, HANGUP) if number is not None]


class Checkpoints:
    """The checkpoints of a run: the last and the best, in ``FOLDER/checkpoints``, or in memory without a folder.

    Args:
        folder: Of the run, or None.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = None if folder is None else folder / "checkpoints"
        self._memory: dict[str, Any] = {}

    def keep(self, name: str, state: dict[str, Any]) -> None:
        """Save ``state`` as ``LAST`` or ``BEST`` in place of the one before.

        Raises:
            StoreError: It cannot be written; the one before is still there.
        """
        if self._folder is None:
            # nobody asks for the last of a run that leaves nothing behind
            if name == BEST:
                self._memory[name] = _copy(state)
            return
        with refused(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            put(self._folder / name, lambda draft: torch.save({"format": FORMAT, **state}, draft))

    def read(self, name: str) -> dict[str, Any] | None:
        """What was saved under that name, on the CPU; None where nothing was.

        Raises:
            StoreError: The file is damaged, or written by a later version.
        """
        if self._folder is None:
            return self._memory.get(name)
        path = self._folder / name
        if not path.is_file():
            return None
        try:
            check_size(path)
            # weights_only: a checkpoint from elsewhere must not run code
            state = torch.load(path, map_location="cpu", weights_only=True)
            written = int(state.pop("format"))
            if not all(isinstance(key, str) for key in state):
                raise TypeError("keys that are no names")
        # torch.load lets through whatever its unpickler met: RuntimeError, UnpicklingError, EOFError, KeyError, ...
        except Exception as error:
            raise StoreError(
                "a checkpoint needs to be readable", received=first_line(error), where=str(path)
            ) from error
        if written > FORMAT:
            raise StoreError(
                f"this spp reads checkpoints up to version {FORMAT}",
                received=f"version {written}",
                where=str(path),
                remedy="Upgrade torch-spp",
            )
        return dict(state)


def check_folder(folder: Path | None, *, resume: bool) -> None:
    """Raise unless a run can be written there; to be asked before any work is done.

    Raises:
        InputError: A run shall be resumed and there is no folder.
        StoreError: The folder holds something, and no run that shall be resumed; or it cannot be written.
    """
    if resume and folder is None:
        raise InputError("a run is resumed from its folder", received="no folder", where="resume")
    if folder is not None and not (resume and (folder / RUN_FILE).is_file()):
        check_writable(folder)


def write_history(folder: Path, table: pd.DataFrame) -> None:
    """Write ``history.parquet`` and ``history.csv``, each whole or not at all.

    Raises:
        StoreError: They cannot be written.
    """
    with refused(folder):
        put_table(folder / "history.parquet", table)
        put_csv(folder / "history.csv", table)


def complete(folder: Path, **facts: Any) -> None:
    """Add facts to ``run.json``.

    Raises:
        StoreError: It cannot be read or written.
    """
    with refused(folder):
        put_facts(folder, {**read_facts(folder, str(folder)), **_plain(facts)})


@contextmanager
def refused(place: Path) -> Iterator[None]:
    """Turn what the file system refuses into one clear error."""
    try:
        yield
    # torch.save raises RuntimeError, not OSError, where the disk is full (torch 2.13)
    except (OSError, RuntimeError) as error:
        if isinstance(error, StoreError):
            raise
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise StoreError("a run needs a place that can be written", received=reason, where=str(place)) from error


def _copy(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.detach().cpu().clone()
    if isinstance(state, dict):
        return {key: _copy(value) for key, value in state.items()}
    return state


def _plain(value: Any) -> Any:
    """``value`` with null for numbers that are not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop, and did so with everything saved.

    Args:
        number: The signal that asked.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"stopped by {signal.Signals(number).name}")


@dataclass(slots=True)
class Asked:
    """Whether somebody asked to stop: the signal's number, or None."""

    number: int | None = None


@contextmanager
def deferred() -> Iterator[Asked]:
    """Note the first Ctrl-C, SIGTERM or SIGHUP instead of raising; a second one raises at once.

    Signals that the process ignores stay ignored. Outside the main thread, where Python delivers none, nothing is changed.
    """
    asked = Asked()

    def note(number: int, frame: FrameType | None) -> None:
        if asked.number is None:
            asked.number = number
        # of a closed terminal both the system and the shell tell
        elif number != HANGUP:
            raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):  # None: set by something else than Python, and not to be put back
                before[number] = handler
                signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
