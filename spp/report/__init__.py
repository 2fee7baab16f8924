"""``report.html``: one page that opens offline, with the findings, an interactive plot, and the whole table.

Nothing is fetched from anywhere: data, style, scripts and plotly.js (the extra ``report``) are inside the file, and a content
security policy forbids every request. The same input gives the same bytes::

    trace.report("report.html")
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from spp.errors import InputError, StoreError
from spp.frame.schema import (
    BLOCK_COLUMNS,
    COLUMNS,
    FINDING_COLUMNS,
    MODULE_COLUMNS,
    UNMEASURED_COLUMNS,
    BlockColumn,
    Column,
    check,
)
from spp.report.page import available as available

__all__ = ["available", "html", "write"]


def write(
    path: str | Path,
    *,
    frame: pd.DataFrame,
    blocks: pd.DataFrame,
    modules: pd.DataFrame,
    unmeasured: pd.DataFrame,
    run: Mapping[str, Any],
    findings: pd.DataFrame | None = None,
) -> Path:
    """Write the report and return its path; a file that is there already is replaced.

    Args:
        path: Where to, as ``report.html``; the folder must exist.
        frame: Table with the columns of ``spp.frame.schema.COLUMNS``; of several steps the page offers each and opens with the
            last.
        blocks: Table with the columns of ``BLOCK_COLUMNS``.
        modules: Table with the columns of ``MODULE_COLUMNS``.
        unmeasured: Table with the columns of ``UNMEASURED_COLUMNS``.
        run: Facts about the run; any may be missing.
        findings: Table with the columns of ``FINDING_COLUMNS``, the worst first, as ``trace.findings``. Left out, the most
            striking facts of the frame take its place.

    Raises:
        InputError: A table has not the columns of its schema, or the frame is empty.
        MissingExtraError: plotly is not installed.
        StoreError: The file cannot be written.
    """
    made = html(frame=frame, blocks=blocks, modules=modules, unmeasured=unmeasured, run=run, findings=findings)
    try:
        Path(path).write_text(made, encoding="utf-8", newline="\n")
    except OSError as error:
        raise StoreError("a report is written to a file", received=str(error.strerror), where=str(path)) from error
    return Path(path)


def html(
    *,
    frame: pd.DataFrame,
    blocks: pd.DataFrame,
    modules: pd.DataFrame,
    unmeasured: pd.DataFrame,
    run: Mapping[str, Any],
    findings: pd.DataFrame | None = None,
) -> str:
    """Return the report as text; arguments and errors as for :func:`write`."""
    # the diagnosis and the figures, which take a while to load, are wanted here alone
    from spp.report import page, payload, sections

    bundle = page.bundle()
    check(frame, COLUMNS)
    check(blocks, BLOCK_COLUMNS)
    check(modules, MODULE_COLUMNS)
    check(unmeasured, UNMEASURED_COLUMNS)
    if findings is not None:
        check(findings, FINDING_COLUMNS)
    if frame.empty:
        raise InputError("a report needs at least one measured tensor", received="an empty frame", where="frame")
    step = int(frame[Column.STEP].max())
    last, merges = frame[frame[Column.STEP] == step], blocks[blocks[BlockColumn.STEP] == step]
    parts = {
        "header": sections.header(run, step),
        "glance": sections.glance(last, merges, modules, unmeasured, run),
        "findings": sections.findings(findings, last),
        "unmeasured": sections.not_measured(unmeasured),
        "run": sections.facts(run),
    }
    data = payload.as_json(payload.payload(frame, blocks, modules, unmeasured, findings))
    return page.page(sections.title(run), parts, data, bundle)
