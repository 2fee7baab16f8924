"""Images by index, as they are stored: whole pixel values and classes; and the scale that standardizes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Pixels(Protocol):
    """Stored images; what is taken is decoded then, so that a set may be larger than the memory."""

    @property
    def targets(self) -> Tensor:
        """Class indices ``(N,)`` in int64."""
        ...

    def take(self, indices: Tensor) -> Tensor:
        """The images of ``indices`` ``(n,)`` as ``(n, C, H, W)`` in uint8."""
        ...


@dataclass(frozen=True, slots=True)
class InMemory:
    """Images ``(N, C, H, W)`` in uint8 with their classes ``(N,)``."""

    images: Tensor
    targets: Tensor

    def take(self, indices: Tensor) -> Tensor:
        """The images of ``indices`` ``(n,)`` as ``(n, C, H, W)`` in uint8."""
        return self.images[indices]


@dataclass(frozen=True, slots=True)
class Scale:
    """Mean and standard deviation of each channel, in units of a pixel: ``(x - mean) / std``."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels ``(n, C, H, W)`` standardized, in float32."""
        mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (self.mean, self.std))
        return pixels.float().sub_(mean).div_(std)
