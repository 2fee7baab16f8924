"""MNIST and the sets in its form: what is read of IDX files, where they are looked for, and what is refused."""

import gzip
import math
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spp import data
from spp.data import idx
from spp.errors import InputError
from tests.data import files

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch, tmp_path):
    """Of this machine: an empty current folder, no SPP_DATA, no package of Debian's."""
    (tmp_path / "current").mkdir()
    monkeypatch.chdir(tmp_path / "current")
    monkeypatch.delenv("SPP_DATA", raising=False)
    monkeypatch.setitem(idx.LAYOUTS, "fashion_mnist", replace(idx.LAYOUTS["fashion_mnist"], installed=()))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("within", ["", "mnist", "MNIST/raw"])
def test_images_and_labels_are_those_of_the_files(packed, within, tmp_path):
    place = tmp_path / "all" / within
    place.mkdir(parents=True)
    files.write_idx(place, train=[5, 0, 9, 5], test=[3, 1], packed=packed)
    splits = data.splits("mnist", folder=tmp_path / "all", validation=0.25, seed=3)
    pixels = splits.train.pixels
    assert np.array_equal(pixels.images[:, 0].numpy(), np.stack([files.idx_image(number) for number in range(4)]))
    assert (pixels.images.dtype, pixels.targets.tolist()) == (torch.uint8, [5, 0, 9, 5])
    assert np.array_equal(splits.test.pixels.images[1, 0].numpy(), files.idx_image(5))
    assert (splits.test.targets.tolist(), splits.test.indices.tolist()) == ([3, 1], [0, 1])
    assert (splits.shape, splits.augment, splits.classes) == ((1, 28, 28), "none", tuple("0123456789"))
    assert sorted([*splits.train.indices.tolist(), *splits.validation.indices.tolist()]) == [0, 1, 2, 3]
    assert len(splits.validation) == 1


def test_pixels_are_standardized_by_all_training_images_whatever_the_seed(tmp_path):
    files.write_idx(tmp_path, train=range(10), test=[0])
    stored = np.stack([files.idx_image(number) for number in range(10)])
    for seed in (0, 1):
        splits = data.splits("kmnist", folder=tmp_path, validation=0.5, seed=seed)
        scale = splits.train.scale
        assert scale.mean == pytest.approx([stored.mean()], rel=1e-12)
        assert scale.std == pytest.approx([stored.std()], rel=1e-12)
        assert splits.validation.scale == splits.test.scale == scale
    inputs, _ = splits.test.batch(torch.tensor([0]))
    np.testing.assert_allclose(inputs[0, 0], (files.idx_image(10) - stored.mean()) / stored.std(), rtol=1e-5, atol=1e-6)


def test_black_images_are_zeros_not_nan(tmp_path):
    files.write_idx(tmp_path, train=[0, 1], test=[0], packed=False)
    (tmp_path / IMAGES).write_bytes(files.idx(np.full((2, 28, 28), 77, np.uint8)))
    assert data.splits("mnist", folder=tmp_path, validation=0).train[0][0].abs().max() == 0


@pytest.mark.parametrize(
    ("name", "file", "classes", "last"),
    [
        ("emnist", "balanced", 47, "t"),
        ("emnist_byclass", "byclass", 62, "z"),
        ("emnist_bymerge", "bymerge", 47, "t"),
        ("emnist_letters", "letters", 26, "Z"),
        ("emnist_digits", "digits", 10, "9"),
        ("emnist_mnist", "mnist", 10, "9"),
    ],
)
def test_emnist_is_turned_upright_and_its_classes_begin_at_zero(name, file, classes, last, tmp_path):
    first = 1 if file == "letters" else 0
    parts = (f"emnist-{file}-train", f"emnist-{file}-test")
    files.write_idx(tmp_path, train=[first, first + classes - 1], test=[first + 1], parts=parts)
    splits = data.splits(name, folder=tmp_path, validation=0)
    assert splits.train.pixels.targets.tolist() == [0, classes - 1]
    assert splits.test.targets.tolist() == [1]
    assert (len(splits.classes), splits.classes[-1], len(set(splits.classes))) == (classes, last, classes)
    assert np.array_equal(splits.train.pixels.images[1, 0].numpy(), files.idx_image(1).T)


