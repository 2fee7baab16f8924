"""Checkpoints: written whole or not at all, read without running any code in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from spp.errors import StoreError
from spp.frame.files import DRAFT, put, put_table

FORMAT = 1
LAST, BEST = "last.pt", "best.pt"


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
            if name == BEST:  # nobody asks for the last of a run that leaves nothing behind
                self._memory[name] = _copy(state)
            return
        with refused(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            for draft in self._folder.glob(f"{DRAFT}*"):  # of a writer that was killed
                draft.unlink(missing_ok=True)
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
            state = torch.load(path, map_location="cpu", weights_only=True)
            written = state.pop("format")
        except Exception as error:  # torch raises whatever its unpickler met
            reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
            raise StoreError("a checkpoint can be read", received=reason, where=str(path)) from error
        if written > FORMAT:
            raise StoreError(
                f"this spp reads checkpoints up to version {FORMAT}",
                received=f"version {written}",
                where=str(path),
                remedy="Upgrade torch-spp",
            )
        return dict(state)


def write_history(folder: Path, table: pd.DataFrame) -> None:
    """Write ``history.parquet`` and ``history.csv``, each whole or not at all.

    Raises:
        StoreError: They cannot be written.
    """
    with refused(folder):
        put_table(folder / "history.parquet", table)
        put(folder / "history.csv", lambda draft: table.to_csv(draft, index=False))


@contextmanager
def refused(place: Path) -> Iterator[None]:
    """Turn what the file system refuses into one clear error."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save says RuntimeError for a disk that is full
        if isinstance(error, StoreError):
            raise
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise StoreError("the run can be written", received=reason, where=str(place)) from error


def _copy(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.detach().cpu().clone()
    if isinstance(state, dict):
        return {key: _copy(value) for key, value in state.items()}
    return state
