"""MNIST and the sets in its form, Fashion-MNIST, KMNIST and EMNIST, from local disk: IDX files, compressed by gzip or not.

A file begins with two zero bytes, a type (8: bytes without sign) and its number of dimensions; each dimension follows in four
bytes, the highest first, and then the values, the last dimension running fastest.
"""

from __future__ import annotations

import gzip
import zlib
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from stat import S_ISREG
from string import ascii_lowercase, ascii_uppercase, digits

import numpy as np
import torch

from spp.data.folder import NAMED, expanded
from spp.data.images import InMemory, Scale
from spp.errors import InputError, first_line

File = tuple[Path, int, int]

SIDE = 28
SHAPE = (1, SIDE, SIDE)
# The largest file, that of EMNIST ByClass, has 697,932 images; a damaged header may claim thousands of millions.
MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class Layout:
    """One of the sets.

    Attributes:
        title: Its name for people.
        home: Where it is published.
        folders: Where its files lie inside a folder of several sets; torchvision's is the last.
        classes: Names of the classes.
        prefix: What the names of its files begin with.
        test: What the test part is called in them.
        first: The label of the first class.
        transposed: Whether images are stored column by column.
        mean: Of the pixels of the 60,000 training images, from 0 to 1, which tells sets apart whose files have the same names.
        package: Debian's package of it.
        installed: Where that puts it.
    """

    title: str
    home: str
    folders: tuple[str, ...]
    classes: tuple[str, ...]
    prefix: str = ""
    test: str = "t10k"
    first: int = 0
    transposed: bool = False
    mean: float | None = None
    package: str = ""
    installed: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files: images and labels to learn from, images and labels to test on."""
        kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
        return tuple(f"{self.prefix}{part}-{kind}" for part in ("train", self.test) for kind in kinds)

    @property
    def description(self) -> str:
        """One line."""
        source = f"apt-get install {self.package}" if self.package else "from IDX files on this machine"
        return f"{self.title}: {len(self.classes)} classes, grey, {SIDE}x{SIDE}; {source}"


_emnist = partial(
    Layout,
    home="https://www.nist.gov/itl/products-and-services/emnist-dataset",
    # gzip is what the archive of all six unpacks to
    folders=("emnist", "gzip", "EMNIST/raw"),
    test="test",
    transposed=True,
)
# ByMerge and Balanced take small and large letters that look alike for one class.
_MERGED = tuple(digits + ascii_uppercase + "abdefghnqrt")

# The sets by name.
LAYOUTS = {
    "fashion_mnist": Layout(
        "Fashion-MNIST",
        "https://github.com/zalandoresearch/fashion-mnist",
        ("fashion-mnist", "fashion_mnist", "FashionMNIST/raw"),
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        mean=0.2860,
        package="dataset-fashion-mnist",
        installed=(Path("/usr/share/datasets/fashion-mnist"),),
    ),
    "mnist": Layout("MNIST", "http://yann.lecun.com/exdb/mnist/", ("mnist", "MNIST/raw"), tuple(digits), mean=0.1307),
    "kmnist": Layout(
        "KMNIST",
        "http://codh.rois.ac.jp/kmnist/",
        ("kmnist", "KMNIST/raw"),
        ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        mean=0.1918,
    ),
    "emnist": _emnist("EMNIST Balanced", classes=_MERGED, prefix="emnist-balanced-"),
    "emnist_byclass": _emnist(
        "EMNIST ByClass", classes=tuple(digits + ascii_uppercase + ascii_lowercase), prefix="emnist-byclass-"
    ),
    "emnist_bymerge": _emnist("EMNIST ByMerge", classes=_MERGED, prefix="emnist-bymerge-"),
    "emnist_letters": _emnist("EMNIST Letters", classes=tuple(ascii_uppercase), prefix="emnist-letters-", first=1),
    "emnist_digits": _emnist("EMNIST Digits", classes=tuple(digits), prefix="emnist-digits-"),
    "emnist_mnist": _emnist("EMNIST MNIST", classes=tuple(digits), prefix="emnist-mnist-"),
}


def read(name: str, *folders: str | Path) -> tuple[InMemory, InMemory, Scale]:
    """Training images, test images and their scale; a process reads unchanged files once, and its tensors are shared.

    Args:
        name: A name of ``LAYOUTS``.
        folders: Where to look: the first that has such files, or has them in a folder of the set's name, counts.

    Returns:
        Images ``(N, 1, 28, 28)`` with their classes, from 0, twice; mean and standard deviation of all training images.

    Raises:
        InputError: The files are in none of the folders, or are damaged; the message names the file.
    """
    return _read(name, _find(LAYOUTS[name], [expanded(folder) for folder in folders]))


@lru_cache(maxsize=2)
def _read(name: str, files: tuple[File, ...]) -> tuple[InMemory, InMemory, Scale]:
    layout = LAYOUTS[name]
    paths = [path for path, *_ in files]
    train, test = (_pair(layout, *paths[at : at + 2]) for at in (0, 2))
    scale = Scale.measured(train, torch.arange(len(train.targets)))
    mean = scale.mean[0] / 255
    # .02: sets are .05 apart, and the published means of one differ by .001; a part of a set may be anything
    if layout.mean is not None and len(train.targets) == 60_000 and abs(mean - layout.mean) > 0.02:
        near = [other.title for other in LAYOUTS.values() if other.mean is not None and abs(mean - other.mean) < 0.002]
        raise InputError(
            f"the mean of the training images of {layout.title} is {layout.mean:.4f}",
            received=f"{mean:.4f}" + "".join(f", which is that of {title}" for title in near),
            where=str(paths[0]),
            remedy=f"Sets share the names of files: put those of {layout.title} into a folder {layout.folders[0]}.",
        )
    return train, test, scale


def _pair(layout: Layout, images: Path, labels: Path) -> InMemory:
    pixels, classes = _values(images, layout, 3), _values(labels, layout, 1)
    if len(pixels) != len(classes):
        raise _damaged(
            labels, layout, f"there is a label for each of {len(pixels):,} images", f"{len(classes):,} labels"
        )
    wrong = np.flatnonzero((classes < layout.first) | (classes >= layout.first + len(layout.classes)))
    if len(wrong):
        rule = f"the labels of {layout.title} are {layout.first} to {layout.first + len(layout.classes) - 1}"
        raise _damaged(labels, layout, rule, f"{classes[wrong[0]]} at number {wrong[0] + 1:,}")
    if layout.transposed:
        pixels = pixels.transpose(0, 2, 1)
    # Copies: torch warns of arrays that cannot be written to.
    return InMemory(
        torch.from_numpy(pixels.copy()).unsqueeze(1), torch.from_numpy(classes.astype(np.int64) - layout.first)
    )


def _values(path: Path, layout: Layout, dimensions: int) -> np.ndarray:
    """The values of a file, ``(N, 28, 28)`` or ``(N,)`` in uint8."""
    what = f"a file of {layout.title}"
    try:
        with path.open("rb") as stored:
            # by its content: browsers unpack a file and leave its name
            packed = stored.read(2) == b"\x1f\x8b"
            stored.seek(0)
            file = gzip.GzipFile(fileobj=stored) if packed else stored
            header = file.read(4 + 4 * dimensions)
            if header[:4] != bytes((0, 0, 8, dimensions)):
                rule = f"{what} begins with the bytes 00 00 08 {dimensions:02x}"
                raise _damaged(path, layout, rule, header[:4].hex(" ") or "an empty file")
            count, *sides = np.frombuffer(header[4:].ljust(4 * dimensions, b"\0"), ">u4").tolist()
            if not 1 <= count <= MOST or sides != [SIDE] * (dimensions - 1):
                size = "x".join(map(str, (count, *sides)))
                rule = f"{what} says that it has 1 to {MOST:,} {f'images of {SIDE}x{SIDE}' if sides else 'labels'}"
                raise _damaged(path, layout, rule, size)
            wanted = count * SIDE ** len(sides)
            # one more, so that the end is reached: there gzip compares its checksum
            content = file.read(wanted + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, layout, f"{what} can be read to its end", first_line(error)) from error
    if len(content) != wanted:
        received = "more" if len(content) > wanted else f"{len(content):,}"
        raise _damaged(path, layout, f"{what} has the {wanted:,} bytes that its header says", received)
    return np.frombuffer(content, np.uint8).reshape(count, *sides)


def _damaged(path: Path, layout: Layout, rule: str, received: str) -> InputError:
    return InputError(rule, received=received, where=str(path), remedy=f"Fetch {layout.title} anew ({layout.home}).")


def _find(layout: Layout, folders: list[Path]) -> tuple[File, ...]:
    """The four files, each with when it was written and its size."""
    for place in (folder / name for folder in folders for name in (*layout.folders, "")):
        found = {name: _stored(place, name) for name in layout.files}
        missing = [name for name, file in found.items() if file is None]
        if not missing:
            return tuple(file for file in found.values() if file is not None)
        if len(missing) < len(found):
            raise _damaged(place, layout, f"{layout.title} is four files", f"a folder without {', '.join(missing)}")
    fetch = f"Install it (apt-get install {layout.package})" if layout.package else f"Fetch it ({layout.home})"
    raise InputError(
        f"{layout.title} lies in a folder, or in {layout.folders[0]} inside it, as {', '.join(layout.files)}, each with or "
        "without .gz",
        received="none of them",
        where=" and ".join(map(str, folders)),
        remedy=f"{fetch}, or name its folder ({NAMED}).",
    )


def _stored(place: Path, name: str) -> File | None:
    # also with the point that the files of MNIST once had
    for path in (place / f"{stem}{end}" for stem in (name, name.replace("-idx", ".idx")) for end in ("", ".gz")):
        # a name longer than any file system takes, a folder that may not be read; a NUL
        with suppress(OSError, ValueError):
            status = path.stat()
            if S_ISREG(status.st_mode):
                return path, status.st_mtime_ns, status.st_size
    return None
