"""Between the sampled steps and the rows: what a watch has seen so far, as tables.

Where one process trains, a step's rows are kept at once; where several do, through an exchange.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pandas as pd

from spp.capture.parameters import parameters_of
from spp.capture.recorder import MODES
from spp.capture.sites import Entry
from spp.capture.stage import Held, Window, handler_of, set_handler
from spp.capture.unmeasured import Unmeasured
from spp.errors import SppError, SppWarning
from spp.frame.accumulate import Accumulator
from spp.frame.build import StepRow, build_steps, build_unmeasured, module_columns, table_of
from spp.frame.runs import NEXT_STEP, WATCH_TABLES, RunWriter
from spp.frame.schema import MODULE_COLUMNS, Column, ModuleColumn
from spp.frame.steps import History, Sampled, joined, sampled
from spp.vocabulary import Signal
from spp.watching.distributed import Ranks
from spp.watching.sample import Finished

AT_MOST = 256
"""Sampled steps that wait to be written, however short the time."""
Shapes = dict[str, tuple[int, ...]]
Listener = Callable[[pd.DataFrame, pd.DataFrame], None]


class Begun(NamedTuple):
    """Where a watch begins: the number of its first step, and of the last sampled step and evaluation before it."""

    step: int
    sampled: int = -1
    evaluated: int = -1


class Keeper:
    """Keeps the rows of every sampled step, the facts of the modules, and what was not measured.

    Args:
        writer: Where rows go after a while; None keeps all of them in memory.
        patience: Seconds that rows may wait.
    """

    def __init__(self, writer: RunWriter | None = None, patience: float = 0.0) -> None:
        self._writer, self._patience, self._flushed = writer, patience, time.monotonic()
        self._waiting = self._step = 0
        self._busy = self._told = False
        self._written: dict[str, pd.DataFrame] = {}
        self.history = History()
        self._steps: list[StepRow] = []
        self._facts: dict[str, Any] = {}
        self._run: dict[str, Any] = {}
        self._module_columns: dict[ModuleColumn, object] = module_columns([], {}, {})
        self._stale = True
        self._functions: dict[str, Entry] = {}
        self._holes: dict[object, Unmeasured] = {}
        self._filled: set[object] = set()
        self._seen: dict[str, object] = {}
        self._unmeasured: pd.DataFrame | None = None
        self._shapes: Shapes | None = None
        self._modules: pd.DataFrame | None = None
        self._before: pd.DataFrame | None = None
        self.listeners: list[Listener] = []

    def add(self, finished: Finished) -> None:
        """Keep what one step gave."""
        with self._whole():
            self._add(finished)
        self._waiting += 1
        if self._waiting >= AT_MOST or time.monotonic() - self._flushed >= self._patience:
            self.flush(finished.step + (not finished.evaluation))

    def tick(self, step: int) -> None:
        """Write what has waited long enough, also where sampled steps are far between.

        Args:
            step: The step that begins.
        """
        self._step = step
        if self._writer is not None and time.monotonic() - self._flushed >= self._patience:
            self.flush(step)

    def _add(self, finished: Finished) -> None:
        self._compare(finished)
        if finished.measured and not finished.evaluation:
            self._steps.append((finished.step, finished.loss, finished.training, finished.rate, finished.carried))
        # what the first step of all told stands
        earlier = {} if self._writer is None else self._writer.earlier
        self._facts |= {name: earlier.get(name, value) for name, value in finished.facts.items()}
        self._run.update(self._facts)
        known = len(self._functions)
        self._functions |= {one.name: one for one in finished.functions}
        self._stale |= len(self._functions) > known
        new: list[Sampled] = []
        for mode, measured in finished.measured.items():
            self._note(measured, mode)
            one = sampled(measured, finished.step, mode, finished.updates)
            self.history.add(one)
            new.append(one)
        if self._stale:
            first = next(iter(finished.measured.values()), None)
            seen = ({}, {}) if first is None else (first.calls, first.inputs)
            self._module_columns = module_columns([*finished.entries, *self._functions.values()], *seen)
            self._stale = False
            self._modules = self._as_before()
        for tables in (self.history.tables_of([one]) for one in (new if self.listeners else ())):
            for listener in self.listeners:
                with Window():
                    listener(*tables)

    # -- the folder -------------------------------------------------------------------------------------------------------

    def open(self, run: dict[str, Any], start: int | None) -> Begun:
        """Begin, as if what earlier sessions wrote had been kept here."""
        self._flushed, self._run = time.monotonic(), run
        if self._writer is None:
            return Begun(start or 0)
        self._step = first = self._writer.open(run, start)
        before = self._writer.beside("unmeasured").astype(object)
        for fact in before.where(before.notna(), None).to_dict("records"):
            named = {str(name): value for name, value in fact.items()}
            hole = Unmeasured(**{**named, "signal": Signal(named["signal"])})
            self._holes[hole.key] = hole
        self._before = self._writer.beside("modules")
        last = dict.fromkeys(MODES, -1)
        for tables in self._writer.before():
            self.history.know(tables.get("blocks"))
            frame = tables.get("frame")
            for mode, rows in () if frame is None else frame.groupby(Column.MODE, observed=True):
                last[str(mode)] = int(rows[Column.STEP].max())
                columns = [Column.NAME, Column.CALL, Column.OUTPUT, Column.SIGNAL, Column.CALLED]
                known = rows[columns].drop_duplicates().fillna({Column.CALLED: 0})
                for *key, what, called in known.itertuples(index=False):
                    self._filled.add((*key, Signal(what)))
                    if called:
                        self._filled.add((key[0], None, "", Signal.ACTIVATION))
        _LIVE[self] = None
        _mind_signals()
        return Begun(first, *last.values())

    def flush(self, next_step: int) -> None:
        """Write what has not been written.

        Raises:
            StoreError: It cannot be written; it is kept for the next attempt.
        """
        if self._writer is None or not self.history:
            return
        if self._writer.forked:
            if not self._told:
                warnings.warn(
                    "a process that was forked inside a watch writes nothing to its run.", SppWarning, stacklevel=2
                )
            self._told = True
            return
        with self._whole():
            self._flush(self._writer, next_step)

    def _flush(self, writer: RunWriter, next_step: int) -> None:
        frame, blocks = self.history.tables()
        kept, steps = self.history.take(), self._steps
        self._steps = []
        tables = {"modules": self.modules, "unmeasured": self.unmeasured}
        new = {name: table for name, table in tables.items() if self._written.get(name) is not table}
        try:
            writer.append(frame, blocks, next_step=next_step, steps=steps, facts=self._facts, **new)
        except BaseException:
            self.history.put_back(kept)
            self._steps = steps
            raise
        self._written = tables
        self._flushed, self._waiting = time.monotonic(), 0

    def close(self, run: dict[str, Any], next_step: int) -> None:
        """Write the rest and the last facts.

        Raises:
            StoreError: They cannot be written.
        """
        if self._writer is not None:
            with self._whole():
                try:
                    self.flush(next_step)
                finally:
                    self._writer.close({**run, NEXT_STEP: next_step})
                    _LIVE.pop(self, None)
                    _mind_signals()

    def end(self) -> None:
        """Write the rest, where the process ends and nobody has closed the watch."""
        try:
            self.close({}, self._step)
        # whatever it is: the process ends as it was about to
        except Exception as error:
            warnings.warn(f"the end of a watch was not written: {error}", SppWarning, stacklevel=2)

    @property
    def busy(self) -> bool:
        """Whether rows are on the move: half of them are not to be written."""
        return self._busy

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Have signals wait until rows are where they belong; a deadly one also where that is on another thread."""
        with Held():
            outer, self._busy = self._busy, True
            try:
                yield
            finally:
                self._busy = outer
                if _asked and not outer:
                    _end(_asked[0], None)

    # -- the tables -------------------------------------------------------------------------------------------------------

    def table(self, name: str) -> pd.DataFrame:
        """The frame, the blocks or the steps of everything, read back where they have been written."""
        with self._whole():
            new = build_steps(self._steps) if name == "steps" else self.history.tables()[name == "blocks"]
        if self._writer is None or not self._writer.opened:
            return new
        return joined([self._writer.read()[name], new], WATCH_TABLES[name])

    @property
    def modules(self) -> pd.DataFrame:
        """One row per module."""
        if self._modules is None:
            self._modules = table_of(self._module_columns, MODULE_COLUMNS)
        return self._modules

    @property
    def unmeasured(self) -> pd.DataFrame:
        """One row per thing that was measured in no step."""
        if self._unmeasured is None:
            self._unmeasured = build_unmeasured(list(self._holes.values()))
        return self._unmeasured

    def _as_before(self) -> pd.DataFrame | None:
        """The table of an earlier session, where this one's differs in what the first sampled step happened to call."""
        before, self._before = self._before, None
        if before is None:
            return None
        happened = [ModuleColumn.DEPTH, ModuleColumn.CALLS, ModuleColumn.TRAINING]
        happened += [ModuleColumn.INPUTS, ModuleColumn.INPUT_ROWS]
        now = table_of(self._module_columns, MODULE_COLUMNS)
        return before if before.drop(columns=happened).equals(now.drop(columns=happened)) else None

    def _note(self, measured: Accumulator, mode: str) -> None:
        """Take in what this step did not measure, and strike out what it, or a step before, did."""
        unmeasured, rows = measured.unmeasured, measured.rows
        seen = len(rows), [one.key for one in unmeasured]
        # nearly every step is like the one before it, and going over its rows would take longer than all the rest
        if self._seen.get(mode) == seen:
            return
        self._seen[mode] = seen
        self._filled.update((row.name, row.call, row.output, row.signal) for row in rows)
        self._filled.update((row.name, None, "", Signal.ACTIVATION) for row in rows if row.called)
        holes = self._holes | {one.key: one for one in unmeasured if one.key not in self._holes}
        self._holes = {key: one for key, one in holes.items() if one.partial or one.key[:-1] not in self._filled}
        self._unmeasured = None

    def _compare(self, finished: Finished) -> None:
        """Say when the model is another than in the step before; rows go on under their names."""
        now = shapes(finished.entries)
        if self._shapes is not None and now != self._shapes:
            message = (
                f"the model that is watched has changed before step {finished.step}: {difference(self._shapes, now)}; "
            )
            warnings.warn(message + "the rows from here on are about the changed model.", SppWarning, stacklevel=2)
            self._stale = True
        self._shapes = now


