"""How signals change while a network trains: depth over steps as colour, and chosen steps as lines."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from spp.errors import InputError
from spp.frame.schema import Column
from spp.plot.align import align
from spp.plot.facts import Facts, by_depth, listed
from spp.plot.layers import ROUNDED, innermost, rows_of, why_missing
from spp.plot.panels import (
    BOUNDED,
    PLURAL,
    BoolArray,
    FloatArray,
    Scale,
    as_signals,
    as_statistics,
    at_step,
    choose_scale,
    short,
    ylabel,
    zeros,
)
from spp.plot.shapes import MOST_LINES, AnyGrid, Curve, Curves, Heat, common_scale
from spp.vocabulary import Signal

ROWS = (Signal.ACTIVATION, Signal.GRADIENT)
COLUMNS_DRAWN = (Column.ACV,)

Table = tuple[FloatArray, BoolArray, BoolArray]
"""Numbers, which mean zero, which are not finite; each of shape (steps, places)."""


def evolution_panels(
    frame: pd.DataFrame,
    *,
    signals: Sequence[str] | str | None = None,
    statistics: Sequence[str] | str | None = None,
    steps: Sequence[int] | None = None,
) -> AnyGrid:
    """Make the panels of the ``evolution`` figure: for each statistic and signal, colours over all steps and lines of some.

    Rows of the colours are equally high whatever lies between the steps, since people watch more closely at the start.

    Args:
        frame: Table with the columns of ``spp.frame.schema.COLUMNS`` and more than one step.
        signals: Columns of the figure; activations and gradients when left out.
        statistics: Pairs of rows of the figure; ACV when left out.
        steps: Steps to draw as lines; the first, the middle and the last one when left out.

    Raises:
        InputError: The frame has one step, or a step of ``steps`` was not measured, or there are too many of them.
        UnknownNameError: A signal or statistic that does not exist.
    """
    columns_drawn = as_signals(signals, ROWS, tuple(Signal))
    rows_drawn = as_statistics(statistics, COLUMNS_DRAWN)
    at_step(frame, Column.STEP, None)
    measured = sorted(int(step) for step in frame[Column.STEP].unique())
    if len(measured) < 2:
        raise InputError(
            "the evolution figure needs more than one step",
            received=f"step {measured[0]} alone",
            where="frame",
            remedy='Watch a training with spp.watch, or draw kind="layers".',
        )
    lines = _lines(frame, measured, steps)
    leaves = innermost(frame)
    if leaves.empty:
        raise InputError("the evolution figure draws modules that ran", received="a frame without one", where="frame")
    by_step = [leaves[leaves[Column.STEP] == step] for step in measured]
    axis = align(by_step)
    keys = [(name, call) for name, call in zip(leaves[Column.NAME].astype(str), leaves[Column.CALL], strict=True)]
    places = {key: place for one in axis.places for key, place in one.items()}
    leaves = leaves.assign(place=[places[key] for key in keys])
    grid: list[tuple[Heat | Curves, ...]] = []
    for statistic in rows_drawn:
        tables = [_table(leaves, signal, statistic, measured, axis.size) for signal in columns_drawn]
        common = {"xlabel": axis.xlabel, "size": axis.size, "stages": axis.stages, "ticks": axis.ticks}
        heats, curves = [], []
        for signal, table in zip(columns_drawn, tables, strict=True):
            reason = "" if np.isfinite(table[0]).any() or table[2].any() else why_missing(frame, signal, None)
            heats.append(_heat(signal, statistic, table, measured, reason, common))
            curves.append(_curves(signal, statistic, table, measured, lines, axis.labels, reason, common))
        grid += [tuple(heats), tuple(curves)]
    return tuple(grid)


def phrase(run: Facts, grid: AnyGrid) -> str:
    """Return what the caption says is drawn."""
    steps = next(panel.steps for row in grid for panel in row if isinstance(panel, Heat))
    lines = next(panel.curves for row in grid for panel in row if isinstance(panel, Curves))
    named = listed(curve.label.removeprefix("step ") for curve in lines)
    return (
        f"{by_depth(run, grid[1::2], 'evolution')}, at {len(steps)} training steps from {steps[0]} to {steps[-1]} "
        f"(lines: {'steps' if len(lines) > 1 else 'step'} {named})"
    )


def _lines(frame: pd.DataFrame, measured: Sequence[int], steps: Sequence[int] | None) -> list[int]:
    """The steps to draw as lines."""
    if steps is None:
        return list(dict.fromkeys([measured[0], measured[len(measured) // 2], measured[-1]]))
    chosen = list(dict.fromkeys(int(step) for step in ([steps] if isinstance(steps, int) else steps)))
    if not 1 <= len(chosen) <= MOST_LINES:
        raise InputError(f"one to {MOST_LINES} steps can be drawn as lines", received=str(len(chosen)), where="steps")
    for step in chosen:
        at_step(frame, Column.STEP, step)
    return chosen


def _table(leaves: pd.DataFrame, signal: Signal, statistic: Column, steps: Sequence[int], size: int) -> Table:
    """One number per step and place, that of the first tensor there; NaN where there is none."""
    rows = rows_of(leaves, signal).drop_duplicates([Column.STEP, "place"])
    at = np.searchsorted(np.asarray(steps), rows[Column.STEP].to_numpy()), rows["place"].to_numpy(dtype=np.intp)
    values = np.full((len(steps), size), np.nan)
    values[at] = rows[statistic].to_numpy(dtype=np.float64)
    mean_square = np.full_like(values, np.nan)
    mean_square[at] = rows[Column.MEAN_SQUARE].to_numpy(dtype=np.float64)
    zero = zeros(values**2 if statistic is Column.MEAN else values, mean_square if statistic in ROUNDED else None)
    bad = np.zeros(values.shape, dtype=np.bool_)
    bad[at] = (rows[Column.NONFINITE].to_numpy() > 0) | np.isinf(values[at])
    return values, zero, bad


def _heat(
    signal: Signal,
    statistic: Column,
    table: Table,
    steps: Sequence[int],
    reason: str,
    common: dict[str, object],
) -> Heat:
    values, zero, bad = table
    scale, threshold = (Scale.LINEAR, 0.0) if statistic in BOUNDED else choose_scale(values.ravel(), zero.ravel())
    shown = values[np.isfinite(values) & ~zero]
    if scale is Scale.LINEAR and statistic not in BOUNDED and shown.size and shown.min() > 0 and np.ptp(shown):
        scale = Scale.LOG
    return Heat(
        signal=signal,
        statistic=statistic,
        title=f"{PLURAL[signal]}: {short(statistic)}",
        ylabel="training\nstep",
        colour_label=ylabel(short(statistic), signal, scale).partition("\n")[2],
        values=values,
        zero=zero,
        nonfinite=bad,
        steps=tuple(steps),
        scale=scale,
        threshold=threshold,
        message=reason,
        height=1.1,
        **common,  # type: ignore[arg-type]
    )


def _curves(
    signal: Signal,
    statistic: Column,
    table: Table,
    steps: Sequence[int],
    lines: Sequence[int],
    labels: Sequence[str],
    reason: str,
    common: dict[str, object],
) -> Curves:
    values, zero, bad = table
    curves = []
    for look, step in enumerate(lines):
        row = steps.index(step)
        x = np.flatnonzero(np.isfinite(values[row]) | bad[row])
        names = tuple(labels[int(place)] for place in x)
        curves.append(
            Curve(
                f"step {step}", x.astype(np.float64), values[row, x], bad[row, x], zero[row, x], look=look, names=names
            )
        )
    scale, threshold = (Scale.LINEAR, 0.0) if statistic in BOUNDED else common_scale(curves)
    return Curves(
        signal=signal,
        statistic=statistic,
        title="",
        ylabel=ylabel(short(statistic), signal, scale),
        curves=tuple(curves),
        scale=scale,
        threshold=threshold,
        message=reason,
        **common,  # type: ignore[arg-type]
    )
