"""The reductions behind :class:`spp.measure.moments.Moments`, and who chooses among them.

``SPP_KERNELS=auto`` (the default) takes the C sweep for CPU tensors where a compiler is at hand, the Triton sweep for CUDA
tensors where Triton is, and the reference elsewhere; ``off`` takes the reference everywhere; ``require`` fails where a sweep
cannot be built.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spp.measure.kernels import cuda, native, reference
from spp.measure.kernels.layout import Row, plain

Array = npt.NDArray[np.float64]


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
            table = native.reduce(values, axis)
            if table is not None:
                if ends is not None:
                    table[Row.SATURATED] = reference.saturated(values, axis, ends)
                return table
        if values.device.type == "cuda":
            table = cuda.reduce(values, axis, ends)
            if table is not None:
                return table
        return reference.reduce(values, axis, ends)


def digest(tensor: Tensor, axis: int | None, dead: float, ends: tuple[float, float] | None) -> Array | None:
    """The numbers of one tensor, in the order of ``native.SUMMARY``, where the C sweep takes it; else None."""
    if not uses_native():
        return None
    with torch.no_grad():
        values = plain(tensor)
        numbers = native.digest(values, axis, dead) if values.device.type == "cpu" else None
        if numbers is not None and ends is not None:
            numbers[-1] = float(reference.saturated(values, None, ends)) / numbers[0] if numbers[0] else numbers[-1]
    return numbers


def uses_native() -> bool:
    """Whether CPU tensors take the C sweep."""
    return choose().native if _native is None else _native


def path_of(device: torch.device) -> str:
    """Which path tensors on a device take: "native", "triton" or "reference"."""
    if device.type == "cuda":
        return "triton" if cuda.status().triton else "reference"
    return "native" if device.type == "cpu" and uses_native() else "reference"


_native: bool | None = None
