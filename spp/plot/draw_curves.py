"""Draw several lines with their bands onto one ``Axes``; colour, line style and marker all tell them apart."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from spp.plot.draw import (
    CEILING,
    FLOOR,
    Drawn,
    begun,
    level,
    linewidth,
    marker_size,
    nonfinite_mark,
    zero_mark,
)
from spp.plot.panels import Scale
from spp.plot.scales import scale_axis
from spp.plot.shapes import Curve, Curves, Lines
from spp.plot.style import CURVES, INK, PALETTE, PREDICTED, Look

MARKERS = 9
"""About how many markers a line carries: enough to tell it by, too few to hide it."""

WEIGHTS: dict[int | None, float] = {None: 1.3, -1: 0.8}
"""Width of the line of a signal and of a prediction over it, against those of others."""

APART = 0.055
"""Distance, as a share of the axes, between the rows in which lines mark their zeros or non-finite layers."""


def draw_curves(panel: Curves, axes: Axes) -> Drawn:
    """Draw ``panel`` onto ``axes`` and return what was drawn."""
    drawn = begun(panel, axes)
    if panel.message:
        return drawn
    scale_axis(panel, axes)
    if panel.scale is not Scale.LOG:
        drawn.zero_line = level(axes, 0.0)
    if panel.baseline is not None:
        drawn.zero_line = level(axes, panel.baseline)
    draw_lines(panel, axes, drawn)
    if panel.between is not None:
        _between(panel, axes, drawn)
    return drawn


def draw_lines(panel: Lines, axes: Axes, drawn: Drawn) -> None:
    """Draw the lines of ``panel`` with their bands and marks onto ``axes``, whose scales are set; note them in ``drawn``."""
    for index, curve in enumerate(panel.curves):
        look = look_of(panel, curve)
        _shades(panel, curve, look, axes, drawn)
        _line(panel, curve, look, index, axes, drawn)
        _marks(panel, curve, look, index, axes, drawn)


def look_of(panel: Lines, curve: Curve) -> Look:
    """The look of one line: its own among several, that of the signal, or that of a prediction."""
    if curve.look is None:
        assert panel.signal is not None
        return PALETTE[panel.signal]
    return PREDICTED if curve.look < 0 else CURVES[curve.look]


def _on_axis(panel: Lines, values: np.ndarray) -> np.ndarray:
    """The numbers where the axis has a place for them, else NaN, which breaks a line."""
    fits = np.isfinite(values)
    if panel.scale is Scale.LOG:
        fits &= values > 0
    return np.where(fits, values, np.nan)


def _shown(panel: Lines, curve: Curve) -> np.ndarray:
    """The curve's numbers where its line goes: on a log axis what means zero is a mark at the foot instead."""
    return np.where(curve.zero & (panel.scale is Scale.LOG), np.nan, _on_axis(panel, curve.y))


def _shades(panel: Lines, curve: Curve, look: Look, axes: Axes, drawn: Drawn) -> None:
    for shade in curve.shades:
        low, high = shade.low, shade.high
        if panel.scale is Scale.LOG:  # a band that reaches down to zero reaches down to the foot of the axes
            low = np.where(np.isfinite(low) & (low <= 0), axes.get_ylim()[0], low)
        style: dict[str, Any] = {"color": look.colour, "alpha": shade.strength, "linewidth": 0}
        drawn.shades.append(
            axes.fill_between(curve.x, _on_axis(panel, low), _on_axis(panel, high), zorder=1.5, **style)
        )
        if shade.label:
            drawn.handles[shade.label] = Patch(label=shade.label, **style | _neutral(curve, look))


