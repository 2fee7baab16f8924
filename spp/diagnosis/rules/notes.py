"""What is worth knowing of any network, healthy or not: ratios within it, one sentence each, with the layer's name.

Every fact is a ratio within one network (how many decades a signal travels, which share of channels is dead), never a
comparison with an absolute size: multiplying a signal by a constant changes no fact. ``statistic`` is the theme, and ``value``
how striking it is, in decades or what a reader would weigh like that many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from spp.diagnosis.findings import Finding, further, number, percent, powered, quoted, times
from spp.diagnosis.registry import FACT, Check, rule
from spp.diagnosis.view import View
from spp.frame.schema import Column
from spp.vocabulary import LayerKind, Severity, Signal

NON_FINITE, ZERO, UNREACHED = 1000.0, 500.0, 400.0
"""How striking is what makes every other number doubtful: more decades than float64 has."""

SOURCE = "ratios within one network, told of every one"


def _fact(name: str, **thresholds: tuple[float, str]) -> Callable[[Check], Check]:
    return rule(name, thresholds=thresholds, source=SOURCE, tags=(FACT,))


def _note(theme: str, where: object, message: str, striking: float, signal: Signal | None = None) -> Finding:
    return Finding(
        severity=Severity.NOTE, name=str(where), message=message, signal=signal, statistic=theme, value=float(striking)
    )


@_fact("first_nonfinite")
def first_nonfinite(view: View, at: Any) -> Iterator[Finding]:
    """Where NaN or infinity appears first, of each signal.

    The first layer, in the direction the signal travels, that holds NaN or infinity.
    """
    for order, signal in enumerate((Signal.WEIGHT, Signal.ACTIVATION, Signal.GRADIENT)):
        bad = [row for row in view.rows[signal] if row.nonfinite]
        rows = bad if signal == Signal.WEIGHT else [row for row in bad if row.leaf] or bad
        if not rows:
            continue
        # Weights of modules that never ran have no depth.
        known = [row for row in rows if row.depth is not None] or rows[:1]
        first = (max if signal == Signal.GRADIENT else min)(known, key=lambda row: row.depth or 0)
        share, layers = percent(first.nonfinite / first.numel), len({row.name for row in rows})
        after = further(layers - 1, before=", and ", after=" after it")
        when = "" if signal == Signal.WEIGHT else " first"
        message = f"Non-finite {signal}s appear{when} in {quoted(first.name)} ({share} of them){after}."
        yield _note(f"non-finite {signal}s", first.name, message, NON_FINITE - order, signal)


@_fact("activation_scale")
def activation_scale(view: View, at: Any) -> Iterator[Finding]:
    """How far activations travel along the network, and where.

    The mean square at the end of each component.
    """
    path = [(name, row, row.mean_square) for name, row in view.ends[Signal.ACTIVATION].items()]
    yield from _scale(path, Signal.ACTIVATION, "mean square", "Activations")


@_fact("gradient_scale")
def gradient_scale(view: View, at: Any) -> Iterator[Finding]:
    """How far gradients travel on their way back, and where.

    The squared norm of the whole tensor: pooling shares a gradient out among more elements, which is no loss.
    """
    path = [(name, row, row.mean_square * row.numel) for name, row in view.ends[Signal.GRADIENT].items()]
    yield from _scale(path[::-1], Signal.GRADIENT, "squared norm", "Gradients, followed backwards,")


def _scale(path: list[tuple[str, Any, float]], signal: Signal, what: str, noun: str) -> Iterator[Finding]:
    """Components through which nothing passes; how far the values travel, from one extreme to the other, and where."""
    zero = [name for name, row, _ in path if row.mean_square == 0]
    if zero:
        also = further(len(zero) - 1, "component", " and of ")
        message = f"All {signal}s at the end of {quoted(zero[0])}{also} are exactly zero."
        yield _note(f"zero {signal}s", zero[0], message, ZERO, signal)
    path = [part for part in path if 0 < part[2] < np.inf]
    if len(path) < 2:
        return
    pooling = np.array([row.kind == LayerKind.POOLING for _, row, _ in path])
    power = np.log10([value for *_, value in path])
    # What pooling does follows from its size: a gradient has not yet come through it where it is told.
    change = np.diff(power)
    change[pooling[:-1] if signal is Signal.GRADIENT else pooling[1:]] = 0.0
    power = np.concatenate([power[:1], power[0] + np.cumsum(change)])
    low, high = int(power.argmin()), int(power.argmax())
    start, end = min(low, high), max(low, high)
    decades = float(power[end] - power[start])

    def told(index: int) -> str:
        return f"{number(path[index][2])} ({quoted(path[index][0])})"

    if abs(decades) < 1:
        message = f"{noun} keep their scale: {what} from {told(low)} to {told(high)}."
    else:
        steps = change[start:end] * np.sign(decades)
        steepest = quoted(path[start + 1 + int(steps.argmax())][0])
        most = f"; most at {steepest} ({times(steps.max() * np.sign(decades))})" if end - start > 1 else ""
        verb = "fall" if decades < 0 else "rise"
        message = f"{noun} {verb}: {what} {told(start)} -> {told(end)}, {times(decades)}{most}."
    yield _note(f"{signal}s", path[end][0], message, abs(decades), signal)


@_fact("relative_gradients")
def relative_gradients(view: View, at: Any) -> Iterator[Finding]:
    """How unevenly one gradient step would move the weight matrices, relative to their size.

    Rms of the gradient over rms of the weight, from the smallest to the largest.
    """
    relative = {}
    for key, weight in view.weights.items():
        gradient = view.weight_gradients.get(key)
        matrix = gradient is not None and "x" in gradient.shape
        if gradient is not None and matrix and weight.rms > 0 and np.isfinite(gradient.rms / weight.rms):
            relative[".".join(part for part in key if part)] = float(gradient.rms / weight.rms)
    unreached = [name for name, value in relative.items() if value == 0]
    reached = {name: value for name, value in relative.items() if value > 0}
    if unreached:
        message = (
            f"No gradient reaches {unreached[0]}{further(len(unreached) - 1, 'weight', ' and ')}: it is exactly zero."
        )
        yield _note("unreached weights", unreached[0], message, UNREACHED, Signal.WEIGHT_GRADIENT)
    if len(reached) > 1:
        low, high = min(reached, key=reached.__getitem__), max(reached, key=reached.__getitem__)
        decades = np.log10(reached[high] / reached[low])
        message = (
            f"Relative to its weight, the gradient of {low} is the smallest, that of {high} the largest, "
            f"a factor {powered(decades)} apart (by rms)."
        )
        yield _note("relative gradients", low, message, decades, Signal.WEIGHT_GRADIENT)


@_fact("mean_share")
def mean_share(view: View, at: Any) -> Iterator[Finding]:
    """Where the squared channel means outweigh the channel variances: the samples look alike.

    ACSM over ACV at the end of each component.
    """
    ends = view.ends[Signal.ACTIVATION].items()
    # One value per channel has no variance.
    ratio = {name: row.acsm / row.acv for name, row in ends if row.numel > row.channels and row.acv > 0}
    ratio = {name: value for name, value in ratio.items() if not np.isnan(value)}
    if not ratio:
        return
    worst = max(ratio, key=ratio.__getitem__)
    value = ratio[worst]
    if value > 1:
        also = further(sum(one > 1 for one in ratio.values()) - 1, "component", ", and outweighs it in ")
        message = f"The mean dominates in {quoted(worst)}: ACSM is {number(value)} times ACV{also}."
    else:
        message = f"The variance dominates everywhere: ACSM is at most {number(value)} of ACV ({quoted(worst)})."
    yield _note("mean shift", worst, message, np.log10(1 + value), Signal.ACTIVATION)


@_fact("dead_share", least=(0.05, "below is nothing to tell"))
def dead_share(view: View, at: Any) -> Iterator[Finding]:
    """The layer with the largest share of dead channels.

    Channels that are constant over the batch.
    """
    what = "of the channels of {name} are dead (constant over the batch)"
    yield from _share(view, Column.DEAD_FRACTION, what, at.least)


@_fact("saturated_share", least=(0.25, "below is nothing to tell"))
def saturated_share(view: View, at: Any) -> Iterator[Finding]:
    """The layer with the largest saturated share.

    Values at an end of their activation's range.
    """
    yield from _share(view, Column.SATURATED_FRACTION, "of the values of {name} are saturated", at.least)


def _share(view: View, column: Column, what: str, least: float) -> Iterator[Finding]:
    """The leaf with the largest share in ``column``, from ``least`` on; a share of 1 weighs ten decades."""
    # One value per channel is constant, and all of them would be dead.
    leaves = (row for row in view.rows[Signal.ACTIVATION] if row.leaf and row.numel > row.channels)
    shares = [(getattr(row, column), row.name) for row in leaves if getattr(row, column) >= least]
    if not shares:
        return
    share, worst = max(shares, key=lambda pair: pair[0])
    also = further(len({name for _, name in shares}) - 1, before="; in ", after=f" it is {percent(least)} or more")
    theme = column.removesuffix("_fraction")
    yield _note(
        theme, worst, f"{percent(share)} {what.format(name=quoted(worst))}{also}.", 10 * share, Signal.ACTIVATION
    )
