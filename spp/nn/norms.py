"""Normalization layers by name: ``make_norm("group", 64)`` for a tensor ``(N, 64, H, W)``.

Every row of ``NORMS`` stands where BatchNorm stands in the original network, so that a norm is an argument of a
model. torch's own modules are used where they exist. ``batch_minus`` and ``affine`` are the two halves of BatchNorm
(Peerthum & Stamp 2023, arXiv 2303.12818): normalization without shift and scale, and shift and scale without
normalization; ``batch`` is the second after the first.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import gcd
from types import MappingProxyType

import torch
from torch import Tensor, nn

from spp.errors import InputError, UnknownNameError
from spp.nn import functional

BATCH_EPS = 1e-5
"""torch's default for what BatchNorm adds to the variance."""
BATCH_MOMENTUM = 0.1
"""torch's default weight of the newest batch in BatchNorm's running statistics."""
MAX_GROUPS = 32
"""Groups of GroupNorm in its paper (Wu & He 2018, arXiv 1803.08494)."""


class AffineLayer(nn.Module):
    """Shift and scale per channel, without normalization; the identity at init, bit for bit.

    ``y[n, c, ...] = weight[c] * x[n, c, ...] + bias[c]`` for ``x`` of shape ``(N, C, *spatial)``; weight starts at 1,
    bias at (negative) zero. Source: Peerthum & Stamp 2023, arXiv 2303.12818.

    Args:
        num_channels: ``C``.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.weight = nn.Parameter(torch.empty(num_channels))
        self.bias = nn.Parameter(torch.empty(num_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Make the layer the identity again."""
        nn.init.ones_(self.weight)
        # -0.0 is the neutral element of floating addition; +0.0 would turn an input of -0.0 into +0.0.
        nn.init.constant_(self.bias, -0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift ``x``."""
        return functional.affine(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Show the number of channels."""
        return str(self.num_channels)


class ChannelLayerNorm(nn.Module):
    """LayerNorm over axis 1, the channels, at each position of a channels-first tensor (as in ConvNeXt).

    Statistics are per sample and position, over ``C`` values; scale and shift are per channel and start at 1 and 0.
    (Statistics over channels and space together are GroupNorm with one group.)

    Args:
        num_channels: ``C`` of the input ``(N, C, *spatial)``.
        eps: Added to the biased variance.
    """

    def __init__(self, num_channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_channels, self.eps = num_channels, eps
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def reset_parameters(self) -> None:
        """Set scale to 1 and shift to 0."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x`` over its channels."""
        return functional.channel_layer_norm(x, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Show channels and eps."""
        return f"{self.num_channels}, eps={self.eps}"


class ChannelRMSNorm(nn.Module):
    """RMSNorm over axis 1, the channels, at each position of a channels-first tensor.

    The mean square is per sample and position, over ``C`` values; the scale is per channel and starts at 1.

    Args:
        num_channels: ``C`` of the input ``(N, C, *spatial)``.
        eps: Added to the mean square; None takes the machine epsilon of the input's dtype, as ``torch.nn.RMSNorm``.
    """

    def __init__(self, num_channels: int, eps: float | None = None) -> None:
        super().__init__()
        self.num_channels, self.eps = num_channels, eps
        self.weight = nn.Parameter(torch.ones(num_channels))

    def reset_parameters(self) -> None:
        """Set the scale to 1."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x`` over its channels."""
        return functional.channel_rms_norm(x, self.weight, self.eps)

    def extra_repr(self) -> str:
        """Show channels and eps."""
        return f"{self.num_channels}, eps={self.eps}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a norm goes, which is all that a factory needs to know.

    Attributes:
        channels: Size of axis 1 of the tensor.
        dims: Number of spatial axes: 0 for ``(N, C)``, 2 for ``(N, C, H, W)``.
        batch_eps: What norms with batch statistics add to the variance.
        batch_momentum: Weight of the newest batch in their running statistics.
    """

    channels: int
    dims: int
    batch_eps: float = BATCH_EPS
    batch_momentum: float = BATCH_MOMENTUM


@dataclass(frozen=True, slots=True)
class Norm:
    """A row of ``NORMS``.

    Attributes:
        make: Builds the layer for a place.
        description: One line.
        spatial: Whether it takes statistics over space alone, hence needs maps of more than one element.
        batch: Whether it takes statistics over the batch, hence needs more than one value per channel to train.
    """

    make: Callable[[Place], nn.Module]
    description: str
    spatial: bool = False
    batch: bool = False


def _batch(place: Place, *, affine: bool = True) -> nn.Module:
    layer = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[place.dims]
    return layer(place.channels, eps=place.batch_eps, momentum=place.batch_momentum, affine=affine)


def _batch_minus(place: Place) -> nn.Module:
    return _batch(place, affine=False)


def _layer(place: Place) -> nn.Module:
    return nn.LayerNorm(place.channels) if place.dims == 0 else ChannelLayerNorm(place.channels)


def _rms(place: Place) -> nn.Module:
    return nn.RMSNorm(place.channels) if place.dims == 0 else ChannelRMSNorm(place.channels)


def _group(place: Place) -> nn.Module:
    groups = gcd(MAX_GROUPS, place.channels)
    if place.dims == 0 and groups == place.channels > 1:
        groups //= 2  # a lone value normalized by itself is zero, whatever it was
    return nn.GroupNorm(groups, place.channels)


def _instance(place: Place) -> nn.Module:
    return (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[place.dims - 1](place.channels)


NORMS: Mapping[str, Norm] = MappingProxyType(
    {
        "none": Norm(lambda place: nn.Identity(), "no normalization (the layer is an identity)"),
        "batch": Norm(_batch, "BatchNorm (Ioffe & Szegedy 2015)", batch=True),
        "batch_minus": Norm(
            _batch_minus, "BatchNorm-minus: BatchNorm without shift and scale (Peerthum & Stamp 2023)", batch=True
        ),
        "affine": Norm(
            lambda place: AffineLayer(place.channels),
            "AffineLayer: BatchNorm's shift and scale without normalization (Peerthum & Stamp 2023)",
        ),
        "layer": Norm(_layer, "LayerNorm over the channels of each position (Ba et al. 2016)"),
        "group": Norm(_group, "GroupNorm with 32 groups, or the largest power of two that divides (Wu & He 2018)"),
        "instance": Norm(
            _instance, "InstanceNorm over space, without shift and scale (Ulyanov et al. 2016)", spatial=True
        ),
        "rms": Norm(_rms, "RMSNorm over the channels of each position (Zhang & Sennrich 2019)"),
    }
)
"""Every norm by name, in the order of the documentation."""


def find_norm(name: str) -> Norm:
    """The row of ``NORMS`` called ``name``.

    Raises:
        UnknownNameError: There is none; the message lists them.
    """
    if not isinstance(name, str) or name not in NORMS:
        raise UnknownNameError("norm", str(name), NORMS)
    return NORMS[name]


def make_norm(
    name: str,
    channels: int,
    *,
    dims: int = 2,
    batch_eps: float = BATCH_EPS,
    batch_momentum: float = BATCH_MOMENTUM,
) -> nn.Module:
    """Build a normalization layer for tensors ``(N, channels, *spatial)``.

    Args:
        name: A name of ``NORMS``.
        channels: Size of axis 1, at least 1.
        dims: Number of spatial axes, 0 to 3.
        batch_eps: What ``batch`` and ``batch_minus`` add to the variance; others keep their own.
        batch_momentum: Weight of the newest batch in their running statistics.

    Raises:
        UnknownNameError: No norm has that name.
        InputError: The norm is not defined there, as InstanceNorm on ``(N, C)``.
    """
    row = find_norm(name)
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
    return row.make(Place(channels, dims, batch_eps, batch_momentum))
