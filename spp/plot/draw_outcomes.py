"""Draw one panel of results onto one ``Axes``: lines over a column of a table, with their bands and a level to compare with."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from spp.plot.draw import Drawn, labelled, level, linewidth
from spp.plot.draw_curves import draw_lines, look_of
from spp.plot.scales import scale_axis
from spp.plot.shapes import Axis, Curve, Outcomes

MARGIN = 0.05
"""Share of the x axis that is left free on either side."""


def draw_outcomes(panel: Outcomes, axes: Axes) -> Drawn:
    """Draw ``panel`` onto ``axes`` and return what was drawn."""
    _x_axis(panel, axes)
    drawn = labelled(panel, axes)
    if panel.message:
        return drawn
    scale_axis(panel, axes)
    draw_lines(panel, axes, drawn)
    for curve in panel.curves:
        _alone(panel, curve, axes, drawn)
    if panel.baseline is not None:
        drawn.zero_line = look = level(axes, panel.baseline)
        drawn.handles[panel.level] = Line2D(
            [], [], label=panel.level, color=look.get_color(), linestyle=(0, (1, 2)), linewidth=look.get_linewidth()
        )
    return drawn


def _x_axis(panel: Outcomes, axes: Axes) -> None:
    places = np.array([place for place, _ in panel.places])
    if panel.axis is Axis.CATEGORY:
        axes.set_xlim(-0.4, len(places) - 0.6)
        return
    low, high = float(places[0]), float(places[-1])
    if panel.axis is Axis.LOG:
        axes.set_xscale("log")
        pad = (high / low) ** MARGIN if high > low else 2.0
        axes.set_xlim(low / pad, high * pad)
    else:
        pad = MARGIN * (high - low) or 0.5
        axes.set_xlim(low - pad, high + pad)


def _alone(panel: Outcomes, curve: Curve, axes: Axes, drawn: Drawn) -> None:
    """The range of a point without a neighbour, which a band would not show, as a bar."""
    for shade in curve.shades:
        there = np.isfinite(shade.low) & np.isfinite(shade.high)
        before, after = np.concatenate([[False], there[:-1]]), np.concatenate([there[1:], [False]])
        alone = there & ~before & ~after
        if alone.any():
            colour = look_of(panel, curve).colour
            drawn.shades.append(
                axes.vlines(
                    curve.x[alone],
                    shade.low[alone],
                    shade.high[alone],
                    color=colour,
                    alpha=2 * shade.strength,
                    linewidth=3 * linewidth(),
                    zorder=1.6,
                )
            )
