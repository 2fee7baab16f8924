"""Remembers everything a trace could disturb, and puts it back into the original objects on every way out."""

from __future__ import annotations

import random
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from spp.errors import SppWarning

Restore = bool | Literal["all"]

_CONTAINERS = (dict, OrderedDict, list, set)
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


@contextmanager
def preserved(model: nn.Module, loader: object, restore: Restore) -> Iterator[None]:
    """Run the body with the model ready to be measured; leave everything as it was.

    Inside, every parameter's ``.grad`` is None and its post-accumulate hooks are silent (an optimizer may live there).
    Afterwards, also when the body raises, these are put back: ``.grad`` objects, post-accumulate hooks, requires_grad flags,
    every module's attributes (buffers, training flags, hooks and plain Python state), buffer values, and the random states of
    torch, its accelerators, NumPy, Python and every generator that a module or loader holds.

    Args:
        model: The model about to be run.
        loader: Where batches come from; the generators it holds are put back too.
        restore: False leaves module attributes and buffers as the forward left them; "all" also copies and restores
            parameters, which otherwise are only watched: one that the forward writes to is named in a warning.
    """
    modules = list(model.modules())
    parameters = _Parameters(model, copy=restore == "all")
    gradients = _Gradients(parameters.alive())
    attributes = [_Attributes(m) for m in modules] if restore else []
    buffers = _Values(list(model.buffers())) if restore else None
    random_state = _RandomState(model, modules, loader)
    try:
        gradients.set_aside()
        yield
    finally:
        for snapshot in attributes:
            snapshot.restore()
        if buffers is not None:
            buffers.restore()
        gradients.restore()
        written = parameters.restore()
        random_state.restore()
    if written and restore != "all":
        warnings.warn(
            f"the forward pass wrote to parameters, which a trace does not copy: {', '.join(written[:5])}"
            f"{f' and {len(written) - 5} more' if len(written) > 5 else ''}. Pass restore='all' to undo that too.",
            SppWarning,
            stacklevel=4,
        )


@contextmanager
def kept(batch: Iterable[Tensor]) -> Iterator[None]:
    """Put the values and ``.grad`` of a batch's own tensors back afterwards."""
    tensors = _Values(list(batch))
    gradients = _Gradients(tensors.leaves())
    try:
        gradients.set_aside()
        yield
    finally:
        tensors.restore()
        gradients.restore()


@contextmanager
def set_aside(leaves: Iterable[Tensor]) -> Iterator[None]:
    """Keep the ``.grad`` and post-accumulate hooks of further leaves (another network in the loss, say) out of a backward."""
    gradients = _Gradients(list(leaves))
    try:
        gradients.set_aside()
        yield
    finally:
        gradients.restore()


class _Gradients:
    """The ``.grad`` objects, requires_grad flags and post-accumulate hooks of leaf tensors."""

    def __init__(self, leaves: list[Tensor]) -> None:
        self._leaves = [(t, t.grad, t.requires_grad, t._post_accumulate_grad_hooks) for t in leaves]
        self._hooks = [(hooks, dict(hooks)) for _, _, _, hooks in self._leaves if hooks]

    def set_aside(self) -> None:
        for leaf, grad, _, _ in self._leaves:
            if grad is not None:
                leaf.grad = None
        for hooks, _ in self._hooks:
            hooks.clear()

    def restore(self) -> None:
        for leaf, grad, flag, _ in self._leaves:
            if leaf.requires_grad is not flag:
                leaf.requires_grad_(flag)
            if leaf.grad is not grad:
                leaf.grad = grad
        for hooks, saved in self._hooks:
            hooks.clear()
            hooks.update(saved)


class _Values:
    """Values of tensors, put back without moving their version counters, so that older graphs stay valid."""

    def __init__(self, tensors: list[Tensor]) -> None:
        kept = [t for t in tensors if not isinstance(t, UninitializedBuffer)]
        self._saved = [(t, t.detach().clone(), t.data, t._version if not t.is_inference() else None) for t in kept]
        self._lazy = [t for t in tensors if isinstance(t, UninitializedBuffer)]

    def leaves(self) -> list[Tensor]:
        return [t for t, *_ in self._saved if t.is_leaf and t.requires_grad]

    def restore(self) -> None:
        for tensor, saved, storage, version in self._saved:
            if tensor.data_ptr() != storage.data_ptr() or tensor.shape != storage.shape:
                tensor.data = storage
            if version is not None and tensor._version == version and _same(storage, saved):
                continue
            with torch.no_grad():
                if not _same(storage, saved):
                    storage.copy_(saved)
            if version is not None:
                torch._C._autograd._unsafe_set_version_counter((tensor,), (version,))
        for buffer in self._lazy:
            _uninitialize(buffer, UninitializedBuffer)


