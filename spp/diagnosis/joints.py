"""Residual merges as the rules see them: how large the branch is beside its skip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spp.diagnosis.kinds import Kind
from spp.diagnosis.view import Key, View, records


@dataclass(frozen=True, slots=True)
class Joint:
    """A residual merge: the variance of the branch over that of the skip, in decades, and the branch's last leaf."""

    block: str
    branch: str
    depth: int | None
    decades: float
    group: tuple[int, bool]
    """Which merge of its block it is, and whether the skip is projected: attention is no measure for feed-forward."""


def joints(view: View) -> list[Joint]:
    """The merges whose branch and skip were both measured, in order; a branch of exact zeros has minus infinity."""
    found = []
    before: dict[tuple[str, int], float] = {}
    for row in records(view.blocks):
        named = view.activations.get(Key(row.skip, int(row.call))) if isinstance(row.skip, str) else None
        skip = float(named.acv) if named is not None else before.get((row.block, row.call), float("nan"))
        before[row.block, row.call] = float(row.acv)
        if not skip > 0 or not np.isfinite(row.branch_acv):
            continue
        share = float(np.log10(row.branch_acv / skip)) if row.branch_acv > 0 else -np.inf
        name, depth = _end(view, str(row.branch), int(row.call))
        found.append(Joint(str(row.block), name, depth, share, (int(row.merge), bool(row.transition))))
    return found


def _end(view: View, branch: str, call: int) -> tuple[str, int | None]:
    """The leaf that sets the branch's scale: its last weighted layer or norm, through dropout and the like."""
    step = next((s for s in view.steps if s.key == Key(branch, call)), None)
    if step is None:
        inside = [s for s in view.steps if s.name.startswith(f"{branch}.")]
        step = inside[-1] if inside else None
    if step is None:
        row = view.activations.get(Key(branch, call))
        return branch, None if row is None else int(row.depth)
    blamed = view.feeder(step) if step.kind is Kind.PLAIN else step
    return (blamed or step).name, (blamed or step).depth


def born_as_skips(found: list[Joint], decades: float) -> list[Joint]:
    """The branches that are less than ``10^-decades`` of their skips, where they are the most: a design, not an accident.

    Fixup, SkipInit, ReZero, LayerScale and zero-gamma begin so.
    """
    small = [joint for joint in found if joint.decades <= -decades]
    return small if len(small) > len(found) / 2 else []
