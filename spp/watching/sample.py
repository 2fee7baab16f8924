"""One sampled step: its forwards and backwards, and the parameters around the optimizer's step, merged into rows."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from spp import _torch
from spp._pytree import tensors_in
from spp.capture.interception import Arguments, Keywords, Original, Part, SampledStep
from spp.capture.parameters import ParameterReader, Readings, UpdateSums, parameters_of, squares
from spp.capture.recorder import MODES, Pass, Policy, Recorder
from spp.capture.sites import ChannelAxis, Entry, Selection, is_reducible, roster
from spp.capture.stage import Depth, Held, Stage, Window
from spp.capture.state import patient_collector
from spp.capture.unmeasured import unmeasured
from spp.frame.accumulate import Accumulator
from spp.objective import LossGraph, input_facts, loss_facts, loss_graph
from spp.stats import backends
from spp.vocabulary import Signal

PROBED, SMALL = 8, 1 << 16
"""How many parameters are asked whether their gradient was cleared, of at most how many values."""


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """What to measure: the arguments of :func:`spp.watch`, and the number of processes that share a batch."""

    root: nn.Module
    signals: frozenset[Signal]
    include: Selection
    exclude: Selection
    channel_axis: ChannelAxis
    functions: bool = True
    ranks: int = 1

    def recorder(self, signals: frozenset[Signal] | None = None) -> Recorder:
        """A recorder over the modules as they are now; what goes wrong in it does not reach the training."""
        backends.choose()
        entries = roster(self.root, self.include, self.exclude)
        wanted = self.signals if signals is None else signals
        return Recorder(entries, wanted, self.channel_axis, policy=Policy.CONTAIN, functions=self.functions)


@dataclass(slots=True, eq=False)
class Finished:
    """What one sampled step gave.

    Attributes:
        step: Its number.
        measured: Merged passes by mode.
        updates: Squared sizes of the weights' updates and of the weights.
        entries: The modules as they were.
        functions: The functions that were called.
        evaluation: Whether it was no step but an evaluation.
        loss: What its backward passes ran from; of several ranks this one's share of their mean. NaN where unknown.
        training: Whether the root was in train mode.
        facts: What became known of the run.
        rate: The largest learning rate in force; NaN where there is no optimizer.
        carried: Share of the gradients looked at that no backward of the step found cleared; NaN where nobody knows.
    """

    step: int
    measured: dict[str, Accumulator]
    updates: UpdateSums = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    functions: list[Entry] = field(default_factory=list)
    evaluation: bool = False
    loss: float = math.nan
    training: bool = True
    facts: dict[str, Any] = field(default_factory=dict)
    rate: float = math.nan
    carried: float = math.nan


class Sample:
    """One sampled step, from the end of the step before it to the end of its own.

    Args:
        settings: What to measure.
        step: Its number.
        optimizers: Whose step it is, the last one's; none where a step is a forward.
        part: Given a module that is called from outside of all observed forwards, what makes the call.
        called: The root, or what wraps it.
        describes: Whether the graph of its losses is wanted.

    Attributes:
        gathered: Whether everything was taken that leads up to the optimizer's step.
        begun: Whether a forward of it has run.
        trained_in_eval: Whether what a backward followed was in eval mode; None where none did.
    """

    def __init__(
        self,
        settings: Settings,
        step: int,
        optimizers: Sequence[torch.optim.Optimizer],
        part: Part,
        called: nn.Module,
        describes: bool = True,
    ) -> None:
        self._describes = describes
        self.step, self._settings, self._optimizers = step, settings, optimizers
        self._recorder: Recorder | None = None
        self._held = SampledStep(self._backward, self._skipped, part, called)
        self._passes: list[Pass] = []
        self._parameters: ParameterReader | None = None
        self._values: Readings = {}
        self._gradients: Readings = {}
        self._scale, self._rate = 1.0, math.nan
        self._losses: list[Tensor | None] = []
        self._graphs: list[LossGraph | None] = []
        self._given: dict[Tensor, int] = {}
        self._training = True
        self._carried = math.nan
        self._uncleared: set[int] | None = None
        self.gathered = self.begun = False
        self.trained_in_eval: bool | None = None

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

    def holds(self, module: nn.Module) -> bool:
        """Whether the module is a part of the model, as it was when the step's first forward began."""
        return self.prepare().holds(module)

    def forward(self, call: Original, module: nn.Module, args: Arguments, kwargs: Keywords, part: bool = False) -> Any:
        """Run one forward of the root, or of a ``part`` of it."""
        recorder, training = self.prepare(), self._settings.root.training
        self.begun, self._training, self._held.thread = True, training, threading.get_ident()
        if self._describes and not self._given and not part:
            self._given = {t: t._version for _, t in tensors_in((args, kwargs)) if not t.is_inference()}
        with patient_collector():
            output = recorder.forward(
                call, module, args, kwargs, training=module.training if part else training, part=part
            )
        if not self._optimizers and recorder.passes:
            self._read_parameters(recorder.passes[:1])
        return output

    def gather(self) -> None:
        """Take what the forwards and backwards gave."""
        self.gathered = True
        self._held.remove()
        # the loss of the whole batch is the mean of the ranks' losses
        self._passes = self.prepare().finish(self._scale * self._settings.ranks)
        modes = {one.module_mode for one in self._passes if one.reached}
        if modes:
            self.trained_in_eval = MODES[0] not in modes

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take what there is, while gradients are whole and weights not yet updated; with the last optimizer, all of it."""
        if self.gathered:
            return
        if optimizer is self._optimizers[-1]:
            self.gather()
        scale = _pending_scale(optimizer)
        if self._parameters is None:
            parameters = self._read_parameters(self._passes if self.gathered else self.prepare().passes)
            self._gradients = parameters.gradients(scale, taken=self.prepare().taken)
            self._rate = max(rate_of(group) for one in self._optimizers for group in one.param_groups)
            parameters.remember({i for one in self._optimizers for i in trained(one)})
        else:
            # a scaler unscales the gradients of each optimizer when that one is about to step
            self._gradients.update(self._parameters.gradients(scale, trained(optimizer), self.prepare().taken))

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
            lacking = [*parameters.unmeasured, *parameters.missing(self._gradients, True, "", self.prepare().taken)]
            updates = parameters.updates(self._values) if self._optimizers else {}
            own = Pass(parameters.sites, self._values, self._gradients, unmeasured=lacking)
            mode = next((m for m in MODES if m in measured), MODES[0])
            measured.setdefault(mode, Accumulator()).add(own)
        recorder = self.prepare()
        return Finished(
            self.step,
            measured,
            updates,
            recorder.entries,
            recorder.called_functions,
            loss=self._loss(),
            training=self._training,
            facts=self._facts() if self._describes else {},
            rate=self._rate,
            carried=self._carried,
        )

    def _loss(self) -> float:
        """What backward ran from, read now that the host waits for the step's numbers anyway."""
        known = [float(loss) for loss in self._losses if loss is not None]
        if not known or len(known) < len(self._losses):
            return math.nan
        return sum(known) / (self._scale * self._settings.ranks)

    def _facts(self) -> dict[str, Any]:
        """What the first step tells of the run, read now that the host waits anyway."""
        try:
            # what was written into since is no input any more
            inputs = input_facts([t for t, version in self._given.items() if t._version == version])
            return loss_facts(self._graphs) | ({"inputs": inputs} if inputs else {})
        except Exception:
            # the training goes on without these facts
            return {}
        finally:
            self._given.clear()

    def _note_losses(self, roots: list[Tensor]) -> None:
        """Keep what a backward is about to run from: its value, and how it was made of the outputs."""
        self._losses += map(_value, roots)
        if self._describes:
            gave, scaled = self.prepare().gave, self._held.scaler is not None
            try:
                self._graphs += [loss_graph(root, gave, scaled=scaled) for root in roots]
            # the training goes on without these facts
            except Exception:
                self._graphs.append(None)

    def _backward(self, roots: list[Tensor], run: Callable[[], Any]) -> Any:
        if self._recorder is None:
            return run()
        with Held(), patient_collector():
            self._note_losses(roots)
            # whatever a subclass does when it is asked, the training goes on
            with suppress(Exception), _torch.unseen_functions(), torch.no_grad():
                self._look_at_gradients()
            result = self._recorder.backward(roots, run)
            if self.failed is None:
                self._scale = self._held.scale
                if not self._optimizers and self._parameters is not None:
                    self._gradients = self._parameters.gradients(self._scale, taken=self._recorder.taken)
        return result

    def _look_at_gradients(self) -> None:
        """Before a backward: note whether gradients of steps before are still there, by a few small parameters.

        Those that one backward of the step has found cleared are clean: a loop of several optimizers clears them in turn.
        """
        of = (p for one in self._optimizers for group in one.param_groups for p in group["params"])
        small = list(islice((p for p in of if p.requires_grad and p.numel() <= SMALL), PROBED))
        there = [p for p in small if p.grad is not None and not is_reducible(p.grad)]
        sums = Stage(Depth(mergeable=False)).reduce_all([p.grad for p in there], [None] * len(there))
        found = {id(p) for p, size in zip(there, squares(sums), strict=True) if size > 0}
        if small:
            self._uncleared = found if self._uncleared is None else self._uncleared & found
            self._carried = len(self._uncleared) / len(small)

    def _skipped(self) -> None:
        """The scaler went on, and the optimizer has not: it skipped its step, and what was seen belongs to none."""
        if self._optimizers and self._recorder is not None:
            with Held():
                self._recorder.finish()
                self._scale, self._parameters = 1.0, None
                self._losses.clear()
                self._graphs.clear()

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


