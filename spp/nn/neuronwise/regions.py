"""Which samples belong to a neuron's linear region, and how much: ``P = phi'(z)``, made non-negative.

For ReLU ``P`` is the mask of the samples where the neuron is active. For other nonlinearities it makes the region's mean
a centre of gravity. Where ``phi'`` changes sign (SiLU, GELU, Mish, Hardswish) a weighting says what a negative one counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spp.errors import InputError
from spp.nn.activations import make_activation
from spp.nn.selu import ALPHA, LAMBDA
from spp.registry import Registry


def _between(z: Tensor, low: float, high: float) -> Tensor:
    return (z > low) & (z < high)


def _backward(z: Tensor, name: str, *arguments: Any, **options: Any) -> Tensor:
    """The derivative as torch's own backward kernel has it, from an upstream gradient of ones."""
    derivative: Tensor = getattr(torch.ops.aten, name)(torch.ones_like(z), z, *arguments, **options)
    return derivative


def _elu(z: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Tensor:
    # elu_backward alone has the tensor last
    derivative: Tensor = torch.ops.aten.elu_backward(torch.ones_like(z), alpha, scale, input_scale, False, z)
    return derivative


def _sigmoid(z: Tensor) -> Tensor:
    y = torch.sigmoid(z)
    return y * (1 - y)


def _tanh(z: Tensor) -> Tensor:
    return 1 - torch.tanh(z).square()


def _softsign(z: Tensor) -> Tensor:
    return (1 + z.abs()).square().reciprocal()


def _log_sigmoid(z: Tensor) -> Tensor:
    return torch.sigmoid(-z)


def _positive(z: Tensor) -> Tensor:
    return z > 0


def _everywhere(z: Tensor) -> Tensor:
    return torch.ones_like(z, dtype=torch.bool)


# Functions with a name and partials of them, not lambdas: layers hold them, and layers are copied and pickled.
DERIVATIVES: Mapping[type[nn.Module], Callable[[Any], Callable[[Tensor], Tensor]]] = {
    nn.ReLU: lambda m: _positive,
    nn.ReLU6: lambda m: partial(_between, low=0.0, high=6.0),
    nn.Hardtanh: lambda m: partial(_between, low=m.min_val, high=m.max_val),
    nn.LeakyReLU: lambda m: partial(
        _backward, name="leaky_relu_backward", negative_slope=m.negative_slope, self_is_result=False
    ),
    nn.ELU: lambda m: partial(_elu, alpha=m.alpha),
    nn.CELU: lambda m: partial(_elu, alpha=m.alpha, input_scale=1.0 / m.alpha),
    nn.SELU: lambda m: partial(_elu, alpha=ALPHA, scale=LAMBDA),
    nn.GELU: lambda m: partial(_backward, name="gelu_backward", approximate=m.approximate),
    nn.SiLU: lambda m: partial(_backward, name="silu_backward"),
    nn.Mish: lambda m: partial(_backward, name="mish_backward"),
    nn.Hardswish: lambda m: partial(_backward, name="hardswish_backward"),
    nn.Hardsigmoid: lambda m: partial(_backward, name="hardsigmoid_backward"),
    nn.Softplus: lambda m: partial(_backward, name="softplus_backward", beta=m.beta, threshold=m.threshold),
    nn.Sigmoid: lambda m: _sigmoid,
    nn.LogSigmoid: lambda m: _log_sigmoid,
    nn.Tanh: lambda m: _tanh,
    nn.Softsign: lambda m: _softsign,
    nn.Identity: lambda m: _everywhere,
}
"""For each known kind of activation, the function that gives its derivative, with the module's constants."""


@dataclass(frozen=True, slots=True)
class Weighting:
    """A row of ``WEIGHTINGS``: what a derivative counts, as a function that gives no negative number, and one line."""

    apply: Callable[[Tensor], Tensor]
    description: str


WEIGHTINGS = Registry[Weighting](
    "weighting",
    {
        "clamp": Weighting(partial(torch.clamp, min=0), "negative derivatives count nothing"),
        "abs": Weighting(torch.abs, "derivatives count by their magnitude"),
        "square": Weighting(torch.square, "the squared derivative, the Gauss-Newton weight"),
    },
    of=Weighting,
)
"""Every weighting by name; all agree for ReLU, the first two for every monotone nonlinearity."""


@dataclass(frozen=True, slots=True)
class Nonlinearity:
    """An element-wise nonlinearity, as far as its linear regions are concerned.

    Attributes:
        name: What error messages and ``repr`` call it.
        derivative: ``phi'`` of a tensor, of the same shape; a mask where the derivative is only 0 or 1.
    """

    name: str
    derivative: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, activation: str | nn.Module | Nonlinearity) -> Nonlinearity:
        """The nonlinearity of a name of ``spp.nn.ACTIVATIONS`` or of an activation module, with its constants.

        Raises:
            UnknownNameError: No activation has that name.
            InputError: The module is of a kind whose derivative is not known.
        """
        if isinstance(activation, Nonlinearity):
            return activation
        if isinstance(activation, str):
            activation = make_activation(activation)
        make = DERIVATIVES.get(type(activation))
        if make is None:
            known = ", ".join(kind.__name__ for kind in DERIVATIVES)
            raise InputError(
                "activation= is the name of an activation or a module of a kind whose derivative is known",
                received=type(activation).__name__,
                remedy=f"Known kinds: {known}. For another, pass Nonlinearity(name, derivative).",
            )
        # the name is the repr, so that it tells the constants
        return cls(repr(activation).replace(", inplace=True", "").replace("inplace=True", ""), make(activation))

    def region(self, z: Tensor, weighting: str) -> Tensor:
        """How much each sample counts in each neuron's linear region.

        Args:
            z: Pre-activations, any shape.
            weighting: A name of ``WEIGHTINGS``.

        Returns:
            ``P`` of the shape of ``z``, at least 0: boolean where the derivative is only 0 or 1, else of the dtype of ``z``.
        """
        p = self.derivative(z)
        return p if p.dtype == torch.bool else WEIGHTINGS[weighting].apply(p)


def is_known(what: Any) -> bool:
    """Whether ``what`` is a nonlinearity whose derivative is known; identities do nothing, so they are none."""
    return type(what) in DERIVATIVES and not isinstance(what, nn.Identity)
