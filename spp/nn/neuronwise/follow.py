"""Which nonlinearity directly follows a layer: read off the graph, or off one forward pass."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from torch import fx, nn

from spp.nn.neuronwise.regions import DERIVATIVES
from spp.nn.neuronwise.uses import LAYERS, OUTPUT, Follower, Use, decide
from spp.nn.neuronwise.watch import watch


def followers(model: nn.Module, layers: Mapping[str, nn.Module], batch: Any) -> dict[str, Follower]:
    """What follows each of ``layers``, by name.

    Args:
        model: The model.
        layers: Some of its modules by qualified name.
        batch: Input for a forward pass, or None to read the graph.
    """
    if batch is not None:
        uses = watch(model, layers, batch)
        return {name: decide(uses.get(name, ()), "was not called in the forward pass") for name in layers}
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # whatever a model's own code raises when it meets symbolic values
        return _sequential(model, layers, f"{type(error).__name__} in symbolic tracing")
    found: dict[str, list[list[Use]]] = {name: [] for name in layers}
    for node in graph.nodes:
        if node.op == "call_module" and node.target in found:
            found[node.target].append(list(_uses(model, node)))
    return {name: decide(found[name], "was not met in symbolic tracing") for name in layers}


class _Tracer(fx.Tracer):
    """Takes layers and activations as they are, subclasses and parametrized ones too."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = isinstance(m, LAYERS) or type(m) in DERIVATIVES
        return known or super().is_leaf_module(m, module_qualified_name)


ASIDE = ("size", "dim", "numel", "stride", "ndimension")
"""Methods that look at a tensor without using its values."""


def _uses(model: nn.Module, node: fx.Node) -> Iterable[Use]:
    for user in node.users:
        if user.op == "call_module":
            module = model.get_submodule(str(user.target))
            if type(module) is nn.Identity:
                yield from _uses(model, user)
            else:
                yield Use(module)
        elif user.op == "output":
            yield Use(OUTPUT)
        elif not ((user.op == "call_method" and user.target in ASIDE) or user.target is getattr):
            options = len(user.args) > 1 or any(key not in ("inplace", "input") for key in user.kwargs)
            yield Use(_without_inplace(user.target), options)


def _without_inplace(target: Any) -> Any:
    names = {operator.iadd: "add", operator.add: "add", operator.mul: "mul", operator.imul: "mul"}
    return names.get(target, target)


def _sequential(model: nn.Module, layers: Mapping[str, nn.Module], why: str) -> dict[str, Follower]:
    unknown = f"what follows it is unknown ({why}); pass batch= to find out by a forward pass"
    names = {id(layer): name for name, layer in layers.items()}
    found: dict[str, list[list[Use]]] = {name: [] for name in layers}
    for container in model.modules():
        if type(container) is not nn.Sequential:
            continue
        children = [child for child in container if type(child) is not nn.Identity]
        for child, following in pairwise(children):
            if id(child) in names:
                found[names[id(child)]].append([Use(following)])
    return {name: decide(found[name], unknown) for name in layers}
