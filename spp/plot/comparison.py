"""Several runs in one figure: a line per run, seeds as a band, and where the lines part, by which factor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from spp.errors import InputError
from spp.frame.schema import Column
from spp.plot.align import Aligned, Key, align
from spp.plot.layers import ROUNDED, innermost, rows_of, why_missing
from spp.plot.panels import PLURAL, FloatArray, Scale, as_signals, as_statistics, at_step, short, title, ylabel, zeros
from spp.plot.parting import POSITIVE, binned, compared, parting
from spp.plot.shapes import MOST_LINES, AnyGrid, Curve, Curves, Shade, common_scale
from spp.vocabulary import Signal

ROWS = (Signal.ACTIVATION, Signal.GRADIENT)
COLUMNS_DRAWN = (Column.ACSM, Column.ACV)
LOWER = 0.72
"""Height of a difference panel, as a share of that of the curves over it."""

RANGE = "range over seeds (line: median)"
PARTS = 20
"""Networks that are aligned by relative depth are compared by their means over so many equal parts of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """One run: the label of its line, its frame and its facts; runs of the same label differ in their seed alone."""

    label: str
    frame: pd.DataFrame
    run: Mapping[str, object]


def compare_panels(
    arms: Sequence[Arm],
    *,
    signals: Sequence[str] | str | None = None,
    statistics: Sequence[str] | str | None = None,
    step: int | None = None,
) -> tuple[AnyGrid, int]:
    """Make the panels of the ``compare`` figure: for each signal a row of curves and, under it, a row of differences.

    A line is the median over the runs of its label, its band their range. The panel below divides every line by the first
    (or, for a statistic that may be negative, subtracts it) and says from which layer on they differ by more than a factor
    of two, and by how much at most; see ``parting``.

    Args:
        arms: The runs; the first label is what the others are compared with.
        signals: Activations and gradients when left out.
        statistics: ACSM and ACV when left out.
        step: Step to draw; each run's last one when left out.

    Raises:
        InputError: No runs, more labels than can be told apart, or runs of one label with different layers.
        UnknownNameError: A signal or statistic that does not exist.
    """
    rows_drawn = as_signals(signals, ROWS, tuple(Signal))
    columns_drawn = as_statistics(statistics, COLUMNS_DRAWN)
    labels = list(dict.fromkeys(arm.label for arm in arms))
    if not labels:
        raise InputError("a comparison needs at least one run", received="none", where="runs")
    if len(labels) > MOST_LINES:
        raise InputError(
            f"at most {MOST_LINES} lines can be told apart in one figure", received=str(len(labels)), where="runs"
        )
    at = [at_step(arm.frame, Column.STEP, step) for arm in arms]
    leaves = [innermost(rows) for rows, _ in at]
    for arm, rows in zip(arms, leaves, strict=True):
        if rows.empty:
            raise InputError("a comparison draws modules that ran", received="a frame without one", where=arm.label)
    axis = align(leaves)
    grid: list[tuple[Curves, ...]] = []
    for signal in rows_drawn:
        drawn = [rows_of(one, signal).drop_duplicates(Column.DEPTH) for one in leaves]
        top = []
        for statistic in columns_drawn:
            curves = tuple(_curve(label, i, arms, drawn, axis, statistic) for i, label in enumerate(labels))
            reason = "" if any(len(curve.x) for curve in curves) else why_missing(at[0][0], signal, None)
            top.append(_panel(curves, signal, statistic, axis, reason))
        grid.append(tuple(top))
        if len(labels) > 1:
            grid.append(tuple(_difference(panel, axis) for panel in top))
    return tuple(grid), max(shown for _, shown in at)


