"""The reference reduction, in torch operations: runs on every device, dtype and layout.

A tensor is seen as ``(outer, channel, inner)`` in the order its memory lies in, without copying it. Long inner runs are
reduced first, over the last axis; short ones over the outer axis first: these are the reductions torch has fast kernels
for. Squares are taken of deviations from a pivot near the mean and combined in float64 (Chan et al. 1983), so nothing
cancels. Work goes in chunks that stay in cache, which also bounds the temporary memory.
"""

import math

import torch
from torch import Tensor

from spp.measure.kernels.layout import Row, empty_table, merge_packed

CHUNK = 1 << 18
"""Elements worked on at a time: 1 MiB of float32, which a core's second-level cache holds."""

SHORT = 64
"""Inner runs shorter than this are slow to reduce over the last axis."""

LONG = 4096
"""Inner runs longer than this are cut: a float32 sum of squares loses a digit for every hundredfold."""

SAFE = (1e-15, 1e15)
"""Spreads whose squares neither underflow nor overflow float32; outside, squares are taken in float64."""

TILT = 256.0
"""Where |mean| exceeds this many standard deviations, float32 sums lose digits that a second centring brings back."""


def reduce(tensor: Tensor, axis: int | None, ends: tuple[float, float] | None = None) -> Tensor:
    """Reduce a real, strided ``tensor`` to its ``(8, C)`` table; see :func:`spp.measure.kernels.reduce_channels`."""
    x, repeats = _memory_order(tensor, axis)
    if x.numel() == 0:
        return empty_table(x.shape[1], x.device)
    table = _reduce_chunk(x, ends) if x.numel() <= CHUNK else _reduce_in_chunks(x, ends)
    if repeats != 1:
        for row in (Row.COUNT, Row.M2, Row.ZEROS, Row.NONFINITE, Row.SATURATED):
            table[row] *= repeats
    return table


def _memory_order(tensor: Tensor, axis: int | None) -> tuple[Tensor, int]:
    """View ``tensor`` as ``(outer, C, inner)``; expanded axes are dropped, and how often they repeat comes second.

    Dense tensors of any permutation have such a view; where slicing left gaps that keep axes apart, the numbers are copied.
    """
    if tensor.dim() == 0:
        return tensor.reshape(1, 1, 1), 1
    if axis is None:
        channel_size, channel_stride = 1, 0
        rest = list(zip(tensor.shape, tensor.stride(), strict=True))
    else:
        axis %= tensor.dim()
        channel_size, channel_stride = tensor.shape[axis], tensor.stride(axis)
        rest = [(n, s) for i, (n, s) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)) if i != axis]
    repeats = math.prod(n for n, s in rest if s == 0 and n > 1) if tensor.numel() else 1
    kept = sorted(((n, s) for n, s in rest if n != 1 and not (s == 0 and repeats > 1)), key=lambda ns: -ns[1])
    if tensor.numel() == 0:
        return tensor.new_empty(0, channel_size, 1), 1
    lone_channel = channel_size == 1
    outer = [ns for ns in kept if ns[1] >= channel_stride and not lone_channel]
    inner = [ns for ns in kept if not (ns[1] >= channel_stride and not lone_channel)]
    outer_runs, inner_runs = _collapse(outer), _collapse(inner)
    sizes = [n for n, _ in outer_runs] + [channel_size] + [n for n, _ in inner_runs]
    strides = [s for _, s in outer_runs] + [channel_stride] + [s for _, s in inner_runs]
    view = tensor.as_strided(sizes, strides)
    if len(outer_runs) == len(inner_runs) == 1:
        return view, repeats
    return view.reshape(math.prod(n for n, _ in outer_runs), channel_size, -1), repeats


