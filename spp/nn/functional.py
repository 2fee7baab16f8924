"""The maths of ``spp.nn``, as functions of tensors; the modules only hold parameters and call them.

Tensors are channels-first, ``(N, C, *spatial)`` with any number of spatial axes, ``(N, C)`` included.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Scale and shift per channel: ``y[n, c, ...] = weight[c] * x[n, c, ...] + bias[c]``.

    Args:
        x: ``(N, C, *spatial)``.
        weight: ``(C,)``.
        bias: ``(C,)``.
    """
    shape = (-1,) + (1,) * (x.ndim - 2)  # (C, 1, ..., 1): broadcasts over batch and space
    return x * weight.view(shape) + bias.view(shape)


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


def stochastic_depth(x: Tensor, rate: float, *, training: bool) -> Tensor:
    """Drop whole samples and scale the kept ones by ``1 / (1 - rate)`` (Huang et al. 2016, arXiv 1603.09382).

    ``y[n] = x[n] * b[n] / (1 - rate)`` with ``b[n] ~ Bernoulli(1 - rate)``, so that ``E[y] = x``.

    Args:
        x: ``(N, ...)``.
        rate: Probability that a sample is dropped, in ``[0, 1)``.
        training: Whether to drop at all; if not, ``x`` itself is returned.
    """
    if not training or rate == 0:
        return x
    keep = 1 - rate
    kept = torch.empty((x.shape[0],) + (1,) * (x.ndim - 1), dtype=x.dtype, device=x.device).bernoulli_(keep)
    return x * (kept / keep)


def squeeze_excite(x: Tensor, gate: Tensor) -> Tensor:
    """Scale each channel of each sample by its gate: ``y[n, c, ...] = x[n, c, ...] * gate[n, c]``.

    Args:
        x: ``(N, C, H, W)``.
        gate: ``(N, C, 1, 1)``.
    """
    return x * gate
