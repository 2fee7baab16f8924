"""Parameters and the effective weights that old-style weight and spectral norms make of them.

Parameters are read from ``module._parameters``, never through ``getattr(module, "weight")``: with a parametrization that would
run modules (a spectral norm would advance its power iteration), and on quantized modules ``weight`` is a method.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def parameters_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters a module owns itself, by name; uninitialized ones are passed over."""
    if isinstance(module, torch.jit.ScriptModule):
        items = list(module.named_parameters(recurse=False))
    else:
        items = list(module._parameters.items())  # type: ignore[arg-type]
    for name, parameter in items:
        if parameter is not None and not isinstance(parameter, UninitializedParameter):
            yield name, parameter


def effective_weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights that a forward pre-hook of ``torch.nn.utils.weight_norm`` or ``spectral_norm`` has just computed."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm | SpectralNorm):
            weight = module.__dict__.get(hook.name)
            if isinstance(weight, Tensor):
                yield hook.name, weight


def leaves_outside(roots: list[Tensor], own: set[int]) -> list[Tensor]:
    """The leaves a backward pass from ``roots`` would write ``.grad`` of, other than those whose ids are in ``own``."""
    queue = [root.grad_fn for root in roots if root.grad_fn is not None]
    seen, found = set(queue), []
    while queue:
        node = queue.pop()
        if node is None:
            continue
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor) and id(leaf) not in own:
            found.append(leaf)
        for parent, _ in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                queue.append(parent)
    return found + [root for root in roots if root.grad_fn is None and id(root) not in own]
