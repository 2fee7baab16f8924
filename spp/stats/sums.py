"""What is kept of a tensor: sums that merge exactly, of each of its channels or of the whole.

Nothing else of a tensor is kept: memory grows with channels, not with activations. The sums of each channel (:class:`Row`)
merge with those of another batch or rank, as one channel where the number of channels varies. From them follow those of the
whole tensor (:class:`Total`), which is all that the formulas of :mod:`spp.stats.statistics` ask for. Where nothing will be
merged, a backend may give the latter alone.

>>> import torch
>>> from spp.stats.backends import reduce
>>> a, b = torch.randn(8, 3, 5, 5), torch.randn(4, 3, 5, 5)
>>> both = reduce(a, 1).merge(reduce(b, 1))
>>> whole = reduce(torch.cat([a, b]), 1)
>>> torch.allclose(both["mean"], whole["mean"], rtol=0, atol=1e-7) and torch.equal(both["count"], whole["count"])
True
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spp.registry import Registry

Array = npt.NDArray[np.float64]

DEAD_SPREAD = 1e-6
"""A channel is dead when its standard deviation is below this share of the tensor's rms, or when it is all zero."""


class Row(IntEnum):
    """Rows of an ``(8, C)`` table: the sums over the finite elements of each channel.

    C's and Triton's rows are these very numbers (``spp.stats.backends.native.SOURCE`` hands them to the compiler).
    """

    COUNT = 0
    MEAN = 1
    M2 = 2
    MIN = 3
    MAX = 4
    ZEROS = 5
    NONFINITE = 6
    SATURATED = 7


class Total(IntEnum):
    """The sums of a whole tensor, for c over its channels with count n_c > 0, mean m_c and squared deviations s_c.

    ``SUM`` is sum n_c m_c, ``WITHIN`` sum s_c, ``BETWEEN`` sum n_c (m_c - mean)^2, ``SQUARES`` sum (s_c + n_c m_c^2),
    ``SQUARED_MEANS`` sum m_c^2, ``VARIANCES`` sum s_c / n_c; ``LIVE`` counts the channels c, ``DEAD`` those among them that are
    dead; the others are sums or extremes of the rows of their names.
    """

    CHANNELS = 0
    LIVE = 1
    COUNT = 2
    NONFINITE = 3
    SUM = 4
    SQUARES = 5
    WITHIN = 6
    BETWEEN = 7
    SQUARED_MEANS = 8
    VARIANCES = 9
    MIN = 10
    MAX = 11
    ZEROS = 12
    DEAD = 13
    SATURATED = 14


# asked of the classes, the lengths take a call in Python each time
ROWS, TOTALS = len(Row), len(Total)

_DEGREE = {"mean": 1, "min": 1, "max": 1, "sum": 1, "m2": 2}
_DEGREE |= dict.fromkeys(("squares", "within", "between", "squared_means", "variances"), 2)
_TOTAL_DEGREES = torch.tensor([_DEGREE.get(total.name.lower(), 0) for total in Total], dtype=torch.float64)

Merge = Literal["add", "min", "max"] | Callable[[Tensor, Tensor], Tensor]
_MERGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"add": torch.add, "min": torch.minimum, "max": torch.maximum}
_ACROSS: dict[str, np.ufunc] = {"add": np.add, "min": np.minimum, "max": np.maximum}


