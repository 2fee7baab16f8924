"""Parameters around one optimizer step: their values, the gradients the optimizer is about to use, and what it made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spp.capture.channels import is_reducible, weight_axis
from spp.capture.holes import Hole, no_weight_gradient
from spp.capture.shards import Part, is_shared, part_of
from spp.capture.sites import Call, Entry, Site
from spp.capture.stage import Depth, Stage
from spp.capture.weights import parameters_of
from spp.stats import backends
from spp.stats.backends.native import Copies
from spp.stats.extra import Reduced, plain_sums
from spp.stats.sums import Digest, Moments, summarize
from spp.vocabulary import Signal

UpdateSums = dict[tuple[str, str], tuple[float, float]]
"""By module and parameter: the sums of squares of the update and of the weight before it, over the values that count here."""


@dataclass(slots=True, eq=False)
class _Read:
    """One parameter: its site, itself, and the part of it that lies here (None for all of it)."""

    site: Site
    parameter: Tensor
    part: Part | None

    @property
    def key(self) -> tuple[int, int | None]:
        """The parameter and its channel axis: what makes two readings one."""
        return id(self.parameter), self.site.axis

    @property
    def local(self) -> Tensor:
        return self.parameter if self.part is None else self.part.local


class StepParameters:
    """Reads the parameters of the selected modules.

    Args:
        entries: The roster.
        calls: Each module's calls in the step's first forward, by the module's identity.
        signals: Which signals to measure.
        shared: Whether other processes measure the same parameters, or parts of them.
    """

    def __init__(
        self, entries: list[Entry], calls: dict[int, list[Call]], signals: frozenset[Signal], shared: bool = False
    ) -> None:
        self.holes: list[Hole] = []
        self._signals = signals
        self._whole, self._parts = Stage(Depth(mergeable=shared)), Stage(Depth(mergeable=True))
        self._read: list[_Read] = []
        self._before: dict[int, Tensor] = {}
        self._copied: tuple[list[_Read], Copies] | None = None
        if signals & {Signal.WEIGHT, Signal.WEIGHT_GRADIENT}:
            for entry in entries:
                if entry.selected:
                    self._look(entry, next(iter(calls.get(id(entry.module), ())), None))

    @property
    def sites(self) -> list[Site]:
        """What was read."""
        return [r.site for r in self._read]

    def values(self) -> None:
        """Reduce every parameter; one that is tied to another is reduced once."""
        if Signal.WEIGHT in self._signals:
            found = self._reduced([(r, r.local, r.part) for r in self._read])
            for read in self._read:
                read.site.value = found[read.key]

    def gradients(self, scale: float = 1.0) -> None:
        """Reduce every ``.grad`` as it stands, divided by ``scale``."""
        if Signal.WEIGHT_GRADIENT not in self._signals:
            return
        arrived: list[tuple[_Read, Tensor, Part | None]] = []
        for read in self._read:
            gradient, axis = read.parameter.grad, read.site.axis
            if gradient is None:
                continue
            if read.part is not None:
                part = part_of(gradient, axis) if is_shared(gradient) else "no part"
                if isinstance(part, Part):
                    arrived.append((read, part.local, part))
            elif not is_reducible(gradient):
                arrived.append((read, gradient, None))
        found = self._reduced(arrived)
        for read, _, _ in arrived:
            moments = found[read.key]
            read.site.gradient = moments if scale == 1.0 else moments.scaled(1.0 / scale)

    def finish(self) -> None:
        """Say which gradients are missing."""
        if Signal.WEIGHT_GRADIENT in self._signals:
            missing = (r for r in self._read if r.site.gradient is None)
            self.holes += [no_weight_gradient(r.site, r.parameter, True) for r in missing]

    @torch.no_grad()
    def remember(self, updated: set[int]) -> None:
        """Copy the parameters whose identities are in ``updated``, for :meth:`updates`."""
        if Signal.WEIGHT not in self._signals:
            return
        reads = {id(read.parameter): read for read in reversed(self._read) if id(read.parameter) in updated}
        copies = backends.copies([read.local for read in reads.values()])
        if copies is not None:
            self._copied = list(reads.values()), copies
        else:
            self._before = {key: read.local.detach().clone() for key, read in reads.items()}

    @torch.no_grad()
    def updates(self) -> UpdateSums:
        """The squared sizes of the updates since :meth:`remember`, and of the weights before them."""
        moved = self._moved() if self._copied is None else self._moved_here(*self._copied)
        rows = [(r, r.site.value, moved[id(r.parameter)]) for r in self._read if id(r.parameter) in moved]
        where = [(read.site.entry.name, read.site.output) for read, size, _ in rows if size is not None]
        sizes = _squares([plain_sums(size) for _, size, _ in rows if size is not None])
        moves = [move for _, size, move in rows if size is not None]
        shared = {(r.site.entry.name, r.site.output) for r in self._read if r.part is not None and not r.part.counts}
        return {
            key: (0.0 if key in shared else move, size) for key, move, size in zip(where, moves, sizes, strict=True)
        }

    def _now(self, read: _Read) -> Tensor | None:
        """What lies here of a parameter by now."""
        part = part_of(read.parameter, read.site.axis) if read.part is not None else None
        return read.parameter if part is None else part.local if isinstance(part, Part) else None

    def _moved_here(self, reads: list[_Read], copies: Copies) -> dict[int, float]:
        """By the parameter's identity, the sum of squares of its update, where the C library has compared the two."""
        self._copied = None
        now = [self._now(read) for read in reads]
        found = copies.moved(
            [read.local if tensor is None else tensor for read, tensor in zip(reads, now, strict=True)]
        )
        return {id(r.parameter): move for r, move in zip(reads, found, strict=True) if not math.isnan(move)}

    def _moved(self) -> dict[int, float]:
        """The same in torch operations."""
        known: dict[int, Tensor] = {}
        for read in self._read:
            before = self._before.pop(id(read.parameter), None)
            now = None if before is None else self._now(read)
            if before is not None and (now is None or now.shape == before.shape):
                known[id(read.parameter)] = before.zero_() if now is None else before.sub_(now.detach())
        moves = self._whole.reduce_all(list(known.values()), [None] * len(known))
        return dict(zip(known, _squares([plain_sums(move) for move in moves]), strict=True))

    def _look(self, entry: Entry, call: Call | None) -> None:
        for name, tensor in parameters_of(entry.module):
            axis = weight_axis(entry.layer, name, tensor.dim())
            site = Site(entry, call, name, tensor.shape, tensor.dtype, axis, is_weight=True)
            part, reason = None, ""
            if is_shared(tensor):
                found = part_of(tensor, axis)
                part, reason = (found, "") if isinstance(found, Part) else (None, found)
                site.sharded = True
            else:
                reason = is_reducible(tensor)
            if reason:
                self.holes.append(Hole(entry, None, name, Signal.WEIGHT, reason.replace("output", "parameter")))
            elif tensor.is_leaf or not tensor.requires_grad:
                self._read.append(_Read(site, tensor, part))

    def _reduced(self, wanted: list[tuple[_Read, Tensor, Part | None]]) -> dict[tuple[int, int | None], Reduced]:
        """Reduce the tensor of each three, by parameter and axis."""
        once = {read.key: (tensor, part) for read, tensor, part in wanted}
        whole = {key: tensor for key, (tensor, part) in once.items() if part is None}
        found = dict(zip(whole, self._whole.reduce_all(list(whole.values()), [axis for _, axis in whole]), strict=True))
        for key, (tensor, part) in once.items():
            if part is not None:
                moments = self._parts.reduce(tensor, key[1])
                found[key] = part.whole(moments) if isinstance(moments, Moments) else moments
        return found


def _squares(readings: list[Moments | Digest]) -> list[float]:
    """The sum of the squares of the finite elements of each reading."""
    numbers = summarize(readings)
    return list(np.nan_to_num(numbers.mean_square * (numbers.numel - numbers.nonfinite)))
