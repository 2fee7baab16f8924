"""The parts of the page that need no script: heading, figures at a glance, findings, what was not measured, the run's facts."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from spp.diagnosis import RULES, notes
from spp.frame.schema import FINDING_COLUMNS, Column, FindingColumn, ModuleColumn, UnmeasuredColumn
from spp.plot.captions import heading
from spp.plot.panels import PLURAL
from spp.report.markup import definitions, layer, prose, tag, text
from spp.vocabulary import Severity, Signal

Run = Mapping[str, Any]

FIRST = (
    "model",
    "norm",
    "activation",
    "init",
    "data",
    "input_shape",
    "batch_size",
    "batches",
    "samples",
    "seed",
    "loss",
)
"""Facts that come first, in this order; the others follow by name."""

MOST_NAMES = 200
"""Modules that are listed under one reason; the rest is counted."""


WORDS = {Severity.ERROR: "Error", Severity.WARNING: "Warning", Severity.NOTE: "Note"}

NUMBERS = (
    FindingColumn.SIGNAL,
    FindingColumn.STATISTIC,
    FindingColumn.VALUE,
    FindingColumn.EXPECTED,
    FindingColumn.DEPTH,
    FindingColumn.STEP,
    FindingColumn.EVIDENCE,
)
"""What stands behind a finding, folded away."""

FACTS = 6
"""How many facts are told."""

LONG = 260
"""Characters from which a note takes the whole width, as errors and warnings do."""

_SENTENCE = re.compile(r"(?<=[.:]) (?=[A-Z0-9])")
"""Where the first sentence of a message ends."""


def title(run: Run) -> str:
    """Return the title of the page, in plain text."""
    norm = f", norm {run['norm']}" if run.get("norm") is not None else ""
    return f"{run.get('model') or 'A network'}{norm}"


def header(run: Run, step: int, offered: str = "") -> str:
    """Return the name of the network and one line of what was done to it, and which of many steps the page offers."""
    rest = heading(run, step).partition(" · ")[2] if run.get("model") else heading(run, step)
    rest = " · ".join(filter(None, (rest, offered)))
    line = tag("p", text(rest), class_="run") if rest else ""
    return tag(
        "div",
        tag("p", "Signal propagation report", class_="kind"),
        tag("h1", text(run.get("model") or "A network")),
        line,
    )


def glance(frame: pd.DataFrame, blocks: pd.DataFrame, modules: pd.DataFrame, unmeasured: pd.DataFrame, run: Run) -> str:
    """Return the handful of numbers that say how large the network is and whether the trace is whole."""
    nonfinite = int((frame[Column.NONFINITE] > 0).sum())
    leaves = int((modules[ModuleColumn.LEAF] & (modules[ModuleColumn.CALLS] > 0)).sum())
    parameters = run.get("parameters")
    tiles = [
        ("parameters", _size(parameters) if isinstance(parameters, int) else "", None),
        ("layers that ran", f"{leaves:,}", None),
        ("residual merges", f"{len(blocks):,}", None),
        ("tensors measured", f"{len(frame):,}", None),
        ("with NaN or infinity", f"{nonfinite:,}", "bad" if nonfinite else "good"),
        ("not measured", f"{len(unmeasured):,}", None),
    ]
    found = [tag("div", tag("dd", number), tag("dt", label), class_=mood) for label, number, mood in tiles if number]
    return tag("dl", *found, class_="glance")


def findings(table: pd.DataFrame | None, frame: pd.DataFrame) -> str:
    """Return the section: the findings, and the most striking facts, which stand alone where there is no finding.

    Args:
        table: Table with the columns of ``spp.frame.schema.FINDING_COLUMNS``, or None where nobody diagnosed.
        frame: Table with the columns of ``spp.frame.schema.COLUMNS``, of one step.
    """
    facts = _striking(frame)
    if table is None:
        return _section("Most striking facts", "ratios within this network, the largest first", facts, "findings")
    if table.empty:
        calm = tag("p", "No rule of the diagnosis found anything. The most striking facts:", class_="calm")
        return _section("Findings", "nothing to report", calm + facts, "findings")
    rows: list[Mapping[Any, Any]] = table[list(FINDING_COLUMNS)].to_dict("records")  # type: ignore[assignment]
    severities = [Severity(row[FindingColumn.SEVERITY]) for row in rows]
    counts = [(severities.count(severity), WORDS[severity].lower()) for severity in Severity]
    summary = ", ".join(f"{number} {noun}{'' if number == 1 else 's'}" for number, noun in counts if number)
    cards = tag("ol", *map(_finding, rows), class_="cards")
    more = tag("details", tag("summary", "The most striking facts"), facts, class_="more")
    return _section("Findings", summary, cards + more, "findings")


def _finding(row: Mapping[Any, Any]) -> str:
    severity, rule = Severity(row[FindingColumn.SEVERITY]), str(row[FindingColumn.RULE])
    # a run may hold findings of a rule that is not registered here
    described = RULES[rule].description if rule in RULES else None
    name = tag("code", text(rule), class_="rule", title=described)
    where = layer(row[FindingColumn.SINCE]) if row[FindingColumn.SINCE] else "whole network"
    if row[FindingColumn.UNTIL]:
        where += f" to {layer(row[FindingColumn.UNTIL])}"
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


def _striking(frame: pd.DataFrame) -> str:
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


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def not_measured(unmeasured: pd.DataFrame) -> str:
    """Return what could not be measured: one entry per reason and signal, with the modules it concerns."""
    if unmeasured.empty:
        body = tag("p", "Everything that was asked for was measured.", class_="calm")
        return _section("Not measured", "everything was measured", body, "unmeasured")
    keys = [UnmeasuredColumn.REASON, UnmeasuredColumn.SIGNAL]
    entries = []
    for (reason, signal), rows in unmeasured.groupby(keys, sort=False, observed=True):
        # a module has a row for each call and output
        names = list(dict.fromkeys(rows[UnmeasuredColumn.NAME].astype(str)))
        more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
        what = Signal(str(signal)).replace("_", " ") if len(rows) == 1 else PLURAL[Signal(str(signal))]
        summary = tag("summary", tag("b", f"{len(rows):,} {what}: "), text(reason))
        listed = tag("p", " ".join(map(layer, names[:MOST_NAMES])), more, class_="names")
        entries.append(tag("details", summary, listed))
    noun = "tensor" if len(unmeasured) == 1 else "tensors"
    return _section("Not measured", f"{len(unmeasured):,} {noun}, and why", "".join(entries), "unmeasured")


def facts(run: Run) -> str:
    """Return every fact of the run, and the command that repeats it where there is one."""
    nested = {key: value for key, value in sorted(run.items()) if isinstance(value, Mapping)}
    simple = {key: value for key, value in run.items() if value is not None and key not in (*nested, "argv")}
    order = [key for key in FIRST if key in simple] + sorted(key for key in simple if key not in FIRST)
    parts = [definitions((_label(key), _value(simple[key])) for key in order)]
    argv = run.get("argv")
    if isinstance(argv, list) and argv:
        command = tag("code", text(shlex.join(["spp", *map(str, argv)])), id="command")
        parts.append(tag("div", tag("h3", "To run it again"), tag("pre", command), class_="again"))
    for key, value in ((key, value) for key, value in nested.items() if value):
        pairs = definitions((_label(name), _value(inner)) for name, inner in sorted(value.items()) if inner is not None)
        parts.append(tag("details", tag("summary", text(_label(key).capitalize())), pairs))
    return _section("The run", "what was traced, and how", "".join(parts), "run")


def _section(name: str, summary: str, body: str, key: str) -> str:
    return tag("section", tag("h2", text(name), " ", tag("small", text(summary))), body, id=key, aria_label=name)


def _label(key: object) -> str:
    return str(key).replace("_", " ")


def _value(value: Any) -> str:
    return text(", ".join(_words(value)) if isinstance(value, (list, tuple)) else next(_words([value])))


def _words(values: Any) -> Iterator[str]:
    for value in values:
        if isinstance(value, bool):
            yield "yes" if value else "no"
        elif isinstance(value, int):
            yield f"{value:,}" if value >= 10_000 else str(value)
        elif isinstance(value, float):
            yield f"{value:.6g}"
        elif isinstance(value, (list, tuple, Mapping)):
            yield json.dumps(value, default=str)
        else:
            yield str(value)


def _size(number: int) -> str:
    """Three digits and a unit, as ``5.29 M``."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
