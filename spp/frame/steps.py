"""The frames of many sampled steps at once: most steps differ from the one before in their numbers only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from spp.capture.parameters import UpdateSums
from spp.frame.accumulate import Accumulator, Row
from spp.frame.build import build_blocks, number_columns, row_order, table_of, word_columns
from spp.frame.schema import WATCH_BLOCK_COLUMNS, WATCH_COLUMNS, BlockColumn, Column, Spec
from spp.stats.statistics import summarize
from spp.stats.sums import without_channels
from spp.vocabulary import Signal

Array = npt.NDArray[np.float64]
Tables = tuple[pd.DataFrame, pd.DataFrame]
AT_ONCE = 32
"""Steps that wait as numbers at most."""
_C = TypeVar("_C", bound=StrEnum)


def joined(frames: Sequence[pd.DataFrame], columns: Mapping[_C, Spec]) -> pd.DataFrame:
    """Several tables one after the other, in the dtypes of the schema; an empty one where there are none."""
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        return empty(columns)
    if len(frames) == 1:
        return as_declared(frames[0].reset_index(drop=True), columns)
    open_categories = [str(c) for c, spec in columns.items() if spec.dtype == "category" and not spec.categories]
    frames = [frame.astype(dict.fromkeys(open_categories, "str")) for frame in frames]
    return as_declared(pd.concat(frames, ignore_index=True), columns)


def empty(columns: Mapping[_C, Spec]) -> pd.DataFrame:
    """A table without rows."""
    return as_declared(pd.DataFrame({str(c): [] for c in columns}), columns)


def as_declared(table: pd.DataFrame, columns: Mapping[_C, Spec]) -> pd.DataFrame:
    """Every column in the dtype of the schema, closed categories complete."""
    for column, spec in columns.items():
        # what is missing is said where tables are checked
        if str(column) not in table:
            continue
        values = table[str(column)]
        if spec.categories:
            values = values.astype(pd.CategoricalDtype([str(c) for c in spec.categories]))
        elif spec.dtype == "category":
            values = values.astype("str").astype("category")
        elif str(values.dtype) != spec.dtype:
            values = values.astype(spec.dtype)  # type: ignore[call-overload]
        table[str(column)] = values
    return table


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """What one sampled step gave in one mode, as numbers; rows of a frame are cheaper to make for many steps at once.

    Attributes:
        step: The step's number.
        mode: ``train`` or ``eval``.
        rows: The rows, without the sums of their channels.
        blocks: With the columns of ``WATCH_BLOCK_COLUMNS``; None where there are no residual merges.
        updates: For each parameter the squared sizes of its update and of itself.
    """

    step: int
    mode: str
    rows: list[Row]
    blocks: pd.DataFrame | None
    updates: UpdateSums


def sampled(measured: Accumulator, step: int, mode: str, updates: UpdateSums | None = None) -> Sampled:
    """Take the numbers of one step; they are used up.

    Args:
        measured: The passes of the step, merged.
        step: Its number.
        mode: ``train`` or ``eval``.
        updates: For each parameter the squared sizes of its update and of itself.
    """
    blocks = None
    if measured.merges:
        blocks = build_blocks(measured, step)
        blocks[str(BlockColumn.MODE)] = modes([mode], np.zeros(len(blocks), dtype=np.int64))
    rows = measured.rows
    for row, sums in zip(rows, without_channels([row.sums for row in rows]), strict=True):
        row.sums = sums
    return Sampled(step, mode, rows, blocks, updates or {})


class Template:
    """What the rows of some steps have in common: all but their numbers.

    Args:
        rows: Those of one of the steps.
        blocks: Names of the residual blocks.
    """

    def __init__(self, rows: Sequence[Row], blocks: Iterable[str]) -> None:
        self._facts = list(map(_facts, rows))
        self._order = sorted(range(len(rows)), key=lambda i: row_order(rows[i]))
        ordered = [rows[i] for i in self._order]
        self._words = table_of(word_columns(ordered, blocks), WATCH_COLUMNS)
        self._bounded = np.array([row.bounded for row in ordered], dtype=bool)
        self._weights = [(i, (r.name, r.output)) for i, r in enumerate(ordered) if r.signal is Signal.WEIGHT]

    def fits(self, rows: Sequence[Row]) -> bool:
        """Whether these rows differ from the first step's in their numbers only."""
        return len(rows) == len(self._facts) and all(map(_same, rows, self._facts))

    def frame(self, steps: Sequence[Sampled]) -> pd.DataFrame:
        """The frame of some steps that it fits, in their order."""
        size, many = len(self._order), len(steps)
        numbers = summarize([one.rows[i].sums for one in steps for i in self._order])
        which = np.repeat(np.arange(many), size)
        again = np.tile(np.arange(size), many)
        words: dict[Column, Any] = {Column(str(name)): self._words[name].array.take(again) for name in self._words}
        columns = {
            **words,
            **number_columns(numbers, np.tile(self._bounded, many)),
            Column.STEP: np.array([one.step for one in steps], dtype=np.int64)[which],
            Column.MODE: modes([one.mode for one in steps], which),
            Column.UPDATE_RATIO: np.concatenate([self._ratios(one.updates) for one in steps]),
        }
        return pd.DataFrame({str(column): columns[column] for column in WATCH_COLUMNS}, copy=False)

    def _ratios(self, updates: UpdateSums) -> Array:
        """``||w' - w|| / ||w||`` of each weight; missing for other rows, for weights that are zero or not updated."""
        out = np.full(len(self._order), math.nan)
        for i, key in self._weights:
            moved, size = updates.get(key, (0.0, 0.0))
            if size > 0:
                out[i] = math.sqrt(moved / size)
        return out


