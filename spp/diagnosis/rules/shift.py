"""Channels that carry little: means that drown the variance, dead channels among living ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from spp.diagnosis.accounts import distinct, judge
from spp.diagnosis.findings import Finding
from spp.diagnosis.kinds import Kind
from spp.diagnosis.registry import rule
from spp.diagnosis.view import Step, View
from spp.diagnosis.words import count, number, percent, some
from spp.frame.schema import Column
from spp.vocabulary import Severity, Signal


@rule(
    "mean_shift",
    "channel means that outweigh the variance, so that all samples look alike",
    thresholds={
        "ratio": (
            30.0,
            "ReLU networks at init reach ACSM/ACV of 2 to 10 as depth grows; at 30 the samples differ by less than "
            "a fifth of the amplitude",
        ),
    },
    source="Brock, De & Smith 2021, arXiv 2101.08692 (mean shift)",
)
def mean_shift(view: View, at: Any) -> Iterator[Finding]:
    """ACSM over ACV at the outputs of weighted layers, norms and activations; the first that exceeds, and where most arises."""
    if judge(distinct(view).down, view.limits["vanishing"]):
        return  # the variance dies, and so the mean is left over
    ratios = [(s, float(s.row.acsm / s.row.acv)) for s in view.steps if _measurable(s)]
    bad = [(step, ratio) for step, ratio in ratios if ratio > at.ratio and step.name != view.readout]
    if not bad or len(bad) < 2:
        return
    first, ratio = bad[0]
    culprit = first if first.is_weighted else view.feeder(first) or first
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
        explains=("dead_channels", "vanishing_gradient"),
    )


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
            (step.kind in (Kind.ACTIVATION, Kind.OTHER) or step.is_weighted)
            and step.row.dead_fraction >= at.share
            and step.row.dead_fraction < 1
            and step.row.dead_fraction > 2 * before
            and step.samples >= at.samples
        ):
            bad.append(step)
    if bad:
        first = bad[0]
        culprit = first if first.is_weighted else view.feeder(first) or first
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
            + (f"; {culprit.name} feeds it." if culprit is not first else "."),
            remedy="A smaller bias or learning rate, or an activation without a dead side: `--activation leaky_relu`.",
            evidence=some([f"{s.name} ({percent(s.row.dead_fraction)})" for s in bad]),
            explains=("vanishing_gradient", "exploding_gradient", "gradient_imbalance", "norm_gradient"),
        )


def _measurable(step: Step) -> bool:
    kinds = (Kind.WEIGHTED, Kind.DEPTHWISE, Kind.NORM, Kind.ACTIVATION)
    return step.kind in kinds and step.samples >= 4 and step.row.acv > 0 and np.isfinite(step.row.acsm)
