"""The reductions behind :class:`spp.measure.moments.Moments`, and who chooses among them."""

import torch
from torch import Tensor

from spp.measure.kernels.layout import plain
from spp.measure.kernels.reference import reduce as _reference


@torch.no_grad()
def reduce_channels(tensor: Tensor, axis: int | None, ends: tuple[float, float] | None = None) -> Tensor:
    """Reduce ``tensor`` to the ``(8, C)`` float64 table of :class:`spp.measure.moments.Moments`, on its device."""
    return _reference(plain(tensor), axis, ends)
