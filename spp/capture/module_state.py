"""What modules hold besides their parameters: buffers, attributes, containers of their own, tensors in them, generators.

One walk looks at every attribute of every module and into built-in containers. Modules that are kept in a plain list or
dictionary, which ``model.modules()`` does not know, are found on the way and treated alike.
"""

from __future__ import annotations

import random
from collections import Counter, OrderedDict, defaultdict, deque
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spp.capture.sites import named_modules
from spp.capture.tensor_state import TensorState

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
"""Classes of random generators."""

_PLAIN = frozenset({bool, int, float, complex, str, bytes, type(None), torch.Size, torch.dtype, torch.device, type})
_CONTAINERS = frozenset({dict, OrderedDict, defaultdict, Counter, list, set, deque})
_REGISTERED = frozenset({"_parameters", "_modules"})
_LONG = 4096
"""Longer containers are remembered but not looked into: vocabularies and tables hold no tensors one by one."""


class ModuleState:
    """What the modules of ``model`` hold, as it is now.

    Attributes:
        parameters: The parameters of all modules, hidden ones included, by name where they have one.
        tensors: Buffers and further tensors that are no parameters.
        generators: Random generators of their own.
    """

    def __init__(self, model: nn.Module) -> None:
        self.parameters: dict[str, nn.Parameter] = {}
        self.tensors: list[Tensor] = []
        self.generators: list[Any] = []
        self._attributes: list[tuple[nn.Module, type, dict[str, Any]]] = []
        self._scripted: list[tuple[nn.Module, bool, dict[str, Tensor]]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._arrays: list[tuple[Any, Any]] = []
        self._seen: set[int] = set()
        hidden: list[nn.Module] = [model]
        for root in hidden:  # grows while it is walked
            for prefix, module in named_modules(root):
                if id(module) not in self._seen:
                    self._seen.add(id(module))
                    self._module(prefix, module, hidden)

    def _module(self, prefix: str, module: nn.Module, hidden: list[nn.Module]) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            buffers = dict(module.named_buffers(recurse=False))
            self._scripted.append((module, module.training, buffers))
            self.tensors += buffers.values()
            own: Any = module.named_parameters(recurse=False)
        else:
            items = module.__dict__.copy()
            self._attributes.append((module, type(module), items))
            for name, value in items.items():
                if type(value) not in _PLAIN:
                    self._look(value, hidden, deeper=name not in _REGISTERED)
            own = module._parameters.items()
        for name, parameter in own:
            if parameter is not None and id(parameter) not in self._seen:
                self._seen.add(id(parameter))
                self.parameters[f"{prefix}.{name}" if prefix else name] = parameter

    def _look(self, value: Any, hidden: list[nn.Module], deeper: bool = True) -> None:
        kind = type(value)
        if kind in _CONTAINERS:
            if not value:  # most are dictionaries of hooks that nobody registered
                self._containers.append((value, None))
                return
            if id(value) in self._seen:
                return
            self._seen.add(id(value))
            self._containers.append((value, value.copy()))
        elif isinstance(value, nn.Module):
            if id(value) not in self._seen:
                hidden.append(value)
            return
        elif isinstance(value, Tensor):
            if not isinstance(value, nn.Parameter) and id(value) not in self._seen:
                self._seen.add(id(value))
                self.tensors.append(value)
            return
        elif isinstance(value, np.ndarray):
            if not value.dtype.hasobject:
                self._arrays.append((value, value.copy()))
            return
        elif isinstance(value, GENERATORS):
            self.generators.append(value)
            return
        elif not isinstance(value, tuple):
            return
        if deeper and len(value) <= _LONG:
            for item in list(value.values()) if isinstance(value, dict) else list(value):
                if type(item) not in _PLAIN:
                    self._look(item, hidden)

    def restore(self) -> None:
        """Put back classes, attributes, the entries of containers and the values of arrays; tensors' values not."""
        for module, training, buffers in self._scripted:
            if module.training is not training:
                module.training = training
            for name, buffer in module.named_buffers(recurse=False):
                if buffer is not buffers[name]:
                    setattr(module, name, buffers[name])
        for module, cls, items in self._attributes:
            if type(module) is not cls:
                module.__class__ = cls
            attributes = module.__dict__
            if attributes.keys() != items.keys() or not all(map(is_, attributes.values(), items.values())):
                attributes.clear()
                attributes.update(items)
        put_back(self._containers)
        for array, saved in self._arrays:
            if array.flags.writeable:
                array[...] = saved

    def cut(self, known: TensorState) -> None:
        """Hold detached tensors in place of those that a forward has left there with its graph.

        Args:
            known: Tensors that may keep the history that they had before.
        """
        seen: set[int] = set()
        for module, *_ in self._attributes:
            for name, value in module.__dict__.items():
                if type(value) not in _PLAIN and name not in _REGISTERED:
                    module.__dict__[name] = _cut(value, known, seen)


def _cut(value: Any, known: TensorState, seen: set[int]) -> Any:
    kind = type(value)
    if isinstance(value, Tensor):
        return value if value.grad_fn is None or known.had(value) else value.detach()
    if isinstance(value, tuple) and (kind is tuple or hasattr(kind, "_make")):
        items = [_cut(item, known, seen) for item in value]
        if all(map(is_, items, value)):
            return value
        return tuple(items) if kind is tuple else kind._make(items)
    if kind in _CONTAINERS and kind is not set and id(value) not in seen and len(value) <= _LONG:
        seen.add(id(value))
        for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
            if type(item) not in _PLAIN:
                value[key] = _cut(item, known, seen)
    return value


def containers_in(value: Any) -> list[tuple[Any, Any]]:
    """``value`` and the containers inside it with copies of their entries, for :func:`put_back`."""
    found: dict[int, tuple[Any, Any]] = {}
    queue = [value]
    for item in queue:  # grows while it is walked
        if type(item) in _CONTAINERS and id(item) not in found:
            found[id(item)] = item, item.copy()
        elif not isinstance(item, tuple):
            continue
        queue.extend(item.values() if isinstance(item, dict) else item)
    return list(found.values())


def put_back(containers: list[tuple[Any, Any]]) -> None:
    """Make each container hold what its copy holds (None: nothing), without touching those that still do."""
    for container, saved in containers:
        if saved is None:
            if container:
                container.clear()
        elif not _same_items(container, saved):
            container.clear()
            if isinstance(container, list | deque):
                container.extend(saved)
            else:
                container.update(saved)


def _same_items(a: Any, b: Any) -> bool:
    if len(a) != len(b):
        return False
    if isinstance(a, dict):
        return all(map(is_, a.keys(), b.keys())) and all(map(is_, a.values(), b.values()))
    return bool(a == b) if isinstance(a, set) else all(map(is_, a, b))
