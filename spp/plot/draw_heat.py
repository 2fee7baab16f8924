"""Draw numbers over layers and steps as colours, with a colour bar; what has no colour is told apart by sight."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm, Normalize, SymLogNorm
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from spp.plot.draw import Drawn, begun, linewidth
from spp.plot.panels import BoolArray, Scale
from spp.plot.scales import decades, symlog_ticks
from spp.plot.shapes import Heat
from spp.plot.style import ALARM

MISSING, ZERO = "#FFFFFF", "#B9B9B9"
"""No such layer at that step; and a number that is zero, which a log scale has no colour for."""

MOST_CELLS = 20_000
"""More cells than this are drawn as one picture, not each as a shape of its own: files stay small and open quickly."""

MOST_STEPS = 7
"""Steps that are named along the y axis."""


def draw_heat(panel: Heat, axes: Axes) -> Drawn:
    """Draw ``panel`` onto ``axes`` and return what was drawn; the colour bar takes its place from ``axes``."""
    drawn = begun(panel, axes)
    for band in drawn.bands:
        band.remove()
    drawn.bands.clear()
    rows = len(panel.steps)
    axes.set_ylim(-0.5, rows - 0.5)
    if panel.message:
        return drawn
    values = np.where(panel.shown, panel.values, np.nan)
    palette = matplotlib.colormaps["PuOr" if panel.scale is Scale.SYMLOG else "cividis"].with_extremes(bad=MISSING)
    drawn.mesh = _cells(axes, np.ma.masked_invalid(values), palette, _norm(panel, values))
    for which, colour, label in (
        (panel.zero & np.isfinite(panel.values) & ~panel.shown, ZERO, "zero (exact or to rounding)"),
        (panel.nonfinite, ALARM, "non-finite values"),
    ):
        if which.any():
            drawn.limits.append(_patches(axes, which, colour))
            drawn.handles[label] = Patch(color=colour, label=label, linewidth=0)
    for span in panel.stages[1:]:
        axes.axvline(span.start - 0.5, color="white", linewidth=0.7 * linewidth(), zorder=3)
    _name_steps(panel, axes)
    _bar(panel, axes, drawn.mesh, values)
    return drawn


def _cells(axes: Axes, values: Any, palette: Any, norm: Normalize) -> Any:
    rows, columns = values.shape
    if values.size > MOST_CELLS:
        extent = (-0.5, columns - 0.5, -0.5, rows - 0.5)
        return axes.imshow(
            values,
            cmap=palette,
            norm=norm,
            origin="lower",
            aspect="auto",
            interpolation="none",
            extent=extent,
            zorder=1,
        )
    edges = np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5
    return axes.pcolormesh(
        *edges, values, cmap=palette, norm=norm, edgecolors="face", linewidth=0.15, antialiased=True, zorder=1
    )


def _patches(axes: Axes, which: BoolArray, colour: str) -> Any:
    """Colour some cells, whatever their number."""
    one = np.ma.masked_where(~which, np.ones(which.shape))
    return _cells(axes, one, ListedColormap([colour]).with_extremes(bad=(0, 0, 0, 0)), Normalize(0, 2))


def _norm(panel: Heat, values: np.ndarray) -> Normalize:
    shown = values[np.isfinite(values)]
    if not shown.size:
        return Normalize(0, 1)
    low, high = float(shown.min()), float(shown.max())
    if panel.scale is Scale.LOG:
        return LogNorm(low, high)
    if panel.scale is Scale.SYMLOG:
        end = max(-low, high)
        return SymLogNorm(panel.threshold, vmin=-end, vmax=end)
    return Normalize(min(low, 0.0), max(high, 0.0) or 1.0)


def _name_steps(panel: Heat, axes: Axes) -> None:
    last = len(panel.steps) - 1
    count = min(MOST_STEPS, last + 1)
    places = sorted({round(last * part / max(count - 1, 1)) for part in range(count)})
    axes.set_yticks(places, [str(panel.steps[place]) for place in places])


def _bar(panel: Heat, axes: Axes, mesh: Any, values: np.ndarray) -> None:
    figure = axes.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(mesh, ax=axes, pad=0.015, fraction=0.06, aspect=14)
    bar.set_label(panel.colour_label)
    bar.outline.set_linewidth(matplotlib.rcParams["axes.linewidth"])
    shown = values[np.isfinite(values)]
    if not shown.size:
        bar.set_ticks([])
        return
    axis = bar.ax.yaxis
    if panel.scale is Scale.LOG:
        low, high = float(shown.min()), float(shown.max())
        ticks = decades(low, high)
        if len(ticks) < 2:
            ticks = _ones_twos_fives(low, high) or [low, high]
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_minor_locator(NullLocator())
    elif panel.scale is Scale.SYMLOG:
        axis.set_major_locator(FixedLocator(symlog_ticks(panel.threshold, shown)))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(nbins=4))


def _ones_twos_fives(low: float, high: float) -> list[float]:
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    found = [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
    return [tick for tick in found if low <= tick <= high]
