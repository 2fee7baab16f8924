"""The worst that was found in a watched run so far."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas as pd

from spp.diagnosis import Severity, find
from spp.frame.build import build_exponents
from spp.frame.schema import Column
from spp.watching import Watch

RANK = {str(severity): rank for rank, severity in enumerate(Severity)}
"""0 is the worst."""


class Worst:
    """Diagnoses the last sample, when asked, and remembers the worst finding; what is no more than information is passed over.

    Args:
        watch: What samples.
        known: What was found before, of a run that goes on.

    Attributes:
        found: The worst finding with its ``step``, ``severity``, ``rule``, ``name``, ``message`` and ``remedy``, or None.
    """

    def __init__(self, watch: Watch, known: dict[str, Any] | None = None) -> None:
        self.found = known
        self._watch = watch
        self._fresh: tuple[pd.DataFrame, pd.DataFrame] | None = None
        watch.listen(self._sampled)

    def _sampled(self, frame: pd.DataFrame, blocks: pd.DataFrame) -> None:
        if len(frame) and frame[Column.MODE].iloc[0] == "train":
            self._fresh = (frame, blocks)

    def look(self) -> dict[str, Any] | None:
        """Diagnose what was sampled since the last look; the worst of all that was found."""
        if self._fresh is None:
            return self.found
        (frame, blocks), self._fresh = self._fresh, None
        watch = self._watch
        tables = {"modules": watch.modules, "unmeasured": watch.unmeasured, "exponents": build_exponents([])}
        found = find(SimpleNamespace(frame=frame, blocks=blocks, run=watch.run, **tables))
        if found and found[0].severity is not Severity.NOTE and not self._milder(str(found[0].severity)):
            worst = found[0]
            self.found = {
                "step": int(frame[Column.STEP].iloc[0]),
                "severity": str(worst.severity),
                "rule": worst.rule,
                "name": worst.name,
                "message": worst.message,
                "remedy": worst.remedy,
            }
        return self.found

    def _milder(self, severity: str) -> bool:
        """Whether something as bad was found before: what came first is the cause."""
        return self.found is not None and RANK[self.found["severity"]] <= RANK[severity]
