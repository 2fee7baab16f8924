"""Several runs over their steps: a column for each run, a line for each step, one scale for all."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from spp.errors import InputError
from spp.frame.schema import Column
from spp.plot.align import Aligned, Key, align
from spp.plot.comparison import Arm
from spp.plot.evolution import COLUMNS_DRAWN, ROWS
from spp.plot.facts import by_depth, listed
from spp.plot.layers import ROUNDED, innermost, rows_of, why_missing
from spp.plot.panels import BOUNDED, Scale, as_signals, as_statistics, at_step, short, ylabel
from spp.plot.shapes import MOST_LINES, AnyGrid, Curve, Curves, common_scale
from spp.vocabulary import Signal

MOST_COLUMNS = 4
"""Runs that find room beside each other."""


def abreast_panels(
    arms: Sequence[Arm],
    *,
    signals: Sequence[str] | str | None = None,
    statistics: Sequence[str] | str | None = None,
    steps: Sequence[int] | None = None,
) -> AnyGrid:
    """Make the panels: for each statistic and signal a row, for each run a column, for each step a line.

    The panels of a row have one axis, chosen from all of them.

    Args:
        arms: The runs.
        signals: Activations and gradients when left out.
        statistics: ACV when left out.
        steps: Steps to draw; the first, the middle and the last one that all runs have when left out.

    Raises:
        InputError: Too many runs or steps, or a step that one of the runs did not measure.
        UnknownNameError: A signal or statistic that does not exist.
    """
    rows_drawn, columns_drawn = as_signals(signals, ROWS, tuple(Signal)), as_statistics(statistics, COLUMNS_DRAWN)
    if not 1 <= len(arms) <= MOST_COLUMNS:
        raise InputError(f"one to {MOST_COLUMNS} runs fit beside each other", received=str(len(arms)), where="runs")
    lines = _lines(arms, steps)
    tables = {(arm, step): innermost(at_step(arm.frame, Column.STEP, step)[0]) for arm in arms for step in lines}
    for (arm, step), rows in tables.items():
        if rows.empty:
            raise InputError("a figure draws modules that ran", received=f"none at step {step}", where=arm.label)
    axis = align(list(tables.values()))
    places = dict(zip(tables, axis.places, strict=True))
    grid = []
    for statistic in columns_drawn:
        for signal in rows_drawn:
            row = []
            for arm, title in zip(arms, _titles(arms), strict=True):
                curves = [
                    _curve(_called(step, arm), rows_of(tables[arm, step], signal), places[arm, step], statistic, look)
                    for look, step in enumerate(lines)
                ]
                row.append(_panel(curves, signal, statistic, axis, title, arm.frame))
            grid.append(_alike(row, statistic))
    return tuple(grid)


def phrase(run: dict[str, object], arms: Sequence[Arm], grid: AnyGrid) -> str:
    """Return what the caption says is drawn."""
    lines = next(panel.curves for row in grid for panel in row if isinstance(panel, Curves))
    named = listed(curve.label for curve in lines)
    return f"{listed(_titles(arms))} beside each other, {by_depth(run, grid, 'evolution')}, at {named}"


def _lines(arms: Sequence[Arm], steps: Sequence[int] | None) -> list[int]:
    """The steps to draw."""
    measured = [{int(step) for step in arm.frame[Column.STEP].unique()} for arm in arms]
    if steps is None:
        common = sorted(set.intersection(*measured))
        if not common:
            raise InputError("runs beside each other have steps in common", received="none", where="runs")
        return list(dict.fromkeys([common[0], common[len(common) // 2], common[-1]]))
    chosen = list(dict.fromkeys(int(step) for step in ([steps] if isinstance(steps, int) else steps)))
    if not 1 <= len(chosen) <= MOST_LINES:
        raise InputError(f"one to {MOST_LINES} steps can be drawn as lines", received=str(len(chosen)), where="steps")
    for arm in arms:
        for step in chosen:
            at_step(arm.frame, Column.STEP, step)
    return chosen


def _titles(arms: Sequence[Arm]) -> list[str]:
    """The labels, with the seed where it alone tells runs apart."""
    labels = [arm.label for arm in arms]
    return [
        arm.label if labels.count(arm.label) == 1 else f"{arm.label}, seed {arm.run.get('seed', index)}"
        for index, arm in enumerate(arms)
    ]


def _curve(label: str, rows: pd.DataFrame, places: dict[Key, float], statistic: Column, look: int) -> Curve:
    """One step of one run: the first tensor of each call."""
    rows = rows.drop_duplicates([Column.NAME, Column.CALL])
    keys = list(zip(rows[Column.NAME].astype(str), rows[Column.CALL].astype(int), strict=True))
    x = np.array([places[key] for key in keys], dtype=np.float64)
    order = np.argsort(x, kind="stable")
    y = rows[statistic].to_numpy(dtype=np.float64)[order]
    mean_square = rows[Column.MEAN_SQUARE].to_numpy(dtype=np.float64)[order] if statistic in ROUNDED else None
    bad = (rows[Column.NONFINITE].to_numpy() > 0)[order] | np.isinf(y)
    return Curve.of(label, x[order], y, mean_square, nonfinite=bad, look=look, names=tuple(keys[i][0] for i in order))


def _called(step: int, arm: Arm) -> str:
    """As ``step 81 (epoch 9)``, where the run says how many steps an epoch has and the step begins one."""
    epoch = arm.run.get("steps_per_epoch")
    return f"step {step} (epoch {step // epoch})" if isinstance(epoch, int) and step % epoch == 0 else f"step {step}"


def _panel(
    curves: list[Curve], signal: Signal, statistic: Column, axis: Aligned, title: str, frame: pd.DataFrame
) -> Curves:
    return Curves(
        signal=signal,
        statistic=statistic,
        title=title,
        xlabel=axis.xlabel,
        ylabel="",
        size=axis.size,
        stages=axis.stages,
        ticks=axis.ticks,
        message="" if any(len(curve.x) for curve in curves) else why_missing(frame, signal, None),
        curves=tuple(curves),
    )


def _alike(row: list[Curves], statistic: Column) -> tuple[Curves, ...]:
    """The panels of a row with one scale, and room on each axis for the numbers of all."""
    everything = [curve for panel in row for curve in panel.curves]
    scale, threshold = (Scale.LINEAR, 0.0) if statistic in BOUNDED else common_scale(everything)
    shown = np.concatenate([curve.y[~curve.zero & np.isfinite(curve.y)] for curve in everything])
    room = (float(shown.min()), float(shown.max())) if len(shown) else ()
    return tuple(
        replace(
            panel, scale=scale, threshold=threshold, room=room, ylabel=ylabel(short(statistic), panel.signal, scale)
        )
        for panel in row
    )
