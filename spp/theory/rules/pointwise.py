"""Rules for element-wise functions of one tensor."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spp.theory import elementwise
from spp.theory.symbol import Out, Shape, Symbol, field_of, rule

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
_POINTWISE = (
    "sigmoid",
    "tanh",
    "erf",
    "sin",
    "cos",
    "exp",
    "square",
    "neg",
    "expm1",
    "atan",
    "sqrt",
    "rsqrt",
    "reciprocal",
)


def _pointwise(
    function: Callable[..., Tensor], kinks: tuple[float, ...], *args: Any, shape: Shape, **kwargs: Any
) -> Out:
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
    found: Out = _clamp(input, min_val, max_val, shape=shape)
    return found


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
