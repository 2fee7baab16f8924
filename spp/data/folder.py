"""A folder of images: one subfolder per class, decoded when they are needed.

``FOLDER/CLASS/*.png``, or with parts of one's own ``FOLDER/train/CLASS/*.png`` beside ``val`` and ``test``.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spp.data.pixels import Scale
from spp.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

SCALE = Scale((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
"""Mean and standard deviation of ImageNet, 255 times (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225)."""

TRAIN, VALIDATION, TEST = ("train",), ("val", "valid", "validation"), ("test",)
"""Names of the folders that part the images beforehand."""

THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Files:
    """Images in files, brought to one size: the shorter side resized, the middle cut out.

    Attributes:
        paths: One per image.
        targets: Class indices ``(N,)``.
        size: Height and width that every image is brought to.
    """

    paths: tuple[Path, ...]
    targets: Tensor = field(repr=False)
    size: tuple[int, int]

    def take(self, indices: Tensor) -> Tensor:
        """The images of ``indices`` ``(n,)`` as ``(n, 3, H, W)`` in uint8.

        Raises:
            InputError: A file holds no image; the message names it.
        """
        chosen = [self.paths[index] for index in indices.tolist()]
        with ThreadPoolExecutor(THREADS) as pool:  # PIL decodes without holding Python's lock
            return torch.stack(list(pool.map(lambda path: decode(path, self.size), chosen)))


def decode(path: Path, size: tuple[int, int]) -> Tensor:
    """One image as ``(3, H, W)`` in uint8: resized until it covers ``size``, of which the middle is cut out.

    Raises:
        InputError: The file holds no image that can be read.
    """
    from PIL import Image, ImageOps

    height, width = size
    try:
        with Image.open(path) as image:
            fitted = ImageOps.fit(image.convert("RGB"), (width, height), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError) as error:  # what PIL raises for files that are no images, or cut off
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise InputError(
            "an image file can be read", received=reason, where=str(path), remedy="Mend it or take it away."
        ) from error
    return torch.from_numpy(np.asarray(fitted).transpose(2, 0, 1).copy())


def read(folder: str | Path, size: tuple[int, int]) -> tuple[dict[str, Files], tuple[str, ...]]:
    """The images of a folder, and the names of their classes in alphabetical order.

    Args:
        folder: See the head of this file.
        size: Height and width.

    Returns:
        The images as ``all``, or as ``train`` and, where there are such folders, ``validation`` and ``test``; and the classes.

    Raises:
        InputError: There is no such folder, it holds fewer than two classes, or ``val`` or ``test`` has a class of its own.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise InputError(
            "a set of images is a folder with one subfolder per class", received="no such folder", where=str(folder)
        )
    train = _first(root, TRAIN)
    if train is None:
        classes = _classes(root)
        return {"all": _files(root, classes, size)}, classes
    classes = _classes(train)
    parts = {"train": _files(train, classes, size)}
    for name, options in (("validation", VALIDATION), ("test", TEST)):
        place = _first(root, options)
        if place is not None:
            _known(place, classes)
            parts[name] = _files(place, classes, size)
    return parts, classes


def _first(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _subfolders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _classes(root: Path) -> tuple[str, ...]:
    classes = tuple(name for name in _subfolders(root) if _images(root / name))
    if len(classes) < 2:
        found = f"images in {len(classes)} subfolder{'s' if len(classes) != 1 else ''}"
        raise InputError(
            "a set of images has at least two classes, each a subfolder with images",
            received=found,
            where=str(root),
            remedy=f"Files are taken by their endings: {', '.join(SUFFIXES)}.",
        )
    return classes


def _known(root: Path, classes: tuple[str, ...]) -> None:
    strange = [name for name in _subfolders(root) if name not in classes and _images(root / name)]
    if strange:
        raise InputError(
            "every class is in the folder of training images too", received=", ".join(strange), where=str(root)
        )


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _files(root: Path, classes: tuple[str, ...], size: tuple[int, int]) -> Files:
    pairs = [(path, number) for number, name in enumerate(classes) for path in _images(root / name)]
    return Files(tuple(path for path, _ in pairs), torch.tensor([number for _, number in pairs]), size)
