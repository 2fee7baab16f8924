"""Results rather than signals, as accuracy against learning rate: a line per arm, seeds as a median and a band."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from spp.errors import InputError, UnknownNameError
from spp.plot.comparison import RANGE
from spp.plot.facts import listed
from spp.plot.panels import FloatArray, Scale
from spp.plot.shapes import MOST_LINES, AnyGrid, Axis, Curve, Outcomes, Shade

MOST_PANELS = 12
ABREAST = 3
"""Panels in a row; more of them go into further rows, four into two by two."""


def outcome_panels(
    table: pd.DataFrame,
    *,
    x: str,
    y: str,
    by: str | None = None,
    panels: str | None = None,
    chance: float | None = None,
    xscale: str | None = None,
    yscale: str = "linear",
    xlabel: str | None = None,
    ylabel: str | None = None,
) -> AnyGrid:
    """Make the panels: one for each value of ``panels``, in each a line for each value of ``by``, all on the same axes.

    Several rows of the same panel, line and x are runs of several seeds: the line is their median, its band their range. What
    is not finite is left out of both, and marked. For the arguments see ``spp.plot.outcomes``.

    Raises:
        InputError: Nothing to draw, y that is no number, more lines or panels than can be told apart, or an axis that
            does not fit.
        UnknownNameError: A column or an axis that does not exist.
    """
    columns = {"x": x, "y": y, "by": by, "panels": panels}
    for argument, column in columns.items():
        if column is not None and column not in table.columns:
            raise UnknownNameError("column", str(column), list(map(str, table.columns)), where=argument)
    table = table.dropna(subset=[column for column in (x, by, panels) if column is not None])
    if table.empty:
        raise InputError("a figure needs at least one result", received="an empty frame", where="table")
    if not pd.api.types.is_numeric_dtype(table[y]):
        raise InputError("results are numbers", received=f"{table[y].dtype}", where=y)
    if yscale not in (Scale.LINEAR, Scale.LOG):
        raise UnknownNameError("scale", str(yscale), [Scale.LINEAR, Scale.LOG], where="yscale")
    lines = [None] if by is None else values(table[by])
    sheets = [None] if panels is None else values(table[panels])
    for what, found, most in (("lines", lines, MOST_LINES), ("panels", sheets, MOST_PANELS)):
        if len(found) > most:
            raise InputError(f"at most {most} {what} can be told apart in one figure", received=str(len(found)))
    axis = axis_of(table[x], xscale)
    places = _places(table[x], axis)
    scale = Scale(yscale)
    if scale is Scale.LOG and (table[y] < 0).any():
        raise InputError("a log axis is for numbers that are not negative", received=f"{table[y].min():g}", where=y)
    made = []
    for sheet in sheets:
        own = table if panels is None else table[table[panels] == sheet]
        curves = tuple(
            _curve(own if by is None else own[own[by] == line], x, y, y if line is None else str(line), index, places)
            for index, line in enumerate(lines)
        )
        drawn = [curve for curve in curves if len(curve.x)]
        made.append(
            Outcomes(
                statistic=y,
                title="",
                note="" if sheet is None else str(sheet),
                xlabel=_label(xlabel or x, axis),
                ylabel=f"{ylabel or _words(y)}{' (log scale)' if scale is Scale.LOG else ''}",
                size=len(places),
                message="" if any(np.isfinite(curve.y).any() for curve in drawn) else "no finite result",
                curves=tuple(drawn),
                scale=scale,
                baseline=chance,
                level="" if chance is None else f"chance ({chance:g})",
                room=_room(table[y], scale),
                axis=axis,
                places=tuple((place, name) for name, place in places.values()),
            )
        )
    row = 2 if len(made) == 4 else ABREAST
    return tuple(tuple(made[first : first + row]) for first in range(0, len(made), row))


def phrase(table: pd.DataFrame, grid: AnyGrid, *, x: str, y: str, by: str | None, panels: str | None) -> str:
    """Return what the caption says is drawn."""
    panel = grid[0][0]
    keys = list(dict.fromkeys(column for column in (panels, by, x) if column is not None))
    counts = table.groupby(keys, observed=True)[y].size()
    several = counts[counts > 1]  # a lone result has no band
    low, high = (int(several.min()), int(several.max())) if len(several) else (1, 1)
    said = f"{panel.ylabel} against {panel.xlabel}".replace("\n", " ")
    if by is not None:
        labels = dict.fromkeys(c.label for row in grid for one in row if isinstance(one, Outcomes) for c in one.curves)
        said += f" for {listed(labels)}"
    if panels is not None:
        said += f", for each {_words(panels)}"
    if high > 1:
        runs = f"{high}" if low == high else f"{low} to {high}"
        said += f"; the lines are medians and the bands ranges over {runs} runs"
    return said


def values(column: "pd.Series[Any]") -> list[Any]:
    """The values that occur in a column: in the order of its categories, else in that in which they come."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        there = set(column)
        return [value for value in column.cat.categories if value in there]
    return list(column.unique())


