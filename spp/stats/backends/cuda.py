"""The Triton sweep: whether it is there, how it walks over a layout, and its launch.

Where Triton is missing, or a kernel does not compile or launch, CUDA tensors take the reference path from then on;
:func:`status` says why. ``SPP_KERNELS=require`` makes that an error.
"""

from __future__ import annotations

import math
from functools import lru_cache
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from spp._cbuild import mode
from spp.errors import InputError
from spp.stats.backends.reference import saturated
from spp.stats.layout import walk_of
from spp.stats.sums import Row

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})
# Axes a channel's rows may have, after those that memory lays end to end are folded.
AXES = 5
# Elements that a program holds at a time.
TILE = 1024
# Lengths of a tile's rows; few, since each is a kernel to compile.
RUNS = (1, 64, 256, 1024)
# Runs shorter than this are taken as neighbouring columns where they lie side by side, and joined when tables merge.
SHORT = 32
# Programs that share a tensor where it has enough tiles; fixed, so that every device gives the same bits.
PROGRAMS = 4096
# Tiles that a program takes at least where there are enough.
WORTH = 4
# Tiles that a program takes fewer than: it counts them in 16 bits.
PACKED = 1 << 15
# Tiles in the pipeline from memory, by bytes of a number: enough to be on their way while others are added up.
STAGES = {2: 5, 4: 3, 8: 3}
# Offsets from here on need 64 bits.
REACH = 2**31 - 1 - 2 * TILE


class Status(NamedTuple):
    """Which path CUDA tensors take, and why."""

    triton: bool
    reason: str


class Plan(NamedTuple):
    """How the sweep walks over a layout, see :func:`spp.stats.backends.triton_sweep.sweep`.

    Attributes:
        channels: Channels of the result.
        columns: What the sweep takes for channels: ``channels * fold``.
        column_stride: Elements from one to the next.
        fold: Columns that make one channel.
        run: Adjacent numbers in a row.
        outer: Rows of a column.
        axes: Size and stride of the axes that the rows lie along, the fastest first, ``AXES`` of them.
        dims: How many of these there are.
        blocks: Columns, rows and numbers of a tile.
        tiles: Tiles of a column.
        parts: Programs that share a column.
        per: Tiles of each.
        repeats: How often expanded axes repeat every element.
        wide: Whether offsets need 64 bits.
    """

    channels: int
    columns: int
    column_stride: int
    fold: int
    run: int
    outer: int
    axes: tuple[tuple[int, int], ...]
    dims: int
    blocks: tuple[int, int, int]
    tiles: int
    parts: int
    per: int
    repeats: int
    wide: bool


class _Kernels:
    """The kernels, or why there are none; Triton is asked for once per process, at the first CUDA tensor."""

    def __init__(self) -> None:
        self._asked = False
        self.module: ModuleType | None = None
        self.reason = ""

    def get(self) -> ModuleType | None:
        if not self._asked:
            self._asked = True
            try:
                from triton import __version__

                from spp.stats.backends import triton_sweep

                self.module, self.reason = triton_sweep, f"triton {__version__}"
            except ImportError as error:
                missing = isinstance(error, ModuleNotFoundError) and error.name == "triton"
                self.reason = "triton is not installed" if missing else f"triton cannot be imported: {_line(error)}"
        return self.module

    def give_up(self, error: Exception) -> None:
        """Take the reference from now on: what failed once costs seconds to try again."""
        self.module, self.reason = None, f"the kernel failed: {_line(error)}"


_KERNELS = _Kernels()


def status() -> Status:
    """Which path CUDA tensors take, and why; a kernel that has not run yet may still fail to compile.

    Raises:
        InputError: SPP_KERNELS is none of its values.
    """
    if mode() == "off":
        return Status(False, "SPP_KERNELS=off")
    if not torch.cuda.is_available():
        return Status(False, "no CUDA device")
    return Status(_KERNELS.get() is not None, _KERNELS.reason)


def reduce(tensor: Tensor, axis: int | None, ends: tuple[float, float] | None = None) -> Tensor | None:
    """The ``(8, C)`` table of a plain CUDA tensor, on its device; None where the kernel does not take it.

    Raises:
        InputError: SPP_KERNELS is "require" and there is no kernel.
    """
    wanted = mode()
    if wanted == "off":
        return None
    kernels = _KERNELS.get()
    if kernels is not None:
        try:
            return launch(kernels, tensor, axis, ends)
        # the compiler, the assembler, the driver: each has its own
        except Exception as error:
            _KERNELS.give_up(error)
    if wanted == "require":
        raise InputError(
            "SPP_KERNELS=require needs the Triton kernel for CUDA tensors",
            received=_KERNELS.reason,
            where="environment",
            remedy="Install triton, or unset SPP_KERNELS to use the slower reference path",
        )
    return None


