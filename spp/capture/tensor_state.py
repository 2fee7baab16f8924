"""Tensors remembered and put back: values, storage, version counters, histories, and what hangs on leaves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(slots=True, eq=False)
class _Before:
    """One tensor as it was.

    Attributes:
        tensor: The tensor itself.
        storage: A handle on its memory, without a history.
        where: The address of that memory.
        version: Its version counter, -1 where it has none.
        values: A copy of its values, if wanted.
        node: The node of the graph that it came from, None for a leaf.
        link: A copy that hangs on that node.
        leaf: requires_grad, ``.grad``, post-accumulate hooks and hooks of a leaf.
    """

    tensor: Tensor
    storage: Tensor
    where: int
    version: int
    values: Tensor | None
    node: Any
    link: Tensor | None
    leaf: tuple[bool, Tensor | None, Any, Any] | None


class TensorState:
    """Some tensors as they are now.

    Args:
        tensors: What may be written to.
        values: Whether values, storage and version counters are put back too.
        storage: Whether storage that was exchanged is put back although values are not.
    """

    def __init__(self, tensors: Iterable[Tensor], *, values: bool, storage: bool = False) -> None:
        self._storage = values or storage
        self._lazy: list[tuple[Any, type]] = []
        self._before: dict[int, _Before] = {}
        self._renewed: set[int] = set()
        for tensor in tensors:
            if is_lazy(tensor):
                self._lazy.append((tensor, type(tensor)))
                continue
            self._before[id(tensor)] = _remember(tensor, values)
        self._views = [before for before in self._before.values() if before.tensor._is_view()]
        for view in self._views:  # what is written through a view gives its base a history
            base = view.tensor._base
            if base is not None and id(base) not in self._before:
                self._before[id(base)] = _remember(base, values=False)
        self._bases = [before for before in self._before.values() if not before.tensor._is_view()]
        # hooks live in dictionaries that the tensors share with whoever registered them
        leaves = [before.leaf for before in self._before.values() if before.leaf is not None]
        self._hooks = [(hooks, dict(hooks)) for *_, after, ahead in leaves for hooks in (after, ahead) if hooks]

    @property
    def alive(self) -> list[Tensor]:
        """Those that have values."""
        return [before.tensor for before in self._before.values()]

    @property
    def has_history(self) -> bool:
        """Whether any of them hangs on a graph of the user's, which a backward pass may not use up."""
        return any(before.node is not None for before in self._before.values())

    def had(self, tensor: Tensor) -> bool:
        """Whether a tensor was there, and had the history that it has now."""
        before = self._before.get(id(tensor))
        return before is not None and tensor.grad_fn is before.node

    def set_aside(self) -> None:
        """Take ``.grad`` away and silence post-accumulate hooks, where an optimizer may live."""
        for before in self._before.values():
            if before.leaf is not None and before.leaf[1] is not None:
                before.tensor.grad = None
            if before.leaf is not None and before.leaf[2]:
                before.leaf[2].clear()

    def restore(self) -> list[Tensor]:
        """Put back what was asked for; return the tensors that were written to and stay so."""
        if self._storage:
            for before in self._before.values():
                if _address(before.tensor) != before.where or before.tensor.shape != before.storage.shape:
                    before.tensor.data = before.storage
        written = [b for b in self._before.values() if b.version >= 0 and b.tensor._version != b.version]
        self._cut_bases()
        self._restore_values()
        for before in self._bases:
            _restore_leaf(before)
        self._cut_views()
        for before in self._views:
            _restore_leaf(before)
        for hooks, saved in self._hooks:
            if hooks != saved:
                hooks.clear()
                hooks.update(saved)
        for tensor, kind in self._lazy if self._storage else ():
            _uninitialize(tensor, kind)
        return [b.tensor for b in written if b.values is None]

    def cut(self) -> None:
        """Take off the graphs that hang on tensors since they were remembered, and put back the ones before; values stay."""
        self._cut_bases()
        self._cut_views()

    def _cut_bases(self) -> None:
        for before in self._bases:
            if before.tensor.grad_fn is not before.node:
                _reconnect(before)

    def _cut_views(self) -> None:
        """To be done after their bases: views take their history from these, and asking some views before that raises."""
        for before in self._views:
            # A view notes the version of its base at which it last took its history from it, and looks again when they differ.
            # One that was renewed at a later version than the one that is put back would miss a write.
            if before.tensor.grad_fn is not before.node or id(before) in self._renewed:
                self._renewed.add(id(before))
                _renew(before)

    def _restore_values(self) -> None:
        """Copy back what differs, in place, without moving version counters, so that older graphs stay valid."""
        into: list[Tensor] = []
        back: list[Tensor] = []
        moved: list[tuple[Tensor, int]] = []
        for before in self._before.values():
            tensor, storage, values, version = before.tensor, before.storage, before.values, before.version
            if values is None:
                continue
            written = version >= 0 and tensor._version != version
            if written and type(storage) is Tensor and storage.layout is torch.strided:
                into.append(storage)
                back.append(values)
            # values can change without their version, as those of .data do
            elif written or not _same_bits(storage, values):
                with torch.no_grad() if version >= 0 else torch.inference_mode():
                    storage.copy_(values)
            if version >= 0 and (written or tensor._version != version):
                moved.append((tensor, version))
        if into:  # a BatchNorm writes three buffers; one call for all takes a sixth of the time
            with torch.no_grad():
                torch._foreach_copy_(into, back)
        if moved:
            torch._C._autograd._unsafe_set_version_counter(*zip(*moved, strict=True))


