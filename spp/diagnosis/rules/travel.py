"""The whole network: signals that die or explode on their way, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from spp.diagnosis.accounts import Leg, Share, account, backward, forward, judge
from spp.diagnosis.findings import Finding
from spp.diagnosis.kinds import Kind
from spp.diagnosis.registry import rule
from spp.diagnosis.rules.weights import weight_gain
from spp.diagnosis.view import View
from spp.diagnosis.words import count, factor, number, quoted
from spp.frame.schema import Column, Severity
from spp.signals import Signal

THRESHOLDS = {
    "efolds": (
        6.0,
        "e-folds of the second moment over the network; Schoenholz et al. 2017 could train to a depth of 6 of them",
    ),
    "rate": (
        0.3,
        "decades per weighted layer: a factor 2, what forgetting ReLU's gain costs; slower changes have other causes",
    ),
    "warning": (
        6.6,
        "decades at any rate: the square of float16's precision 2^-11, so the two ends have no digit in common",
    ),
    "error": (8.3, "decades at any rate: (pi/(pi-1))^50, where Yang et al. 2019 found networks untrainable"),
}
RANGES = {
    "float16": (2.0**-24, 65504.0),
    "bfloat16": (2.0**-133, 3.39e38),
    "float32": (2.0**-149, 3.4e38),
}
"""Smallest and largest positive number of each format."""
MOST = 4
"""Places that are named as the steepest."""


@rule(
    "vanishing",
    "activations that die on their way through the network",
    thresholds=THRESHOLDS,
    source="Schoenholz et al. 2017, arXiv 1611.01232; Yang et al. 2019, arXiv 1902.08129",
)
def vanishing(view: View, at: Any) -> Iterator[Finding]:
    """The deepest fall of the mean square along the network, its rate, who takes it, and what is left of the formats."""
    leg = forward(view).down
    severity = judge(leg, at)
    if severity is None or leg is None:
        return
    shares = account(view, leg)
    yield _finding(
        view,
        leg,
        severity,
        Signal.ACTIVATION,
        "The signal dies",
        shares,
        _remedy(view, leg),
        ("vanishing_gradient", "gradient_imbalance", "number_format:info"),
    )


@rule(
    "exploding",
    "activations that grow without bound through the network",
    thresholds=THRESHOLDS,
    source="Schoenholz et al. 2017, arXiv 1611.01232; Yang et al. 2019, arXiv 1902.08129",
)
def exploding(view: View, at: Any) -> Iterator[Finding]:
    """The highest rise of the mean square along the network."""
    leg = forward(view).up
    severity = judge(leg, at)
    if severity is None or leg is None:
        return
    shares = account(view, leg)[::-1]
    yield _finding(
        view,
        leg,
        severity,
        Signal.ACTIVATION,
        "The signal explodes",
        shares,
        _remedy(view, leg),
        ("exploding_gradient", "gradient_imbalance", "mean_shift"),
    )


@rule(
    "vanishing_gradient",
    "gradients that die on their way back",
    thresholds=THRESHOLDS,
    source="Schoenholz et al. 2017, arXiv 1611.01232; Glorot & Bengio 2010",
)
def vanishing_gradient(view: View, at: Any) -> Iterator[Finding]:
    """The deepest fall of the gradient's squared norm, from the readout to the input."""
    leg = backward(view).down
    severity = judge(leg, at)
    if severity is not None and leg is not None:
        yield _finding(
            view,
            leg,
            severity,
            Signal.GRADIENT,
            "Gradients die on their way back",
            [],
            _back_remedy(view, leg),
            ("gradient_imbalance", "number_format:info"),
        )


@rule(
    "exploding_gradient",
    "gradients that grow without bound on their way back",
    thresholds=THRESHOLDS,
    source="Yang et al. 2019, arXiv 1902.08129, Theorem 8: 1.467 per layer for BatchNorm before ReLU",
)
def exploding_gradient(view: View, at: Any) -> Iterator[Finding]:
    """The highest rise of the gradient's squared norm, from the readout to the input."""
    leg = backward(view).up
    severity = judge(leg, at)
    if severity is not None and leg is not None:
        yield _finding(
            view,
            leg,
            severity,
            Signal.GRADIENT,
            "Gradients explode on their way back",
            [],
            _back_remedy(view, leg),
            ("gradient_imbalance", "number_format:info"),
        )


def _finding(
    view: View,
    leg: Leg,
    severity: Severity,
    signal: Signal,
    what: str,
    shares: list[Share],
    remedy: str,
    explains: tuple[str, ...],
) -> Finding:
    back = signal is Signal.GRADIENT
    noun = "squared norm" if back else "mean square"
    course = "falls" if leg.decades < 0 else "grows"
    parts = [s for s in shares if abs(s.decades) >= 0.1]
    who = ""
    if parts:
        taken = ", ".join(f"{s.kind} ({s.steps}) {s.decades:+.1f}" for s in parts)
        who = f" Who takes and who gives, in decades: {taken}."
        who += _gains(view)
    path = view.back if back else view.stream
    whole = len(leg.components) >= len(path) / 2
    name, depth = ("", None) if whole else _begins(view, leg)
    return Finding(
        severity=severity,
        name=name,
        depth=depth,
        signal=signal,
        statistic="decades per layer",
        value=leg.decades / leg.layers,
        expected="fewer than 6 e-folds (2.6 decades) in all, or slower than a factor 2 per layer",
        message=f"{what}: the {noun} {course} {factor(leg.decades)} from {quoted(leg.start)} ({number(leg.first)}) to "
        f"{quoted(leg.end)} ({number(leg.last)}), {number(10**leg.rate)}-fold per layer over {count(leg.layers, 'layer')}."
        + _steepest(path, leg, back)
        + who
        + _left(view, leg, back),
        remedy=remedy,
        evidence=", ".join(_course(path, leg, back)),
        explains=explains,
    )


