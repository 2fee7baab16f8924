"""The reductions behind :class:`spp.measure.moments.Moments`, and who chooses among them.

``SPP_KERNELS=auto`` (the default) takes the C sweep for CPU tensors where a compiler is at hand, the Triton sweep for CUDA
tensors where Triton is, and the reference elsewhere; ``off`` takes the reference everywhere; ``require`` fails where a sweep
cannot be built.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from spp.measure.kernels import cuda, native, reference
from spp.measure.kernels.layout import plain


def choose() -> native.Status:
    """Decide for the pass that is about to begin which path CPU tensors take; see :func:`spp.measure.kernels.native.status`."""
    global _native
    status = native.status()
    _native = status.native
    return status


def reduce_channels(tensor: Tensor, axis: int | None, ends: tuple[float, float] | None = None) -> Tensor:
    """Reduce ``tensor`` to the ``(8, C)`` float64 table of :class:`spp.measure.moments.Moments`, on its device."""
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


def sweep(tensor: Tensor, axis: int | None, ends: tuple[float, float] | None) -> Tensor | None:
    """The table of one tensor that :func:`lies_plain`, where the C sweep takes it; else None."""
    return native.reduce(tensor, axis, ends) if uses_native() else None


def digest(tensor: Tensor, axis: int | None, dead: float, ends: tuple[float, float] | None) -> tuple[float, ...] | None:
    """The numbers of one tensor, in the order of ``native.SUMMARY``, where the C sweep takes it; else None."""
    if not uses_native():
        return None
    values = tensor if lies_plain(tensor) else _plain(tensor)
    return native.digest(values, axis, dead, ends) if values.is_cpu else None


def digests(tensors: Sequence[Tensor], axes: Sequence[int | None], dead: float) -> list[tuple[float, ...]] | None:
    """The numbers of many tensors in one go, where the C sweep takes all of them as they are; else None."""
    return native.digests(tensors, axes, dead) if uses_native() and all(map(lies_plain, tensors)) else None


def lies_plain(tensor: Tensor) -> bool:
    """Whether the sweep can read a tensor as it is, without what :func:`spp.measure.kernels.layout.plain` does to others."""
    return (
        tensor.is_cpu
        and type(tensor) in _ORDINARY
        and tensor.dtype in native.DTYPES
        and tensor.layout is torch.strided
        and not tensor.is_neg()
    )


def _plain(tensor: Tensor) -> Tensor:
    with torch.no_grad():
        return plain(tensor)


_ORDINARY = frozenset({Tensor, torch.nn.Parameter})


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
