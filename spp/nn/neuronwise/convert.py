"""Convert the layers of a model that a known nonlinearity directly follows, by its graph or by one forward pass."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Unpack

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from spp.errors import InputError
from spp.layers import canonical_activation
from spp.nn.activations import ACTIVATIONS, make_activation
from spp.nn.neuronwise.layers import NeuronwiseConv1d, NeuronwiseConv2d, NeuronwiseLayer, NeuronwiseLinear, Options
from spp.nn.neuronwise.regions import Nonlinearity, is_known

LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
"""Layers with a weight, convertible or not."""

OUTPUT = "the model's output"
"""The use that is being returned by the model."""

ASIDE = ("size", "dim", "numel", "stride", "ndimension")
"""Methods that look at a tensor without using its values."""

INPLACE: Mapping[Any, str] = {operator.iadd: "add", operator.add: "add", operator.mul: "mul", operator.imul: "mul"}
"""Operators by the name of the operation, in place or not."""


KINDS: Mapping[type[nn.Module], type[NeuronwiseLayer]] = {
    nn.Linear: NeuronwiseLinear,
    nn.Conv1d: NeuronwiseConv1d,
    nn.Conv2d: NeuronwiseConv2d,
}
"""The layers that have a neuron-wise form; subclasses may have a forward of their own and are left alone."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What ``neuronwise_`` did.

    Attributes:
        model: The model, which was changed in place.
        converted: Names of the layers that now have neuron-wise gradients.
        left: For every other Linear and convolution layer, why it was left as it was.
    """

    model: nn.Module
    converted: tuple[str, ...]
    left: Mapping[str, str]

    def __str__(self) -> str:
        total = len(self.converted) + len(self.left)
        lines = [f"{len(self.converted)} of {total} layers have neuron-wise gradients"]
        lines += [f"  converted {name}" for name in self.converted]
        lines += [f"  left {name}: {reason}" for name, reason in self.left.items()]
        return "\n".join(lines)


def neuronwise_(
    model: nn.Module,
    *,
    batch: Any = None,
    **options: Unpack[Options],
) -> Conversion:
    """Give the layers of ``model`` that a known nonlinearity directly follows neuron-wise weight gradients, in place.

    Layers stay the objects they were, with their parameters, hooks and names; only their class changes, so that optimizers and
    tied parameters go on as before. The forward pass stays bit-identical.

    What follows a layer is read off the model's graph (``torch.fx``), or, with ``batch``, off one forward pass without
    gradients, after which buffers and random state are as before. Where the model cannot be traced and no batch is given, only
    neighbours in an ``nn.Sequential`` are known.

    Args:
        model: Any module.
        batch: Input for one forward pass: a tensor, a tuple of positional or a mapping of keyword arguments; None for none.
        options: As ``NeuronwiseLinear`` has them. A layer that the mode does not fit is left.

    Raises:
        UnknownNameError: A name is in none of the tables.
        InputError: A number is out of range.
    """
    # A wrong option is an error before anything is changed; on "meta", no random number is drawn.
    NeuronwiseLinear(1, 1, activation="relu", device="meta", **options)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LAYERS)}
    reasons = {name: reason for name, layer in layers.items() if (reason := _unfit(layer))}
    candidates = {name: layer for name, layer in layers.items() if name not in reasons}
    converted = []
    for name, follower in followers(model, candidates, batch).items():
        reason = follower if isinstance(follower, str) else _convert(candidates[name], follower, options)
        if reason:
            reasons[name] = reason
        else:
            converted.append(name)
    left = {name: reasons[name] for name in layers if name in reasons}
    return Conversion(model, tuple(converted), left)


def _unfit(layer: nn.Module) -> str:
    """Why a layer has no neuron-wise form, or nothing."""
    if isinstance(layer, NeuronwiseLayer):
        return "has neuron-wise gradients already"
    if type(layer) not in KINDS:
        kind = next((kind for kind in KINDS if isinstance(layer, kind)), None)
        name = type(layer).__name__
        return f"{name} is a subclass of {kind.__name__}" if kind else f"{name} has no neuron-wise form"
    if not isinstance(layer._parameters.get("weight"), nn.Parameter):
        return "its weight is computed by a hook"
    return ""


def _convert(layer: nn.Module, nonlinearity: Nonlinearity, options: Options) -> str:
    """Convert one layer, or say why not."""
    before: Any = type(layer)
    # The class alone changes: optimizers, hooks and tied parameters hold on to the object.
    layer.__class__ = KINDS[before]
    assert isinstance(layer, NeuronwiseLayer)
    try:
        layer.set_neuronwise(nonlinearity, **options)
    except InputError as error:
        layer.__class__ = before
        return f"{error.rule}, got {error.received}"
    return ""


# --- what follows a layer ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a layer's output.

    Attributes:
        what: The module, function or name of a method.
        options: Whether there are arguments other than the output itself and ``inplace``.
    """

    what: Any
    options: bool = False

    @property
    def name(self) -> str:
        """How a reader knows it."""
        if isinstance(self.what, str):
            return self.what
        if isinstance(self.what, nn.Module):
            return type(self.what).__name__
        return getattr(self.what, "__name__", repr(self.what)).strip("_")

    def nonlinearity(self) -> Nonlinearity | str:
        """The nonlinearity that this is, or why it is none."""
        if self.what is OUTPUT:
            return "nothing follows it: it is the model's output"
        if is_known(self.what):
            return Nonlinearity.of(self.what)
        # Functions and methods of torch go by their names; a module's class may have constants that its name does not tell.
        name = None if isinstance(self.what, nn.Module) else canonical_activation(self.name)
        if name is None or name not in ACTIVATIONS or not is_known(make_activation(name)):
            return f"followed by {self.name}, which is no known nonlinearity"
        if self.options:
            return f"{self.name} is called with constants of its own; use a module for it"
        return Nonlinearity.of(name)


