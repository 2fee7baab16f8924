"""Norms and their rivals by name: ``make_norm("group", 64)`` for a tensor ``(N, 64, H, W)``.

Every row of ``NORMS`` stands where BatchNorm stands in the original network, so that a norm is an argument of a
model. torch's own modules are used where they exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from spp.errors import InputError, UnknownNameError
from spp.nn.affine import AffineLayer, DyT
from spp.nn.channel_norms import ChannelsLast
from spp.nn.convolutions import check_options
from spp.nn.norm_table import BATCH_EPS as BATCH_EPS
from spp.nn.norm_table import BATCH_MOMENTUM as BATCH_MOMENTUM
from spp.nn.norm_table import NEURONWISE as NEURONWISE
from spp.nn.norm_table import NORMS as NORMS
from spp.nn.norm_table import Norm as Norm
from spp.nn.norm_table import Place
from spp.nn.rows import row_of


def find_norm(name: str) -> Norm:
    """The row of ``NORMS`` called ``name``.

    Raises:
        UnknownNameError: There is none; the message lists them.
    """
    return row_of(NORMS, name, "norm")


def check_norm_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise unless the norm takes these options, whatever the place.

    Raises:
        UnknownNameError: The norm or an option does not exist.
        InputError: A value is not possible.
    """
    row = find_norm(name)
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
    row = find_norm(name)
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
    if channels_last:
        dims = min(dims, 1)
    place = Place(channels, dims, batch_eps, batch_momentum, activated, channels_last)
    try:
        layer = row.make(place, **options)
    except (ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        shown = ", ".join(f"{key}={value!r}" for key, value in options.items())
        where = f"norm {name!r} of {channels} channels"
        raise InputError("an option is not possible there", received=shown, where=where, remedy=f"{error}.") from error
    wrapped = channels_last and not isinstance(layer, nn.Identity | nn.LayerNorm | nn.RMSNorm | AffineLayer | DyT)
    return ChannelsLast(layer) if wrapped else layer
