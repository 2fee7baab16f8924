"""The section a reader sees first: what is wrong, where, and what to try; the most striking facts where nobody diagnosed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from spp.diagnosis.facts import striking
from spp.errors import InputError
from spp.report.markup import definitions, layer, prose, tag, text

COLUMNS = (
    "rule",
    "severity",
    "name",
    "depth",
    "signal",
    "statistic",
    "value",
    "expected",
    "message",
    "remedy",
    "evidence",
)
"""What a frame of findings has, one row per finding, the worst first."""

SEVERITIES = {"error": "Error", "warning": "Warning", "info": "Note"}
FACTS = 6
"""How many facts stand in for findings."""


def section(findings: pd.DataFrame | None, frame: pd.DataFrame) -> str:
    """Return the section: ``findings`` where there are, else the most striking facts of ``frame``, which has one step.

    Raises:
        InputError: ``findings`` lacks a column.
    """
    if findings is None:
        return _facts(frame)
    missing = [column for column in COLUMNS if column not in findings.columns]
    if missing:
        raise InputError(
            f"findings have the columns {', '.join(COLUMNS)}", received=f"none called {missing[0]!r}", where="findings"
        )
    if findings.empty:
        calm = tag("p", "No rule of the diagnosis found anything.", class_="calm")
        return _section("Findings", "nothing found", calm)
    rows: list[Mapping[str, Any]] = findings[list(COLUMNS)].to_dict("records")  # type: ignore[assignment]
    counts = {name: sum(_severity(row) == name for row in rows) for name in SEVERITIES}
    summary = ", ".join(_count(number, SEVERITIES[name].lower()) for name, number in counts.items() if number)
    return _section("Findings", summary, tag("ol", *map(_finding, rows), class_="cards"))


def _finding(row: Mapping[str, Any]) -> str:
    severity = _severity(row)
    rule = str(row["rule"]).replace("_", " ")
    head = tag("span", SEVERITIES[severity], class_="badge") + tag("span", text(rule), class_="rule")
    where = tag("span", layer(row["name"]), class_="where") if _given(row["name"]) else tag("span", "whole network")
    parts = [tag("header", head, where), tag("p", prose(row["message"]))]
    if _given(row["remedy"]):
        parts.append(tag("p", tag("b", "Try: "), prose(row["remedy"]), class_="remedy"))
    numbers = [
        (label, text(_short(row[key])))
        for key, label in (
            ("signal", "signal"),
            ("statistic", "statistic"),
            ("value", "measured"),
            ("expected", "expected"),
            ("depth", "depth"),
        )
        if _given(row[key])
    ]
    if _given(row["evidence"]):
        numbers.append(("evidence", text(_evidence(row["evidence"]))))
    if numbers:
        parts.append(tag("details", tag("summary", "Numbers"), definitions(numbers)))
    return tag("li", *parts, class_=f"card {severity}")


def _facts(frame: pd.DataFrame) -> str:
    found = striking(frame, limit=FACTS)
    cards = [
        tag(
            "li",
            tag("header", tag("span", text(fact.theme), class_="rule"), tag("span", layer(fact.where), class_="where")),
            tag("p", prose(fact)),
            class_="card fact",
        )
        for fact in found
    ]
    body = (
        tag("ol", *cards, class_="cards") if cards else tag("p", "The frame has too little to compare.", class_="calm")
    )
    return _section("Most striking facts", "ratios within this network, the largest first", body)


def _section(title: str, summary: str, body: str) -> str:
    heading = tag("h2", text(title), " ", tag("small", text(summary)))
    return tag("section", heading, body, id="findings", aria_label=title)


def _severity(row: Mapping[str, Any]) -> str:
    name = str(row["severity"]).lower()
    return name if name in SEVERITIES else "info"


def _given(value: Any) -> bool:
    """Whether a cell holds something; a list is never asked whether it is missing."""
    if isinstance(value, (list, tuple, dict)):
        return bool(value)
    return not pd.isna(value) and str(value) != ""


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _evidence(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
