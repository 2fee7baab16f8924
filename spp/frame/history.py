"""The frames of many steps: one pair of frame and blocks for each sampled step and mode, and all of them as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cache
from typing import TypeVar

import numpy as np
import pandas as pd

from spp.frame.schema import WATCH_BLOCK_COLUMNS, WATCH_COLUMNS, BlockColumn, Spec
from spp.frame.steps import Sampled, Template

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
        if one.blocks is not None and not self._names.issuperset(one.blocks[BlockColumn.BLOCK]):
            self._make()  # what came before is told of the blocks that were known then, however many steps are made at once
            self._names = self._names.union(one.blocks[BlockColumn.BLOCK])
            self._templates.clear()
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
