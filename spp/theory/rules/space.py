"""Rules for pooling and for changes of shape."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spp.theory import combining, pooling, shaping
from spp.theory.field import Field
from spp.theory.symbol import Out, Shape, each_axis, field_of, rule


def _adaptive_average(dims: int, input: Any, output_size: Any, *, shape: Shape) -> Out:
    x = field_of(input)
    if x is None or x.axis != 1 or len(x.shape) != dims + 2:
        return None
    space = shape[2:]
    if prod(space) == 1:
        return pooling.mean_over_space(x, shape, 1)
    if any(n % o for n, o in zip(x.profile.shape, space, strict=True)):
        return None
    window = tuple(n // o for n, o in zip(x.profile.shape, space, strict=True))
    return pooling.average_pool(x, shape, window, window, (0,) * dims, True)


rule(F.adaptive_avg_pool1d)(partial(_adaptive_average, 1))
rule(F.adaptive_avg_pool2d)(partial(_adaptive_average, 2))
rule(F.adaptive_avg_pool3d)(partial(_adaptive_average, 3))


def _average(
    dims: int,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
    *,
    shape: Shape,
) -> Out:
    x = field_of(input)
    if x is None or x.axis != 1 or len(x.shape) != dims + 2 or divisor_override is not None:
        return None
    kernel = each_axis(kernel_size, dims)
    step = each_axis(stride, dims) if stride else kernel
    return pooling.average_pool(x, shape, kernel, step, each_axis(padding, dims), count_include_pad)


rule(F.avg_pool1d)(partial(_average, 1))
rule(F.avg_pool2d)(partial(_average, 2))
rule(F.avg_pool3d)(partial(_average, 3))


def _largest(
    dims: int,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    shape: Any,
) -> Out:
    x = field_of(input)
    if (
        x is None
        or x.axis != 1
        or len(x.shape) != dims + 2
        or each_axis(dilation, dims) != (1,) * dims
        or return_indices
    ):
        return None
    kernel = each_axis(kernel_size, dims)
    return pooling.max_pool(x, shape, kernel, each_axis(stride, dims) if stride else kernel, each_axis(padding, dims))


for _dims, _functions in (
    (1, (F.max_pool1d, torch.max_pool1d)),
    (2, (F.max_pool2d, torch.max_pool2d)),
    (3, (F.max_pool3d, torch.max_pool3d)),
):
    rule(*_functions)(partial(_largest, _dims))


@rule(torch.mean, Tensor.mean)
def _mean(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, shape: Shape) -> Out:
    x = field_of(input)
    if x is None or dim is None:
        return None
    axes = {d % len(x.shape) for d in ([dim] if isinstance(dim, int) else dim)}
    if axes != set(range(1, len(x.shape))) - {x.axis}:
        return None
    return pooling.mean_over_space(x, shape, x.axis if keepdim else 1)


def _unchanged(input: Any, *args: Any, shape: Shape, **kwargs: Any) -> Out:
    return field_of(input)


rule(
    Tensor.contiguous,
    Tensor.clone,
    torch.clone,
    Tensor.to,
    Tensor.type,
    Tensor.float,
    Tensor.double,
    Tensor.type_as,
    Tensor.cpu,
    Tensor.cuda,
)(_unchanged)


@rule(Tensor.detach, torch.detach, Tensor.data.__get__)  # type: ignore[attr-defined]
def _detach(input: Any, *, shape: Shape) -> Out:
    x = field_of(input)
    return None if x is None else shaping.cut(x)


def _reshape(input: Any, *args: Any, shape: Shape, **kwargs: Any) -> Out:
    x = field_of(input)
    if x is None:
        return None
    return x if x.shape == shape else shaping.reshaped(x, shape)


rule(
    torch.flatten,
    Tensor.flatten,
    torch.reshape,
    Tensor.reshape,
    Tensor.view,
    Tensor.reshape_as,
    Tensor.view_as,
    torch.squeeze,
    Tensor.squeeze,
    torch.unsqueeze,
    Tensor.unsqueeze,
    torch.unflatten,
    Tensor.unflatten,
)(_reshape)


@rule(torch.permute, Tensor.permute)
def _permute(input: Any, *dims: Any, shape: Shape) -> Out:
    order = dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims
    return _moved(input, order, shape)


@rule(torch.transpose, Tensor.transpose, torch.swapaxes, Tensor.swapaxes)
def _transpose(input: Any, dim0: int, dim1: int, *, shape: Shape) -> Out:
    order = list(range(len(shape)))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return _moved(input, order, shape)


@rule(torch.movedim, Tensor.movedim, torch.moveaxis, Tensor.moveaxis)
def _movedim(input: Any, source: Any, destination: Any, *, shape: Shape) -> Out:
    if not (isinstance(source, int) and isinstance(destination, int)):
        return None
    rank = len(shape)
    order = [d for d in range(rank) if d != source % rank]
    order.insert(destination % rank, source % rank)
    return _moved(input, order, shape)


def _moved(input: Any, order: Sequence[int], shape: Shape) -> Out:
    x = field_of(input)
    return None if x is None else shaping.moved(x, tuple(d % len(shape) for d in order), shape)


@rule(torch.cat, torch.concat, torch.concatenate)
def _cat(tensors: Any, dim: int = 0, *, shape: Shape) -> Out:
    parts = [field_of(t) for t in tensors]
    known = [x for x in parts if x is not None]
    if len(known) < len(parts) or any(x.axis != dim % len(shape) for x in known):
        return None
    return combining.joined(known, shape)


@rule(torch.chunk, Tensor.chunk, torch.split, Tensor.split, torch.tensor_split)
def _chunk(input: Any, size: Any, dim: int = 0, *, shape: Any) -> list[Field] | None:
    x = field_of(input)
    if x is None or dim % len(x.shape) != x.axis:
        return None
    found, start = [], 0
    for one in shape:
        found.append(combining.chosen(x, slice(start, start + one[x.axis]), one))
        start += one[x.axis]
    return found


@rule(Tensor.__getitem__)
def _getitem(input: Any, index: Any, *, shape: Shape) -> Out:
    x = field_of(input)
    parts = index if isinstance(index, tuple) else (index,)
    if x is None or not all(isinstance(p, slice) or p is Ellipsis for p in parts):
        return None
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts = (*parts[:at], *(slice(None),) * (len(x.shape) - len(parts) + 1), *parts[at + 1 :])
    parts = (*parts, *(slice(None),) * (len(x.shape) - len(parts)))
    if shape[0] != x.shape[0]:
        return None
    if shape[x.axis] != x.shape[x.axis]:
        x = combining.chosen(x, parts[x.axis], Shape([*x.shape[: x.axis], shape[x.axis], *x.shape[x.axis + 1 :]]))
    if x.shape == shape:
        return x
    return shaping.strided(x, tuple(p for a, p in enumerate(parts) if a not in (0, x.axis)), shape)


@rule(F.pad)
def _pad(input: Any, pad: Any, mode: str = "constant", value: Any = None, *, shape: Shape) -> Out:
    x = field_of(input)
    if x is None or x.axis != 1 or value:
        return None
    spatial = 2 * (len(x.shape) - 2)
    pads = (*pad, *(0,) * (2 * len(x.shape) - len(pad)))
    around, channels, batch = pads[:spatial], pads[spatial : spatial + 2], pads[spatial + 2 :]
    if any(batch) or (any(channels) and mode != "constant"):
        return None
    if any(channels):
        x = combining.with_zero_channels(x, channels[0], channels[1], Shape([x.shape[0], shape[1], *x.shape[2:]]))
    return shaping.padded(x, tuple(around), mode, shape) if any(around) else x
