"""The Signal Propagation Plot of Brock, De & Smith (2021): ACSM, ACV and residual branch ACV by residual block."""

from __future__ import annotations

import numpy as np
import pandas as pd

from spp.errors import InputError
from spp.frame.schema import BLOCK_COLUMNS, BlockColumn
from spp.plot.kinds import Drawing, Request, figure
from spp.plot.panels import PLURAL, Family, Points, XAxis, choose_scale, ylabel, zeros
from spp.plot.series import as_signals, at_step, chosen
from spp.plot.stages import Tick, stages
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


@figure("blocks")
def blocks(request: Request) -> Drawing:
    """Residual merges in execution order: ACSM, ACV and branch ACV, the plot of Brock, De & Smith (2021).

    Takes ``signals`` (activations, where left out, and gradients), ``statistics`` (any of ``DRAWN``) and ``step``.
    """
    signals = as_signals(request.signals, (Signal.ACTIVATION,), (Signal.ACTIVATION, Signal.GRADIENT))
    names = chosen(request.statistics, DRAWN, DRAWN, "statistic")
    if request.blocks.empty:
        raise InputError(
            "the blocks figure needs residual merges",
            received="a network without one",
            where="kind",
            remedy='Draw kind="layers" instead.',
        )
    rows, step = at_step(request.blocks, request.step)
    # rows are known by their positions from here on: the report looks its numbers up by them
    rows = rows.set_axis(np.flatnonzero(request.blocks[BlockColumn.STEP] == step))
    rows = rows.sort_values(BlockColumn.DEPTH, kind="stable")
    labels, axis = _axis(rows)
    return Drawing(tuple(tuple(_panel(rows, signal, name, labels, axis) for name in names) for signal in signals), step)


def _axis(rows: pd.DataFrame) -> tuple[tuple[str, ...], XAxis]:
    """The name of each merge, numbered where a block has several, and the x axis."""
    names = rows[BlockColumn.BLOCK].astype(str)
    several = names.duplicated(keep=False).to_numpy()
    count = rows.groupby(names.to_numpy()).cumcount().to_numpy() + 1
    labels = tuple(f"{name} #{k}" if many else name for name, k, many in zip(names, count, several, strict=True))
    # stages are read off the names of layers, and a block is named like a module that holds some
    bands = stages([f"{name}.merge" for name in names], least=1)
    starts = {span.start for span in bands} or {0}
    ticks = [Tick(x, x, label, level) for x, label in enumerate(labels) for level in (2, 0 if x in starts else 1)]
    return labels, XAxis(XLABEL, len(rows), bands, tuple(ticks))


def _panel(rows: pd.DataFrame, signal: Signal, statistic: str, labels: tuple[str, ...], axis: XAxis) -> Points:
    short, columns = DRAWN[statistic]
    y = rows[columns[signal]].to_numpy(dtype=np.float64)
    # the mean square after the merge
    share = rows[DRAWN["acsm"][1][signal]] + rows[DRAWN["acv"][1][signal]]
    zero = zeros(y, None if statistic == "branch_acv" else share.to_numpy(dtype=np.float64))
    scale, threshold = choose_scale(y, zero)
    full = BLOCK_COLUMNS[columns[Signal.ACTIVATION]].label
    missing = not np.isfinite(y).any()
    return Points(
        signal=signal,
        statistic=str(columns[signal]),
        x_axis=axis,
        title=full if short == "branch ACV" else f"{short}, {full}",
        ylabel=ylabel(short, signal, scale),
        scale=scale,
        threshold=threshold,
        message=f"{PLURAL[signal]} not measured:\nthe trace holds none at residual merges" if missing else "",
        x=np.arange(len(rows), dtype=np.float64),
        y=y,
        rows=rows.index.to_numpy(dtype=np.int64),
        names=labels,
        families=(Family.OTHER,) * len(rows),
        joined=np.ones(len(rows), dtype=np.bool_),
        zero=zero,
        nonfinite=~np.isfinite(y),
        transitions=tuple(np.flatnonzero(rows[BlockColumn.TRANSITION].to_numpy()).astype(float)),
    )
