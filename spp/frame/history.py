"""The frames of many steps: one pair of frame and blocks for each sampled step and mode, and all of them as one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from spp.frame.build import build_blocks, build_frame, row_order
from spp.frame.schema import (
    WATCH_BLOCK_COLUMNS,
    WATCH_COLUMNS,
    BlockColumn,
    Column,
    Spec,
)
from spp.frame.tally import Row, Tally
from spp.measure.moments import Moments, digests
from spp.measure.parameters import UpdateSums
from spp.signals import Signal

AT_ONCE = 32
"""Steps that wait as numbers at most."""
_C = TypeVar("_C", bound=StrEnum)


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


def sampled(tally: Tally, step: int, mode: str, updates: UpdateSums | None = None) -> Sampled:
    """Take the numbers of one step; the tally is used up.

    Args:
        tally: The passes of the step, merged.
        step: Its number.
        mode: ``train`` or ``eval``.
        updates: For each parameter the squared sizes of its update and of itself.
    """
    blocks = None
    if tally.merges:
        blocks = build_blocks(tally, step)
        blocks[str(BlockColumn.MODE)] = _modes([mode], np.zeros(len(blocks), dtype=np.int64))
    rows = tally.rows
    whole = [(row, row.moments) for row in rows if isinstance(row.moments, Moments)]
    for (row, _), digest in zip(whole, digests([moments for _, moments in whole]), strict=True):
        row.moments = digest
    return Sampled(step, mode, rows, blocks, updates or {})


def tables_of(steps: Sequence[Sampled], names: Iterable[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frame and the blocks of some steps, in their order.

    Args:
        steps: What they gave.
        names: The residual blocks of the model, as far as they are known; an evaluation, without a graph, finds none itself.
    """
    blocks = joined([s.blocks for s in steps if s.blocks is not None], WATCH_BLOCK_COLUMNS)
    tagged = sorted(((row, i) for i, one in enumerate(steps) for row in one.rows), key=lambda pair: row_order(pair[0]))
    which = np.array([i for _, i in tagged], dtype=np.int64)
    frame = build_frame([row for row, _ in tagged], names)  # whose sorting changes nothing more
    frame[str(Column.STEP)] = np.array([s.step for s in steps], dtype=np.int64)[which]
    frame[str(Column.MODE)] = _modes([s.mode for s in steps], which)
    frame[str(Column.UPDATE_RATIO)] = np.array([_ratio(row, steps[i].updates) for row, i in tagged], dtype=np.float64)
    if len(steps) > 1:
        frame = frame.take(np.argsort(which, kind="stable")).reset_index(drop=True)
    return frame, blocks


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
        values = table[str(column)]
        if spec.categories:
            values = values.astype(pd.CategoricalDtype([str(c) for c in spec.categories]))
        elif spec.dtype == "category":
            values = values.astype("str").astype("category")
        elif str(values.dtype) != spec.dtype:
            values = values.astype(spec.dtype)  # type: ignore[call-overload]
        table[str(column)] = values
    return table


Tables = tuple[pd.DataFrame, pd.DataFrame]


class History:
    """Sampled steps in memory, with one frame and one table of blocks for all of them."""

    def __init__(self) -> None:
        self._raw: list[Sampled] = []
        self._made: list[Tables] = []
        self._names: frozenset[str] = frozenset()

    def add(self, one: Sampled) -> None:
        """Keep what one step gave."""
        if one.blocks is not None and not self._names.issuperset(one.blocks[BlockColumn.BLOCK]):
            self._make()  # what came before is told of the blocks that were known then, however many steps are made at once
            self._names = self._names.union(one.blocks[BlockColumn.BLOCK])
        self._raw.append(one)
        if len(self._raw) >= AT_ONCE:
            self._make()

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

    def tables_of(self, one: Sampled) -> Tables:
        """The frame and the blocks of one step."""
        return tables_of([one], self._names)

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
            self._made.append(tables_of(self._raw, self._names))
            self._raw = []


def _modes(modes: Sequence[str], which: npt.NDArray[np.int64]) -> pd.Categorical:
    """The mode of each row, from those of the steps and the step of each row."""
    categories = list(WATCH_COLUMNS[Column.MODE].categories)
    codes = np.array([categories.index(mode) for mode in modes], dtype=np.int8)[which]
    look_up: Any = pd.Categorical.from_codes  # typed for integer categories alone
    out: pd.Categorical = look_up(codes, dtype=pd.CategoricalDtype(categories))
    return out


def _ratio(row: Row, updates: UpdateSums) -> float:
    """``||w' - w|| / ||w||`` of a weight; missing for other rows, for weights that are zero and for those not updated."""
    moved, size = updates.get((row.name, row.output), (0.0, 0.0)) if row.signal is Signal.WEIGHT else (0.0, 0.0)
    return float((moved / size) ** 0.5) if size > 0 else math.nan
