"""How one layer's values are distributed over signed powers of two, against the activation's range and number formats."""

from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np
import pandas as pd

from spp.errors import InputError
from spp.frame.schema import Column, ExponentColumn
from spp.plot.facts import Facts
from spp.plot.panels import LOG_FROM, PLURAL, Scale, as_signals, at_step
from spp.plot.shapes import AnyGrid, Bars, Limit
from spp.stats.extra import FORMATS
from spp.vocabulary import Signal

COLUMNS_DRAWN = (Signal.ACTIVATION, Signal.GRADIENT)
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


def distribution_panels(
    frame: pd.DataFrame,
    exponents: pd.DataFrame,
    *,
    layer: str | Sequence[str] | None,
    signals: Sequence[str] | str | None = None,
    step: int | None = None,
) -> tuple[AnyGrid, int]:
    """Make the panels of the ``distribution`` figure, a row per layer and a column per signal; say which step they show.

    Args:
        frame: Table with the columns of ``spp.frame.schema.COLUMNS``.
        exponents: Table with the columns of ``spp.frame.schema.EXPONENT_COLUMNS``.
        layer: Name of one module, or of several; of a module with several calls or outputs the first is drawn.
        signals: Activations and gradients when left out.
        step: Step to draw; the last one when left out.

    Raises:
        InputError: The trace counted no powers of two, or the layer was not measured.
        UnknownNameError: A signal that does not exist.
    """
    columns_drawn = as_signals(signals, COLUMNS_DRAWN, tuple(Signal))
    if exponents.empty:
        raise InputError(
            "the distribution figure needs the counts by power of two",
            received="a trace without them",
            where="kind",
            remedy="Trace with exponents=True.",
        )
    rows, step = at_step(frame, Column.STEP, step)
    layers = () if layer is None else (layer,) if isinstance(layer, str) else tuple(layer)
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
    grid = tuple(tuple(_panel(rows, exponents, name, signal) for signal in columns_drawn) for name in layers)
    return grid, step


def phrase(run: Facts, grid: AnyGrid) -> str:
    """Return what the caption says is drawn."""
    del run  # every kind is asked in the same way
    titles = list(dict.fromkeys(panel.title for row in grid for panel in row))
    return f"distribution over signed powers of two of {'; '.join(titles)}"


def _panel(rows: pd.DataFrame, exponents: pd.DataFrame, name: str, signal: Signal) -> Bars:
    mine = rows[(rows[Column.NAME] == name) & (rows[Column.SIGNAL] == signal)]
    kind = str(rows.loc[rows[Column.NAME] == name, Column.TYPE].iloc[0])
    common = {
        "signal": signal,
        "statistic": "distribution",
        "title": f"{PLURAL[signal]} of {name or 'the network'} ({kind})",
        "xlabel": XLABEL,
        "size": 1,
    }
    none = np.zeros(0)
    if mine.empty:
        message = f"{PLURAL[signal]} of {name}\nwere not measured"
        return Bars(x=none, share=none, labels=(), ylabel="", message=message, **common)  # type: ignore[arg-type]
    row = mine.iloc[0]
    counted = exponents[
        (exponents[ExponentColumn.NAME] == name)
        & (exponents[ExponentColumn.SIGNAL] == signal)
        & (exponents[ExponentColumn.CALL] == row[Column.CALL])
        & (exponents[ExponentColumn.OUTPUT] == row[Column.OUTPUT])
    ]
    finite = int(row[Column.NUMEL]) - int(row[Column.NONFINITE])
    zeros = finite - int(counted[ExponentColumn.COUNT].sum())
    if not finite:
        message = f"{PLURAL[signal]} of {name}\nhave no finite value"
        return Bars(x=none, share=none, labels=(), ylabel="", message=message, **common)  # type: ignore[arg-type]
    powers = counted[ExponentColumn.EXPONENT].to_numpy(dtype=np.int64)
    signs = counted[ExponentColumn.SIGN].to_numpy(dtype=np.int64)
    low, high = (int(powers.min()), int(powers.max())) if len(powers) else (-1, 0)
    two_sided = bool((signs < 0).any())
    limits, (low, high) = _limits(low, high, two_sided=two_sided)
    if signal is Signal.ACTIVATION:
        limits += _range(kind, low, high, (float(row[Column.MIN]), float(row[Column.MAX])))
    x = np.append(signs * (powers - low + 1.5), 0.0)
    share = np.append(counted[ExponentColumn.COUNT].to_numpy(dtype=np.float64), float(zeros)) / finite
    labels = [f"{'-' if s < 0 else ''}[2^{k}, 2^{k + 1})" for k, s in zip(powers, signs, strict=True)] + ["zero"]
    positive = share[share > 0]
    scale = Scale.LOG if positive.max() >= LOG_FROM * positive.min() else Scale.LINEAR
    return Bars(
        x=x,
        share=share,
        labels=tuple(labels),
        limits=limits,
        marks=_marks(low, high, two_sided=two_sided),
        scale=scale,
        ylabel=f"share of values{' (log scale)' if scale is Scale.LOG else ''}",
        note=f"{row[Column.NONFINITE]} non-finite values are left out" if row[Column.NONFINITE] else "",
        **common,  # type: ignore[arg-type]
    )


def place(value: float, low: int) -> float:
    """Return where a number stands on the axis whose smallest power is ``low``: 2^low at 1, each further power one on.

    Magnitudes below 2^low stand at the end of the strip that belongs to zero.
    """
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
        closed = end != 0 and reached == end and np.log2(abs(end)).is_integer()  # 1 is counted from 1 on
        found.append(Limit(float(np.clip(at + outwards * closed, -edge, edge)), kind, "range"))
    return tuple(found)


def _marks(low: int, high: int, *, two_sided: bool) -> tuple[tuple[float, str], ...]:
    stride = max(1, -(-(high + 1 - low) // MARKS))
    first = low + (stride if two_sided else 0)  # keeps the words on either side of zero apart
    powers = [power for power in range(high + 1, low - 1, -stride) if power >= first or not two_sided]
    right = [(power - low + 1.0, f"$2^{{{power}}}$") for power in reversed(powers)]
    left = [(-x, f"$-{text[1:-1]}$") for x, text in reversed(right)] if two_sided else []
    return (*left, (0.0, "0"), *right)
