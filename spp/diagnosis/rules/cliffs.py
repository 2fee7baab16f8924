"""One layer that changes the signal far more than its neighbours do, and departures from what theory predicts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from spp.diagnosis.findings import Finding
from spp.diagnosis.kinds import Kind
from spp.diagnosis.registry import rule
from spp.diagnosis.rules.weights import weight_gain
from spp.diagnosis.view import Step, View
from spp.diagnosis.words import factor, number, some
from spp.frame.schema import Column
from spp.vocabulary import Severity, Signal

PREDICTED = ("acsm_predicted", "acv_predicted")
"""Columns of the frame that hold what theory predicts, where it was asked for."""


@rule(
    "cliff",
    "one layer that changes the second moment far more than its neighbours do",
    thresholds={
        "decades": (
            1.5,
            "beyond the median gain of its kind: a factor 5.6 in amplitude; common inits (He, LeCun, fan-out, 1x1 against 3x3) "
            "differ by less within a network",
        ),
        "error": (4.0, "a factor 100 in amplitude: neither side of it can be trained at the other's rate"),
        "spreads": (6.0, "and six times the median deviation of its kind, so that uneven networks are not all cliffs"),
    },
    source="robust outliers: median and median absolute deviation",
)
def cliff(view: View, at: Any) -> Iterator[Finding]:
    """The step whose gain departs most from the median of its kind, unless the norm behind it makes good for it."""
    found = []
    for kind in (Kind.WEIGHTED, Kind.DEPTHWISE, Kind.ACTIVATION, Kind.OTHER, Kind.GATE):
        steps = [s for s in view.steps if s.kind is kind and np.isfinite(s.decades) and not _is_bias(view, s)]
        gains = np.array([s.decades for s in steps])
        for i, step in enumerate(steps):
            others = np.delete(gains, i)
            usual = float(np.median(others)) if len(others) >= 2 else 0.0
            spread = float(np.median(np.abs(others - usual))) if len(others) >= 2 else 0.3
            off = float(gains[i]) - usual
            if abs(off) >= max(at.decades, at.spreads * spread) and _lasts(view, step, off):
                found.append((step, off, usual))
    found += _first_layer(view, at) + _norm_levels(view, at)
    if not found:
        return
    step, off, usual = max(found, key=lambda one: abs(one[1]))
    gain = weight_gain(view, step.name)
    peers = [
        g for s in view.steps if s.kind is step.kind and s is not step and np.isfinite(g := weight_gain(view, s.name))
    ]
    blamed = ""
    if np.isfinite(gain) and peers and abs(np.log10(gain / np.median(peers)) - off) < 0.7:
        blamed = f" Its weights do it: fan_in x mean square is {number(gain)} there and "
        f"{number(float(np.median(peers)))} in the others."
    verb = "multiplies" if off > 0 else "divides"
    consequences = (
        "gradient_cliff",
        "residual_growth",
        "exploding",
        "exploding_gradient",
        "vanishing",
        "vanishing_gradient",
        "gradient_imbalance",
        "mean_shift",
        "norm_gradient",
        "off_theory",
        "saturation",
    )
    yield Finding(
        severity=Severity.ERROR if abs(off) >= at.error else Severity.WARNING,
        name=step.name,
        depth=step.depth,
        signal=Signal.ACTIVATION,
        statistic="mean_square out / in",
        value=10**step.decades if np.isfinite(step.decades) else 10**off,
        expected=f"near {number(10**usual)}, as in the others of its kind",
        message=f"{step.name} {verb} the second moment {factor(off)} more than the other layers of its kind do.{blamed}",
        remedy="Initialize it as the others: `--init he` for ReLU-like activations, `--init lecun` for SELU, tanh or none."
        if blamed
        else "Look at what this layer does to its input.",
        evidence=f"gain {number(10 ** (usual + off))} against {number(10**usual)}",
        explains=consequences,
    )


def _norm_levels(view: View, at: Any) -> list[tuple[Step, float, float]]:
    """Norms whose output is far from that of the other norms: what they give out does not depend on what they take."""
    norms = [s for s in view.steps if s.kind is Kind.NORM and s.mean_square > 0 and np.isfinite(s.mean_square)]
    levels = np.array([np.log10(s.mean_square) for s in norms])
    found = []
    for i, step in enumerate(norms):
        others = np.delete(levels, i)
        if len(others) < 2 or view.in_branch(
            step.name
        ):  # a scale at the end of a branch is the residual rules' business
            continue
        usual = float(np.median(others))
        off, spread = float(levels[i]) - usual, float(np.median(np.abs(others - usual)))
        if abs(off) >= max(at.decades, at.spreads * spread):
            found.append((step, off, usual))
    return found


def _is_bias(view: View, step: Step) -> bool:
    """Whether most of what a layer gives out is its bias: its gain then says nothing of what it does to the signal."""
    bias = view.weights.get((step.name, "bias"))
    return bias is not None and float(bias.mean_square) > 0.5 * step.mean_square


def _lasts(view: View, step: Step, off: float) -> bool:
    """Whether what the step does is still there behind it: no norm takes its output, and the readout may have any scale."""
    if step.name == view.readout:
        return abs(off) >= 3.0  # a readout init of 0.01 (Brock et al. 2021) is one and a half decades below the rest
    behind = view.takers(step.key)
    if behind and all(other.kind is Kind.NORM for other in behind):
        return False
    if view.in_branch(step.name):  # the rules of residual branches say what comes of it
        block = str(step.row.block)
        ends = [s for s in view.steps if s.row.block == block and s.depth > step.depth and s.kind is Kind.NORM]
        return not ends
    return True


def _first_layer(view: View, at: Any) -> list[tuple[Step, float, float]]:
    """The first layer's gain is not known, since the batch is not measured; its weights are compared instead."""
    weighted = [s for s in view.steps if s.kind is Kind.WEIGHTED]
    if len(weighted) < 3 or np.isfinite(weighted[0].decades):
        return []
    gains = [weight_gain(view, s.name) for s in weighted]
    others = np.log10([g for g in gains[1:] if np.isfinite(g) and g > 0])
    if not np.isfinite(gains[0]) or gains[0] <= 0 or len(others) < 2:
        return []
    usual = float(np.median(others))
    off = float(np.log10(gains[0])) - usual
    spread = float(np.median(np.abs(others - usual)))
    if abs(off) >= max(at.decades, at.spreads * spread) and _lasts(view, weighted[0], off):
        return [(weighted[0], off, usual)]
    return []


