"""Results rather than signals, as accuracy against learning rate: a line per arm, seeds as a median and a band."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from spp.errors import InputError, UnknownNameError
from spp.plot.captions import listed
from spp.plot.kinds import Drawing
from spp.plot.panels import MOST_LINES, RANGE, SUFFIX, Axis, Curve, FloatArray, Outcomes, Scale, Shade, XAxis

if TYPE_CHECKING:
    from spp.plot.page import SignalPlot

MOST_PANELS = 12
IN_A_ROW = 3
"""Panels in a row; more of them go into further rows, four into two by two."""


def outcomes(
    table: pd.DataFrame,
    *,
    x: str,
    y: str,
    by: str | None = None,
    panels: str | None = None,
    chance: float | None = None,
    names: Mapping[str, str] | None = None,
    xscale: str | None = None,
    yscale: str = "linear",
    xlabel: str | None = None,
    ylabel: str | None = None,
    run: Mapping[str, object] | None = None,
    style: str = "notebook",
    width: str | float = "double",
) -> SignalPlot:
    """Draw results rather than signals, as accuracy against learning rate: a line for each arm, seeds as median and range.

    Args:
        table: One row per run (or per run and epoch), with the columns named below.
        x: Column on the x axis, as a learning rate, a batch size, an epoch or a name. Rows where it is missing are left out.
        y: Column of the results, as an accuracy or a loss. What is not finite is left out of medians and ranges, and marked.
        by: Column that tells the lines apart, in the order of its categories, else of the rows; one line when left out.
        panels: Column that tells panels apart; one panel when left out. All panels have the same axes.
        chance: A level to compare with, in units of ``y``: a thin line.
        names: What to call values of ``by``, ``panels`` and of an ``x`` of words, as ``{"batch": "BatchNorm"}``.
        xscale: ``linear``, ``log`` or ``category`` (evenly spaced); when left out, ``category`` for words and for numbers the
            axis on which they are spaced more evenly.
        yscale: ``linear``, with limits close around the results, or ``log``.
        xlabel: The column's name when left out.
        ylabel: The column's name when left out.
        run: Facts for caption, heading and metadata, as ``signal_plot`` takes them; those that all rows share.
        style: ``paper``, ``notebook`` or ``slides``.
        width: ``single``, ``double`` or inches.

    Raises:
        InputError: Nothing to draw, results that are no numbers, more lines or panels than can be told apart, or numbers that
            have no place on the axis.
        UnknownNameError: A column, scale, style or width that does not exist; the message lists the valid ones.
    """
    _check(table, {"x": x, "y": y, "by": by, "panels": panels}, yscale)
    words = None if pd.api.types.is_numeric_dtype(table[x]) else x
    keys = [column for column in (x, by, panels) if column is not None]
    table = _renamed(table, names, [column for column in (words, by, panels) if column is not None])
    table = table.dropna(subset=keys)
    lines, sheets = _parts(table, by, MOST_LINES, "lines"), _parts(table, panels, MOST_PANELS, "panels")
    if table.empty:
        raise InputError("a figure needs at least one result", received="an empty frame", where="table")
    axis, scale = axis_of(table[x], xscale), Scale(yscale)
    places = _places(table[x], axis)
    common = {
        "statistic": y,
        "x_axis": XAxis(f"{_words(xlabel or x)}{SUFFIX[Scale.LOG] if axis is Axis.LOG else ''}", len(places)),
        "ylabel": f"{ylabel or _words(y)}{SUFFIX[scale]}",
        "scale": scale,
        "baseline": chance,
        "level": "" if chance is None else f"chance ({chance:g})",
        "room": _room(table[y], scale),
        "axis": axis,
        "places": tuple((place, name) for name, place in places.values()),
    }
    made = [_panel(own, sheet, (x, y, by), lines, places, common) for sheet, own in sheets.items()]
    row = 2 if len(made) == 4 else IN_A_ROW
    grid = tuple(tuple(made[first : first + row]) for first in range(0, len(made), row))
    return Drawing(grid, says=_says(table, made, x, y, by, panels)).plot("outcomes", run or {}, style, width)


def _check(table: pd.DataFrame, columns: Mapping[str, str | None], yscale: str) -> None:
    """Refuse columns that are not there, results that are no numbers, and scales that do not exist."""
    for argument, column in columns.items():
        if column is not None and column not in table.columns:
            raise UnknownNameError("column", str(column), list(map(str, table.columns)), where=argument)
    results = table[columns["y"]]
    if len(table) and not pd.api.types.is_numeric_dtype(results):
        raise InputError("results are numbers", received=f"{results.dtype}", where=str(columns["y"]))
    if yscale not in (Scale.LINEAR, Scale.LOG):
        raise UnknownNameError("scale", str(yscale), [Scale.LINEAR, Scale.LOG], where="yscale")


def _parts(table: pd.DataFrame, column: str | None, most: int, what: str) -> dict[Any, pd.DataFrame]:
    """The rows of each value of a column, all of them under None where there is no column."""
    found = (
        {None: table} if column is None else {value: table[table[column] == value] for value in values(table[column])}
    )
    if len(found) > most:
        raise InputError(f"at most {most} {what} can be told apart in one figure", received=str(len(found)))
    return found


def _panel(
    rows: pd.DataFrame,
    sheet: object,
    columns: tuple[str, str, str | None],
    lines: Iterable[Any],
    places: Mapping[Any, tuple[str, float]],
    common: Mapping[str, Any],
) -> Outcomes:
    x, y, by = columns
    curves = []
    for look, line in enumerate(lines):
        own = rows if by is None else rows[rows[by] == line]
        curves.append(_curve(own, x, y, y if line is None else str(line), look, places))
    return Outcomes(
        note="" if sheet is None else str(sheet),
        message="" if any(np.isfinite(curve.y).any() for curve in curves) else "no finite result",
        # a line of which this panel has no run has no place in its legend either
        curves=tuple(curve for curve in curves if len(curve.x)),
        **common,
    )


def _says(
    table: pd.DataFrame, panels_drawn: Sequence[Outcomes], x: str, y: str, by: str | None, panels: str | None
) -> str:
    """Return what the caption says is drawn."""
    keys = list(dict.fromkeys(column for column in (panels, by, x) if column is not None))
    counts = table.groupby(keys, observed=True)[y].size()
    # a lone result has no band
    several = counts[counts > 1]
    low, high = (int(several.min()), int(several.max())) if len(several) else (1, 1)
    said = f"{panels_drawn[0].ylabel} against {panels_drawn[0].xlabel}".replace("\n", " ")
    if by is not None:
        said += f" for {listed(dict.fromkeys(curve.label for panel in panels_drawn for curve in panel.curves))}"
    if panels is not None:
        said += f", for each {_words(panels)}"
    if high > 1:
        runs = f"{high}" if low == high else f"{low} to {high}"
        said += f"; the lines are medians and the bands ranges over {runs} runs"
    return said


def values(column: pd.Series[Any]) -> list[Any]:
    """The values that occur in a column: in the order of its categories, else in that in which they come."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        there = set(column)
        return [value for value in column.cat.categories if value in there]
    return list(column.unique())


