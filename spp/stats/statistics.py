"""From sums to numbers. A statistic is a row: the sums it needs, a formula, and the column it fills.

>>> import torch
>>> from spp.stats.backends import reduce
>>> numbers = summarize([reduce(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 1)])
>>> float(numbers["acsm"][0]), float(numbers["acv"][0])
(6.5, 1.0)

A row of your own is registered once and then asked for by name, ``spp.trace(..., statistics=("spread",))``:

>>> spread = Statistic("spread", ("min", "max"), lambda s: s["max"] - s["min"], Spec("float64", "spread", "max - min"))
>>> register_statistic(spread).name
'spread'
>>> STATISTICS.unregister("spread")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spp.errors import InputError, UnknownNameError
from spp.registry import Registry
from spp.stats.extra import FOURTH, POWERS, at_the_ends, kurtosis
from spp.stats.sums import NONFINITES, SUMS, Array, Sum, Sums, Total, far, totals

Formula = Callable[[Mapping[str, Array]], npt.ArrayLike]
Numbers = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Spec:
    """What a column holds.

    Attributes:
        dtype: The pandas dtype, as its own name.
        label: Axis label, with the unit in brackets where there is one.
        meaning: One sentence; the documentation prints it.
        categories: Allowed values of a closed category, else empty.
        missing: Whether the column may be missing.
    """

    dtype: str
    label: str
    meaning: str
    categories: tuple[str, ...] = ()
    missing: bool = False


@dataclass(frozen=True, slots=True)
class Statistic:
    """A number about a tensor's values.

    Attributes:
        name: Of the column, and how it is asked for.
        needs: The sums it is made of: names of :class:`~spp.stats.sums.Total` in lower case, which every backend gives at no
            cost, names of :data:`~spp.stats.sums.SUMS`, or a :class:`~spp.stats.sums.Sum` of your own.
        formula: ``{name of a sum: (R,)} -> (R,)``, in NumPy, over all rows at once. Divisions by zero are silent and give NaN
            or infinity; sums of tensors without any finite element are 0, their extremes infinite.
        column: What the column holds.
        default: Whether every frame has it.
    """

    name: str
    needs: tuple[str | Sum, ...]
    formula: Formula
    column: Spec
    default: bool = False


def number(label: str, meaning: str) -> Spec:
    """A column of numbers, some of which may be missing."""
    return Spec("float64", label, meaning, missing=True)


def _row(name: str, needs: str, formula: Formula, column: Spec) -> Statistic:
    return Statistic(name, tuple(needs.split()), formula, column, default=True)


def _ratio(name: str, part: str, whole: str, label: str, meaning: str) -> Statistic:
    return Statistic(name, (part, whole), lambda s: s[part] / s[whole], number(label, meaning), default=True)


def _var(s: Mapping[str, Array]) -> Array:
    return (s["within"] + s["between"]) / s["count"]


def _if_any(s: Mapping[str, Array], values: Array) -> Array:
    # the extremes of nothing are infinite, so that they merge
    return np.where(s["count"] > 0, values, np.nan)


def _kind(number: int, name: str) -> Statistic:
    what = {"nan": "NaN", "posinf": "+inf", "neginf": "-inf"}[name]
    spec = Spec(
        "Int64", name, f"how many elements are {what}; missing where that was not counted, as on CUDA", missing=True
    )
    return Statistic(name, (NONFINITES.name,), lambda s: s[NONFINITES.name][:, number], spec, default=True)


_CHANNELS = Spec(
    "int64", "channels", "number of channels the statistics average over; 0 where it varies between batches"
)
_NUMEL = Spec("int64", "elements", "number of elements, over all merged batches and ranks")
_NONFINITE = Spec("int64", "non-finite values", "how many elements are NaN or infinite")
_DEAD = "share of channels whose spread is below 1e-6 of the tensor's rms, or that are all zero"
_SATURATED = "share of values within 1 % of a finite end of the activation's range; missing where there is none"

_ROWS = (
    _row("channels", "channels", lambda s: s["channels"], _CHANNELS),
    _row("numel", "count nonfinite", lambda s: s["count"] + s["nonfinite"], _NUMEL),
    _ratio("mean", "sum", "count", "mean", "mean over every element"),
    _row("var", "within between count", _var, number("variance", "biased variance over every element")),
    _row(
        "std",
        "within between count",
        lambda s: np.sqrt(_var(s)),
        number("standard deviation", "square root of the variance"),
    ),
    _ratio("mean_square", "squares", "count", "mean square", "mean of the squares over every element"),
    _row(
        "rms",
        "squares count",
        lambda s: np.sqrt(s["squares"] / s["count"]),
        number("root mean square", "square root of the mean square"),
    ),
    # ACSM and ACV: Brock, De & Smith 2021, section 3
    _ratio("acsm", "squared_means", "live", "average channel squared mean", "mean over channels of mean squared"),
    _ratio("acv", "variances", "live", "average channel variance", "mean over channels of the biased variance"),
    _row("min", "min count", lambda s: _if_any(s, s["min"]), number("minimum", "smallest finite element")),
    _row("max", "max count", lambda s: _if_any(s, s["max"]), number("maximum", "largest finite element")),
    _row(
        "abs_max",
        "min max count",
        lambda s: _if_any(s, np.maximum(np.abs(s["min"]), np.abs(s["max"]))),
        number("largest magnitude", "largest magnitude of a finite element"),
    ),
    _ratio("zero_fraction", "zeros", "count", "share of zeros", "share of exact zeros"),
    _ratio("dead_fraction", "dead", "live", "share of dead channels", _DEAD),
    _ratio("saturated_fraction", "saturated", "count", "share of saturated values", _SATURATED),
    _row("nonfinite", "nonfinite", lambda s: s["nonfinite"], _NONFINITE),
    *(_kind(*kind) for kind in enumerate(("nan", "posinf", "neginf"))),
    Statistic(
        "kurtosis",
        (FOURTH.name,),
        lambda s: kurtosis(s[FOURTH.name]),
        number("kurtosis", "fourth standardized moment, where asked for"),
    ),
)

STATISTICS: Registry[Statistic] = Registry(
    "statistic", {row.name: row for row in _ROWS}, of=Statistic, describe=lambda row: row.column.meaning
)
"""Every statistic there is, in the order of the frame."""

BUILT_IN = frozenset(STATISTICS)
"""Those whose columns every frame has, if only with missing values."""

for _sum in (FOURTH, POWERS):
    SUMS.register(_sum.name, _sum)


def register_statistic(statistic: Statistic, *, replace: bool = False) -> Statistic:
    """Make a statistic known by its name, from inside or outside the package; returns it.

    Sums of its own are registered with it. Over known sums it costs nothing; a new sum is computed by torch beside the sweep.

    Args:
        statistic: The row.
        replace: Whether one of that name may be there already.

    Raises:
        InputError: The name is taken, or the column is not of numbers.
        UnknownNameError: It needs a sum that nobody knows.
    """
    if statistic.column.dtype not in ("float64", "int64"):
        raise InputError(
            "a statistic is a column of float64 or int64",
            received=statistic.column.dtype,
            where=f"statistic {statistic.name!r}",
        )
    for need in statistic.needs:
        if isinstance(need, Sum) and SUMS.get(need.name) is not need:
            SUMS.register(need.name, need, replace=replace)
        elif isinstance(need, str) and need not in _KNOWN and need not in SUMS:
            raise UnknownNameError("sum", need, [*_KNOWN, *SUMS], where=f"statistic {statistic.name!r}")
    return STATISTICS.register(statistic.name, statistic, replace=replace)


def asked_for(statistics: Iterable[str | Statistic] | str | Statistic, *more: str) -> tuple[Statistic, ...]:
    """The rows that are named, beyond those of every frame; rows that are not registered yet become so.

    Raises:
        UnknownNameError: There is no such statistic.
        InputError: Another row has the name already.
    """
    every = [*([statistics] if isinstance(statistics, str | Statistic) else statistics), *more]
    for row in every:
        if isinstance(row, Statistic) and STATISTICS.get(row.name) is not row:
            register_statistic(row)
    rows = (row if isinstance(row, Statistic) else STATISTICS.row(row, where="statistics") for row in every)
    return tuple({row.name: row for row in rows if not row.default}.values())


def further_sums(statistics: Iterable[Statistic]) -> tuple[Sum, ...]:
    """The sums that some statistics need beside those that every backend gives."""
    names = dict.fromkeys(need.name if isinstance(need, Sum) else need for row in statistics for need in row.needs)
    return tuple(SUMS[name] for name in names if name not in _KNOWN)


def summarize(readings: Sequence[Sums] | Array, statistics: Iterable[Statistic] = ()) -> Numbers:
    """Turn the sums of ``R`` readings into numbers, all rows at once.

    Args:
        readings: The sums, or their :func:`~spp.stats.sums.totals`, ``(R, 15)``.
        statistics: Those asked for beyond the ones that every frame has.

    Returns:
        By the name of the statistic, ``(R,)``; NaN where a reading has no finite element.
    """
    whole = readings if isinstance(readings, np.ndarray) else totals(readings)
    sums: dict[str, Array] = {total.name.lower(): whole[:, total] for total in Total}
    # read anew each time: somebody may have registered a row since
    rows = [row for row in STATISTICS.values() if row.default]
    rows += [row for row in statistics if not row.default]
    if not isinstance(readings, np.ndarray):
        for one in further_sums(rows):
            if one is not NONFINITES:
                sums[one.name] = one.of_rows([reading.further[one.name] for reading in readings])
    sums[NONFINITES.name] = _kinds(readings, sums["nonfinite"])
    # a tensor without finite elements is divided by zero, and is NaN
    with np.errstate(divide="ignore", invalid="ignore"):
        numbers = {row.name: np.asarray(row.formula(sums)).astype(_in_numpy(row)) for row in rows}
    if not isinstance(readings, np.ndarray):
        for i in map(int, np.flatnonzero(far(np.maximum(-sums["min"], sums["max"])))):
            if (table := readings[i].further.get(FOURTH.name)) is not None:
                for name, value in at_the_ends(table.cpu().numpy()).items():
                    numbers[name][i] = value
    return numbers


def _in_numpy(row: Statistic) -> str:
    # integers that may be missing become so in the table
    return "float64" if row.column.dtype == "Int64" else row.column.dtype


def _kinds(readings: Sequence[Sums] | Array, nonfinite: Array) -> Array:
    """NaN, +inf and -inf of each reading, ``(R, 3)``: none where all is finite, missing where they were not told apart."""
    out = np.where(nonfinite[:, None] > 0, np.nan, np.zeros(3))
    if not isinstance(readings, np.ndarray):
        for i in map(int, np.flatnonzero(nonfinite)):
            if (found := readings[i].further.get(NONFINITES.name)) is not None:
                out[i] = found.cpu().numpy()
    return out


_KNOWN = frozenset(total.name.lower() for total in Total)
