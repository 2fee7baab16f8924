"""Findings in the terminal: worst first, with the remedy as something to type."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}
ORDER = tuple(COLOURS)
"""Severities, the worst first."""


def count(findings: pd.DataFrame, severity: str) -> int:
    """How many findings are as bad as ``severity`` or worse."""
    bad = ORDER[: ORDER.index(severity) + 1]
    return int(findings["severity"].astype(str).isin(bad).sum())


def records(findings: pd.DataFrame) -> list[dict[str, Any]]:
    """The findings as JSON knows them; numbers that are missing or not finite are null."""
    return [{str(key): _plain(value) for key, value in row.items()} for row in findings.to_dict("records")]


def show(findings: pd.DataFrame, console: Console) -> None:
    """Print the findings as a list: severity, rule and layer, the sentence, and what to try."""
    from rich.table import Table
    from rich.text import Text

    console.print(Text(headline(findings)))
    if findings.empty:
        return
    made = Table.grid(padding=(0, 1))
    made.add_column(no_wrap=True)
    made.add_column()
    for row in records(findings):
        severity = row["severity"]
        text = Text.assemble((row["rule"], "bold"), f"  {row['message']}")
        if row["remedy"]:
            text.append(f"\nTry: {row['remedy']}")
        made.add_row(Text(severity, style=COLOURS[severity]), text)
    console.print(made)


def headline(findings: pd.DataFrame) -> str:
    """``2 errors, 1 note``, or that there are none."""
    numbers = {severity: int((findings["severity"].astype(str) == severity).sum()) for severity in ORDER}
    nouns = {"error": "error", "warning": "warning", "note": "note"}
    parts = [f"{n} {nouns[s]}{'' if n == 1 else 's'}" for s, n in numbers.items() if n]
    return f"Diagnosis: {', '.join(parts)}." if parts else "Diagnosis: nothing to report."


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | bool | None):
        return value
    if hasattr(value, "item"):
        return value.item()
    return value if isinstance(value, int) else None
