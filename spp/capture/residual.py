"""Finds residual merges while the forward pass runs, without any change to the model.

Two things are watched: which tensors flow into and out of which module calls (:mod:`spp.capture.lineage`), and which tensors
are added (:mod:`spp.capture.additions`). An addition merges a residual branch with its skip when one operand can be traced
back, through at least one module call, to the other (an identity skip), or both can be traced back to a common tensor, one of
them in fewer steps (a projected skip). The block is the innermost call inside which the whole branch ran.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heappop, heappush

from torch import Tensor

from spp.capture.lineage import Lineage, Value
from spp.capture.sites import Call, Site
from spp.vocabulary import Role

PROJECTION = 6
"""A projected skip has at most this many leaf calls (norm, activation, pooling, convolution, norm, dropout)."""
REACH = 4096
"""Values looked at upstream of a branch at most."""
PAST = 256
"""Values looked at upstream of a skip at most: sums cost nothing, so the way back through earlier blocks has no other end."""
FOREVER = 1 << 62


@dataclass(slots=True, eq=False)
class Merge:
    """One residual merge.

    Attributes:
        block: The innermost call that encloses the branch.
        number: 0 for the first merge of that call.
        branch: The call whose output ends the branch, innermost where several gave it out.
        branch_value, skip, total: The values that met, and their sum.
        transition: Whether the skip went through modules of the block.
        stream: Reading of the sum where no module gives it out but the next merge of the block uses it as its skip.
    """

    block: Call
    number: int
    branch: Call
    branch_value: Value
    skip: Value
    total: Value
    transition: bool
    stream: Site | None = None

    @property
    def origin(self) -> Value:
        """The skip before functions that no module announces (a scale, a cast): what a module or a merge gave out."""
        value = self.skip
        while not value.producers and value.merge is None and len(value.sources) == 1:
            value = value.sources[0]
        return value


class Merges:
    """The residual merges of one forward pass.

    Args:
        lineage: What flowed where.
        on_stream: Called with a merge, its sum and the sum's value where no module gives the sum out but a later addition of
            the same block reads it.
    """

    def __init__(self, lineage: Lineage, on_stream: Callable[[Merge, Tensor, Value], None]) -> None:
        self.found: list[Merge] = []
        self._lineage, self._on_stream = lineage, on_stream
        self._last: dict[int, Merge] = {}

    def added(self, value_a: Value, value_b: Value, out: Tensor, same_shape: bool, stack: list[Call]) -> None:
        """Note that the tensors of two values were added and gave ``out`` (perhaps the first of them, changed in place)."""
        if value_a is value_b:
            return
        total = self._lineage.remember(out, (value_a, value_b))
        if not same_shape or out.dim() < 2 or not stack:
            return
        found = _split(value_a, value_b)
        if found is None:
            return
        branch, skip, cost, first = found
        inside = [call for call in stack if call.start < first]
        ends = _producers(branch)
        if not inside or not ends:
            return
        block = inside[-1]
        ends = [call for call in ends if call is not block] or ends
        last = self._last.get(id(block))
        merge = Merge(block, last.number + 1 if last is not None else 0, ends[0], branch, skip, total, cost > 0)
        total.merge = self._last[id(block)] = merge
        self.found.append(merge)

    def streams(self, tensor: Tensor, stack: list[Call]) -> Value:
        """The value of an operand; where it is a sum that no module gave out, it is measured now, while it lasts."""
        value = self._lineage.value(tensor)
        merge = value.merge
        if merge is not None and not value.sites and merge.stream is None and merge.block in stack:
            self._on_stream(merge, tensor, value)
        return value

    def finish(self) -> list[Merge]:
        """The merges of the pass, roles marked on the sites; recurrences that only look like merges are dropped."""
        repeats = Counter(_recurrence(m) for m in self.found)
        kept = [m for m in self.found if _recurrence(m) is None or repeats[_recurrence(m)] == 1]
        for merge in kept:
            for role, sites in (
                (Role.SKIP, merge.skip.sites or merge.origin.sites),
                (Role.SUM, merge.total.sites),
                (Role.BRANCH, _end_sites(merge)),
            ):
                for site in sites:
                    if site.role is None or role is Role.BRANCH or site.role is Role.SKIP:
                        site.role = role
        return kept


def _recurrence(merge: Merge) -> tuple[int, int] | None:
    """The block's call and the module that projects the skip: one that does so repeatedly is an RNN cell's input layer."""
    if not merge.transition or not merge.skip.producers:
        return None
    return id(merge.block), id(merge.skip.producers[0].entry)


def _end_sites(merge: Merge) -> Iterable[Site]:
    """The sites of the tensor that ends the branch, nearest to the merge."""
    if merge.branch_value.sites:
        return merge.branch_value.sites
    return [s for s in merge.branch.sites if s.output in ("", "0")]


def _producers(value: Value) -> list[Call]:
    """The calls that gave out a value, or the latest ones upstream of it where it was only scaled or reshaped since."""
    queue, seen, best = [value], {id(value)}, []
    while queue:
        current = queue.pop(0)
        if current.producers:
            best.append(current.producers)
            continue
        for source in current.sources:
            if id(source) not in seen:
                seen.add(id(source))
                queue.append(source)
    return max(best, key=lambda calls: calls[0].start) if best else []


def _distances(value: Value, since: int, limit: int, reach: int) -> dict[int, tuple[int, int, Value]]:
    """Leaf calls between ``value`` and each value upstream seen at tick ``since`` or later, with the first call's start.

    A Dijkstra walk: a value's sources cost nothing, a producer costs the leaf calls that ran in it. Among equals the latest
    value goes first, so that where ``reach`` ends the walk what is near has been seen.
    """
    settled: dict[int, tuple[int, int, Value]] = {}
    heap: list[tuple[int, int, int, int, Value]] = [(0, -value.time, FOREVER, 0, value)]
    serial = 0
    while heap and len(settled) < reach:
        cost, _, first, _, current = heappop(heap)
        if id(current) in settled:
            continue
        settled[id(current)] = (cost, first, current)
        for source in current.sources:
            if source.time >= since and id(source) not in settled:
                serial += 1
                heappush(heap, (cost, -source.time, first, serial, source))
        for call in current.producers:
            price, began = cost + max(1, call.leaves), min(first, call.start)
            if price > limit:
                continue
            for source in call.inputs:
                if source.time >= since and id(source) not in settled:
                    serial += 1
                    heappush(heap, (price, -source.time, began, serial, source))
    return settled


def _split(a: Value, b: Value) -> tuple[Value, Value, int, int] | None:
    """``(branch, skip, leaf calls of the skip, start of the branch's first call)``, or None for an ordinary sum."""
    for skip, branch in ((a, b), (b, a)):  # an identity skip is found within the branch itself, however long the past
        found = _distances(branch, skip.time, REACH, REACH).get(id(skip)) if branch.time >= skip.time else None
        if found is not None and found[0] > 0:
            return branch, skip, 0, found[1]
    candidates = []
    for skip, branch in ((a, b), (b, a)):
        short = _distances(skip, 0, PROJECTION, PAST)
        oldest = min(v.time for _, _, v in short.values())
        long = _distances(branch, oldest, REACH, REACH)
        for key, (cost, _, _) in short.items():
            other = long.get(key)
            if other is not None and other[0] > cost:
                candidates.append((cost, -other[0], branch, skip, other[1]))
    if not candidates:
        return None
    best = min(candidates, key=lambda c: (c[0], c[1]))
    rivals = [c for c in candidates if c[0] == best[0] and c[2] is not best[2]]
    if rivals and -rivals[0][1] == -best[1]:
        return None
    return best[2], best[3], best[0], best[4]
