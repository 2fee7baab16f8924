"""What a study leaves for readers: verdicts, tables as Markdown, LaTeX and CSV, figures, and a page that holds them all."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import spp
from spp.frame.files import put_text
from spp.studies.store import described, write_json, write_table
from spp.studies.study import Claim, Results, Setup, Study, Verdict

FIGURE_FORMATS = ("png", "pdf")


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
    verdicts = {claim: claim.judge(results, setup) for claim in study.claims}
    tables = dict(study.tables(results, setup))
    files: list[str] = []
    for name in results.names:
        write_table(folder / f"{name}.parquet", results[name])
        files.append(f"{name}.parquet")
    for name, table in tables.items():
        put_text(folder / f"{name}.md", markdown(table))
        put_text(folder / f"{name}.tex", table.to_latex(index=False, escape=True))
        write_table(folder / f"{name}.csv", table)
        files += [f"{name}.{end}" for end in ("md", "tex", "csv")]
    captions = {}
    for name, figure in (study.figures(results, setup) if study.figures else {}).items():
        captions[name] = figure.caption
        for end in FIGURE_FORMATS:
            figure.save(folder / f"{name}.{end}", style="paper" if end == "pdf" else None)
            files.append(f"{name}.{end}")
    facts = _facts(study, setup, results)
    write_json(
        folder / "verdicts.json",
        {
            **facts,
            "claims": [
                {
                    "claim": claim.name,
                    "text": claim.text,
                    "source": claim.source,
                    "criterion": claim.criterion,
                    "outcome": str(verdict.outcome),
                    "found": verdict.found,
                    "numbers": {k: v if math.isfinite(v) else None for k, v in (verdict.numbers or {}).items()},
                }
                for claim, verdict in verdicts.items()
            ],
        },
    )
    put_text(folder / "README.md", page(study, setup, verdicts, tables, captions, facts))
    return Published(folder, results, verdicts, tables, ("README.md", "verdicts.json", *files))


def page(
    study: Study,
    setup: Setup,
    verdicts: Mapping[Claim, Verdict],
    tables: Mapping[str, pd.DataFrame],
    captions: Mapping[str, str],
    facts: Mapping[str, Any],
) -> str:
    """The page of a study, as Markdown."""
    parts = [f"# {study.title}", f"{study.question}\n\nRe-run of: {study.source}.", "## What was run"]
    parts += ["\n".join(f"- {line}" for line in study.arrangement(setup)), _machine(facts), "## Verdicts"]
    rows = [
        {"": claim.name, "claim": claim.text, "verdict": f"**{verdict.outcome}**", "what was found": verdict.found}
        for claim, verdict in verdicts.items()
    ]
    parts.append(markdown(pd.DataFrame(rows)))
    parts.append("\n".join(f"- {c.name}: {c.source}. Criterion, fixed before the run: {c.criterion}" for c in verdicts))
    if tables:
        parts.append("## Tables")
        parts += [f"**{name}**\n\n{markdown(table)}" for name, table in tables.items()]
    if captions:
        parts.append("## Figures")
        parts += [f"![{caption}]({name}.png)\n\n*{caption}*" for name, caption in captions.items()]
    return "\n\n".join(parts) + "\n"


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown, numbers to four digits."""

    def word(value: Any) -> str:
        if isinstance(value, float):
            return "" if math.isnan(value) else f"{value:.4g}"
        return str(value).replace("|", "\\|").replace("\n", " ")

    lines = [[str(column) for column in table.columns], ["---"] * len(table.columns)]
    lines += [[word(value) for value in row] for row in table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _facts(study: Study, setup: Setup, results: Results) -> dict[str, Any]:
    return {
        "study": study.name,
        "setup": described(setup),
        "cells": len(results.cells),
        "seconds": sum(results.seconds.values()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"spp": spp.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def _machine(facts: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    where = f"{facts['setup']['device']}; {facts['machine']}; {versions}"
    return f"{facts['cells']} cells, {facts['seconds'] / 60:.1f} minutes in all, each on one thread ({where})."
