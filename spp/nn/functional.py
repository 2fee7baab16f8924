"""The maths of ``spp.nn``, as functions of tensors; the modules only hold parameters and call them.

Activations are channels-first, ``(N, C, *spatial)`` with any number of spatial axes, ``(N, C)`` included. Statistics are taken
in float32 at least, whatever the input's precision; variances are biased.
"""

from math import hypot, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

WS_EPS = 1e-5
"""What weight standardization's reference code adds to the standard deviation."""
SCALED_WS_FLOOR = 1e-4
"""Least ``fan_in * variance`` that scaled weight standardization divides by."""
MP_EPS = 1e-4
"""What EDM2 adds to the norm that it divides by."""


# --- normalization of activations, and what stands in its place ------------------------------------------------------


def affine(x: Tensor, weight: Tensor, bias: Tensor, *, axis: int = 1) -> Tensor:
    """Scale and shift per channel: ``y[n, c, ...] = weight[c] * x[n, c, ...] + bias[c]``.

    Args:
        x: ``(N, C, *spatial)``.
        weight: ``(C,)``.
        bias: ``(C,)``.
        axis: Where the channels lie: 1, or -1 for channels-last tensors.
    """
    return x * _per_channel(weight, x, axis) + _per_channel(bias, x, axis)


def _per_channel(values: Tensor, x: Tensor, axis: int = 1) -> Tensor:
    """``values`` of shape ``(C,)`` with as many axes of size 1 behind as broadcast it along ``axis`` of ``x``."""
    return values.view((-1,) + (1,) * ((x.ndim - 1 - axis) % x.ndim))


def wide(x: Tensor) -> Tensor:
    """``x`` in float32 at least: squares of half precision numbers overflow or vanish."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _space(x: Tensor) -> tuple[int, ...]:
    """The spatial axes of ``x``."""
    return tuple(range(2, x.ndim))


def _biased_variance(x: Tensor, axes: tuple[int, ...]) -> Tensor:
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
    mean_square = square.mean(_space(x), keepdim=True) if x.ndim > 2 else square  # (N, C, 1, ...)
    return affine((x * torch.rsqrt(mean_square + magnitude)).to(x.dtype), weight, bias)


def thresholded(x: Tensor, tau: Tensor) -> Tensor:
    """Thresholded linear unit: ``max(x[n, c, ...], tau[c])`` (Singh & Krishnan 2019).

    Args:
        x: ``(N, C, *spatial)``.
        tau: ``(C,)``.
    """
    return torch.maximum(x, _per_channel(tau, x))


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
    var = _biased_variance(grouped, tuple(range(2, grouped.ndim)))
    scale = torch.rsqrt(var + eps).expand_as(grouped).reshape(x.shape)
    return affine((x * torch.sigmoid(_per_channel(v, x) * x) * scale).to(x.dtype), weight, bias)


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
    instance = _biased_variance(high, _space(x)) if x.ndim > 2 else torch.zeros_like(high)
    left = _per_channel((batch_var + eps).sqrt(), x)
    right = _per_channel(v, x) * x + (instance + eps).sqrt()
    return affine((x / torch.maximum(left, right)).to(x.dtype), weight, bias)


def batch_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel, over batch and space: two tensors ``(C,)``.

    Args:
        x: ``(N, C, *spatial)``, not empty.
    """
    var, mean = torch.var_mean(wide(x), (0, *_space(x)), correction=0)
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
    normalized = (x - _per_channel(mean, x)) * _per_channel(r / std, x) + _per_channel(d, x)
    return affine(normalized.to(x.dtype), weight, bias)


# --- residual branches: how they are dropped, gated and summed with their skips --------------------------------------


def stochastic_depth(x: Tensor, rate: float, *, training: bool, rescale: bool = True) -> Tensor:
    """Drop whole samples and scale the kept ones by ``1 / (1 - rate)`` (Huang et al. 2016, arXiv 1603.09382).

    ``y[n] = x[n] * b[n] / (1 - rate)`` with ``b[n] ~ Bernoulli(1 - rate)``, so that ``E[y] = x``.

    Args:
        x: ``(N, ...)``.
        rate: Probability that a sample is dropped, in ``[0, 1)``.
        training: Whether to drop at all; if not, ``x`` itself is returned.
        rescale: Whether kept samples are scaled; the NF-ResNets of Brock et al. (2021) leave them as they are.
    """
    # nothing is drawn at rate 0, so that the random state stays
    if not training or rate == 0:
        return x
    keep = 1 - rate
    kept = torch.empty((x.shape[0],) + (1,) * (x.ndim - 1), dtype=x.dtype, device=x.device).bernoulli_(keep)
    return x * (kept / keep) if rescale else x * kept


