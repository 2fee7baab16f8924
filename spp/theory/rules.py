"""Which of torch's functions theory has a rule for, with torch's own signatures; the rules are the neighbouring files'.

A rule returns the field of the result, a list of them where there are several, or None where the function's arguments go
beyond what it knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spp.theory import elementwise, mixing, normalizing, reducing
from spp.theory.field import FLOAT, Field
from spp.theory.symbol import RULES, Symbol, field_of

Shape = torch.Size
Out = Field | None


def rule(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a rule for these functions."""

    def enter(found: Callable[..., Any]) -> Callable[..., Any]:
        for function in functions:
            RULES[function] = found
        return found

    return enter


# -- layers with weights ----------------------------------------------------------------------------------------------


@rule(F.linear)
def _linear(input: Any, weight: Any, bias: Any = None, *, shape: Shape) -> Out:
    x = field_of(input)
    if x is None or isinstance(weight, Symbol):
        return None
    if x.free and len(x.shape) > 2:
        x.axis, x.profile = len(x.shape) - 1, torch.ones(x.shape[1:-1], dtype=FLOAT) * x.second
        x.channels = torch.ones(x.shape[-1], dtype=FLOAT)
        x.pooled = x.second / x.positions + x.within * 0
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
    pads = padding if isinstance(padding, str) else _tuple(padding, dims)
    return mixing.convolution(x, weight, bias, _tuple(stride, dims), pads, _tuple(dilation, dims), groups, shape)


for _dims, _functions in (
    (1, (F.conv1d, torch.conv1d)),
    (2, (F.conv2d, torch.conv2d)),
    (3, (F.conv3d, torch.conv3d)),
):
    rule(*_functions)(partial(_conv, _dims))


# -- norms ------------------------------------------------------------------------------------------------------------


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


# -- activations ------------------------------------------------------------------------------------------------------

KINKS: dict[Any, tuple[float, ...]] = {
    F.relu: (0.0,),
    F.relu6: (0.0, 6.0),
    F.leaky_relu: (0.0,),
    F.elu: (0.0,),
    F.celu: (0.0,),
    F.selu: (0.0,),
    F.hardswish: (-3.0, 3.0),
    F.hardsigmoid: (-3.0, 3.0),
    F.softsign: (0.0,),
    torch.abs: (0.0,),
}
"""Where an activation or its slope jumps, by the function that it is evaluated with."""
_SMOOTH = (F.gelu, F.silu, F.mish, F.softplus, F.logsigmoid, F.tanhshrink)
_POINTWISE = ("sigmoid", "tanh", "erf", "sin", "cos", "exp", "square", "neg", "expm1", "atan")


def _pointwise(function: Callable[..., Tensor], kinks: tuple[float, ...], *args: Any, shape: Shape, **kwargs: Any) -> Out:
    first = args[0] if args else kwargs["input"]
    x = field_of(first)
    rest = args[1:]
    options = {k: v for k, v in kwargs.items() if k not in ("inplace", "input")}
    if x is None or any(isinstance(v, Symbol) for v in (*rest, *options.values())):
        return None
    if rest and isinstance(rest[-1], bool) and function in KINKS:
        rest = rest[:-1]  # inplace
    return elementwise.unary(x, lambda u: function(u, *rest, **options), kinks)


for _function, _kinks in KINKS.items():
    rule(_function)(partial(_pointwise, _function, _kinks))
for _function in _SMOOTH:
    rule(_function)(partial(_pointwise, _function, ()))
for _name in _POINTWISE:
    _function = getattr(torch, _name)
    _forms = (_function, getattr(Tensor, _name), getattr(Tensor, f"{_name}_", None), getattr(torch, f"{_name}_", None))
    rule(*(f for f in _forms if f is not None))(partial(_pointwise, _function, ()))
rule(torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu_)(partial(_pointwise, F.relu, (0.0,)))
rule(F.leaky_relu_)(partial(_pointwise, F.leaky_relu, (0.0,)))
rule(F.elu_)(partial(_pointwise, F.elu, (0.0,)))
rule(F.selu_, torch.selu, torch.selu_)(partial(_pointwise, F.selu, (0.0,)))
rule(Tensor.abs, Tensor.__abs__)(partial(_pointwise, torch.abs, (0.0,)))
rule(Tensor.__neg__)(partial(_pointwise, torch.neg, ()))
rule(F.sigmoid)(partial(_pointwise, torch.sigmoid, ()))
rule(F.tanh)(partial(_pointwise, torch.tanh, ()))


@rule(F.hardtanh, F.hardtanh_)
def _hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False, *, shape: Shape) -> Out:
    return _clamp(input, min_val, max_val, shape=shape)


