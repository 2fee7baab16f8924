"""The prediction as a table, and its columns in a trace's frame."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from spp.capture.sites import Entry
from spp.frame.schema import COLUMNS, PREDICTED, Column, Spec, check
from spp.vocabulary import Signal

if TYPE_CHECKING:
    from spp.theory.walk import Visit


class PredictionColumn(StrEnum):
    """Columns of a prediction, one row per output of a module call."""

    NAME = "name"
    CALL = "call"
    OUTPUT = "output"
    TYPE = "type"
    ACSM = "acsm_predicted"
    ACV = "acv_predicted"
    GRADIENT = "gradient_predicted"
    LOG_SPREAD = "log_spread_predicted"
    GRADIENT_LOG_SPREAD = "gradient_log_spread_predicted"
    REASON = "reason"


PREDICTION_COLUMNS: dict[PredictionColumn, Spec] = {
    PredictionColumn.NAME: Spec("str", "module", "qualified module name, empty for the root"),
    PredictionColumn.CALL: Spec("int64", "call", "0 for the module's first call in the pass"),
    PredictionColumn.OUTPUT: Spec("str", "output", "which output, empty for a lone tensor"),
    PredictionColumn.TYPE: Spec("category", "type", "class name of the module"),
    PredictionColumn.ACSM: Spec("float64", "ACSM (theory)", "predicted average channel squared mean", missing=True),
    PredictionColumn.ACV: Spec("float64", "ACV (theory)", "predicted average channel variance", missing=True),
    PredictionColumn.GRADIENT: Spec(
        "float64",
        "gradient mean square (theory)",
        "predicted mean square of the gradient, for a unit one at the output",
        missing=True,
    ),
    PredictionColumn.LOG_SPREAD: Spec(
        "float64",
        "spread of the log (theory)",
        "standard deviation, over draws of the weights, of the natural log of the second moment",
        missing=True,
    ),
    PredictionColumn.GRADIENT_LOG_SPREAD: Spec(
        "float64", "spread of the log of the gradient (theory)", "the same of the gradient's mean square", missing=True
    ),
    PredictionColumn.REASON: Spec("str", "reason", "why there is no prediction; empty where there is one"),
}
C = PredictionColumn


def table(visits: Sequence[Visit], entries: Sequence[Entry], reason: str) -> pd.DataFrame:
    """One row per visit, and one for every module that was not visited where the walk ended early (``reason``)."""
    rows: list[tuple[object, ...]] = []
    for visit in visits:
        field = visit.field
        gradient = None if field is None else field.gradient or field.shown
        rows.append(
            (
                visit.entry.name,
                visit.call,
                visit.output,
                visit.entry.type,
                np.nan if field is None else field.acsm,
                np.nan if field is None else field.acv,
                np.nan if gradient is None else gradient.second,
                np.nan if field is None else sqrt(max(field.spread, 0.0)),
                np.nan if gradient is None else sqrt(max(gradient.spread, 0.0)),
                "" if field is not None else visit.reason or "unknown",
            )
        )
    if reason:
        seen = {visit.entry.name for visit in visits}
        rows += [(e.name, 0, "", e.type, *(np.nan,) * 5, reason) for e in entries if e.name not in seen]
    frame = pd.DataFrame(rows, columns=[str(c) for c in PREDICTION_COLUMNS])
    for column, spec in PREDICTION_COLUMNS.items():
        frame[str(column)] = frame[str(column)].astype(spec.dtype)  # type: ignore[call-overload]
    return check(frame, PREDICTION_COLUMNS)


def attach(frame: pd.DataFrame, prediction: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with the predicted columns of :data:`spp.frame.schema.PREDICTED`; neither argument is changed.

    Rows are matched by name, call and output. Activations get ``acsm_predicted`` and ``acv_predicted``, gradients
    ``gradient_predicted``, both ``log_spread_predicted``; everything else stays missing. Theory is linear in the gradient, and
    a loss has a scale of its own: predicted gradients are multiplied so that they begin, at the model's output, as the
    measured one does.

    Args:
        frame: Of a trace.
        prediction: Of the same model, see :func:`spp.theory.predict`.
    """
    keys = [str(Column.NAME), str(Column.CALL), str(Column.OUTPUT)]
    kept = frame[[c for c in frame.columns if c not in set(map(str, PREDICTED))]]
    found = kept[keys].merge(prediction, how="left", on=keys, validate="many_to_one").set_index(kept.index)
    signal = kept[Column.SIGNAL].astype(str)
    activation, gradient = signal == str(Signal.ACTIVATION), signal == str(Signal.GRADIENT)
    scale = _scale(kept, found, gradient)
    columns = {
        Column.ACSM_PREDICTED: found[C.ACSM].where(activation),
        Column.ACV_PREDICTED: found[C.ACV].where(activation),
        Column.GRADIENT_PREDICTED: found[C.GRADIENT].where(gradient) * scale,
        Column.LOG_SPREAD_PREDICTED: found[C.LOG_SPREAD]
        .where(activation)
        .fillna(found[C.GRADIENT_LOG_SPREAD].where(gradient)),
    }
    joined = kept.assign(**{str(name): values.astype("float64") for name, values in columns.items()})
    return check(joined, COLUMNS)


def _scale(frame: pd.DataFrame, found: pd.DataFrame, gradient: pd.Series[bool]) -> float:
    """Measured over predicted mean square of the gradient at the model's outputs; 1 where that was not measured."""
    root = gradient & (frame[Column.NAME] == "")
    measured = frame.loc[root, Column.MEAN_SQUARE] * frame.loc[root, Column.NUMEL]
    predicted = found.loc[root, str(C.GRADIENT)] * frame.loc[root, Column.NUMEL]
    known = measured.notna() & predicted.notna()
    total = float(predicted[known].sum())
    return float(measured[known].sum()) / total if total > 0 else 1.0
