"""Observes forward and backward passes: from a module's output to its sums.

While a pass runs, a function stands in place of ``nn.Module.__call__`` (:mod:`spp.capture.interception`) that calls the
original and then has what came out reduced here. That sees a row's tensor as the rest of the model receives it (after the
user's own hooks), and reduces each tensor before a later in-place operation can destroy it.

A trace runs one forward and one backward of its own (:meth:`Recorder.run`). A watch is a guest: one recorder observes one
optimizer step of somebody else's loop, any number of forwards (the micro-batches of an accumulation, the real and the fake
half of a discriminator's batch) and whatever backward passes follow (:meth:`Recorder.forward`, :meth:`Recorder.backward`,
:meth:`Recorder.finish`). What goes wrong in the measuring of a trace is raised; in a watch it must not reach the training.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spp import _torch
from spp._pytree import describe, describe_call, walk
from spp.capture.dataflow import DataFlow, Reading, Value
from spp.capture.functions import Functions
from spp.capture.gradients import Gradients
from spp.capture.interception import CALLS, boundary
from spp.capture.parameters import (
    ParameterReader,
    Readings,
    Taken,
    accumulator,
    accumulators,
    computed_weights,
    leaves_outside,
    parameters_in,
    parameters_of,
)
from spp.capture.residual import Merge, Merges
from spp.capture.sites import Call, ChannelAxis, Entry, Placer, Roster, Site, is_reducible, values_of, weight_axis
from spp.capture.stage import FORWARD, IDLE, Depth, Stage, Window
from spp.capture.unmeasured import CAUGHT, Unmeasured, never_called, no_gradient, unmeasured, unregistered
from spp.errors import LESS, SppError, TraceError, memory_lacking
from spp.stats.sums import NONFINITES, Sums, Total, totals
from spp.vocabulary import LEARNED, Role, Signal

MODES = ("train", "eval")
"""What ``module.training`` of the root said during a forward."""
REMEDY = "Check that the model runs on this batch by itself; the original exception is the cause of this one"

Objective = Callable[[Any], tuple[list[Tensor], list[Tensor | None]]]
"""Turns a model's output into the tensors to run backward from and their cotangents (None for a scalar's)."""
Aside = Callable[[list[Tensor]], AbstractContextManager[None]]
"""Keeps the ``.grad`` of leaves outside the model out of a backward pass."""


class Policy(Enum):
    """What becomes of an exception in the measuring itself."""

    RAISE = "raise"
    CONTAIN = "contain"
    """It is kept in ``failed``, and nothing more is observed."""


@dataclass(slots=True, eq=False)
class Pass:
    """What one forward gave; gradients come in until its backward has run.

    Attributes:
        sites: Everything that was looked at, in the order in which it came to be.
        values: What was measured of each.
        gradients: What was measured of the gradient of each.
        roles: The part some of them play at a residual merge.
        merges: Residual merges, in order.
        streams: Sites of residual streams that no module gives out: rows of the blocks, not of the frame.
        inputs: What was measured of what entered a leaf and no call had given out.
        unmeasured: What was not measured.
        calls: The calls of each module that ran.
        module_mode: What ``training`` of the module that was called said.
        graph: Whether it ran with gradients enabled.
        part: Whether it is made of calls of parts of the root, and not of one of the root itself.
        followed: Whether a backward reached what it gave out.
        unfinished: What ended it early; empty where nothing did.
    """

    sites: list[Site] = field(default_factory=list)
    values: Readings = field(default_factory=dict)
    gradients: Readings = field(default_factory=dict)
    roles: dict[Site, Role] = field(default_factory=dict)
    merges: list[Merge] = field(default_factory=list)
    streams: list[Site] = field(default_factory=list)
    inputs: Readings = field(default_factory=dict)
    unmeasured: list[Unmeasured] = field(default_factory=list)
    calls: dict[Entry, list[Call]] = field(default_factory=dict)
    module_mode: str = MODES[0]
    graph: bool = True
    part: bool = False
    followed: bool = False
    unfinished: str = ""

    @property
    def reached(self) -> bool:
        """Whether any gradient arrived."""
        return self.followed or any(site in self.gradients for site in self.sites)

    @property
    def mode(self) -> str:
        """``train`` or ``eval``: a forward in eval mode (frozen BatchNorm) trains where a backward of it follows."""
        return MODES[0] if self.reached else self.module_mode


class Recorder:
    """Observes passes, one at a time, over the modules of a roster.

    Args:
        entries: The model's modules, see :func:`spp.capture.sites.roster`.
        signals: Which signals to measure.
        axis: The user's ``channel_axis``.
        depth: What is wanted of every tensor beyond its second moments.
        loss_scale: What the loss is multiplied by; measured gradients are divided by it.
        policy: What becomes of an exception in the measuring.
        stop_at_nonfinite: Whether NaN or infinity ends a pass of one's own.
        functions: Whether functions that are layers have rows too.

    Attributes:
        functions: Those functions, by the modules that call them.
        passes: One for each forward that came to its end, in order.
        failed: What went wrong in the measuring, where the policy contains it.
        broken: What was seen of a pass of one's own that failed.
    """

    def __init__(
        self,
        entries: Roster,
        signals: frozenset[Signal],
        axis: ChannelAxis = None,
        depth: Depth | None = None,
        *,
        loss_scale: float = 1.0,
        policy: Policy = Policy.RAISE,
        stop_at_nonfinite: bool = False,
        functions: bool = True,
    ) -> None:
        self.entries = entries
        self.functions = Functions(entries) if functions else None
        self.passes: list[Pass] = []
        self.failed: Exception | None = None
        self.broken: Pass | None = None
        self._stops = stop_at_nonfinite
        self._roster = {id(e.module): e for e in entries}
        self._by_name = {e.name: e for e in entries}
        self._signals, self._axis, self._loss_scale, self._policy = signals, axis, loss_scale, policy
        # by whether a site is a weight: whether its value is wanted, whether its gradient is
        self._wants = (
            (Signal.ACTIVATION in signals, Signal.GRADIENT in signals),
            (Signal.WEIGHT in signals, Signal.WEIGHT_GRADIENT in signals),
        )
        self._depth = depth or Depth()
        self._stack: list[Call] = []
        self._again: list[Entry] = []
        self._mark, self._given = object(), list[dict[Any, Any]]()
        self._holds = self._open = False
        self._renew()
        self._begin()

    def _renew(self) -> None:
        """Phase and gradients last as long as a step: gradients of the first forward may arrive after the second."""
        self._stage = Stage(self._depth)
        self._gradients = Gradients(
            self._stage, self._loss_scale, self._fail, self._stop_unless_finite if self._stops else None
        )

    def _begin(self) -> None:
        self._pass, self._finished = Pass(gradients=self._gradients.found), 0
        self._parameters = ParameterReader(self._stage, self._signals)
        self._flow, self._placer = DataFlow(), Placer(self._axis)
        self._merges = Merges(self._flow)
        self._unregistered: dict[int, tuple[nn.Module, Entry, bool]] = {}
        self._elsewhere: set[Entry] = set()
        self._raised: tuple[BaseException, Entry, str] | None = None
        self._stopped: tuple[FloatingPointError, Site] | None = None
        self._stack.clear()

    def _fail(self, error: Exception) -> None:
        if self._policy is Policy.RAISE:
            raise error
        self.failed = error
        self._stage.phase = IDLE

    @property
    def called_functions(self) -> list[Entry]:
        """The functions that were called."""
        return self.functions.entries if self.functions is not None else []

    # -- a pass of one's own ------------------------------------------------------------------------------------------------

    def run(self, forward: Callable[[], Any], objective: Objective, aside: Aside, *, keep_graph: bool = False) -> Pass:
        """Run ``forward()``, then backward from ``objective(output)``, and return what was seen.

        Args:
            forward: Calls the model once.
            objective: Turns the output into the tensors to run backward from and their cotangents (None for a scalar);
                no tensors means that nothing requires a gradient.
            aside: A context manager that keeps the ``.grad`` of leaves outside the model out of the backward pass.
            keep_graph: Whether the backward pass may reach a graph that somebody still needs.

        Raises:
            TraceError: The model, the loss or the backward pass raised; the cause is the original exception. What was seen
                until then is in ``broken``.
        """
        with ExitStack() as stack:
            self._renew()
            self._begin()
            stack.callback(self._begin)
            stack.callback(self._gradients.remove)
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(boundary(self, self._stage, self._roster, alone=True))
            stack.push(self._break_off)
            self._parameters.expect(self.entries)
            try:
                with self._stage.during(FORWARD), Window():
                    output = forward()
            except Exception as error:
                with suppress(Exception):
                    self._read_parameters()
                raise self._explained("the forward pass", error) from error
            self._read_parameters()
            if self._stopped is None and self._signals & {Signal.GRADIENT, Signal.WEIGHT_GRADIENT}:
                self._run_backward(output, objective, aside, keep_graph)
            if self._stopped is not None:
                # the model has caught what was raised to end the pass
                raise self._explained("the pass", self._stopped[0]) from self._stopped[0]
            return self._ended()

    def _break_off(self, _: type[BaseException] | None, error: BaseException | None, __: object) -> None:
        """Keep what was seen of a pass that failed."""
        if isinstance(error, SppError):
            self._pass.unfinished = error.rule
            self.broken = self._ended()

    def _ended(self) -> Pass:
        """The pass, with what it has not measured."""
        result, ran = self._pass, self._gradients.ran
        result.sites += self._parameters.sites
        result.unmeasured += self._parameters.missing(result.gradients, ran, result.unfinished, self.taken)
        self._missing_gradients(result, ran)
        if result.unfinished:
            # perhaps nobody has
            result.unmeasured = [replace(one, reason=one.reason.removesuffix(CAUGHT)) for one in result.unmeasured]
        return self._closed()

    def _read_parameters(self) -> None:
        """Values wait until the forward has ended, when Python is at home in the caches again."""
        if not self._parameters.wanted:
            return
        with _torch.unseen_functions():
            for entry in self.entries:
                if entry.selected and entry not in self._pass.calls:
                    self._note_parameters(entry, None)
            self._parameters.look()
            self._pass.unmeasured += self._parameters.unmeasured
            self._pass.values.update(self._parameters.values())

    def _run_backward(self, output: Any, objective: Objective, aside: Aside, keep_graph: bool) -> None:
        try:
            with Window():
                roots, cotangents = objective(output)
        except SppError:
            raise
        except Exception as error:
            raise self._explained("the loss", error, describe(output)) from error
        if not roots:
            return
        own = {id(p) for entry in self.entries for p in entry.module._parameters.values()}
        nodes = accumulators(roots)
        with aside(leaves_outside(roots, nodes, own)):
            self._follow(nodes)
            try:
                self._gradients.backward(roots, cotangents, keep_graph)
            except Exception as error:
                with suppress(Exception):
                    self._pass.gradients.update(self._parameters.gradients(self._loss_scale, taken=self.taken))
                reached = describe(roots[0]), self._gradients.latest
                raise self._explained("the backward pass", error, *reached) from error
            self._pass.gradients.update(found := self._parameters.gradients(self._loss_scale, taken=self.taken))
            self._parameters.clear_gradients()
        for site in _nonfinite(found)[:1] if self._stops else ():
            with suppress(FloatingPointError):
                self._stop_unless_finite(site, found[site], site.signals[1])
        self._read_learned(self._pass)

    def _follow(self, nodes: list[Any]) -> None:
        if Signal.WEIGHT_GRADIENT in self._signals:
            self._gradients.follow(nodes, self._weight_axes)

    def _weight_axes(self) -> dict[int, set[int | None]]:
        axes: dict[int, set[int | None]] = {}
        for entry in self.entries:
            for name, parameter in parameters_of(entry.module) if entry.selected else ():
                axes.setdefault(id(parameter), set()).add(weight_axis(entry.layer, name, parameter.dim()))
        return axes

    @property
    def taken(self) -> Taken:
        """Gradients that hooks of the user's have taken away since the step began."""
        return self._gradients.taken

    # -- the passes of somebody else's loop -----------------------------------------------------------------------------------

    def holds(self, module: nn.Module) -> bool:
        """Whether the module is on the roster."""
        return id(module) in self._roster

    def forward(
        self,
        call: Callable[..., Any],
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        training: bool,
        part: bool = False,
    ) -> Any:
        """Run one forward of the root, observed; the caller's exceptions pass through.

        Args:
            call: Makes the call, given the module and the arguments.
            module: The root, what wraps it, or what is called of it.
            args: The positional arguments.
            kwargs: The keyword arguments.
            training: Whether the root is in train mode.
            part: Whether it is a part of the root; the parts that are called before a backward make up one pass.
        """
        if self.failed is not None:
            with Window():
                return call(module, *args, **kwargs)
        if not self._holds:
            CALLS.hold()
            self._holds = True
        if not (part and self._open):
            self._end_parts()
            self._begin()
            self._pass.module_mode = MODES[0 if training else 1]
            self._pass.graph, self._pass.part = torch.is_grad_enabled(), part
        self._open = False
        with boundary(self, self._stage, self._roster) as observed, self._stage.during(FORWARD), Window():
            output = observed(call)(module, *args, **kwargs)
        if self.failed is None:
            try:
                if self._pass.graph:
                    self._notice(self._pass, output)
                self._open = True
                if not part:
                    self._end_parts()
            except Exception as error:
                self._fail(error)
        return output

    def _notice(self, one: Pass, output: Any) -> None:
        """Note where in the graph it is what a forward gave out, and when a backward reaches it, whatever is wanted."""
        followed = partial(setattr, one, "followed", True)
        for _, item in walk(output):
            if isinstance(item, Tensor) and item.requires_grad and not is_reducible(item):
                self._gradients.notice(item, followed)
                node: Any = item.grad_fn
                if node is not None:
                    node.metadata[self._mark] = True
                    self._given.append(node.metadata)

    def gave(self, node: Any) -> bool:
        """Whether a node of autograd's graph made what a forward of this step gave out."""
        return self._mark in node.metadata

    def _end_parts_safely(self) -> None:
        if self.failed is None:
            try:
                self._end_parts()
            except Exception as error:
                self._fail(error)

    def _end_parts(self) -> None:
        """End the pass that is open."""
        if self._open:
            self._open = False
            self.passes.append(self._closed())

    def backward(self, roots: list[Tensor], run: Callable[[], Any]) -> Any:
        """Run a backward pass from ``roots``, observed; recomputations of checkpoints are seen for what they are."""
        self._end_parts_safely()
        if self.failed is not None or not self.passes:
            with Window():
                return run()
        hooked = [t for t in roots if isinstance(t, Tensor) and t.requires_grad and not is_reducible(t)]
        try:
            nodes = accumulators(hooked)
            known = {id(node.variable) for node in nodes}
            # the graph of a reentrant checkpoint comes to be during the backward
            for p in parameters_in(entry.module for entry in self.entries):
                if p.requires_grad and p._post_accumulate_grad_hooks and id(p) not in known:
                    nodes.append(accumulator(p))
            self._follow(nodes)
        except Exception as error:
            self._fail(error)
        with boundary(self, self._stage, self._roster), self._gradients.arriving(hooked), Window():
            return run()

    def finish(self, scale: float = 1.0) -> list[Pass]:
        """Take every hook away and return what was seen, measured gradients divided by ``scale``.

        Where gradients arrived, forwards without a graph are no part of the step, nor are evaluations that none arrived
        at; of these the first one counts, as an evaluation.
        """
        self.let_go()
        self._end_parts_safely()
        gradients = self._gradients
        for site in gradients.divided:
            gradients.found.pop(site, None)
        kept = self._kept()
        if kept and self.failed is None:
            try:
                self._read_learned(kept[-1])
            except Exception as error:
                self._fail(error)
        if scale != 1.0:
            for site, sums in gradients.found.items():
                gradients.found[site] = sums.scaled(1.0 / scale)
        for one in kept:
            if one.graph and one.mode == MODES[0]:
                self._missing_gradients(one, gradients.ran)
        self.passes = []
        return kept

    def _kept(self) -> list[Pass]:
        """The passes that are part of the step."""
        kept = self.passes
        if any(p.reached for p in kept):
            evaluations = [p for p in kept if p.mode == MODES[1]]
            kept = [p for p in kept if p.reached or (p.graph and p.mode == MODES[0]) or p in evaluations[:1]]
            if any(p.reached and not p.part for p in kept):
                # what a loop does with parts beside the root's forward is its own
                kept = [p for p in kept if not p.part]
        return kept

    def let_go(self) -> None:
        """Take every hook away, and the hold on the call boundary."""
        self._gradients.remove()
        for metadata in self._given:
            metadata.pop(self._mark, None)
        self._given.clear()
        self.release()

    def release(self) -> None:
        """Let go of the call boundary, and go on waiting for gradients."""
        if self._holds:
            self._holds = False
            CALLS.release()

    # -- what happens in a pass (:class:`spp.capture.interception.Observer`) --------------------------------------------------

    def on_enter(self, entry: Entry, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """Note that a module is about to be called."""
        try:
            # subclasses and modes see what the model does, not what is noted about it
            with _torch.unseen_functions():
                inputs = self._flow.inputs(args, kwargs)
        except Exception as error:
            self._fail(error)
            inputs = []
        calls = self._pass.calls.setdefault(entry, [])
        call = Call(entry, len(calls), self._flow.tick(), inputs)
        calls.append(call)
        self._stack.append(call)
        if entry.leaf and entry.selected and self._wants[0][0] and self.failed is None:
            try:
                with _torch.unseen_functions():
                    self._note_input(call)
            except Exception as error:
                self._fail(error)
        return call

    def on_exit(self, call: Call, output: Any) -> None:
        """Reduce what a call gave out."""
        stack, entry = self._stack, call.entry
        if self.failed is not None:
            return
        try:
            stack.pop()
            call.depth = self._finished
            self._finished += 1
            call.leaves = call.leaves or 1
            with _torch.unseen_functions():
                if call.number == 0 and self._parameters.wanted and entry.selected:
                    self._note_parameters(entry, call)
                if isinstance(output, Tensor):
                    self._observe(call, "", output)
                else:
                    for path, item in walk(output):
                        if isinstance(item, Tensor):
                            self._observe(call, path, item)
                        else:
                            why = "has no order that would name its items" if isinstance(item, Set) else "is opaque"
                            self._leave_out(call, path, f"output of type {type(item).__name__} {why}")
            if stack:
                stack[-1].leaves += call.leaves
                stack[-1].last_child = call
        except Exception as error:
            self._fail(error)

    def on_error(self, call: Call, error: BaseException, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note that a call raised."""
        if self.failed is None:
            self._stack.pop()
            self._note_error(error, call.entry, args, kwargs)
            self._leave_out(call, "", f"the call raised {type(error).__name__}{CAUGHT}")

    def on_recompute(
        self, entry: Entry, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Make a call during the backward pass."""
        passes = self.passes or [self._pass]
        calls = [call for one in passes for call in one.calls.get(entry, ())]
        values = {
            site: one.values[site] for one in passes for call in calls for site in call.sites if site in one.values
        }
        self._again.append(entry)
        try:
            return self._gradients.recompute(calls, values, lambda: original(entry.module, *args, **kwargs))
        except BaseException as error:
            self._note_error(error, entry, args, kwargs)
            raise
        finally:
            self._again.pop()

    def function(self, name: str) -> Entry | None:
        """The layer that a function is which the innermost module calls, in the forward or a checkpoint's recomputation."""
        if self.functions is None or self.failed is not None:
            return None
        if self._stage.phase is FORWARD:
            return self.functions.of(self._stack[-1].entry, name) if self._stack else None
        return self.functions.of(self._again[-1], name) if self._again else None

    def on_unregistered(self, module: nn.Module) -> None:
        """Note a module that runs inside the model and is not registered in it."""
        if self._stack and id(module) not in self._unregistered:
            self._unregistered[id(module)] = module, self._stack[-1].entry, torch.is_grad_enabled()

    def on_other_thread(self, entry: Entry) -> None:
        """Note a module that is called on another thread."""
        self._elsewhere.add(entry)

    def before_sum(self, a: Tensor, b: Tensor) -> tuple[Value, Value] | None:
        """The values of two operands; one that is a sum that no module gave out is measured now, while it lasts."""
        if self.failed is not None:
            return None
        try:
            return self._operand(a), self._operand(b)
        except Exception as error:
            self._fail(error)
            return None

    def after_sum(self, values: tuple[Value, Value] | None, out: Tensor, same_shape: bool) -> None:
        """Note a sum, which may be a residual merge."""
        if values is not None and self.failed is None:
            try:
                self._merges.added(*values, out, same_shape, self._stack)
            except Exception as error:
                self._fail(error)

    def _note_input(self, call: Call) -> None:
        """Say what enters a leaf: the output of another call, else a tensor that is measured before the leaf changes it."""
        tensors = [(value, value.ref()) for value in call.inputs]
        floating = [(value, t) for value, t in tensors if t is not None and t.is_floating_point()]
        if len(floating) != 1:
            return
        value, tensor = floating[0]
        # an output that is not the main one of its call has no name that a table could call it by
        call.entered = next(
            (site for site in value.sites if site.call is not None and site is site.call.sites[0]), None
        )
        # in a training every step would pay for tensors that nothing else asks for
        if call.entered is not None or self._policy is Policy.CONTAIN or is_reducible(tensor):
            return
        held = values_of(tensor) if tensor.is_nested else tensor
        axis = self._placer.entering(call, held, value)
        sums = value.reduced(axis)
        # without a version counter nobody knows whether the tensor still holds what was reduced
        if sums is None or value.version < 0:
            sums = self._stage.reduce(held, axis)
            value.entered = Reading(axis, sums=sums)
        call.entered = Site(call.entry, call, "", held.shape, tensor.dtype, axis)
        self._pass.inputs[call.entered] = sums

    # -- measuring ------------------------------------------------------------------------------------------------------------

    def _observe(self, call: Call, path: str, tensor: Tensor) -> None:
        """Reduce one output and wait for its gradient."""
        entry = call.entry
        if reason := is_reducible(tensor):
            self._leave_out(call, path, reason)
            return
        value = self._flow.produced(tensor, call)
        held = values_of(tensor) if tensor.is_nested else tensor
        reading = value.reading or value.read(self._placer.axis(call, held, value))
        is_weight = entry.weight_of is not None
        if is_weight:
            owner, parameter = entry.weight_of  # type: ignore[misc]
            if entry.name == f"{owner}.parametrizations.{parameter}" and owner in self._by_name:
                entry, path = self._by_name[owner], parameter
        site = Site(entry, call, path, held.shape, tensor.dtype, reading.axis, is_weight, tensor._is_view())
        call.sites.append(site)
        if call.entry.selected:
            self._pass.sites.append(site)
            self._measure(site, reading, value.version, tensor, call.entry.ends)

    def _measure(
        self,
        site: Site,
        reading: Reading,
        version: int,
        tensor: Tensor,
        ends: tuple[float, float] | None = None,
    ) -> None:
        reading.sites.append(site)
        wants_value, wants_gradient = self._wants[site.is_weight]
        if wants_value:
            # without a version counter nobody knows whether the tensor still holds what was reduced
            if reading.sums is None or (ends is not None and reading.ends != ends) or version < 0:
                reading.sums, reading.ends = self._stage.reduce(values_of(tensor), reading.axis, ends), ends
            self._pass.values[site] = reading.sums
            if self._stops and not _masks(reading.sums):
                self._stop_unless_finite(site, reading.sums, site.signals[0])
        if wants_gradient:
            hooked = self._gradients.waiting[site] = tensor.requires_grad
            if hooked and not reading.hooked:
                reading.hooked = True
                self._gradients.wait(tensor, reading)

    def _note_parameters(self, entry: Entry, call: Call | None) -> None:
        """Remember the parameters of a module, and observe those that are no leaves of the graph."""
        computed, leaves = computed_weights(entry.module, call is not None)
        if self._policy is Policy.RAISE:
            # a watch reads leaves around the optimizer's step
            self._parameters.note(entry, call, leaves)
        for name, tensor in computed:
            value = self._flow.value(tensor)
            if value.reading is None:
                value.reading = Reading(self._placer.weight_axis(entry, name, tensor))
            site = Site(entry, call, name, tensor.shape, tensor.dtype, value.reading.axis, True, tensor._is_view())
            self._pass.sites.append(site)
            self._measure(site, value.reading, value.version, tensor)

    def _operand(self, tensor: Tensor) -> Value:
        value = self._flow.value(tensor)
        addition = self._merges.stream_of(value, self._stack)
        if addition is not None and addition.block.entry.selected and not (tensor.is_nested or is_reducible(tensor)):
            entry, branch, reading = addition.block.entry, addition.branch_value.reading, value.reading
            if reading is None:
                # a branch that a function ends has no reading
                reading = value.read(
                    self._placer.axis(addition.block, tensor, value) if branch is None else branch.axis
                )
            output, axis = f"merge.{addition.number}", reading.axis
            site = Site(entry, addition.block, output, tensor.shape, tensor.dtype, axis, is_view=tensor._is_view())
            addition.stream = site
            self._pass.streams.append(site)
            self._measure(site, reading, value.version, tensor)
        return value

    def _read_learned(self, one: Pass) -> None:
        """Rows of their own for what neuron-wise layers learned of their inputs in this backward pass.

        A module that keeps such statistics offers them by ``neuronwise_statistics() -> dict[str, Tensor]``, neurons on axis 0.
        """
        if Signal.ACTIVATION not in self._signals:
            return
        for entry, calls in one.calls.items():
            if entry.selected and hasattr(type(entry.module), "neuronwise_statistics"):
                module: Any = entry.module
                for name, tensor in module.neuronwise_statistics().items():
                    site = Site(entry, calls[0], f"{LEARNED}{name}", tensor.shape, tensor.dtype, 0)
                    one.sites.append(site)
                    one.values[site] = self._stage.reduce(tensor, 0)

    # -- endings --------------------------------------------------------------------------------------------------------------

    def _closed(self) -> Pass:
        result = self._pass
        result.merges, result.roles = self._merges.finish()
        result.unmeasured += never_called(self.entries, result.calls, self._elsewhere, result.unfinished)
        result.unmeasured += unregistered(self._unregistered.values(), self.entries[0].module)
        self._flow.forget()
        return result

    def _missing_gradients(self, one: Pass, backward_ran: bool) -> None:
        waiting, divided = self._gradients.waiting, self._gradients.divided
        one.unmeasured += [
            no_gradient(site, backward_ran, waiting[site], site in divided, one.unfinished)
            for site in one.sites
            if site in waiting and site not in one.gradients
        ]

    def _leave_out(self, call: Call, output: str, reason: str) -> None:
        if call.entry.selected:
            self._pass.unmeasured.append(unmeasured(call.entry, call, output, Signal.ACTIVATION, reason))

    # -- what went wrong in the user's own code -------------------------------------------------------------------------------

    def _stop_unless_finite(self, site: Site, sums: Sums, signal: Signal) -> None:
        """End the pass at the first NaN or infinity, by an exception that goes through the user's code."""
        if self._stopped is None and (bad := int(totals([sums])[0, Total.NONFINITE])):
            what = (
                f"the pass ends at its first non-finite {_of(site, signal)}: {bad:,} of {site.shape.numel():,} values"
            )
            self._stopped = FloatingPointError(what), site
            raise self._stopped[0]

    def _first_nonfinite(self) -> str:
        """The first row that holds NaN or infinity, and where that is -inf alone the first of the others too."""
        one = self._pass
        weights_first = sorted(_nonfinite(one.values), key=lambda site: not site.is_weight)
        rows = [(site, site.signals[0], one.values[site]) for site in weights_first]
        rows += [(site, site.signals[1], one.gradients[site]) for site in _nonfinite(one.gradients)]
        found = [("-inf", rows[0])] if rows and _masks(rows[0][2]) else []
        found += [("NaN or infinity", row) for row in rows if not _masks(row[2])][:1]
        told = [f"{kind} in the {_of(site, signal)} of {_named(site.entry)}" for kind, (site, signal, _) in found]
        return f"First not finite: {', '.join(told)}. " if told else ""

    def _note_error(self, error: BaseException, entry: Entry, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note that ``error`` left the module of ``entry``; the first to be left is the innermost."""
        if self._raised is None or self._raised[0] is not error:
            try:
                received = describe_call(args, kwargs)
            except Exception:
                # a description must not hide the error that it is about
                received = "arguments that cannot be described"
            self._raised = error, entry, received

    def _explained(self, stage: str, error: Exception, received: str = "", after: Site | None = None) -> TraceError:
        """The user's exception, with the module it came from, what arrived there and what to do.

        Args:
            stage: What was going on.
            error: What was raised.
            received: What arrived, where no module is to blame.
            after: What a broken backward pass had reached.
        """
        if self._stopped is not None:
            error, site = self._stopped
            return TraceError(str(error), where=_named(site.entry), remedy="Look at what it is given")
        where = ""
        chain: BaseException | None = error
        while chain is not None and self._raised is not None:
            if chain is self._raised[0]:
                where, received = _named(self._raised[1]), self._raised[2]
                break
            chain = chain.__cause__ or chain.__context__
        if not where and after is not None:
            stage = f"{stage}, after it had left {_named(after.entry)},"
        if lacking := memory_lacking(error):
            rule, remedy = f"{stage} ran out of memory for {lacking}", LESS
        else:
            rule = f"{stage} raised {type(error).__name__}: {' '.join(str(error).split())}".rstrip(".: ")
            remedy = REMEDY
        return TraceError(rule, where=where, received=received, remedy=self._first_nonfinite() + remedy)


def _named(entry: Entry) -> str:
    return f"module {entry.name!r} ({entry.type})" if entry.name else f"the model ({entry.type})"


def _of(site: Site, signal: Signal) -> str:
    return f"{signal.replace('_', ' ')} {site.output!r}" if site.output else str(signal)


def _masks(sums: Sums) -> bool:
    """Whether -inf is all that is not finite, as where a mask puts it on purpose."""
    kinds = sums.further.get(NONFINITES.name)
    return kinds is not None and not kinds[:2].any()


def _nonfinite(readings: Readings) -> list[Site]:
    """Those that hold NaN or infinity."""
    bad = totals(list(readings.values()))[:, Total.NONFINITE] > 0
    return [site for site, is_bad in zip(readings, bad, strict=True) if is_bad]