@rule(torch.clamp, Tensor.clamp, Tensor.clamp_, torch.clip, Tensor.clip, Tensor.clip_)
def _clamp(input: Any, min: Any = None, max: Any = None, *, shape: Shape) -> Out:
    x = field_of(input)
    ends = tuple(float(v) for v in (min, max) if isinstance(v, int | float))
    if x is None or len(ends) != sum(v is not None for v in (min, max)):
        return None
    return elementwise.unary(x, lambda u: torch.clamp(u, min, max), ends)


@rule(torch.pow, Tensor.pow, Tensor.__pow__)
def _pow(input: Any, exponent: Any, *, shape: Shape) -> Out:
    x = field_of(input)
    if x is None or not isinstance(exponent, int) or exponent < 1:
        return None
    return elementwise.unary(x, lambda u: u**exponent)


@rule(F.prelu, torch.prelu)
def _prelu(input: Any, weight: Any, *, shape: Shape) -> Out:
    x = field_of(input)
    slope = float(weight.detach().double().mean())
    return None if x is None else elementwise.unary(x, lambda u: torch.where(u > 0, u, slope * u), (0.0,))


# -- arithmetic -------------------------------------------------------------------------------------------------------


@rule(torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__)
def _add(input: Any, other: Any, *, alpha: float = 1, out: Any = None, shape: Shape) -> Out:
    return _sum(input, other, float(alpha), shape)


@rule(torch.sub, Tensor.sub, Tensor.sub_, Tensor.__sub__, Tensor.__isub__)
def _sub(input: Any, other: Any, *, alpha: float = 1, shape: Shape) -> Out:
    return _sum(input, other, -float(alpha), shape)


@rule(torch.rsub, Tensor.__rsub__)
def _rsub(input: Any, other: Any, *, shape: Shape) -> Out:
    negative = _product(input, -1.0, shape)
    return None if negative is None else _shifted(negative, other, 1.0, shape)


def _sum(input: Any, other: Any, sign: float, shape: Shape) -> Out:
    x, y = field_of(input), field_of(other)
    if x is not None and y is not None:
        if abs(sign) != 1:
            return None
        joint = elementwise.binary(x, y, lambda u, v: u + sign * v)
        return joint if joint is not None else reducing.add(x, y, sign)
    if x is not None:
        return _shifted(x, other, sign, shape)
    if y is None:
        return None
    scaled = y if sign == 1 else normalizing.affine(y, torch.tensor(sign, dtype=FLOAT))
    return _shifted(scaled, input, 1.0, shape)


def _shifted(x: Field, other: Any, sign: float, shape: Shape) -> Out:
    """A constant added: a number, or one for each channel."""
    if isinstance(other, int | float) or other.numel() == 1:
        number = sign * float(other)
        if x.source is not None:
            return elementwise.unary(x, lambda u: u + number)
        return normalizing.affine(x, None, torch.tensor(number, dtype=FLOAT))
    vector = _per_channel(x, other, shape)
    return None if vector is None else normalizing.affine(x, None, sign * vector)


@rule(torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__, torch.multiply)
def _mul(input: Any, other: Any, *, out: Any = None, shape: Shape) -> Out:
    x, y = field_of(input), field_of(other)
    if x is not None and y is not None:
        joint = elementwise.binary(x, y, torch.mul)
        return joint if joint is not None else reducing.multiply(x, y)
    return _product(input, other, shape) if x is not None else _product(other, input, shape)


@rule(torch.div, Tensor.div, Tensor.div_, Tensor.__truediv__, Tensor.__itruediv__, torch.true_divide)
def _div(input: Any, other: Any, *, shape: Shape) -> Out:
    if isinstance(other, Symbol):
        x, y = field_of(input), field_of(other)
        return None if x is None or y is None else elementwise.binary(x, y, torch.div)
    return _product(input, 1 / other, shape)


def _product(input: Any, other: Any, shape: Shape) -> Out:
    """A constant factor: a number, or one for each channel."""
    x = field_of(input)
    if x is None:
        return None
    if isinstance(other, int | float) or other.numel() == 1:
        factor = float(other)
        if x.source is not None:
            return elementwise.unary(x, lambda u: u * factor)
        return normalizing.affine(x, torch.tensor(factor, dtype=FLOAT))
    vector = _per_channel(x, other, shape)
    return None if vector is None else normalizing.affine(x, vector)


def _per_channel(x: Field, values: Tensor, shape: Shape) -> Tensor | None:
    """``values`` as one number for each channel, where broadcasting makes them that."""
    full = (1,) * (len(shape) - values.dim()) + tuple(values.shape)
    if shape != x.shape or values.numel() != x.width or full[x.axis] != x.width:
        return None
    return values.detach().to("cpu", FLOAT).reshape(-1)


