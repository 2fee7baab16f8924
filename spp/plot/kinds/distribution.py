"""How one layer's values are distributed over signed powers of two, against the activation's range and number formats."""

from __future__ import annotations

from difflib import get_close_matches

import numpy as np
import pandas as pd

from spp.errors import InputError
from spp.frame.schema import Column, ExponentColumn
from spp.plot.kinds import Drawing, Request, figure
from spp.plot.panels import LOG_FROM, PLURAL, SUFFIX, Bars, Limit, Scale, XAxis
from spp.plot.series import as_signals
from spp.stats.extra import FORMATS
from spp.vocabulary import Signal

XLABEL = "value (signed powers of two)"

NEAR = 6
"""A format's limit within so many powers of two of the values is shown, and the axis reaches to it."""

MARKS = 5
"""About how many powers are named on either side."""

RANGES: dict[str, tuple[float, float]] = {
    "sigmoid": (0.0, 1.0),
    "hardsigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "softsign": (-1.0, 1.0),
    "relu": (0.0, np.inf),
    "relu6": (0.0, 6.0),
    "softplus": (0.0, np.inf),
    "logsigmoid": (-np.inf, 0.0),
    "hardswish": (-0.375, np.inf),
    "silu": (-0.2784645, np.inf),
    "mish": (-0.3088434, np.inf),
    "gelu": (-0.1699712, np.inf),
    "selu": (-1.7580993, np.inf),
}
"""Where the values of an activation can lie, by the class name in small letters; minima of the smooth ones to seven digits."""


@figure("distribution")
def distribution(request: Request) -> Drawing:
    """One layer's values over signed powers of two, against the activation's range and number formats.

    Takes ``layer``, the name of one module or of several, a row each (of a module with several calls or outputs the first is
    drawn), ``signals``, a column each (activations and gradients when left out), and ``step``.
    """
    signals = as_signals(request.signals)
    if request.exponents.empty:
        raise InputError(
            "the distribution figure needs the counts by power of two",
            received="a trace without them",
            where="kind",
            remedy="Trace with exponents=True.",
        )
    rows, step = request.at_step()
    layers = [request.layer] if isinstance(request.layer, str) else list(request.layer or ())
    if not layers:
        raise InputError(
            "the distribution figure draws one layer",
            received="none",
            where="layer",
            remedy='Name it, as layer="head".',
        )
    names = rows[Column.NAME].astype(str).unique().tolist()
    for name in layers:
        if name not in names:
            near = " or ".join(map(repr, get_close_matches(name, names, n=3, cutoff=0.4)))
            raise InputError(
                "a distribution is that of a layer that was measured",
                received=repr(name),
                where="layer",
                remedy=f"Did you mean {near}?" if near else f"There are {len(names)}, as {names[0]!r}.",
            )
    grid = tuple(tuple(_panel(rows, request.exponents, name, signal) for signal in signals) for name in layers)
    titles = dict.fromkeys(panel.title for row in grid for panel in row)
    return Drawing(grid, step, f"distribution over signed powers of two of {'; '.join(titles)}")


