"""The C sweep: its library, how it walks over a layout, and giving it tensors as pointers, sizes and strides."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from spp._cbuild import Library, Source, Status
from spp.stats.extra import told_apart
from spp.stats.layout import walk_of
from spp.stats.sums import DEAD_SPREAD, FAR, ROWS, TOTALS, Room, Row, Sums, Total

# What the sweep reads, by its number there.
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}

DIMS = 6
# Elements below which one thread works alone, as in torch.
GRAIN = 1 << 15
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
    """

    layout: Layout
    address: int
    channels: int
    large: bool


@lru_cache(maxsize=4096)
def plan_of(shape: tuple[int, ...], strides: tuple[int, ...], axis: int | None, dtype: int) -> Plan | None:
    """How to walk over a layout in the order of memory; None for empty tensors and layouts with too many axes."""
    walk = walk_of(shape, strides, axis)
    if walk is None:
        return None
    channels, channel_stride, axes, repeats = walk
    columns = int(channels > 1 and channel_stride == 1)
    run = axes.pop()[0] if not columns and axes and axes[-1][1] == 1 else 1
    if len(axes) > DIMS:
        return None
    numel = channels * run * math.prod(n for n, _ in axes)
    sizes, steps = Dims(*([n for n, _ in axes] or [1])), Dims(*([s for _, s in axes] or [0]))
    layout = Layout(max(1, len(axes)), sizes, steps, channels, channel_stride, run, columns, repeats, dtype)
    return Plan(layout, ctypes.addressof(layout), channels, numel > GRAIN)


# What C knows of the tables of :mod:`spp.stats.sums`.
DEFINES = (
    *(f"-DROW_{row.name}={row:d}" for row in Row),
    *(f"-DTOTAL_{total.name}={total:d}" for total in Total),
    f"-DROWS={ROWS}",
    f"-DTOTALS={TOTALS}",
    f"-DDEAD_SPREAD={DEAD_SPREAD}",
    f"-DFAR_END={FAR}",
)
SOURCE = Source("spp.stats.backends", "sweep.c", ("walk.h", "narrow.h", "wide.h", "numbers.h"), DEFINES)
# Seconds that the first trace waits for the compiler at most; a later one finds what came out after that.
PATIENCE = 3.0


# What the sweep returns, as ``enum result`` of ``sweep.c``.
FAILED, RARE = 1, 2


class Functions(NamedTuple):
    """What the library exports, see ``sweep.c``."""

    sweep: ctypes._NamedFuncPointer
    totals: ctypes._NamedFuncPointer
    moved: ctypes._NamedFuncPointer


class Sweep(Library):
    """The loaded sweep, or why there is none.

    Attributes:
        functions: What it can do; there once it is loaded and has passed its test.
        readable: The dtypes that this build reads, by their number in C; none before.
    """

    def __init__(self) -> None:
        super().__init__(SOURCE, self._bind)
        self.functions: Functions
        self.readable: dict[torch.dtype, int] = {}

    def _bind(self, library: ctypes.CDLL) -> str:
        functions = Functions(library.spp_sweep, library.spp_totals, library.spp_moved)
        pointer, whole, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
        # without these ctypes takes a Python integer for a C int and cuts addresses in half
        functions.sweep.argtypes = [pointer, pointer, number, pointer, number, pointer]
        functions.totals.argtypes = [whole, pointer, pointer, pointer, pointer]
        functions.moved.argtypes = [whole, pointer, pointer, pointer, pointer, number, pointer]
        functions.sweep.restype, functions.totals.restype, functions.moved.restype = number, number, None
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
        table = torch.empty((ROWS, channels), dtype=torch.float64)
        code = functions.sweep(values.data_ptr(), ctypes.addressof(layout), 1, None, 0, table.data_ptr())
        if code == FAILED or not torch.allclose(table[:3], torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=0):
            return "the compiled kernel gives wrong sums"
    return ""


Ends = tuple[float, float]
_ends = ctypes.c_double * 2
# a subclass may keep its numbers elsewhere, and the same type is the fastest question
_ORDINARY = frozenset({Tensor, torch.nn.Parameter})