def followers(model: nn.Module, layers: Mapping[str, nn.Module], batch: Any) -> dict[str, Nonlinearity | str]:
    """The nonlinearity that directly follows each of ``layers``, by name, or why there is none.

    Args:
        model: The model.
        layers: Some of its modules by qualified name.
        batch: Input for a forward pass, or None to read the graph.
    """
    uses: Mapping[str, list[list[Use]]]
    if batch is not None:
        uses, never = watch(model, layers, batch), "was not called in the forward pass"
    else:
        try:
            uses, never = _in_graph(model, _Tracer().trace(model)), "was not met in symbolic tracing"
        # whatever a model's own code raises when it meets symbolic values
        except Exception as error:
            why = f"{type(error).__name__} in symbolic tracing"
            never = f"what follows it is unknown ({why}); pass batch= to find out by a forward pass"
            uses = _in_sequentials(model, layers)
    return {name: _decide(uses.get(name, ()), never) for name in layers}


def _decide(calls: Iterable[list[Use]], never: str) -> Nonlinearity | str:
    """One answer from the uses of the output of each call; ``never`` where there is no call."""
    answers: list[Nonlinearity | str] = []
    for uses in calls:
        if len(uses) == 1:
            answers.append(uses[0].nonlinearity())
        elif uses:
            consumers = ", ".join(dict.fromkeys(use.name for use in uses))
            answers.append(f"its output is used {len(uses)} times: {consumers}")
        else:
            answers.append("nothing follows it")
    reasons = [answer for answer in answers if isinstance(answer, str)]
    if reasons or not answers:
        return reasons[0] if reasons else never
    names = list(dict.fromkeys(answer.name for answer in answers if isinstance(answer, Nonlinearity)))
    return answers[0] if len(names) == 1 else f"followed by different nonlinearities: {', '.join(names)}"


# --- the graph ---------------------------------------------------------------------------------------------------------


class _Tracer(fx.Tracer):
    """Takes layers and activations as they are, subclasses and parametrized ones too."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (*LAYERS, nn.Identity)) or is_known(m) or super().is_leaf_module(m, module_qualified_name)


def _in_graph(model: nn.Module, graph: fx.Graph) -> Mapping[str, list[list[Use]]]:
    found: dict[str, list[list[Use]]] = defaultdict(list)
    for node in graph.nodes:
        if node.op == "call_module":
            found[node.target].append(list(_uses(model, node)))
    return found


def _uses(model: nn.Module, node: fx.Node) -> Iterable[Use]:
    for user in node.users:
        if user.op == "call_module":
            module = model.get_submodule(str(user.target))
            # looked through, since it hands on the very values
            if type(module) is nn.Identity:
                yield from _uses(model, user)
            else:
                yield Use(module)
        elif user.op == "output":
            yield Use(OUTPUT)
        elif not ((user.op == "call_method" and user.target in ASIDE) or user.target is getattr):
            yield Use(INPLACE.get(user.target, user.target), _has_options(user.args, user.kwargs))


def _has_options(args: Any, kwargs: Any) -> bool:
    return len(args) > 1 or any(key not in ("inplace", "input") for key in kwargs)


def _in_sequentials(model: nn.Module, layers: Mapping[str, nn.Module]) -> Mapping[str, list[list[Use]]]:
    names = {id(layer): name for name, layer in layers.items()}
    found: dict[str, list[list[Use]]] = defaultdict(list)
    for container in model.modules():
        if type(container) is nn.Sequential:
            children = [child for child in container if type(child) is not nn.Identity]
            for child, following in pairwise(children):
                if id(child) in names:
                    found[names[id(child)]].append([Use(following)])
    return found


# --- a forward pass ----------------------------------------------------------------------------------------------------


class _Watch(TorchFunctionMode):
    """Sees every torch function and method; those inside an activation module or a layer are that module's affair."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, list[list[Use]]] = defaultdict(list)
        self.outputs: list[tuple[Tensor, list[Use]]] = []
        self.inside = 0

    def note(self, what: Any, arguments: Any, *, options: bool = False) -> None:
        for tensor in _tensors(arguments):
            for output, uses in self.outputs:
                if output is tensor:
                    uses.append(Use(what, options))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self.inside and _tensors(result):
            self.note(func, (args, kwargs), options=_has_options(args, kwargs))
            self.close(result)
        return result

    def close(self, result: Any) -> None:
        """Forget outputs that were overwritten in place: what is done with them now is done with other values."""
        changed = _tensors(result)
        self.outputs = [(tensor, uses) for tensor, uses in self.outputs if not any(tensor is leaf for leaf in changed)]


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


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
            if id(module) in whole or is_known(module):
                handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
                # always_call, since a layer that raises inside a try of the model's would leave the count one too high
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
    seen.note(OUTPUT, output)
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
                # a forward may write into the buffer, or put another tensor in its place
                module._buffers[name] = tensor
                if tensor is not None and value is not None:
                    with torch.no_grad():
                        tensor.copy_(value)
