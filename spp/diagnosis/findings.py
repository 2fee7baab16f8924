"""Findings: what is wrong with a network, or worth knowing, and the words and numbers in which it is told."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, ClassVar

import pandas as pd

from spp.diagnosis.remedies import Remedy
from spp.frame.schema import FINDING_COLUMNS
from spp.vocabulary import Severity, Signal

EVERYTHING = "everything"
"""The tag of a cause that every other finding follows."""

BACKWARDS = (Signal.GRADIENT, Signal.WEIGHT_GRADIENT)

# 0 is the worst.
RANK = {severity: rank for rank, severity in enumerate(Severity)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        severity: How bad it is.
        name: The leaf in which the trouble begins; "" where it is the whole network's.
        message: The finding in one sentence of at most 30 words: what it is, and the numbers that went in and came out.
        depth: Depth of the leaf in which it begins, or None.
        step: For what came about in training the sampled step at which it began, or None.
        since, until: Where a course through several layers begins and ends; ``since`` is ``name`` where nothing else is said.
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
    since: str = ""
    until: str = ""
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

    def __post_init__(self) -> None:
        # The record is frozen.
        object.__setattr__(self, "since", self.since or self.name)

    def __str__(self) -> str:
        return self.message

    @property
    def where(self) -> str:
        """``at lin3``, ``from lin0 to lin9``, or nothing."""
        course = f"from {quoted(self.since)} to {quoted(self.until)}" if self.until else ""
        return course or (f"at {self.name}" if self.name else "")


class Findings(pd.DataFrame):
    """The table of findings, worst first: the columns of :data:`spp.frame.schema.FINDING_COLUMNS`, one row per finding.

    Printed, it is a list of sentences; looped over, it gives :class:`Finding` records. All else is a DataFrame's.

    Attributes:
        notes: What is worth knowing of any network, healthy or not: the most striking first.
    """

    # pandas keeps, copies and pickles the attributes that are named here.
    _metadata: ClassVar[list[str]] = ["_found", "notes"]
    _found: tuple[Finding, ...]
    _notes: Callable[[], Sequence[Finding]] | Sequence[Finding]

    def __init__(
        self, found: Sequence[Finding] = (), notes: Callable[[], Sequence[Finding]] | Sequence[Finding] = ()
    ) -> None:
        # The stubs of pandas know of __new__ alone.
        super().__init__(build_findings(found))  # type: ignore[call-arg]
        self._found = tuple(found)
        object.__setattr__(self, "_notes", notes)

    @property
    def notes(self) -> tuple[Finding, ...]:
        """What is worth knowing of any network; looked for when it is first asked for."""
        found = tuple(self._notes() if callable(self._notes) else self._notes)
        # by object, since pandas looks at an attribute before it sets it
        object.__setattr__(self, "_notes", found)
        return found

    @notes.setter
    def notes(self, found: Sequence[Finding]) -> None:
        object.__setattr__(self, "_notes", found)

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
            told = " ".join(part for part in (str(finding.rule), finding.where) if part)
            lines.append(f"{finding.severity}: {told}: {finding.message}")
            lines += [f"    Try: {finding.remedy}"] if finding.remedy else []
        return "\n".join(lines or ["Nothing to report."])

    def _repr_html_(self) -> str:
        rows = [
            f"<tr><td>{finding.severity}</td><td><code>{finding.rule}</code></td><td>{escape(finding.where)}</td>"
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
    rules = {name: rank for rank, name in enumerate(dict.fromkeys(finding.rule for finding in found))}
    causes = _causes(found)
    kept: list[Finding] = []
    named: dict[str, list[Finding]] = {}
    for finding in found:
        tagged = (causes.get(tag, {}) for tag in (EVERYTHING, *(finding.follows or ())))
        others = (pair for by_rule in tagged for name, pair in by_rule.items() if name != finding.rule)
        follows = any(
            _reaches(cause, finding, rules[cause.rule] < rules[finding.rule]) for pair in others for cause in pair
        )
        same = named.setdefault(finding.name, []) if finding.name else []
        if not follows and not any(
            one.rule != finding.rule and RANK[one.severity] <= RANK[finding.severity] for one in same
        ):
            kept.append(finding)
            same.append(finding)
    # Of one rule, what is about the whole network comes last.
    return sorted(kept, key=lambda finding: (RANK[finding.severity], rules[finding.rule], _begin(finding)))


def _causes(found: Sequence[Finding]) -> dict[str, dict[str, list[Finding]]]:
    """By tag and rule the first and the last finding to begin, which reach as far as all of that rule."""
    causes: dict[str, dict[str, list[Finding]]] = {}
    for finding in sorted(found, key=_begin):
        for tag in finding.tags or ():
            of_rule = causes.setdefault(tag, {}).setdefault(finding.rule, [finding, finding])
            of_rule[1] = finding
    return causes


def _begin(finding: Finding) -> float:
    return math.inf if finding.depth is None else finding.depth


def _reaches(cause: Finding, finding: Finding, earlier: bool) -> bool:
    """Whether a finding begins at a cause or behind it, in the direction of travel; ``earlier`` tells of their rules."""
    if cause.depth is None or finding.depth is None:
        return earlier
    if finding.signal in BACKWARDS:
        # What one layer does begins there, on the way back; a course of the activations takes the gradients with it.
        return earlier and (not finding.until or bool(cause.until) or cause.depth >= finding.depth)
    return cause.signal not in BACKWARDS and cause.depth < finding.depth + earlier


def build_findings(found: Sequence[Finding]) -> pd.DataFrame:
    """The table of :data:`spp.frame.schema.FINDING_COLUMNS`, one row per finding, in their order."""
    columns: dict[str, object] = {}
    for column, spec in FINDING_COLUMNS.items():
        dtype: Any = pd.CategoricalDtype([str(c) for c in spec.categories]) if spec.categories else spec.dtype
        columns[str(column)] = pd.Series([getattr(finding, str(column)) for finding in found], dtype=dtype)
    return pd.DataFrame(columns)


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


def arrow(before: float, after: float) -> str:
    """``0.97 -> 4e-10``."""
    return f"{number(before)} -> {number(after)}"


def times(decades: float) -> str:
    """A ratio given by its log10, as ``×3.2`` or ``÷3.2``."""
    return f"{'÷' if decades < 0 else '×'}{powered(abs(decades))}"


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
