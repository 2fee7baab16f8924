"""A trace as a notebook shows it: what ran, and the layers with their main statistics."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import pandas as pd

from spp.frame.schema import COLUMNS, Column
from spp.vocabulary import Signal

SHOWN = (Column.DEPTH, Column.NAME, Column.TYPE, Column.SHAPE, Column.ACSM, Column.ACV)
"""Columns of the table, beside the mean square of the gradient."""

ROWS = 12
"""Layers that are shown; of more, the first and the last ones."""

FACTS = ("norm", "activation", "init", "batch_size", "data", "seed", "loss")


def summary(frame: pd.DataFrame, run: Mapping[str, object], counts: Mapping[str, int]) -> str:
    """Return a heading and a table in HTML; the last step's innermost modules in execution order.

    Args:
        frame: Table with the columns of ``spp.frame.schema.COLUMNS``.
        run: Facts of the run.
        counts: What else is worth a number, by name; zeros are left out.
    """
    facts = [f"{name.replace('_', ' ')} {run[name]}" for name in FACTS if run.get(name) is not None]
    facts += [f"{number:,} {name}" for name, number in counts.items() if number]
    title = f"<b>{escape(str(run.get('model') or 'a network'))}</b> {escape(', '.join(facts))}"
    if frame.empty:
        return f"<div>{title}<br>nothing was measured</div>"
    last = frame[(frame[Column.STEP] == frame[Column.STEP].max()) & frame[Column.LEAF] & frame[Column.DEPTH].notna()]
    keys = [str(Column.NAME), str(Column.CALL), str(Column.OUTPUT)]
    table = last[last[Column.SIGNAL] == Signal.ACTIVATION].sort_values(Column.DEPTH)
    back = last[last[Column.SIGNAL] == Signal.GRADIENT].set_index(keys)[str(Column.MEAN_SQUARE)]
    shown = table[list(map(str, SHOWN))].rename(columns={str(c): COLUMNS[c].label for c in SHOWN})
    gradient = f"{Signal.GRADIENT} {COLUMNS[Column.MEAN_SQUARE].label}"
    shown[gradient] = back.reindex(pd.MultiIndex.from_frame(table[keys])).to_numpy()
    html = shown.to_html(index=False, max_rows=ROWS, border=0, float_format=lambda value: f"{value:.3g}", na_rep="")
    more = f"{len(frame):,} rows in trace.frame; trace.plot() draws them"
    return f"<div>{title}{html}<small>{more}</small></div>"
