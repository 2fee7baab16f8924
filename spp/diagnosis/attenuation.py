"""Attenuation: how far the signal falls or rises along the network, and which kinds of steps take how much of it.

The second moment is followed from one component to the next along each way through the network (:attr:`View.ways`), without the
readout. Backwards it is the squared norm of the gradient of the whole tensor, mean square times elements: strides and widths
share a gradient out among more elements, which is no loss. What pooling, softmax and the like do follows from their algebra
(a mean over ``k`` places divides the squared norm of the gradient by ``k``): it is taken out, and the remainder is judged.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from spp.diagnosis.main_path import prefixes
from spp.diagnosis.view import Array, Key, Kind, Step, View, ratio
from spp.vocabulary import Role, Severity

# The scale of these is their own: a course neither begins nor ends there.
OWN = (Kind.NORM, Kind.PLAIN, Kind.TABLE)
# Places inside a residual block, of those that have residual blocks inside.
LONGEST_BRANCH = 12


@dataclass(frozen=True)
class Leg:
    """The longest way in one direction.

    Attributes:
        keys: The ends of the components on the way, in the direction of travel, with the one at which it starts.
        values: What was followed, there.
        logs: log10 of it.
        explained: Decades of it between start and end that pooling and the like explain.
        layers: Weighted layers on the way, at least 1.
        share: Which part of the whole network it is.
    """

    keys: list[Key]
    values: list[float]
    logs: Array
    explained: float
    layers: int
    share: float

    @property
    def places(self) -> list[str]:
        """Names of the components."""
        return [key.name for key in self.keys]

    @property
    def decades(self) -> float:
        """log10 of the ratio of what was followed at its end and start, positive for a rise, of what nothing explains."""
        raw = float(self.logs[-1] - self.logs[0])
        return float(np.sign(raw) * max(0.0, min(abs(raw), abs(raw) - np.sign(raw) * self.explained)))

    @property
    def rate(self) -> float:
        """Decades per weighted layer, without sign."""
        return abs(self.decades) / self.layers

    @cached_property
    def begins(self) -> Key:
        """Where it begins in earnest: the first place with a sixth of it, or half of what an even course would have there."""
        done = (self.logs[1:] - self.logs[0]) / (self.logs[-1] - self.logs[0])
        even = np.arange(1, len(self.logs)) / (len(self.logs) - 1)
        return self.keys[1 + int(np.argmax(done >= np.minimum(1 / 6, even / 2)))]


@dataclass(frozen=True, slots=True)
class Travel:
    """The deepest fall and the highest rise along the ways; None where fewer than two places of each were measured."""

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
    return _travel(view, "mean_square", lambda row: row.mean_square)


def distinct(view: View) -> Travel:
    """The travel of the activations' channel variance: of what tells samples apart, where a constant is no signal."""
    return _travel(view, "acv", lambda row: row.acv)


def backward(view: View) -> Travel:
    """The travel of the gradient's squared norm, from the readout to the input."""
    return _travel(view, "gradient", lambda row: row.mean_square * row.numel)


def _travel(view: View, what: str, value: Callable[[Any], float]) -> Travel:
    if what not in view.travels:
        rows = view.gradients if what == "gradient" else view.activations
        ways = [[key for key in way if key in rows] for way in view.ways]
        size = sum(map(len, ways))
        legs = [leg for way in ways for leg in _legs(view, way, what, [value(rows[key]) for key in way], size)]
        down, up = (
            max((leg for leg in legs if sign * leg.decades > 0), key=lambda leg: sign * leg.decades, default=None)
            for sign in (-1, 1)
        )
        view.travels[what] = Travel(down, up)
    found: Travel = view.travels[what]
    return found


def _legs(view: View, way: list[Key], what: str, values: list[float], size: int) -> list[Leg]:
    """The deepest fall and the highest rise along one way."""
    explained = _explained(view, way, what)
    free = _free(view)
    finite = [i for i, value in enumerate(values) if 0 < value < np.inf]
    judged = [i for i in finite if way[i] not in free]
    # Too little would be left of a network of one or two layers.
    judged = judged if len(judged) > 1 or len(way) < size else finite
    if len(judged) < 2:
        return []
    order = judged[::-1] if what == "gradient" else judged
    logs = np.log10([values[i] for i in order])
    # What pooling takes may make a leg, or hide one.
    ends = {pair for followed in (logs, logs - explained[order]) for pair in _extremes(followed)}
    legs = []
    for start, end in ends:
        on_way = order[start : end + 1]
        first, last = sorted(int(view.activations[way[i]].depth) for i in (on_way[0], on_way[-1]))
        layers = sum(step.is_weighted and first < step.depth <= last for step in view.steps)
        taken = float(explained[on_way[-1]] - explained[on_way[0]])
        keys, share = [way[i] for i in on_way], (end - start) / size
        told = [float(values[i]) for i in on_way]
        legs.append(Leg(keys, told, logs[start : end + 1], taken, max(1, layers), share))
    return legs


