"""One forward and one backward pass, observed: the only file that touches hooks or calls.

While a pass runs, ``nn.Module.__call__`` is replaced, for the model's own modules on this thread, by a function that calls the
original and then reduces what came out. That sees a row's tensor as the rest of the model receives it (after the user's own
hooks), works for scripted modules, leaves nothing in anybody's hook lists, and reduces each tensor before a later in-place
operation can destroy it. Gradients come through ``Tensor.register_hook`` on the very tensors that were given out.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from spp.errors import SppError, TraceError
from spp.measure import weights
from spp.measure.channels import ChannelAxis, is_reducible, weight_axis
from spp.measure.holes import Hole, never_called, no_gradient, no_weight_gradient
from spp.measure.moments import Moments
from spp.measure.residual import Lineage, Merge, Value, version_of, watch_additions
from spp.measure.sites import Call, Entry, Placer, Site
from spp.nested import describe, describe_call, walk
from spp.signals import Signal

Objective = Callable[[Any], tuple[list[Tensor], list[Tensor | None]]]
Aside = Callable[[list[Tensor]], AbstractContextManager[None]]

_LOCK = threading.RLock()
"""The call boundary is one attribute of one class, so passes take turns."""


class Phase(Enum):
    """What the calls that arrive right now mean."""

    IDLE = 0
    FORWARD = 1
    BACKWARD = 2


@dataclass(slots=True, eq=False)
class Pass:
    """What one batch gave.

    Attributes:
        sites: Everything that was measured, in the order in which it came to be.
        merges: Residual merges, in order; some with a stream site of their own.
        holes: What was not measured.
        calls: For each module that ran, the depth of its first call and the number of its calls.
    """

    sites: list[Site] = field(default_factory=list)
    merges: list[Merge] = field(default_factory=list)
    holes: list[Hole] = field(default_factory=list)
    calls: list[tuple[Entry, tuple[int, int]]] = field(default_factory=list)


class Capture:
    """Observes passes, one at a time, over the modules of a roster.

    Args:
        entries: The model's modules, see :func:`spp.measure.sites.roster`.
        signals: Which signals to measure.
        axis: The user's ``channel_axis``.
        loss_scale: What the loss is multiplied by; measured gradients are divided by it.
    """

    def __init__(self, entries: list[Entry], signals: frozenset[Signal], axis: ChannelAxis, loss_scale: float) -> None:
        self._entries = {id(e.module): e for e in entries}
        self._by_name = {e.name: e for e in entries}
        self._signals, self._axis, self._loss_scale = signals, axis, loss_scale
        self._reads_weights = bool(signals & {Signal.WEIGHT, Signal.WEIGHT_GRADIENT})
        self._wants_backward = bool(signals & {Signal.GRADIENT, Signal.WEIGHT_GRADIENT})
        self._stack: list[Call] = []
        self._begin()

    def _begin(self) -> None:
        self._phase, self._thread = Phase.IDLE, threading.get_ident()
        self._pass, self._lineage, self._placer = Pass(), Lineage(self._on_stream), Placer(self._axis)
        self._depth, self._recomputing, self._graph_task, self._ran_backward = 0, 0, -1, False
        self._handles: list[Any] = []
        self._parameters: list[tuple[Site, Tensor]] = []
        self._recomputed: dict[int, tuple[weakref.ref[Tensor], int, list[Site]]] = {}
        self._failed: tuple[BaseException, Entry, str] | None = None
        self._stack.clear()
        for entry in self._entries.values():
            entry.calls.clear()

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
        with _LOCK, ExitStack() as stack:
            self._begin()
            stack.callback(self._begin)
            if "torch._dynamo" in sys.modules:  # else nothing can have been compiled, and importing it takes seconds
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(self._boundary())
            output = self._forward(forward)
            self._read_idle_weights()
            if self._wants_backward:
                self._backward(output, objective, aside)
            return self._finish()

    # -- the boundary -------------------------------------------------------------------------------------------------

    @contextmanager
    def _boundary(self) -> Iterator[None]:
        """Put the observing call in place of ``nn.Module.__call__``, and the watch over additions."""
        original = nn.Module.__call__
        install, remove = watch_additions(self._in_forward, self._lineage, self._stack)

        def __call__(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            phase = self._phase
            if phase is Phase.IDLE or (entry := self._entries.get(id(module))) is None:
                return original(module, *args, **kwargs)
            if phase is Phase.BACKWARD:
                return self._again(entry, original, args, kwargs)
            if threading.get_ident() != self._thread:
                return original(module, *args, **kwargs)
            return self._observed(entry, original, args, kwargs)

        nn.Module.__call__ = __call__  # type: ignore[method-assign]
        try:
            install()
            yield
        finally:
            for handle in self._handles:
                handle.remove()
            remove()
            nn.Module.__call__ = original  # type: ignore[method-assign]

    def _in_forward(self) -> bool:
        return self._phase is Phase.FORWARD and threading.get_ident() == self._thread

    def _forward(self, forward: Callable[[], Any]) -> Any:
        self._phase = Phase.FORWARD
        try:
            return forward()
        except Exception as error:
            raise self._explained("the forward pass", error) from error
        finally:
            self._phase = Phase.IDLE

    def _observed(
        self, entry: Entry, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        stack = self._stack
        call = Call(entry, len(entry.calls), self._lineage.tick(), self._lineage.inputs(args, kwargs))
        entry.calls.append(call)
        stack.append(call)
        try:
            output = original(entry.module, *args, **kwargs)
        except BaseException as error:
            if self._failed is None or self._failed[0] is not error:
                self._failed = (error, entry, describe_call(args, kwargs))
            raise
        finally:
            stack.pop()
        if call.number == 0 and self._reads_weights and entry.selected:
            self._read_weights(entry, call)
        call.depth = self._depth
        self._depth += 1
        call.leaves = call.leaves or 1
        if type(output) is Tensor:
            self._observe(call, "", output)
        else:
            for path, item in walk(output):
                if isinstance(item, Tensor):
                    self._observe(call, path, item)
                else:
                    self._hole(call, path, Signal.ACTIVATION, f"output of type {type(item).__name__} is opaque")
        if stack:
            stack[-1].leaves += call.leaves
            stack[-1].last_child = call
        return output

    def _observe(self, call: Call, path: str, tensor: Tensor) -> None:
        """Reduce one output and wait for its gradient."""
        entry = call.entry
        reason = is_reducible(tensor)
        if reason:
            self._hole(call, path, Signal.ACTIVATION, reason)
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

    def _measure(self, site: Site, value: Value, tensor: Tensor, ends: tuple[float, float] | None = None) -> None:
        signal, gradient = site.signals
        self._pass.sites.append(site)
        if signal in self._signals:
            if value.moments is None or (ends is not None and value.ends != ends):
                value.moments, value.ends = self._reduce(tensor, value.axis, ends), ends
            site.value = value.moments
        if gradient not in self._signals:
            return
        site.waits, site.is_view = True, tensor._is_view()
        if tensor.requires_grad:
            site.hooked = True
            if not value.hooked:
                value.hooked = True
                self._hook(tensor, self._receiver(value))

    def _on_stream(self, merge: Merge, tensor: Tensor, value: Value) -> None:
        """Measure a sum that no module gives out but a later addition of the same block reads."""
        if not merge.block.entry.selected or is_reducible(tensor):
            return
        if not value.placed:
            value.axis, value.placed = merge.branch_value.axis, merge.branch_value.placed
        entry, output = merge.block.entry, f"merge.{merge.number}"
        merge.stream = Site(entry, merge.block, output, tensor.shape, tensor.dtype, value.axis)
        value.sites.append(merge.stream)
        self._measure(merge.stream, value, tensor)
        self._pass.sites.remove(merge.stream)  # a row of the blocks, not of the frame

    def _reduce(self, tensor: Tensor, axis: int | None, ends: tuple[float, float] | None = None) -> Moments:
        """Reduce a tensor unseen: not by the watch over additions, not by autocast, not by a mode of the user's."""
        phase, self._phase = self._phase, Phase.IDLE
        try:
            with ExitStack() as stack:
                if torch._C._is_any_autocast_enabled():
                    stack.enter_context(torch.autocast(tensor.device.type, enabled=False))
                if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
                    stack.enter_context(_disable_current_modes())
                    stack.enter_context(torch._C.DisableTorchFunction())
                return Moments.of(tensor, axis, ends=ends)
        finally:
            self._phase = phase

    # -- gradients ----------------------------------------------------------------------------------------------------

    def _hook(self, tensor: Tensor, receive: Callable[[Tensor], None]) -> None:
        tensor.grad_fn  # noqa: B018  (on a view whose slice was written in place, register_hook crashes unless this is read)
        self._handles.append(tensor.register_hook(receive))  # type: ignore[no-untyped-call]

    def _receiver(self, value: Value) -> Callable[[Tensor], None]:
        def receive(gradient: Tensor) -> None:
            if self._outer() and not self._recomputing:
                self._take(gradient, value.axis, value.sites)

        return receive

    def _take(self, gradient: Tensor | None, axis: int | None, sites: list[Site]) -> None:
        if gradient is not None and not is_reducible(gradient):
            moments = self._unscaled(self._reduce(gradient, axis))
            for site in sites:
                site.gradient = moments

    def _unscaled(self, moments: Moments) -> Moments:
        return moments if self._loss_scale == 1.0 else moments.scaled(1.0 / self._loss_scale)

    def _again(self, entry: Entry, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call during backward is a checkpoint's recomputation: no new call, but perhaps where gradients will arrive.

        With reentrant checkpointing the first pass had no graph, and gradients flow through the recomputed tensors only; with
        the other kind they flow through the first ones, which wait already.
        """
        self._recomputing += 1
        try:
            output = original(entry.module, *args, **kwargs)
        finally:
            self._recomputing -= 1
        open_calls = [c for c in entry.calls if any(s.waits and not s.hooked for s in c.sites)]
        found = [(p, t) for p, t in walk(output) if isinstance(t, Tensor) and t.requires_grad] if open_calls else []
        if found:
            call = self._repeated(open_calls, dict(found))
            for path, tensor in found:
                for site in call.sites:
                    if site.output == path and site.waits and not site.hooked:
                        site.hooked = True
                        self._hook_again(tensor, site)
        return output

    def _repeated(self, open_calls: list[Call], outputs: dict[str, Tensor]) -> Call:
        """Which of several calls was recomputed: the latest one that gave the same values."""
        for call in reversed(open_calls) if len(open_calls) > 1 else ():
            for site in call.sites:
                tensor = outputs.get(site.output)
                if site.value is not None and tensor is not None:
                    again = self._reduce(tensor, site.axis, site.entry.ends)
                    if torch.equal(again.packed, site.value.packed):
                        return call
                    break
        return open_calls[-1]

    def _hook_again(self, tensor: Tensor, site: Site) -> None:
        known = self._recomputed.get(id(tensor))
        if known is not None and known[0]() is tensor and known[1] == version_of(tensor):
            known[2].append(site)
            return
        sites = [site]
        self._recomputed[id(tensor)] = (weakref.ref(tensor), version_of(tensor), sites)

        def receive(gradient: Tensor) -> None:
            if self._phase is Phase.BACKWARD and not self._recomputing:
                self._take(gradient, site.axis, sites)

        self._hook(tensor, receive)

    def _backward(self, output: Any, objective: Objective, aside: Aside) -> None:
        try:
            roots, cotangents = objective(output)
        except SppError:
            raise
        except Exception as error:
            raise self._explained("the loss", error, describe(output)) from error
        if not roots:
            return
        if self._loss_scale != 1.0:
            cotangents = [torch.ones_like(r) if c is None else c for r, c in zip(roots, cotangents, strict=True)]
            cotangents = [c * self._loss_scale for c in cotangents if c is not None]
        for root in roots:
            self._hook(root, lambda gradient: (self._outer(), None)[1])
        own = {id(p) for e in self._entries.values() for p in e.module._parameters.values()}
        try:
            with aside(weights.leaves_outside(roots, own)):
                self._phase = Phase.BACKWARD
                torch.autograd.backward(roots, cotangents)
                self._phase, self._ran_backward = Phase.IDLE, True
        except Exception as error:
            raise self._explained("the backward pass", error, describe(roots[0])) from error
        finally:
            self._phase = Phase.IDLE
        self._read_weight_gradients()

    def _outer(self, _: Tensor | None = None) -> bool:
        """Whether the graph task that runs right now is the trace's own: the one in which the first hook, a root's, fired."""
        if self._phase is not Phase.BACKWARD:
            return False
        task = torch._C._current_graph_task_id()
        if self._graph_task < 0:
            self._graph_task = task
        return self._graph_task == task

    # -- weights ------------------------------------------------------------------------------------------------------

    def _read_weights(self, entry: Entry, call: Call | None) -> None:
        number = None if call is None else call.number
        for name, tensor in weights.parameters_of(entry.module):
            if reason := is_reducible(tensor):
                reason = reason.replace("output", "parameter")
                self._pass.holes.append(Hole(entry, number, name, Signal.WEIGHT, reason))
                continue
            site = Site(
                entry,
                call,
                name,
                tensor.shape,
                tensor.dtype,
                weight_axis(entry.module, name, tensor.dim()),
                is_weight=True,
            )
            if Signal.WEIGHT in self._signals:
                site.value = self._reduce(tensor, site.axis)
            self._pass.sites.append(site)
            self._parameters.append((site, tensor))
        for name, tensor in weights.effective_weights(entry.module) if call is not None else ():
            site = Site(
                entry,
                call,
                name,
                tensor.shape,
                tensor.dtype,
                weight_axis(entry.module, name, tensor.dim()),
                is_weight=True,
            )
            value = self._lineage.value(tensor)
            value.axis, value.placed = site.axis, True
            value.sites.append(site)
            self._measure(site, value, tensor)

    def _read_idle_weights(self) -> None:
        if self._reads_weights:
            for entry in self._entries.values():
                if entry.selected and not entry.calls:
                    self._read_weights(entry, None)

    def _read_weight_gradients(self) -> None:
        if Signal.WEIGHT_GRADIENT not in self._signals:
            return
        done: dict[tuple[int, int | None], Moments] = {}
        for site, parameter in self._parameters:
            gradient = parameter.grad
            if gradient is None:
                continue
            key = (id(parameter), site.axis)
            if key not in done:
                done[key] = self._unscaled(self._reduce(gradient, site.axis))
            site.gradient = done[key]
        for _, parameter in self._parameters:
            parameter.grad = None

    # -- endings ------------------------------------------------------------------------------------------------------

    def _finish(self) -> Pass:
        result = self._pass
        result.merges = self._lineage.finish()
        result.calls = [(e, (e.calls[0].depth, len(e.calls))) for e in self._entries.values() if e.calls]
        if self._reads_weights:
            wanted = Signal.WEIGHT_GRADIENT in self._signals
            for site, parameter in self._parameters:
                if wanted and site.gradient is None:
                    result.holes.append(no_weight_gradient(site, parameter, self._ran_backward))
        result.holes += [no_gradient(s, self._ran_backward) for s in result.sites if s.waits and s.gradient is None]
        result.holes += never_called(list(self._entries.values()))
        return result

    def _hole(self, call: Call, output: str, signal: Signal, reason: str) -> None:
        if call.entry.selected:
            self._pass.holes.append(Hole(call.entry, call.number, output, signal, reason))

    def _explained(self, stage: str, error: Exception, received: str = "") -> TraceError:
        """The user's exception, with the module it came from, what arrived there and what to do."""
        where = stage
        chain: BaseException | None = error
        while chain is not None and self._failed is not None:
            if chain is self._failed[0]:
                entry, received = self._failed[1], self._failed[2]
                where = f"module {entry.name!r} ({entry.type})" if entry.name else f"the model ({entry.type})"
                break
            chain = chain.__cause__ or chain.__context__
        message = " ".join(str(error).split())
        return TraceError(
            f"{stage} raised {type(error).__name__}: {message}".rstrip(".: "),
            where="" if where == stage else where,
            received=received,
            remedy="Check that the model runs on this batch by itself; the original exception is the cause of this one",
        )
