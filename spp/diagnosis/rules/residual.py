"""Residual blocks and gates: branches beside their skips, sums that double, squeeze-and-excitation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from spp.diagnosis.accounts import FOLD, dying, forward
from spp.diagnosis.findings import Finding
from spp.diagnosis.joints import Joint, born_as_skips, joints
from spp.diagnosis.kinds import Kind
from spp.diagnosis.registry import rule
from spp.diagnosis.view import View
from spp.diagnosis.words import count, factor, number, some
from spp.vocabulary import Severity, Signal


@rule(
    "branch_dominates",
    "a residual branch that drowns its skip, unlike those of the other blocks",
    thresholds={
        "decades": (1.0, "the skip is less than a tenth of the variance: the block is no longer near the identity"),
        "beyond": (1.0, "and the other blocks' branches are at least ten times smaller beside their skips"),
    },
    source="De & Smith 2020, arXiv 2002.10444",
)
def branch_dominates(view: View, at: Any) -> Iterator[Finding]:
    """Branch variance over skip variance, against the median block."""
    yield from _outlier(view, at.decades, at.beyond, +1)


@rule(
    "branch_vanishes",
    "a residual branch that is nothing beside its skip",
    thresholds={
        "decades": (
            3.0,
            "the branch is less than 3 % of the amplitude, and so is what the block can learn in its first steps",
        ),
        "beyond": (2.0, "and the other blocks' branches are at least a hundred times larger beside their skips"),
    },
    source="De & Smith 2020, arXiv 2002.10444; on purpose in Fixup, SkipInit, ReZero, LayerScale and zero-gamma",
)
def branch_vanishes(view: View, at: Any) -> Iterator[Finding]:
    """One block unlike the others is a warning; all of them alike is a design, and told as such."""
    found = joints(view)
    small = born_as_skips(found, at.decades)
    if small:
        zero = all(np.isneginf(joint.decades) for joint in small)
        if not zero and dying(view):
            return  # the branches die with everything else
        yield Finding(
            severity=Severity.NOTE,
            name="",
            signal=Signal.ACTIVATION,
            statistic="branch acv / skip acv",
            value=float(10 ** np.median([joint.decades for joint in small])),
            expected=f"above {10**-at.decades:g}",
            message=f"{len(small)} of {len(found)} residual branches are "
            f"{'exactly zero' if zero else 'next to nothing'} beside "
            "their skips: the network starts as its skips alone, as Fixup, SkipInit, LayerScale and zero-gamma mean it to.",
            evidence=some([joint.block for joint in small]),
            explains=("blocked_gradient", "gradient_imbalance", "number_format:note"),
        )
        return
    yield from _outlier(view, -at.decades, at.beyond, -1)


def _outlier(view: View, limit: float, beyond: float, sign: int) -> Iterator[Finding]:
    outliers: list[tuple[float, Joint, float]] = []
    found = joints(view)
    for group in {joint.group for joint in found}:
        peers = [joint for joint in found if joint.group == group]
        if len(peers) < 3:
            continue
        worst = max(peers, key=lambda joint: sign * joint.decades)
        usual = float(np.median([joint.decades for joint in peers if joint is not worst]))
        if sign * (worst.decades - limit) >= 0 and sign * (worst.decades - usual) >= beyond:
            outliers.append((sign * (worst.decades - usual), worst, usual))
    if not outliers:
        return
    _, worst, usual = max(outliers, key=lambda one: one[0])
    verb = "drowns" if sign > 0 else "is nothing beside"
    yield Finding(
        severity=Severity.WARNING,
        name=worst.branch,
        depth=worst.depth,
        signal=Signal.ACTIVATION,
        statistic="branch acv / skip acv",
        value=float(10**worst.decades),
        expected=f"near {number(10**usual)}, as in the other blocks",
        message=f"The residual branch that ends at {worst.branch} {verb} its skip: {number(10**worst.decades)} "
        f"times its variance, "
        f"where the other blocks have {number(10**usual)}.",
        remedy="Look at the weights of that branch; scale it as the others are.",
        evidence=some([f"{joint.block} ({number(10**joint.decades)})" for joint in found]),
        explains=(
            "exploding",
            "exploding_gradient",
            "mean_shift",
            "branch_vanishes",
            "cliff",
            "gradient_cliff",
            "gradient_imbalance",
        )
        if sign > 0
        else (),
    )


@rule(
    "residual_growth",
    "residual sums that multiply the second moment at every block, for want of a scale or a norm",
    thresholds={
        "factor": (
            1.5,
            "per block; with a unit branch behind a norm the growth is (l+1)/l, below this after two blocks",
        ),
        "decades": (2.6, "6 e-folds, the depth to which Schoenholz et al. 2017 could train"),
    },
    source="De & Smith 2020, arXiv 2002.10444: x + f(x) without norm doubles, 2^L",
)
def residual_growth(view: View, at: Any) -> Iterator[Finding]:
    """Geometric growth of the second moment from block to block, over at least ``decades`` in all."""
    found = [joint for joint in joints(view) if joint.decades > -1]
    rise = forward(view).rise
    travel = forward(view).up
    if travel is None or len(found) < 4 or rise < at.decades:
        return
    inside = [name for name in travel.components if name in {joint.block for joint in found}]
    if len(inside) < 4 or rise / len(inside) < np.log10(at.factor):
        return
    yield Finding(
        severity=Severity.ERROR if rise >= 2 * at.decades else Severity.WARNING,
        name="",
        signal=Signal.ACTIVATION,
        statistic="mean_square per block",
        value=float(10 ** (rise / len(inside))),
        expected=f"below {at.factor:g}",
        message=f"Every residual block multiplies the second moment, {number(10 ** (rise / len(inside)))}-fold on "
        f"average: it grows "
        f"{factor(rise)} over {len(inside)} blocks, since nothing scales the branches down.",
        remedy="`--norm batch`, `--residual skipinit` (branches that start at zero), or a normalizer-free network, "
        "`--model nf_resnet50`.",
        evidence=some(inside),
        explains=("exploding", "exploding_gradient", "gradient_imbalance", "mean_shift"),
    )


@rule(
    "se_gates",
    "squeeze-and-excitation gates that shrink the second moment",
    thresholds={
        "factor": (
            0.7,
            "a gate that starts at 1/2 quarters the second moment; one that starts above 0.84 keeps 0.7 of it",
        ),
        "share": (0.25, "of the fall of the whole network, from which on the gates are a cause of it"),
    },
    source="Hu et al. 2018, arXiv 1709.01507: x sigmoid(0) = x/2; Brock et al. 2021 double it; Dewyse 2025",
)
def se_gates(view: View, at: Any) -> Iterator[Finding]:
    """What the gates take in all, beside what the network loses."""
    gates = [s for s in view.steps if s.kind is Kind.GATE and np.isfinite(s.decades)]
    if not gates:
        return
    each = float(np.median([s.decades for s in gates]))
    if each > np.log10(at.factor):
        return
    fall = forward(view).fall
    on_stream = [s for s in gates if not view.in_branch(s.name)] or gates
    taken = -sum(s.decades for s in on_stream)
    travel = view.limits["vanishing"]
    severity = dying(view)
    cause = severity is not None and taken >= min(at.share * fall, travel.efolds * FOLD)
    severity = severity if cause and severity is not None else Severity.NOTE
    first = gates[0]
    said = (
        f" The {len(on_stream)} that no skip bypasses take {factor(taken)} of the {factor(fall)} that the signal loses."
        if cause
        else " Norms and skips make good for it here."
        if fall < 1
        else f" That is {factor(taken)} in all; with everything else the signal loses {factor(fall)}."
    )
    yield Finding(
        severity=severity,
        name=first.name,
        depth=first.depth,
        signal=Signal.ACTIVATION,
        statistic="mean_square out / in",
        value=10**each,
        expected=f"above {at.factor:g}",
        message=f"{count(len(gates), 'squeeze-and-excitation gate')} shrink the second moment {factor(each)} each "
        f"(their sigmoid "
        f"starts at 1/2), {first.name} first.{said}",
        remedy="`--se doubled` scales them by two, as Brock et al. 2021 do." if cause else "",
        evidence=some([f"{s.name} ({number(10**s.decades)})" for s in gates]),
    )