def axis_of(column: pd.Series[Any], asked: str | None = None) -> Axis:
    """The axis that fits a column: categories for words; for numbers, the one on which they are spaced more evenly.

    Args:
        column: What stands on it.
        asked: A name of ``Axis``, in place of a choice.

    Raises:
        UnknownNameError: No axis has that name.
        InputError: The values do not fit on the axis asked for.
    """
    if asked is not None and asked not in tuple(Axis):
        raise UnknownNameError("axis", str(asked), list(Axis), where="xscale")
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if asked == Axis.CATEGORY or (asked is None and not numeric):
        return Axis.CATEGORY
    if not numeric:
        raise InputError(f"a {asked} axis is for numbers", received=f"{column.dtype}", where="xscale")
    numbers = np.unique(column.to_numpy(dtype=np.float64))
    if not np.isfinite(numbers).all():
        raise InputError("an axis of numbers has finite ones", received=str(column.name), where="x")
    positive = bool((numbers > 0).all())
    if asked == Axis.LOG and not positive:
        raise InputError("a log axis is for positive numbers", received=f"{numbers.min():g}", where="xscale")
    return Axis(asked) if asked is not None else _evener(numbers) if positive else Axis.LINEAR


def _evener(numbers: FloatArray) -> Axis:
    """The axis on which positive numbers are spaced more evenly."""
    if len(numbers) < 2:
        return Axis.LINEAR
    if len(numbers) == 2:
        return Axis.LOG if numbers[1] >= 8 * numbers[0] else Axis.LINEAR
    return Axis.LOG if _unevenness(np.log(numbers).astype(np.float64)) < _unevenness(numbers) - 1e-9 else Axis.LINEAR


