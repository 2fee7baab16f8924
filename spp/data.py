"""Batches to measure on: unit normal noise, as in the paper, and the real images that come with scikit-learn."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isqrt, prod
from types import MappingProxyType
from typing import overload

import torch
import torch.nn.functional as F
from torch import Tensor

from spp.errors import InputError, MissingExtraError, UnknownNameError

DIGITS, DIGIT_CLASSES = 1797, 10
"""Images and classes of scikit-learn's digits."""


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
    shape = _check(n, shape)
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
    shape = _check(n, shape)
    if n > DIGITS:
        raise InputError(f"the digits are {DIGITS} images", received=f"n={n}", remedy=f"Ask for at most {DIGITS}.")
    channels, height, width = _image_shape(shape)
    images, targets = _load_digits()
    images = (images - images.mean()) / images.std(correction=0)
    chosen = torch.randperm(DIGITS, generator=torch.Generator().manual_seed(seed))[:n]
    batch = images[chosen].float().unsqueeze(1)  # (n, 1, 8, 8)
    if (height, width) != (8, 8):
        batch = F.interpolate(batch, (height, width), mode="bilinear", antialias=True)  # antialias acts below 8x8
    return batch.repeat(1, channels, 1, 1).view(n, *shape), targets[chosen]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A row of ``DATA``.

    Attributes:
        make: Called with ``n``, ``shape``, ``seed`` and ``num_classes`` (or None); returns inputs and targets or None.
        description: One line.
    """

    make: Callable[[int, tuple[int, ...], int, int | None], tuple[Tensor, Tensor | None]]
    description: str


def _make_gaussian(n: int, shape: tuple[int, ...], seed: int, num_classes: int | None) -> tuple[Tensor, Tensor | None]:
    return (
        (gaussian(n, shape, seed=seed), None)
        if num_classes is None
        else gaussian(n, shape, seed=seed, num_classes=num_classes)
    )


def _make_digits(n: int, shape: tuple[int, ...], seed: int, num_classes: int | None) -> tuple[Tensor, Tensor | None]:
    if num_classes is not None and num_classes < DIGIT_CLASSES:
        raise InputError(
            f"the digits have {DIGIT_CLASSES} classes, so the network needs at least as many outputs",
            received=f"num_classes={num_classes}",
        )
    return digits(n, shape, seed=seed)


DATA: Mapping[str, Dataset] = MappingProxyType(
    {
        "gaussian": Dataset(_make_gaussian, "unit normal noise (Brock et al. 2021)"),
        "digits": Dataset(_make_digits, "scikit-learn's 1797 handwritten digits, resized; needs the extra `data`"),
    }
)
"""Every data set by name."""


def names() -> tuple[str, ...]:
    """Names of the data sets."""
    return tuple(DATA)


def load(
    name: str, n: int, shape: tuple[int, ...], *, seed: int = 0, num_classes: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """A batch by the name of its data set.

    Args:
        name: A name of ``DATA``.
        n: Samples.
        shape: Shape of one sample.
        seed: Of the draw.
        num_classes: Classes that the network tells apart; without it, ``gaussian`` has no targets.

    Returns:
        Inputs ``(n, *shape)``, and targets ``(n,)`` or None.

    Raises:
        UnknownNameError: No data set has that name.
        InputError: The data set has no such batch.
        MissingExtraError: It needs a library that is not installed.
    """
    if name not in DATA:
        raise UnknownNameError("data set", str(name), DATA)
    return DATA[name].make(n, shape, seed, num_classes)


def _check(n: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    shape = tuple(shape)
    if n < 1:
        raise InputError("a batch has at least one sample", received=f"n={n}")
    if not shape or any(not isinstance(size, int) or size < 1 for size in shape):
        raise InputError("the shape of a sample is positive integers, as (3, 224, 224)", received=repr(shape))
    return shape


def _image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
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


def _load_digits() -> tuple[Tensor, Tensor]:
    state = random.getstate()  # importing sklearn.datasets for the first time draws from it
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "data", purpose="data set 'digits'") from error
    finally:
        random.setstate(state)
    bunch = load_digits()
    return torch.from_numpy(bunch.images), torch.from_numpy(bunch.target).long()  # (1797, 8, 8) float64, (1797,)
