"""Draw one panel onto one ``Axes``: nothing else is touched, and every artist is returned.

``draw_panel`` finds the function for a panel's form; a form from outside the package is registered with
``draw_panel.register``. Sizes and colours come from the parameters that hold while drawing (``style.applied``) and from the
palette. Labels of the x axis and names of stages depend on the final size; ``label_layout`` adds them.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis as MatplotlibAxis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import Normal, Stroke
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from spp.errors import plain as plain_words
from spp.plot.panels import (
    BOUNDED,
    SMALLEST,
    Axis,
    BoolArray,
    Curve,
    Curves,
    Family,
    FloatArray,
    Mark,
    Outcomes,
    Panel,
    Points,
    Scale,
)
from spp.plot.style import ALARM, BAND, CURVES, FAINT, FAMILY_MARKERS, INK, PALETTE, PREDICTED, STEPS, Look, literal

FLOOR, CEILING = 0.04, 0.96
"""Height, as a share of the axes, of marks for zeros on a log axis and for numbers that are not finite."""

APART = 0.055
"""Distance, as a share of the axes, between the rows in which lines mark their zeros or non-finite layers."""

MARKERS = 9
"""About how many markers a line carries: enough to tell it by, too few to hide it."""

SMALLEST_MARK = 2.5
"""Diameter in points below which a mark looks like dust."""

WEIGHTS: dict[int | None, float] = {None: 1.3, -1: 0.8}
"""Width of the line of a signal and of a prediction over it, against those of others."""

END = 16
"""Characters of what stands at the end of a line, from which on it breaks."""

MARGIN = 0.05
"""Share of the x axis that is left free on either side of results."""

ZERO = "zero (exact or to rounding)"
NONFINITE = "non-finite values"
"""What the legend calls the marks for these."""


@dataclass(slots=True)
class Drawn:
    """The artists of one panel; what a panel has no use for is None or empty."""

    line: Line2D | None = None
    lines: dict[Family, Line2D] = field(default_factory=dict)
    points: dict[Family, Line2D] = field(default_factory=dict)
    zeros: Line2D | None = None
    nonfinite: list[Line2D] = field(default_factory=list)
    transitions: Line2D | None = None
    zero_line: Line2D | None = None
    bands: list[Rectangle] = field(default_factory=list)
    message: Text | None = None
    curves: list[Line2D] = field(default_factory=list)
    shades: list[Artist] = field(default_factory=list)
    mesh: Artist | None = None
    bars: list[Rectangle] = field(default_factory=list)
    limits: list[Artist] = field(default_factory=list)
    marks: list[Artist] = field(default_factory=list)
    ends: list[tuple[Text, float]] = field(default_factory=list)
    """What stands at the ends of lines, and the height of each end in data; the page puts them apart."""
    handles: dict[str, Artist] = field(default_factory=dict)
    """What the legend shows for this panel beside families and marks, by label."""

    def artists(self) -> list[Artist]:
        """Return all of them in one list."""
        single = [self.line, self.zeros, self.transitions, self.zero_line, self.message, self.mesh]
        several = [
            self.bands,
            self.lines.values(),
            self.points.values(),
            self.nonfinite,
            self.curves,
            self.shades,
            self.bars,
            self.limits,
        ]
        several += [self.marks, [text for text, _ in self.ends]]
        return [artist for group in (*several, single) for artist in group if artist is not None]


@singledispatch
def draw_panel(panel: Panel, axes: Axes) -> Drawn:
    """Draw ``panel`` onto ``axes`` and return what was drawn."""
    # for a form of panel from outside that brings no function of its own; the five forms here are registered below
    raise NotImplementedError(f"draw_panel.register a function for {type(panel).__name__}")


@draw_panel.register
def _draw_points(panel: Points, axes: Axes) -> Drawn:
    drawn = begun(panel, axes)
    if panel.message:
        return drawn
    size, look = marker_size(panel, axes), PALETTE[panel.signal]
    if set(panel.families) == {Family.OTHER}:
        drawn.line = _joined(panel, axes, panel.joined, color=look.colour, linestyle=look.line, width=1.2)
        drawn.line.set(marker=look.marker, markersize=size, markeredgewidth=0)
    else:
        _draw_families(panel, axes, drawn, look, size)
    if (stream := panel.stream) is not None:
        y = np.where(np.isfinite(stream.y) & ~(stream.zero & (panel.scale is Scale.LOG)), stream.y, np.nan)
        style: dict[str, Any] = {"linestyle": "-", "linewidth": WEIGHTS[None] * linewidth()}
        (drawn.line,) = axes.plot(stream.x, y, color=look.colour, zorder=4, **style)
        drawn.handles[stream.label] = Line2D([], [], label=stream.label, color=INK, **style)
    _mark_points(panel, axes, drawn, size)
    return drawn


@draw_panel.register
def _draw_curves(panel: Curves, axes: Axes) -> Drawn:
    drawn = begun(panel, axes)
    if panel.message:
        return drawn
    if panel.baseline is not None:
        drawn.zero_line = level(axes, panel.baseline)
    _draw_lines(panel, axes, drawn)
    for mark in panel.marks:
        if np.isfinite(mark.y) and (panel.scale is not Scale.LOG or mark.y > 0):
            drawn.marks += ringed(mark, axes)
    return drawn


@draw_panel.register
def _draw_outcomes(panel: Outcomes, axes: Axes) -> Drawn:
    _scale_x(panel, axes)
    drawn = labelled(panel, axes)
    if panel.message:
        return drawn
    scale_axis(panel, axes)
    _draw_lines(panel, axes, drawn)
    for curve in panel.curves:
        _draw_lone_ranges(panel, curve, axes, drawn)
    if panel.baseline is not None:
        drawn.zero_line = line = level(axes, panel.baseline)
        drawn.handles[panel.level] = Line2D(
            [], [], label=panel.level, color=line.get_color(), linestyle=(0, (1, 2)), linewidth=line.get_linewidth()
        )
    return drawn


# -- the axes -----------------------------------------------------------------------------------------------------------------


def begun(panel: Panel, axes: Axes) -> Drawn:
    """Set up ``axes`` over layers: limits, labels, scale and zero, bands of stages, and the message where there are no data."""
    axes.set_xlim(-0.5 - 0.01 * panel.size, panel.size - 0.5 + 0.01 * panel.size)
    drawn = labelled(panel, axes)
    drawn.bands = [
        axes.axvspan(span.start - 0.5, span.stop - 0.5, color=BAND, linewidth=0, zorder=0)
        for span in panel.stages[1::2]
    ]
    if isinstance(panel, Points | Curves) and not panel.message:
        scale_axis(panel, axes)
        if panel.scale is not Scale.LOG:
            drawn.zero_line = level(axes, 0.0)
    return drawn


def labelled(panel: Panel, axes: Axes) -> Drawn:
    """Give ``axes`` its labels, and the message of a panel without data."""
    drawn = Drawn()
    axes.set_xlabel(literal(panel.xlabel))
    axes.set_ylabel(literal(panel.ylabel))
    if panel.message:
        axes.set_yticks([])
        drawn.message = axes.text(
            0.5, 0.5, literal(panel.message), transform=axes.transAxes, ha="center", va="center", color=INK
        )
        # constrained layout would widen the margins until the unbroken message fits
        drawn.message.set_in_layout(False)
    return drawn


def level(axes: Axes, height: float) -> Line2D:
    """A thin line to compare with, as at zero."""
    return axes.axhline(height, color=FAINT, linewidth=0.6 * linewidth(), linestyle=(0, (1, 2)), zorder=1)


def page_of(axes: Axes) -> Figure:
    """The figure that ``axes`` are on."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def linewidth() -> float:
    """Width of lines in the style that holds."""
    return float(matplotlib.rcParams["lines.linewidth"])


