"""A folder of images: classes by name, parts by folder, files that are no images."""

import numpy as np
import pytest
import torch
from PIL import Image

from spp import data
from spp.data import folder
from spp.errors import InputError
from tests.data import files


def test_classes_come_in_alphabetical_order_and_images_as_they_are(tmp_path):
    files.write_images(tmp_path, {"ant": 2, "bee": 3})
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no image")
    parts, classes = folder.read(tmp_path, (10, 12))
    assert classes == ("ant", "bee")
    assert list(parts) == ["all"]
    images = parts["all"]
    assert images.targets.tolist() == [0, 0, 1, 1, 1]
    taken = images.take(torch.tensor([4, 0]))
    assert (taken.shape, taken.dtype) == ((2, 3, 10, 12), torch.uint8)
    assert taken[0, :, 0, 0].tolist() == [2, 1, 7]
    assert taken[1, :, 0, 0].tolist() == [0, 0, 7]


def test_images_are_cut_from_their_middle_and_resized(tmp_path):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (folder.decode(tmp_path / "wide.png", (8, 8)) == 200).all()
    assert (folder.decode(tmp_path / "wide.png", (4, 4))[:, :, 1:3] == 200).all()  # its edges are blended


def test_grey_images_and_palettes_become_three_channels(tmp_path):
    grey = Image.fromarray(np.full((4, 4), 77, np.uint8))
    grey.save(tmp_path / "grey.png")
    grey.convert("P").save(tmp_path / "palette.gif")
    for name in ("grey.png", "palette.gif"):
        assert (folder.decode(tmp_path / name, (4, 4)) == 77).all()


def test_parts_of_ones_own(tmp_path):
    files.write_images(tmp_path / "train", {"a": 4, "b": 4})
    files.write_images(tmp_path / "val", {"a": 1, "b": 2})
    files.write_images(tmp_path / "test", {"b": 3})
    splits = data.splits(tmp_path, shape=(3, 8, 8))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [8, 3, 3]
    assert splits.test.targets.tolist() == [1, 1, 1]
    assert splits.classes == ("a", "b")


def test_without_parts_a_fifth_is_for_the_test_whatever_the_seed(tmp_path):
    files.write_images(tmp_path, {"a": 10, "b": 10})
    one, other = (data.splits(tmp_path, shape=(3, 8, 8), validation=0.25, seed=seed) for seed in (1, 2))
    assert [len(part) for part in (one.train, one.validation, one.test)] == [12, 4, 4]
    assert torch.equal(one.test.indices, other.test.indices)
    assert not torch.equal(one.validation.indices, other.validation.indices)


def test_standardized_by_imagenets_constants(tmp_path):
    files.write_images(tmp_path, {"a": 5, "b": 5})
    splits = data.splits(tmp_path, shape=(3, 10, 12), validation=0)
    inputs, targets = splits.train[0]
    path = splits.train.pixels.paths[splits.train.indices[0]]
    stored = np.asarray(Image.open(path)).transpose(2, 0, 1) / 255
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(inputs, (stored - mean[:, None, None]) / std[:, None, None], rtol=1e-5)
    assert targets == (0 if path.parent.name == "a" else 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no image", "cannot identify image file"), (None, "image file is truncated")],
)
def test_a_file_that_is_no_image_is_named_when_it_is_needed(content, message, tmp_path):
    files.write_images(tmp_path, {"a": 2, "b": 2}, size=(64, 64))
    bad = tmp_path / "a" / "000.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(bad)
    bad.write_bytes(bad.read_bytes()[:3000] if content is None else content)
    parts, _ = folder.read(tmp_path, (64, 64))
    with pytest.raises(InputError, match=rf"000\.png: an image file needs to be readable; got .*{message}.*Mend it"):
        parts["all"].take(torch.arange(4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "at least two classes, each a subfolder with images; got images in 0 subfolders"),
        (lambda root: files.write_images(root, {"a": 1}), "got images in 1 subfolder"),
        (
            lambda root: (
                files.write_images(root / "train", {"a": 1, "b": 1}),
                files.write_images(root / "test", {"c": 1}),
            ),
            "every class needs to be in the folder of training images too; got c",
        ),
    ],
)
def test_folders_that_do_not_do(make, message, tmp_path):
    make(tmp_path)
    with pytest.raises(InputError, match=message):
        folder.read(tmp_path, (8, 8))


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="one subfolder per class; got no such folder"):
        folder.read(tmp_path / "none", (8, 8))
