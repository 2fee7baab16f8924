"""The reference's short way: the numbers of one tensor in few torch operations, where nothing will be merged with it.

A trace of one batch asks for the mean and the spread of each channel, but for the extremes and zeros of the whole tensor only.
torch has fast passes for the former: ``native_group_norm`` gives mean and spread of long rows, ``batch_norm_update_stats`` that
of channels in short rows; NumPy for the latter. What they cannot do exactly enough (a mean far above the spread, squares out of
range, NaN and infinities, other dtypes and layouts) is left to :mod:`spp.measure.kernels.reference`.
"""

from __future__ import annotations

import math
import threading
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spp.measure.kernels.layout import memory_order
from spp.measure.kernels.reference import CHUNK, SAFE, SHORT, TILT, buffer, saturated

_ZERO = np.float32(0)
Array = npt.NDArray[np.float64]

STEEP = 8.0
"""Where |mean| exceeds this many standard deviations, ``native_group_norm`` loses more than 5e-7 of the variance."""


class _Channels(NamedTuple):
    """Of each channel the mean and the sum of squared deviations, ``(C,)``; of the tensor the extremes and the non-zeros."""

    mean: Array
    m2: Array
    low: float
    high: float
    nonzero: int


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
    found = _channels(x)
    if found is None:
        return None
    count = x.shape[0] * x.shape[2]
    numbers = _numbers(found, count, dead)
    beyond = 0.0 if ends is None else float(saturated(tensor, axis, ends).sum()) / repeats / x.numel()
    return (float(x.numel() * repeats), 0.0, *numbers, beyond)


def _channels(x: Tensor) -> _Channels | None:
    outer, _, inner = x.shape
    if outer == inner == 1:
        return _single(x)
    if inner == 1:
        return _columns(x)
    return _rows(x) if inner >= SHORT else _short(x)


def _numbers(c: _Channels, count: int, dead: float) -> tuple[float, ...]:
    """From mean to the share of dead channels; every channel has ``count`` elements."""
    channels, total = len(c.mean), count * len(c.mean)
    mean = float(c.mean.sum()) / channels
    acsm = float(c.mean @ c.mean) / channels
    acv = float(c.m2.sum()) / total
    off = c.mean - mean
    square = acsm + acv
    still = np.count_nonzero(c.m2 < dead * dead * square * count) if square > 0 else channels
    zeros = (total - c.nonzero) / total
    return mean, acv + float(off @ off) / channels, square, acsm, acv, c.low, c.high, zeros, still / channels


def _single(x: Tensor) -> _Channels | None:
    """One element a channel, as in a bias."""
    values = x.view(-1).numpy().astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(high - low):
        return None
    return _Channels(values, np.zeros(len(values)), low, high, int(np.count_nonzero(values)))


def _columns(x: Tensor) -> _Channels | None:
    """Channels that lie side by side, ``(rows, C, 1)``."""
    rows, channels, _ = x.shape
    part = x.view(rows, channels)
    if rows * channels > CHUNK:
        return None
    extremes = _Extremes()
    extremes.add(part)
    mean = part.sum(0).div_(rows)
    work = torch.sub(part, mean, out=buffer(part, part.dtype))
    m2 = work.square_().sum(0).numpy().astype(np.float64)
    means = mean.numpy().astype(np.float64)
    if not extremes.safe or _tilted(means, m2 / rows, TILT):
        return None
    return _Channels(means, m2, extremes.low, extremes.high, extremes.nonzero)


def _short(x: Tensor) -> _Channels | None:
    """Several short runs for each channel."""
    outer, _, inner = x.shape
    flat, extremes = x.view(-1), _Extremes()
    for i in range(0, len(flat), CHUNK):
        extremes.add(flat[i : i + CHUNK])
    if not extremes.safe:
        return None
    mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)
    means, spreads = mean.numpy().astype(np.float64), var.numpy().astype(np.float64)
    if _tilted(means, spreads, TILT):
        return None
    return _Channels(means, spreads * (outer * inner), extremes.low, extremes.high, extremes.nonzero)


def _rows(x: Tensor) -> _Channels | None:
    """Long runs, each of one channel, as many at a time as stay in cache."""
    outer, channels, run = x.shape
    if run > CHUNK:
        return None
    rows, extremes = x.view(-1, run), _Extremes()
    found = np.empty((2, len(rows)))
    for i in range(0, len(rows), many := CHUNK // run):
        part = rows[i : i + many]
        size = len(part)
        _, mean, rate = torch.native_group_norm(part.view(size, 1, run), None, None, size, 1, run, 1, 0.0)
        found[0, i : i + size], found[1, i : i + size] = mean.view(-1).numpy(), rate.view(-1).numpy()
        extremes.add(part)
    with np.errstate(over="ignore"):
        means, spreads = found[0], found[1] ** -2.0  # of a constant row the rate is infinite
    if not extremes.safe or _tilted(means, spreads, STEEP):
        return None
    if outer == 1:
        return _Channels(means, spreads * run, extremes.low, extremes.high, extremes.nonzero)
    each = means.reshape(outer, channels)
    middle = each.sum(0) / outer
    off = each - middle
    m2 = (spreads.reshape(outer, channels) + off * off).sum(0) * run
    return _Channels(middle, m2, extremes.low, extremes.high, extremes.nonzero)


def _tilted(means: Array, spreads: Array, most: float) -> bool:
    """Whether a mean is so far above its spread that digits were lost; what does not vary at all has lost none."""
    return bool(((means * means > spreads * (most * most)) & (spreads > 0)).any())


class _Extremes:
    """Extremes and non-zeros of a tensor, piece by piece."""

    def __init__(self) -> None:
        self.low, self.high, self.nonzero = math.inf, -math.inf, 0

    def add(self, part: Tensor) -> None:
        """Take in a piece of at most ``CHUNK`` elements; a NaN stays."""
        values = part.view(-1).numpy()  # which compares into booleans five times as fast as torch
        low, high = float(values.min()), float(values.max())
        self.low = low if low < self.low or low != low else self.low
        self.high = high if high > self.high or high != high else self.high
        mask = _mask(len(values))
        np.not_equal(values, _ZERO, out=mask)
        self.nonzero += int(np.count_nonzero(mask))

    @property
    def safe(self) -> bool:
        """Whether all is finite, and squares of deviations neither underflow nor overflow."""
        return (
            self.low == self.high == 0 or SAFE[0] < self.high - self.low < SAFE[1]
        )  # neither of a NaN, nor of infinity


_scratch = threading.local()


def _mask(size: int) -> npt.NDArray[np.bool_]:
    """Scratch for so many booleans, one per thread."""
    held: npt.NDArray[np.bool_] | None = getattr(_scratch, "mask", None)
    if held is None:
        held = _scratch.mask = np.empty(CHUNK, dtype=np.bool_)
    return held[:size]