@dataclass(frozen=True, slots=True)
class Sum:
    """A sum that no backend gives by itself: torch computes it beside the sweep, in passes of its own.

    Attributes:
        name: How a statistic asks for it in ``needs`` and finds it in its formula.
        of: ``(tensor, axis) -> (C,)``, for a detached, real, strided tensor of any shape on any device and its channel axis
            (None: one channel).
        merge: How those of two batches merge, element by element: ``add``, ``min`` or ``max``; over the channels of a tensor
            they merge alike. Or a function of two results: then ``of`` may give a tensor of any shape for the whole tensor, and
            formulas see all of them stacked, ``(R, ...)``.
        scaled: What becomes of it when every element is multiplied by a factor > 0: the degree of that factor, or a function
            of the sum and the factor.
        implied: What an ``(8, C)`` table says of it where it was left out, for sums that only rare tensors have.
    """

    name: str
    of: Callable[[Tensor, int | None], Tensor]
    merge: Merge = "add"
    scaled: int | Callable[[Tensor, float], Tensor] = 0
    implied: Callable[[Tensor], Tensor] | None = None

    def merged(self, a: Tensor, b: Tensor) -> Tensor:
        """That of both sets of elements together."""
        return (_MERGES[self.merge] if isinstance(self.merge, str) else self.merge)(a, b)

    def times(self, value: Tensor, factor: float) -> Tensor:
        """That of every element times ``factor``."""
        return self.scaled(value, factor) if callable(self.scaled) else value * factor**self.scaled

    def of_rows(self, values: Sequence[Tensor]) -> Array:
        """Those of whole tensors, ``(R,)`` or ``(R, ...)``, after one transfer to the host a row."""
        found = [value.to(torch.float64).cpu().numpy() for value in values]
        # with a function of its own it is about the whole tensor, and there are no channels to go over
        if not isinstance(self.merge, str):
            return np.stack(found) if found else np.empty(0)
        across = _ACROSS[self.merge]
        return np.array([across.reduce(value) if value.size else np.nan for value in found], dtype=np.float64)

    def of_whole(self, value: Tensor) -> Tensor:
        """That of the whole tensor, from those of its channels, as of one channel."""
        if not isinstance(self.merge, str) or not value.numel():
            return value
        return torch.from_numpy(np.atleast_1d(_ACROSS[self.merge].reduce(value.cpu().numpy()))).to(value)


SUMS: Registry[Sum] = Registry("sum", of=Sum, describe=lambda one: one.name)
"""The sums beside those of :class:`Total`, by name."""


def _kinds(tensor: Tensor, axis: int | None) -> Tensor:
    found = (torch.isnan(tensor), torch.isposinf(tensor), torch.isneginf(tensor))
    return torch.stack([which.sum() for which in found]).to(torch.float64)


NONFINITES = Sum("nonfinites", _kinds, torch.add, implied=lambda _: torch.zeros(3, dtype=torch.float64))
"""How many elements are NaN, +inf and -inf, ``(3,)``; known only where some are, and on the host, so that it costs nothing."""
SUMS.register(NONFINITES.name, NONFINITES)


FAR = 2.0**400
"""Squares of deviations from a mean beyond this, or below its inverse, overflow or lose digits; see :func:`far`."""


class Room:
    """Memory that the sums of a pass share.

    A small block of the heap for each tensor, kept until the trace ends, would lie between the network's large ones and hold
    them apart: malloc then cannot give these back or join them, which costs hundreds of MiB (glibc 2.36, ResNet-50).

    Args:
        size: Numbers of a block.
    """

    __slots__ = ("_address", "_block", "_room", "_size", "_used")

    def __init__(self, size: int = 1 << 16) -> None:
        # -1: not even room for nothing, which a network without parameters asks for
        self._size, self._room, self._used, self._address = size, -1, 0, 0

    def take(self, numbers: int) -> tuple[Tensor, int, int]:
        """Room for so many numbers: a block, where in it they begin, and the address of that.

        Two threads must not ask at once; backward passes deliver what lies in the memory of the host on one thread at a time.
        """
        start = self._used
        if start + numbers > self._room:
            start, self._room = 0, max(numbers, self._size)
            # on the CPU, whatever torch.set_default_device says; pages that nobody writes to are never given out
            self._block = torch.empty(self._room, dtype=torch.float64, device="cpu")
            self._address = self._block.data_ptr()
        self._used = start + numbers
        return self._block, start, self._address + 8 * start


