"""The whole network: signals that die or explode on their way, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from spp.diagnosis.accounts import Leg, Share, account, backward, distinct, dying, forward, judge
from spp.diagnosis.findings import Finding
from spp.diagnosis.kinds import Kind
from spp.diagnosis.registry import rule
from spp.diagnosis.rules.weights import weight_gain
from spp.diagnosis.view import View
from spp.diagnosis.words import count, factor, number, quoted
from spp.frame.schema import Column
from spp.vocabulary import Severity, Signal

STEEP = {
    "efolds": (
        6.0,
        "e-folds of the second moment over the network; Schoenholz et al. 2017 could train to a depth of 6 of them",
    ),
    "rate": (
        0.25,
        "decades per weighted layer, a factor 1.8: just below the 2 that forgetting ReLU's gain costs; slower has other causes",
    ),
    "layers": (3.0, "weighted layers that make a rate; what one or two do is a cliff"),
}
FORWARD = STEEP | {
    "warning": (
        4.8,
        "decades at any rate: the square of bfloat16's precision 2^-8, so that the two ends share no digit",
    ),
    "error": (6.6, "decades at any rate: the square of float16's precision 2^-11"),
}
BACKWARD = STEEP | {
    "warning": (
        6.6,
        "decades at any rate: the square of float16's precision 2^-11; a ResNet-50 with BatchNorm has 5",
    ),
    "error": (8.3, "decades at any rate: (pi/(pi-1))^50, where Yang et al. 2019 found networks untrainable"),
}
RANGES = {
    "float16": (2.0**-24, 65504.0),
    "bfloat16": (2.0**-133, 3.39e38),
    "float32": (2.0**-149, 3.4e38),
}
"""Smallest and largest positive number of each format."""
AFTER_BACK = ("gradient_imbalance", "number_format:note")
AFTER_FALL = ("vanishing_gradient", "mean_shift", *AFTER_BACK)
AFTER_RISE = ("exploding_gradient", "mean_shift", "gradient_imbalance")
"""What follows from each course of the signal."""


@dataclass(frozen=True, slots=True)
class Course:
    """One way for a signal to go wrong, in words and numbers."""

    what: str
    noun: str
    signal: Signal
    column: Column
    totals: bool = False

    def path(self, view: View) -> pd.DataFrame:
        """The places along the network."""
        return view.back if self.signal is Signal.GRADIENT else view.stream

    def values(self, view: View) -> pd.Series:
        """What is followed, by place."""
        path = self.path(view)
        return path[self.column] * path[Column.NUMEL] if self.totals else path[self.column]


DIES = Course("The signal dies", "mean square", Signal.ACTIVATION, Column.MEAN_SQUARE)
ALIKE = Course(
    "The samples come to look alike", "channel variance (ACV, the mean stays)", Signal.ACTIVATION, Column.ACV
)
EXPLODES = Course("The signal explodes", "mean square", Signal.ACTIVATION, Column.MEAN_SQUARE)
DIES_BACK = Course("Gradients die on their way back", "squared norm", Signal.GRADIENT, Column.MEAN_SQUARE, True)
EXPLODES_BACK = Course("Gradients explode on their way back", "squared norm", Signal.GRADIENT, Column.MEAN_SQUARE, True)
MOST = 4
"""Places that are named as the steepest."""


@rule(
    "vanishing",
    "activations that die on their way through the network",
    thresholds=FORWARD,
    source="Schoenholz et al. 2017, arXiv 1611.01232; Yang et al. 2019, arXiv 1902.08129",
)
def vanishing(view: View, at: Any) -> Iterator[Finding]:
    """The deepest fall along the network, its rate, who takes it, and what is left of the formats.

    Of the mean square, or of the channel variance where that falls a decade deeper: then the mean survives, on biases or the
    activation's own mean, and all samples come to look alike.
    """
    leg, alike = forward(view).down, distinct(view).down
    if alike is not None and (leg is None or alike.decades < leg.decades - 1):
        severity = judge(alike, at)
        if severity is not None:
            yield _finding(view, alike, severity, ALIKE, [], _remedy(view, alike), AFTER_FALL)
        return
    severity = dying(view)
    if severity is not None and leg is not None:
        yield _finding(view, leg, severity, DIES, account(view, leg), _remedy(view, leg), AFTER_FALL)


@rule(
    "exploding",
    "activations that grow without bound through the network",
    thresholds=FORWARD,
    source="Schoenholz et al. 2017, arXiv 1611.01232; Yang et al. 2019, arXiv 1902.08129",
)
def exploding(view: View, at: Any) -> Iterator[Finding]:
    """The highest rise of the mean square along the network."""
    leg = forward(view).up
    severity = judge(leg, at)
    if severity is not None and leg is not None:
        yield _finding(view, leg, severity, EXPLODES, account(view, leg)[::-1], _remedy(view, leg), AFTER_RISE)


@rule(
    "vanishing_gradient",
    "gradients that die on their way back",
    thresholds=BACKWARD,
    source="Schoenholz et al. 2017, arXiv 1611.01232; Glorot & Bengio 2010",
)
def vanishing_gradient(view: View, at: Any) -> Iterator[Finding]:
    """The deepest fall of the gradient's squared norm, from the readout to the input."""
    leg = backward(view).down
    severity = judge(leg, at)
    if severity is not None and leg is not None:
        yield _finding(view, leg, severity, DIES_BACK, [], _back_remedy(view, leg), AFTER_BACK)


