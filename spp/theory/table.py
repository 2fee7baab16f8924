"""The prediction as a table, and its columns in a trace's frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import pandas as pd

from spp.capture.sites import Entry
from spp.frame.schema import COLUMNS, PREDICTED, Column, Described, Spec, check
from spp.stats.statistics import number
from spp.theory.moments_state import MomentsState
from spp.vocabulary import Signal


class PredictionColumn(Described):
    """Columns of a prediction, one row per output of a module call."""

    NAME = "name", Spec("str", "module", "qualified module name, empty for the root")
    CALL = "call", Spec("int64", "call", "0 for the module's first call in the pass")
    OUTPUT = "output", Spec("str", "output", "which output, empty for a lone tensor")
    TYPE = "type", Spec("category", "type", "class name of the module")
    ACSM = "acsm_predicted", number("ACSM (theory)", "predicted average channel squared mean")
    ACV = "acv_predicted", number("ACV (theory)", "predicted average channel variance")
    GRADIENT = (
        "gradient_predicted",
        number("gradient mean square (theory)", "predicted mean square of the gradient, for a unit one at the output"),
    )
    LOG_SPREAD = (
        "log_spread_predicted",
        number(
            "spread of the log (theory)",
            "standard deviation, over draws of the weights, of the natural log of the second moment",
        ),
    )
    GRADIENT_LOG_SPREAD = (
        "gradient_log_spread_predicted",
        number("spread of the log of the gradient (theory)", "the same of the gradient's mean square"),
    )
    REASON = "reason", Spec("str", "reason", "why there is no prediction; empty where there is one")


PREDICTION_COLUMNS: dict[PredictionColumn, Spec] = {column: column.spec for column in PredictionColumn}
C = PredictionColumn
# Rows of a prediction and of a frame belong together where these agree.
KEYS = (Column.NAME, Column.CALL, Column.OUTPUT)


@dataclass(frozen=True, slots=True, eq=False)
class Visit:
    """One output of one module call.

    Attributes:
        entry: The module.
        call: 0 for the module's first call.
        output: Path inside the output.
        state: Its moments, if they are known.
        reason: Why nothing is known.
    """

    entry: Entry
    call: int
    output: str
    state: MomentsState | None
    reason: str

    def row(self) -> tuple[object, ...]:
        """The values of all columns."""
        place, state = (self.entry.name, self.call, self.output, self.entry.type), self.state
        if state is None:
            return *place, *(np.nan,) * 5, self.reason or "unknown"
        gradient, spread = state.gradient or state.shown, sqrt(max(state.spread, 0.0))
        if gradient is None:
            return *place, state.acsm, state.acv, np.nan, spread, np.nan, ""
        return *place, state.acsm, state.acv, gradient.second, spread, sqrt(max(gradient.spread, 0.0)), ""


def table(visits: Sequence[Visit], entries: Sequence[Entry], reason: str) -> pd.DataFrame:
    """One row per visit, and one for every module that was not visited where the walk ended early (``reason``)."""
    seen = {visit.entry.name for visit in visits}
    missed = [Visit(entry, 0, "", None, reason) for entry in entries if reason and entry.name not in seen]
    frame = pd.DataFrame([visit.row() for visit in (*visits, *missed)], columns=[str(c) for c in C])
    for column in C:
        frame[str(column)] = frame[str(column)].astype(column.spec.dtype)  # type: ignore[call-overload]
    return check(frame, PREDICTION_COLUMNS)


def attach(frame: pd.DataFrame, prediction: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with the predicted columns of :data:`spp.frame.schema.PREDICTED`; neither argument is changed.

    Rows are matched by name, call and output. Activations get ``acsm_predicted`` and ``acv_predicted``, gradients
    ``gradient_predicted``, both ``log_spread_predicted``; everything else stays missing. Theory is linear in the gradient, and
    a loss has a scale of its own: predicted gradients are multiplied so that they begin, at the model's output, as the
    measured one does.

    Args:
        frame: The frame of a trace.
        prediction: The table of :func:`spp.theory.predict` for the same model.
    """
    keys = [str(key) for key in KEYS]
    kept = frame[[c for c in frame.columns if c not in set(map(str, PREDICTED))]]
    # merge() makes an index of its own; the frame's is put back so that the columns below align.
    found = kept[keys].merge(prediction, how="left", on=keys, validate="many_to_one").set_index(kept.index)
    signal = kept[Column.SIGNAL].astype(str)
    activation, gradient = signal == str(Signal.ACTIVATION), signal == str(Signal.GRADIENT)
    scale = _scale(kept, found, gradient)
    spread = found[C.LOG_SPREAD].where(activation).fillna(found[C.GRADIENT_LOG_SPREAD].where(gradient))
    columns = {
        Column.ACSM_PREDICTED: found[C.ACSM].where(activation),
        Column.ACV_PREDICTED: found[C.ACV].where(activation),
        Column.GRADIENT_PREDICTED: found[C.GRADIENT].where(gradient) * scale,
        Column.LOG_SPREAD_PREDICTED: spread,
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
