"""What a row of the table of networks says, and what a caller may change about it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from math import prod
from typing import Any, ClassVar, Self

from spp.errors import InputError, UnknownNameError
from spp.nn.activations import find_activation
from spp.nn.init import find_init
from spp.nn.norms import BATCH_EPS, BATCH_MOMENTUM, find_norm


@dataclass(frozen=True, kw_only=True)
class Config:
    """What every network has. Each family adds its own fields; every field but ``name`` can be changed by ``build``.

    Attributes:
        name: Name of the row.
        description: One line.
        input_shape: Shape of one sample, ``(C, H, W)``.
        num_classes: Outputs of the classifier.
        norm: Name of ``spp.nn.NORMS``.
        activation: Name of ``spp.nn.ACTIVATIONS``.
        init: Name of ``spp.nn.INITS``.
        batch_eps: What norms with batch statistics add to the variance.
        batch_momentum: Weight of the newest batch in their running statistics.
    """

    name: str
    description: str = field(compare=False)
    input_shape: tuple[int, ...] = (3, 224, 224)
    num_classes: int = 1000
    norm: str = "batch"
    activation: str = "relu"
    init: str = "he_fan_out"
    batch_eps: float = BATCH_EPS
    batch_momentum: float = BATCH_MOMENTUM

    fixed: ClassVar[frozenset[str]] = frozenset({"name", "description"})

    def __post_init__(self) -> None:
        find_norm(self.norm)
        find_activation(self.activation)
        find_init(self.init)
        self._need_count("num_classes")
        shape = self.input_shape
        if not isinstance(shape, tuple | list) or not shape or not all(_is_count(size) for size in shape):
            raise InputError(
                "input_shape is the shape of one sample, positive integers as (3, 224, 224)",
                received=repr(shape),
                where=self.name,
            )
        object.__setattr__(self, "input_shape", tuple(shape))
        self._need_number("batch_eps", 0, float("inf"))
        self._need_number("batch_momentum", 0, 1)
        self.check_input(self.input_shape)

    @classmethod
    def changes(cls) -> tuple[str, ...]:
        """Names of the fields that ``change`` accepts."""
        return tuple(f.name for f in fields(cls) if f.name not in cls.fixed)

    def change(self, **changes: Any) -> Self:
        """This row with some fields changed.

        Raises:
            UnknownNameError: A field or a name that a field refers to does not exist.
            InputError: A value is not possible.
        """
        for key in changes:
            if key not in self.changes():
                raise UnknownNameError("argument", key, self.changes(), where=f"model {self.name!r}")
        return replace(self, **changes)

    def check_input(self, shape: tuple[int, ...], *, batch: int | None = None) -> None:
        """Raise unless samples of this shape can go in; see ``spp.models.check_input``."""
        raise NotImplementedError

    def _need_count(self, key: str) -> None:
        if not _is_count(getattr(self, key)):
            raise InputError(
                f"{key} is a positive integer", received=repr(getattr(self, key)), where=f"model {self.name!r}"
            )

    def _need_number(self, key: str, low: float, high: float) -> None:
        value = getattr(self, key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise InputError(
                f"{key} is a number from {low:g} to {high:g}", received=repr(value), where=f"model {self.name!r}"
            )


@dataclass(frozen=True, kw_only=True)
class ConvConfig(Config):
    """What every convolutional network has."""

    @property
    def total_stride(self) -> int:
        """By how much the network divides height and width."""
        raise NotImplementedError

    def check_input(self, shape: tuple[int, ...], *, batch: int | None = None) -> None:
        """Raise unless ``(C, H, W)`` fits: the channels, a pixel left after the last stride, what the norm needs."""
        where = f"model {self.name!r}"
        channels, stride = self.input_shape[0], self.total_stride
        if len(shape) != 3:
            raise InputError(
                f"an input sample is an image (C, H, W), as {self.input_shape}", received=f"{tuple(shape)}", where=where
            )
        if shape[0] != channels:
            raise InputError(
                f"an input sample has {channels} channels",
                received=f"{shape[0]} in {tuple(shape)}",
                where=where,
                remedy=f"Build the model with input_shape={tuple(shape)}, or give it images of {channels} channels.",
            )
        if min(shape[1:]) < stride:
            raise InputError(
                f"an image is at least {stride}x{stride}, since the network divides its sides by {stride}",
                received=f"{shape[1]}x{shape[2]}",
                where=where,
                remedy="Resize the images, or take a network with smaller strides, as resnet18_cifar.",
            )
        smallest = prod(-(-side // stride) for side in shape[1:])  # every strided layer rounds up
        norm = find_norm(self.norm)
        if norm.spatial and smallest == 1:
            raise InputError(
                f"norm {self.norm!r} takes statistics over space, so the last maps need more than one element",
                received=f"{shape[1]}x{shape[2]} images, which end as 1x1",
                where=where,
                remedy=f"Use images larger than {stride}x{stride}, or another norm.",
            )
        if norm.batch and batch == 1 and smallest == 1:
            raise InputError(
                f"norm {self.norm!r} takes statistics over the batch, so it trains on more than one value per channel",
                received=f"one {shape[1]}x{shape[2]} image, which ends as 1x1",
                where=where,
                remedy="Use a batch of at least 2, or larger images.",
            )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
