"""The C sweep: its library, how it walks over a layout, and giving it tensors as pointers, sizes and strides."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from struct import Struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spp._cbuild import Library, Source, Status
from spp.stats.backends.layout import Row, collapse

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
"""What the sweep reads, by its number there."""

DIMS = 6
GRAIN = 1 << 15
"""Elements below which one thread works alone, as in torch."""
Dims = ctypes.c_int64 * DIMS


class Layout(ctypes.Structure):
    """``Layout`` of ``sweep.c``; ``repeats`` counts what expanded axes repeat, ``dtype`` is a number of :data:`DTYPES`."""

    _fields_ = (
        ("dims", ctypes.c_int64),
        ("sizes", Dims),
        ("strides", Dims),
        ("channels", ctypes.c_int64),
        ("channel_stride", ctypes.c_int64),
        ("run", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("repeats", ctypes.c_int64),
        ("dtype", ctypes.c_int64),
    )


class Plan(NamedTuple):
    """How the sweep walks over a layout: what C reads, its address, and what Python asks of it.

    Attributes:
        layout: What C reads.
        address: Where it lies.
        channels: Number of channels.
        large: Whether several threads are worth it.
        table: The ctypes array that a table of all channels fills.
    """

    layout: Layout
    address: int
    channels: int
    large: bool
    table: type[ctypes.Array[ctypes.c_double]]


@lru_cache(maxsize=4096)
def plan_of(shape: tuple[int, ...], strides: tuple[int, ...], axis: int | None, dtype: int) -> Plan | None:
    """How to walk over a layout in the order of memory; None for empty tensors and layouts with too many axes."""
    if 0 in shape:
        return None
    rank = len(shape)
    axis = axis % rank if axis is not None and rank else None
    channels, channel_stride = (shape[axis], strides[axis]) if axis is not None else (1, 0)
    rest = [(n, s) for i, (n, s) in enumerate(zip(shape, strides, strict=True)) if i != axis and n != 1]
    repeats = 1
    for size, stride in rest:
        repeats *= size if stride == 0 else 1
    walk = collapse(sorted((ns for ns in rest if ns[1] != 0), key=lambda ns: -ns[1]))
    run = 1
    columns = int(channels > 1 and channel_stride == 1)
    if not columns and walk and walk[-1][1] == 1:
        run = walk.pop()[0]
    if len(walk) > DIMS:
        return None
    numel = channels * run
    for size, _ in walk:
        numel *= size
    sizes = Dims(*([n for n, _ in walk] or [1]))
    steps = Dims(*([s for _, s in walk] or [0]))
    layout = Layout(max(1, len(walk)), sizes, steps, channels, channel_stride, run, columns, repeats, dtype)
    table = ctypes.c_double * (len(Row) * channels)
    return Plan(layout, ctypes.addressof(layout), channels, numel > GRAIN, table)


SOURCE = Source(Path(__file__).with_name("sweep.c"), ("walk.h", "narrow.h", "wide.h", "numbers.h"))
PATIENCE = 3.0
"""Seconds that the first trace waits for the compiler at most; a later one finds what came out after that."""


class Functions(NamedTuple):
    """What the library exports, see ``sweep.c``."""

    sweep: ctypes._NamedFuncPointer
    digests: ctypes._NamedFuncPointer
    summary: ctypes._NamedFuncPointer
    moved: ctypes._NamedFuncPointer


class Sweep(Library):
    """The loaded sweep, or why there is none.

    Attributes:
        functions: What it can do, once it is loaded and has passed its test.
        readable: The dtypes that this build reads, by their number in C.
    """

    def __init__(self) -> None:
        super().__init__(SOURCE, self._bind)
        self.functions: Functions | None = None
        self.readable: dict[torch.dtype, int] = {}

    def _bind(self, library: ctypes.CDLL) -> str:
        functions = Functions(library.spp_sweep, library.spp_digests, library.spp_summary, library.spp_moved)
        pointer, whole, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
        functions.sweep.argtypes = [pointer, pointer, ctypes.c_int, pointer, pointer, number, pointer]
        functions.digests.argtypes = [whole, pointer, pointer, pointer, number, pointer]
        functions.summary.argtypes = [whole, pointer, pointer, number, pointer]
        functions.moved.argtypes = [whole, pointer, pointer, pointer, pointer, ctypes.c_int, pointer]
        functions.sweep.restype, functions.digests.restype = ctypes.c_int, whole
        functions.summary.restype = functions.moved.restype = None
        wrong = _self_test(functions)
        if not wrong:
            known = int(library.spp_dtypes())
            self.readable = {dtype: code for dtype, code in DTYPES.items() if known >> code & 1}
            self.functions = functions
        return wrong


LIBRARY = Sweep()


def status() -> Status:
    """Which path CPU tensors take, and why; builds the library if it has not been asked for.

    Raises:
        InputError: SPP_KERNELS is none of its values, or "require" and there is no kernel.
    """
    return LIBRARY.status(PATIENCE)


def _self_test(functions: Functions) -> str:
    """A miscompiled kernel must not be trusted: one small tensor whose sums are known, in both shapes of the sweep."""
    values = torch.tensor([[1.0, 2.0, 0.0], [4.0, float("nan"), -5.0]])
    for columns, want in ((0, [[3, 2], [1, -0.5], [2, 40.5]]), (1, [[2, 1, 2], [2.5, 2, -2.5], [4.5, 0, 12.5]])):
        channels, run = (3, 1) if columns else (2, 3)
        sizes, strides = Dims(2 if columns else 1), Dims(3)
        layout = Layout(1, sizes, strides, channels, 1 if columns else 3, run, columns, 1, DTYPES[values.dtype])
        table = torch.empty((len(Row), channels), dtype=torch.float64)
        code = functions.sweep(values.data_ptr(), ctypes.addressof(layout), 1, None, table.data_ptr(), 0.0, None)
        if code or not torch.allclose(table[:3], torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=0):
            return "the compiled kernel gives wrong sums"
    return ""


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
    dtype = LIBRARY.readable.get(tensor.dtype)
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
    known = LIBRARY
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
    known = LIBRARY
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
    functions = LIBRARY.functions
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


ROOM = 1 << 20
"""Bytes that small tensors share: a copy of each by itself costs more than the copying."""


class Copies:
    """What plain CPU tensors held, each in one stretch of memory."""

    def __init__(self, tensors: Sequence[Tensor], plans: Sequence[Plan]) -> None:
        self._plans = list(plans)
        self._layouts = list(map(_layout, tensors))
        self._rooms: list[Tensor] = []
        self._at: list[int] = []
        start, left = 0, 0
        for i, tensor in enumerate(tensors):
            size = tensor.nbytes + -tensor.nbytes % 64
            if size > left:
                left = max(size, min(ROOM, sum(t.nbytes + 64 for t in tensors[i:])))
                self._rooms.append(torch.empty(left, dtype=torch.uint8))
                start = self._rooms[-1].data_ptr()
            ctypes.memmove(start, tensor.data_ptr(), tensor.nbytes)
            self._at.append(start)
            start, left = start + size, left - size

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Copies | None:
        """Copy tensors; None where the C library is not there or cannot compare one of them."""
        plans = [plan_for(tensor, None) for tensor in tensors]
        whole = [plan for plan in plans if plan is not None]
        if len(whole) < len(tensors) or not all(map(_in_one_stretch, tensors)):
            return None
        return cls(tensors, whole)

    def moved(self, now: Sequence[Tensor]) -> list[float]:
        """For each tensor the sum of the squares of what its elements have gained or lost, as far as that is finite.

        NaN where the tensor has another layout or dtype by now, and nothing can be compared.
        """
        functions, threaded = LIBRARY.functions, LIBRARY.threaded
        out = np.full(len(self._at), np.nan)
        same = [
            i
            for i, (tensor, layout) in enumerate(zip(now, self._layouts, strict=True))
            if _layout(tensor) == layout and plan_for(tensor, None) is not None
        ]
        if functions is None or not same:
            return [float(x) for x in out]
        rows = [(self._at[i], now[i].data_ptr(), self._plans[i].address, now[i].numel()) for i in same]
        columns = np.array(rows, dtype=np.int64).T.copy()
        found = np.empty(len(same))
        threads = torch.get_num_threads() if threaded else 1
        functions.moved(len(same), *(column.ctypes.data for column in columns), threads, found.ctypes.data)
        out[same] = found
        return [float(x) for x in out]


def _layout(tensor: Tensor) -> tuple[object, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype


def _in_one_stretch(tensor: Tensor) -> bool:
    if tensor.is_contiguous():
        return True
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