def squeeze_excite(x: Tensor, gate: Tensor) -> Tensor:
    """Scale each channel of each sample by its gate: ``y[n, c, ...] = x[n, c, ...] * gate[n, c]``.

    Args:
        x: ``(N, C, H, W)``.
        gate: ``(N, C, 1, 1)``.
    """
    return x * gate


def doubled_squeeze_excite(x: Tensor, gate: Tensor) -> Tensor:
    """``2 * x * gate``: a gate of 1/2 leaves the variance as it is (Brock et al. 2021, arXiv 2101.08692).

    Args:
        x: ``(N, C, H, W)``.
        gate: ``(N, C, 1, 1)``.
    """
    return x * (2 * gate)


def magnitude_squeeze_excite(x: Tensor, gate: Tensor) -> Tensor:
    """``x * gate / sqrt((1 - gate)^2 + gate^2)``: a gate of 1/2 halves the variance (Dewyse 2025).

    Args:
        x: ``(N, C, H, W)``.
        gate: ``(N, C, 1, 1)``.
    """
    return x * (gate * torch.rsqrt((1 - gate).square() + gate.square()))


def mp_weights(weight: Tensor | float) -> tuple[Tensor | float, Tensor | float]:
    """What skip and branch are multiplied with in a magnitude-preserving sum (Karras et al. 2023, arXiv 2312.02696).

    ``((1 - w), w) / sqrt((1 - w)^2 + w^2)``: the sum of uncorrelated tensors of equal variance keeps that variance.

    Args:
        weight: Share ``w`` of the branch: a number or a tensor of one element.

    Returns:
        Weight of the skip, weight of the branch.
    """
    if isinstance(weight, Tensor):
        scale = torch.rsqrt((1 - weight).square() + weight.square())
        return (1 - weight) * scale, weight * scale
    norm = hypot(1 - weight, weight)
    return (1 - weight) / norm, weight / norm


def mp_sum(skip: Tensor, branch: Tensor, weight: Tensor | float = 0.5) -> Tensor:
    """Magnitude-preserving sum: ``((1 - w) skip + w branch) / sqrt((1 - w)^2 + w^2)`` (Karras et al. 2023; Dewyse 2025).

    Args:
        skip: Any tensor.
        branch: A tensor of the same shape.
        weight: Share ``w`` of the branch.
    """
    of_skip, of_branch = mp_weights(weight)
    return branch * of_branch + skip * of_skip


def mp_cat(a: Tensor, b: Tensor, *, axis: int = 1, weight: float = 0.5) -> Tensor:
    """Magnitude-preserving concatenation (Karras et al. 2023, arXiv 2312.02696).

    Both parts contribute to the total in the proportion ``(1 - w) : w`` whatever their channels ``Na`` and ``Nb``:
    ``cat(a * c (1 - w) / sqrt(Na), b * c w / sqrt(Nb))`` with ``c = sqrt((Na + Nb) / ((1 - w)^2 + w^2))``.

    Args:
        a: ``(N, Na, ...)``.
        b: ``(N, Nb, ...)``.
        axis: Along which they are joined.
        weight: Share ``w`` of ``b``.
    """
    channels_a, channels_b = a.shape[axis], b.shape[axis]
    scale = sqrt(channels_a + channels_b) / hypot(1 - weight, weight)
    parts = (a * (scale * (1 - weight) / sqrt(channels_a)), b * (scale * weight / sqrt(channels_b)))
    return torch.cat(parts, dim=axis)


# --- weights ---------------------------------------------------------------------------------------------------------
#
# A *row* of a weight ``(C_out, C_in / groups, *kernel)`` or ``(out, in)`` is everything that feeds one output unit: ``N``
# (fan_in) numbers. Each function returns the weight that a layer computes with; gradients flow through it to the weight that
# is learned.


