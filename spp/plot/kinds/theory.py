"""What theory predicts over what was measured, where the frame carries predictions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from spp.errors import InputError
from spp.frame.schema import Column
from spp.plot.captions import brief, by_depth
from spp.plot.kinds import Drawing, Request, figure
from spp.plot.panels import Curve, Curves, FloatArray, Scale, Shade, short
from spp.plot.series import Series, align, as_signals, chosen, innermost, layer_curves, rows_of, series, zeros_of
from spp.vocabulary import Signal

DRAWN: dict[Signal, dict[Column, Column]] = {
    Signal.ACTIVATION: {Column.ACSM: Column.ACSM_PREDICTED, Column.ACV: Column.ACV_PREDICTED},
    Signal.GRADIENT: {Column.MEAN_SQUARE: Column.GRADIENT_PREDICTED},
}
"""By signal and measured statistic: where its prediction is."""

SPREAD = "expected spread over seeds"

STRIP = 0.5
"""Height of the strip below a panel, as a share of a row."""

LEAST = 2.0
"""Factor on either side of one that a strip shows at least, so that small differences look small."""


@figure("theory")
def theory(request: Request) -> Drawing:
    """Predictions over measurements: ACSM and ACV of activations, the mean square of gradients.

    The measured curve is the signal's, the prediction is dashed; two that coincide show nothing, so the strip below has what
    was measured over what was predicted. Where the frame has ``log_spread_predicted``, the standard deviation s of the natural
    logarithm of a mean square over seeds, there is a band in which two draws of three lie: of one such deviation on either
    side of the typical draw, which is the prediction, a mean over draws, times exp(-s^2 / 2).

    Takes ``signals``, ``statistics`` (all that are predicted when left out) and ``step``.
    """
    signals = as_signals(request.signals, tuple(DRAWN), tuple(DRAWN))
    known = [str(statistic) for by_statistic in DRAWN.values() for statistic in by_statistic]
    names = chosen(request.statistics, known, known, "statistic")
    rows, step = request.at_step()
    pairs = [(signal, one, column) for signal in signals for one, column in DRAWN[signal].items() if one in names]
    if not any(column in rows and rows[column].notna().any() for _, _, column in pairs):
        raise InputError(
            "the theory figure needs predictions",
            received=f"a frame without {', '.join(str(column) for _, _, column in pairs) or 'any'}",
            where="kind",
            remedy="Add them with spp.theory.predict(model, batch_shape).",
        )
    leaves = innermost(rows, "the theory figure")
    axis = align([leaves])
    grid = []
    for signal, statistic, column in pairs:
        measured, predicted = _curves(
            series(leaves, signal, statistic, axis, label="measured"), leaves, statistic, column
        )
        panel = layer_curves(
            (measured, predicted),
            signal,
            statistic,
            axis.x_axis,
            title=f"{'gradient ' if signal is Signal.GRADIENT else ''}{short(statistic)}",
            message="" if np.isfinite(predicted.y).any() else f"no prediction of {short(statistic)}",
            note=_farthest(measured, predicted),
        )
        grid += [(panel,), (_strip(panel, measured, predicted),)]
    says = f"{by_depth(request.run, tuple(grid))}, measured (solid) and predicted (dashed), and one over the other"
    return Drawing(tuple(grid), step, says)


def _curves(found: Series, leaves: pd.DataFrame, statistic: Column, column: Column) -> tuple[Curve, Curve]:
    rows, measured = found
    expected = _predicted(rows, leaves, column)
    spread = _predicted(rows, leaves, Column.LOG_SPREAD_PREDICTED)
    shades: tuple[Shade, ...] = ()
    if np.isfinite(spread).any():
        typical = expected * np.exp(-(spread**2) / 2)
        shades = (Shade(typical * np.exp(-spread), typical * np.exp(spread), SPREAD, 0.18),)
    zero = zeros_of(statistic, expected, rows[Column.MEAN_SQUARE].to_numpy(dtype=np.float64))
    none = np.zeros(len(expected), dtype=np.bool_)
    # a measurement that is missing where there is a prediction is worth a mark
    measured = replace(measured, nonfinite=measured.nonfinite | np.isnan(measured.y))
    return measured, Curve("predicted", measured.x, expected, none, zero, shades, look=-1, names=measured.names)


def _predicted(drawn: pd.DataFrame, leaves: pd.DataFrame, column: Column) -> FloatArray:
    """A column's numbers at the rows that are drawn, else at the activation of the same call."""
    if column not in leaves:
        return np.full(len(drawn), np.nan)
    # predictions of gradients stand on their own rows or, of a frame without gradients, on those of activations
    own = drawn[column].to_numpy(dtype=np.float64)
    call = [str(Column.NAME), str(Column.CALL)]
    activations = rows_of(leaves, Signal.ACTIVATION).drop_duplicates(call).set_index(call)
    there = activations[column].reindex(pd.MultiIndex.from_frame(drawn[call])).to_numpy(dtype=np.float64)
    return np.where(np.isfinite(own), own, there)


def _strip(panel: Curves, measured: Curve, predicted: Curve) -> Curves:
    """Measured over predicted, with the band in which it is expected."""
    expected = np.where(predicted.y > 0, predicted.y, np.nan)
    shades = tuple(replace(shade, low=shade.low / expected, high=shade.high / expected) for shade in predicted.shades)
    none = np.zeros(len(measured.x), dtype=np.bool_)
    ratio = Curve("", measured.x, _ratio(measured, predicted), none, none, shades, look=None, names=measured.names)
    return Curves(
        signal=panel.signal,
        statistic=f"{panel.statistic}:ratio",
        x_axis=panel.x_axis,
        ylabel="measured /\npredicted",
        scale=Scale.LOG,
        message=panel.message or ("" if np.isfinite(ratio.y).any() else "nothing to compare"),
        height=STRIP,
        room=(1 / LEAST, LEAST),
        curves=(ratio,),
        baseline=1.0,
    )


def _ratio(measured: Curve, predicted: Curve) -> FloatArray:
    """Measured over predicted; NaN where one of them is missing or means zero."""
    use = np.isfinite(measured.y) & np.isfinite(predicted.y) & ~measured.zero & ~predicted.zero
    use &= (measured.y > 0) & (predicted.y > 0)
    return np.where(use, measured.y / np.where(use, predicted.y, 1.0), np.nan)


def _farthest(measured: Curve, predicted: Curve) -> str:
    """Measured over predicted, at the layer where they are farthest apart."""
    far = np.abs(np.log(_ratio(measured, predicted)))
    if not np.isfinite(far).any():
        return ""
    worst = int(np.nanargmax(far))
    return f"farthest from theory at {measured.names[worst]}: measured ×{brief(measured.y[worst] / predicted.y[worst])}"
