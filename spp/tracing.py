"""``spp.trace``: one forward and one backward pass per batch, observed."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import UninitializedParameter

from spp.capture.parameters import parameters_in
from spp.capture.recorder import Recorder
from spp.capture.sites import ChannelAxis, Entry, Selection, roster
from spp.capture.stage import Depth, Held, Window
from spp.capture.state import Restore, kept, patient_collector, preserved, set_aside
from spp.errors import InputError, SppError, TraceError
from spp.frame.accumulate import Accumulator
from spp.frame.build import (
    block_columns,
    build_channels,
    build_exponents,
    build_frame,
    module_columns,
    table_of,
    unmeasured_columns,
)
from spp.frame.schema import BLOCK_COLUMNS, MODULE_COLUMNS, UNMEASURED_COLUMNS
from spp.objective import (
    SEVERAL_INPUTS,
    Batch,
    LossFunction,
    Objective,
    batches_of,
    input_facts,
    is_iterable_of_batches,
    to_device,
)
from spp.run import Run, describe_model, no_channels, no_exponents
from spp.stats import backends
from spp.stats.extra import POWERS
from spp.stats.statistics import Statistic, asked_for, further_sums
from spp.vocabulary import ALL, Signal, chosen


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
    statistics: Iterable[str | Statistic] = (),
    stop_at_nonfinite: bool = False,
    functions: bool = True,
) -> Run:
    """Measure how signals travel through ``model``: one forward and one backward pass per batch, nothing changed.

    Args:
        model: Any ``torch.nn.Module``, in the mode (train or eval) it is in.
        batch: A tensor; a pair ``(inputs, targets)``; a mapping of keyword arguments; another object, as a graph of PyG; or an
            iterable of any of these (a DataLoader), whose statistics are merged exactly. Several positional inputs go in as a
            tuple in the pair's first place, ``((a, b), target)``, or in a tuple of their own, ``((a, b),)``: ``(a, b)`` and
            ``[a, b]`` are an input and its target. Tensors are moved to the model's device.
        loss: ``(output, target) -> scalar``. Left out: the output's own ``.loss`` where it has one; else, with a target,
            cross-entropy for class indices and mean squared error for floats; else the output where it is a scalar, the scalar
            in it that was made of the other outputs, comes first or is called a loss, or the sum of a mapping of scalars (a
            detector in training); else a probe, a standard-normal cotangent on every floating output, drawn from a private
            generator seeded by ``seed``. ``run.info["loss"]`` says which.
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
        moments: Deprecated; 4 is the same as ``statistics=("kurtosis",)``.
        exponents: Count the values by sign and power of two, into ``trace.exponents``, which ``trace.plot("distribution")``
            draws; :func:`spp.frame.precision.lost_shares` reads from it what float16, bfloat16 and fp8 would flush to zero
            or overflow.
        channels: Keep how means and variances are spread over the channels of each tensor, in ``trace.channels``, which
            ``trace.plot("channels")`` draws.
        statistics: Statistics beyond those of every frame: names of registered ones, as ``"kurtosis"``, or
            :class:`~spp.stats.statistics.Statistic` objects. Each has a column of the frame. Over sums that are known anyway
            they cost nothing; a sum of their own costs the passes of its function over every tensor.
        stop_at_nonfinite: End at the first activation or gradient that holds NaN or infinity, with a ``TraceError`` that names
            it. An activation of -inf alone, as a mask makes it, ends nothing; what becomes of it may.
        functions: Measure functions that are layers, as ``F.relu`` or ``torch.softmax`` called in a forward, as if they were
            modules: of type ``function``, under the name of the module that calls them and their own (``block.relu``).

    Returns:
        What was measured; ``run.frame`` has one row per observed tensor.

    Raises:
        TraceError: The model, the loss or the backward pass raised, or what gives the batches; names the module and the first
            tensor that held NaN or infinity, keeps the cause. ``error.partial`` is a Run of what had been measured, whose
            ``info["partial"]`` says what ended it. Nothing stays behind.
        InputError: A batch, selector or option is not what was asked for.
    """
    wanted = chosen(signals)
    _check(model, batches, loss_scale, restore, moments)
    several = is_iterable_of_batches(batch) and batches != 1
    backends.choose()
    entries = roster(model, include, exclude)
    parameters = parameters_in(entry.module for entry in entries)
    _check_values(parameters)
    beyond = asked_for(statistics, *["kurtosis"] * (moments == 4))
    depth = Depth(mergeable=several or channels, further=(*further_sums(beyond), *[POWERS] * exponents))
    recorder = Recorder(
        entries,
        wanted,
        channel_axis,
        depth,
        loss_scale=loss_scale,
        stop_at_nonfinite=stop_at_nonfinite,
        functions=functions,
    )
    objective, measured, seen = Objective(loss, seed), Accumulator(), _Seen()
    _reshard(entries)

    def run(**more: str) -> Run:
        # the other tables are built when they are looked at; what they need of modules is taken now
        modules = module_columns([*entries, *recorder.called_functions], measured.calls, measured.inputs)
        blocks, unmeasured = block_columns(measured), unmeasured_columns(measured.unmeasured)
        frame = build_frame(measured.rows, {merge.block for merge in measured.merges}, statistics=beyond)
        return Run(
            frame,
            lambda: table_of(blocks, BLOCK_COLUMNS),
            lambda: table_of(modules, MODULE_COLUMNS),
            lambda: table_of(unmeasured, UNMEASURED_COLUMNS),
            {
                **describe_model(model, parameters),
                **seen.facts(),
                "loss": objective.kind or None,
                **({"inputs": seen.inputs} if seen.inputs else {}),
                **objective.facts,
                "loss_scale": loss_scale,
                "kernels": backends.path_of(parameters[0].device if parameters else torch.device("cpu")),
                "signals": [str(s) for s in ALL if s in wanted],
                "seed": seed,
                **more,
            },
            build_exponents(measured.rows) if exponents else no_exponents,
            build_channels(measured.rows) if channels else no_channels,
            inputs=partial(build_frame, measured.entering, ()),
        )

    with Held(), patient_collector():
        try:
            with preserved(model, batch, restore) as state:
                device = _only_device(parameters)
                for one in map(partial(to_device, device=device), _shown(batch, batches, progress)):
                    # what the batch before has left in the model came with its graph, which is used up
                    if seen.sizes:
                        state.cut()
                    if not seen.sizes:
                        seen.inputs = input_facts((one.args, one.kwargs))
                    seen.sizes.append(one.size)
                    with (
                        kept(one.tensors(), (one.args, one.kwargs, one.target)) as keep_graph,
                        _undistributed(entries),
                        _inputs_explained(),
                    ):
                        forward, aim = partial(model, *one.args, **one.kwargs), partial(objective, target=one.target)
                        keep_graph = keep_graph or state.has_history
                        measured.add(recorder.run(forward, aim, set_aside, keep_graph=keep_graph))
                    seen.note_loss(objective)
        except SppError as error:
            if recorder.broken is not None:
                measured.add(recorder.broken)
            if seen.sizes:
                error.partial = run(partial=f"batch {len(seen.sizes)}: {error.headline}")
            raise
        return run()


@contextmanager
def _inputs_explained() -> Iterator[None]:
    """Say how several inputs are given, where the model missed one."""
    try:
        yield
    except TraceError as error:
        cause = error.__cause__
        missed = isinstance(cause, TypeError) and "required positional argument" in str(cause)
        if missed and error.where.startswith("the model"):
            error.remedy = SEVERAL_INPUTS
        raise


class _Seen:
    """Sizes of the batches so far, losses of those that were measured, and facts of the first."""

    def __init__(self) -> None:
        self.sizes: list[int | None] = []
        self.inputs: list[dict[str, Any]] = []
        self._losses: list[float] = []

    def note_loss(self, objective: Objective) -> None:
        if objective.value is not None:
            self._losses.append(objective.value)

    def facts(self) -> dict[str, Any]:
        known = [size for size in self.sizes if size is not None]
        return {
            "batch_size": known[0] if known else None,
            "batches": len(self.sizes),
            "samples": sum(known) if known else None,
            "loss_value": float(np.mean(self._losses)) if self._losses else None,
        }


def _only_device(parameters: list[nn.Parameter]) -> torch.device | None:
    """The model's device; None where it lies on several, and a batch stays where it is."""
    devices = {p.device for p in parameters}
    return devices.pop() if len(devices) == 1 else None