def labels_that_fit(axes: Axes, most: int) -> int:
    """About how many labels the y axis has room for above each other; at least two."""
    letters = FontProperties(size=matplotlib.rcParams["ytick.labelsize"]).get_size_in_points() * page_of(axes).dpi / 72
    return int(np.clip(axes.get_window_extent().height / (1.5 * letters), 2, most))


def scale_axis(panel: Points | Curves, axes: Axes) -> None:
    """Set scale, limits and ticks of the y axis from the numbers of the panel."""
    room = np.array(panel.room)
    fits = np.isfinite(room) & ((panel.scale is not Scale.LOG) | (room > 0))
    shown = np.concatenate([panel.y[panel.shown], room[fits]])
    if panel.scale is Scale.LOG:
        axes.set_yscale("log")
        low, high = np.log10(shown.min()), np.log10(shown.max())
        pad = 0.05 * (high - low)
        below = 0.12 * (high - low) if panel.zero.any() or 0.0 in panel.room else pad
        above = 0.12 * (high - low) if not (np.isfinite(panel.y).all() and np.isfinite(room).all()) else pad
        # matplotlib's log transform overflows outside of what float64 has normal numbers for
        axes.set_ylim(10 ** max(low - below, -307.0), 10 ** min(high + above, 308.0))
        log_ticks(axes.yaxis, *axes.get_ylim(), form="g", most=labels_that_fit(axes, 5))
        # the locator's own choice of ``numticks`` hides the minor ticks of more than a few decades
        minor = LogLocator(subs=tuple(range(2, 10)), numticks=50) if high - low < 5 else NullLocator()
        axes.yaxis.set_minor_locator(minor)
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif panel.scale is Scale.SYMLOG:
        axes.set_yscale("symlog", linthresh=panel.threshold)
        axes.yaxis.set_major_locator(FixedLocator(symlog_ticks(panel.threshold, shown)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.margins(y=0.08)
    else:
        _scale_linear(panel, axes, shown)


def _scale_linear(panel: Points | Curves, axes: Axes, shown: FloatArray) -> None:
    if isinstance(panel, Outcomes):
        # results are compared with each other and not with zero
        low, high, ticks = float(shown.min()), float(shown.max()), 6
        pad = 0.07 * (high - low) or 0.05 * abs(high) or 0.5
        low, high = low - pad, high + pad
    else:
        ticks = 4
        low, high = min(shown.min(initial=0.0), 0.0), max(shown.max(initial=0.0), 0.0)
        if panel.statistic in BOUNDED:
            low, high = 0.0, 1.0
        if high - low < SMALLEST:
            high = 1.0
        pad = 0.07 * (high - low)
        low, high = low - (pad if low < 0 else 0.5 * pad), high + (pad if high > 0 else 0.5 * pad)
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=ticks, steps=[1, 2, 2.5, 5, 10]))
    order = int(np.floor(np.log10(max(abs(low), abs(high)))))
    if not -3 < order < 4:
        # matplotlib writes the power of ten over the axis, where the names of the stages stand
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 10.0**order:g}".replace("-", "−")))
        axes.set_ylabel(f"{literal(panel.ylabel)} [$10^{{{order}}}$]")


