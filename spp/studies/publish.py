"""What a study leaves for readers: verdicts, tables as Markdown, LaTeX and CSV, figures, and a page that holds them all."""

from __future__ import annotations

import json
import math
import os
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch

from spp._version import __version__
from spp.errors import StoreError
from spp.frame import files
from spp.frame.files import put_csv, put_table, put_text
from spp.studies.study import Cell, Claim, Outcome, Results, Setup, Study, Verdict, judged

T = TypeVar("T")

MISSING = 10
"""So many cells that are missing are named on the page; all are in ``verdicts.json``."""

FIGURE_FORMATS = {"png": None, "pdf": "paper"}
"""Endings of the files, and the style that each is drawn in."""


INTERVALS = (
    "A verdict follows from an interval, never from a point estimate. Intervals tell what other seeds would find on the same "
    "images, at a level that is corrected over the claims of this page (Holm). What would be told or shown with a power is the "
    "smallest effect or margin that as many repetitions of this run would have found, by its own spread."
)
"""How to read what was found, on every page."""


@dataclass(frozen=True, slots=True, eq=False)
class Published:
    """A study that has ended.

    Attributes:
        folder: Where everything lies.
        results: What the cells measured.
        verdicts: By claim.
        tables: What is printed.
        files: Names of the files written, in the order of the page.
        missing: Cells that are not finished; some only where a run is drawn that was interrupted.
    """

    folder: Path
    results: Results
    verdicts: Mapping[Claim, Verdict]
    tables: Mapping[str, pd.DataFrame]
    files: tuple[str, ...]
    missing: tuple[Cell, ...] = ()


def publish(study: Study, setup: Setup, results: Results, folder: Path, missing: Sequence[Cell] = ()) -> Published:
    """Judge, tabulate, draw and write; everything is made anew from the results, which are on disk already.

    Where cells are ``missing`` no claim is judged, and tables or figures that cannot do without them are left out.
    """

    def tried(make: Callable[[Results, Setup], dict[str, T]]) -> dict[str, T]:
        try:
            return dict(make(results, setup))
        except Exception:
            # with all cells there it is a fault, and is to be seen
            if not missing:
                raise
            return {}

    verdicts = {} if missing else judged(study.claims, results, setup)
    for claim in study.claims if missing else ():
        # means of nothing and best rates of a few would decide all the same
        found = f"It is not judged while {len(missing)} of {len(missing) + len(results.cells)} cells are missing."
        verdicts[claim] = Verdict(Outcome.NOT_DECIDED, found)
    tables = tried(study.tables)
    figures = tried(study.figures) if study.figures else {}
    files: list[str] = []
    for name in results.names:
        put_table(folder / f"{name}.parquet", results[name])
        files.append(f"{name}.parquet")
    for name, table in tables.items():
        put_text(folder / f"{name}.md", markdown(table))
        # escape: names of arms have underscores, which LaTeX takes for subscripts
        put_text(folder / f"{name}.tex", table.to_latex(index=False, escape=True))
        put_csv(folder / f"{name}.csv", table)
        files += [f"{name}.{end}" for end in ("md", "tex", "csv")]
    captions = {}
    for name, figure in figures.items():
        captions[name] = figure.caption
        # pages show the one, papers print the other
        for end, style in FIGURE_FORMATS.items():
            figure.save(folder / f"{name}.{end}", style=style)
            files.append(f"{name}.{end}")
    facts = {
        "study": study.name,
        "setup": {**described(setup), "seeds": setup.seeds},
        "criteria": study.criteria,
        "cells": len(results.cells),
        "missing": list(map(str, missing)),
        "seeds": list(dict.fromkeys(cell["seed"] for cell in results.cells if "seed" in dict(cell.parameters))),
        "seconds": sum(results.seconds.values()),
        "machines": dict(
            Counter(results.machines.get(cell) or "a machine that was not noted" for cell in results.cells)
        ),
    }
    write_json(folder / "verdicts.json", {**facts, "claims": [_told(*pair) for pair in verdicts.items()]})
    put_text(folder / "README.md", page(study, setup, verdicts, tables, captions, facts))
    return Published(folder, results, verdicts, tables, ("README.md", "verdicts.json", *files), tuple(missing))