def _shown(batch: Any, batches: int | None, progress: bool) -> Iterator[Batch]:
    """The batches, at most so many, with a progress bar where asked for."""
    source = _given(itertools.islice(batches_of(batch), batches))
    if progress:
        from tqdm.auto import tqdm

        many = is_iterable_of_batches(batch)
        known = (batches, len(batch) if many and hasattr(batch, "__len__") else None)
        total = min((n for n in known if n), default=None)
        source = iter(tqdm(source, total=total if many else 1, desc="tracing", unit="batch"))
    while True:
        with Window():
            one = next(source, None)
        if one is None:
            return
        yield one


def _given(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches; what their source raises is told as what a model raises."""
    try:
        yield from batches
    except SppError:
        raise
    except Exception as error:
        rule = f"the iterable of batches raised {type(error).__name__}: {' '.join(str(error).split())}".rstrip(".: ")
        raise TraceError(rule, where="batch", remedy="Check that it can be gone through by itself") from error


@contextmanager
def _undistributed(entries: list[Entry]) -> Iterator[None]:
    """Make DistributedDataParallel call its module and nothing else, so that one rank alone can trace.

    Its own forward broadcasts buffers and, once, the order of its buckets, under ``no_sync`` too; its backward averages
    gradients only after such a forward.
    """
    wrappers = [e.module for e in entries if isinstance(e.module, DistributedDataParallel)]
    for wrapper in wrappers:
        wrapper.__dict__["forward"] = partial(_pass_on, wrapper.module)
    try:
        yield
    finally:
        for wrapper in wrappers:
            wrapper.__dict__.pop("forward", None)
        _reshard(entries)


def _reshard(entries: list[Entry]) -> None:
    """Have FSDP2 put sharded parameters back in the place of whole ones, which a forward leaves there until its backward."""
    # whoever has sharded a module has imported this
    if (fsdp := sys.modules.get("torch.distributed.fsdp")) is not None:
        for entry in entries:
            if isinstance(entry.module, fsdp.FSDPModule):
                entry.module.reshard()


def _pass_on(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return module(*args, **kwargs)


def _check(model: object, batches: int | None, loss_scale: float, restore: object, moments: int) -> None:
    if not isinstance(model, nn.Module):
        raise InputError("a model is a torch.nn.Module", received=f"a {type(model).__name__}", where="model")
    if batches is not None and batches < 1:
        raise InputError("at least one batch is traced", received=str(batches), where="batches")
    if not (loss_scale > 0 and np.isfinite(loss_scale)):
        raise InputError("loss_scale is a positive number", received=str(loss_scale), where="loss_scale")
    if restore not in (True, False, "all"):
        raise InputError("restore is True, False or 'all'", received=repr(restore), where="restore")
    if moments not in (2, 4):
        raise InputError("moments is 2, or 4 for the kurtosis too", received=repr(moments), where="moments")


def _check_values(parameters: list[nn.Parameter]) -> None:
    if any(map(_lacks_values, parameters)):
        raise InputError(
            "a model that is traced has values",
            received="parameters on the meta device or under a FakeTensorMode",
            where="model",
            remedy="Move it with model.to_empty(device='cpu') and initialize it first",
        )


def _lacks_values(parameter: nn.Parameter) -> bool:
    if type(parameter) is nn.Parameter:  # nearly all; asking a tensor for an attribute that it lacks takes long
        return parameter.is_meta
    lazy = isinstance(parameter, UninitializedParameter)
    return not lazy and (parameter.is_meta or hasattr(parameter, "fake_mode"))
