"""The main path: a network cut into consecutive components, in the order in which the signal meets them.

Leaves are too fine for a summary: the gate of a squeeze-excite block lies beside the path, and the convolutions of a
residual branch may shrink while the sum grows. A component is a residual block, a sibling of the same class that has no
skip (as the first block of each EfficientNet stage), or the outermost module that holds neither. Where a network has no
residual block, containers that hold more than half of the leaves are opened until none does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from spp.frame.schema import COMPONENT_COLUMNS, BlockColumn, Column, ComponentColumn, last_step, one_mode
from spp.vocabulary import LEARNED, Signal


def components(frame: pd.DataFrame) -> dict[str, list[str]]:
    """Cut the network of ``frame`` into components.

    Args:
        frame: A frame of one step, with the columns of ``spp.frame.schema.COLUMNS``.

    Returns:
        The leaves of each component, by the component's qualified name; both in the order of the first pass. Empty when
        no activation of a leaf was measured.
    """
    rows = frame[frame[Column.SIGNAL] == Signal.ACTIVATION].dropna(subset=[Column.DEPTH]).sort_values(Column.DEPTH)
    types = dict(zip(rows[Column.NAME].astype(str), rows[Column.TYPE].astype(str), strict=True))
    leaves = list(dict.fromkeys(rows.loc[rows[Column.LEAF], Column.NAME].astype(str)))
    return cut(types, leaves, {str(name) for name in frame[Column.BLOCK].dropna().unique()} - {""})


def cut(types: Mapping[str, str], leaves: list[str], residual: set[str]) -> dict[str, list[str]]:
    """The same by the types of what ran, its leaves in order, and the residual blocks."""
    blocks = _blocks(residual, types)
    opened = {""} | {ancestor for block in blocks for ancestor in prefixes(block) if ancestor != block}
    if not blocks:
        _open_large(leaves, opened)
    found: dict[str, list[str]] = {}
    for leaf in leaves:
        found.setdefault(_component(leaf, blocks, opened), []).append(leaf)
    return found


def along(frame: pd.DataFrame, signal: Signal) -> pd.DataFrame:
    """Return the rows of ``signal`` at the end of each component, in forward order, indexed by the component's name.

    The end of a component is its own output where that was measured, else the output of its last leaf; of several calls
    the last one counts, of several outputs the first.
    """
    frame = of_signals(frame)
    rows = frame[(frame[Column.SIGNAL] == signal) & frame[Column.DEPTH].notna()]
    last_call = rows.groupby(Column.NAME)[Column.CALL].transform("max")
    # Rows of one name are in the order of its outputs, of which the first is the main one.
    rows = rows[rows[Column.CALL] == last_call].drop_duplicates(Column.NAME).set_index(Column.NAME, drop=False)
    ends: list[str] = []
    labels: list[str] = []
    for component, leaves in components(frame).items():
        present = [name for name in (component, *reversed(leaves)) if name in rows.index]
        if present:
            ends.append(present[0])
            labels.append(component)
    path = rows.loc[ends]
    path.index = pd.Index(labels, dtype="str", name="component")
    return path.sort_values(Column.DEPTH, kind="stable")


def at_ends(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows at the end of each component (see ``along``) of activations and gradients, at all steps, named after it.

    Components are those of the last step; each row is the last call's, numbered 0, and of its first output.
    """
    frame = of_signals(frame)
    found = []
    for signal in (Signal.ACTIVATION, Signal.GRADIENT):
        ends = along(last_step(frame), signal)[Column.NAME].astype(str)
        owner = {name: component for component, name in ends.items()}
        rows = frame[(frame[Column.SIGNAL] == signal) & frame[Column.NAME].isin(owner) & frame[Column.DEPTH].notna()]
        last = rows.groupby([Column.STEP, Column.NAME], observed=True)[Column.CALL].transform("max")
        rows = rows[rows[Column.CALL] == last].drop_duplicates([Column.STEP, Column.NAME]).copy()
        rows[Column.NAME], rows[Column.CALL] = rows[Column.NAME].astype(str).map(owner), 0
        found.append(rows)
    return pd.concat(found)


