"""Where lines diverge, and by which factor: the panel below those of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spp.plot.captions import brief
from spp.plot.panels import (
    PLURAL,
    POSITIVE,
    SMALLEST,
    SUFFIX,
    BoolArray,
    Curve,
    Curves,
    FloatArray,
    IntArray,
    Scale,
    scale_of,
)
from spp.plot.series import Aligned

LOWER = 0.72
"""Height of a difference panel, as a share of that of the curves over it."""

PARTS = 20
"""Networks that are aligned by relative depth are compared by their means over so many equal parts of it."""

FACTOR = 2.0
"""Curves have diverged where one is more than so many times the other."""

LASTING = 3
"""They diverge at the first of so many neighbouring layers that all differ by ``FACTOR``: one odd layer is no divergence."""


def difference(panel: Curves, axis: Aligned) -> Curves:
    """Every line against the first, and in the note where they diverge."""
    assert panel.signal is not None
    ratio = panel.statistic in POSITIVE
    first, *others = panel.curves if panel.message or axis.by_name else _parts(panel, ratio=ratio)
    curves = tuple(compared(first, other, ratio=ratio) for other in others) if not panel.message else ()
    scale, threshold = scale_of("difference", curves)
    # ratios of 0.3 and 3 are equally far from one, which a linear axis does not show
    if ratio and scale is Scale.LINEAR:
        scale = _ratio_scale(curves)
    notes = [str(divergence(first, other, ratio=ratio)) for other in others] if curves else []
    return Curves(
        signal=panel.signal,
        statistic=f"{panel.statistic}:difference",
        x_axis=panel.x_axis,
        ylabel=f"{PLURAL[panel.signal]}\n{'ratio' if ratio else 'difference'}{SUFFIX[scale].replace(' scale', '')}",
        message="" if any(np.isfinite(curve.y).any() for curve in curves) else panel.message or "nothing to compare",
        note="\n".join(notes),
        height=LOWER,
        curves=curves,
        scale=scale,
        threshold=threshold,
        baseline=1.0 if ratio else None,
    )


def _parts(panel: Curves, *, ratio: bool) -> tuple[Curve, ...]:
    """The lines' means over parts of the depth, since no two layers of their networks face each other."""
    # a run that lacks the signal has a line without points
    parts = min(PARTS, *(len(curve.x) or PARTS for curve in panel.curves))
    return tuple(binned(curve, panel.size, parts, log=ratio) if len(curve.x) else curve for curve in panel.curves)


def _ratio_scale(curves: Sequence[Curve]) -> Scale:
    """A ratio over more than a decade is read on a log axis, where a half and a double are equally far from one."""
    values = np.concatenate([curve.y for curve in curves]) if curves else np.zeros(0)
    values = values[np.isfinite(values) & (values > 0)]
    return Scale.LOG if values.size and max(values.max(), 1.0) >= 10 * min(values.min(), 1.0) else Scale.LINEAR


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where one curve diverges from another.

    Attributes:
        label: The curve that is compared, and ``reference`` the one it is compared with.
        reference: See ``label``.
        name: The first layer of those where they have diverged; empty where they never do.
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


def divergence(first: Curve, other: Curve, *, ratio: bool) -> Divergence:
    """Find the first layer of a lasting divergence: there and at the next two, one curve is over twice the other.

    The same rule serves signed numbers: the difference exceeds half of the larger magnitude. Where the curves stand for
    several seeds, their ranges must not overlap either. A layer that is finite, or exactly zero, in one run alone has diverged;
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
        return Divergence(other.label, first.label, "", np.nan, "", np.nan, ratio)
    y = difference.y
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.abs(np.log(np.where(y > 0, y, np.nan))) if ratio else np.abs(y)
    size[:start] = np.nan
    size[~far] = np.nan
    most = int(np.nanargmax(size)) if np.isfinite(size).any() else start
    there = np.nan if bad_a[start] != bad_b[start] else float(y[start]) if np.isfinite(y[start]) else np.inf
    names = difference.names
    return Divergence(other.label, first.label, names[start], there, names[most], float(y[most]), ratio)


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
    """The first layer of ``LASTING`` in a row (fewer only at the end) that have diverged, among those that are looked at."""
    kept = far[looked_at]
    for start in np.flatnonzero(kept):
        if kept[start : start + LASTING].all():
            return int(looked_at[start])
    return None


def _range(curve: Curve) -> tuple[FloatArray, FloatArray]:
    return (curve.shades[0].low, curve.shades[0].high) if curve.shades else (curve.y, curve.y)
