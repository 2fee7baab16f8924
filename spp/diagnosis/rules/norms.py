"""Norms: too little to normalize, too small for eps, and what they do to gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from spp.diagnosis.findings import Finding
from spp.diagnosis.kinds import Kind, is_batch_norm
from spp.diagnosis.registry import rule
from spp.diagnosis.view import Step, View
from spp.diagnosis.words import count, number, some
from spp.vocabulary import Severity, Signal


def _norms(view: View) -> list[Step]:
    return [step for step in view.steps if step.kind is Kind.NORM]


@rule(
    "batch_of_one",
    "BatchNorm in training mode on one sample: it normalizes each sample by itself, unlike in evaluation",
    thresholds={
        "values": (
            8.0,
            "values per channel and batch; the variance of so few has a relative spread of sqrt(2/8) = 1/2, and the gradient's "
            "growth per layer doubles (Yang et al. 2019)",
        )
    },
    source="Ioffe & Szegedy 2015, arXiv 1502.03167; Yang et al. 2019, arXiv 1902.08129: (B-2)/(B-3) per layer",
)
def batch_of_one(view: View, at: Any) -> Iterator[Finding]:
    """Batch size and values per channel of every BatchNorm that ran in training mode."""
    norms = [s for s in _norms(view) if is_batch_norm(view.facts[s.name]) and view.trained(s.name)]
    if not norms:
        return
    single = view.run.get("batch_size") == 1
    few = [s for s in norms if _values(s) < at.values]
    if not single and not few:
        return
    first = norms[0] if single else few[0]
    what = (
        f"BatchNorm runs in training mode on batches of one sample: {first.name} and {count(len(norms) - 1, 'further norm')} "
        "normalize each sample by itself, which evaluation mode will not do"
        if single
        else f"{first.name} and {count(len(few) - 1, 'further norm')} take their statistics over "
        f"{number(_values(first))} values "
        "per channel: noise of the same size as the signal"
    )
    yield Finding(
        severity=Severity.ERROR if single else Severity.WARNING,
        name=first.name,
        depth=first.depth,
        signal=Signal.ACTIVATION,
        statistic="values per channel",
        value=_values(first),
        expected=f"batches of 2 or more, and at least {at.values:g} values",
        message=f"{what}.",
        remedy="`--batch-size 32`, a norm that needs no batch, `--norm group`, or `--eval`.",
        evidence=some([f"{s.name} ({number(_values(s))})" for s in (norms if single else few)]),
        explains=("exploding_gradient", "norm_input", "norm_gradient"),
    )


@rule(
    "norm_input",
    "a norm whose input is so small that eps takes its place",
    thresholds={
        "times": (0.01, "of eps: there the output has less than a tenth of unit amplitude, instead of all of it")
    },
    source="y = (x - mean) / sqrt(var + eps)",
)
def norm_input(view: View, at: Any) -> Iterator[Finding]:
    """Mean square (of LayerNorm and the like) or channel variance (of BatchNorm) of the input against eps."""
    bad = []
    for step in _norms(view):
        eps = view.facts[step.name].eps
        fed = [view.activations[key] for key in step.fed if key in view.activations]
        if eps is None or eps != eps or len(fed) != 1:
            continue
        if is_batch_norm(view.facts[step.name]) and not view.trained(step.name):
            continue
        size = float(fed[0].acv)
        if size < at.times * eps and np.isfinite(size):
            bad.append((step, fed[0], size, float(eps)))
    if not bad:
        return
    step, fed_row, size, eps = bad[0]
    yield Finding(
        severity=Severity.ERROR,
        name=str(fed_row.name),
        depth=int(fed_row.depth),
        signal=Signal.ACTIVATION,
        statistic="acv",
        value=size,
        expected=f"above {at.times:g} eps = {number(at.times * eps)}",
        message=f"{fed_row.name} gives {step.name} a channel variance of {number(size)}, far below its eps of "
        f"{eps:g}: the norm "
        "no longer normalizes" + (f"; so it is in {count(len(bad) - 1, 'further norm')}" if len(bad) > 1 else "") + ".",
        remedy="Larger weights before it, `--init he`, or a smaller eps.",
        evidence=some([f"{s.name} ({number(v)} against {e:g})" for s, _, v, e in bad]),
        explains=(
            "cliff",
            "gradient_cliff",
            "exploding",
            "exploding_gradient",
            "gradient_imbalance",
            "norm_gradient",
            "vanishing",
            "vanishing_gradient",
        ),
    )


@rule(
    "norm_gradient",
    "by how much the norms rescale the gradients that come back through them",
    thresholds={"factor": (1.1, "a tenth in the squared gradient, per norm; below there is nothing to tell")},
    source="Yang et al. 2019, arXiv 1902.08129, Theorem 8: pi/(pi-1) = 1.467 for BatchNorm before ReLU; Dewyse 2025",
)
def norm_gradient(view: View, at: Any) -> Iterator[Finding]:
    """Mean square of the gradient before a norm over that behind it, where nothing else takes the norm's input."""
    found = []
    for step in _norms(view):
        own = view.gradients.get(step.key)
        if own is None or len(step.fed) != 1 or len(view.takers(step.fed[0])) != 1:
            continue
        fed = view.gradients.get(step.fed[0])
        if fed is not None and fed.mean_square > 0 and own.mean_square > 0:
            found.append((step, float(np.log10(fed.mean_square / own.mean_square))))
    if not found:
        return
    mean = float(np.mean([decades for _, decades in found]))
    if abs(mean) < np.log10(at.factor):
        return
    low, high = min(found, key=lambda p: p[1]), max(found, key=lambda p: p[1])
    verb = "enlarge" if mean > 0 else "shrink"
    yield Finding(
        severity=Severity.NOTE,
        name="",
        signal=Signal.GRADIENT,
        statistic="squared gradient before / behind",
        value=10**mean,
        expected=f"within {at.factor:g} of 1",
        message=f"The norms rescale gradients: {len(found)} of them {verb} the squared gradient "
        f"{number(10 ** abs(mean))}-fold on "
        f"average, {number(10 ** low[1])} at {low[0].name} to {number(10 ** high[1])} at {high[0].name}.",
        remedy="",
        evidence=some([f"{step.name} ({number(10**decades)})" for step, decades in found]),
    )


def _values(step: Step) -> float:
    """Values per channel in one batch."""
    sides = [int(side) for side in str(step.row.shape).split("x") if side]
    return float(np.prod(sides)) / max(1, int(step.row.channels))
