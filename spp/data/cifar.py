"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from local disk, in their binary form.

A file is records one after the other. A record is one byte with the class (CIFAR-100: one with the coarse class, one with the
fine one), then 3072 bytes of a 32x32 image: 1024 red, 1024 green, 1024 blue, each row by row.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from spp.data.folder import NAMED, expanded, is_folder
from spp.data.images import InMemory, Scale
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
        scale: Mean and standard deviation of each channel of the training images.
    """

    title: str
    folder: str
    train: tuple[str, ...]
    test: str
    labels: int
    classes: int
    names: str
    scale: Scale


def _of_unit_range(mean: tuple[float, ...], std: tuple[float, ...]) -> Scale:
    return Scale(tuple(255 * m for m in mean), tuple(255 * s for s in std))


# Both sets by name.
LAYOUTS = {
    "cifar10": Layout(
        "CIFAR-10",
        "cifar-10-batches-bin",
        tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        "test_batch.bin",
        1,
        10,
        "batches.meta.txt",
        _of_unit_range((0.49140, 0.48216, 0.44653), (0.24703, 0.24349, 0.26159)),
    ),
    "cifar100": Layout(
        "CIFAR-100",
        "cifar-100-binary",
        ("train.bin",),
        "test.bin",
        2,
        100,
        "fine_label_names.txt",
        _of_unit_range((0.50708, 0.48655, 0.44092), (0.26733, 0.25644, 0.27615)),
    ),
}


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
    place = _find(layout, expanded(folder))
    parts = [read_file(place / file, layout) for file in layout.train]
    train = InMemory(torch.cat([part.images for part in parts]), torch.cat([part.targets for part in parts]))
    return train, read_file(place / layout.test, layout), _class_names(place / layout.names, layout)


def read_file(path: Path, layout: Layout) -> InMemory:
    """The images of one file.

    Raises:
        InputError: It cannot be read, is no whole number of records, or holds a class that does not exist.
    """
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise _damaged(path, layout, "a file of {} can be read", error.strerror or str(error)) from error
    record = layout.labels + IMAGE_BYTES
    if not len(content) or len(content) % record:
        end = f"{len(content):,} bytes, which end within record {len(content) // record + 1:,}"
        received = end if len(content) else "an empty file"
        raise _damaged(path, layout, f"a file of {{}} is records of {record} bytes", received)
    records = content.reshape(-1, record)
    wrong = np.flatnonzero(records[:, layout.labels - 1] >= layout.classes)
    if len(wrong):
        received = f"{records[wrong[0], layout.labels - 1]} in record {wrong[0] + 1:,}"
        raise _damaged(path, layout, f"the classes of {{}} are 0 to {layout.classes - 1}", received)
    # A copy: a view would keep the labels' bytes, and torch warns of arrays that cannot be written to.
    images = torch.from_numpy(records[:, layout.labels :].reshape(-1, *SHAPE).copy())
    return InMemory(images, torch.from_numpy(records[:, layout.labels - 1].astype(np.int64)))


def _damaged(place: Path, layout: Layout, expected: str, received: str) -> InputError:
    remedy = f"Unpack the binary version of {layout.title} anew ({HOME})."
    return InputError(expected.format(layout.title), received=received, where=str(place), remedy=remedy)


def _find(layout: Layout, folder: Path) -> Path:
    needed = (*layout.train, layout.test)
    for place in (folder, folder / layout.folder):
        missing = [file for file in needed if not (is_folder(place) and (place / file).is_file())]
        if not missing:
            return place
        if len(missing) < len(needed):
            raise _damaged(place, layout, f"{{}} is {len(needed)} files", f"a folder without {', '.join(missing)}")
    found = "a folder without them" if is_folder(folder) else "no such folder"
    pickled = any(is_folder(folder / other) for other in ("cifar-10-batches-py", "cifar-100-python"))
    few = " and ".join(needed) if len(needed) < 3 else f"{needed[0]}, ..., {needed[-1]}"
    raise InputError(
        f"{layout.title} lies in a local folder as {few}, or in {layout.folder} inside it",
        received="the version for Python, which is pickled" if pickled else found,
        where=str(folder),
        remedy=f"Unpack the binary version there ({HOME}), or name its folder ({NAMED}).",
    )


def _class_names(path: Path, layout: Layout) -> tuple[str, ...]:
    try:
        names = tuple(path.read_text(encoding="utf-8").split("\n"))
    except (OSError, UnicodeDecodeError):
        names = ()
    names = tuple(name.strip() for name in names if name.strip())
    return names if len(names) == layout.classes else tuple(str(number) for number in range(layout.classes))
