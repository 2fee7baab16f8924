"""Passes of a training loop that somebody else runs: their forward, their loss, their backward, observed.

A trace runs one forward and one backward of its own; a watch is a guest. One :class:`LiveCapture` observes one optimizer
step: any number of forwards (the micro-batches of an accumulation, the real and the fake half of a discriminator's
batch) and whatever backward passes follow. What goes wrong here must not reach the training: the first exception is kept
in ``failed`` and nothing more is observed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spp.capture import holes
from spp.capture.boundary import hold, release
from spp.capture.capture import LOCK, Capture
from spp.capture.channels import ChannelAxis, is_reducible
from spp.capture.gradients import Gradients
from spp.capture.lineage import Lineage, Value
from spp.capture.passes import Pass
from spp.capture.residual import Merge, Merges
from spp.capture.sites import Call, Entry, Site
from spp.capture.stage import FORWARD, IDLE, Depth, Stage
from spp.capture.weights import Weights
from spp.vocabulary import Signal

MODES = ("train", "eval")
"""What ``module.training`` of the root said during a forward."""


@dataclass(slots=True, eq=False)
class Observed:
    """One forward of the root.

    Attributes:
        result: What it gave; gradients are filled in as they arrive.
        mode: ``train`` or ``eval``.
        graph: Whether it ran with gradients enabled.
        calls: The calls of each module, by the module's identity.
    """

    result: Pass
    mode: str
    graph: bool
    calls: dict[int, list[Call]]

    @property
    def reached(self) -> bool:
        """Whether any gradient arrived."""
        return any(site.gradient is not None for site in self.result.sites)


class LiveCapture(Capture):
    """Observes the forwards and backwards of one step of somebody else's loop.

    Args:
        entries: The model's modules, see :func:`spp.capture.sites.roster`.
        signals: Which signals to measure.
        axis: The user's ``channel_axis``.

    Attributes:
        passes: One for each forward that came to its end, in order.
        failed: What went wrong in the measuring itself; nothing is observed after it.
        ran_backward: Whether a backward pass came to its end.
    """

    def __init__(self, entries: list[Entry], signals: frozenset[Signal], axis: ChannelAxis) -> None:
        self.passes: list[Observed] = []
        self.failed: Exception | None = None
        self._live: tuple[Stage, Gradients] | None = None
        self._holds = False
        super().__init__(entries, signals, axis, 1.0, Depth(mergeable=True))

    @property
    def ran_backward(self) -> bool:
        """Whether a backward pass came to its end."""
        return self._gradients.ran

    @property
    def entries(self) -> list[Entry]:
        """The roster."""
        return list(self._entries.values())

    def forward(self, root: nn.Module, run: Callable[[], Any]) -> Any:
        """Run one forward of the root, observed; the caller's exceptions pass through."""
        if self.failed is not None:
            return run()
        mode, graph = MODES[0 if root.training else 1], torch.is_grad_enabled()
        if not self._holds:
            hold()
            self._holds = True
        with LOCK:
            self._begin()
            self._stage.thread = threading.get_ident()
            with self._boundary(), self._stage.during(FORWARD):
                output = run()
            self._guarded(lambda: self._close(mode, graph))
        return output

    def backward(self, roots: list[Tensor], run: Callable[[], Any]) -> Any:
        """Run a backward pass from ``roots``, observed; recomputations of checkpoints are seen for what they are."""
        if self.failed is not None or not self.passes:
            return run()
        hooked = [t for t in roots if isinstance(t, Tensor) and t.requires_grad and not is_reducible(t)]
        with LOCK, self._boundary(), self._gradients.arriving(hooked):
            return run()

    def finish(self, scale: float = 1.0) -> list[Observed]:
        """Take every hook away and return what was seen, measured gradients divided by ``scale``.

        Where gradients arrived, forwards without a graph are no part of the step, nor are evaluations that none arrived
        at; of these the first one counts, as an evaluation.
        """
        self.let_go()
        kept = self.passes
        if any(o.reached for o in kept):
            evaluations = [o for o in kept if o.mode == MODES[1] and not o.reached]
            kept = [o for o in kept if o.reached or (o.graph and o.mode == MODES[0]) or o in evaluations[:1]]
        if kept:
            self._pass = kept[-1].result
            self._guarded(self._read_statistics)
        for observed in kept:
            for site in [*observed.result.sites, *(m.stream for m in observed.result.merges if m.stream is not None)]:
                if site.divided:
                    site.gradient = None
                if site.gradient is not None and scale != 1.0:
                    site.gradient = site.gradient.scaled(1.0 / scale)
            if observed.graph and (observed.reached or observed.mode == MODES[0]):
                waiting = (s for s in observed.result.sites if s.waits and s.gradient is None)
                observed.result.holes += [holes.no_gradient(s, self._gradients.ran) for s in waiting]
        self.passes = []
        return kept

    def let_go(self) -> None:
        """Take every hook away, and the hold on the call boundary."""
        self._gradients.remove()
        if self._holds:
            self._holds = False
            release()

    # -- what differs from a pass of one's own ----------------------------------------------------------------------------

    def _renew(self) -> None:
        """Stage and gradients last as long as the step: gradients of the first forward may arrive after the second."""
        if self._live is None:
            stage = Stage(self._wanted_depth)
            self._live = stage, _Guarded(stage, self._guarded, self._fail)
        self._stage, self._gradients = self._live

    def _begin(self) -> None:
        super()._begin()
        self._weights = _Computed(self._stage, self._signals, self._computed_weight)
        self._merges = _GuardedMerges(self._lineage, self._on_stream, self._guarded)

    def _close(self, mode: str, graph: bool) -> None:
        result = self._pass
        result.merges = self._merges.finish()
        ran = [e for e in self._entries.values() if e.calls]
        result.calls = [(e, (holes.first_depth(e.calls), len(e.calls))) for e in ran]
        result.inputs = {e.name: list(e.calls) for e in ran}
        result.holes += holes.never_called(list(self._entries.values()))
        result.holes += holes.unregistered(self._strangers.values())
        self._lineage.forget()
        self.passes.append(Observed(result, mode, graph, {id(e.module): list(e.calls) for e in ran}))

    def enter(self, entry: Entry, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """As for a trace; what goes wrong in it ends the observing."""
        before = len(self._stack)
        try:
            return super().enter(entry, args, kwargs)
        except Exception as error:
            self._fail(error)
            del self._stack[before:]
            return Call(entry, 0, 0, [])

    def leave(self, call: Call, output: Any) -> None:
        """As for a trace, guarded."""
        if self.failed is None:
            self._guarded(lambda: super(LiveCapture, self).leave(call, output))

    def broke(self, call: Call, error: BaseException, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """As for a trace, guarded."""
        if self.failed is None:
            self._guarded(lambda: super(LiveCapture, self).broke(call, error, args, kwargs))

    def again(self, entry: Entry, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """As for a trace, over the calls of every forward of the step."""
        key = id(entry.module)
        calls = [call for observed in self.passes for call in observed.calls.get(key, ())]
        return self._gradients.again(calls, lambda: original(entry.module, *args, **kwargs))

    def _guarded(self, measure: Callable[[], Any]) -> Any:
        if self.failed is not None:
            return None
        try:
            return measure()
        except Exception as error:
            self._fail(error)
            return None

    def _fail(self, error: Exception) -> None:
        self.failed = error
        self._stage.phase = IDLE


class _Guarded(Gradients):
    """Gradients whose reductions cannot break the backward pass that they arrive in."""

    def __init__(
        self, stage: Stage, guarded: Callable[[Callable[[], Any]], Any], fail: Callable[[Exception], None]
    ) -> None:
        super().__init__(stage, 1.0)
        self._guarded, self._fail = guarded, fail

    def _take(self, gradient: Tensor | None, axis: int | None, sites: list[Site]) -> None:
        self._guarded(lambda: super(_Guarded, self)._take(gradient, axis, sites))

    def again(self, calls: list[Call], run: Callable[[], Any]) -> Any:
        """As for a trace; only the repeated call itself may raise."""
        output: list[Any] = []

        def once() -> Any:
            output.append(run())
            return output[0]

        try:
            return super().again(calls, once)
        except Exception as error:
            if not output:
                raise
            self._fail(error)
            return output[0]


class _GuardedMerges(Merges):
    """Merges whose bookkeeping cannot break the addition that it is about."""

    def __init__(
        self, lineage: Lineage, on_stream: Callable[[Merge, Tensor, Value], None], guarded: Callable[..., Any]
    ) -> None:
        super().__init__(lineage, on_stream)
        self._guarded = guarded

    def streams(self, tensor: Tensor, stack: list[Call]) -> Value:
        value: Value = self._guarded(lambda: super(_GuardedMerges, self).streams(tensor, stack))
        return value

    def added(self, value_a: Value, value_b: Value, out: Tensor, same_shape: bool, stack: list[Call]) -> None:
        self._guarded(lambda: super(_GuardedMerges, self).added(value_a, value_b, out, same_shape, stack))


class _Computed(Weights):
    """Only the weights that are computed in the forward; the parameters themselves are read at the optimizer's step."""

    def read(self, entry: Entry, call: Call | None) -> None:
        self.computed(entry, call)
