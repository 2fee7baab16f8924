"""What a study leaves for readers: verdicts, tables as Markdown, LaTeX and CSV, figures, and a page that holds them all."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from spp._version import __version__
from spp.errors import StoreError
from spp.frame import files
from spp.frame.files import put_table, put_text
from spp.studies.study import Claim, Results, Setup, Study, Verdict, judged

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
    """

    folder: Path
    results: Results
    verdicts: Mapping[Claim, Verdict]
    tables: Mapping[str, pd.DataFrame]
    files: tuple[str, ...]


def publish(study: Study, setup: Setup, results: Results, folder: Path) -> Published:
    """Judge, tabulate, draw and write; everything is made anew from the results, which are on disk already."""
    verdicts = judged(study.claims, results, setup)
    tables = dict(study.tables(results, setup))
    files: list[str] = []
    for name in results.names:
        put_table(folder / f"{name}.parquet", results[name])
        files.append(f"{name}.parquet")
    for name, table in tables.items():
        # escape: names of arms have underscores, which LaTeX takes for subscripts
        texts = {
            "md": markdown(table),
            "tex": table.to_latex(index=False, escape=True),
            "csv": table.to_csv(index=False),
        }
        for end, text in texts.items():
            put_text(folder / f"{name}.{end}", text)
            files.append(f"{name}.{end}")
    captions = {}
    for name, figure in (study.figures(results, setup) if study.figures else {}).items():
        captions[name] = figure.caption
        # pages show the one, papers print the other
        for end, style in FIGURE_FORMATS.items():
            figure.save(folder / f"{name}.{end}", style=style)
            files.append(f"{name}.{end}")
    facts = {
        "study": study.name,
        "setup": described(setup),
        "criteria": study.criteria,
        "cells": len(results.cells),
        "seconds": sum(results.seconds.values()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"spp": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    write_json(folder / "verdicts.json", {**facts, "claims": [_told(*pair) for pair in verdicts.items()]})
    put_text(folder / "README.md", page(study, setup, verdicts, tables, captions, facts))
    return Published(folder, results, verdicts, tables, ("README.md", "verdicts.json", *files))


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
    """The page of a study, as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    rows = [
        {"": claim.name, "claim": claim.text, "verdict": f"**{verdict.outcome}**", "what was found": verdict.found}
        for claim, verdict in verdicts.items()
    ]
    parts = [
        f"# {study.title}",
        f"{study.question}\n\nRe-run of: {study.source}.",
        "## What was run",
        "\n".join(f"- {line}" for line in study.arrangement(setup)),
        f"{facts['cells']} cells, {facts['seconds'] / 60:.1f} minutes in all, each on one thread "
        f"({facts['setup']['device']}; {facts['machine']}; {versions}).",
        "## Verdicts",
        markdown(pd.DataFrame(rows)),
        INTERVALS,
        "\n".join(f"- {c.name}: {c.source}. Criterion, fixed before the run: {c.criterion}" for c in verdicts),
        f"Criteria sha256: {facts['criteria'] or 'not known, since their source was not installed'}.",
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


def read_json(path: Path) -> dict[str, Any]:
    """A file of facts.

    Raises:
        StoreError: It cannot be read.
    """
    try:
        return files.read_json(path)
    except (OSError, ValueError) as error:
        raise StoreError(
            "a file of a study holds its facts", received=str(error), where=str(path), remedy=f"Remove {path.parent}"
        ) from error


def write_json(path: Path, facts: dict[str, Any]) -> None:
    """Write facts, whole or not at all."""
    put_text(path, json.dumps(facts, indent=2, default=str) + "\n")
