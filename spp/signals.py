"""The vocabulary: which signals are observed, which part a tensor plays at a residual merge, and what a reading is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spp.measure.moments import Moments
    from spp.measure.sites import Site


class Signal(StrEnum):
    """What a row of the frame is about."""

    ACTIVATION = "activation"
    """An output of a module call."""
    GRADIENT = "gradient"
    """The gradient of the loss with respect to that output."""
    WEIGHT = "weight"
    """A parameter (or the effective weight that a parametrization makes of it)."""
    WEIGHT_GRADIENT = "weight_gradient"
    """The gradient of the loss with respect to that parameter, summed over all its uses."""


ALL: tuple[Signal, ...] = tuple(Signal)
"""Every signal, in the order of the frame."""


class Role(StrEnum):
    """Which part a module's output plays at a residual merge."""

    BRANCH = "residual_branch"
    SKIP = "residual_skip"
    SUM = "residual_sum"


@dataclass(frozen=True, slots=True)
class Reading:
    """One tensor, reduced: where it was seen, as which signal, and its moments."""

    site: Site
    signal: Signal
    moments: Moments
