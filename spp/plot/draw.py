"""Draw one ``Panel`` onto one ``Axes``: nothing else is touched, and every artist is returned.

Sizes and colours come from the parameters that hold while drawing (``style.applied``) and from the palette.
"""

from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from spp.plot.panels import SMALLEST, BoolArray, Panel, Scale
from spp.plot.scales import scale_axis
from spp.plot.shapes import AnyPanel, Sheet
from spp.plot.stages import Family
from spp.plot.style import ALARM, BAND, FAINT, FAMILY_MARKERS, INK, PALETTE, Look

FLOOR, CEILING = 0.04, 0.96
"""Height, as a share of the axes, of marks for zeros on a log axis and for numbers that are not finite."""


@dataclass(slots=True)
class Drawn:
    """The artists of one panel; what a panel has no use for is None or empty."""

    line: Line2D | None = None
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
    handles: dict[str, Artist] = field(default_factory=dict)
    """What the legend shows for this panel beside families and marks, by label."""

    def artists(self) -> list[Artist]:
        """Return all of them in one list."""
        single = [self.line, self.zeros, self.transitions, self.zero_line, self.message, self.mesh]
        return [
            *self.bands,
            *self.points.values(),
            *self.nonfinite,
            *self.curves,
            *self.shades,
            *self.bars,
            *self.limits,
            *(artist for artist in single if artist is not None),
        ]


def draw_panel(panel: Panel, axes: Axes) -> Drawn:
    """Draw ``panel`` onto ``axes`` and return what was drawn.

    Labels of the x axis and names of stages depend on the final size; ``fit`` adds them.
    """
    drawn = begun(panel, axes)
    look = PALETTE[panel.signal]
    if panel.message:
        return drawn
    scale_axis(panel, axes)
    if panel.scale is not Scale.LOG:
        drawn.zero_line = level(axes, 0.0)
    by_family = set(panel.families) != {Family.OTHER}
    size = marker_size(panel, axes)
    drawn.line = _line(panel, axes, look, background=by_family)
    if by_family:
        drawn.points = {
            family: _points(panel, axes, look, family, size) for family in Family if family in _shown_families(panel)
        }
    else:
        drawn.line.set(marker=look.marker, markersize=size, markeredgewidth=0)
    _marks(panel, axes, drawn, max(size, 2.5))
    return drawn


def begun(panel: AnyPanel, axes: Axes) -> Drawn:
    """Set up ``axes`` over layers: limits and labels, bands of stages, and the message of a panel without data."""
    axes.set_xlim(-0.5 - 0.01 * panel.size, panel.size - 0.5 + 0.01 * panel.size)
    drawn = labelled(panel, axes)
    drawn.bands = _bands(panel, axes)
    return drawn


def labelled(panel: AnyPanel, axes: Axes) -> Drawn:
    """Give ``axes`` its labels, and the message of a panel without data."""
    drawn = Drawn()
    axes.set_xlabel(panel.xlabel)
    axes.set_ylabel(panel.ylabel)
    if panel.message:
        axes.set_yticks([])
        drawn.message = axes.text(
            0.5, 0.5, panel.message, transform=axes.transAxes, ha="center", va="center", color=INK
        )
        drawn.message.set_in_layout(False)
    return drawn


def level(axes: Axes, height: float) -> Line2D:
    """A thin line to compare with, as at zero."""
    return axes.axhline(height, color=FAINT, linewidth=0.6 * linewidth(), linestyle=(0, (1, 2)), zorder=1)


def linewidth() -> float:
    """Width of lines in the style that holds."""
    return float(matplotlib.rcParams["lines.linewidth"])


def marker_size(panel: Panel | Sheet, axes: Axes) -> float:
    """Diameter in points: as large as neighbours allow, from a dot to half a letter."""
    figure = axes.get_figure(root=True)
    width = 72 * figure.get_size_inches()[0] * axes.get_position().width if figure is not None else 200.0
    return float(np.clip(1.1 * width / max(panel.size, 1), 1.2, 0.42 * matplotlib.rcParams["font.size"]))


def _bands(panel: AnyPanel, axes: Axes) -> list[Rectangle]:
    return [
        axes.axvspan(span.start - 0.5, span.stop - 0.5, color=BAND, linewidth=0, zorder=0)
        for index, span in enumerate(panel.stages)
        if index % 2
    ]


