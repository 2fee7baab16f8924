"""Sites in, DataFrames out: the frame, the blocks, the modules and what was not measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor

from spp._pytree import dtype_name, shape_name
from spp.capture.dataflow import entering, wiring
from spp.capture.parameters import parameters_of
from spp.capture.sites import Call, Entry
from spp.capture.unmeasured import Unmeasured
from spp.errors import InputError
from spp.frame.accumulate import Accumulator, Row
from spp.frame.schema import (
    BLOCK_COLUMNS,
    CHANNEL_COLUMNS,
    CHANNEL_STATISTICS,
    COLUMNS,
    EXPONENT_COLUMNS,
    STATISTICS,
    STEP_COLUMNS,
    UNMEASURED_COLUMNS,
    BlockColumn,
    ChannelColumn,
    Column,
    ExponentColumn,
    ModuleColumn,
    Spec,
    StepColumn,
    UnmeasuredColumn,
)
from spp.stats.extra import BINS, LOWEST, POWERS
from spp.stats.statistics import Numbers, Statistic, summarize
from spp.stats.sums import Sums
from spp.vocabulary import ALL, Signal

_C = TypeVar("_C", bound=StrEnum)
_OF_A_ROW = (
    *(Column.DEPTH, Column.NAME, Column.CALL, Column.OUTPUT, Column.TYPE),
    *(Column.KIND, Column.LEAF, Column.SIGNAL, Column.ROLE),
)
_QUANTILES = {
    ChannelColumn.P10: 0.1,
    ChannelColumn.P50: 0.5,
    ChannelColumn.P90: 0.9,
    ChannelColumn.MIN: 0.0,
    ChannelColumn.MAX: 1.0,
}
_SIGNAL_ORDER = {signal: i for i, signal in enumerate(ALL)}


def build_frame(
    rows: Sequence[Row], blocks: Iterable[str], step: int = 0, statistics: Sequence[Statistic] = ()
) -> pd.DataFrame:
    """The frame of :mod:`spp.frame.schema`: activations and gradients by depth, then weights and theirs.

    Args:
        rows: What was measured, merged over batches.
        blocks: Names of the residual blocks.
        step: The training step, 0 for a trace.
        statistics: Those that were asked for beyond the ones that every frame has; their columns come last.
    """
    rows = sorted(rows, key=row_order)
    numbers = summarize([row.sums for row in rows], statistics)
    columns: dict[Column, object] = {
        Column.STEP: np.full(len(rows), step, dtype=np.int64),
        **word_columns(rows, blocks),
        **number_columns(numbers, np.array([row.bounded for row in rows], dtype=bool)),
    }
    frame = table_of(columns, COLUMNS)
    for statistic in statistics:
        if statistic.name in STATISTICS:
            continue
        if statistic.name in frame:
            raise InputError("a statistic has a column of its own", received=statistic.name, where="statistics")
        frame[statistic.name] = numbers[statistic.name]
    return frame


def word_columns(rows: Sequence[Row], blocks: Iterable[str]) -> dict[Column, object]:
    """The columns that say what each row is about."""
    enclosing = _Enclosing(blocks)
    return {
        # these are fields of a row under the names of their columns
        **{column: list(map(attrgetter(column.value), rows)) for column in _OF_A_ROW},
        Column.BLOCK: [enclosing[row.name] for row in rows],
        Column.SHAPE: [shape_name(row.shape) for row in rows],
        Column.DTYPE: [dtype_name(row.dtype) for row in rows],
        Column.CALLED: [row.called for row in rows],
    }


def number_columns(numbers: Numbers, bounded: npt.NDArray[np.bool_]) -> dict[Column, object]:
    """The columns that say what was measured; ``bounded`` marks the rows of bounded activations."""
    missing = np.full(len(bounded), np.nan)
    columns = {column: numbers.get(column, missing) for column in (Column.CHANNELS, Column.NUMEL, *STATISTICS)}
    columns[Column.SATURATED_FRACTION] = np.where(bounded, columns[Column.SATURATED_FRACTION], np.nan)
    nullable = [column for column in columns if COLUMNS[column].dtype == "Int64"]
    return {**columns, **{column: _nullable(columns[column]) for column in nullable}}


def _nullable(values: npt.NDArray[np.float64]) -> pd.arrays.IntegerArray:
    missing = np.isnan(values)
    return pd.arrays.IntegerArray(np.where(missing, 0, values).astype(np.int64), missing)


def row_order(row: Row) -> tuple[int, int]:
    """Where a row stands in the frame: signals one after the other, each by depth, what never ran at the end."""
    return _SIGNAL_ORDER[row.signal], row.depth if row.depth is not None else 1 << 60


def build_exponents(rows: Sequence[Row]) -> pd.DataFrame:
    """How many values lie in each power of two, one row per tensor, sign and power that occurs; empty unless asked for."""
    # one row of zeros, which puts nothing out, so that there is something to stack where nothing was asked for
    asked = [row for row in rows if POWERS.name in row.sums.further]
    counts = np.stack(
        [np.zeros((2, BINS), dtype=np.int64), *(r.sums.further[POWERS.name].cpu().numpy() for r in asked)]
    )
    where, side, power = np.nonzero(counts)
    each = [asked[i - 1] for i in where]
    columns: dict[ExponentColumn, object] = {
        ExponentColumn.NAME: [row.name for row in each],
        ExponentColumn.CALL: [row.call for row in each],
        ExponentColumn.OUTPUT: [row.output for row in each],
        ExponentColumn.SIGNAL: [row.signal for row in each],
        ExponentColumn.SIGN: 2 * side - 1,
        ExponentColumn.EXPONENT: power + LOWEST,
        ExponentColumn.COUNT: counts[where, side, power],
    }
    return table_of(columns, EXPONENT_COLUMNS)


def build_channels(rows: Sequence[Row], step: int = 0) -> pd.DataFrame:
    """How means and variances are spread over the channels of each tensor; empty unless channels were kept.

    Args:
        rows: What was measured, merged over batches.
        step: The training step, 0 for a trace.
    """
    kept = [row for row in rows if not (row.sums.whole or row.sums.varying)]
    numbers = np.full((2 * len(kept), len(_QUANTILES)), np.nan)
    for i, row in enumerate(kept):
        count, mean, m2 = (row.sums[name].cpu().numpy() for name in ("count", "mean", "m2"))
        live = count > 0
        if live.any():
            numbers[2 * i : 2 * i + 2] = np.quantile(
                (mean[live], m2[live] / count[live]), list(_QUANTILES.values()), axis=1
            ).T
    twice = [row for row in kept for _ in CHANNEL_STATISTICS]
    columns: dict[ChannelColumn, object] = {
        ChannelColumn.STEP: np.full(len(twice), step, dtype=np.int64),
        ChannelColumn.DEPTH: [row.depth for row in twice],
        ChannelColumn.NAME: [row.name for row in twice],
        ChannelColumn.CALL: [row.call for row in twice],
        ChannelColumn.OUTPUT: [row.output for row in twice],
        ChannelColumn.SIGNAL: [row.signal for row in twice],
        ChannelColumn.STATISTIC: list(CHANNEL_STATISTICS) * len(kept),
        **dict(zip(_QUANTILES, numbers.T, strict=True)),
    }
    return table_of(columns, CHANNEL_COLUMNS)


def build_blocks(measured: Accumulator, step: int = 0) -> pd.DataFrame:
    """The residual-block view: one row per merge, in order."""
    return table_of(block_columns(measured, step), BLOCK_COLUMNS)


def block_columns(measured: Accumulator, step: int = 0) -> dict[BlockColumn, object]:
    """The columns of :func:`build_blocks`, for a table that is made when it is asked for.

    A block's last merge is described at the block's output, an earlier one at the skip of the next, which is the stream as the
    block goes on to use it.
    """
    merges = measured.merges
    places = [m.after for m in merges], [m.branch_end for m in merges]
    numbers = _known(
        [
            measured.sums(key, signal)
            for signal in (Signal.ACTIVATION, Signal.GRADIENT)
            for keys in places
            for key in keys
        ]
    )
    acsm, acv = (numbers[column].reshape(4, len(merges)) for column in (Column.ACSM, Column.ACV))
    return {
        BlockColumn.STEP: np.full(len(merges), step, dtype=np.int64),
        BlockColumn.DEPTH: [m.depth for m in merges],
        BlockColumn.BLOCK: [m.block for m in merges],
        BlockColumn.MERGE: [m.number for m in merges],
        BlockColumn.CALL: [m.call for m in merges],
        BlockColumn.BRANCH: [m.branch_name for m in merges],
        BlockColumn.SKIP: [m.skip_name for m in merges],
        BlockColumn.TRANSITION: [m.transition for m in merges],
        BlockColumn.ACSM: acsm[0],
        BlockColumn.ACV: acv[0],
        BlockColumn.BRANCH_ACV: acv[1],
        BlockColumn.GRADIENT_ACSM: acsm[2],
        BlockColumn.GRADIENT_ACV: acv[2],
        BlockColumn.GRADIENT_BRANCH_ACV: acv[3],
    }


def _known(readings: Sequence[Sums | None]) -> Numbers:
    """The numbers of those readings that are there, missing for the others."""
    there = [i for i, sums in enumerate(readings) if sums is not None]
    numbers = summarize([sums for sums in readings if sums is not None])
    out = {name: np.full(len(readings), np.nan) for name in numbers}
    for name, values in numbers.items():
        out[name][there] = values
    return out


def module_columns(
    entries: Sequence[Entry], calls: Mapping[str, tuple[int | None, int]], inputs: Mapping[str, list[Call]]
) -> dict[ModuleColumn, object]:
    """The columns of ``modules``: facts that explain signals, so that a diagnosis needs neither the model nor torch.

    They are taken while the modules are at hand; :func:`table_of` makes the table when it is asked for.

    Args:
        entries: The roster.
        calls: Depth of the first call and number of calls, by name.
        inputs: The calls of one pass, by name, for the wiring.
    """

    def of(get: Callable[[Entry], object]) -> list[object]:
        return [get(entry) for entry in entries]

    own = [parameters_of(entry.module) for entry in entries]
    seen = [calls.get(entry.name, (None, 0)) for entry in entries]
    return {
        ModuleColumn.NAME: of(lambda e: e.name),
        ModuleColumn.ALIASES: of(lambda e: " ".join(e.aliases)),
        ModuleColumn.TYPE: of(lambda e: e.type),
        ModuleColumn.KIND: of(lambda e: e.layer.kind),
        ModuleColumn.DEPTH: [depth for depth, _ in seen],
        ModuleColumn.CALLS: [number for _, number in seen],
        ModuleColumn.LEAF: of(lambda e: e.leaf),
        ModuleColumn.TRAINING: of(lambda e: bool(e.module.training)),
        ModuleColumn.PARAMETERS: [sum(p.numel() for _, p in named) for named in own],
        ModuleColumn.TRAINABLE: [sum(p.numel() for _, p in named if p.requires_grad) for named in own],
        ModuleColumn.FAN_IN: of(lambda e: e.layer.fan_in),
        ModuleColumn.FAN_OUT: of(lambda e: e.layer.fan_out),
        ModuleColumn.GROUPS: of(lambda e: e.layer.groups),
        ModuleColumn.EPS: of(lambda e: e.layer.eps),
        ModuleColumn.ACTIVATION: of(lambda e: e.layer.activation),
        ModuleColumn.TIED: _tied(entries, own),
        ModuleColumn.INPUTS: of(lambda e: wiring(inputs[e.name]) if e.name in inputs else None),
        ModuleColumn.INPUT_ROWS: of(lambda e: entering(inputs.get(e.name, [])) or None),
    }


def _tied(entries: Sequence[Entry], own: Sequence[Sequence[tuple[str, Tensor]]]) -> list[str | None]:
    """For each module the parameters that an earlier one has too, as ``name=owner.name``."""
    owner: dict[int, str] = {}
    tied: list[str | None] = []
    for entry, named in zip(entries, own, strict=True):
        shared = []
        for name, parameter in named:
            known = owner.setdefault(id(parameter), qualified := f"{entry.name}.{name}" if entry.name else name)
            if known is not qualified:
                shared.append(f"{name}={known}")
        tied.append(" ".join(shared) or None)
    return tied


StepRow = tuple[int, float, bool, float, float]
"""The values of :class:`StepColumn`."""


def build_steps(rows: Iterable[StepRow] = ()) -> pd.DataFrame:
    """One row per measured step."""
    steps = list(rows)
    return table_of({column: [row[i] for row in steps] for i, column in enumerate(StepColumn)}, STEP_COLUMNS)


def build_unmeasured(rows: Sequence[Unmeasured]) -> pd.DataFrame:
    """One row per thing that was not measured."""
    return table_of(unmeasured_columns(rows), UNMEASURED_COLUMNS)


def unmeasured_columns(rows: Sequence[Unmeasured]) -> dict[UnmeasuredColumn, object]:
    """The columns of :func:`build_unmeasured`, for a table that is made when it is asked for."""
    unique = list({row.key: row for row in rows}.values())
    return {column: [getattr(row, column) for row in unique] for column in UnmeasuredColumn}


class _Enclosing(dict[str, str | None]):
    """The innermost residual block around a module, by the qualified name of either."""

    def __init__(self, blocks: Iterable[str]) -> None:
        super().__init__({block: block for block in blocks})
        # around the root is nothing
        self.setdefault("", None)

    def __missing__(self, name: str) -> str | None:
        self[name] = found = self[name.rpartition(".")[0]]
        return found


def _integers(values: Sequence[int | None]) -> pd.arrays.IntegerArray:
    missing = np.array([v is None for v in values], dtype=bool)
    return pd.arrays.IntegerArray(np.array([v or 0 for v in values], dtype=np.int64), missing)


def _category(values: Sequence[str | None], categories: Iterable[str]) -> pd.Categorical:
    """Like ``pd.Categorical(values, categories)``, at a tenth of the time: the codes are looked up here."""
    names = tuple(map(str, categories))
    code: dict[str | None, int] = {name: i for i, name in enumerate(names)}
    code[None] = -1
    codes = np.array([code[v] for v in values], dtype=np.int8 if len(names) < 128 else np.int32)
    dtype: Any = _categorical(names)
    look_up: Any = pd.Categorical.from_codes  # typed for integer categories alone
    out: pd.Categorical = look_up(codes, dtype=dtype, validate=False)
    return out


@lru_cache(maxsize=64)
def _categorical(names: tuple[str, ...]) -> pd.CategoricalDtype:
    # no names at all would be categories of objects
    return pd.CategoricalDtype(pd.Index(names, dtype="str"))


def table_of(columns: Mapping[_C, object], specs: Mapping[_C, Spec]) -> pd.DataFrame:
    """A table of columns that are arrays already, or lists of values, in the dtypes of the schema."""
    try:
        data = {str(name): _filled(values, specs[name]) for name, values in columns.items()}
        return pd.DataFrame(data, copy=False)
    # pandas keeps text in Arrow's UTF-8, which has no lone surrogates
    except UnicodeEncodeError as error:
        raise InputError(
            "names are text that UTF-8 can hold", received=ascii(error.object[:80]), remedy="Rename the module"
        ) from error


def _filled(values: Any, spec: Spec) -> Any:
    if not isinstance(values, list):
        return values
    if spec.dtype == "Int64":
        return _integers(values)
    if spec.dtype == "category":
        return _category(values, spec.categories or sorted(set(values)))
    if spec.dtype == "str":
        return pd.array(values, dtype="str")
    # None becomes NaN
    return np.array(values, dtype=spec.dtype)
