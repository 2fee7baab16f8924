"""Norms: too little to normalize, too small for eps, and what they do to gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from spp.diagnosis.findings import Finding, count, further, number, some
from spp.diagnosis.registry import rule
from spp.diagnosis.view import Step, View, is_batch_norm, measured
from spp.vocabulary import Severity, Signal


@rule(
    "batch_of_one",
    thresholds={
        "values": (
            8.0,
            "per channel; the variance of so few has a relative spread of 1/2, and gradients grow twice as fast",
        )
    },
    source="Ioffe & Szegedy 2015, arXiv 1502.03167; Yang et al. 2019, arXiv 1902.08129: (B-2)/(B-3) per layer",
    tags=("batch",),
)
def batch_of_one(view: View, at: Any) -> Iterator[Finding]:
    """BatchNorm in training mode on one sample: it normalizes each sample by itself, unlike in evaluation.

    Batch size and values per channel of every BatchNorm that ran in training mode.
    """
    norms = [s for s in view.norms if is_batch_norm(view.facts[s.name]) and view.trained(s.name)]
    single = view.run.get("batch_size") == 1
    bad = norms if single else [s for s in norms if _values(s) < at.values]
    if not bad:
        return
    first = bad[0]
    wanted = f"batches of 2 or more, and at least {at.values:g} values"
    who = f"{first.name} and {count(len(bad) - 1, 'further norm')}"
    yield Finding(
        severity=Severity.ERROR if single else Severity.WARNING,
        **measured(first, Signal.ACTIVATION, "values per channel", _values(first), wanted),
        message=f"BatchNorm trains on batches of one: {who} normalize each sample by itself, unlike in evaluation mode."
        if single
        else f"{who} take their statistics over {number(_values(first))} values per channel: noise as large as the signal.",
        remedy="`--batch-size 32`, a norm that needs no batch, `--norm group`, or `--eval`.",
        evidence=some([f"{s.name} ({number(_values(s))})" for s in bad]),
    )


@rule(
    "norm_input",
    thresholds={
        "times": (0.01, "of eps: there the output has less than a tenth of unit amplitude, instead of all of it")
    },
    source="y = (x - mean) / sqrt(var + eps)",
    tags=("layer",),
    follows=("layer", "bias", "batch"),
)
def norm_input(view: View, at: Any) -> Iterator[Finding]:
    """A norm whose input is so small that eps takes its place.

    Mean square (of LayerNorm and the like) or channel variance (of BatchNorm) of the input against eps.
    """
    bad = []
    for step in view.norms:
        fact, sources = view.facts[step.name], view.sources(step.key)
        running = is_batch_norm(fact) and not view.trained(step.name)
        if len(sources) == 1 and not running and sources[0].acv < at.times * fact.eps:
            bad.append((step, sources[0], float(sources[0].acv), float(fact.eps)))
    if not bad:
        return
    step, source, size, eps = bad[0]
    yield Finding(
        severity=Severity.ERROR,
        **measured(source, Signal.ACTIVATION, "acv", size, f"above {at.times:g} eps = {number(at.times * eps)}"),
        message=f"{source.name} gives {step.name} a channel variance of {number(size)}, far below its eps of {eps:g}: the "
        f"norm no longer normalizes{further(len(bad) - 1, 'norm')}.",
        remedy="Larger weights before it, `--init he`, or a smaller eps.",
        evidence=some([f"{s.name} ({number(v)} against {e:g})" for s, _, v, e in bad]),
    )


@rule(
    "norm_gradient",
    thresholds={"factor": (1.1, "a tenth in the squared gradient, per norm; below there is nothing to tell")},
    source="Yang et al. 2019, arXiv 1902.08129, Theorem 8: pi/(pi-1) = 1.467 for BatchNorm before ReLU; Dewyse 2025",
    follows=("layer", "channels", "batch"),
)
def norm_gradient(view: View, at: Any) -> Iterator[Finding]:
    """By how much the norms rescale the gradients that come back through them.

    Mean square of the gradient before a norm over that behind it, where nothing else takes the norm's input.
    """
    found = [(step, view.backward_decades(step, total=False)) for step in view.norms]
    found = [(step, decades) for step, decades in found if np.isfinite(decades)]
    mean = float(np.mean([decades for _, decades in found])) if found else 0.0
    if abs(mean) < np.log10(at.factor):
        return
    low, high = min(found, key=lambda p: p[1]), max(found, key=lambda p: p[1])
    verb = "enlarge" if mean > 0 else "shrink"
    yield Finding(
        severity=Severity.NOTE,
        **measured(None, Signal.GRADIENT, "squared gradient before / behind", 10**mean, f"within {at.factor:g} of 1"),
        message=f"The norms rescale gradients: {len(found)} of them {verb} the squared gradient "
        f"{number(10 ** abs(mean))}-fold on average, {number(10 ** low[1])} at {low[0].name} to {number(10 ** high[1])} at "
        f"{high[0].name}.",
        evidence=some([f"{step.name} ({number(10**decades)})" for step, decades in found]),
    )


def _values(step: Step) -> float:
    """Values per channel in one batch."""
    # numel counts every batch that was measured; the shape is that of one.
    sides = [int(side) for side in str(step.row.shape).split("x") if side]
    return float(np.prod(sides)) / max(1, int(step.row.channels))
