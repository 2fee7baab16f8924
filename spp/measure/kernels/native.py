"""The C sweep: loading it, and giving it a tensor as pointers, sizes and strides."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spp.errors import InputError
from spp.measure.kernels import compile as compiling
from spp.measure.kernels.layout import Row
from spp.measure.kernels.plans import Dims, Layout, Plan
from spp.measure.kernels.plans import plan_of as plan_of

PATIENCE = 3.0
"""Seconds that the first trace waits for the compiler at most; a later one finds what came out after that."""
MODES = ("auto", "off", "require")
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
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
_Ends = ctypes.c_double * 2


class Status(NamedTuple):
    """Which path the CPU takes, and why."""

    native: bool
    reason: str


class _Library:
    """The loaded sweep, or why there is none; asked for once per process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._builder: threading.Thread | None = None
        self._asked = False
        self.sweep: ctypes._NamedFuncPointer | None = None
        self.summary: ctypes._NamedFuncPointer | None = None
        self.digests: ctypes._NamedFuncPointer | None = None
        self.dtypes = 0
        self.threaded = False
        self.reason = ""

    def get(self) -> ctypes._NamedFuncPointer | None:
        if self._asked:
            return self.sweep
        with self._lock:
            if self._builder is None:
                self._builder = threading.Thread(target=self._prepare, name="spp-compile", daemon=True)
                self._builder.start()
            self._builder.join(PATIENCE)
            if self._builder.is_alive():
                self.reason = f"still compiling after {PATIENCE:g} s"
            else:
                self._asked = True
        return self.sweep

    def _prepare(self) -> None:
        compiler = compiling.find_compiler()
        if compiler is None:
            self.reason = "no C compiler found (cc, gcc, clang or $CC)"
            return
        if not compiling.is_private(compiling.cache_folder() / "library"):
            self.reason = f"{compiling.cache_folder()} can be written by others"
            return
        reasons = []
        for attempt in range(len(compiling.ATTEMPTS)):
            try:
                build = compiling.plan(compiler, attempt)
                reason = "" if build.path.exists() else compiling.build(build, timeout=60)
                reason = reason or self._load(build)
            except (OSError, ValueError, AttributeError, ctypes.ArgumentError) as error:
                reason = str(error)
            if not reason:
                threads = "with torch's threads" if build.threaded else "on one thread"
                self.reason = f"compiled by {compiler}, {threads}, at {build.path}"
                return
            reasons.append(reason)
        self.reason = reasons[0]

    def _load(self, build: compiling.Build) -> str:
        if not compiling.is_private(build.path):
            return f"{build.path.parent} can be written by others"
        library = ctypes.CDLL(str(build.path))
        sweep = library.spp_sweep
        pointer, whole = ctypes.c_void_p, ctypes.c_int
        sweep.argtypes = [pointer, whole, pointer, whole, pointer, pointer, ctypes.c_double, pointer]
        sweep.restype = ctypes.c_int
        summary = library.spp_summary
        summary.argtypes = [ctypes.c_int64, pointer, pointer, ctypes.c_double, pointer]
        summary.restype = None
        digests = library.spp_digests
        digests.argtypes = [ctypes.c_int64, pointer, pointer, pointer, pointer, ctypes.c_double, pointer]
        digests.restype = ctypes.c_int64
        self.digests, self.summary = digests, summary
        self.dtypes, self.threaded = int(library.spp_dtypes()), build.threaded
        if wrong := _self_test(sweep):
            return wrong
        self.sweep = sweep
        return ""


_LIBRARY = _Library()


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


def mode() -> str:
    """``$SPP_KERNELS``: auto, off or require.

    Raises:
        InputError: It is something else.
    """
    value = os.environ.get("SPP_KERNELS", "auto")
    if value not in MODES:
        raise InputError("SPP_KERNELS is auto, off or require", received=repr(value), where="environment")
    return value


def status() -> Status:
    """Which path CPU tensors take, and why; builds the library if it has not been asked for.

    Raises:
        InputError: SPP_KERNELS is none of its values, or "require" and there is no kernel.
    """
    wanted = mode()
    if wanted == "off":
        return Status(False, "SPP_KERNELS=off")
    sweep = _LIBRARY.get()
    if sweep is None and wanted == "require":
        raise InputError(
            "SPP_KERNELS=require needs the C kernel",
            received=_LIBRARY.reason,
            where="environment",
            remedy="Install a C compiler, or unset SPP_KERNELS to use the slower reference path",
        )
    return Status(sweep is not None, _LIBRARY.reason)


