"""Means and largest values over space."""

from __future__ import annotations

from functools import lru_cache, partial
from math import prod, sqrt
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spp.nn.gains import Array, normal_nodes
from spp.theory.gaussian import Nonlinearity
from spp.theory.moments_state import FLOAT, Gradient, MomentsState
from spp.theory.rules import Ints, each_axis, rule
from spp.theory.rules.linear import CONVOLVE, TRANSPOSE


@rule(torch.mean, Tensor.mean)
def mean(
    x: MomentsState, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, result: Tensor
) -> MomentsState | None:
    """The mean over all positions; None for a mean over anything else."""
    axes = set() if dim is None else {d % len(x.shape) for d in ([dim] if isinstance(dim, int) else dim)}
    if dim is None or axes != set(range(1, len(x.shape))) - {x.axis}:
        return None
    return _mean_over_space(x, result.shape, x.axis if keepdim else 1)


def adaptive_average(dims: int, x: MomentsState, output_size: Any, *, result: Tensor) -> MomentsState | None:
    """The mean over windows that part the map evenly; None where they do not."""
    space, whole = result.shape[2:], x.profile.shape
    if not x.is_map(dims):
        return None
    if prod(space) == 1:
        return _mean_over_space(x, result.shape, 1)
    if any(n % o for n, o in zip(whole, space, strict=True)):
        return None
    window = tuple(n // o for n, o in zip(whole, space, strict=True))
    return average(dims, x, window, result=result)


def average(
    dims: int,
    x: MomentsState,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
    *,
    result: Tensor,
) -> MomentsState | None:
    """The mean over windows: of ``m`` positions, what is not alike in them leaves ``1 / m`` of its second moment."""
    if not x.is_map(dims) or divisor_override is not None:
        return None
    shape, before = result.shape, x.profile.shape
    kernel, step, padding = _window(dims, kernel_size, stride, padding)
    short = [
        max((o - 1) * s + k - 2 * p - n, 0)
        for o, s, k, p, n in zip(shape[2:], step, kernel, padding, before, strict=True)
    ]
    pads = [v for p, e in reversed(list(zip(padding, short, strict=True))) for v in (p, p + e)]

    def total(t: Tensor) -> Tensor:
        found = CONVOLVE[dims](F.pad(t[None, None], pads), torch.ones((1, 1, *kernel), dtype=FLOAT), None, step)[0, 0]
        return found[tuple(slice(0, n) for n in shape[2:])]

    inside = total(torch.ones_like(x.profile))
    # With ceil_mode a last window reaches beyond the padding, which torch does not count; there, only the map is counted.
    count = torch.full_like(inside, float(prod(kernel))) if count_include_pad and not any(short) else inside
    within, alike, apart = x.within, total(x.root) / count, total(x.profile) / count**2
    flat = float(alike.mean())
    out = x.like(
        shape=shape,
        profile=within * alike**2 + (1 - within) * apart,
        mean=x.nu * flat,
        pooled=within * flat**2 + (1 - within) * float(apart.mean()) / apart.numel(),
        between=x.across * flat**2,
    )
    return out.made_of((x, lambda g: g.placed(_scattered(g.profile / count**2, kernel, step, padding, before))))


def largest(
    dims: int,
    x: MomentsState,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    result: Any,
) -> MomentsState | None:
    """The largest of each window: the order statistic of normal values that share what is alike at all positions.

    For a function of a normal tensor it is the function's, which is taken to be increasing. All windows have the mean second
    moment of theirs: overlapping ones count the inside of a map more often than its border.
    """
    if not x.is_map(dims) or each_axis(dilation, dims) != (1,) * dims or return_indices:
        return None
    space, before = result.shape[2:], x.profile.shape
    kernel, step, padding = _window(dims, kernel_size, stride, padding)
    base, phi = x.as_function()
    both = torch.stack([torch.ones_like(base.profile), base.profile])[:, None]
    inside, seconds = CONVOLVE[dims](both, torch.ones((1, 1, *kernel), dtype=FLOAT), None, step, padding)[:, 0]
    q, within, across = float((seconds / inside).mean()), max(base.within, 0.0), max(base.across, 0.0)
    if inside.shape != space:  # ceil_mode
        inside = torch.full(tuple(space), float(prod(kernel)), dtype=FLOAT)
    profile, means, alike, between = (torch.zeros_like(inside) for _ in range(4))
    for m in sorted(set(inside.flatten().tolist())):
        here = inside == m
        means[here], profile[here], alike[here] = _largest(phi, q, int(m), within)
        between[here] = _largest(phi, q, int(m), across)[2]
    out = x.like(
        shape=result.shape, profile=profile, mean=float(means.mean()), between=float(between.sqrt().mean()) ** 2
    )
    out.correlate(float(alike.sqrt().mean()) ** 2 / out.flat if out.flat else 0.0)

    def back(g: Gradient) -> Gradient:
        return g.placed(torch.full(before, g.second * g.profile.numel() / prod(before), dtype=FLOAT))

    return out.made_of((x, back))


for _dims in (1, 2, 3):
    rule(getattr(F, f"adaptive_avg_pool{_dims}d"))(partial(adaptive_average, _dims))
    rule(getattr(F, f"avg_pool{_dims}d"))(partial(average, _dims))
    rule(getattr(F, f"max_pool{_dims}d"), getattr(torch, f"max_pool{_dims}d"))(partial(largest, _dims))


def _window(dims: int, kernel: Any, stride: Any, padding: Any) -> tuple[Ints, Ints, Ints]:
    """Kernel, stride and padding for each axis; a stride that is left out is the kernel."""
    return each_axis(kernel, dims), each_axis(stride or kernel, dims), each_axis(padding, dims)


def _mean_over_space(x: MomentsState, shape: torch.Size, axis: int) -> MomentsState:
    profile = torch.full((1,) * max(len(shape) - 2, 0), x.pooled, dtype=FLOAT)
    space, p = x.profile.shape, x.positions

    def back(g: Gradient) -> Gradient:
        return g.placed(torch.full(space, g.second / p**2, dtype=FLOAT), 1.0)

    return x.like(shape=shape, axis=axis, profile=profile).made_of((x, back))


@lru_cache(maxsize=64)
def _order(m: int) -> tuple[Array, Array]:
    """Nodes and weights for the largest of ``m`` standard normal values."""
    z, weight = normal_nodes()
    below = 0.5 * (1 + torch.erf(torch.from_numpy(z) / sqrt(2)).numpy())
    return z, weight * m * below ** (m - 1)


def _largest(phi: Nonlinearity, q: float, m: int, shared: float) -> tuple[float, float, float]:
    """``E[phi(M)]``, ``E[phi(M)^2]`` and ``E[E[phi(M) | a]^2]`` for ``M = sqrt(q) (sqrt(c) a + sqrt(1 - c) max of m)``."""
    z, weight = _order(m)
    a, outer = np.polynomial.hermite_e.hermegauss(31)
    values = phi.value(sqrt(q) * (sqrt(shared) * a[:, None] + sqrt(1 - shared) * z))
    inner, outer = values @ weight, outer / outer.sum()
    return float(inner @ outer), float((values**2 @ weight) @ outer), float(inner**2 @ outer)


def _scattered(values: Tensor, kernel: Ints, stride: Ints, padding: Ints, space: torch.Size) -> Tensor:
    """Every window's value at each of its positions, summed."""
    ones = torch.ones((1, 1, *kernel), dtype=FLOAT)
    whole = TRANSPOSE[len(kernel)](values[None, None], ones, None, stride)[0, 0]
    room = torch.zeros([max(n, s + 2 * p) for n, s, p in zip(whole.shape, space, padding, strict=True)], dtype=FLOAT)
    room[tuple(slice(0, n) for n in whole.shape)] = whole
    return room[tuple(slice(p, p + s) for p, s in zip(padding, space, strict=True))]