def modes(names: Sequence[str], which: npt.NDArray[np.int64]) -> pd.Categorical:
    """The mode of each row, from those of the steps and the step of each row."""
    categories = list(WATCH_COLUMNS[Column.MODE].categories)
    codes = np.array([categories.index(name) for name in names], dtype=np.int8)[which]
    look_up: Any = pd.Categorical.from_codes  # typed for integer categories alone
    out: pd.Categorical = look_up(codes, dtype=pd.CategoricalDtype(categories))
    return out


def _facts(row: Row) -> tuple[object, ...]:
    return (
        row.name,
        row.call,
        row.output,
        row.type,
        row.kind,
        row.leaf,
        row.signal,
        row.role,
        row.depth,
        row.shape,
        row.dtype,
        row.called,
    )


def _same(row: Row, facts: tuple[object, ...]) -> bool:
    return _facts(row) == facts


@cache
def _no_blocks() -> pd.DataFrame:
    return empty(WATCH_BLOCK_COLUMNS)


class History:
    """Sampled steps in memory, with one frame and one table of blocks for all of them."""

    def __init__(self) -> None:
        self._raw: list[Sampled] = []
        self._made: list[Tables] = []
        self._names: frozenset[str] = frozenset()
        self._templates: dict[str, Template] = {}

    def add(self, one: Sampled) -> None:
        """Keep what one step gave."""
        self.know(one.blocks)
        self._raw.append(one)
        if len(self._raw) >= AT_ONCE:
            self._make()

    def know(self, blocks: pd.DataFrame | None) -> None:
        """Have the rows from here on, also of steps that run through none of them, told of these residual blocks."""
        if blocks is not None and not self._names.issuperset(blocks[BlockColumn.BLOCK]):
            self._make()  # what came before is told of the blocks that were known then, however many steps are made at once
            self._names = self._names.union(blocks[BlockColumn.BLOCK])
            self._templates.clear()

    def take(self) -> list[Tables]:
        """Everything kept so far; nothing is kept afterwards."""
        self._make()
        made, self._made = self._made, []
        return made

    def put_back(self, made: Sequence[Tables]) -> None:
        """Undo :meth:`take`."""
        self._made = [*made, *self._made]

    def __bool__(self) -> bool:
        return bool(self._raw or self._made)

    def tables_of(self, steps: Sequence[Sampled]) -> Tables:
        """The frame and the blocks of some steps, in their order.

        Residual blocks are those known so far; an evaluation, without a graph, finds none itself.
        """
        groups: dict[Template, list[int]] = {}
        for i, one in enumerate(steps):
            template = self._templates.get(one.mode)
            if template is None or not template.fits(one.rows):
                template = self._templates[one.mode] = Template(one.rows, self._names)
            groups.setdefault(template, []).append(i)
        frames = [template.frame([steps[i] for i in which]) for template, which in groups.items()]
        frame = joined(frames, WATCH_COLUMNS) if len(frames) > 1 else frames[0]
        if len(frames) > 1:
            which = np.repeat(
                [i for group in groups.values() for i in group],
                [len(steps[i].rows) for group in groups.values() for i in group],
            )
            frame = frame.take(np.argsort(which, kind="stable")).reset_index(drop=True)
        blocks = [one.blocks for one in steps if one.blocks is not None]
        return frame, joined(blocks, WATCH_BLOCK_COLUMNS) if blocks else _no_blocks().copy()

    def tables(self) -> Tables:
        """The frame and the blocks of all steps."""
        self._make()
        if not self._made:
            return empty(WATCH_COLUMNS), empty(WATCH_BLOCK_COLUMNS)
        if len(self._made) > 1:
            self._made = [
                (
                    joined([frame for frame, _ in self._made], WATCH_COLUMNS),
                    joined([blocks for _, blocks in self._made], WATCH_BLOCK_COLUMNS),
                )
            ]
        return self._made[0]

    def _make(self) -> None:
        if self._raw:
            self._made.append(self.tables_of(self._raw))
            self._raw = []
