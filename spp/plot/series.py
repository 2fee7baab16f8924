"""From rows of the frame to arrays: which rows a figure shows, where they stand on its x axis, and their numbers.

Every kind of figure over layers goes through ``align``, which makes the x axis, and ``series``, which makes the line.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd

from spp.errors import InputError, UnknownNameError
from spp.frame.schema import STATISTICS, Column, UnmeasuredColumn, statistic_columns
from spp.plot.panels import (
    PLURAL,
    BoolArray,
    Curve,
    Curves,
    FloatArray,
    IntArray,
    Scale,
    XAxis,
    scale_of,
    short,
    ylabel,
    zeros,
)
from spp.plot.stages import Tick, stages, ticks
from spp.vocabulary import Signal

K = TypeVar("K", bound=Hashable)

Key = tuple[str, int]
"""A module call: its name, and 0 for its first call."""

ROUNDED = (Column.MEAN, Column.ACSM, Column.ACV)
"""Statistics that come out as rounding error where they should be zero."""

PARAMETERS = (Signal.WEIGHT, Signal.WEIGHT_GRADIENT)
"""Signals of parameters, of which those of rank 2 and more are drawn."""

XLABEL = "layer (execution order)"
BY_COMPONENT = "component (execution order)"
BY_DEPTH = "relative depth (first layer 0, last layer 1)"

ENOUGH = 0.5
"""Networks are aligned by name where at least this share of the shorter one's layers is in the longest one, by name."""


# -- what is asked for --------------------------------------------------------------------------------------------------------


def chosen(
    asked: Sequence[str] | str | None, default: Iterable[str], known: Iterable[str], kind: str
) -> tuple[str, ...]:
    """Return the names asked for, ``default`` where none are.

    Args:
        asked: One name, or several.
        default: The names that are taken when ``asked`` is None.
        known: The names there are.
        kind: What a name is of, as errors say it: ``signal`` or ``statistic``.

    Raises:
        UnknownNameError: One is not in ``known``; the message lists those.
        InputError: An empty list.
    """
    names = tuple(default if asked is None else [asked] if isinstance(asked, str) else asked)
    listed = [str(name) for name in known]
    if not names:
        raise InputError(f"a figure draws at least one of its {kind}s", received="an empty list", where=f"{kind}s")
    for name in names:
        if name not in listed:
            raise UnknownNameError(kind, str(name), listed, where=f"{kind}s")
    return tuple(map(str, names))


def as_signals(
    asked: Sequence[str] | str | None,
    default: Sequence[Signal] = (Signal.ACTIVATION, Signal.GRADIENT),
    known: Sequence[Signal] = tuple(Signal),
) -> tuple[Signal, ...]:
    """Return the signals asked for; raises as ``chosen`` does."""
    return tuple(map(Signal, chosen(asked, default, known, "signal")))


def as_statistics(
    asked: Sequence[str] | str | None,
    frames: Iterable[pd.DataFrame],
    default: Sequence[Column] = (Column.ACSM, Column.ACV),
) -> tuple[Column, ...]:
    """Return the statistics asked for, by the names of the frames' columns; raises as ``chosen`` does."""
    drawn = list(frames)
    known = [name for name in statistic_columns() if name in STATISTICS or all(name in frame for frame in drawn)]
    for name in [asked] if isinstance(asked, str) else asked or ():
        if name in statistic_columns() and name not in known:
            raise InputError(
                "a figure draws statistics that were measured",
                received=f"{name!r}, which was not asked for",
                where="statistics",
                remedy=f"Trace with statistics=({name!r},), or with --statistic {name} on the command line.",
            )
    # the column of a registered statistic has no member of Column; its name serves wherever a member's would
    names: list[Any] = [
        Column(name) if name in STATISTICS else name for name in chosen(asked, default, known, "statistic")
    ]
    return tuple(names)


# -- which rows a figure shows ------------------------------------------------------------------------------------------------


def at_step(frame: pd.DataFrame, step: int | None) -> tuple[pd.DataFrame, int]:
    """Return the rows of one step, the last one unless told otherwise, and that step.

    Raises:
        InputError: There are no rows at all, or none of that step; the message says which steps there are.
    """
    if frame.empty:
        raise InputError("a figure needs at least one measured tensor", received="an empty frame", where="frame")
    steps = measured_steps(frame)
    if step is None:
        step = steps[-1]
    if step not in steps:
        listed = ", ".join(map(str, steps[:8])) + (f", ..., {steps[-1]}" if len(steps) > 8 else "")
        raise InputError(
            "a figure draws a step that was measured", received=f"step {step}", where="step", remedy=f"Steps: {listed}."
        )
    return frame[frame[Column.STEP] == step], step


def measured_steps(frame: pd.DataFrame) -> list[int]:
    """Every step of the frame, ascending."""
    return sorted(int(step) for step in frame[Column.STEP].unique())