def _remember(tensor: Tensor, values: bool) -> _Before:
    # inference tensors have no version counter, and no .data
    version = -1 if tensor.is_inference() else tensor._version
    node, link = tensor.grad_fn, None
    if node is not None:
        with torch.enable_grad():
            link = tensor.clone()
    return _Before(
        tensor,
        tensor.detach() if version < 0 else tensor.data,
        _address(tensor),
        version,
        tensor.detach().clone() if values and not tensor.is_meta else None,
        node,
        link,
        (tensor.requires_grad, tensor.grad, tensor._post_accumulate_grad_hooks, tensor._backward_hooks)
        if node is None
        else None,
    )


def _reconnect(before: _Before) -> None:
    """Give a tensor that is no view the history that it had; its values stay."""
    tensor, link = before.tensor, before.link
    tensor.detach_()
    if link is not None:
        # no history can be assigned to a tensor, but copying into it makes one
        values = tensor.clone()
        with torch.enable_grad():
            tensor.copy_(link)
        before.storage.copy_(values)


def _renew(before: _Before) -> None:
    """Take the history off a view whose base has none."""
    tensor, base = before.tensor, before.tensor._base
    if before.node is None and base is not None:
        # torch does not detach views, and a view keeps its edge when its base is detached: the Python object gets a new view
        with torch.enable_grad():
            fresh = base.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
        torch._C._swap_tensor_impl(tensor, fresh)


def _restore_leaf(before: _Before) -> None:
    if before.leaf is None:
        return
    tensor, (flag, grad, after, ahead) = before.tensor, before.leaf
    if tensor.requires_grad is not flag:
        tensor.requires_grad_(flag)
    if tensor.grad is not grad:
        tensor.grad = grad
    if tensor._backward_hooks is not ahead:
        tensor._backward_hooks = ahead
    if tensor._post_accumulate_grad_hooks is not after:
        tensor._post_accumulate_grad_hooks = after


def _address(tensor: Tensor) -> int:
    """Where the values lie; 0 for layouts and wrappers that have no single place."""
    try:
        return tensor.data_ptr() if tensor.layout is torch.strided else 0
    except RuntimeError:
        return 0


def _same_bits(a: Tensor, b: Tensor) -> bool:
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
