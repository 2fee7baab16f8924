"""Finds residual merges while the forward pass runs, without any change to the model.

Two things are watched: which tensors flow into and out of which module calls (the *lineage*), and which tensors are added.
An addition merges a residual branch with its skip when one operand can be traced back, through at least one module call, to
the other (an identity skip), or both can be traced back to a common tensor, one of them in fewer steps (a projected skip).
The block is the innermost call inside which the whole branch ran.

Between module calls a tensor may pass through functions that nobody announces (``relu``, ``reshape``, a scale). Where
autograd recorded them, the lineage walks its graph to the nearest module output; without a graph (frozen parts under
``no_grad``) such a chain ends, and a merge behind it is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

import torch
from torch import Tensor

from spp.measure.moments import Moments
from spp.measure.sites import Call, Site
from spp.signals import Role

MARK = "spp.value"
PROJECTION = 6
"""A projected skip has at most this many leaf calls (norm, activation, pooling, convolution, norm, dropout)."""
REACH = 4096
"""Lineage steps looked at for one addition at most."""
GRAPH_REACH = 256
"""Autograd nodes walked between two module calls at most."""


@dataclass(slots=True, eq=False)
class Value:
    """A tensor at one version: who gave it out, what it came from and what is already known of it.

    Attributes:
        ref: Weak reference to the tensor; nothing here keeps a tensor alive.
        version: The tensor's version counter; an in-place change makes it another value.
        time: Tick at which it was first seen.
        producers: Calls that gave it out, innermost first.
        sources: Values it came from without a module call in between.
        sites: The observed outputs it stands for.
        axis: Its channel axis, once decided.
        moments: Its moments, once reduced, with the values beyond ``ends`` counted.
        hooked: Whether its gradient is being waited for.
        merge: The addition that made it.
    """

    ref: weakref.ref[Tensor]
    version: int
    time: int
    producers: list[Call] = field(default_factory=list)
    sources: tuple[Value, ...] = ()
    sites: list[Site] = field(default_factory=list)
    rank: int = 0
    axis: int | None = None
    placed: bool = False
    moments: Moments | None = None
    ends: tuple[float, float] | None = None
    hooked: bool = False
    merge: Merge | None = None


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


class Lineage:
    """What flowed where during one forward pass."""

    def __init__(self, on_stream: Callable[[Merge, Tensor, Value], None]) -> None:
        self.merges: list[Merge] = []
        self.clock = 0
        self._last: dict[int, Merge] = {}
        self._values: dict[int, Value] = {}
        self._on_stream = on_stream

    def tick(self) -> int:
        """The next tick of the pass's own clock."""
        self.clock += 1
        return self.clock

    def inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Value]:
        """The values among a call's arguments, one level of tuples and lists deep."""
        found = []
        for arg in (*args, *kwargs.values()) if kwargs else args:
            if isinstance(arg, Tensor):
                found.append(self.value(arg))
            elif type(arg) in (tuple, list):
                found.extend(self.value(item) for item in arg if isinstance(item, Tensor))
        return found

    def value(self, tensor: Tensor) -> Value:
        """The value a tensor stands for right now; unknown ones are looked up in the autograd graph."""
        key, version = id(tensor), version_of(tensor)
        known = self._values.get(key)
        if known is not None and known.ref() is tensor:
            if known.version == version:
                return known
            sources: tuple[Value, ...] = (known,)
        else:
            sources = _graph_sources(tensor)
        return self._remember(key, tensor, version, sources)

    def produced(self, tensor: Tensor, call: Call) -> Value:
        """Note that ``call`` gave out ``tensor``."""
        key, version = id(tensor), version_of(tensor)
        value = self._values.get(key)
        if value is None or value.ref() is not tensor or value.version != version:
            value = self._remember(key, tensor, version, ())
        value.producers.append(call)
        return value

    def added(self, value_a: Value, value_b: Value, out: Tensor, same_shape: bool, stack: list[Call]) -> None:
        """Note that the tensors of two values were added and gave ``out`` (perhaps the first of them, changed in place)."""
        if value_a is value_b:
            return
        total = self._remember(id(out), out, version_of(out), (value_a, value_b))
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
        self.merges.append(merge)

    def streams(self, tensor: Tensor, stack: list[Call]) -> Value:
        """The value of an operand; where it is a sum that no module gave out, it is measured now, while it lasts."""
        value = self.value(tensor)
        merge = value.merge
        if merge is not None and not value.sites and merge.stream is None and merge.block in stack:
            self._on_stream(merge, tensor, value)
        return value

    def finish(self) -> list[Merge]:
        """The merges of the pass, roles marked on the sites; recurrences that only look like merges are dropped."""
        kept = [m for m in self.merges if not self._recurs(m)]
        for merge in kept:
            for role, sites in (
                (Role.SKIP, merge.skip.sites),
                (Role.SUM, merge.total.sites),
                (Role.BRANCH, _end_sites(merge)),
            ):
                for site in sites:
                    if site.role is None or role is Role.BRANCH or site.role is Role.SKIP:
                        site.role = role
        return kept

    def _recurs(self, merge: Merge) -> bool:
        """Whether the same module projects the skip again and again in one call of the block, as an RNN cell's input does."""
        if not merge.transition or not merge.skip.producers:
            return False
        module = merge.skip.producers[0].entry
        again = [
            m
            for m in self.merges
            if m.block is merge.block and m.transition and m.skip.producers and m.skip.producers[0].entry is module
        ]
        return len(again) > 1

    def _remember(self, key: int, tensor: Tensor, version: int, sources: tuple[Value, ...]) -> Value:
        value = Value(weakref.ref(tensor), version, self.tick(), sources=sources, rank=tensor.dim())
        self._values[key] = value
        node = tensor.grad_fn
        if node is not None:
            _metadata(node).setdefault(MARK, {})[tensor.output_nr] = value
        return value


