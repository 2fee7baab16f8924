"""The layers behind the table of norms that torch does not have, and adapters between channels-first and channels-last."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from spp.errors import InputError
from spp.nn import functional

DYT_ALPHA = 0.5
"""Where DyT's alpha starts (Zhu et al. 2025)."""
FRN_EPS, FRN_LEARNED_EPS = 1e-6, 1e-4
"""What FRN adds to the mean square, and where a learned one starts (Singh & Krishnan 2019)."""
R_MAX, D_MAX = 3.0, 5.0
"""Final bounds of Batch Renormalization's corrections (Ioffe 2017)."""
R_RAMP, D_RAMP = (5_000, 40_000), (5_000, 25_000)
"""Steps between which the bounds grow from BatchNorm's 1 and 0 to their final values (Ioffe 2017)."""
GHOST_BATCH = 32
"""Samples of a virtual batch; the paper's are 32 to 128 (Hoffer et al. 2017)."""


class _Channelwise(nn.Module):
    """A layer whose parameters, per channel or single, each start at a constant.

    Args:
        num_channels: ``C``.
        starts: Where parameters of shape ``(C,)`` start, by name; None for a parameter that this layer goes without.
    """

    shows: ClassVar[tuple[str, ...]] = ()
    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, num_channels: int, **starts: float | None) -> None:
        super().__init__()
        self.num_channels, self._starts = num_channels, dict[str, float]()
        for name, start in starts.items():
            self._learn(name, start, num_channels)

    def _learn(self, name: str, start: float | None, *shape: int) -> None:
        if start is not None:
            self._starts[name] = start
        self.register_parameter(name, None if start is None else nn.Parameter(torch.full(shape, start)))

    def reset_parameters(self) -> None:
        """Set the parameters to where they start."""
        for name, start in self._starts.items():
            nn.init.constant_(self.get_parameter(name), start)

    def extra_repr(self) -> str:
        """Show the channels, and what else the layer was made with."""
        values = ((name, getattr(self, name)) for name in self.shows)
        shown = (f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in values)
        return ", ".join([str(self.num_channels), *shown])


# --- no statistics -----------------------------------------------------------------------------------------------------


class AffineLayer(_Channelwise):
    """Shift and scale per channel, without normalization; the identity at init, bit for bit.

    ``y[n, c, ...] = weight[c] * x[n, c, ...] + bias[c]`` for ``x`` of shape ``(N, C, *spatial)``; weight starts at 1,
    bias at (negative) zero. Source: Peerthum & Stamp 2023, arXiv 2303.12818.

    Args:
        num_channels: ``C``.
        channel_axis: Where the channels lie: 1, or -1 for channels-last tensors.
    """

    def __init__(self, num_channels: int, *, channel_axis: int = 1) -> None:
        # -0.0 is the neutral element of floating addition; +0.0 would turn an input of -0.0 into +0.0.
        super().__init__(num_channels, weight=1.0, bias=-0.0)
        self.channel_axis = channel_axis

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift ``x``."""
        return functional.affine(x, self.weight, self.bias, axis=self.channel_axis)

    def extra_repr(self) -> str:
        """Show the number of channels, and their axis where it is not 1."""
        return str(self.num_channels) + ("" if self.channel_axis == 1 else f", channel_axis={self.channel_axis}")


class DyT(_Channelwise):
    """Dynamic tanh: ``weight[c] * tanh(alpha * x) + bias[c]``, a layer in place of a norm, without statistics.

    ``alpha`` is one learned number for the layer; weight starts at 1 and bias at 0. Source: Zhu, Chen, He, LeCun & Liu 2025,
    arXiv 2503.10622.

    Args:
        num_channels: ``C``.
        alpha: Where alpha starts.
        channel_axis: Where the channels lie: 1, or -1 for channels-last tensors.
    """

    alpha: nn.Parameter

    def __init__(self, num_channels: int, alpha: float = DYT_ALPHA, *, channel_axis: int = 1) -> None:
        super().__init__(num_channels)
        self.init_alpha, self.channel_axis = alpha, channel_axis
        # alpha comes first among the parameters, as an optimizer's state counts them
        self._learn("alpha", alpha)
        self._learn("weight", 1.0, num_channels)
        self._learn("bias", 0.0, num_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Squash, scale and shift ``x``."""
        return functional.dyt(x, self.alpha, self.weight, self.bias, axis=self.channel_axis)

    def extra_repr(self) -> str:
        """Show channels, where alpha starts, and the channels' axis where it is not 1."""
        axis = "" if self.channel_axis == 1 else f", channel_axis={self.channel_axis}"
        return f"{self.num_channels}, alpha={self.init_alpha:g}{axis}"