def _unevenness(numbers: FloatArray) -> float:
    steps = np.diff(numbers)
    return float(steps.std() / steps.mean())


def _places(column: pd.Series[Any], axis: Axis) -> dict[Any, tuple[str, float]]:
    """By value of x, in the order of the axis, its name and its place."""
    if axis is Axis.CATEGORY:
        return {value: (_number(value), float(index)) for index, value in enumerate(values(column))}
    return {value: (_number(value), float(value)) for value in sorted(column.unique())}


def _number(value: object) -> str:
    if isinstance(value, float | np.floating):
        text = f"{value:g}"
        return text.replace("e-0", "e-").replace("e+0", "e").replace("-", "−")
    return str(value)


def _curve(rows: pd.DataFrame, x: str, y: str, label: str, look: int, places: Mapping[Any, tuple[str, float]]) -> Curve:
    """Median and range of the finite results at each place."""
    # pandas leaves NaN out of all three, but would take an infinite result for the largest
    results = rows[y].where(np.isfinite(rows[y])).groupby(rows[x], observed=True)
    found = results.agg(["median", "min", "max", "count", "size"])
    found = found.loc[[value for value in places if value in found.index]]
    middle, low, high = (found[name].to_numpy(dtype=np.float64) for name in ("median", "min", "max"))
    return Curve.of(
        label,
        [places[value][1] for value in found.index],
        middle,
        nonfinite=(found["count"] < found["size"]).to_numpy(),
        shades=(Shade(low, high, RANGE),) if (found["size"] > 1).any() else (),
        look=look,
        names=tuple(places[value][0] for value in found.index),
    )


def _room(results: pd.Series[float], scale: Scale) -> tuple[float, ...]:
    """The extremes of all panels, which have one axis."""
    if scale is Scale.LOG and (results < 0).any():
        received = f"{results.min():g}"
        raise InputError("a log axis is for numbers that are not negative", received=received, where=str(results.name))
    numbers = results.to_numpy(dtype=np.float64)
    numbers = numbers[np.isfinite(numbers) & ((numbers > 0) | (scale is not Scale.LOG))]
    return (float(numbers.min()), float(numbers.max())) if numbers.size else ()


def _words(column: str) -> str:
    return str(column).replace("_", " ")


def _renamed(table: pd.DataFrame, names: Mapping[str, str] | None, columns: Sequence[str]) -> pd.DataFrame:
    """``table`` with the values of some columns called otherwise: ``{"batch_minus": "BN without scale and shift"}``."""
    if not names:
        return table

    def called(value: Any) -> Any:
        return names.get(str(value), value)

    changed = {}
    for column in columns:
        old = table[column]
        # a categorical column keeps the order of its categories, in which the lines are drawn
        sorted_ = isinstance(old.dtype, pd.CategoricalDtype)
        changed[column] = old.cat.rename_categories(called) if sorted_ else old.astype(object).map(called)
    return table.assign(**changed)
