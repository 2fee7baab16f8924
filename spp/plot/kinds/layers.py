"""The Signal Propagation Plot by layer: a row of panels per signal, a column per statistic, innermost modules over depth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spp.frame.schema import Column
from spp.plot.kinds import Drawing, Request, figure
from spp.plot.panels import BOUNDED, PLURAL, Points, Scale, choose_scale, family, short, title, ylabel
from spp.plot.series import Aligned, Series, align, as_signals, as_statistics, innermost, series, why_missing
from spp.vocabulary import Signal

DRAWN = (Signal.ACTIVATION, Signal.WEIGHT, Signal.GRADIENT)


@figure("layers")
def layers(request: Request) -> Drawing:
    """Leaf modules in execution order: by default ACSM and ACV of activations, weights and gradients.

    Position on the x axis is the rank of a module's call in execution order; containers of other modules that ran are left
    out, and so are parameters of rank below 2. Takes ``signals``, ``statistics`` and ``step``.
    """
    signals, statistics = as_signals(request.signals, DRAWN), as_statistics(request.statistics, [request.frame])
    rows, step = request.at_step()
    # rows are known by their positions from here on: the report looks its numbers up by them
    leaves = innermost(rows.set_axis(np.flatnonzero(request.frame[Column.STEP] == step)), "the layers figure")
    axis = align([leaves])
    grid = []
    for signal in signals:
        found = [series(leaves, signal, statistic, axis, outputs=True) for statistic in statistics]
        reason = "" if len(found[0].rows) else why_missing(rows, signal, request.unmeasured)
        grid.append(
            tuple(_panel(one, signal, column, axis, reason) for one, column in zip(found, statistics, strict=True))
        )
    return Drawing(tuple(grid), step)


def _panel(found: Series, signal: Signal, statistic: Column, axis: Aligned, reason: str) -> Points:
    rows, curve = found
    scale, threshold = (Scale.LINEAR, 0.0) if statistic in BOUNDED else choose_scale(curve.y, curve.zero)
    if len(rows) and not np.isfinite(curve.y).any() and not (rows[Column.NONFINITE] > 0).any():
        reason = f"{title(statistic)}:\nmissing for all {PLURAL[signal]} of this trace"
    outputs = rows[Column.OUTPUT].astype(str)
    types: Sequence[str] = rows[Column.TYPE].astype(str).tolist()
    kinds = rows[Column.KIND].tolist() if str(Column.KIND) in rows else [None] * len(rows)
    return Points(
        signal=signal,
        statistic=statistic,
        x_axis=axis.x_axis,
        title=title(statistic),
        ylabel=ylabel(short(statistic), signal, scale),
        scale=scale,
        threshold=threshold,
        message=reason,
        x=curve.x,
        y=curve.y,
        rows=rows.index.to_numpy(dtype=np.int64),
        names=tuple(f"{name}[{out}]" if out else name for name, out in zip(curve.names, outputs, strict=True)),
        families=tuple(family(kind, name) for kind, name in zip(kinds, types, strict=True)),
        first=np.diff(curve.x, prepend=-1.0) > 0,
        zero=curve.zero,
        nonfinite=curve.nonfinite,
    )
