"""The library of the C sweep: what it exports, and whether CPU tensors go that way."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import NamedTuple

import torch

from spp._cbuild import Library, Source, Status
from spp.stats.backends.layout import Row
from spp.stats.backends.plans import DTYPES, Dims, Layout

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
