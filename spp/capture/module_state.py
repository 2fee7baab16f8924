"""What modules hold besides their parameters: buffers, attributes, containers of their own, tensors in them, generators.

One walk looks at every attribute of every module and into built-in containers. Modules that are kept in a plain list or
dictionary, which ``model.modules()`` does not know, are found on the way and treated alike.
"""

from __future__ import annotations

import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator
from operator import is_
from types import CellType, FunctionType, MemberDescriptorType, ModuleType
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
_INDEXED = _CONTAINERS - {set}
_REGISTERED = frozenset({"_parameters", "_modules"})
_STATELESS = (type, ModuleType, FunctionType, nn.Module)
_EMPTY = CellType()
IN_A_BATCH, IN_A_MODULE = 4, 2
"""How far objects of other classes are looked into: a cache, its layers, what these hold. A module may hold its trainer too."""
_LONG = 4096
"""Longer containers are remembered but not looked into: vocabularies and tables hold no tensors one by one."""


class ModuleState:
    """What modules hold, as it is now.

    Args:
        roots: Models; also containers, such as those of a batch.
        objects: How many objects of other classes deep attributes, and entries of containers of classes of their own, count.

    Attributes:
        parameters: The parameters of all modules, hidden ones included, by name where they have one.
        tensors: Buffers and further tensors, those of classes and parameters that no module has registered among them.
        generators: Random generators of their own.
    """

    def __init__(self, *roots: Any, objects: int = IN_A_MODULE) -> None:
        self.parameters: dict[str, nn.Parameter] = {}
        self.tensors: list[Tensor] = []
        self.generators: list[Any] = []
        self._attributes: list[tuple[Any, type, dict[str, Any]]] = []
        self._scripted: list[tuple[nn.Module, bool, dict[str, Tensor]]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._arrays: list[tuple[Any, Any]] = []
        self._seen: set[int] = set()
        self._loose: dict[int, nn.Parameter] = {}
        self._slots: list[tuple[Any, list[str], dict[str, Any]]] = []
        self._nested = objects
        self._classes: set[type] = set()
        hidden: list[nn.Module] = []
        for root in roots:
            self._look(root, hidden)
        for root in hidden:  # grows while it is walked
            for prefix, module in named_modules(root):
                if id(module) not in self._seen:
                    self._seen.add(id(module))
                    self._module(prefix, module, hidden)
        self.tensors += [parameter for key, parameter in self._loose.items() if key not in self._seen]

    def _module(self, prefix: str, module: nn.Module, hidden: list[nn.Module]) -> None:
        for cls in set(type(module).__mro__) - self._classes:
            self._classes.add(cls)
            for tensor in _beside_instances(cls):
                self._look(tensor, hidden)
        if isinstance(module, torch.jit.ScriptModule):
            # its attributes live in C++, where a forward cannot rebind more than buffers
            buffers = dict(module.named_buffers(recurse=False))
            self._scripted.append((module, module.training, buffers))
            self.tensors += buffers.values()
            own: Any = module.named_parameters(recurse=False)
        else:
            items = module.__dict__.copy()
            self._attributes.append((module, type(module), items))
            for name, value in items.items():
                if type(value) in _PLAIN:
                    continue
                if type(value) in _CONTAINERS and not value:  # most are dictionaries of hooks that nobody registered
                    self._containers.append((value, None))
                else:
                    self._look(value, hidden, deeper=name not in _REGISTERED)
            own = module._parameters.items()
        for name, parameter in own:
            if parameter is not None and id(parameter) not in self._seen:
                self._seen.add(id(parameter))
                self.parameters[f"{prefix}.{name}" if prefix else name] = parameter

    def _look(self, value: Any, hidden: list[nn.Module], deeper: bool = True) -> None:
        if isinstance(value, tuple):
            self._look_into(value, hidden)
        elif isinstance(value, np.ndarray):
            if not value.dtype.hasobject:
                self._arrays.append((value, value.copy()))
        elif isinstance(value, GENERATORS):
            self.generators.append(value)
        elif id(value) in self._seen:
            return
        elif type(value) in _CONTAINERS or (self._nested and isinstance(value, dict | list | set | deque)):
            self._seen.add(id(value))
            self._containers.append((value, _base(value)(value) if value else None))
            if type(value) not in _CONTAINERS:
                self._attributes_of(value, hidden)
            if deeper and len(value) <= _LONG:
                self._look_into(value.values() if isinstance(value, dict) else value, hidden)
        elif isinstance(value, nn.Module):
            hidden.append(value)
        elif isinstance(value, nn.Parameter):
            # perhaps a module that comes later has registered it
            self._loose[id(value)] = value
        elif isinstance(value, Tensor):
            self._seen.add(id(value))
            if not _is_stale(value):
                self.tensors.append(value)
        elif self._nested and not isinstance(value, _STATELESS):
            self._seen.add(id(value))
            self._attributes_of(value, hidden)

    def _attributes_of(self, value: Any, hidden: list[nn.Module]) -> None:
        items = getattr(value, "__dict__", None)
        own = items.copy() if type(items) is dict else {}
        if type(items) is dict:
            self._attributes.append((value, type(value), own))
        if names := _slots(type(value)):
            slots = {name: getattr(value, name) for name in names if hasattr(value, name)}
            self._slots.append((value, names, slots))
            own = own | slots
        self._nested -= 1
        # a module that such an object knows is no part of what holds it
        self._look_into([item for item in own.values() if not isinstance(item, nn.Module)], hidden)
        self._nested += 1

    def _look_into(self, items: Iterable[Any], hidden: list[nn.Module]) -> None:
        for item in list(items):
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
            # by identity: comparing tensors by value would be slow, and no truth value comes of it
            attributes = module.__dict__
            if attributes.keys() != items.keys() or not all(map(is_, attributes.values(), items.values())):
                attributes.clear()
                attributes.update(items)
        for value, names, slots in self._slots:
            for name in names:
                # a frozen dataclass refuses to be written to by any other way
                if name not in slots:
                    if hasattr(value, name):
                        object.__delattr__(value, name)
                elif getattr(value, name, slots) is not slots[name]:
                    object.__setattr__(value, name, slots[name])
        _put_back(self._containers)
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
                    # not by setattr, which would register tensors and refuse others
                    module.__dict__[name] = _cut(value, known, seen)
        for owner, names, _ in self._slots:
            for name in names:
                if hasattr(owner, name):
                    object.__setattr__(owner, name, _cut(getattr(owner, name), known, seen))


def _beside_instances(cls: type) -> Iterator[Tensor]:
    """Tensors that all instances of a class share: its attributes, and what its functions name or close over."""
    if cls.__module__.startswith("torch."):
        return
    for value in list(vars(cls).values()):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, FunctionType):
            named = [value.__globals__.get(name) for name in value.__code__.co_names]
            closed = [cell.cell_contents for cell in value.__closure__ or () if cell != _EMPTY]
            yield from (held for held in named + closed if isinstance(held, Tensor))


