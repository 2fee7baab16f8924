"""The backward pass: the only place that registers hooks on tensors.

A gradient is taken by ``Tensor.register_hook`` on the very tensor that a module gave out, so that it is the gradient with
respect to the values that were measured, whatever is written into the tensor later. Where it is a view, autograd gives it a
new place in the graph when it is written into; then the gradient is that of its base, see :class:`_Base`. Only the pass's own
backward counts:
``autograd.grad`` inside a forward or a loss, and the recomputations of a checkpoint, fire the same hooks.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from spp import _torch
from spp._pytree import walk
from spp.capture.dataflow import Reading, version_of
from spp.capture.sites import Call, Site, is_reducible, values_of
from spp.capture.stage import BACKWARD, IDLE, Held, Stage, Window
from spp.stats.sums import Sums
from spp.vocabulary import Signal


class _Depth(threading.local):
    """How many recomputations run on this thread; backward passes have one thread per device."""

    value = 0


@dataclass(slots=True, eq=False)
class _Base:
    """The base of a view that a module gave out.

    Where the view has every element of it once, what reaches the base reaches the view, as long as the graph has nothing from
    the base but the view itself and what is written into their memory later.

    Attributes:
        node: The base's place in the graph when the view was given out.
        number: Which of the node's outputs the base is.
        own: The nodes between the view and the base, the view's first.
        whole: Whether the view has every element of the base once.
        written: Whether something was written into the view or its base later, and nothing else was made of the base.
        lost: Whether something was written, and the base cannot stand for the view, whose hook may see a part only.
    """

    node: Any
    number: int
    own: list[Any]
    whole: bool = False
    written: bool = False
    lost: bool = False


class Gradients:
    """Waits for gradients and reduces them as they arrive.

    Args:
        stage: Says when the backward pass runs.
        loss_scale: What the loss is multiplied by; measured gradients are divided by it.
        failed: Told what went wrong in the measuring itself; raises it in a trace, keeps it in a watch.
        arrived: Told of each gradient, if anybody is.

    Attributes:
        found: The sums of each gradient that arrived, by site.
        waiting: For each site whose gradient is wanted, whether a hook waits for it.
        divided: Sites whose gradient arrived in parts, in several backward passes: nobody has the sum.
        ran: Whether a backward pass ran to its end.
        latest: The site whose gradient arrived last, to say where a backward pass broke.
        taken: By parameter and channel axis, gradients that a hook of the user's took out of ``.grad`` as they arrived.
    """

    def __init__(
        self,
        stage: Stage,
        loss_scale: float,
        failed: Callable[[Exception], None],
        arrived: Callable[[Site, Sums, Signal], None] | None = None,
    ) -> None:
        self.found: dict[Site, Sums] = {}
        self.waiting: dict[Site, bool] = {}
        self.divided: set[Site] = set()
        self.ran = False
        self.latest: Site | None = None
        self.taken: dict[tuple[int, int | None], list[Sums]] = {}
        self._stage, self._loss_scale, self._failed, self._arrived = stage, loss_scale, failed, arrived
        self._recomputing, self._task, self._round = _Depth(), -1, 0
        self._rounds: dict[Site, int] = {}
        self._handles: list[Any] = []
        self._leaves: list[Tensor] = []
        self._followed: dict[int, tuple[Any, Any]] = {}
        self._axes: dict[int, set[int | None]] | None = None
        self._bases: dict[tuple[Any, int], list[_Base]] = {}
        self._recomputed: dict[int, tuple[weakref.ref[Tensor], int, list[Site]]] = {}

    def wait(self, tensor: Tensor, reading: Reading) -> None:
        """Take the gradient of ``tensor`` for every site of ``reading``, those that are added later too."""
        base = self._wait_at_base(tensor, reading) if tensor._is_view() else None

        def receive(gradient: Tensor | None) -> None:
            if self._outer() and not self._recomputing.value and not (base is not None and base.lost):
                self._take(gradient, reading.axis, reading.sites)

        self._hook(tensor, receive)

    def _wait_at_base(self, view: Tensor, reading: Reading) -> _Base | None:
        base: Any = view._base
        if not base.requires_grad or base.grad_fn is None:
            return None
        known = _Base(base.grad_fn, base.output_nr, own := [])
        self._bases.setdefault((known.node, known.number), []).append(known)
        step: Any = view.grad_fn
        while step is not None and step is not known.node:
            if len(step.next_functions) != 1 or type(step).__name__ in _OVERLAPPING:
                return known
            own.append(step)
            step = step.next_functions[0][0]
        known.whole = _covers(view, base)
        if not known.whole:
            return known
        strides, size, stride = base.stride(), view.size(), view.stride()

        def receive(gradient: Tensor | None) -> None:
            if gradient is not None and known.written and self._outer() and not self._recomputing.value:
                with torch.no_grad():
                    if gradient.stride() != strides:
                        gradient = torch.empty_strided(gradient.size(), strides, **_like(gradient)).copy_(gradient)
                    own_part = gradient.as_strided(size, stride, gradient.storage_offset())
                self._take(own_part, reading.axis, reading.sites)

        self._hook(base, receive)
        return known

    def _find_written(self, roots: list[Tensor]) -> None:
        """Find what was made of each base, in the graph that a backward from ``roots`` runs through."""
        queue: list[Any] = [root.grad_fn for root in roots if root.grad_fn is not None]
        seen, users = set(queue), dict[Any, set[Any]]()
        # a view of a view: what is made of the one between goes past the other
        between = {node for bases in self._bases.values() for base in bases for node in base.own[1:]}
        for node in queue:  # grows while it is walked
            for step in node.next_functions:
                if step in self._bases:
                    users.setdefault(step, set()).add(node)
                if step[0] in between:
                    users.setdefault(step[0], set()).add(node)
                if step[0] is not None and step[0] not in seen:
                    seen.add(step[0])
                    queue.append(step[0])
        for key, bases in self._bases.items():
            found = users.get(key, set())
            writes = {node for node in found if type(node).__name__ == "CopySlices"}
            for base in bases:
                alone = found <= writes.union(base.own)
                alone &= all(users.get(node, set()) <= set(base.own) for node in base.own[1:])
                base.written = bool(writes) and base.whole and alone
                base.lost = bool(writes) and not base.written

    def notice(self, tensor: Tensor, told: Callable[[], None]) -> None:
        """Tell when a backward pass reaches ``tensor``; of several stages of one, the pass's own."""

        def receive(_: Tensor | None) -> None:
            # outside of the phases of a step nobody knows whose backward it is
            if self._stage.phase is IDLE or self._outer():
                told()

        self._hook(tensor, receive)

    def backward(self, roots: list[Tensor], cotangents: list[Tensor | None], keep_graph: bool) -> None:
        """Run a backward pass of one's own."""
        if self._loss_scale != 1.0:
            ones = [torch.ones_like(r) if c is None else c for r, c in zip(roots, cotangents, strict=True)]
            cotangents = [c * self._loss_scale for c in ones]
        with self.arriving(roots), Window():
            torch.autograd.backward(roots, cotangents, retain_graph=keep_graph)

    def follow(self, nodes: Iterable[Any], axes: Callable[[], dict[int, set[int | None]]]) -> None:
        """See gradients arrive at parameters, out of whose ``.grad`` hooks of the user's may take them at once.

        An optimizer may live in a post-accumulate hook or at the accumulation node; this runs after either.

        Args:
            nodes: The nodes at which gradients are accumulated.
            axes: Asked once a gradient is gone: by the parameters' identities, their channel axes; others are passed over.
        """
        keep = self._unbroken(partial(self._keep, axes))

        # of every parameter in every pass, and nearly always that is all
        def arrived(parameter: Tensor, _: Any, gradients: tuple[Tensor | None, ...]) -> None:
            if parameter.grad is None:
                keep(parameter, gradients[0])

        for node in nodes:
            parameter = node.variable
            # of two backward passes over one graph the first has left its hook there
            if (before := self._followed.get(id(parameter))) is not None:
                before[1].remove()
            self._followed[id(parameter)] = node, node.register_hook(partial(arrived, parameter))

    def _keep(self, axes: Callable[[], dict[int, set[int | None]]], parameter: Tensor, gradient: Tensor | None) -> None:
        if gradient is None or is_reducible(gradient):
            return
        try:
            if self._axes is None:
                self._axes = axes()
            for axis in self._axes.get(id(parameter), ()):
                self.taken.setdefault((id(parameter), axis), []).append(self._stage.reduce(gradient, axis))
        except Exception as error:
            self._failed(error)

    @contextmanager
    def arriving(self, roots: list[Tensor]) -> Iterator[None]:
        """Take what arrives while the body runs backward from ``roots``."""
        self._task = -1
        self._round += 1
        for root in roots:
            self._hook(root, lambda _: (self._outer(), None)[1])
        if self._bases:
            self._find_written(roots)
        with self._stage.during(BACKWARD):
            yield
        self.ran = True

    def remove(self) -> None:
        """Take every hook away again; a leaf that had none is left without a dictionary of hooks, too."""
        for handle in (*self._handles, *(handle for _, handle in self._followed.values())):
            handle.remove()
        for leaf in self._leaves:
            if not leaf._backward_hooks:
                leaf._backward_hooks = None
        self._handles.clear()
        self._followed.clear()
        self._leaves.clear()
        self._bases.clear()

    def unscaled(self, sums: Sums) -> Sums:
        """The sums of the gradient of the loss itself."""
        return sums if self._loss_scale == 1.0 else sums.scaled(1.0 / self._loss_scale)

    def recompute(self, calls: list[Call], values: dict[Site, Sums], run: Callable[[], Any]) -> Any:
        """A call during backward is a checkpoint's recomputation: no new call, but perhaps where gradients will arrive.

        With reentrant checkpointing the first pass had no graph, and gradients flow through the recomputed tensors only; with
        the other kind they flow through the first ones, which wait already.

        Args:
            calls: The module's calls in the forward pass.
            values: What was measured of their outputs.
            run: Makes the call; only what it raises leaves this.
        """
        self._recomputing.value += 1
        try:
            output = run()
        finally:
            self._recomputing.value -= 1
        with Held():
            try:
                open_calls = [call for call in calls if any(map(self._lacks_hook, call.sites))]
                tensors = (
                    {p: t for p, t in walk(output) if isinstance(t, Tensor) and t.requires_grad} if open_calls else {}
                )
                for site in self._repeated(open_calls, tensors, values).sites if tensors else ():
                    if site.output in tensors and self._lacks_hook(site):
                        self.waiting[site] = True
                        self._wait_again(tensors[site.output], site)
            except Exception as error:
                self._failed(error)
        return output

    def _lacks_hook(self, site: Site) -> bool:
        return self.waiting.get(site) is False

    def _repeated(self, open_calls: list[Call], outputs: dict[str, Tensor], values: dict[Site, Sums]) -> Call:
        """Which of several calls was recomputed: the latest one that gave the same values."""
        for call in reversed(open_calls) if len(open_calls) > 1 else ():
            for site in call.sites:
                tensor = outputs.get(site.output)
                if site in values and tensor is not None and tensor.shape == site.shape:
                    if self._stage.reduce(tensor, site.axis, site.entry.ends).same(values[site]):
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
        # on a view whose slice was written in place, register_hook crashes the process unless grad_fn is read first
        node = tensor.grad_fn
        if node is None and tensor._backward_hooks is None:
            self._leaves.append(tensor)
        self._handles.append(tensor.register_hook(self._unbroken(receive)))  # type: ignore[no-untyped-call]

    def _unbroken(self, receive: Callable[..., None]) -> Callable[..., None]:
        """A hook that no signal breaks off: what it takes is ours, amid a backward pass of the user's."""
        stage = self._stage

        def unbroken(*arrived: Any) -> None:
            gate = stage.gate
            was, gate.open = gate.open, False
            try:
                receive(*arrived)
            finally:
                gate.open = was
            if was and gate.waiting:
                gate.deliver()

        return unbroken

    def _take(self, gradient: Tensor | None, axis: int | None, sites: list[Site]) -> None:
        try:
            if gradient is None or not sites or is_reducible(gradient):
                return
            sums = self.unscaled(self._stage.reduce(values_of(gradient), axis))
            for site in sites:
                if self._rounds.get(site, self._round) != self._round:
                    self.divided.add(site)
                self.found[site], self._rounds[site] = sums, self._round
            self.latest = sites[0]
            if self._arrived is not None:
                self._arrived(sites[0], sums, sites[0].signals[1])
        except Exception as error:
            self._failed(error)

    def _outer(self) -> bool:
        """Whether the graph task that runs right now is the pass's own: the one in which the first hook, a root's, fired."""
        if self._stage.phase is not BACKWARD:
            return False
        task = _torch.graph_task()
        if self._task < 0:
            self._task = task
        return self._task == task


_OVERLAPPING = frozenset({"AsStridedBackward0", "UnfoldBackward0", "ExpandBackward0"})
"""Views that may have an element several times."""


def _covers(view: Tensor, base: Tensor) -> bool:
    """Whether a view has every element of its base, in an order of its own."""
    strided = view.layout is torch.strided and base.layout is torch.strided and view.dtype is base.dtype
    # a nested tensor's layout may be called strided, and it has no strides
    return (
        strided
        and not (view.is_nested or base.is_nested)
        and view.numel() == base.numel() > 0
        and view.storage_offset() == base.storage_offset()
    )


def _like(tensor: Tensor) -> dict[str, Any]:
    return {"dtype": tensor.dtype, "device": tensor.device}
