"""Finds residual merges while the forward pass runs, without any change to the model.

Two things are known: which tensors flow into and out of which module calls (:mod:`spp.capture.dataflow`), and which tensors
are added (:mod:`spp.capture.interception`). An addition merges a residual branch with its skip when one operand can be traced
back, through at least one module call, to the other (an identity skip), or both can be traced back to a common tensor, one of
them in fewer steps (a projected skip). The block is the innermost call inside which the whole branch ran.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from heapq import heappop, heappush

from torch import Tensor

from spp.capture.dataflow import DataFlow, Value
from spp.capture.sites import Call, Site
from spp.vocabulary import Role

PROJECTION = 6
"""A projected skip has at most this many leaf calls (norm, activation, pooling, convolution, norm, dropout)."""
REACH = 4096
"""Values looked at upstream of a branch at most."""
PAST = 256
"""Values looked at upstream of a skip at most: sums cost nothing, so the way back through earlier blocks has no other end.

Upstream of a branch, values that are equally far where its skip may be projected: a loop that adds up has no other end.
"""
FOREVER = 1 << 62


@dataclass(slots=True, eq=False)
class Addition:
    """An addition that merges a branch with its skip.

    Attributes:
        block: The innermost call that encloses the branch.
        number: 0 for the first merge of that call.
        branch: The call whose output ends the branch, innermost where several gave it out.
        branch_value, skip, total: The values that met, and their sum.
        projected: Whether the skip went through modules of the block.
        stream: Site of the sum where no module gives it out but the next merge of the block uses it as its skip.
    """

    block: Call
    number: int
    branch: Call
    branch_value: Value
    skip: Value
    total: Value
    projected: bool
    stream: Site | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Merge:
    """One residual merge of a finished pass.

    Attributes:
        block: The innermost call that encloses the branch.
        number: 0 for the first merge of that call.
        branch: The call whose output ends the branch.
        branch_end: The tensor that ends the branch.
        skip_name: The module that gave out the skip; None for the batch itself.
        transition: Whether the skip was projected.
        after: The residual stream as the block goes on to use it, or its output after the last merge.
    """

    block: Call
    number: int
    branch: Call
    branch_end: Site | None
    skip_name: str | None
    transition: bool
    after: Site | None


class Merges:
    """The residual merges of one forward pass.

    Args:
        flow: What flowed where.
    """

    def __init__(self, flow: DataFlow) -> None:
        self._flow = flow
        self._found: list[Addition] = []
        self._last: dict[Call, Addition] = {}
        self._made: dict[Value, Addition] = {}

    def stream_of(self, value: Value, stack: list[Call]) -> Addition | None:
        """The addition whose sum ``value`` is, where no module has given it out and its block still runs.

        It is the residual stream between two merges of a block, and nobody but the second addition shows it.
        """
        made = self._made.get(value)
        if made is not None and not value.sites and made.stream is None and made.block in stack:
            return made
        return None

    def added(self, a: Value, b: Value, out: Tensor, same_shape: bool, stack: list[Call]) -> None:
        """Note that the tensors of two values were added and gave ``out`` (perhaps the first of them, changed in place)."""
        if a is b:
            return
        total = self._flow.remember(out, (a, b))
        if not same_shape or out.dim() < 2 or not stack:
            return
        found = _split(a, b)
        if found is None:
            return
        branch, skip, cost, first = found
        inside = [call for call in stack if call.start < first]
        ends = _producers(branch)
        if not inside or not ends:
            return
        block = inside[-1]
        ends = [call for call in ends if call is not block] or ends
        number = self._last[block].number + 1 if block in self._last else 0
        addition = Addition(block, number, ends[0], branch, skip, total, cost > 0)
        self._made[total] = self._last[block] = addition
        self._found.append(addition)

    def finish(self) -> tuple[list[Merge], dict[Site, Role]]:
        """The merges of the pass, and the roles of the sites that met; recurrences that only look like merges are dropped."""
        repeats = Counter(_recurrence(a) for a in self._found)
        kept = [a for a in self._found if _recurrence(a) is None or repeats[_recurrence(a)] == 1]
        roles: dict[Site, Role] = {}
        for addition in kept:
            origin = self._origin(addition.skip)
            for role, sites in (
                (Role.SKIP, addition.skip.sites or origin.sites),
                (Role.SUM, addition.total.sites),
                (Role.BRANCH, _branch_sites(addition)),
            ):
                for site in sites:
                    # a block's output is the sum of its own merge and the skip of the next: it stays a sum
                    if role is Role.BRANCH or roles.get(site, Role.SKIP) is Role.SKIP:
                        roles[site] = role
        following: dict[Call, Addition] = {}
        merges = []
        for addition in reversed(kept):
            merges.append(self._described(addition, following.get(addition.block)))
            following[addition.block] = addition
        return merges[::-1], roles

    def _described(self, addition: Addition, following: Addition | None) -> Merge:
        block, origin = addition.block, self._origin(addition.skip)
        if following is None:
            after = main_output(block)
        else:
            after = following.skip.sites[0] if following.skip.sites else addition.stream
        ends = addition.branch_value.sites
        return Merge(
            block,
            addition.number,
            addition.branch,
            ends[0] if ends else main_output(addition.branch),
            origin.producers[0].entry.name if origin.producers else None,
            addition.projected,
            after if after is not None else addition.stream,
        )

    def _origin(self, skip: Value) -> Value:
        """The skip before functions that no module announces (a scale, a cast): what a module or a merge gave out."""
        while not skip.producers and skip not in self._made and len(skip.sources) == 1:
            skip = skip.sources[0]
        return skip


def main_output(call: Call) -> Site | None:
    """The output of a call that carries the signal: its lone tensor, else its first."""
    return next((s for s in call.sites if s.output == ""), call.sites[0] if call.sites else None)


def _recurrence(addition: Addition) -> tuple[int, int] | None:
    """The block's call and the module that projects the skip: one that does so repeatedly is an RNN cell's input layer."""
    if not addition.projected or not addition.skip.producers:
        return None
    return id(addition.block), id(addition.skip.producers[0].entry)


def _branch_sites(addition: Addition) -> list[Site]:
    """The sites of the tensor that ends the branch, nearest to the merge."""
    return addition.branch_value.sites or [s for s in addition.branch.sites if s.output in ("", "0")]


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


def _distances(
    value: Value, since: int, limit: int, reach: int, *, wanted: Collection[int] = (), abreast: int = REACH
) -> dict[int, tuple[int, int, Value]]:
    """Leaf calls between ``value`` and each value upstream seen at tick ``since`` or later, with the first call's start.

    A Dijkstra walk: a value's sources cost nothing, a producer costs the leaf calls that ran in it. Among equals the latest
    value goes first, so that where ``reach``, or ``abreast`` of equals, ends the walk what is near has been seen. It also ends
    where all that is ``wanted`` has been.
    """
    settled: dict[int, tuple[int, int, Value]] = {}
    heap: list[tuple[int, int, int, int, Value]] = [(0, -value.time, FOREVER, 0, value)]
    # the serial number keeps the heap from comparing values, which have no order
    serial = 0
    missing, level, equals = set(wanted), 0, 0
    while heap and len(settled) < reach:
        cost, _, first, _, current = heappop(heap)
        if id(current) in settled:
            continue
        settled[id(current)] = (cost, first, current)
        level, equals = cost, equals + 1 if cost == level else 1
        missing.discard(id(current))
        if equals >= abreast or (wanted and not missing):
            break
        steps = [(cost, first, source) for source in current.sources]
        for call in current.producers:
            price, began = cost + max(1, call.leaves), min(first, call.start)
            if price <= limit:
                steps += [(price, began, source) for source in call.inputs]
        for price, began, source in steps:
            if source.time >= since and id(source) not in settled:
                serial += 1
                heappush(heap, (price, -source.time, began, serial, source))
    return settled


def _split(a: Value, b: Value) -> tuple[Value, Value, int, int] | None:
    """``(branch, skip, leaf calls of the skip, start of the branch's first call)``, or None for an ordinary sum."""
    for skip, branch in ((a, b), (b, a)):
        # an identity skip is found within the branch itself, however long the past
        if branch.time < skip.time:
            continue
        found = _distances(branch, skip.time, REACH, REACH, wanted=(id(skip),)).get(id(skip))
        if found is not None and found[0] > 0:
            return branch, skip, 0, found[1]
    candidates = []
    for skip, branch in ((a, b), (b, a)):
        short = _distances(skip, 0, PROJECTION, PAST)
        # the skip itself is not upstream of the branch
        del short[id(skip)]
        if not short:
            continue
        oldest = min(v.time for _, _, v in short.values())
        long = _distances(branch, oldest, REACH, REACH, wanted=short, abreast=PAST)
        for key, (cost, _, _) in short.items():
            other = long.get(key)
            if other is not None and other[0] > cost:
                candidates.append((cost, -other[0], branch, skip, other[1]))
    if not candidates:
        return None
    best = min(candidates, key=lambda c: (c[0], c[1]))
    rivals = [c for c in candidates if c[0] == best[0] and c[2] is not best[2]]
    # two branches of equal length from one tensor, as in a gate: neither is the other's skip
    if rivals and -rivals[0][1] == -best[1]:
        return None
    return best[2], best[3], best[0], best[4]
