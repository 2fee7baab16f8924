"""The whole network: signals that die or explode on their way, forward and backward, or need several rates or formats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from spp.diagnosis.attenuation import Leg, attenuation, backward, distinct, forward, judge
from spp.diagnosis.findings import (
    Finding,
    arrow,
    count,
    further,
    number,
    percent,
    power,
    powered,
    quoted,
    some,
    times,
)
from spp.diagnosis.registry import rule
from spp.diagnosis.remedies import Remedy, activation_for, advice, init_for, norm_for, remedy
from spp.diagnosis.view import PEERS, Key, Kind, Step, View, measured, ratio, records
from spp.frame.precision import lost_shares
from spp.stats.extra import FORMATS
from spp.vocabulary import Severity, Signal

LAYERS = {"layers": (3.0, "weighted layers that make a course; what one or two do is a cliff")}
FORWARD = LAYERS | {
    "warning": (
        4.3,
        "10 e-folds: plain ReLU, tanh and sigmoid networks that lose 5 decades stay at ln C for 300 steps of SGD",
    ),
    "error": (
        6.6,
        "the square of float16's precision 2^-11, so that the two ends share no digit; SGD no longer learns at all",
    ),
}
FALLING = FORWARD | {"warning": (4.8, "the same networks, whose gradients lose as much as their activations")}
RISING = LAYERS | {
    "warning": (6.6, "the square of float16's precision 2^-11; a ResNet-50 with BatchNorm has 5"),
    "error": (
        8.3,
        "(pi/(pi-1))^50, where Yang et al. 2019 found networks without skips untrainable; with skips a warning",
    ),
}
# Share of a course of many places that one of them does: it is no course then.
SUDDEN = 0.9
BEARABLE = "fewer than {:g} decades in all"
# Largest number of each format.
LARGEST = {"float16": 65504.0, "bfloat16": 3.3895e38, "fp8-e4m3": 448.0, "fp8-e5m2": 57344.0}
# Models that have a normalizer-free twin.
WITH_NF_TWIN = ("resnet50", "resnetv2_50")


@rule(
    "vanishing",
    thresholds=FORWARD,
    source="Schoenholz et al. 2017, arXiv 1611.01232; Yang et al. 2019, arXiv 1902.08129",
    tags=("fall",),
    follows=("layer",),
)
def vanishing(view: View, at: Any) -> Iterator[Finding]:
    """Activations that die on their way through the network.

    The deepest fall along the ways through the network, its rate, and who takes it.

    Of the mean square, or of the channel variance where that falls a decade deeper: then the mean survives, on biases or the
    activation's own mean, and all samples come to look alike.
    """
    leg, alike = forward(view).down, distinct(view).down
    if alike is not None and (leg is None or alike.decades < leg.decades - 1):
        yield from _course(view, alike, at, "Samples come to look alike (their mean stays): ACV")
    else:
        yield from _course(view, leg, at, "The signal dies: mean square")


@rule(
    "exploding",
    thresholds=FORWARD,
    source="Schoenholz et al. 2017, arXiv 1611.01232; Yang et al. 2019, arXiv 1902.08129",
    tags=("rise",),
    follows=("layer", "bias", "growth"),
)
def exploding(view: View, at: Any) -> Iterator[Finding]:
    """Activations that grow without bound through the network.

    The highest rise of the mean square along the network.
    """
    yield from _course(view, forward(view).up, at, "The signal explodes: mean square")


@rule(
    "vanishing_gradient",
    thresholds=FALLING,
    source="Schoenholz et al. 2017, arXiv 1611.01232; Glorot & Bengio 2010",
    tags=("fall",),
    follows=("layer", "bias", "mean", "channels", "derivative", "fall"),
)
def vanishing_gradient(view: View, at: Any) -> Iterator[Finding]:
    """Gradients that die on their way back.

    The deepest fall of the gradient's squared norm, from the readout to the input.
    """
    yield from _course(view, backward(view).down, at, "Gradients die on their way back: squared norm", back=True)


@rule(
    "exploding_gradient",
    thresholds=RISING,
    source="Yang et al. 2019, arXiv 1902.08129, Theorem 8: 1.467 per layer for BatchNorm before ReLU",
    tags=("rise", "gradient"),
    follows=("layer", "bias", "channels", "batch", "growth", "derivative", "rise"),
)
def exploding_gradient(view: View, at: Any) -> Iterator[Finding]:
    """Gradients that grow without bound on their way back.

    The highest rise of the gradient's squared norm, from the readout to the input.
    """
    yield from _course(view, backward(view).up, at, "Gradients explode on their way back: squared norm", back=True)


def _course(view: View, leg: Leg | None, at: Any, what: str, *, back: bool = False) -> Iterator[Finding]:
    """The finding about a course of the signal, where it is bad."""
    severity = judge(leg, at)
    if leg is None or severity is None:
        return
    if back and leg.decades > 0 and not view.merged.isdisjoint(leg.places):
        severity = Severity.WARNING
        # Past skips a course takes several blocks: a norm of tokens that begin at zero multiplies theirs at once.
        if len(leg.logs) > PEERS and np.diff(leg.logs).max() > SUDDEN * leg.decades:
            return
    other = None if back else backward(view).down if leg.decades < 0 else backward(view).up
    with_it = judge(other, view.limits["vanishing_gradient" if leg.decades < 0 else "exploding_gradient"])
    severity = Severity.ERROR if with_it is Severity.ERROR else severity
    first = next(iter(view.inside(leg.begins.name)), None)
    where = measured(
        None if leg.share >= 0.5 else first,
        Signal.GRADIENT if back else Signal.ACTIVATION,
        "decades per layer",
        leg.decades / leg.layers,
        BEARABLE.format(at.warning),
    )
    each = times(leg.decades / leg.layers)
    told = [f"{quoted(name)} ({number(value)})" for name, value in zip(leg.places, leg.values, strict=True)]
    account = [", ".join(told[:: max(1, len(told) // 8)])]
    account += [f"pooling and the like take {times(leg.explained)}"] if abs(leg.explained) > 0.1 else []
    account += [] if back else _shares(view, leg)
    if with_it is not None and other is not None:
        account.append(f"gradients go with it on their way back, {times(other.decades)} in squared norm")
    yield Finding(
        severity=severity,
        **where | {"depth": int(view.activations[leg.begins].depth)},
        since=leg.begins.name,
        until=leg.places[-1],
        message=f"{what} {arrow(leg.values[0], leg.values[-1])} ({each} per layer over {count(leg.layers, 'layer')}).",
        remedies=_backward_remedies(view, leg) if back else _remedies(view, leg),
        evidence="; ".join(account),
    )


def _shares(view: View, leg: Leg) -> Iterator[str]:
    """Which kinds of steps take and give how much, and what the weights are set to beside what the activations take."""
    shares = attenuation(view, leg) if leg.decades < 0 else attenuation(view, leg)[::-1]
    parts = [f"{s.kind} ({s.steps}) {s.decades:+.1f}" for s in shares if abs(s.decades) >= 0.1]
    if parts:
        yield f"decades by kind of layer: {', '.join(parts)}"
    known = {kind: view.weight_gains(kind) for kind in (Kind.WEIGHTED, Kind.DEPTHWISE)}
    words = [f"{number(float(np.median(gains)))} in the median {kind}" for kind, gains in known.items() if gains]
    taken = _activation_gains(view)
    if words and taken:
        yield f"weights' gain (fan_in x mean square) {', '.join(words)}; each activation {times(float(np.median(taken)))}"


def _activation_gains(view: View) -> list[float]:
    """Decades of the gain of each activation, where known."""
    return [s.decades for s in view.steps if s.kind is Kind.ACTIVATION and np.isfinite(s.decades)]


def _remedies(view: View, leg: Leg) -> tuple[Remedy, ...]:
    """An init where the weights' gain is off what the activations take, branches that are scaled where they add up, a norm."""
    init = _init(view, leg)
    found = [remedy("init", init)] if init is not None and view.run.get("init") != init else []
    found += (
        [remedy("branches", why="Scale the residual branches down")] if leg.decades > 0 and view.branch_ratios else []
    )
    if not view.norms or view.run.get("norm") in ("none", "dyt", "affine"):
        found.append(remedy("norm", norm_for(view)))
    model = str(view.run.get("model", ""))
    without = "effnet_b0_nf" if model == "effnet_b0" else "nf_resnet50" if model.startswith(WITH_NF_TWIN) else None
    found += [remedy("model", without, why="A network that needs no norm")] if without is not None else []
    return (*found, remedy("calibrate", why="Scale the weights by what the activations take"))


