"""The frames of many steps: one pair of frame and blocks for each sampled step and mode, and all of them as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import numpy as np
import pandas as pd

from spp.frame.build import build_blocks, build_frame
from spp.frame.schema import (
    WATCH_BLOCK_COLUMNS,
    WATCH_COLUMNS,
    BlockColumn,
    Column,
    Spec,
)
from spp.frame.tally import Tally
from spp.measure.parameters import UpdateSums
from spp.signals import Signal

_C = TypeVar("_C", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Sampled:
    """The tables of one sampled step in one mode.

    Attributes:
        step: The step's number.
        frame: With the columns of ``WATCH_COLUMNS``.
        blocks: With the columns of ``WATCH_BLOCK_COLUMNS``.
    """

    step: int
    frame: pd.DataFrame
    blocks: pd.DataFrame


def sampled(tally: Tally, step: int, mode: str, updates: UpdateSums | None = None) -> Sampled:
    """Turn what one step gave into rows.

    Args:
        tally: The passes of the step, merged.
        step: Its number.
        mode: ``train`` or ``eval``.
        updates: For each parameter the squared sizes of its update and of itself.
    """
    blocks = build_blocks(tally, step)
    frame = build_frame(tally.rows, blocks[BlockColumn.BLOCK].unique(), step)
    frame[str(Column.MODE)] = _constant(mode, len(frame))
    frame[str(Column.UPDATE_RATIO)] = _ratios(frame, updates or {})
    blocks[str(BlockColumn.MODE)] = _constant(mode, len(blocks))
    return Sampled(step, frame, blocks)


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


class History:
    """Sampled steps in memory, with one frame and one table of blocks for all of them."""

    def __init__(self) -> None:
        self._kept: list[Sampled] = []
        self._joined: tuple[int, pd.DataFrame, pd.DataFrame] | None = None

    def add(self, one: Sampled) -> None:
        """Keep the tables of one step."""
        self._kept.append(one)

    def take(self) -> list[Sampled]:
        """Everything kept so far; nothing is kept afterwards."""
        kept, self._kept, self._joined = self._kept, [], None
        return kept

    def put_back(self, steps: Iterable[Sampled]) -> None:
        """Undo :meth:`take`."""
        self._kept, self._joined = [*steps, *self._kept], None

    def __len__(self) -> int:
        return len(self._kept)

    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The frame and the blocks of all steps."""
        if self._joined is None or self._joined[0] != len(self._kept):
            frame, blocks = (
                joined([s.frame for s in self._kept], WATCH_COLUMNS),
                joined([s.blocks for s in self._kept], WATCH_BLOCK_COLUMNS),
            )
            self._joined = len(self._kept), frame, blocks
        return self._joined[1], self._joined[2]


def _constant(mode: str, rows: int) -> pd.Categorical:
    categories = WATCH_COLUMNS[Column.MODE].categories
    dtype = pd.CategoricalDtype(list(categories))
    codes = np.full(rows, categories.index(mode), dtype=np.int8)
    out: pd.Categorical = pd.Categorical.from_codes(codes, dtype=dtype)
    return out


def _ratios(frame: pd.DataFrame, updates: UpdateSums) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """``||w' - w|| / ||w||`` of weight rows; missing for other rows, for weights that are zero and for those not updated."""
    ratios = np.full(len(frame), np.nan)
    if updates:
        weights = np.flatnonzero(frame[Column.SIGNAL].to_numpy() == str(Signal.WEIGHT))
        names, outputs = frame[Column.NAME].to_numpy(), frame[Column.OUTPUT].to_numpy()
        for i in weights:
            moved, size = updates.get((names[i], outputs[i]), (0.0, 0.0))
            if size > 0:
                ratios[i] = (moved / size) ** 0.5
    return ratios
