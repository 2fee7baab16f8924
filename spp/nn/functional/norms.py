"""Normalization of activations, and what stands in its place.

Tensors are channels-first, ``(N, C, *spatial)`` with any number of spatial axes, ``(N, C)`` included. Statistics are taken
in float32 at least, whatever the input's precision; variances are biased.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def affine(x: Tensor, weight: Tensor, bias: Tensor, *, axis: int = 1) -> Tensor:
    """Scale and shift per channel: ``y[n, c, ...] = weight[c] * x[n, c, ...] + bias[c]``.

    Args:
        x: ``(N, C, *spatial)``.
        weight: ``(C,)``.
        bias: ``(C,)``.
        axis: Where the channels lie: 1, or -1 for channels-last tensors.
    """
    return x * per_channel(weight, x, axis) + per_channel(bias, x, axis)


def per_channel(values: Tensor, x: Tensor, axis: int = 1) -> Tensor:
    """``values`` of shape ``(C,)`` with as many axes of size 1 behind as broadcast it along ``axis`` of ``x``."""
    return values.view((-1,) + (1,) * ((x.ndim - 1 - axis) % x.ndim))


def wide(x: Tensor) -> Tensor:
    """``x`` in float32 at least: squares of half precision numbers overflow or vanish."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def space(x: Tensor) -> tuple[int, ...]:
    """The spatial axes of ``x``."""
    return tuple(range(2, x.ndim))


def biased_variance(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Variance over ``axes``, which stay as axes of size 1; torch's own warns about batches without samples."""
    return (x - x.mean(axes, keepdim=True)).square().mean(axes, keepdim=True)


def channel_layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
    """Layer normalization over the channels of each position (Ba et al. 2016, arXiv 1607.06450; as in ConvNeXt).

    ``y[n, :, p] = (x[n, :, p] - m) / sqrt(v + eps) * weight + bias`` with ``m`` and the biased ``v`` over the ``C``
    values at position ``p``.

    Args:
        x: ``(N, C, *spatial)``.
        weight: ``(C,)`` or None for no scale.
        bias: ``(C,)`` or None for no shift.
        eps: Added to the variance.
    """
    last = x.movedim(1, -1)  # (N, *spatial, C)
    return F.layer_norm(last, (x.shape[1],), weight, bias, eps).movedim(-1, 1)


def channel_rms_norm(x: Tensor, weight: Tensor | None, eps: float | None = None) -> Tensor:
    """Root-mean-square normalization over the channels of each position (Zhang & Sennrich 2019, arXiv 1910.07467).

    ``y[n, :, p] = x[n, :, p] / sqrt(mean_c(x[n, c, p]^2) + eps) * weight``.

    Args:
        x: ``(N, C, *spatial)``.
        weight: ``(C,)`` or None for no scale.
        eps: Added to the mean square; None takes the machine epsilon of ``x.dtype``, as torch does.
    """
    last = x.movedim(1, -1)  # (N, *spatial, C)
    return F.rms_norm(last, (x.shape[1],), weight, eps).movedim(-1, 1)


def dyt(x: Tensor, alpha: Tensor, weight: Tensor, bias: Tensor, *, axis: int = 1) -> Tensor:
    """Dynamic tanh: ``weight[c] * tanh(alpha * x) + bias[c]`` (Zhu et al. 2025, arXiv 2503.10622).

    Args:
        x: ``(N, C, *spatial)``.
        alpha: A scalar.
        weight: ``(C,)``.
        bias: ``(C,)``.
        axis: Where the channels lie: 1, or -1 for channels-last tensors.
    """
    return affine(torch.tanh(alpha * x), weight, bias, axis=axis)


def filter_response_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: Tensor | float) -> Tensor:
    """Filter response normalization (Singh & Krishnan 2019, arXiv 1911.09737).

    ``y[n, c] = weight[c] * x[n, c] / sqrt(mean_hw(x[n, c]^2) + |eps|) + bias[c]``; no mean is taken off.

    Args:
        x: ``(N, C, *spatial)``.
        weight: ``(C,)``.
        bias: ``(C,)``.
        eps: Added to the mean square, its sign ignored: a number, or a learned tensor of one element.
    """
    magnitude = eps.abs() if isinstance(eps, Tensor) else abs(eps)
    square = wide(x).square()
    mean_square = square.mean(space(x), keepdim=True) if x.ndim > 2 else square  # (N, C, 1, ...)
    return affine((x * torch.rsqrt(mean_square + magnitude)).to(x.dtype), weight, bias)