def launch(
    kernels: ModuleType,
    tensor: Tensor,
    axis: int | None,
    ends: tuple[float, float] | None = None,
    tile: int = TILE,
    programs: int = PROGRAMS,
) -> Tensor | None:
    """Run the kernels of ``triton_sweep`` on a tensor; None where they do not take its dtype or layout."""
    if tensor.dtype not in DTYPES or not _has_memory(tensor):
        return None
    plan = plan_of(tensor.shape, tensor.stride(), axis, tile, programs)
    if plan is None:
        return None
    if tensor.is_cuda and tensor.get_device() != torch.cuda.current_device():
        # triton launches on the current device, wherever the tensors are
        with torch.cuda.device(tensor.device):
            return _launch(kernels, tensor, plan, axis, ends)
    return _launch(kernels, tensor, plan, axis, ends)


def _launch(
    kernels: ModuleType, tensor: Tensor, plan: Plan, axis: int | None, ends: tuple[float, float] | None
) -> Tensor:
    double = tensor.dtype is torch.float64
    # Triton takes a Python float for float32, and so are the ends it is given
    inside = ends is not None and not double
    low, high = _rounded(ends) if inside and ends is not None else (0.0, 0.0)
    merges = plan.parts * plan.fold > 1
    columns, rows, run = plan.blocks
    table = tensor.new_empty((len(Row), plan.parts, plan.columns), dtype=torch.float64)
    kernels.sweep[-(-plan.columns // columns), plan.parts](
        tensor,
        table,
        plan.columns,
        plan.column_stride,
        plan.run,
        plan.outer,
        plan.per,
        1 if merges else plan.repeats,
        low,
        high,
        *(number for pair in plan.axes for number in pair),
        DIMS=plan.dims,
        BLOCK_C=columns,
        BLOCK_O=rows,
        BLOCK_R=run,
        ADJACENT=plan.column_stride == 1,
        ENDS=inside,
        WIDE=plan.wide,
        DOUBLE=double,
        STAGES=STAGES[tensor.element_size()],
        num_warps=4,
    )
    if merges:
        parted, table = table, tensor.new_empty((len(Row), plan.channels), dtype=torch.float64)
        block, pieces = (1, 1024) if plan.channels <= 32 else (16, 64)
        kernels.merge[(-(-plan.channels // block),)](
            parted,
            table,
            plan.parts,
            plan.channels,
            plan.fold,
            plan.repeats,
            BLOCK_C=block,
            BLOCK_P=pieces,
            num_warps=4,
        )
    else:
        table = table.view(len(Row), plan.channels)
    if ends is not None and not inside:
        table[Row.SATURATED] = saturated(tensor, axis, ends)
    return table


@lru_cache(maxsize=4096)
def plan_of(
    shape: tuple[int, ...], strides: tuple[int, ...], axis: int | None, tile: int = TILE, programs: int = PROGRAMS
) -> Plan | None:
    """How to walk over a layout in the order of memory; None for empty tensors and layouts with too many axes."""
    found = walk_of(shape, strides, axis)
    if found is None:
        return None
    channels, stride, walk, repeats = found
    adjacent = channels > 1 and stride == 1
    run, fold = walk.pop()[0] if walk and walk[-1][1] == 1 and not adjacent else 1, 1
    if 1 < run < SHORT and stride == run and walk and channels > 1:
        fold, run, stride, adjacent = run, 1, 1, True
    if len(walk) > AXES:
        return None
    columns, outer = channels * fold, math.prod(n for n, _ in walk)
    blocks = _blocks(columns if adjacent else 1, run, outer, tile)
    tiles = -(-outer // blocks[1]) * -(-run // blocks[2])
    parts = max(1, min(-(-tiles // WORTH), programs // -(-columns // blocks[0])))
    per = min(-(-tiles // parts), PACKED - 1)
    parts = -(-tiles // per)
    reach = (columns - 1) * stride + run + sum((n - 1) * s for n, s in walk)
    axes = (*reversed(walk), *((1, 0),) * AXES)[:AXES]
    wide = max(reach, outer) > REACH
    dims = max(1, len(walk))
    return Plan(channels, columns, stride, fold, run, outer, axes, dims, blocks, tiles, parts, per, repeats, wide)


def _blocks(columns: int, run: int, outer: int, tile: int) -> tuple[int, int, int]:
    """Columns, rows and numbers of a tile, powers of two of ``tile`` elements together."""
    if columns > 1:
        across = 16 if columns <= 16 else 64
        return across, max(1, tile // across), 1
    along = min(next((r for r in RUNS if r >= run), tile), tile) if outer > 1 else tile
    return 1, tile // along, along


@lru_cache(maxsize=256)
def _rounded(ends: tuple[float, float]) -> tuple[float, float]:
    """The ends as torch compares them with values of float32, to which the sweep widens what is narrower."""
    # device="cpu": torch.set_default_device may say otherwise, and then this would wait
    low, high = torch.tensor(ends, dtype=torch.float32, device="cpu").tolist()
    return low, high


def _has_memory(tensor: Tensor) -> bool:
    """Wrappers without storage of their own, as inside ``torch.func.grad``, have none."""
    try:
        return tensor.data_ptr() != 0
    except RuntimeError:
        return False


def _line(error: Exception) -> str:
    """An error in one line."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