class Sums:
    """What is known of one or more tensors; not to be changed.

    Args:
        block: Memory that holds an ``(8, C)`` float64 table with the rows of :class:`Row`, on the tensor's device, or the
            numbers of :class:`Total`. Counts are whole numbers, exact in float64 up to 2**53.
        channels: Number of channels.
        start: Where in the memory they begin.
        whole: Whether it holds the numbers of the whole tensor alone; they cannot be merged.
        further: The sums of :data:`SUMS` that were asked for.
        varying: Whether tensors of different numbers of channels were merged: then they are one channel, and nothing is known
            of each.
    """

    __slots__ = ("_block", "_start", "channels", "further", "varying", "whole")

    def __init__(
        self,
        block: Tensor,
        channels: int,
        start: int = 0,
        *,
        whole: bool = False,
        further: Mapping[str, Tensor] | None = None,
        varying: bool = False,
    ) -> None:
        self._block, self._start, self.channels, self.whole, self.varying = block, start, channels, whole, varying
        self.further: Mapping[str, Tensor] = further or {}

    @classmethod
    def of_table(cls, table: Tensor, further: Mapping[str, Tensor] | None = None, *, varying: bool = False) -> Sums:
        """From an ``(8, C)`` table."""
        return cls(table.contiguous().view(-1), table.shape[1], further=further, varying=varying)

    @property
    def table(self) -> Tensor:
        """The ``(8, C)`` sums of each channel.

        Raises:
            TypeError: They were not kept.
        """
        if self.whole:
            raise TypeError("numbers without their sums cannot be merged; the capture was told that nothing would be")
        return self._numbers.view(ROWS, self.channels)

    @property
    def _numbers(self) -> Tensor:
        size = TOTALS if self.whole else ROWS * self.channels
        return self._block[self._start : self._start + size]

    def __getitem__(self, name: str) -> Tensor:
        """One of the sums of each channel, ``(C,)`` float64, by the name of its row, as ``mean``."""
        return self.table[Row[name.upper()]]

    def merge(self, other: Sums) -> Sums:
        """The sums of both sets of elements together (Chan, Golub & LeVeque 1983, pairwise update).

        Where the numbers of channels differ, those of both as one channel; the result is ``varying``.
        """
        if self.varying or other.varying or self.channels != other.channels:
            a, b, varying = self._as_one_channel(), other._as_one_channel(), True
        else:
            a, b, varying = self, other, False
        further = {}
        # | keeps no order, which nobody reads
        for name in a.further.keys() | b.further.keys():
            one, other_one = a._further(name), b._further(name)
            if one is not None and other_one is not None:
                further[name] = SUMS[name].merged(one, other_one)
        return Sums.of_table(merge_tables(a.table, b.table), further, varying=varying)

    def _further(self, name: str) -> Tensor | None:
        found, implied = self.further.get(name), SUMS[name].implied
        return implied(self.table) if found is None and implied is not None else found

    def _as_one_channel(self) -> Sums:
        if self.varying:
            return self
        further = {name: SUMS[name].of_whole(value) for name, value in self.further.items()}
        return Sums.of_table(one_channel(self.table), further, varying=True)

    @property
    def nonfinite(self) -> bool:
        """Whether any element is NaN or infinite; of what lies on the host."""
        return bool((self._numbers[Total.NONFINITE] if self.whole else self["nonfinite"]).any())

    @property
    def far(self) -> bool:
        """Whether :func:`far` says so of the largest magnitude; of what lies on the host."""
        low, high = (self._numbers[[total]] if self.whole else self[total.name] for total in (Total.MIN, Total.MAX))
        largest = torch.maximum(-low, high)
        return bool(largest.numel() and far(largest.max()))

    def same(self, other: object) -> bool:
        """Whether both hold the very same numbers."""
        return isinstance(other, Sums) and self.whole == other.whole and torch.equal(self._numbers, other._numbers)

    def scaled(self, factor: float) -> Sums:
        """The sums of every element times ``factor`` (> 0)."""
        further = {name: SUMS[name].times(value, factor) for name, value in self.further.items()}
        if self.whole:
            numbers = self._numbers * factor**_TOTAL_DEGREES
            return Sums(numbers, self.channels, whole=True, further=further, varying=self.varying)
        table = self.table.clone()
        # one by one: a vector of powers made on the host would have to wait for the device
        for row in Row:
            if degree := _DEGREE.get(row.name.lower()):
                table[row] *= factor**degree
        return Sums.of_table(table, further, varying=self.varying)


