"""How to train: every choice that changes the result, as one record that a run keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from spp.data.augment import find_augmentation
from spp.errors import InputError, UnknownNameError
from spp.training.optimizers import OPTIMIZERS
from spp.training.schedules import SCHEDULES

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
        augment: A name of ``spp.data.augment.AUGMENTATIONS``; None for what is usual with the data.
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
        for kind, name, known in (
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES),
            ("precision", self.precision, PRECISIONS),
        ):
            if name not in known:
                raise UnknownNameError(kind, str(name), known, where=kind)
        if self.augment is not None:
            find_augmentation(self.augment)
        for name in ("epochs", "batch_size", "step_size"):
            _whole(name, getattr(self, name), 1)
        _whole("seed", self.seed, 0)
        for name in ("lr", "agc"):
            if getattr(self, name) is not None:
                _number(name, getattr(self, name), 0, math.inf, above=True)
        if self.weight_decay is not None:
            _number("weight_decay", self.weight_decay, 0, math.inf)
        _number("momentum", self.momentum, 0, 1)
        _number("label_smoothing", self.label_smoothing, 0, 1)
        _number("warmup", self.warmup, 0, math.inf)
        _number("gamma", self.gamma, 0, math.inf, above=True)
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


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} is a whole number of at least {least}", received=repr(value), where="recipe")


def _number(name: str, value: object, low: float, high: float, *, above: bool = False) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not low <= float(value) < high or (above and value == low):  # type: ignore[arg-type]
        kind = "positive" if above else f"at least {low:g}"
        end = "" if high == math.inf else f" and less than {high:g}"
        raise InputError(f"{name} is a number, {kind}{end}", received=repr(value), where="recipe")
