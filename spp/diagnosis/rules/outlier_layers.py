"""One layer that changes the signal or its gradient far more than others of its kind, or otherwise than theory predicts."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from spp.diagnosis.findings import (
    Finding,
    count,
    factor,
    number,
    power,
    powered,
    some,
)
from spp.diagnosis.registry import rule
from spp.diagnosis.remedies import Remedy, advice, init_for, remedy
from spp.diagnosis.view import Array, Kind, Step, View, measured, median_without, ratio
from spp.frame.schema import Column
from spp.vocabulary import Severity, Signal

# Columns of the frame that hold what theory predicts, where it was asked for.
PREDICTED = ("acsm_predicted", "acv_predicted")

# Kinds of steps that are compared with their own kind.
JUDGED = (Kind.WEIGHTED, Kind.DEPTHWISE, Kind.ACTIVATION, Kind.OTHER, Kind.GATE)

BEYOND = {
    "decades": (1.5, "beyond the median gain of its kind: a factor 5.6 in amplitude; common inits differ by less"),
    "error": (4.0, "a factor 100 in amplitude: neither side of it can be trained at the other's rate"),
    "spreads": (6.0, "and six times the median deviation of its kind, so that uneven networks are not all cliffs"),
}
# How many others of its kind a layer is compared with at least.
PEERS = 4
# A step, by how many decades it departs from what is usual, what that is, and among how many others of its kind.
Outlier = tuple[Step, float, float, int]


def _outliers(values: Sequence[tuple[Step, float]], at: Any) -> Iterator[Outlier]:
    """Values that depart from the median of the others by ``decades``, and by ``spreads`` times their median deviation."""
    every = np.sort([value for _, value in values])
    away: dict[float, Array] = {}
    for step, value in values:
        # With too few to compare with, a gain of one is usual, give or take a factor of two.
        usual, spread, peers = 0.0, 0.3, 0
        if len(every) > PEERS:
            peers = len(every) - 1
            # Medians without one value are three at most, whichever it is.
            usual = median_without(every, value)
            if usual not in away:
                away[usual] = np.sort(np.abs(every - usual))
            spread = median_without(away[usual], abs(value - usual))
        if abs(value - usual) >= max(at.decades, at.spreads * spread):
            yield step, value - usual, usual, peers


@rule(
    "cliff",
    thresholds=BEYOND,
    source="robust outliers: median and median absolute deviation",
    tags=("layer",),
    follows=("layer", "bias", "groups", "branch"),
)
def cliff(view: View, at: Any) -> Iterator[Finding]:
    """One layer that changes the second moment far more than its neighbours do.

    The step whose gain departs most from the median of its kind, unless the norm behind it makes good for it.
    """
    found: list[Outlier] = []
    for kind in JUDGED:
        steps = [s for s in view.steps if s.kind is kind and np.isfinite(s.decades) and not _is_bias(view, s)]
        found += [one for one in _outliers([(s, s.decades) for s in steps], at) if _lasts(view, *one[:2])]
    found += _first_layer(view, at) + _norm_levels(view, at)
    if not found:
        return
    step, off, usual, peers = max(found, key=lambda one: abs(one[1]))
    gain = power(step.decades if np.isfinite(step.decades) else off)
    blamed, wanted = _by_weights(view, step, off), f"near {powered(usual)}, as in {_others(peers)}"
    yield Finding(
        severity=Severity.ERROR if abs(off) >= at.error else Severity.WARNING,
        **measured(step, Signal.ACTIVATION, "mean_square out / in", gain, wanted),
        message=f"{step.name} {'multiplies' if off > 0 else 'divides'} the second moment {factor(off)} more than "
        f"{_others(peers)} do.{blamed}",
        remedies=_remedies(view, step, off, blamed),
        evidence=f"gain {powered(usual + off)} against {powered(usual)}",
    )


def _remedies(view: View, step: Step, off: float, blamed: str) -> tuple[Remedy, ...]:
    """To initialize a layer whose weights are at fault, or to scale what it gives out."""
    if (step.name, "weight") not in view.weights:
        return (advice("Look at what this layer does to its input."),)
    scaled = remedy("gain", power(-off / 2), where=step.name, why="Scale it as the others are")
    again = remedy("init", init_for(view), where=step.name, why="Initialize it as the others")
    return (again, scaled) if blamed and step.is_weighted else (scaled,)


def _others(peers: int) -> str:
    return f"the other {peers} layers of its kind" if peers else "most layers"


def _by_weights(view: View, step: Step, off: float) -> str:
    """That a step's weights depart from those of its kind as its gain does; empty where they do not."""
    gain = view.weight_gain(step.name)
    peers = [view.weight_gain(s.name) for s in view.steps if s.kind is step.kind and s is not step]
    usual = float(np.median([peer for peer in peers if np.isfinite(peer)] or [np.nan]))
    if not abs(ratio(gain, usual) - off) < 0.7:
        return ""
    return f" Its weights do it: fan_in x mean square is {number(gain)} there and {number(usual)} in the others."


