"""``spp.diagnose``: every rule asked about one trace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Protocol

import pandas as pd

from spp.diagnosis.findings import Finding, arrange, build_findings
from spp.diagnosis.registry import RULES, Check, chosen, limits_of
from spp.diagnosis.view import View
from spp.errors import InputError, UnknownNameError
from spp.frame.schema import BlockColumn, Column
from spp.stats.extra import FORMATS


class Measured(Protocol):
    """What a diagnosis reads: the tables of a trace, measured just now or loaded from a run folder."""

    @property
    def frame(self) -> pd.DataFrame:
        """One row per observed tensor."""

    @property
    def blocks(self) -> pd.DataFrame:
        """One row per residual merge."""

    @property
    def modules(self) -> pd.DataFrame:
        """One row per module."""

    @property
    def unmeasured(self) -> pd.DataFrame:
        """One row per thing that could not be measured."""

    @property
    def exponents(self) -> pd.DataFrame:
        """Counts by power of two."""

    @property
    def run(self) -> dict[str, Any]:
        """The facts of the run."""


def diagnose(
    trace: Measured,
    *,
    rules: Iterable[str | Check] | None = None,
    thresholds: Mapping[str, float] | None = None,
    precision: str | Iterable[str] | None = None,
) -> pd.DataFrame:
    """Say what is wrong with the signals of a network, where it begins, and what to try.

    Needs neither the model nor torch, only what a saved run holds. Of a frame with several steps the last one counts.

    Args:
        trace: A :class:`spp.Trace`, measured just now or loaded.
        rules: Names of the rules to ask (``spp list rules``), or functions ``(view, at) -> findings``; all if left out.
        thresholds: What to change, as ``{"cliff.decades": 3}``; the documentation gives each threshold's reason.
        precision: Number formats that training is meant to use (``float16``, ``bfloat16``, ``fp8-e4m3``, ``fp8-e5m2``): what
            they would lose becomes a warning. Left out: that of the run.

    Returns:
        One row per finding, see :data:`spp.frame.schema.FINDING_COLUMNS`: worst first, causes before what follows from them;
        empty where there is nothing to say.

    Raises:
        UnknownNameError: No such rule, threshold or number format.
        InputError: A rule or a threshold is not what was asked for.
    """
    return build_findings(find(trace, rules=rules, thresholds=thresholds, precision=precision))


def find(
    trace: Measured,
    *,
    rules: Iterable[str | Check] | None = None,
    thresholds: Mapping[str, float] | None = None,
    precision: str | Iterable[str] | None = None,
) -> list[Finding]:
    """The findings of :func:`diagnose`, as records."""
    rows = chosen(rules)
    limits = limits_of(thresholds) | {row.name: SimpleNamespace() for row in rows if row.name not in RULES}
    formats = (precision,) if isinstance(precision, str) else tuple(precision or ())
    for name in formats:
        if name not in FORMATS:
            raise UnknownNameError("number format", name, FORMATS, where="precision")
    view = View(_last_step(trace), trace.run, formats, limits)
    found: list[Finding] = []
    for row in rows:
        for finding in row.check(view, limits[row.name]) or ():
            if not isinstance(finding, Finding):
                raise InputError("a rule yields findings", received=type(finding).__name__, where=f"rule {row.name!r}")
            found.append(replace(finding, rule=row.name))
    return arrange(found)


def _last_step(trace: Measured) -> dict[str, pd.DataFrame]:
    frame, blocks = trace.frame, trace.blocks
    if frame[Column.STEP].nunique() > 1:
        frame = frame[frame[Column.STEP] == frame[Column.STEP].max()]
        blocks = blocks[blocks[BlockColumn.STEP] == blocks[BlockColumn.STEP].max()]
    return {
        "frame": frame,
        "blocks": blocks,
        "modules": trace.modules,
        "unmeasured": trace.unmeasured,
        "exponents": trace.exponents,
    }
