"""The Signal Propagation Plot of Brock, De & Smith (2021): ACSM, ACV and residual branch ACV by residual block."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from spp.errors import InputError, UnknownNameError
from spp.frame.schema import BLOCK_COLUMNS, BlockColumn
from spp.plot.panels import PLURAL, Grid, Panel, Scale, as_signals, at_step, choose_scale, ylabel, zeros
from spp.plot.stages import Family, Tick, stages
from spp.vocabulary import Signal

XLABEL = "residual block (execution order)"

DRAWN: dict[str, tuple[str, dict[Signal, BlockColumn]]] = {
    "acsm": ("ACSM", {Signal.ACTIVATION: BlockColumn.ACSM, Signal.GRADIENT: BlockColumn.GRADIENT_ACSM}),
    "acv": ("ACV", {Signal.ACTIVATION: BlockColumn.ACV, Signal.GRADIENT: BlockColumn.GRADIENT_ACV}),
    "branch_acv": (
        "branch ACV",
        {Signal.ACTIVATION: BlockColumn.BRANCH_ACV, Signal.GRADIENT: BlockColumn.GRADIENT_BRANCH_ACV},
    ),
}
"""By statistic: its short name and the column of each signal."""


def block_panels(
    blocks: pd.DataFrame,
    *,
    signals: Sequence[str] | str | None = None,
    statistics: Sequence[str] | str | None = None,
    step: int | None = None,
) -> tuple[Grid, int]:
    """Make the panels of the ``blocks`` figure, and say which step they show.

    Args:
        blocks: Table with the columns of ``spp.frame.schema.BLOCK_COLUMNS``.
        signals: ``activation`` and ``gradient``; the first alone when left out.
        statistics: Any of ``acsm``, ``acv``, ``branch_acv``; all three when left out.
        step: Step to draw; the last one when left out.

    Raises:
        InputError: The network has no residual merge.
        UnknownNameError: A signal or statistic that blocks do not have.
    """
    chosen = as_signals(signals, (Signal.ACTIVATION,), (Signal.ACTIVATION, Signal.GRADIENT))
    names = tuple(DRAWN) if statistics is None else (statistics,) if isinstance(statistics, str) else tuple(statistics)
    for name in names:
        if name not in DRAWN:
            raise UnknownNameError("statistic", name, DRAWN, where="statistics")
    if blocks.empty:
        raise InputError(
            "the blocks figure needs residual merges",
            received="a network without one",
            where="kind",
            remedy='Draw kind="layers" instead.',
        )
    rows, step = at_step(blocks, BlockColumn.STEP, step)
    rows = rows.sort_values(BlockColumn.DEPTH, kind="stable")
    return tuple(tuple(_panel(rows, signal, name) for name in names) for signal in chosen), step


def _labels(rows: pd.DataFrame) -> list[str]:
    names = rows[BlockColumn.BLOCK].astype(str)
    several = names.duplicated(keep=False).to_numpy()
    count = rows.groupby(names.to_numpy()).cumcount().to_numpy() + 1
    return [f"{name} #{k}" if many else name for name, k, many in zip(names, count, several, strict=True)]


def _panel(rows: pd.DataFrame, signal: Signal, statistic: str) -> Panel:
    short, columns = DRAWN[statistic]
    column = columns[signal]
    columns_of = {name: by_signal[signal] for name, (_, by_signal) in DRAWN.items()}
    y = rows[column].to_numpy(dtype=np.float64)
    share = rows[columns_of["acsm"]] + rows[columns_of["acv"]]  # the mean square after the merge
    zero = zeros(y, None if statistic == "branch_acv" else share.to_numpy(dtype=np.float64))
    scale, threshold = choose_scale(y, zero)
    labels = _labels(rows)
    bands = stages([f"{name}.merge" for name in rows[BlockColumn.BLOCK]], least=1)
    starts = {span.start for span in bands} or {0}
    missing = not np.isfinite(y).any()
    full = BLOCK_COLUMNS[columns[Signal.ACTIVATION]].label
    return Panel(
        signal=signal,
        statistic=str(column),
        title=full if short == "branch ACV" else f"{short}, {full}",
        xlabel=XLABEL,
        ylabel=ylabel(short, signal, scale),
        size=len(rows),
        x=np.arange(len(rows), dtype=np.float64),
        y=y,
        names=tuple(labels),
        families=(Family.OTHER,) * len(rows),
        first=np.ones(len(rows), dtype=np.bool_),
        zero=zero,
        nonfinite=~np.isfinite(y),
        transitions=tuple(np.flatnonzero(rows[BlockColumn.TRANSITION].to_numpy()).astype(float)),
        scale=Scale(scale),
        threshold=threshold,
        stages=bands,
        ticks=tuple(
            Tick(x, x, label, level) for x, label in enumerate(labels) for level in (2, 0 if x in starts else 1)
        ),
        message=f"{PLURAL[signal]} not measured:\nthe trace holds none at residual merges" if missing else "",
    )