def plan_for(tensor: Tensor, axis: int | None) -> Plan | None:
    """How the sweep walks over a tensor that it can read as it is; None for others, and where there is no sweep."""
    if type(tensor) not in _ORDINARY or not tensor.is_cpu:
        return None
    dtype = LIBRARY.readable.get(tensor.dtype)
    # is_neg: the sign of the imaginary part of a conjugate is a bit beside the numbers
    if dtype is None or tensor.layout is not torch.strided or tensor.is_neg():
        return None
    return plan_of(tensor.shape, tensor.stride(), axis, dtype)


def reduce(tensor: Tensor, axis: int | None, ends: Ends | None, room: Room, *, whole: bool) -> Sums | None:
    """The sums of a tensor that the sweep can read as it is; None for others.

    Args:
        tensor: Any tensor.
        axis: The channel axis.
        ends: Values at or beyond which are saturated.
        room: Where the sums go.
        whole: Whether those of the whole tensor are enough.
    """
    plan = plan_for(tensor, axis)
    if plan is None or not (address := _address(tensor)):
        return None
    # one look-up of the global for all that follows: this runs at every output of every module
    known = LIBRARY
    block, start, out = room.take(TOTALS if whole else ROWS * plan.channels)
    threads = torch.get_num_threads() if plan.large and known.threaded else 1
    result = known.functions.sweep(address, plan.address, threads, None if ends is None else _ends(*ends), whole, out)
    if result == FAILED:
        return None
    sums = Sums(block, plan.channels, start, whole=whole)
    return told_apart(tensor, sums) if result == RARE else sums


def reduce_all(tensors: Sequence[Tensor], axes: Sequence[int | None], room: Room) -> list[Sums] | None:
    """The sums of many whole tensors in one call; None where the sweep cannot read one of them as it is."""
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
    # a row of each kind of number, in one stretch, is an array in C
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3).T.copy()
    block, start, out = room.take(TOTALS * len(rows))
    result = known.functions.totals(len(rows), *(column.ctypes.data for column in columns), out)
    if result == FAILED:
        return None
    found = [Sums(block, many, start + TOTALS * i, whole=True) for i, many in enumerate(channels)]
    return list(map(told_apart, tensors, found)) if result == RARE else found


def _address(tensor: Tensor) -> int:
    """Where the numbers lie; 0 for a wrapper without storage of its own, as inside ``torch.func.grad``."""
    try:
        return tensor.data_ptr()
    except RuntimeError:
        return 0


# Bytes that small tensors share: a copy of each by itself costs more than the copying.
ROOM = 1 << 20


class Copies:
    """What plain CPU tensors held, each in one stretch of memory."""

    def __init__(self, tensors: Sequence[Tensor], plans: Sequence[Plan]) -> None:
        self._plans = list(plans)
        self._layouts = list(map(_layout, tensors))
        # whole lines of the cache, so that no two threads compare one
        lines = [-(-tensor.nbytes // 64) for tensor in tensors]
        room = Room(8 * min(ROOM // 64, sum(lines)))
        found = [room.take(8 * many) for many in lines]
        self._blocks, self._at = [block for block, _, _ in found], [address for _, _, address in found]
        for address, tensor in zip(self._at, tensors, strict=True):
            ctypes.memmove(address, tensor.data_ptr(), tensor.nbytes)

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
        out = np.full(len(self._at), np.nan)
        pairs = enumerate(zip(now, self._layouts, strict=True))
        same = [i for i, (t, layout) in pairs if _layout(t) == layout and plan_for(t, None) is not None]
        rows = [(self._at[i], now[i].data_ptr(), self._plans[i].address, now[i].numel()) for i in same]
        columns = np.array(rows, dtype=np.int64).reshape(-1, 4).T.copy()
        found = np.empty(len(same))
        threads = torch.get_num_threads() if LIBRARY.threaded else 1
        if same:
            LIBRARY.functions.moved(len(same), *(c.ctypes.data for c in columns), threads, found.ctypes.data)
        out[same] = found
        return list(map(float, out))


def _layout(tensor: Tensor) -> tuple[object, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype


def _in_one_stretch(tensor: Tensor) -> bool:
    if tensor.is_contiguous():
        return True
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
