"""What a trace or a watched run has measured, as data frames: :class:`Trace`, and :func:`load` for those that were saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from spp.diagnosis import Findings, diagnose
from spp.frame import store
from spp.frame.build import build_channels, build_exponents
from spp.frame.schema import Column

if TYPE_CHECKING:
    from spp.plot import SignalPlot


Table = pd.DataFrame | Callable[[], pd.DataFrame]


def no_exponents() -> pd.DataFrame:
    """What a trace has that was not asked for exponents."""
    return build_exponents([])


def no_channels() -> pd.DataFrame:
    """What a trace has that was not asked for channels."""
    return build_channels([])


class Trace:
    """What was measured, as data frames; holds no tensor and no module.

    Attributes:
        frame: One row per observed tensor, see :data:`spp.frame.schema.COLUMNS`.
        blocks: One row per residual merge, see :data:`spp.frame.schema.BLOCK_COLUMNS`.
        modules: One row per module, see :data:`spp.frame.schema.MODULE_COLUMNS`.
        unmeasured: One row per thing that could not be measured, with the reason.
        exponents: How many values lie in each power of two, where asked for (``exponents=True``), else empty; see
            :data:`spp.frame.schema.EXPONENT_COLUMNS`.
        channels: How means and variances are spread over each tensor's channels, where asked for (``channels=True``), else
            empty; see :data:`spp.frame.schema.CHANNEL_COLUMNS`.
        run: Facts about the run (batch size, loss, seed, versions, ...); add your own before saving.
        findings: What is wrong, where it begins and what to try, see :func:`spp.diagnose`; worked out when first asked for.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        blocks: Table,
        modules: Table,
        unmeasured: Table,
        run: dict[str, Any],
        exponents: Table = no_exponents,
        channels: Table = no_channels,
    ) -> None:
        self.frame, self.run = frame, run
        self._later: dict[str, Table] = {"blocks": blocks, "modules": modules, "unmeasured": unmeasured}
        self._later |= {"exponents": exponents, "channels": channels}

    @property
    def blocks(self) -> pd.DataFrame:
        """One row per residual merge."""
        return self._table("blocks")

    @property
    def modules(self) -> pd.DataFrame:
        """One row per module."""
        return self._table("modules")

    @property
    def unmeasured(self) -> pd.DataFrame:
        """One row per thing that could not be measured."""
        return self._table("unmeasured")

    @property
    def exponents(self) -> pd.DataFrame:
        """Counts by power of two, where asked for."""
        return self._table("exponents")

    @property
    def findings(self) -> Findings:
        """What :func:`spp.diagnose` says with its own thresholds, the worst first; kept after the first time."""
        self._later.setdefault("findings", lambda: diagnose(self))
        found: Findings = self._table("findings")  # type: ignore[assignment]
        return found

    @property
    def channels(self) -> pd.DataFrame:
        """Spread over channels, where asked for."""
        return self._table("channels")

    def _table(self, name: str) -> pd.DataFrame:
        """A table that is built when it is first looked at: most traces are asked for their frame alone."""
        table = self._later[name]
        if not isinstance(table, pd.DataFrame):
            table = self._later[name] = table()
        return table

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_later": {name: self._table(name) for name in self._later}}

    def plot(self, kind: str | None = None, **options: Any) -> SignalPlot:
        """Draw the Signal Propagation Plot; ``kind`` and ``options`` as for :func:`spp.plot.signal_plot`.

        Left out, the kind is ``layers``; for a watched run of several steps it is ``evolution``.
        """
        from spp.plot import signal_plot

        if kind is None:
            kind = "evolution" if self.frame[Column.STEP].nunique() > 1 else "layers"
        more: dict[str, Any] = {name: self._table(name) for name in ("unmeasured", "channels", "exponents")}
        return signal_plot(kind, frame=self.frame, blocks=self.blocks, run=self.run, **more, **options)

    def save(self, folder: str | Path, *, overwrite: bool = False, csv: bool = True) -> Path:
        """Write a run folder that :func:`spp.load` gives back; returns its path.

        Args:
            folder: Where to; parents are made.
            overwrite: Replace a run that is there already.
            csv: Write ``frame.csv`` beside ``frame.parquet``.

        Raises:
            StoreError: The folder holds something already or cannot be written; nothing is left half-written.
        """
        tables = {"frame": self.frame, "blocks": self.blocks, "modules": self.modules, "unmeasured": self.unmeasured}
        tables |= {"exponents": self.exponents, "channels": self.channels}
        return store.write(folder, tables, self.run, overwrite=overwrite, csv=csv)

    def report(self, path: str | Path) -> Path:
        """Write one HTML page that opens offline: the findings, an interactive plot, the table, the run's facts.

        Args:
            path: Where to, as ``report.html``; a file that is there already is replaced.

        Raises:
            InputError: The trace holds no measured tensor.
            MissingExtraError: plotly, the extra ``report``, is not installed.
            StoreError: The file cannot be written.
        """
        from spp import report

        tables = {"frame": self.frame, "blocks": self.blocks, "modules": self.modules, "unmeasured": self.unmeasured}
        return report.write(path, **tables, run=self.run, findings=self.findings)

    def _repr_html_(self) -> str:
        """What a notebook shows: what ran, the layers with their main statistics, and what was not measured."""
        from spp.frame.html import summary

        return summary(
            self.frame, self.run, {"not measured": len(self.unmeasured), "residual merges": len(self.blocks)}
        )

    def __repr__(self) -> str:
        model = self.run.get("model", "model")
        modules = self.frame[Column.NAME].nunique()
        return (
            f"Trace of {model}: {len(self.frame)} rows over {modules} modules, {len(self.blocks)} residual merges, "
            f"{len(self.unmeasured)} unmeasured"
        )


def load(folder: str | Path) -> Trace:
    """The trace that :meth:`Trace.save` or ``spp analyze`` wrote, or the run that a :func:`spp.watch` has written so far.

    A watched run has a row for each sampled step, and the columns ``mode`` and ``update_ratio`` besides those of a trace.

    Raises:
        StoreError: It is no run folder, was written by a later version, or is damaged.
    """
    tables, run = store.read(folder)
    four = tables["frame"], tables["blocks"], tables["modules"], tables["unmeasured"]
    return Trace(*four, run, tables.get("exponents", no_exponents), tables.get("channels", no_channels))
