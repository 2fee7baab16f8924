"""Norms that bring their own activation: FRN with TLU, EvoNorm-B0 and EvoNorm-S0.

They stand for a norm *and* the activation behind it. Where the network has no activation behind a norm, their sources take
the nonlinear part away: FRN goes without its threshold, EvoNorm is reduced to its scale and shift.
"""

import torch
from torch import Tensor, nn

from spp.errors import InputError
from spp.nn import functional

FRN_EPS, FRN_LEARNED_EPS = 1e-6, 1e-4
"""What FRN adds to the mean square, and where a learned one starts (Singh & Krishnan 2019)."""


class FilterResponseNorm(nn.Module):
    """Filter response normalization with its thresholded linear unit (Singh & Krishnan 2019, arXiv 1911.09737).

    ``y = max(weight * x / sqrt(mean_hw(x^2) + |eps|) + bias, tau)`` for ``x`` of shape ``(N, C, *spatial)``, per sample and
    channel. Weight starts at 1, bias and tau at 0.

    Args:
        num_channels: ``C``.
        eps: Added to the mean square.
        learned_eps: Whether eps is a parameter (of one element, from 1e-4), as the paper wants for maps of one element,
            where the layer would otherwise only keep the sign.
        activated: Whether the threshold ``tau`` is applied.
    """

    def __init__(
        self, num_channels: int, eps: float = FRN_EPS, *, learned_eps: bool = False, activated: bool = True
    ) -> None:
        super().__init__()
        self.num_channels, self.init_eps = num_channels, FRN_LEARNED_EPS if learned_eps else eps
        self.weight = nn.Parameter(torch.empty(num_channels))
        self.bias = nn.Parameter(torch.empty(num_channels))
        self.tau = nn.Parameter(torch.empty(num_channels)) if activated else None
        self.eps = nn.Parameter(torch.empty(())) if learned_eps else eps
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set scale to 1, shift and threshold to 0, and eps to where it starts."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        if self.tau is not None:
            nn.init.zeros_(self.tau)
        if isinstance(self.eps, Tensor):
            nn.init.constant_(self.eps, self.init_eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize and threshold ``x``."""
        out = functional.filter_response_norm(x, self.weight, self.bias, self.eps)
        return out if self.tau is None else functional.thresholded(out, self.tau)

    def extra_repr(self) -> str:
        """Show channels, eps, and whether it activates."""
        learned = " (learned)" if isinstance(self.eps, Tensor) else ""
        return f"{self.num_channels}, eps={self.init_eps:g}{learned}, activated={self.tau is not None}"


class EvoNormS0(nn.Module):
    """EvoNorm-S0: ``x * sigmoid(v x) / std_group * weight + bias`` (Liu, Brock, Simonyan & Le 2020, arXiv 2004.02967).

    Statistics are per sample. ``v`` and weight start at 1, bias at 0.

    Args:
        num_channels: ``C`` of the input ``(N, C, *spatial)``.
        groups: Groups of channels; they divide ``C``.
        eps: Added to the biased variance.
        activated: Whether the nonlinear part is applied; without it only scale and shift remain, as in the source.
    """

    def __init__(self, num_channels: int, groups: int = 32, eps: float = 1e-5, *, activated: bool = True) -> None:
        super().__init__()
        if num_channels % groups:
            raise InputError("the groups of EvoNorm-S0 divide the channels", received=f"{groups} for {num_channels}")
        self.num_channels, self.groups, self.eps = num_channels, groups, eps
        self.weight = nn.Parameter(torch.empty(num_channels))
        self.bias = nn.Parameter(torch.empty(num_channels))
        self.v = nn.Parameter(torch.empty(num_channels)) if activated else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set ``v`` and scale to 1, shift to 0."""
        for parameter in (self.weight, self.v):
            if parameter is not None:
                nn.init.ones_(parameter)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize and activate ``x``."""
        if self.v is None:
            return functional.affine(x, self.weight, self.bias)
        return functional.evo_norm_s0(x, self.v, self.weight, self.bias, groups=self.groups, eps=self.eps)

    def extra_repr(self) -> str:
        """Show channels, groups, eps, and whether it activates."""
        return f"{self.num_channels}, groups={self.groups}, eps={self.eps:g}, activated={self.v is not None}"


class EvoNormB0(nn.Module):
    """EvoNorm-B0: ``x / max(std_batch, v x + std_instance) * weight + bias`` (Liu et al. 2020, arXiv 2004.02967).

    ``v`` and weight start at 1, bias at 0. Evaluation takes the running mean of the (unbiased) batch variance.

    Args:
        num_channels: ``C`` of the input ``(N, C, *spatial)``.
        eps: Added to the biased variances.
        momentum: Weight of the newest batch in the running variance.
        activated: Whether the nonlinear part is applied; without it only scale and shift remain, as in the source.
    """

    running_var: Tensor | None

    def __init__(self, num_channels: int, eps: float = 1e-3, momentum: float = 0.1, *, activated: bool = True) -> None:
        super().__init__()
        self.num_channels, self.eps, self.momentum = num_channels, eps, momentum
        self.weight = nn.Parameter(torch.empty(num_channels))
        self.bias = nn.Parameter(torch.empty(num_channels))
        self.v = nn.Parameter(torch.empty(num_channels)) if activated else None
        self.register_buffer("running_var", torch.ones(num_channels) if activated else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set ``v``, scale and running variance to 1, shift to 0."""
        for tensor in (self.weight, self.v, self.running_var):
            if tensor is not None:
                nn.init.ones_(tensor)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize and activate ``x``.

        Raises:
            InputError: It trains on a single value per channel.
        """
        if self.v is None or self.running_var is None:
            return functional.affine(x, self.weight, self.bias)
        var = self.running_var
        if self.training and x.numel():
            var = functional.batch_moments(needs_a_batch(self, x))[1]
            n = x.numel() // x.shape[1]
            with torch.no_grad():
                self.running_var.lerp_((var * (n / (n - 1))).to(self.running_var.dtype), self.momentum)
        return functional.evo_norm_b0(x, var, self.v, self.weight, self.bias, eps=self.eps)

    def extra_repr(self) -> str:
        """Show channels, eps, momentum, and whether it activates."""
        activated = self.v is not None
        return f"{self.num_channels}, eps={self.eps:g}, momentum={self.momentum:g}, activated={activated}"


def needs_a_batch(layer: nn.Module, x: Tensor) -> Tensor:
    """``x``, unless it holds a single value per channel, which has no variance.

    Raises:
        InputError: It does.
    """
    if x.numel() == x.shape[1]:
        raise InputError(
            f"{type(layer).__name__} takes statistics over the batch, so it trains on more than one value per channel",
            received=f"an input of shape {tuple(x.shape)}",
            remedy="Use a batch of at least 2, or larger maps.",
        )
    return x
