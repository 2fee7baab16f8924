"""The frames of many sampled steps at once: most steps differ from the one before in their numbers only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from spp.capture.parameters import UpdateSums
from spp.frame.accumulate import Accumulator, Row
from spp.frame.build import build_blocks, number_columns, row_order, table_of, word_columns
from spp.frame.schema import WATCH_COLUMNS, BlockColumn, Column
from spp.stats.sums import Digest, Moments, digests, summarize
from spp.vocabulary import Signal

Array = npt.NDArray[np.float64]


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
    whole = [(row, row.moments) for row in rows if isinstance(row.moments, Moments)]
    for (row, _), digest in zip(whole, digests([moments for _, moments in whole]), strict=True):
        row.moments = digest
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
        numbers = summarize([_digest(one.rows[i]) for one in steps for i in self._order])
        which = np.repeat(np.arange(many), size)
        again = np.tile(np.arange(size), many)
        words: dict[Column, Any] = {Column(str(name)): self._words[name].array.take(again) for name in self._words}
        columns = {
            **words,
            **number_columns(numbers, np.tile(self._bounded, many)),
            Column.STEP: np.array([one.step for one in steps], dtype=np.int64)[which],
            Column.KURTOSIS: np.full(size * many, np.nan),
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
    )


def _same(row: Row, facts: tuple[object, ...]) -> bool:
    return _facts(row) == facts


def _digest(row: Row) -> Moments | Digest:
    assert isinstance(row.moments, Moments | Digest)  # a watch measures nothing beside second moments
    return row.moments