def test_the_letters_of_emnist_have_no_label_zero(tmp_path):
    parts = ("emnist-letters-train", "emnist-letters-test")
    files.write_idx(tmp_path, train=[26, 0], test=[1], parts=parts)
    with pytest.raises(InputError, match=r"the labels of EMNIST Letters are 1 to 26; got 0 at number 2\. Fetch EMNIST"):
        data.splits("emnist_letters", folder=tmp_path)


def test_a_file_is_unpacked_by_its_content_not_by_its_name(tmp_path):
    files.write_idx(tmp_path, train=[1, 2], test=[3])
    (tmp_path / f"{IMAGES}.gz").write_bytes(files.idx(np.stack([files.idx_image(0)] * 2)))
    (tmp_path / f"{LABELS}.gz").rename(tmp_path / "train-labels.idx1-ubyte")
    assert data.splits("mnist", folder=tmp_path).train.pixels.targets.tolist() == [1, 2]


def test_files_that_changed_are_read_again(tmp_path):
    for labels in ([1, 2], [3, 4, 5]):
        files.write_idx(tmp_path, train=labels, test=[0])
        assert data.splits("mnist", folder=tmp_path).train.pixels.targets.tolist() == labels


def test_where_files_are_looked_for(tmp_path, monkeypatch):
    for number, place in enumerate(("named", "variable/fashion-mnist", "current/data", "package"), 1):
        (tmp_path / place).mkdir(parents=True)
        files.write_idx(tmp_path / place, train=[number] * number, test=[0])
    row = idx.LAYOUTS["fashion_mnist"]
    monkeypatch.setitem(idx.LAYOUTS, "fashion_mnist", replace(row, installed=(tmp_path / "package",)))

    def found(**where):
        return len(data.splits("fashion_mnist", validation=0, **where).train)

    assert found() == 3
    (tmp_path / "current" / "data").rename(tmp_path / "elsewhere")
    assert found() == 4
    monkeypatch.setenv("SPP_DATA", str(tmp_path / "variable"))
    assert found() == 2
    assert found(folder=tmp_path / "named") == 1
    monkeypatch.setenv("SPP_DATA", str(tmp_path))
    assert found() == 4
    # what was named is not looked for elsewhere
    with pytest.raises(InputError, match="nowhere: Fashion-MNIST lies in a folder"):
        found(folder=tmp_path / "nowhere")


def test_cifar_too_lies_where_the_variable_says(tmp_path, monkeypatch):
    files.write_cifar("cifar10", tmp_path, images=2)
    monkeypatch.setenv("SPP_DATA", str(tmp_path))
    assert len(data.splits("cifar10", validation=0).train) == 10


def test_a_set_that_is_not_there_says_how_to_get_it():
    with pytest.raises(InputError) as caught:
        data.splits("fashion_mnist")
    assert str(caught.value) == (
        "data: Fashion-MNIST lies in a folder, or in fashion-mnist inside it, as train-images-idx3-ubyte, "
        "train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, each with or without .gz; got none of them. "
        "Install it (apt-get install dataset-fashion-mnist), or name its folder (--data-dir, --data of a study, or SPP_DATA in "
        "the environment)."
    )
    with pytest.raises(
        InputError, match=r"emnist-letters-train-images-idx3-ubyte, .*; got none of them\. Fetch it \(https"
    ):
        data.splits("emnist_letters")


