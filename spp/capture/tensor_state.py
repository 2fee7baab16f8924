"""Tensors remembered and put back: values, storage, version counters, histories, and what hangs on leaves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from spp import _torch

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


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
        for tensor in tensors:
            if is_lazy(tensor):
                self._lazy.append((tensor, type(tensor)))
            elif id(tensor) not in self._before:
                self._before[id(tensor)] = _remembered(tensor, values)
        self._bases, self._views = list(self._before.values()), list[_Before]()
        if any(before.tensor._is_view() for before in self._bases):
            self._views = [before for before in self._bases if before.tensor._is_view()]
            for base in [view.tensor._base for view in self._views]:
                if (
                    base is not None and id(base) not in self._before
                ):  # what is written through a view gives it a history
                    self._before[id(base)] = _remembered(base, values=False)
            self._bases = [before for before in self._before.values() if not before.tensor._is_view()]
        self._renewed: set[int] = set()
        # hooks live in dictionaries, which whoever registered them holds too
        every = [hooks for before in self._before.values() for hooks in (before.after, before.ahead) if hooks]
        self._hooks = [(hooks, dict(hooks)) for hooks in every]

    @property
    def alive(self) -> list[Tensor]:
        """Those that have values."""
        return [before.tensor for before in self._before.values()]

    @property
    def has_history(self) -> bool:
        """Whether any of them hangs on a graph of the user's, which a backward pass may not use up."""
        return any(before.node is not None for before in self._before.values())

    def had(self, tensor: Tensor) -> bool:
        """Whether a tensor was there, with the history that it has now."""
        before = self._before.get(id(tensor))
        return before is not None and tensor.grad_fn is before.node

    def keep_values(self, tensor: Tensor) -> None:
        """Copy one whose values were not wanted, and which may be written to where no version counter tells."""
        before = self._before.get(id(tensor))
        if before is None or before.values is not None or tensor.is_meta:
            return
        # what has been written to already, or lies elsewhere by now, is not what it was
        if tensor._version == before.version and _address(tensor) == before.where:
            before.values = tensor.detach().clone()

    def set_aside(self) -> None:
        """Take ``.grad`` away and silence post-accumulate hooks, where an optimizer may live."""
        for before in self._before.values():
            if before.grad is not None:
                before.tensor.grad = None
            if before.after:
                before.after.clear()

    def restore(self) -> list[Tensor]:
        """Put back what was asked for; return the tensors that were written to and stay so."""
        if self._storage:
            for before in self._before.values():
                tensor, storage = before.tensor, before.storage
                if _address(tensor) != before.where or _torch.shape_of(tensor) != _torch.shape_of(storage):
                    before.tensor.data = before.storage
        written = [b for b in self._before.values() if b.version >= 0 and b.tensor._version != b.version]
        self._cut_bases()
        self._restore_values()
        for before in self._bases:
            before.restore_leaf()
        self._cut_views()
        for before in self._views:
            before.restore_leaf()
        for hooks, saved in self._hooks:
            if hooks != saved:
                hooks.clear()
                hooks.update(saved)
        for tensor, kind in self._lazy if self._storage else ():
            if type(tensor) is not kind:  # a lazy module has seen its first data
                tensor.data = torch.empty(0, device=tensor.device, dtype=tensor.dtype)
                tensor.__class__ = kind
        return [before.tensor for before in written if before.values is None]

    def cut(self) -> None:
        """Take off the graphs that hang on tensors since they were remembered, and put back the ones before; values stay."""
        self._cut_bases()
        self._cut_views()

    def _cut_bases(self) -> None:
        for before in self._bases:
            if before.tensor.grad_fn is not before.node:
                before.reconnect()

    def _cut_views(self) -> None:
        """To be done after their bases: views take their history from these, and asking some views before that raises."""
        for before in self._views:
            # A view notes the version of its base at which it last took its history from it, and looks again when they differ.
            # One that was renewed at a later version than the one that is put back would miss a write.
            if before.tensor.grad_fn is not before.node or id(before) in self._renewed:
                self._renewed.add(id(before))
                before.renew()

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
            if written and type(storage) is Tensor and storage.layout is torch.strided and not storage.is_nested:
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
                _torch.copy_all(into, back)
        if moved:
            _torch.set_versions(*zip(*moved, strict=True))


@dataclass(slots=True, eq=False)  # not frozen: there are hundreds, and that would take twice as long to make
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
        flag: requires_grad.
        grad: ``.grad`` of a leaf.
        after: Post-accumulate hooks of a leaf.
        ahead: Hooks of a leaf.
    """

    tensor: Tensor
    storage: Tensor
    where: int
    version: int
    values: Tensor | None
    node: Any
    link: Tensor | None
    flag: bool
    grad: Tensor | None
    after: Any
    ahead: Any

    def reconnect(self) -> None:
        """Give a tensor that is no view the history that it had; its values stay."""
        self.tensor.detach_()
        if self.link is not None:
            # no history can be assigned to a tensor, but copying into it makes one
            values = self.tensor.clone()
            with torch.enable_grad():
                self.tensor.copy_(self.link)
            self.storage.copy_(values)

    def renew(self) -> None:
        """Take the history off a view whose base has none."""
        tensor, base = self.tensor, self.tensor._base
        if self.node is None and base is not None:
            # torch does not detach views, and a view keeps its edge when its base is detached: the Python object gets a new one
            with torch.enable_grad():
                fresh = base.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
            _torch.swap(tensor, fresh)

    def restore_leaf(self) -> None:
        """Put back what hangs on a leaf."""
        if self.node is not None:
            return
        if self.tensor.requires_grad is not self.flag:
            self.tensor.requires_grad_(self.flag)
        if self.tensor.grad is not self.grad:
            self.tensor.grad = self.grad
        if self.tensor._backward_hooks is not self.ahead:
            self.tensor._backward_hooks = self.ahead
        if self.tensor._post_accumulate_grad_hooks is not self.after:
            self.tensor._post_accumulate_grad_hooks = self.after


def _remembered(tensor: Tensor, values: bool) -> _Before:
    node, flag, version = tensor.grad_fn, tensor.requires_grad, -1 if tensor.is_inference() else tensor._version
    copy = tensor.detach().clone() if values and not tensor.is_meta else None
    # inference tensors have no version counter, and no .data
    storage = tensor.detach() if version < 0 else tensor.data
    if node is None:
        hanging = tensor.grad, tensor._post_accumulate_grad_hooks, tensor._backward_hooks
        return _Before(tensor, storage, _address(tensor), version, copy, None, None, flag, *hanging)
    with torch.enable_grad():
        return _Before(tensor, storage, _address(tensor), version, copy, node, tensor.clone(), flag, None, None, None)


def _address(tensor: Tensor) -> int:
    """Where the values lie; 0 for layouts and wrappers that have no single place."""
    try:
        return tensor.data_ptr() if tensor.layout is torch.strided else 0
    except RuntimeError:
        return 0


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree to the bit, NaN and the sign of zero included; False where that cannot be said."""
    if a.is_nested or a.shape != b.shape or a.dtype != b.dtype or a.layout is not torch.strided or a.is_quantized:
        return False
    if a.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    a, b = a.resolve_neg(), b.resolve_neg()
    if a.is_floating_point() and (bits := _BITS.get(a.element_size())) is not None:
        a, b = a.view(bits), b.view(bits)
    return bool(torch.equal(a, b))
