"""What a figure shows, as data: a ``Panel`` can be tested, saved or drawn by anything, and knows no drawing library.

A panel has one of four forms. ``Points`` are one statistic of one signal, a point for each tensor; ``Curves`` are several
lines over the same layers (``Outcomes`` over a column of a table of results), each with bands where it stands for several
runs or channels; ``Heat`` is a table of numbers over layers and steps; ``Bars`` are a distribution over powers of two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from spp.frame.schema import COLUMNS, Column, Spec, statistic_columns
from spp.layers import kind_of_name
from spp.plot.stages import Span, Tick
from spp.vocabulary import LayerKind, Signal

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

LOG_FROM = 100.0
"""Ratio of largest to smallest magnitude from which an axis is logarithmic: below a hundredth of the range, a linear axis
shows every value as zero."""

ROUNDING = 1e-12
"""Below this share of the mean square, a squared mean or a variance is rounding error (of float32, sixteen units in the last
place, squared) and means zero."""

SMALLEST = 1e-300
"""Magnitudes below are zero: float64 runs out of digits there, and an axis out of ticks."""

SHORT: dict[str, str] = {Column.ACSM: "ACSM", Column.ACV: "ACV"}
"""Statistics that the literature calls by an abbreviation (Brock, De & Smith 2021)."""

BOUNDED = (Column.ZERO_FRACTION, Column.DEAD_FRACTION, Column.SATURATED_FRACTION)
"""Shares: always on a linear axis from 0 to 1."""

POSITIVE = (
    Column.VAR,
    Column.STD,
    Column.MEAN_SQUARE,
    Column.RMS,
    Column.ACSM,
    Column.ACV,
    Column.ABS_MAX,
    Column.KURTOSIS,
)
"""Statistics that are never negative and have no upper end: of these the ratio is looked at, of others the difference."""

PLURAL: dict[Signal, str] = {
    Signal.ACTIVATION: "activations",
    Signal.GRADIENT: "gradients",
    Signal.WEIGHT: "weights",
    Signal.WEIGHT_GRADIENT: "weight gradients",
}

MOST_LINES = 8
"""Lines that can be told apart in one panel; ``style.CURVES`` has a look for each."""


RANGE = "range over seeds (line: median)"
"""How the legend calls the band of several runs."""


class Scale(StrEnum):
    """The y axis."""

    LINEAR = "linear"
    LOG = "log"
    SYMLOG = "symlog"


SUFFIX = {Scale.LINEAR: "", Scale.LOG: " (log scale)", Scale.SYMLOG: " (symlog scale)"}
"""How words say the scale of an axis."""


class Family(StrEnum):
    """Kinds of layers that are marked alike."""

    WEIGHTED = "convolution, linear"
    NORM = "normalization"
    ACTIVATION = "activation function"
    OTHER = "other"


FAMILIES: dict[LayerKind, Family] = {
    LayerKind.CONVOLUTION: Family.WEIGHTED,
    LayerKind.LINEAR: Family.WEIGHTED,
    LayerKind.EMBEDDING: Family.WEIGHTED,
    LayerKind.RECURRENT: Family.WEIGHTED,
    LayerKind.NORM: Family.NORM,
    LayerKind.ACTIVATION: Family.ACTIVATION,
    LayerKind.SOFTMAX: Family.ACTIVATION,
}
"""The family of each kind of layer; kinds that are not listed are ``OTHER``."""


@dataclass(frozen=True, slots=True, eq=False)
class XAxis:
    """The x axis of a panel.

    Attributes:
        label: What stands on it.
        size: How many positions it has, 0 to ``size - 1``.
        stages: Runs of positions that make a stage.
        ticks: Candidates for its labels.
    """

    label: str
    size: int
    stages: tuple[Span, ...] = ()
    ticks: tuple[Tick, ...] = ()


# compared by identity: panels are keys of the page's Axes, and arrays have no truth value to compare by
@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Panel:
    """What every form of panel tells the page.

    Attributes:
        signal: What is drawn; None where the numbers are of no signal.
        statistic: Name of the frame's column, or of what was made from it.
        x_axis: The x axis.
        title: The statistic, in full.
        ylabel: What is drawn and on which scale.
        scale: Chosen from the data.
        threshold: Half-width of the linear part of a symlog axis.
        message: Why there is nothing to draw, else empty.
        note: What the panel comes to, in a few words; stands over it.
        height: Share of the height of a row.
        room: Further numbers that the axis has room for: those of a panel beside it that is read on the same scale.
    """

    signal: Signal | None
    statistic: str
    x_axis: XAxis
    title: str = ""
    ylabel: str = ""
    scale: Scale = Scale.LINEAR
    threshold: float = 0.0
    message: str = ""
    note: str = ""
    height: float = 1.0
    room: tuple[float, ...] = ()

    @property
    def xlabel(self) -> str:
        """Label of the x axis."""
        return self.x_axis.label

    @property
    def size(self) -> int:
        """How many positions the x axis has."""
        return self.x_axis.size

    @property
    def stages(self) -> tuple[Span, ...]:
        """Runs of positions that make a stage."""
        return self.x_axis.stages

    @property
    def ticks(self) -> tuple[Tick, ...]:
        """Candidates for labels of the x axis."""
        return self.x_axis.ticks

    def numbers(self) -> list[dict[str, Any]]:
        """What is drawn as columns ``x``, ``y`` and those of the form of panel; none of a panel that has only a message."""
        return []


Grid = tuple[tuple[Panel, ...], ...]
"""Rows of panels, from top to bottom."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Points(Panel):
    """One signal and statistic over depth; every array has one entry per drawn tensor, in order of ``x``.

    Attributes:
        x: Position of each tensor on the x axis.
        y: The frame's numbers, as they are; NaN where there is none.
        rows: Position of each tensor's row in the table that the panel was made from.
        names: Name of each tensor, with call and output where there are several.
        families: Family of the layer each tensor belongs to.
        joined: Whether a line runs through the tensor: it is the first at its position, and no gate beside the signal's way.
        zero: Where ``y`` is zero, exactly or up to rounding.
        nonfinite: Where the tensor had NaN or infinite elements, or the statistic itself is infinite or missing.
        transitions: Positions of transition blocks.
        stream: The signal from the end of one component to the next, where it was measured.
    """

    signal: Signal
    x: FloatArray
    y: FloatArray
    rows: IntArray
    names: tuple[str, ...]
    families: tuple[Family, ...]
    joined: BoolArray
    zero: BoolArray
    nonfinite: BoolArray
    transitions: tuple[float, ...] = ()
    stream: Curve | None = None

    @property
    def shown(self) -> BoolArray:
        """Which tensors have a point of their own: finite, and on a log axis not zero."""
        return _shown(self.y, self.zero, self.scale)

    def numbers(self) -> list[dict[str, Any]]:
        """A point for each tensor, and the main line."""
        points = {"name": self.names, "line": [str(family) for family in self.families], "x": self.x, "y": self.y}
        return [points, *([] if self.stream is None else [self.stream.numbers()])]


