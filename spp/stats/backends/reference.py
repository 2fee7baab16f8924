"""The reference reduction, in torch operations: runs on every device, dtype and layout.

A tensor is seen as ``(outer, channel, inner)`` in the order its memory lies in, without copying it. Long inner runs are
reduced over the last axis, short ones over the outer axis: these are the reductions torch has fast kernels for. Squares are
taken of deviations from a pivot near the mean and combined in float64 (Chan et al. 1983), so nothing cancels. Work goes in
pieces that stay in cache, through one scratch buffer, which also bounds the temporary memory. Where float32 would lose
digits (a mean far above the spread, squares out of range), the same is done again in float64.

:func:`reduce_whole` is a shorter way where nothing will be merged: a trace of one batch asks for mean and spread of channels,
but for extremes and zeros of the whole tensor only. Of long rows, sums of the values and of their squares as they are take two
fast passes of torch's where the means are no larger than the spread; else the same is done again about the means.
Of short ones ``batch_norm_update_stats`` gives mean and spread in one call: between two layers of a network a call costs ten
times what it does in a loop, so their number counts. NumPy has the fast extremes and zeros. What this cannot do exactly enough
(a mean far above the spread, squares out of range, NaN and infinities, other dtypes and layouts) is left to :func:`reduce`.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spp.stats.layout import memory_order
from spp.stats.sums import DEAD_SPREAD, Array, Room, Row, Sums, Total, empty_table, merge_tables

# Elements worked on at a time: with the scratch buffer 2 MiB of float32, which a core's second-level cache holds.
CHUNK = 1 << 18

# The same on other devices, where a piece costs some twenty launches and, in float64, some 100 MiB.
DEVICE_CHUNK = 1 << 22

# Up to so many elements float64 costs less than what float32 needs to be safe.
SMALL = 1 << 13

# Inner runs shorter than this are slow to reduce over the last axis.
SHORT = 64

# Inner runs shorter than this are laid side by side first, where a channel has several: small copies for long runs.
PACKED = 128

# Runs longer than this are cut, so that a float32 sum keeps its digits.
LONG = 1 << 15

# Spreads whose squares neither underflow nor overflow float32.
SAFE = (1e-15, 1e15)

# Where |mean| exceeds this many standard deviations, float32 sums lose too many digits.
TILT = 256.0

_scratch = threading.local()


def reduce(tensor: Tensor, axis: int | None, ends: tuple[float, float] | None = None) -> Tensor:
    """Reduce a real, strided ``tensor`` to its ``(8, C)`` table; see :func:`spp.stats.backends.reduce`."""
    x, repeats = memory_order(tensor, axis)
    if x.numel() == 0:
        return empty_table(x.shape[1], x.device)
    table = _table(x)
    if ends is not None:
        table[Row.SATURATED] = saturated(tensor, axis, ends) / repeats
    if repeats != 1:
        for row in (Row.COUNT, Row.M2, Row.ZEROS, Row.NONFINITE, Row.SATURATED):
            table[row] *= repeats
    return table


def _table(x: Tensor) -> Tensor:
    if x.device.type != "cpu":
        return _on_device(x)
    if x.numel() <= SMALL or x.shape[0] == x.shape[2] == 1:
        return _masked(x)
    for wide in (False, True):
        table = _pieces(x, wide=wide or x.dtype is torch.float64)
        if table is not None:
            return table
    channels = max(1, CHUNK // (x.shape[0] * x.shape[2]))
    return torch.cat([_masked(part) for part in torch.split(x, channels, dim=1)], dim=1)


def _pieces(x: Tensor, *, wide: bool) -> Tensor | None:
    """The table of ``(outer, C, inner)``; None where a value is not finite, or float32 would lose digits."""
    outer, channels, inner = x.shape
    if inner >= PACKED or outer == 1:
        length, runs = _by_rows(x, wide)
    elif inner > 1 and outer * inner >= SHORT:
        length, runs = _packed(x, wide)
    else:
        length, runs = _by_columns(x.reshape(outer, channels * inner), wide)
        runs = runs.reshape(5, -1, channels, inner)
    low, high = _fold(runs[0], torch.amin), _fold(runs[1], torch.amax)
    least, most = float(low.min()), float(high.max())
    if not (math.isfinite(least) and math.isfinite(most)):
        return None
    total, m2 = runs[2], runs[3]
    if not wide:
        tilted = total * total > m2 * (length * TILT * TILT)
        if not (SAFE[0] < most - least < SAFE[1]) or bool(tilted.any()):
            return None
    count = float(outer * inner)
    table = torch.zeros((len(Row), channels), dtype=torch.float64)
    mean = _fold(total, torch.sum) / count
    off = total / length - mean.unsqueeze(1)
    table[Row.COUNT] = count
    table[Row.MEAN] = mean
    table[Row.M2] = _fold(off.square_().mul_(length).add_(m2), torch.sum)
    table[Row.MIN], table[Row.MAX] = low, high
    table[Row.ZEROS] = count - _fold(runs[4], torch.sum)
    return table


def _fold(runs: Tensor, by: Callable[..., Tensor]) -> Tensor:
    """``(pieces, C, columns) -> (C,)``: one axis at a time, which torch does faster than two."""
    runs = by(runs, 2) if runs.shape[2] > 1 else runs.squeeze(2)
    return by(runs, 0) if runs.shape[0] > 1 else runs.squeeze(0)


def _by_rows(x: Tensor, wide: bool) -> tuple[Tensor, Tensor]:
    """Length of each piece of a run, and extremes, sum, squared deviations and non-zeros, ``(5, outer, C, pieces)``."""
    inner = x.shape[2]
    cut = inner // LONG * LONG if inner > LONG else inner
    parts = [x[..., :cut].unfold(2, min(LONG, inner), min(LONG, inner))] + (
        [x[..., cut:].unsqueeze(2)] if cut < inner else []
    )
    lengths, found = [], []
    for part in parts:
        outer, channels, pieces, run = part.shape
        out = _outputs((outer, channels, pieces), part.dtype, wide)
        step = max(1, CHUNK // run)
        if channels * pieces <= step:
            many = step // (channels * pieces)
            for i in range(0, outer, many):
                _reduce_into(part[i : i + many], 3, out[:, i : i + many], wide)
        else:
            many, fold = max(1, step // pieces), min(pieces, step)
            for o, c, k in itertools.product(range(outer), range(0, channels, many), range(0, pieces, fold)):
                _reduce_into(part[o, c : c + many, k : k + fold], 2, out[:, o, c : c + many, k : k + fold], wide)
        lengths += [float(run)] * pieces
        found.append(out.to(torch.float64))
    return torch.tensor(lengths, dtype=torch.float64), found[0] if len(found) == 1 else torch.cat(found, 3)


def _packed(x: Tensor, wide: bool) -> tuple[Tensor, Tensor]:
    """The same after the runs of one channel were laid side by side, a cache's worth of channels at a time."""
    outer, channels, inner = x.shape
    many = max(1, CHUNK // (outer * inner))
    found = []
    for c in range(0, channels, many):
        part = x[:, c : c + many].transpose(0, 1)
        beside = buffer(part, part.dtype, "pack").copy_(part)
        length, runs = _by_rows(beside.view(1, len(part), outer * inner), wide)
        found.append(runs)
    return length, found[0] if len(found) == 1 else torch.cat(found, 2)


def _by_columns(x: Tensor, wide: bool) -> tuple[Tensor, Tensor]:
    """The same of each column of ``(outer, columns)``, in pieces of rows: ``(pieces, 1, 1)`` and ``(5, pieces, columns)``."""
    outer, columns = x.shape
    rows = min(outer, LONG, max(64, CHUNK // columns))
    pieces = -(-outer // rows)
    out = _outputs((pieces, columns), x.dtype, wide)
    many = max(1, CHUNK // rows)
    for p, c in itertools.product(range(pieces), range(0, columns, many)):
        _reduce_into(x[p * rows : (p + 1) * rows, c : c + many], 0, out[:, p, c : c + many], wide)
    lengths = torch.full((pieces, 1, 1), float(rows), dtype=torch.float64)
    lengths[-1] = outer - rows * (pieces - 1)
    return lengths, out.to(torch.float64)


def _outputs(shape: tuple[int, ...], dtype: torch.dtype, wide: bool) -> Tensor:
    """Room for extremes, sums, squared deviations and non-zeros; those of half precision are kept as float32."""
    kind = torch.float64 if wide else torch.float32 if dtype.itemsize < 4 else dtype
    return torch.empty((5, *shape), dtype=kind)


def _reduce_into(part: Tensor, over: int, out: Tensor, wide: bool) -> None:
    """Reduce one piece that stays in cache."""
    low, high, total, m2, nonzero = out.unbind(0)
    if part.dtype is not out.dtype:
        part = part.to(out.dtype)
    work = buffer(part, out.dtype)
    torch.amin(part, over, out=low)
    torch.amax(part, over, out=high)
    torch.sum(part, over, out=total)
    centred = torch.sub(part, (total / part.shape[over]).unsqueeze(over), out=work)
    shift = centred.sum(over) if wide else None
    torch.sum(centred.square_(), over, out=m2)
    if shift is not None:
        m2.sub_(shift.square_().div_(part.shape[over])).clamp_(min=0)
    torch.sum(torch.ne(part, 0, out=work), over, out=nonzero)


def buffer(like: Tensor, kind: torch.dtype, purpose: str = "work") -> Tensor:
    """Scratch of the shape of ``like``, one per thread: fresh pages cost more than the arithmetic on them."""
    held: dict[tuple[str, torch.dtype], Tensor] = _scratch.__dict__.setdefault("held", {})
    size = like.numel()
    buffer = held.get((purpose, kind))
    if buffer is None or buffer.numel() < size:
        buffer = torch.empty(max(size, CHUNK), dtype=kind)
        if size <= 4 * CHUNK:
            held[purpose, kind] = buffer
    return buffer[:size].view(like.shape)


def saturated(x: Tensor, axis: int | None, ends: tuple[float, float]) -> Tensor:
    """How many finite values of each channel lie at or beyond either end, ``(C,)`` float64."""
    if x.dtype.itemsize < 4:
        # torch would round the ends to half precision before it compares
        x = x.float()
    beyond = ((x <= ends[0]) | (x >= ends[1])) & (x.abs() != torch.inf)
    rest = [d for d in range(x.dim()) if axis is None or d != axis % x.dim()]
    return (beyond.sum(rest) if rest else beyond).to(torch.float64).reshape(-1)


def _on_device(x: Tensor) -> Tensor:
    """Off the CPU nothing may wait for a number from the device; halves are merged, so that float64 copies stay small."""
    if x.numel() <= DEVICE_CHUNK:
        return _masked(x)
    dim = 1 if x.shape[0] == x.shape[2] == 1 else 0 if x.shape[0] >= x.shape[2] else 2
    tables = [_on_device(part) for part in torch.split(x, -(-x.shape[dim] // 2), dim)]
    return torch.cat(tables, 1) if dim == 1 else merge_tables(*tables)


def _masked(x: Tensor) -> Tensor:
    """Any values, NaN and infinities included, in float64 and without looking at a number from the host."""
    finite = torch.isfinite(x)
    count = finite.sum((0, 2)).to(torch.float64)
    values = torch.where(finite, x, 0).to(torch.float64)
    mean = values.sum((0, 2)) / count.clamp(min=1)
    centred = torch.where(finite, values - mean[None, :, None], 0)
    mean = mean + centred.sum((0, 2)) / count.clamp(min=1)
    table = torch.empty(len(Row), x.shape[1], dtype=torch.float64, device=x.device)
    table[Row.COUNT] = count
    table[Row.MEAN] = mean
    table[Row.M2] = (centred * centred).sum((0, 2))
    table[Row.MIN] = torch.where(finite, values, torch.inf).amin((0, 2))
    table[Row.MAX] = torch.where(finite, values, -torch.inf).amax((0, 2))
    table[Row.ZEROS] = (x == 0).sum((0, 2)).to(torch.float64)
    table[Row.NONFINITE] = float(x.shape[0] * x.shape[2]) - count
    table[Row.SATURATED] = 0.0
    return table


_ZERO = np.float32(0)

# Up to so many elements NumPy in float64 costs less than the calls of torch's.
FEW = 4096

# Up to this ratio of squared means to variances, over all channels, squares of the values as they are lose no digits.
LEVEL = 1.0

# The same for a single channel, so that one that hardly varies is seen to.
STEEP = 16.0

# Elements whose squares ``vector_norm`` may add up: it does so in float32, one by one, and of equal ones loses digits.
PART = 256


def reduce_whole(tensor: Tensor, axis: int | None, ends: tuple[float, float] | None, room: Room) -> Sums | None:
    """The sums of a detached CPU tensor as a whole; None where another way is to be gone.

    Args:
        tensor: Any shape.
        axis: The channel axis; None for one channel.
        ends: Values at or beyond which are saturated.
        room: Where the sums go.
    """
    if tensor.dtype is not torch.float32 or not tensor.is_cpu or not tensor.numel():
        return None
    x, repeats = memory_order(tensor, axis)
    if not x.is_contiguous():
        return None
    outer, channels, inner = x.shape
    if x.numel() <= FEW or outer == inner == 1:
        way = _few
    elif outer == 1 or inner >= SHORT:
        way = _long
    else:
        way = _short if inner > 1 else _beside
    extremes = _Extremes()
    found = way(x, extremes)
    if found is None:
        return None
    block, start, _ = room.take(len(Total))
    out = block.numpy()[start : start + len(Total)]
    count = x.numel() * repeats
    out[Total.CHANNELS] = out[Total.LIVE] = channels
    out[Total.COUNT], out[Total.NONFINITE] = count, 0
    out[Total.SUM], out[Total.SQUARES] = found.mean * count, (found.acsm + found.acv) * count
    out[Total.WITHIN], out[Total.BETWEEN] = found.acv * count, found.between * count
    out[Total.SQUARED_MEANS], out[Total.VARIANCES] = found.acsm * channels, found.acv * channels
    out[Total.MIN], out[Total.MAX] = extremes.low, extremes.high
    out[Total.ZEROS], out[Total.DEAD] = count - extremes.nonzero * repeats, found.dead
    out[Total.SATURATED] = 0.0 if ends is None else float(saturated(tensor, axis, ends).sum())
    return Sums(block, channels, start, whole=True)


class _Found(NamedTuple):
    """Mean, average squared mean and average variance of the channels, the variance of their means, and how many are dead."""

    mean: float
    acsm: float
    acv: float
    between: float
    dead: int


def _few(x: Tensor, extremes: _Extremes) -> _Found | None:
    """Few elements, or one of each channel, as in a bias."""
    outer, channels, inner = x.shape
    values = x.numpy().astype(np.float64)
    extremes.low, extremes.high = float(values.min()), float(values.max())
    if not math.isfinite(extremes.high - extremes.low):
        return None
    extremes.nonzero = int(np.count_nonzero(values))
    if outer == inner == 1:
        return _about(values.reshape(-1), np.zeros(channels), 1)
    mean = values.sum((0, 2)) / (outer * inner)
    off = values - mean[:, None]
    return _about(mean, np.einsum("ock,ock->c", off, off), outer * inner)


def _about(mean: Array, m2: Array, count: int) -> _Found:
    """From the mean and the sum of squared deviations of each channel, all of ``count`` elements."""
    channels = len(mean)
    middle = float(mean.sum()) / channels
    acsm, acv, off = float(mean @ mean) / channels, float(m2.sum()) / (channels * count), mean - middle
    limit = DEAD_SPREAD**2 * (acsm + acv) * count
    still = int(np.count_nonzero(m2 < limit)) if limit > 0 else channels
    return _Found(middle, acsm, acv, float(off @ off) / channels, still)


def _beside(x: Tensor, extremes: _Extremes) -> _Found | None:
    """Channels that lie side by side, ``(rows, C, 1)``."""
    rows, channels, _ = x.shape
    part = x.view(rows, channels)
    if rows * channels > CHUNK:
        return None
    extremes.add(part)
    mean = part.sum(0).div_(rows)
    work = torch.sub(part, mean, out=buffer(part, part.dtype))
    m2 = work.square_().sum(0).numpy().astype(np.float64)
    means = mean.numpy().astype(np.float64)
    return None if not extremes.safe or _tilted(means, m2, rows) else _about(means, m2, rows)


def _short(x: Tensor, extremes: _Extremes) -> _Found | None:
    """Several short runs for each channel."""
    flat, count = x.view(-1), x.shape[0] * x.shape[2]
    for i in range(0, len(flat), CHUNK):
        extremes.add(flat[i : i + CHUNK])
    if not extremes.safe:
        return None
    mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)
    means, m2 = mean.numpy().astype(np.float64), var.numpy().astype(np.float64) * count
    return None if _tilted(means, m2, count) else _about(means, m2, count)


def _long(x: Tensor, extremes: _Extremes) -> _Found | None:
    """Long runs, each of one channel."""
    outer, channels, run = x.shape
    if run > CHUNK or _part(run) > LONG:
        return None
    count = outer * run
    total, square = _sums(x, None, extremes)
    if not extremes.safe:
        return None
    of_means, whole = float(total @ total) / count, float(square.sum())
    if of_means <= LEVEL * (whole - of_means) and not (total * total > square * (count * STEEP / (1 + STEEP))).any():
        numel, limit = count * channels, DEAD_SPREAD**2 * whole / channels
        mean, acsm, acv = float(total.sum()) / numel, of_means / numel, (whole - of_means) / numel
        still = 0 if limit > 0 else channels
        if limit > 0 and square.min() <= limit * (1 + STEEP):
            still = int(np.count_nonzero(square - total * total / count < limit))
        return _Found(mean, acsm, acv, max(0.0, acsm - mean * mean), still)
    centre = (total / count).astype(np.float32)
    total, square = _sums(x, torch.from_numpy(centre), None)
    means, m2 = centre + total / count, np.maximum(square - total * total / count, 0.0)
    return None if _tilted(means, m2, count) else _about(means, m2, count)


def _tilted(means: Array, m2: Array, count: int) -> bool:
    """Whether a mean is so far above its spread that digits were lost; what does not vary at all has lost none."""
    return bool(((means * means * count > m2 * (TILT * TILT)) & (m2 > 0)).any())


def _sums(x: Tensor, centre: Tensor | None, extremes: _Extremes | None) -> tuple[Array, Array]:
    """The sums of each channel and of its squares, about ``centre``, as many rows at a time as stay in cache."""
    outer, channels, run = x.shape
    part = _part(run)
    rows = x.view(-1, part)
    shifts = None if centre is None else centre.repeat_interleave(run // part).repeat(outer).unsqueeze(1)
    found = torch.empty(2, len(rows))
    for i in range(0, len(rows), many := CHUNK // part):
        here = rows[i : i + many]
        if extremes is not None:
            extremes.add(here)
        if shifts is not None:
            here = torch.sub(here, shifts[i : i + many], out=buffer(here, here.dtype))
        torch.sum(here, 1, out=found[0, i : i + many])
        if part <= PART:
            torch.linalg.vector_norm(here, dim=1, out=found[1, i : i + many])
        else:
            torch.sum(torch.mul(here, here, out=buffer(here, here.dtype, "square")), 1, out=found[1, i : i + many])
    total, square = found.numpy().astype(np.float64).reshape(2, outer, channels, run // part)
    if part <= PART:
        square *= square
    return total.sum((0, 2)), square.sum((0, 2))


@lru_cache(maxsize=1024)
def _part(run: int) -> int:
    """Into parts of which length a row is cut: the longest up to ``PART``, or the whole where no other is long enough."""
    return next((part for part in range(min(run, PART), SHORT - 1, -1) if run % part == 0), run)


class _Extremes:
    """Extremes and non-zeros of a tensor, piece by piece."""

    def __init__(self) -> None:
        self.low, self.high, self.nonzero = math.inf, -math.inf, 0

    def add(self, part: Tensor) -> None:
        """Take in a piece of at most ``CHUNK`` elements; a NaN stays."""
        # NumPy compares into booleans five times as fast as torch (2.13, NumPy 2.4)
        values = part.numpy()
        low, high = float(values.min()), float(values.max())
        self.low = low if low < self.low or low != low else self.low
        self.high = high if high > self.high or high != high else self.high
        mask = _mask(values.size).reshape(values.shape)
        np.not_equal(values, _ZERO, out=mask)
        self.nonzero += int(np.count_nonzero(mask))

    @property
    def safe(self) -> bool:
        """Whether all is finite, and squares neither underflow nor overflow: neither of a NaN, nor of infinity."""
        largest = max(abs(self.low), abs(self.high))
        return self.low == self.high == 0 or (SAFE[0] < self.high - self.low and largest < SAFE[1])


def _mask(size: int) -> npt.NDArray[np.bool_]:
    """Scratch for so many booleans, one per thread."""
    held: npt.NDArray[np.bool_] | None = getattr(_scratch, "mask", None)
    if held is None:
        held = _scratch.mask = np.empty(CHUNK, dtype=np.bool_)
    return held[:size]
