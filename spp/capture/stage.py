"""Which part of a pass runs right now, whether what runs is the user's or ours, and reductions that nobody else sees.

Python runs the handlers of signals on the main thread, between any two instructions of whatever runs there, and they may
raise: Ctrl-C, a timeout, a polite kill. Taking hold and letting go must not be cut short. So what must be whole runs inside of
:class:`Held`, where a signal is only remembered, and in it the user's own code inside of :class:`Window`, where one goes
through.
"""

from __future__ import annotations

# the C functions themselves: those of signal make enumerations of all they are given, which takes twenty times as long
import _signal as signal  # type: ignore[import-not-found]
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum
from types import FrameType
from typing import Any

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


class Gate:
    """Whether what runs on a thread is the user's code (open), or ours; the main thread's has signals wait while it is closed.

    Attributes:
        open: Whether signals go through, and additions are the model's own.
        depth: How many :class:`Held` there are around what runs; outside of all of them signals go through.
        waiting: Signals that came while it was closed.
    """

    __slots__ = ("depth", "open", "waiting")

    def __init__(self) -> None:
        self.open, self.depth, self.waiting = True, 0, list[int]()

    def let(self) -> None:
        """Open it, and deliver what has waited."""
        self.open = True
        if self.waiting:
            self.deliver()

    def deliver(self) -> None:
        """Raise again what has waited, each once, though a handler raises."""
        try:
            while self.waiting:
                signal.raise_signal(self.waiting.pop(0))
        finally:
            if self.waiting and not self.depth:
                self.deliver()


class _Answer:
    """Stands in for a handler of the user's while there is a :class:`Held`; who keeps it has the handler itself later."""

    __slots__ = ("handler",)

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        gate = _MAIN
        if not gate.depth:
            self._hand_on(number, frame)
        elif gate.open:
            # what the handler raises is not followed by a second one while everything is let go
            gate.open = False
            self._hand_on(number, frame)
            gate.open = True
        elif number not in gate.waiting:
            gate.waiting.append(number)

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        if callable(self.handler):
            self.handler(number, frame)
        else:
            # the system's own way was wanted meanwhile
            signal.signal(number, self.handler)
            signal.raise_signal(number)


def handler_of(number: int) -> Any:
    """The handler of a signal, which another may stand in for right now."""
    found = signal.getsignal(number)
    return found.handler if type(found) is _Answer else found


def set_handler(number: int, handler: Any) -> None:
    """Set the handler of a signal; where another stands in for it, that one's."""
    found = signal.getsignal(number)
    # the C functions know no enumerations
    handler = handler if callable(handler) else int(handler)
    if type(found) is _Answer:
        found.handler = handler
    else:
        signal.signal(number, handler)


class _Here(threading.local):
    """The gate of each thread."""

    def __init__(self) -> None:
        self.gate = _MAIN if threading.current_thread() is threading.main_thread() else Gate()


_MAIN = Gate()
_HERE = _Here()
_NUMBERS = sorted(map(int, signal.valid_signals()))


class Held:
    """A context in which no handler of a signal runs, but in a :class:`Window`; afterwards those run that had to wait.

    Only handlers that are Python's wait. What the user's code installs meanwhile stays; where it keeps one of ours, that passes
    on to the handler that it stood in for. On other threads than the main one there are no signals.
    """

    __slots__ = ("_before", "_gate", "_taken")

    def __enter__(self) -> None:
        self._gate = gate = _HERE.gate
        self._before, self._taken = (gate.depth, gate.open), list[tuple[int, _Answer]]()
        try:
            gate.open, gate.depth = False, gate.depth + 1
            if gate is _MAIN:
                for number in _NUMBERS:
                    handler = signal.getsignal(number)
                    if callable(handler) and type(handler) is not _Answer:
                        self._taken.append((number, _Answer(handler)))
                        signal.signal(number, self._taken[-1][1])
        except ValueError:
            # in a program that embeds Python the thread that was here first need not be the one that signals come to
            self._taken.clear()
        except BaseException:
            self._end()
            raise

    def __exit__(self, *_: object) -> None:
        # A handler that was put back may raise at once. What is said twice is done once even then.
        try:
            self._end()
        finally:
            self._end()
        if self._gate.waiting and (self._gate.open or not self._gate.depth):
            self._gate.deliver()

    def _end(self) -> None:
        self._gate.depth, self._gate.open = self._before
        for number, answer in self._taken:
            if signal.getsignal(number) is answer:
                signal.signal(number, answer.handler)


class Window:
    """A context inside of :class:`Held` where the user's own code runs, and signals go through."""

    __slots__ = ("_gate",)

    def __enter__(self) -> None:
        self._gate = _HERE.gate
        self._gate.let()

    def __exit__(self, *_: object) -> None:
        self._gate.open = False


def gate_here() -> Gate:
    """The gate of the thread that runs."""
    return _HERE.gate


class Stage:
    """The phase of one capture.

    Attributes:
        phase: What arrives now.
        gate: Of the thread that runs the forward pass.
        depth: What a reduction is to give.
    """

    __slots__ = ("_room", "_swept", "depth", "gate", "phase")

    def __init__(self, depth: Depth) -> None:
        self.phase, self.gate, self.depth = IDLE, gate_here(), depth
        self._room, self._swept = Room(), backends.uses_native() and not depth.further

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Set the phase for the body; idle afterwards, however it ends."""
        self.phase = phase
        try:
            yield
        finally:
            self.phase = IDLE

    def reduce(self, tensor: Tensor, axis: int | None, ends: tuple[float, float] | None = None) -> Sums:
        """Reduce a tensor unseen: not by autocast, not by a mode of the user's; the gate is closed meanwhile."""
        if self._swept and not (_function_modes() or _dispatch_modes()):
            # the short way past everything below: torch has nothing to do in it
            swept = native.reduce(tensor, axis, ends, self._room, whole=not self.depth.mergeable)
            if swept is not None:
                return swept
        transformed = _torch.transform() is not None
        if not (transformed or _torch.autocasting() or modes_active()):
            return self._reduce(tensor, axis, ends)
        with ExitStack() as stack:
            if transformed:  # inside torch.func.grad even a plain tensor's copy would be a wrapper
                stack.enter_context(_torch.without_transforms())
            stack.enter_context(torch.autocast(tensor.device.type, enabled=False))
            stack.enter_context(_torch.without_modes())
            stack.enter_context(_torch.unseen_functions())
            return self._reduce(tensor, axis, ends)

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
