"""Merges the passes of several batches into rows: the same module call, output and signal is one row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch

from spp.capture.recorder import Pass
from spp.capture.residual import Merge
from spp.capture.sites import Call, Site
from spp.capture.unmeasured import VARYING, Unmeasured
from spp.stats.sums import Sums
from spp.vocabulary import LayerKind, Role, Signal

Key = tuple[str, int, str, Signal]


@dataclass(slots=True, eq=False)
class Row:
    """One row of the frame before its statistics are computed; ``shape`` is one batch's.

    ``sharded`` marks a parameter of which other processes hold other parts, ``hidden`` a residual stream that no module gives
    out: it is told in the blocks alone. ``called`` says in how many of the merged batches the module made this call.
    """

    name: str
    call: int
    output: str
    type: str
    kind: LayerKind
    leaf: bool
    signal: Signal
    role: Role | None
    depth: int | None
    shape: torch.Size
    dtype: torch.dtype
    bounded: bool
    sums: Sums
    sharded: bool = False
    hidden: bool = False
    called: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class MergeRow:
    """One residual merge by names, so that it can be found again in the next batch; keys are of activations."""

    block: str
    call: int
    number: int
    branch_name: str
    skip_name: str | None
    transition: bool
    depth: int | None
    after: Key | None
    branch_end: Key | None


class Accumulator:
    """Rows, merges and what was not measured, over all batches of a trace.

    Attributes:
        calls: For each module that ran, the depth of its first call and the most calls in a batch.
        inputs: For each of these, its calls in the first batch, which know their inputs.
    """

    def __init__(self) -> None:
        self._rows: dict[Key, Row] = {}
        self._entering: dict[Key, Row] = {}
        self._merges: dict[tuple[str, int, int], MergeRow] = {}
        self._unmeasured: dict[object, Unmeasured] = {}
        self._called: defaultdict[tuple[str, int], int] = defaultdict(int)
        self.calls: dict[str, tuple[int | None, int]] = {}
        self.inputs: dict[str, list[Call]] = {}

    @property
    def rows(self) -> list[Row]:
        """The rows of the frame so far."""
        return [row for row in self.all_rows if not row.hidden]

    @property
    def entering(self) -> list[Row]:
        """Rows of what entered leaves and no call had given out."""
        for row in self._entering.values():
            row.called = self._called[row.name, row.call]
        return list(self._entering.values())

    @property
    def all_rows(self) -> list[Row]:
        """These and the hidden ones."""
        for row in self._rows.values():
            row.called = self._called[row.name, row.call]
        return list(self._rows.values())

    @property
    def merges(self) -> list[MergeRow]:
        """The residual merges, in the order in which they happened."""
        return list(self._merges.values())

    @property
    def unmeasured(self) -> list[Unmeasured]:
        """What no batch filled, and in how many batches its module was called, where that is not all of them."""
        batches, left = max(self._called.values(), default=0), []
        for one in self._unmeasured.values():
            called = self._called.get((one.name, one.call or 0), 0)
            if one.partial or called in (0, batches):
                left.append(one)
            else:
                left.append(replace(one, reason=f"{one.reason} (called in {called} of {batches} batches)"))
        return [one for one in left if not self.fills(one)]

    def fills(self, one: Unmeasured) -> bool:
        """Whether some batch measured what another did not."""
        if one.partial:
            return False
        if one.call is None and one.signal is Signal.ACTIVATION:
            # of the module itself, not of one that it calls and that is not registered
            return not one.output and (one.name, 0) in self._called
        return (one.name, one.call or 0, one.output, one.signal) in self._rows

    def add(self, result: Pass) -> None:
        """Merge in what one batch gave; a parameter's own values do not change between batches and count once."""
        for sites, hidden in ((result.sites, False), (result.streams, True)):
            for site in sites:
                of, role = site.key, result.roles.get(site)
                for kind, found in zip(site.signals, (result.values, result.gradients), strict=True):
                    if (sums := found.get(site)) is not None:
                        self._put(self._rows, site, (*of, kind), sums, role, hidden)
        for site, sums in result.inputs.items():
            self._put(self._entering, site, (*site.key, Signal.ACTIVATION), sums, None, False)
        for entry, calls in result.calls.items():
            name = entry.name
            depth, number = self.calls.get(name, (None, 0))
            if depth is None:
                # a call that was caught with its exception has no depth
                depth = next((call.depth for call in calls if call.depth >= 0), None)
            self.calls[name] = depth, max(len(calls), number)
            for call in calls:
                self._called[name, call.number] += 1
            self.inputs.setdefault(name, calls)
        for merge in result.merges:
            place = merge.block.entry.name, merge.block.number, merge.number
            self._merges.setdefault(place, _merge_row(merge))
        self._unmeasured.update((one.key, one) for one in result.unmeasured)

    def absorb(self, rows: Iterable[Row], merges: Iterable[MergeRow], adds: Callable[[Row], bool]) -> None:
        """Merge in what another process gave.

        Args:
            rows: Its rows, the hidden ones too.
            merges: Its residual merges.
            adds: Whether a row is about other elements than the row that is known already; else it is the same once more.
        """
        called: dict[tuple[str, int], int] = {}
        for row in rows:
            key = (row.name, row.call, row.output, row.signal)
            called[row.name, row.call] = row.called
            known = self._rows.setdefault(key, row)
            if known is not row and adds(row):
                self._add(known, row.sums)
        self._called.update(called)
        for merge in merges:
            self._merges.setdefault((merge.block, merge.call, merge.number), merge)

    def sums(self, key: Key | None, signal: Signal) -> Sums | None:
        """What was measured of an activation or its gradient, by the activation's key."""
        row = None if key is None else self._rows.get((*key[:3], signal))
        return None if row is None else row.sums

    def _put(self, rows: dict[Key, Row], site: Site, key: Key, sums: Sums, role: Role | None, hidden: bool) -> None:
        row, entry = rows.get(key), site.entry
        depth = None if site.call is None else site.call.depth
        if row is None:
            bounded = key[3] is Signal.ACTIVATION and entry.ends is not None
            rows[key] = Row(
                *key[:3],
                entry.type,
                entry.layer.kind,
                entry.leaf,
                key[3],
                role,
                depth,
                site.shape,
                site.dtype,
                bounded,
                sums,
                site.sharded,
                hidden,
            )
        elif rows is self._entering:
            row.sums = row.sums.merge(sums)
        elif key[3] is not Signal.WEIGHT:
            self._add(row, sums)
        elif row.depth is None:
            # no batch before had called the module
            row.depth = depth

    def _add(self, row: Row, sums: Sums) -> None:
        before, row.sums = row.sums, row.sums.merge(sums)
        if row.sums.varying and not before.varying:
            why = Unmeasured(row.name, row.type, row.call, row.output, row.signal, VARYING)
            self._unmeasured[why.key] = why


def _key(site: Site, signal: Signal) -> Key:
    return (*site.key, signal)


def _merge_row(merge: Merge) -> MergeRow:
    after, end = merge.after, merge.branch_end
    return MergeRow(
        block=merge.block.entry.name,
        call=merge.block.number,
        number=merge.number,
        branch_name=merge.branch.entry.name,
        skip_name=merge.skip_name,
        transition=merge.transition,
        depth=None if after is None or after.call is None else after.call.depth,
        after=None if after is None else _key(after, Signal.ACTIVATION),
        branch_end=None if end is None else _key(end, Signal.ACTIVATION),
    )
