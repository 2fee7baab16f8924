"""Convert the layers of a model that a known nonlinearity directly follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Unpack

from torch import nn

from spp.errors import InputError
from spp.nn.neuronwise.follow import LAYERS, followers
from spp.nn.neuronwise.layers import NeuronwiseConv1d, NeuronwiseConv2d, NeuronwiseLayer, NeuronwiseLinear, Options
from spp.nn.neuronwise.regions import Nonlinearity

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