_LIVE: dict[Keeper, None] = {}
"""Keepers that write and have not been closed."""
DEADLY = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that end a process without a word; the second comes where a terminal or a connection closes."""
_asked: list[int] = []
"""The signal that waits for rows to be where they belong."""


@atexit.register
def _end_all() -> None:
    for keeper in list(_LIVE):
        keeper.end()


def _end(number: int, _: object) -> None:
    """Write everything and then die of the signal, as without a handler."""
    if any(keeper.busy for keeper in _LIVE):
        _asked.append(number)
        return
    _asked.clear()
    # a second SIGTERM ends it at once, but of a closed terminal both the system and the shell tell
    for each in DEADLY:
        if handler_of(each) is _end:
            set_handler(each, signal.SIG_DFL if each == signal.SIGTERM else signal.SIG_IGN)
    _end_all()
    set_handler(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _mind_signals() -> None:
    """Have signals that end a process without atexit write first while there is a run; handlers of others stay."""
    if threading.current_thread() is threading.main_thread():
        _exchange(*((_end, signal.SIG_DFL) if _LIVE else (signal.SIG_DFL, _end)))


def _in_child() -> None:
    """A forked process dies of them as any other: a handler of Python's would wait for the C code it is in."""
    _LIVE.clear()
    _exchange(signal.SIG_DFL, _end)


