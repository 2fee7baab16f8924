"""Random changes to training images, on the stored pixels and from a generator of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from spp.errors import UnknownNameError

Augment = Callable[[Tensor, Generator], Tensor]

PAD_SHARE = 8
"""A side is padded by its eighth: by 4 pixels where it has 32, as is usual for CIFAR."""


def crop(pixels: Tensor, generator: Generator) -> Tensor:
    """Shift each image by up to an eighth of its sides, black coming in.

    Equal in distribution to padding by 4 and cutting out 32x32 at random, for images of 32x32.

    Args:
        pixels: ``(n, C, H, W)``.
        generator: Draws both shifts of every image.

    Returns:
        ``(n, C, H, W)`` in the same dtype.
    """
    n, _, height, width = pixels.shape
    down, right = height // PAD_SHARE, width // PAD_SHARE
    padded = F.pad(pixels, (right, right, down, down))  # (n, C, H + 2 down, W + 2 right)
    top = torch.randint(2 * down + 1, (n, 1), generator=generator)
    left = torch.randint(2 * right + 1, (n, 1), generator=generator)
    rows = (top + torch.arange(height)).unsqueeze(2)  # (n, H, 1)
    columns = (left + torch.arange(width)).unsqueeze(1)  # (n, 1, W)
    return padded[torch.arange(n).view(-1, 1, 1), :, rows, columns].permute(0, 3, 1, 2)  # indexed as (n, H, W, C)


def crop_flip(pixels: Tensor, generator: Generator) -> Tensor:
    """``crop``, then mirror every image left to right with probability one half."""
    pixels = crop(pixels, generator)
    flipped = torch.rand((len(pixels), 1, 1, 1), generator=generator) < 0.5
    return torch.where(flipped, pixels.flip(-1), pixels)


AUGMENTATIONS: Mapping[str, Augment | None] = MappingProxyType({"none": None, "crop": crop, "crop_flip": crop_flip})
"""Every augmentation by name."""


def find_augmentation(name: str) -> Augment | None:
    """The augmentation of that name; None for ``none``.

    Raises:
        UnknownNameError: There is none of that name.
    """
    if name not in AUGMENTATIONS:
        raise UnknownNameError("augmentation", str(name), AUGMENTATIONS, where="augment")
    return AUGMENTATIONS[name]
