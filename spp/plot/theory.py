"""What theory predicts over what was measured, where the frame carries predictions."""

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
import pandas as pd

from spp.errors import InputError, UnknownNameError
from spp.frame.schema import Column
from spp.plot.align import align
from spp.plot.facts import Facts, by_depth
from spp.plot.layers import ROUNDED, innermost, rows_of
from spp.plot.panels import FloatArray, as_signals, at_step, short, ylabel, zeros
from spp.plot.parting import brief
from spp.plot.shapes import AnyGrid, Curve, Curves, Shade, common_scale
from spp.vocabulary import Signal


class PredictedColumn(StrEnum):
    """Columns that a prediction adds to the frame."""

    ACSM = "acsm_predicted"
    ACV = "acv_predicted"
    GRADIENT = "gradient_predicted"
    LOG_SPREAD = "log_spread_predicted"


DRAWN: dict[Signal, dict[Column, PredictedColumn]] = {
    Signal.ACTIVATION: {Column.ACSM: PredictedColumn.ACSM, Column.ACV: PredictedColumn.ACV},
    Signal.GRADIENT: {Column.MEAN_SQUARE: PredictedColumn.GRADIENT},
}
"""By signal and measured statistic: where its prediction is."""

SPREAD = "expected spread over seeds"


def theory_panels(
    frame: pd.DataFrame,
    *,
    signals: Sequence[str] | str | None = None,
    statistics: Sequence[str] | str | None = None,
    step: int | None = None,
) -> tuple[AnyGrid, int]:
    """Make the panels of the ``theory`` figure, and say which step they show.

    The measured curve is the signal's; the prediction is dashed, what lies between them is shaded. Where the frame has
    ``log_spread_predicted``, the standard deviation s of the natural logarithm of a mean square over seeds, there is a band in
    which two draws of three lie: of one such deviation on either side of the typical draw, which is the prediction, a mean over
    draws, times exp(-s^2 / 2).

    Args:
        frame: Table with the columns of ``spp.frame.schema.COLUMNS`` and, beside them, any of those of ``PredictedColumn``.
        signals: Activations and gradients when left out.
        statistics: Any of ``acsm`` and ``acv`` (activations) and ``mean_square`` (gradients); all when left out.
        step: Step to draw; the last one when left out.

    Raises:
        InputError: The frame has no predictions.
        UnknownNameError: A signal or statistic that is not predicted.
    """
    chosen = as_signals(signals, tuple(DRAWN), tuple(DRAWN))
    known = [str(statistic) for by_statistic in DRAWN.values() for statistic in by_statistic]
    names = known if statistics is None else [statistics] if isinstance(statistics, str) else list(statistics)
    for name in names:
        if name not in known:
            raise UnknownNameError("statistic", name, known, where="statistics")
    rows, step = at_step(frame, Column.STEP, step)
    pairs = [(signal, one, column) for signal in chosen for one, column in DRAWN[signal].items() if one in names]
    if not any(column in frame and frame[column].notna().any() for _, _, column in pairs):
        raise InputError(
            "the theory figure needs predictions",
            received=f"a frame without {', '.join(str(column) for _, _, column in pairs) or 'any'}",
            where="kind",
            remedy="Add them with spp.theory.predict(model, batch_shape).",
        )
    leaves = innermost(rows)
    axis = align([leaves])
    grid = []
    for signal, statistic, column in pairs:
        drawn = rows_of(leaves, signal).drop_duplicates(Column.DEPTH)
        keys = zip(drawn[Column.NAME].astype(str), drawn[Column.CALL].astype(int), strict=True)
        x = np.array([axis.places[0][key] for key in keys], dtype=np.float64)
        measured, predicted = _curves(drawn, leaves, x, statistic, column, axis.labels)
        scale, threshold = common_scale([measured, predicted])
        grid.append(
            Curves(
                signal=signal,
                statistic=statistic,
                title=f"{'gradient ' if signal is Signal.GRADIENT else ''}{short(statistic)}",
                xlabel=axis.xlabel,
                ylabel=ylabel(short(statistic), signal, scale),
                size=axis.size,
                stages=axis.stages,
                ticks=axis.ticks,
                message="" if np.isfinite(predicted.y).any() else f"no prediction of {short(statistic)}",
                note=_farthest(measured, predicted),
                curves=(measured, predicted),
                scale=scale,
                threshold=threshold,
                between=(0, 1),
            )
        )
    return tuple((panel,) for panel in grid), step


def phrase(run: Facts, grid: AnyGrid) -> str:
    """Return what the caption says is drawn."""
    return f"{by_depth(run, grid, 'theory')}, measured (solid) and predicted (dashed)"


def _curves(
    drawn: pd.DataFrame,
    leaves: pd.DataFrame,
    x: FloatArray,
    statistic: Column,
    column: PredictedColumn,
    labels: Sequence[str],
) -> tuple[Curve, Curve]:
    names = tuple(labels[int(place)] for place in x)
    y = drawn[statistic].to_numpy(dtype=np.float64)
    share = drawn[Column.MEAN_SQUARE].to_numpy(dtype=np.float64) if statistic in ROUNDED else None
    bad = (drawn[Column.NONFINITE].to_numpy() > 0) | ~np.isfinite(y)
    expected = _predicted(drawn, leaves, column)
    spread = _predicted(drawn, leaves, PredictedColumn.LOG_SPREAD)
    shades: tuple[Shade, ...] = ()
    if np.isfinite(spread).any():
        typical = expected * np.exp(-(spread**2) / 2)
        shades = (Shade(typical * np.exp(-spread), typical * np.exp(spread), SPREAD, 0.18),)
    measured = Curve.of("measured", x, y, share, nonfinite=bad, look=None, names=names)
    none = np.zeros(len(x), dtype=np.bool_)
    predicted = Curve("predicted", x, expected, none, zeros(expected, share), shades=shades, look=-1, names=names)
    return measured, predicted


def _predicted(drawn: pd.DataFrame, leaves: pd.DataFrame, column: PredictedColumn) -> FloatArray:
    """A column's numbers at the rows that are drawn, else at the activation of the same call."""
    if column not in leaves:
        return np.full(len(drawn), np.nan)
    own = drawn[column].to_numpy(dtype=np.float64)
    activations = rows_of(leaves, Signal.ACTIVATION).drop_duplicates(Column.DEPTH).set_index(Column.DEPTH)
    there = activations[column].reindex(drawn[Column.DEPTH]).to_numpy(dtype=np.float64)
    return np.where(np.isfinite(own), own, there)


def _farthest(measured: Curve, predicted: Curve) -> str:
    """Measured over predicted, at the layer where they are farthest apart."""
    use = np.isfinite(measured.y) & np.isfinite(predicted.y) & ~measured.zero & ~predicted.zero
    use &= (measured.y > 0) & (predicted.y > 0)
    if not use.any():
        return ""
    ratio = np.where(use, measured.y, 1.0) / np.where(use, predicted.y, 1.0)
    worst = int(np.argmax(np.abs(np.log(ratio))))
    return f"farthest from theory at {measured.names[worst]}: measured ×{brief(float(ratio[worst]))}"