def far(largest: Any) -> Any:
    """Whether numbers up to this magnitude have squares that overflow, or lose digits as they underflow; zeros have not."""
    return (largest > FAR) | ((largest > 0) & (largest < 1 / FAR))


def empty_table(channels: int, device: torch.device) -> Tensor:
    """The table of nothing: the neutral element of merging."""
    table = torch.zeros(ROWS, channels, dtype=torch.float64, device=device)
    table[Row.MIN] = torch.inf
    table[Row.MAX] = -torch.inf
    return table


def merge_tables(a: Tensor, b: Tensor) -> Tensor:
    """Merge two ``(8, C)`` tables: counts add, means weigh by count, ``m2`` gains the spread between the means."""
    out = a + b
    n_a, n_b = a[Row.COUNT], b[Row.COUNT]
    # a channel without any element on either side stays empty instead of becoming NaN
    n = out[Row.COUNT].clamp(min=1)
    delta = b[Row.MEAN] - a[Row.MEAN]
    out[Row.MEAN] = a[Row.MEAN] + delta * (n_b / n)
    # in this order, since the square of a large difference is infinite, and that times no elements NaN
    out[Row.M2] += delta * (n_a * n_b / n) * delta
    out[Row.MIN] = torch.minimum(a[Row.MIN], b[Row.MIN])
    out[Row.MAX] = torch.maximum(a[Row.MAX], b[Row.MAX])
    return out


def one_channel(table: Tensor) -> Tensor:
    """An ``(8, C)`` table as one of a single channel, ``(8, 1)``."""
    # a column of nothing, so that there is one to reduce where there are no channels
    table = torch.cat([table, empty_table(1, table.device)], dim=1)
    out = table.sum(1, keepdim=True)
    count, mean = table[Row.COUNT], table[Row.MEAN]
    centre = (count * mean).sum() / count.sum().clamp(min=1)
    out[Row.MEAN] = centre
    out[Row.M2] += (count * (mean - centre).square()).sum()
    out[Row.MIN], out[Row.MAX] = table[Row.MIN].amin(), table[Row.MAX].amax()
    return out


_OF_CHANNELS = [Total.CHANNELS, Total.LIVE, Total.SQUARED_MEANS, Total.VARIANCES, Total.DEAD]
"""Nothing is known of these where the number of channels varies: they are 0, and averages over no channels are missing."""


def totals(readings: Sequence[Sums]) -> Array:
    """The numbers of :class:`Total` of ``R`` readings, ``(R, 15)``, after one transfer to the host."""
    out = np.empty((len(readings), TOTALS))
    blocks: dict[int, list[int]] = defaultdict(list)
    for i, one in enumerate(readings):
        # no object has the identity 0
        blocks[id(one._block) if one.whole else 0].append(i)
    by_channel = blocks.pop(0, [])
    for here in blocks.values():
        starts = np.array([readings[i]._start for i in here])
        out[here] = readings[here[0]]._block.numpy()[starts[:, None] + np.arange(TOTALS)]
    tables = on_host([readings[i].table for i in by_channel])
    # a few channels at a time, so that what is made of them stays in the caches
    for begin, end in _groups([table.shape[1] for table in tables], 1 << 15):
        sizes = np.array([table.shape[1] for table in tables[begin:end]])
        # squares of numbers beyond 1e154 are infinite, which the rows say
        with np.errstate(over="ignore", invalid="ignore"):
            out[by_channel[begin:end]] = _totals_of(np.concatenate(tables[begin:end], axis=1), sizes)
    # of finite elements, so that only infinite sums can have made it: inf - inf, 0 * inf
    out[np.isnan(out)] = np.inf
    if varying := [i for i in by_channel if readings[i].varying]:
        out[np.ix_(varying, _OF_CHANNELS)] = 0
    return out


