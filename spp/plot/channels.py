"""How channels differ within each layer: 10, 50 and 90 % of their means and variances over depth."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from spp.errors import InputError, UnknownNameError
from spp.frame.schema import CHANNEL_STATISTICS, ChannelColumn, Column
from spp.plot.align import align
from spp.plot.facts import Facts, by_depth
from spp.plot.layers import innermost, rows_of, why_missing
from spp.plot.panels import FloatArray, Scale, as_signals, at_step, ylabel, zeros
from spp.plot.shapes import AnyGrid, Curve, Curves, Shade, common_scale
from spp.vocabulary import Signal

ROWS = (Signal.ACTIVATION, Signal.GRADIENT)
TITLES = {"mean": "channel mean / rms", "var": "channel variance"}
KEY = [Column.NAME, Column.CALL, Column.OUTPUT, Column.SIGNAL]
BANDS = (
    (ChannelColumn.MIN, ChannelColumn.MAX, "all channels", 0.16),
    (ChannelColumn.P10, ChannelColumn.P90, "10 to 90 % of the channels", 0.4),
)
MEDIAN = "median channel"


def channel_panels(
    frame: pd.DataFrame,
    channels: pd.DataFrame,
    *,
    signals: Sequence[str] | str | None = None,
    statistics: Sequence[str] | str | None = None,
    step: int | None = None,
) -> tuple[AnyGrid, int]:
    """Make the panels of the ``channels`` figure, and say which step they show.

    A channel's mean is drawn as a share of the tensor's root mean square: from -1 to 1 or so, whatever the size of the signal.

    Args:
        frame: Table with the columns of ``spp.frame.schema.COLUMNS``.
        channels: Table with the columns of ``spp.frame.schema.CHANNEL_COLUMNS``.
        signals: Rows of the figure; activations and gradients when left out.
        statistics: ``mean`` and ``var`` of a channel; both when left out.
        step: Step to draw; the last one when left out.

    Raises:
        InputError: The trace kept no channels.
        UnknownNameError: A signal or statistic that does not exist.
    """
    rows_drawn = as_signals(signals, ROWS, tuple(Signal))
    chosen = (
        CHANNEL_STATISTICS
        if statistics is None
        else (statistics,)
        if isinstance(statistics, str)
        else tuple(statistics)
    )
    for name in chosen:
        if name not in CHANNEL_STATISTICS:
            raise UnknownNameError("statistic", name, CHANNEL_STATISTICS, where="statistics")
    if channels.empty:
        raise InputError(
            "the channels figure needs the spread over channels",
            received="a trace without it",
            where="kind",
            remedy="Trace with channels=True.",
        )
    rows, step = at_step(frame, Column.STEP, step)
    leaves = innermost(rows)
    axis = align([leaves])
    places = axis.places[0]
    spread, _ = at_step(channels, ChannelColumn.STEP, step)
    grid = []
    for signal in rows_drawn:
        drawn = rows_of(leaves, signal).drop_duplicates(Column.DEPTH)
        line = []
        for statistic in chosen:
            mine = spread[spread[ChannelColumn.STATISTIC] == statistic].set_index(list(map(str, KEY)))
            keys = pd.MultiIndex.from_frame(drawn[list(map(str, KEY))].astype({str(Column.SIGNAL): str}))
            mine.index = mine.index.set_levels(mine.index.levels[3].astype(str), level=3)  # type: ignore[attr-defined]
            found = mine.reindex(keys)
            x = np.array([places[name, int(call)] for name, call, _, _ in keys], dtype=np.float64)
            curve = _curve(x, found, drawn, statistic, axis.labels)
            scale, threshold = common_scale([curve]) if statistic == "var" else (Scale.LINEAR, 0.0)
            line.append(
                Curves(
                    signal=signal,
                    statistic=f"channel_{statistic}",
                    title=TITLES[statistic],
                    xlabel=axis.xlabel,
                    ylabel=ylabel(TITLES[statistic], signal, scale),
                    size=axis.size,
                    stages=axis.stages,
                    ticks=axis.ticks,
                    message="" if len(drawn) else why_missing(rows, signal, None),
                    curves=(curve,),
                    scale=scale,
                    threshold=threshold,
                )
            )
        grid.append(tuple(line))
    return tuple(grid), step


def phrase(run: Facts, grid: AnyGrid) -> str:
    """Return what the caption says is drawn."""
    return f"{by_depth(run, grid, 'channels')}: median over the channels, 10 to 90 % of them, and all of them"


def _curve(x: FloatArray, found: pd.DataFrame, drawn: pd.DataFrame, statistic: str, labels: Sequence[str]) -> Curve:
    mean_square = drawn[Column.MEAN_SQUARE].to_numpy(dtype=np.float64)

    def numbers(column: ChannelColumn) -> FloatArray:
        """A column, with what is rounding made zero; means in units of the root mean square."""
        y = found[str(column)].to_numpy(dtype=np.float64)
        squared = y**2 if statistic == Column.MEAN else y
        y = np.where(zeros(squared, mean_square), 0.0, y)
        if statistic != Column.MEAN:
            return y
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(mean_square > 0, y / np.sqrt(mean_square), np.where(np.isfinite(y), 0.0, np.nan))

    shades = tuple(Shade(numbers(low), numbers(high), label, strength) for low, high, label, strength in BANDS)
    bad = drawn[Column.NONFINITE].to_numpy() > 0
    return Curve.of(
        MEDIAN,
        x,
        numbers(ChannelColumn.P50),
        nonfinite=bad,
        shades=shades,
        look=None,
        names=tuple(labels[int(place)] for place in x),
    )
