"""The Signal Propagation Plot by component: the stream from stem to head, what its branches add, and the gradient.

One point for each component (stem, every block, head), so that nothing but the signal between them is drawn: what norms and
gates do inside a block is for ``layers``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from spp.diagnosis.findings import Finding
from spp.diagnosis.main_path import along, component_table, prefixes
from spp.errors import InputError
from spp.frame.schema import Column, ComponentColumn
from spp.plot.captions import listed
from spp.plot.divergence import difference
from spp.plot.kinds import Drawing, Request, figure
from spp.plot.panels import RANGE, Curve, Curves, FloatArray, Mark, Scale, Shade, scale_of, zeros
from spp.plot.runs import Arm, Beside, arms_of, labels_of, shared
from spp.plot.series import Aligned, Key, at_step, component_axis, over_runs
from spp.vocabulary import Severity, Signal

Members = Sequence[tuple[pd.DataFrame, Mapping[Key, float]]]
"""The runs of one label: the table of each, and where its components stand."""

Groups = Mapping[str, Members]

MOST_ENDS = 5
"""Runs whose names stand at the ends of their lines; more have a legend."""

SOLID, DOTTED, DASHED = "-", ":", "--"


class Line(NamedTuple):
    """A column of the table of components, and how its lines are drawn."""

    column: str
    name: str
    line: str = SOLID


class Row(NamedTuple):
    """A panel: what its y axis says, its lines, and what counts their elements that are not finite."""

    signal: Signal
    ylabel: str
    lines: tuple[Line, ...]
    nonfinite: str
    title: str = ""


STREAM = Row(
    Signal.ACTIVATION,
    "activations\nACV, ACSM",
    (
        Line(ComponentColumn.ACV, "ACV"),
        Line(ComponentColumn.ACSM, "ACSM", DOTTED),
        Line(Column.ACV_PREDICTED, "theory", DASHED),
        Line(Column.ACSM_PREDICTED, "theory", DASHED),
    ),
    ComponentColumn.NONFINITE,
    "at the end of each component: ACV (solid) and ACSM (dotted), average channel variance and squared mean",
)
BRANCHES = Row(Signal.ACTIVATION, "branches\nACV", (Line(ComponentColumn.BRANCH_ACV, "ACV"),), "")
WEIGHTS = Row(Signal.WEIGHT, "weights\nmean square", (Line(ComponentColumn.WEIGHT_MEAN_SQUARE, "mean square"),), "")
GRADIENT = Row(
    Signal.GRADIENT,
    "gradients\nmean square",
    (
        Line(ComponentColumn.GRADIENT_MEAN_SQUARE, "mean square"),
        Line(Column.GRADIENT_PREDICTED, "theory", DASHED),
    ),
    "gradient_nonfinite",
)


@figure("components")
def components(request: Request) -> Drawing:
    """The stream by component: ACV and ACSM, residual branches (or weights), and the gradient; several runs in colours.

    Takes ``others`` and ``step``.
    """
    mine = Beside(request.frame, request.run, request.blocks, request.findings)
    if isinstance(request.others, Mapping):
        return by_component(
            arms_of({str(request.run.get("model") or "this run"): mine} | dict(request.others)), request.step
        )
    return by_component(arms_of([mine, *request.others]), request.step)


def by_component(arms: Sequence[Arm], step: int | None = None) -> Drawing:
    """Draw the components of one run, or of several beside each other.

    A line is the median over the runs of its label, its band their range. Predictions of theory, where a frame carries them,
    are dashed; the worst finding of each panel stands where it begins.

    Args:
        arms: The runs.
        step: Step to draw; each run's last one when left out.

    Raises:
        InputError: No runs, more labels than can be told apart, or nothing that was measured.
    """
    labels = labels_of(arms)
    found = [_table(arm, step) for arm in arms]
    tables = [table for table, _ in found]
    axis = component_axis([table.assign(**{str(Column.CALL): 0}) for table in tables])
    groups = {label: _members(label, arms, tables, axis) for label in labels}
    branched = any(table[ComponentColumn.BRANCH_ACV].notna().any() for table in tables)
    rows = (STREAM, BRANCHES if branched else WEIGHTS, GRADIENT)
    panels = [_panel(row, groups, arms, axis) for row in rows]
    if len(labels) > 1:
        panels.insert(1, _factor(panels[0], labels, axis))
    facts = shared(arms) if len(arms) > 1 else dict(arms[0].run)
    second = "ACV of residual branches" if branched else "mean square of weights"
    beside = f"{listed(labels)}: " if len(labels) > 1 else ""
    says = (
        f"{beside}ACV (solid) and ACSM (dotted) of activations, {second} and mean square of gradients "
        f"at the end of {axis.x_axis.size} components in execution order"
    )
    return Drawing(tuple((panel,) for panel in panels), max(shown for _, shown in found), says, facts)


def _members(label: str, arms: Sequence[Arm], tables: Sequence[pd.DataFrame], axis: Aligned) -> Members:
    found = [(t, places) for arm, t, places in zip(arms, tables, axis.places, strict=True) if arm.label == label]
    if any(set(places) != set(found[0][1]) for _, places in found):
        raise InputError(
            "runs of one label need the same components",
            received="different ones",
            where=label,
            remedy="Label them apart.",
        )
    return found


def _table(arm: Arm, step: int | None) -> tuple[pd.DataFrame, int]:
    """``run.components`` at one step, by name, with what theory expects and which gradients are not finite; and that step."""
    rows, shown = at_step(arm.frame, step)
    table = component_table(rows, arm.blocks).set_index(str(ComponentColumn.NAME), drop=False)
    if table.empty:
        raise InputError("a figure by component draws activations", received="a frame without one", where=arm.label)
    stream, back = along(rows, Signal.ACTIVATION), along(rows, Signal.GRADIENT)
    table[GRADIENT.nonfinite] = back[Column.NONFINITE].reindex(table.index, fill_value=0)
    for column, path in (
        (Column.ACV_PREDICTED, stream),
        (Column.ACSM_PREDICTED, stream),
        (Column.GRADIENT_PREDICTED, back),
    ):
        table[str(column)] = path[column].reindex(table.index) if column in path else np.nan
    return table, shown


def _panel(row: Row, groups: Groups, arms: Sequence[Arm], axis: Aligned) -> Curves:
    drawn = tuple(_lines(row, groups, axis))
    scale, threshold = scale_of("", drawn)
    shown = np.concatenate([curve.y[np.isfinite(curve.y) & ~curve.zero] for curve in drawn] or [np.zeros(1)])
    # which of two is larger is the message, and by how many times
    apart = len(shown) > 0 and 0 < shown.min() < shown.max()
    return Curves(
        signal=row.signal,
        statistic=str(row.lines[0].column),
        x_axis=axis.x_axis,
        title=row.title,
        ylabel=row.ylabel,
        scale=Scale.LOG if apart else scale,
        threshold=threshold,
        room=_decade(shown) if apart else (),
        message="" if drawn else f"{row.ylabel.partition(chr(10))[0]} not measured",
        height=1.1 if row is STREAM else 0.85,
        curves=drawn,
        marks=() if row is BRANCHES else _marks(row, list(groups), arms, drawn, axis),
    )


def _lines(row: Row, groups: Groups, axis: Aligned) -> Iterator[Curve]:
    """The lines of a panel, label by label; one that nothing was measured of is left out."""
    for index, (label, members) in enumerate(groups.items()):
        for one in row.lines:
            look = index if len(groups) > 1 else -1 if one.line == DASHED else None
            curve = _curve(row, members, axis, one, look)
            if np.isfinite(curve.y).any() or curve.nonfinite.any():
                legend, end = _words(row, one, label, len(groups))
                yield replace(curve, label=legend, end=end)


def _factor(stream: Curves, labels: Sequence[str], axis: Aligned) -> Curves:
    """The ACV of every run over that of the first, and where they part."""
    named = [replace(one, label=labels[one.look or 0]) for one in stream.curves if one.line == SOLID]
    strip = difference(replace(stream, curves=tuple(named)), axis)
    # each run is named at the end of its line, or in the legend, already
    curves = tuple(replace(one, label="", line=SOLID) for one in strip.curves)
    return replace(strip, curves=curves, ylabel=f"ACV, ratio\nto {labels[0]}")


def _words(row: Row, one: Line, label: str, runs: int) -> tuple[str, str]:
    """What the legend calls a line, and what stands at its end."""
    if one.line == DASHED:
        return one.name, ""
    if runs == 1:
        return "", one.name if row is STREAM else ""
    if one.line == DOTTED:
        return "", ""
    return (label, "") if runs > MOST_ENDS else ("", label)


def _decade(shown: FloatArray) -> tuple[float, ...]:
    """What gives a log axis a decade at least, so that small differences look small."""
    middle = float(np.exp(np.log(shown[[shown.argmin(), shown.argmax()]]).mean()))
    return (middle / 10**0.5, middle * 10**0.5) if shown.max() < 10 * shown.min() else ()


def _curve(row: Row, members: Members, axis: Aligned, one: Line, look: int | None) -> Curve:
    """The median over runs of one column, with their range."""
    tables, places = zip(*members, strict=True)
    own = [np.array([place[str(name), 0] for name in table.index]) for table, place in zip(tables, places, strict=True)]
    x = np.unique(np.concatenate(own))
    at = [np.searchsorted(x, one) for one in own]

    def numbers(column: str) -> list[FloatArray]:
        return [table[column].to_numpy(dtype=np.float64) for table in tables]

    y, low, high = over_runs(x, at, numbers(one.column))
    share = None
    if one.column in (ComponentColumn.ACV, ComponentColumn.ACSM):
        share = over_runs(x, at, numbers(ComponentColumn.ACV))[0] + over_runs(x, at, numbers(ComponentColumn.ACSM))[0]
    bad = np.zeros(len(x), dtype=np.bool_)
    for place, counts in zip(at, numbers(row.nonfinite) if row.nonfinite and one.line == SOLID else (), strict=False):
        bad[place] |= counts > 0
    if row in (BRANCHES, WEIGHTS):
        # components without a branch, or without weights, stand between those with some
        there = np.isfinite(y) | bad
        x, y, low, high, bad = x[there], y[there], low[there], high[there], bad[there]
    zero = zeros(y, share)
    names = tuple(axis.labels[int(place)] for place in x) if axis.by_name else tuple(map(str, tables[0].index))
    shade = Shade(np.where(zero, np.nan, low), np.where(zero, np.nan, high), RANGE)
    return Curve(
        "",
        x,
        y,
        bad | np.isinf(y),
        zero,
        shades=(shade,) if len(tables) > 1 and one.line == SOLID else (),
        look=look,
        names=names,
        line=one.line,
    )


def _marks(
    row: Row, labels: Sequence[str], arms: Sequence[Arm], drawn: Sequence[Curve], axis: Aligned
) -> tuple[Mark, ...]:
    """The worst finding about a panel's signal, on the line of its run at the component where it begins."""
    several = len(labels) > 1
    for arm, places in zip(arms, axis.places, strict=True):
        look = labels.index(arm.label) if several else None
        line = next((curve for curve in drawn if curve.line == SOLID and curve.look == look), None)
        if line is None:
            continue
        told = [f for f in arm.findings() if f.severity is not Severity.NOTE and f.signal is row.signal]
        for finding in told:
            place = _place(finding, places)
            if place is not None and place in line.x:
                y = float(line.y[int(np.searchsorted(line.x, place))])
                return (Mark(place, y, f"{arm.label}: {finding.rule}" if several else finding.rule),)
    return ()


def _place(finding: Finding, places: Mapping[Key, float]) -> float | None:
    """Where the component stands that a finding begins in."""
    return next((places[name, 0] for name in prefixes(finding.since) if (name, 0) in places), None)
