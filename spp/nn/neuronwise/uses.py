"""What is done with the output of a layer, and whether that is a known nonlinearity and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spp.nn.neuronwise.regions import DERIVATIVES, Nonlinearity

FUNCTIONS: Mapping[Any, Callable[[], nn.Module]] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, "relu", "relu_"), nn.ReLU),
    **dict.fromkeys((F.tanh, torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_, "tanh", "tanh_"), nn.Tanh),
    **dict.fromkeys(
        (F.sigmoid, torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_, "sigmoid", "sigmoid_"), nn.Sigmoid
    ),
    F.silu: nn.SiLU,
    F.gelu: nn.GELU,
    F.selu: nn.SELU,
    F.elu: nn.ELU,
    F.celu: nn.CELU,
    F.mish: nn.Mish,
    F.relu6: nn.ReLU6,
    F.leaky_relu: nn.LeakyReLU,
    F.hardtanh: nn.Hardtanh,
    F.hardswish: nn.Hardswish,
    F.hardsigmoid: nn.Hardsigmoid,
    F.softplus: nn.Softplus,
    F.softsign: nn.Softsign,
    F.logsigmoid: nn.LogSigmoid,
}
"""Functions, and methods by name, that are a known nonlinearity when called with their default constants."""


LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
"""Layers with a weight, convertible or not."""

OUTPUT = "the model's output"
"""The use that is being returned by the model."""


@dataclass(frozen=True, slots=True)
class Follower:
    """What follows a layer.

    Attributes:
        nonlinearity: What directly follows, if it is known.
        reason: Why there is none, else empty.
    """

    nonlinearity: Nonlinearity | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a layer's output.

    Attributes:
        what: The module, function or name of a method.
        options: Arguments other than the output itself and ``inplace``.
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

    def follower(self) -> Follower:
        """The nonlinearity that this is, or why it is none."""
        if self.what is OUTPUT:
            return Follower(reason="nothing follows it: it is the model's output")
        if isinstance(self.what, nn.Module):
            if type(self.what) in DERIVATIVES and not isinstance(self.what, nn.Identity):
                return Follower(Nonlinearity.of(self.what))
            return Follower(reason=f"followed by {self.name}, which is no known nonlinearity")
        make = FUNCTIONS.get(self.what)
        if make is None:
            return Follower(reason=f"followed by {self.name}, which is no known nonlinearity")
        if self.options:
            return Follower(reason=f"{self.name} is called with constants of its own; use a module for it")
        return Follower(Nonlinearity.of(make()))


def decide(calls: Iterable[Iterable[Use]], never: str) -> Follower:
    """One answer from the uses of the output of each call.

    Args:
        calls: For each call of the layer, the uses of its output.
        never: The reason where there is no call.
    """
    answers: list[Follower] = []
    for uses in calls:
        several = list(uses)
        if not several:
            answers.append(Follower(reason="nothing follows it"))
        elif len(several) > 1:
            consumers = ", ".join(dict.fromkeys(use.name for use in several))
            answers.append(Follower(reason=f"its output is used {len(several)} times: {consumers}"))
        else:
            answers.append(several[0].follower())
    if not answers:
        return Follower(reason=never)
    for answer in answers:
        if answer.reason:
            return answer
    names = list(dict.fromkeys(answer.nonlinearity.name for answer in answers if answer.nonlinearity is not None))
    if len(names) > 1:
        kinds = ", ".join(names)
        return Follower(reason=f"followed by different nonlinearities: {kinds}")
    return answers[0]
