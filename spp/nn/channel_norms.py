"""Norms over the channels of each position, and the adapter that puts any norm on channels-last tensors."""

import torch
from torch import Tensor, nn

from spp.nn import functional


class ChannelLayerNorm(nn.Module):
    """LayerNorm over axis 1, the channels, at each position of a channels-first tensor (as in ConvNeXt).

    Statistics are per sample and position, over ``C`` values; scale and shift are per channel and start at 1 and 0.
    (Statistics over channels and space together are GroupNorm with one group.)

    Args:
        num_channels: ``C`` of the input ``(N, C, *spatial)``.
        eps: Added to the biased variance.
    """

    def __init__(self, num_channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_channels, self.eps = num_channels, eps
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def reset_parameters(self) -> None:
        """Set scale to 1 and shift to 0."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x`` over its channels."""
        return functional.channel_layer_norm(x, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Show channels and eps."""
        return f"{self.num_channels}, eps={self.eps}"


class ChannelRMSNorm(nn.Module):
    """RMSNorm over axis 1, the channels, at each position of a channels-first tensor.

    The mean square is per sample and position, over ``C`` values; the scale is per channel and starts at 1.

    Args:
        num_channels: ``C`` of the input ``(N, C, *spatial)``.
        eps: Added to the mean square; None takes the machine epsilon of the input's dtype, as ``torch.nn.RMSNorm``.
    """

    def __init__(self, num_channels: int, eps: float | None = None) -> None:
        super().__init__()
        self.num_channels, self.eps = num_channels, eps
        self.weight = nn.Parameter(torch.ones(num_channels))

    def reset_parameters(self) -> None:
        """Set the scale to 1."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x`` over its channels."""
        return functional.channel_rms_norm(x, self.weight, self.eps)

    def extra_repr(self) -> str:
        """Show channels and eps."""
        return f"{self.num_channels}, eps={self.eps}"


class ChannelsLast(nn.Module):
    """A norm for ``(N, C, length)`` or ``(N, C)`` on tensors ``(N, *positions, C)``, whatever their number of axes.

    Args:
        norm: The norm; it sees all positions of a sample as one spatial axis, and no spatial axis for ``(N, C)``.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x`` of shape ``(N, *positions, C)``."""
        if x.ndim <= 2:
            out: Tensor = self.norm(x)
            return out
        rows = x.flatten(1, -2).movedim(-1, 1)  # (N, C, length)
        normalized: Tensor = self.norm(rows)
        return normalized.movedim(1, -1).reshape(x.shape).contiguous()  # as LayerNorm's, which models may view


class ChannelsFirst(nn.Module):
    """A norm for ``(N, C, length)`` or ``(N, C)`` on tensors ``(N, C, *spatial)``, whatever their number of axes.

    Args:
        norm: The norm; it sees all positions of a sample as one spatial axis, and no spatial axis for ``(N, C)``.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x`` of shape ``(N, C, *spatial)``."""
        normalized: Tensor = self.norm(x.flatten(2) if x.ndim > 2 else x)
        return normalized.reshape(x.shape)
