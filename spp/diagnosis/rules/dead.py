"""Layers that let nothing through: dead ones, and saturated activations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from spp.diagnosis.findings import Finding
from spp.diagnosis.joints import born_as_skips, joints
from spp.diagnosis.kinds import Kind
from spp.diagnosis.registry import rule
from spp.diagnosis.view import Key, Step, View
from spp.diagnosis.words import count, number, percent, some
from spp.frame.schema import Column
from spp.vocabulary import Severity, Signal

UNIT_SATURATION = {"relu6": 0.5236, "hardtanh": 0.3222, "hardsigmoid": 0.0033, "tanh": 0.0081}
"""Share of values within 1 % of an end of the range when the input is a unit normal; other bounded activations: none."""

CONSEQUENCES = (
    "bias_outlier",
    "blocked_gradient",
    "branch_vanishes",
    "cliff",
    "dead_channels",
    "exploding",
    "exploding_gradient",
    "gradient_cliff",
    "gradient_imbalance",
    "mean_shift",
    "norm_gradient",
    "norm_input",
    "number_format:note",
    "saturation",
    "vanishing",
    "vanishing_gradient",
)
"""What follows from a layer that gives out a constant."""


@rule(
    "dead_layer",
    "a layer that gives out the same whatever comes in: all channels zero or constant over the batch",
    thresholds={
        "alive": (
            1e-6,
            "share of the variance in the second moment of what it takes: a million times what counts as dead, so "
            "that one layer "
            "did it and not all together",
        )
    },
    source="no information passes a constant; the gradient through it is zero or useless",
)
def dead_layer(view: View, at: Any) -> Iterator[Finding]:
    """The first step whose channels are all dead while what it takes is alive."""
    for step in view.steps:
        if step.row.dead_fraction < 1 or step.samples < 2 or not _alive(view, step, at.alive):
            continue
        culprit, why, remedy = _cause(view, step)
        weight = view.weights.get((culprit.name, "weight"))
        zero = weight is not None and weight.mean_square == 0
        deliberate = zero and (view.in_branch(culprit.name) or culprit.name == view.readout)
        if deliberate or _skipped(view, step):  # told by the rule of residual branches
            continue
        yield Finding(
            severity=Severity.ERROR,
            name=culprit.name,
            depth=culprit.depth,
            signal=Signal.ACTIVATION,
            statistic=str(Column.DEAD_FRACTION),
            value=float(step.row.dead_fraction),
            expected="below 1",
            message=f"{step.name} is dead: {why}.",
            remedy=remedy,
            evidence=f"largest magnitude of its output {number(step.row.abs_max)}",
            explains=CONSEQUENCES,
        )
        return


@rule(
    "saturation",
    "a bounded activation most of whose values lie at an end of its range, where its derivative is near zero",
    thresholds={
        "warning": (0.5, "half of the values beyond what a unit normal input would saturate pass no gradient"),
        "error": (0.9, "nine tenths do"),
    },
    source="Glorot & Bengio 2010; shares of a unit normal by its distribution function",
)
def saturation(view: View, at: Any) -> Iterator[Finding]:
    """The saturated share beyond that of a unit normal input, as a part of what could be beyond it."""
    bad: list[tuple[Any, float]] = []
    for row in view.leaves.values():
        if row.saturated_fraction == row.saturated_fraction and row.saturated_fraction is not None:
            usual = UNIT_SATURATION.get(str(row.type).lower(), 0.0)
            excess = (float(row.saturated_fraction) - usual) / (1 - usual)
            if excess >= at.warning and row.dead_fraction < 1:
                bad.append((row, excess))
    if not bad:
        return
    row, excess = bad[0]
    key = Key(str(row.name), int(row.call))
    fed = [k for k in view.fed(key) if k in view.activations]
    feeder = view.activations[fed[0]] if fed else None
    culprit = row if feeder is None or not _weighted(view, fed[0]) else feeder
    came = "" if feeder is None else f": {feeder.name} gives it values of rms {number(feeder.rms)}"
    yield Finding(
        severity=Severity.ERROR if excess >= at.error else Severity.WARNING,
        name=str(culprit.name),
        depth=int(culprit.depth),
        signal=Signal.ACTIVATION,
        statistic=str(Column.SATURATED_FRACTION),
        value=float(row.saturated_fraction),
        expected=f"below {at.warning:g}",
        message=f"{percent(row.saturated_fraction)} of the values of {row.name} ({row.type}) lie at an end of its range{came}"
        + (f"; so it is in {count(len(bad) - 1, 'further layer')}" if len(bad) > 1 else "")
        + ".",
        remedy="Smaller weights before it, `--init xavier` or `--init lecun`, or a norm before it, `--norm batch`.",
        evidence=some([f"{r.name} ({percent(r.saturated_fraction)})" for r, _ in bad]),
        explains=(
            "cliff",
            "exploding",
            "gradient_cliff",
            "gradient_imbalance",
            "mean_shift",
            "vanishing",
            "vanishing_gradient",
        ),
    )


def _alive(view: View, step: Step, least: float) -> bool:
    """Whether what a step takes tells its samples apart, well above the spread that counts as dead."""
    fed = [view.activations[key] for key in step.fed if key in view.activations]
    return not fed or any(row.numel > row.channels and row.acv > least * row.mean_square for row in fed)


def _skipped(view: View, step: Step) -> bool:
    """Whether a dead step lies on a residual branch that is dead by design, or that stochastic depth dropped this time."""
    if not view.in_branch(step.name):
        return False
    limit = view.limits["branch_vanishes"].decades
    return step.kind is Kind.PLAIN or bool(born_as_skips(joints(view), limit))


def _weighted(view: View, key: Key) -> bool:
    return any(step.key == key and step.is_weighted for step in view.steps)


def _cause(view: View, step: Step) -> tuple[Step, str, str]:
    """The leaf to blame for a dead step, why in words, and what to do."""
    weight = view.weights.get((step.name, "weight"))
    if weight is not None and weight.mean_square == 0:
        return step, "its weight is exactly zero", "Initialize it again, `--init he`."
    feeder = view.feeder(step)
    if step.kind is Kind.ACTIVATION and feeder is not None:
        low, high = number(feeder.row.min), number(feeder.row.max)
        why = f"all that {feeder.name} gives it lies between {low} and {high}, where it is flat"
        return (
            feeder,
            why,
            "Look at the bias and the weights of that layer; a norm before the activation, `--norm batch`.",
        )
    return step, "its output is the same for every sample, though its input is not", "Look at its weight and its eps."
