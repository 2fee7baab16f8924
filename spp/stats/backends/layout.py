"""What every kernel agrees on: the rows of a packed table, and a tensor as plain strided numbers."""

import math
from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class Row(IntEnum):
    """Rows of a packed ``(8, C)`` table."""

    COUNT = 0
    MEAN = 1
    M2 = 2
    MIN = 3
    MAX = 4
    ZEROS = 5
    NONFINITE = 6
    SATURATED = 7


def plain(tensor: Tensor) -> Tensor:
    """The same numbers as a detached, strided, real ``torch.Tensor``.

    Subclasses are stripped, sparse tensors made dense, quantized ones dequantized, complex numbers replaced by their
    magnitude; booleans and integers become float64. Floating tensors come back as they are, without a copy (unless they are
    the imaginary part of a conjugate, whose sign is only noted).
    """
    if type(tensor) is not Tensor and type(tensor) is not torch.nn.Parameter:
        with torch._C.DisableTorchFunctionSubclass():
            tensor = tensor.as_subclass(Tensor)
    tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    elif tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        return tensor.abs()
    if not tensor.is_floating_point():
        return tensor.to(torch.float64)
    return tensor.resolve_neg()


def collapse(axes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Fold neighbouring axes, as (size, stride) and slowest first, that memory lays end to end."""
    folded: list[tuple[int, int]] = []
    for size, stride in axes:
        if folded and folded[-1][1] == size * stride:
            folded[-1] = (folded[-1][0] * size, stride)
        else:
            folded.append((size, stride))
    return folded


def memory_order(tensor: Tensor, axis: int | None) -> tuple[Tensor, int]:
    """View ``tensor`` as ``(outer, C, inner)``; expanded axes are dropped, and how often they repeat comes second.

    Dense tensors of any permutation have such a view; where slicing left gaps that keep axes apart, the numbers are copied.
    """
    if tensor.dim() == 0:
        return tensor.reshape(1, 1, 1), 1
    if tensor.numel() == 0:
        return tensor.new_empty(0, 1 if axis is None else tensor.shape[axis], 1), 1
    sizes, strides, repeats, shape = _axes(tensor.shape, tensor.stride(), axis)
    view = tensor.as_strided(sizes, strides)
    return (view if len(sizes) == 3 else view.reshape(shape)), repeats


@lru_cache(maxsize=4096)
def _axes(
    shape: tuple[int, ...], stride: tuple[int, ...], axis: int | None
) -> tuple[list[int], list[int], int, tuple[int, int, int]]:
    """Sizes and strides in the order of memory, how often each element repeats, and the shape ``(outer, C, inner)``."""
    if axis is None:
        channel_size, channel_stride = 1, 0
        rest = list(zip(shape, stride, strict=True))
    else:
        axis %= len(shape)
        channel_size, channel_stride = shape[axis], stride[axis]
        rest = [(n, s) for i, (n, s) in enumerate(zip(shape, stride, strict=True)) if i != axis]
    repeats = math.prod(n for n, s in rest if s == 0 and n > 1)
    kept = sorted(((n, s) for n, s in rest if n != 1 and not (s == 0 and repeats > 1)), key=lambda ns: -ns[1])
    lone_channel = channel_size == 1
    outer = [ns for ns in kept if ns[1] >= channel_stride and not lone_channel]
    inner = [ns for ns in kept if not (ns[1] >= channel_stride and not lone_channel)]
    outer_runs, inner_runs = collapse(outer) or [(1, 1)], collapse(inner) or [(1, 1)]
    sizes = [n for n, _ in outer_runs] + [channel_size] + [n for n, _ in inner_runs]
    strides = [s for _, s in outer_runs] + [channel_stride] + [s for _, s in inner_runs]
    whole = math.prod(n for n, _ in outer_runs), channel_size, math.prod(n for n, _ in inner_runs)
    return sizes, strides, repeats, whole


def empty_table(channels: int, device: torch.device) -> Tensor:
    """The table of nothing: the neutral element of merging."""
    table = torch.zeros(len(Row), channels, dtype=torch.float64, device=device)
    table[Row.MIN] = torch.inf
    table[Row.MAX] = -torch.inf
    return table


def merge_packed(a: Tensor, b: Tensor) -> Tensor:
    """Merge two ``(8, C)`` tables: counts add, means weigh by count, ``m2`` gains the spread between the means."""
    out = a + b
    n_a, n_b = a[Row.COUNT], b[Row.COUNT]
    n = out[Row.COUNT].clamp(min=1)
    delta = b[Row.MEAN] - a[Row.MEAN]
    out[Row.MEAN] = a[Row.MEAN] + delta * (n_b / n)
    out[Row.M2] += delta * delta * (n_a * n_b / n)
    out[Row.MIN] = torch.minimum(a[Row.MIN], b[Row.MIN])
    out[Row.MAX] = torch.maximum(a[Row.MAX], b[Row.MAX])
    return out


def on_host(tables: Sequence[Tensor]) -> npt.NDArray[np.float64]:
    """All tables side by side as one ``(8, sum C)`` array; one transfer per device."""
    if not tables:
        return np.zeros((len(Row), 0))
    devices = {t.device for t in tables}
    if len(devices) == 1:
        return np.asarray(torch.cat(list(tables), dim=1).cpu().numpy())
    out: list[Tensor] = [torch.empty(0)] * len(tables)
    for device in devices:
        where = [i for i, t in enumerate(tables) if t.device == device]
        whole = torch.cat([tables[i] for i in where], dim=1).cpu()
        for i, part in zip(where, torch.split(whole, [tables[i].shape[1] for i in where], dim=1), strict=True):
            out[i] = part
    return np.asarray(torch.cat(out, dim=1).numpy())
