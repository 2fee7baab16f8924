"""Linear layers and convolutions: what weights, given as they are, do to moments.

A layer's weights enter through two Gram matrices over the taps of the kernel, means over output units:
``G = mean_o sum_i W[o, i, k] W[o, i, k']`` and ``T = mean_o (sum_i W[o, i, k]) (sum_i W[o, i, k'])``. With ``u[k, p]`` the root
mean square of the input that tap ``k`` sees at output ``p`` (0 on padding), the part of the input that is alike at all positions adds up as
``u^T G u``, the part that is not as ``sum_k G[k, k] u_k^2``, and the common mean as ``u^T T u``. So depthwise and grouped
convolutions, strides, dilation and zero padding need no rule of their own, and standardized weights, whose rows sum to zero,
take the common mean away.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from spp.theory.field import FLOAT, Field, Gradient, unit

CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSE: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def linear(x: Field, weight: Tensor, bias: Tensor | None) -> Field:
    """``x @ weight.T + bias`` over the last axis, which has the channels."""
    w = weight.detach().to("cpu", FLOAT)
    shape = torch.Size((*x.shape[:-1], len(w)))
    out = _mixed(x, shape, len(shape) - 1, w[:, :, None], bias, x.profile.clamp(min=0).sqrt()[None], 1)

    def back(g: Gradient) -> Gradient:
        sent = (w.square() * g.channels[:, None]).sum(0)  # (inputs,)
        spread = g.spread + 2 * _gradient_overlap(x, g) / x.width
        return Gradient(g.profile * float(sent.mean()), g.within, unit(sent), spread, g.across)

    out.parents = [(x, back)]
    return out


def convolution(
    x: Field, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...], padding: tuple[int, ...] | str, dilation: tuple[int, ...], groups: int, shape: torch.Size
) -> Field:
    """A convolution of ``weight.dim() - 2`` spatial axes; ``shape`` is that of its output."""
    w = weight.detach().to("cpu", FLOAT)
    dims, kernel = w.dim() - 2, w.shape[2:]
    taps = kernel.numel()
    w = w.reshape(len(w), w.shape[1], taps)
    probe = torch.eye(taps, dtype=FLOAT).reshape(taps, 1, *kernel)
    root = x.profile.clamp(min=0).sqrt()
    with torch.no_grad():
        seen = CONVOLVE[dims](root[None, None], probe, None, stride, padding, dilation)[0]  # (taps, *space)
    out = _mixed(x, shape, 1, w, bias, seen, groups)

    def back(g: Gradient) -> Gradient:
        pads = _pads(padding, kernel, dilation)
        extra = [
            s - ((o - 1) * t - 2 * p + d * (k - 1) + 1)
            for s, o, t, p, d, k in zip(root.shape, g.profile.shape, stride, pads, dilation, kernel, strict=True)
        ]
        with torch.no_grad():
            came = TRANSPOSE[dims](
                g.profile.clamp(min=0).sqrt()[None, None],
                probe.reshape(1, taps, *kernel),
                None,
                stride,
                pads,
                [max(e, 0) for e in extra],
                1,
                dilation,
            )[0]
        came = came[(slice(None), *(slice(0, s) for s in root.shape))]
        scaled = w * g.channels.sqrt()[:, None, None]
        rows = scaled.reshape(-1, taps)
        gram = rows.T @ rows / x.width
        sent = scaled.square().sum(2).reshape(groups, -1, w.shape[1]).sum(1).reshape(-1)  # (inputs,)
        same = torch.einsum("k...,kl,l...->...", came, gram, came)
        apart = torch.einsum("k...,k->...", came.square(), gram.diagonal())
        profile = (g.within * same + (1 - g.within) * apart).clamp(min=0)
        pooled = came.reshape(taps, -1).mean(1)
        alike = g.within * float(pooled @ gram @ pooled)
        flat = float(profile.clamp(min=0).sqrt().mean()) ** 2
        within = min(max(alike / flat, -1.0), 1.0) if flat > 0 else 0.0
        return Gradient(profile, within, unit(sent), g.spread + 2 * _gradient_overlap(x, g) / x.width, g.across)

    out.parents = [(x, back)]
    return out


def _mixed(x: Field, shape: torch.Size, axis: int, w: Tensor, bias: Tensor | None, seen: Tensor, groups: int) -> Field:
    """The output for weights (O, I / groups, taps) and what each tap sees, (taps, *space)."""
    share = x.channels.reshape(groups, 1, -1, 1).expand(groups, len(w) // groups, -1, 1).reshape(len(w), -1, 1)
    scaled = w * share.sqrt()
    rows = scaled.reshape(-1, w.shape[2])
    gram = rows.T @ rows / len(w)
    sums = w.sum(1)  # (O, taps)
    common = sums.T @ sums / len(w)
    nu, within, across = x.relative_mean, x.within, x.across
    alike, apart = within - nu**2, 1 - within

    def form(matrix: Tensor, u: Tensor) -> Tensor:
        return torch.einsum("k...,kl,l...->...", u, matrix, u)

    own = torch.einsum("k...,k->...", seen.square(), gram.diagonal())
    profile = nu**2 * form(common, seen) + alike * form(gram, seen) + apart * own
    mean_seen = seen.reshape(len(seen), -1).mean(1)
    positions = profile.numel()
    pooled = nu**2 * form(common, mean_seen) + alike * form(gram, mean_seen) + apart * own.mean() / positions
    between = nu**2 * form(common, mean_seen) + (across - nu**2) * form(gram, mean_seen)
    mean = nu * sums.mean(0) @ mean_seen
    channels = scaled.square().sum((1, 2))
    if bias is not None:
        b = bias.detach().to("cpu", FLOAT)
        shift = b.square().mean()
        profile = profile + shift + 2 * nu * torch.einsum("k...,k->...", seen, (sums * b[:, None]).mean(0))
        cross = 2 * nu * (sums * b[:, None]).mean(0) @ mean_seen
        pooled, between, mean = pooled + shift + cross, between + shift + cross, mean + b.mean()
    out = Field(shape, axis, profile.clamp(min=0), float(mean), float(pooled), float(between), unit(channels))
    out.spread = x.spread + 2 * x.overlap() / len(w)
    taps = w.shape[2]
    kept = within**2 + (1 - within**2) / taps  # taps see different positions
    out.lengths = x.lengths * kept + 2 * (1 - x.across**2) / len(w)
    out.centred = (x.lengths if x.centred is None else x.centred) * kept + 2 / len(w)
    return out


def _gradient_overlap(x: Field, g: Gradient) -> float:
    """As :meth:`Field.overlap`, for gradients, which are independent from sample to sample."""
    p = g.profile.numel()
    return (g.within**2 * (1 - 1 / p) + 1 / p) / x.samples


def _pads(padding: tuple[int, ...] | str, kernel: torch.Size, dilation: tuple[int, ...]) -> tuple[int, ...]:
    if padding == "valid":
        return (0,) * len(kernel)
    if isinstance(padding, str):  # "same": stride is 1
        return tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
    return tuple(padding)