def _init(view: View, leg: Leg) -> str | None:
    """The init whose gain makes good for what the activations take, where the weights' gain is off that the leg's way."""
    taken = _activation_gains(view)
    gains = [gain for gain in view.weight_gains(Kind.WEIGHTED) if gain > 0]
    if not taken or not gains:
        return None
    needed = -float(np.median(taken))
    off = needed - float(np.median(np.log10(gains)))
    if np.sign(off) != -np.sign(leg.decades) or abs(off) < 0.1:
        return None
    # ReLU halves the second moment, which He's init makes good for; what keeps it needs LeCun's.
    return "he" if abs(needed - np.log10(2)) < 0.12 else "lecun" if abs(needed) < 0.06 else init_for(view)


def _backward_remedies(view: View, leg: Leg) -> tuple[Remedy, ...]:
    """The same for a course of the gradients."""
    known = _remedies(view, leg)
    if leg.decades > 0 and view.norms and view.blocks.empty:
        fewer = advice(
            "Norms in a deep plain network enlarge gradients at every layer: fewer layers, skips, or no norms"
        )
        return (fewer, remedy("norm", "none"), remedy("init", init_for(view)), *known)
    if leg.decades < 0 and any(view.activation(s.name) in ("sigmoid", "tanh", "softsign") for s in view.steps):
        return (activation_for(view, "relu", "An activation that does not saturate, with an init of he"), *known)
    # a norm behind each sum halves the skip's gradient where the branch is as large (Liu et al. 2020, arXiv 2004.08249)
    post = (
        [remedy("branches", why="Scale the residual branches down")] if leg.decades < 0 and view.branch_ratios else []
    )
    alone = leg.decades < 0 and not post and judge(forward(view).down, view.limits["vanishing"]) is None
    # what falls on its way back alone falls by a derivative that no weight makes good for
    look = (
        (advice("The signal itself keeps its size: look at the backward of what lies between the weights"),)
        if alone
        else ()
    )
    return (*post, *look, *known)