def _extremes(logs: Array) -> Iterator[tuple[int, int]]:
    """Where the deepest fall and the highest rise start and end."""
    # The deepest fall ends where the values lie farthest below their running maximum, and starts where that was last reached.
    highest, lowest = np.maximum.accumulate(logs), np.minimum.accumulate(logs)
    for edge, end in ((highest, int((logs - highest).argmin())), (lowest, int((logs - lowest).argmax()))):
        start = int(np.flatnonzero(logs[: end + 1] == edge[end])[-1])
        if end > start:
            yield start, end


def _free(view: View) -> set[Key]:
    """Places that are judged by nothing or by other rules.

    The readout, whose scale is free, and what follows it; what stands alone and has a scale of its own; and what lies on a
    residual branch, whose sum follows.
    """
    if "free" not in view.travels:
        end = max((step.depth for step in view.steps if step.name == view.readout), default=1 << 60)
        every = [key for way in view.ways for key in way]
        outer = {
            key: [name for name in prefixes(key.name) if name in view.merged and name != key.name] for key in every
        }
        # A skip over a whole stage makes no branch of it.
        sizes = Counter(name for names in outer.values() for name in names)
        view.travels["free"] = {
            key
            for key in every
            if int(view.activations[key].depth) >= end
            or view.activations[key].role == Role.BRANCH
            or any(sizes[name] <= LONGEST_BRANCH for name in outer[key])
            or ((step := view.by_key.get(key)) is not None and step.kind in OWN)
        }
    found: set[Key] = view.travels["free"]
    return found


def _explained(view: View, way: list[Key], what: str) -> Array:
    """log10 of what pooling and the like did up to each place of a way, in the direction of travel."""
    found = np.zeros(len(way))
    for i, key in enumerate(way):
        steps = (view.by_key.get(key),) if key in view.by_key else _chain(view, way[i - 1], key) if i else ()
        for step in steps:
            if step is not None and step.kind is Kind.PLAIN:
                decades = view.backward_decades(step) if what == "gradient" else _decades(view, step, what)
                found[i] += decades if math.isfinite(decades) else 0.0
        before = view.activations[way[i - 1]] if i else None
        row = view.activations[key]
        # Where places are averaged, joined to channels or left behind, the spread between them is no longer in the ACV.
        if what == "acv" and before is not None and view.places(row) < view.places(before):
            decades = ratio(row.acv, before.acv) - ratio(row.mean_square, before.mean_square)
            found[i] = decades if math.isfinite(decades) else 0.0
    # A gradient at the output of a step has not yet come through it.
    return np.cumsum(found[::-1])[::-1] - found if what == "gradient" else np.cumsum(found)


def _decades(view: View, step: Step, what: str) -> float:
    sources = view.sources(step.key)
    # NaN is no number of decades.
    return ratio(getattr(step.row, what), getattr(sources[0], what)) if len(sources) == 1 else 0.0


def _chain(view: View, before: Key, key: Key) -> list[Step]:
    """The steps of a component where each feeds the next; none where it has a residual merge or parallel paths."""
    change = ratio(view.activations[key].mean_square, view.activations[before].mean_square)
    inside = view.inside(key.name)
    chain = key.name not in view.merged and abs(sum(step.decades for step in inside) - change) < 0.05
    return inside if chain else []


def judge(leg: Leg | None, at: Any) -> Severity | None:
    """How bad a leg is, by its decades; what one or two layers do is a cliff, and none of its business."""
    decades = abs(leg.decades) if leg is not None and leg.layers >= at.layers else 0.0
    return Severity.ERROR if decades >= at.error else Severity.WARNING if decades >= at.warning else None


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
    for before, key, value in zip(leg.keys, leg.keys[1:], np.diff(np.log10(leg.values)), strict=False):
        own = view.by_key.get(key)
        for step in [own] if own is not None else _chain(view, before, key):
            parts.setdefault(step.kind, []).append(step.decades)
        if own is None and not _chain(view, before, key):
            name = "residual blocks" if key.name in view.merged else "other parts"
            parts.setdefault(name, []).append(float(value))
    return sorted((Share(kind, len(all_), float(sum(all_))) for kind, all_ in parts.items()), key=lambda s: s.decades)
