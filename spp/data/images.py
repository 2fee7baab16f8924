"""Images: pixel values as they are stored, random changes to them, and the way to the shape and scale of a sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from spp.errors import InputError, UnknownNameError
from spp.registry import Registry

Augment = Callable[[Tensor, Generator], Tensor]
# By 4 pixels where a side has 32, as is usual for CIFAR.
PAD_SHARE = 8


class Pixels(Protocol):
    """Stored images; what is taken is decoded then, so that a set may be larger than the memory."""

    @property
    def targets(self) -> Tensor:
        """Class indices ``(N,)`` in int64."""
        ...

    def take(self, indices: Tensor) -> Tensor:
        """The images of ``indices`` ``(n,)`` as ``(n, C, H, W)`` in uint8, or in float32 where they are means of pixels."""
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
class Resized:
    """Images changed by ``change`` as they are taken, so that an augmentation acts on what a network is given."""

    stored: Pixels
    change: Callable[[Tensor], Tensor]

    @property
    def targets(self) -> Tensor:
        """Class indices ``(N,)``."""
        return self.stored.targets

    def take(self, indices: Tensor) -> Tensor:
        """The images of ``indices`` ``(n,)`` as ``(n, C, H, W)``: means of uint8 in float32, or uint8."""
        return self.change(self.stored.take(indices))


@dataclass(frozen=True, slots=True)
class Scale:
    """Mean and standard deviation of each channel, or of each of all pixels, in units of a pixel: ``(x - mean) / std``."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def measured(cls, pixels: Pixels, indices: Tensor, *, each_pixel: bool = False) -> Scale:
        """Mean and standard deviation of each channel, or of each pixel, over the images of ``indices`` ``(n,)``.

        What is constant has a standard deviation of 1.
        """
        sums = []
        # small enough for a cache; whole numbers add up exactly
        for chosen in torch.split(indices, 512):
            images = pixels.take(chosen).double()
            # (C H W, n) or (C, n H W)
            values = images.flatten(1).T if each_pixel else images.transpose(0, 1).flatten(1)
            sums.append(torch.stack((torch.ones_like(values).sum(1), values.sum(1), values.square().sum(1))))
        number, total, squares = torch.stack(sums).sum(0)
        mean, square = total / number, squares / number
        variance = square - mean.square()
        variance[variance <= 1e-12 * square] = 1.0
        return cls(tuple(mean.tolist()), tuple(variance.sqrt().tolist()))

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels ``(n, C, H, W)`` standardized, in float32."""
        _, channels, height, width = pixels.shape
        shape = (height, width) if len(self.mean) > channels else (1, 1)
        mean, std = (torch.tensor(numbers).view(channels, *shape) for numbers in (self.mean, self.std))
        return pixels.float().sub_(mean).div_(std)


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


AUGMENTATIONS = Registry[Augment | None](
    "augmentation",
    {"none": None, "crop": crop, "crop_flip": crop_flip},
    describe=lambda row: (row.__doc__ or "") if row else "Leave the images as they are.",
)
"""Every augmentation by name; called with pixels ``(n, C, H, W)`` and a generator. None changes nothing."""


def check_draw(n: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape as a tuple, if ``n`` samples of it can be drawn.

    Raises:
        InputError: ``n`` or a side is not positive.
    """
    shape = tuple(shape)
    if n < 1:
        raise InputError("a batch has at least one sample", received=f"n={n}")
    if not shape or any(not isinstance(size, int) or size < 1 for size in shape):
        raise InputError("the shape of a sample is positive integers, as (3, 224, 224)", received=repr(shape))
    return shape


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """``(C, H, W)``, also of a square image that is flattened.

    Raises:
        InputError: No image has that shape.
    """
    if len(shape) == 3:
        return shape[0], shape[1], shape[2]
    if len(shape) == 1:
        for channels in (1, 3):
            side = isqrt(shape[0] // channels)
            if channels * side * side == shape[0]:
                return channels, side, side
    raise InputError(
        "an image has shape (C, H, W), or (F,) with F = H*H or F = 3*H*H when flattened", received=repr(shape)
    )


def resizing(how: str, size: tuple[int, int], wanted: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """What brings pixels ``(n, C, H, W)`` to another size.

    Args:
        how: ``pool``, means of squares or rectangles of pixels; or ``pad``, black around the images (one more below and on the
            right where the number is odd).
        size: Height and width of the images.
        wanted: Height and width to come to.

    Raises:
        InputError: There is no such way, or it does not lead there.
    """
    pairs = list(zip(size, wanted, strict=True))
    if how == "pool" and all(side % other == 0 for side, other in pairs):
        height, width = (side // other for side, other in pairs)
        return lambda pixels: F.avg_pool2d(pixels.float(), (height, width))
    if how == "pad" and all(other >= side for side, other in pairs):
        down, right = (other - side for side, other in pairs)
        return lambda pixels: F.pad(pixels, (right // 2, right - right // 2, down // 2, down - down // 2))
    rules = {"pool": "mean pooling divides the sides of images", "pad": "padding adds to the sides of images"}
    if how not in rules:
        raise UnknownNameError("resize", how, ("bilinear", *rules))
    raise InputError(
        f"{rules[how]} of {size[0]}x{size[1]}", received=f"{wanted[0]}x{wanted[1]}", where=f"resize={how!r}"
    )


def to_shape(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Resize images bilinearly, repeat a grey channel, flatten where ``shape`` is flat.

    Args:
        images: ``(n, c, h, w)`` in floating point.
        shape: ``(C, H, W)`` or ``(F,)``; C is c, or any number where c is 1.

    Returns:
        ``(n, *shape)``.

    Raises:
        InputError: No image has that shape, or the channels do not fit.
    """
    channels, height, width = image_shape(shape)
    if images.shape[1] not in (1, channels):
        raise InputError(
            f"the images have {images.shape[1]} channels", received=f"a shape of {channels} in {tuple(shape)}"
        )
    if (height, width) != tuple(images.shape[2:]):
        # antialias acts when shrinking alone; without it three of four pixels would not count at half the size.
        images = F.interpolate(images, (height, width), mode="bilinear", antialias=True)
    return images.expand(-1, channels, -1, -1).reshape(len(images), *shape)
