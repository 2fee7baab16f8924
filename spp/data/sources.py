"""What a set consists of, and how it is split into training, validation and test images.

The test part never depends on the seed of a run. Validation images are taken from those to learn from, by seed, and are never
augmented: accuracy on shifted and mirrored images would be that of another task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from spp.data import cifar, folder
from spp.data.handwritten import DIGIT_CLASSES, digit_pixels, held_out
from spp.data.parts import Part, generator_of
from spp.data.pixels import Pixels, Scale
from spp.data.shapes import check_draw, image_shape
from spp.errors import InputError, UnknownNameError

TEST_SHARE = 0.2
"""Of a folder of images without a ``test`` folder."""


@dataclass(frozen=True, slots=True)
class Source:
    """All images of a set.

    Attributes:
        learn: Images to learn from: where they are, and which of them.
        validation: Images that somebody set apart for validation, or None.
        test: Images to test on.
        scale: Standardizes all of them.
        shape: ``(C, H, W)`` of an image.
        classes: Names.
        augment: The usual augmentation, a name of ``spp.data.augment.AUGMENTATIONS``.
    """

    learn: tuple[Pixels, Tensor]
    validation: tuple[Pixels, Tensor] | None
    test: tuple[Pixels, Tensor]
    scale: Scale
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    augment: str = "none"


@dataclass(frozen=True, slots=True)
class Splits:
    """A set, ready to train on.

    Attributes:
        name: Of the set, or its folder.
        train: Images to learn from.
        validation: Images to choose by; may be empty.
        test: Images to report on.
        classes: Names; class indices follow their order.
        shape: Of a sample.
        augment: The usual augmentation of training images.
        seed: Which images are in ``validation``.
    """

    name: str
    train: Part
    validation: Part
    test: Part
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    augment: str
    seed: int


def splits(
    name: str | Path,
    *,
    folder: str | Path | None = None,
    shape: tuple[int, ...] | None = None,
    validation: float = 0.2,
    seed: int = 0,
) -> Splits:
    """Split a set into training, validation and test images.

    Args:
        name: ``digits``, ``cifar10``, ``cifar100``, or a folder of images with one subfolder per class.
        folder: Where CIFAR lies; ``data`` if left out.
        shape: Of a sample, ``(C, H, W)`` or flat; the images' own if left out, (3, 224, 224) for a folder.
        validation: Share of the images to learn from that are held back, 0 up to but not including 1. A folder's own
            ``val`` takes its place.
        seed: Of that choice.

    Returns:
        The three parts, with disjoint images.

    Raises:
        UnknownNameError: There is no such set.
        InputError: Files are missing or damaged, or no image has that shape.
        MissingExtraError: The set needs a library that is not installed.
    """
    if not 0 <= validation < 1:
        raise InputError("the share of validation images is from 0 to less than 1", received=repr(validation))
    source = find_source(name, folder, shape)
    shape = source.shape if shape is None else check_draw(1, shape)
    channels = image_shape(shape)[0]
    if source.shape[0] not in (1, channels):
        raise InputError(f"the images of {name} have {source.shape[0]} channels", received=f"shape {shape}")
    pixels, indices = source.learn
    if source.validation is None:
        order = indices[torch.randperm(len(indices), generator=generator_of(seed))]
        held = round(validation * len(order))
        held_back = (pixels, order[len(order) - held :])
        indices = order[: len(order) - held]
    else:
        held_back = source.validation

    def part(where: tuple[Pixels, Tensor]) -> Part:
        return Part(where[0], where[1], source.scale, shape)

    train = part((pixels, indices))
    return Splits(str(name), train, part(held_back), part(source.test), source.classes, shape, source.augment, seed)


def find_source(name: str | Path, folder: str | Path | None, shape: tuple[int, ...] | None) -> Source:
    """All images of a set, read but not yet split.

    Raises:
        UnknownNameError: There is no such set.
        InputError: Files are missing or damaged.
    """
    if str(name) in SOURCES:
        return SOURCES[str(name)](folder)
    if Path(name).expanduser().is_dir():
        return _folder(name, shape)
    remedy_names = (*SOURCES, "FOLDER")
    raise UnknownNameError("data set", str(name), remedy_names)


def _digits(_: str | Path | None) -> Source:
    pixels, scale = digit_pixels()
    learn, test = held_out()
    classes = tuple(str(digit) for digit in range(DIGIT_CLASSES))
    return Source((pixels, learn), None, (pixels, test), scale, (1, 8, 8), classes)


def _cifar(name: str) -> Callable[[str | Path | None], Source]:
    def read(place: str | Path | None) -> Source:
        train, test, classes = cifar.read(name, "data" if place is None else place)
        learn, held = torch.arange(len(train.targets)), torch.arange(len(test.targets))
        scale = cifar.LAYOUTS[name].scale
        return Source((train, learn), None, (test, held), scale, cifar.SHAPE, classes, "crop_flip")

    return read


def _folder(place: str | Path, shape: tuple[int, ...] | None) -> Source:
    _, height, width = image_shape(shape or (3, 224, 224))
    parts, classes = folder.read(place, (height, width))
    whole = {name: (files, torch.arange(len(files.paths))) for name, files in parts.items()}
    learn = whole["all"] if "all" in whole else whole["train"]
    if "test" not in whole:
        files, indices = learn
        order = indices[torch.randperm(len(indices), generator=generator_of(0))]
        held = round(TEST_SHARE * len(order))
        learn, whole["test"] = (files, order[held:]), (files, order[:held])
    return Source(learn, whole.get("validation"), whole["test"], folder.SCALE, (3, height, width), classes)


SOURCES: Mapping[str, Callable[[str | Path | None], Source]] = MappingProxyType(
    {"digits": _digits, **{name: _cifar(name) for name in cifar.LAYOUTS}}
)
"""Every set of images that has a name; called with the folder where it lies."""
