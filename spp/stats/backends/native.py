"""The C sweep: giving it tensors as pointers, sizes and strides."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from struct import Struct

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spp.stats.backends import library
from spp.stats.backends.layout import Row
from spp.stats.backends.plans import Plan, plan_of

SUMMARY = (
    "total",
    "nonfinite",
    "mean",
    "var",
    "mean_square",
    "acsm",
    "acv",
    "min",
    "max",
    "zero_fraction",
    "dead_fraction",
    "saturated_fraction",
)
"""Columns that ``spp_summary`` writes, in its order."""
Ends = tuple[float, float]
Table = ctypes.Array[ctypes.c_double]
"""``(8, C)`` numbers as C has written them; a tensor over them costs three times as much to make."""
_ends = ctypes.c_double * 2
_ORDINARY = frozenset({Tensor, torch.nn.Parameter})


class _Scratch(threading.local):
    """Where the sweep writes its numbers on this thread; what is kept of them are Python's own floats.

    A small block of the heap for each tensor, kept until the trace ends, would lie between the network's large ones and hold
    them apart: it costs hundreds of MiB.
    """

    def __init__(self) -> None:
        self.numbers = (ctypes.c_double * len(SUMMARY))()
        self.address = ctypes.addressof(self.numbers)


_SCRATCH = _Scratch()
_numbers = Struct(f"{len(SUMMARY)}d").unpack


def plan_for(tensor: Tensor, axis: int | None) -> Plan | None:
    """How the sweep walks over a tensor that it can read as it is; None for others, and where there is no sweep."""
    if type(tensor) not in _ORDINARY or not tensor.is_cpu:
        return None
    dtype = library.LIBRARY.readable.get(tensor.dtype)
    if dtype is None or tensor.layout is not torch.strided or tensor.is_neg():
        return None
    return plan_of(tensor.shape, tensor.stride(), axis, dtype)


def table(tensor: Tensor, plan: Plan, ends: Ends | None = None) -> Table | None:
    """The ``(8, C)`` numbers of a tensor, or None where the kernel cannot read it after all."""
    numbers = plan.table()
    return None if _failed(tensor, plan, ends, ctypes.addressof(numbers), 0.0, None) else numbers


def as_tensor(numbers: Table) -> Tensor:
    """The same memory as a tensor, ``(8, C)`` float64."""
    return torch.frombuffer(numbers, dtype=torch.float64).view(len(Row), -1)


def reduce(tensor: Tensor, axis: int | None, ends: Ends | None = None) -> Tensor | None:
    """The ``(8, C)`` table of a plain CPU tensor, or None where the kernel does not take it."""
    plan = plan_for(tensor, axis)
    numbers = None if plan is None else table(tensor, plan, ends)
    return None if numbers is None else as_tensor(numbers)


def digest(
    tensor: Tensor, axis: int | None, dead: float, ends: Ends | None = None
) -> tuple[tuple[float, ...], int] | None:
    """The numbers of one tensor, as ``SUMMARY``, and its number of channels; None where the kernel does not take it."""
    plan, scratch = plan_for(tensor, axis), _SCRATCH
    if plan is None or _failed(tensor, plan, ends, None, dead, scratch.address):
        return None
    return _numbers(scratch.numbers), plan.channels


def _failed(tensor: Tensor, plan: Plan, ends: Ends | None, table: int | None, dead: float, summary: int | None) -> bool:
    """Sweep a tensor into a table, or else into a summary; whether nothing was written."""
    known = library.LIBRARY
    functions, address = known.functions, _address(tensor)
    if not address or functions is None:
        return True
    threads = torch.get_num_threads() if plan.large and known.threaded else 1
    bounds = None if ends is None else _ends(*ends)
    return bool(functions.sweep(address, plan.address, threads, bounds, table, dead, summary))


def _address(tensor: Tensor) -> int:
    """Where the numbers lie; 0 for a wrapper without storage of its own, as inside ``torch.func.grad``."""
    try:
        return tensor.data_ptr()
    except RuntimeError:
        return 0


def digests(
    tensors: Sequence[Tensor], axes: Sequence[int | None], dead: float
) -> list[tuple[tuple[float, ...], int]] | None:
    """The numbers of many tensors in one call, as ``SUMMARY``, and the number of channels of each.

    None where the sweep cannot read one of them as it is, or memory ran out.
    """
    known = library.LIBRARY
    most = torch.get_num_threads() if known.threaded else 1
    rows: list[tuple[int, int, int]] = []
    channels: list[int] = []
    for tensor, axis in zip(tensors, axes, strict=True):
        plan = plan_for(tensor, axis)
        if plan is None or not (address := _address(tensor)):
            return None
        rows.append((address, plan.address, most if plan.large else 1))
        channels.append(plan.channels)
    if known.functions is None:
        return None
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3).T.copy()
    out = np.empty((len(rows), len(SUMMARY)))
    done = known.functions.digests(len(out), *(column.ctypes.data for column in columns), dead, out.ctypes.data)
    return list(zip(map(tuple, out.tolist()), channels, strict=True)) if done == len(out) else None


def summarize(tables: Sequence[Tensor | Table], dead: float) -> npt.NDArray[np.float64] | None:
    """The numbers of many tables at once, ``(len(SUMMARY), readings)``; None without the kernel or off the CPU."""
    functions = library.LIBRARY.functions
    if functions is None or any(isinstance(t, Tensor) and not t.is_cpu for t in tables):
        return None
    whole = [t.contiguous() if isinstance(t, Tensor) else t for t in tables]
    found = [
        (t.data_ptr(), t.shape[1]) if isinstance(t, Tensor) else (ctypes.addressof(t), len(t) // len(Row))
        for t in whole
    ]
    pointers, channels = np.array(found, dtype=np.int64).reshape(-1, 2).T.copy()
    out = np.empty((len(whole), len(SUMMARY)))
    functions.summary(len(whole), pointers.ctypes.data, channels.ctypes.data, dead, out.ctypes.data)
    return out.T