# --- statistics of each position ---------------------------------------------------------------------------------------


class ChannelLayerNorm(_Channelwise):
    """LayerNorm over axis 1, the channels, at each position of a channels-first tensor (as in ConvNeXt).

    Statistics are per sample and position, over ``C`` values; scale and shift are per channel and start at 1 and 0.
    (Statistics over channels and space together are GroupNorm with one group.)

    Args:
        num_channels: ``C`` of the input ``(N, C, *spatial)``.
        eps: Added to the biased variance.
    """

    shows = ("eps",)

    def __init__(self, num_channels: int, eps: float = 1e-5) -> None:
        super().__init__(num_channels, weight=1.0, bias=0.0)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x`` over its channels."""
        return functional.channel_layer_norm(x, self.weight, self.bias, self.eps)


class ChannelRMSNorm(_Channelwise):
    """RMSNorm over axis 1, the channels, at each position of a channels-first tensor.

    The mean square is per sample and position, over ``C`` values; the scale is per channel and starts at 1.

    Args:
        num_channels: ``C`` of the input ``(N, C, *spatial)``.
        eps: Added to the mean square; None takes the machine epsilon of the input's dtype, as ``torch.nn.RMSNorm``.
    """

    shows = ("eps",)

    def __init__(self, num_channels: int, eps: float | None = None) -> None:
        super().__init__(num_channels, weight=1.0)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x`` over its channels."""
        return functional.channel_rms_norm(x, self.weight, self.eps)


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
        # contiguous, as LayerNorm's output is, since models view it
        return normalized.movedim(1, -1).reshape(x.shape).contiguous()


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


# --- statistics of the batch -------------------------------------------------------------------------------------------


