"""What a trace or a watch has measured, as data frames: :class:`Run`, and :func:`load` for those that were saved.

Several runs side by side are a :class:`Comparison` (:func:`compare`); whether a signal moved is asked by :func:`check`.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from spp._version import __version__
from spp.capture.parameters import parameters_in
from spp.capture.sites import named_modules
from spp.diagnosis import Findings, diagnose, regression
from spp.diagnosis.main_path import component_table
from spp.errors import InputError, plain
from spp.frame import runs
from spp.frame.build import build_channels, build_exponents, build_frame, build_steps
from spp.frame.schema import COMPONENT_COLUMNS, Column, ComponentColumn
from spp.layers import type_name

if TYPE_CHECKING:
    from spp.plot import SignalPlot

Table = pd.DataFrame | Callable[[], pd.DataFrame]

TRY = "spp.remedy_trials:try_remedies"
"""What tries remedies."""
RECIPE = "spp_recipe"
"""The attribute in which ``spp.models.build`` leaves how a network was made."""
SHOWN_ROWS = 12
"""Components or layers that a summary shows; of more, the first and the last ones."""
SHOWN_FINDINGS = 5
"""Findings that a summary shows: the worst."""
HEADING = ("norm", "activation", "init", "batch_size", "data", "seed", "loss")
"""Facts that a summary begins with."""


def no_exponents() -> pd.DataFrame:
    """The table of a run that was not asked for exponents."""
    return build_exponents([])


def no_inputs() -> pd.DataFrame:
    """The table of a run that measured nothing but outputs."""
    return build_frame([], ())


def no_channels() -> pd.DataFrame:
    """The table of a run that was not asked for channels."""
    return build_channels([])


class Run:
    """What was measured, as data frames; holds no tensor and no module.

    Attributes:
        info: Facts about the run (model and how it was built, batch size, loss, seed, versions, ...); add your own before
            saving.
    """

    def __init__(
        self,
        frame: Table,
        blocks: Table,
        modules: Table,
        unmeasured: Table,
        info: dict[str, Any],
        exponents: Table = no_exponents,
        channels: Table = no_channels,
        steps: Table | None = None,
        inputs: Table = no_inputs,
    ) -> None:
        self.info = info
        self._tables: dict[str, Table] = {
            "frame": frame,
            "blocks": blocks,
            "modules": modules,
            "unmeasured": unmeasured,
            "exponents": exponents,
            "channels": channels,
            "steps": partial(_one_step, info) if steps is None else steps,
            "inputs": inputs,
        }

    # -- the tables -----------------------------------------------------------------------------------------------------------

    @property
    def frame(self) -> pd.DataFrame:
        """One row per observed tensor, see :data:`spp.frame.schema.COLUMNS`."""
        return self._table("frame")

    @frame.setter
    def frame(self, frame: pd.DataFrame) -> None:
        self._tables["frame"] = frame
        # what follows from the frame follows anew
        for name in ("components", "findings"):
            self._tables.pop(name, None)

    @property
    def blocks(self) -> pd.DataFrame:
        """One row per residual merge, see :data:`spp.frame.schema.BLOCK_COLUMNS`."""
        return self._table("blocks")

    @property
    def modules(self) -> pd.DataFrame:
        """One row per module, see :data:`spp.frame.schema.MODULE_COLUMNS`."""
        return self._table("modules")

    @property
    def unmeasured(self) -> pd.DataFrame:
        """One row per thing that could not be measured, with the reason."""
        return self._table("unmeasured")

    @property
    def exponents(self) -> pd.DataFrame:
        """How many values lie in each power of two, see :data:`spp.frame.schema.EXPONENT_COLUMNS`.

        Empty unless asked for (``exponents=True``).
        """
        return self._table("exponents")

    @property
    def inputs(self) -> pd.DataFrame:
        """One row per call of a leaf whose input no module gave out (the batch, functions between modules), with its moments.

        The columns are those of the frame. ``modules`` says of every call where what entered it is measured. Empty for a watch.
        """
        return self._table("inputs")

    @property
    def channels(self) -> pd.DataFrame:
        """How means and variances are spread over each tensor's channels, see :data:`spp.frame.schema.CHANNEL_COLUMNS`.

        Empty unless asked for (``channels=True``).
        """
        return self._table("channels")

    @property
    def steps(self) -> pd.DataFrame:
        """One row per measured step with its loss, see :data:`spp.frame.schema.STEP_COLUMNS`.

        A trace has one. Empty for a run that an earlier version stored.
        """
        return self._table("steps")

    @property
    def components(self) -> pd.DataFrame:
        """One row per component along the network, of the last step: stem, every block, head.

        See :data:`spp.frame.schema.COMPONENT_COLUMNS`.
        """
        return self._derived("components", lambda: component_table(self.frame, self.blocks))

    @property
    def findings(self) -> Findings:
        """What :func:`spp.diagnose` says with its own thresholds, the worst first."""
        found: Findings = self._derived("findings", lambda: diagnose(self))  # type: ignore[assignment]
        return found

    @property
    def run(self) -> dict[str, Any]:
        """The facts by their name of version 1; the same dictionary as ``info``."""
        return self.info

    def _table(self, name: str) -> pd.DataFrame:
        """A table, which is built when it is first looked at: most runs are asked for their frame alone."""
        table = self._tables[name]
        if not isinstance(table, pd.DataFrame):
            table = self._tables[name] = table()
        return table

    def _derived(self, name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """A table that follows from the others; kept after the first time."""
        self._tables.setdefault(name, make)
        return self._table(name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": {name: self._table(name) for name in self._tables}}

    # -- what can be done with them -------------------------------------------------------------------------------------------

    def plot(self, kind: str | None = None, **options: Any) -> SignalPlot:
        """Draw the Signal Propagation Plot; ``kind`` and ``options`` as for :func:`spp.plot.signal_plot`.

        Left out, the kind is ``components``, or ``layers`` where signals or statistics are asked for; for a watched run of
        several steps it is ``evolution``.
        """
        from spp.plot import default_kind, signal_plot

        if kind is None:
            steps = "step" not in options and self.frame[Column.STEP].nunique() > 1
            kind = "evolution" if steps else default_kind(options)
        more: dict[str, Any] = {name: self._table(name) for name in ("unmeasured", "channels", "exponents")}
        more["training"] = self.steps
        more["findings"] = lambda: self.findings
        return signal_plot(kind, frame=self.frame, blocks=self.blocks, run=self.info, **more, **options)

    def save(self, folder: str | Path, *, overwrite: bool = False, csv: bool = True) -> Path:
        """Write a run folder that :func:`spp.load` gives back; returns its path.

        Args:
            folder: Where to; parents are made.
            overwrite: Replace a run that is there already.
            csv: Write ``frame.csv`` beside ``frame.parquet``.

        Raises:
            StoreError: The folder holds something already or cannot be written; nothing is left half-written.
        """
        # what a trace knows of its one step is among its facts
        names = (name for name in runs.TABLES if name != "steps" or self.info.get("kind") == runs.WATCH)
        tables = {name: self._table(name) for name in names}
        return runs.write(folder, tables, self.info, overwrite=overwrite, csv=csv)

    def report(self, path: str | Path) -> Path:
        """Write one HTML page that opens offline: the findings, an interactive plot, the table, the run's facts.

        Args:
            path: Where to, as ``report.html``; a file that is there already is replaced.

        Raises:
            InputError: The run holds no measured tensor.
            MissingExtraError: plotly, the extra ``report``, is not installed.
            StoreError: The file cannot be written.
        """
        from spp import report

        tables = {name: self._table(name) for name in ("frame", "blocks", "modules", "unmeasured")}
        return report.write(path, **tables, run=self.info, findings=self.findings)

    def try_remedies(self, model: nn.Module, batch: Any, *, seeds: int = 3, **options: Any) -> pd.DataFrame:
        """Apply each remedy of the findings to a copy of ``model`` and trace it again, see :func:`spp.try_remedies`.

        Args:
            model: The model that was measured; it stays exactly as it is.
            batch: As for :func:`spp.trace`.
            seeds: How often each remedy is tried.
            options: As for :func:`spp.try_remedies`, those of :func:`spp.trace` (``loss``) included.
        """
        # by name: what traces stands above what a trace returns
        module, _, name = TRY.partition(":")
        tried: pd.DataFrame = getattr(import_module(module), name)(self, model, batch, seeds=seeds, **options)
        return tried

    # -- how it is shown ------------------------------------------------------------------------------------------------------

    def summary(self) -> str:
        """What ran, its components and the worst findings, on one screen."""
        if self.frame.empty:
            return f"{self._heading()}\nnothing was measured"
        cells = _abridged(self._shown()).astype(object)
        cells = cells.where(cells.notna(), "").map(lambda cell: plain(cell) if isinstance(cell, str) else cell)
        text = cells.to_string(index=False, float_format="{:.3g}".format)
        lines = [self._heading(), "", text, "", *_worst(self.findings)]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        model = self.info.get("model", "model")
        frame = self.frame
        if Column.MODE in frame:
            steps = frame[Column.STEP].nunique()
            return f"{type(self).__name__} of {model}: {len(frame)} rows over {steps} sampled steps"
        return (
            f"{type(self).__name__} of {model}: {len(frame)} rows over {frame[Column.NAME].nunique()} modules, "
            f"{len(self.blocks)} residual merges, {len(self.unmeasured)} unmeasured"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: the same as :meth:`summary`."""
        title = f"<b>{escape(str(self.info.get('model') or 'a network'))}</b> {escape(self._facts())}"
        if self.frame.empty:
            return f"<div>{title}<br>nothing was measured</div>"
        options: dict[str, Any] = {"index": False, "max_rows": SHOWN_ROWS, "border": 0, "na_rep": ""}
        html = self._shown().to_html(float_format="{:.3g}".format, **options)
        found = "".join(f"<li>{escape(line)}</li>" for line in _worst(self.findings))
        more = f"{len(self.frame):,} rows in run.frame; run.plot() draws them"
        return f"<div>{title}{html}<ul>{found}</ul><small>{more}</small></div>"

    def _shown(self) -> pd.DataFrame:
        """The components, under the names that people read."""
        table = self.components.drop(columns=[ComponentColumn.KIND])
        return table.rename(columns={str(c): COMPONENT_COLUMNS[c].label for c in ComponentColumn})

    def _heading(self) -> str:
        model, facts = str(self.info.get("model") or "a network"), self._facts()
        return plain(f"{model} ({facts})" if facts else model)

    def _facts(self) -> str:
        """The facts that a heading has, and what else is worth a number."""
        facts = [f"partial, {self.info['partial']}"] if "partial" in self.info else []
        facts += [f"{name.replace('_', ' ')} {self.info[name]}" for name in HEADING if self.info.get(name) is not None]
        counts = {"not measured": len(self.unmeasured), "residual merges": len(self.blocks)}
        return ", ".join(facts + [f"{number:,} {name}" for name, number in counts.items() if number])