def thresholded(x: Tensor, tau: Tensor) -> Tensor:
    """Thresholded linear unit: ``max(x[n, c, ...], tau[c])`` (Singh & Krishnan 2019).

    Args:
        x: ``(N, C, *spatial)``.
        tau: ``(C,)``.
    """
    return torch.maximum(x, per_channel(tau, x))


def evo_norm_s0(x: Tensor, v: Tensor, weight: Tensor, bias: Tensor, *, groups: int, eps: float = 1e-5) -> Tensor:
    """EvoNorm-S0: ``x * sigmoid(v[c] x) / sqrt(var_group(x) + eps) * weight[c] + bias[c]`` (Liu et al. 2020, 2004.02967).

    Args:
        x: ``(N, C, *spatial)``.
        v: ``(C,)``.
        weight: ``(C,)``.
        bias: ``(C,)``.
        groups: Number of groups of channels; the biased variance is over a sample's group and space.
        eps: Added to the variance.
    """
    grouped = wide(x).reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])  # (N, G, C/G, *spatial)
    var = biased_variance(grouped, tuple(range(2, grouped.ndim)))
    scale = torch.rsqrt(var + eps).expand_as(grouped).reshape(x.shape)
    return affine((x * torch.sigmoid(per_channel(v, x) * x) * scale).to(x.dtype), weight, bias)


def evo_norm_b0(x: Tensor, batch_var: Tensor, v: Tensor, weight: Tensor, bias: Tensor, *, eps: float = 1e-3) -> Tensor:
    """EvoNorm-B0: ``x / max(sqrt(batch_var + eps), v x + sqrt(var_hw + eps)) * weight + bias`` (Liu et al. 2020).

    Args:
        x: ``(N, C, *spatial)``.
        batch_var: ``(C,)``: biased variance over batch and space while training, its running mean afterwards.
        v: ``(C,)``.
        weight: ``(C,)``.
        bias: ``(C,)``.
        eps: Added to both variances.
    """
    high = wide(x)
    instance = biased_variance(high, space(x)) if x.ndim > 2 else torch.zeros_like(high)
    left = per_channel((batch_var + eps).sqrt(), x)
    right = per_channel(v, x) * x + (instance + eps).sqrt()
    return affine((x / torch.maximum(left, right)).to(x.dtype), weight, bias)


def batch_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel, over batch and space: two tensors ``(C,)``.

    Args:
        x: ``(N, C, *spatial)``, not empty.
    """
    var, mean = torch.var_mean(wide(x), (0, *space(x)), correction=0)
    return mean, var


def batch_renorm(
    x: Tensor,
    batch: tuple[Tensor, Tensor],
    running: tuple[Tensor, Tensor],
    weight: Tensor,
    bias: Tensor,
    *,
    r_max: Tensor | float,
    d_max: Tensor | float,
) -> Tensor:
    """Batch renormalization (Ioffe 2017, arXiv 1702.03275, algorithm 1).

    ``y = ((x - m) / s * r + d) * weight + bias`` with ``r = clip(s / running_s, 1 / r_max, r_max)`` and
    ``d = clip((m - running_m) / running_s, -d_max, d_max)``, both constants for the gradient. With ``r_max=1, d_max=0`` it
    is BatchNorm; where nothing is clipped it is normalization by the running statistics.

    Args:
        x: ``(N, C, *spatial)``.
        batch: Mean and standard deviation of the batch, ``(C,)`` each; gradients flow through them.
        running: Their running means, ``(C,)`` each.
        weight: ``(C,)``.
        bias: ``(C,)``.
        r_max: Largest scale correction, at least 1.
        d_max: Largest shift correction, at least 0.
    """
    (mean, std), (running_mean, running_std) = batch, running
    bound_r, bound_d = (torch.as_tensor(value, dtype=std.dtype, device=std.device) for value in (r_max, d_max))
    # constants for the gradient, as the paper has them
    r = (std.detach() / running_std).clamp(bound_r.reciprocal(), bound_r)
    d = ((mean.detach() - running_mean) / running_std).clamp(-bound_d, bound_d)
    normalized = (x - per_channel(mean, x)) * per_channel(r / std, x) + per_channel(d, x)
    return affine(normalized.to(x.dtype), weight, bias)