def _line(panel: Panel, axes: Axes, look: Look, *, background: bool) -> Line2D:
    """Join the first tensor of each position; the line breaks where none is finite, and on a log axis at exact zeros."""
    keep = panel.first & (panel.shown | ~panel.zero | (np.abs(panel.y) < SMALLEST))
    y = np.where(panel.shown, panel.y, np.nan)[keep]
    style = "-" if background else look.line
    (line,) = axes.plot(
        panel.x[keep],
        y,
        linestyle=style,
        color=look.tint if background else look.colour,
        linewidth=linewidth() * (0.6 if background else 1.2),
        zorder=2,
    )
    return line


def _shown_families(panel: Panel) -> set[Family]:
    return {family for family, shown in zip(panel.families, panel.shown, strict=True) if shown}


def _points(panel: Panel, axes: Axes, look: Look, family: Family, size: float) -> Line2D:
    member = panel.shown & np.array([other == family for other in panel.families], dtype=np.bool_)
    (points,) = axes.plot(panel.x[member], panel.y[member], linestyle="none", zorder=3, **marker_of(family, look, size))
    return points


def marker_of(family: Family, look: Look, size: float) -> dict[str, Any]:
    """Return the points of a family as properties of a line: filled, hollow or pale, for where shapes are too small to read."""
    face = {Family.WEIGHTED: look.colour, Family.NORM: "white", Family.ACTIVATION: look.tint}.get(family, look.tint)
    return {
        "marker": FAMILY_MARKERS[family],
        "markersize": size,
        "markerfacecolor": face,
        "markeredgecolor": look.colour,
        "markeredgewidth": min(0.7, 0.18 * size),
    }


def _marks(panel: Panel, axes: Axes, drawn: Drawn, size: float) -> None:
    across = axes.get_xaxis_transform()  # x in data, y as a share of the axes
    off_scale = panel.nonfinite & ~np.isfinite(panel.y)
    in_place = panel.nonfinite & panel.shown
    at_floor = (
        (panel.zero & ~panel.shown & np.isfinite(panel.y)) if panel.scale is Scale.LOG else np.zeros_like(panel.zero)
    )
    if at_floor.any():
        drawn.zeros = _row(panel, axes, at_floor, FLOOR, zero_mark(PALETTE[panel.signal], size))
    for which, height in ((off_scale, CEILING), (at_floor & panel.nonfinite, FLOOR)):
        if which.any():
            drawn.nonfinite.append(_row(panel, axes, which, height, nonfinite_mark(size)))
    if in_place.any():
        drawn.nonfinite += axes.plot(
            panel.x[in_place], panel.y[in_place], linestyle="none", zorder=5, **nonfinite_mark(size)
        )
    if panel.transitions:
        x = np.array(panel.transitions)
        (drawn.transitions,) = axes.plot(
            x,
            np.full(len(x), 0.0),
            linestyle="none",
            transform=across,
            clip_on=False,
            zorder=4,
            **transition_mark(size),
        )


def _row(panel: Panel, axes: Axes, which: BoolArray, height: float, look: dict[str, Any]) -> Line2D:
    x = panel.x[which]
    (marks,) = axes.plot(
        x, np.full(len(x), height), linestyle="none", transform=axes.get_xaxis_transform(), zorder=5, **look
    )
    return marks


def zero_mark(look: Look, size: float) -> dict[str, Any]:
    """Return the look of a zero at the floor of a log axis."""
    return {
        "marker": "v",
        "markersize": size,
        "markerfacecolor": "white",
        "markeredgecolor": look.colour,
        "markeredgewidth": 0.5,
    }


def nonfinite_mark(size: float) -> dict[str, Any]:
    """Return the look of a layer with NaN or infinite values."""
    return {
        "marker": "X",
        "markersize": 1.3 * size,
        "markerfacecolor": ALARM,
        "markeredgecolor": "white",
        "markeredgewidth": 0.3,
    }


def transition_mark(size: float) -> dict[str, Any]:
    """Return the look of a transition block's mark, at the foot of the axes."""
    return {
        "marker": "d",
        "markersize": 1.2 * size,
        "markerfacecolor": INK,
        "markeredgecolor": INK,
        "markeredgewidth": 0,
    }
