"""CIFAR in its binary form: what is read, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spp.data import cifar
from spp.errors import InputError
from tests.data import files


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("nested", [False, True])
def test_images_classes_and_names_are_those_of_the_files(name, nested, tmp_path):
    place = tmp_path / cifar.LAYOUTS[name].folder if nested else tmp_path
    place.mkdir(exist_ok=True)
    files.write_cifar(name, place, images=3)
    train, test, classes = cifar.read(name, tmp_path)
    count = 15 if name == "cifar10" else 3
    total = 10 if name == "cifar10" else 100
    assert train.images.dtype == torch.uint8
    assert np.array_equal(train.images.numpy(), np.stack([files.cifar_image(number) for number in range(count)]))
    assert train.targets.tolist() == [number % total for number in range(count)]  # of CIFAR-100 the fine class
    assert np.array_equal(test.images.numpy(), np.stack([files.cifar_image(count + number) for number in range(3)]))
    assert test.targets.tolist() == [(count + number) % total for number in range(3)]
    assert classes == tuple(f"class {number}" for number in range(total))


def test_planes_are_red_green_blue_and_rows_run_first(tmp_path):
    pixels = bytes([255] * 1024) + bytes(range(32)) * 32 + bytes(1024)
    path = tmp_path / "one.bin"
    path.write_bytes(bytes([4]) + pixels)
    (image,) = cifar.read_file(path, cifar.LAYOUTS["cifar10"]).images
    assert (image[0] == 255).all()
    assert image[1].tolist() == [list(range(32))] * 32
    assert (image[2] == 0).all()


def test_the_constants_are_the_sheets():
    scale = cifar.LAYOUTS["cifar100"].scale
    assert np.array(scale.mean) / 255 == pytest.approx([0.50708, 0.48655, 0.44092])
    assert np.array(scale.std) / 255 == pytest.approx([0.26733, 0.25644, 0.27615])


@pytest.mark.parametrize("text", [None, "only one\n"])
def test_without_a_file_of_names_classes_are_numbered(text, tmp_path):
    files.write_cifar("cifar100", tmp_path, images=1)
    names = tmp_path / "fine_label_names.txt"
    names.unlink() if text is None else names.write_text(text)
    assert cifar.read("cifar100", tmp_path)[2] == tuple(map(str, range(100)))


@settings(deadline=None, max_examples=25)
@given(cut=st.integers(1, 2 * 3073 - 1))
def test_a_file_that_is_cut_off_is_refused_unless_the_cut_is_between_records(cut, tmp_path_factory):
    path = tmp_path_factory.mktemp("cut") / "cut.bin"
    path.write_bytes((bytes([1]) + bytes(3072)) * 2)
    with path.open("r+b") as file:
        file.truncate(cut)
    if cut == 3073:
        assert len(cifar.read_file(path, cifar.LAYOUTS["cifar10"]).targets) == 1
        return
    with pytest.raises(InputError, match=f"records of 3073 bytes; got {cut:,} bytes, which end within record"):
        cifar.read_file(path, cifar.LAYOUTS["cifar10"])


def test_a_truncated_set_names_its_file(tmp_path):
    files.write_cifar("cifar10", tmp_path, images=2)
    with (tmp_path / "data_batch_3.bin").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(InputError) as caught:
        cifar.read("cifar10", tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/data_batch_3.bin: a file of CIFAR-10 is records of 3073 bytes; got 5,000 bytes, which end within "
        f"record 2. Unpack the binary version of CIFAR-10 anew ({cifar.HOME})."
    )


def damage_class(folder):
    content = bytearray((folder / "train.bin").read_bytes())
    content[3074 + 1] = 100
    (folder / "train.bin").write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_class, r"train\.bin: the classes of CIFAR-100 are 0 to 99; got 100 in record 2\."),
        (lambda f: (f / "test.bin").write_bytes(b""), r"test\.bin: .* records of 3074 bytes; got an empty file\."),
        (lambda f: (f / "test.bin").unlink(), r"CIFAR-100 is 2 files; got a folder without test\.bin\."),
    ],
)
def test_damaged_sets(damage, message, tmp_path):
    files.write_cifar("cifar100", tmp_path, images=2)
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        cifar.read("cifar100", tmp_path)


def test_the_version_for_python_is_recognized(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(InputError, match=r"got the version for Python, which is pickled\. Unpack the binary version"):
        cifar.read("cifar10", tmp_path)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(
        InputError, match=r"CIFAR-100 lies in a local folder as train\.bin and test\.bin, or .* no such folder"
    ):
        cifar.read("cifar100", tmp_path / "none")
