"""The modules and parameters of a model, as ``nn.Module`` gives them, at a fraction of its time."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def named_modules(root: nn.Module, *, duplicates: bool = False) -> Iterable[tuple[str, nn.Module]]:
    """Names and modules in the order of ``root.named_modules(remove_duplicate=not duplicates)``.

    ``named_modules`` hands each module up through a generator for every level of nesting; here there is one stack. Where a
    class has a ``named_modules`` of its own, torch does the walk.

    Args:
        root: Where to begin; its own name is "".
        duplicates: Whether a module that is reached by several names comes once for each.
    """
    found: list[tuple[str, nn.Module]] = []
    seen: set[nn.Module] = set()
    waiting: list[tuple[str, nn.Module]] = [("", root)]
    while waiting:
        name, module = waiting.pop()
        if not duplicates:
            if module in seen:
                continue
            seen.add(module)
        if type(module).named_modules is not nn.Module.named_modules:
            return list(root.named_modules(remove_duplicate=not duplicates))
        found.append((name, module))
        if children := module._modules:
            start = f"{name}." if name else ""
            waiting += [(start + key, child) for key, child in reversed(children.items()) if child is not None]
    return found


def parameters_in(root: nn.Module) -> list[nn.Parameter]:
    """``list(root.parameters())``."""
    found: dict[int, nn.Parameter] = {}
    for _, module in named_modules(root):
        scripted = isinstance(module, torch.jit.ScriptModule)
        own = dict(module.named_parameters(recurse=False)) if scripted else module._parameters
        for parameter in own.values():
            if parameter is not None:
                found.setdefault(id(parameter), parameter)
    return list(found.values())
