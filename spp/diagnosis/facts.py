"""The most striking facts of a trace, one sentence each, with the layer's name.

Every fact is a ratio within one network (how many decades a signal travels, which share of channels is dead), never a
comparison with an absolute size: multiplying a signal by a constant changes no fact. Each theme below looks at the
frame and returns facts with a *severity*, in decades or what a reader would weigh like that many; ``striking`` returns
the most severe ones. A healthy network gets its facts too; they then say that the signal keeps its scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from spp.diagnosis.path import along, of_signals
from spp.errors import InputError
from spp.frame.schema import Column
from spp.vocabulary import Signal

_NON_FINITE, _ZERO, _UNREACHED = 1000.0, 500.0, 400.0
"""Severities of what makes every other number doubtful: more decades than float64 has."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing worth saying about a trace.

    Attributes:
        severity: How striking it is, in decades; only the order matters.
        theme: What it is about, as ``activations``.
        where: Qualified name of the layer or component it names first.
        sentence: The fact in one sentence.
    """

    severity: float
    theme: str
    where: str
    sentence: str

    def __str__(self) -> str:
        return self.sentence


def striking(frame: pd.DataFrame, limit: int = 3) -> list[Fact]:
    """Return the ``limit`` most striking facts of ``frame``, the most severe first.

    Args:
        frame: The frame of a trace (one step), with the columns of ``spp.frame.schema.COLUMNS``.
        limit: How many facts to return at most; fewer come back where the frame has less to say.

    Raises:
        InputError: ``limit`` is negative, or the frame holds several steps.
    """
    if limit < 0:
        raise InputError("limit is a number of facts", received=str(limit), where="limit")
    if frame[Column.STEP].nunique() > 1:
        raise InputError("facts are told of one step", received="several steps", where="frame", remedy="Select one.")
    frame = of_signals(frame)
    found = [fact for theme in _THEMES for fact in theme(frame)]
    return sorted(found, key=lambda fact: -fact.severity)[:limit]


def _non_finite(frame: pd.DataFrame) -> Iterator[Fact]:
    """The first layer, in the direction the signal travels, that holds NaN or infinity."""
    bad = frame[frame[Column.NONFINITE] > 0]
    for order, (signal, noun, backward) in enumerate(
        (
            (Signal.WEIGHT, "weights", False),
            (Signal.ACTIVATION, "activations", False),
            (Signal.GRADIENT, "gradients", True),
        )
    ):
        rows = bad[bad[Column.SIGNAL] == signal].sort_values(Column.DEPTH, ascending=not backward)
        if signal != Signal.WEIGHT and rows[Column.LEAF].any():
            rows = rows[rows[Column.LEAF]]
        if rows.empty:
            continue
        first = rows.iloc[0]
        share = first[Column.NONFINITE] / first[Column.NUMEL]
        layers = rows[Column.NAME].nunique()
        others = f", and {_count(layers - 1, 'further layer')} after it" if layers > 1 else ""
        when = "" if signal == Signal.WEIGHT else " first"
        yield Fact(
            _NON_FINITE - order,
            f"non-finite {noun}",
            str(first[Column.NAME]),
            f"Non-finite {noun} appear{when} in {_name(first[Column.NAME])} ({_percent(share)} of them){others}.",
        )


def _activations(frame: pd.DataFrame) -> Iterator[Fact]:
    path = along(frame, Signal.ACTIVATION)
    yield from _zero(path, "activations")
    yield from _travel(
        path[Column.MEAN_SQUARE], "mean square", "Activations", ("collapse", "shrink", "grow", "explode")
    )


def _gradients(frame: pd.DataFrame) -> Iterator[Fact]:
    """Gradients by the squared norm of the whole tensor: pooling shares one out among more elements, which is no loss."""
    path = along(frame, Signal.GRADIENT).iloc[::-1]
    yield from _zero(path, "gradients")
    norm = path[Column.MEAN_SQUARE] * path[Column.NUMEL]
    yield from _travel(norm, "squared norm", "Gradients, followed backwards,", ("vanish", "shrink", "grow", "explode"))


def _zero(path: pd.DataFrame, noun: str) -> Iterator[Fact]:
    """Components whose output is exactly zero: nothing passes there."""
    zero = path[path[Column.MEAN_SQUARE] == 0]
    if not zero.empty:
        first = str(zero.index[0])
        rest = f" and of {_count(len(zero) - 1, 'further component')}" if len(zero) > 1 else ""
        yield Fact(_ZERO, f"zero {noun}", first, f"All {noun} at the end of {_name(first)}{rest} are exactly zero.")


def _travel(values: pd.Series, what: str, noun: str, verbs: tuple[str, str, str, str]) -> Iterator[Fact]:
    """How far ``values`` travel along the path, from one extreme to the other, and their steepest step."""
    values = values.astype("float64")
    values = values[np.isfinite(values) & (values > 0)]
    if len(values) < 2:
        return
    power = np.log10(values.to_numpy())
    low, high = int(power.argmin()), int(power.argmax())
    start, end = min(low, high), max(low, high)
    decades = float(power[end] - power[start])
    names = [_name(name) for name in values.index]
    if abs(decades) < 1:
        sentence = (
            f"{noun} keep their scale: their {what} stays between {_number(values.iloc[low])} ({names[low]}) "
            f"and {_number(values.iloc[high])} ({names[high]})."
        )
    else:
        verb = verbs[(0 if decades <= -3 else 1) if decades < 0 else (3 if decades >= 3 else 2)]
        course = "falls" if decades < 0 else "rises"
        steps = np.diff(power[start : end + 1]) * np.sign(decades)
        steep = start + 1 + int(steps.argmax())
        step = 10 ** float(steps.max())
        most = f", most of it at {names[steep]} ({_factor(step)})" if end - start > 1 else ""
        sentence = (
            f"{noun} {verb}: their {what} {course} {_factor(10 ** abs(decades))} from {names[start]} "
            f"({_number(values.iloc[start])}) to {names[end]} ({_number(values.iloc[end])}){most}."
        )
    yield Fact(abs(decades), noun.split(",")[0].lower(), str(values.index[end]), sentence)


def _relative_gradients(frame: pd.DataFrame) -> Iterator[Fact]:
    """How unevenly one gradient step would move the weight matrices, relative to their size."""
    keys = [Column.NAME, Column.OUTPUT]
    matrices = frame[frame[Column.SHAPE].str.contains("x")].drop_duplicates([Column.SIGNAL, *keys])
    rms = matrices.set_index(keys)[[Column.SIGNAL, Column.RMS]]
    weight = rms.loc[rms[Column.SIGNAL] == Signal.WEIGHT, Column.RMS]
    gradient = rms.loc[rms[Column.SIGNAL] == Signal.WEIGHT_GRADIENT, Column.RMS]
    relative = (gradient / weight.where(weight > 0)).dropna()
    relative.index = pd.Index([".".join(part for part in key if part) for key in relative.index], dtype="str")
    relative = relative[np.isfinite(relative)]
    unreached = relative[relative == 0]
    if not unreached.empty:
        first = str(unreached.index[0])
        rest = f" and {_count(len(unreached) - 1, 'further weight')}" if len(unreached) > 1 else ""
        yield Fact(_UNREACHED, "unreached weights", first, f"No gradient reaches {first}{rest}: it is exactly zero.")
    reached = relative[relative > 0]
    if len(reached) > 1:
        low, high = str(reached.idxmin()), str(reached.idxmax())
        spread = float(reached.max() / reached.min())
        yield Fact(
            np.log10(spread),
            "relative gradients",
            low,
            f"Relative to its weight, the gradient of {low} is the smallest and that of {high} the largest, "
            f"{_factor(spread)} apart (by rms).",
        )


def _mean_shift(frame: pd.DataFrame) -> Iterator[Fact]:
    """Where the squared channel means outweigh the channel variances: the samples look alike."""
    path = along(frame, Signal.ACTIVATION)
    path = path[(path[Column.NUMEL] > path[Column.CHANNELS]) & (path[Column.ACV] > 0)]
    ratio = (path[Column.ACSM] / path[Column.ACV]).dropna()
    if ratio.empty:
        return
    worst, value = str(ratio.idxmax()), float(ratio.max())
    if value > 1:
        others = int((ratio > 1).sum()) - 1
        also = f", and outweighs it in {_count(others, 'further component')}" if others else ""
        sentence = (
            f"The mean dominates in {_name(worst)}: its average channel squared mean is {_number(value)} times its "
            f"average channel variance{also}."
        )
    else:
        sentence = (
            f"The variance dominates everywhere: the average channel squared mean is at most {_number(value)} of the "
            f"average channel variance ({_name(worst)})."
        )
    yield Fact(np.log10(1 + value), "mean shift", worst, sentence)


def _dead_channels(frame: pd.DataFrame) -> Iterator[Fact]:
    yield from _share(frame, Column.DEAD_FRACTION, "of the channels of {name} are dead (constant over the batch)", 0.05)


def _saturation(frame: pd.DataFrame) -> Iterator[Fact]:
    yield from _share(frame, Column.SATURATED_FRACTION, "of the values of {name} are saturated", 0.25)


def _share(frame: pd.DataFrame, column: Column, what: str, least: float) -> Iterator[Fact]:
    """The leaf with the largest share in ``column``, from ``least`` on; a share of 1 weighs ten decades."""
    rows = frame[(frame[Column.SIGNAL] == Signal.ACTIVATION) & frame[Column.LEAF]]
    rows = rows[(rows[Column.NUMEL] > rows[Column.CHANNELS]) & (rows[column] >= least)]
    if rows.empty:
        return
    worst = rows.sort_values(column, ascending=False, kind="stable").iloc[0]
    others = rows[Column.NAME].nunique() - 1
    also = f"; in {_count(others, 'further layer')} it is {_percent(least)} or more" if others else ""
    sentence = f"{_percent(worst[column])} {what.format(name=_name(worst[Column.NAME]))}{also}."
    yield Fact(10 * float(worst[column]), column.removesuffix("_fraction"), str(worst[Column.NAME]), sentence)


_THEMES: tuple[Callable[[pd.DataFrame], Iterator[Fact]], ...] = (
    _non_finite,
    _activations,
    _gradients,
    _relative_gradients,
    _mean_shift,
    _dead_channels,
    _saturation,
)


def _name(name: object) -> str:
    return str(name) or "the model itself"


def _number(value: float) -> str:
    return f"{value:.3g}"


def _factor(value: float) -> str:
    return f"{value:,.1f}-fold" if value < 100 else f"{value:.2g}-fold" if value >= 1e5 else f"{value:,.0f}-fold"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
