"""The reference's short way: the numbers of one tensor in few passes, where nothing will be merged with it.

A trace of one batch asks for the mean and the spread of each channel, but for the extremes and zeros of the whole tensor only.
Of long rows, sums of the values and of their squares as they are take two fast passes of torch's where the means are no larger
than the spread; else the same is done again about the means. Of short ones ``batch_norm_update_stats`` gives mean and spread in
one call: between two layers of a network a call costs ten times what it does in a loop, so their number counts. NumPy has the
fast extremes and zeros. What this cannot do exactly enough (a mean far above the spread, squares out of range, NaN and
infinities, other dtypes and layouts) is left to :mod:`spp.stats.backends.reference`.
"""

from __future__ import annotations

import math
import threading
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spp.stats.backends.layout import memory_order
from spp.stats.backends.reference import CHUNK, LONG, SAFE, SHORT, TILT, buffer, saturated

_ZERO = np.float32(0)
Array = npt.NDArray[np.float64]

FEW = 4096
"""Up to so many elements NumPy in float64 costs less than the calls of torch's."""

LEVEL = 1.0
"""Up to this ratio of squared means to variances, over all channels, squares of the values as they are lose no digits."""

STEEP = 16.0
"""The same for a single channel, so that one that hardly varies is seen to."""

PART = 256
"""Elements whose squares ``vector_norm`` may add up: it does so in float32, one by one, and of equal ones loses digits."""


def digest(tensor: Tensor, axis: int | None, dead: float, ends: tuple[float, float] | None) -> tuple[float, ...] | None:
    """The numbers of a detached CPU tensor, in the order of ``native.SUMMARY``; None where another way is to be gone.

    Args:
        tensor: Any shape.
        axis: The channel axis; None for one channel.
        dead: A channel is dead when its standard deviation is below this share of the tensor's rms.
        ends: Values at or beyond which are saturated.
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
        way = _short if inner > 1 else _columns
    extremes = _Extremes()
    found = way(x, dead, extremes)
    if found is None:
        return None
    mean, acsm, acv, between, still = found
    elements = x.numel()
    zeros = (elements - extremes.nonzero) / elements
    beyond = 0.0 if ends is None else float(saturated(tensor, axis, ends).sum()) / repeats / elements
    return (
        *(float(elements * repeats), 0.0, mean, acv + between, acsm + acv, acsm, acv),
        *(extremes.low, extremes.high, zeros, still / channels, beyond),
    )


class _Found(NamedTuple):
    """Mean, average squared mean and average variance of the channels, the variance of their means, and how many are dead."""

    mean: float
    acsm: float
    acv: float
    between: float
    dead: int


def _few(x: Tensor, dead: float, extremes: _Extremes) -> _Found | None:
    """Few elements, or one of each channel, as in a bias."""
    outer, channels, inner = x.shape
    values = x.numpy().astype(np.float64)
    extremes.low, extremes.high = float(values.min()), float(values.max())
    if not math.isfinite(extremes.high - extremes.low):
        return None
    extremes.nonzero = int(np.count_nonzero(values))
    if outer == inner == 1:
        return _about(values.reshape(-1), np.zeros(channels), 1, dead)
    mean = values.sum((0, 2)) / (outer * inner)
    off = values - mean[:, None]
    return _about(mean, np.einsum("ock,ock->c", off, off), outer * inner, dead)


def _about(mean: Array, m2: Array, count: int, dead: float) -> _Found:
    """From the mean and the sum of squared deviations of each channel, all of ``count`` elements."""
    channels = len(mean)
    middle = float(mean.sum()) / channels
    acsm, acv, off = float(mean @ mean) / channels, float(m2.sum()) / (channels * count), mean - middle
    limit = dead * dead * (acsm + acv) * count
    still = int(np.count_nonzero(m2 < limit)) if limit > 0 else channels
    return _Found(middle, acsm, acv, float(off @ off) / channels, still)


def _columns(x: Tensor, dead: float, extremes: _Extremes) -> _Found | None:
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
    return None if not extremes.safe or _tilted(means, m2, rows) else _about(means, m2, rows, dead)


def _short(x: Tensor, dead: float, extremes: _Extremes) -> _Found | None:
    """Several short runs for each channel."""
    flat, count = x.view(-1), x.shape[0] * x.shape[2]
    for i in range(0, len(flat), CHUNK):
        extremes.add(flat[i : i + CHUNK])
    if not extremes.safe:
        return None
    mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)
    means, m2 = mean.numpy().astype(np.float64), var.numpy().astype(np.float64) * count
    return None if _tilted(means, m2, count) else _about(means, m2, count, dead)


def _long(x: Tensor, dead: float, extremes: _Extremes) -> _Found | None:
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
        numel, limit = count * channels, dead * dead * whole / channels
        mean, acsm, acv = float(total.sum()) / numel, of_means / numel, (whole - of_means) / numel
        still = 0 if limit > 0 else channels
        if limit > 0 and square.min() <= limit * (1 + STEEP):
            still = int(np.count_nonzero(square - total * total / count < limit))
        return _Found(mean, acsm, acv, max(0.0, acsm - mean * mean), still)
    centre = (total / count).astype(np.float32)
    total, square = _sums(x, torch.from_numpy(centre), None)
    means, m2 = centre + total / count, np.maximum(square - total * total / count, 0.0)
    return None if _tilted(means, m2, count) else _about(means, m2, count, dead)


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
        values = part.numpy()  # which compares into booleans five times as fast as torch
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


_scratch = threading.local()


def _mask(size: int) -> npt.NDArray[np.bool_]:
    """Scratch for so many booleans, one per thread."""
    held: npt.NDArray[np.bool_] | None = getattr(_scratch, "mask", None)
    if held is None:
        held = _scratch.mask = np.empty(CHUNK, dtype=np.bool_)
    return held[:size]
