"""Keeps Python's garbage collector from combing through what a pass has just noted."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 100_000
"""Objects that may come to be before the collector looks for cycles among them; as many as 5,000 module calls note."""


@contextmanager
def patient_collector() -> Iterator[None]:
    """Let the body allocate many small objects that all live to its end, with the collector's threshold raised meanwhile.

    Thousands of them would otherwise set off the collector dozens of times, each time in vain, and each full collection looks
    at every object of the process: up to a third of what a trace's Python costs. Garbage of the model's own is still
    collected, only later; a collector that the user has switched off, or made more patient, is left alone.
    """
    before = gc.get_threshold()
    if not gc.isenabled() or not 0 < before[0] < PATIENCE:
        yield
        return
    gc.set_threshold(PATIENCE, *before[1:])
    try:
        yield
    finally:
        if gc.get_threshold() == (PATIENCE, *before[1:]):  # unless the body has set its own
            gc.set_threshold(*before)
