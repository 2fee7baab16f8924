"""Several runs in one figure: a line per run, seeds as a band, and where the lines diverge, by which factor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from spp.errors import InputError
from spp.frame.schema import Column
from spp.plot.captions import by_depth, listed
from spp.plot.divergence import difference
from spp.plot.kinds import Drawing, Request, figure
from spp.plot.panels import (
    RANGE,
    Curve,
    Panel,
    Shade,
    title,
)
from spp.plot.runs import Arm, Beside, arms_of, labels_of, shared
from spp.plot.series import (
    Aligned,
    align,
    as_signals,
    as_statistics,
    at_step,
    innermost,
    layer_curves,
    over_runs,
    series,
    why_missing,
    zeros_of,
)
from spp.vocabulary import Signal


@figure("compare")
def compare(request: Request) -> Drawing:
    """This run beside others: a line per run, seeds as a band, and where the lines diverge.

    Takes ``others``, ``signals`` and ``statistics`` (activations and gradients, ACSM and ACV when left out) and ``step``.
    """
    mine, others = Beside(request.frame, request.run), request.others
    runs: Any = [mine, *others]
    if isinstance(others, Mapping):
        runs = {str(request.run.get("model") or "this run"): mine} | dict(others)
    if len(runs) < 2:
        raise InputError(
            "a comparison needs another run",
            received="none",
            where="others",
            remedy="Pass others={label: trace}, or call spp.plot.compare.",
        )
    return comparison(arms_of(runs), request.signals, request.statistics, request.step)


def comparison(
    arms: Sequence[Arm],
    signals: Sequence[str] | str | None = None,
    statistics: Sequence[str] | str | None = None,
    step: int | None = None,
) -> Drawing:
    """Draw for each signal a row of curves and, under it, a row of differences.

    A line is the median over the runs of its label, its band their range. The panel below divides every line by the first
    (or, for a statistic that may be negative, subtracts it) and says from which layer on they differ by more than a factor
    of two, and by how much at most; see ``divergence``.

    Args:
        arms: The runs; the first label is what the others are compared with.
        signals: Activations and gradients when left out.
        statistics: ACSM and ACV when left out.
        step: Step to draw; each run's last one when left out.

    Raises:
        InputError: No runs, more labels than can be told apart, or runs of one label with different layers.
        UnknownNameError: A signal or statistic that does not exist.
    """
    rows, columns = as_signals(signals), as_statistics(statistics, [arm.frame for arm in arms])
    labels = labels_of(arms)
    at = [at_step(arm.frame, step) for arm in arms]
    leaves = [innermost(one, "a comparison", arm.label) for (one, _), arm in zip(at, arms, strict=True)]
    axis = align(leaves)
    grid: list[tuple[Panel, ...]] = []
    for signal in rows:
        top = []
        for statistic in columns:
            curves = tuple(_curve(label, i, arms, leaves, axis, signal, statistic) for i, label in enumerate(labels))
            reason = "" if any(len(curve.x) for curve in curves) else why_missing(at[0][0], signal)
            top.append(layer_curves(curves, signal, statistic, axis.x_axis, title=title(statistic), message=reason))
        grid.append(tuple(top))
        if len(labels) > 1:
            grid.append(tuple(difference(panel, axis) for panel in top))
    facts = shared(arms)
    says = f"{listed(labels)} compared, {by_depth(facts, tuple(grid))}"
    return Drawing(tuple(grid), max(shown for _, shown in at), says, facts)


def _curve(
    label: str,
    index: int,
    arms: Sequence[Arm],
    leaves: Sequence[pd.DataFrame],
    axis: Aligned,
    signal: Signal,
    statistic: Column,
) -> Curve:
    """The median of the runs of one label at each of their layers, with their range."""
    members = [i for i, arm in enumerate(arms) if arm.label == label]
    places = axis.places[members[0]]
    if any(set(axis.places[i]) != set(places) for i in members):
        raise InputError(
            "runs of one label need the same layers", received="different ones", where=label, remedy="Label them apart."
        )
    found = [series(leaves[i], signal, statistic, axis, axis.places[i]) for i in members]
    x = np.unique(np.concatenate([one.curve.x for one in found]))
    at = [np.searchsorted(x, one.curve.x) for one in found]
    y, low, high = over_runs(x, at, [one.curve.y for one in found])
    mean_square, _, _ = over_runs(x, at, [one.rows[Column.MEAN_SQUARE].to_numpy(dtype=np.float64) for one in found])
    bad = np.zeros(len(x), dtype=np.bool_)
    for one, place in zip(found, at, strict=True):
        bad[place] |= one.curve.nonfinite
    zero = zeros_of(statistic, y, mean_square)
    low = np.where(zeros_of(statistic, low, mean_square), y, low)
    # what is rounding has no range either
    shade = Shade(np.where(zero, np.nan, low), np.where(zero, np.nan, high), RANGE)
    key_at = {place: key for key, place in places.items()}
    return Curve(
        label,
        x,
        y,
        bad | ~np.isfinite(y),
        zero,
        shades=(shade,) if len(members) > 1 else (),
        look=index,
        names=tuple(axis.label(key_at[place], place) for place in x),
    )
