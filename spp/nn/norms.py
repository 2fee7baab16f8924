"""Norms and their rivals by name: ``make_norm("group", 64)`` for a tensor ``(N, 64, H, W)``.

Every row of ``NORMS`` stands where BatchNorm stands in the original network, so that a norm is an argument of a
model. torch's own modules are used where they exist. A norm of one's own is one more row::

    NORMS.register("mine", Norm(make=lambda place, eps=1e-5: MyNorm(place.channels, eps), description="..."))

``batch_minus`` and ``affine`` are the two halves of BatchNorm (Peerthum & Stamp 2023, arXiv 2303.12818): normalization without
shift and scale, and shift and scale without normalization; ``batch`` is the second after the first.

Rows with ``weights`` act on the weights of convolutions and Linear layers instead (``spp.nn.weight_norms``): the layer at
the norm's own place is then an identity. Rows with ``activates`` are norm and activation in one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import gcd
from typing import Any

from torch import nn

from spp.errors import InputError, UnknownNameError
from spp.nn.norm_layers import (
    D_MAX,
    DYT_ALPHA,
    GHOST_BATCH,
    R_MAX,
    AffineLayer,
    BatchRenorm,
    ChannelLayerNorm,
    ChannelRMSNorm,
    ChannelsLast,
    DyT,
    EvoNormB0,
    EvoNormS0,
    FilterResponseNorm,
    GhostBatchNorm,
)
from spp.nn.weight_norms import WEIGHT_NORMS, check_options
from spp.registry import Registry

BATCH_EPS = 1e-5
"""torch's default for what BatchNorm adds to the variance."""
BATCH_MOMENTUM = 0.1
"""torch's default weight of the newest batch in BatchNorm's running statistics."""
MAX_GROUPS = 32
"""Groups of GroupNorm in its paper (Wu & He 2018, arXiv 1803.08494)."""
NEURONWISE = "neuronwise"
"""The norm that is no layer: a network built with it is converted by ``spp.nn.neuronwise_`` once it is initialized."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a norm goes, which is all that a factory needs to know.

    Attributes:
        channels: Size of the channel axis.
        dims: Number of spatial axes: 0 for ``(N, C)``, 2 for ``(N, C, H, W)``.
        batch_eps: What norms with batch statistics add to the variance.
        batch_momentum: Weight of the newest batch in their running statistics.
        activated: Whether an activation follows directly.
        last: Whether the channels are the last axis, after any number of others.
    """

    channels: int
    dims: int
    batch_eps: float = BATCH_EPS
    batch_momentum: float = BATCH_MOMENTUM
    activated: bool = True
    last: bool = False

    @property
    def axis(self) -> int:
        """The channel axis."""
        return -1 if self.last else 1

    @property
    def lone(self) -> bool:
        """Whether the channels of one position are all that a sample's statistics are taken over."""
        return self.last or self.dims == 0