def header(*sizes, kind=8):
    return struct.pack(f">HBB{len(sizes)}I", 0, kind, len(sizes), *sizes)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (IMAGES, b"", r"a file of MNIST begins with the bytes 00 00 08 03; got an empty file\."),
        (IMAGES, b"<html>not found", r"begins with the bytes 00 00 08 03; got 3c 68 74 6d\."),
        (IMAGES, header(2, 28, 28, kind=13), r"begins with the bytes 00 00 08 03; got 00 00 0d 03\."),
        (IMAGES, header(2), r"begins with the bytes 00 00 08 03; got 00 00 08 01\."),  # labels in their place
        (IMAGES, header(2, 28, 28)[:10], r"has 1 to 1,000,000 images of 28x28; got 2x0x0\."),
        (IMAGES, header(2, 32, 32) + bytes(2048), r"has 1 to 1,000,000 images of 28x28; got 2x32x32\."),
        (IMAGES, header(0, 28, 28), r"has 1 to 1,000,000 images of 28x28; got 0x28x28\."),
        (IMAGES, header(2**32 - 1, 28, 28), r"has 1 to 1,000,000 images of 28x28; got 4294967295x28x28\."),
        (IMAGES, header(1_000_000, 28, 28), r"has the 784,000,000 bytes that its header says; got 0\."),
        (IMAGES, header(2, 28, 28) + bytes(1567), r"has the 1,568 bytes that its header says; got 1,567\."),
        (IMAGES, header(2, 28, 28) + bytes(1569), r"has the 1,568 bytes that its header says; got more\."),
        (IMAGES, header(3, 28, 28) + bytes(2352), r"there is a label for each of 3 images; got 2 labels\."),
        (LABELS, header(2**31), r"says that it has 1 to 1,000,000 labels; got 2147483648\."),
        (LABELS, header(2) + b"\x01", r"has the 2 bytes that its header says; got 1\."),
        (LABELS, header(2) + b"\x01\x0a", r"the labels of MNIST are 0 to 9; got 10 at number 2\."),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_damaged_files_are_one_line(file, content, message, packed, tmp_path):
    files.write_idx(tmp_path, train=[1, 2], test=[3], packed=packed)
    path = tmp_path / (f"{file}.gz" if packed else file)
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(InputError, match=f"ubyte(.gz)?: .*{message} Fetch MNIST anew") as caught:
        data.splits("mnist", folder=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.3, 0.99, 1.01])
def test_a_gzip_that_was_cut_off_or_altered(share, tmp_path):
    files.write_idx(tmp_path, train=[1, 2], test=[3])
    path = tmp_path / f"{IMAGES}.gz"
    content = bytearray(path.read_bytes())
    if share > 1:
        content[len(content) // 2] ^= 0xFF
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz: a file of MNIST can be read to its end; got "):
        data.splits("mnist", folder=tmp_path)


def test_a_part_of_a_set_is_not_taken_for_none(tmp_path):
    files.write_idx(tmp_path, train=[1], test=[2])
    (tmp_path / f"{LABELS}.gz").unlink()
    with pytest.raises(InputError, match=rf"MNIST is four files; got a folder without {LABELS}\. Fetch MNIST anew"):
        data.splits("mnist", folder=tmp_path)


def test_a_folder_in_the_place_of_a_file_is_no_file(tmp_path):
    files.write_idx(tmp_path, train=[1], test=[2])
    (tmp_path / f"{LABELS}.gz").unlink()
    (tmp_path / f"{LABELS}.gz").mkdir()
    with pytest.raises(InputError, match=f"got a folder without {LABELS}"):
        data.splits("mnist", folder=tmp_path)


def test_another_set_of_the_same_names_is_not_taken_for_it(tmp_path):
    files.write_idx(tmp_path, train=[1], test=[2], packed=False)
    # as large as the real ones, and black: the holes of a file are zeros
    for name, sizes in ((IMAGES, (60_000, 28, 28)), (LABELS, (60_000,))):
        (tmp_path / name).write_bytes(header(*sizes))
        with (tmp_path / name).open("r+b") as file:
            file.truncate(4 + 4 * len(sizes) + math.prod(sizes))
    with pytest.raises(InputError) as caught:
        data.splits("mnist", folder=tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/{IMAGES}: the mean of the training images of MNIST is 0.1307; got 0.0000. "
        "Sets share the names of files: put those of MNIST into a folder mnist."
    )


REAL = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not REAL.is_dir(), reason="Fashion-MNIST is not installed: apt-get install dataset-fashion-mnist")
def test_the_real_fashion_mnist():
    splits = data.splits("fashion_mnist", folder=REAL)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (48_000, 12_000, 10_000)
    assert round(splits.train.scale.mean[0] / 255, 4) == 0.2860
    assert round(splits.train.scale.std[0] / 255, 4) == 0.3530
    assert torch.bincount(splits.train.pixels.targets).tolist() == [6_000] * 10
    assert torch.bincount(splits.test.targets).tolist() == [1_000] * 10
    inputs, _ = splits.test.batch(torch.arange(10_000))
    assert inputs.mean().item() == pytest.approx(0, abs=0.01)
    assert inputs.std().item() == pytest.approx(1, abs=0.01)
    assert (splits.classes[splits.test[0][1]], splits.classes[int(splits.train.pixels.targets[0])]) == (
        "Ankle boot",
    ) * 2
    with pytest.raises(
        InputError, match=r"training images of MNIST is 0\.1307; got 0\.2860, which is that of Fashion-MNIST"
    ):
        data.splits("mnist", folder=REAL)
