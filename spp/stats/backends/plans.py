"""How the C sweep walks over a layout: what it reads of sizes and strides, worked out once for each."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import NamedTuple

import torch

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