@dataclass(frozen=True, slots=True)
class Norm:
    """A row of ``NORMS``.

    Attributes:
        make: Builds the layer for a ``Place``; its further arguments are the norm's options.
        description: One line.
        statistics: Whether it takes any statistics of activations.
        spatial: Whether it takes statistics over space alone, hence needs maps of more than one element.
        batch: Whether it takes statistics over the batch, hence needs more than one value per channel to train.
        activates: Whether it brings its own activation, in place of the one behind it.
        normalizes_alone: Whether it is still a norm without that activation.
        weights: Name of ``spp.nn.WEIGHT_NORMS`` where it acts on weights; its options are then the rule's.
    """

    make: Callable[..., nn.Module]
    description: str
    statistics: bool = True
    spatial: bool = False
    batch: bool = False
    activates: bool = False
    normalizes_alone: bool = True
    weights: str | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options that it takes."""
        if self.weights is not None:
            return WEIGHT_NORMS.row(self.weights).options
        return tuple(inspect.signature(self.make).parameters)[1:]


def _none(place: Place) -> nn.Module:
    return nn.Identity()


def _torch_batch(place: Place, affine: bool) -> nn.Module:
    layer = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[place.dims]
    return layer(place.channels, eps=place.batch_eps, momentum=place.batch_momentum, affine=affine)


def _groups(place: Place, groups: int | None) -> int:
    if groups is not None:
        return groups
    groups = gcd(MAX_GROUPS, place.channels)
    # A lone value normalized by itself is zero, whatever it was.
    return groups // 2 if place.lone and groups == place.channels > 1 else groups


def _instance(place: Place, affine: bool = False) -> nn.Module:
    layer = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[place.dims - 1]
    return layer(place.channels, affine=affine)


def _frn(place: Place, learned_eps: bool | None = None) -> nn.Module:
    learned = place.dims == 0 if learned_eps is None else learned_eps
    return FilterResponseNorm(place.channels, learned_eps=learned, activated=place.activated)


def _renorm(place: Place, r_max: float = R_MAX, d_max: float = D_MAX, ramp: bool = True) -> nn.Module:
    own = place.channels, place.batch_eps, place.batch_momentum
    return BatchRenorm(*own, r_max=r_max, d_max=d_max, ramp=ramp)


def _ghost(place: Place, ghost: int = GHOST_BATCH) -> nn.Module:
    return GhostBatchNorm(place.channels, ghost, place.batch_eps, place.batch_momentum)


def _neuronwise(
    place: Place, mode: Any = None, statistics: Any = None, weighting: Any = None, eps: Any = None, momentum: Any = None
) -> nn.Module:
    # the options are those of neuronwise_, which checks them
    return nn.Identity()


def _on_weights(rule: str, description: str) -> Norm:
    return Norm(_none, description, statistics=False, weights=rule)


NORMS = Registry[Norm](
    "norm",
    {
        "none": Norm(_none, "no normalization (the layer is an identity)", statistics=False),
        "batch": Norm(lambda place: _torch_batch(place, True), "BatchNorm (Ioffe & Szegedy 2015)", batch=True),
        "batch_minus": Norm(
            lambda place: _torch_batch(place, False),
            "BatchNorm-minus: BatchNorm without shift and scale (Peerthum & Stamp 2023)",
            batch=True,
        ),
        "affine": Norm(
            lambda place: AffineLayer(place.channels, channel_axis=place.axis),
            "AffineLayer: BatchNorm's shift and scale without normalization (Peerthum & Stamp 2023)",
            statistics=False,
        ),
        "layer": Norm(
            lambda place: (nn.LayerNorm if place.lone else ChannelLayerNorm)(place.channels),
            "LayerNorm over the channels of each position (Ba et al. 2016)",
        ),
        "group": Norm(
            lambda place, groups=None: nn.GroupNorm(_groups(place, groups), place.channels),
            "GroupNorm with 32 groups, or the largest power of two that divides (Wu & He 2018)",
        ),
        "instance": Norm(
            _instance, "InstanceNorm over space, without shift and scale (Ulyanov et al. 2016)", spatial=True
        ),
        "rms": Norm(
            lambda place: (nn.RMSNorm if place.lone else ChannelRMSNorm)(place.channels),
            "RMSNorm over the channels of each position (Zhang & Sennrich 2019)",
        ),
        "batch_renorm": Norm(
            _renorm, "Batch Renormalization: BatchNorm corrected to its running statistics (Ioffe 2017)", batch=True
        ),
        "ghost_batch": Norm(_ghost, "BatchNorm over virtual batches of 32 (Hoffer et al. 2017)", batch=True),
        "frn": Norm(
            _frn,
            "filter response normalization and its threshold, for norm and activation (Singh & Krishnan 2019)",
            activates=True,
        ),
        "evonorm_b0": Norm(
            lambda place: EvoNormB0(place.channels, activated=place.activated),
            "EvoNorm-B0, batch statistics, for norm and activation (Liu et al. 2020)",
            batch=True,
            activates=True,
            normalizes_alone=False,
        ),
        "evonorm_s0": Norm(
            lambda place, groups=None: EvoNormS0(place.channels, _groups(place, groups), activated=place.activated),
            "EvoNorm-S0, sample statistics, for norm and activation (Liu et al. 2020)",
            activates=True,
            normalizes_alone=False,
        ),
        "dyt": Norm(
            lambda place, alpha=DYT_ALPHA: DyT(place.channels, alpha, channel_axis=place.axis),
            "DyT: a learned tanh, no statistics (Zhu et al. 2025)",
            statistics=False,
        ),
        "ws": _on_weights("ws", "weight standardization and no norm (Qiao et al. 2019; Dewyse 2025)"),
        "scaled_ws": _on_weights(
            "scaled_ws", "scaled weight standardization, gamma in the activations (Brock et al. 2021)"
        ),
        "centred_wn": _on_weights("centred_wn", "centred weight normalization (Huang et al. 2017)"),
        "mp": _on_weights("mp", "magnitude-preserving weights, rms gain in the activations (Karras et al. 2023)"),
        NEURONWISE: Norm(
            _neuronwise,
            "neuron-wise input normalization: only weight gradients change (docs/neuronwise.md)",
            statistics=False,
        ),
    },
    of=Norm,
)
"""Every norm by name, in the order of the documentation."""


def check_norm_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise unless the norm takes these options, whatever the place.

    Raises:
        UnknownNameError: The norm or an option does not exist.
        InputError: A value is not possible.
    """
    row = NORMS.row(name)
    if row.weights is not None:
        check_options(row.weights, options)
    for key in options:
        if key not in row.options:
            raise UnknownNameError("option", key, row.options, where=f"norm {name!r}")