def fan_in(weight: Tensor) -> int:
    """Inputs of one output unit."""
    return weight[0].numel() if len(weight) else 0


def _row_axes(weight: Tensor) -> tuple[int, ...]:
    return tuple(range(1, weight.ndim))


def standardized_weight(weight: Tensor, *, eps: float = WS_EPS) -> Tensor:
    """Weight standardization: ``(W - mean) / (std + eps)`` by row (Qiao et al. 2019, arXiv 1903.10520, reference code).

    ``std`` is unbiased, as in the reference code. Unlike the scaled form it does not divide by ``sqrt(fan_in)``: the
    variance of the output is ``fan_in`` times the input's second moment.

    Args:
        weight: ``(C_out, C_in / groups, *kernel)``.
        eps: Added to the standard deviation.
    """
    std, mean = torch.std_mean(wide(weight), _row_axes(weight), keepdim=True)
    return ((weight - mean) / (std + eps)).to(weight.dtype)


def scaled_standardized_weight(
    weight: Tensor, gain: Tensor | None = None, *, gamma: float = 1.0, floor: float = SCALED_WS_FLOOR, eps: float = 0.0
) -> Tensor:
    """Scaled weight standardization: ``gamma * gain * (W - mean) / sqrt(fan_in * var)`` by row (Brock et al. 2021).

    Source: arXiv 2101.08692 and its released code, which floors ``fan_in * var`` at 1e-4. Each row sums to zero
    and has the norm ``gamma * gain``: whatever the mean of the input, the output has mean 0, and for an input of
    independent elements of variance ``1 / gamma^2`` it has variance ``gain^2``.

    Args:
        weight: ``(C_out, C_in / groups, *kernel)``.
        gain: ``(C_out,)`` or None for 1.
        gamma: The activation's gain, where the activation itself does not have it.
        floor: Least value of ``fan_in * var``.
        eps: Added to the biased variance, as other implementations do instead.
    """
    n = fan_in(weight)
    var, mean = torch.var_mean(wide(weight), _row_axes(weight), correction=0, keepdim=True)
    scale = gamma * torch.rsqrt(((var + eps) * n).clamp(min=floor))
    if gain is not None:
        scale = scale * _per_channel(gain, weight, 0)
    return ((weight - mean) * scale).to(weight.dtype)


def centred_normalized_weight(weight: Tensor, gain: Tensor | None = None) -> Tensor:
    """Centred weight normalization: ``gain * (W - mean) / ||W - mean||`` by row (Huang et al., ICCV 2017).

    It is scaled weight standardization with ``gamma = 1`` and no floor.

    Args:
        weight: ``(C_out, C_in / groups, *kernel)``.
        gain: ``(C_out,)`` or None for 1.
    """
    # a floor of 0 would divide constant rows by zero
    return scaled_standardized_weight(weight, gain, floor=torch.finfo(wide(weight).dtype).tiny)


def rms_normalized(weight: Tensor, *, eps: float = MP_EPS) -> Tensor:
    """Rows of root mean square 1: ``W / (eps + ||W|| / sqrt(fan_in))`` (Karras et al. 2023, arXiv 2312.02696).

    EDM2 also writes this back into its weights at each training step; a training loop does that with
    ``weight.copy_(rms_normalized(weight))`` under ``no_grad``.

    Args:
        weight: ``(C_out, C_in / groups, *kernel)``.
        eps: Added to the root mean square.
    """
    norm: Tensor = torch.linalg.vector_norm(wide(weight), dim=_row_axes(weight), keepdim=True)
    return (weight / (eps + norm / sqrt(max(1, fan_in(weight))))).to(weight.dtype)


def magnitude_preserving_weight(weight: Tensor, *, gamma: float = 1.0, eps: float = MP_EPS) -> Tensor:
    """Rows of norm ``gamma``: ``gamma * rms_normalized(W) / sqrt(fan_in)`` (Karras et al. 2023).

    The mean of a row stays, so a mean of the input is passed on, unlike with scaled weight standardization.

    Args:
        weight: ``(C_out, C_in / groups, *kernel)``.
        gamma: The activation's gain, where the activation itself does not have it.
        eps: Added to the root mean square.
    """
    return rms_normalized(weight, eps=eps) * (gamma / sqrt(max(1, fan_in(weight))))
