"""Ctrl-C and a polite kill, put off until the step is whole: a checkpoint taken within one would be of no run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop, and did so with everything saved.

    Args:
        number: The signal that asked.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"stopped by {signal.Signals(number).name}")


@dataclass(slots=True)
class Asked:
    """Whether somebody asked to stop: the signal's number, or None."""

    number: int | None = None


@contextmanager
def deferred() -> Iterator[Asked]:
    """Note the first Ctrl-C or SIGTERM instead of raising; a second one raises at once.

    Signals that the process ignores stay ignored. Outside the main thread, where Python delivers none, nothing is changed.
    """
    asked = Asked()

    def note(number: int, frame: FrameType | None) -> None:
        if asked.number is not None:
            raise KeyboardInterrupt
        asked.number = number

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):  # None: set by something else than Python, and not to be put back
                before[number] = handler
                signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
