"""Every data set by name, and a batch of any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from spp.data.handwritten import DIGIT_CLASSES, digits
from spp.data.noise import gaussian
from spp.data.shapes import check_draw, to_shape
from spp.data.sources import find_source
from spp.errors import InputError, UnknownNameError

Place = str | Path | None


@dataclass(frozen=True, slots=True)
class Dataset:
    """A row of ``DATA``.

    Attributes:
        make: Called with ``n``, ``shape``, ``seed``, ``num_classes`` (or None) and the folder where the data lie (or None);
            returns inputs and targets or None.
        description: One line.
    """

    make: Callable[[int, tuple[int, ...], int, int | None, Place], tuple[Tensor, Tensor | None]]
    description: str


def _make_gaussian(
    n: int, shape: tuple[int, ...], seed: int, num_classes: int | None, _: Place
) -> tuple[Tensor, Tensor | None]:
    return (
        (gaussian(n, shape, seed=seed), None)
        if num_classes is None
        else gaussian(n, shape, seed=seed, num_classes=num_classes)
    )


def _make_digits(
    n: int, shape: tuple[int, ...], seed: int, num_classes: int | None, _: Place
) -> tuple[Tensor, Tensor | None]:
    _enough_outputs("the digits", DIGIT_CLASSES, num_classes)
    return digits(n, shape, seed=seed)


def _make_images(name: str) -> Callable[[int, tuple[int, ...], int, int | None, Place], tuple[Tensor, Tensor | None]]:
    """The first ``n`` of a seeded order of the images to learn from, without augmentation."""

    def make(
        n: int, shape: tuple[int, ...], seed: int, num_classes: int | None, place: Place
    ) -> tuple[Tensor, Tensor | None]:
        shape = check_draw(n, shape)
        source = find_source(name, place, shape)
        pixels, indices = source.learn
        _enough_outputs(f"the images of {name}", len(source.classes), num_classes)
        if n > len(indices):
            raise InputError(
                f"there are {len(indices)} images to learn from", received=f"n={n}", where=name, remedy="Ask for fewer."
            )
        order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))[:n]
        chosen = indices[order]
        return to_shape(source.scale(pixels.take(chosen)), shape), pixels.targets[chosen]

    return make


def _enough_outputs(what: str, classes: int, num_classes: int | None) -> None:
    if num_classes is not None and num_classes < classes:
        raise InputError(
            f"{what} have {classes} classes, so the network needs at least as many outputs",
            received=f"num_classes={num_classes}",
        )


DATA: Mapping[str, Dataset] = MappingProxyType(
    {
        "gaussian": Dataset(_make_gaussian, "unit normal noise (Brock et al. 2021)"),
        "digits": Dataset(_make_digits, "scikit-learn's 1797 handwritten digits, resized; needs the extra `data`"),
        "cifar10": Dataset(
            _make_images("cifar10"), "60,000 images of 10 classes, 32x32, from a folder on this machine"
        ),
        "cifar100": Dataset(_make_images("cifar100"), "the same of 100 classes; both in their binary version"),
    }
)
"""Every data set by name."""


def names() -> tuple[str, ...]:
    """Names of the data sets."""
    return tuple(DATA)


def load(
    name: str,
    n: int,
    shape: tuple[int, ...],
    *,
    seed: int = 0,
    num_classes: int | None = None,
    folder: str | Path | None = None,
) -> tuple[Tensor, Tensor | None]:
    """A batch by the name of its data set.

    Args:
        name: A name of ``DATA``, or a folder of images with one subfolder per class.
        n: Samples.
        shape: Shape of one sample.
        seed: Of the draw.
        num_classes: Classes that the network tells apart; without it, ``gaussian`` has no targets.
        folder: Where CIFAR lies; ``data`` if left out.

    Returns:
        Inputs ``(n, *shape)``, and targets ``(n,)`` or None.

    Raises:
        UnknownNameError: No data set has that name.
        InputError: The data set has no such batch, or its files are missing or damaged.
        MissingExtraError: It needs a library that is not installed.
    """
    if name in DATA:
        return DATA[name].make(n, shape, seed, num_classes, folder)
    if Path(name).expanduser().is_dir():
        return _make_images(name)(n, shape, seed, num_classes, folder)
    raise UnknownNameError("data set", str(name), DATA)
