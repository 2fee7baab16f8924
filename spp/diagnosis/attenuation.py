"""Attenuation: how far the signal falls or rises along the network, and which kinds of steps take how much of it.

The second moment is followed from one component of the network to the next (see :mod:`spp.diagnosis.main_path`), without the
readout. Backwards it is the squared norm of the gradient of the whole tensor, mean square times elements: pooling and strides
share a gradient out among more elements, which is no loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from spp.diagnosis.view import View
from spp.frame.schema import BlockColumn, Column
from spp.vocabulary import Severity

# Decades in an e-fold.
FOLD = float(np.log10(np.e))


@dataclass(frozen=True, slots=True)
class Leg:
    """The longest way in one direction.

    Attributes:
        rows: The rows of the components on the way, in the direction of travel, with the one at which it starts.
        values: What was followed, by component.
        layers: Weighted layers on the way, at least 1.
        share: Which part of the whole path it is.
    """

    rows: pd.DataFrame
    values: pd.Series
    layers: int
    share: float

    @property
    def places(self) -> list[str]:
        """Names of the components."""
        return [str(name) for name in self.values.index]

    @property
    def decades(self) -> float:
        """log10 of the ratio of the values at its end and start, positive for a rise."""
        return float(np.log10(self.values.iloc[-1]) - np.log10(self.values.iloc[0]))

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
    rows, values = path[good], values[good].astype("float64")
    if len(values) < 2:
        return Travel(None, None)
    logs = np.log10(values.to_numpy())
    # The deepest fall ends where the values lie farthest below their running maximum, and starts where that was last reached.
    highest, lowest = np.maximum.accumulate(logs), np.minimum.accumulate(logs)
    legs: list[Leg | None] = []
    for edge, end in ((highest, int((logs - highest).argmin())), (lowest, int((logs - lowest).argmax()))):
        start = int(np.flatnonzero(logs[: end + 1] == edge[end])[-1])
        on_way = slice(start, end + 1)
        first, last = sorted(int(rows[Column.DEPTH].iloc[i]) for i in (start, end))
        layers = sum(step.is_weighted and first < step.depth <= last for step in view.steps)
        leg = Leg(rows.iloc[on_way], values.iloc[on_way], max(1, layers), (end - start) / len(path))
        legs.append(leg if end > start else None)
    return Travel(*legs)


def judge(leg: Leg | None, at: Any) -> Severity | None:
    """How bad a leg is: long at any rate, or steep over more than 6 e-folds (an error over 12)."""
    if leg is None:
        return None
    decades, steep = abs(leg.decades), leg.rate >= at.rate and leg.layers >= at.layers
    folds = at.efolds * FOLD
    # Steep is bad from the depth on at which networks could still be trained, and twice as deep it is an error.
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


def attenuation(view: View, leg: Leg) -> list[Share]:
    """Split the decades of a forward leg among the kinds of steps, the largest taker first.

    A component whose steps form a chain is split exactly; one with a residual merge or parallel paths counts as a whole.
    """
    parts: dict[str, list[float]] = {}
    values = view.stream[Column.MEAN_SQUARE].astype("float64")
    # The log of a zero would make the differences on both sides of it infinite.
    change = pd.Series(np.log10(values[values > 0])).diff().fillna(0.0)
    merged = set(view.blocks[BlockColumn.BLOCK].astype(str))
    for name in leg.places[1:]:
        inside = view.inside(name)
        chain = inside and name not in merged and abs(sum(s.decades for s in inside) - change[name]) < 0.05
        if chain:
            for step in inside:
                parts.setdefault(step.kind, []).append(step.decades)
        else:
            parts.setdefault("residual blocks" if name in merged else "other parts", []).append(change[name])
    return sorted((Share(kind, len(all_), float(sum(all_))) for kind, all_ in parts.items()), key=lambda s: s.decades)
