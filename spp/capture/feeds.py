"""Whose outputs a module's calls took, in words: what a saved run knows of the network's wiring.

One call is the names of the modules that gave out what it took, ``name`` for a module's first call and ``name:2`` for its
third, separated by spaces; ``.`` stands for what came from outside (the batch, a parameter). Calls are separated by commas.
A tensor that went through functions on its way (a sum, a reshape) stands for every module that it came from.
"""

from __future__ import annotations

from spp.capture.lineage import Value
from spp.capture.sites import Call

OUTSIDE = "."
MOST_CALLS = 64
"""Calls of one module that are told of: an unrolled recurrence repeats itself."""
_REACH = 32
"""Values looked at upstream of one input: a chain of functions, not the network."""


def feeds(calls: list[Call]) -> str:
    """What fed each of ``calls``, as described above."""
    return ",".join(_one(call) for call in calls[:MOST_CALLS])


def _one(call: Call) -> str:
    names: dict[str, None] = {}
    for value in call.inputs:
        names.update(dict.fromkeys(_origins(value, call)))
    return " ".join(names) or OUTSIDE


def _giver(value: Value, taker: Call) -> Call | None:
    """The innermost call that gave out what ``taker`` took, before it did.

    A module that hands its input on unchanged is among the givers of that tensor, and so are the containers that end with it:
    what feeds ``taker`` began and ended before it did.
    """
    for call in value.producers:
        if call.start < taker.start and call.depth < taker.depth:
            return call
    return None


def _origins(value: Value, taker: Call) -> list[str]:
    """The modules nearest upstream of what ``taker`` took, the innermost where several gave out the same tensor."""
    queue, seen, found = [value], {id(value)}, []
    for current in queue:  # grows while it is walked
        giver = _giver(current, taker)
        if giver is not None:
            found.append(_name(giver))
            continue
        if not current.sources:
            found.append(OUTSIDE)
        for source in current.sources:
            if id(source) not in seen and len(seen) < _REACH:
                seen.add(id(source))
                queue.append(source)
    return found


def _name(call: Call) -> str:
    return f"{call.entry.name}:{call.number}" if call.number else call.entry.name
