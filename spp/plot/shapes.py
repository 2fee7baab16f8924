"""Panels with more than one curve, with colours for numbers, or with bars: data only, as ``panels.Panel`` is.

A ``Curves`` panel holds several lines over the same layers, each with a band if it stands for several runs or channels; an
``Outcomes`` panel holds several over a column of a table of results; a ``Heat`` panel is a table of numbers over layers and
steps; a ``Bars`` panel is a distribution over powers of two.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from spp.plot.panels import SMALLEST, BoolArray, FloatArray, Panel, Scale, choose_scale, zeros
from spp.plot.stages import Span, Tick
from spp.vocabulary import Signal

MOST_LINES = 8
"""Lines that can be told apart in one panel; ``style.CURVES`` has a look for each."""


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
        look: Which of the looks for curves it wears; None is the look of the panel's signal, -1 that of a prediction.
        names: Name of the tensor at each point.
    """

    label: str
    x: FloatArray
    y: FloatArray
    nonfinite: BoolArray
    zero: BoolArray
    shades: tuple[Shade, ...] = ()
    look: int | None = 0
    names: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        label: str,
        x: Sequence[float] | FloatArray,
        y: FloatArray,
        mean_square: FloatArray | None = None,
        **more: object,
    ) -> "Curve":
        """Make a curve whose zeros and missing numbers are told from ``y`` and, for shares of it, the mean square."""
        made: Curve = cls(
            label,
            np.asarray(x, dtype=np.float64),
            np.asarray(y, dtype=np.float64),
            nonfinite=np.asarray(more.pop("nonfinite", ~np.isfinite(y)), dtype=np.bool_),
            zero=zeros(y, mean_square),
            **more,  # type: ignore[arg-type]
        )
        return made


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Sheet:
    """What every panel tells the page; see ``panels.Panel`` for the common attributes.

    Attributes:
        signal: None where the numbers are of no signal.
        note: What the panel comes to, in a few words; stands over it.
        height: Share of the height of a row.
    """

    signal: Signal | None
    statistic: str
    title: str
    xlabel: str
    ylabel: str
    size: int
    stages: tuple[Span, ...] = ()
    ticks: tuple[Tick, ...] = ()
    message: str = ""
    note: str = ""
    height: float = 1.0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Lines(Sheet):
    """Several lines over one x axis.

    Attributes:
        curves: The lines, the first at the back.
        scale: Chosen from all of them.
        threshold: Half-width of the linear part of a symlog axis.
        baseline: A level to compare with, as 1 for a ratio; drawn as a thin line.
        room: Further numbers that the axis has room for: those of a panel beside it that is read on the same scale.
    """

    curves: tuple[Curve, ...]
    scale: Scale = Scale.LINEAR
    threshold: float = 0.0
    baseline: float | None = None
    room: tuple[float, ...] = ()

    @property
    def y(self) -> FloatArray:
        """Every number of every line and band, one after the other."""
        parts = [curve.y for curve in self.curves]
        parts += [side for curve in self.curves for shade in curve.shades for side in (shade.low, shade.high)]
        if self.baseline is not None:
            parts.append(np.array([self.baseline]))
        parts.append(np.array(self.room, dtype=np.float64))
        return np.concatenate(parts) if parts else np.zeros(0)

    @property
    def zero(self) -> BoolArray:
        """Which of ``y`` mean zero."""
        y = self.y
        zero = np.abs(y) < SMALLEST
        own = np.concatenate([curve.zero for curve in self.curves]) if self.curves else zero[:0]
        zero[: len(own)] |= own
        return zero

    @property
    def shown(self) -> BoolArray:
        """Which of ``y`` have a place on the axis."""
        finite = np.isfinite(self.y)
        if self.scale is not Scale.LOG:
            return finite
        return finite & ~self.zero & (self.y > 0)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Curves(Lines):
    """Several lines over layers.

    Attributes:
        between: Indices of two curves whose difference is shaded.
    """

    signal: Signal
    between: tuple[int, int] | None = None


class Axis(StrEnum):
    """The x axis of a panel of results."""

    LINEAR = "linear"
    LOG = "log"
    CATEGORY = "category"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Outcomes(Lines):
    """Several lines over a column of a table of results.

    Attributes:
        axis: Of x. Categories stand at 0, 1, 2, ...
        places: Where on it there is a number, and what stands there, ascending.
        level: What the baseline is, for the legend.
    """

    signal: None = None
    axis: Axis
    places: tuple[tuple[float, str], ...]
    level: str = ""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Heat(Sheet):
    """Numbers over layers (columns) and steps (rows), shown by colour.

    Attributes:
        values: The numbers, shape (steps, size); NaN where there is none.
        zero: Which of them mean zero.
        nonfinite: Which layers had NaN or infinite elements at which step, or a number that is not finite.
        steps: The step of each row, ascending.
        scale: Of the colours.
        threshold: Half-width of the linear part of a symlog scale.
        colour_label: Label of the colour bar.
    """

    signal: Signal
    values: FloatArray
    zero: BoolArray
    nonfinite: BoolArray
    steps: tuple[int, ...]
    scale: Scale
    threshold: float
    colour_label: str

    @property
    def shown(self) -> BoolArray:
        """Which cells have a colour of the scale."""
        finite = np.isfinite(self.values)
        return finite & ~self.zero if self.scale is Scale.LOG else finite


@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """A place on the axis of a distribution that a reader wants to see it against."""

    x: float
    label: str
    kind: str  # "range" of an activation or "format" of numbers


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Bars(Sheet):
    """A distribution over signed powers of two.

    Attributes:
        x: Position of each bar; neighbouring powers are one apart, and the exact zeros stand between the signs.
        share: Share of the finite values in each bar.
        labels: What each bar holds, as ``[0.25, 0.5)``.
        limits: Ends of the activation's range, and of number formats.
        marks: Places and words of the x axis.
        scale: Of the shares.
    """

    signal: Signal
    x: FloatArray
    share: FloatArray
    labels: tuple[str, ...]
    limits: tuple[Limit, ...] = ()
    marks: tuple[tuple[float, str], ...] = ()
    scale: Scale = Scale.LINEAR


AnyPanel = Panel | Curves | Outcomes | Heat | Bars
"""Everything that has a place on a page."""

AnyGrid = tuple[tuple[AnyPanel, ...], ...]
"""Rows of panels, from top to bottom."""


def common_scale(curves: Iterable[Curve]) -> tuple[Scale, float]:
    """Choose one scale for several lines and their bands, as ``choose_scale`` does for one."""
    several = tuple(curves)
    values = [curve.y for curve in several]
    zero = [curve.zero for curve in several]
    for curve in several:
        for shade in curve.shades:
            for side in (shade.low, shade.high):
                values.append(side)
                zero.append(np.abs(side) < SMALLEST)
    if not values:
        return Scale.LINEAR, 0.0
    return choose_scale(np.concatenate(values), np.concatenate(zero))