def version_of(tensor: Tensor) -> int:
    """The version counter; inference tensors have none and never change under autograd's eyes."""
    return -1 if tensor.is_inference() else tensor._version


def _metadata(node: Any) -> dict[str, Any]:
    """The dictionary autograd keeps with a node; it lives and dies with the graph."""
    metadata: dict[str, Any] = node.metadata
    return metadata


def _end_sites(merge: Merge) -> Iterable[Site]:
    """The sites of the tensor that ends the branch, nearest to the merge."""
    if merge.branch_value.sites:
        return merge.branch_value.sites
    return [s for s in merge.branch.sites if s.output in ("", "0")]


def _graph_sources(tensor: Tensor) -> tuple[Value, ...]:
    """The nearest known values upstream of a tensor in autograd's graph."""
    start = tensor.grad_fn
    if start is None:
        return ()
    found: list[Value] = []
    seen, queue = {start}, [(start, tensor.output_nr)]
    while queue and len(seen) < GRAPH_REACH:
        node, number = queue.pop(0)
        marks = _metadata(node).get(MARK)
        value = None if marks is None else marks.get(number)
        if value is not None:
            found.append(value)
            continue
        for parent, nr in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                queue.append((parent, nr))
    return tuple(found)


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


def _distances(value: Value, since: int, limit: int) -> dict[int, tuple[int, int, Value]]:
    """Leaf calls between ``value`` and each value upstream seen at tick ``since`` or later, with the first call's start.

    A Dijkstra walk: a value's sources cost nothing, a producer costs the leaf calls that ran in it.
    """
    settled: dict[int, tuple[int, int, Value]] = {}
    heap: list[tuple[int, int, int, Value]] = [(0, 0, 0, value)]
    serial, forever = 0, 1 << 62
    while heap and len(settled) < REACH:
        cost, negative_first, _, current = heappop(heap)
        if id(current) in settled:
            continue
        first = -negative_first or forever
        settled[id(current)] = (cost, first, current)
        steps = [(0, first, source) for source in current.sources]
        for call in current.producers:
            price, began = max(1, call.leaves), min(first, call.start)
            steps.extend((price, began, source) for source in call.inputs)
        for price, began, source in steps:
            if source.time >= since and cost + price <= limit and id(source) not in settled:
                serial += 1
                heappush(heap, (cost + price, -began if began != forever else 0, serial, source))
    return settled


def _split(a: Value, b: Value) -> tuple[Value, Value, int, int] | None:
    """``(branch, skip, leaf calls of the skip, start of the branch's first call)``, or None for an ordinary sum."""
    candidates = []
    for skip, branch in ((a, b), (b, a)):
        short = _distances(skip, 0, PROJECTION)
        oldest = min(v.time for _, _, v in short.values())
        long = _distances(branch, oldest, REACH)
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


def watch_additions(
    active: Callable[[], bool], lineage: Lineage, stack: list[Call]
) -> tuple[Callable[[], None], Callable[[], None]]:
    """``(install, remove)`` for the watch over ``+``, ``+=``, ``Tensor.add``, ``Tensor.add_`` and ``torch.add``.

    While installed these are Python functions that call the originals with the very same arguments.
    """
    saved: list[tuple[Any, str, Any, bool]] = []

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def add(*args: Any, **kwargs: Any) -> Any:
            plain = (
                len(args) == 2
                and not kwargs
                and isinstance(args[0], Tensor)
                and isinstance(args[1], Tensor)
                and active()
            )
            if not plain:
                return original(*args, **kwargs)
            a, b = args
            values = lineage.streams(a, stack), lineage.streams(b, stack)
            out = original(a, b)
            if isinstance(out, Tensor) and out.is_floating_point():
                lineage.added(*values, out, a.shape == b.shape, stack)
            return out

        return add

    def install() -> None:
        for owner, name in (
            (torch.Tensor, "__add__"),
            (torch.Tensor, "__iadd__"),
            (torch.Tensor, "add"),
            (torch.Tensor, "add_"),
            (torch, "add"),
        ):
            own = name in vars(owner)
            original = getattr(owner, name)
            saved.append((owner, name, original, own))
            setattr(owner, name, wrap(original))

    def remove() -> None:
        while saved:
            owner, name, original, own = saved.pop()
            if own:
                setattr(owner, name, original)
            else:
                delattr(owner, name)

    return install, remove
