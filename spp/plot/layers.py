"""The Signal Propagation Plot by layer: a row of panels per signal, a column per statistic, innermost modules over depth."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from spp.errors import InputError
from spp.frame.schema import Column, UnmeasuredColumn
from spp.plot.panels import (
    BOUNDED,
    PLURAL,
    Grid,
    Panel,
    Scale,
    as_signals,
    as_statistics,
    at_step,
    choose_scale,
    short,
    title,
    ylabel,
    zeros,
)
from spp.plot.stages import Span, Tick, family, stages, ticks
from spp.vocabulary import Signal

ROWS = (Signal.ACTIVATION, Signal.WEIGHT, Signal.GRADIENT)
COLUMNS_DRAWN = (Column.ACSM, Column.ACV)
ROUNDED = (Column.MEAN, Column.ACSM, Column.ACV)
"""Statistics that come out as rounding error where they should be zero."""

XLABEL = "layer (execution order)"


def layer_panels(
    frame: pd.DataFrame,
    *,
    signals: Sequence[str] | str | None = None,
    statistics: Sequence[str] | str | None = None,
    step: int | None = None,
    unmeasured: pd.DataFrame | None = None,
) -> tuple[Grid, int]:
    """Make the panels of the ``layers`` figure, and say which step they show.

    Position on the x axis is the rank of a module's call in execution order; containers of other modules that ran are left
    out. Of the parameters, those of rank 2 and more
    are drawn: a bias or a norm's scale on the same line would hide the weights.

    Args:
        frame: Table with the columns of ``spp.frame.schema.COLUMNS``.
        signals: Rows of the figure; activations, weights and gradients when left out.
        statistics: Columns of the figure; ACSM and ACV when left out.
        step: Step to draw; the last one when left out.
        unmeasured: Table that says why a signal is missing, where the trace has one.

    Raises:
        InputError: No module was measured at that step.
        UnknownNameError: A signal or statistic that does not exist.
    """
    rows_drawn = as_signals(signals, ROWS, tuple(Signal))
    columns_drawn = as_statistics(statistics, COLUMNS_DRAWN)
    rows, step = at_step(frame, Column.STEP, step)
    leaves = innermost(rows)
    if leaves.empty:
        raise InputError("the layers figure draws modules that ran", received="a frame without one", where="frame")
    positions = call_positions(leaves)
    labels = call_labels(positions)
    names = positions[Column.NAME].astype(str).tolist()
    aids = stages(names), ticks(names, labels)
    rank = pd.Series(np.arange(len(positions)), index=positions[Column.DEPTH].astype("int64"))
    grid = []
    for signal in rows_drawn:
        drawn = rows_of(leaves, signal)
        x = rank.loc[drawn[Column.DEPTH].astype("int64")].to_numpy(dtype=np.float64)
        reason = "" if len(drawn) else why_missing(rows, signal, unmeasured)
        grid.append(tuple(_panel(drawn, x, signal, column, labels, aids, reason) for column in columns_drawn))
    return tuple(grid), step


def innermost(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of modules that ran, without those that contain another: leaves, and what calls none of its children.

    The ``leaf`` column would lose ``nn.MultiheadAttention``, which never calls the projection it holds.
    """
    ran = rows[rows[Column.DEPTH].notna()]
    containers = {""} if ran[Column.NAME].nunique() > 1 else set()
    for name in ran[Column.NAME].unique():
        while "." in name:
            name = name.rpartition(".")[0]
            containers.add(name)
    return ran[~ran[Column.NAME].isin(containers)]


def call_positions(leaves: pd.DataFrame) -> pd.DataFrame:
    """One row per leaf call, in execution order."""
    return leaves.drop_duplicates(Column.DEPTH).sort_values(Column.DEPTH)[[Column.DEPTH, Column.NAME, Column.CALL]]


def call_labels(positions: pd.DataFrame) -> list[str]:
    """The name of each position, numbered where a module is called several times."""
    repeated = set(positions.loc[positions[Column.CALL] > 0, Column.NAME])
    pairs = zip(positions[Column.NAME], positions[Column.CALL], strict=True)
    return [f"{name} #{call + 1}" if name in repeated else str(name) for name, call in pairs]


def rows_of(leaves: pd.DataFrame, signal: Signal) -> pd.DataFrame:
    """Rows of one signal in execution order; of the parameters, those of rank 2 and more."""
    rows = leaves[leaves[Column.SIGNAL] == signal]
    if signal in (Signal.WEIGHT, Signal.WEIGHT_GRADIENT):
        rows = rows[rows[Column.SHAPE].str.contains("x")]
    return rows.sort_values(Column.DEPTH, kind="stable")


def _panel(
    rows: pd.DataFrame,
    x: np.ndarray,
    signal: Signal,
    statistic: Column,
    labels: Sequence[str],
    aids: tuple[tuple[Span, ...], tuple[Tick, ...]],
    reason: str,
) -> Panel:
    y = rows[statistic].to_numpy(dtype=np.float64)
    mean_square = rows[Column.MEAN_SQUARE].to_numpy(dtype=np.float64)
    zero = zeros(y**2 if statistic is Column.MEAN else y, mean_square if statistic in ROUNDED else None)
    scale, threshold = (Scale.LINEAR, 0.0) if statistic in BOUNDED else choose_scale(y, zero)
    outputs = rows[Column.OUTPUT].astype(str)
    if len(rows) and not np.isfinite(y).any() and not (rows[Column.NONFINITE] > 0).any():
        reason = f"{title(statistic)}:\nmissing for all {PLURAL[signal]} of this trace"
    return Panel(
        signal=signal,
        statistic=statistic,
        title=title(statistic),
        xlabel=XLABEL,
        ylabel=ylabel(short(statistic), signal, scale),
        size=len(labels),
        x=x,
        y=y,
        names=tuple(f"{labels[int(i)]}{f'[{output}]' if output else ''}" for i, output in zip(x, outputs, strict=True)),
        families=tuple(family(str(name)) for name in rows[Column.TYPE]),
        first=~pd.Series(x).duplicated().to_numpy(),
        zero=zero,
        nonfinite=(rows[Column.NONFINITE].to_numpy() > 0) | np.isinf(y),
        scale=scale,
        threshold=threshold,
        stages=aids[0],
        ticks=aids[1],
        message=reason,
    )


def why_missing(rows: pd.DataFrame, signal: Signal, unmeasured: pd.DataFrame | None) -> str:
    """What stands in a panel for which there are no rows."""
    what = PLURAL[signal]
    if unmeasured is not None and len(unmeasured):
        reasons = unmeasured.loc[unmeasured[UnmeasuredColumn.SIGNAL] == signal, UnmeasuredColumn.REASON]
        if len(reasons):
            return f"{what} not measured:\n{reasons.mode().iloc[0]}"
    if (rows[Column.SIGNAL] == signal).any():
        kind = "of rank 2 or more" if signal in (Signal.WEIGHT, Signal.WEIGHT_GRADIENT) else "of a module that ran"
        return f"{what} not measured:\nnone {kind}"
    present = [PLURAL[s] for s in Signal if (rows[Column.SIGNAL] == s).any()]
    return f"{what} not measured:\nthe trace holds only {' and '.join(present)}"
