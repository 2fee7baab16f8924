"""Where two curves part, and by which factor: as data, so that a program can ask for it too."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spp.frame.schema import Column
from spp.plot.panels import SMALLEST, BoolArray, FloatArray
from spp.plot.shapes import Curve

IntArray = npt.NDArray[np.int64]

FACTOR = 2.0
"""Curves have parted where one is more than so many times the other."""

LASTING = 3
"""They part at the first of so many neighbouring layers that all differ by ``FACTOR``: one odd layer is no parting."""

POSITIVE = (
    Column.VAR,
    Column.STD,
    Column.MEAN_SQUARE,
    Column.RMS,
    Column.ACSM,
    Column.ACV,
    Column.ABS_MAX,
    Column.KURTOSIS,
)
"""Statistics that are never negative and have no upper end: of these the ratio is looked at, of others the difference."""


@dataclass(frozen=True, slots=True)
class Parting:
    """Where one curve leaves another.

    Attributes:
        label: The curve that is compared, and ``reference`` the one it is compared with.
        reference: See ``label``.
        name: The first layer of those where they have parted; empty where they never do.
        there: Ratio (or difference) at that layer; infinite where one of the two is zero, NaN where one is not finite.
        most_name: The layer where they are farthest apart from there on.
        most: Ratio (or difference) at that layer.
        ratio: Whether numbers are ratios.
    """

    label: str
    reference: str
    name: str
    there: float
    most_name: str
    most: float
    ratio: bool

    def __str__(self) -> str:
        if not self.name:
            return f"{self.label} stays within a factor {FACTOR:g} of {self.reference}"
        words = f"{self.label} parts at {self.name}: {self._number(self.there)}"
        if self.most_name and self.most_name != self.name and np.isfinite(self.most):
            words += f"; most at {self.most_name}: {self._number(self.most)}"
        return words

    def _number(self, value: float) -> str:
        if np.isnan(value):
            return "not finite"
        if np.isinf(value):
            return "zero on one side"
        return f"×{brief(value)}" if self.ratio else f"{'+' if value > 0 else ''}{brief(value)}"


def brief(value: float) -> str:
    """Two digits, as ``140``, ``0.28`` or ``6e9``."""
    return f"{float(f'{value:.2g}'):g}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")


def compared(first: Curve, other: Curve, *, ratio: bool) -> Curve:
    """Divide ``other`` by ``first``, or subtract it, at the places that both have.

    A ratio has no number where one of the two is zero; where that is rounding (of a mean that a norm has taken away), it says
    nothing about the signal.
    """
    x, of_first, of_other = np.intersect1d(first.x, other.x, return_indices=True)
    a, b = first.y[of_first], other.y[of_other]
    zero = first.zero[of_first] | other.zero[of_other]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        y = np.where(zero, np.nan, b / a) if ratio else b - a
    bad = first.nonfinite[of_first] | other.nonfinite[of_other]
    names = tuple(other.names[i] for i in of_other) if other.names else ()
    return Curve(
        other.label, x, np.where(np.isfinite(y), y, np.nan), bad, np.zeros_like(bad), look=other.look, names=names
    )


def parting(first: Curve, other: Curve, *, ratio: bool) -> Parting:
    """Find the first layer of a lasting departure: there and at the next two, one curve is over twice the other.

    The same rule serves signed numbers: the difference exceeds half of the larger magnitude. Where the curves stand for
    several seeds, their ranges must not overlap either. A layer that is finite, or exactly zero, in one run alone has parted;
    one where a curve is zero to rounding is passed over.
    """
    difference = compared(first, other, ratio=ratio)
    _, of_first, of_other = np.intersect1d(first.x, other.x, return_indices=True)
    a, b = first.y[of_first], other.y[of_other]
    bad_a, bad_b = first.nonfinite[of_first], other.nonfinite[of_other]
    none_a, none_b = np.abs(a) < SMALLEST, np.abs(b) < SMALLEST
    rounding = (first.zero[of_first] & ~none_a) | (other.zero[of_other] & ~none_b)
    with np.errstate(invalid="ignore"):
        far = np.abs(a - b) > (1 - 1 / FACTOR) * np.maximum(np.abs(a), np.abs(b))
        (low_a, high_a), (low_b, high_b) = _range(first), _range(other)
        far &= (high_a[of_first] < low_b[of_other]) | (high_b[of_other] < low_a[of_first])
    far |= bad_a != bad_b
    looked_at = np.flatnonzero(~rounding)
    start = _lasting(far, looked_at)
    if start is None:
        return Parting(other.label, first.label, "", np.nan, "", np.nan, ratio)
    y = difference.y
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.abs(np.log(np.where(y > 0, y, np.nan))) if ratio else np.abs(y)
    size[:start] = np.nan
    size[~far] = np.nan
    most = int(np.nanargmax(size)) if np.isfinite(size).any() else start
    there = np.nan if bad_a[start] != bad_b[start] else float(y[start]) if np.isfinite(y[start]) else np.inf
    names = difference.names
    return Parting(other.label, first.label, names[start], there, names[most], float(y[most]), ratio)


def binned(curve: Curve, size: int, bins: int, *, log: bool) -> Curve:
    """The curve's means over equal parts of the depth (geometric ones, for a ratio), each named after its first layer.

    Args:
        curve: A curve over relative depth.
        size: Length of the axis.
        bins: Number of parts.
        log: Whether to take the geometric mean of what is not zero.
    """
    width = max(size - 1, 1) / bins
    which = np.minimum((curve.x / width).astype(int), bins - 1)
    use = np.isfinite(curve.y) & (~curve.zero if log else True)
    values = np.log(np.where(use & (curve.y > 0), curve.y, 1.0)) if log else np.where(use, curve.y, 0.0)
    filled = [part for part in range(bins) if (which == part).any()]
    means = np.full(len(filled), np.nan)
    for i, part in enumerate(filled):
        if (mine := use & (which == part)).any():
            means[i] = np.exp(values[mine].mean()) if log else values[mine].mean()
    return Curve.of(
        curve.label,
        np.array([(part + 0.5) * width for part in filled]),
        means,
        nonfinite=np.array([bool(curve.nonfinite[which == part].any()) for part in filled]),
        look=curve.look,
        names=tuple(curve.names[int(np.flatnonzero(which == part)[0])] for part in filled),
    )


def _lasting(far: BoolArray, looked_at: IntArray) -> int | None:
    """The first layer of ``LASTING`` in a row (fewer only at the end) that have parted, among those that are looked at."""
    kept = far[looked_at]
    for start in np.flatnonzero(kept):
        if kept[start : start + LASTING].all():
            return int(looked_at[start])
    return None


def _range(curve: Curve) -> tuple[FloatArray, FloatArray]:
    return (curve.shades[0].low, curve.shades[0].high) if curve.shades else (curve.y, curve.y)
