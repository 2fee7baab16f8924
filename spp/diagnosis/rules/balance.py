"""Gradients beside their weights: would one learning rate serve all layers?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from spp.diagnosis.findings import Finding
from spp.diagnosis.kinds import Kind
from spp.diagnosis.registry import rule
from spp.diagnosis.view import View
from spp.diagnosis.words import number, some
from spp.vocabulary import Severity, Signal


def relative_gradients(view: View) -> dict[str, float]:
    """log10 of rms(gradient) / rms(weight) of each weighted layer on the signal's way, where both are positive."""
    found = {}
    for step in view.steps:
        if step.kind not in (Kind.WEIGHTED, Kind.DEPTHWISE):
            continue
        weight = view.weights.get((step.name, "weight"))
        gradient = view.weight_gradients.get((step.name, "weight"))
        if weight is not None and gradient is not None and weight.rms > 0 and 0 < gradient.rms < np.inf:
            found[step.name] = float(np.log10(gradient.rms / weight.rms))
    return found


@rule(
    "gradient_imbalance",
    "layers whose relative gradient is far from that of the others",
    thresholds={
        "decades": (
            3.0,
            "from the median: what one learning rate moves by a percent, it moves elsewhere by a thousandfold",
        )
    },
    source="You et al. 2017, arXiv 1708.03888 (layer-wise ratios of gradient and weight norm)",
)
def gradient_imbalance(view: View, at: Any) -> Iterator[Finding]:
    """Rms of gradient over rms of weight, against the median layer."""
    ratios = relative_gradients(view)
    if len(ratios) < 3:
        return
    usual = float(np.median(list(ratios.values())))
    off = {name: value - usual for name, value in ratios.items() if abs(value - usual) >= at.decades}
    if not off:
        return
    name = max(off, key=lambda n: abs(off[n]))
    verb = "larger" if off[name] > 0 else "smaller"
    yield Finding(
        severity=Severity.WARNING,
        name=name,
        depth=next((s.depth for s in view.steps if s.name == name), None),
        signal=Signal.WEIGHT_GRADIENT,
        statistic="gradient rms / weight rms",
        value=float(10 ** ratios[name]),
        expected=f"within {at.decades:g} decades of {number(10**usual)}",
        message=f"Relative to its weight, the gradient of {name} is {number(10 ** abs(off[name]))} times {verb} "
        f"than in the median "
        "layer: no one learning rate serves both.",
        remedy="An optimizer that scales each layer (Adam, LARS), or the same init as in the other layers.",
        evidence=some([f"{n} ({number(10 ** ratios[n])})" for n in off]),
    )