class BatchRenorm(_Channelwise):
    """Batch Renormalization: BatchNorm corrected towards its running statistics (Ioffe 2017, arXiv 1702.03275).

    ``y = ((x - m) / s * r + d) * weight + bias`` for ``x`` of shape ``(N, C, *spatial)``; see
    ``functional.batch_renorm``. Weight starts at 1, bias at 0. Evaluation uses the running statistics. As in the paper the
    running scale is the mean of standard deviations, not of variances.

    Args:
        num_channels: ``C``.
        eps: Added to the biased variance.
        momentum: Weight of the newest batch in the running statistics.
        r_max: Final bound of the scale correction, at least 1.
        d_max: Final bound of the shift correction, at least 0.
        ramp: Whether the bounds grow to these values as in the paper: plain BatchNorm for 5,000 steps, ``r_max`` in full
            after 40,000 and ``d_max`` after 25,000. If not, they hold from the first step.

    Raises:
        InputError: A bound is out of its range.
    """

    shows = ("eps", "momentum", "r_max", "d_max", "ramp")

    running_mean: Tensor
    running_std: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_channels: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        *,
        r_max: float = R_MAX,
        d_max: float = D_MAX,
        ramp: bool = True,
    ) -> None:
        super().__init__(num_channels, weight=1.0, bias=0.0)
        if r_max < 1 or d_max < 0:
            raise InputError("r_max is at least 1 and d_max at least 0", received=f"{r_max!r} and {d_max!r}")
        self.eps, self.momentum = eps, momentum
        self.r_max, self.d_max, self.ramp = r_max, d_max, ramp
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_std", torch.ones(num_channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def reset_parameters(self) -> None:
        """Set scale to 1, shift to 0, and forget the running statistics."""
        super().reset_parameters()
        self.running_mean.zero_()
        self.running_std.fill_(1)
        self.num_batches_tracked.zero_()

    def bounds(self) -> tuple[Tensor | float, Tensor | float]:
        """``(r_max, d_max)`` at the present step."""
        if not self.ramp:
            return self.r_max, self.d_max
        share_r, share_d = (
            ((self.num_batches_tracked - start) / (end - start)).clamp(0, 1) for start, end in (R_RAMP, D_RAMP)
        )
        return 1 + (self.r_max - 1) * share_r, self.d_max * share_d

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x``.

        Raises:
            InputError: It trains on a single value per channel.
        """
        running = self.running_mean, self.running_std
        if not (self.training and x.numel()):
            return functional.batch_renorm(x, running, running, self.weight, self.bias, r_max=1, d_max=0)
        mean, var = functional.batch_moments(_needs_a_batch(self, x))
        batch = mean, (var + self.eps).sqrt()
        r_max, d_max = self.bounds()
        out = functional.batch_renorm(x, batch, running, self.weight, self.bias, r_max=r_max, d_max=d_max)
        with torch.no_grad():
            for kept, new in zip(running, batch, strict=True):
                kept.lerp_(new.to(kept.dtype), self.momentum)
            self.num_batches_tracked.add_(1)
        return out


class GhostBatchNorm(_BatchNorm):
    """BatchNorm whose training statistics are those of virtual batches (Hoffer et al. 2017, arXiv 1705.08741).

    A batch is cut, in order, into ``max(1, N // ghost)`` nearly equal parts, and each part is normalized by itself. Scale
    and shift are shared, and the running statistics take every part in turn. Parameters and buffers are those of BatchNorm.

    Args:
        num_features: ``C`` of the input ``(N, C, *spatial)``.
        ghost: Samples of a virtual batch.
        eps: Added to the biased variance.
        momentum: Weight of the newest virtual batch in the running statistics.

    Raises:
        InputError: ``ghost`` is below 1.
    """

    def __init__(self, num_features: int, ghost: int = GHOST_BATCH, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        if ghost < 1:
            raise InputError("a virtual batch has at least one sample", received=repr(ghost))
        self.ghost = ghost

    def forward(self, input: Tensor) -> Tensor:
        """Normalize ``input``.

        Raises:
            InputError: A virtual batch has a single value per channel while training.
        """
        own = self.running_mean, self.running_var, self.weight, self.bias
        if not self.training or not input.numel():
            return F.batch_norm(input, *own, False, 0.0, self.eps)
        parts = []
        for part in input.tensor_split(max(1, len(input) // self.ghost)):
            parts.append(F.batch_norm(_needs_a_batch(self, part), *own, True, self.momentum or 0.0, self.eps))
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return torch.cat(parts)

    def extra_repr(self) -> str:
        """Show channels, eps, momentum and the size of a virtual batch."""
        return f"{self.num_features}, eps={self.eps:g}, momentum={self.momentum:g}, ghost={self.ghost}"


# --- norm and activation in one ----------------------------------------------------------------------------------------
#
# They stand for a norm *and* the activation behind it. Where the network has no activation behind a norm, their sources take
# the nonlinear part away: FRN goes without its threshold, EvoNorm is reduced to its scale and shift.


class FilterResponseNorm(_Channelwise):
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

    tau: nn.Parameter | None
    eps: Tensor | float

    def __init__(
        self, num_channels: int, eps: float = FRN_EPS, *, learned_eps: bool = False, activated: bool = True
    ) -> None:
        super().__init__(num_channels, weight=1.0, bias=0.0, tau=0.0 if activated else None)
        self.init_eps = FRN_LEARNED_EPS if learned_eps else eps
        if learned_eps:
            self._learn("eps", FRN_LEARNED_EPS)
        else:
            self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize and threshold ``x``."""
        out = functional.filter_response_norm(x, self.weight, self.bias, self.eps)
        return out if self.tau is None else functional.thresholded(out, self.tau)

    def extra_repr(self) -> str:
        """Show channels, eps, and whether it activates."""
        learned = " (learned)" if isinstance(self.eps, Tensor) else ""
        return f"{self.num_channels}, eps={self.init_eps:g}{learned}, activated={self.tau is not None}"


class EvoNormS0(_Channelwise):
    """EvoNorm-S0: ``x * sigmoid(v x) / std_group * weight + bias`` (Liu, Brock, Simonyan & Le 2020, arXiv 2004.02967).

    Statistics are per sample. ``v`` and weight start at 1, bias at 0.

    Args:
        num_channels: ``C`` of the input ``(N, C, *spatial)``.
        groups: Groups of channels; they divide ``C``.
        eps: Added to the biased variance.
        activated: Whether the nonlinear part is applied; without it only scale and shift remain, as in the source.
    """

    shows = ("groups", "eps", "activated")

    v: nn.Parameter | None

    def __init__(self, num_channels: int, groups: int = 32, eps: float = 1e-5, *, activated: bool = True) -> None:
        if num_channels % groups:
            raise InputError(
                "the groups of EvoNorm-S0 need to divide the channels", received=f"{groups} for {num_channels}"
            )
        super().__init__(num_channels, weight=1.0, bias=0.0, v=1.0 if activated else None)
        self.groups, self.eps, self.activated = groups, eps, activated

    def forward(self, x: Tensor) -> Tensor:
        """Normalize and activate ``x``."""
        if self.v is None:
            return functional.affine(x, self.weight, self.bias)
        return functional.evo_norm_s0(x, self.v, self.weight, self.bias, groups=self.groups, eps=self.eps)


class EvoNormB0(_Channelwise):
    """EvoNorm-B0: ``x / max(std_batch, v x + std_instance) * weight + bias`` (Liu et al. 2020, arXiv 2004.02967).

    ``v`` and weight start at 1, bias at 0. Evaluation takes the running mean of the (unbiased) batch variance.

    Args:
        num_channels: ``C`` of the input ``(N, C, *spatial)``.
        eps: Added to the biased variances.
        momentum: Weight of the newest batch in the running variance.
        activated: Whether the nonlinear part is applied; without it only scale and shift remain, as in the source.
    """

    shows = ("eps", "momentum", "activated")

    v: nn.Parameter | None
    running_var: Tensor | None

    def __init__(self, num_channels: int, eps: float = 1e-3, momentum: float = 0.1, *, activated: bool = True) -> None:
        super().__init__(num_channels, weight=1.0, bias=0.0, v=1.0 if activated else None)
        self.eps, self.momentum, self.activated = eps, momentum, activated
        self.register_buffer("running_var", torch.ones(num_channels) if activated else None)

    def reset_parameters(self) -> None:
        """Set ``v``, scale and running variance to 1, shift to 0."""
        super().reset_parameters()
        if self.running_var is not None:
            self.running_var.fill_(1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize and activate ``x``.

        Raises:
            InputError: It trains on a single value per channel.
        """
        if self.v is None or self.running_var is None:
            return functional.affine(x, self.weight, self.bias)
        var = self.running_var
        if self.training and x.numel():
            var = functional.batch_moments(_needs_a_batch(self, x))[1]
            n = x.numel() // x.shape[1]
            # running statistics are unbiased, as BatchNorm's are
            with torch.no_grad():
                self.running_var.lerp_((var * (n / (n - 1))).to(self.running_var.dtype), self.momentum)
        return functional.evo_norm_b0(x, var, self.v, self.weight, self.bias, eps=self.eps)


def _needs_a_batch(layer: nn.Module, x: Tensor) -> Tensor:
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
