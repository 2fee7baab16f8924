"""One forward and one backward pass, observed.

While a pass runs, a function stands in place of ``nn.Module.__call__`` (:mod:`spp.capture.boundary`) that calls the original
and then, for the model's own modules on this thread, has what came out reduced here. That sees a row's tensor as the rest of
the model receives it (after the user's own hooks), works for scripted modules, leaves nothing in anybody's hook lists, and
reduces each tensor before a later in-place operation can destroy it. Gradients are :mod:`spp.capture.gradients`' part,
additions :mod:`spp.capture.additions`'.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from spp._pytree import describe, walk
from spp.capture import holes
from spp.capture.additions import Watch
from spp.capture.boundary import boundary
from spp.capture.channels import ChannelAxis, is_reducible
from spp.capture.failure import Failure
from spp.capture.gradients import Gradients
from spp.capture.holes import Hole
from spp.capture.learned import learned_statistics
from spp.capture.lineage import Lineage, Value
from spp.capture.passes import Aside, Objective, Pass
from spp.capture.residual import Merge, Merges
from spp.capture.sites import Call, Entry, Placer, Site
from spp.capture.stage import FORWARD, Depth, Stage
from spp.capture.weights import Weights, leaves_outside
from spp.errors import SppError
from spp.vocabulary import Signal

LOCK = threading.RLock()
"""The call boundary is one attribute of one class, so passes take turns."""


class Capture:
    """Observes passes, one at a time, over the modules of a roster.

    Args:
        entries: The model's modules, see :func:`spp.capture.sites.roster`.
        signals: Which signals to measure.
        axis: The user's ``channel_axis``.
        loss_scale: What the loss is multiplied by; measured gradients are divided by it.
        depth: What is wanted of every tensor beyond its second moments.
    """

    def __init__(
        self, entries: list[Entry], signals: frozenset[Signal], axis: ChannelAxis, loss_scale: float, depth: Depth
    ) -> None:
        self._entries = {id(e.module): e for e in entries}
        self._by_name = {e.name: e for e in entries}
        self._signals, self._axis, self._loss_scale = signals, axis, loss_scale
        self._wants = (
            (Signal.ACTIVATION in signals, Signal.GRADIENT in signals),
            (Signal.WEIGHT in signals, Signal.WEIGHT_GRADIENT in signals),
        )
        self._wants_backward = bool(signals & {Signal.GRADIENT, Signal.WEIGHT_GRADIENT})
        self._wanted_depth = depth
        self._stack: list[Call] = []
        self._begin()

    def _begin(self) -> None:
        self._renew()
        self._pass, self._depth = Pass(), 0
        self._weights = Weights(self._stage, self._signals, self._computed_weight)
        self._lineage, self._placer, self._failure = Lineage(), Placer(self._axis), Failure()
        self._merges = Merges(self._lineage, self._on_stream)
        self._strangers: dict[int, tuple[nn.Module, Entry]] = {}
        self._stack.clear()
        for entry in self._entries.values():
            entry.calls.clear()
            entry.elsewhere = False

    def _renew(self) -> None:
        self._stage = Stage(self._wanted_depth)
        self._gradients = Gradients(self._stage, self._loss_scale)

    def run(self, forward: Callable[[], Any], objective: Objective, aside: Aside) -> Pass:
        """Run ``forward()``, then backward from ``objective(output)``, and return what was seen.

        Args:
            forward: Calls the model once.
            objective: Turns the output into the tensors to run backward from and their cotangents (None for a scalar);
                no tensors means that nothing requires a gradient.
            aside: A context manager that keeps the ``.grad`` of leaves outside the model out of the backward pass.

        Raises:
            TraceError: The model, the loss or the backward pass raised; the cause is the original exception.
        """
        with LOCK, ExitStack() as stack:
            self._begin()
            stack.callback(self._begin)
            stack.callback(self._gradients.remove)
            if "torch._dynamo" in sys.modules:  # else nothing can have been compiled, and importing it takes seconds
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(self._boundary())
            output = self._forward(forward)
            if self._wants_backward:
                self._backward(output, objective, aside)
            return self._finish()

    # -- the boundary -------------------------------------------------------------------------------------------------

    def _boundary(self) -> AbstractContextManager[None]:
        """Put the observing call in place of ``nn.Module.__call__``, and the watch over additions."""
        return boundary(self, self._stage, self._entries, Watch(self._stage, self._merges, self._stack))

    def _forward(self, forward: Callable[[], Any]) -> Any:
        try:
            with self._stage.during(FORWARD):
                output = forward()
        except Exception as error:
            raise self._failure.explain("the forward pass", error) from error
        if self._weights.wanted:
            with torch._C.DisableTorchFunction():
                for entry in self._entries.values():
                    if entry.selected and not entry.calls:
                        self._weights.read(entry, None)
                self._pass.holes += self._weights.noted()
                self._weights.read_values()
        return output

    def enter(self, entry: Entry, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """Note that a module is about to be called."""
        lineage = self._lineage
        with (
            torch._C.DisableTorchFunction()
        ):  # subclasses and modes see what the model does, not what is noted about it
            inputs = lineage.inputs(args, kwargs)
        call = Call(entry, len(entry.calls), lineage.tick(), inputs)
        entry.calls.append(call)
        self._stack.append(call)
        return call

    def leave(self, call: Call, output: Any) -> None:
        """Reduce what a call gave out."""
        stack, entry = self._stack, call.entry
        stack.pop()
        call.depth = self._depth
        self._depth += 1
        call.leaves = call.leaves or 1
        with torch._C.DisableTorchFunction():
            if call.number == 0 and self._weights.wanted and entry.selected:
                self._weights.read(entry, call)
            if isinstance(output, Tensor):
                self._observe(call, "", output)
            else:
                for path, item in walk(output):
                    if isinstance(item, Tensor):
                        self._observe(call, path, item)
                    else:
                        self._hole(call, path, f"output of type {type(item).__name__} is opaque")
        if stack:
            stack[-1].leaves += call.leaves
            stack[-1].last_child = call

    def broke(self, call: Call, error: BaseException, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note that a call raised."""
        self._stack.pop()
        self._failure.note(error, call.entry, args, kwargs)
        self._hole(call, "", f"the call raised {type(error).__name__}, which its caller caught")

    def _observe(self, call: Call, path: str, tensor: Tensor) -> None:
        """Reduce one output and wait for its gradient."""
        entry = call.entry
        if reason := is_reducible(tensor):
            self._hole(call, path, reason)
            return
        value = self._lineage.produced(tensor, call)
        if not value.placed:
            value.axis, value.placed = self._placer.axis(call, tensor), True
        site = Site(entry, call, path, tensor.shape, tensor.dtype, value.axis)
        if entry.weight_of is not None:
            site.is_weight = True
            owner, parameter = entry.weight_of
            if entry.name == f"{owner}.parametrizations.{parameter}" and owner in self._by_name:
                site.entry, site.output = self._by_name[owner], parameter
        call.sites.append(site)
        if entry.selected:
            value.sites.append(site)
            self._measure(site, value, tensor, entry.ends)
            self._pass.sites.append(site)

    def _measure(self, site: Site, value: Value, tensor: Tensor, ends: tuple[float, float] | None = None) -> None:
        wants_value, wants_gradient = self._wants[site.is_weight]
        if wants_value:
            stale = value.moments is None or (ends is not None and value.ends != ends) or value.version < 0
            if stale:  # without a version counter nobody knows whether the tensor still holds what was reduced
                value.moments, value.ends = self._stage.reduce(tensor, value.axis, ends), ends
            site.value = value.moments
        if not wants_gradient:
            return
        site.waits, site.is_view = True, tensor._is_view()
        if tensor.requires_grad:
            site.hooked = True
            if not value.hooked:
                value.hooked = True
                self._gradients.wait(tensor, value)

    def _computed_weight(self, site: Site, tensor: Tensor) -> None:
        """Observe a weight that is no leaf of the graph."""
        value = self._lineage.value(tensor)
        if not value.placed:
            value.axis, value.placed = site.axis, True
        value.sites.append(site)
        self._measure(site, value, tensor)
        self._pass.sites.append(site)

    def _on_stream(self, merge: Merge, tensor: Tensor, value: Value) -> None:
        """Measure a sum that no module gives out but a later addition of the same block reads: a row of the blocks alone."""
        if not merge.block.entry.selected or is_reducible(tensor):
            return
        if not value.placed:
            value.axis, value.placed = merge.branch_value.axis, merge.branch_value.placed
        entry, output = merge.block.entry, f"merge.{merge.number}"
        merge.stream = Site(entry, merge.block, output, tensor.shape, tensor.dtype, value.axis)
        value.sites.append(merge.stream)
        self._measure(merge.stream, value, tensor)

    def strange(self, module: nn.Module) -> None:
        """Note a module that runs inside the model and is not registered in it."""
        if self._stack and id(module) not in self._strangers:
            self._strangers[id(module)] = module, self._stack[-1].entry

    # -- backward -----------------------------------------------------------------------------------------------------

    def again(self, entry: Entry, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call during the backward pass."""
        try:
            return self._gradients.again(entry.calls, lambda: original(entry.module, *args, **kwargs))
        except BaseException as error:
            self._failure.note(error, entry, args, kwargs)
            raise

    def _backward(self, output: Any, objective: Objective, aside: Aside) -> None:
        try:
            roots, cotangents = objective(output)
        except SppError:
            raise
        except Exception as error:
            raise self._failure.explain("the loss", error, describe(output)) from error
        if not roots:
            return
        own = {id(p) for e in self._entries.values() for p in e.module._parameters.values()}
        with aside(leaves_outside(roots, own)):
            try:
                self._gradients.backward(roots, cotangents)
            except Exception as error:
                reached = describe(roots[0]), self._gradients.latest
                raise self._failure.explain("the backward pass", error, *reached) from error
            self._weights.read_gradients(self._gradients)
        self._read_statistics()

    def _read_statistics(self) -> None:
        """Rows of their own for what neuron-wise layers learned of their inputs in this backward pass."""
        if Signal.ACTIVATION in self._signals:
            self._pass.sites += learned_statistics(self._entries.values(), self._stage)

    # -- endings ------------------------------------------------------------------------------------------------------

    def _finish(self) -> Pass:
        result, ran = self._pass, self._gradients.ran
        result.sites += self._weights.sites
        result.merges = self._merges.finish()
        result.calls = [(e, (holes.first_depth(e.calls), len(e.calls))) for e in self._entries.values() if e.calls]
        result.inputs = {e.name: list(e.calls) for e, _ in result.calls}
        result.holes += self._weights.holes(ran)
        result.holes += [holes.no_gradient(s, ran) for s in result.sites if s.waits and s.gradient is None]
        result.holes += holes.never_called(list(self._entries.values()))
        result.holes += holes.unregistered(self._strangers.values())
        self._lineage.forget()
        return result

    def _hole(self, call: Call, output: str, reason: str) -> None:
        if call.entry.selected:
            self._pass.holes.append(Hole(call.entry, call.number, output, Signal.ACTIVATION, reason))
