"""One sampled step: its forwards and backwards, and the parameters around the optimizer's step, merged into rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from spp.capture.attach import StepGrip
from spp.capture.channels import ChannelAxis
from spp.capture.garbage import patient_collector
from spp.capture.holes import Hole
from spp.capture.live import MODES, LiveCapture, Observed
from spp.capture.parameters import StepParameters, UpdateSums
from spp.capture.passes import Pass
from spp.capture.sites import Entry, Selection, roster
from spp.errors import InputError, SppWarning
from spp.frame.tally import Tally
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

    def capture(self, signals: frozenset[Signal] | None = None) -> LiveCapture:
        """A capture over the modules as they are now."""
        backends.choose()
        entries = roster(self.root, self.include, self.exclude)
        return LiveCapture(entries, self.signals if signals is None else signals, self.channel_axis)


@dataclass(slots=True, eq=False)
class Finished:
    """What one sampled step gave.

    Attributes:
        step: Its number.
        tallies: Merged passes by mode.
        updates: Squared sizes of the weights' updates and of the weights.
        entries: The modules as they were.
        evaluation: Whether it was no step but an evaluation.
    """

    step: int
    tallies: dict[str, Tally]
    updates: UpdateSums = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    evaluation: bool = False


class Sample:
    """One sampled step, from the end of the step before it to the end of its own.

    Args:
        settings: What to measure.
        step: Its number.
        optimizer: Whose step it is; None where a step is a forward.
    """

    def __init__(self, settings: Settings, step: int, optimizer: torch.optim.Optimizer | None) -> None:
        self.step = step
        self._settings, self._optimizer = settings, optimizer
        self._captured: LiveCapture | None = None
        self._grip = StepGrip(self._backward, self._skipped)
        self._observed: list[Observed] = []
        self._parameters: StepParameters | None = None
        self._scale = 1.0
        self.gathered = False

    @property
    def failed(self) -> Exception | None:
        """What went wrong in the measuring itself."""
        return None if self._captured is None else self._captured.failed

    @property
    def _live(self) -> LiveCapture:
        """The capture, over the modules as they are when the step's first forward begins."""
        if self._captured is None:
            self._captured = self._settings.capture()
        return self._captured

    def open(self) -> None:
        """Begin to observe."""
        self._grip.install()

    def prepare(self) -> None:
        """Look at the modules as they are now, before the step's first forward."""
        assert self._live is not None

    def close(self) -> None:
        """Observe nothing more; what was not gathered is lost."""
        self._grip.remove()
        if self._captured is not None:
            self._captured.finish()

    def forward(self, run: Callable[[], Any]) -> Any:
        """Run one forward of the root."""
        with patient_collector():
            output = self._live.forward(self._settings.root, run)
        if self._optimizer is None and self._live.passes:
            self._read_parameters(self._live.passes[0])
        return output

    def gather(self) -> None:
        """Take what there is, while gradients are whole and weights not yet updated."""
        if self.gathered:
            return
        self.gathered = True
        scale = self._scale * self._settings.ranks  # the loss of the whole batch is the mean of the ranks' losses
        self._grip.remove()
        self._observed = self._live.finish(scale)
        if self._optimizer is not None:
            parameters = self._read_parameters(self._observed[0] if self._observed else None)
            parameters.gradients(_pending_scale(self._optimizer))
            parameters.remember({id(p) for group in self._optimizer.param_groups for p in group["params"]})

    def finish(self) -> Finished:
        """Merge what was gathered into rows; with an optimizer, after its step."""
        tallies: dict[str, Tally] = {}
        for mode in MODES:
            passes = [o.result for o in self._observed if o.mode == mode]
            if len(passes) > 1 or self._settings.ranks > 1:
                for one in passes:
                    _drop_partial(one)
            if passes:
                tallies[mode] = merged(passes, self.step)
        updates: UpdateSums = {}
        if self._parameters is not None:
            mode = self._observed[0].mode if self._observed else MODES[0]
            self._parameters.finish()
            updates = self._parameters.updates() if self._optimizer is not None else {}
            own = Pass(sites=self._parameters.sites, holes=self._parameters.holes)
            tallies.setdefault(mode, Tally()).add(own)
        return Finished(self.step, tallies, updates, self._live.entries)

    def _backward(self, roots: list[Tensor], run: Callable[[], Any]) -> Any:
        if self._captured is None:
            return run()
        with patient_collector():
            result = self._captured.backward(roots, run)
        if self.failed is None:
            self._scale = self._grip.scale
            if self._optimizer is None and self._parameters is not None:
                self._parameters.gradients(self._scale)
        return result

    def _skipped(self) -> None:
        """The scaler went on, and the optimizer has not: it skipped its step, and what was seen belongs to none."""
        if self._optimizer is not None and self._captured is not None:
            self._captured.finish()
            self._scale = 1.0

    def _read_parameters(self, first: Observed | None) -> StepParameters:
        calls = {} if first is None else first.calls
        parameters = StepParameters(self._live.entries, calls, self._settings.signals, shared=self._settings.ranks > 1)
        parameters.values()
        self._parameters = parameters
        return parameters


def evaluation(settings: Settings, step: int, run: Callable[[], Any]) -> tuple[Any, Finished | Exception | None]:
    """Run one forward of an evaluation; its output, and its activations (None where they are not wanted)."""
    wanted = settings.signals & {Signal.ACTIVATION}
    if not wanted:
        return run(), None
    try:
        live = settings.capture(wanted)
    except Exception as error:
        return run(), error
    try:
        output = live.forward(settings.root, run)
    finally:
        live.let_go()
    if live.failed is not None:
        return output, live.failed
    tallies = {o.mode: merged([o.result], step) for o in live.finish()}
    return output, Finished(step, tallies, entries=live.entries, evaluation=True)


def merged(passes: list[Pass], step: int) -> Tally:
    """The passes of one step as one; a micro-batch that does not fit the others is left out with a warning."""
    tally = Tally()
    for number, one in enumerate(passes):
        try:
            tally.add(one)
        except InputError as error:
            message = f"step {step}, forward {number + 1} of {len(passes)} is left out of the watch: {error}"
            warnings.warn(message, SppWarning, stacklevel=2)
    return tally


def _drop_partial(one: Pass) -> None:
    """Gradients of weights that a norm or parametrization computes: those of parts of a batch add up, their moments do not."""
    for site in one.sites:
        if site.is_weight and site.gradient is not None:
            site.gradient = None
            reason = "a computed weight's gradient is the sum over micro-batches and ranks, of which only the parts were seen"
            number = None if site.call is None else site.call.number
            one.holes.append(Hole(site.entry, number, site.output, Signal.WEIGHT_GRADIENT, reason))


def _pending_scale(optimizer: torch.optim.Optimizer) -> float:
    """What a scaler has left in the gradients for a fused optimizer to divide out."""
    scale = getattr(optimizer, "grad_scale", None)
    return float(scale) if isinstance(scale, Tensor) else 1.0
