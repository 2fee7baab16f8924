"""The Signal Propagation Plot by layer: a row of panels per signal, a column per statistic, innermost modules over depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from spp.diagnosis.main_path import along, components, prefixes
from spp.frame.schema import Column
from spp.plot.kinds import Drawing, Request, figure
from spp.plot.panels import BOUNDED, PLURAL, Curve, Points, Scale, choose_scale, family, short, title, ylabel
from spp.plot.series import (
    PARAMETERS,
    Aligned,
    Series,
    align,
    as_signals,
    as_statistics,
    innermost,
    keys_of,
    series,
    why_missing,
    zeros_of,
)
from spp.vocabulary import LayerKind, Signal

DRAWN = (Signal.ACTIVATION, Signal.WEIGHT, Signal.GRADIENT)

SQUARES = (Column.ACSM, Column.ACV, Column.MEAN_SQUARE)
"""Statistics of one unit, which are compared: beside each other they have one y axis."""

STREAM = "end of each component"
"""What the legend calls the main line."""


@figure("layers")
def layers(request: Request) -> Drawing:
    """Leaf modules in execution order: by default ACSM and ACV of activations, weights and gradients.

    The main line goes from the end of one component to the next, which is the residual stream where there is one. Leaves are
    points, with a thin line for each kind of layer; gates, pools and attention's softmax stand beside it. Position on the x
    axis is the rank of a module's call in execution order; containers of other modules that ran are left out, and so are
    parameters of rank below 2. Takes ``signals``, ``statistics`` and ``step``.
    """
    signals, statistics = as_signals(request.signals, DRAWN), as_statistics(request.statistics, [request.frame])
    rows, step = request.at_step()
    # rows are known by their positions from here on: the report looks its numbers up by them
    leaves = innermost(rows.set_axis(np.flatnonzero(request.frame[Column.STEP] == step)), "the layers figure")
    axis = align([leaves])
    aside, ends = _aside(rows), _ends(rows, axis)
    grid = []
    for signal in signals:
        found = [series(leaves, signal, statistic, axis, outputs=True) for statistic in statistics]
        reason = "" if len(found[0].rows) else why_missing(rows, signal, request.unmeasured)
        path = None if signal in PARAMETERS or len(ends) < 2 else along(rows, signal)
        row = [
            _panel(one, signal, column, axis, reason, aside, _stream(path, column, ends))
            for one, column in zip(found, statistics, strict=True)
        ]
        grid.append(_on_one_scale(row))
    return Drawing(tuple(grid), step)


def _aside(rows: pd.DataFrame) -> set[str]:
    """Modules beside the signal's way: gates, and the softmax of an attention."""
    if str(Column.KIND) not in rows:
        return set()
    kinds = rows[Column.KIND].isin([LayerKind.GATE, LayerKind.SOFTMAX])
    return set(rows.loc[kinds, Column.NAME].astype(str))


def _ends(rows: pd.DataFrame, axis: Aligned) -> dict[str, float]:
    """Where each component ends: at the last call of its last leaf."""
    owner = {leaf: component for component, leaves in components(rows).items() for leaf in (component, *leaves)}
    ends: dict[str, float] = {}
    for (name, _), place in axis.places[0].items():
        if name in owner:
            ends[owner[name]] = max(place, ends.get(owner[name], 0.0))
    return ends


def _stream(path: pd.DataFrame | None, statistic: Column, ends: dict[str, float]) -> Curve | None:
    """The main line of a panel; none where there are no components to go between."""
    if path is None:
        return None
    if str(Column.KIND) in path:
        path = path[path[Column.KIND] != LayerKind.POOLING]
    if len(path) < 2:
        return None
    path = path.iloc[np.argsort([ends[name] for name in path.index], kind="stable")]
    y = path[statistic].to_numpy(dtype=np.float64)
    zero = zeros_of(statistic, y, path[Column.MEAN_SQUARE].to_numpy(dtype=np.float64))
    bad = (path[Column.NONFINITE].to_numpy() > 0) | np.isinf(y)
    return Curve(STREAM, np.array([ends[name] for name in path.index]), y, bad, zero, names=tuple(path.index))


def _panel(
    found: Series, signal: Signal, statistic: Column, axis: Aligned, reason: str, aside: set[str], stream: Curve | None
) -> Points:
    rows, curve = found
    values, zero = curve.y, curve.zero
    if stream is not None:
        values, zero = np.concatenate([values, stream.y]), np.concatenate([zero, stream.zero])
    scale, threshold = (Scale.LINEAR, 0.0) if statistic in BOUNDED else choose_scale(values, zero)
    if len(rows) and not np.isfinite(curve.y).any() and not (rows[Column.NONFINITE] > 0).any():
        reason = f"{title(statistic)}:\nmissing for all {PLURAL[signal]} of this trace"
    outputs = rows[Column.OUTPUT].astype(str)
    types: Sequence[str] = rows[Column.TYPE].astype(str).tolist()
    kinds = rows[Column.KIND].tolist() if str(Column.KIND) in rows else [None] * len(rows)
    on_way = [aside.isdisjoint(prefixes(name)) for name, _ in keys_of(rows)]
    return Points(
        signal=signal,
        statistic=statistic,
        x_axis=axis.x_axis,
        title=title(statistic),
        ylabel=ylabel(short(statistic), signal, scale),
        scale=scale,
        threshold=threshold,
        message=reason,
        room=tuple(stream.y) if stream is not None else (),
        x=curve.x,
        y=curve.y,
        rows=rows.index.to_numpy(dtype=np.int64),
        names=tuple(f"{name}[{out}]" if out else name for name, out in zip(curve.names, outputs, strict=True)),
        families=tuple(family(kind, name) for kind, name in zip(kinds, types, strict=True)),
        joined=(np.diff(curve.x, prepend=-1.0) > 0) & np.array(on_way, dtype=np.bool_),
        zero=curve.zero,
        nonfinite=curve.nonfinite,
        stream=stream,
    )


def _on_one_scale(row: list[Points]) -> tuple[Points, ...]:
    """Give the statistics of one unit that stand beside each other one scale, since which is larger is the message."""
    beside = [panel for panel in row if panel.statistic in SQUARES and not panel.message]
    if len(beside) < 2:
        return tuple(row)
    values = np.concatenate([part for panel in beside for part in (panel.y, panel.room)])
    zero = np.concatenate([part for panel in beside for part in (panel.zero, _zeros_of_stream(panel))])
    scale, threshold = choose_scale(values, zero)
    shown = values[np.isfinite(values) & ~zero]
    room = (*([shown.min(), shown.max()] if len(shown) else ()), *([0.0] if zero.any() else ()))
    room += () if np.isfinite(values).all() else (np.nan,)
    return tuple(
        replace(
            panel,
            scale=scale,
            threshold=threshold,
            room=room,
            ylabel=ylabel(short(panel.statistic), panel.signal, scale),
        )
        if panel in beside
        else panel
        for panel in row
    )


def _zeros_of_stream(panel: Points) -> np.ndarray:
    return np.zeros(0, np.bool_) if panel.stream is None else panel.stream.zero