@rule(
    "exploding_gradient",
    "gradients that grow without bound on their way back",
    thresholds=BACKWARD,
    source="Yang et al. 2019, arXiv 1902.08129, Theorem 8: 1.467 per layer for BatchNorm before ReLU",
)
def exploding_gradient(view: View, at: Any) -> Iterator[Finding]:
    """The highest rise of the gradient's squared norm, from the readout to the input."""
    leg = backward(view).up
    severity = judge(leg, at)
    if severity is not None and leg is not None:
        yield _finding(view, leg, severity, EXPLODES_BACK, [], _back_remedy(view, leg), AFTER_BACK)


def _finding(
    view: View,
    leg: Leg,
    severity: Severity,
    course: Course,
    shares: list[Share],
    remedy: str,
    explains: tuple[str, ...],
) -> Finding:
    verb = "falls" if leg.decades < 0 else "grows"
    parts = [s for s in shares if abs(s.decades) >= 0.1]
    who = ""
    if parts:
        taken = ", ".join(f"{s.kind} ({s.steps}) {s.decades:+.1f}" for s in parts)
        who = f" Who takes and who gives, in decades: {taken}." + _gains(view)
    whole = len(leg.components) >= len(course.path(view)) / 2
    name, depth = ("", None) if whole else _begins(view, leg)
    values = course.values(view)
    return Finding(
        severity=severity,
        name=name,
        depth=depth,
        signal=course.signal,
        statistic="decades per layer",
        value=leg.decades / leg.layers,
        expected="fewer than 6 e-folds (2.6 decades) in all, or slower than a factor 1.8 per layer",
        message=f"{course.what}: the {course.noun} {verb} {factor(leg.decades)} from {quoted(leg.start)} ({number(leg.first)}) "
        f"to {quoted(leg.end)} ({number(leg.last)}), {number(10**leg.rate)}-fold per layer over {count(leg.layers, 'layer')}."
        + _steepest(values, leg)
        + who
        + _too(view, course, leg)
        + _left(course.path(view), leg),
        remedy=remedy,
        evidence=", ".join(_stations(values, leg)),
        explains=explains,
    )


def _too(view: View, course: Course, leg: Leg) -> str:
    """Whether the gradients go the same way, which is then no finding of its own."""
    other = backward(view).down if leg.decades < 0 else backward(view).up
    if course.signal is Signal.GRADIENT or other is None or judge(other, view.limits["vanishing_gradient"]) is None:
        return ""
    verb = "fall" if leg.decades < 0 else "grow"
    return f" Gradients {verb} with it on their way back, {factor(other.decades)} in squared norm."


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


def _steepest(values: pd.Series, leg: Leg) -> str:
    """The places where most of it happens, where they stand out."""
    logs = np.log10(values[[leg.start, *leg.components]].to_numpy(dtype=np.float64))
    steps = np.diff(logs) * np.sign(leg.decades)
    order = [int(i) for i in np.argsort(-steps)[:MOST] if steps[i] > 1.5 * abs(leg.decades) / len(steps)]
    if not order or len(steps) <= MOST:
        return ""
    return " Most of it at " + ", ".join(f"{quoted(leg.components[i])} ({factor(steps[i])})" for i in order) + "."


def _stations(values: pd.Series, leg: Leg) -> list[str]:
    names = (leg.start, *leg.components)
    step = max(1, len(names) // 8)
    return [f"{quoted(name)} {number(float(values[name]))}" for name in names[::step]]


def _begins(view: View, leg: Leg) -> tuple[str, int | None]:
    """The first leaf on the way, in the direction of travel."""
    inside = [s for s in view.steps if any(s.name == c or s.name.startswith(f"{c}.") for c in leg.components[:1])]
    return (inside[0].name, inside[0].depth) if inside else ("", None)


def _left(path: pd.DataFrame, leg: Leg) -> str:
    """How many more layers at this rate each number format lasts."""
    row: Any = path.loc[leg.end]
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