@dataclass(frozen=True, slots=True, eq=False)
class Shade:
    """The band around a curve: one low and one high number per point, NaN where there is none."""

    low: FloatArray
    high: FloatArray
    label: str
    strength: float = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One line.

    Attributes:
        label: Its name in the legend.
        x: Positions, ascending.
        y: The numbers as they are; NaN where there is none.
        nonfinite: Where the tensor had NaN or infinite elements, or the number itself is not finite.
        zero: Where ``y`` is zero, exactly or to rounding.
        shades: Bands around it, the widest first.
        look: Which of the looks for runs it wears, or of those for steps (``step_look``); None is the look of the panel's
            signal, -1 that of a prediction.
        names: Name of the tensor at each point.
        line: Its line style where that means something, as ``:``; that of its look when left out.
        end: What stands at its right end.
    """

    label: str
    x: FloatArray
    y: FloatArray
    nonfinite: BoolArray
    zero: BoolArray
    shades: tuple[Shade, ...] = ()
    look: int | None = 0
    names: tuple[str, ...] = ()
    line: str = ""
    end: str = ""

    def numbers(self) -> dict[str, Any]:
        """The line's points, and the ends of its widest band."""
        names = {"name": self.names} if self.names else {}
        band = {"low": self.shades[0].low, "high": self.shades[0].high} if self.shades else {}
        return {**names, "line": self.label or self.end, "x": self.x, "y": self.y, **band}

    @classmethod
    def of(
        cls,
        label: str,
        x: Sequence[float] | FloatArray,
        y: FloatArray,
        mean_square: FloatArray | None = None,
        *,
        nonfinite: BoolArray | None = None,
        shades: tuple[Shade, ...] = (),
        look: int | None = 0,
        names: tuple[str, ...] = (),
    ) -> Curve:
        """Make a curve whose zeros and missing numbers are told from ``y`` and, for shares of it, the mean square."""
        bad = ~np.isfinite(y) if nonfinite is None else nonfinite
        return cls(label, np.asarray(x, dtype=np.float64), y, bad, zeros(y, mean_square), shades, look, names)


