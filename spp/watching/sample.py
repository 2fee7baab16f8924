"""One sampled step: its forwards and backwards, and the parameters around the optimizer's step, merged into rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from spp.capture.interception import SampledStep
from spp.capture.parameters import ParameterReader, Readings, UpdateSums, parameters_of
from spp.capture.recorder import MODES, Pass, Policy, Recorder
from spp.capture.sites import ChannelAxis, Entry, Selection, roster
from spp.capture.stage import Depth, Stage
from spp.capture.state import patient_collector
from spp.capture.unmeasured import unmeasured
from spp.frame.accumulate import Accumulator
from spp.stats import backends
from spp.vocabulary import Signal


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """What to measure: the arguments of :func:`spp.watch`, and the number of processes that share a batch."""

    root: nn.Module
    signals: frozenset[Signal]
    include: Selection
    exclude: Selection
    channel_axis: ChannelAxis
    ranks: int = 1

    def recorder(self, signals: frozenset[Signal] | None = None) -> Recorder:
        """A recorder over the modules as they are now; what goes wrong in it does not reach the training."""
        backends.choose()
        entries = roster(self.root, self.include, self.exclude)
        wanted = self.signals if signals is None else signals
        return Recorder(entries, wanted, self.channel_axis, policy=Policy.CONTAIN)


@dataclass(slots=True, eq=False)
class Finished:
    """What one sampled step gave.

    Attributes:
        step: Its number.
        measured: Merged passes by mode.
        updates: Squared sizes of the weights' updates and of the weights.
        entries: The modules as they were.
        evaluation: Whether it was no step but an evaluation.
    """

    step: int
    measured: dict[str, Accumulator]
    updates: UpdateSums = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    evaluation: bool = False


class Sample:
    """One sampled step, from the end of the step before it to the end of its own.

    Args:
        settings: What to measure.
        step: Its number.
        optimizer: Whose step it is; None where a step is a forward.

    Attributes:
        gathered: Whether everything was taken that leads up to the optimizer's step.
    """

    def __init__(self, settings: Settings, step: int, optimizer: torch.optim.Optimizer | None) -> None:
        self.step = step
        self._settings, self._optimizer = settings, optimizer
        self._recorder: Recorder | None = None
        self._held = SampledStep(self._backward, self._skipped)
        self._passes: list[Pass] = []
        self._parameters: ParameterReader | None = None
        self._values: Readings = {}
        self._gradients: Readings = {}
        self._scale = 1.0
        self.gathered = False

    @property
    def failed(self) -> Exception | None:
        """What went wrong in the measuring itself."""
        return None if self._recorder is None else self._recorder.failed

    def open(self) -> None:
        """Begin to observe."""
        self._held.install()

    def prepare(self) -> Recorder:
        """The recorder, over the modules as they are when the step's first forward begins."""
        if self._recorder is None:
            self._recorder = self._settings.recorder()
        return self._recorder

    def close(self) -> None:
        """Observe nothing more; what was not gathered is lost."""
        self._held.remove()
        if self._recorder is not None:
            self._recorder.finish()

    def forward(self, run: Callable[[], Any]) -> Any:
        """Run one forward of the root."""
        recorder = self.prepare()
        with patient_collector():
            output = recorder.forward(self._settings.root, run)
        if self._optimizer is None and recorder.passes:
            self._read_parameters(recorder.passes[:1])
        return output

    def gather(self) -> None:
        """Take what there is, while gradients are whole and weights not yet updated."""
        if self.gathered:
            return
        self.gathered = True
        self._held.remove()
        # the loss of the whole batch is the mean of the ranks' losses
        self._passes = self.prepare().finish(self._scale * self._settings.ranks)
        if self._optimizer is not None:
            parameters = self._read_parameters(self._passes)
            self._gradients = parameters.gradients(_pending_scale(self._optimizer))
            parameters.remember({id(p) for group in self._optimizer.param_groups for p in group["params"]})

    def finish(self) -> Finished:
        """Merge what was gathered into rows; with an optimizer, after its step."""
        measured: dict[str, Accumulator] = {}
        for mode in MODES:
            passes = [p for p in self._passes if p.mode == mode]
            if len(passes) > 1 or self._settings.ranks > 1:
                for one in passes:
                    _drop_partial(one)
            if passes:
                measured[mode] = merged(passes)
        updates: UpdateSums = {}
        parameters = self._parameters
        if parameters is not None:
            lacking = [*parameters.unmeasured, *parameters.missing(self._gradients, True)]
            updates = parameters.updates(self._values) if self._optimizer is not None else {}
            own = Pass(parameters.sites, self._values, self._gradients, unmeasured=lacking)
            mode = self._passes[0].mode if self._passes else MODES[0]
            measured.setdefault(mode, Accumulator()).add(own)
        return Finished(self.step, measured, updates, self.prepare().entries)

    def _backward(self, roots: list[Tensor], run: Callable[[], Any]) -> Any:
        if self._recorder is None:
            return run()
        with patient_collector():
            result = self._recorder.backward(roots, run)
        if self.failed is None:
            self._scale = self._held.scale
            if self._optimizer is None and self._parameters is not None:
                self._gradients = self._parameters.gradients(self._scale)
        return result

    def _skipped(self) -> None:
        """The scaler went on, and the optimizer has not: it skipped its step, and what was seen belongs to none."""
        if self._optimizer is not None and self._recorder is not None:
            self._recorder.finish()
            self._scale = 1.0

    def _read_parameters(self, passes: list[Pass]) -> ParameterReader:
        """Read every parameter but those whose place in the frame a computed weight of one of the passes has."""
        calls = passes[0].calls if passes else {}
        computed = {(site.entry, site.output) for one in passes for site in one.sites if site.is_weight}
        stage = Stage(Depth(mergeable=self._settings.ranks > 1))
        self._parameters = parameters = ParameterReader(stage, self._settings.signals)
        for entry in self.prepare().entries if parameters.wanted else ():
            if entry.selected:
                own = [(n, p) for n, p in parameters_of(entry.module) if (entry, n) not in computed and _is_leaf(p)]
                parameters.note(entry, next(iter(calls.get(entry, ())), None), own)
        parameters.look()
        self._values = parameters.values()
        return parameters


