"""What a pass is given to run and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from spp.capture.holes import Hole
from spp.capture.residual import Merge
from spp.capture.sites import Call, Entry, Site

Objective = Callable[[Any], tuple[list[Tensor], list[Tensor | None]]]
"""Turns a model's output into the tensors to run backward from and their cotangents (None for a scalar's)."""

Aside = Callable[[list[Tensor]], AbstractContextManager[None]]
"""Keeps the ``.grad`` of leaves outside the model out of a backward pass."""


@dataclass(slots=True, eq=False)
class Pass:
    """What one batch gave.

    Attributes:
        sites: Everything that was measured, in the order in which it came to be.
        merges: Residual merges, in order; some with a stream site of their own.
        holes: What was not measured.
        calls: For each module that ran, the depth of its first call and the number of its calls.
        inputs: For each of these, its calls, which know what fed them.
    """

    sites: list[Site] = field(default_factory=list)
    merges: list[Merge] = field(default_factory=list)
    holes: list[Hole] = field(default_factory=list)
    calls: list[tuple[Entry, tuple[int | None, int]]] = field(default_factory=list)
    inputs: dict[str, list[Call]] = field(default_factory=dict)
