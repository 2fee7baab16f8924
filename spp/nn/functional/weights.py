"""Standardization of weights rather than activations.

A *row* of a weight ``(C_out, C_in / groups, *kernel)`` or ``(out, in)`` is everything that feeds one output unit: ``N``
(fan_in) numbers. Each function returns the weight that a layer computes with; gradients flow through it to the weight that
is learned.
"""

from math import sqrt

import torch
from torch import Tensor

from spp.nn.functional.norms import wide

WS_EPS = 1e-5
"""What weight standardization's reference code adds to the standard deviation."""
SCALED_WS_FLOOR = 1e-4
"""Least ``fan_in * variance`` that scaled weight standardization divides by."""
MP_EPS = 1e-4
"""What EDM2 adds to the norm that it divides by."""


def fan_in(weight: Tensor) -> int:
    """Inputs of one output unit."""
    return weight[0].numel() if len(weight) else 0


def _row_axes(weight: Tensor) -> tuple[int, ...]:
    return tuple(range(1, weight.ndim))


def _per_row(values: Tensor, weight: Tensor) -> Tensor:
    return values.view((-1,) + (1,) * (weight.ndim - 1))


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
        scale = scale * _per_row(gain, weight)
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
