"""One layer that changes the signal or its gradient far more than others of its kind, or otherwise than theory predicts."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from spp.diagnosis.findings import (
    Finding,
    arrow,
    count,
    factor,
    number,
    power,
    powered,
    some,
    times,
)
from spp.diagnosis.registry import rule
from spp.diagnosis.remedies import Remedy, advice, init_for, remedy
from spp.diagnosis.view import PEERS, Array, Kind, Step, View, measured, median_without, ratio
from spp.frame.schema import Column
from spp.vocabulary import LayerKind, Severity, Signal

# Columns of the frame that hold what theory predicts, where it was asked for.
PREDICTED = ("acsm_predicted", "acv_predicted")

# Kinds of steps that are compared with their own kind.
JUDGED = (Kind.WEIGHTED, Kind.DEPTHWISE, Kind.ACTIVATION, Kind.OTHER, Kind.GATE)

BEYOND = {
    "decades": (1.5, "beyond the median gain of its kind: a factor 5.6 in amplitude; common inits differ by less"),
    "error": (4.0, "a factor 100 in amplitude: neither side of it can be trained at the other's rate"),
    "spreads": (6.0, "and six times the median deviation of its kind, so that uneven networks are not all cliffs"),
}
# A step, by how many decades it departs from what is usual, what that is, and among how many others of its kind.
Outlier = tuple[Step, float, float, int]


def _outliers(values: Sequence[tuple[Step, float]], at: Any) -> Iterator[Outlier]:
    """Values that depart from the median of the others by ``decades``, and by ``spreads`` times their median deviation."""
    if len(values) < PEERS:
        return
    every = np.sort([value for _, value in values])
    away: dict[float, Array] = {}
    for step, value in values:
        # Medians without one value are three at most, whichever it is.
        usual = median_without(every, value)
        if usual not in away:
            away[usual] = np.sort(np.abs(every - usual))
        spread = median_without(away[usual], abs(value - usual))
        if abs(value - usual) >= max(at.decades, at.spreads * spread):
            yield step, value - usual, usual, len(every) - 1


def _kin(view: View, steps: Iterable[Step], gain: Callable[[Step], float], at: Any) -> Iterator[Outlier]:
    """Steps whose gain is unlike that of their kind; of what has neither weights nor peers, unlike 1.

    Activations are compared with the same function, and weighted layers with their class where it has enough.
    """
    known = [(step, gain(step)) for step in steps if step.kind in JUDGED]
    known = [(step, decades) for step, decades in known if np.isfinite(decades)]
    kinds: dict[tuple[str, str], list[tuple[Step, float]]] = {}
    for step, decades in known:
        name = view.activation(step.name) if step.kind is Kind.ACTIVATION else str(step.row.type)
        kinds.setdefault((step.kind, name), []).append((step, decades))
    rest: dict[str, list[tuple[Step, float]]] = {}
    for (kind, _), values in kinds.items():
        if len(values) >= PEERS:
            yield from _outliers(values, at)
        elif kind == Kind.WEIGHTED:
            rest.setdefault(kind, []).extend(values)
        elif kind == Kind.OTHER:
            bare = [(step, off) for step, off in values if _bare(view, step)]
            yield from ((step, off, 0.0, 0) for step, off in bare if abs(off) >= at.decades)
    for kind, values in rest.items():
        few = {step.key for step, _ in values}
        every = [pair for pair in known if pair[0].kind == kind]
        if len(every) < PEERS:
            # No init in use is so far from keeping what comes in; what a readout does the loss tells.
            alone = [(step, off) for step, off in values if abs(off) >= at.error and not view.is_end(step)]
            yield from ((step, off, 0.0, 0) for step, off in alone)
        yield from (one for one in _outliers(every, at) if one[0].key in few)


def _bare(view: View, step: Step) -> bool:
    """Whether a step has no weights and gives out as much as it takes: nothing explains a gain that is not 1."""
    sources, fact = view.sources(step.key), view.facts.get(step.name)
    plain = fact is not None and fact.kind == LayerKind.OTHER and not fact.parameters
    return plain and len(sources) == 1 and sources[0].shape == step.row.shape


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
    steps = [step for step in view.steps if not _is_bias(view, step)]
    found = [one for one in _kin(view, steps, lambda step: step.decades, at) if _lasts(view, *one[:2])]
    found += _first_layer(view, at) + _norm_levels(view, at)
    if not found:
        return
    step, off, usual, peers = max(found, key=lambda one: abs(one[1]))
    gain = power(step.decades if np.isfinite(step.decades) else off)
    blamed, beyond = _by_weights(view, step, off), f", {times(off)} beyond its {peers} peers" if peers else ""
    came = arrow(step.fed_mean_square, step.mean_square) if step.fed_mean_square > 0 else number(step.mean_square)
    yield Finding(
        severity=Severity.ERROR if abs(off) >= at.error and not view.in_branch(step.name) else Severity.WARNING,
        **measured(step, Signal.ACTIVATION, "mean_square out / in", gain, f"near {powered(usual)}"),
        message=f"{step.name} ({step.row.type}) {'enlarges' if off > 0 else 'shrinks'} the signal: mean square {came} "
        f"({times(ratio(gain, 1.0))}{beyond}){', by its weights' if blamed else ''}.",
        remedies=_remedies(view, step, off, blamed),
        evidence="; ".join(filter(None, [f"gain {powered(usual + off)} against {powered(usual)}", blamed])),
    )


def _remedies(view: View, step: Step, off: float, blamed: str) -> tuple[Remedy, ...]:
    """To initialize a layer whose weights are at fault, or to scale what it gives out."""
    if (step.name, "weight") not in view.weights:
        return (advice("Look at what this layer does to its input."),)
    scaled = remedy("gain", power(-off / 2), where=step.name, why="Scale it as the others are")
    again = remedy("init", init_for(view), where=step.name, why="Initialize it as the others")
    return (again, scaled) if blamed and step.is_weighted else (scaled,)


def _by_weights(view: View, step: Step, off: float) -> str:
    """That a step's weights depart from those of its kind as its gain does; empty where they do not."""
    gain = view.weight_gain(step.name)
    peers = [view.weight_gain(s.name) for s in view.steps if s.kind is step.kind and s is not step]
    usual = float(np.median([peer for peer in peers if np.isfinite(peer)] or [np.nan]))
    if not abs(ratio(gain, usual) - off) < 0.7:
        return ""
    return f"fan_in x mean square of its weights {number(gain)} against {number(usual)}"


