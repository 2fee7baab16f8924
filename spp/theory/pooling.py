"""Means and largest values over space."""

from __future__ import annotations

from functools import lru_cache
from math import prod, sqrt

import numpy as np
import torch
from torch import Tensor

from spp.nn.gains import Array, normal_nodes
from spp.theory.field import FLOAT, Field, Gradient
from spp.theory.gaussian import Nonlinearity
from spp.theory.mixing import CONVOLVE, TRANSPOSE, Ints


def mean_over_space(x: Field, shape: torch.Size, axis: int) -> Field:
    """The mean over all positions; ``shape`` and channel ``axis`` are the output's."""
    profile = torch.full((1,) * max(len(shape) - 2, 0), x.pooled, dtype=FLOAT)
    space, p = x.profile.shape, x.positions

    def back(g: Gradient) -> Gradient:
        return g.placed(torch.full(space, g.second / p**2, dtype=FLOAT), 1.0)

    return x.like(shape, axis, profile=profile).made_of((x, back))


def average_pool(x: Field, shape: torch.Size, kernel: Ints, stride: Ints, padding: Ints, counted: bool) -> Field:
    """The mean over windows: of ``m`` positions, what is not alike in them leaves ``1 / m`` of its second moment.

    Args:
        x: The input, channels first.
        shape: Of the output.
        kernel: Of the window.
        stride: Between windows.
        padding: Zeros on each side.
        counted: Whether those count as positions.
    """
    dims, space = len(kernel), shape[2:]
    short = [
        max((o - 1) * s + k - 2 * p - n, 0)
        for o, s, k, p, n in zip(space, stride, kernel, padding, x.profile.shape, strict=True)
    ]
    pads = [v for p, e in reversed(list(zip(padding, short, strict=True))) for v in (p, p + e)]

    def total(t: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(t[None, None], pads)
        found = CONVOLVE[dims](padded, torch.ones((1, 1, *kernel), dtype=FLOAT), None, stride)[0, 0]
        return found[tuple(slice(0, n) for n in space)]

    inside = total(torch.ones_like(x.profile))
    count = torch.full_like(inside, float(prod(kernel))) if counted and not any(short) else inside
    within, alike, apart = x.within, total(x.root) / count, total(x.profile) / count**2
    flat = float(alike.mean())
    out = x.like(
        shape,
        profile=within * alike**2 + (1 - within) * apart,
        mean=x.nu * flat,
        pooled=within * flat**2 + (1 - within) * float(apart.mean()) / apart.numel(),
        between=x.across * flat**2,
    )

    def back(g: Gradient) -> Gradient:
        return g.placed(_scattered(g.profile / count**2, kernel, stride, padding, x.profile.shape))

    return out.made_of((x, back))


def max_pool(x: Field, shape: torch.Size, kernel: Ints, stride: Ints, padding: Ints) -> Field:
    """The largest of each window: the order statistic of normal values that share what is alike at all positions.

    For a function of a normal tensor it is the function's, which is taken to be increasing. All windows have the mean second
    moment of theirs: overlapping ones count the inside of a map more often than its border.
    """
    known = x.source is not None and x.function is not None
    base, phi = (x.source, x.function) if known else (x, Nonlinearity(_same))
    assert base is not None and phi is not None
    dims, space = len(kernel), shape[2:]
    both = torch.stack([torch.ones_like(base.profile), base.profile])[:, None]
    inside, seconds = CONVOLVE[dims](both, torch.ones((1, 1, *kernel), dtype=FLOAT), None, stride, padding)[:, 0]
    q, within, across = float((seconds / inside).mean()), max(base.within, 0.0), max(base.across, 0.0)
    if inside.shape != space:  # ceil_mode
        inside = torch.full(tuple(space), float(prod(kernel)), dtype=FLOAT)
    profile, means, alike, between = (torch.zeros_like(inside) for _ in range(4))
    for m in sorted(set(inside.flatten().tolist())):
        here = inside == m
        means[here], profile[here], alike[here] = _largest(phi, q, int(m), within)
        between[here] = _largest(phi, q, int(m), across)[2]
    out = x.like(shape, profile=profile, mean=float(means.mean()), between=float(between.sqrt().mean()) ** 2)
    out.correlate(float(alike.sqrt().mean()) ** 2 / out.flat if out.flat else 0.0)
    before = x.profile.shape

    def back(g: Gradient) -> Gradient:
        return g.placed(torch.full(before, g.second * g.profile.numel() / prod(before), dtype=FLOAT))

    return out.made_of((x, back))


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


def _same(u: Tensor) -> Tensor:
    return u
