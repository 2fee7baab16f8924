"""``report.html``: one page that opens offline, with the findings, an interactive plot, and the whole table.

Nothing is fetched from anywhere: data, style, scripts and plotly.js (the extra ``report``) are inside the file, and a content
security policy forbids every request. The same input gives the same bytes::

    trace.report("report.html")

plotly.js is taken from the installed plotly package. It is 4.8 MB of text, which would be nearly the whole page; compressed
and in base64 it is 2 MB, and every browser since 2023 unpacks it in some 50 ms.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from spp.errors import InputError, MissingExtraError, StoreError
from spp.frame.schema import (
    BLOCK_COLUMNS,
    COLUMNS,
    FINDING_COLUMNS,
    MODULE_COLUMNS,
    UNMEASURED_COLUMNS,
    Column,
    check,
    one_mode,
)
from spp.report.markup import tag, text

SCRIPTS = ("data", "numbers", "scale", "panels", "figure", "tooltip", "filter", "table", "explorer", "main")
"""The files of the page's script, in the order in which they are put together."""

MOST_STEPS, MOST_ROWS = 100, 100_000
"""Steps on a page, and rows where there are several steps: a page of 2 million rows is more than a browser opens."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """One build of plotly.js.

    Attributes:
        notice: Its own licence comment, without the comment marks.
        text: The script.
        packed: The script, compressed by gzip, in base64.
    """

    notice: str
    text: str
    packed: str


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
        frame: Table with the columns of ``spp.frame.schema.COLUMNS`` or ``WATCH_COLUMNS`` (the page shows the training).
            Of several steps it offers each, or 100 at most, evenly spread (fewer of a large network), and opens with the last.
        blocks: Table with the columns of ``BLOCK_COLUMNS`` or ``WATCH_BLOCK_COLUMNS``.
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
    from spp.report import payload, sections

    plotly = bundle()
    frame, blocks = _trained(frame), _trained(blocks)
    check(frame, COLUMNS)
    check(blocks, BLOCK_COLUMNS)
    check(modules, MODULE_COLUMNS)
    check(unmeasured, UNMEASURED_COLUMNS)
    if findings is not None:
        check(findings, FINDING_COLUMNS)
    if frame.empty:
        raise InputError("a report needs at least one measured tensor", received="an empty frame", where="frame")
    steps = sorted(map(int, frame[Column.STEP].unique()))
    step = steps[-1]
    offered = steps[:: -max(1, math.ceil(len(steps) / MOST_STEPS), math.ceil(len(frame) / MOST_ROWS))]
    frame, blocks = (table[table[Column.STEP].isin(offered)].reset_index(drop=True) for table in (frame, blocks))
    last, merges = frame[frame[Column.STEP] == step], blocks[blocks[Column.STEP] == step]
    parts = {
        "header": sections.header(
            run, step, f"{len(offered)} of {len(steps):,} steps" if steps != offered[::-1] else ""
        ),
        "glance": sections.glance(last, merges, modules, unmeasured, run),
        "findings": sections.findings(findings, last),
        "unmeasured": sections.not_measured(unmeasured),
        "run": sections.facts(run),
    }
    data = payload.as_json(payload.payload(frame, blocks, modules, unmeasured, findings))
    return _page(sections.title(run), parts, data, plotly)


def _trained(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of training of a watch's table, with the columns of a trace's."""
    return one_mode(table).drop(columns=[Column.MODE, Column.UPDATE_RATIO], errors="ignore")


def available() -> bool:
    """Whether a report can be written here."""
    return find_spec("plotly") is not None


@cache
def bundle() -> Bundle:
    """Return the bundle of the installed plotly package.

    Raises:
        MissingExtraError: There is none; names the extra that brings it.
    """
    # found, not imported: its file is wanted, its Python takes half a second to load
    spec = find_spec("plotly")
    if spec is None or spec.origin is None:
        raise MissingExtraError("plotly", "report", purpose="an HTML report")
    raw = (Path(spec.origin).parent / "package_data" / "plotly.min.js").read_bytes()
    script = raw.decode("utf-8")
    notice = script.partition("*/")[0].removeprefix("/**") if script.startswith("/**") else "plotly.js"
    lines = (line.strip(" *") for line in notice.splitlines())
    # gzip writes the time into its header unless told another, and other bytes come each time
    packed = base64.b64encode(gzip.compress(raw, 9, mtime=0)).decode("ascii")
    return Bundle(". ".join(line for line in lines if line), script, packed)


def _page(title: str, parts: dict[str, str], data: str, plotly: Bundle) -> str:
    """Return the whole page.

    Args:
        title: Of the page, in plain text.
        parts: HTML of ``header``, ``glance``, ``findings``, ``unmeasured`` and ``run``.
        data: The payload as JSON that is safe inside a ``script`` element.
        plotly: The bundle.
    """
    theme = _asset("theme.js")
    # inside one function, so that nothing of it is global
    script = "\n".join(('(() => {\n"use strict";', *(_asset(f"{name}.js") for name in SCRIPTS), "})();"))
    head = "\n".join(
        (
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_policy(theme, script, plotly.text)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<meta name="generator" content="spp">',
            '<link rel="icon" href="data:,">',
            tag("title", text(f"{title} · spp")),
            tag("style", _asset("style.css")),
            tag("script", theme),
        )
    )
    body = _filled(_asset("body.html"), parts)
    tail = "\n".join(
        (
            tag("script", data, type="application/json", id="data"),
            # two hyphens would end the comment
            f"<!-- The next element holds, compressed: {plotly.notice.replace('--', '- -')} -->",
            tag("script", plotly.packed, type="text/plain", id="plotly"),
            tag("script", script),
        )
    )
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n{tail}\n</body>\n</html>\n'


def _filled(template: str, slots: dict[str, str]) -> str:
    """Put each slot in the place of its comment; in one pass, so that a slot's own text is never taken for a place."""
    pieces = template.split("<!-- slot: ")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition(" -->")
        filled += [slots[name], rest]
    return "".join(filled)


def _policy(*scripts: str) -> str:
    """Nothing is fetched from anywhere, and no script runs but these: also not one that a name would smuggle in."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _asset(name: str) -> str:
    return (files("spp.report") / "assets" / name).read_text(encoding="utf-8")