def innermost(rows: pd.DataFrame, figure: str = "", where: str = "frame") -> pd.DataFrame:
    """Rows of modules that ran, without those that contain another: leaves, and what calls none of its children.

    The ``leaf`` column would lose ``nn.MultiheadAttention``, which never calls the projection it holds.

    Args:
        rows: Rows of the frame.
        figure: What draws them, for the error where there are none; without it there is no error.
        where: Where the rows are from, for that error.

    Raises:
        InputError: No module ran.
    """
    # depth is missing for parameters of modules that were never called
    ran = rows[rows[Column.DEPTH].notna()]
    containers = {""} if ran[Column.NAME].nunique() > 1 else set()
    for name in ran[Column.NAME].unique():
        while "." in name:
            name = name.rpartition(".")[0]
            containers.add(name)
    leaves = ran[~ran[Column.NAME].isin(containers)]
    if figure and leaves.empty:
        raise InputError(f"{figure} draws modules that ran", received="a frame without one", where=where)
    return leaves


def rows_of(leaves: pd.DataFrame, signal: Signal) -> pd.DataFrame:
    """Rows of one signal in execution order; of the parameters, those of rank 2 and more.

    A bias or a norm's scale on the same line would hide the weights.
    """
    rows = leaves[leaves[Column.SIGNAL] == signal]
    if signal in PARAMETERS:
        rows = rows[rows[Column.SHAPE].str.contains("x")]
    # stable, so that the first output of a call stays the first
    return rows.sort_values(Column.DEPTH, kind="stable")


def why_missing(rows: pd.DataFrame, signal: Signal, unmeasured: pd.DataFrame | None = None) -> str:
    """What stands in a panel for which there are no rows."""
    what = PLURAL[signal]
    if unmeasured is not None and len(unmeasured):
        reasons = unmeasured.loc[unmeasured[UnmeasuredColumn.SIGNAL] == signal, UnmeasuredColumn.REASON]
        if len(reasons):
            return f"{what} not measured:\n{reasons.mode().iloc[0]}"
    if (rows[Column.SIGNAL] == signal).any():
        return f"{what} not measured:\nnone {'of rank 2 or more' if signal in PARAMETERS else 'of a module that ran'}"
    present = [PLURAL[s] for s in Signal if (rows[Column.SIGNAL] == s).any()]
    return f"{what} not measured:\nthe trace holds only {' and '.join(present)}"


# -- where they stand ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Aligned:
    """One x axis for several networks.

    Attributes:
        by_name: Whether layers of the same name stand at the same place; else they are spread evenly from first to last.
        places: For each network, the place of each of its calls.
        labels: Name of each place; empty by depth.
        x_axis: The axis as panels have it.
    """

    by_name: bool
    places: tuple[dict[Key, float], ...]
    labels: tuple[str, ...]
    x_axis: XAxis

    def label(self, key: Key, place: float) -> str:
        """Return what the call at a place is called."""
        if self.by_name:
            return self.labels[int(place)]
        return key[0] if not key[1] else f"{key[0]} #{key[1] + 1}"


def align(leaves: Sequence[pd.DataFrame]) -> Aligned:
    """Find the places of every network's layers on one axis.

    By name: the longest network gives the order; a layer that it lacks is put in after the layer which precedes it in its
    own network, so that no layer of any network is lost. By relative depth, where networks share too few names: layer k of n
    stands at k / (n - 1).

    Args:
        leaves: For each network, the rows of its innermost modules (``innermost``).
    """
    # calls that never ran in one batch (layers that are skipped, experts) may have one depth
    calls = [rows.drop_duplicates([Column.NAME, Column.CALL]) for rows in leaves]
    keys = [keys_of(one.sort_values(Column.DEPTH, kind="stable")) for one in calls]
    # its order is kept as it is, so that most layers of most networks stand where they were run
    longest = max(keys, key=len)
    known = set(longest)
    if all(sum(key in known for key in one) >= ENOUGH * len(one) for one in keys):
        order = merged_order([longest, *keys])
        place = {key: float(index) for index, key in enumerate(order)}
        repeated = {name for name, call in order if call}
        labels = tuple(f"{name} #{call + 1}" if name in repeated else name for name, call in order)
        names = [name for name, _ in order]
        places = tuple({key: place[key] for key in one} for one in keys)
        return Aligned(True, places, labels, XAxis(XLABEL, len(order), stages(names), ticks(names, labels)))
    return _by_depth(keys, len(longest))


def component_axis(tables: Sequence[pd.DataFrame]) -> Aligned:
    """The same for components: rows that are named after them, of one call each."""
    axis = align(tables)
    if not axis.by_name:
        return axis
    # stages are read off the names of layers, and a component is named like a module that holds some
    bands = stages([f"{name}.end" for name in axis.labels], least=1)
    return replace(axis, x_axis=replace(axis.x_axis, label=BY_COMPONENT, stages=bands))


def _by_depth(keys: Sequence[Sequence[Key]], size: int) -> Aligned:
    """Spread every network's layers evenly over an axis of ``size`` places, with ticks at its quarters."""
    last = size - 1
    quarters = [last * part / 4 for part in range(5)]
    marks = tuple(Tick(x, int(x), f"{part / 4:g}", level) for part, x in enumerate(quarters) for level in (2, 0))
    spread = tuple({key: rank * last / max(len(one) - 1, 1) for rank, key in enumerate(one)} for one in keys)
    return Aligned(False, spread, (), XAxis(BY_DEPTH, size, ticks=marks))


