"""Every data set by name: a batch of it for a trace, and its split into training, validation and test images.

The test part never depends on the seed of a run. Validation images are taken from those to learn from, by seed, and are never
augmented: accuracy on shifted and mirrored images would be that of another task.

A set of one's own is a row more. It makes batches, for ``spp analyze --data mine``, or reads images, for ``spp train`` too::

    spp.data.SOURCES.register("mine", spp.data.Source(my_batch, "what it is"))
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor

from spp.data import cifar, folder, idx
from spp.data.images import InMemory, Resized, Scale, check_draw, image_shape, resizing, to_shape
from spp.data.parts import Part, generator_of
from spp.errors import InputError, MissingExtraError, UnknownNameError
from spp.registry import Registry

Place = str | Path | None
Batch = tuple[Tensor, Tensor | None]
# Share of a folder of images without a ``test`` folder.
TEST_SHARE = 0.2
STANDARDIZE = ("channel", "pixel", "none")
# Images and classes of scikit-learn's digits.
DIGITS, DIGIT_CLASSES = 1797, 10
# Images of the test part: those that a permutation by seed 0 puts last, the same for every seed of a run.
HELD_OUT = 360


@dataclass(frozen=True, slots=True)
class Images:
    """All images of a set.

    Attributes:
        learn: Images to learn from.
        test: Images to test on.
        classes: Names of the classes.
        validation: Images that somebody set apart for validation, or None.
        augment: The usual augmentation, a name of ``spp.data.AUGMENTATIONS``.
    """

    learn: Part
    test: Part
    classes: tuple[str, ...]
    validation: Part | None = None
    augment: str = "none"


@dataclass(frozen=True, slots=True)
class Source:
    """A row of :data:`SOURCES`; it has ``make`` or ``read`` or both.

    Attributes:
        make: Makes a batch. Called with ``n``, ``shape``, ``seed``, ``num_classes`` (or None) and the folder where the data lie
            (or None); returns inputs and targets or None. Left out, images of ``read`` are drawn.
        description: One line.
        read: Reads all images, called with the folder. Left out, the set makes batches but cannot be trained on.
    """

    make: Callable[[int, tuple[int, ...], int, int | None, Place], Batch] | None = None
    description: str = ""
    read: Callable[[Place], Images] | None = None


@dataclass(frozen=True, slots=True)
class Splits:
    """A set, ready to train on.

    Attributes:
        name: Name of the set, or its folder.
        train: Images to learn from.
        validation: Images to choose by; may be empty.
        test: Images to report on.
        classes: Names of the classes; class indices follow their order.
        shape: Shape of a sample.
        augment: The usual augmentation of training images.
        seed: Decides which images are in ``validation``.
    """

    name: str
    train: Part
    validation: Part
    test: Part
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    augment: str
    seed: int


def load(
    name: str,
    n: int,
    shape: tuple[int, ...],
    *,
    seed: int = 0,
    num_classes: int | None = None,
    folder: str | Path | None = None,
) -> Batch:
    """A batch by the name of its data set.

    Args:
        name: A name of ``SOURCES``, or a folder of images with one subfolder per class.
        n: Number of samples.
        shape: Shape of one sample.
        seed: Decides the draw.
        num_classes: Classes that the network tells apart; without it, ``gaussian`` has no targets.
        folder: Where CIFAR, MNIST and the like lie; ``$SPP_DATA``, or ``data``, if left out.

    Returns:
        Inputs ``(n, *shape)``, and targets ``(n,)`` or None.

    Raises:
        UnknownNameError: No data set has that name.
        InputError: The data set has no such batch, or its files are missing or damaged.
        MissingExtraError: It needs a library that is not installed.
    """
    source = _source(name, shape, SOURCES)
    if source.make is not None:
        return source.make(n, shape, seed, num_classes, folder)
    shape = check_draw(n, shape)
    images = _read(name, source, folder)
    _enough_outputs(f"the images of {name}", len(images.classes), num_classes)
    most = len(images.learn)
    if n > most:
        raise InputError(
            f"there are {most} images to learn from", received=f"n={n}", where=name, remedy="Ask for fewer."
        )
    order = torch.randperm(most, generator=torch.Generator().manual_seed(seed))
    return replace(images.learn, shape=shape).batch(order[:n])


def splits(
    name: str | Path,
    *,
    folder: str | Path | None = None,
    shape: tuple[int, ...] | None = None,
    validation: float = 0.2,
    seed: int = 0,
    train: int | None = None,
    resize: str = "bilinear",
    standardize: str = "channel",
) -> Splits:
    """Split a set into training, validation and test images.

    The images to learn from are put into an order that ``seed`` alone decides; the first are trained on, the last held back, so
    that fewer images are a part of more. The test part is always the same, and whole.

    >>> data = splits("digits", shape=(3, 4, 4), resize="pool", train=1_000, validation=200, seed=0)
    >>> len(data.train), len(data.validation), len(data.test), data.shape
    (1000, 200, 360, (3, 4, 4))

    Args:
        name: A name of ``SOURCES``, as ``digits`` or ``fashion_mnist``, or a folder of images with one subfolder per class.
        folder: Where CIFAR, MNIST and the like lie; ``$SPP_DATA``, or ``data``, if left out.
        shape: Shape of a sample, ``(C, H, W)`` or flat; the images' own if left out, (3, 224, 224) for a folder.
        validation: Share of the images to learn from that are held back, 0 up to but not including 1, or an int, their
            number. A folder's own ``val`` takes its place.
        seed: Decides which are held back, and which are trained on.
        train: How many of the others are trained on; all if left out.
        resize: How images come to the height and width of ``shape``: ``bilinear``, standardized before; ``pool`` (means of
            pixels, for sides that divide) or ``pad`` (black around them), augmented and standardized as they are then. A grey
            channel is repeated.
        standardize: By mean and standard deviation of each ``channel``, or of each ``pixel`` (a constant one becomes 0), over
            all images to learn from, whatever the seed; or ``none``: values as they are stored, 0 to 255.

    Returns:
        The three parts, with disjoint images.

    Raises:
        UnknownNameError: There is no such set.
        InputError: Files are missing or damaged, or no image has that shape.
        MissingExtraError: The set needs a library that is not installed.
    """
    if not isinstance(validation, int) and not 0 <= validation < 1:
        raise InputError("the share of validation images is from 0 to less than 1", received=repr(validation))
    trainable = [known for known, source in SOURCES.items() if source.read is not None]
    images = _read(str(name), _source(name, shape, (*trainable, "FOLDER")), folder)
    own = images.learn.shape
    shape = own if shape is None else check_draw(1, shape)
    if own[0] not in (1, image_shape(shape)[0]):
        raise InputError(f"the images of {name} have {own[0]} channels", received=f"shape {shape}")
    learn, held_back = images.learn, images.validation
    if held_back is None:
        learn, held_back = _parted(learn, validation, seed)
    elif train is not None:
        learn, _ = _parted(learn, 0, seed)
    if train is not None and not 1 <= train <= len(learn):
        raise InputError(
            f"there are {len(learn):,} images of {name} to train on, beside {len(held_back):,} for validation",
            received=f"train={train}",
        )
    learn = replace(learn, indices=learn.indices[:train])
    learn, held_back, test = _fitted((learn, held_back, images.test), images.learn, shape, resize, standardize)
    return Splits(str(name), learn, held_back, test, images.classes, shape, images.augment, seed)


def names() -> tuple[str, ...]:
    """Names of the data sets."""
    return SOURCES.names


def _source(name: str | Path, shape: tuple[int, ...] | None, known: Iterable[str]) -> Source:
    known = tuple(known)
    if str(name) in SOURCES and str(name) in known:
        return SOURCES[str(name)]
    if folder.is_folder(name):
        return Source(read=lambda _: _folder(name, shape))
    if str(name) in SOURCES:
        raise InputError(
            "images to train on come from a data set that reads them",
            received=f"{str(name)!r}, which makes batches only",
            remedy=f"Take one of {', '.join(known)}; a source of your own reads images with read=.",
        )
    raise UnknownNameError("data set", str(name), known)


def _read(name: str, source: Source, place: Place) -> Images:
    if source.read is None:
        raise InputError("a data set makes batches or reads images", received="a source without either", where=name)
    return source.read(place)


def _fitted(
    parts: tuple[Part, Part, Part], learn: Part, shape: tuple[int, ...], resize: str, standardize: str
) -> tuple[Part, ...]:
    """The parts in this shape; ``learn`` are the images that mean and deviation are taken of."""
    if standardize not in STANDARDIZE:
        raise UnknownNameError("standardize", standardize, STANDARDIZE)
    change = None if resize == "bilinear" else resizing(resize, image_shape(learn.shape)[1:], image_shape(shape)[1:])

    def changed(part: Part) -> Part:
        return part if change is None else replace(part, pixels=Resized(part.pixels, change))

    learn = changed(learn)
    if standardize == "none":
        scale = Scale((0.0,) * learn.shape[0], (1.0,) * learn.shape[0])
    elif standardize == "pixel" or change is not None:
        scale = Scale.measured(learn.pixels, learn.indices, each_pixel=standardize == "pixel")
    else:
        scale = learn.scale
    return tuple(replace(changed(part), shape=shape, scale=scale) for part in parts)


def _parted(part: Part, share: float, seed: int) -> tuple[Part, Part]:
    """The images in an order that ``seed`` decides: all but the last, and this share or, of an int, so many, the last."""
    number = share if isinstance(share, int) else round(share * len(part))
    if not 0 <= number <= len(part):
        raise InputError(f"there are {len(part):,} images to learn from", received=f"{number} for validation")
    order = part.indices[torch.randperm(len(part), generator=generator_of(seed))]
    kept = len(order) - number
    return replace(part, indices=order[:kept]), replace(part, indices=order[kept:])


def _enough_outputs(what: str, classes: int, num_classes: int | None) -> None:
    if num_classes is not None and num_classes < classes:
        raise InputError(
            f"{what} have {classes} classes, so the network needs at least as many outputs",
            received=f"num_classes={num_classes}",
        )


# --- unit normal noise, and scikit-learn's handwritten digits --------------------------------------------------------


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


# --- the rows --------------------------------------------------------------------------------------------------------


def _gaussian(n: int, shape: tuple[int, ...], seed: int, num_classes: int | None, _: Place) -> Batch:
    if num_classes is None:
        return gaussian(n, shape, seed=seed), None
    return gaussian(n, shape, seed=seed, num_classes=num_classes)


def _some_digits(n: int, shape: tuple[int, ...], seed: int, num_classes: int | None, _: Place) -> Batch:
    _enough_outputs("the digits", DIGIT_CLASSES, num_classes)
    return digits(n, shape, seed=seed)


def _all_digits(_: Place) -> Images:
    pixels, scale = digit_pixels()
    learn, test = (Part(pixels, indices, scale, (1, 8, 8)) for indices in held_out())
    return Images(learn, test, tuple(map(str, range(DIGIT_CLASSES))))


def _folder_of(place: Place) -> str | Path:
    """The folder that was named, or the usual one."""
    return place if place is not None else os.environ.get("SPP_DATA") or "data"


def _cifar(name: str, place: Place) -> Images:
    *parts, classes = cifar.read(name, _folder_of(place))
    learn, test = (Part.whole(pixels, cifar.LAYOUTS[name].scale, cifar.SHAPE) for pixels in parts)
    return Images(learn, test, classes, augment="crop_flip")


def _idx(name: str, place: Place) -> Images:
    layout = idx.LAYOUTS[name]
    *pixels, scale = idx.read(name, _folder_of(place), *layout.installed * (place is None))
    learn, test = (Part.whole(part, scale, idx.SHAPE) for part in pixels)
    return Images(learn, test, layout.classes)


def _folder(place: str | Path, shape: tuple[int, ...] | None) -> Images:
    _, height, width = image_shape(shape or (3, 224, 224))
    found, classes = folder.read(place, (height, width))
    parts = {name: Part.whole(files, folder.SCALE, (3, height, width)) for name, files in found.items()}
    learn = parts["all"] if "all" in parts else parts["train"]
    if "test" not in parts:
        parts["test"], learn = _parted(learn, 1 - TEST_SHARE, 0)
    return Images(learn, parts["test"], classes, parts.get("validation"))


SOURCES = Registry[Source](
    "data set",
    {
        "gaussian": Source(_gaussian, "unit normal noise (Brock et al. 2021)"),
        "digits": Source(
            _some_digits, "scikit-learn's 1797 handwritten digits, resized; needs the extra `data`", _all_digits
        ),
        "cifar10": Source(
            None, "60,000 images of 10 classes, 32x32, from a folder on this machine", partial(_cifar, "cifar10")
        ),
        "cifar100": Source(None, "the same of 100 classes; both in their binary version", partial(_cifar, "cifar100")),
        **{name: Source(None, layout.description, partial(_idx, name)) for name, layout in idx.LAYOUTS.items()},
    },
    of=Source,
)
"""Every data set by name."""
