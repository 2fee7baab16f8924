"""Sums over samples of neuron times input, for Linear and for convolutions, never sample by neuron by feature.

Every sum has the shape of the weight, ``(O, *F)``. For a convolution each output position of each image is a sample and its
features are the patch under the kernel, padding included; ``sum_n a_no patch_nof`` is then what torch's weight gradient
computes for the output gradient ``a``, so patches are never built.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from ctypes import CDLL
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from spp.nn.neuronwise import native

BLOCK = 1 << 20
"""Elements of inputs that are widened, centred and squared at a time (or a weight's worth, where that is more)."""


class Outer(Protocol):
    """What the statistics ask of a kind of layer."""

    def rows(self, x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """Inputs and outputs with one leading sample axis."""

    def centre(self, x: Tensor, pivot: Tensor) -> Tensor:
        """The inputs as the kernel sees them minus one number per feature or channel, in a tensor of their own."""

    def sum(self, a: Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
        """``sum_n a_no x_nof``, shape ``(O, *F)``, in ``out`` where there is one and it saves an allocation."""

    def looks_up(self, x: Tensor, p: Tensor) -> bool:
        """Whether the kernel has sums over masks ``p`` of inputs ``x``, and tables of sums are shared enough to be worth it."""

    def look_up(
        self, library: CDLL, mask: Tensor, x: Tensor, each: Tensor, eps: float, more: bool, into: tuple[Tensor, Tensor]
    ) -> None:
        """The sums of centred ``x`` and of its square over a mask, times ``each (O,)``; see ``native.sum_linear``."""

    def spread(self, pivot: Tensor) -> Tensor:
        """One number per input feature or channel, broadcast to ``(O, *F)``."""


@dataclass(frozen=True, slots=True)
class LinearOuter:
    """``x`` is ``(..., F)``, outputs are ``(..., O)``."""

    def rows(self, x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """Flatten leading axes: ``(N, F)`` and ``(N, O)``."""
        return tuple(tensor.reshape(-1, tensor.shape[-1]) for tensor in (x, *others))

    def centre(self, x: Tensor, pivot: Tensor) -> Tensor:
        """``x - pivot``."""
        return x - pivot

    def sum(self, a: Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
        """``a^T x``."""
        return a.t().mm(x) if out is None else torch.mm(a.t(), x, out=out)

    def looks_up(self, x: Tensor, p: Tensor) -> bool:
        """Where there are enough neurons."""
        return native.is_worth_it(len(x), p.shape[1], x.shape[1])

    def look_up(
        self, library: CDLL, mask: Tensor, x: Tensor, each: Tensor, eps: float, more: bool, into: tuple[Tensor, Tensor]
    ) -> None:
        """``each P^T X`` and ``each P^T X^2 + eps``."""
        native.sum_linear(library, mask, x, each, eps, more, into)

    def spread(self, pivot: Tensor) -> Tensor:
        """``(1, F)``."""
        return pivot.unsqueeze(0)


@dataclass(frozen=True, slots=True)
class ConvOuter:
    """``x`` is ``(N, C, *S)`` or without ``N``, outputs are ``(N, O, *S')``.

    Attributes:
        shape: Of the weight, ``(O, C / groups, *kernel)``.
        stride: Per spatial axis.
        dilation: Per spatial axis.
        groups: Number of groups.
        padding: Left and right for each spatial axis, last axis first, as ``torch.nn.functional.pad`` takes it.
        padding_mode: ``zeros`` or one of ``torch.nn.functional.pad``.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding: tuple[int, ...]
    padding_mode: str

    def rows(self, x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """Add the sample axis where there is none."""
        batched = x.ndim == len(self.shape)
        return tuple(tensor if batched else tensor.unsqueeze(0) for tensor in (x, *others))

    def centre(self, x: Tensor, pivot: Tensor) -> Tensor:
        """Padded first, since padding of centred inputs would stand for the mean."""
        column = pivot.view(-1, *(1,) * len(self.stride))
        if not any(self.padding):
            return x - column
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(x, self.padding, mode=mode).sub_(column)

    def sum(self, a: Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
        """The weight gradient that torch has for the output gradient ``a``."""
        no_padding = [0] * len(self.stride)
        weight = a.new_empty(1).expand(self.shape)  # only its shape is read
        gradients = torch.ops.aten.convolution_backward(
            a,
            x,
            weight,
            None,
            self.stride,
            no_padding,
            self.dilation,
            False,
            no_padding,
            self.groups,
            (False, True, False),
        )
        result: Tensor = gradients[1]
        return result

    def looks_up(self, x: Tensor, p: Tensor) -> bool:
        """Where the kernel moves by one, over all channels: then a position under it only shifts the mask."""
        plain = self.groups == 1 and set(self.stride) == {1} and len(self.stride) <= 2
        sums = self.shape[0] * math.prod(self.shape[2:])
        return plain and native.is_worth_it(p.numel() // max(p.shape[1], 1), sums, self.shape[1])

    def look_up(
        self, library: CDLL, mask: Tensor, x: Tensor, each: Tensor, eps: float, more: bool, into: tuple[Tensor, Tensor]
    ) -> None:
        """What ``sum`` gives for the mask, times ``each``, and for the squares of the inputs."""
        native.sum_conv(library, mask, x, each, eps, more, into, self.dilation)

    def spread(self, pivot: Tensor) -> Tensor:
        """``(O, C / groups, 1, ...)``: each group of neurons sees its own channels."""
        outputs, channels = self.shape[:2]
        per_group = pivot.view(self.groups, channels)
        rows = per_group if self.groups == 1 else per_group.repeat_interleave(outputs // self.groups, 0)
        return rows.view(-1, channels, *(1,) * len(self.stride))


def blocks(rows: int, elements: int, at_least: int) -> Iterator[slice]:
    """Slices of the sample axis that hold about ``BLOCK`` of ``elements`` in all, or ``at_least`` where that is more."""
    size = max(1, rows * max(BLOCK, at_least) // max(elements, 1))
    for start in range(0, max(rows, 1), size):  # an empty batch is one empty block
        yield slice(start, start + size)
