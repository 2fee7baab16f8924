"""What a watch has seen so far, as tables."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import pandas as pd

from spp.capture.facts import ModuleFacts, module_facts
from spp.capture.parameters import parameters_of
from spp.capture.sites import Entry
from spp.capture.unmeasured import Unmeasured
from spp.errors import SppWarning
from spp.frame.build import build_modules, build_unmeasured
from spp.frame.history import History, joined
from spp.frame.parts import NEXT_STEP, RunWriter
from spp.frame.schema import UNMEASURED_COLUMNS, WATCH_BLOCK_COLUMNS, WATCH_COLUMNS, UnmeasuredColumn
from spp.frame.steps import Sampled, sampled
from spp.watching.sample import Finished

KEY = (UnmeasuredColumn.NAME, UnmeasuredColumn.CALL, UnmeasuredColumn.OUTPUT, UnmeasuredColumn.SIGNAL)
"""What makes two reasons one."""
Shapes = dict[str, tuple[int, ...]]
Listener = Callable[[pd.DataFrame, pd.DataFrame], None]


class Keeper:
    """Keeps the rows of every sampled step, the facts of the modules, and what was not measured.

    Args:
        writer: Where rows go after a while; None keeps all of them in memory.
        patience: Seconds that rows may wait.
    """

    def __init__(self, writer: RunWriter | None = None, patience: float = 0.0) -> None:
        self._writer, self._patience, self._flushed = writer, patience, time.monotonic()
        self._written: dict[str, pd.DataFrame] = {}
        self.history = History()
        self.facts: list[ModuleFacts] = []
        self._unmeasured: list[pd.DataFrame] = []
        self._known: set[object] = set()
        self._shapes: Shapes | None = None
        self._modules: pd.DataFrame | None = None
        self.listeners: list[Listener] = []

    def add(self, finished: Finished) -> None:
        """Keep what one step gave."""
        self._compare(finished)
        new: list[Sampled] = []
        for mode, measured in finished.measured.items():
            one = sampled(measured, finished.step, mode, finished.updates)
            self.history.add(one)
            self._note(measured.unmeasured)
            new.append(one)
        if not self.facts:
            first = next(iter(finished.measured.values()), None)
            seen = ({}, {}) if first is None else (first.calls, first.inputs)
            self.facts = module_facts(finished.entries, *seen)
            self._modules = None
        for tables in (self.history.tables_of([one]) for one in (new if self.listeners else ())):
            for listener in self.listeners:
                listener(*tables)

        if self._writer is not None and time.monotonic() - self._flushed >= self._patience:
            self.flush(finished.step + 1)

    # -- the folder -------------------------------------------------------------------------------------------------------

    def open(self, run: dict[str, Any], start: int | None) -> int:
        """Begin; the number of the first step."""
        self._flushed = time.monotonic()
        if self._writer is None:
            return start or 0
        first = self._writer.open(run, start)
        before = self._writer.unmeasured()
        self._unmeasured = [before]
        rows = before[[str(c) for c in KEY]].astype(object).where(before[[str(c) for c in KEY]].notna(), None)
        self._known.update(tuple(row) for row in rows.itertuples(index=False))
        return first

    def flush(self, next_step: int) -> None:
        """Write what has not been written.

        Raises:
            StoreError: It cannot be written; it is kept for the next attempt.
        """
        if self._writer is None or not self.history:
            return
        frame, blocks = self.history.tables()
        kept = self.history.take()
        tables = {"modules": self.modules, "unmeasured": self.unmeasured}
        new = {name: table for name, table in tables.items() if self._written.get(name) is not table}
        try:
            self._writer.append(frame, blocks, next_step=next_step, **new)
        except BaseException:
            self.history.put_back(kept)
            raise
        self._written = tables
        self._flushed = time.monotonic()

    def close(self, run: dict[str, Any], next_step: int) -> None:
        """Write the rest and the last facts.

        Raises:
            StoreError: They cannot be written.
        """
        if self._writer is not None:
            try:
                self.flush(next_step)
            finally:
                self._writer.close({**run, NEXT_STEP: next_step})

    # -- the tables -------------------------------------------------------------------------------------------------------

    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The frame and the blocks of everything, read back where they have been written."""
        if self._writer is None or not self._writer.opened:
            return self.history.tables()
        (frame, blocks), (new, new_blocks) = self._writer.read(), self.history.tables()
        return joined([frame, new], WATCH_COLUMNS), joined([blocks, new_blocks], WATCH_BLOCK_COLUMNS)

    @property
    def modules(self) -> pd.DataFrame:
        """One row per module."""
        if self._modules is None:
            self._modules = build_modules(self.facts)
        return self._modules

    @property
    def unmeasured(self) -> pd.DataFrame:
        """One row per thing that was not measured in some step."""
        if len(self._unmeasured) != 1:
            self._unmeasured = [joined(self._unmeasured, UNMEASURED_COLUMNS)]
        return self._unmeasured[0]

    def _note(self, rows: list[Unmeasured]) -> None:
        new = [row for row in rows if row.key not in self._known]
        if new:
            self._known.update(row.key for row in new)
            self._unmeasured.append(build_unmeasured(new))

    def _compare(self, finished: Finished) -> None:
        """Say when the model is another than in the step before; rows go on under their names."""
        now = shapes(finished.entries)
        if self._shapes is not None and now != self._shapes:
            message = (
                f"the model that is watched has changed before step {finished.step}: {difference(self._shapes, now)}; "
            )
            warnings.warn(message + "the rows from here on are about the changed model.", SppWarning, stacklevel=2)
            self.facts = []
        self._shapes = now


def shapes(entries: list[Entry]) -> Shapes:
    """The shape of every parameter, by qualified name; modules without any count with none."""
    found: Shapes = {}
    for entry in entries:
        found[entry.name] = ()
        for name, parameter in parameters_of(entry.module):
            found[f"{entry.name}.{name}" if entry.name else name] = parameter.shape
    return found


def difference(before: Shapes, now: Shapes) -> str:
    """The first difference between two models, in words, and how many there are."""
    lines = [
        f"{n!r} has shape {tuple(now[n])}, had {tuple(before[n])}" for n in now if n in before and now[n] != before[n]
    ]
    lines += [f"{n!r} is new" for n in now if n not in before] + [f"{n!r} is gone" for n in before if n not in now]
    return lines[0] + (f" (and {len(lines) - 1} more differences)" if len(lines) > 1 else "")
