"""The library of the C sweep: built in the background, loaded, and not trusted before it has given known sums."""

from __future__ import annotations

import ctypes
import os
import threading
from typing import NamedTuple

import torch

from spp.errors import InputError
from spp.measure.kernels import compile as compiling
from spp.measure.kernels.layout import Row
from spp.measure.kernels.plans import DTYPES, Dims, Layout

PATIENCE = 3.0
"""Seconds that the first trace waits for the compiler at most; a later one finds what came out after that."""
MODES = ("auto", "off", "require")


class Status(NamedTuple):
    """Which path the CPU takes, and why."""

    native: bool
    reason: str


class Functions(NamedTuple):
    """What the library exports, see ``sweep.c``."""

    sweep: ctypes._NamedFuncPointer
    digests: ctypes._NamedFuncPointer
    summary: ctypes._NamedFuncPointer
    moved: ctypes._NamedFuncPointer


class Library:
    """The loaded sweep, or why there is none; asked for once per process.

    Attributes:
        functions: What it can do, once it is loaded and has passed its test.
        readable: The dtypes that this build reads, by their number in C.
        threaded: Whether it uses torch's threads.
        reason: Which library it is, or why there is none.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._builder: threading.Thread | None = None
        self._asked = False
        self.functions: Functions | None = None
        self.readable: dict[torch.dtype, int] = {}
        self.threaded = False
        self.reason = ""

    def get(self) -> Functions | None:
        """What it can do; None where it could not be built, or not yet."""
        if self._asked:
            return self.functions
        with self._lock:
            if self._builder is None:
                self._builder = threading.Thread(target=self._prepare, name="spp-compile", daemon=True)
                self._builder.start()
            self._builder.join(PATIENCE)
            if self._builder.is_alive():
                self.reason = f"still compiling after {PATIENCE:g} s"
            else:
                self._asked = True
        return self.functions

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
        functions = Functions(library.spp_sweep, library.spp_digests, library.spp_summary, library.spp_moved)
        pointer, whole, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
        functions.sweep.argtypes = [pointer, pointer, ctypes.c_int, pointer, pointer, number, pointer]
        functions.digests.argtypes = [whole, pointer, pointer, pointer, number, pointer]
        functions.summary.argtypes = [whole, pointer, pointer, number, pointer]
        functions.moved.argtypes = [whole, pointer, pointer, pointer, pointer, ctypes.c_int, pointer]
        functions.sweep.restype, functions.digests.restype = ctypes.c_int, whole
        functions.summary.restype = functions.moved.restype = None
        if wrong := _self_test(functions):
            return wrong
        known = int(library.spp_dtypes())
        self.threaded = build.threaded
        self.readable = {dtype: number for dtype, number in DTYPES.items() if known >> number & 1}
        self.functions = functions
        return ""


LIBRARY = Library()


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
    functions = LIBRARY.get()
    if functions is None and wanted == "require":
        raise InputError(
            "SPP_KERNELS=require needs the C kernel",
            received=LIBRARY.reason,
            where="environment",
            remedy="Install a C compiler, or unset SPP_KERNELS to use the slower reference path",
        )
    return Status(functions is not None, LIBRARY.reason)


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
