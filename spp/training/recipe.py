"""How to train: every choice that changes the result, as one record that a run keeps; optimizers and schedules by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from spp.data import AUGMENTATIONS
from spp.errors import InputError, UnknownNameError
from spp.registry import Registry

PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per step.
        optimizer: A name of ``OPTIMIZERS``.
        lr: Learning rate; None for the optimizer's own.
        momentum: Of SGD.
        nesterov: Whether SGD looks ahead (Nesterov 1983).
        weight_decay: None for the optimizer's own: 0.01 with AdamW, else 0.
        agc: Threshold of adaptive gradient clipping (Brock et al. 2021, arXiv 2102.06171), as 0.01; None for none. The
            classifier of a bundled network is left out, as in the paper.
        schedule: A name of ``SCHEDULES``.
        warmup: Epochs in which the rate grows linearly from near zero, under any schedule.
        step_size: Epochs between drops of the schedule ``step``.
        gamma: What the schedule ``step`` multiplies the rate by.
        label_smoothing: Share of the target that is spread over all classes (Szegedy et al. 2016), 0 up to but not
            including 1.
        precision: ``float32``, or ``bfloat16`` or ``float16`` for autocast; weights stay in float32, and float16 has its
            loss scaled and is for accelerators.
        augment: A name of ``spp.data.AUGMENTATIONS``; None for what is usual with the data.
        seed: Of order, augmentation and dropout; the weights are drawn when the model is built.
        keep_going: Train on where the loss is not finite; a run stops there otherwise.

    Raises:
        InputError: A value is not possible.
        UnknownNameError: Something that has a name has another one.
    """

    epochs: int = 20
    batch_size: int = 128
    optimizer: str = "adam"
    lr: float | None = None
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float | None = None
    agc: float | None = None
    schedule: str = "constant"
    warmup: float = 0.0
    step_size: int = 10
    gamma: float = 0.1
    label_smoothing: float = 0.0
    precision: str = "float32"
    augment: str | None = None
    seed: int = 0
    keep_going: bool = False

    def __post_init__(self) -> None:
        OPTIMIZERS.row(self.optimizer, where="optimizer")
        SCHEDULES.row(self.schedule, where="schedule")
        if self.precision not in PRECISIONS:
            raise UnknownNameError("precision", str(self.precision), PRECISIONS, where="precision")
        if self.augment is not None:
            AUGMENTATIONS.row(self.augment, where="augment")
        for name, least in WHOLE.items():
            _whole(name, getattr(self, name), least)
        for name, (above, end) in NUMBERS.items():
            if not (name in OPTIONAL and getattr(self, name) is None):
                _number(name, getattr(self, name), end, above=above)
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise InputError(
                "nesterov is a form of SGD with momentum",
                received=f"optimizer={self.optimizer!r}, momentum={self.momentum!r}",
                where="nesterov",
            )

    @property
    def learning_rate(self) -> float:
        """``lr``, or the optimizer's own."""
        return OPTIMIZERS[self.optimizer].lr if self.lr is None else self.lr

    def differences(self, other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Fields that ``other``, a stored recipe, has with another value: ``{name: (stored, own)}``."""
        pairs = ((field.name, other.get(field.name), getattr(self, field.name)) for field in fields(self))
        return {name: (stored, own) for name, stored, own in pairs if stored != own}


WHOLE = {"epochs": 1, "batch_size": 1, "step_size": 1, "seed": 0}
"""Fields that are whole numbers, and the least each may be."""

NUMBERS = {
    "lr": (True, math.inf),
    "agc": (True, math.inf),
    "weight_decay": (False, math.inf),
    "momentum": (False, 1.0),
    "label_smoothing": (False, 1.0),
    "warmup": (False, math.inf),
    "gamma": (True, math.inf),
}
"""Fields that are numbers: whether zero is excluded, and what each is less than."""

OPTIONAL = ("lr", "agc", "weight_decay")


def _whole(name: str, value: object, least: int) -> None:
    # bool is a kind of int in Python: epochs=True would train one epoch
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} is a whole number of at least {least}", received=repr(value), where="recipe")


def _number(name: str, value: object, high: float, *, above: bool) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not 0 <= float(value) < high or (above and value == 0):  # type: ignore[arg-type]
        kind = "positive" if above else "at least 0"
        end = "" if high == math.inf else f" and less than {high:g}"
        raise InputError(f"{name} is a number, {kind}{end}", received=repr(value), where="recipe")


@dataclass(frozen=True, slots=True)
class OptimizerRow:
    """A row of ``OPTIMIZERS``.

    Attributes:
        make: Its class, called with the parameters, ``lr`` and ``weight_decay``.
        lr: Its own learning rate.
        weight_decay: Its own weight decay.
        description: One line.
        options: Fields of the recipe that it is given besides.
    """

    make: Callable[..., Optimizer]
    lr: float
    weight_decay: float
    description: str
    options: tuple[str, ...] = ()


OPTIMIZERS = Registry[OptimizerRow](
    "optimizer",
    {
        "sgd": OptimizerRow(
            torch.optim.SGD, 0.1, 0.0, "stochastic gradient descent with momentum", ("momentum", "nesterov")
        ),
        "adam": OptimizerRow(torch.optim.Adam, 1e-3, 0.0, "Adam (Kingma & Ba 2015, arXiv 1412.6980)"),
        "adamw": OptimizerRow(
            torch.optim.AdamW,
            1e-3,
            0.01,
            "Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101)",
        ),
    },
    of=OptimizerRow,
)
"""Every optimizer by name."""


def make_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """The optimizer of a recipe, for all parameters of ``model``."""
    row = OPTIMIZERS[recipe.optimizer]
    decay = row.weight_decay if recipe.weight_decay is None else recipe.weight_decay
    options = {name: getattr(recipe, name) for name in row.options}
    return row.make(model.parameters(), lr=recipe.learning_rate, weight_decay=decay, **options)


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A row of ``SCHEDULES``.

    Attributes:
        factor: Of ``epoch`` (a fraction within an epoch counts) and the recipe; the learning rate is multiplied by it.
        description: One line.
    """

    factor: Callable[[float, Recipe], float]
    description: str


def _cosine(epoch: float, recipe: Recipe) -> float:
    """``(1 + cos(pi t)) / 2`` with t from 0 at the end of warmup to 1 at the end of training."""
    left = recipe.epochs - recipe.warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, (epoch - recipe.warmup) / left)))) if left > 0 else 1.0


# pure functions of the step, where torch's schedulers hold a state: nothing to save, nothing to lose on resuming
SCHEDULES = Registry[ScheduleRow](
    "schedule",
    {
        "constant": ScheduleRow(lambda epoch, recipe: 1.0, "the same rate throughout"),
        "step": ScheduleRow(
            lambda epoch, recipe: recipe.gamma ** int(epoch // recipe.step_size), "times gamma every step_size epochs"
        ),
        "cosine": ScheduleRow(_cosine, "half a cosine down to zero (Loshchilov & Hutter 2017, arXiv 1608.03983)"),
    },
    of=ScheduleRow,
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