def _curve(
    label: str, index: int, arms: Sequence[Arm], rows: Sequence[pd.DataFrame], axis: Aligned, statistic: Column
) -> Curve:
    """The median of the runs of one label at each of their layers, with their range."""
    members = [i for i, arm in enumerate(arms) if arm.label == label]
    columns = list(dict.fromkeys((statistic, Column.MEAN_SQUARE, Column.NONFINITE)))
    tables = [_by_place(rows[i], axis.places[i], columns) for i in members]
    if any(set(axis.places[i]) != set(axis.places[members[0]]) for i in members):
        raise InputError(
            "runs of one label have the same layers", received="different ones", where=label, remedy="Label them apart."
        )
    merged = pd.concat(tables).groupby(level=0).agg(list) if tables else pd.DataFrame()
    x = merged.index.to_numpy(dtype=np.float64)
    y, low, high = _spread(merged[statistic])
    mean_square, _, _ = _spread(merged[Column.MEAN_SQUARE])
    bad = np.array([max(counts) > 0 for counts in merged[Column.NONFINITE]], dtype=np.bool_) | ~np.isfinite(y)
    name_at = {place: key for key, place in axis.places[members[0]].items()}
    if len(members) > 1:  # what is rounding has no range either
        none = zeros(y, mean_square if statistic in ROUNDED else None)
        low = np.where(zeros(low, mean_square if statistic in ROUNDED else None), y, low)
        low, high = np.where(none, np.nan, low), np.where(none, np.nan, high)
    return Curve.of(
        label,
        x,
        y,
        mean_square if statistic in ROUNDED else None,
        nonfinite=bad,
        shades=(Shade(low, high, RANGE),) if len(members) > 1 else (),
        look=index,
        names=tuple(axis.labels[int(place)] if axis.by_name else _called(name_at[place]) for place in x),
    )


def _by_place(rows: pd.DataFrame, places: Mapping[Key, float], columns: Sequence[Column]) -> pd.DataFrame:
    keys = zip(rows[Column.NAME].astype(str), rows[Column.CALL].astype(int), strict=True)
    table = rows[list(columns)].copy()
    table.index = pd.Index([places[key] for key in keys], dtype="float64")
    return table


def _spread(values: "pd.Series[float]") -> tuple[FloatArray, FloatArray, FloatArray]:
    """Median, minimum and maximum of the finite ones among each place's values; NaN where there is none."""
    middle, low, high = (np.full(len(values), np.nan) for _ in range(3))
    for i, several in enumerate(values):
        finite = np.asarray(several, dtype=np.float64)
        finite = finite[np.isfinite(finite)]
        if finite.size:
            middle[i], low[i], high[i] = np.median(finite), finite.min(), finite.max()
    return middle, low, high


def _panel(curves: tuple[Curve, ...], signal: Signal, statistic: Column, axis: Aligned, reason: str) -> Curves:
    scale, threshold = common_scale(curves)
    return Curves(
        signal=signal,
        statistic=statistic,
        title=title(statistic),
        xlabel=axis.xlabel,
        ylabel=ylabel(short(statistic), signal, scale),
        size=axis.size,
        stages=axis.stages,
        ticks=axis.ticks,
        message=reason,
        curves=curves,
        scale=scale,
        threshold=threshold,
    )


def _difference(panel: Curves, axis: Aligned) -> Curves:
    """Every line against the first, and in the note where they part."""
    ratio = panel.statistic in POSITIVE
    lines = panel.curves
    if not axis.by_name and not panel.message:
        parts = min(PARTS, *(len(curve.x) for curve in lines))
        lines = tuple(binned(curve, axis.size, parts, log=ratio) for curve in lines)
    first, *others = lines
    curves = tuple(compared(first, other, ratio=ratio) for other in others) if not panel.message else ()
    scale, threshold = common_scale(curves)
    if ratio and scale is Scale.LINEAR:
        scale = _ratio_scale(curves)
    notes = [str(parting(first, other, ratio=ratio)) for other in others] if curves else []
    words = {Scale.LINEAR: "", Scale.LOG: " (log)", Scale.SYMLOG: " (symlog)"}[scale]
    return Curves(
        signal=panel.signal,
        statistic=f"{panel.statistic}:difference",
        title="",
        xlabel=axis.xlabel,
        ylabel=f"{PLURAL[panel.signal]}\n{'ratio' if ratio else 'difference'}{words}",
        size=axis.size,
        stages=axis.stages,
        ticks=axis.ticks,
        message="" if any(np.isfinite(curve.y).any() for curve in curves) else panel.message or "nothing to compare",
        note="\n".join(notes),
        height=LOWER,
        curves=curves,
        scale=scale,
        threshold=threshold,
        baseline=1.0 if ratio else None,
    )


def _ratio_scale(curves: Sequence[Curve]) -> Scale:
    """A ratio over more than a decade is read on a log axis, where a half and a double are equally far from one."""
    values = np.concatenate([curve.y for curve in curves]) if curves else np.zeros(0)
    values = values[np.isfinite(values) & (values > 0)]
    return Scale.LOG if values.size and max(values.max(), 1.0) >= 10 * min(values.min(), 1.0) else Scale.LINEAR


def _called(key: Key) -> str:
    return key[0] if not key[1] else f"{key[0]} #{key[1] + 1}"