@rule(
    "gradient_imbalance",
    thresholds={
        "decades": (4.0, "from the median, which Adam evens out and SGD does not; branches of many parts reach 3"),
    },
    source="You et al. 2017, arXiv 1708.03888 (layer-wise ratios of gradient and weight norm)",
    follows=("layer", "bias", "channels", "growth", "identity", "derivative", "fall", "rise"),
)
def gradient_imbalance(view: View, at: Any) -> Iterator[Finding]:
    """Layers whose relative gradient is far from that of the others.

    Rms of gradient over rms of weight, against the median layer.
    """
    layers, known = _relative_gradients(view)
    usual = float(np.median([*known.values()])) if len(known) > 2 else np.nan
    off = {name: decades - usual for name, decades in known.items() if abs(decades - usual) >= at.decades}
    # A small readout is an init of some designs, and has a large relative gradient.
    off = {name: away for name, away in off.items() if away < 0 or not view.is_end(layers[name])}
    if not off:
        return
    name = max(off, key=lambda one: abs(off[one]))
    value, near = power(known[name]), f"within {at.decades:g} decades of {powered(usual)}"
    yield Finding(
        # A weight before a norm may have any scale, and a gradient to go with it.
        severity=Severity.NOTE if view.norms else Severity.WARNING,
        **measured(layers[name], Signal.WEIGHT_GRADIENT, "gradient rms / weight rms", value, near),
        message=f"Relative to its weight, the gradient of {name} ({layers[name].row.type}) is {times(off[name])} the median "
        f"of {count(len(known), 'layer')}: no one learning rate serves all.",
        remedies=(advice("An optimizer that scales each layer (Adam, LARS)."), remedy("init", init_for(view))),
        evidence=some([f"{one} ({powered(known[one])})" for one in off]),
    )


def _relative_gradients(view: View) -> tuple[dict[str, Step], dict[str, float]]:
    """The weighted layers, by name, and log10 of rms(gradient) / rms(weight) of those of which both are positive."""
    layers: dict[str, Step] = {}
    for step in (step for step in view.steps if step.is_weighted):
        layers.setdefault(step.name, step)
    own = {name: (view.weights.get((name, "weight")), view.weight_gradients.get((name, "weight"))) for name in layers}
    known = {name: ratio(g.rms, w.rms) for name, (w, g) in own.items() if w is not None and g is not None}
    return layers, {name: decades for name, decades in known.items() if np.isfinite(decades)}


