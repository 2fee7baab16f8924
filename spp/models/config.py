"""What a row of the table of networks says, and what a caller may change about it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from math import prod
from typing import Any, ClassVar, Self

from spp.errors import InputError, UnknownNameError
from spp.nn.activations import ACTIVATIONS
from spp.nn.gains import GAINS
from spp.nn.init import INITS
from spp.nn.norms import BATCH_EPS, BATCH_MOMENTUM, NORMS, check_norm_options, make_norm
from spp.nn.residual import RESIDUALS, check_residual_options
from spp.nn.squeeze_excite import SE_SCALINGS
from spp.nn.weight_norms import WEIGHT_NORMS


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
        norm_options: Options of the norm, as ``{"alpha": 1.0}`` for ``dyt``; kept as sorted pairs.
        weight_norm: Rule of ``spp.nn.WEIGHT_NORMS`` for convolutions and Linear layers beside the norm, as weight
            standardization beside GroupNorm; None for the norm's own, which is none for most.
        gain: Name of ``spp.nn.GAINS`` for the activations; None for what the norm asks for.
        batch_eps: What norms that extend BatchNorm add to the variance.
        batch_momentum: Weight of the newest batch in their running statistics.
        alpha_dropout: Whether dropout, where the network has any, is SELU's own, which keeps mean and variance.
        head_init: Name of ``spp.nn.INITS`` for the classifier; None for the same as elsewhere.
    """

    name: str
    # prose is no setting: a row with another description is still the same configuration
    description: str = field(compare=False)
    input_shape: tuple[int, ...] = (3, 224, 224)
    num_classes: int = 1000
    norm: str = "batch"
    norm_options: Any = ()
    weight_norm: str | None = None
    activation: str = "relu"
    gain: str | None = None
    init: str = "he_fan_out"
    head_init: str | None = None
    alpha_dropout: bool = False
    batch_eps: float = BATCH_EPS
    batch_momentum: float = BATCH_MOMENTUM

    fixed: ClassVar[frozenset[str]] = frozenset({"name", "description"})

    def __post_init__(self) -> None:
        NORMS.row(self.norm)
        ACTIVATIONS.row(self.activation)
        INITS.row(self.init)
        if self.head_init is not None:
            INITS.row(self.head_init)
        if self.gain is not None:
            GAINS.row(self.gain)
        # frozen dataclasses take a value in __post_init__ this way alone
        object.__setattr__(self, "norm_options", self._pairs("norm_options"))
        check_norm_options(self.norm, dict(self.norm_options))
        if self.norm_options and NORMS.row(self.norm).weights is None:
            # an impossible value fails here, not in the middle of a network
            make_norm(self.norm, 32, **dict(self.norm_options))
        self._check_weight_norm()
        self._need_count("num_classes")
        shape = self.input_shape
        if not are_counts(shape):
            raise self._error(
                "input_shape is the shape of one sample, positive integers as (3, 224, 224)",
                received=repr(shape),
            )
        object.__setattr__(self, "input_shape", tuple(shape))
        self._need_number("batch_eps", 0, float("inf"))
        self._need_number("batch_momentum", 0, 1)
        self.check_input(self.input_shape)

    @property
    def weight_rule(self) -> str | None:
        """Name of ``spp.nn.WEIGHT_NORMS`` that convolutions and Linear layers follow, or None."""
        return NORMS.row(self.norm).weights if self.weight_norm is None else self.weight_norm

    @property
    def activation_gain(self) -> str:
        """Name of ``spp.nn.GAINS`` that the activations have."""
        if self.gain is not None:
            return self.gain
        return "none" if self.weight_rule is None else WEIGHT_NORMS.row(self.weight_rule).activation_gain

    def _check_weight_norm(self) -> None:
        if self.weight_norm is None:
            return
        WEIGHT_NORMS.row(self.weight_norm)
        own = NORMS.row(self.norm).weights
        if own not in (None, self.weight_norm):
            raise self._error(
                f"norm {self.norm!r} already says what becomes of the weights",
                received=f"weight_norm={self.weight_norm!r}",
                remedy=f"Leave weight_norm out, or give norm='none' or a norm of activations with {self.weight_norm!r}.",
            )

    def _error(self, rule: str, received: str = "", remedy: str = "") -> InputError:
        """An error that says which network it is about."""
        return InputError(rule, received=received, where=f"model {self.name!r}", remedy=remedy)

    def _pairs(self, key: str) -> tuple[tuple[str, Any], ...]:
        value = getattr(self, key)
        try:
            # pairs, since a configuration is compared and hashed
            return tuple(sorted(dict(value).items()))
        except (TypeError, ValueError) as error:
            raise self._error(f"{key} is a mapping from option to value", received=repr(value)) from error

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
        if changes.get("norm", self.norm) != self.norm:
            # one norm's options mean nothing to another
            changes.setdefault("norm_options", ())
        return replace(self, **changes)

    def check_input(self, shape: tuple[int, ...], *, batch: int | None = None) -> None:
        """Raise unless samples of this shape can go in, see ``spp.models.check_input``; here all can."""

    def _need_count(self, key: str) -> None:
        if not _is_count(getattr(self, key)):
            raise self._error(f"{key} is a positive integer", received=repr(getattr(self, key)))

    def _need_number(self, key: str, low: float, high: float) -> None:
        value = getattr(self, key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self._error(f"{key} is a number from {low:g} to {high:g}", received=repr(value))


@dataclass(frozen=True, kw_only=True)
class ConvConfig(Config):
    """What every convolutional network has.

    Attributes:
        residual: Name of ``spp.nn.RESIDUALS``; the family takes those of its ``residuals``.
        residual_options: Options of the rule, as ``{"alpha": 0.2}`` for ``nf``; kept as sorted pairs.
        zero_gamma: Whether the scale that ends each residual branch starts at zero.
        drop_path: Rate of stochastic depth at the last block; it grows linearly from 0 at the first.
        se: Name of ``spp.nn.SE_SCALES``; ``none`` leaves squeeze-and-excitation out.
        se_ratio: Squeezed channels as a share of the block's; 0 leaves squeeze-and-excitation out.
        se_weight_norm: Rule of ``spp.nn.WEIGHT_NORMS`` for the two maps of squeeze-and-excitation, or None.
    """

    residual: str = "plain"
    residual_options: Any = ()
    zero_gamma: bool = False
    drop_path: float = 0.0
    se: str = "none"
    se_ratio: float = 0.25
    se_weight_norm: str | None = None

    def __post_init__(self) -> None:
        SE_SCALINGS.row(self.se)
        if self.se_weight_norm is not None:
            WEIGHT_NORMS.row(self.se_weight_norm)
        self._need_number("se_ratio", 0, 1)
        self._need_number("drop_path", 0, 1 - 1e-6)
        object.__setattr__(self, "residual_options", self._pairs("residual_options"))
        check_residual_options(self.residual, dict(self.residual_options))
        super().__post_init__()
        self._check_residual()

    @property
    def residuals(self) -> tuple[str, ...]:
        """The rules that the network can follow."""
        return tuple(name for name in RESIDUALS if name not in ("nf", "fixup"))

    def change(self, **changes: Any) -> Self:
        """This row with some fields changed; a new ``residual`` brings the norm and the init that belong to it."""
        # only where the rule is another: naming the present one again changes nothing
        rule = changes.get("residual", self.residual)
        if rule != self.residual:
            changes.setdefault("residual_options", ())
            for key, value in RESIDUALS.row(rule).implies.items():
                changes.setdefault(key, value)
        return super().change(**changes)

    def _check_residual(self) -> None:
        if self.residual not in self.residuals:
            raise self._error(
                f"residual rule {self.residual!r} is not made for this network",
                remedy=f"Rules for it: {', '.join(self.residuals)}.",
            )
        row = NORMS.row(self.norm)
        if self.residual == "fixup" and self.norm != "none":
            raise self._error(
                "residual rule 'fixup' stands in place of a norm",
                received=f"norm={self.norm!r}",
                remedy="Norms for it: none.",
            )
        if self.residual == "nf" and row.statistics:
            fit = ", ".join(name for name, other in NORMS.items() if not other.statistics)
            raise self._error(
                "residual rule 'nf' foretells the variance, which a norm with statistics undoes",
                received=f"norm={self.norm!r}",
                remedy=f"Norms for it: {fit}.",
            )

    @property
    def total_stride(self) -> int:
        """By how much the network divides height and width."""
        # each family counts its own strides; this class builds no network by itself
        raise NotImplementedError

    def check_input(self, shape: tuple[int, ...], *, batch: int | None = None) -> None:
        """Raise unless ``(C, H, W)`` fits: the channels, a pixel left after the last stride, what the norm needs."""
        channels, stride = self.input_shape[0], self.total_stride
        if len(shape) != 3:
            raise self._error(
                f"an input sample is an image (C, H, W), as {self.input_shape}", received=f"{tuple(shape)}"
            )
        if shape[0] != channels:
            raise self._error(
                f"an input sample has {channels} channels",
                received=f"{shape[0]} in {tuple(shape)}",
                remedy=f"Build the model with input_shape={tuple(shape)}, or give it images of {channels} channels.",
            )
        if min(shape[1:]) < stride:
            raise self._error(
                f"an image is at least {stride}x{stride}, since the network divides its sides by {stride}",
                received=f"{shape[1]}x{shape[2]}",
                remedy="Resize the images, or take a network with smaller strides, as resnet18_cifar.",
            )
        # every strided layer rounds up
        smallest = prod(-(-side // stride) for side in shape[1:])
        norm = NORMS.row(self.norm)
        if norm.spatial and smallest == 1:
            raise self._error(
                f"norm {self.norm!r} takes statistics over space, so the last maps need more than one element",
                received=f"{shape[1]}x{shape[2]} images, which end as 1x1",
                remedy=f"Use images larger than {stride}x{stride}, or another norm.",
            )
        if norm.batch and batch == 1 and smallest == 1:
            raise self._error(
                f"norm {self.norm!r} takes statistics over the batch, so it trains on more than one value per channel",
                received=f"one {shape[1]}x{shape[2]} image, which ends as 1x1",
                remedy="Use a batch of at least 2, or larger images.",
            )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def are_counts(value: object) -> bool:
    """Whether ``value`` is positive integers, and any at all."""
    return isinstance(value, tuple | list) and bool(value) and all(map(_is_count, value))
