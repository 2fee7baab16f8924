"""Residual blocks and gates: branches beside their skips, sums that double, squeeze-and-excitation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from spp.diagnosis.attenuation import dying, forward
from spp.diagnosis.findings import (
    Finding,
    arrow,
    count,
    number,
    power,
    powered,
    some,
    times,
)
from spp.diagnosis.registry import rule
from spp.diagnosis.remedies import advice, norm_for, remedy
from spp.diagnosis.view import PEERS, BranchRatio, Key, Kind, Step, View, measured, ratio
from spp.frame.schema import BlockColumn
from spp.vocabulary import Severity, Signal


@rule(
    "branch_dominates",
    thresholds={
        "decades": (1.0, "the skip is less than a tenth of the variance: the block is no longer near the identity"),
        "beyond": (1.0, "and the other blocks' branches are at least ten times smaller beside their skips"),
    },
    source="De & Smith 2020, arXiv 2002.10444",
    tags=("branch", "growth"),
)
def branch_dominates(view: View, at: Any) -> Iterator[Finding]:
    """A residual branch that drowns its skip, unlike those of the other blocks.

    Branch variance over skip variance, against the median block.
    """
    yield from _outlier(view, at.decades, at.beyond, +1)


@rule(
    "branch_vanishes",
    thresholds={
        "decades": (3.0, "the branch is less than 3 % of the amplitude, and so is what the block can learn at first"),
        "beyond": (
            3.0,
            "and the other blocks' are a thousand times larger beside their skips; attention over T tokens alone takes 1/T",
        ),
    },
    source="De & Smith 2020, arXiv 2002.10444; on purpose in Fixup, SkipInit, ReZero, LayerScale and zero-gamma",
    tags=("identity",),
    follows=("dead", "groups", "branch"),
)
def branch_vanishes(view: View, at: Any) -> Iterator[Finding]:
    """A residual branch that is nothing beside its skip.

    One block unlike the others is a warning; all of them alike is a design, and told as such.
    """
    small = view.born_as_skips(at.decades)
    if not small:
        yield from _outlier(view, -at.decades, at.beyond, -1)
        return
    zero = all(np.isneginf(branch.decades) for branch in small)
    # Branches may also die with everything else.
    if not zero and dying(view):
        return
    share = power(np.median([branch.decades for branch in small]))
    yield Finding(
        severity=Severity.NOTE,
        **measured(None, Signal.ACTIVATION, "branch acv / skip acv", share, f"above {10**-at.decades:g}"),
        message=f"{len(small)} of {len(view.branch_ratios)} residual branches begin at {'zero' if zero else 'next to nothing'}"
        ": the network starts as its skips alone, as in Fixup, SkipInit, LayerScale and zero-gamma.",
        evidence=some([branch.block for branch in small]),
    )


def _outlier(view: View, limit: float, beyond: float, sign: int) -> Iterator[Finding]:
    outliers: list[tuple[float, BranchRatio, float]] = []
    # A branch whose last layer is zero opens with the first step.
    ratios = [branch for branch in view.branch_ratios if not view.has_zero_weight(branch.name)]
    for group in {branch.group for branch in ratios}:
        peers = sorted((b for b in ratios if b.group == group), key=lambda b: -sign * b.decades)
        usual = float(np.median([b.decades for b in peers[1:]])) if len(peers) > PEERS else np.nan
        off = sign * (peers[0].decades - usual)
        if off >= beyond and sign * (peers[0].decades - limit) >= 0:
            outliers.append((off, peers[0], usual))
    if not outliers:
        return
    _, worst, usual = max(outliers, key=lambda one: one[0])
    # the skips behind a branch that drowns its own are swollen by it
    ahead = [b.decades for b in ratios if b.group == worst.group and (b.depth or 0) < (worst.depth or 0)]
    level = float(np.median(ahead)) if sign > 0 and ahead else usual
    share, near, row = power(worst.decades), powered(usual), view.activations.get(Key(worst.name))
    yield Finding(
        severity=Severity.WARNING,
        **measured(worst, Signal.ACTIVATION, "branch acv / skip acv", share, f"near {near}, as in the other blocks"),
        message=f"The residual branch that ends at {worst.name} ({'' if row is None else row.type}) "
        f"{'drowns' if sign > 0 else 'is nothing beside'} its skip: {number(share)} times its variance; in its peers {near}.",
        remedies=(
            remedy("gain", power((level - worst.decades) / 2), where=worst.name, why="Scale it as the others are"),
        )
        if (worst.name, "weight") in view.weights and np.isfinite(worst.decades)
        else (advice("Look at the weights of that branch; scale it as the others are."),),
        evidence=some([f"{branch.block} ({powered(branch.decades)})" for branch in view.branch_ratios]),
        # One branch that is too small breaks nothing behind it.
        tags=None if sign > 0 else (),
    )


@rule(
    "residual_growth",
    thresholds={
        "factor": (
            1.5,
            "per block; with a unit branch behind a norm the growth is (l+1)/l, below this after two blocks",
        ),
        "decades": (2.6, "6 e-folds, the depth to which Schoenholz et al. 2017 could train"),
    },
    source="De & Smith 2020, arXiv 2002.10444: x + f(x) without norm doubles, 2^L",
    tags=("growth",),
)
def residual_growth(view: View, at: Any) -> Iterator[Finding]:
    """Residual sums that multiply the second moment at every block, for want of a scale or a norm.

    Geometric growth of the second moment from block to block, over at least ``decades`` in all.
    """
    found = max(_growths(view), key=lambda growth: growth.decades, default=None)
    if found is None or not found.decades >= at.decades or len(found.inside) < PEERS:
        return
    inside, each = found.inside, found.decades / len(found.inside)
    if each < np.log10(at.factor):
        return
    yield Finding(
        severity=Severity.ERROR if found.decades >= 2 * at.decades else Severity.WARNING,
        **measured(None, Signal.ACTIVATION, "mean_square per block", power(each), f"below {at.factor:g}")
        | {"depth": found.depth},
        since=found.since,
        until=found.until,
        message=f"Residual sums grow: mean square {arrow(*found.values)} ({times(each)} per merge "
        f"on average over {len(inside)} merges); nothing scales the branches down.",
        remedies=(
            remedy("residual", "skipinit", why="Branches that start at zero"),
            remedy("branches", why="Branches that are scaled down"),
            remedy("norm", norm_for(view)),
            remedy("model", "nf_resnet50", why="A network that needs no norm"),
        ),
        evidence=some(list(dict.fromkeys(branch.block or branch.name for branch in inside))),
    )


class _Growth(NamedTuple):
    """How far residual sums grow, the first and the last one's mean square, where, and the branches that grow them."""

    decades: float
    values: tuple[float, float]
    since: str
    until: str
    depth: int | None
    inside: list[BranchRatio]