@rule(
    "number_format",
    thresholds={
        "flushed": (0.5, "share of a tensor's values: half of what it says is gone"),
        "headroom": (4.0, "the largest value times this still fits: loss spikes of early training stay below"),
    },
    source="IEEE 754; Micikevicius et al. 2022, arXiv 2209.05433; Micikevicius et al. 2018, arXiv 1710.03740 (loss scaling)",
    follows=("dead", "identity", "fall", "gradient"),
)
def number_format(view: View, at: Any) -> Iterator[Finding]:
    """Values that float16, bfloat16, fp8-e4m3 or fp8-e5m2 would flush to zero or overflow.

    Exact shares where the trace counted powers of two; else by the largest magnitude and the rms.

    The only rule with absolute limits: a format has them. Formats asked about (``precision=``), and those the run used,
    give warnings and errors; of the others float16 alone is told, as a note.
    """
    used = {str(row.dtype) for row in view.activations.values()}
    asked = set(view.precision) | (used & {"float16", "bfloat16"})
    for name in (name for name in FORMATS if name in asked or name == "float16"):
        for signal, rows in ((Signal.ACTIVATION, view.activations), (Signal.GRADIENT, view.gradients)):
            leaves = [row for row in rows.values() if row.leaf and np.isfinite(row.abs_max)]
            for found in (*_overflow(at, name, signal, leaves, name in asked), *_flush(view, at, name, signal, leaves)):
                # What a format in use loses is a trouble of its own, whatever brought it about.
                yield replace(found, follows=()) if name in asked else replace(found, severity=Severity.NOTE)


def _overflow(at: Any, name: str, signal: Signal, rows: list[Any], asked: bool) -> Iterator[Finding]:
    over = [row for row in rows if row.abs_max * (at.headroom if asked else 1.0) > LARGEST[name]]
    if not over:
        return
    worst = max(over, key=lambda row: row.abs_max)
    beyond = worst.abs_max > LARGEST[name]
    yield Finding(
        severity=Severity.ERROR if beyond else Severity.WARNING,
        **measured(worst, signal, "abs_max", worst.abs_max, f"below {number(LARGEST[name] / at.headroom)}"),
        message=f"{name} {'overflows' if beyond else 'is nearly full'}: the {signal} at {worst.name} ({worst.type}) reaches "
        f"{number(worst.abs_max)}, the format ends at {number(LARGEST[name])}{further(len(over) - 1)}.",
        remedy="Use bfloat16, or keep these layers in float32.",
        evidence=some([f"{row.name} ({number(row.abs_max)})" for row in over]),
    )


def _flush(view: View, at: Any, name: str, signal: Signal, rows: list[Any]) -> Iterator[Finding]:
    flushed = _flushed(view, name, signal, rows, at.flushed)
    if not flushed:
        return
    worst, share = max(flushed, key=lambda pair: pair[1])
    yield Finding(
        severity=Severity.WARNING,
        **measured(worst, signal, "flushed", share, f"below {at.flushed:g}"),
        message=f"{name} would flush {percent(share)} or more of the {signal} at {worst.name} ({worst.type}, rms "
        f"{number(worst.rms)}) to zero{further(len(flushed) - 1)}.",
        remedy="Scale the loss by a power of two (torch.amp.GradScaler), or use bfloat16."
        if signal is Signal.GRADIENT
        else "Use bfloat16, or cure what makes the signal so small.",
        evidence=some([f"{row.name} ({percent(s)})" for row, s in flushed]),
    )


def _flushed(view: View, name: str, signal: Signal, rows: list[Any], least: float) -> list[tuple[Any, float]]:
    """Rows of which at least ``least`` is lost, with the share.

    Without a histogram those whose rms is too small for half of a normal distribution to survive.
    """
    if view.exponents.empty:
        # Half of a normal distribution's values lie below 0.67 of its rms.
        limit = 2.0 ** FORMATS[name].flush
        return [(row, 0.5) for row in rows if 0 < 0.67 * row.rms < limit]
    shares = records(lost_shares(view.exponents, name))
    known = {Key(str(s.name), int(s.call)): float(s.flushed) for s in shares if s.signal == signal}
    return [(row, s) for row in rows if (s := known.get(Key(str(row.name), int(row.call)), 0.0)) >= least]
