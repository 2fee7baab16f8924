"""Draw numbers over layers and steps as colours, and a distribution over signed powers of two as bars."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm, Normalize, SymLogNorm
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from spp.plot.draw import (
    NONFINITE,
    ZERO,
    Drawn,
    begun,
    decades,
    labelled,
    labels_that_fit,
    linewidth,
    log_ticks,
    page_of,
    ringed,
    symlog_ticks,
)
from spp.plot.draw import draw_panel as draw_panel
from spp.plot.panels import Bars, BoolArray, FloatArray, Heat, Limit, Scale
from spp.plot.style import ALARM, BAND, INK, PALETTE, literal

MISSING, GREY = "#FFFFFF", "#B9B9B9"
"""No such layer at that step; and a number that is zero, which a log scale has no colour for."""

MOST_CELLS = 20_000
"""More cells than this are drawn as one picture, not each as a shape of its own: files stay small and open quickly."""

LEAST = 1.1
"""Factor on either side of the middle that colours tell at least: a network that stays as it is has no colours."""

MOST_STEPS = 7
"""Steps that are named along the y axis."""

FORMAT_LINES: dict[str, Any] = {
    "float16": "-",
    "bfloat16": (0, (6, 2)),
    "fp8-e4m3": (0, (1, 1.2)),
    "fp8-e5m2": (0, (4, 1.5, 1, 1.5)),
}
"""How the limits of each number format are drawn."""

ZERO_WIDTH, WIDTH = 0.9, 0.92
"""Width of the bar of exact zeros, and of the others, in powers of two."""


@draw_panel.register
def _draw_heat(panel: Heat, axes: Axes) -> Drawn:
    """Draw cells by their colour; the colour bar takes its place from ``axes``."""
    drawn = begun(panel, axes)
    # cells hide the bands of the stages; white lines between them take their place
    for band in drawn.bands:
        band.remove()
    drawn.bands.clear()
    rows = len(panel.steps)
    axes.set_ylim(-0.5, rows - 0.5)
    if panel.message:
        return drawn
    values = np.where(panel.shown, panel.values, np.nan)
    two_ways = panel.scale is Scale.SYMLOG or panel.middle is not None
    palette = matplotlib.colormaps["PuOr" if two_ways else "cividis"].with_extremes(bad=MISSING)
    drawn.mesh = _cells(axes, np.ma.masked_invalid(values), palette, _norm(panel, values))
    for which, colour, label in (
        (panel.zero & np.isfinite(panel.values) & ~panel.shown, GREY, ZERO),
        (panel.nonfinite, ALARM, NONFINITE),
    ):
        if which.any():
            drawn.limits.append(_patches(axes, which, colour))
            drawn.handles[label] = Patch(color=colour, label=label, linewidth=0)
    for span in panel.stages[1:]:
        axes.axvline(span.start - 0.5, color="white", linewidth=0.7 * linewidth(), zorder=3)
    for mark in panel.marks:
        drawn.marks += ringed(mark, axes)
    _name_steps(panel, axes)
    _bar(panel, axes, drawn.mesh, values)
    return drawn


def _cells(axes: Axes, values: Any, palette: Any, norm: Normalize) -> Any:
    rows, columns = values.shape
    common: dict[str, Any] = {"cmap": palette, "norm": norm, "zorder": 1}
    if values.size > MOST_CELLS:
        # viewers of vector formats smooth an interpolated picture, which would mix a layer with its neighbours
        extent = (-0.5, columns - 0.5, -0.5, rows - 0.5)
        return axes.imshow(values, origin="lower", aspect="auto", interpolation="none", extent=extent, **common)
    edges = np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5
    # edges of the faces' own colour, else PDF viewers show hairlines between neighbouring cells
    return axes.pcolormesh(*edges, values, edgecolors="face", linewidth=0.15, antialiased=True, **common)


def _patches(axes: Axes, which: BoolArray, colour: str) -> Any:
    """Colour some cells, whatever their number."""
    one = np.ma.masked_where(~which, np.ones(which.shape))
    return _cells(axes, one, ListedColormap([colour]).with_extremes(bad=(0, 0, 0, 0)), Normalize(0, 2))


def _norm(panel: Heat, values: FloatArray) -> Normalize:
    shown = values[np.isfinite(values)]
    if not shown.size:
        return Normalize(0, 1)
    low, high = float(shown.min()), float(shown.max())
    if panel.middle is not None:
        far = max(high / panel.middle, panel.middle / low, LEAST)
        return LogNorm(panel.middle / far, panel.middle * far)
    if panel.scale is Scale.LOG:
        return LogNorm(low, high)
    if panel.scale is Scale.SYMLOG:
        # symmetric, so that zero has the middle colour
        end = max(-low, high)
        return SymLogNorm(panel.threshold, vmin=-end, vmax=end)
    return Normalize(min(low, 0.0), max(high, 0.0) or 1.0)


def _name_steps(panel: Heat, axes: Axes) -> None:
    last = len(panel.steps) - 1
    count = min(labels_that_fit(axes, MOST_STEPS), last + 1)
    places = sorted({round(last * part / max(count - 1, 1)) for part in range(count)})
    axes.set_yticks(places, [str(panel.steps[place]) for place in places])


def _bar(panel: Heat, axes: Axes, mesh: Any, values: FloatArray) -> None:
    bar = page_of(axes).colorbar(mesh, ax=axes, pad=0.015, fraction=0.06, aspect=14)
    bar.set_label(literal(panel.colour_label))
    bar.outline.set_linewidth(matplotlib.rcParams["axes.linewidth"])
    shown = values[np.isfinite(values)]
    if not shown.size:
        bar.set_ticks([])
        return
    axis = bar.ax.yaxis
    if panel.scale is Scale.LOG:
        low, high = float(mesh.norm.vmin), float(mesh.norm.vmax)
        log_ticks(axis, low, high, form=".3g")
        if panel.middle is not None and high < 2 * panel.middle:
            # one tick tells no scale
            axis.set_major_locator(FixedLocator([low, panel.middle, high]))
        axis.set_minor_locator(NullLocator())
    elif panel.scale is Scale.SYMLOG:
        axis.set_major_locator(FixedLocator(symlog_ticks(panel.threshold, shown)))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(nbins=4))


@draw_panel.register
def _draw_bars(panel: Bars, axes: Axes) -> Drawn:
    drawn, look = labelled(panel, axes), PALETTE[panel.signal]
    if panel.message:
        axes.set_xticks([])
        return drawn
    shown = panel.share[panel.share > 0]
    low, high = 0.0, 1.12 * float(shown.max())
    if panel.scale is Scale.LOG:
        axes.set_yscale("log")
        # a bar on a log axis needs a foot: half of the smallest one
        low, high = float(shown.min()) / 2, 3 * float(shown.max())
        axes.yaxis.set_major_locator(FixedLocator(decades(low, high)))
        axes.yaxis.set_minor_locator(NullLocator())
    bars = axes.bar(
        panel.x,
        np.maximum(panel.share - low, 0.0),
        width=np.where(panel.x == 0, ZERO_WIDTH, WIDTH),
        bottom=low,
        color=[INK if x == 0 else look.colour for x in panel.x],
        zorder=2,
    )
    drawn.bars = list(bars)
    axes.set_ylim(low, high)
    places = [place for place, _ in panel.marks] + [limit.x for limit in panel.limits]
    axes.set_xlim(min([*places, *(panel.x - 0.5)]) - 0.6, max([*places, *(panel.x + 0.5)]) + 0.6)
    axes.set_xticks([place for place, _ in panel.marks], [text for _, text in panel.marks])
    if ends := sorted(limit.x for limit in panel.limits if limit.kind == "range"):
        (label,) = {f"range of {limit.label}" for limit in panel.limits if limit.kind == "range"}
        drawn.shades.append(axes.axvspan(ends[0], ends[-1], color=BAND, linewidth=0, zorder=0))
        drawn.handles[label] = Patch(color=BAND, label=label, linewidth=0)
    for limit in panel.limits:
        if limit.kind == "format":
            _format(limit, axes, drawn)
    if (panel.share[panel.x == 0] > 0).any():
        drawn.handles["exact zeros"] = Patch(color=INK, label="exact zeros", linewidth=0)
    return drawn


def _format(limit: Limit, axes: Axes, drawn: Drawn) -> None:
    """A line where a number format ends; two that end at the same power stand side by side."""
    order = list(FORMAT_LINES).index(limit.label)
    style: dict[str, Any] = {"color": INK, "linewidth": 0.9 * linewidth(), "linestyle": FORMAT_LINES[limit.label]}
    beside = 0.1 * order * (1 if limit.x > 0 else -1)
    drawn.limits.append(axes.axvline(limit.x + beside, zorder=3, **style))
    label = f"ends of {limit.label}"
    drawn.handles[label] = Line2D([], [], label=label, **style)
