"""What a figure shows, as data: a ``Panel`` can be tested, saved or drawn by anything, and knows no drawing library.

``layers`` and ``blocks`` build panels from frames; this file holds what all kinds share: the panel itself, how its scale is
chosen and how columns of the frame become numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pandas as pd

from spp.errors import InputError, UnknownNameError
from spp.frame.schema import COLUMNS, STATISTICS, Column
from spp.plot.stages import Family, Span, Tick
from spp.vocabulary import Signal

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

LOG_FROM = 100.0
"""Ratio of largest to smallest magnitude from which an axis is logarithmic: below a hundredth of the range, a linear axis
shows every value as zero."""

ROUNDING = 1e-12
"""Below this share of the mean square, a squared mean or a variance is rounding error (of float32, sixteen units in the last
place, squared) and means zero."""

SMALLEST = 1e-300
"""Magnitudes below are zero: float64 runs out of digits there, and an axis out of ticks."""

SHORT: dict[Column, str] = {Column.ACSM: "ACSM", Column.ACV: "ACV"}
"""Statistics that the literature calls by an abbreviation (Brock, De & Smith 2021)."""

BOUNDED = (Column.ZERO_FRACTION, Column.DEAD_FRACTION, Column.SATURATED_FRACTION)
"""Shares: always on a linear axis from 0 to 1."""

PLURAL: dict[Signal, str] = {
    Signal.ACTIVATION: "activations",
    Signal.GRADIENT: "gradients",
    Signal.WEIGHT: "weights",
    Signal.WEIGHT_GRADIENT: "weight gradients",
}


class Scale(StrEnum):
    """The y axis."""

    LINEAR = "linear"
    LOG = "log"
    SYMLOG = "symlog"


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One signal and statistic over depth; every array has one entry per drawn tensor, in order of ``x``.

    Attributes:
        signal: What is drawn.
        statistic: Name of the frame's column.
        title: The statistic, in full.
        xlabel: Label of the x axis, with its unit.
        ylabel: What is drawn and on which scale.
        size: How many positions the x axis has, 0 to ``size - 1``.
        x: Position of each tensor on it.
        y: The frame's numbers, as they are; NaN where there is none.
        names: Name of each tensor, with call and output where there are several.
        families: Family of the layer each tensor belongs to.
        first: Whether the tensor is the first at its position, so that a line runs through it.
        zero: Where ``y`` is zero, exactly or up to rounding.
        nonfinite: Where the tensor had NaN or infinite elements, or the statistic itself is infinite or missing.
        transitions: Positions of transition blocks.
        scale: Chosen from the data.
        threshold: Half-width of the linear part of a symlog axis.
        stages: Runs of positions that make a stage.
        ticks: Candidates for labels of the x axis.
        message: Why there is nothing to draw, else empty.
        note: What the panel comes to, in a few words; stands over it.
        height: Share of the height of a row.
    """

    signal: Signal
    statistic: str
    title: str
    xlabel: str
    ylabel: str
    size: int
    x: FloatArray
    y: FloatArray
    names: tuple[str, ...]
    families: tuple[Family, ...]
    first: BoolArray
    zero: BoolArray
    nonfinite: BoolArray
    transitions: tuple[float, ...] = ()
    scale: Scale = Scale.LINEAR
    threshold: float = 0.0
    stages: tuple[Span, ...] = ()
    ticks: tuple[Tick, ...] = ()
    message: str = ""
    note: str = ""
    height: float = 1.0

    @property
    def shown(self) -> BoolArray:
        """Which tensors have a point of their own: finite, and on a log axis not zero."""
        finite = np.isfinite(self.y)
        return finite & ~self.zero if self.scale is Scale.LOG else finite


Grid = tuple[tuple[Panel, ...], ...]
"""Rows of panels, from top to bottom."""