def _line(panel: Lines, curve: Curve, look: Look, index: int, axes: Axes, drawn: Drawn) -> None:
    y = _shown(panel, curve)
    marked = _marked(np.isfinite(y), index / max(len(panel.curves), 1), few=curve.look is None)
    size = float(np.clip(3.2 * linewidth() / 0.8, 2.5, 7))
    if len(marked) > 4 * MARKERS:  # points without a neighbour: as small as their number asks
        size = marker_size(panel, axes)
    style: dict[str, Any] = {
        "color": look.colour,
        "linestyle": "-" if curve.look is None else look.line,
        "linewidth": (1.1 if panel.size < 100 else 0.8) * linewidth() * WEIGHTS.get(curve.look, 1.0),
        "marker": look.marker or "none",
        "markersize": size,
        "markeredgecolor": "white",
        "markeredgewidth": 0.3,
    }
    drawn.curves += axes.plot(curve.x, y, markevery=marked, zorder=2.5 + 0.1 * index, **style)
    plain = {"marker": "none"} if curve.look is None else {}
    drawn.handles[curve.label] = Line2D([], [], label=curve.label, **style | plain | _neutral(curve, look))


def _neutral(curve: Curve, look: Look) -> dict[str, Any]:
    """A colour for the legend that stands for the hues of all signals, where a line has that of its signal."""
    return {"color": INK if curve.look is None else look.colour}


def _marked(there: np.ndarray, shift: float, *, few: bool) -> list[int]:
    """Which points carry a marker: a few along the line, and those with no neighbour, which no line would show.

    Args:
        there: Which points are drawn.
        shift: Where between two markers of the first line those of this line stand, from 0 to 1.
        few: Mark only what no line shows, where there is no other line to tell this one from.
    """
    drawn = np.flatnonzero(there)
    stride = max(1, -(-len(drawn) // MARKERS))
    alone = there & ~np.concatenate([[False], there[:-1]]) & ~np.concatenate([there[1:], [False]])
    along = [] if few else drawn[int(shift * stride) :: stride].tolist()
    return sorted({*along, *np.flatnonzero(alone).tolist()})


def _marks(panel: Lines, curve: Curve, look: Look, index: int, axes: Axes, drawn: Drawn) -> None:
    """Zeros of a log axis stand at its foot and non-finite layers at its top, each line's in a row of its own."""
    across = axes.get_xaxis_transform()
    size = float(np.clip(1.5 * marker_size(panel, axes), 1.5, 3.0))
    if panel.scale is Scale.LOG and (at_floor := curve.zero & np.isfinite(curve.y)).any():
        x = curve.x[at_floor]
        drawn.handles["zero (exact or to rounding)"] = Line2D(
            [], [], linestyle="none", label="zero (exact or to rounding)", **zero_mark(Look(INK, "", "", ""), 3.0)
        )
        drawn.limits += axes.plot(
            x,
            np.full(len(x), FLOOR + APART * index),
            linestyle="none",
            transform=across,
            zorder=5,
            **zero_mark(look, size),
        )
    if curve.nonfinite.any():
        there = np.isfinite(_on_axis(panel, curve.y))
        mark = nonfinite_mark(max(size, 2.5)) | {"markeredgecolor": look.colour, "markeredgewidth": 0.5}
        off, on = curve.nonfinite & ~there, curve.nonfinite & there
        if off.any():
            x = curve.x[off]
            height = np.full(len(x), CEILING - APART * index)
            drawn.nonfinite += axes.plot(x, height, linestyle="none", transform=across, zorder=5, **mark)
        if on.any():
            drawn.nonfinite += axes.plot(curve.x[on], curve.y[on], linestyle="none", zorder=5, **mark)


def _between(panel: Curves, axes: Axes, drawn: Drawn) -> None:
    """Shade what lies between two lines over the same layers; a zero has no place on a log axis, so nothing reaches it."""
    assert panel.between is not None
    one, other = (panel.curves[index] for index in panel.between)
    low, high = (_shown(panel, curve) for curve in (one, other))
    style: dict[str, Any] = {"color": look_of(panel, one).tint, "alpha": 0.55, "linewidth": 0}
    drawn.shades.append(axes.fill_between(one.x, low, high, zorder=1.2, **style))
    drawn.handles["deviation"] = Patch(label="deviation", **style)
