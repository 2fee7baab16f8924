"""Squeeze-and-excitation (Hu et al. 2018, arXiv 1709.01507), with the scalings that keep its signal alive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from spp.errors import UnknownNameError
from spp.nn import functional
from spp.nn.activations import make_activation
from spp.nn.weight_norms import StandardizedConv2d
from spp.registry import Registry


@dataclass(frozen=True, slots=True)
class SEScale:
    """A row of ``SE_SCALINGS``.

    Attributes:
        apply: From tensor and gate to the gated tensor; None where squeeze-and-excitation is left out.
        description: One line.
    """

    apply: Callable[[Tensor, Tensor], Tensor] | None
    description: str


SE_SCALINGS = Registry[SEScale](
    "squeeze-and-excitation scaling",
    {
        "plain": SEScale(functional.squeeze_excite, "x g: a gate of 1/2 quarters the variance (Hu et al. 2018)"),
        "doubled": SEScale(
            functional.doubled_squeeze_excite, "2 x g: a gate of 1/2 keeps the variance (Brock et al. 2021)"
        ),
        "magnitude": SEScale(
            functional.magnitude_squeeze_excite,
            "x g / sqrt((1-g)^2 + g^2): a gate of 1/2 halves the variance (Dewyse 2025)",
        ),
        "none": SEScale(None, "no squeeze-and-excitation"),
    },
    of=SEScale,
)
"""Every scaling by name."""
SE_SCALES = SE_SCALINGS
"""The name of the same table in the first version."""


class SqueezeExcite(nn.Module):
    """Scale channels by a gate in (0, 1) computed from their means over space.

    ``gate = sigmoid(expand(act(reduce(mean_hw(x)))))``; both maps are 1x1 convolutions with bias. The gate starts at about
    1/2 for zero-mean weights; ``scale`` says what that does to the variance.

    Args:
        channels: ``C`` of the input ``(N, C, H, W)``.
        squeezed: Channels between the two maps.
        activation: Name of the activation between them.
        scale: A name of ``SE_SCALINGS`` other than ``none``.
        weight_norm: Rule of ``WEIGHT_NORMS`` for the two maps; None for plain convolutions.

    Raises:
        UnknownNameError: One of the names does not exist.
    """

    def __init__(
        self,
        channels: int,
        squeezed: int,
        activation: str = "relu",
        *,
        scale: str = "plain",
        weight_norm: str | None = None,
    ) -> None:
        super().__init__()
        apply = SE_SCALINGS.row(scale).apply
        if apply is None:
            raise UnknownNameError("gate", scale, [name for name, row in SE_SCALINGS.items() if row.apply is not None])
        # not "apply", which would hide nn.Module's method of that name
        self.scale, self.apply_gate = scale, apply
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = _map(channels, squeezed, weight_norm)
        self.act = make_activation(activation)
        self.expand = _map(squeezed, channels, weight_norm)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of ``x``."""
        gate = self.pool(x)  # (N, C, 1, 1)
        gate = self.act(self.reduce(gate))  # (N, squeezed, 1, 1)
        gate = self.gate(self.expand(gate))  # (N, C, 1, 1)
        return self.apply_gate(x, gate)

    def extra_repr(self) -> str:
        """Show the scaling."""
        return f"scale={self.scale!r}"


def _map(inputs: int, outputs: int, weight_norm: str | None) -> nn.Conv2d:
    # a single input cannot be centred
    if weight_norm is None or inputs == 1:
        return nn.Conv2d(inputs, outputs, 1)
    return StandardizedConv2d(inputs, outputs, 1, rule=weight_norm, gain=False)
