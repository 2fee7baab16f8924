"""What ``spp analyze`` prints: what ran, a table along the network, findings or facts, where the files are."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spp_cli import findings
from spp_cli.console import bars_for, make_console

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from spp.diagnosis import Finding
    from spp.run import Run

MOST_ROWS = 70
"""Components that are listed; of more, the first and the last ones."""

MOST_BARS = 16
"""Width of a sparkline; longer components are thinned to it."""


def show(trace: Run, facts: list[Finding], folder: Path, files: list[str]) -> None:
    """Print the summary of ``trace`` to standard output."""
    console = make_console()
    for line in heading(trace.run):
        console.print(line, markup=False)
    rows = component_rows(trace)
    if rows:
        console.print()
        console.print(table(rows, console))
        console.print(
            "ACSM: average channel squared mean; ACV: average channel variance, both at the end of the component; "
            "gradient: mean square there; leaves: log mean square of the activations inside, one scale for all.",
            style="dim",
        )
    console.print()
    findings.show(trace.findings, console)
    if trace.findings.empty or not findings.count(trace.findings, "warning"):
        console.print(_numbered(facts))
    unmeasured = len(trace.unmeasured)
    if unmeasured:
        what = "1 tensor was" if unmeasured == 1 else f"{unmeasured} tensors were"
        console.print(f"{what} not measured; unmeasured.parquet says why.", markup=False)
    console.print()
    console.print(f"{folder}: {' '.join(files)}", markup=False, soft_wrap=not console.is_terminal)


def heading(run: dict[str, Any]) -> list[str]:
    """Three lines that say what ran, and on what."""
    settings = [
        f"{key} {run[key]}" for key in ("norm", "activation", "init", "residual", "se") if run.get(key) is not None
    ]
    shape = "x".join(str(size) for size in run["input_shape"])
    batches = f", {run['batches']} batches of " if run["batches"] > 1 else " "
    threads = f" ({run['threads']} threads)" if run["device"] == "cpu" else ""
    mode = "training" if run["training"] else "evaluation"
    took = f"traced in {run['seconds']:.1f} s"
    if "replaced" in run:
        left = f", {len(run['left'])} left as they were (run.json says why)" if run["left"] else ""
        settings.append(f"{run['replaced']} layers replaced{left}")
    return [
        f"{run['model']}: {', '.join([*settings, mode + ' mode'])}",
        f"{run['parameters']:,} parameters, seed {run['seed']}, {run['device']}{threads}, {took}",
        f"{run['data']}{batches}{run['batch_size']} x {shape}, loss {run['loss'] or 'none'}",
    ]


def component_rows(trace: Run) -> list[dict[str, Any]]:
    """One record per component along the network: its name and, at its end, the statistics of the table."""
    from spp.diagnosis.main_path import along, components
    from spp.frame.schema import BlockColumn, Column
    from spp.vocabulary import Signal

    frame = trace.frame
    activations, gradients = along(frame, Signal.ACTIVATION), along(frame, Signal.GRADIENT)
    merges = trace.blocks.drop_duplicates(BlockColumn.BLOCK, keep="last").set_index(BlockColumn.BLOCK)
    powers = _leaf_powers(frame)
    inside = components(frame)
    rows = []
    for name, row in activations.iterrows():
        merge = merges[BlockColumn.BRANCH_ACV].get(name)
        back = gradients[Column.MEAN_SQUARE].get(name)
        rows.append(
            {
                "component": str(name),
                "depth": int(row[Column.DEPTH]),
                "acsm": float(row[Column.ACSM]),
                "acv": float(row[Column.ACV]),
                "branch_acv": None if merge is None else float(merge),
                "gradient_mean_square": None if back is None else float(back),
                "leaves": [powers[leaf] for leaf in inside[str(name)] if leaf in powers],
            }
        )
    return rows


def table(rows: list[dict[str, Any]], console: Console) -> Table:
    """The rows of ``component_rows`` as a table for ``console``."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    made.add_column("component", overflow="ellipsis", min_width=9)  # the only one that gives way
    shown = {"acsm": "ACSM", "acv": "ACV", "branch_acv": "branch ACV", "gradient_mean_square": "gradient"}
    shown = {key: title for key, title in shown.items() if any(row[key] is not None for row in rows)}
    for title in shown.values():
        made.add_column(title, justify="right", no_wrap=True)
    made.add_column("leaves", no_wrap=True)
    finite = [power for row in rows for power in row["leaves"] if math.isfinite(power)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    bars = bars_for(console.encoding)
    cut = len(rows) - MOST_ROWS
    for index, row in enumerate(rows):
        if cut > 0 and MOST_ROWS // 2 <= index < MOST_ROWS // 2 + cut:
            if index == MOST_ROWS // 2:
                made.add_row(f"({cut} more)")
            continue
        line = sparkline(row["leaves"], low, high, bars)
        made.add_row(row["component"], *(_number(row[key]) for key in shown), line)
    return made


def sparkline(powers: list[float], low: float, high: float, bars: str) -> str:
    """One bar per value, from the lowest for ``low`` to the highest for ``high``; ``!`` where a value is not finite.

    More than ``MOST_BARS`` values are thinned by taking the mean of neighbours.
    """
    if len(powers) > MOST_BARS:
        edges = [round(index * len(powers) / MOST_BARS) for index in range(MOST_BARS + 1)]
        groups = [powers[start:stop] for start, stop in pairwise(edges)]
        powers = [sum(group) / len(group) for group in groups]
    step = (high - low) / (len(bars) - 1) or 1.0
    return "".join(bars[round((power - low) / step)] if math.isfinite(power) else "!" for power in powers)


def _numbered(facts: list[Finding]) -> Table:
    """The facts as a list whose lines are indented beside their number."""
    from rich.table import Table
    from rich.text import Text

    made = Table.grid(padding=(0, 1))
    for number, fact in enumerate(facts, start=1):
        made.add_row(f"{number}.", Text(str(fact)))
    return made


def _leaf_powers(frame: pd.DataFrame) -> dict[str, float]:
    """log10 of the mean square of each leaf's activation, at its first call; a zero counts as not finite."""
    from spp.frame.schema import Column
    from spp.vocabulary import Signal

    rows = frame[(frame[Column.SIGNAL] == Signal.ACTIVATION) & frame[Column.LEAF]].drop_duplicates(Column.NAME)
    pairs = zip(rows[Column.NAME].astype(str), rows[Column.MEAN_SQUARE], strict=True)
    return {name: math.log10(value) if value > 0 and math.isfinite(value) else -math.inf for name, value in pairs}


def _number(value: float | None) -> str:
    """Three digits, as ``0.341`` or ``1.2e-17``; empty for what does not exist."""
    return "" if value is None or math.isnan(value) else f"{value:.3g}"