def _growths(view: View) -> Iterator[_Growth]:
    """Of the signal along its ways; and of sums that one module makes one after the other, which no module gives out."""
    large = [branch for branch in view.branch_ratios if branch.decades > -1]
    leg = forward(view).up
    if leg is not None:
        first, last = (int(view.activations[key].depth) for key in (leg.keys[0], leg.keys[-1]))
        inside = [branch for branch in large if branch.depth is not None and first < branch.depth <= last]
        depth = int(view.activations[leg.begins].depth)
        yield _Growth(leg.decades, (leg.values[0], leg.values[-1]), leg.begins.name, leg.places[-1], depth, inside)
    for block, rows in view.blocks[view.blocks[BlockColumn.CALL] == 0].groupby(BlockColumn.BLOCK):
        inside = [branch for branch in large if branch.block == block and branch.merge > rows[BlockColumn.MERGE].min()]
        sums = (rows[BlockColumn.ACSM] + rows[BlockColumn.ACV]).to_numpy(dtype=np.float64)
        if len(inside) >= PEERS and 0 < sums[0] < np.inf and 0 < sums[-1] < np.inf:
            values = float(sums[0]), float(sums[-1])
            yield _Growth(ratio(*values[::-1]), values, inside[0].name, inside[-1].name, inside[0].depth, inside)


@rule(
    "se_gates",
    thresholds={
        "factor": (
            0.7,
            "a gate that starts at 1/2 quarters the second moment; one that starts above 0.84 keeps 0.7 of it",
        ),
        "share": (0.25, "of the fall of the whole network, from which on the gates are a cause of it"),
        "decades": (
            2.6,
            "or as much as this by themselves, 6 e-folds: the depth to which Schoenholz et al. 2017 could train",
        ),
    },
    source="Hu et al. 2018, arXiv 1709.01507: x sigmoid(0) = x/2; Brock et al. 2021 double it; Dewyse 2025",
)
def se_gates(view: View, at: Any) -> Iterator[Finding]:
    """Squeeze-and-excitation gates that shrink the second moment.

    What the gates take in all, beside what the network loses.
    """
    gates = [s for s in view.steps if s.kind is Kind.GATE and np.isfinite(s.decades)]
    each = float(np.median([s.decades for s in gates])) if gates else 0.0
    if not gates or each > np.log10(at.factor):
        return
    severity, said = _toll(view, at, gates)
    half = ", as their sigmoid starts at 1/2" if abs(each + np.log10(4)) < 0.1 else ""
    yield Finding(
        severity=severity or Severity.NOTE,
        **measured(gates[0], Signal.ACTIVATION, "mean_square out / in", power(each), f"above {at.factor:g}"),
        message=f"{count(len(gates), 'gate')} ({gates[0].row.type}) take {times(each)} of the mean square each"
        f"{half}{said}.",
        remedies=(remedy("se", "doubled", why="Scale them by two, as Brock et al. 2021 do"),) if severity else (),
        evidence=some([f"{s.name} ({powered(s.decades)})" for s in gates]),
    )


def _toll(view: View, at: Any, gates: list[Step]) -> tuple[Severity | None, str]:
    """How bad it is what the gates take, None where they are no cause, and what they take beside what the network loses."""
    fall = forward(view).fall
    on_stream = [s.decades for s in gates if not view.in_branch(s.name)] or [s.decades for s in gates]
    taken = -sum(on_stream)
    severity = dying(view) if taken >= min(at.share * fall, at.decades) else None
    if severity is not None:
        return severity, f": {times(-taken)} of the {times(-fall)} that the signal loses on its way"
    return None, "; norms and skips make good for it" if fall < 1 else f", {times(-taken)} in all"
