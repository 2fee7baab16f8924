"""Merges the passes of several batches into rows: the same module call, output and signal is one row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch

from spp.capture.holes import Hole
from spp.capture.passes import Pass
from spp.capture.residual import Merge
from spp.capture.sites import Call, Site
from spp.errors import InputError
from spp.stats.extra import Reduced, Shaped
from spp.stats.sums import Moments
from spp.vocabulary import LayerKind, Role, Signal

Key = tuple[str, int, str, Signal]


@dataclass(slots=True, eq=False)
class Row:
    """One row of the frame before its statistics are computed; ``shape`` is one batch's.

    ``sharded`` marks a parameter of which other processes hold other parts.
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
    moments: Reduced
    sharded: bool = False


@dataclass(slots=True, eq=False)
class MergeRow:
    """One residual merge by names, so that it can be found again in the next batch."""

    block: str
    call: int
    number: int
    branch_name: str
    branch_key: Key | None
    skip_name: str | None
    transition: bool
    depth: int | None
    after: tuple[Key | None, Key | None]
    stream: list[Reduced | None] = field(default_factory=lambda: [None, None])


class Tally:
    """Rows, merges and holes over all batches of a trace."""

    def __init__(self) -> None:
        self._rows: dict[Key, Row] = {}
        self._merges: dict[tuple[str, int, int], MergeRow] = {}
        self.holes: list[Hole] = []
        self.calls: dict[str, tuple[int | None, int]] = {}
        self.inputs: dict[str, list[Call]] = {}

    @property
    def rows(self) -> list[Row]:
        """Everything measured so far."""
        return list(self._rows.values())

    @property
    def merges(self) -> list[MergeRow]:
        """The residual merges, in the order in which they happened."""
        return list(self._merges.values())

    def add(self, result: Pass) -> None:
        """Merge in what one batch gave; a parameter's own values do not change between batches and count once."""
        for site in result.sites:
            (name, call, output), (signal, gradient) = site.key, site.signals
            if site.value is not None:
                key = name, call, output, signal
                if not (site.is_weight and key in self._rows):
                    self._put(site, key, site.value)
            if site.gradient is not None:
                self._put(site, (name, call, output, gradient), site.gradient)
        for entry, calls in result.calls:
            known = self.calls.get(entry.name)
            self.calls[entry.name] = (known[0] if known else calls[0], max(calls[1], known[1] if known else 0))
            self.inputs.setdefault(entry.name, result.inputs[entry.name])
        for merge in result.merges:
            self._merge(merge, result.merges)
        self.holes += result.holes

    def absorb(self, rows: Iterable[Row], merges: Iterable[MergeRow], adds: Callable[[Row], bool]) -> None:
        """Merge in what another process gave.

        Args:
            rows: Its rows.
            merges: Its residual merges.
            adds: Whether a row is about other elements than the row that is known already; else it is the same once more.
        """
        for row in rows:
            key = (row.name, row.call, row.output, row.signal)
            known = self._rows.get(key)
            if known is None:
                self._rows[key] = row
            elif adds(row):
                known.moments = _added(known, row.moments)
        for merge in merges:
            place = (merge.block, merge.call, merge.number)
            mine = self._merges.setdefault(place, merge)
            if mine is not merge:
                for i, moments in enumerate(merge.stream):
                    old = mine.stream[i]
                    if moments is not None:
                        mine.stream[i] = moments if old is None else _merged(old, moments)

    def after(self, merge: MergeRow) -> tuple[Reduced | None, Reduced | None]:
        """Moments of the stream after a merge, and of its gradient."""
        value, gradient = (self._moments(key) for key in merge.after)
        return value or merge.stream[0], gradient or merge.stream[1]

    def branch(self, merge: MergeRow) -> tuple[Reduced | None, Reduced | None]:
        """Moments at the end of the residual branch, and of the gradient there."""
        if merge.branch_key is None:
            return None, None
        gradient = (*merge.branch_key[:3], Signal.GRADIENT)
        return self._moments(merge.branch_key), self._moments(gradient)

    def _moments(self, key: Key | None) -> Reduced | None:
        row = None if key is None else self._rows.get(key)
        return None if row is None else row.moments

    @staticmethod
    def _key(site: Site, signal: Signal) -> Key:
        return (*site.key, signal)

    def _put(self, site: Site, key: Key, moments: Reduced) -> None:
        row = self._rows.get(key)
        if row is None:
            name, call, output, signal = key
            depth = None if site.call is None else site.call.depth
            self._rows[key] = Row(
                name,
                call,
                output,
                site.entry.type,
                site.entry.layer.kind,
                site.entry.leaf,
                signal,
                site.role,
                depth,
                site.shape,
                site.dtype,
                signal is Signal.ACTIVATION and site.entry.ends is not None,
                moments,
                site.sharded,
            )
            return
        row.moments = _added(row, moments)

    def _merge(self, merge: Merge, merges: list[Merge]) -> None:
        block = merge.block.entry.name
        key = (block, merge.block.number, merge.number)
        row = self._merges.get(key)
        if row is None:
            row = self._merges[key] = self._merge_row(merge, merges)
        if merge.stream is not None:
            for i, moments in enumerate((merge.stream.value, merge.stream.gradient)):
                old = row.stream[i]
                if moments is not None:
                    row.stream[i] = moments if old is None else _merged(old, moments)

    def _merge_row(self, merge: Merge, merges: list[Merge]) -> MergeRow:
        following = next((m for m in merges if m.block is merge.block and m.number > merge.number), None)
        if following is None:
            site = _main(merge.block.sites)
        else:
            site = following.skip.sites[0] if following.skip.sites else merge.stream
        end = merge.branch_value.sites[0] if merge.branch_value.sites else _main(merge.branch.sites)
        depth = None if site is None or site.call is None else site.call.depth
        return MergeRow(
            block=merge.block.entry.name,
            call=merge.block.number,
            number=merge.number,
            branch_name=merge.branch.entry.name,
            branch_key=None if end is None else self._key(end, Signal.ACTIVATION),
            skip_name=merge.origin.producers[0].entry.name if merge.origin.producers else None,
            transition=merge.transition,
            depth=depth,
            after=(None, None)
            if site is None
            else (self._key(site, Signal.ACTIVATION), self._key(site, Signal.GRADIENT)),
        )


def _main(sites: list[Site]) -> Site | None:
    """The output of a call that carries the signal: its lone tensor, else its first."""
    return next((s for s in sites if s.output == ""), sites[0] if sites else None)


def _added(row: Row, moments: Reduced) -> Reduced:
    """The row's moments and further ones; an error says which row it is about."""
    try:
        return _merged(row.moments, moments)
    except InputError as error:
        error.where = f"module {row.name!r} ({row.type}), {row.signal}"
        raise


def _merged(old: Reduced, new: Reduced) -> Reduced:
    if isinstance(old, Moments) and isinstance(new, Moments):
        return old.merge(new)
    if isinstance(old, Shaped) and isinstance(new, Shaped):
        return old.merge(new)
    raise TypeError("numbers without their sums cannot be merged; the capture was told that nothing would be")
