"""A tensor as plain strided numbers, in the order of memory: what every backend begins with."""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from spp import _torch


def plain(tensor: Tensor) -> Tensor:
    """The same numbers as a detached, strided, real ``torch.Tensor``.

    Subclasses are stripped, sparse tensors made dense, quantized ones dequantized, complex numbers replaced by their
    magnitude; booleans and integers become float64. Floating tensors come back as they are, without a copy (unless they are
    the imaginary part of a conjugate, whose sign is only noted).
    """
    if type(tensor) is not Tensor and type(tensor) is not torch.nn.Parameter:
        # else the subclass itself would be asked, and answer with one of its own
        with _torch.unseen_by_subclasses():
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
    # x.conj().imag is x.imag with a bit that says "negative", which those who read memory do not see (torch 2.13)
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


class Walk(NamedTuple):
    """The axes of a tensor as a sweep goes over them.

    Attributes:
        channels: Number of channels.
        stride: Elements from one to the next.
        axes: Size and stride of the others, slowest first, folded where memory lays them end to end; sizes of 1 are dropped.
        repeats: How often expanded axes, which are dropped too, repeat every element.
    """

    channels: int
    stride: int
    axes: list[tuple[int, int]]
    repeats: int


def walk_of(shape: tuple[int, ...], strides: tuple[int, ...], axis: int | None) -> Walk | None:
    """How to go over a layout in the order of memory; None where there are no elements."""
    if 0 in shape:
        return None
    rank = len(shape)
    axis = axis % rank if axis is not None and rank else None
    channels, stride = (shape[axis], strides[axis]) if axis is not None else (1, 0)
    rest = [(n, s) for i, (n, s) in enumerate(zip(shape, strides, strict=True)) if i != axis and n != 1]
    repeats = math.prod(n for n, s in rest if s == 0)
    # slowest first: what lies together in memory is read together
    return Walk(channels, stride, collapse(sorted((ns for ns in rest if ns[1]), key=lambda ns: -ns[1])), repeats)


def memory_order(tensor: Tensor, axis: int | None) -> tuple[Tensor, int]:
    """View ``tensor`` as ``(outer, C, inner)``; expanded axes are dropped, and how often they repeat comes second.

    Dense tensors of any permutation have such a view; where slicing left gaps that keep axes apart, the numbers are copied.
    """
    if tensor.dim() == 0:
        return tensor.reshape(1, 1, 1), 1
    if tensor.numel() == 0:
        return tensor.new_empty(0, 1 if axis is None else tensor.shape[axis], 1), 1
    sizes, strides, repeats, shape = _axes(tensor.shape, tensor.stride(), axis)
    # as_strided, not permute and reshape: it never copies, and expanded axes can be left out
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
    # the stride of an axis of one element says nothing
    split = 0 if channel_size == 1 else sum(s >= channel_stride for _, s in kept)
    outer, inner = collapse(kept[:split]) or [(1, 1)], collapse(kept[split:]) or [(1, 1)]
    sizes, strides = zip(*outer, (channel_size, channel_stride), *inner, strict=True)
    return list(sizes), list(strides), repeats, (_count(outer), channel_size, _count(inner))


def _count(axes: list[tuple[int, int]]) -> int:
    return math.prod(n for n, _ in axes)
