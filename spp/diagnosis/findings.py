"""Findings: what is wrong with a network, or worth knowing, and the words and numbers in which it is told."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, ClassVar

import pandas as pd

from spp.diagnosis.remedies import Remedy
from spp.frame.schema import FINDING_COLUMNS, check
from spp.vocabulary import Severity, Signal

EVERYTHING = "everything"
"""The tag of a cause that every other finding follows."""

# 0 is the worst.
RANK = {severity: rank for rank, severity in enumerate(Severity)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        severity: How bad it is.
        name: The leaf in which the trouble begins; "" where it is the whole network's.
        message: The finding in a sentence or two.
        depth: Depth of that leaf, or None.
        step: For what came about in training the sampled step at which it began, or None.
        signal: Which signal shows it, or None.
        statistic: What ``value`` measures, as ``mean_square``.
        value: The number that was found, or NaN.
        expected: What would have been taken, as ``at most 2.6 decades``.
        remedy: What to try; words to type stand between backticks. Left out, those of the first of ``remedies``, for the
            command line or for Python, whichever was used.
        remedies: All that could be tried, the likeliest first, see :mod:`spp.diagnosis.remedies`.
        evidence: The layers concerned and their numbers.
        tags: What it is a cause of, see :func:`spp.diagnosis.rule`; None stands for the tags of its rule.
        follows: Tags of the causes beside which it is left out; None stands for those of its rule.
        rule: The rule that found it; filled in by :func:`spp.diagnose`.
    """

    severity: Severity
    name: str
    message: str
    depth: int | None = None
    step: int | None = None
    signal: Signal | None = None
    statistic: str | None = None
    value: float = float("nan")
    expected: str | None = None
    remedy: str = ""
    remedies: tuple[Remedy, ...] = ()
    evidence: str = ""
    tags: tuple[str, ...] | None = None
    follows: tuple[str, ...] | None = None
    rule: str = ""

    def __str__(self) -> str:
        return self.message


class Findings(pd.DataFrame):
    """The table of findings, worst first: the columns of :data:`spp.frame.schema.FINDING_COLUMNS`, one row per finding.

    Printed, it is a list of sentences; looped over, it gives :class:`Finding` records. All else is a DataFrame's.

    Attributes:
        notes: What is worth knowing of any network, healthy or not: the most striking first.
    """

    # pandas keeps, copies and pickles the attributes that are named here.
    _metadata: ClassVar[list[str]] = ["_found", "notes"]
    _found: tuple[Finding, ...]
    notes: tuple[Finding, ...]

    def __init__(self, found: Sequence[Finding] = (), notes: Sequence[Finding] = ()) -> None:
        # The stubs of pandas know of __new__ alone.
        super().__init__(build_findings(found))  # type: ignore[call-arg]
        self._found, self.notes = tuple(found), tuple(notes)

    @property
    def _constructor(self) -> Any:
        # A selection of rows or columns is a plain table: its records would no longer be those of its rows.
        return pd.DataFrame

    @property
    def frame(self) -> pd.DataFrame:
        """The plain table."""
        return self.copy()

    def worst(self, severity: Severity | str = Severity.NOTE) -> list[Finding]:
        """The findings that are as bad as ``severity`` or worse."""
        return [finding for finding in self if RANK[finding.severity] <= RANK[Severity(severity)]]

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._found)

    def __str__(self) -> str:
        lines = []
        for finding in self:
            where = f" at {finding.name}" if finding.name else ""
            lines.append(f"{finding.severity}: {finding.rule}{where}: {finding.message}")
            lines += [f"    Try: {finding.remedy}"] if finding.remedy else []
        return "\n".join(lines or ["Nothing to report."])

    def _repr_html_(self) -> str:
        rows = [
            f"<tr><td>{finding.severity}</td><td><code>{finding.rule}</code></td><td>{escape(finding.name)}</td>"
            f"<td>{escape(finding.message)}</td><td>{escape(finding.remedy)}</td></tr>"
            for finding in self
        ]
        head = "".join(f"<th>{title}</th>" for title in ("severity", "rule", "where", "finding", "try"))
        return f"<table><tr>{head}</tr>{''.join(rows)}</table>" if rows else "<p>Nothing to report.</p>"


