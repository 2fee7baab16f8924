"""Activations by name: ``make_activation("silu")`` is a fresh module, never in place.

In-place activations would overwrite the values that a trace of the layer before them reports to its reader, and save
nothing that matters here. ``make_activation("silu", gain="gamma")`` multiplies with a gain of ``spp.nn.gains``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spp.nn.gains import gain_of
from spp.registry import Registry


def squared_relu(x: Tensor) -> Tensor:
    """``max(x, 0)^2`` (So et al. 2021, arXiv 2109.08668)."""
    return F.relu(x).square()


class Elementwise(nn.Module):
    """An element-wise function that torch has no module for.

    Args:
        name: The name of ``ACTIVATIONS`` it belongs to.
        function: From a tensor to one of the same shape; it can be pickled.
    """

    def __init__(self, name: str, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.name, self.function = name, function

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function."""
        return self.function(x)

    def extra_repr(self) -> str:
        """Show the name."""
        return self.name


class ScaledActivation(nn.Module):
    """An activation times a constant gain.

    Args:
        name: A name of ``ACTIVATIONS``.
        gain: The number it is multiplied with.
    """

    def __init__(self, name: str, gain: float) -> None:
        super().__init__()
        self.name, self.gain = name, gain
        self.function = ACTIVATIONS.row(name).function

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation and scale it."""
        return self.function(x) * self.gain

    def extra_repr(self) -> str:
        """Show the activation's name and the gain."""
        return f"{self.name}, gain={self.gain:.6g}"


@dataclass(frozen=True, slots=True)
class Activation:
    """A row of ``ACTIVATIONS``.

    Attributes:
        make: Builds the module.
        function: The same as a function of a tensor.
        description: One line.
        kinks: Where it, or its derivative, jumps.
    """

    make: Callable[[], nn.Module]
    function: Callable[[Tensor], Tensor]
    description: str
    kinks: tuple[float, ...] = ()


def identity(x: Tensor) -> Tensor:
    """``x`` itself."""
    return x


ACTIVATIONS = Registry[Activation](
    "activation",
    {
        "relu": Activation(nn.ReLU, F.relu, "max(x, 0)", (0.0,)),
        "relu6": Activation(nn.ReLU6, F.relu6, "min(max(x, 0), 6)", (0.0, 6.0)),
        "leaky_relu": Activation(nn.LeakyReLU, F.leaky_relu, "x for x > 0, else 0.01 x", (0.0,)),
        "squared_relu": Activation(
            partial(Elementwise, "squared_relu", squared_relu), squared_relu, "max(x, 0)^2 (So et al. 2021)", (0.0,)
        ),
        "elu": Activation(nn.ELU, F.elu, "x for x > 0, else exp(x) - 1 (Clevert et al. 2015)", (0.0,)),
        "celu": Activation(nn.CELU, F.celu, "continuously differentiable ELU (Barron 2017); ELU for alpha = 1", (0.0,)),
        "selu": Activation(nn.SELU, F.selu, "self-normalizing ELU; wants init=lecun (Klambauer et al. 2017)", (0.0,)),
        "gelu": Activation(
            nn.GELU, F.gelu, "x Phi(x), with the normal distribution function Phi (Hendrycks & Gimpel 2016)"
        ),
        "gelu_tanh": Activation(
            partial(nn.GELU, approximate="tanh"), partial(F.gelu, approximate="tanh"), "GELU in its tanh approximation"
        ),
        "silu": Activation(nn.SiLU, F.silu, "x sigmoid(x), also called swish (Ramachandran et al. 2017)"),
        "mish": Activation(nn.Mish, F.mish, "x tanh(softplus(x)) (Misra 2019)"),
        "hard_swish": Activation(
            nn.Hardswish, F.hardswish, "x min(max(x + 3, 0), 6) / 6 (Howard et al. 2019)", (-3.0, 3.0)
        ),
        "softplus": Activation(nn.Softplus, F.softplus, "log(1 + exp(x))"),
        "log_sigmoid": Activation(nn.LogSigmoid, F.logsigmoid, "-log(1 + exp(-x))"),
        "sigmoid": Activation(nn.Sigmoid, torch.sigmoid, "1 / (1 + exp(-x))"),
        "hard_sigmoid": Activation(nn.Hardsigmoid, F.hardsigmoid, "min(max(x + 3, 0), 6) / 6", (-3.0, 3.0)),
        "tanh": Activation(nn.Tanh, torch.tanh, "hyperbolic tangent"),
        "hard_tanh": Activation(nn.Hardtanh, F.hardtanh, "min(max(x, -1), 1)", (-1.0, 1.0)),
        "tanhshrink": Activation(nn.Tanhshrink, F.tanhshrink, "x - tanh(x)"),
        "softsign": Activation(nn.Softsign, F.softsign, "x / (1 + |x|)", (0.0,)),
        "erf": Activation(
            partial(Elementwise, "erf", torch.erf), torch.erf, "error function, the solvable sigmoid of theory"
        ),
        "sin": Activation(partial(Elementwise, "sin", torch.sin), torch.sin, "sine (Sitzmann et al. 2020)"),
        "identity": Activation(nn.Identity, identity, "no nonlinearity: a linear network"),
    },
    of=Activation,
)
"""Every activation by name."""


@cache
def _gain(row: Activation, kind: str) -> float:
    return gain_of(row.function, kind, kinks=row.kinks)


def gain(activation: str, kind: str = "gamma") -> float:
    """The gain of an activation; see ``spp.nn.gains``.

    Args:
        activation: A name of ``ACTIVATIONS``.
        kind: A name of ``GAINS``: ``gamma`` for unit variance, ``rms`` for unit second moment, ``none`` for 1.

    Raises:
        UnknownNameError: One of the names does not exist.

    Examples:
        >>> round(gain("relu"), 6), round(gain("relu", "rms") ** 2, 6)
        (1.712859, 2.0)
    """
    # cached by the row and not by its name, under which another may be registered
    return _gain(ACTIVATIONS.row(activation), kind)


def make_activation(name: str, scale: str | float = "none") -> nn.Module:
    """Build the activation called ``name``, with its source's default constants.

    Args:
        name: A name of ``ACTIVATIONS``.
        scale: A name of ``GAINS``, or a number to multiply with.

    Raises:
        UnknownNameError: No activation or no gain has that name.
    """
    factor = gain(name, scale) if isinstance(scale, str) else scale
    row = ACTIVATIONS.row(name)
    # a gain of 1 to the twelve digits that gains are computed to is none
    return row.make() if abs(factor - 1) < 1e-12 else ScaledActivation(name, factor)