class Mark(NamedTuple):
    """A place on a line that must not be overlooked, and a word for it."""

    x: float
    y: float
    label: str


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Curves(Panel):
    """Several lines over one x axis.

    Attributes:
        curves: The lines, the first at the back; the scale is chosen from all of them.
        baseline: A level to compare with, as 1 for a ratio; drawn as a thin line.
        marks: Where something begins.
    """

    curves: tuple[Curve, ...]
    baseline: float | None = None
    marks: tuple[Mark, ...] = ()

    @property
    def y(self) -> FloatArray:
        """Every number of every line and band, one after the other."""
        more = [] if self.baseline is None else [self.baseline]
        return np.concatenate([numbers_of(self.curves)[0], more])

    @property
    def zero(self) -> BoolArray:
        """Which of ``y`` mean zero."""
        zero = np.abs(self.y) < SMALLEST
        own = numbers_of(self.curves)[1]
        zero[: len(own)] |= own
        return zero

    @property
    def shown(self) -> BoolArray:
        """Which of ``y`` have a place on the axis."""
        return _shown(self.y, self.zero | (self.y < 0), self.scale)

    def numbers(self) -> list[dict[str, Any]]:
        """Line by line."""
        return [] if self.message else [curve.numbers() for curve in self.curves]


class Axis(StrEnum):
    """The x axis of a panel of results."""

    LINEAR = "linear"
    LOG = "log"
    CATEGORY = "category"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Outcomes(Curves):
    """Several lines over a column of a table of results.

    Attributes:
        axis: Of x. Categories stand at 0, 1, 2, ...
        places: Where on it there is a number, and what stands there, ascending.
        level: What the baseline is, for the legend.
    """

    signal: Signal | None = None
    axis: Axis
    places: tuple[tuple[float, str], ...]
    level: str = ""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Heat(Panel):
    """Numbers over layers (columns) and steps (rows), shown by colour.

    Attributes:
        values: The numbers, shape (steps, size); NaN where there is none. The scale is that of the colours.
        zero: Which of them mean zero.
        nonfinite: Which layers had NaN or infinite elements at which step, or a number that is not finite.
        steps: The step of each row, ascending.
        colour_label: Label of the colour bar.
        middle: The number with the colour in the middle, from which others go two ways by their ratio to it; None for one hue.
        marks: Where something begins: a column, a row and a word.
    """

    signal: Signal
    values: FloatArray
    zero: BoolArray
    nonfinite: BoolArray
    steps: tuple[int, ...]
    colour_label: str
    middle: float | None = None
    marks: tuple[Mark, ...] = ()

    @property
    def shown(self) -> BoolArray:
        """Which cells have a colour of the scale."""
        return _shown(self.values, self.zero, self.scale)

    def numbers(self) -> list[dict[str, Any]]:
        """A row of cells for each step."""
        x = np.arange(self.size, dtype=np.float64)
        return [{"step": step, "x": x, "y": row} for step, row in zip(self.steps, self.values, strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """A place on the axis of a distribution that a reader wants to see it against."""

    x: float
    label: str
    # "range" of an activation or "format" of numbers
    kind: str


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Bars(Panel):
    """A distribution over signed powers of two.

    Attributes:
        x: Position of each bar; neighbouring powers are one apart, and the exact zeros stand between the signs.
        share: Share of the finite values in each bar, to which the scale belongs.
        labels: What each bar holds, as ``[0.25, 0.5)``.
        limits: Ends of the activation's range, and of number formats.
        marks: Places and words of the x axis.
    """

    signal: Signal
    x: FloatArray
    share: FloatArray
    labels: tuple[str, ...]
    limits: tuple[Limit, ...] = ()
    marks: tuple[tuple[float, str], ...] = ()

    def numbers(self) -> list[dict[str, Any]]:
        """The share in each bar."""
        return [{"name": self.labels, "x": self.x, "y": self.share}]


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
    # twelve decades on either side of zero are more than an axis has room for
    smallest = max(float(magnitudes.min()), float(magnitudes.max()) * 1e-12)
    return Scale.SYMLOG, float(10.0 ** np.floor(np.log10(smallest)))


def scale_of(statistic: str, curves: Iterable[Curve]) -> tuple[Scale, float]:
    """Choose one scale for several lines and their bands, as ``choose_scale`` does for one; shares are linear."""
    return (Scale.LINEAR, 0.0) if statistic in BOUNDED else choose_scale(*numbers_of(curves))


def step_look(index: int, count: int) -> int:
    """The look of one of several training steps: from light to dark, however many there are."""
    return MOST_LINES + round(index * (MOST_LINES - 1) / max(count - 1, 1)) if count > 1 else 2 * MOST_LINES - 1


def numbers_of(curves: Iterable[Curve]) -> tuple[FloatArray, BoolArray]:
    """Every number of the lines, then of their bands, and which of them mean zero."""
    several = tuple(curves)
    sides = [side for curve in several for shade in curve.shades for side in (shade.low, shade.high)]
    # an empty array at the end, since NumPy cannot concatenate nothing
    values = [*(curve.y for curve in several), *sides, np.zeros(0)]
    zero = [*(curve.zero for curve in several), *(np.abs(side) < SMALLEST for side in sides), np.zeros(0, np.bool_)]
    return np.concatenate(values), np.concatenate(zero)


def zeros(y: FloatArray, mean_square: FloatArray | None = None) -> BoolArray:
    """Say which numbers mean zero: exactly, or, for a squared mean or a variance, up to rounding.

    A normalized layer has a mean of zero and shows 1e-17; that is rounding, and would stretch a log axis over all its decades.
    An average of n random elements has a square of about 1/n of the mean square, far above the bound.

    Args:
        y: The statistic, shape (n,).
        mean_square: Mean square of the same tensors, shape (n,), where ``y`` is a share of it; else None.
    """
    zero: BoolArray = np.abs(y) < SMALLEST
    return zero if mean_square is None else zero | (y <= ROUNDING * mean_square)


def short(statistic: str) -> str:
    """Return how axis labels call a statistic: its abbreviation where the literature has one."""
    return SHORT.get(statistic) or _label(statistic)


def title(statistic: str) -> str:
    """Return a statistic's name in full, as ``ACSM, average channel squared mean``."""
    label = _label(statistic)
    return f"{SHORT[statistic]}, {label}" if statistic in SHORT else label


def _label(statistic: str) -> str:
    described: dict[str, Spec] = statistic_columns() | {str(column): spec for column, spec in COLUMNS.items()}
    return described[statistic].label


def ylabel(what: str, signal: Signal, scale: Scale) -> str:
    """Return the label of a y axis, on two lines: signal and statistic, and the scale where ticks leave it open."""
    return f"{PLURAL[signal]}\n{what}{'' if scale is Scale.LOG else SUFFIX[scale]}"


def family(kind: str | None, type_name: str) -> Family:
    """Return the family of a layer from its kind; where a table has none (saved by version 1), from its class name."""
    known = kind_of_name(type_name) if kind is None else LayerKind(kind)
    return FAMILIES.get(known, Family.OTHER)


def _shown(y: FloatArray, zero: BoolArray, scale: Scale) -> BoolArray:
    finite: BoolArray = np.isfinite(y)
    return finite & ~zero if scale is Scale.LOG else finite
