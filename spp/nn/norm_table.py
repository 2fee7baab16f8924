"""The table of norms: a row for each, and what builds it where it stands.

``batch_minus`` and ``affine`` are the two halves of BatchNorm (Peerthum & Stamp 2023, arXiv 2303.12818): normalization without
shift and scale, and shift and scale without normalization; ``batch`` is the second after the first.

Rows with ``weights`` act on the weights of convolutions and Linear layers instead (``spp.nn.convolutions``): the layer at
the norm's own place is then an identity. Rows with ``activates`` are norm and activation in one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import gcd
from types import MappingProxyType
from typing import Any

from torch import nn

from spp.nn.activating_norms import EvoNormB0, EvoNormS0, FilterResponseNorm
from spp.nn.affine import DYT_ALPHA, AffineLayer, DyT
from spp.nn.batch_norms import D_MAX, GHOST_BATCH, R_MAX, BatchRenorm, GhostBatchNorm
from spp.nn.channel_norms import ChannelLayerNorm, ChannelRMSNorm
from spp.nn.convolutions import find_weight_norm

BATCH_EPS = 1e-5
"""torch's default for what BatchNorm adds to the variance."""
BATCH_MOMENTUM = 0.1
"""torch's default weight of the newest batch in BatchNorm's running statistics."""
MAX_GROUPS = 32
"""Groups of GroupNorm in its paper (Wu & He 2018, arXiv 1803.08494)."""


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


@dataclass(frozen=True, slots=True)
class Norm:
    """A row of ``NORMS``.

    Attributes:
        make: Builds the layer for a place; its keyword arguments are the norm's options.
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
            return find_weight_norm(self.weights).options
        return tuple(inspect.signature(self.make).parameters)[1:]


def _none(place: Place) -> nn.Module:
    return nn.Identity()


def _batch(place: Place) -> nn.Module:
    return _torch_batch(place, affine=True)


def _batch_minus(place: Place) -> nn.Module:
    return _torch_batch(place, affine=False)


def _torch_batch(place: Place, *, affine: bool) -> nn.Module:
    layer = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[place.dims]
    return layer(place.channels, eps=place.batch_eps, momentum=place.batch_momentum, affine=affine)


def _affine(place: Place) -> nn.Module:
    return AffineLayer(place.channels, channel_axis=place.axis)


def _layer(place: Place) -> nn.Module:
    return nn.LayerNorm(place.channels) if place.last or place.dims == 0 else ChannelLayerNorm(place.channels)


def _rms(place: Place) -> nn.Module:
    return nn.RMSNorm(place.channels) if place.last or place.dims == 0 else ChannelRMSNorm(place.channels)


def _group(place: Place, groups: int | None = None) -> nn.Module:
    return nn.GroupNorm(_groups(place, groups), place.channels)


def _groups(place: Place, groups: int | None) -> int:
    if groups is not None:
        return groups
    groups = gcd(MAX_GROUPS, place.channels)
    if (place.dims == 0 or place.last) and groups == place.channels > 1:
        groups //= 2  # a lone value normalized by itself is zero, whatever it was
    return groups


def _instance(place: Place, affine: bool = False) -> nn.Module:
    layer = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[place.dims - 1]
    return layer(place.channels, affine=affine)


def _frn(place: Place, learned_eps: bool | None = None) -> nn.Module:
    learned = place.dims == 0 if learned_eps is None else learned_eps
    return FilterResponseNorm(place.channels, learned_eps=learned, activated=place.activated)


def _evo_b0(place: Place) -> nn.Module:
    return EvoNormB0(place.channels, activated=place.activated)


def _evo_s0(place: Place, groups: int | None = None) -> nn.Module:
    return EvoNormS0(place.channels, _groups(place, groups), activated=place.activated)


def _dyt(place: Place, alpha: float = DYT_ALPHA) -> nn.Module:
    return DyT(place.channels, alpha, channel_axis=place.axis)


def _renorm(place: Place, r_max: float = R_MAX, d_max: float = D_MAX, ramp: bool = True) -> nn.Module:
    layer = BatchRenorm(place.channels, place.batch_eps, place.batch_momentum, r_max=r_max, d_max=d_max, ramp=ramp)
    return layer


def _ghost(place: Place, ghost: int = GHOST_BATCH) -> nn.Module:
    return GhostBatchNorm(place.channels, ghost, place.batch_eps, place.batch_momentum)


NEURONWISE = "neuronwise"
"""The norm that is no layer: a network built with it is converted by ``spp.nn.neuronwise_`` once it is initialized."""


def _neuronwise(
    place: Any,
    *,
    mode: str = "coords",
    statistics: str = "batch",
    weighting: str = "clamp",
    eps: float = 1e-5,
    momentum: float = 0.1,
) -> nn.Module:
    return nn.Identity()


NORMS: Mapping[str, Norm] = MappingProxyType(
    {
        "none": Norm(_none, "no normalization (the layer is an identity)", statistics=False),
        "batch": Norm(_batch, "BatchNorm (Ioffe & Szegedy 2015)", batch=True),
        "batch_minus": Norm(
            _batch_minus, "BatchNorm-minus: BatchNorm without shift and scale (Peerthum & Stamp 2023)", batch=True
        ),
        "affine": Norm(
            _affine,
            "AffineLayer: BatchNorm's shift and scale without normalization (Peerthum & Stamp 2023)",
            statistics=False,
        ),
        "layer": Norm(_layer, "LayerNorm over the channels of each position (Ba et al. 2016)"),
        "group": Norm(_group, "GroupNorm with 32 groups, or the largest power of two that divides (Wu & He 2018)"),
        "instance": Norm(
            _instance, "InstanceNorm over space, without shift and scale (Ulyanov et al. 2016)", spatial=True
        ),
        "rms": Norm(_rms, "RMSNorm over the channels of each position (Zhang & Sennrich 2019)"),
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
            _evo_b0,
            "EvoNorm-B0, batch statistics, for norm and activation (Liu et al. 2020)",
            batch=True,
            activates=True,
            normalizes_alone=False,
        ),
        "evonorm_s0": Norm(
            _evo_s0,
            "EvoNorm-S0, sample statistics, for norm and activation (Liu et al. 2020)",
            activates=True,
            normalizes_alone=False,
        ),
        "dyt": Norm(_dyt, "DyT: a learned tanh, no statistics (Zhu et al. 2025)", statistics=False),
        "ws": Norm(
            _none, "weight standardization and no norm (Qiao et al. 2019; Dewyse 2025)", statistics=False, weights="ws"
        ),
        "scaled_ws": Norm(
            _none,
            "scaled weight standardization, gamma in the activations (Brock et al. 2021)",
            statistics=False,
            weights="scaled_ws",
        ),
        "centred_wn": Norm(
            _none, "centred weight normalization (Huang et al. 2017)", statistics=False, weights="centred_wn"
        ),
        "mp": Norm(
            _none,
            "magnitude-preserving weights, rms gain in the activations (Karras et al. 2023)",
            statistics=False,
            weights="mp",
        ),
        NEURONWISE: Norm(
            _neuronwise,
            "neuron-wise input normalization: only weight gradients change (docs/neuronwise.md)",
            statistics=False,
        ),
    }
)
"""Every norm by name, in the order of the documentation."""