# -- pooling ----------------------------------------------------------------------------------------------------------


def _adaptive_average(dims: int, input: Any, output_size: Any, *, shape: Shape) -> Out:
    x = field_of(input)
    if x is None or x.axis != 1 or len(x.shape) != dims + 2:
        return None
    space = shape[2:]
    if prod(space) == 1:
        return reducing.mean_over_space(x, shape, 1)
    if any(n % o for n, o in zip(x.profile.shape, space, strict=True)):
        return None
    window = tuple(n // o for n, o in zip(x.profile.shape, space, strict=True))
    return reducing.average_pool(x, shape, window, window, (0,) * dims, True)


for _dims, _function in ((1, F.adaptive_avg_pool1d), (2, F.adaptive_avg_pool2d), (3, F.adaptive_avg_pool3d)):
    rule(_function)(partial(_adaptive_average, _dims))


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
    kernel = _tuple(kernel_size, dims)
    step = _tuple(stride, dims) if stride else kernel
    return reducing.average_pool(x, shape, kernel, step, _tuple(padding, dims), count_include_pad)


for _dims, _function in ((1, F.avg_pool1d), (2, F.avg_pool2d), (3, F.avg_pool3d)):
    rule(_function)(partial(_average, _dims))


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
    if x is None or x.axis != 1 or len(x.shape) != dims + 2 or _tuple(dilation, dims) != (1,) * dims or return_indices:
        return None
    kernel = _tuple(kernel_size, dims)
    return reducing.max_pool(x, shape, kernel, _tuple(stride, dims) if stride else kernel, _tuple(padding, dims))


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
    return reducing.mean_over_space(x, shape, x.axis if keepdim else 1)


# -- dropout ----------------------------------------------------------------------------------------------------------


@rule(F.dropout)
def _dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False, *, shape: Shape) -> Out:
    x = field_of(input)
    return x if x is None or not training or p == 0 else reducing.dropout(x, p)


@rule(F.dropout1d, F.dropout2d, F.dropout3d)
def _dropout_of_channels(
    input: Any, p: float = 0.5, training: bool = True, inplace: bool = False, *, shape: Shape
) -> Out:
    x = field_of(input)
    return x if x is None or not training or p == 0 else reducing.dropout_of_channels(x, p)


@rule(F.alpha_dropout)
def _alpha_dropout(input: Any, p: float = 0.5, training: bool = False, inplace: bool = False, *, shape: Shape) -> Out:
    x = field_of(input)
    return x if x is None or not training or p == 0 else reducing.alpha_dropout(x, p)


# -- shapes -----------------------------------------------------------------------------------------------------------


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
    return None if x is None else reducing.cut(x)


def _reshape(input: Any, *args: Any, shape: Shape, **kwargs: Any) -> Out:
    x = field_of(input)
    if x is None:
        return None
    return x if x.shape == shape else reducing.reshaped(x, shape)


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
    return None if x is None else reducing.moved(x, tuple(d % len(shape) for d in order), shape)


@rule(torch.cat, torch.concat, torch.concatenate)
def _cat(tensors: Any, dim: int = 0, *, shape: Shape) -> Out:
    parts = [field_of(t) for t in tensors]
    known = [x for x in parts if x is not None]
    if len(known) < len(parts) or any(x.axis != dim % len(shape) for x in known):
        return None
    return reducing.joined(known, shape)


@rule(torch.chunk, Tensor.chunk, torch.split, Tensor.split, torch.tensor_split)
def _chunk(input: Any, size: Any, dim: int = 0, *, shape: Any) -> list[Field] | None:
    x = field_of(input)
    if x is None or dim % len(x.shape) != x.axis:
        return None
    found, start = [], 0
    for one in shape:
        found.append(reducing.chosen(x, slice(start, start + one[x.axis]), one))
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
        x = reducing.chosen(x, parts[x.axis], Shape([*x.shape[: x.axis], shape[x.axis], *x.shape[x.axis + 1 :]]))
    if x.shape == shape:
        return x
    return reducing.strided(x, tuple(p for a, p in enumerate(parts) if a not in (0, x.axis)), shape)


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
        x = reducing.padded_channels(x, *channels, Shape([x.shape[0], shape[1], *x.shape[2:]]))
    return reducing.padded_space(x, tuple(around), mode, shape) if any(around) else x


def _tuple(value: Any, dims: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * dims
    found = tuple(int(v) for v in value)
    return found * dims if len(found) == 1 else found
