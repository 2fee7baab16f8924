"""A tensor without numbers that carries a :class:`~spp.theory.field.Field` through a model's own ``forward``.

``Symbol`` is a tensor on torch's meta device: every function of torch that meets one computes the shape of its result there,
and :data:`RULES` has the field of the result. So functional code, scales, gates and residual sums are followed as they are
written, and nothing is computed that costs. What has no rule gives a symbol without a field, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from spp.theory.field import Field

Shape = torch.Size
Out = Field | None
Rule = Callable[..., Any]
RULES: dict[Any, Rule] = {}
"""From torch's function to the rule: called with its arguments and the keyword ``shape`` (of the result, or a list of them)."""


def rule(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a rule for these functions."""

    def enter(found: Callable[..., Any]) -> Callable[..., Any]:
        for function in functions:
            RULES[function] = found
        return found

    return enter


class Symbol(torch.Tensor):
    """A meta tensor with a field, or with the reason why there is none.

    Attributes:
        field: What theory knows of it, None where nothing is.
        reason: Why nothing is.
        place: The device that the model sees.
    """

    field: Field | None
    reason: str
    place: torch.device

    @staticmethod
    def of(tensor: Tensor, place: torch.device, field: Field | None, reason: str = "") -> Symbol:
        """A symbol of the shape and dtype of a meta tensor."""
        out: Symbol = torch.Tensor._make_subclass(Symbol, tensor)
        out.field, out.reason, out.place = field, reason, place
        return out

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Follow one call."""
        return _followed(func, args, kwargs or {})


class Masks(TorchFunctionMode):
    """Turns random masks over samples, as stochastic depth draws them, into symbols of their probabilities."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Follow one call."""
        if func is Tensor.bernoulli_ and len(args) == 2 and isinstance(args[1], float):
            from spp.theory.combining import mask

            drawn = args[0]
            if drawn.dim() > 1 and drawn.numel() == drawn.shape[0]:
                made = torch.empty(drawn.shape, dtype=drawn.dtype, device="meta")
                place = drawn.place if isinstance(drawn, Symbol) else drawn.device
                return Symbol.of(made, place, mask(drawn.shape, args[1]))
        return func(*args, **(kwargs or {}))


def _followed(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    symbols = _symbols((args, kwargs))
    place = symbols[0].place
    with torch._C.DisableTorchFunctionSubclass():
        if func is Tensor.device.__get__:
            return place
        if func is Tensor.is_meta.__get__:  # type: ignore[attr-defined]
            return False
        if func in _SILENT:
            return func(*args, **kwargs)
        result = _computed(func, args, kwargs)
        if func in _FILLED:
            return torch.empty(result.shape, dtype=result.dtype, device=place) if isinstance(result, Tensor) else result
        if isinstance(result, Tensor):
            return _one(func, args, kwargs, result, symbols, place)
        if isinstance(result, tuple | list) and any(isinstance(r, Tensor) for r in result):
            return _several(func, args, kwargs, result, symbols, place)
    return result


def _computed(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The result without numbers; networks repeat their layers, and torch's meta functions are as slow as Python."""
    specs = tree_map(_spec, args), tuple(sorted(tree_map(_spec, dict(kwargs)).items()))
    try:
        known = _known(func, *specs)
    except TypeError:  # a list among the arguments has no hash; whatever else it is, it is raised again
        known = None
    return func(*tree_map(_bare, args), **tree_map(_bare, dict(kwargs))) if known is None else known.made()


@lru_cache(maxsize=4096)
def _known(func: Any, args: tuple[Any, ...], kwargs: tuple[tuple[str, Any], ...]) -> _Spec | None:
    """What a function makes of tensors of these shapes; None where that is not one tensor."""
    result = func(*tree_map(_made, args), **tree_map(_made, dict(kwargs)))
    return _spec(result) if isinstance(result, Tensor) else None


@dataclass(frozen=True, slots=True)
class _Spec:
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def made(self) -> Tensor:
        """A meta tensor of these."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")


def _spec(value: Any) -> Any:
    """What the shape of a result depends on; what is no tensor keeps its type, since 1, 1.0 and True are equal."""
    if isinstance(value, Tensor):
        return _Spec(tuple(value.shape), value.stride(), value.dtype)
    return torch.device("meta") if isinstance(value, torch.device) else _Typed(type(value), value)


def _made(value: Any) -> Any:
    if isinstance(value, _Spec):
        return value.made()
    return value.value if isinstance(value, _Typed) else value


@dataclass(frozen=True, slots=True)
class _Typed:
    type: type
    value: Any


def _one(func: Any, args: Any, kwargs: Any, result: Tensor, symbols: list[Symbol], place: torch.device) -> Tensor:
    found = _ruled(func, args, kwargs, result.shape, symbols)
    field, reason = (found, "") if isinstance(found, Field) else (None, str(found))
    name = func.__name__
    inplace = (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")
    first = args[0] if args else None
    if (inplace or kwargs.get("inplace")) and isinstance(first, Symbol):
        if first.shape != result.shape:
            reason, field = "an in-place operation that changes the shape", None
        first.field, first.reason = field, reason
        return first
    return Symbol.of(result, place, field, reason)


def _several(func: Any, args: Any, kwargs: Any, result: Any, symbols: list[Symbol], place: torch.device) -> Any:
    shapes = [r.shape for r in result if isinstance(r, Tensor)]
    found = _ruled(func, args, kwargs, shapes, symbols)
    fields = list(found) if isinstance(found, list) else [found] * len(result)
    out = [
        Symbol.of(r, place, f if isinstance(f, Field) else None, "" if isinstance(f, Field) else str(f))
        if isinstance(r, Tensor)
        else r
        for r, f in zip(result, fields, strict=True)
    ]
    plain = type(result) in (tuple, list)
    return type(result)(out) if plain or hasattr(result, "n_sequence_fields") else tuple(out)


def _ruled(func: Any, args: Any, kwargs: Any, shape: Any, symbols: list[Symbol]) -> Any:
    unknown = next((s for s in symbols if s.field is None), None)
    if unknown is not None:
        return unknown.reason
    rule = RULES.get(func)
    name = getattr(func, "__name__", str(func))
    if rule is None:
        return f"no rule for {name}"
    found = rule(*args, **kwargs, shape=shape)
    if found is None or (isinstance(found, Field) and not isfinite(found.second)):
        return f"no rule for {name} of these tensors"
    return found


def field_of(value: Any) -> Field | None:
    """The field of a symbol, None for anything else."""
    return value.field if isinstance(value, Symbol) else None


def each_axis(value: Any, dims: int) -> tuple[int, ...]:
    """``value`` once for each axis, as torch takes it for all or for each."""
    if isinstance(value, int):
        return (value,) * dims
    found = tuple(int(v) for v in value)
    return found * dims if len(found) == 1 else found


def _bare(value: Any) -> Any:
    """A plain meta tensor for a tensor."""
    if isinstance(value, Symbol):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    if isinstance(value, torch.device):
        return torch.device("meta")
    return value


def _symbols(value: Any) -> list[Symbol]:
    found: list[Symbol] = []

    def note(item: Any) -> Any:
        if isinstance(item, Symbol):
            found.append(item)
        return item

    tree_map(note, value)
    return found


_SILENT = {
    getattr(Tensor, name).__get__
    for name in ("shape", "dtype", "ndim", "layout", "requires_grad", "grad_fn", "is_leaf", "grad", "is_cuda")
} | {
    Tensor.size,
    Tensor.dim,
    Tensor.ndimension,
    Tensor.numel,
    Tensor.nelement,
    Tensor.is_floating_point,
    torch.is_floating_point,
    Tensor.is_complex,
    Tensor.stride,
    Tensor.is_contiguous,
    Tensor.element_size,
    Tensor.storage_offset,
    Tensor.__len__,
    Tensor.__repr__,
    Tensor.requires_grad_,
    torch.numel,
    Tensor.get_device,
    Tensor._is_view,
}
"""What asks a tensor for something that a symbol knows as it is."""

_FILLED = {Tensor.new_empty, torch.empty_like}
"""What makes a new tensor whose values come later, on the model's own device."""
