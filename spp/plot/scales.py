"""The y axis of one panel: its scale, limits and ticks, from the numbers that are shown."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from spp.plot.panels import BOUNDED, SMALLEST, Panel, Scale
from spp.plot.shapes import Lines, Outcomes


def scale_axis(panel: Panel | Lines, axes: Axes) -> None:
    """Set scale, limits and ticks of the y axis from the numbers of the panel."""
    shown = panel.y[panel.shown]
    if panel.scale is Scale.LOG:
        axes.set_yscale("log")
        low, high = np.log10(shown.min()), np.log10(shown.max())
        pad = 0.05 * (high - low)
        below = 0.12 * (high - low) if panel.zero.any() else pad
        above = 0.12 * (high - low) if not np.isfinite(panel.y).all() else pad
        axes.set_ylim(10 ** max(low - below, -307.0), 10 ** min(high + above, 308.0))
        ticks = decades(*axes.get_ylim())
        if len(ticks) < 2:  # less than two decades: the numbers between are named too
            ticks = [digit * 10.0**power for power in range(-308, 308) for digit in (1, 2, 5)]
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ticks = [tick for tick in ticks if axes.get_ylim()[0] <= tick <= axes.get_ylim()[1]]
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        axes.yaxis.set_minor_locator(
            LogLocator(subs=tuple(range(2, 10)), numticks=50) if high - low < 5 else NullLocator()
        )
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif panel.scale is Scale.SYMLOG:
        axes.set_yscale("symlog", linthresh=panel.threshold)
        axes.yaxis.set_major_locator(FixedLocator(symlog_ticks(panel.threshold, shown)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.margins(y=0.08)
    else:
        _linear(panel, axes, shown)


def decades(low: float, high: float) -> list[float]:
    """Return at most five powers of ten from ``low`` to ``high``, an equal and round number of decades apart."""
    first, last = int(np.ceil(np.log10(low))), int(np.floor(np.log10(high)))
    step = next(step for step in (1, 2, 3, 5, 10, 20, 25, 50, 100, 200) if last // step - -(-first // step) < 5)
    return [10.0**power for power in range(-(-first // step) * step, last + 1, step)]


def _linear(panel: Panel | Lines, axes: Axes, shown: np.ndarray) -> None:
    if isinstance(panel, Outcomes):
        low, high = _around(shown)
    else:
        low, high = (
            (0.0, 1.0)
            if panel.statistic in BOUNDED
            else (min(shown.min(initial=0.0), 0.0), max(shown.max(initial=0.0), 0.0))
        )
        if high - low < SMALLEST:
            high = 1.0
        pad = 0.07 * (high - low)
        low, high = low - (pad if low < 0 else 0.5 * pad), high + (pad if high > 0 else 0.5 * pad)
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6 if isinstance(panel, Outcomes) else 4, steps=[1, 2, 2.5, 5, 10]))
    order = int(np.floor(np.log10(max(abs(low), abs(high)))))
    if not -3 < order < 4:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 10.0**order:g}".replace("-", "−")))
        axes.set_ylabel(f"{panel.ylabel} [$10^{{{order}}}$]")


def _around(shown: np.ndarray) -> tuple[float, float]:
    """Limits close around results, which are compared with each other and not with zero."""
    low, high = float(shown.min()), float(shown.max())
    pad = 0.07 * (high - low) or 0.05 * abs(high) or 0.5
    return low - pad, high + pad


def symlog_ticks(threshold: float, shown: np.ndarray) -> list[float]:
    """Zero and at most two decades on either side, far enough from zero and from each other to be read."""
    first = int(np.log10(threshold))
    decades = {
        sign: int(np.floor(np.log10(extreme)))
        for sign, extreme in ((1.0, shown.max()), (-1.0, -shown.min()))
        if extreme > threshold
    }
    length = sum(last - first + 1 for last in decades.values())
    ticks = [0.0]
    for sign, last in decades.items():
        middle = (first + last) // 2
        powers = [power for power in (last, middle) if power - first + 1 >= 0.15 * length]
        ticks += [sign * 10.0**power for power in powers[: 2 if last - middle >= 0.15 * length else 1]]
    return sorted(ticks)
