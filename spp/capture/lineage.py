"""Which tensors flow into and out of which module calls during one forward pass: the *lineage*.

Between module calls a tensor may pass through functions that nobody announces (``relu``, ``reshape``, a scale). Where
autograd recorded them, the lineage walks its graph to the nearest known tensor; without a graph (frozen parts under
``no_grad``) such a chain ends. Nothing here keeps a tensor alive.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from spp.capture.sites import Call, Site
from spp.stats.extra import Reduced

if TYPE_CHECKING:
    from spp.capture.residual import Merge

MARK = "spp.value"
GRAPH_REACH = 256
"""Autograd nodes walked between two module calls at most."""


@dataclass(slots=True, eq=False)
class Value:
    """A tensor at one version: who gave it out, what it came from and what is already known of it.

    Attributes:
        ref: Weak reference to the tensor.
        version: The tensor's version counter; an in-place change makes it another value.
        time: Tick at which it was first seen.
        producers: Calls that gave it out, innermost first.
        sources: Values it came from without a module call in between.
        sites: The observed outputs it stands for.
        rank: The tensor's.
        axis: Its channel axis, once decided.
        placed: Whether the axis has been decided.
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
    moments: Reduced | None = None
    ends: tuple[float, float] | None = None
    hooked: bool = False
    merge: Merge | None = None


class Lineage:
    """What flowed where during one forward pass."""

    def __init__(self) -> None:
        self.clock = 0
        self._values: dict[int, Value] = {}
        self._marks: list[dict[int, Value]] = []

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
        known = self._values.get(id(tensor))
        if known is not None and known.ref() is tensor:
            if known.version == version_of(tensor):
                return known
            sources: tuple[Value, ...] = (known,)
        else:
            sources = _graph_sources(tensor)
        return self.remember(tensor, sources)

    def produced(self, tensor: Tensor, call: Call) -> Value:
        """Note that ``call`` gave out ``tensor``."""
        value = self._values.get(id(tensor))
        if value is None or value.ref() is not tensor or value.version != version_of(tensor):
            value = self.remember(tensor, ())
        value.producers.append(call)
        return value

    def remember(self, tensor: Tensor, sources: tuple[Value, ...]) -> Value:
        """A new value for what ``tensor`` holds now, findable by the tensor and by its node in the graph."""
        value = Value(weakref.ref(tensor), version_of(tensor), self.tick(), sources=sources, rank=tensor.dim())
        self._values[id(tensor)] = value
        node: Any = tensor.grad_fn
        if node is not None:
            marks = node.metadata.get(MARK)
            if marks is None:
                marks = node.metadata[MARK] = {}
                self._marks.append(marks)
            marks[tensor.output_nr] = value
        return value

    def forget(self) -> None:
        """Empty what was noted at autograd's nodes, some of which belong to graphs that outlive the pass."""
        for marks in self._marks:
            marks.clear()
        self._marks.clear()
        self._values.clear()


def version_of(tensor: Tensor) -> int:
    """The version counter; inference tensors have none."""
    try:
        return tensor._version
    except RuntimeError:
        return -1


def _graph_sources(tensor: Tensor) -> tuple[Value, ...]:
    """The nearest known values upstream of a tensor in autograd's graph."""
    start: Any = tensor.grad_fn
    if start is None:
        return ()
    found: list[Value] = []
    queue = [(start, tensor.output_nr)]
    seen = set(queue)
    for node, number in queue:  # grows while it is walked
        marks = node.metadata.get(MARK)
        value = None if marks is None else marks.get(number)
        if value is not None:
            found.append(value)
            continue
        if len(seen) >= GRAPH_REACH:
            continue
        for step in node.next_functions:
            if step[0] is not None and step not in seen:
                seen.add(step)
                queue.append(step)
    return tuple(found)