def without_channels(readings: Sequence[Sums]) -> list[Sums]:
    """The same, of whole tensors alone: for what nothing more will be merged with."""
    block = torch.from_numpy(totals(readings)).view(-1)
    return [
        Sums(
            block,
            one.channels,
            TOTALS * i,
            whole=True,
            varying=one.varying,
            further={name: value for name, value in one.further.items() if SUMS[name].implied},
        )
        for i, one in enumerate(readings)
    ]


def _groups(sizes: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Begin and end of stretches of ``sizes`` that add up to ``most`` each, or are one alone."""
    found, begin, held = [], 0, 0
    for i, size in enumerate(sizes):
        if held and held + size > most:
            found.append((begin, i))
            begin, held = i, 0
        held += size
    return [*found, (begin, len(sizes))] if sizes else []


def _totals_of(tables: Array, sizes: npt.NDArray[np.int64]) -> Array:
    """From the tables of several tensors side by side, ``(8, sum C)``, of ``sizes`` channels each."""
    filled = sizes > 0
    starts = (np.cumsum(sizes) - sizes)[filled]
    out = np.zeros((len(sizes), TOTALS))

    def across(ufunc: np.ufunc, values: Array, nothing: float = 0.0) -> Array:
        found = np.full(len(sizes), nothing)
        # reduceat takes an empty stretch for its first element, so these are left out
        if len(starts):
            found[filled] = ufunc.reduceat(values, starts)
        return found

    count, mean, m2 = tables[Row.COUNT], tables[Row.MEAN], tables[Row.M2]
    weighted = count * mean
    out[:, Total.CHANNELS] = sizes
    out[:, Total.LIVE] = across(np.add, (count > 0).astype(np.float64))
    out[:, Total.SUM] = across(np.add, weighted)
    out[:, Total.WITHIN] = across(np.add, m2)
    out[:, Total.SQUARES] = out[:, Total.WITHIN] + across(np.add, weighted * mean)
    out[:, Total.SQUARED_MEANS] = across(np.add, mean * mean)
    out[:, Total.VARIANCES] = across(np.add, m2 / np.maximum(count, 1))
    for row in (Row.COUNT, Row.NONFINITE, Row.ZEROS, Row.SATURATED):
        out[:, Total[row.name]] = across(np.add, tables[row])
    out[:, Total.MIN] = across(np.minimum, tables[Row.MIN], np.inf)
    out[:, Total.MAX] = across(np.maximum, tables[Row.MAX], -np.inf)
    elements = np.maximum(out[:, Total.COUNT], 1)
    # about the mean of all, not from squares: a mean far above the spread would leave no digits
    off = mean - np.repeat(out[:, Total.SUM] / elements, sizes)
    out[:, Total.BETWEEN] = across(np.add, count * off * off)
    # squared, so that nothing has to be rooted; 0 where all is zero, which the zeros tell, and where nothing can be told
    limit = DEAD_SPREAD**2 * out[:, Total.SQUARES] / elements
    limit = np.repeat(np.where(np.isfinite(limit), limit, 0), sizes)
    dead = (count > 0) & ((m2 < limit * count) | (tables[Row.ZEROS] == count))
    out[:, Total.DEAD] = across(np.add, dead.astype(np.float64))
    return out


def on_host(tables: Sequence[Tensor]) -> list[Array]:
    """The same tables as arrays; one transfer per device."""
    out = [table.numpy() if table.is_cpu else None for table in tables]
    for device in {table.device for table in tables if not table.is_cpu}:
        where = [i for i, table in enumerate(tables) if table.device == device]
        whole = torch.cat([tables[i] for i in where], dim=1).cpu().numpy()
        ends = np.cumsum([tables[i].shape[1] for i in where])
        for i, part in zip(where, np.split(whole, ends[:-1], axis=1), strict=True):
            out[i] = part
    return [array for array in out if array is not None]