def merged_order(sequences: Sequence[Sequence[K]]) -> list[K]:
    """Merge sequences into one that holds every element once: the first as it is, others after their predecessors."""
    after: dict[K | None, list[K]] = {None: []}
    for sequence in sequences:
        previous: K | None = None
        new: dict[K | None, list[K]] = {}
        for key in sequence:
            if key in after:
                previous = key
            else:
                new.setdefault(previous, []).append(key)
        for anchor, run in new.items():
            after[anchor][:0] = run
            after |= {key: [] for key in run}
    order: list[K] = []
    waiting = after[None][::-1]
    # depth first with a list of what waits, since networks are deeper than Python's recursion limit
    while waiting:
        key = waiting.pop()
        order.append(key)
        waiting += after[key][::-1]
    return order


def keys_of(rows: pd.DataFrame) -> list[Key]:
    """The call that each row belongs to."""
    # text, since names are categories, whose codes differ from frame to frame
    return list(zip(rows[Column.NAME].astype(str), rows[Column.CALL].astype(int), strict=True))


# -- their numbers ------------------------------------------------------------------------------------------------------------


class Series(NamedTuple):
    """A statistic of a signal over layers.

    Attributes:
        rows: The rows of the frame, in the order of the curve's points.
        curve: Their places, numbers and names.
    """

    rows: pd.DataFrame
    curve: Curve


def series(
    leaves: pd.DataFrame,
    signal: Signal,
    statistic: Column,
    axis: Aligned,
    places: Mapping[Key, float] | None = None,
    *,
    label: str = "",
    look: int | None = None,
    outputs: bool = False,
) -> Series:
    """Make the line of one statistic of one signal: of each call (and step) the first tensor, in the order of the axis.

    Args:
        leaves: Rows of innermost modules.
        signal: Which of their rows.
        statistic: Which column.
        axis: Where calls stand.
        places: Which of its networks the rows are of, by the places of its calls; the first when left out.
        label: Name of the line.
        look: Look of the line, see ``Curve``.
        outputs: Whether to take every output of a call.
    """
    rows = rows_of(leaves, signal)
    if not outputs:
        rows = rows.drop_duplicates([Column.STEP, Column.NAME, Column.CALL])
    where = axis.places[0] if places is None else places
    x = np.array([where[key] for key in keys_of(rows)], dtype=np.float64)
    # a network's own order is not that of the axis where another network has its layers the other way round
    order = np.argsort(x, kind="stable")
    rows, x = rows.iloc[order], x[order]
    y = rows[statistic].to_numpy(dtype=np.float64)
    mean_square = rows[Column.MEAN_SQUARE].to_numpy(dtype=np.float64)
    curve = Curve(
        label,
        x,
        y,
        nonfinite=(rows[Column.NONFINITE].to_numpy() > 0) | np.isinf(y),
        zero=zeros_of(statistic, y, mean_square),
        look=look,
        names=tuple(axis.label(key, place) for key, place in zip(keys_of(rows), x, strict=True)),
    )
    return Series(rows, curve)


def over_runs(
    x: FloatArray, places: Sequence[IntArray], values: Sequence[FloatArray]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Median, least and largest of several runs' numbers at each place of ``x``; NaN where none of them is finite.

    Args:
        x: The places, shape (n,).
        places: For each run, where in ``x`` its numbers stand.
        values: For each run, its numbers.
    """
    table = np.full((len(values), len(x)), np.nan)
    for row, place, own in zip(table, places, values, strict=True):
        row[place] = own
    # a masked array, since np.nanmedian warns of a place that is not finite in any run
    numbers = np.ma.masked_invalid(table)
    median, low, high = (f(numbers, axis=0).filled(np.nan) for f in (np.ma.median, np.ma.min, np.ma.max))
    return median, low, high


def zeros_of(statistic: str, y: FloatArray, mean_square: FloatArray) -> BoolArray:
    """Say which numbers of a statistic mean zero, see ``zeros``."""
    # a mean may be negative: its square is what compares with the mean square
    return zeros(y**2 if statistic == Column.MEAN else y, mean_square if statistic in ROUNDED else None)


def layer_curves(
    curves: tuple[Curve, ...],
    signal: Signal,
    statistic: str,
    x_axis: XAxis,
    *,
    what: str = "",
    scale: tuple[Scale, float] | None = None,
    **more: Any,
) -> Curves:
    """Make the panel of several lines over layers, on the scale that fits them all.

    Args:
        curves: The lines.
        signal: Their signal.
        statistic: Their statistic.
        x_axis: The axis they stand on.
        what: What the y axis calls them; the statistic when left out.
        scale: A scale and its threshold; what fits the lines when left out.
        more: Further attributes of the panel.
    """
    kind, threshold = scale or scale_of(statistic, curves)
    return Curves(
        signal=signal,
        statistic=statistic,
        x_axis=x_axis,
        ylabel=ylabel(what or short(statistic), signal, kind),
        scale=kind,
        threshold=threshold,
        curves=curves,
        **more,
    )
