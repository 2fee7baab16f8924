"""What the weights themselves tell: inits that ignore groups, biases that outweigh everything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from spp.diagnosis.accounts import dying
from spp.diagnosis.findings import Finding
from spp.diagnosis.kinds import Kind
from spp.diagnosis.registry import rule
from spp.diagnosis.view import Step, View
from spp.diagnosis.words import factor, number, percent, some
from spp.vocabulary import Severity, Signal


def weight_gain(view: View, name: str) -> float:
    """``fan_in`` times the mean square of the weight: what it makes of unit noise, second moment in to second moment out."""
    row, fact = view.weights.get((name, "weight")), view.facts.get(name)
    if row is None or fact is None or fact.fan_in is None or fact.fan_in != fact.fan_in:
        return float("nan")
    return float(fact.fan_in) * float(row.mean_square)


@rule(
    "groups_init",
    "grouped or depthwise convolutions whose init counted all channels instead of those of one group",
    thresholds={
        "groups": (8.0, "below, the fault is smaller than the spread between common inits (He to LeCun to fan-out)"),
        "share": (0.5, "most grouped layers show it; one alone is a cliff"),
    },
    source="He et al. 2015, arXiv 1502.01852: variance 2/fan, fan = k C / groups; Dewyse 2025",
)
def groups_init(view: View, at: Any) -> Iterator[Finding]:
    """Variance ``2 / (k C_out)`` where ``2 / (k C_out / groups)`` was meant scales the second moment by ``1 / groups``.

    torch's own ``fan_out`` does this, and torchvision's EfficientNet and MobileNet with it, where the norm behind every
    convolution makes good for it; without norms the signal dies.
    """
    grouped = [s for s in view.steps if _groups(view, s) >= at.groups]
    blind = [s for s in grouped if 0.2 <= weight_gain(view, s.name) * _groups(view, s) <= 5.0]
    if not blind or len(blind) < at.share * len(grouped):
        return
    stream = [s for s in blind if not view.in_branch(s.name)] or blind
    lost = sum(float(np.log10(_groups(view, s) / 2)) for s in stream)
    unhealed = [s for s in blind if not _normed(view, s)]
    severity = dying(view) or Severity.WARNING if unhealed else Severity.NOTE
    kind = "depthwise convolutions" if all(s.kind is Kind.DEPTHWISE for s in blind) else "grouped convolutions"
    first = blind[0]
    healed = "" if unhealed else " The norm behind each makes good for it; without norms it would kill the signal."
    yield Finding(
        severity=severity,
        name=first.name,
        depth=first.depth,
        signal=Signal.WEIGHT,
        statistic="fan_in x mean_square",
        value=weight_gain(view, first.name),
        expected=f"about 1 to 2, as for a group of {view.facts[first.name].fan_in} inputs",
        message=f"The init of {len(blind)} {kind} ignores their groups, {first.name} first: each scales the second moment by "
        f"about 2/groups ({number(2 / _groups(view, first))} there), {factor(lost)} in all "
        f"over the {len(stream)} that no skip bypasses.{healed}",
        remedy="`--init he` counts the channels of one group (in Python, spp.nn.initialize_(model, 'he'))."
        if unhealed
        else "",
        evidence=some([f"{s.name} ({_groups(view, s)} groups)" for s in blind]),
        explains=("cliff", "branch_vanishes", "gradient_cliff") if unhealed else (),
    )


@rule(
    "bias_outlier",
    "a bias so large that the layer gives out little else",
    thresholds={
        "share": (
            0.9,
            "nine tenths of the second moment do not depend on the input: less than a third of the amplitude does",
        ),
        "times": (100.0, "ten times the amplitude of the other biases: torch's and all published inits differ by less"),
    },
    source="second moment of w x + b = that of w x + b^2",
)
def bias_outlier(view: View, at: Any) -> Iterator[Finding]:
    """Bias squared against the second moment of the output, and against the biases of the other layers."""
    biased = [
        (step, float(view.weights[step.name, "bias"].mean_square))
        for step in view.steps
        if (step.name, "bias") in view.weights and step.kind in (Kind.WEIGHTED, Kind.DEPTHWISE, Kind.NORM)
    ]
    for step, size in biased:
        others = [other for s, other in biased if s is not step]
        usual = float(np.median(others)) if others else 0.0
        share = size / step.mean_square if step.mean_square > 0 else 0.0
        weight = view.weights.get((step.name, "weight"))
        unit = float(weight.mean_square) if weight is not None else 0.0
        if share < at.share or size < at.times * max(usual, unit) or _kills(view, step):
            continue
        largest = view.weights[step.name, "bias"].abs_max
        yield Finding(
            severity=Severity.ERROR,
            name=step.name,
            depth=step.depth,
            signal=Signal.WEIGHT,
            statistic="bias mean_square / output mean_square",
            value=share,
            expected=f"at most {at.share:g}",
            message=f"The bias of {step.name} outweighs its input: it makes up {percent(min(share, 1.0))} of the second moment "
            f"of what comes out (largest magnitude {number(largest)}), so all samples look alike behind it.",
            remedy="Set it to zero: torch.nn.init.zeros_(layer.bias); every init of `spp list inits` but default does.",
            evidence=f"{step.name}.bias mean square {number(size)}, median of the other layers {number(usual)}",
            explains=(
                "cliff",
                "mean_shift",
                "dead_layer",
                "dead_channels",
                "saturation",
                "exploding",
                "vanishing_gradient",
                "gradient_imbalance",
                "exploding_gradient",
                "norm_input",
            ),
        )
        return


def _groups(view: View, step: Step) -> int:
    fact = view.facts.get(step.name)
    if (
        step.kind not in (Kind.WEIGHTED, Kind.DEPTHWISE)
        or fact is None
        or fact.groups is None
        or fact.groups != fact.groups
    ):
        return 1
    return int(fact.groups)


def _normed(view: View, step: Step) -> bool:
    """Whether a norm takes what the step gives out."""
    return any(taker.kind is Kind.NORM for taker in view.takers(step.key))


def _kills(view: View, step: Step) -> bool:
    """Whether most of what an activation makes of the step is dead: the rules of dead layers and channels tell more."""
    return any(taker.kind is Kind.ACTIVATION and taker.row.dead_fraction >= 0.5 for taker in view.takers(step.key))
