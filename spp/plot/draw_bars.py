"""Draw a distribution over signed powers of two onto one ``Axes``, with the limits one wants to see it against."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullLocator

from spp.plot.draw import Drawn, linewidth
from spp.plot.panels import Scale
from spp.plot.scales import decades
from spp.plot.shapes import Bars, Limit
from spp.plot.style import BAND, INK, PALETTE

FORMAT_LINES: dict[str, Any] = {
    "float16": "-",
    "bfloat16": (0, (6, 2)),
    "fp8-e4m3": (0, (1, 1.2)),
    "fp8-e5m2": (0, (4, 1.5, 1, 1.5)),
}
"""How the limits of each number format are drawn."""

ZERO_WIDTH, WIDTH = 0.9, 0.92
"""Width of the bar of exact zeros, and of the others, in powers of two."""


def draw_bars(panel: Bars, axes: Axes) -> Drawn:
    """Draw ``panel`` onto ``axes`` and return what was drawn."""
    drawn, look = Drawn(), PALETTE[panel.signal]
    axes.set_xlabel(panel.xlabel)
    axes.set_ylabel(panel.ylabel)
    if panel.message:
        axes.set_xticks([])
        axes.set_yticks([])
        drawn.message = axes.text(
            0.5, 0.5, panel.message, transform=axes.transAxes, ha="center", va="center", color=INK
        )
        drawn.message.set_in_layout(False)
        return drawn
    shown = panel.share[panel.share > 0]
    low, high = 0.0, 1.12 * float(shown.max())
    if panel.scale is Scale.LOG:
        axes.set_yscale("log")
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
    _range(panel, axes, drawn)
    for limit in panel.limits:
        if limit.kind == "format":
            _format(limit, axes, drawn)
    if (panel.share[panel.x == 0] > 0).any():
        drawn.handles["exact zeros"] = Patch(color=INK, label="exact zeros", linewidth=0)
    return drawn


def _range(panel: Bars, axes: Axes, drawn: Drawn) -> None:
    """Shade where the activation's values can lie."""
    ends = [limit for limit in panel.limits if limit.kind == "range"]
    if not ends:
        return
    first, last = sorted(limit.x for limit in ends)
    drawn.shades.append(axes.axvspan(first, last, color=BAND, linewidth=0, zorder=0))
    label = f"range of {ends[0].label}"
    drawn.handles[label] = Patch(color=BAND, label=label, linewidth=0)


def _format(limit: Limit, axes: Axes, drawn: Drawn) -> None:
    """A line where a number format ends; two that end at the same power stand side by side."""
    order = list(FORMAT_LINES).index(limit.label)
    style: dict[str, Any] = {"color": INK, "linewidth": 0.9 * linewidth(), "linestyle": FORMAT_LINES[limit.label]}
    beside = 0.1 * order * (1 if limit.x > 0 else -1)
    drawn.limits.append(axes.axvline(limit.x + beside, zorder=3, **style))
    label = f"ends of {limit.label}"
    drawn.handles[label] = Line2D([], [], label=label, **style)
