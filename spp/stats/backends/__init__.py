"""Who reduces a tensor to :class:`~spp.stats.sums.Sums`.

``SPP_KERNELS=auto`` (the default) takes the C sweep for CPU tensors where a compiler is at hand, the Triton sweep for CUDA
tensors where Triton is, and the reference elsewhere; ``off`` takes the reference everywhere; ``require`` fails where a sweep
cannot be built.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from spp._cbuild import Status
from spp.errors import InputError
from spp.stats.backends import cuda, native, reference
from spp.stats.extra import told_apart
from spp.stats.layout import plain
from spp.stats.sums import Room, Sum, Sums


def choose() -> Status:
    """Decide which path CPU tensors take in the pass that begins; see :func:`spp.stats.backends.native.status`."""
    global _native
    status = native.status()
    _native = status.native
    return status


def uses_native() -> bool:
    """Whether CPU tensors take the C sweep."""
    return choose().native if _native is None else _native


def reduce(
    tensor: Tensor,
    axis: int | None = 0,
    ends: tuple[float, float] | None = None,
    *,
    whole: bool = False,
    further: Iterable[Sum] = (),
    room: Room | None = None,
) -> Sums:
    """Reduce one tensor, on its device.

    Args:
        tensor: Any shape and dtype; half precision is widened before anything is squared, complex numbers count by
            magnitude, integers and booleans by value.
        axis: The channel axis; None, or a tensor of rank 0, means one channel.
        ends: Count the values at or below the first or at or above the second as saturated.
        whole: Whether the sums of the whole tensor are enough, which some backends give faster; the sums of its channels come
            where they do not.
        further: Sums to compute beside those that every backend gives.
        room: Where the sums go; left out, memory of their own.

    Raises:
        InputError: ``axis`` is out of range for the tensor.
    """
    if axis is not None and tensor.dim() and not -tensor.dim() <= axis < tensor.dim():
        raise InputError(
            "the channel axis needs to be an axis of the tensor",
            received=f"axis {axis} for shape {tuple(tensor.shape)}",
            where="channel_axis",
        )
    # plain() may make numbers anew, which would otherwise join the graph
    with torch.no_grad():
        values = plain(tensor)
        sums = _reduced(values, axis if tensor.dim() else None, ends, whole, Room(0) if room is None else room)
        asked = {one.name: one.of(values, axis if tensor.dim() else None) for one in further}
        sums.further = {**sums.further, **asked}
    return sums


def _reduced(x: Tensor, axis: int | None, ends: tuple[float, float] | None, whole: bool, room: Room) -> Sums:
    if x.device.type == "cuda":
        table = cuda.reduce(x, axis, ends)
        return Sums.of_table(reference.reduce(x, axis, ends) if table is None else table)
    sums = native.reduce(x, axis, ends, room, whole=whole) if uses_native() else None
    if sums is not None:
        return sums
    # which gives up where there is anything to tell apart
    sums = reference.reduce_whole(x, axis, ends, room) if whole else None
    if sums is not None:
        return sums
    sums = Sums.of_table(reference.reduce(x, axis, ends))
    # not on an accelerator, where to ask whether there are any would wait for the device
    return told_apart(x, sums) if x.is_cpu else sums


def reduce_all(tensors: Sequence[Tensor], axes: Sequence[int | None], room: Room) -> list[Sums] | None:
    """The sums of many whole tensors, where the C sweep takes all of them as they are; else None."""
    return native.reduce_all(tensors, axes, room) if uses_native() else None


def copies(tensors: Sequence[Tensor]) -> native.Copies | None:
    """Copies of tensors that C can compare with what these become, all of them; else None."""
    return native.Copies.of(tensors) if uses_native() else None


def path_of(device: torch.device | str) -> str:
    """Which path tensors on a device take: "native", "triton" or "reference"."""
    device = torch.device(device)
    if device.type == "cuda":
        return "triton" if cuda.status().triton else "reference"
    return "native" if device.type == "cpu" and uses_native() else "reference"


# asked of the environment once a pass, not once a tensor
_native: bool | None = None
