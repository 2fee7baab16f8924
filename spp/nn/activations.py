"""Activations by name: ``make_activation("silu")`` is a fresh module, never in place.

In-place activations would overwrite the values that a trace of the layer before them reports to its reader, and save
nothing that matters here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn

from spp.errors import UnknownNameError


@dataclass(frozen=True, slots=True)
class Activation:
    """A row of ``ACTIVATIONS``.

    Attributes:
        make: Builds the module.
        description: One line.
    """

    make: Callable[[], nn.Module]
    description: str


ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {
        "relu": Activation(nn.ReLU, "max(x, 0)"),
        "relu6": Activation(nn.ReLU6, "min(max(x, 0), 6)"),
        "leaky_relu": Activation(nn.LeakyReLU, "x for x > 0, else 0.01 x"),
        "elu": Activation(nn.ELU, "x for x > 0, else exp(x) - 1 (Clevert et al. 2015)"),
        "selu": Activation(nn.SELU, "self-normalizing ELU; wants init=lecun (Klambauer et al. 2017)"),
        "gelu": Activation(nn.GELU, "x Phi(x), with the normal distribution function Phi (Hendrycks & Gimpel 2016)"),
        "gelu_tanh": Activation(lambda: nn.GELU(approximate="tanh"), "GELU in its tanh approximation"),
        "silu": Activation(nn.SiLU, "x sigmoid(x), also called swish (Ramachandran et al. 2017)"),
        "mish": Activation(nn.Mish, "x tanh(softplus(x)) (Misra 2019)"),
        "hard_swish": Activation(nn.Hardswish, "x min(max(x + 3, 0), 6) / 6 (Howard et al. 2019)"),
        "softplus": Activation(nn.Softplus, "log(1 + exp(x))"),
        "sigmoid": Activation(nn.Sigmoid, "1 / (1 + exp(-x))"),
        "hard_sigmoid": Activation(nn.Hardsigmoid, "min(max(x + 3, 0), 6) / 6"),
        "tanh": Activation(nn.Tanh, "hyperbolic tangent"),
        "hard_tanh": Activation(nn.Hardtanh, "min(max(x, -1), 1)"),
        "softsign": Activation(nn.Softsign, "x / (1 + |x|)"),
        "identity": Activation(nn.Identity, "no nonlinearity: a linear network"),
    }
)
"""Every activation by name."""


def find_activation(name: str) -> Activation:
    """The row of ``ACTIVATIONS`` called ``name``.

    Raises:
        UnknownNameError: There is none; the message lists them.
    """
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise UnknownNameError("activation", str(name), ACTIVATIONS)
    return ACTIVATIONS[name]


def make_activation(name: str) -> nn.Module:
    """Build the activation called ``name``, with its source's default constants.

    Raises:
        UnknownNameError: No activation has that name.
    """
    return find_activation(name).make()
