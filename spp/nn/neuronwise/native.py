"""The C kernel of neuron-wise gradients, for float32 on the CPU: loading it, and giving it tensors.

It computes what ``statistics.py`` and ``transform.py`` say in torch operations, which stay the reference and run everywhere
else: the sums over masks by looking up sums of subsets, and all that follows from the sums in one pass over the weight.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from spp._cbuild import Library, Source, Status, mode

if TYPE_CHECKING:
    from spp.nn.neuronwise.statistics import Region

PATIENCE = 1.0
"""Seconds that the first backward pass waits for the compiler at most, which has been at it since the first layer was made."""
FEWEST_SAMPLES, FEWEST_SUMS, FEWEST_FEATURES = 30, 64, 12
"""Tables of sums are shared by all neurons (and positions under the kernel): below so many, products are as fast."""


class Conv(ctypes.Structure):
    """Sizes of a convolution, as in regions.c."""

    _fields_ = (
        ("images", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("height", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("neurons", ctypes.c_int64),
        ("out_height", ctypes.c_int64),
        ("out_width", ctypes.c_int64),
        ("kernel", ctypes.c_int64 * 2),
        ("step", ctypes.c_int64 * 2),
    )


class Finish(ctypes.Structure):
    """What ``spp_finish`` reads and writes, as in finish.h."""

    _fields_ = (
        ("neurons", ctypes.c_int64),
        ("features", ctypes.c_int64),
        ("pivot_step", ctypes.c_int64),
        ("centre", ctypes.c_int64),
        ("power", ctypes.c_int64),
        ("gradient", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("pivot", ctypes.c_void_p),
        ("offset", ctypes.c_void_p),
        ("second", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("least", ctypes.c_void_p),
        ("mean", ctypes.c_void_p),
        ("var", ctypes.c_void_p),
        ("newest", ctypes.c_void_p),
        ("moved", ctypes.c_void_p),
        ("eps", ctypes.c_double),
    )


def _bind(library: ctypes.CDLL) -> str:
    pointer, whole = ctypes.c_void_p, ctypes.c_int
    rest: list[type[ctypes.c_void_p | ctypes.c_int | ctypes.c_float]] = [
        pointer,
        pointer,
        pointer,
        ctypes.c_float,
        whole,
        pointer,
        pointer,
        whole,
    ]
    library.spp_regions_linear.argtypes = [*[ctypes.c_int64] * 3, *rest]
    library.spp_regions_conv.argtypes = [pointer, *rest]
    library.spp_finish.argtypes, library.spp_finish.restype = [pointer, whole], None
    return _self_test(library)


def _self_test(library: ctypes.CDLL) -> str:
    """A miscompiled kernel must not be trusted: three samples, two neurons, two features."""
    mask, x = torch.tensor([[True, False], [False, False], [True, True]]), torch.tensor([[1.0, 2], [3, 4], [5, -6]])
    first, second, each = torch.empty(2, 2), torch.empty(2, 2), torch.tensor([0.5, 1])
    given = (tensor.data_ptr() for tensor in (mask, x, each))
    library.spp_regions_linear(3, 2, 2, *given, 0.25, 0, first.data_ptr(), second.data_ptr(), 1)
    right = first.tolist() == [[3, -2], [5, -6]] and second.tolist() == [[13.25, 20.25], [25.25, 36.25]]
    return "" if right else "the compiled kernel gives wrong sums"


LIBRARY = Library(Source(Path(__file__).with_name("regions.c"), ("finish.h",)), _bind)


def start() -> None:
    """Begin to build the kernel, where it will be wanted, without waiting for it."""
    if mode() != "off":
        LIBRARY.start()


def kernel_for(*tensors: Tensor) -> ctypes.CDLL | None:
    """The kernel, where it may read such tensors now.

    Raises:
        InputError: ``SPP_KERNELS`` is none of its values, or "require" and there is no kernel.
    """
    # A graph that is being traced, or a mode that sees every operation, is to see all of them.
    if torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None:
        return None
    if not all(tensor.is_cpu and type(tensor) in _ORDINARY for tensor in tensors):
        return None
    return LIBRARY.loaded if status().native else None


def status() -> Status:
    """Whether the kernel is in use, and why.

    Raises:
        InputError: ``SPP_KERNELS`` is none of its values, or "require" and there is no kernel.
    """
    return LIBRARY.status(60 if mode() == "require" else PATIENCE)


def is_worth_it(samples: int, sums: int, features: int) -> bool:
    """Whether tables are shared enough, by so many sums of so many features each."""
    return samples >= FEWEST_SAMPLES and sums >= FEWEST_SUMS and features >= FEWEST_FEATURES


def threads() -> int:
    """How many threads a call may use."""
    return torch.get_num_threads() if LIBRARY.threaded else 1


_ORDINARY = (Tensor, torch.nn.Parameter)


def sum_linear(
    library: ctypes.CDLL, mask: Tensor, x: Tensor, each: Tensor, eps: float, more: bool, into: tuple[Tensor, Tensor]
) -> None:
    """``each P^T X`` and ``each P^T X^2 + eps``, or both added to what is there.

    Args:
        library: The kernel.
        mask: ``P (N, O)``, boolean.
        x: ``X (N, F)``.
        each: ``(O,)``.
        eps: Added to the second where nothing is there yet.
        more: Whether ``into`` holds sums to add to.
        into: Two tensors ``(O, F)``.
    """
    mask, x = mask.contiguous(), x.contiguous()
    pointers = [tensor.data_ptr() for tensor in (mask, x, each)]
    results = [tensor.data_ptr() for tensor in into]
    if library.spp_regions_linear(*mask.shape, x.shape[1], *pointers, eps, more, *results, threads()):
        raise MemoryError("no memory for the marks of a linear region")


def sum_conv(
    library: ctypes.CDLL,
    mask: Tensor,
    x: Tensor,
    each: Tensor,
    eps: float,
    more: bool,
    into: tuple[Tensor, Tensor],
    dilation: tuple[int, ...],
) -> None:
    """The same for a convolution of stride 1 in one group.

    Args:
        library: The kernel.
        mask: ``(N, O, *S')``, boolean.
        x: ``(N, C, *S)``, padded.
        each: ``(O,)``.
        eps: Added to the second where nothing is there yet.
        more: Whether ``into`` holds sums to add to.
        into: Two tensors ``(O, C, *K)``.
        dilation: Per spatial axis.
    """
    mask, x = mask.contiguous(), x.contiguous()
    lone = (1,) * (4 - x.ndim)  # one spatial axis is two, of which the first is 1
    whole = ctypes.c_int64 * 2
    sizes = Conv(
        *x.shape[:2],
        *lone,
        *x.shape[2:],
        mask.shape[1],
        *lone,
        *mask.shape[2:],
        whole(*lone, *into[0].shape[2:]),
        whole(*lone, *dilation),
    )
    pointers = [tensor.data_ptr() for tensor in (mask, x, each)]
    results = [tensor.data_ptr() for tensor in into]
    if library.spp_regions_conv(ctypes.addressof(sizes), *pointers, eps, more, *results, threads()):
        raise MemoryError("no memory for the marks of a linear region")


def finish_(
    library: ctypes.CDLL,
    region: Region,
    mode: str,
    *,
    bias: bool,
    running: tuple[Tensor, Tensor] | None = None,
    newest: Tensor | None = None,
    eps: float = 0.0,
) -> Tensor | None:
    """Overwrite the region's weight gradient with the neuron-wise one; fold the region into running statistics.

    Args:
        library: The kernel.
        region: All of it is float32, on the CPU and contiguous but the pivot.
        mode: A name of ``spp.nn.neuronwise.MODES``.
        bias: Whether the layer has a bias that is trained.
        running: Mean and variance ``(O, *F)``, which are used instead of the region's own.
        newest: ``(O,)``, how much the region weighs in them; None to leave them as they are.
        eps: Added to the running variance.

    Returns:
        ``(O,)``, the sum over features of mean times result, where the mode moves the bias by it; else None.
    """
    gradient = region.weight_gradient
    rows = region.pivot if region.pivot.shape[0] == 1 else region.pivot.expand_as(gradient)
    pivot = rows.expand(len(rows), *gradient.shape[1:]).contiguous()
    coords = mode.startswith("coords")
    moved = torch.empty_like(region.bias_gradient) if coords and bias else None
    mean, var = running or (None, None)
    about = Finish(
        len(gradient),
        gradient[0].numel(),
        gradient[0].numel() if len(pivot) > 1 else 0,
        bias or not coords,
        {"coords": 2, "outer": 1}.get(mode, 0),
        *(
            None if tensor is None else tensor.data_ptr()
            for tensor in (
                gradient,
                region.bias_gradient,
                pivot,
                region.offset,
                region.second,
                region.scale,
                region.least,
                mean,
                var,
                newest,
                moved,
            )
        ),
        eps,
    )
    library.spp_finish(ctypes.addressof(about), threads())
    return moved


def takes(region: Region, *running: Tensor) -> bool:
    """Whether ``finish_`` can read and write these."""
    tensors = (region.weight_gradient, region.bias_gradient, region.offset, region.second, region.least, *running)
    there = region.weight_gradient.numel() > 0
    return there and all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in tensors)