Trace = Run
"""The name of :class:`Run` in version 1."""


def _one_step(info: Mapping[str, Any]) -> pd.DataFrame:
    """The steps of a trace; none where its facts do not know them."""
    loss = info.get("loss_value")
    one = (0, loss if isinstance(loss, int | float) else math.nan, bool(info.get("training")), math.nan, math.nan)
    return build_steps([one] if "loss_value" in info else ())


def _abridged(table: pd.DataFrame) -> pd.DataFrame:
    """The first and the last rows of a long table, with a row of dots between them."""
    if len(table) <= SHOWN_ROWS:
        return table
    half = SHOWN_ROWS // 2
    dots = pd.DataFrame({column: ["..." if i == 0 else np.nan] for i, column in enumerate(table)})
    return pd.concat([table.head(half), dots, table.tail(half)]).astype({table.columns[0]: "str"})


def _worst(findings: Findings) -> list[str]:
    told = [plain(f"{f.severity}: {f.name or 'the network'}: {f.message}") for f in findings][:SHOWN_FINDINGS]
    more = len(findings) - len(told)
    return [*(told or ["no findings"]), *([f"and {more} more in run.findings"] if more > 0 else [])]


def describe_model(model: nn.Module, parameters: Sequence[nn.Parameter] | None = None) -> dict[str, Any]:
    """Facts about a run that are the same for every kind of run.

    Args:
        model: Which model.
        parameters: Its parameters, where somebody has listed them already.

    Returns:
        Class (or the name it was built by), number of parameters, mode, device and dtype, the recipe of a model that
        ``spp.models.build`` made, and the versions it runs on.
    """
    if parameters is None:
        parameters = parameters_in(m for _, m in named_modules(model))
    first = parameters[0] if parameters else None
    # through getattr, since what torch.compile and DistributedDataParallel return hands on what it lacks
    recipe: Mapping[str, Any] = getattr(getattr(model, "module", model), RECIPE, {})
    return {
        "model": type_name(model),
        **recipe,
        "parameters": sum(p.numel() for p in parameters if not isinstance(p, nn.UninitializedParameter)),
        "training": model.training,
        "device": str(torch.device("cpu") if first is None else first.device),
        "dtype": str(torch.get_default_dtype() if first is None else first.dtype).removeprefix("torch."),
        "versions": {
            "spp": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pandas": pd.__version__,
            "python": platform.python_version(),
        },
    }