def axis_of(column: "pd.Series[Any]", asked: str | None = None) -> Axis:
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
    if asked is not None:
        return Axis(asked)
    if not positive or len(numbers) < 2:
        return Axis.LINEAR
    if len(numbers) == 2:
        return Axis.LOG if numbers[1] >= 8 * numbers[0] else Axis.LINEAR
    return Axis.LOG if _unevenness(np.log(numbers).astype(np.float64)) < _unevenness(numbers) - 1e-9 else Axis.LINEAR


def _unevenness(numbers: FloatArray) -> float:
    steps = np.diff(numbers)
    return float(steps.std() / steps.mean())


def _places(column: "pd.Series[Any]", axis: Axis) -> dict[Any, tuple[str, float]]:
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
    found = {value: part[y].to_numpy(dtype=np.float64) for value, part in rows.groupby(x, observed=True)}
    there = [value for value in places if value in found]
    finite = [found[value][np.isfinite(found[value])] for value in there]
    middle, low, high = (
        np.array([function(one) if one.size else np.nan for one in finite], dtype=np.float64)
        for function in (np.median, np.min, np.max)
    )
    several = max((len(found[value]) for value in there), default=0) > 1
    return Curve.of(
        label,
        [places[value][1] for value in there],
        middle,
        nonfinite=np.array([not np.isfinite(found[value]).all() for value in there], dtype=np.bool_),
        shades=(Shade(low, high, RANGE),) if several else (),
        look=look,
        names=tuple(places[value][0] for value in there),
    )


def _room(results: "pd.Series[float]", scale: Scale) -> tuple[float, ...]:
    """The extremes of all panels, which have one axis."""
    numbers = results.to_numpy(dtype=np.float64)
    numbers = numbers[np.isfinite(numbers) & ((numbers > 0) | (scale is not Scale.LOG))]
    return (float(numbers.min()), float(numbers.max())) if numbers.size else ()


def _label(words: str, axis: Axis) -> str:
    return f"{_words(words)}{' (log scale)' if axis is Axis.LOG else ''}"


def _words(column: str) -> str:
    return str(column).replace("_", " ")


def labels_of(table: pd.DataFrame, names: Mapping[str, str] | None, columns: Sequence[str | None]) -> pd.DataFrame:
    """``table`` with the values of some columns called otherwise: ``{"batch_minus": "BN without scale and shift"}``."""
    if not names:
        return table

    def called(value: Any) -> Any:
        return names.get(str(value), value)

    changed = {}
    for column in columns:
        if column is not None and column in table.columns:
            old = table[column]
            sorted_ = isinstance(old.dtype, pd.CategoricalDtype)
            changed[column] = old.cat.rename_categories(called) if sorted_ else old.astype(object).map(called)
    return table.assign(**changed)
