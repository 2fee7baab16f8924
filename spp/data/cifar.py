"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from local disk, in their binary form.

A file is records one after the other. A record is one byte with the class (CIFAR-100: one with the coarse class, one with the
fine one), then 3072 bytes of a 32x32 image: 1024 red, 1024 green, 1024 blue, each row by row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from spp.data.pixels import InMemory, Scale
from spp.errors import InputError

SHAPE = (3, 32, 32)
IMAGE_BYTES = 3072

HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"


@dataclass(frozen=True, slots=True)
class Layout:
    """One of the two sets.

    Attributes:
        title: Its name for people.
        folder: Name of the folder that its archive unpacks to.
        train: Files to learn from.
        test: File to test on.
        labels: Bytes of labels that begin a record; the last is the class.
        classes: Number of classes.
        names: File with the classes' names, one per line.
        mean: Of each channel of the training images, 0 to 1.
        std: The same for the standard deviation.
    """

    title: str
    folder: str
    train: tuple[str, ...]
    test: str
    labels: int
    classes: int
    names: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def scale(self) -> Scale:
        """Standardizes pixels from 0 to 255."""
        return Scale(tuple(255 * m for m in self.mean), tuple(255 * s for s in self.std))


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "cifar10": Layout(
            "CIFAR-10",
            "cifar-10-batches-bin",
            tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
            "test_batch.bin",
            1,
            10,
            "batches.meta.txt",
            (0.49140, 0.48216, 0.44653),
            (0.24703, 0.24349, 0.26159),
        ),
        "cifar100": Layout(
            "CIFAR-100",
            "cifar-100-binary",
            ("train.bin",),
            "test.bin",
            2,
            100,
            "fine_label_names.txt",
            (0.50708, 0.48655, 0.44092),
            (0.26733, 0.25644, 0.27615),
        ),
    }
)
"""Both sets by name."""


def read(name: str, folder: str | Path) -> tuple[InMemory, InMemory, tuple[str, ...]]:
    """Training images, test images and the classes' names.

    Args:
        name: ``cifar10`` or ``cifar100``.
        folder: The folder with the files, or the one that holds ``cifar-10-batches-bin`` or ``cifar-100-binary``.

    Returns:
        Images ``(N, 3, 32, 32)`` with their (fine) classes, twice, and one name per class; where the file with the names is
        missing, numbers.

    Raises:
        InputError: The files are not there, cut off or damaged; the message names the file.
    """
    layout = LAYOUTS[name]
    place = _find(layout, Path(folder).expanduser())
    parts = [read_file(place / file, layout) for file in layout.train]
    train = InMemory(torch.cat([part.images for part in parts]), torch.cat([part.targets for part in parts]))
    return train, read_file(place / layout.test, layout), _class_names(place / layout.names, layout)


def read_file(path: Path, layout: Layout) -> InMemory:
    """The images of one file.

    Raises:
        InputError: It cannot be read, is no whole number of records, or holds a class that does not exist.
    """
    where, remedy = str(path), f"Unpack the binary version of {layout.title} anew ({HOME})."
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise InputError(
            f"a file of {layout.title} can be read", received=error.strerror or str(error), where=where, remedy=remedy
        ) from error
    record = layout.labels + IMAGE_BYTES
    if not len(content) or len(content) % record:
        raise InputError(
            f"a file of {layout.title} is records of {record} bytes",
            received=f"{len(content):,} bytes, which end within record {len(content) // record + 1:,}"
            if len(content)
            else "an empty file",
            where=where,
            remedy=remedy,
        )
    records = content.reshape(-1, record)
    wrong = np.flatnonzero(records[:, layout.labels - 1] >= layout.classes)
    if len(wrong):
        raise InputError(
            f"the classes of {layout.title} are 0 to {layout.classes - 1}",
            received=f"{records[wrong[0], layout.labels - 1]} in record {wrong[0] + 1:,}",
            where=where,
            remedy=remedy,
        )
    images = torch.from_numpy(records[:, layout.labels :].reshape(-1, *SHAPE).copy())
    return InMemory(images, torch.from_numpy(records[:, layout.labels - 1].astype(np.int64)))


def _find(layout: Layout, folder: Path) -> Path:
    needed = (*layout.train, layout.test)
    places = (folder, folder / layout.folder)
    for place in places:
        missing = [file for file in needed if not (place / file).is_file()]
        if not missing:
            return place
        if len(missing) < len(needed):
            raise InputError(
                f"{layout.title} is {len(needed)} files",
                received=f"a folder without {', '.join(missing)}",
                where=str(place),
                remedy=f"Unpack the binary version anew ({HOME}).",
            )
    found = "a folder without them" if folder.is_dir() else "no such folder"
    pickled = any((folder / other).is_dir() for other in ("cifar-10-batches-py", "cifar-100-python"))
    raise InputError(
        f"{layout.title} lies in a local folder as {_few(needed)}, or in {layout.folder} inside it",
        received="the version for Python, which is pickled" if pickled else found,
        where=str(folder),
        remedy=f"Unpack the binary version there ({HOME}) and name the folder (--data-dir).",
    )


def _few(names: tuple[str, ...]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{names[0]}, ..., {names[-1]}"


def _class_names(path: Path, layout: Layout) -> tuple[str, ...]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        lines = []
    names = tuple(line for line in lines if line)
    return names if len(names) == layout.classes else tuple(str(number) for number in range(layout.classes))
