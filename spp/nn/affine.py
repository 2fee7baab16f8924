"""Layers that scale and shift channels without taking any statistics."""

import torch
from torch import Tensor, nn

from spp.nn import functional

DYT_ALPHA = 0.5
"""Where DyT's alpha starts (Zhu et al. 2025)."""


class AffineLayer(nn.Module):
    """Shift and scale per channel, without normalization; the identity at init, bit for bit.

    ``y[n, c, ...] = weight[c] * x[n, c, ...] + bias[c]`` for ``x`` of shape ``(N, C, *spatial)``; weight starts at 1,
    bias at (negative) zero. Source: Peerthum & Stamp 2023, arXiv 2303.12818.

    Args:
        num_channels: ``C``.
        channel_axis: Where the channels lie: 1, or -1 for channels-last tensors.
    """

    def __init__(self, num_channels: int, *, channel_axis: int = 1) -> None:
        super().__init__()
        self.num_channels, self.channel_axis = num_channels, channel_axis
        self.weight = nn.Parameter(torch.empty(num_channels))
        self.bias = nn.Parameter(torch.empty(num_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Make the layer the identity again."""
        nn.init.ones_(self.weight)
        # -0.0 is the neutral element of floating addition; +0.0 would turn an input of -0.0 into +0.0.
        nn.init.constant_(self.bias, -0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift ``x``."""
        return functional.affine(x, self.weight, self.bias, axis=self.channel_axis)

    def extra_repr(self) -> str:
        """Show the number of channels, and their axis where it is not 1."""
        return str(self.num_channels) + ("" if self.channel_axis == 1 else f", channel_axis={self.channel_axis}")


class DyT(nn.Module):
    """Dynamic tanh: ``weight[c] * tanh(alpha * x) + bias[c]``, a layer in place of a norm, without statistics.

    ``alpha`` is one learned number for the layer; weight starts at 1 and bias at 0. Source: Zhu, Chen, He, LeCun & Liu 2025,
    arXiv 2503.10622.

    Args:
        num_channels: ``C``.
        alpha: Where alpha starts.
        channel_axis: Where the channels lie: 1, or -1 for channels-last tensors.
    """

    def __init__(self, num_channels: int, alpha: float = DYT_ALPHA, *, channel_axis: int = 1) -> None:
        super().__init__()
        self.num_channels, self.init_alpha, self.channel_axis = num_channels, alpha, channel_axis
        self.alpha = nn.Parameter(torch.empty(()))
        self.weight = nn.Parameter(torch.empty(num_channels))
        self.bias = nn.Parameter(torch.empty(num_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set alpha to where it starts, scale to 1 and shift to 0."""
        nn.init.constant_(self.alpha, self.init_alpha)
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Squash, scale and shift ``x``."""
        return functional.dyt(x, self.alpha, self.weight, self.bias, axis=self.channel_axis)

    def extra_repr(self) -> str:
        """Show channels, where alpha starts, and the channels' axis where it is not 1."""
        axis = "" if self.channel_axis == 1 else f", channel_axis={self.channel_axis}"
        return f"{self.num_channels}, alpha={self.init_alpha:g}{axis}"
