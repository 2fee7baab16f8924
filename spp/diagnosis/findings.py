"""A finding, and the table of them: worst first, the cause before what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from spp.frame.schema import FINDING_COLUMNS, FindingColumn, check
from spp.vocabulary import Severity, Signal

EVERYTHING = "*"
"""In ``explains``: every other finding follows from this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        severity: How bad it is.
        name: The leaf in which the trouble begins; "" where it is the whole network's.
        message: The finding in a sentence or two.
        depth: Depth of that leaf, or None.
        signal: Which signal shows it, or None.
        statistic: What ``value`` measures, as ``mean_square``.
        value: The number that was found, or NaN.
        expected: What would have been taken, as ``at most 2.6 decades``.
        remedy: What to try; words to type stand between backticks.
        evidence: The layers concerned and their numbers.
        explains: Rules whose findings follow from this one, and are left out beside it; ``"rule:note"`` only if they
            are no more than information.
        rule: The rule that found it; filled in by :func:`spp.diagnose`.
    """

    severity: Severity
    name: str
    message: str
    depth: int | None = None
    signal: Signal | None = None
    statistic: str | None = None
    value: float = float("nan")
    expected: str | None = None
    remedy: str = ""
    evidence: str = ""
    explains: tuple[str, ...] = ()
    rule: str = ""


def arrange(found: Sequence[Finding]) -> list[Finding]:
    """Leave out what follows from another finding, and sort: worst first, causes first, early layers first.

    Args:
        found: Findings in the order of their rules, which is that from cause to consequence.
    """
    kept: list[Finding] = []
    for finding in found:
        followed = any(
            finding.rule in earlier.explains
            or f"{finding.rule}:{finding.severity}" in earlier.explains
            or (EVERYTHING in earlier.explains and earlier.rule != finding.rule)
            or (earlier.name == finding.name != "" and earlier.rule != finding.rule and _as_bad(earlier, finding))
            for earlier in kept
        )
        if not followed:
            kept.append(finding)
    order = {severity: rank for rank, severity in enumerate(Severity)}
    rules = list(dict.fromkeys(finding.rule for finding in found))
    return sorted(
        kept, key=lambda f: (order[f.severity], rules.index(f.rule), f.depth if f.depth is not None else 1 << 60)
    )


def _as_bad(earlier: Finding, finding: Finding) -> bool:
    """Two rules about the same leaf are one trouble, unless the later one is worse."""
    order = list(Severity)
    return order.index(earlier.severity) <= order.index(finding.severity)


def build_findings(found: Sequence[Finding]) -> pd.DataFrame:
    """The table of :data:`spp.frame.schema.FINDING_COLUMNS`, one row per finding, in their order."""
    columns: dict[str, object] = {}
    for column, spec in FINDING_COLUMNS.items():
        values = [getattr(finding, str(column)) for finding in found]
        if spec.dtype == "category":
            texts = [None if value is None else str(value) for value in values]
            columns[str(column)] = pd.Categorical(texts, categories=[str(c) for c in spec.categories])
        elif column is FindingColumn.DEPTH:
            columns[str(column)] = pd.array(values, dtype="Int64")
        elif column is FindingColumn.VALUE:
            columns[str(column)] = np.array(values, dtype=np.float64)
        else:
            columns[str(column)] = pd.array(values, dtype="str")
    return check(pd.DataFrame(columns), FINDING_COLUMNS)
