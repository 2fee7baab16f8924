"""``spp.trace``: one forward and one backward pass per batch, observed; and the :class:`Trace` that comes of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from spp.diagnosis.diagnose import diagnose
from spp.errors import InputError
from spp.facts import model_facts
from spp.frame import store
from spp.frame.build import build_blocks, build_channels, build_exponents, build_frame, build_modules, build_unmeasured
from spp.frame.schema import BlockColumn, Column
from spp.frame.tally import Tally
from spp.loss import Batch, LossFunction, Objective, batches_of, is_iterable_of_batches, to_device
from spp.measure import kernels
from spp.measure.capture import Capture
from spp.measure.channels import ChannelAxis
from spp.measure.facts import module_facts
from spp.measure.garbage import patient_collector
from spp.measure.sites import Selection, roster
from spp.measure.stage import Depth
from spp.measure.state import Restore, kept, preserved, set_aside
from spp.signals import ALL, Signal, chosen

if TYPE_CHECKING:
    from spp.plot import SignalPlot


Table = pd.DataFrame | Callable[[], pd.DataFrame]


def _no_exponents() -> pd.DataFrame:
    return build_exponents([])


def _no_channels() -> pd.DataFrame:
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
        blocks: pd.DataFrame,
        modules: Table,
        unmeasured: Table,
        run: dict[str, Any],
        exponents: Table = _no_exponents,
        channels: Table = _no_channels,
    ) -> None:
        self.frame, self.blocks, self.run = frame, blocks, run
        self._later: dict[str, Table] = {"modules": modules, "unmeasured": unmeasured}
        self._later |= {"exponents": exponents, "channels": channels}

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
    def findings(self) -> pd.DataFrame:
        """What :func:`spp.diagnose` says with its own thresholds, the worst first; kept after the first time."""
        self._later.setdefault("findings", lambda: diagnose(self))
        return self._table("findings")

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
    return Trace(*four, run, tables.get("exponents", _no_exponents), tables.get("channels", _no_channels))


def trace(
    model: nn.Module,
    batch: Any,
    *,
    loss: LossFunction | None = None,
    signals: Iterable[Signal | str] = ALL,
    include: Selection = None,
    exclude: Selection = None,
    batches: int | None = None,
    channel_axis: ChannelAxis = None,
    loss_scale: float = 1.0,
    restore: Restore = True,
    seed: int = 0,
    progress: bool = False,
    moments: int = 2,
    exponents: bool = False,
    channels: bool = False,
) -> Trace:
    """Measure how signals travel through ``model``: one forward and one backward pass per batch, nothing changed.

    Args:
        model: Any ``torch.nn.Module``, in the mode (train or eval) it is in.
        batch: A tensor; a pair ``(inputs, targets)``; a mapping of keyword arguments; or an iterable of any of these (a
            DataLoader), whose statistics are merged exactly. Several positional inputs go in as a tuple in the pair's first
            place: ``((a, b), target)``. Tensors are moved to the model's device.
        loss: ``(output, target) -> scalar``. Left out: the output's own ``.loss`` where it has one; else, with a target,
            cross-entropy for class indices and mean squared error for floats; else a probe, a standard-normal cotangent on
            every floating output, drawn from a private generator seeded by ``seed``.
        signals: Which of ``activation``, ``gradient``, ``weight``, ``weight_gradient`` to measure.
        include: Glob patterns over qualified names, module classes, or predicates ``(name, module) -> bool``.
        exclude: The same, for modules to leave out.
        batches: Stop after so many batches.
        channel_axis: Overrides the channel axis of activations and gradients: an int, or a callable of module and tensor.
        loss_scale: Multiplies the loss before the backward pass (float16 gradients underflow without); the measured
            gradients are divided by it.
        restore: False lets buffers and module attributes move (BatchNorm's running statistics); "all" copies and restores
            parameters too, for a forward that writes to them.
        seed: Seed of the probe.
        progress: Show a progress bar over batches.
        moments: 4 measures the kurtosis too, at the cost of some float64 passes over every tensor.
        exponents: Count the values by sign and power of two, into ``trace.exponents``, which ``trace.plot("distribution")``
            draws; :func:`spp.frame.precision.lost_shares` reads from it what float16, bfloat16 and fp8 would flush to zero
            or overflow.
        channels: Keep how means and variances are spread over the channels of each tensor, in ``trace.channels``, which
            ``trace.plot("channels")`` draws.

    Returns:
        The trace; ``trace.frame`` has one row per observed tensor.

    Raises:
        TraceError: The model, the loss or the backward pass raised; names the module, keeps the cause. Nothing stays behind.
        InputError: A batch, selector or option is not what was asked for.
    """
    wanted = chosen(signals)
    _check(model, batches, loss_scale, restore)
    if moments not in (2, 4):
        raise InputError("moments is 2, or 4 for the kurtosis too", received=repr(moments), where="moments")
    several = is_iterable_of_batches(batch) and batches != 1
    depth = Depth(mergeable=several or channels, fourth=moments == 4, histogram=exponents)
    kernels.choose()
    entries = roster(model, include, exclude)
    capture = Capture(entries, wanted, channel_axis, loss_scale, depth)
    objective, tally = Objective(loss, seed), Tally()
    sizes: list[int | None] = []
    losses: list[float | None] = []
    with patient_collector():
        with preserved(model, batch, restore):
            for one in _shown(batch, batches, progress):
                ready = to_device(one, model)
                with kept(one.tensors(), (one.args, one.kwargs, one.target)), _undistributed(model):
                    tally.add(
                        capture.run(
                            lambda ready=ready: model(*ready.args, **ready.kwargs),  # type: ignore[misc]
                            lambda output, ready=ready: objective(output, ready.target),  # type: ignore[misc]
                            set_aside,
                        )
                    )
                sizes.append(ready.size)
                losses.append(objective.value)
        facts = module_facts(entries, tally.calls, tally.inputs)
        blocks = build_blocks(tally)
        frame = build_frame(tally.rows, blocks[BlockColumn.BLOCK].unique())
        unmeasured = build_unmeasured(tally.holes)  # now: what it is made of holds modules
        counted = build_exponents(tally.rows) if exponents else _no_exponents
        spread = build_channels(tally.rows) if channels else _no_channels
    known = [s for s in sizes if s is not None]
    about = model_facts(model)
    run = {
        **about,
        "batch_size": known[0] if known else None,
        "batches": len(sizes),
        "samples": sum(known) if known else None,
        "loss": objective.kind or None,
        "loss_value": float(np.mean([v for v in losses if v is not None]))
        if any(v is not None for v in losses)
        else None,
        "loss_scale": loss_scale,
        "kernels": kernels.path_of(about["device"]),
        "signals": [str(s) for s in ALL if s in wanted],
        "seed": seed,
    }
    return Trace(frame, blocks, lambda: build_modules(facts), unmeasured, run, counted, spread)


def _shown(batch: Any, batches: int | None, progress: bool) -> Iterable[Batch]:
    """The batches, at most so many, with a progress bar where asked for."""
    source = itertools.islice(batches_of(batch), batches)
    if not progress:
        return source
    from tqdm.auto import tqdm

    many = is_iterable_of_batches(batch)
    known = (batches, len(batch) if many and hasattr(batch, "__len__") else None)
    total = min((n for n in known if n), default=None)
    return iter(tqdm(source, total=total if many else 1, desc="tracing", unit="batch"))


@contextmanager
def _undistributed(model: nn.Module) -> Iterator[None]:
    """Make DistributedDataParallel call its module and nothing else, so that one rank alone can trace.

    Its own forward broadcasts buffers and, once, the order of its buckets, under ``no_sync`` too; its backward averages
    gradients only after such a forward.
    """
    wrappers = [m for m in model.modules() if isinstance(m, DistributedDataParallel)]
    for wrapper in wrappers:
        wrapper.__dict__["forward"] = partial(_pass_on, wrapper.module)
    try:
        yield
    finally:
        for wrapper in wrappers:
            wrapper.__dict__.pop("forward", None)


def _pass_on(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return module(*args, **kwargs)


def _check(model: object, batches: int | None, loss_scale: float, restore: object) -> None:
    if not isinstance(model, nn.Module):
        raise InputError("a model is a torch.nn.Module", received=f"a {type(model).__name__}", where="model")
    if any(p.is_meta or hasattr(p, "fake_mode") for p in model.parameters()):
        raise InputError(
            "a model that is traced has values",
            received="parameters on the meta device or under a FakeTensorMode",
            where="model",
            remedy="Move it with model.to_empty(device='cpu') and initialize it first",
        )
    if batches is not None and batches < 1:
        raise InputError("at least one batch is traced", received=str(batches), where="batches")
    if not (loss_scale > 0 and np.isfinite(loss_scale)):
        raise InputError("loss_scale is a positive number", received=str(loss_scale), where="loss_scale")
    if restore not in (True, False, "all"):
        raise InputError("restore is True, False or 'all'", received=repr(restore), where="restore")