def _norm_levels(view: View, at: Any) -> list[Outlier]:
    """Norms whose output is far from that of the other norms: what they give out does not depend on what they take."""
    norms = [s for s in view.norms if 0 < s.mean_square < np.inf]
    levels = [(s, float(np.log10(s.mean_square))) for s in norms]
    # a scale at the end of a branch is the residual rules' business
    return [one for one in _outliers(levels, at) if not view.in_branch(one[0].name)]


def _first_layer(view: View, at: Any) -> list[Outlier]:
    """The first layer's gain is not known, since the batch is not measured; its weights are compared instead."""
    weighted = [s for s in view.steps if s.kind is Kind.WEIGHTED]
    if not weighted or np.isfinite(weighted[0].decades):
        return []
    gains = [(s, ratio(view.weight_gain(s.name), 1.0)) for s in weighted]
    known = [pair for pair in gains if np.isfinite(pair[1])]
    return [one for one in _outliers(known, at) if one[0] is weighted[0] and _lasts(view, *one[:2])]


def _is_bias(view: View, step: Step) -> bool:
    """Whether most of what a layer gives out is its bias: its gain then says nothing of what it does to the signal."""
    bias = view.weights.get((step.name, "bias"))
    return bias is not None and float(bias.mean_square) > 0.5 * step.mean_square


def _lasts(view: View, step: Step, off: float) -> bool:
    """Whether what the step does is still there behind it: no norm takes its output, and the readout may have any scale."""
    if view.is_end(step):
        # Small readouts are inits of many designs (Brock et al. 2021, BEiT, Fixup): outputs begin at 0.
        return off >= 3.0
    group = view.branch_ends.get(step.name)
    if group is not None and (
        list(view.branch_ends.values()).count(group) >= PEERS or (step.kind is Kind.OTHER and off < 0)
    ):
        # The rules of residual branches compare it with its skip; a bare scale there is made to begin small (LayerScale).
        return False
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
        message=f"At {first.name} ({first.row.type}) the mean square parts from theory: {number(first.mean_square)} instead of "
        f"{predicted}.",
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
        if not before:
            continue
        told = f"Gradients end at {step.name} ({step.row.type}): what comes back through it is exactly zero"
        told += ", as its weight is" if zero else ""
        found = Finding(
            severity=Severity.ERROR,
            **measured(step, Signal.GRADIENT, Column.MEAN_SQUARE, 0.0, "above 0"),
            message=f"{told}; {count(before, 'weighted layer')} before it cannot learn.",
            remedies=(
                remedy("init", init_for(view), where=step.name, why="Initialize it again")
                if step.is_weighted
                else advice("Its derivative is zero: pass the gradient straight through, or take a smooth function"),
            ),
        )
        if view.zero_by_design(step.name):
            told += ", by design (Fixup); it opens with the first step."
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
    steps = [step for step in view.steps if step.kind is not Kind.GATE]
    found = [one for one in _kin(view, steps, view.backward_decades, at) if not _free(view, one[0])]
    if not found:
        return
    step, off, usual, peers = max(found, key=lambda one: abs(one[1]))
    gain = power(usual + off)
    beyond = f" ({times(off)} beyond its {peers} peers)" if peers else ""
    yield Finding(
        severity=Severity.ERROR if abs(off) >= at.error else Severity.WARNING,
        **measured(step, Signal.GRADIENT, "squared norm before / behind", gain, f"near {powered(usual)}"),
        message=f"On the way back {step.name} ({step.row.type}) {'enlarges' if off > 0 else 'shrinks'} the squared gradient "
        f"{times(usual + off)}{beyond}.",
        remedy="Look at its backward: a custom autograd function, a hook, a derivative near zero or a pole.",
        evidence=f"gain {number(gain)}",
    )


def _free(view: View, step: Step) -> bool:
    """Whether a step may scale gradients as it likes: the readout, in a branch, and before a norm, which takes scale away."""
    return view.is_end(step) or view.normed(step) or view.in_branch(step.name)