def _norm_levels(view: View, at: Any) -> list[Outlier]:
    """Norms whose output is far from that of the other norms: what they give out does not depend on what they take."""
    norms = [s for s in view.norms if 0 < s.mean_square < np.inf]
    levels = [(s, float(np.log10(s.mean_square))) for s in norms]
    # a norm's level is its own where there are no others; a scale at the end of a branch is the residual rules' business
    outliers = _outliers(levels, at) if len(levels) > PEERS else ()
    return [one for one in outliers if not view.in_branch(one[0].name)]


def _first_layer(view: View, at: Any) -> list[Outlier]:
    """The first layer's gain is not known, since the batch is not measured; its weights are compared instead."""
    weighted = [s for s in view.steps if s.kind is Kind.WEIGHTED]
    if len(weighted) < 3 or np.isfinite(weighted[0].decades):
        return []
    gains = [(s, ratio(view.weight_gain(s.name), 1.0)) for s in weighted]
    known = [pair for pair in gains if np.isfinite(pair[1])]
    return [one for one in _outliers(known, at) if one[0] is weighted[0] and len(known) > 2 and _lasts(view, *one[:2])]


def _is_bias(view: View, step: Step) -> bool:
    """Whether most of what a layer gives out is its bias: its gain then says nothing of what it does to the signal."""
    bias = view.weights.get((step.name, "bias"))
    return bias is not None and float(bias.mean_square) > 0.5 * step.mean_square


def _lasts(view: View, step: Step, off: float) -> bool:
    """Whether what the step does is still there behind it: no norm takes its output, and the readout may have any scale."""
    if step.name == view.readout:
        # A readout init of 0.01 (Brock et al. 2021) is one and a half decades below the rest.
        return abs(off) >= 3.0
    behind = view.takers(step.key)
    if behind and all(other.kind is Kind.NORM for other in behind):
        return False
    # Of a branch that ends in a norm, or is scaled by one, the rules of residual branches say what comes of it.
    return not (view.in_branch(step.name) and view.last_norms.get(step.row.block, -1) > step.depth)


@rule(
    "off_theory",
    thresholds={
        "decades": (0.6, "a factor 4; at init, theory and measurement agree within 15 % in networks it covers"),
    },
    source="prediction by spp.theory, where the frame holds it",
    follows=("layer",),
)
def off_theory(view: View, at: Any) -> Iterator[Finding]:
    """A layer from which on the second moment departs from what theory predicts.

    The first step whose departure from the prediction exceeds that of what fed it by ``decades``.
    """
    if not set(PREDICTED) <= set(view.frame.columns):
        return
    gap: dict[Any, float] = {}
    for key, row in view.activations.items():
        decades = ratio(row.mean_square, sum(float(getattr(row, column)) for column in PREDICTED))
        if np.isfinite(decades):
            gap[key] = decades
    bad = []
    for step in view.steps:
        off = abs(gap.get(step.key, 0.0))
        came = min((abs(gap[step.key] - gap[key]) for key in step.fed if key in gap and step.key in gap), default=off)
        if min(off, came) >= at.decades:
            bad.append(step)
    if not bad:
        return
    first = bad[0]
    predicted = number(first.mean_square * power(-gap[first.key]))
    yield Finding(
        severity=Severity.WARNING,
        **measured(
            first,
            Signal.ACTIVATION,
            Column.MEAN_SQUARE,
            first.mean_square,
            f"{predicted}, as predicted from the weights",
        ),
        message=f"At {first.name} the second moment parts from theory: {number(first.mean_square)} instead of {predicted}.",
        remedy="Look at this layer's input: correlated channels, a bias, or a function that theory does not see.",
        evidence=some([f"{s.name} ({factor(gap[s.key])})" for s in bad]),
    )