def component_table(frame: pd.DataFrame, blocks: pd.DataFrame) -> pd.DataFrame:
    """One row per component, of the last step of a run.

    Args:
        frame: A frame of any number of steps.
        blocks: Its residual merges.

    Returns:
        The columns of :data:`spp.frame.schema.COMPONENT_COLUMNS`, in forward order.
    """
    frame, merges = of_signals(last_step(frame)), one_mode(blocks)
    merges = merges[merges[BlockColumn.STEP] == frame[Column.STEP].max()].drop_duplicates(
        BlockColumn.BLOCK, keep="last"
    )
    stream, back = along(frame, Signal.ACTIVATION), along(frame, Signal.GRADIENT)
    names = [str(name) for name in stream.index]
    weights = frame[frame[Column.SIGNAL] == Signal.WEIGHT]
    owner = {leaf: component for component, leaves in components(frame).items() for leaf in (component, *leaves)}
    sizes = weights[Column.NUMEL].groupby(weights[Column.NAME].map(owner)).sum()
    squares = (weights[Column.MEAN_SQUARE] * weights[Column.NUMEL]).groupby(weights[Column.NAME].map(owner)).sum()
    branch = merges.set_index(BlockColumn.BLOCK)[BlockColumn.BRANCH_ACV]
    columns: dict[ComponentColumn, object] = {
        ComponentColumn.NAME: pd.array(names, dtype="str"),
        ComponentColumn.KIND: stream[Column.KIND].array,
        ComponentColumn.DEPTH: stream[Column.DEPTH].array,
        ComponentColumn.ACSM: stream[Column.ACSM].to_numpy(),
        ComponentColumn.ACV: stream[Column.ACV].to_numpy(),
        ComponentColumn.BRANCH_ACV: branch.reindex(names).to_numpy(np.float64),
        ComponentColumn.GRADIENT_MEAN_SQUARE: back[Column.MEAN_SQUARE].reindex(names).to_numpy(np.float64),
        ComponentColumn.WEIGHT_MEAN_SQUARE: (squares / sizes).reindex(names).to_numpy(np.float64),
        ComponentColumn.NONFINITE: stream[Column.NONFINITE].to_numpy(),
    }
    return pd.DataFrame({str(column): columns[column] for column in COMPONENT_COLUMNS}, copy=False)


def _blocks(residual: set[str], types: Mapping[str, str]) -> set[str]:
    """Residual blocks and their siblings of the same class, innermost ones only."""
    classes = {types[name] for name in residual if name in types}
    blocks = residual | {name for name, kind in types.items() if kind in classes and name}
    outer = {prefix for name in blocks for prefix in prefixes(name) if prefix != name}
    return blocks - outer


def _component(leaf: str, blocks: set[str], opened: set[str]) -> str:
    """Name of the component that ``leaf`` belongs to: its block, else the shortest prefix that is not opened."""
    around = list(prefixes(leaf))
    for prefix in around:
        if prefix in blocks:
            return prefix
    return next((prefix for prefix in around if prefix not in opened), leaf)


def _open_large(leaves: list[str], opened: set[str]) -> None:
    """Add to ``opened`` every container that holds more than half of ``leaves``, outermost first."""
    # What lies inside an opened container may be as large: open until nothing is.
    while True:
        sizes = Counter(_component(leaf, set(), opened) for leaf in leaves)
        large = [name for name, size in sizes.items() if 2 * size > len(leaves) and name not in leaves]
        if not large:
            return
        opened.update(large)


def prefixes(name: str) -> Iterator[str]:
    """``a``, ``a.b``, ``a.b.c`` for ``a.b.c``."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        yield ".".join(parts[:end])


def of_signals(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the rows about what neuron-wise layers learned: they are no signal, and dead neurons have NaN there."""
    return frame[~frame[Column.OUTPUT].str.startswith(LEARNED)]
