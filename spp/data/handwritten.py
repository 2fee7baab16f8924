"""Scikit-learn's handwritten digits: real images that need no download."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor

from spp.data.pixels import InMemory, Scale
from spp.data.shapes import check_draw, image_shape, to_shape
from spp.errors import InputError, MissingExtraError

DIGITS, DIGIT_CLASSES = 1797, 10
"""Images and classes of scikit-learn's digits."""

HELD_OUT = 360
"""Images of the test part: what a permutation by seed 0 puts last, the same for every seed of a run."""


def digits(n: int, shape: tuple[int, ...], *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Real images: scikit-learn's handwritten digits, 8x8 and grey, brought to ``shape``.

    Pixels are standardized by mean and standard deviation of all 1797 images (two numbers for the whole set), then
    resized bilinearly and repeated over channels. Interpolation smooths: at 224x224 the variance of the whole set is
    0.75, at 8x8 it is 1.

    Args:
        n: Samples, 1 to 1797.
        shape: Shape of one sample, ``(C, H, W)``; or ``(F,)`` with F = H*H or 3*H*H, for a flattened square image.
        seed: Chooses which images come, and in which order.

    Returns:
        Inputs ``(n, *shape)`` in float32 and class indices ``(n,)`` in int64, 0 to 9.

    Raises:
        InputError: ``n`` is not in 1 to 1797, or no image has that shape.
        MissingExtraError: scikit-learn is not installed (extra ``data``).
    """
    shape = check_draw(n, shape)
    if n > DIGITS:
        raise InputError(f"the digits are {DIGITS} images", received=f"n={n}", remedy=f"Ask for at most {DIGITS}.")
    image_shape(shape)
    pixels, scale = digit_pixels()
    chosen = torch.randperm(DIGITS, generator=torch.Generator().manual_seed(seed))[:n]
    return to_shape(scale(pixels.take(chosen)), shape), pixels.targets[chosen]


def digit_pixels() -> tuple[InMemory, Scale]:
    """All images as scikit-learn has them, ``(1797, 1, 8, 8)`` from 0 to 16, and what standardizes them.

    Raises:
        MissingExtraError: scikit-learn is not installed (extra ``data``).
    """
    state = random.getstate()  # importing sklearn.datasets for the first time draws from it
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "data", purpose="data set 'digits'") from error
    finally:
        random.setstate(state)
    bunch = load_digits()
    images = torch.from_numpy(bunch.images)  # (1797, 8, 8) float64, whole numbers
    scale = Scale((images.mean().item(),), (images.std(correction=0).item(),))
    return InMemory(images.to(torch.uint8).unsqueeze(1), torch.from_numpy(bunch.target).long()), scale


def held_out() -> tuple[Tensor, Tensor]:
    """Indices of the images to learn from, ``(1437,)``, and of the test part, ``(360,)``."""
    order = torch.from_numpy(np.random.RandomState(0).permutation(DIGITS))  # a stream that never changes
    return order[:-HELD_OUT], order[-HELD_OUT:]
