"""Rules for layers with weights, norms and dropout."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from spp.theory import combining, mixing, normalizing
from spp.theory.symbol import Out, Shape, Symbol, each_axis, field_of, rule


@rule(F.linear)
def _linear(input: Any, weight: Any, bias: Any = None, *, shape: Shape) -> Out:
    x = field_of(input)
    if x is None or isinstance(weight, Symbol):
        return None
    if x.free:
        x = normalizing.named(x, len(x.shape) - 1)
    if x.axis != len(x.shape) - 1:
        return None
    return mixing.linear(x, weight, bias)


def _conv(
    dims: int,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    shape: Shape,
) -> Out:
    x = field_of(input)
    if x is None or isinstance(weight, Symbol) or x.axis != 1 or len(x.shape) != dims + 2:
        return None
    pads = padding if isinstance(padding, str) else each_axis(padding, dims)
    return mixing.convolution(x, weight, bias, each_axis(stride, dims), pads, each_axis(dilation, dims), groups, shape)


for _dims, _functions in (
    (1, (F.conv1d, torch.conv1d)),
    (2, (F.conv2d, torch.conv2d)),
    (3, (F.conv3d, torch.conv3d)),
):
    rule(*_functions)(partial(_conv, _dims))


@rule(F.batch_norm)
def _batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    shape: Shape,
) -> Out:
    x = field_of(input)
    if x is None or x.axis != 1:
        return None
    return normalizing.batch_norm(x, running_mean, running_var, weight, bias, training, eps)


@rule(F.group_norm)
def _group_norm(
    input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *, shape: Shape
) -> Out:
    x = field_of(input)
    return None if x is None or x.axis != 1 else normalizing.group_norm(x, num_groups, weight, bias, eps)


@rule(F.instance_norm)
def _instance_norm(
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    shape: Shape,
) -> Out:
    x = field_of(input)
    if x is None or x.axis != 1:
        return None
    if not use_input_stats:
        return normalizing.batch_norm(x, running_mean, running_var, weight, bias, False, eps)
    return normalizing.group_norm(x, x.width, weight, bias, eps)


@rule(F.layer_norm)
def _layer_norm(
    input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *, shape: Shape
) -> Out:
    x = field_of(input)
    return None if x is None else normalizing.layer_norm(x, tuple(normalized_shape), weight, bias, eps)


@rule(F.rms_norm)
def _rms_norm(input: Any, normalized_shape: Any, weight: Any = None, eps: Any = None, *, shape: Shape) -> Out:
    x = field_of(input)
    floor = torch.finfo(input.dtype).eps if eps is None else eps
    return None if x is None else normalizing.rms_norm(x, tuple(normalized_shape), weight, floor)


@rule(F.dropout)
def _dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False, *, shape: Shape) -> Out:
    x = field_of(input)
    return x if x is None or not training or p == 0 else combining.dropout(x, p)


@rule(F.dropout1d, F.dropout2d, F.dropout3d)
def _dropout_of_channels(
    input: Any, p: float = 0.5, training: bool = True, inplace: bool = False, *, shape: Shape
) -> Out:
    x = field_of(input)
    return x if x is None or not training or p == 0 else combining.dropout_of_channels(x, p)


@rule(F.alpha_dropout)
def _alpha_dropout(input: Any, p: float = 0.5, training: bool = False, inplace: bool = False, *, shape: Shape) -> Out:
    x = field_of(input)
    return x if x is None or not training or p == 0 else combining.alpha_dropout(x, p)
