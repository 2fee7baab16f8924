"""Linear layers and convolutions: moments behind weights that are given as they are.

A layer's weights enter through two Gram matrices over the taps of the kernel, means over output units:
``G = mean_o sum_i W[o, i, k] W[o, i, k']`` and ``T = mean_o (sum_i W[o, i, k]) (sum_i W[o, i, k'])``. With ``u[k, p]`` the root
mean square of the input that tap ``k`` sees at output ``p`` (0 on padding), what is alike at all positions of the input adds
up as ``u^T G u``, the part that is not as ``sum_k G[k, k] u_k^2``, and the common mean as ``u^T T u``. So depthwise and
grouped convolutions, strides, dilation and zero padding need no rule of their own, and standardized weights, whose rows sum
to zero, take the common mean away. For one tap and He's weights this is Poole et al. 2016 (arXiv 1606.05340), eq. 3 and 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spp.theory.moments_state import FLOAT, Gradient, MomentsState, clip, unit, wide
from spp.theory.rules import Ints, each_axis, rule

CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSE: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@rule(F.linear)
def linear(x: MomentsState, weight: Tensor, bias: Tensor | None = None) -> MomentsState | None:
    """``x @ weight.T + bias`` over the last axis, which has the channels."""
    x, w = x.channels_last(), wide(weight)
    if x.axis != len(x.shape) - 1:
        return None
    shape = torch.Size((*x.shape[:-1], len(w)))
    out = _mixed(x, shape, len(shape) - 1, w[:, :, None], bias, x.root[None], 1)

    def back(g: Gradient) -> Gradient:
        sent = g.channels @ w.square()  # (inputs,)
        spread = g.spread + 2 * _gradient_overlap(x, g) / x.width
        return replace(g, profile=g.profile * float(sent.mean()), channels=unit(sent), spread=spread)

    return out.made_of((x, back))


@rule(F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d)
def convolution(
    x: MomentsState,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    result: Tensor,
) -> MomentsState | None:
    """A convolution of ``weight.dim() - 2`` spatial axes, zeros (or nothing) around the map."""
    dims, kernel, space = weight.dim() - 2, weight.shape[2:], x.profile.shape
    if not x.is_map(dims):
        return None
    stride, dilation = each_axis(stride, dims), each_axis(dilation, dims)
    pads = padding if isinstance(padding, str) else each_axis(padding, dims)
    taps = kernel.numel()
    w = wide(weight).reshape(len(weight), -1, taps)
    # One kernel for each tap.
    each = torch.eye(taps, dtype=FLOAT).reshape(taps, 1, *kernel)
    with torch.no_grad():
        seen = CONVOLVE[dims](x.root[None, None], each, None, stride, pads, dilation)[0]  # (taps, *space')
    out = _mixed(x, result.shape, 1, w, bias, seen, groups)

    def back(g: Gradient) -> Gradient:
        around = _around(pads, kernel, dilation)
        # A strided convolution may leave the last rows out; the transposed one has to be told how many.
        short = [
            max(s - ((o - 1) * t - 2 * p + d * (k - 1) + 1), 0)
            for s, o, t, p, d, k in zip(space, g.profile.shape, stride, around, dilation, kernel, strict=True)
        ]
        root = g.profile.clamp(min=0).sqrt()
        with torch.no_grad():
            came = TRANSPOSE[dims](
                root[None, None], each.reshape(1, taps, *kernel), None, stride, around, short, 1, dilation
            )[0]
        came = came[(slice(None), *(slice(0, s) for s in space))]  # (taps, *space): what reaches an input by each tap
        scaled = w * g.channels.sqrt()[:, None, None]
        gram = _gram(scaled.reshape(-1, taps), x.width)
        profile = (g.within * _quadratic(gram, came) + (1 - g.within) * _diagonal(gram, came)).clamp(min=0)
        flat = float(profile.sqrt().mean()) ** 2
        pooled = came.reshape(taps, -1).mean(1)
        within = clip(g.within * float(pooled @ gram @ pooled) / flat) if flat > 0 else 0.0
        sent = scaled.square().sum(2).reshape(groups, -1, w.shape[1]).sum(1).reshape(-1)  # (inputs,)
        spread = g.spread + 2 * _gradient_overlap(x, g) / x.width
        return Gradient(profile, within, unit(sent), spread, g.across)

    return out.made_of((x, back))


def _mixed(
    x: MomentsState, shape: torch.Size, axis: int, w: Tensor, bias: Tensor | None, seen: Tensor, groups: int
) -> MomentsState:
    """The output for weights (O, I / groups, taps) and what each tap sees, (taps, *space)."""
    share = x.channels.reshape(groups, 1, -1, 1).expand(groups, len(w) // groups, -1, 1).reshape(len(w), -1, 1)
    scaled = w * share.sqrt()
    taps = w.shape[2]
    gram, sums = _gram(scaled.reshape(-1, taps), len(w)), w.sum(1)  # (taps, taps), (O, taps)
    common = _gram(sums, len(w))
    nu, within, across = x.nu, x.within, x.across
    alike, apart = within - nu**2, 1 - within
    # Where one element meets itself, longer samples' larger means count for more.
    steep = x.angle(nu**2) - nu**2
    own = (apart - steep) * _diagonal(gram, seen) + steep * _diagonal(common, seen)
    flat = seen.reshape(taps, -1).mean(1)
    profile = nu**2 * _quadratic(common, seen) + alike * _quadratic(gram, seen) + own
    shared = nu**2 * _quadratic(common, flat)
    pooled = shared + alike * _quadratic(gram, flat) + own.mean() / own.numel()
    between = shared + (across - nu**2) * _quadratic(gram, flat)
    mean = nu * sums.mean(0) @ flat
    if bias is not None:
        b = wide(bias)
        shift, cross = b.square().mean(), 2 * nu * (sums * b[:, None]).mean(0)
        profile = profile + shift + torch.einsum("k...,k->...", seen, cross)
        pooled, between, mean = pooled + shift + cross @ flat, between + shift + cross @ flat, mean + b.mean()
    # Taps see different positions.
    kept = within**2 + (1 - within**2) / taps
    lengths, scatter = x.centred or (x.lengths, x.scatter)
    unlike = 1 - x.angle(across) ** 2
    # The mean of n squares of normal values has the relative variance 2 / n; what samples share cancels between them.
    return MomentsState(
        shape=shape,
        axis=axis,
        profile=profile.clamp(min=0),
        mean=float(mean),
        pooled=float(pooled),
        between=float(between),
        channels=unit(torch.linalg.vector_norm(scaled, dim=(1, 2)).square()),
        spread=x.spread + 2 * x.overlap() / len(w),
        lengths=x.lengths * kept + 2 * unlike / len(w),
        scatter=x.scatter * kept + unlike**2 / len(w),
        centred=(lengths * kept + 2 / len(w), scatter * kept + 1 / len(w)),
    )


def _gram(rows: Tensor, count: int) -> Tensor:
    # BLAS is slow at matrices of one row; a single tap is most layers.
    product = rows[:, 0] @ rows[:, 0] if rows.shape[1] == 1 else rows.T @ rows
    return product.reshape(rows.shape[1], -1) / count


def _quadratic(matrix: Tensor, u: Tensor) -> Tensor:
    """``u^T matrix u`` over the first axis of ``u``."""
    flat = u.reshape(len(u), -1)
    return (flat * (matrix @ flat)).sum(0).reshape(u.shape[1:])


def _diagonal(matrix: Tensor, u: Tensor) -> Tensor:
    """The same for the diagonal of the matrix alone."""
    return torch.einsum("k...,k->...", u.square(), matrix.diagonal())


def _gradient_overlap(x: MomentsState, g: Gradient) -> float:
    """As :meth:`MomentsState.overlap`, for gradients, which are nearly independent from sample to sample."""
    p = g.profile.numel()
    return (g.within**2 * (1 - 1 / p) + 1 / p) / x.samples


def _around(padding: Ints | str, kernel: torch.Size, dilation: Ints) -> Ints:
    if padding == "valid":
        return (0,) * len(kernel)
    if isinstance(padding, str):  # "same": torch allows it for a stride of 1 alone
        return tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
    return padding
