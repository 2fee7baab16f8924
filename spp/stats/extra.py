"""What costs passes of its own: fourth moments, and the distribution over powers of two. Both merge exactly.

They are computed by torch beside the sweep (a float64 pass each), and only where they are asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from spp.errors import InputError
from spp.stats.layout import plain
from spp.stats.sums import NONFINITES, Array, Row, Sum, Sums, one_channel

LOWEST, HIGHEST = -160, 160
"""Exponents told apart; what lies beyond is counted in the first or last bin. float32 reaches from -149 to 128."""
BINS = HIGHEST - LOWEST + 1


_FAR = 1000
"""The largest exponent of a unit: torch makes ``2**k`` first, which ends at 1024."""


class Power(IntEnum):
    """Rows of a ``(6,)`` table: central moments of a whole tensor that was multiplied by ``2**EXPONENT``."""

    COUNT = 0
    MEAN = 1
    M2 = 2
    M3 = 3
    M4 = 4
    EXPONENT = 5


@torch.no_grad()
def fourth_moments(tensor: Tensor) -> Tensor:
    """Count, mean and the sums of the second to fourth powers of the deviations from it, over every finite element.

    Returns:
        ``(6,)`` float64 on the tensor's device; merge with :func:`merge_fourth`.
    """
    values = plain(tensor).to(torch.float64)
    finite = torch.isfinite(values)
    count = finite.sum().to(torch.float64)
    values = torch.where(finite, values, 0)
    largest = values.abs().amax() if values.numel() else values.sum()
    # fourth powers of 1e80 and of 1e-81 are no numbers any more; what is in between stays as it is, bit by bit
    exponent = -torch.frexp(largest).exponent.to(torch.float64)
    exponent = torch.where(exponent.abs() > 200, exponent.clamp(-_FAR, _FAR), 0)
    # zeros are zeros in any unit, so they take that of what they are merged with
    exponent = torch.where(largest == 0, _FAR, exponent)
    values = torch.ldexp(values, exponent)
    mean = values.sum() / count.clamp(min=1)
    # about the mean, and then about what rounding has left of it
    centred = torch.where(finite, values - mean, 0)
    mean = mean + centred.sum() / count.clamp(min=1)
    square = centred * centred
    return torch.stack([count, mean, square.sum(), (square * centred).sum(), (square * square).sum(), exponent])


def merge_fourth(a: Tensor, b: Tensor) -> Tensor:
    """The moments of both sets together (Pébay 2008, SAND2008-6212, equations 2.1 and 3.1)."""
    # in the unit of the larger of the two
    exponent = torch.minimum(a[Power.EXPONENT], b[Power.EXPONENT])
    a, b = _in_unit(a, exponent), _in_unit(b, exponent)
    n_a, n_b = a[Power.COUNT], b[Power.COUNT]
    n = (n_a + n_b).clamp(min=1)
    delta = b[Power.MEAN] - a[Power.MEAN]
    m2 = a[Power.M2] + b[Power.M2] + delta**2 * n_a * n_b / n
    m3 = (
        a[Power.M3]
        + b[Power.M3]
        + delta**3 * n_a * n_b * (n_a - n_b) / n**2
        + 3 * delta * (n_a * b[Power.M2] - n_b * a[Power.M2]) / n
    )
    m4 = (
        a[Power.M4]
        + b[Power.M4]
        + delta**4 * n_a * n_b * (n_a**2 - n_a * n_b + n_b**2) / n**3
        + 6 * delta**2 * (n_a**2 * b[Power.M2] + n_b**2 * a[Power.M2]) / n**2
        + 4 * delta * (n_a * b[Power.M3] - n_b * a[Power.M3]) / n
    )
    return torch.stack([n_a + n_b, a[Power.MEAN] + delta * n_b / n, m2, m3, m4, exponent])


def _of_table(table: Tensor) -> Tensor:
    """The first and second moments of what nobody asked the fourth of: its third and fourth are NaN."""
    count, mean, m2, low, high = one_channel(table)[: Row.MAX + 1, 0]
    unknown = torch.full_like(count, torch.nan)
    exponent = torch.where((count == 0) | (torch.maximum(-low, high) == 0), float(_FAR), 0.0).to(count)
    return torch.stack([count, mean, m2, unknown, unknown, exponent])


def _in_unit(table: Tensor, exponent: Tensor) -> Tensor:
    degrees = torch.arange(Power.EXPONENT, dtype=torch.float64, device=table.device)
    moments = torch.ldexp(table[: Power.EXPONENT], (exponent - table[Power.EXPONENT]) * degrees)
    return torch.cat([moments, exponent[None]])


def at_the_ends(table: Array) -> dict[str, float]:
    """Mean and spread from one table, ``(6,)``, of numbers whose squares float64 cannot hold; they themselves it can."""
    count, mean, m2, _, _, exponent = table
    var = m2 / count
    found = {"mean": mean, "std": np.sqrt(var), "rms": np.sqrt(var + mean * mean)}
    return {name: float(np.ldexp(value, -int(exponent))) for name, value in found.items()}


def kurtosis(tables: Array) -> Array:
    """``E[(x - mean)^4] / var^2`` of ``R`` tables, ``(R, 6) -> (R,)``: 3 for a normal distribution, NaN without spread."""
    count, m2, m4 = (tables[:, row] for row in (Power.COUNT, Power.M2, Power.M4))
    return np.asarray(count * m4 / np.where(m2 > 0, m2, np.nan) ** 2)


def _scaled_fourth(table: Tensor, factor: float) -> Tensor:
    # the powers are made on the device, since a copy to it would wait for it
    degrees = torch.arange(Power.EXPONENT, dtype=torch.float64, device=table.device)
    return torch.cat([table[: Power.EXPONENT] * factor**degrees, table[Power.EXPONENT :]])


@torch.no_grad()
def signed_exponents(tensor: Tensor) -> Tensor:
    """How many elements of either sign lie in each ``[2^k, 2^(k+1))`` by magnitude, for k from LOWEST to HIGHEST.

    Zeros and non-finite elements are in no bin; magnitudes below and above the range are in the first and last.

    Returns:
        ``(2, HIGHEST - LOWEST + 1)`` int64 on the tensor's device, negative numbers first; histograms of several tensors add
        up.
    """
    values = plain(tensor)
    if values.dtype in (torch.float16, torch.bfloat16) or values.element_size() == 1:
        values = values.to(torch.float32)
    # frexp gives mantissas from 0.5 to 1
    k = torch.frexp(values).exponent.to(torch.int64) - 1
    counted = torch.isfinite(values) & (values != 0)
    index = (k - LOWEST).clamp(0, BINS - 1) + BINS * (values > 0)
    index = torch.where(counted, index, 2 * BINS)
    counts = torch.zeros(2 * BINS + 1, dtype=torch.int64, device=values.device)
    # an expanded 1, since ones of the tensor's size would be its size in int64
    counts.scatter_add_(
        0, index.flatten(), torch.ones((), dtype=torch.int64, device=values.device).expand(index.numel())
    )
    return counts[:-1].view(2, BINS)


@dataclass(frozen=True, slots=True)
class Format:
    """A number format: magnitudes below ``2^flush`` round to zero, those from ``2^overflow`` on leave its range."""

    flush: int
    overflow: int


FORMATS: dict[str, Format] = {
    "float16": Format(-25, 16),
    "bfloat16": Format(-134, 128),
    "fp8-e4m3": Format(-10, 9),
    "fp8-e5m2": Format(-17, 16),
}
"""Half of the smallest subnormal, and the first power of two above the largest number. A histogram by powers of two cannot see
the rest of the last binade: (464, 512) for e4m3, (61440, 65536) for e5m2, (65520, 65536) for float16."""


def _scaled_powers(histogram: Tensor, factor: float) -> Tensor:
    """The histogram of the values times ``factor``; the ends gather what leaves the range.

    Raises:
        InputError: The factor is no power of two.
    """
    mantissa, exponent = math.frexp(factor)
    if mantissa != 0.5:
        raise InputError(
            "a histogram over powers of two is scaled by a power of two",
            received=f"a factor of {factor:g}",
            where="loss_scale",
            remedy="Pass a power of two, as 1024.0",
        )
    out = torch.zeros_like(histogram)
    where = (torch.arange(BINS, device=histogram.device) + exponent - 1).clamp(0, BINS - 1)
    return out.scatter_add_(-1, where.expand_as(histogram), histogram)


FOURTH = Sum("fourth", lambda tensor, _: fourth_moments(tensor), merge_fourth, _scaled_fourth, _of_table)
"""What the kurtosis is made of; and, since it comes in a unit of its own, mean and spread at the ends of float64."""
# a function, not "add": a histogram is not added up over its bins
POWERS = Sum("powers", lambda tensor, _: signed_exponents(tensor), torch.add, _scaled_powers)
"""What ``trace.exponents`` shows."""


def told_apart(tensor: Tensor, sums: Sums) -> Sums:
    """The same sums, with what rare values need: NaN and the infinities counted apart, and a unit at the ends of float64.

    Args:
        tensor: What they are of, real and strided, on the host.
        sums: What is known of it.
    """
    rare = {NONFINITES: sums.nonfinite, FOURTH: tensor.dtype is torch.float64 and sums.far}
    with torch.no_grad():
        sums.further = {**{one.name: one.of(tensor, None) for one, asked in rare.items() if asked}, **sums.further}
    return sums