def make_norm(
    name: str,
    channels: int,
    *,
    dims: int = 2,
    batch_eps: float = BATCH_EPS,
    batch_momentum: float = BATCH_MOMENTUM,
    activated: bool = True,
    channels_last: bool = False,
    **options: Any,
) -> nn.Module:
    """Build a normalization layer for tensors ``(N, channels, *spatial)``.

    Args:
        name: A name of ``NORMS``.
        channels: Size of the channel axis, at least 1.
        dims: Number of spatial axes, 0 to 3.
        batch_eps: What norms that extend BatchNorm add to the variance; others keep their own.
        batch_momentum: Weight of the newest batch in their running statistics.
        activated: Whether an activation follows directly: norms that bring their own are without it where none does.
        channels_last: Whether the layer is for ``(N, *positions, channels)``, of any rank; ``dims`` then says no more
            than whether there are positions.
        options: The norm's own, as ``alpha`` for ``dyt``.

    Raises:
        UnknownNameError: No norm, or none of its options, has that name.
        InputError: The norm is not defined there, as InstanceNorm on ``(N, C)``, or an option's value is not possible.
    """
    row = NORMS.row(name)
    check_norm_options(name, options)
    if dims not in (0, 1, 2, 3):
        raise InputError("a norm has 0 to 3 spatial axes", received=f"dims={dims!r}")
    if channels < 1:
        raise InputError("a norm has at least one channel", received=f"channels={channels!r}")
    if row.spatial and dims == 0:
        fit = ", ".join(known for known, other in NORMS.items() if not other.spatial)
        raise InputError(
            f"norm {name!r} takes statistics over space, so it needs a tensor with spatial axes",
            received="(N, C)",
            remedy=f"Norms for (N, C): {fit}.",
        )
    if row.weights is not None:
        return row.make(Place(channels, dims))
    place = Place(
        channels, min(dims, 1) if channels_last else dims, batch_eps, batch_momentum, activated, channels_last
    )
    try:
        layer = row.make(place, **options)
    except (ValueError, TypeError) as error:
        # torch's own layers say what is wrong with a value, but neither which norm nor which option it was
        if isinstance(error, InputError):
            raise
        shown = ", ".join(f"{key}={value!r}" for key, value in options.items())
        where = f"norm {name!r} of {channels} channels"
        raise InputError("an option is not possible there", received=shown, where=where, remedy=f"{error}.") from error
    wrapped = channels_last and not isinstance(layer, nn.Identity | nn.LayerNorm | nn.RMSNorm | AffineLayer | DyT)
    return ChannelsLast(layer) if wrapped else layer