def _value(root: Tensor) -> Tensor | None:
    """A loss as it is now, on its device: the loop may write into it later. None where it is no number."""
    try:
        with _torch.unseen_functions(), torch.no_grad():
            known = isinstance(root, Tensor) and root.numel() == 1 and not is_reducible(root)
            return root.detach().clone() if known else None
    # whatever a subclass does when it is asked, the training goes on
    except Exception:
        return None


def _is_leaf(parameter: Tensor) -> bool:
    return parameter.is_leaf or not parameter.requires_grad


def trained(optimizer: torch.optim.Optimizer) -> set[int]:
    """The identities of the parameters of an optimizer."""
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def rate_of(group: dict[str, Any]) -> float:
    """The learning rate of a parameter group; NaN where it sets none, as an Adafactor may."""
    rate = group.get("lr")
    return float(rate) if isinstance(rate, int | float | Tensor) else math.nan


class Evaluation:
    """One forward of the root in eval mode: its activations, and whether it was an evaluation after all.

    Args:
        settings: What to measure.
        step: The step that goes on.

    Attributes:
        followed: Whether a backward of it has followed: it was a forward of a training in eval mode.
    """

    def __init__(self, settings: Settings, step: int) -> None:
        self.followed = False
        self._settings, self._step = settings, step
        self._recorder: Recorder | None = None
        self._failed: Exception | None = None

    def forward(self, call: Original, module: nn.Module, args: Arguments, kwargs: Keywords) -> Any:
        """Run the forward; only what it raises leaves this."""
        wanted = self._settings.signals & {Signal.ACTIVATION}
        try:
            self._recorder = recorder = self._settings.recorder(wanted) if wanted else None
        except Exception as error:
            self._failed, recorder = error, None
        if recorder is None:
            with Window():
                return call(module, *args, **kwargs)
        try:
            return recorder.forward(call, module, args, kwargs, training=self._settings.root.training)
        finally:
            recorder.release()

    def finish(self) -> Finished | None:
        """Its activations; None where they are not wanted, or a backward has followed.

        Raises:
            Exception: What went wrong in the measuring.
        """
        recorder = self._recorder
        if recorder is None:
            if self._failed is not None:
                raise self._failed
            return None
        self.followed = any(one.followed for one in recorder.passes)
        passes = recorder.finish()
        if recorder.failed is not None:
            raise recorder.failed
        measured = {} if self.followed else {one.mode: merged([one]) for one in passes}
        if not measured:
            return None
        return Finished(self._step, measured, {}, recorder.entries, recorder.called_functions, evaluation=True)


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
