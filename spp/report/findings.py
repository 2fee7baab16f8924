"""The section a reader sees first: what is wrong, where, and what to try; the most striking facts where nobody diagnosed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from spp.diagnosis import RULES, notes
from spp.frame.schema import FINDING_COLUMNS, FindingColumn
from spp.report.markup import definitions, layer, prose, tag, text
from spp.vocabulary import Severity

WORDS = {Severity.ERROR: "Error", Severity.WARNING: "Warning", Severity.NOTE: "Note"}

NUMBERS = (
    FindingColumn.SIGNAL,
    FindingColumn.STATISTIC,
    FindingColumn.VALUE,
    FindingColumn.EXPECTED,
    FindingColumn.DEPTH,
    FindingColumn.EVIDENCE,
)
"""What stands behind a finding, folded away."""

FACTS = 6
"""How many facts are told."""

LONG = 260
"""Characters from which a note takes the whole width, as errors and warnings do."""

_SENTENCE = re.compile(r"(?<=[.:]) (?=[A-Z0-9])")
"""Where the first sentence of a message ends."""


def section(findings: pd.DataFrame | None, frame: pd.DataFrame) -> str:
    """Return the section: the findings, and the most striking facts, which stand alone where there is no finding.

    Args:
        findings: Table with the columns of ``spp.frame.schema.FINDING_COLUMNS``, or None where nobody diagnosed.
        frame: Table with the columns of ``spp.frame.schema.COLUMNS``, of one step.
    """
    facts = _facts(frame)
    if findings is None:
        return _section("Most striking facts", "ratios within this network, the largest first", facts)
    if findings.empty:
        calm = tag("p", "No rule of the diagnosis found anything. The most striking facts:", class_="calm")
        return _section("Findings", "nothing to report", calm + facts)
    rows: list[Mapping[Any, Any]] = findings[list(FINDING_COLUMNS)].to_dict("records")  # type: ignore[assignment]
    severities = [Severity(row[FindingColumn.SEVERITY]) for row in rows]
    counts = [(severities.count(severity), WORDS[severity].lower()) for severity in Severity]
    summary = ", ".join(_count(number, noun) for number, noun in counts if number)
    cards = tag("ol", *map(_finding, rows), class_="cards")
    more = tag("details", tag("summary", "The most striking facts"), facts, class_="more")
    return _section("Findings", summary, cards + more)


def _finding(row: Mapping[Any, Any]) -> str:
    severity, rule = Severity(row[FindingColumn.SEVERITY]), str(row[FindingColumn.RULE])
    described = RULES[rule].description if rule in RULES else None
    name = tag("code", text(rule), class_="rule", title=described)
    where = layer(row[FindingColumn.NAME]) if row[FindingColumn.NAME] else "whole network"
    message = str(row[FindingColumn.MESSAGE])
    lead, *rest = _SENTENCE.split(message, maxsplit=1)
    parts = [
        tag("header", tag("span", WORDS[severity], class_="badge"), name, tag("span", where, class_="where")),
        tag("p", tag("b", prose(lead)), *(f" {prose(sentence)}" for sentence in rest)),
    ]
    if row[FindingColumn.REMEDY]:
        parts.append(tag("p", tag("b", "Try: "), prose(row[FindingColumn.REMEDY]), class_="remedy"))
    given = [column for column in NUMBERS if not pd.isna(row[column]) and row[column] != ""]
    if given:
        numbers = definitions((FINDING_COLUMNS[column].label, text(_short(row[column]))) for column in given)
        parts.append(tag("details", tag("summary", "Numbers"), numbers))
    wide = severity is not Severity.NOTE or len(message) > LONG
    return tag("li", *parts, class_=f"card {severity}{' wide' if wide else ''}")


def _facts(frame: pd.DataFrame) -> str:
    cards = [
        tag(
            "li",
            tag(
                "header",
                tag("span", text(fact.statistic), class_="rule"),
                tag("span", layer(fact.name), class_="where"),
            ),
            tag("p", prose(fact)),
            class_="card fact",
        )
        for fact in notes(frame, limit=FACTS)
    ]
    if not cards:
        return tag("p", "The frame has too little to compare.", class_="calm")
    return tag("ol", *cards, class_="cards")


def _section(title: str, summary: str, body: str) -> str:
    heading = tag("h2", text(title), " ", tag("small", text(summary)))
    return tag("section", heading, body, id="findings", aria_label=title)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
