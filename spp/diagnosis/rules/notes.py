"""What is worth knowing of any network, healthy or not: ratios within it, one sentence each, with the layer's name.

Every fact is a ratio within one network (how many decades a signal travels, which share of channels is dead), never a
comparison with an absolute size: multiplying a signal by a constant changes no fact. ``statistic`` is the theme, and ``value``
how striking it is, in decades or what a reader would weigh like that many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from spp.diagnosis.findings import Finding, count, factor, number, percent, quoted
from spp.diagnosis.main_path import of_signals
from spp.diagnosis.registry import FACT, Check, rule
from spp.diagnosis.view import View
from spp.frame.schema import Column
from spp.vocabulary import Severity, Signal

NON_FINITE, ZERO, UNREACHED = 1000.0, 500.0, 400.0
"""How striking is what makes every other number doubtful: more decades than float64 has."""

SOURCE = "ratios within one network, told of every one"


def _fact(name: str, description: str, **thresholds: tuple[float, str]) -> Callable[[Check], Check]:
    return rule(name, description, thresholds=thresholds, source=SOURCE, tags=(FACT,))


def _note(theme: str, where: object, message: str, striking: float, signal: Signal | None = None) -> Finding:
    return Finding(
        severity=Severity.NOTE, name=str(where), message=message, signal=signal, statistic=theme, value=float(striking)
    )


def _others(number_of: int, noun: str, before: str = " and of ") -> str:
    return f"{before}{count(number_of, f'further {noun}')}" if number_of else ""


@_fact("first_nonfinite", "where NaN or infinity appears first, of each signal")
def first_nonfinite(view: View, at: Any) -> Iterator[Finding]:
    """The first layer, in the direction the signal travels, that holds NaN or infinity."""
    bad = of_signals(view.frame)
    bad = bad[bad[Column.NONFINITE] > 0]
    for order, signal in enumerate((Signal.WEIGHT, Signal.ACTIVATION, Signal.GRADIENT)):
        rows = bad[bad[Column.SIGNAL] == signal].sort_values(Column.DEPTH, ascending=signal != Signal.GRADIENT)
        if signal != Signal.WEIGHT and rows[Column.LEAF].any():
            rows = rows[rows[Column.LEAF]]
        if rows.empty:
            continue
        first = rows.iloc[0]
        share = percent(first[Column.NONFINITE] / first[Column.NUMEL])
        layers = rows[Column.NAME].nunique()
        after = f"{_others(layers - 1, 'layer', ', and ')} after it" if layers > 1 else ""
        when = "" if signal == Signal.WEIGHT else " first"
        message = f"Non-finite {signal}s appear{when} in {quoted(first[Column.NAME])} ({share} of them){after}."
        yield _note(f"non-finite {signal}s", first[Column.NAME], message, NON_FINITE - order, signal)


@_fact("activation_scale", "how far activations travel along the network, and where")
def activation_scale(view: View, at: Any) -> Iterator[Finding]:
    """The mean square at the end of each component."""
    path = view.ends[Signal.ACTIVATION]
    verbs = ("collapse", "shrink", "grow", "explode")
    yield from _scale(path, path[Column.MEAN_SQUARE], Signal.ACTIVATION, "mean square", "Activations", verbs)


@_fact("gradient_scale", "how far gradients travel on their way back, and where")
def gradient_scale(view: View, at: Any) -> Iterator[Finding]:
    """The squared norm of the whole tensor: pooling shares a gradient out among more elements, which is no loss."""
    path = view.ends[Signal.GRADIENT].iloc[::-1]
    norm = path[Column.MEAN_SQUARE] * path[Column.NUMEL]
    verbs = ("vanish", "shrink", "grow", "explode")
    yield from _scale(path, norm, Signal.GRADIENT, "squared norm", "Gradients, followed backwards,", verbs)


def _scale(
    path: pd.DataFrame, values: pd.Series, signal: Signal, what: str, noun: str, verbs: tuple[str, str, str, str]
) -> Iterator[Finding]:
    """Components through which nothing passes; how far ``values`` travel, from one extreme to the other, and where."""
    zero = path.index[path[Column.MEAN_SQUARE] == 0]
    if len(zero):
        what_else = _others(len(zero) - 1, "component")
        message = f"All {signal}s at the end of {quoted(zero[0])}{what_else} are exactly zero."
        yield _note(f"zero {signal}s", zero[0], message, ZERO, signal)
    values = values.astype("float64")
    values = values[np.isfinite(values) & (values > 0)]
    if len(values) < 2:
        return
    power = np.log10(values.to_numpy())
    low, high = int(power.argmin()), int(power.argmax())
    start, end = min(low, high), max(low, high)
    decades = float(power[end] - power[start])

    def told(index: int, form: str = "{name} ({value})") -> str:
        return form.format(name=quoted(values.index[index]), value=number(values.iloc[index]))

    if abs(decades) < 1:
        between = f"{told(low, '{value} ({name})')} and {told(high, '{value} ({name})')}"
        message = f"{noun} keep their scale: their {what} stays between {between}."
    else:
        verb = verbs[(2 if decades > 0 else 1) if abs(decades) < 3 else (3 if decades > 0 else 0)]
        course = "falls" if decades < 0 else "rises"
        steps = np.diff(power[start : end + 1]) * np.sign(decades)
        steepest = quoted(values.index[start + 1 + int(steps.argmax())])
        most = f", most of it at {steepest} ({factor(steps.max())})" if end - start > 1 else ""
        message = f"{noun} {verb}: their {what} {course} {factor(decades)} from {told(start)} to {told(end)}{most}."
    yield _note(f"{signal}s", values.index[end], message, abs(decades), signal)


@_fact("relative_gradients", "how unevenly one gradient step would move the weight matrices, relative to their size")
def relative_gradients(view: View, at: Any) -> Iterator[Finding]:
    """Rms of the gradient over rms of the weight, from the smallest to the largest."""
    keys = [Column.NAME, Column.OUTPUT]
    frame = of_signals(view.frame)
    matrices = frame[frame[Column.SHAPE].str.contains("x")].drop_duplicates([Column.SIGNAL, *keys])
    rms = matrices.set_index(keys)[[Column.SIGNAL, Column.RMS]]
    weight = rms.loc[rms[Column.SIGNAL] == Signal.WEIGHT, Column.RMS]
    gradient = rms.loc[rms[Column.SIGNAL] == Signal.WEIGHT_GRADIENT, Column.RMS]
    relative = (gradient / weight.where(weight > 0)).dropna()
    relative.index = pd.Index([".".join(part for part in key if part) for key in relative.index], dtype="str")
    relative = relative[np.isfinite(relative)]
    unreached, reached = relative.index[relative == 0], relative[relative > 0]
    if len(unreached):
        message = (
            f"No gradient reaches {unreached[0]}{_others(len(unreached) - 1, 'weight', ' and ')}: it is exactly zero."
        )
        yield _note("unreached weights", unreached[0], message, UNREACHED, Signal.WEIGHT_GRADIENT)
    if len(reached) > 1:
        low, high, decades = reached.idxmin(), reached.idxmax(), np.log10(reached.max() / reached.min())
        message = (
            f"Relative to its weight, the gradient of {low} is the smallest and that of {high} the largest, "
            f"{factor(decades)} apart (by rms)."
        )
        yield _note("relative gradients", low, message, decades, Signal.WEIGHT_GRADIENT)


@_fact("mean_share", "where the squared channel means outweigh the channel variances: the samples look alike")
def mean_share(view: View, at: Any) -> Iterator[Finding]:
    """ACSM over ACV at the end of each component."""
    path = view.ends[Signal.ACTIVATION]
    path = path[(path[Column.NUMEL] > path[Column.CHANNELS]) & (path[Column.ACV] > 0)]
    ratio = (path[Column.ACSM] / path[Column.ACV]).dropna()
    if ratio.empty:
        return
    worst, value = ratio.idxmax(), float(ratio.max())
    if value > 1:
        also = _others(int((ratio > 1).sum()) - 1, "component", ", and outweighs it in ")
        message = (
            f"The mean dominates in {quoted(worst)}: its average channel squared mean is {number(value)} times its "
            f"average channel variance{also}."
        )
    else:
        message = (
            f"The variance dominates everywhere: the average channel squared mean is at most {number(value)} of the "
            f"average channel variance ({quoted(worst)})."
        )
    yield _note("mean shift", worst, message, np.log10(1 + value), Signal.ACTIVATION)


@_fact(
    "dead_share", "the layer with the largest share of dead channels", least=(0.05, "below there is nothing to tell")
)
def dead_share(view: View, at: Any) -> Iterator[Finding]:
    """Channels that are constant over the batch."""
    what = "of the channels of {name} are dead (constant over the batch)"
    yield from _share(view, Column.DEAD_FRACTION, what, at.least)


@_fact("saturated_share", "the layer with the largest saturated share", least=(0.25, "below there is nothing to tell"))
def saturated_share(view: View, at: Any) -> Iterator[Finding]:
    """Values at an end of their activation's range."""
    yield from _share(view, Column.SATURATED_FRACTION, "of the values of {name} are saturated", at.least)


def _share(view: View, column: Column, what: str, least: float) -> Iterator[Finding]:
    """The leaf with the largest share in ``column``, from ``least`` on; a share of 1 weighs ten decades."""
    rows = of_signals(view.frame)
    rows = rows[(rows[Column.SIGNAL] == Signal.ACTIVATION) & rows[Column.LEAF]]
    rows = rows[(rows[Column.NUMEL] > rows[Column.CHANNELS]) & (rows[column] >= least)]
    if rows.empty:
        return
    worst = rows.sort_values(column, ascending=False, kind="stable").iloc[0]
    others = rows[Column.NAME].nunique() - 1
    also = f"{_others(others, 'layer', '; in ')} it is {percent(least)} or more" if others else ""
    message = f"{percent(worst[column])} {what.format(name=quoted(worst[Column.NAME]))}{also}."
    theme = column.removesuffix("_fraction")
    yield _note(theme, worst[Column.NAME], message, 10 * float(worst[column]), Signal.ACTIVATION)
