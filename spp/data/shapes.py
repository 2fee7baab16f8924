"""The shape of a sample: what is asked for, and how an image is brought to it."""

from __future__ import annotations

from math import isqrt, prod

import torch.nn.functional as F
from torch import Tensor

from spp.errors import InputError


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
            if channels * side * side == prod(shape):
                return channels, side, side
    raise InputError(
        "an image has shape (C, H, W), or (F,) with F = H*H or F = 3*H*H when flattened", received=repr(shape)
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
        images = F.interpolate(
            images, (height, width), mode="bilinear", antialias=True
        )  # antialias acts when shrinking
    return images.expand(-1, channels, -1, -1).reshape(len(images), *shape)