def load(folder: str | Path) -> Run:
    """The run that :meth:`Run.save` or ``spp analyze`` wrote, or that a :func:`spp.watch` has written so far.

    A watched run has a row for each sampled step, and the columns ``mode`` and ``update_ratio`` besides those of a trace.

    Raises:
        StoreError: It is no run folder, was written by a later version, or is damaged.
    """
    tables, info = runs.read(folder)
    steps = tables.get("steps", build_steps if info.get("kind") == runs.WATCH else None)
    four = tables["frame"], tables["blocks"], tables["modules"], tables["unmeasured"]
    return Run(
        *four,
        info,
        tables.get("exponents", no_exponents),
        tables.get("channels", no_channels),
        steps,
        tables.get("inputs", no_inputs),
    )


class Comparison:
    """Several runs side by side; the first is what the others are compared with.

    Attributes:
        runs: The runs by label, in order; several where a label has several seeds.
    """

    def __init__(self, runs: Mapping[str, Sequence[Run]]) -> None:
        self.runs = {label: list(several) for label, several in runs.items()}

    @property
    def frame(self) -> pd.DataFrame:
        """The frames of all runs one after the other, with the columns ``label`` and ``run`` (its number) in front."""
        parts = []
        for label, several in self.runs.items():
            for number, run in enumerate(several):
                part = run.frame.copy()
                part.insert(0, "label", label)
                part.insert(1, "run", number)
                parts.append(part)
        return pd.concat(parts, ignore_index=True)

    @property
    def components(self) -> pd.DataFrame:
        """The components of all runs one after the other, with the column ``label`` in front."""
        parts = [run.components.assign(label=label) for label, several in self.runs.items() for run in several]
        table = pd.concat(parts, ignore_index=True)
        return table[["label", *table.columns.drop("label")]]

    def plot(self, kind: str | None = None, **options: Any) -> SignalPlot:
        """Draw all runs in one figure; ``kind`` and ``options`` as for :func:`spp.plot.compare`."""
        from spp.plot import compare as compare_plot

        return compare_plot(self.runs, kind, **options)

    def __repr__(self) -> str:
        return f"Comparison of {', '.join(self.runs)}"


