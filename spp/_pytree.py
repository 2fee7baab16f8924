"""Looking into what modules take and give: tensors inside nested structures, and one-line descriptions for errors."""

from collections import deque
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Set, ValuesView
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

Opaque = tuple[str, str]

_PLAIN = (str, bytes, bool, int, float, complex, type(None), torch.dtype, torch.device, torch.Size)


def tensors_in(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor inside ``value`` with its path: ``""`` for a lone tensor, else as ``0``, ``hidden``, ``aux.1``.

    Tuples, lists, queues, named tuples, mappings and their views, dataclasses, packed sequences and the tensors that a number
    or text of a class of its own holds are looked into, to any depth; a set where it holds one item, since it has no order.
    """
    for where, item in walk(value, path):
        if isinstance(item, Tensor):
            yield where, item


def walk(value: Any, path: str = "", above: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Like :func:`tensors_in`, and also the objects that nothing is known about; plain numbers and text are passed over.

    Args:
        value: What to look into.
        path: Its own path.
        above: Identities of what it lies in, so that a container inside itself ends the walk.
    """
    if isinstance(value, Tensor):
        yield path, value
        return
    if type(value) in _PLAIN or id(value) in above:
        return
    items = _items(value)
    if items is None:
        yield path, value
        return
    inside = (*above, id(value))
    for name, item in items:
        yield from walk(item, _join(path, str(name)), inside)


def _items(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """Names and items of what a value holds; None where that cannot be told."""
    if isinstance(value, _PLAIN):
        return [(name, item) for name, item in getattr(value, "__dict__", {}).items() if isinstance(item, Tensor)]
    if isinstance(value, PackedSequence):
        return (("data", value.data),)
    if isinstance(value, ValuesView | ItemsView):
        value = getattr(value, "mapping", value)
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, tuple | list | deque) or (isinstance(value, Set) and _is_orderly(value)):
        return zip(getattr(value, "_fields", None) or range(len(value)), value, strict=True)
    if is_dataclass(value) and not isinstance(value, type):
        return ((field.name, getattr(value, field.name, None)) for field in fields(value))
    return None


def _is_orderly(items: Set[Any]) -> bool:
    """Whether the tensors of a set have names: one has, of several nobody knows which is which in the next batch."""
    return len(items) < 2 or not any(isinstance(item, Tensor) for item in items)


def describe(value: Any) -> str:
    """One line about what arrived, as ``float32 tensor of shape (8, 3, 32, 32)``."""
    if isinstance(value, Tensor):
        try:
            shape: Any = tuple(value.shape)
        except (AttributeError, RuntimeError):  # of a subclass, of a nested tensor
            shape = "?"
        device = "" if value.device.type == "cpu" else f" on {value.device}"
        return f"{dtype_name(value.dtype)} tensor of shape {shape}{device}"
    if isinstance(value, PackedSequence):
        return f"PackedSequence of {describe(value.data)}"
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key}: {describe(item)}" for key, item in list(value.items())[:6])
        return f"{type(value).__name__} of {{{inside}{', ...' if len(value) > 6 else ''}}}"
    if isinstance(value, tuple | list):
        inside = ", ".join(describe(item) for item in value[:6])
        return f"{type(value).__name__} of ({inside}{', ...' if len(value) > 6 else ''})"
    if isinstance(value, str | int | float | bool | type(None)):
        return repr(value) if not isinstance(value, str) or len(value) < 40 else f"{value[:37]!r}..."
    return type(value).__name__


def describe_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """The arguments of a call, one after the other."""
    parts = [describe(arg) for arg in args] + [f"{name}={describe(arg)}" for name, arg in kwargs.items()]
    return ", ".join(parts) if parts else "no arguments"


@lru_cache(maxsize=64)
def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


@lru_cache(maxsize=4096)
def shape_name(shape: torch.Size) -> str:
    """``32x64x56x56``; empty for a scalar."""
    return "x".join(map(str, shape))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
