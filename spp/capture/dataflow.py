"""Which tensors flow into and out of which module calls during one forward pass, and what a saved run says of it.

Between module calls a tensor may pass through functions that nobody announces (``relu``, ``reshape``, a scale). Where
autograd recorded them, the data flow walks its graph to the nearest known tensor. Without a graph (frozen parts under
``no_grad``) such a chain ends. Nothing here keeps a tensor alive.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from spp.capture.sites import Call, Site
from spp.stats.sums import Sums

GRAPH_REACH = 256
"""Autograd nodes walked between two module calls at most."""
OUTSIDE = "."
"""Stands in the wiring for what came from outside: the batch, a parameter."""
MOST_CALLS = 64
"""Calls of one module whose wiring is told: an unrolled recurrence repeats itself."""
FUNCTION_REACH = 32
"""Values looked at upstream of one input for its wiring: a chain of functions, not the network."""


@dataclass(slots=True, eq=False)
class Reading:
    """What the recorder knows of the tensor of a value.

    Attributes:
        axis: Its channel axis.
        sites: The observed outputs it stands for; several where modules hand the same tensor on.
        sums: What was measured of it, once it was.
        ends: Values at or beyond which ``sums`` counts an element as saturated.
        hooked: Whether its gradient is being waited for.
    """

    axis: int | None
    sites: list[Site] = field(default_factory=list)
    sums: Sums | None = None
    ends: tuple[float, float] | None = None
    hooked: bool = False


@dataclass(slots=True, eq=False)
class Value:
    """A tensor at one version: who gave it out, and what it came from.

    Attributes:
        ref: Weak reference to the tensor.
        version: The tensor's version counter; an in-place change makes it another value.
        time: Tick at which it was first seen.
        shape: The tensor's.
        sources: Values it came from without a module call in between.
        producers: Calls that gave it out, innermost first.
        reading: What the recorder knows of it, once it has looked.
        entered: What was measured of it as it entered a call, where no call has given it out.
    """

    ref: weakref.ref[Tensor]
    version: int
    time: int
    shape: torch.Size
    sources: tuple[Value, ...] = ()
    producers: list[Call] = field(default_factory=list)
    reading: Reading | None = None
    entered: Reading | None = None

    @property
    def sites(self) -> list[Site]:
        """The observed outputs it stands for."""
        return [] if self.reading is None else self.reading.sites

    def reduced(self, axis: int | None) -> Sums | None:
        """Its sums along an axis, where they are known; along another one its channels are others."""
        known = (one.sums for one in (self.entered, self.reading) if one is not None and one.axis == axis)
        return next((sums for sums in known if sums is not None), None)

    def read(self, axis: int | None) -> Reading:
        """The start of its reading along an axis: what was measured as it entered a call counts, where that was the axis."""
        entered = self.entered
        self.reading = Reading(axis) if entered is None or entered.axis != axis else entered
        return self.reading


class DataFlow:
    """What flowed where during one forward pass."""

    def __init__(self) -> None:
        self.clock = 0
        self._values: dict[int, Value] = {}
        # one of its own: the graph of a watched model may be that of a part that is watched too
        self._mark = object()
        self._marked: list[dict[Any, Any]] = []

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
        # an id may belong to a tensor that is gone: the weak reference tells
        if known is not None and known.ref() is tensor:
            if known.version == version_of(tensor):
                return known
            sources: tuple[Value, ...] = (known,)
        else:
            sources = self._graph_sources(tensor)
        return self.remember(tensor, sources)

    def produced(self, tensor: Tensor, call: Call) -> Value:
        """Note that ``call`` gave out ``tensor``."""
        value = self._values.get(id(tensor))
        if value is None or value.ref() is not tensor:
            value = self.remember(tensor, ())
        elif value.version != version_of(tensor):
            value = self.remember(tensor, (value,))
        value.producers.append(call)
        return value

    def remember(self, tensor: Tensor, sources: tuple[Value, ...]) -> Value:
        """A new value for what ``tensor`` holds now, findable by the tensor and by its node in the graph."""
        # nested tensors have no common shape
        shape = torch.Size([0] * tensor.dim()) if tensor.is_nested else tensor.shape
        value = Value(weakref.ref(tensor), version_of(tensor), self.tick(), shape, sources)
        self._values[id(tensor)] = value
        node: Any = tensor.grad_fn
        if node is not None:
            # autograd's nodes carry a dictionary for anomaly mode's notes; Python wrappers of a node come and go, it stays
            metadata = node.metadata
            marks = metadata.get(self._mark)
            if marks is None:
                marks = metadata[self._mark] = {}
                self._marked.append(metadata)
            marks[tensor.output_nr] = value
        return value

    def forget(self) -> None:
        """Take away what was noted at autograd's nodes, some of which belong to graphs that outlive the pass."""
        for metadata in self._marked:
            metadata.pop(self._mark, None)
        self._marked.clear()
        self._values.clear()

    def _graph_sources(self, tensor: Tensor) -> tuple[Value, ...]:
        """The nearest known values upstream of a tensor in autograd's graph."""
        start: Any = tensor.grad_fn
        if start is None:
            return ()
        found: list[Value] = []
        queue = [(start, tensor.output_nr)]
        seen = set(queue)
        for node, number in queue:  # grows while it is walked
            marks = node.metadata.get(self._mark)
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