def compare(runs: Mapping[str, Run | Sequence[Run]] | Sequence[Run], labels: Sequence[str] | None = None) -> Comparison:
    """Put several runs side by side.

    Args:
        runs: ``{label: run}``, ``{label: [run, run, ...]}`` for several seeds of a label, or a list of runs.
        labels: For a list, what to call each run; left out, the facts in which they differ.

    Raises:
        InputError: Fewer than two runs, or not as many labels as runs.
    """
    from spp.plot.runs import arms_of

    if isinstance(runs, Mapping):
        named = {label: [given] if isinstance(given, Run) else list(given) for label, given in runs.items()}
    else:
        items = list(runs)
        if labels is None:
            labels = [arm.label for arm in arms_of(items)]
        if len(labels) != len(items):
            raise InputError("every run has a label", received=f"{len(labels)} for {len(items)} runs", where="labels")
        named = {}
        for label, one in zip(labels, items, strict=True):
            named.setdefault(label, []).append(one)
    if sum(map(len, named.values())) < 2:
        raise InputError("a comparison is of several runs", received="fewer than two", where="runs")
    return Comparison(named)


def check(
    run: Run, baseline: Run, *, seeds: Sequence[Run] = (), tolerance: float = regression.TOLERANCE
) -> regression.Regression:
    """Ask whether any layer's signal moved by more than another seed would move it.

    Args:
        run: The run that is looked at.
        baseline: What it should be like.
        seeds: Further runs of the baseline with other seeds, which say how much a seed alone moves each layer.
        tolerance: Relative change of an rms that is always allowed.

    Returns:
        What became of each layer, see :class:`spp.diagnosis.Regression`.

    Raises:
        InputError: The tolerance is not positive, or the runs have no tensor in common.
    """
    return regression.compare(run, baseline, seeds=seeds, tolerance=tolerance)
