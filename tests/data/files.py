"""Data sets on disk, small and in exactly the form of the real ones."""

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

PARTS = {
    "cifar10": ([f"data_batch_{number}.bin" for number in range(1, 6)], "test_batch.bin", 1, 10, "batches.meta.txt"),
    "cifar100": (["train.bin"], "test.bin", 2, 100, "fine_label_names.txt"),
}


def idx(values: np.ndarray) -> bytes:
    """An array of uint8 as an IDX file holds it."""
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def idx_image(number: int) -> np.ndarray:
    """The image with that number, ``(28, 28)``: noise, the same every time."""
    return np.random.default_rng(number).integers(0, 256, (28, 28), dtype=np.uint8)


def write_idx(
    folder: Path,
    *,
    train: Sequence[int],
    test: Sequence[int],
    parts: tuple[str, str] = ("train", "t10k"),
    packed: bool = True,
) -> None:
    """Write the four files of a set, with so many images as there are labels; images are numbered over both parts."""
    number = 0
    for part, labels in zip(parts, (train, test), strict=True):
        images = np.stack([idx_image(number + i) for i in range(len(labels))])
        number += len(labels)
        for kind, values in (("images-idx3", images), ("labels-idx1", np.array(labels, np.uint8))):
            content = idx(values)
            name = f"{part}-{kind}-ubyte"
            (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content, 1) if packed else content)


def write_mnist(name: str, folder: Path, *, images: int) -> None:
    """Write ``images`` images into each part of MNIST, or of a set in its form, where ``name`` is one."""
    _, _, split = name.partition("_")
    if "mnist" not in name:
        return
    parts = (
        [f"emnist-{split or 'balanced'}-{part}" for part in ("train", "test")] if name.startswith("emnist") else None
    )
    labels = [1] * images
    write_idx(folder, train=labels, test=labels, parts=("train", "t10k") if parts is None else (parts[0], parts[1]))


def record(labels: tuple[int, ...], image: np.ndarray) -> bytes:
    """One record: its labels, then the planes of ``image`` ``(3, 32, 32)`` in uint8."""
    return bytes(labels) + image.tobytes()


def cifar_image(number: int) -> np.ndarray:
    """The image with that number: noise, the same every time."""
    return np.random.default_rng(number).integers(0, 256, (3, 32, 32), dtype=np.uint8)


def write_cifar(name: str, folder: Path, *, images: int, classes: int | None = None) -> None:
    """Write ``images`` images into each file; image ``i`` over all files has class ``i % classes``."""
    if name not in PARTS:
        return
    train, test, labels, total, names = PARTS[name]
    number = 0
    for file in [*train, test]:
        content = b""
        for _ in range(images):
            label = number % (classes or total)
            content += record((label,) if labels == 1 else (label // 5, label), cifar_image(number))
            number += 1
        (folder / file).write_bytes(content)
    (folder / names).write_text("".join(f"class {number}\n" for number in range(total)) + "\n")


def write_images(folder: Path, classes: dict[str, int], *, size: tuple[int, int] = (12, 10)) -> None:
    """Write so many images of each class, ``size`` wide and high; the red of an image is its number, the green its class."""
    from PIL import Image

    for label, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", size, (number, label, 7)).save(folder / name / f"{number:03}.png")
