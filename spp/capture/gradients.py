"""The backward pass of a capture: the only place that registers hooks on tensors.

A gradient is taken by ``Tensor.register_hook`` on the very tensor that a module gave out, so that it is the gradient with
respect to the values that were measured, whatever is written into the tensor later. Only the pass's own backward counts:
``autograd.grad`` inside a forward or a loss, and the recomputations of a checkpoint, fire the same hooks.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from spp._pytree import walk
from spp.capture.channels import is_reducible
from spp.capture.lineage import Value, version_of
from spp.capture.sites import Call, Site
from spp.capture.stage import BACKWARD, Stage
from spp.stats.extra import Reduced


class _Depth(threading.local):
    """How many recomputations run on this thread; backward passes have one thread per device."""

    value = 0


class Gradients:
    """Waits for gradients and runs the backward pass that brings them.

    Args:
        stage: Says when the backward pass runs.
        loss_scale: What the loss is multiplied by; measured gradients are divided by it.

    Attributes:
        ran: Whether a backward pass ran to its end.
        latest: The site whose gradient arrived last, to say where a backward pass broke.
    """

    def __init__(self, stage: Stage, loss_scale: float) -> None:
        self.ran = False
        self.latest: Site | None = None
        self._stage, self._loss_scale = stage, loss_scale
        self._recomputing, self._task, self._round = _Depth(), -1, 0
        self._handles: list[Any] = []
        self._leaves: list[Tensor] = []
        self._recomputed: dict[int, tuple[weakref.ref[Tensor], int, list[Site]]] = {}

    def wait(self, tensor: Tensor, value: Value) -> None:
        """Take the gradient of ``tensor`` for every site of ``value``, those that are added later too."""

        def receive(gradient: Tensor | None) -> None:
            if self._outer() and not self._recomputing.value:
                self._take(gradient, value.axis, value.sites)

        self._hook(tensor, receive)

    def backward(self, roots: list[Tensor], cotangents: list[Tensor | None]) -> None:
        """Run the pass's own backward."""
        if self._loss_scale != 1.0:
            ones = [torch.ones_like(r) if c is None else c for r, c in zip(roots, cotangents, strict=True)]
            cotangents = [c * self._loss_scale for c in ones]
        with self.arriving(roots):
            torch.autograd.backward(roots, cotangents)

    @contextmanager
    def arriving(self, roots: list[Tensor]) -> Iterator[None]:
        """Take what arrives while the body runs backward from ``roots``."""
        self._task = -1
        self._round += 1
        for root in roots:
            self._hook(root, lambda _: (self._outer(), None)[1])
        with self._stage.during(BACKWARD):
            yield
        self.ran = True

    def remove(self) -> None:
        """Take every hook away again; a leaf that had none is left without a dictionary of hooks, too."""
        for handle in self._handles:
            handle.remove()
        for leaf in self._leaves:
            if not leaf._backward_hooks:
                leaf._backward_hooks = None
        self._handles.clear()
        self._leaves.clear()

    def unscaled(self, moments: Reduced) -> Reduced:
        """The moments of the gradient of the loss itself."""
        return moments if self._loss_scale == 1.0 else moments.scaled(1.0 / self._loss_scale)

    def again(self, calls: list[Call], run: Callable[[], Any]) -> Any:
        """A call during backward is a checkpoint's recomputation: no new call, but perhaps where gradients will arrive.

        With reentrant checkpointing the first pass had no graph, and gradients flow through the recomputed tensors only; with
        the other kind they flow through the first ones, which wait already.

        Args:
            calls: The module's calls in the forward pass.
            run: Makes the call.
        """
        self._recomputing.value += 1
        try:
            output = run()
        finally:
            self._recomputing.value -= 1
        open_calls = [c for c in calls if any(s.waits and not s.hooked for s in c.sites)]
        found = [(p, t) for p, t in walk(output) if isinstance(t, Tensor) and t.requires_grad] if open_calls else []
        if found:
            call = self._repeated(open_calls, dict(found))
            for path, tensor in found:
                for site in call.sites:
                    if site.output == path and site.waits and not site.hooked:
                        site.hooked = True
                        self._wait_again(tensor, site)
        return output

    def _repeated(self, open_calls: list[Call], outputs: dict[str, Tensor]) -> Call:
        """Which of several calls was recomputed: the latest one that gave the same values."""
        for call in reversed(open_calls) if len(open_calls) > 1 else ():
            for site in call.sites:
                tensor = outputs.get(site.output)
                if site.value is not None and tensor is not None and tensor.shape == site.shape:
                    again = self._stage.reduce(tensor, site.axis, site.entry.ends)
                    if again.same(site.value):
                        return call
                    break
        return open_calls[-1]

    def _wait_again(self, tensor: Tensor, site: Site) -> None:
        known = self._recomputed.get(id(tensor))
        if known is not None and known[0]() is tensor and known[1] == version_of(tensor):
            known[2].append(site)
            return
        sites = [site]
        self._recomputed[id(tensor)] = (weakref.ref(tensor), version_of(tensor), sites)

        def receive(gradient: Tensor | None) -> None:
            if self._stage.phase is BACKWARD and not self._recomputing.value:
                self._take(gradient, site.axis, sites)

        self._hook(tensor, receive)

    def _hook(self, tensor: Tensor, receive: Callable[[Tensor | None], None]) -> None:
        node = (
            tensor.grad_fn
        )  # on a view whose slice was written in place, register_hook crashes unless this is read first
        if node is None and tensor._backward_hooks is None:
            self._leaves.append(tensor)
        self._handles.append(tensor.register_hook(receive))  # type: ignore[no-untyped-call]

    def _take(self, gradient: Tensor | None, axis: int | None, sites: list[Site]) -> None:
        if gradient is None or not sites or is_reducible(gradient):
            return
        moments = self.unscaled(self._stage.reduce(gradient, axis))
        for site in sites:
            if site.gradient is not None and site.round != self._round:
                site.divided = True
            site.gradient, site.round = moments, self._round
        self.latest = sites[0]

    def _outer(self) -> bool:
        """Whether the graph task that runs right now is the pass's own: the one in which the first hook, a root's, fired."""
        if self._stage.phase is not BACKWARD:
            return False
        task = torch._C._current_graph_task_id()
        if self._task < 0:
            self._task = task
        return self._task == task