def log_ticks(axis: MatplotlibAxis, low: float, high: float, form: str, most: int = 5) -> None:
    """Name powers of ten on a log axis from ``low`` to ``high``; where there are too few, ones, twos and fives."""
    ticks = decades(low, high, most)
    if len(ticks) < 2:
        powers = range(int(np.floor(np.log10(low))), min(int(np.ceil(np.log10(high))) + 1, 308))
        digits = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        ticks = [tick for tick in digits if low <= tick <= high] or [low, high]
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:{form}}"))
    axis.set_major_locator(FixedLocator(ticks))


def decades(low: float, high: float, most: int = 5) -> list[float]:
    """Return at most ``most`` powers of ten from ``low`` to ``high``, an equal and round number of decades apart."""
    first, last = int(np.ceil(np.log10(low))), int(np.floor(np.log10(high)))
    step = next(step for step in (1, 2, 3, 5, 10, 20, 25, 50, 100, 200) if last // step - -(-first // step) < most)
    return [10.0**power for power in range(-(-first // step) * step, last + 1, step)]


def symlog_ticks(threshold: float, shown: FloatArray) -> list[float]:
    """Zero and at most two decades on either side, far enough from zero and from each other to be read."""
    first = int(np.log10(threshold))
    ends = {
        sign: int(np.floor(np.log10(extreme)))
        for sign, extreme in ((1.0, shown.max()), (-1.0, -shown.min()))
        if extreme > threshold
    }
    length = sum(last - first + 1 for last in ends.values())
    ticks = [0.0]
    for sign, last in ends.items():
        middle = (first + last) // 2
        powers = [power for power in (last, middle) if power - first + 1 >= 0.15 * length]
        ticks += [sign * 10.0**power for power in powers[: 2 if last - middle >= 0.15 * length else 1]]
    return sorted(ticks)


def _scale_x(panel: Outcomes, axes: Axes) -> None:
    low, high = panel.places[0][0], panel.places[-1][0]
    if panel.axis is Axis.LOG:
        axes.set_xscale("log")
        pad = (high / low) ** MARGIN if high > low else 2.0
        axes.set_xlim(low / pad, high * pad)
    else:
        pad = 0.4 if panel.axis is Axis.CATEGORY else MARGIN * (high - low) or 0.5
        axes.set_xlim(low - pad, high + pad)


# -- points -------------------------------------------------------------------------------------------------------------------


def _draw_families(panel: Points, axes: Axes, drawn: Drawn, look: Look, size: float) -> None:
    """A faint point for each tensor, and a thin line for each family of layers: what norms do is not what convolutions do."""
    for family in Family:
        member = np.array([other == family for other in panel.families], dtype=np.bool_)
        if (member & panel.joined).any() and family is not Family.OTHER:
            drawn.lines[family] = _joined(panel, axes, member & panel.joined, color=look.tint, width=0.5)
        if (member := member & panel.shown).any():
            marker = marker_of(family, look, size)
            drawn.points[family] = scattered(axes, panel.x[member], panel.y[member], 3, **marker)


def _joined(panel: Points, axes: Axes, which: BoolArray, *, width: float = 1.0, **style: Any) -> Line2D:
    """Join some tensors; the line breaks where one is not finite, and on a log axis at exact zeros."""
    # zeros to rounding are passed over: a break at each norm would leave no line
    keep = which & (panel.shown | ~panel.zero | (np.abs(panel.y) < SMALLEST))
    y = np.where(panel.shown, panel.y, np.nan)[keep]
    (line,) = axes.plot(panel.x[keep], y, linewidth=width * linewidth(), zorder=2, **style)
    return line


def _mark_points(panel: Points, axes: Axes, drawn: Drawn, size: float) -> None:
    off_scale = panel.nonfinite & ~np.isfinite(panel.y)
    in_place = panel.nonfinite & panel.shown
    at_floor = panel.zero & ~panel.shown & np.isfinite(panel.y) & (panel.scale is Scale.LOG)
    if at_floor.any():
        drawn.zeros = in_row(axes, panel.x[at_floor], FLOOR, zero_mark(PALETTE[panel.signal], size))
    for which, height in ((off_scale, CEILING), (at_floor & panel.nonfinite, FLOOR)):
        if which.any():
            drawn.nonfinite.append(in_row(axes, panel.x[which], height, nonfinite_mark(size)))
    if in_place.any():
        drawn.nonfinite.append(scattered(axes, panel.x[in_place], panel.y[in_place], 5, **nonfinite_mark(size)))
    if panel.transitions:
        drawn.transitions = in_row(axes, np.array(panel.transitions), 0.0, transition_mark(size))
        # at the foot of the axes half of each mark lies outside of it
        drawn.transitions.set(clip_on=False, zorder=4)


def scattered(axes: Axes, x: FloatArray, y: FloatArray, zorder: float, **look: Any) -> Line2D:
    """Draw points without a line."""
    (points,) = axes.plot(x, y, linestyle="none", zorder=zorder, **look)
    return points


def in_row(axes: Axes, x: FloatArray, height: float, look: dict[str, Any]) -> Line2D:
    """Draw points at one height, as a share of the axes, whatever the scale is."""
    return scattered(axes, x, np.full(len(x), height), 5, transform=axes.get_xaxis_transform(), **look)


def marker_size(panel: Panel, axes: Axes) -> float:
    """Diameter in points: as large as neighbours allow, from what an eye can tell from dust to half a letter."""
    width = 72 * page_of(axes).get_size_inches()[0] * axes.get_position().width
    return float(np.clip(1.1 * width / max(panel.size, 1), SMALLEST_MARK, 0.42 * matplotlib.rcParams["font.size"]))


def marker_of(family: Family, look: Look, size: float) -> dict[str, Any]:
    """Return the points of a family as properties of a line: faint, and filled or hollow where shapes are too small to read."""
    face = "white" if family is Family.NORM else look.tint
    return _mark(FAMILY_MARKERS[family], size, face, look.colour, 0.12 * min(size, 4.0))


def zero_mark(look: Look, size: float) -> dict[str, Any]:
    """Return the look of a zero at the floor of a log axis."""
    return _mark("v", size, "white", look.colour, 0.5)


def nonfinite_mark(size: float) -> dict[str, Any]:
    """Return the look of a layer with NaN or infinite values."""
    return _mark("X", 1.3 * size, ALARM, "white", 0.3)


def transition_mark(size: float) -> dict[str, Any]:
    """Return the look of a transition block's mark, at the foot of the axes."""
    return _mark("d", 1.2 * size, INK, INK, 0)


def _mark(shape: str, size: float, face: str, edge: str, width: float) -> dict[str, Any]:
    return {
        "marker": shape,
        "markersize": size,
        "markerfacecolor": face,
        "markeredgecolor": edge,
        "markeredgewidth": width,
    }


# -- lines --------------------------------------------------------------------------------------------------------------------


def _draw_lines(panel: Curves, axes: Axes, drawn: Drawn) -> None:
    """Draw the lines of ``panel`` with their bands and marks onto ``axes``, whose scales are set; note them in ``drawn``."""
    marked = 0
    for index, curve in enumerate(panel.curves):
        look = _look_of(panel, curve)
        _draw_shades(panel, curve, look, axes, drawn)
        _draw_line(panel, curve, look, index, axes, drawn)
        _mark_line(panel, curve, look, marked, axes, drawn)
        marked += bool(curve.zero.any() or curve.nonfinite.any())


def _look_of(panel: Curves, curve: Curve) -> Look:
    """The look of one line: its own among several, that of the signal, or that of a prediction."""
    if curve.look is None:
        assert panel.signal is not None
        return PALETTE[panel.signal]
    return PREDICTED if curve.look < 0 else (*CURVES, *STEPS)[curve.look]


def _on_axis(panel: Curves, values: FloatArray) -> FloatArray:
    """The numbers where the axis has a place for them, else NaN, which breaks a line."""
    fits = np.isfinite(values)
    if panel.scale is Scale.LOG:
        fits &= values > 0
    return np.where(fits, values, np.nan)


def _line_of(panel: Curves, curve: Curve) -> FloatArray:
    """The curve's numbers where its line goes: on a log axis what means zero is a mark at the foot instead."""
    return np.where(curve.zero & (panel.scale is Scale.LOG), np.nan, _on_axis(panel, curve.y))


def _alone(there: BoolArray) -> BoolArray:
    """Which points have no neighbour that is there, so that no line or band would show them."""
    padded = np.pad(there, 1)
    alone: BoolArray = there & ~padded[:-2] & ~padded[2:]
    return alone


def _draw_shades(panel: Curves, curve: Curve, look: Look, axes: Axes, drawn: Drawn) -> None:
    for shade in curve.shades:
        low, high = shade.low, shade.high
        if panel.scale is Scale.LOG:
            # a band that reaches down to zero reaches down to the foot of the axes
            low = np.where(np.isfinite(low) & (low <= 0), axes.get_ylim()[0], low)
        style: dict[str, Any] = {"color": look.colour, "alpha": shade.strength, "linewidth": 0}
        sides = _on_axis(panel, low), _on_axis(panel, high)
        drawn.shades.append(axes.fill_between(curve.x, *sides, zorder=1.5, **style))
        # matplotlib's own legend entry would have the line's hue, which differs from row to row
        if shade.label:
            drawn.handles[shade.label] = Patch(label=shade.label, **style | _neutral(curve, look))


def _draw_line(panel: Curves, curve: Curve, look: Look, index: int, axes: Axes, drawn: Drawn) -> None:
    y = _line_of(panel, curve)
    marked = _marked(np.isfinite(y), index / max(len(panel.curves), 1), few=curve.look is None)
    size = float(np.clip(3.2 * linewidth() / 0.8, 2.5, 7))
    # points without a neighbour: as small as their number asks
    if len(marked) > 4 * MARKERS:
        size = marker_size(panel, axes)
    style: dict[str, Any] = {
        "color": look.colour,
        "linestyle": curve.line or ("-" if curve.look is None else look.line),
        "linewidth": (1.1 if panel.size < 100 else 0.8) * linewidth() * WEIGHTS.get(curve.look, 1.0),
        "marker": look.marker if look.marker and not curve.line.strip("-") else "none",
        "markersize": size,
        "markeredgecolor": "white",
        "markeredgewidth": 0.3,
    }
    # later lines over earlier ones, all of them between the bands and the marks
    drawn.curves += axes.plot(curve.x, y, markevery=marked, zorder=2.5 + 0.1 * index, **style)
    if curve.end:
        drawn.ends.append((_ended(panel, curve, look, axes), _end_of(y, axes)))
    plain = {"marker": "none"} if curve.look is None else {}
    if curve.label:
        drawn.handles[curve.label] = Line2D([], [], label=curve.label, **style | plain | _neutral(curve, look))


def _ended(panel: Curves, curve: Curve, look: Look, axes: Axes) -> Text:
    """Write what a line is beside its right end, outside of the axes."""
    words = textwrap.fill(plain_words(curve.end), END, break_long_words=False, break_on_hyphens=False)
    size = matplotlib.rcParams["legend.fontsize"]
    return axes.text(1.012, 0.5, literal(words), transform=axes.transAxes, color=look.colour, va="center", size=size)


def _end_of(y: FloatArray, axes: Axes) -> float:
    """Where a line ends; at the foot of the axes where it has no point."""
    there = np.flatnonzero(np.isfinite(y))
    return float(y[there[-1]]) if len(there) else float(axes.get_ylim()[0])


def ringed(mark: Mark, axes: Axes) -> list[Artist]:
    """A ring about a place, and the word for it."""
    size = matplotlib.rcParams["lines.markersize"]
    ring = scattered(axes, np.array([mark.x]), np.array([mark.y]), 6, **_mark("o", size, "none", ALARM, linewidth()))
    word = axes.annotate(
        literal(plain_words(mark.label)),
        (mark.x, mark.y),
        (0.8 * size, 0.8 * size),
        textcoords="offset points",
        color=ALARM,
        size=matplotlib.rcParams["legend.fontsize"],
        zorder=6,
        path_effects=[Stroke(linewidth=2, foreground="white"), Normal()],
        # where it goes is settled when the size of the axes is
        in_layout=False,
    )
    return [ring, word]


def _neutral(curve: Curve, look: Look) -> dict[str, Any]:
    """A colour for the legend that stands for the hues of all signals, where a line has that of its signal."""
    return {"color": INK if curve.look is None else look.colour}


def _marked(there: BoolArray, shift: float, *, few: bool) -> list[int]:
    """Which points carry a marker: a few along the line, and those with no neighbour, which no line would show.

    Args:
        there: Which points are drawn.
        shift: Where between two markers of the first line those of this line stand, from 0 to 1.
        few: Mark only what no line shows, where there is no other line to tell this one from.
    """
    drawn = np.flatnonzero(there)
    stride = max(1, -(-len(drawn) // MARKERS))
    along = [] if few else drawn[int(shift * stride) :: stride].tolist()
    return sorted({*along, *np.flatnonzero(_alone(there)).tolist()})


def _mark_line(panel: Curves, curve: Curve, look: Look, index: int, axes: Axes, drawn: Drawn) -> None:
    """Zeros of a log axis stand at its foot and non-finite layers at its top, each line's in a row of its own."""
    size = min(1.5 * marker_size(panel, axes), 3.0)
    at_floor = curve.zero & np.isfinite(curve.y) & (panel.scale is Scale.LOG)
    if at_floor.any():
        grey = zero_mark(Look(INK, "", "", ""), 3.0)
        drawn.handles[ZERO] = Line2D([], [], linestyle="none", label=ZERO, **grey)
        drawn.limits.append(in_row(axes, curve.x[at_floor], FLOOR + APART * index, zero_mark(look, size)))
    there = np.isfinite(_on_axis(panel, curve.y))
    mark = nonfinite_mark(max(size, 2.5)) | {"markeredgecolor": look.colour, "markeredgewidth": 0.5}
    off, on = curve.nonfinite & ~there, curve.nonfinite & there
    if off.any():
        drawn.nonfinite.append(in_row(axes, curve.x[off], CEILING - APART * index, mark))
    if on.any():
        drawn.nonfinite.append(scattered(axes, curve.x[on], curve.y[on], 5, **mark))


def _draw_lone_ranges(panel: Outcomes, curve: Curve, axes: Axes, drawn: Drawn) -> None:
    """The range of a point without a neighbour, which a band would not show, as a bar."""
    for shade in curve.shades:
        alone = _alone(np.isfinite(shade.low) & np.isfinite(shade.high))
        if alone.any():
            style: dict[str, Any] = {"color": _look_of(panel, curve).colour, "alpha": 2 * shade.strength}
            style |= {"linewidth": 3 * linewidth(), "zorder": 1.6}
            drawn.shades.append(axes.vlines(curve.x[alone], shade.low[alone], shade.high[alone], **style))