def _collapse(axes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Fold neighbouring axes that memory lays end to end; never empty."""
    runs: list[tuple[int, int]] = []
    for size, stride in axes:
        if runs and runs[-1][1] == size * stride:
            runs[-1] = (runs[-1][0] * size, stride)
        else:
            runs.append((size, stride))
    return runs or [(1, 1)]


def _reduce_in_chunks(x: Tensor, ends: tuple[float, float] | None) -> Tensor:
    outer, channels, inner = x.shape
    if outer > 1:
        step = max(1, CHUNK // (channels * inner))
        parts = torch.split(x, step, dim=0)
    elif channels > 1:
        return torch.cat([reduce(part, 1, ends) for part in torch.split(x, max(1, CHUNK // inner), dim=1)], dim=1)
    else:
        parts = torch.split(x, CHUNK, dim=2)
    table = reduce(parts[0], 1, ends)
    for part in parts[1:]:
        table = merge_packed(table, reduce(part, 1, ends))
    return table


def _reduce_chunk(x: Tensor, ends: tuple[float, float] | None) -> Tensor:
    """One chunk ``(outer, C, inner)``. On the CPU the extremes decide what more is needed; elsewhere nothing may wait."""
    if x.dtype in (torch.float16, torch.bfloat16) or x.element_size() == 1:
        x = x.to(torch.float32)
    if x.device.type != "cpu":
        return _reduce_masked(x, ends)
    inner = x.shape[2]
    short = inner < SHORT
    if not short and inner > LONG:
        whole = inner // LONG * LONG
        parts = x[..., :whole].unfold(2, LONG, LONG), x[..., whole:].unsqueeze(2)
        tables = [_reduce_runs(part, 3, ends) for part in parts if part.shape[3]]
        return tables[0] if len(tables) == 1 else merge_packed(*tables)
    return _reduce_runs(x.unsqueeze(2), 0 if short else 3, ends)


def _reduce_runs(x: Tensor, over: int, ends: tuple[float, float] | None) -> Tensor:
    """``(outer, C, pieces, run)``: over one axis with torch's fast reductions, then over what is left in float64."""
    low, high = x.amin(over), x.amax(over)
    least, most = float(low.min()), float(high.max())
    if not (math.isfinite(least) and math.isfinite(most)):
        return _reduce_masked(x.flatten(2), ends)
    spread = most - least
    if x.dtype is not torch.float64 and not (SAFE[0] < spread < SAFE[1]):
        x = x.to(torch.float64)
    length = x.shape[over]
    pivot = x.sum(over).div_(length)
    centred = x - pivot.unsqueeze(over)
    m2 = _squares(centred, over)
    mean = pivot.to(torch.float64)
    if bool((mean * mean * length > TILT * TILT * m2).any()):
        shift = centred.sum(over, dtype=torch.float64)
        mean = mean + shift / length
        m2 = (m2 - shift * shift / length).clamp_(min=0)
    channel = 0 if over == 0 else 1
    rest = tuple(d for d in range(3) if d != channel)
    total = float(x.numel() // x.shape[1])
    table = torch.empty(len(Row), x.shape[1], dtype=torch.float64)
    whole = mean.mean(rest)
    off = mean - whole.reshape([-1 if d == channel else 1 for d in range(3)])
    table[Row.COUNT] = total
    table[Row.MEAN] = whole
    table[Row.M2] = m2.sum(rest) + (off * off).sum(rest) * length
    table[Row.MIN], table[Row.MAX] = low.amin(rest), high.amax(rest)
    if least <= 0 <= most:
        table[Row.ZEROS] = total - torch.ne(x, 0, out=centred).sum(over).sum(rest, dtype=torch.float64)
    else:
        table[Row.ZEROS] = 0.0
    table[Row.NONFINITE] = 0.0
    table[Row.SATURATED] = saturated(x, 1, ends) if ends is not None else 0.0
    return table


def _squares(centred: Tensor, over: int) -> Tensor:
    if over == 0:
        return (centred * centred).sum(0).to(torch.float64)
    norm: Tensor = torch.linalg.vector_norm(centred, dim=over)
    return norm.to(torch.float64).square_()


def saturated(x: Tensor, axis: int | None, ends: tuple[float, float]) -> Tensor:
    """How many finite values of each channel lie at or beyond either end, ``(C,)`` float64."""
    beyond = ((x <= ends[0]) | (x >= ends[1])) & (x.abs() != torch.inf)
    rest = [d for d in range(x.dim()) if axis is None or d != axis % x.dim()]
    return (beyond.sum(rest) if rest else beyond).to(torch.float64).reshape(-1)


def _reduce_masked(x: Tensor, ends: tuple[float, float] | None) -> Tensor:
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
    table[Row.SATURATED] = saturated(x, 1, ends) if ends is not None else 0.0
    return table
