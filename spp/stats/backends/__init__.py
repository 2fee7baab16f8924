"""The reductions behind :class:`spp.stats.sums.Moments`, and who chooses among them.

``SPP_KERNELS=auto`` (the default) takes the C sweep for CPU tensors where a compiler is at hand, the Triton sweep for CUDA
tensors where Triton is, and the reference elsewhere; ``off`` takes the reference everywhere; ``require`` fails where a sweep
cannot be built.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from spp._cbuild import Status
from spp.stats.backends import cuda, native, reference
from spp.stats.backends.layout import plain


def choose() -> Status:
    """Decide which path CPU tensors take in the pass that begins; see :func:`spp.stats.backends.native.status`."""
    global _native
    status = native.status()
    _native = status.native
    return status


def reduce_channels(tensor: Tensor, axis: int | None, ends: tuple[float, float] | None = None) -> Tensor:
    """Reduce ``tensor`` to the ``(8, C)`` float64 table of :class:`spp.stats.sums.Moments`, on its device."""
    if _native is None:
        choose()
    with torch.no_grad():
        values = plain(tensor)
        if _native and values.device.type == "cpu":
            table = native.reduce(values, axis, ends)
            if table is not None:
                return table
        if values.device.type == "cuda":
            table = cuda.reduce(values, axis, ends)
            if table is not None:
                return table
        return reference.reduce(values, axis, ends)


def digest(tensor: Tensor, axis: int | None, dead: float, ends: tuple[float, float] | None) -> tuple[float, ...] | None:
    """The numbers of one tensor, as ``native.SUMMARY``, where there is a shorter way than by its table; else None."""
    with torch.no_grad():
        values = plain(tensor)
        found = native.digest(values, axis, dead, ends) if uses_native() else None
        return reference.digest(values, axis, dead, ends) if found is None else found[0]


def digests(
    tensors: Sequence[Tensor], axes: Sequence[int | None], dead: float
) -> list[tuple[tuple[float, ...], int]] | None:
    """The numbers of many tensors, and their channels, where the C sweep takes all of them as they are; else None."""
    return native.digests(tensors, axes, dead) if uses_native() else None


def copies(tensors: Sequence[Tensor]) -> native.Copies | None:
    """Copies of tensors that C can compare with what these become, all of them; else None."""
    return native.Copies.of(tensors) if uses_native() else None


def uses_native() -> bool:
    """Whether CPU tensors take the C sweep."""
    return choose().native if _native is None else _native


def path_of(device: torch.device | str) -> str:
    """Which path tensors on a device take: "native", "triton" or "reference"."""
    device = torch.device(device)
    if device.type == "cuda":
        return "triton" if cuda.status().triton else "reference"
    return "native" if device.type == "cpu" and uses_native() else "reference"


_native: bool | None = None
