"""How far the signal travels along the network, and which kinds of steps take or give how much of it.

The second moment is followed from one component of the network to the next (see :mod:`spp.diagnosis.path`), the readout left
out. Backwards it is the squared norm of the gradient of the whole tensor, mean square times elements: pooling and strides
share a gradient out among more elements, which is no loss.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from spp.diagnosis.kinds import Kind
from spp.diagnosis.view import View
from spp.frame.schema import Column
from spp.vocabulary import Severity

FOLD = float(np.log10(np.e))
"""Decades in an e-fold."""


@dataclass(frozen=True, slots=True)
class Leg:
    """The longest way in one direction.

    Attributes:
        decades: log10 of the ratio of second moments at its end and start, positive for a rise.
        start, end: Components at which it starts and ends, in the direction of travel.
        first, last: Values there.
        layers: Weighted layers on the way, at least 1.
        components: Components on the way.
    """

    decades: float
    start: str
    end: str
    first: float
    last: float
    layers: int
    components: tuple[str, ...]

    @property
    def rate(self) -> float:
        """Decades per weighted layer, without sign."""
        return abs(self.decades) / self.layers


@dataclass(frozen=True, slots=True)
class Travel:
    """The deepest fall and the highest rise along a path; None where fewer than two places were measured."""

    down: Leg | None
    up: Leg | None

    @property
    def fall(self) -> float:
        """Decades lost on the deepest fall."""
        return -self.down.decades if self.down is not None else 0.0

    @property
    def rise(self) -> float:
        """Decades gained on the highest rise."""
        return self.up.decades if self.up is not None else 0.0


def forward(view: View) -> Travel:
    """The travel of the activations' mean square."""
    return _travel(view, view.stream, view.stream[Column.MEAN_SQUARE])


def distinct(view: View) -> Travel:
    """The travel of the activations' channel variance: of what tells samples apart, where a constant is no signal."""
    return _travel(view, view.stream, view.stream[Column.ACV])


def backward(view: View) -> Travel:
    """The travel of the gradient's squared norm, from the readout to the input."""
    path = view.back.iloc[::-1]
    return _travel(view, path, path[Column.MEAN_SQUARE] * path[Column.NUMEL])


def _travel(view: View, path: pd.DataFrame, values: pd.Series) -> Travel:
    good = np.isfinite(values) & (values > 0) & (path[Column.NONFINITE] == 0)
    path, values = path[good], values[good]
    if len(values) < 2:
        return Travel(None, None)
    logs = np.log10(values.to_numpy(dtype=np.float64))
    highest, lowest = np.maximum.accumulate(logs), np.minimum.accumulate(logs)
    legs = []
    for edge, end in ((highest, int((logs - highest).argmin())), (lowest, int((logs - lowest).argmax()))):
        start = int(np.flatnonzero(logs[: end + 1] == edge[end])[-1])
        legs.append(_leg(view, path, values, logs, start, end) if end > start else None)
    return Travel(*legs)


def _leg(view: View, path: pd.DataFrame, values: pd.Series, logs: np.ndarray, start: int, end: int) -> Leg:
    ends = sorted(int(path[Column.DEPTH].iloc[i]) for i in (start, end))
    between = [s for s in view.steps if s.kind in (Kind.WEIGHTED, Kind.DEPTHWISE) and ends[0] < s.depth <= ends[1]]
    return Leg(
        decades=float(logs[end] - logs[start]),
        start=str(path.index[start]),
        end=str(path.index[end]),
        first=float(values.iloc[start]),
        last=float(values.iloc[end]),
        layers=max(1, len(between)),
        components=tuple(str(name) for name in path.index[start + 1 : end + 1]),
    )


def judge(leg: Leg | None, at: Any) -> Severity | None:
    """How bad a leg is: long at any rate, or steep over more than 6 e-folds (an error over 12)."""
    if leg is None:
        return None
    decades, steep = abs(leg.decades), leg.rate >= at.rate and leg.layers >= at.layers
    folds = at.efolds * FOLD
    if decades >= at.error or (steep and decades >= 2 * folds):
        return Severity.ERROR
    if decades >= at.warning or (steep and decades >= folds):
        return Severity.WARNING
    return None


def dying(view: View) -> Severity | None:
    """How bad the fall of the activations is, for the rules that know a cause of it."""
    return judge(forward(view).down, view.limits["vanishing"])


@dataclass(frozen=True, slots=True)
class Share:
    """What one kind of step did to the second moment along the stream: how many there are, and their decades in all."""

    kind: str
    steps: int
    decades: float


def account(view: View, leg: Leg) -> list[Share]:
    """Split the decades of a forward leg among the kinds of steps, the largest taker first.

    A component whose steps form a chain is split exactly; one with a residual merge or parallel paths counts as a whole.
    """
    sums: Counter[str] = Counter()
    steps: Counter[str] = Counter()
    logs = {str(name): float(np.log10(value)) for name, value in view.stream[Column.MEAN_SQUARE].items() if value > 0}
    order = list(logs)
    merged = set(view.blocks["block"].astype(str))
    for name in leg.components:
        at = order.index(name)
        change = logs[name] - logs[order[at - 1]] if at else 0.0
        inside = [s for s in view.steps if s.name == name or s.name.startswith(f"{name}.")]
        parts = [s.decades for s in inside]
        if name in merged or not parts or not abs(float(np.sum(parts)) - change) < 0.05:
            sums["residual blocks" if name in merged else "other parts"] += change  # type: ignore[assignment]
            steps["residual blocks" if name in merged else "other parts"] += 1
            continue
        for step in inside:
            sums[step.kind] += step.decades  # type: ignore[assignment]
            steps[step.kind] += 1
    return sorted((Share(kind, steps[kind], float(sums[kind])) for kind in sums), key=lambda s: s.decades)