@rule(
    "off_theory",
    "a layer from which on the second moment departs from what theory predicts",
    thresholds={
        "decades": (0.6, "a factor 4; at init, theory and measurement agree within 15 % in networks it covers"),
    },
    source="prediction by spp.theory, where the frame holds it",
)
def off_theory(view: View, at: Any) -> Iterator[Finding]:
    """The first step whose departure from the prediction exceeds that of what fed it by ``decades``."""
    if not set(PREDICTED) <= set(view.frame.columns):
        return
    gap: dict[Any, float] = {}
    for key, row in view.activations.items():
        predicted = float(getattr(row, PREDICTED[0])) + float(getattr(row, PREDICTED[1]))
        if predicted > 0 and row.mean_square > 0 and np.isfinite(predicted) and np.isfinite(row.mean_square):
            gap[key] = float(np.log10(row.mean_square / predicted))
    bad = []
    for step in view.steps:
        before = [gap[key] for key in step.fed if key in gap]
        if step.key in gap and abs(gap[step.key]) >= at.decades:
            came = min((abs(gap[step.key] - b) for b in before), default=abs(gap[step.key]))
            if came >= at.decades:
                bad.append(step)
    if bad:
        first = bad[0]
        yield Finding(
            severity=Severity.WARNING,
            name=first.name,
            depth=first.depth,
            signal=Signal.ACTIVATION,
            statistic=str(Column.MEAN_SQUARE),
            value=float(first.mean_square),
            expected=f"{number(first.mean_square / 10 ** gap[first.key])}, as predicted from the weights",
            message=f"At {first.name} the second moment parts from theory: {number(first.mean_square)} instead of "
            f"{number(first.mean_square / 10 ** gap[first.key])}.",
            remedy="Look at this layer's input: correlated channels, a bias, or a function that theory does not see.",
            evidence=some([f"{s.name} ({factor(gap[s.key])})" for s in bad]),
        )
