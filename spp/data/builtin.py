"""Data that need no file: unit normal noise, and scikit-learn's handwritten digits."""

from __future__ import annotations

import random
from typing import overload

import numpy as np
import torch
from torch import Tensor

from spp.data.images import InMemory, Scale, check_draw, image_shape, to_shape
from spp.errors import InputError, MissingExtraError

# Images and classes of scikit-learn's digits.
DIGITS, DIGIT_CLASSES = 1797, 10
# Images of the test part: those that a permutation by seed 0 puts last, the same for every seed of a run.
HELD_OUT = 360


@overload
def gaussian(n: int, shape: tuple[int, ...], *, seed: int = ..., num_classes: None = ...) -> Tensor: ...
@overload
def gaussian(n: int, shape: tuple[int, ...], *, seed: int = ..., num_classes: int) -> tuple[Tensor, Tensor]: ...
def gaussian(
    n: int, shape: tuple[int, ...], *, seed: int = 0, num_classes: int | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """Independent standard-normal inputs, as Brock et al. 2021 (arXiv 2101.08692) draw their plots from.

    Numbers come from a private generator: the global random state is neither read nor moved.

    Args:
        n: Samples, at least 1.
        shape: Shape of one sample, as ``(3, 224, 224)``.
        seed: Of the generator; the inputs do not depend on ``num_classes``.
        num_classes: Where given, uniform class indices come with the inputs.

    Returns:
        ``(n, *shape)`` in float32, or the pair of it and targets ``(n,)`` in int64.

    Raises:
        InputError: ``n``, ``shape`` or ``num_classes`` is not positive.
    """
    shape = check_draw(n, shape)
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn((n, *shape), generator=generator)
    if num_classes is None:
        return inputs
    if num_classes < 1:
        raise InputError("num_classes is a positive integer", received=repr(num_classes))
    return inputs, torch.randint(num_classes, (n,), generator=generator)


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
    # Importing sklearn.datasets for the first time draws from Python's global generator (seen on scikit-learn 1.6).
    state = random.getstate()
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "data", purpose="data set 'digits'") from error
    finally:
        random.setstate(state)
    bunch = load_digits()
    images = torch.from_numpy(bunch.images)  # (1797, 8, 8) float64, whole numbers
    scale = Scale((images.mean().item(),), (images.std(correction=0).item(),))
    # Whole numbers up to 16, which uint8 holds exactly.
    return InMemory(images.to(torch.uint8).unsqueeze(1), torch.from_numpy(bunch.target).long()), scale


def held_out() -> tuple[Tensor, Tensor]:
    """Indices of the images to learn from, ``(1437,)``, and of the test part, ``(360,)``."""
    # RandomState, not default_rng: NumPy promises that its stream never changes.
    order = torch.from_numpy(np.random.RandomState(0).permutation(DIGITS))
    return order[:-HELD_OUT], order[-HELD_OUT:]