def _told(claim: Claim, verdict: Verdict) -> dict[str, Any]:
    """A claim and what became of it, as ``verdicts.json`` has it; JSON has no numbers that are not finite."""
    return {
        "claim": claim.name,
        "text": claim.text,
        "source": claim.source,
        "criterion": claim.criterion,
        "outcome": str(verdict.outcome),
        "found": verdict.found,
        "numbers": {k: v if math.isfinite(v) else None for k, v in (verdict.numbers or {}).items()},
    }


def page(
    study: Study,
    setup: Setup,
    verdicts: Mapping[Claim, Verdict],
    tables: Mapping[str, pd.DataFrame],
    captions: Mapping[str, str],
    facts: Mapping[str, Any],
) -> str:
    """The page of a study, as Markdown: what was claimed, what was run, what came out, what that cannot say."""
    rows = [
        {"": claim.name, "verdict": f"**{verdict.outcome}**", "what was found": verdict.found}
        for claim, verdict in verdicts.items()
    ]
    missing, seeds = facts["missing"], facts["seeds"]
    took = f"{facts['cells']} cells, {facts['seconds'] / 60:.1f} minutes in all, each on one thread"
    took += f"; {len(seeds)} seeds ({', '.join(map(str, seeds))})." if seeds else "."
    limits = [*study.limits(setup), *[f"Cells are missing: {cell}." for cell in missing[:MISSING]]]
    limits += [f"So are {len(missing) - MISSING} more."] * (len(missing) > MISSING)
    parts = [
        f"# {study.title}",
        f"**Size: {setup.size}**, {setup.size.about}."
        + f" **Not finished:** {len(missing)} of {len(missing) + facts['cells']} cells are missing." * bool(missing),
        f"{study.question}\n\nRe-run of: {study.source}.",
        "## What was claimed",
        "\n".join(f"- **{c.name}**: {c.text} ({c.source})" for c in verdicts),
        "## What was run here",
        "\n".join(f"- {line}" for line in study.arrangement(setup)),
        f"{took}\n\n"
        + "\n".join(f"- {n} on {facts['setup']['device']}: {name}" for name, n in facts["machines"].items()),
        "## What came out",
        markdown(pd.DataFrame(rows)),
        INTERVALS,
        "\n".join(f"- {c.name}, criterion, fixed before the run: {c.criterion}" for c in verdicts),
        f"Criteria sha256: {facts['criteria'] or 'not known, since their source was not installed'}.",
        *["## What this run cannot say", "\n".join(f"- {line}" for line in limits)] * bool(limits),
        *["## Tables"] * bool(tables),
        *(f"**{name}**\n\n{markdown(table)}" for name, table in tables.items()),
        *["## Figures"] * bool(captions),
        *(f"![{caption}]({name}.png)\n\n*{caption}*" for name, caption in captions.items()),
    ]
    return "\n\n".join(parts) + "\n"


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown, numbers to four digits."""

    def word(value: Any) -> str:
        if isinstance(value, float):
            return "" if math.isnan(value) else f"{value:.4g}"
        # a bar or a line break would end the column
        return str(value).replace("|", "\\|").replace("\n", " ")

    lines = [[str(column) for column in table.columns], ["---"] * len(table.columns)]
    lines += [[word(value) for value in row] for row in table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def described(setup: Setup) -> dict[str, Any]:
    """What of the setup decides about the numbers; more seeds or another place of the data do not change a cell's."""
    return {"size": str(setup.size), "device": setup.device}


def machine(device: str) -> str:
    """This machine and the versions that its numbers depend on, one line."""
    name = platform.processor() or platform.machine()
    # platform has no name of the processor on most Linux
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line for line in lines if line.startswith("model name")).partition(": ")[2]
    if device != "cpu":
        name = f"{torch.cuda.get_device_name()}, {name}"
    versions = {"torch": torch.__version__, "spp": __version__, "python": platform.python_version()}
    return f"{name}, {os.cpu_count()} cores; {', '.join(f'{name} {version}' for name, version in versions.items())}"


def damaged(path: Path, reason: object) -> StoreError:
    """The error of a file of facts that cannot be used."""
    return StoreError(
        "a file of a study holds its facts", received=str(reason), where=str(path), remedy=f"Remove {path.parent}"
    )


def read_json(path: Path) -> dict[str, Any]:
    """A file of facts.

    Raises:
        StoreError: It cannot be read.
    """
    try:
        return files.read_json(path)
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error


def write_json(path: Path, facts: dict[str, Any]) -> None:
    """Write facts, whole or not at all."""
    put_text(path, json.dumps(facts, indent=2, default=str) + "\n")