def reduce(tensor: Tensor, axis: int | None, ends: tuple[float, float] | None = None) -> Tensor | None:
    """The ``(8, C)`` table of a plain CPU tensor, or None where the kernel does not take it."""
    plan = _takes(tensor, axis)
    if plan is None:
        return None
    table = torch.empty((len(Row), plan.channels), dtype=torch.float64)
    if _run(tensor, plan, ends, table.data_ptr(), 0.0, None):
        return None
    if plan.repeats != 1:
        for row in (Row.COUNT, Row.M2, Row.ZEROS, Row.NONFINITE, Row.SATURATED):
            table[row] *= plan.repeats
    return table


def digest(
    tensor: Tensor, axis: int | None, dead: float, ends: tuple[float, float] | None = None
) -> tuple[float, ...] | None:
    """The numbers of one plain CPU tensor, as ``SUMMARY``, without a table; None where the kernel does not take it."""
    plan = _takes(tensor, axis)
    if plan is None or _run(tensor, plan, ends, None, dead, _SCRATCH.address):
        return None
    return _numbers(_SCRATCH.numbers)


def digests(tensors: Sequence[Tensor], axes: Sequence[int | None], dead: float) -> list[tuple[float, ...]] | None:
    """The numbers of many plain CPU tensors in one call; None where the kernel does not take one of them."""
    call, plans = _LIBRARY.digests, [_takes(tensor, axis) for tensor, axis in zip(tensors, axes, strict=True)]
    most = torch.get_num_threads() if _LIBRARY.threaded else 1
    table: list[tuple[int, int, int, int]] = []
    for tensor, plan in zip(tensors, plans, strict=True):
        address = _address(tensor)
        if plan is None or not address:
            return None
        table.append((address, DTYPES[tensor.dtype], plan.address, most if plan.large else 1))
    columns = np.array(table, dtype=np.int64).reshape(-1, 4).T.copy()
    out = np.empty((len(table), len(SUMMARY)))
    if call is None or call(len(table), *(column.ctypes.data for column in columns), dead, out.ctypes.data) < len(
        table
    ):
        return None
    return list(map(tuple, out.tolist()))


def _takes(tensor: Tensor, axis: int | None) -> Plan | None:
    dtype = DTYPES.get(tensor.dtype)
    if _LIBRARY.sweep is None or dtype is None or not _LIBRARY.dtypes >> dtype & 1:
        return None
    return plan_of(tensor.shape, tensor.stride(), axis)


def _run(
    tensor: Tensor, plan: Plan, ends: tuple[float, float] | None, table: int | None, dead: float, summary: int | None
) -> int:
    assert _LIBRARY.sweep is not None  # _takes has asked
    address = _address(tensor)
    if not address:
        return 1
    threads = torch.get_num_threads() if plan.large and _LIBRARY.threaded else 1
    bounds = None if ends is None else _Ends(*ends)
    failed: int = _LIBRARY.sweep(address, DTYPES[tensor.dtype], plan.address, threads, bounds, table, dead, summary)
    return failed


def _address(tensor: Tensor) -> int:
    """Where the numbers lie; 0 for a wrapper without storage of its own, as inside ``torch.func.grad``."""
    try:
        return tensor.data_ptr()
    except RuntimeError:
        return 0


def summarize(tables: Sequence[Tensor], dead: float) -> npt.NDArray[np.float64] | None:
    """The numbers of many tables at once, ``(len(SUMMARY), readings)``; None without the kernel or off the CPU."""
    summary = _LIBRARY.summary if _LIBRARY.sweep is not None else None
    if summary is None or any(t.device.type != "cpu" for t in tables):
        return None
    whole = [t.contiguous() for t in tables]
    pointers = np.array([t.data_ptr() for t in whole], dtype=np.int64)
    channels = np.array([t.shape[1] for t in whole], dtype=np.int64)
    out = np.empty((len(whole), len(SUMMARY)))
    summary(len(whole), pointers.ctypes.data, channels.ctypes.data, dead, out.ctypes.data)
    return out.T


def _self_test(sweep: ctypes._NamedFuncPointer) -> str:
    """A miscompiled kernel must not be trusted: one small tensor whose sums are known, in both shapes of the sweep."""
    values = torch.tensor([[1.0, 2.0, 0.0], [4.0, float("nan"), -5.0]])
    for columns, want in ((0, [[3, 2], [1, -0.5], [2, 40.5]]), (1, [[2, 1, 2], [2.5, 2, -2.5], [4.5, 0, 12.5]])):
        channels, run = (3, 1) if columns else (2, 3)
        sizes, strides = Dims(2 if columns else 1), Dims(3)
        layout = Layout(1, sizes, strides, channels, 1 if columns else 3, run, columns, 1)
        table = torch.empty((len(Row), channels), dtype=torch.float64)
        code = sweep(values.data_ptr(), 0, ctypes.addressof(layout), 1, None, table.data_ptr(), 0.0, None)
        if code or not torch.allclose(table[:3], torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=0):
            return "the compiled kernel gives wrong sums"
    return ""
