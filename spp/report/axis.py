"""Where every row of a table stands on the x axis of a plot: the positions, stages and ticks of the printed figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from spp.errors import InputError
from spp.frame.schema import BlockColumn, Column
from spp.plot.blocks import block_panels
from spp.plot.layers import layer_panels
from spp.plot.panels import Panel
from spp.plot.stages import Family
from spp.vocabulary import Signal

FAMILIES = tuple(Family)
_ALL_LABELS = 2
"""Level of the ticks that name every single position."""


@dataclass(frozen=True, slots=True)
class Axis:
    """The x axis of one step.

    Attributes:
        step: The step it belongs to.
        rows: Positions in the table (0 for its first row) of what is drawn.
        x: Position of each of them on the axis, 0 to ``len(labels) - 1``; several rows may share one.
        names: Their names, with call and output where there are several.
        families: Index into ``FAMILIES`` of each.
        labels: Name of every position.
        stages: ``(name, start, stop)`` of every stage, ``start <= x < stop``.
        ticks: ``(x, text)`` candidates for labels of stages and blocks, the most important first.
        transitions: Positions of transition blocks.
        missing: Why a signal has no row, by signal.
    """

    step: int
    rows: tuple[int, ...]
    x: tuple[int, ...]
    names: tuple[str, ...]
    families: tuple[int, ...]
    labels: tuple[str, ...]
    stages: tuple[tuple[str, int, int], ...]
    ticks: tuple[tuple[float, str], ...]
    transitions: tuple[int, ...]
    missing: dict[str, str]

    def plain(self) -> dict[str, Any]:
        """The axis as JSON takes it."""
        return {field: getattr(self, field) for field in self.__slots__}


def layer_axes(frame: pd.DataFrame, unmeasured: pd.DataFrame) -> list[Axis]:
    """One axis per step of ``frame``: innermost modules in execution order; none where no module ran.

    Args:
        frame: Table with the columns of ``spp.frame.schema.COLUMNS``.
        unmeasured: Table that says why a signal is missing.
    """
    # Panels keep the frame's numbers as they are and in the figure's order, so row numbers in place of a statistic come
    # back as the rows that the figure draws: the report cannot disagree with it on what stands where.
    numbered = frame.assign(**{Column.MEAN: np.arange(len(frame), dtype=np.float64)})
    axes = []
    for step in sorted(int(step) for step in frame[Column.STEP].unique()):
        try:
            grid, _ = layer_panels(
                numbered, signals=tuple(Signal), statistics=[Column.MEAN], step=step, unmeasured=unmeasured
            )
        except InputError:
            continue  # parameters alone: no module ran
        axes.append(_axis(step, [row[0] for row in grid]))
    return axes


def block_axes(blocks: pd.DataFrame) -> list[Axis]:
    """One axis per step of ``blocks``: residual merges in execution order; none for a network without them.

    Args:
        blocks: Table with the columns of ``spp.frame.schema.BLOCK_COLUMNS``.
    """
    numbered = blocks.assign(**{BlockColumn.ACSM: np.arange(len(blocks), dtype=np.float64)})
    axes = []
    for step in sorted(int(step) for step in blocks[BlockColumn.STEP].unique()):
        grid, _ = block_panels(numbered, statistics=["acsm"], step=step)
        axes.append(_axis(step, [grid[0][0]]))
    return axes


def _axis(step: int, panels: list[Panel]) -> Axis:
    first = panels[0]
    labels = {round(tick.x): tick.text for tick in first.ticks if tick.level == _ALL_LABELS}
    return Axis(
        step=step,
        rows=tuple(int(row) for panel in panels for row in panel.y),
        x=tuple(int(x) for panel in panels for x in panel.x),
        names=tuple(name for panel in panels for name in panel.names),
        families=tuple(FAMILIES.index(family) for panel in panels for family in panel.families),
        labels=tuple(labels[x] for x in range(first.size)),
        stages=tuple((span.name, span.start, span.stop) for span in first.stages),
        ticks=tuple((float(tick.x), tick.text) for tick in first.ticks if tick.level < _ALL_LABELS),
        transitions=tuple(int(x) for x in first.transitions),
        missing={str(panel.signal): panel.message for panel in panels if panel.message},
    )
