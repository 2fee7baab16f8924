"""Sites in, DataFrames out: the frame, the blocks, the modules and what was not measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from spp._pytree import dtype_name, shape_name
from spp.capture.facts import ModuleFacts
from spp.capture.unmeasured import Unmeasured
from spp.frame.accumulate import Accumulator, Row
from spp.frame.schema import (
    BLOCK_COLUMNS,
    CHANNEL_COLUMNS,
    CHANNEL_STATISTICS,
    COLUMNS,
    EXPONENT_COLUMNS,
    MODULE_COLUMNS,
    UNMEASURED_COLUMNS,
    BlockColumn,
    ChannelColumn,
    Column,
    ExponentColumn,
    ModuleColumn,
    Spec,
    UnmeasuredColumn,
)
from spp.stats.backends.layout import Row as Sum
from spp.stats.extra import LOWEST, Shaped, kurtosis, plain_sums
from spp.stats.sums import Array, Moments, Summary, summarize
from spp.vocabulary import ALL, Signal

_C = TypeVar("_C", bound=StrEnum)
_SIGNAL_ORDER = {signal: i for i, signal in enumerate(ALL)}


def build_frame(rows: Sequence[Row], blocks: Iterable[str], step: int = 0) -> pd.DataFrame:
    """The frame of :mod:`spp.frame.schema`: activations and gradients by depth, then weights and theirs.

    Args:
        rows: What was measured, merged over batches.
        blocks: Names of the residual blocks.
        step: The training step, 0 for a trace.
    """
    rows = sorted(rows, key=row_order)
    numbers = summarize([plain_sums(row.moments) for row in rows])
    columns = {
        Column.STEP: np.full(len(rows), step, dtype=np.int64),
        **word_columns(rows, blocks),
        **number_columns(numbers, np.array([row.bounded for row in rows], dtype=bool)),
        Column.KURTOSIS: _kurtoses(rows),
    }
    return table_of(columns, COLUMNS)


def word_columns(rows: Sequence[Row], blocks: Iterable[str]) -> dict[Column, object]:
    """The columns that say what each row is about."""
    enclosing = _Enclosing(blocks)
    return {
        Column.DEPTH: _integers([row.depth for row in rows]),
        Column.NAME: [row.name for row in rows],
        Column.CALL: np.array([row.call for row in rows], dtype=np.int64),
        Column.OUTPUT: [row.output for row in rows],
        Column.TYPE: _open_category([row.type for row in rows]),
        Column.KIND: _category([row.kind for row in rows], COLUMNS[Column.KIND].categories),
        Column.LEAF: np.array([row.leaf for row in rows], dtype=bool),
        Column.SIGNAL: _category([row.signal for row in rows], COLUMNS[Column.SIGNAL].categories),
        Column.ROLE: _category([row.role for row in rows], COLUMNS[Column.ROLE].categories),
        Column.BLOCK: [enclosing(row.name) for row in rows],
        Column.SHAPE: [shape_name(row.shape) for row in rows],
        Column.DTYPE: [dtype_name(row.dtype) for row in rows],
    }


def number_columns(numbers: Summary, bounded: npt.NDArray[np.bool_]) -> dict[Column, object]:
    """The columns that say what was measured; ``bounded`` marks the rows of bounded activations."""
    var, low, high = numbers.var, numbers.min, numbers.max
    return {
        Column.CHANNELS: numbers.channels,
        Column.NUMEL: numbers.numel,
        Column.MEAN: numbers.mean,
        Column.VAR: var,
        Column.STD: np.sqrt(var),
        Column.MEAN_SQUARE: numbers.mean_square,
        Column.RMS: np.sqrt(numbers.mean_square),
        Column.ACSM: numbers.acsm,
        Column.ACV: numbers.acv,
        Column.MIN: low,
        Column.MAX: high,
        Column.ABS_MAX: np.maximum(np.abs(low), np.abs(high)),
        Column.ZERO_FRACTION: numbers.zero_fraction,
        Column.DEAD_FRACTION: numbers.dead_fraction,
        Column.SATURATED_FRACTION: np.where(bounded, numbers.saturated_fraction, np.nan),
        Column.NONFINITE: numbers.nonfinite,
    }


def row_order(row: Row) -> tuple[int, int]:
    """Where a row stands in the frame: signals one after the other, each by depth, what never ran at the end."""
    return _SIGNAL_ORDER[row.signal], row.depth if row.depth is not None else 1 << 60


def build_exponents(rows: Sequence[Row]) -> pd.DataFrame:
    """How many values lie in each power of two, one row per tensor, sign and power that occurs; empty unless asked for."""
    found: dict[ExponentColumn, list[object]] = {column: [] for column in EXPONENT_COLUMNS}
    for row in rows:
        if not isinstance(row.moments, Shaped) or row.moments.histogram is None:
            continue
        counts = row.moments.histogram.cpu()
        for side, k in counts.nonzero().tolist():
            count = int(counts[side, k])
            values = (row.name, row.call, row.output, str(row.signal), 2 * side - 1, k + LOWEST, count)
            for column, value in zip(found, values, strict=True):
                found[column].append(value)
    columns: dict[ExponentColumn, object] = {
        column: pd.Categorical(values, categories=list(map(str, EXPONENT_COLUMNS[column].categories)))
        if EXPONENT_COLUMNS[column].categories
        else np.array(values, dtype=np.int64)
        if EXPONENT_COLUMNS[column].dtype == "int64"
        else values
        for column, values in found.items()
    }
    return table_of(columns, EXPONENT_COLUMNS)


def build_channels(rows: Sequence[Row], step: int = 0) -> pd.DataFrame:
    """How means and variances are spread over the channels of each tensor; empty unless channels were kept.

    Args:
        rows: What was measured, merged over batches.
        step: The training step, 0 for a trace.
    """
    kept = [(row, sums.packed) for row in rows if isinstance(sums := plain_sums(row.moments), Moments)]
    ranks = (0.1, 0.5, 0.9, 0.0, 1.0)
    numbers = np.full((2 * len(kept), len(ranks)), np.nan)
    for i, (_, packed) in enumerate(kept):
        table = packed.cpu().numpy()
        live = table[Sum.COUNT] > 0
        if live.any():
            each = table[Sum.MEAN, live], table[Sum.M2, live] / table[Sum.COUNT, live]
            numbers[2 * i : 2 * i + 2] = np.quantile(each, ranks, axis=1).T
    twice = [row for row, _ in kept for _ in CHANNEL_STATISTICS]
    columns: dict[ChannelColumn, object] = {
        ChannelColumn.STEP: np.full(len(twice), step, dtype=np.int64),
        ChannelColumn.DEPTH: _integers([row.depth for row in twice]),
        ChannelColumn.NAME: [row.name for row in twice],
        ChannelColumn.CALL: np.array([row.call for row in twice], dtype=np.int64),
        ChannelColumn.OUTPUT: [row.output for row in twice],
        ChannelColumn.SIGNAL: _category([row.signal for row in twice], tuple(Signal)),
        ChannelColumn.STATISTIC: _category(list(CHANNEL_STATISTICS) * len(kept), CHANNEL_STATISTICS),
        ChannelColumn.P10: numbers[:, 0],
        ChannelColumn.P50: numbers[:, 1],
        ChannelColumn.P90: numbers[:, 2],
        ChannelColumn.MIN: numbers[:, 3],
        ChannelColumn.MAX: numbers[:, 4],
    }
    return table_of(columns, CHANNEL_COLUMNS)


def _kurtoses(rows: Sequence[Row]) -> Array:
    out = np.full(len(rows), np.nan)
    for i, row in enumerate(rows):
        if isinstance(row.moments, Shaped) and row.moments.fourth is not None:
            out[i] = kurtosis(row.moments.fourth)
    return out


def build_blocks(measured: Accumulator, step: int = 0) -> pd.DataFrame:
    """The residual-block view: one row per merge, in order."""
    return table_of(block_columns(measured, step), BLOCK_COLUMNS)


def block_columns(measured: Accumulator, step: int = 0) -> dict[BlockColumn, object]:
    """The columns of :func:`build_blocks`, for a table that is made when it is asked for.

    A block's last merge is described at the block's output, an earlier one at the skip of the next, which is the stream as the
    block goes on to use it.
    """
    merges = measured.merges
    keys = [m.after for m in merges], [m.branch_end for m in merges]
    numbers: dict[tuple[str, int], Summary | None] = {}
    found: dict[tuple[str, int], list[int]] = {}
    for name, signal in (("value", Signal.ACTIVATION), ("gradient", Signal.GRADIENT)):
        for which, places in enumerate(keys):
            sums = [measured.sums(key, signal) for key in places]
            found[name, which] = [k for k, one in enumerate(sums) if one is not None]
            numbers[name, which] = summarize([plain_sums(one) for one in sums if one is not None])

    def column(name: str, which: int, statistic: str) -> Array:
        out = np.full(len(merges), np.nan)
        summary = numbers[name, which]
        if summary is not None:
            out[found[name, which]] = getattr(summary, statistic)
        return out

    return {
        BlockColumn.STEP: np.full(len(merges), step, dtype=np.int64),
        BlockColumn.DEPTH: _integers([m.depth for m in merges]),
        BlockColumn.BLOCK: [m.block for m in merges],
        BlockColumn.MERGE: np.array([m.number for m in merges], dtype=np.int64),
        BlockColumn.CALL: np.array([m.call for m in merges], dtype=np.int64),
        BlockColumn.BRANCH: [m.branch_name for m in merges],
        BlockColumn.SKIP: [m.skip_name for m in merges],
        BlockColumn.TRANSITION: np.array([m.transition for m in merges], dtype=bool),
        BlockColumn.ACSM: column("value", 0, "acsm"),
        BlockColumn.ACV: column("value", 0, "acv"),
        BlockColumn.BRANCH_ACV: column("value", 1, "acv"),
        BlockColumn.GRADIENT_ACSM: column("gradient", 0, "acsm"),
        BlockColumn.GRADIENT_ACV: column("gradient", 0, "acv"),
        BlockColumn.GRADIENT_BRANCH_ACV: column("gradient", 1, "acv"),
    }


def build_modules(facts: Sequence[ModuleFacts]) -> pd.DataFrame:
    """One row per module, with the facts that explain its signals."""
    columns: dict[ModuleColumn, object] = {
        ModuleColumn.NAME: [f.name for f in facts],
        ModuleColumn.ALIASES: [" ".join(f.aliases) for f in facts],
        ModuleColumn.TYPE: _open_category([f.type for f in facts]),
        ModuleColumn.KIND: _category([f.kind for f in facts], MODULE_COLUMNS[ModuleColumn.KIND].categories),
        ModuleColumn.DEPTH: _integers([f.depth for f in facts]),
        ModuleColumn.CALLS: np.array([f.calls for f in facts], dtype=np.int64),
        ModuleColumn.LEAF: np.array([f.leaf for f in facts], dtype=bool),
        ModuleColumn.TRAINING: np.array([f.training for f in facts], dtype=bool),
        ModuleColumn.PARAMETERS: np.array([f.parameters for f in facts], dtype=np.int64),
        ModuleColumn.TRAINABLE: np.array([f.trainable for f in facts], dtype=np.int64),
        ModuleColumn.FAN_IN: _integers([f.fan_in for f in facts]),
        ModuleColumn.FAN_OUT: _integers([f.fan_out for f in facts]),
        ModuleColumn.GROUPS: _integers([f.groups for f in facts]),
        ModuleColumn.EPS: np.array([np.nan if f.eps is None else f.eps for f in facts], dtype=np.float64),
        ModuleColumn.ACTIVATION: [f.activation for f in facts],
        ModuleColumn.TIED: [f.tied for f in facts],
        ModuleColumn.INPUTS: [f.inputs for f in facts],
    }
    return table_of(columns, MODULE_COLUMNS)


def build_unmeasured(rows: Sequence[Unmeasured]) -> pd.DataFrame:
    """One row per thing that was not measured."""
    return table_of(unmeasured_columns(rows), UNMEASURED_COLUMNS)


def unmeasured_columns(rows: Sequence[Unmeasured]) -> dict[UnmeasuredColumn, object]:
    """The columns of :func:`build_unmeasured`, for a table that is made when it is asked for."""
    unique = list({row.key: row for row in rows}.values())
    return {
        UnmeasuredColumn.NAME: [u.name for u in unique],
        UnmeasuredColumn.TYPE: _open_category([u.type for u in unique]),
        UnmeasuredColumn.CALL: _integers([u.call for u in unique]),
        UnmeasuredColumn.OUTPUT: [u.output for u in unique],
        UnmeasuredColumn.SIGNAL: _category([u.signal for u in unique], tuple(Signal)),
        UnmeasuredColumn.REASON: [u.reason for u in unique],
    }


class _Enclosing:
    """The innermost residual block around a module, by qualified name."""

    def __init__(self, blocks: Iterable[str]) -> None:
        self._blocks, self._known = set(blocks), dict[str, str | None]()

    def __call__(self, name: str) -> str | None:
        if name not in self._known:
            parent, found = name, None
            while True:
                if parent in self._blocks:
                    found = parent
                    break
                if not parent:
                    break
                parent = parent.rpartition(".")[0]
            self._known[name] = found
        return self._known[name]


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
    return pd.CategoricalDtype(list(names))


def _open_category(values: Sequence[str]) -> pd.Categorical:
    return _category(values, sorted(set(values)))


def table_of(columns: Mapping[_C, object], specs: Mapping[_C, Spec]) -> pd.DataFrame:
    """A table of columns that are arrays already, or lists of words."""
    data = {
        str(name): pd.array(values, dtype="str") if specs[name].dtype == "str" else values  # type: ignore[call-overload]
        for name, values in columns.items()
    }
    return pd.DataFrame(data, copy=False)
