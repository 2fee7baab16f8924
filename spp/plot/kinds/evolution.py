"""How signals change while networks train: against the first step as colour, some steps as lines, the loss below.

Several runs stand side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from spp.diagnosis.findings import Finding
from spp.diagnosis.main_path import at_ends, prefixes
from spp.errors import InputError
from spp.frame.schema import Column, StepColumn
from spp.plot.captions import by_depth, listed
from spp.plot.kinds import Drawing, Request, figure
from spp.plot.panels import (
    BOUNDED,
    MOST_LINES,
    PLURAL,
    POSITIVE,
    Curve,
    Curves,
    Heat,
    Mark,
    Panel,
    Scale,
    XAxis,
    choose_scale,
    scale_of,
    short,
    step_look,
    ylabel,
)
from spp.plot.runs import Arm, shared
from spp.plot.series import (
    Aligned,
    Series,
    align,
    as_signals,
    as_statistics,
    at_step,
    component_axis,
    innermost,
    layer_curves,
    measured_steps,
    series,
    why_missing,
)
from spp.plot.stages import Tick
from spp.vocabulary import Severity, Signal

BY_COMPONENT = ((Signal.ACTIVATION, Column.ACV), (Signal.GRADIENT, Column.MEAN_SQUARE))
"""What is drawn by component."""

MOST_COLUMNS = 4
"""Runs that find room beside each other."""


@figure("evolution")
def evolution(request: Request) -> Drawing:
    """Depth over training steps: colours against the first step, lines of some steps, and the loss where it is known.

    By component, ACV of activations and mean square of gradients; by layer where ``signals`` or ``statistics`` (activations
    and gradients, ACV when left out) are asked for. A colour is the ratio to the first step, and the number itself where a
    statistic may be negative or is a share. Rows of the colours are equally high whatever lies between the steps, since people
    watch more closely at the start. The finding that began first is marked. ``steps`` are the lines (the first, the middle
    and the last step when left out).
    """
    frame = request.frame
    at_step(frame, None)
    measured = measured_steps(frame)
    if len(measured) < 2:
        raise InputError(
            "the evolution figure needs more than one step",
            received=f"step {measured[0]} alone",
            where="frame",
            remedy='Watch a training with spp.watch, or draw kind="layers".',
        )
    lines = _lines([frame], request.steps)
    by_layer = request.signals is not None or request.statistics is not None
    rows, axis, place = _layers(frame, measured) if by_layer else _components(frame)
    # a layer may be missing from some steps, but stands at one place in all of them
    places = {key: place for one in axis.places for key, place in one.items()}
    began = _began(request.findings(), measured)
    grid: list[tuple[Panel, ...]] = []
    for pairs in _pairs(request) if by_layer else [BY_COMPONENT]:
        heats, curves = [], []
        for signal, statistic in pairs:
            found = series(rows, signal, statistic, axis, places)
            there = np.isfinite(found.curve.y) | found.curve.nonfinite
            reason = "" if there.any() else why_missing(frame, signal)
            heats.append(_heat(found, signal, statistic, measured, axis.x_axis, reason, began))
            drawn = tuple(_at(found, step, step_look(i, len(lines))) for i, step in enumerate(lines))
            curves.append(layer_curves(drawn, signal, statistic, axis.x_axis, message=reason))
        grid += [tuple(heats), tuple(curves)]
    named = listed(map(str, lines))
    says = (
        f"{by_depth(request.run, tuple(grid[1::2]), place)}, at {len(measured)} training steps from {measured[0]} to "
        f"{measured[-1]} (lines: {'steps' if len(lines) > 1 else 'step'} {named})"
    )
    if (loss := _loss(request.training, measured, began)) is not None:
        grid.append((loss,))
        says += ", and the loss"
    return Drawing(tuple(grid), says=says)


Found = tuple[pd.DataFrame, Aligned, str]
"""Rows, where they stand, and what a place is called."""


def _layers(frame: pd.DataFrame, measured: Sequence[int]) -> Found:
    leaves = innermost(frame, "the evolution figure")
    return leaves, align([leaves[leaves[Column.STEP] == step] for step in measured]), "module"


def _components(frame: pd.DataFrame) -> Found:
    """The rows at the end of each component, at all steps, named after it."""
    rows = at_ends(frame)
    if rows.empty:
        raise InputError("the evolution figure draws activations", received="a frame without one", where="frame")
    return rows, component_axis([rows]), "component"


def _pairs(request: Request) -> list[tuple[tuple[Signal, Column], ...]]:
    """What is asked for: a row of panels for each statistic, a column for each signal."""
    signals = as_signals(request.signals)
    return [
        tuple((signal, statistic) for signal in signals)
        for statistic in as_statistics(request.statistics, [request.frame], (Column.ACV,))
    ]


def _began(findings: Iterable[Finding], measured: Sequence[int]) -> tuple[Finding, int] | None:
    """The finding that came about first in training, and the row of its step."""
    told = [f for f in findings if f.step is not None and f.severity is not Severity.NOTE and f.step in measured]
    first = min(told, key=lambda finding: finding.step or 0, default=None)
    return None if first is None else (first, measured.index(first.step or 0))


def _loss(training: pd.DataFrame, measured: Sequence[int], began: tuple[Finding, int] | None) -> Curves | None:
    """The loss over the measured steps, which stand at even distances as they do beside the colours."""
    if training.empty:
        return None
    y = training.set_index(str(StepColumn.STEP))[StepColumn.LOSS].reindex(list(measured)).to_numpy(dtype=np.float64)
    # what a trace knows is of its one step
    if np.isfinite(y).sum() < 2 and len(training) < 2:
        return None
    at = np.arange(len(measured), dtype=np.float64)
    marks = tuple(Tick(x, int(x), str(step), level) for x, step in zip(at, measured, strict=True) for level in (2, 1))
    curve = replace(Curve.of("", at, y, look=-1), line="-")
    scale, threshold = choose_scale(y, curve.zero)
    return Curves(
        signal=None,
        statistic="loss",
        x_axis=XAxis("training step", len(measured), ticks=marks),
        ylabel="loss",
        scale=scale,
        threshold=threshold,
        height=0.6,
        curves=(curve,),
        marks=() if began is None else (Mark(float(began[1]), float(y[began[1]]), began[0].rule),),
    )


def side_by_side(
    arms: Sequence[Arm],
    signals: Sequence[str] | str | None = None,
    statistics: Sequence[str] | str | None = None,
    steps: Sequence[int] | None = None,
) -> Drawing:
    """Draw several runs over their steps: for each statistic and signal a row, for each run a column, for each step a line.

    The panels of a row have one axis, chosen from all of them.

    Args:
        arms: The runs.
        signals: Activations and gradients when left out.
        statistics: ACV when left out.
        steps: Steps to draw; the first, the middle and the last one that all runs have when left out.

    Raises:
        InputError: Too many runs or steps, or a step that one of the runs did not measure.
        UnknownNameError: A signal or statistic that does not exist.
    """
    frames = [arm.frame for arm in arms]
    rows, columns = as_signals(signals), as_statistics(statistics, frames, (Column.ACV,))
    if not 1 <= len(arms) <= MOST_COLUMNS:
        raise InputError(f"one to {MOST_COLUMNS} runs fit beside each other", received=str(len(arms)), where="runs")
    lines = _lines(frames, steps)
    cells = [(arm, step) for arm in arms for step in lines]
    leaves = [innermost(at_step(arm.frame, step)[0], f"a figure of step {step}", arm.label) for arm, step in cells]
    axis = align(leaves)
    titles = _titles(arms)
    grid = []
    for statistic in columns:
        for signal in rows:
            found = [
                series(
                    one,
                    signal,
                    statistic,
                    axis,
                    places,
                    label=_called(step, arm),
                    look=step_look(lines.index(step), len(lines)),
                ).curve
                for (arm, step), one, places in zip(cells, leaves, axis.places, strict=True)
            ]
            scale = scale_of(statistic, found)
            shown = np.concatenate([curve.y[~curve.zero & np.isfinite(curve.y)] for curve in found])
            row = []
            for column, (arm, title) in enumerate(zip(arms, titles, strict=True)):
                curves = tuple(found[column * len(lines) : (column + 1) * len(lines)])
                more: dict[str, Any] = {"title": title, "room": (shown.min(), shown.max()) if len(shown) else ()}
                more["message"] = "" if any(len(curve.x) for curve in curves) else why_missing(arm.frame, signal)
                row.append(layer_curves(curves, signal, statistic, axis.x_axis, scale=scale, **more))
            grid.append(tuple(row))
    facts = shared(arms)
    named = listed(curve.label for curve in grid[0][0].curves)
    says = f"{listed(titles)} beside each other, {by_depth(facts, tuple(grid))}, at {named}"
    return Drawing(tuple(grid), says=says, run=facts)


def _lines(frames: Sequence[pd.DataFrame], steps: Sequence[int] | None) -> list[int]:
    """The steps to draw as lines; the first, the middle and the last one that all frames have when left out."""
    if steps is None:
        common = sorted(set.intersection(*(set(measured_steps(frame)) for frame in frames)))
        if not common:
            raise InputError("runs beside each other need steps in common", received="none", where="runs")
        return list(dict.fromkeys([common[0], common[len(common) // 2], common[-1]]))
    chosen = list(dict.fromkeys(int(step) for step in ([steps] if isinstance(steps, int) else steps)))
    if not 1 <= len(chosen) <= MOST_LINES:
        raise InputError(f"one to {MOST_LINES} steps can be drawn as lines", received=str(len(chosen)), where="steps")
    for frame in frames:
        for step in chosen:
            at_step(frame, step)
    return chosen


def _at(found: Series, step: int, look: int) -> Curve:
    """One step of a line that has several."""
    curve = found.curve
    at = (found.rows[Column.STEP].to_numpy() == step) & (np.isfinite(curve.y) | curve.nonfinite)
    names = tuple(name for name, here in zip(curve.names, at, strict=True) if here)
    parts = (curve.x[at], curve.y[at], curve.nonfinite[at], curve.zero[at])
    return Curve(f"step {step}", *parts, look=look, names=names)


def _heat(
    found: Series,
    signal: Signal,
    statistic: Column,
    steps: Sequence[int],
    x_axis: XAxis,
    reason: str,
    began: tuple[Finding, int] | None,
) -> Heat:
    curve, shape = found.curve, (len(steps), x_axis.size)
    at = np.searchsorted(np.asarray(steps), found.rows[Column.STEP].to_numpy()), curve.x.astype(np.intp)
    values, zero, bad = np.full(shape, np.nan), np.zeros(shape, dtype=np.bool_), np.zeros(shape, dtype=np.bool_)
    values[at], zero[at], bad[at] = curve.y, curve.zero, curve.nonfinite
    ratio, what = statistic in POSITIVE, short(statistic)
    if ratio:
        none = zero[0] | ~np.isfinite(values[0])
        values, what = values / np.where(none, np.nan, values[0]), f"ratio to step {steps[0]}"
        scale, threshold = Scale.LOG, 0.0
    else:
        scale, threshold = (Scale.LINEAR, 0.0) if statistic in BOUNDED else choose_scale(values.ravel(), zero.ravel())
    return Heat(
        signal=signal,
        statistic=statistic,
        x_axis=x_axis,
        title=f"{PLURAL[signal]}: {short(statistic)}",
        ylabel="training\nstep",
        colour_label=ylabel(what, signal, scale).partition("\n")[2],
        values=values,
        zero=zero,
        nonfinite=bad,
        steps=tuple(steps),
        scale=scale,
        threshold=threshold,
        message=reason,
        height=1.1,
        middle=1.0 if ratio else None,
        marks=_marks(found.curve, signal, began),
    )


def _marks(curve: Curve, signal: Signal, began: tuple[Finding, int] | None) -> tuple[Mark, ...]:
    """Where and when the trouble began, in the panel of the signal that shows it."""
    if began is None or began[0].signal not in (signal, None):
        return ()
    names = set(prefixes(began[0].since))
    places = [x for x, name in zip(curve.x, curve.names, strict=True) if name.partition(" #")[0] in names]
    return (Mark(float(places[0]), float(began[1]), began[0].rule),) if places else ()


def _titles(arms: Sequence[Arm]) -> list[str]:
    """The labels, with the seed where it alone tells runs apart."""
    labels = [arm.label for arm in arms]
    return [
        arm.label if labels.count(arm.label) == 1 else f"{arm.label}, seed {arm.run.get('seed', index)}"
        for index, arm in enumerate(arms)
    ]


def _called(step: int, arm: Arm) -> str:
    """As ``step 81 (epoch 9)``, where the run says how many steps an epoch has and the step begins one."""
    epoch = arm.run.get("steps_per_epoch")
    return f"step {step} (epoch {step // epoch})" if isinstance(epoch, int) and step % epoch == 0 else f"step {step}"