def _is_leaf(parameter: Tensor) -> bool:
    return parameter.is_leaf or not parameter.requires_grad


def evaluation(settings: Settings, step: int, run: Callable[[], Any]) -> tuple[Any, Finished | Exception | None]:
    """Run one forward of an evaluation; its output, and its activations (None where they are not wanted)."""
    wanted = settings.signals & {Signal.ACTIVATION}
    if not wanted:
        return run(), None
    try:
        recorder = settings.recorder(wanted)
    except Exception as error:
        return run(), error
    try:
        output = recorder.forward(settings.root, run)
    finally:
        recorder.let_go()
    if recorder.failed is not None:
        return output, recorder.failed
    measured = {one.mode: merged([one]) for one in recorder.finish()}
    return output, Finished(step, measured, entries=recorder.entries, evaluation=True)


def merged(passes: list[Pass]) -> Accumulator:
    """The passes of one step as one."""
    rows = Accumulator()
    for one in passes:
        rows.add(one)
    return rows


def _drop_partial(one: Pass) -> None:
    """Gradients of weights that a norm or parametrization computes: those of parts of a batch add up, their moments do not."""
    reason = "a computed weight's gradient is the sum over micro-batches and ranks, of which only the parts were seen"
    for site in one.sites:
        if site.is_weight and one.gradients.pop(site, None) is not None:
            one.unmeasured.append(unmeasured(site.entry, site.call, site.output, Signal.WEIGHT_GRADIENT, reason))


def _pending_scale(optimizer: torch.optim.Optimizer) -> float:
    """What a scaler has left in the gradients for a fused optimizer to divide out."""
    scale = getattr(optimizer, "grad_scale", None)
    return float(scale) if isinstance(scale, Tensor) else 1.0
