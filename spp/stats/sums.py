"""Exact, mergeable statistics of a tensor, per channel, computed where the tensor lies.

A statistic is two pure functions. :meth:`Moments.of` turns a tensor into sums that merge exactly; :func:`summarize` turns
sums into numbers. Between them nothing of the tensor is kept: memory grows with channels, not with activations.

>>> import torch
>>> a, b = torch.randn(8, 3, 5, 5), torch.randn(4, 3, 5, 5)
>>> both = Moments.of(a, 1).merge(Moments.of(b, 1))
>>> whole = Moments.of(torch.cat([a, b]), 1)
>>> torch.allclose(both.mean, whole.mean, rtol=0, atol=1e-7) and both.count.tolist() == whole.count.tolist()
True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spp.errors import InputError
from spp.stats import backends
from spp.stats.backends import native, reduce_channels
from spp.stats.backends.layout import Row, merge_packed, on_host

Array = npt.NDArray[np.float64]

DEAD_SPREAD = 1e-6
"""A channel is dead when its standard deviation is below this share of the tensor's rms."""


class Moments:
    """Per-channel sums over the finite elements of one or more tensors; not to be changed.

    Args:
        packed: ``(8, C)`` float64 on the tensor's device; the rows are :class:`Row`. Counts are whole numbers, exact in
            float64 up to 2**53. One tensor per reading means one transfer per pass.
    """

    __slots__ = ("_packed", "_table")

    def __init__(self, packed: Tensor) -> None:
        self._packed: Tensor | None = packed
        self._table: Tensor | native.Table = packed

    @classmethod
    def of(cls, tensor: Tensor, axis: int | None = 0, *, ends: tuple[float, float] | None = None) -> Moments:
        """Reduce one tensor.

        Args:
            tensor: Any shape and dtype; half precision is widened before anything is squared, complex numbers count by
                magnitude, integers and booleans by value.
            axis: The channel axis; None, or a tensor of rank 0, means one channel.
            ends: Count the values at or below the first or at or above the second as saturated.

        Raises:
            InputError: ``axis`` is out of range for the tensor.
        """
        if axis is not None and tensor.dim() and not -tensor.dim() <= axis < tensor.dim():
            raise InputError(
                "the channel axis is an axis of the tensor",
                received=f"axis {axis} for shape {tuple(tensor.shape)}",
                where="channel_axis",
            )
        return cls(reduce_channels(tensor, axis, ends))

    @classmethod
    def swept(cls, tensor: Tensor, axis: int | None, ends: tuple[float, float] | None = None) -> Moments | None:
        """Reduce one tensor that the C sweep can read as it is; None for others."""
        plan = native.plan_for(tensor, axis)
        table = None if plan is None else native.table(tensor, plan, ends)
        if table is None:
            return None
        made = cls.__new__(cls)
        made._packed, made._table = None, table
        return made

    @property
    def packed(self) -> Tensor:
        """The ``(8, C)`` sums as a tensor."""
        if self._packed is None:
            assert not isinstance(self._table, Tensor)
            self._packed = native.as_tensor(self._table)
        return self._packed

    @property
    def table(self) -> Tensor | native.Table:
        """The same as they were made, a tensor or what C has written."""
        return self._table

    @property
    def channels(self) -> int:
        """Number of channels, ``C``."""
        table = self._table
        return table.shape[1] if isinstance(table, Tensor) else len(table) // len(Row)

    @property
    def count(self) -> Tensor:
        """Finite elements per channel, ``(C,)`` int64."""
        return self.packed[Row.COUNT].to(torch.int64)

    @property
    def mean(self) -> Tensor:
        """Mean per channel, ``(C,)`` float64; 0 where the count is 0."""
        return self.packed[Row.MEAN]

    @property
    def m2(self) -> Tensor:
        """Sum of squared deviations from the channel's mean, ``(C,)`` float64."""
        return self.packed[Row.M2]

    @property
    def min(self) -> Tensor:
        """Smallest finite element per channel, ``(C,)`` float64; +inf where the count is 0."""
        return self.packed[Row.MIN]

    @property
    def max(self) -> Tensor:
        """Largest finite element per channel, ``(C,)`` float64; -inf where the count is 0."""
        return self.packed[Row.MAX]

    @property
    def zeros(self) -> Tensor:
        """Exact zeros per channel, ``(C,)`` int64."""
        return self.packed[Row.ZEROS].to(torch.int64)

    @property
    def nonfinite(self) -> Tensor:
        """NaN and infinite elements per channel, ``(C,)`` int64."""
        return self.packed[Row.NONFINITE].to(torch.int64)

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of elements together (Chan, Golub & LeVeque 1983, pairwise update).

        Raises:
            InputError: The numbers of channels differ.
        """
        if self.channels != other.channels:
            raise InputError(
                "moments that are merged have equally many channels",
                received=f"{self.channels} and {other.channels}",
                remedy="Pass channel_axis= so that the channel axis has the same length in every batch.",
            )
        return Moments(merge_packed(self.packed, other.packed))

    def same(self, other: object) -> bool:
        """Whether both hold the very same numbers."""
        return isinstance(other, Moments) and torch.equal(self.packed, other.packed)

    def scaled(self, factor: float) -> Moments:
        """The moments of every element times ``factor`` (> 0)."""
        packed = self.packed.clone()
        packed[Row.MEAN] *= factor
        packed[Row.M2] *= factor * factor
        packed[Row.MIN] *= factor
        packed[Row.MAX] *= factor
        return Moments(packed)


class Digest(NamedTuple):
    """The numbers of a tensor that nothing will be merged with: its channels' sums are not kept.

    A trace of one batch needs no more, and the tables of all channels are most of what a trace would hold in memory.

    Attributes:
        numbers: In the order of ``native.SUMMARY``.
        channels: Number of channels.
    """

    numbers: tuple[float, ...]
    channels: int

    @classmethod
    def of(cls, tensor: Tensor, axis: int | None, *, ends: tuple[float, float] | None = None) -> Digest | None:
        """Reduce one tensor as :meth:`Moments.of` does; None where no kernel does it in one go."""
        numbers = backends.digest(tensor, axis, DEAD_SPREAD, ends)
        if numbers is None:
            return None
        return cls(numbers, _channels(tensor, axis))

    @classmethod
    def swept(cls, tensor: Tensor, axis: int | None, ends: tuple[float, float] | None = None) -> Digest | None:
        """Reduce one tensor that the C sweep can read as it is; None for others."""
        found = native.digest(tensor, axis, DEAD_SPREAD, ends)
        return None if found is None else cls(*found)

    @classmethod
    def of_all(cls, tensors: Sequence[Tensor], axes: Sequence[int | None]) -> list[Digest] | None:
        """Reduce many tensors; None where no kernel does all of them in one go."""
        found = backends.digests(tensors, axes, DEAD_SPREAD)
        return None if found is None else [cls(*one) for one in found]

    def same(self, other: object) -> bool:
        """Whether both hold the very same numbers."""
        return isinstance(other, Digest) and bool(np.array_equal(self.numbers, other.numbers, equal_nan=True))

    def scaled(self, factor: float) -> Digest:
        """The numbers of every element times ``factor`` (> 0)."""
        return Digest(tuple(n * factor**p for n, p in zip(self.numbers, _POWERS, strict=True)), self.channels)


def _channels(tensor: Tensor, axis: int | None) -> int:
    return tensor.shape[axis] if axis is not None and tensor.dim() else 1


_DEGREE = {"mean": 1, "min": 1, "max": 1, "var": 2, "mean_square": 2, "acsm": 2, "acv": 2}
_POWERS = [_DEGREE.get(name, 0) for name in native.SUMMARY]


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """The statistics of many readings, one entry each; NaN where a reading has no finite element."""

    channels: npt.NDArray[np.int64]
    numel: npt.NDArray[np.int64]
    mean: Array
    var: Array
    mean_square: Array
    acsm: Array
    acv: Array
    min: Array
    max: Array
    zero_fraction: Array
    dead_fraction: Array
    saturated_fraction: Array
    nonfinite: npt.NDArray[np.int64]


def summarize(readings: Sequence[Moments | Digest]) -> Summary:
    """Turn the sums of ``R`` readings into numbers, all at once, after one transfer to the host.

    With n_c, m_c, s_c the count, mean and sum of squared deviations of channel c, N = sum_c n_c, and averages over the
    channels that have any finite element:

    - mean = sum_c n_c m_c / N, var = (sum_c s_c + sum_c n_c (m_c - mean)^2) / N (biased)
    - mean_square = (sum_c s_c + sum_c n_c m_c^2) / N
    - acsm = average_c m_c^2, acv = average_c s_c / n_c (Brock, De & Smith 2021, section 3)
    """
    sizes = np.array([r.channels for r in readings], dtype=np.int64)
    out = np.empty((len(native.SUMMARY), len(readings)))
    whole = [i for i, r in enumerate(readings) if isinstance(r, Digest)]
    if whole:
        every = chain.from_iterable(r.numbers for r in readings if isinstance(r, Digest))
        out[:, whole] = np.fromiter(every, np.float64, len(whole) * len(out)).reshape(-1, len(out)).T
    if len(whole) < len(readings):
        tables = [r for r in readings if isinstance(r, Moments)]
        rest = [i for i, r in enumerate(readings) if isinstance(r, Moments)]
        fast = native.summarize([t.table for t in tables], DEAD_SPREAD) if backends.uses_native() else None
        out[:, rest] = fast if fast is not None else _summarize([t.packed for t in tables], sizes[rest])
    numbers = dict(zip(native.SUMMARY, out, strict=True))
    nonfinite = numbers.pop("nonfinite")
    return Summary(
        channels=sizes,
        numel=(numbers.pop("total") + nonfinite).astype(np.int64),
        nonfinite=nonfinite.astype(np.int64),
        **numbers,
    )


def digests(readings: Sequence[Moments]) -> list[Digest]:
    """The numbers of readings that nothing more will be merged with."""
    fast = native.summarize([r.table for r in readings], DEAD_SPREAD) if backends.uses_native() else None
    if fast is not None:
        return [Digest(tuple(row), r.channels) for row, r in zip(fast.T.tolist(), readings, strict=True)]
    summary = summarize(readings)
    columns = [
        summary.numel - summary.nonfinite if name == "total" else getattr(summary, name) for name in native.SUMMARY
    ]
    rows = np.array(columns, dtype=np.float64).T.tolist()
    return [Digest(tuple(row), reading.channels) for row, reading in zip(rows, readings, strict=True)]


def _summarize(packed: Sequence[Tensor], sizes: npt.NDArray[np.int64]) -> list[Array]:
    """The reference: NumPy over all channels of all readings side by side."""
    tables = on_host(packed)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    filled = sizes > 0

    def add(values: Array) -> Array:
        """Sum over each reading's channels, ``(sum C,) -> (R,)``."""
        out = np.zeros(len(sizes))
        if filled.any():
            out[filled] = np.add.reduceat(values, starts[filled])
        return out

    def extreme(ufunc: np.ufunc, values: Array) -> Array:
        out = np.full(len(sizes), np.nan)
        if filled.any():
            out[filled] = ufunc.reduceat(values, starts[filled])
        return np.where(np.isfinite(out), out, np.nan)

    count, mean, m2 = tables[Row.COUNT], tables[Row.MEAN], tables[Row.M2]
    with np.errstate(divide="ignore", invalid="ignore"):
        total, live = add(count), add((count > 0).astype(np.float64))
        whole_mean = add(count * mean) / total
        squares = add(m2)
        channel_var = np.where(count > 0, m2 / np.maximum(count, 1), 0.0)
        mean_square = (squares + add(count * mean * mean)) / total
        centred = mean - np.repeat(np.nan_to_num(whole_mean), sizes)
        var = (squares + add(count * centred * centred)) / total
        limit = DEAD_SPREAD * np.sqrt(np.repeat(np.nan_to_num(mean_square), sizes))
        dead = (count > 0) & ((np.sqrt(channel_var) < limit) | (tables[Row.ZEROS] == count))
        numbers = {
            "total": total,
            "nonfinite": add(tables[Row.NONFINITE]),
            "mean": whole_mean,
            "var": var,
            "mean_square": mean_square,
            "acsm": add(np.where(count > 0, mean * mean, 0.0)) / live,
            "acv": add(channel_var) / live,
            "min": extreme(np.minimum, tables[Row.MIN]),
            "max": extreme(np.maximum, tables[Row.MAX]),
            "zero_fraction": add(tables[Row.ZEROS]) / total,
            "dead_fraction": add(dead.astype(np.float64)) / live,
            "saturated_fraction": add(tables[Row.SATURATED]) / total,
        }
    return [numbers[name] for name in native.SUMMARY]
