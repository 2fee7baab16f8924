"""How channels differ within each layer: 10, 50 and 90 % of their means and variances over depth."""

from __future__ import annotations

import numpy as np
import pandas as pd

from spp.errors import InputError
from spp.frame.schema import CHANNEL_STATISTICS, ChannelColumn, Column
from spp.plot.captions import by_depth
from spp.plot.kinds import Drawing, Request, figure
from spp.plot.panels import Curve, FloatArray, Scale, Shade, zeros
from spp.plot.series import Series, align, as_signals, at_step, chosen, innermost, layer_curves, series, why_missing

TITLES = {"mean": "channel mean / rms", "var": "channel variance"}
KEY = [str(column) for column in (Column.NAME, Column.CALL, Column.OUTPUT, Column.SIGNAL)]
BANDS = (
    (ChannelColumn.MIN, ChannelColumn.MAX, "all channels", 0.16),
    (ChannelColumn.P10, ChannelColumn.P90, "10 to 90 % of the channels", 0.4),
)
MEDIAN = "median channel"


@figure("channels")
def channels(request: Request) -> Drawing:
    """The spread over channels: 10, 50 and 90 % of their means and variances over depth.

    A channel's mean is drawn as a share of the tensor's root mean square: from -1 to 1 or so, whatever the size of the
    signal. Takes ``signals`` (activations and gradients when left out), ``statistics`` (``mean`` and ``var`` of a channel;
    both when left out) and ``step``.
    """
    signals = as_signals(request.signals)
    statistics = chosen(request.statistics, CHANNEL_STATISTICS, CHANNEL_STATISTICS, "statistic")
    if request.channels.empty:
        raise InputError(
            "the channels figure needs the spread over channels",
            received="a trace without it",
            where="kind",
            remedy="Trace with channels=True.",
        )
    rows, step = request.at_step()
    leaves = innermost(rows, "the channels figure")
    axis = align([leaves])
    spread, _ = at_step(request.channels, step)
    grid = []
    for signal in signals:
        found = series(leaves, signal, Column.MEAN_SQUARE, axis)
        reason = "" if len(found.rows) else why_missing(rows, signal)
        grid.append(
            tuple(
                layer_curves(
                    (_curve(found, spread[spread[ChannelColumn.STATISTIC] == name], name),),
                    signal,
                    f"channel_{name}",
                    axis.x_axis,
                    what=TITLES[name],
                    scale=(Scale.LINEAR, 0.0) if name == Column.MEAN else None,
                    title=TITLES[name],
                    message=reason,
                )
                for name in statistics
            )
        )
    says = f"{by_depth(request.run, tuple(grid))}: median over the channels, 10 to 90 % of them, and all of them"
    return Drawing(tuple(grid), step, says)


def _curve(found: Series, spread: pd.DataFrame, statistic: str) -> Curve:
    mean_square = found.curve.y
    # signals are categories in both tables, not always the same ones, on which pandas would refuse to join
    texts = {KEY[-1]: "str"}
    table = spread.astype(texts).set_index(KEY)
    mine = table.reindex(pd.MultiIndex.from_frame(found.rows[KEY].astype(texts)))

    def numbers(column: ChannelColumn) -> FloatArray:
        """A column, with what is rounding made zero; means in units of the root mean square."""
        y = mine[str(column)].to_numpy(dtype=np.float64)
        squared = y**2 if statistic == Column.MEAN else y
        y = np.where(zeros(squared, mean_square), 0.0, y)
        if statistic != Column.MEAN:
            return y
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(mean_square > 0, y / np.sqrt(mean_square), np.where(np.isfinite(y), 0.0, np.nan))

    return Curve.of(
        MEDIAN,
        found.curve.x,
        numbers(ChannelColumn.P50),
        nonfinite=found.rows[Column.NONFINITE].to_numpy() > 0,
        shades=tuple(Shade(numbers(low), numbers(high), label, strength) for low, high, label, strength in BANDS),
        look=None,
        names=found.curve.names,
    )