@rule(
    "blocked_gradient",
    source="chain rule: what lies before it cannot learn",
    tags=("derivative",),
    follows=("dead", "identity"),
)
def blocked_gradient(view: View, at: Any) -> Iterator[Finding]:
    """A layer through which gradients come back as exact zeros.

    The last layer whose output has a gradient while what fed it has none but zeros.
    """
    weighted = [s.depth for s in view.steps if (s.name, "weight") in view.weights]
    for step in reversed(view.steps):
        own = view.gradients.get(step.key)
        fed = [view.gradients[key] for key in step.fed if key in view.gradients and len(view.takers(key)) == 1]
        if own is None or not own.mean_square > 0 or {float(row.mean_square) for row in fed} != {0.0}:
            continue
        zero = view.has_zero_weight(step.name)
        before = bisect_left(weighted, step.depth)
        told = f"Gradients end at {step.name}: what comes back through it is exactly zero"
        told += ", because its weight is" if zero else ""
        found = Finding(
            severity=Severity.ERROR,
            **measured(step, Signal.GRADIENT, Column.MEAN_SQUARE, 0.0, "above 0"),
            message=f"{told}; {count(before, 'weighted layer')} before it cannot learn.",
            remedies=(remedy("init", init_for(view), where=step.name, why="Initialize it again"),),
        )
        if view.zero_by_design(step.name):
            told += (
                ". Zero readouts and branch ends are an init of some designs (Fixup); they open with the first step."
            )
            found = replace(found, severity=Severity.NOTE, message=told, remedies=())
        yield found
        if not view.in_branch(step.name):
            return


@rule(
    "gradient_cliff",
    thresholds=BEYOND,
    source="robust outliers: median and median absolute deviation of the squared norm before over behind",
    tags=("derivative",),
    follows=("layer", "groups", "branch", "derivative"),
)
def gradient_cliff(view: View, at: Any) -> Iterator[Finding]:
    """One layer that scales the gradient far more than its neighbours do.

    The step whose backward gain departs most from the median of its kind.
    """
    found: list[Outlier] = []
    for kind in JUDGED[:-1]:
        gains = [(s, g) for s in view.steps if s.kind is kind and np.isfinite(g := view.backward_decades(s))]
        found += [one for one in _outliers(gains, at) if not _free(view, one[0])]
    if not found:
        return
    step, off, usual, peers = max(found, key=lambda one: abs(one[1]))
    gain = power(usual + off)
    yield Finding(
        severity=Severity.ERROR if abs(off) >= at.error else Severity.WARNING,
        **measured(step, Signal.GRADIENT, "squared norm before / behind", gain, f"as in {_others(peers)}"),
        message=f"Going backwards, {step.name} {'multiplies' if off > 0 else 'divides'} the squared gradient {factor(off)} "
        f"more than {_others(peers)} do.",
        remedy="Look at its backward: a custom autograd function, a hook, a derivative near zero or a pole.",
        evidence=f"gain {number(gain)}",
    )


def _free(view: View, step: Step) -> bool:
    """Whether a step may scale gradients as it likes: the readout, in a branch, and before a norm, which takes scale away."""
    return step.name == view.readout or view.normed(step) or view.in_branch(step.name)