def _slots(cls: type) -> list[str]:
    """Names of the attributes that a class keeps in ``__slots__``."""
    kinds = [kind for kind in cls.__mro__ if "__slots__" in vars(kind)]
    return [name for kind in kinds for name, member in vars(kind).items() if type(member) is MemberDescriptorType]


def _cut(value: Any, known: TensorState, seen: set[int]) -> Any:
    if isinstance(value, Tensor):
        return value if _is_stale(value) or value.grad_fn is None or known.had(value) else value.detach()
    if isinstance(value, tuple):
        items = [_cut(item, known, seen) for item in value]
        if all(map(is_, items, value)):
            return value
        # a named tuple is made of one argument a field
        return tuple(items) if type(value) is tuple else type(value)(*items)
    if type(value) in _INDEXED and id(value) not in seen and len(value) <= _LONG:
        seen.add(id(value))
        for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
            if type(item) not in _PLAIN:
                value[key] = _cut(item, known, seen)
    return value


def _is_stale(tensor: Tensor) -> bool:
    """Whether autograd refuses to say where a view came from: of one of several whose base was written to it knows no more.

    FSDP1 leaves such views of its flat parameter in the modules.
    """
    try:
        _ = tensor.grad_fn
    except RuntimeError:
        return True
    return False


def _put_back(containers: list[tuple[Any, Any]]) -> None:
    """Make each container hold what its copy holds (None: nothing), without touching those that still do."""
    for container, saved in containers:
        if not container if saved is None else _same_items(container, saved):
            continue
        # a class of its own may forbid its methods, or do more in them
        base: Any = _base(container)
        base.clear(container)
        if saved is not None:
            (base.extend if isinstance(container, list | deque) else base.update)(container, saved)


def _base(container: Any) -> type:
    """The built-in class whose methods are a container's own."""
    return next(kind for kind in (OrderedDict, dict, list, set, deque) if isinstance(container, kind))


def _same_items(a: Any, b: Any) -> bool:
    if isinstance(a, set):
        return bool(a == b)
    return (
        len(a) == len(b) and all(map(is_, a, b)) and (not isinstance(a, dict) or all(map(is_, a.values(), b.values())))
    )
