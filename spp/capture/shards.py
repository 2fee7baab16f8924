"""Parameters of which each process holds a part: FSDP2's, and any ``DTensor`` that is sharded or replicated.

What lies here is measured where it lies. A part's moments stand at their own channels in a table of all channels of the whole
parameter, so that merging the tables of all processes gives the moments of the whole, whichever axis was cut.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spp.stats.backends.layout import empty_table
from spp.stats.sums import Moments


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What this process holds of a parameter.

    Attributes:
        local: The values that lie here, an ordinary tensor.
        offset: The first of its channels among those of the whole.
        channels: Channels of the whole.
        counts: False where another process holds the same values and counts them.
    """

    local: Tensor
    offset: int
    channels: int
    counts: bool

    def whole(self, moments: Moments) -> Moments:
        """The moments of the local values at their place among all channels; of nothing where they do not count."""
        if self.counts and moments.channels == self.channels:
            return moments
        table = empty_table(self.channels, moments.packed.device)
        if self.counts and self.local.numel():
            table[:, self.offset : self.offset + moments.channels] = moments.packed
        return Moments(table)


def is_shared(tensor: Tensor) -> bool:
    """Whether a tensor is a handle on parts that several processes hold."""
    module: Any = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def part_of(tensor: Any, axis: int | None) -> Part | str:
    """The local part of a ``DTensor`` whose channels lie along ``axis``, or why it cannot be measured."""
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    mesh, placements = tensor.device_mesh, tensor.placements
    unknown = [str(p) for p in placements if type(p) not in (Shard, Replicate)]
    if unknown:
        return f"a DTensor placed as {unknown[0]} has no part of its own here"
    coordinate = mesh.get_coordinate()
    with torch.no_grad():
        local = tensor.to_local()
    channels = tensor.shape[axis] if axis is not None else 1
    if coordinate is None:
        return Part(
            local.flatten()[:0].reshape([0 if i == axis else 1 for i in range(tensor.dim())]), 0, channels, False
        )
    _, offset = compute_local_shape_and_global_offset(tensor.shape, mesh, placements)
    copies = (c for c, p in zip(coordinate, placements, strict=True) if isinstance(p, Replicate))
    return Part(local, offset[axis] if axis is not None else 0, channels, not any(copies))
