"""The call boundary: a function in place of ``nn.Module.__call__`` while a pass runs. No other file touches module calls."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from spp.capture.additions import Watch
from spp.capture.sites import Call, Entry
from spp.capture.stage import BACKWARD, IDLE, Stage


class Observer(Protocol):
    """Who is told of the calls."""

    def enter(self, entry: Entry, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """A module is about to be called."""

    def leave(self, call: Call, output: Any) -> None:
        """The call gave ``output``."""

    def broke(self, call: Call, error: BaseException, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The call raised."""

    def again(self, entry: Entry, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A module is called during the backward pass; makes the call."""

    def strange(self, module: nn.Module) -> None:
        """A module that is in no roster is about to be called."""


_Observing = tuple[Observer, Stage, dict[int, Entry], Callable[..., Any]]
"""Who observes which calls, and what makes them."""


class _Patch:
    """The function that stands in place of ``nn.Module.__call__`` while anybody holds it there.

    Setting that attribute makes Python look through every class of modules there is, so a sampled step of a watch holds it from
    its first forward to the end of its last backward. Passes take turns under a lock; one observes at a time, and those inside
    which it runs.
    """

    def __init__(self) -> None:
        self.observing: _Observing | None = None
        self._lock, self._holders = threading.Lock(), 0
        self._original: Callable[..., Any] = nn.Module.__call__
        self._own: Callable[..., Any] | None = None

    def hold(self) -> None:
        """Put the function there, unless it is."""
        with self._lock:
            if not self._holders:
                self._original = nn.Module.__call__
                nn.Module.__call__ = self._own = self._made(self._original)  # type: ignore[method-assign]
            self._holders += 1

    def release(self) -> None:
        """Put back what was there, unless others hold it, or somebody has put another in its place meanwhile."""
        with self._lock:
            self._holders -= 1
            if not self._holders and nn.Module.__call__ is self._own:
                nn.Module.__call__ = self._original  # type: ignore[method-assign]

    def below(self) -> Callable[..., Any]:
        """What a further observer's calls go on to: those that observe already, in the end the original."""
        return self._original if self.observing is None else self._made(self._original, self.observing)

    def _made(self, unobserved: Callable[..., Any], fixed: _Observing | None = None) -> Callable[..., Any]:
        get_ident = threading.get_ident

        def __call__(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            observing = fixed or self.observing
            if observing is None:
                return unobserved(module, *args, **kwargs)
            observer, stage, entries, original = observing
            phase = stage.phase
            if phase is IDLE:
                return original(module, *args, **kwargs)
            entry = entries.get(id(module))
            if phase is BACKWARD:
                # outside of any graph task it is another thread's own business
                if entry is None or torch._C._current_graph_task_id() < 0:
                    return original(module, *args, **kwargs)
                return observer.again(entry, original, args, kwargs)
            if get_ident() != stage.thread:
                if entry is not None:
                    entry.elsewhere = True
                return original(module, *args, **kwargs)
            if entry is None:
                observer.strange(module)
                return original(module, *args, **kwargs)
            call = observer.enter(entry, args, kwargs)
            try:
                output = original(module, *args, **kwargs)
            except BaseException as error:
                observer.broke(call, error, args, kwargs)
                raise
            observer.leave(call, output)
            return output

        return __call__


_PATCH = _Patch()
hold, release = _PATCH.hold, _PATCH.release


@contextmanager
def boundary(observer: Observer, stage: Stage, entries: dict[int, Entry], watch: Watch) -> Iterator[None]:
    """Tell ``observer`` of the calls of the modules in ``entries``, by identity, and install ``watch``, for the body."""
    depth, before = sys.getrecursionlimit(), _PATCH.observing
    hold()
    try:
        # a frame more for each level of nesting must not be what makes a model too deep
        sys.setrecursionlimit(2 * depth)
        _PATCH.observing = observer, stage, entries, _PATCH.below()
        watch.install()
        yield
    finally:
        watch.remove()
        _PATCH.observing = before
        release()
        sys.setrecursionlimit(depth)
