"""The reference reduction, in torch operations: runs on every device, dtype and layout.

A tensor is seen as ``(outer, channel, inner)`` in the order its memory lies in, without copying it. Long inner runs are
reduced over the last axis, short ones over the outer axis: these are the reductions torch has fast kernels for. Squares are
taken of deviations from a pivot near the mean and combined in float64 (Chan et al. 1983), so nothing cancels. Work goes in
pieces that stay in cache, through one scratch buffer, which also bounds the temporary memory. Where float32 would lose
digits (a mean far above the spread, squares out of range), the same is done again in float64.
"""

import itertools
import math
import threading
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from spp.stats.backends.layout import Row, empty_table, memory_order, merge_packed

CHUNK = 1 << 18
"""Elements worked on at a time: with the scratch buffer 2 MiB of float32, which a core's second-level cache holds."""

DEVICE_CHUNK = 1 << 22
"""The same on other devices, where a piece costs some twenty launches and, in float64, some 100 MiB."""

SMALL = 1 << 13
"""Up to so many elements NumPy's reductions, in float64, cost less than the calls of torch's."""

SHORT = 64
"""Inner runs shorter than this are slow to reduce over the last axis."""

PACKED = 128
"""Inner runs shorter than this are laid side by side first, where a channel has several: small copies for long runs."""

LONG = 1 << 15
"""Runs longer than this are cut, so that a float32 sum keeps its digits."""

SAFE = (1e-15, 1e15)
"""Spreads whose squares neither underflow nor overflow float32."""

TILT = 256.0
"""Where |mean| exceeds this many standard deviations, float32 sums lose too many digits."""

_scratch = threading.local()


def reduce(tensor: Tensor, axis: int | None, ends: tuple[float, float] | None = None) -> Tensor:
    """Reduce a real, strided ``tensor`` to its ``(8, C)`` table; see :func:`spp.stats.backends.reduce_channels`."""
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
    if x.shape[0] == x.shape[2] == 1:
        return _single(x.reshape(-1))
    if x.numel() <= SMALL and (table := _small(x)) is not None:
        return table
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


def _single(x: Tensor) -> Tensor:
    """One element a channel, as in a bias."""
    values = np.asarray(x.to(torch.float64).numpy())
    finite = np.isfinite(values)
    table = np.zeros((len(Row), len(values)))
    table[Row.COUNT] = finite
    table[Row.MEAN] = np.where(finite, values, 0)
    table[Row.MIN] = np.where(finite, values, np.inf)
    table[Row.MAX] = np.where(finite, values, -np.inf)
    table[Row.ZEROS] = values == 0
    table[Row.NONFINITE] = ~finite
    return torch.from_numpy(table)


def _small(x: Tensor) -> Tensor | None:
    """The table of few elements; None where one is not finite."""
    values = np.asarray(x.to(torch.float64).numpy())
    with np.errstate(invalid="ignore"):
        low, high = values.min((0, 2)), values.max((0, 2))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return None
    count = x.shape[0] * x.shape[2]
    mean = values.sum((0, 2)) / count
    off = values - mean[None, :, None]
    shift = off.sum((0, 2)) / count
    table = np.zeros((len(Row), x.shape[1]))
    table[Row.COUNT] = count
    table[Row.MEAN] = mean + shift
    table[Row.M2] = np.maximum(np.einsum("ock,ock->c", off, off) - count * shift * shift, 0)
    table[Row.MIN], table[Row.MAX] = low, high
    table[Row.ZEROS] = count - np.count_nonzero(values, axis=(0, 2))
    return torch.from_numpy(table)


def saturated(x: Tensor, axis: int | None, ends: tuple[float, float]) -> Tensor:
    """How many finite values of each channel lie at or beyond either end, ``(C,)`` float64."""
    beyond = ((x <= ends[0]) | (x >= ends[1])) & (x.abs() != torch.inf)
    rest = [d for d in range(x.dim()) if axis is None or d != axis % x.dim()]
    return (beyond.sum(rest) if rest else beyond).to(torch.float64).reshape(-1)


def _on_device(x: Tensor) -> Tensor:
    """Off the CPU nothing may wait for a number from the device; halves are merged, so that float64 copies stay small."""
    if x.numel() <= DEVICE_CHUNK:
        return _masked(x)
    dim = 1 if x.shape[0] == x.shape[2] == 1 else 0 if x.shape[0] >= x.shape[2] else 2
    tables = [_on_device(part) for part in torch.split(x, -(-x.shape[dim] // 2), dim)]
    return torch.cat(tables, 1) if dim == 1 else merge_packed(*tables)


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