def _gains(view: View) -> str:
    """What the weights are set to, beside what the activations take."""
    words = []
    for kind in (Kind.WEIGHTED, Kind.DEPTHWISE):
        gains = [g for s in view.steps if s.kind is kind and np.isfinite(g := weight_gain(view, s.name))]
        if gains:
            words.append(f"{number(float(np.median(gains)))} in the median {kind}")
    taken = [s.decades for s in view.steps if s.kind is Kind.ACTIVATION and np.isfinite(s.decades)]
    if not words or not taken:
        return ""
    verb = "take" if float(np.median(taken)) < 0 else "give"
    return (
        f" Weights are set to a gain (fan_in x mean square) of {', '.join(words)}; activations {verb} "
        f"{factor(float(np.median(taken)))} each."
    )


def _steepest(path: Any, leg: Leg, back: bool) -> str:
    """The places where most of it happens, where they stand out."""
    logs = np.log10(_values(path, back)[[leg.start, *leg.components]].to_numpy(dtype=np.float64))
    steps = np.diff(logs) * np.sign(leg.decades)
    order = [int(i) for i in np.argsort(-steps)[:MOST] if steps[i] > abs(leg.decades) / len(steps)]
    if not order or len(steps) <= MOST:
        return ""
    return " Most of it at " + ", ".join(f"{quoted(leg.components[i])} ({factor(steps[i])})" for i in order) + "."


def _values(path: Any, back: bool) -> Any:
    return path[Column.MEAN_SQUARE] * path[Column.NUMEL] if back else path[Column.MEAN_SQUARE]


def _course(path: Any, leg: Leg, back: bool) -> list[str]:
    values = _values(path, back)
    names = (leg.start, *leg.components)
    step = max(1, len(names) // 8)
    return [f"{quoted(name)} {number(float(values[name]))}" for name in names[::step]]


def _begins(view: View, leg: Leg) -> tuple[str, int | None]:
    """The first leaf on the way, in the direction of travel."""
    inside = [s for s in view.steps if any(s.name == c or s.name.startswith(f"{c}.") for c in leg.components[:1])]
    return (inside[0].name, inside[0].depth) if inside else ("", None)


def _left(view: View, leg: Leg, back: bool) -> str:
    """How many more layers at this rate each number format lasts."""
    row: Any = (view.back if back else view.stream).loc[leg.end]
    rms, rate = float(row["rms"]), leg.rate / 2
    rows = {}
    for name, (low, high) in RANGES.items():
        room = np.log10(rms / low) if leg.decades < 0 else np.log10(high / max(float(row["abs_max"]), rms))
        rows[name] = int(room / rate) if room > 0 else 0
    same = rows["bfloat16"] == rows["float32"]
    parts = [f"float16 {'has run out' if not rows['float16'] else 'lasts ' + count(rows['float16'], 'more layer')}"]
    parts += (
        [f"bfloat16 and float32 {rows['float32']}"]
        if same
        else [f"bfloat16 {rows['bfloat16']}", f"float32 {rows['float32']}"]
    )
    return f" At this rate {', '.join(parts)}."


def _remedy(view: View, leg: Leg) -> str:
    """What to type: an init where the weights' gain is off what the activations take, else a norm."""
    parts = []
    taken = [s.decades for s in view.steps if s.kind is Kind.ACTIVATION and np.isfinite(s.decades)]
    gains = [g for s in view.steps if s.kind is Kind.WEIGHTED and np.isfinite(g := weight_gain(view, s.name)) and g > 0]
    if taken and gains:
        needed, have = -float(np.median(taken)), float(np.median(np.log10(gains)))
        off = needed - have
        if np.sign(off) == -np.sign(leg.decades) and abs(off) >= 0.1:
            init = "he" if abs(needed - np.log10(2)) < 0.12 else "lecun" if abs(needed) < 0.06 else None
            if init is not None and view.run.get("init") != init:
                parts.append(f"`--init {init}`")
    has_norm = any(s.kind is Kind.NORM for s in view.steps)
    if not has_norm or view.run.get("norm") in ("none", "dyt", "affine"):
        parts.append("`--norm batch`")
    model = str(view.run.get("model", ""))
    if model == "effnet_b0":
        parts.append("`--model effnet_b0_nf`, which needs no norm")
    elif model.startswith(("resnet50", "resnetv2_50")):
        parts.append("`--model nf_resnet50`, which needs no norm")
    return (
        f"{', or '.join(parts)}."
        if parts
        else "Scale the weights by what the activations take, `--init he`; or a norm."
    )


def _back_remedy(view: View, leg: Leg) -> str:
    norms = [s for s in view.steps if s.kind is Kind.NORM]
    if leg.decades > 0 and norms and view.blocks.empty:
        return (
            "Norms in a deep plain network enlarge gradients at every layer: fewer layers, skips, "
            "or `--norm none --init he`."
        )
    if leg.decades < 0 and any(str(s.type).lower() in ("sigmoid", "tanh", "softsign") for s in _rows(view)):
        return "`--activation relu --init he`, or a norm, `--norm batch`."
    return _remedy(view, leg)


def _rows(view: View) -> list[Any]:
    return [s.row for s in view.steps]