def version_of(tensor: Tensor) -> int:
    """The version counter; -1 for inference tensors, which have none."""
    try:
        return tensor._version
    except RuntimeError:
        return -1


def wiring(calls: list[Call]) -> str:
    """The data-flow edges into a module, as column ``inputs`` of ``modules`` has them.

    One call is the names of the modules that gave out its inputs, ``name`` for a module's first call and ``name:2`` for its
    third, separated by spaces; ``.`` stands for what came from outside. Calls are separated by commas. A tensor that went
    through functions on its way (a sum, a reshape) stands for every module that it came from.
    """
    return ",".join(" ".join(dict.fromkeys(_edges(call))) or OUTSIDE for call in calls[:MOST_CALLS])


def entering(calls: list[Call]) -> str:
    """Where what entered a module is measured, as column ``input_rows`` of ``modules`` has it.

    One call is ``name`` or ``name:call`` where it is the main output of that call, ``.`` where it has a row of its own in
    ``run.inputs``, and nothing where it was not measured. Calls are separated by commas; empty where none was.
    """
    words = []
    for call in calls[:MOST_CALLS]:
        site = call.entered
        if site is None or site.call is None:
            words.append("")
        elif site.call is call:
            words.append(OUTSIDE)
        else:
            words.append(f"{site.entry.name}:{site.call.number}" if site.call.number else site.entry.name)
    return ",".join(words) if any(words) else ""


def _edges(consumer: Call) -> Iterator[str]:
    """The modules nearest upstream of the inputs of a call."""
    for start in consumer.inputs:
        queue, seen = [start], {id(start)}
        for value in queue:  # grows while it is walked
            producer = _producer(value, consumer)
            if producer is not None:
                yield f"{producer.entry.name}:{producer.number}" if producer.number else producer.entry.name
                continue
            if not value.sources:
                yield OUTSIDE
            for source in value.sources:
                if id(source) not in seen and len(seen) < FUNCTION_REACH:
                    seen.add(id(source))
                    queue.append(source)


def _producer(value: Value, consumer: Call) -> Call | None:
    """The innermost call that gave out what ``consumer`` received, before it did.

    A module that hands its input on unchanged is among the producers of that tensor, and so are the containers that end with
    it: a producer began and ended before ``consumer`` did.
    """
    for call in value.producers:
        if call.start < consumer.start and call.depth < consumer.depth:
            return call
    return None