def _exchange(ours: Any, other: Any) -> None:
    for number in DEADLY:
        if handler_of(number) == other:
            set_handler(number, ours)


# not on Windows, where nothing forks
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


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


class Collector:
    """Takes what each step gave.

    Args:
        keeper: Makes the keeper of the rows, on the first rank; elsewhere it is given False and keeps nothing.
        ranks: Who shares the run.
        give_up: Told why the first rank keeps no more rows.
    """

    def __init__(self, keeper: Callable[[bool], Keeper], ranks: Ranks, give_up: Callable[[Exception], None]) -> None:
        self.ranks = ranks
        self._give_up = give_up
        self._pending: list[Finished] = []
        self._failed = self._over = False
        self._refusal: SppError | None = None
        try:
            self.keeper = keeper(ranks.rank == 0)
        except SppError as error:
            if not ranks.shared:
                raise
            self._refusal, self.keeper = error, keeper(False)  # the others are told when all of them start

    @property
    def waited_for(self) -> bool:
        """Whether other ranks wait for this one at the end of each sampled step."""
        return self.ranks.shared and not self._over

    def open(self, run: dict[str, Any], start: int | None) -> Begun:
        """Begin, on every rank.

        Raises:
            StoreError: The first rank cannot write the run; every rank raises it.
        """
        self.ranks.open()
        begun, error = Begun(0), self._refusal
        if error is None:
            try:
                begun = self.keeper.open(run, start)
            except SppError as refused:
                error = refused
        told: tuple[Begun, SppError | None] = self.ranks.told((begun, error))
        begun, error = told
        if error is not None:
            self._over = True
            self.ranks.close(together=True)
            raise error
        return begun

    def add(self, finished: Finished | None, failed: bool = False) -> bool:
        """Keep what a step gave (None: nothing), and say whether the watching is over, because some rank has failed."""
        if not self.ranks.shared:
            if finished is not None:
                self.keeper.add(finished)
            return False
        if finished is not None:
            self._pending.append(finished)
            if finished.evaluation:  # not every rank need evaluate; it goes with the next step
                return False
        return self._exchange(failed)

    def tick(self, step: int) -> None:
        """Let rows be written that have waited long enough.

        Args:
            step: The step that begins.
        """
        self.keeper.tick(step)

    def close(self, run: dict[str, Any], next_step: int, clean: bool) -> None:
        """Take in what is pending, if every rank has come to its end, and write the rest."""
        together = clean and self.waited_for
        try:
            if together:
                self._exchange(False)
                self.ranks.close(together=True)
        finally:
            self._over = True
            if self.ranks.rank == 0:
                self.keeper.close(run, next_step)

    def _exchange(self, failed: bool) -> bool:
        pending, self._pending = self._pending, []
        if self._over:
            return True
        try:
            merged, self._over = self.ranks.gathered(pending, failed or self._failed)
        except Exception:
            self._over = True
            raise
        if not self._failed:
            try:
                for one in merged:
                    self.keeper.add(one)
            except Exception as error:  # the others learn of it at the next exchange
                self._failed = True
                self._give_up(error)
        return self._over