def _panel(rows: pd.DataFrame, exponents: pd.DataFrame, name: str, signal: Signal) -> Bars:
    own = rows[rows[Column.NAME] == name]
    kind, mine = str(own[Column.TYPE].iloc[0]), own[own[Column.SIGNAL] == signal]
    title = f"{PLURAL[signal]} of {name or 'the network'} ({kind})"
    finite = int(mine[Column.NUMEL].iloc[0]) - int(mine[Column.NONFINITE].iloc[0]) if len(mine) else 0
    if not finite:
        none = np.zeros(0)
        missing = "have no finite value" if len(mine) else "were not measured"
        return Bars(
            signal=signal,
            statistic="distribution",
            x_axis=XAxis(XLABEL, 1),
            title=title,
            message=f"{PLURAL[signal]} of {name}\n{missing}",
            x=none,
            share=none,
            labels=(),
        )
    row = mine.iloc[0]
    counted = exponents[
        (exponents[ExponentColumn.NAME] == name)
        & (exponents[ExponentColumn.SIGNAL] == signal)
        & (exponents[ExponentColumn.CALL] == row[Column.CALL])
        & (exponents[ExponentColumn.OUTPUT] == row[Column.OUTPUT])
    ]
    # exponents count what is finite and not zero
    zeros = finite - int(counted[ExponentColumn.COUNT].sum())
    powers = counted[ExponentColumn.EXPONENT].to_numpy(dtype=np.int64)
    signs = counted[ExponentColumn.SIGN].to_numpy(dtype=np.int64)
    low, high = (int(powers.min()), int(powers.max())) if len(powers) else (-1, 0)
    two_sided = bool((signs < 0).any())
    limits, (low, high) = _limits(low, high, two_sided=two_sided)
    if signal is Signal.ACTIVATION:
        limits += _range(kind, low, high, (float(row[Column.MIN]), float(row[Column.MAX])))
    share = np.append(counted[ExponentColumn.COUNT].to_numpy(dtype=np.float64), float(zeros)) / finite
    positive = share[share > 0]
    scale = Scale.LOG if positive.max() >= LOG_FROM * positive.min() else Scale.LINEAR
    return Bars(
        signal=signal,
        statistic="distribution",
        x_axis=XAxis(XLABEL, 1),
        title=title,
        ylabel=f"share of values{SUFFIX[scale]}",
        scale=scale,
        note=f"{row[Column.NONFINITE]} non-finite values are left out" if row[Column.NONFINITE] else "",
        x=np.append(signs * (powers - low + 1.5), 0.0),
        share=share,
        labels=(*(f"{'-' if s < 0 else ''}[2^{k}, 2^{k + 1})" for k, s in zip(powers, signs, strict=True)), "zero"),
        limits=limits,
        marks=_marks(low, high, two_sided=two_sided),
    )


def place(value: float, low: int) -> float:
    """Return where a number stands on the axis whose smallest power is ``low``: 2^low at 1, each further power one on.

    Magnitudes below 2^low stand at the end of the strip that belongs to zero.
    """
    # np.log2 of zero is minus infinity, and powers below the smallest have no place of their own
    magnitude = abs(value)
    if magnitude < 2.0**low:
        return 0.0 if value == 0 else float(np.copysign(1.0, value))
    return float(np.copysign(np.log2(magnitude) - low + 1.0, value))


def _limits(low: int, high: int, *, two_sided: bool) -> tuple[tuple[Limit, ...], tuple[int, int]]:
    """The formats' limits near the values, and the powers from which to which the axis goes."""
    near = [
        (power, name)
        for name, limits in FORMATS.items()
        for power in (limits.flush, limits.overflow)
        if low - NEAR <= power <= high + 1 + NEAR
    ]
    low, high = min([low, *(power for power, _ in near)]), max([high, *(power - 1 for power, _ in near)])
    signs = (1, -1) if two_sided else (1,)
    return tuple(Limit(s * (power - low + 1.0), name, "format") for power, name in near for s in signs), (low, high)


def _range(kind: str, low: int, high: int, extremes: tuple[float, float]) -> tuple[Limit, ...]:
    """The ends of the activation's range, where its class is known; that of the values' own bar where they reach the end."""
    ends = RANGES.get(kind.lower().removeprefix("new").removesuffix("activation"))
    if ends is None:
        return ()
    edge = high - low + 2.0
    found = []
    for end, reached, outwards in zip(ends, extremes, (-1, 1), strict=True):
        at = float(np.copysign(edge, end)) if np.isinf(end) else place(end, low)
        # a power holds its lower end: 1 is counted from 1 on, so that the bar of a saturated tanh lies beyond its range
        closed = end != 0 and reached == end and np.log2(abs(end)).is_integer()
        found.append(Limit(float(np.clip(at + outwards * closed, -edge, edge)), kind, "range"))
    return tuple(found)


def _marks(low: int, high: int, *, two_sided: bool) -> tuple[tuple[float, str], ...]:
    stride = max(1, -(-(high + 1 - low) // MARKS))
    # keeps the words on either side of zero apart
    first = low + (stride if two_sided else 0)
    powers = [power for power in range(high + 1, low - 1, -stride) if power >= first or not two_sided]
    right = [(power - low + 1.0, f"$2^{{{power}}}$") for power in reversed(powers)]
    left = [(-x, f"$-{text[1:-1]}$") for x, text in reversed(right)] if two_sided else []
    return (*left, (0.0, "0"), *right)
