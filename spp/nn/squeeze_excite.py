"""Squeeze-and-excitation (Hu et al. 2018, arXiv 1709.01507)."""

from torch import Tensor, nn

from spp.nn import functional
from spp.nn.activations import make_activation


class SqueezeExcite(nn.Module):
    """Scale channels by a gate in (0, 1) computed from their means over space.

    ``y = x * sigmoid(expand(act(reduce(mean_hw(x)))))``; both maps are 1x1 convolutions with bias. At a gate of 1/2,
    which is where it starts for zero-mean weights, the variance is quartered.

    Args:
        channels: ``C`` of the input ``(N, C, H, W)``.
        squeezed: Channels between the two maps.
        activation: Name of the activation between them.
    """

    def __init__(self, channels: int, squeezed: int, activation: str = "relu") -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = make_activation(activation)
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of ``x``."""
        gate = self.pool(x)  # (N, C, 1, 1)
        gate = self.act(self.reduce(gate))  # (N, squeezed, 1, 1)
        gate = self.gate(self.expand(gate))  # (N, C, 1, 1)
        return functional.squeeze_excite(x, gate)