def arrange(found: Sequence[Finding]) -> list[Finding]:
    """Leave out what follows from another finding, and sort: worst first, causes first, early layers first.

    Args:
        found: Findings in the order of their rules, which is that from cause to consequence.
    """
    kept: list[Finding] = []
    # What explains by its tags is told by one finding of each rule, else it has the same name.
    tagged: dict[object, Finding] = {}
    named: dict[str, list[Finding]] = {}
    for finding in found:
        causes = (*tagged.values(), *named.get(finding.name, ()))
        if not any(_explains(earlier, finding) for earlier in causes if earlier.rule != finding.rule):
            kept.append(finding)
            tagged.setdefault((finding.rule, tuple(finding.tags or ())), finding)
            named.setdefault(finding.name, []).append(finding)
    # Of one rule, what is about the whole network comes last.
    rules = list(dict.fromkeys(finding.rule for finding in found))
    return sorted(
        kept, key=lambda f: (RANK[f.severity], rules.index(f.rule), f.depth if f.depth is not None else 1 << 60)
    )


def _explains(cause: Finding, finding: Finding) -> bool:
    """By its tags, or since two rules about the same leaf are one trouble, unless the later one is worse."""
    tags = set(cause.tags or ())
    same = cause.name == finding.name != "" and RANK[cause.severity] <= RANK[finding.severity]
    return same or EVERYTHING in tags or not tags.isdisjoint(finding.follows or ())


def build_findings(found: Sequence[Finding]) -> pd.DataFrame:
    """The table of :data:`spp.frame.schema.FINDING_COLUMNS`, one row per finding, in their order."""
    columns: dict[str, object] = {}
    for column, spec in FINDING_COLUMNS.items():
        dtype: Any = pd.CategoricalDtype([str(c) for c in spec.categories]) if spec.categories else spec.dtype
        columns[str(column)] = pd.Series([getattr(finding, str(column)) for finding in found], dtype=dtype)
    return check(pd.DataFrame(columns), FINDING_COLUMNS)


_MOST = 300
"""Decades; the factors of many layers in one, or of a gradient and its weight, may be more than a float64 can hold."""


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}"


def power(decades: float) -> float:
    """Ten to that power; infinite where a float64 cannot hold it, as Python's own power raises then."""
    return math.inf if decades > _MOST else 10.0**decades


def powered(decades: float) -> str:
    """Ten to that power, three digits, also where a float64 cannot hold it."""
    if _MOST < abs(decades) < math.inf:
        return f"{10 ** (decades % 1):.3g}e{math.floor(decades):+d}"
    return number(power(decades))


def factor(decades: float) -> str:
    """A ratio given by its log10, as ``3.2-fold`` or ``4.1e+09-fold``."""
    decades = abs(decades)
    if _MOST < decades < math.inf:
        return f"{10 ** (decades % 1):.2g}e+{int(decades)}-fold"
    value = 10**decades
    return f"{value:.2g}-fold" if value >= 1e5 else f"{value:,.1f}-fold" if value < 100 else f"{value:,.0f}-fold"


def percent(share: float) -> str:
    """A share in percent, three digits."""
    return f"{number(100 * share)} %"


def count(n: int, noun: str) -> str:
    """``1 layer``, ``3 layers``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def further(others: int, noun: str = "layer", before: str = "; so it is in ", after: str = "") -> str:
    """That there are others beside the one told of; empty where there are none."""
    return f"{before}{count(others, f'further {noun}')}{after}" if others else ""


def some(names: Sequence[str], most: int = 8) -> str:
    """The names, the first ones of many."""
    shown = ", ".join(quoted(name) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def quoted(name: object) -> str:
    """A module's name for a sentence."""
    return str(name) or "the model itself"