def choose_scale(y: FloatArray, zero: BoolArray) -> tuple[Scale, float]:
    """Choose the scale of an axis from its values, and the linear threshold of a symlog one.

    Args:
        y: Values, NaN where there is none, shape (n,).
        zero: Which of them mean zero, shape (n,).

    Returns:
        ``LINEAR`` up to two decades of magnitude, beyond that ``LOG``, or ``SYMLOG`` where a value is negative. The threshold
        is the decade of the smallest magnitude, but no less than 1e-12 of the largest.
    """
    values = y[np.isfinite(y) & ~zero & (np.abs(y) >= SMALLEST)]
    magnitudes = np.abs(values)
    if not magnitudes.size or magnitudes.max() < LOG_FROM * magnitudes.min():
        return Scale.LINEAR, 0.0
    if (values > 0).all():
        return Scale.LOG, 0.0
    smallest = max(float(magnitudes.min()), float(magnitudes.max()) * 1e-12)
    return Scale.SYMLOG, float(10.0 ** np.floor(np.log10(smallest)))


def zeros(y: FloatArray, mean_square: FloatArray | None = None) -> BoolArray:
    """Say which numbers mean zero: exactly, or, for a squared mean or a variance, up to rounding.

    A normalized layer has a mean of zero and shows 1e-17; that is rounding, and would stretch a log axis over all its decades.
    An average of n random elements has a square of about 1/n of the mean square, far above the bound.

    Args:
        y: The statistic, shape (n,).
        mean_square: Mean square of the same tensors, shape (n,), where ``y`` is a share of it; else None.
    """
    zero = np.abs(y) < SMALLEST
    return zero if mean_square is None else zero | (y <= ROUNDING * mean_square)


def short(statistic: Column) -> str:
    """Return how axis labels call a statistic: its abbreviation where the literature has one."""
    return SHORT.get(statistic, COLUMNS[statistic].label)


def title(statistic: Column) -> str:
    """Return a statistic's name in full, as ``ACSM, average channel squared mean``."""
    label = COLUMNS[statistic].label
    return f"{SHORT[statistic]}, {label}" if statistic in SHORT else label


def ylabel(what: str, signal: Signal, scale: Scale) -> str:
    """Return the label of a y axis: signal, statistic and scale, on two lines."""
    suffix = {Scale.LINEAR: "", Scale.LOG: " (log scale)", Scale.SYMLOG: " (symlog scale)"}[scale]
    return f"{PLURAL[signal]}\n{what}{suffix}"


def as_signals(
    signals: Sequence[str] | str | None, default: Sequence[Signal], known: Sequence[Signal]
) -> tuple[Signal, ...]:
    """Return the signals asked for.

    Raises:
        UnknownNameError: One is not in ``known``; the message lists those.
        InputError: An empty list.
    """
    names = _names(signals, default, "signals")
    for name in names:
        if name not in tuple(known):
            raise UnknownNameError("signal", name, [str(signal) for signal in known], where="signals")
    return tuple(Signal(name) for name in names)


def as_statistics(statistics: Sequence[str] | str | None, default: Sequence[Column]) -> tuple[Column, ...]:
    """Return the statistics asked for, by the names of the frame's columns; raises as ``as_signals`` does."""
    names = _names(statistics, default, "statistics")
    for name in names:
        if name not in STATISTICS:
            raise UnknownNameError("statistic", name, [str(column) for column in STATISTICS], where="statistics")
    return tuple(Column(name) for name in names)


def at_step(frame: pd.DataFrame, step_column: str, step: int | None) -> tuple[pd.DataFrame, int]:
    """Return the rows of one step, the last one unless told otherwise, and that step.

    Raises:
        InputError: There are no rows at all, or none of that step; the message says which steps there are.
    """
    if frame.empty:
        raise InputError("a figure needs at least one measured tensor", received="an empty frame", where="frame")
    steps = sorted(int(value) for value in frame[step_column].unique())
    if step is None:
        step = steps[-1]
    if step not in steps:
        listed = ", ".join(map(str, steps[:8])) + (f", ..., {steps[-1]}" if len(steps) > 8 else "")
        raise InputError(
            "a figure draws a step that was measured", received=f"step {step}", where="step", remedy=f"Steps: {listed}."
        )
    return frame[frame[step_column] == step], step


def _names(given: Sequence[str] | str | None, default: Sequence[str], where: str) -> tuple[str, ...]:
    names = tuple(default) if given is None else (given,) if isinstance(given, str) else tuple(given)
    if not names:
        raise InputError(f"a figure draws at least one of its {where}", received="an empty list", where=where)
    return names
