"""Rules for sums and products: of two tensors, or of one and a constant."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spp.theory import combining, elementwise, normalizing
from spp.theory.field import FLOAT, Field, wide
from spp.theory.symbol import Out, Shape, Symbol, field_of, rule


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
        return joint if joint is not None else combining.add(x, y, sign)
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
        return joint if joint is not None else combining.multiply(x, y)
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
    return wide(values).reshape(-1)
