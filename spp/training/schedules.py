"""Learning rates over time, as pure functions of the step: nothing to save, nothing to lose when a run is resumed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spp.training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Schedule:
    """A row of ``SCHEDULES``.

    Attributes:
        factor: Of ``epoch`` (a fraction within an epoch counts), the recipe; what the learning rate is multiplied by after
            warmup.
        description: One line.
    """

    factor: Callable[[float, Recipe], float]
    description: str


def _constant(epoch: float, recipe: Recipe) -> float:
    return 1.0


def _step(epoch: float, recipe: Recipe) -> float:
    return recipe.gamma ** int(epoch // recipe.step_size)


def _cosine(epoch: float, recipe: Recipe) -> float:
    """``(1 + cos(pi t)) / 2`` with t from 0 at the end of warmup to 1 at the end of training (Loshchilov & Hutter 2017)."""
    left = recipe.epochs - recipe.warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, (epoch - recipe.warmup) / left)))) if left > 0 else 1.0


SCHEDULES: Mapping[str, Schedule] = MappingProxyType(
    {
        "constant": Schedule(_constant, "the same rate throughout"),
        "step": Schedule(_step, "times gamma every step_size epochs"),
        "cosine": Schedule(_cosine, "half a cosine down to zero (Loshchilov & Hutter 2017, arXiv 1608.03983)"),
    }
)
"""Every schedule by name."""


def rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step.

    Args:
        recipe: How to train.
        step: From 0, over all epochs.
        steps_per_epoch: Steps in an epoch.

    Returns:
        ``lr * min(1, (step + 1) / warmup steps) * factor``.
    """
    warmup = recipe.warmup * steps_per_epoch
    ramp = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
    return recipe.learning_rate * ramp * SCHEDULES[recipe.schedule].factor(step / steps_per_epoch, recipe)