class _Parameters:
    """Parameters: watched through version counters and storage addresses, copied only on demand."""

    def __init__(self, model: nn.Module, copy: bool) -> None:
        self._watched: list[tuple[str, nn.Parameter, Tensor, int]] = []
        self._lazy: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            if isinstance(parameter, UninitializedParameter):
                self._lazy.append(parameter)
            else:
                version = -1 if parameter.is_inference() else parameter._version
                self._watched.append((name, parameter, parameter.data, version))
        self._copies = [p.detach().clone() for _, p, _, _ in self._watched] if copy else None

    def alive(self) -> list[Tensor]:
        return [p for _, p, _, _ in self._watched]

    def restore(self) -> list[str]:
        """Put back what can be; return the names of parameters that were written to in place."""
        written = []
        for i, (name, parameter, storage, version) in enumerate(self._watched):
            if parameter.data_ptr() != storage.data_ptr() or parameter.shape != storage.shape:
                parameter.data = storage
            if self._copies is not None:
                if not _same(storage, self._copies[i]):
                    storage.copy_(self._copies[i])
                if version >= 0 and parameter._version != version:
                    torch._C._autograd._unsafe_set_version_counter((parameter,), (version,))
            elif version >= 0 and parameter._version != version:
                written.append(name)
        for lazy in self._lazy:
            _uninitialize(lazy, UninitializedParameter)
        return written


class _Attributes:
    """A module's class, attributes and the containers among them (buffers, parameters, hooks, lists of its own)."""

    __slots__ = ("_cls", "_containers", "_items", "_module", "_training")

    def __init__(self, module: nn.Module) -> None:
        self._module, self._cls, self._training = module, type(module), module.training
        if isinstance(module, torch.jit.ScriptModule):
            self._items: dict[str, Any] | None = None
            self._containers: list[tuple[Any, Any]] = []
            return
        self._items = dict(module.__dict__)
        self._containers = [
            (value, value.copy() if value else None) for value in self._items.values() if type(value) in _CONTAINERS
        ]

    def restore(self) -> None:
        module = self._module
        if self._items is None:
            if module.training is not self._training:
                module.training = self._training
            return
        if type(module) is not self._cls:
            module.__class__ = self._cls
        attributes = module.__dict__
        if len(attributes) != len(self._items) or any(attributes.get(k) is not v for k, v in self._items.items()):
            attributes.clear()
            attributes.update(self._items)
        for container, saved in self._containers:
            if saved is None:
                if container:
                    container.clear()
            elif not _same_items(container, saved):
                container.clear()
                if isinstance(container, list):
                    container.extend(saved)
                else:
                    container.update(saved)


class _RandomState:
    """Every source of randomness a forward could draw from."""

    def __init__(self, model: nn.Module, modules: list[nn.Module], loader: object) -> None:
        self._torch = torch.get_rng_state()
        self._python = random.getstate()
        self._numpy = np.random.get_state(legacy=True)  # noqa: NPY002  (other people's code draws from it)
        self._accelerators = [
            (backend, backend.get_rng_state_all() if hasattr(backend, "get_rng_state_all") else backend.get_rng_state())
            for backend in _accelerators(model)
        ]
        own = [v for m in modules for v in m.__dict__.values() if isinstance(v, _GENERATORS)]
        for holder in (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, _GENERATORS):
                own.append(generator)
        self._own = [(g, _generator_state(g)) for g in own]

    def restore(self) -> None:
        torch.set_rng_state(self._torch)
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        for backend, state in self._accelerators:
            if hasattr(backend, "set_rng_state_all"):
                backend.set_rng_state_all(state)
            else:
                backend.set_rng_state(state)
        for generator, state in self._own:
            _set_generator_state(generator, state)


def _accelerators(model: nn.Module) -> list[Any]:
    """The accelerator modules of torch that are awake, or that the model's parameters lie on."""
    kinds = {p.device.type for p in model.parameters()} - {"cpu", "meta"}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        kinds.add("cuda")
    return [backend for kind in sorted(kinds) if hasattr(backend := getattr(torch, kind, None), "get_rng_state")]


def _generator_state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=True)
    return generator.getstate()


def _set_generator_state(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal bit for bit where that is cheap to say; NaN makes it False, which only costs a copy."""
    return a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(a, b))


def _same_items(a: Any, b: Any) -> bool:
    if len(a) != len(b):
        return False
    if isinstance(a, dict):
        return all(k is j and v is w for (k, v), (j, w) in zip(a.items(), b.items(), strict=True))
    if isinstance(a, list):
        return all(v is w for v, w in zip(a, b, strict=True))
    return bool(a == b)


def _uninitialize(tensor: Any, kind: type) -> None:
    """Undo what a lazy module did to its parameter or buffer when it first saw data."""
    if type(tensor) is not kind:
        tensor.data = torch.empty(0, device=tensor.device, dtype=tensor.dtype)
        tensor.__class__ = kind
