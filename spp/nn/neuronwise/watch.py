"""One forward pass, watched: what is done with the output of each layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from spp.nn.neuronwise.regions import DERIVATIVES
from spp.nn.neuronwise.uses import OUTPUT, Use


class _Watch(TorchFunctionMode):
    """Sees every torch function and method; those inside an activation module or a layer are that module's affair."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, list[list[Use]]] = defaultdict(list)
        self.outputs: list[tuple[Tensor, list[Use]]] = []
        self.inside = 0

    def note(self, what: Any, arguments: Any, *, options: bool = False) -> None:
        for tensor in (leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)):
            for output, uses in self.outputs:
                if output is tensor:
                    uses.append(Use(what, options))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self.inside and any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            options = len(args) > 1 or any(key not in ("inplace", "input") for key in kwargs)
            self.note(func, (args, kwargs), options=options)
            self.close(result)
        return result

    def close(self, result: Any) -> None:
        """Forget outputs that were overwritten in place: what is done with them now is done with other values."""
        changed = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.outputs = [(tensor, uses) for tensor, uses in self.outputs if not any(tensor is leaf for leaf in changed)]


def watch(model: nn.Module, layers: Mapping[str, nn.Module], batch: Any) -> Mapping[str, list[list[Use]]]:
    """For each layer and each of its calls in one forward pass, what is done with its output.

    Args:
        model: The model; its buffers and the random state are put back afterwards.
        layers: Some of its modules, by name.
        batch: A tensor, a tuple of positional arguments or a mapping of keyword arguments.
    """
    seen = _Watch()
    handles = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        if not seen.inside:
            seen.note(module, (args, kwargs))
        seen.inside += 1

    def leave(_module: nn.Module, _args: Any, output: Any) -> None:
        seen.inside -= 1
        if not seen.inside:
            seen.close(output)

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                seen.outputs.append((output, []))
                seen.calls[name].append(seen.outputs[-1][1])

        return hook

    whole = {id(layer) for layer in layers.values()}
    try:
        for module in model.modules():
            if id(module) in whole or (type(module) in DERIVATIVES and not isinstance(module, nn.Identity)):
                handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
                handles.append(module.register_forward_hook(leave, always_call=True))
        for name, layer in layers.items():
            handles.append(layer.register_forward_hook(keep(name)))
        with _as_before(model), torch.no_grad(), seen:
            if isinstance(batch, Mapping):
                output = model(**batch)
            else:
                output = model(*batch) if isinstance(batch, tuple) else model(batch)
    finally:
        for handle in handles:
            handle.remove()
    for leaf in tree_leaves(output):
        for tensor, uses in seen.outputs:
            if leaf is tensor:
                uses.append(Use(OUTPUT))
    return seen.calls


@contextmanager
def _as_before(model: nn.Module) -> Iterator[None]:
    """Put buffers and random states back."""
    devices = {p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"}
    buffers = [(module, name, value) for module in model.modules() for name, value in module._buffers.items()]
    values = [None if value is None else value.clone() for _, _, value in buffers]
    with torch.random.fork_rng(devices=sorted(devices)):
        try:
            yield
        finally:
            for (module, name, tensor), value in zip(buffers, values, strict=True):
                module._buffers[name] = tensor
                if tensor is not None and value is not None:
                    with torch.no_grad():
                        tensor.copy_(value)
