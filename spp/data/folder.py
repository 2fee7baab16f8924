"""A folder of images: one subfolder per class, decoded when they are needed.

``FOLDER/CLASS/*.png``, or with parts of one's own ``FOLDER/train/CLASS/*.png`` beside ``val`` and ``test``.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spp.data.images import Scale
from spp.errors import InputError, first_line

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

# Mean and standard deviation of ImageNet, 255 times (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225).
SCALE = Scale((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))

# Names of the folders that part the images beforehand; of several for one part, the last here that is there counts.
PARTS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}

# How the folder of a set is named.
NAMED = "--data-dir, --data of a study, or SPP_DATA in the environment"

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
        # PIL decodes without holding Python's lock, so that threads do it at once.
        with ThreadPoolExecutor(THREADS) as pool:
            return torch.stack(list(pool.map(lambda path: decode(path, self.size), chosen)))


def expanded(name: str | Path) -> Path:
    """A path, its ``~`` replaced where that stands for a home that anybody knows."""
    with suppress(RuntimeError):
        return Path(name).expanduser()
    return Path(name)


def is_folder(name: str | Path) -> bool:
    """Whether there is a folder of that name, which may be any text."""
    # a name longer than any file system takes is an OSError
    with suppress(OSError):
        return expanded(name).is_dir()
    return False


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
        raise InputError(
            "an image file needs to be readable",
            received=first_line(error),
            where=str(path),
            remedy="Mend it or take it away.",
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
    root = expanded(folder)
    if not is_folder(root):
        raise InputError(
            "a set of images is a folder with one subfolder per class", received="no such folder", where=str(folder)
        )
    places = {part: root / name for name, part in PARTS.items() if (root / name).is_dir()}
    if "train" not in places:
        places = {"all": root}
    classes = _classes(places.get("train", root))
    if len(classes) < 2:
        raise InputError(
            "a set of images has at least two classes, each a subfolder with images",
            received=f"images in {len(classes)} subfolder{'s' if len(classes) != 1 else ''}",
            where=str(places.get("train", root)),
            remedy=f"Files are taken by their endings: {', '.join(SUFFIXES)}.",
        )
    for place in places.values():
        strange = [name for name in _classes(place) if name not in classes]
        if strange:
            raise InputError(
                "every class needs to be in the folder of training images too",
                received=", ".join(strange),
                where=str(place),
            )
    return {part: _files(place, classes, size) for part, place in places.items()}, classes


def _classes(root: Path) -> tuple[str, ...]:
    """Subfolders with images, hidden ones aside."""
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return tuple(name for name in folders if _images(root / name))


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _files(root: Path, classes: tuple[str, ...], size: tuple[int, int]) -> Files:
    pairs = [(path, number) for number, name in enumerate(classes) for path in _images(root / name)]
    return Files(tuple(path for path, _ in pairs), torch.tensor([number for _, number in pairs]), size)
