"""Which layer of one network stands under which of another: by name where the names agree, else by relative depth."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pandas as pd

from spp.frame.schema import Column
from spp.plot.layers import XLABEL, call_labels, call_positions
from spp.plot.stages import Span, Tick, stages, ticks

K = TypeVar("K", bound=Hashable)

ENOUGH = 0.5
"""Networks are aligned by name where at least this share of the shorter one's layers is in the longest one, by name."""

BY_DEPTH = "relative depth (first layer 0, last layer 1)"

Key = tuple[str, int]
"""A module call: its name, and 0 for its first call."""


@dataclass(frozen=True, slots=True, eq=False)
class Aligned:
    """One x axis for several networks.

    Attributes:
        by_name: Whether layers of the same name stand at the same place; else they are spread evenly from first to last.
        places: For each network, the place of each of its calls.
        size: Number of places (by name), or the length of the axis (by depth).
        labels: Name of each place; empty by depth.
        stages: Runs of places that make a stage.
        ticks: Candidates for labels.
        xlabel: Label of the axis.
    """

    by_name: bool
    places: tuple[dict[Key, float], ...]
    size: int
    labels: tuple[str, ...]
    stages: tuple[Span, ...]
    ticks: tuple[Tick, ...]
    xlabel: str


def align(leaves: Sequence[pd.DataFrame]) -> Aligned:
    """Find the places of every network's layers on one axis.

    By name: the longest network gives the order; a layer that it lacks is put in after the layer which precedes it in its
    own network, so that no layer of any network is lost. By relative depth, where networks share too few names: layer k of n
    stands at k / (n - 1).

    Args:
        leaves: For each network, the rows of its innermost modules (``layers.innermost``).
    """
    calls = [call_positions(rows) for rows in leaves]
    keys = [_keys(one) for one in calls]
    longest = max(range(len(keys)), key=lambda index: len(keys[index]))
    known = set(keys[longest])
    if all(sum(key in known for key in one) >= ENOUGH * len(one) for one in keys):
        order = merged_order([keys[longest], *keys])
        place = {key: float(index) for index, key in enumerate(order)}
        table = pd.concat(calls).drop_duplicates([Column.NAME, Column.CALL]).set_index([Column.NAME, Column.CALL])
        labels = call_labels(table.loc[order].reset_index())
        names = [name for name, _ in order]
        return Aligned(
            True,
            tuple({key: place[key] for key in one} for one in keys),
            len(order),
            tuple(labels),
            stages(names),
            ticks(names, labels),
            XLABEL,
        )
    size = max(len(one) for one in keys)
    tenths = [(size - 1) * part / 4 for part in range(5)]
    marks = [Tick(x, int(x), f"{part / 4:g}", kind) for part, x in enumerate(tenths) for kind in (2, 0)]
    spread = tuple({key: rank * (size - 1) / max(len(one) - 1, 1) for rank, key in enumerate(one)} for one in keys)
    return Aligned(False, spread, size, (), (), tuple(marks), BY_DEPTH)


def merged_order(sequences: Sequence[Sequence[K]]) -> list[K]:
    """Merge sequences into one that holds every element once: the first as it is, others after their predecessors."""
    after: dict[K | None, list[K]] = {None: []}
    for sequence in sequences:
        previous: K | None = None
        new: dict[K | None, list[K]] = {}
        for key in sequence:
            if key in after:
                previous = key
            else:
                new.setdefault(previous, []).append(key)
        for anchor, run in new.items():
            after[anchor][:0] = run
            after |= {key: [] for key in run}
    order: list[K] = []
    waiting = after[None][::-1]
    while waiting:  # depth first, without recursion: networks are thousands of layers deep
        key = waiting.pop()
        order.append(key)
        waiting += after[key][::-1]
    return order


def _keys(calls: pd.DataFrame) -> list[Key]:
    return list(zip(calls[Column.NAME].astype(str), calls[Column.CALL].astype(int), strict=True))
