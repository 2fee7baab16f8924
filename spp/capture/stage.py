"""Which part of a pass runs right now, and reductions that nobody else's machinery sees."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from spp import _torch
from spp.stats import backends
from spp.stats.backends import native
from spp.stats.sums import Room, Sum, Sums


class Phase(Enum):
    """What the calls, additions and gradients that arrive right now mean."""

    IDLE = 0
    FORWARD = 1
    BACKWARD = 2


IDLE, FORWARD, BACKWARD = Phase.IDLE, Phase.FORWARD, Phase.BACKWARD


@dataclass(frozen=True, slots=True)
class Depth:
    """What is wanted of every tensor.

    Attributes:
        mergeable: Whether several passes will be merged, so that each channel's sums are to be kept.
        further: The sums that are wanted beside those that every backend gives.
    """

    mergeable: bool = True
    further: tuple[Sum, ...] = ()


class Stage:
    """The phase of one capture, and the thread whose calls it is about.

    Attributes:
        phase: What arrives now.
        thread: Identity of the thread that runs the forward pass; calls on other threads are not the pass's own.
        depth: What a reduction is to give.
    """

    __slots__ = ("_room", "_swept", "depth", "phase", "thread")

    def __init__(self, depth: Depth) -> None:
        self.phase, self.thread, self.depth = IDLE, threading.get_ident(), depth
        self._room, self._swept = Room(), backends.uses_native() and not depth.further

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Set the phase for the body; idle afterwards, however it ends."""
        self.phase = phase
        try:
            yield
        finally:
            self.phase = IDLE

    def forward_here(self) -> bool:
        """Whether the forward pass runs, and on this thread."""
        return self.phase is FORWARD and threading.get_ident() == self.thread

    def reduce(self, tensor: Tensor, axis: int | None, ends: tuple[float, float] | None = None) -> Sums:
        """Reduce a tensor unseen: not by the watch over additions, not by autocast, not by a mode of the user's.

        Only the forward pass is suspended meanwhile: backward passes deliver gradients on one thread per device, and none of
        them may make the others' arrivals look idle.
        """
        if self._swept and not (_function_modes() or _dispatch_modes()):
            # the short way past everything below: torch has nothing to do in it
            swept = native.reduce(tensor, axis, ends, self._room, whole=not self.depth.mergeable)
            if swept is not None:
                return swept
        forward = self.phase is FORWARD
        if forward:
            self.phase = IDLE
        try:
            transformed = _torch.transform() is not None
            if transformed or _torch.autocasting() or modes_active():
                with ExitStack() as stack:
                    if transformed:  # inside torch.func.grad even a plain tensor's copy would be a wrapper
                        stack.enter_context(_torch.without_transforms())
                    stack.enter_context(torch.autocast(tensor.device.type, enabled=False))
                    stack.enter_context(_torch.without_modes())
                    stack.enter_context(_torch.unseen_functions())
                    return self._reduce(tensor, axis, ends)
            return self._reduce(tensor, axis, ends)
        finally:
            if forward:
                self.phase = FORWARD

    def reduce_all(self, tensors: list[Tensor], axes: list[int | None]) -> Sequence[Sums]:
        """Reduce tensors that stay as they are for a while: together where a kernel takes all of them, else one by one."""
        if self._swept and not self.depth.mergeable and not modes_active():
            found = backends.reduce_all(tensors, axes, self._room)
            if found is not None:
                return found
        return [self.reduce(tensor, axis) for tensor, axis in zip(tensors, axes, strict=True)]

    def _reduce(self, tensor: Tensor, axis: int | None, ends: tuple[float, float] | None) -> Sums:
        depth = self.depth
        return backends.reduce(tensor, axis, ends, whole=not depth.mergeable, further=depth.further, room=self._room)


def modes_active() -> bool:
    """Whether a function or dispatch mode of the user's (or of ``set_default_device``) watches torch's operations."""
    return bool(_function_modes() or _dispatch_modes())


_function_modes, _dispatch_modes = _torch.function_modes, _torch.dispatch_modes
