"""Layers in which gradients end, or that scale them unlike their neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from spp.diagnosis.findings import Finding
from spp.diagnosis.kinds import Kind
from spp.diagnosis.registry import rule
from spp.diagnosis.view import Step, View
from spp.diagnosis.words import count, factor, number
from spp.vocabulary import Severity, Signal


@rule(
    "blocked_gradient",
    "a layer through which gradients come back as exact zeros",
    source="chain rule: what lies before it cannot learn",
)
def blocked_gradient(view: View, at: Any) -> Iterator[Finding]:
    """The last layer whose output has a gradient while what fed it has none but zeros."""
    for step in reversed(view.steps):
        own = view.gradients.get(step.key)
        fed = [view.gradients[key] for key in step.fed if key in view.gradients and len(view.takers(key)) == 1]
        if own is None or not own.mean_square > 0 or not fed or any(row.mean_square != 0 for row in fed):
            continue
        weight = view.weights.get((step.name, "weight"))
        zero = weight is not None and weight.mean_square == 0
        deliberate = zero and (step.name == view.readout or view.in_branch(step.name))
        before = [s.name for s in view.steps if s.depth < step.depth and (s.name, "weight") in view.weights]
        yield Finding(
            severity=Severity.NOTE if deliberate else Severity.ERROR,
            name=step.name,
            depth=step.depth,
            signal=Signal.GRADIENT,
            statistic="mean_square",
            value=0.0,
            expected="above 0",
            message=f"Gradients end at {step.name}: what comes back through it is exactly zero"
            + (", because its weight is" if zero else "")
            + (
                ". Zero readouts and branch ends are an init of some designs (Fixup); they open with the first step."
                if deliberate
                else f"; {count(len(before), 'weighted layer')} before it cannot learn."
            ),
            remedy="" if deliberate else "Initialize it again" + (", `--init he`." if zero else "."),
            explains=("vanishing_gradient", "gradient_imbalance", "gradient_cliff"),
        )
        if not view.in_branch(step.name):
            return


@rule(
    "gradient_cliff",
    "one layer that scales the gradient far more than its neighbours do",
    thresholds={
        "decades": (1.5, "beyond the median of its kind, as for the rule cliff"),
        "error": (4.0, "a factor 100 in amplitude: neither side of it can be trained at the other's rate"),
        "spreads": (6.0, "and six times the median deviation of its kind"),
    },
    source="robust outliers: median and median absolute deviation of the squared norm before over behind",
)
def gradient_cliff(view: View, at: Any) -> Iterator[Finding]:
    """The step whose backward gain departs most from the median of its kind."""
    found: list[tuple[Step, float]] = []
    for kind in (Kind.WEIGHTED, Kind.DEPTHWISE, Kind.ACTIVATION, Kind.OTHER):
        gains = [(s, g) for s in view.steps if s.kind is kind and np.isfinite(g := backward_decades(view, s))]
        for i, (step, gain) in enumerate(gains):
            others = np.array([g for k, (_, g) in enumerate(gains) if k != i])
            usual = float(np.median(others)) if len(others) >= 2 else 0.0
            spread = float(np.median(np.abs(others - usual))) if len(others) >= 2 else 0.3
            off = gain - usual
            if (
                abs(off) >= max(at.decades, at.spreads * spread)
                and step.name != view.readout
                and not _by_norm(view, step)
            ):
                found.append((step, off))
    if not found:
        return
    step, off = max(found, key=lambda pair: abs(pair[1]))
    verb = "multiplies" if off > 0 else "divides"
    yield Finding(
        severity=Severity.ERROR if abs(off) >= at.error else Severity.WARNING,
        name=step.name,
        depth=step.depth,
        signal=Signal.GRADIENT,
        statistic="squared norm before / behind",
        value=10 ** backward_decades(view, step),
        expected="as in the others of its kind",
        message=f"Going backwards, {step.name} {verb} the squared gradient {factor(off)} more than the other layers "
        f"of its kind do.",
        remedy="Look at its backward: a custom autograd function, a hook, a derivative near zero or a pole.",
        evidence=f"gain {number(10 ** backward_decades(view, step))}",
        explains=("vanishing_gradient", "exploding_gradient", "gradient_imbalance", "norm_gradient"),
    )


def backward_decades(view: View, step: Step) -> float:
    """log10 of the squared norm of the gradient of what a step takes over that of what it gives out.

    NaN where something else takes the same tensor, or where one of the two is missing, zero or not finite.
    """
    own = view.gradients.get(step.key)
    fed = view.gradients.get(step.fed[0]) if len(step.fed) == 1 and len(view.takers(step.fed[0])) == 1 else None
    if own is None or fed is None:
        return float("nan")
    before, behind = fed.mean_square * fed.numel, own.mean_square * own.numel
    return float(np.log10(before / behind)) if 0 < before < np.inf and 0 < behind < np.inf else float("nan")


def _by_norm(view: View, step: Step) -> bool:
    """Whether a norm takes what the step gives out: it divides the gradient by the scale that it takes away."""
    return any(taker.kind is Kind.NORM for taker in view.takers(step.key)) or view.in_branch(step.name)
