"""The data of a report: tables as columns, small enough to travel inside the page, and JSON that cannot break out of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import pandas as pd

from spp.errors import InputError
from spp.frame.schema import BLOCK_COLUMNS, COLUMNS, MODULE_COLUMNS, STATISTICS, FindingColumn, Spec
from spp.plot.kinds import FIGURES, Request
from spp.plot.kinds.blocks import DRAWN
from spp.plot.panels import BOUNDED, LOG_FROM, PLURAL, ROUNDING, SHORT, SMALLEST, Family, Points
from spp.plot.series import measured_steps
from spp.vocabulary import Signal

FAMILIES = tuple(Family)
_ALL_LABELS = 2
"""Level of the ticks that name every single position."""

DIGITS = 6
"""Significant digits of what a page shows; the run folder keeps them all."""


def payload(
    frame: pd.DataFrame,
    blocks: pd.DataFrame,
    modules: pd.DataFrame,
    unmeasured: pd.DataFrame,
    findings: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """Return everything that the page's scripts draw from, as JSON takes it.

    Args:
        frame: Table with the columns of ``spp.frame.schema.COLUMNS``.
        blocks: Table with the columns of ``BLOCK_COLUMNS``.
        modules: Table with the columns of ``MODULE_COLUMNS``.
        unmeasured: Table with the columns of ``UNMEASURED_COLUMNS``.
        findings: Table with the columns of ``FINDING_COLUMNS``, or None; those that name a layer are marked in the plot.
    """
    return {
        "frame": table(frame, COLUMNS),
        "blocks": table(blocks, BLOCK_COLUMNS),
        "modules": table(modules, MODULE_COLUMNS),
        "axes": {
            "layers": axes(
                "layers", Request(frame=frame, unmeasured=unmeasured, signals=tuple(Signal), statistics="mean")
            ),
            "blocks": axes("blocks", Request(frame=frame, blocks=blocks, statistics="acsm")),
        },
        "statistics": [
            {"name": s, "short": SHORT.get(s, COLUMNS[s].label), "bounded": s in BOUNDED} for s in STATISTICS
        ],
        "blockStatistics": [
            {"name": name, "short": short, "columns": dict(columns)} for name, (short, columns) in DRAWN.items()
        ],
        "signals": [{"name": signal, "plural": PLURAL[signal]} for signal in Signal],
        "families": FAMILIES,
        "findings": [] if findings is None else marks(findings),
        "limits": {"logFrom": LOG_FROM, "rounding": ROUNDING, "smallest": SMALLEST},
    }


def axes(kind: str, request: Request) -> list[dict[str, Any]]:
    """Return the x axis of the printed figure at each step: what stands where, by the rows that its panels draw.

    An axis has its ``step``; of every drawn row the position in the table (``rows``), the place on the axis (``x``), the name
    (``names``) and the index into ``FAMILIES`` (``families``); the name of every place (``labels``); ``stages`` as name, start
    and stop; the ``ticks`` for stages and blocks, the most important first; the places of ``transitions``; and why a signal has
    no row, by signal (``missing``).

    Args:
        kind: ``layers`` or ``blocks``.
        request: The tables, and which panels to ask for: one for each signal.
    """
    found = []
    for step in measured_steps(request.blocks if kind == "blocks" else request.frame):
        try:
            grid = FIGURES[kind](replace(request, step=step)).grid
        except InputError:
            # parameters alone: no module ran
            continue
        found.append(_axis(step, cast("list[Points]", [row[0] for row in grid])))
    return found


def _axis(step: int, panels: list[Points]) -> dict[str, Any]:
    first = panels[0]
    labels = {round(tick.x): tick.text for tick in first.ticks if tick.level == _ALL_LABELS}
    return {
        "step": step,
        "rows": [int(row) for panel in panels for row in panel.rows],
        "x": [int(x) for panel in panels for x in panel.x],
        "names": [name for panel in panels for name in panel.names],
        "families": [FAMILIES.index(family) for panel in panels for family in panel.families],
        "labels": [labels[x] for x in range(first.size)],
        "stages": [(span.name, span.start, span.stop) for span in first.stages],
        "ticks": [(float(tick.x), tick.text) for tick in first.ticks if tick.level < _ALL_LABELS],
        "transitions": [int(x) for x in first.transitions],
        "missing": {str(panel.signal): panel.message for panel in panels if not len(panel.rows)},
    }


def marks(findings: pd.DataFrame) -> list[dict[str, str]]:
    """Return what the plot needs of the findings that begin at a layer."""
    named = findings[findings[FindingColumn.SINCE] != ""]
    pairs = zip(named[FindingColumn.SINCE], named[FindingColumn.SEVERITY], strict=True)
    return [{"name": str(name), "severity": str(severity)} for name, severity in pairs]


def table(frame: pd.DataFrame, columns: Mapping[Any, Spec]) -> dict[str, Any]:
    """Return ``frame`` column by column, with the label and meaning of each from its schema.

    A column is ``{"name", "label", "meaning", "kind"}`` and its cells: ``constant`` where they are all the same; for
    ``kind`` ``text`` the ``levels`` and an index into them per row, ``codes`` (-1 where missing); else ``values``, with null
    where missing, and ``"inf"`` or ``"-inf"``, which JSON has no number for.
    """
    found = [
        {"name": str(column), "label": spec.label, "meaning": spec.meaning, **_cells(frame[column], spec)}
        for column, spec in columns.items()
    ]
    return {"rows": len(frame), "columns": found}


def as_json(data: object) -> str:
    """Return ``data`` as compact JSON in ASCII that is safe inside a ``script`` element, whatever its strings hold."""
    # a browser ends a script at "</script", also inside of a string, and NaN is no JSON
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _cells(column: pd.Series[Any], spec: Spec) -> dict[str, Any]:
    if spec.dtype in ("str", "category"):
        # the categories of the frame have levels that do not occur
        codes, levels = pd.factorize(column.astype("str"))
        return {"kind": "text", **_folded("codes", [int(code) for code in codes]), "levels": [str(v) for v in levels]}
    kind = {"bool": "flag", "float64": "number"}.get(spec.dtype, "integer")
    return {"kind": kind, **_folded("values", [_cell(value, kind) for value in column])}


def _folded(key: str, cells: list[Any]) -> dict[str, Any]:
    """The cells under ``key``, or one of them where all are the same: steps, calls, what was never measured."""
    if cells and all(cell == cells[0] for cell in cells):
        return {"constant": cells[0]}
    return {key: cells}


def _cell(value: Any, kind: str) -> float | int | str | None:
    if pd.isna(value):
        return None
    if kind != "number":
        return int(value)
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    # the digits of float64 would make the page twice as large
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 10**DIGITS else short
