"""Values that carry nothing: dead layers and channels, saturated activations, means that drown the variance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from spp.diagnosis.findings import Finding
from spp.diagnosis.kinds import Kind
from spp.diagnosis.registry import rule
from spp.diagnosis.view import Key, Step, View
from spp.diagnosis.words import count, number, percent, some
from spp.frame.schema import Column, Severity
from spp.signals import Signal

UNIT_SATURATION = {"relu6": 0.5236, "hardtanh": 0.3222, "hardsigmoid": 0.0033, "tanh": 0.0081}
"""Share of values within 1 % of an end of the range when the input is a unit normal; other bounded activations: none."""


@rule(
    "dead_layer",
    "a layer that gives out the same whatever comes in: all channels zero or constant over the batch",
    source="no information passes a constant; the gradient through it is zero or useless",
)
def dead_layer(view: View, at: Any) -> Iterator[Finding]:
    """The first step whose channels are all dead while what it takes is alive."""
    for step in view.steps:
        if step.row.dead_fraction < 1 or _samples(step.row) < 2 or not _alive(view, step):
            continue
        culprit, why, remedy = _cause(view, step)
        weight = view.weights.get((culprit.name, "weight"))
        zero = weight is not None and weight.mean_square == 0
        deliberate = zero and (view.in_branch(culprit.name) or culprit.name == view.readout)
        if deliberate:  # Fixup, zero gamma: told by the rule of residual branches
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
            explains=(
                "vanishing",
                "exploding",
                "vanishing_gradient",
                "exploding_gradient",
                "dead_channels",
                "gradient_imbalance",
                "mean_shift",
                "cliff",
                "norm_input",
                "blocked_gradient",
                "saturation",
                "branch_vanishes",
                "no_spread",
            ),
        )
        return


@rule(
    "dead_channels",
    "an activation most of whose channels are zero or constant over the batch",
    thresholds={
        "share": (0.5, "half of the width is gone"),
        "samples": (16.0, "values per channel; of a healthy ReLU with so many, one in 2^16 channels is dead by chance"),
    },
    source="Lu et al. 2019, arXiv 1903.06733 (dying ReLU)",
)
def dead_channels(view: View, at: Any) -> Iterator[Finding]:
    """Activations with at least ``share`` of dead channels, twice as many as in what they take."""
    bad = []
    for step in view.steps:
        fed = [view.activations[key] for key in step.fed if key in view.activations]
        before = max((float(row.dead_fraction) for row in fed), default=0.0)
        if (
            step.kind in (Kind.ACTIVATION, Kind.OTHER)
            and step.row.dead_fraction >= at.share
            and step.row.dead_fraction < 1
            and step.row.dead_fraction > 2 * before
            and _samples(step.row) >= at.samples
        ):
            bad.append(step)
    if bad:
        first = bad[0]
        culprit = _feeder(view, first) or first
        yield Finding(
            severity=Severity.WARNING,
            name=culprit.name,
            depth=culprit.depth,
            signal=Signal.ACTIVATION,
            statistic=str(Column.DEAD_FRACTION),
            value=float(first.row.dead_fraction),
            expected=f"below {at.share:g}",
            message=f"{percent(first.row.dead_fraction)} of the channels of {first.name} give out the same for every sample"
            + (f", and so in {count(len(bad) - 1, 'further layer')}" if len(bad) > 1 else "")
            + f"; {culprit.name} feeds it.",
            remedy="A smaller bias or learning rate, or an activation without a dead side: `--activation leaky_relu`.",
            evidence=some([f"{s.name} ({percent(s.row.dead_fraction)})" for s in bad]),
            explains=("mean_shift",),
        )


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
    culprit = row if feeder is None or not _is_weighted(view, fed[0]) else feeder
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
        explains=("vanishing_gradient", "gradient_imbalance", "mean_shift", "cliff", "exploding"),
    )


@rule(
    "mean_shift",
    "channel means that outweigh the variance, so that all samples look alike",
    thresholds={
        "ratio": (
            30.0,
            "ReLU networks at init reach ACSM/ACV of 2 to 10 as depth grows; at 30 the samples differ by less than "
            "a fifth of the "
            "amplitude",
        ),
    },
    source="Brock, De & Smith 2021, arXiv 2101.08692 (mean shift)",
)
def mean_shift(view: View, at: Any) -> Iterator[Finding]:
    """ACSM over ACV at the outputs of weighted layers, norms and activations; the first that exceeds, and where most arises."""
    ratios = [(s, float(s.row.acsm / s.row.acv)) for s in view.steps if _measurable(s)]
    bad = [(step, ratio) for step, ratio in ratios if ratio > at.ratio and step.name != view.readout]
    if not bad or len(bad) < 2:
        return
    first, ratio = bad[0]
    culprit = _feeder(view, first) or first
    yield Finding(
        severity=Severity.WARNING,
        name=culprit.name,
        depth=culprit.depth,
        signal=Signal.ACTIVATION,
        statistic="acsm / acv",
        value=ratio,
        expected=f"below {at.ratio:g}",
        message=f"The mean drowns the signal from {first.name} on: its squared channel means are {number(ratio)} "
        f"times its channel "
        f"variances, and up to {number(max(r for _, r in bad))} times in {count(len(bad) - 1, 'layer')} behind it.",
        remedy="Centre the input or the weights: `--norm batch`, or `--norm scaled_ws` without statistics; "
        "an activation of mean zero, `--activation selu --init lecun`.",
        evidence=some([f"{s.name} ({number(r)})" for s, r in bad]),
    )


def _measurable(step: Step) -> bool:
    kinds = (Kind.WEIGHTED, Kind.DEPTHWISE, Kind.NORM, Kind.ACTIVATION)
    return step.kind in kinds and _samples(step.row) >= 4 and step.row.acv > 0 and np.isfinite(step.row.acsm)


def _samples(row: Any) -> float:
    return float(row.numel) / max(1, int(row.channels))


def _alive(view: View, step: Step) -> bool:
    fed = [view.activations[key] for key in step.fed if key in view.activations]
    return not fed or any(row.dead_fraction < 1 and _samples(row) >= 2 for row in fed)


def _is_weighted(view: View, key: Key) -> bool:
    return any(s.key == key and s.kind in (Kind.WEIGHTED, Kind.DEPTHWISE) for s in view.steps)


def _feeder(view: View, step: Step) -> Step | None:
    """The weighted layer that feeds a step, through norms at most."""
    by_key = {s.key: s for s in view.steps}
    key = step.fed[0] if step.fed else None
    while key is not None and key in by_key:
        fed = by_key[key]
        if fed.kind in (Kind.WEIGHTED, Kind.DEPTHWISE, Kind.NORM):
            return fed
        key = fed.fed[0] if fed.fed else None
    return None


def _cause(view: View, step: Step) -> tuple[Step, str, str]:
    """The leaf to blame for a dead step, why in words, and what to do."""
    weight = view.weights.get((step.name, "weight"))
    if weight is not None and weight.mean_square == 0:
        return step, "its weight is exactly zero", "Initialize it again, `--init he`."
    feeder = _feeder(view, step)
    if step.kind is Kind.ACTIVATION and feeder is not None:
        low, high = number(feeder.row.min), number(feeder.row.max)
        why = f"all that {feeder.name} gives it lies between {low} and {high}, where it is flat"
        return (
            feeder,
            why,
            "Look at the bias and the weights of that layer; a norm before the activation, `--norm batch`.",
        )
    return step, "its output is the same for every sample, though its input is not", "Look at its weight and its eps."
