"""Tensors remembered and put back: values with their version counters, and what hangs on leaves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Leaves:
    """The ``.grad`` objects, requires_grad flags and hooks of leaf tensors."""

    def __init__(self, leaves: Iterable[Tensor]) -> None:
        self._leaves = [(t, t.grad, t.requires_grad, t._post_accumulate_grad_hooks, t._backward_hooks) for t in leaves]
        self._after = [(hooks, dict(hooks)) for *_, hooks, _ in self._leaves if hooks]
        self._before = [(hooks, dict(hooks)) for *_, hooks in self._leaves if hooks]

    def set_aside(self) -> None:
        """Take ``.grad`` away and silence post-accumulate hooks, where an optimizer may live."""
        for leaf, grad, *_ in self._leaves:
            if grad is not None:
                leaf.grad = None
        for hooks, _ in self._after:
            hooks.clear()

    def restore(self) -> None:
        """Put all of it back into the original objects."""
        for leaf, grad, flag, after, before in self._leaves:
            if leaf.requires_grad is not flag:
                leaf.requires_grad_(flag)
            if leaf.grad is not grad:
                leaf.grad = grad
            if leaf._backward_hooks is not before:
                leaf._backward_hooks = before
            if leaf._post_accumulate_grad_hooks is not after:
                leaf._post_accumulate_grad_hooks = after
        for hooks, saved in (*self._after, *self._before):
            if hooks != saved:
                hooks.clear()
                hooks.update(saved)


class Values:
    """Values of tensors, put back without moving their version counters, so that older graphs stay valid."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._lazy: list[Any] = []
        self._saved: list[tuple[Tensor, Tensor, Tensor, int, int]] = []
        for tensor in tensors:
            if isinstance(tensor, UninitializedBuffer):
                self._lazy.append(tensor)
            elif not tensor.is_meta:
                version = -1 if tensor.is_inference() else tensor._version
                copy = tensor.detach().clone()
                self._saved.append(
                    (tensor, copy, tensor.detach() if version < 0 else tensor.data, address(tensor), version)
                )

    def restore(self) -> None:
        """Copy back what differs, in place and in the original storage."""
        moved: list[tuple[Tensor, int]] = []
        into: list[Tensor] = []
        back: list[Tensor] = []
        for tensor, saved, storage, where, version in self._saved:
            if address(tensor) != where or tensor.shape != saved.shape:
                tensor.data = storage
            written = version >= 0 and tensor._version != version
            if written and type(storage) is Tensor and storage.layout is torch.strided:
                into.append(storage)
                back.append(saved)
            # values can change without their version, as those of .data do
            elif written or not same_bits(storage, saved):
                with torch.no_grad() if version >= 0 else torch.inference_mode():
                    storage.copy_(saved)
            if version >= 0 and (written or tensor._version != version):
                moved.append((tensor, version))
        if into:  # a BatchNorm writes three buffers; one call for all takes a sixth of the time
            with torch.no_grad():
                torch._foreach_copy_(into, back)
        set_versions(moved)
        for buffer in self._lazy:
            _uninitialize(buffer, UninitializedBuffer)


class Parameters:
    """Parameters: watched through version counters and storage addresses, copied only on demand.

    Args:
        parameters: By name.
        copy: Whether to copy their values and put them back.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], copy: bool) -> None:
        self._lazy = [p for p in parameters.values() if isinstance(p, UninitializedParameter)]
        self._watched: list[tuple[str, nn.Parameter, Tensor, int, int]] = []
        for name, parameter in parameters.items():
            if not isinstance(parameter, UninitializedParameter):
                version = -1 if parameter.is_inference() else parameter._version
                self._watched.append((name, parameter, parameter.data, address(parameter), version))
        self._values = Values(self.alive()) if copy else None

    def alive(self) -> list[Tensor]:
        """Those that have values."""
        return [p for _, p, *_ in self._watched]

    def restore(self) -> list[str]:
        """Put back what can be; return the names of parameters that were written to in place and stay so."""
        for _, parameter, storage, where, _ in self._watched:
            if address(parameter) != where or parameter.shape != storage.shape:
                parameter.data = storage
        if self._values is not None:
            self._values.restore()
        for lazy in self._lazy:
            _uninitialize(lazy, UninitializedParameter)
        return [name for name, p, _, _, version in self._watched if version >= 0 and p._version != version]


def address(tensor: Tensor) -> int:
    """Where the values lie; 0 for layouts and wrappers that have no single place."""
    try:
        return tensor.data_ptr() if tensor.layout is torch.strided else 0
    except RuntimeError:
        return 0


def set_versions(tensors: list[tuple[Tensor, int]]) -> None:
    """Set version counters back, as if nothing had been written."""
    if tensors:
        torch._C._autograd._unsafe_set_version_counter(*zip(*tensors, strict=True))


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree to the bit, NaN and the sign of zero included; False where that cannot be said."""
    if a.shape != b.shape or a.dtype != b.dtype or a.layout is not torch.strided or a.is_quantized:
        return False
    if a.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    if a.is_floating_point() and (bits := _BITS.get(a.element_size())) is not None:
        a, b = a.view(bits), b.view(bits)
    return bool(torch.equal(a, b))


def _uninitialize(tensor: Any, kind: type) -> None:
    """Undo what a lazy module did to its parameter or buffer when it first saw data."""
    if type(tensor) is not kind:
        tensor.data = torch.empty(0, device=tensor.device, dtype=tensor.dtype)
        tensor.__class__ = kind
