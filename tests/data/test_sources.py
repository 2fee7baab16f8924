"""Splits: disjoint, by seed, the test part the same for all."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from spp import data
from spp.errors import InputError, UnknownNameError
from tests.data import files


def test_digits_are_split_as_the_sheet_does():
    splits = data.splits("digits", validation=0)
    order = np.random.RandomState(0).permutation(1797)
    assert splits.test.indices.tolist() == order[1437:].tolist()
    assert sorted(splits.train.indices.tolist()) == sorted(order[:1437].tolist())
    assert (len(splits.validation), splits.shape, splits.augment) == (0, (1, 8, 8), "none")
    assert splits.classes == tuple("0123456789")


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**62), share=st.floats(0, 0.99))
def test_parts_are_disjoint_and_whole(seed, share):
    splits = data.splits("digits", validation=share, seed=seed)
    parts = [set(part.indices.tolist()) for part in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 1797
    assert len(parts[1]) == round(share * 1437)
    again = data.splits("digits", validation=share, seed=seed)
    assert torch.equal(again.validation.indices, splits.validation.indices)


def test_the_seed_chooses_validation_images_and_nothing_of_the_test():
    one, other = data.splits("digits", seed=1), data.splits("digits", seed=2)
    assert set(one.validation.indices.tolist()) != set(other.validation.indices.tolist())
    assert torch.equal(one.test.indices, other.test.indices)


def test_digits_are_the_same_numbers_as_in_a_trace():
    splits = data.splits("digits", validation=0, shape=(3, 16, 16))
    inputs, targets = splits.train.batch(torch.arange(1437))
    drawn, classes = data.digits(1797, (3, 16, 16))
    for index in (0, 700):
        same = [i for i in range(1797) if torch.equal(drawn[i], inputs[index])]
        assert same and classes[same[0]] == targets[index]


def test_so_many_images_are_drawn_by_the_seed_and_fewer_are_a_part_of_more():
    few, many, whole = (
        data.splits("digits", train=train, validation=number, seed=4)
        for train, number in ((100, 50), (300, 200), (None, 200))
    )
    assert [len(part) for part in (few.train, few.validation, few.test)] == [100, 50, 360]
    assert many.train.indices[:100].tolist() == few.train.indices.tolist()
    assert many.validation.indices[-50:].tolist() == few.validation.indices.tolist()
    assert whole.train.indices[:300].tolist() == many.train.indices.tolist()
    assert len(whole.train) == 1437 - 200
    assert not set(few.train.indices.tolist()) & set(many.validation.indices.tolist())
    assert torch.equal(few.test.indices, data.splits("digits").test.indices)
    assert few.train.indices.tolist() != data.splits("digits", train=100, validation=50, seed=5).train.indices.tolist()


def test_so_many_images_of_a_folder_with_validation_images_of_its_own(tmp_path):
    for part in ("train", "val", "test"):
        files.write_images(tmp_path / part, {"a": 4, "b": 4})
    splits = data.splits(tmp_path, shape=(3, 8, 8), train=5, validation=2)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [5, 8, 8]


def grey(tmp_path):
    """Twelve images to learn from and two to test on, 28x28, as stored."""
    files.write_idx(tmp_path, train=[number % 10 for number in range(12)], test=[1, 2])
    return np.stack([files.idx_image(number) for number in range(14)]).astype(np.float64)


def of(splits):
    """All samples in the order of the set: twelve to learn from, and those of the test."""
    learn = torch.cat([part.batch(torch.arange(len(part)))[0] for part in (splits.train, splits.validation)])
    order = torch.cat([splits.train.indices, splits.validation.indices])
    return torch.cat([learn[order.argsort()], splits.test.batch(torch.arange(len(splits.test)))[0]]).double().numpy()


def test_mean_pooling(tmp_path):
    stored = grey(tmp_path)
    pooled = stored.reshape(14, 14, 2, 14, 2).mean((2, 4))
    learn = pooled[:12]
    splits = data.splits("mnist", folder=tmp_path, shape=(1, 14, 14), resize="pool", validation=3)
    np.testing.assert_allclose(of(splits)[:, 0], (pooled - learn.mean()) / learn.std(), rtol=1e-4, atol=1e-5)
    uneven = data.splits("mnist", folder=tmp_path, shape=(2, 7, 28), resize="pool", standardize="none")
    np.testing.assert_allclose(of(uneven)[:, 1], stored.reshape(14, 7, 4, 28).mean(2), rtol=1e-6)
    flat = data.splits("mnist", folder=tmp_path, shape=(196,), resize="pool")
    assert torch.equal(flat.test[1][0], splits.test[1][0].flatten())


def test_black_around_the_images(tmp_path):
    stored = np.pad(grey(tmp_path), ((0, 0), (2, 2), (2, 2)))
    learn = stored[:12]
    splits = data.splits("mnist", folder=tmp_path, shape=(3, 32, 32), resize="pad", seed=1)
    for channel in range(3):
        np.testing.assert_allclose(of(splits)[:, channel], (stored - learn.mean()) / learn.std(), rtol=1e-4, atol=1e-5)
    odd = data.splits("mnist", folder=tmp_path, shape=(1, 29, 28), resize="pad", standardize="none")
    assert np.array_equal(of(odd)[:, 0], np.pad(stored[:, 2:-2, 2:-2], ((0, 0), (0, 1), (0, 0))))
    # augmented when they have their size: by four pixels of 32, not by three of 28
    shifted, _ = splits.test.batch(torch.arange(2), augment="crop", generator=torch.Generator().manual_seed(0))
    black = torch.from_numpy(stored[12:]).unsqueeze(1)
    expected = data.AUGMENTATIONS["crop"](black, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(shifted[:, :1], (expected - learn.mean()) / learn.std(), rtol=1e-4, atol=1e-5)


def test_each_pixel_is_standardized_and_a_constant_one_is_zero():
    from sklearn.datasets import load_digits

    splits = data.splits("digits", standardize="pixel", validation=0, shape=(64,), seed=3)
    images = load_digits().images.reshape(1797, 64)
    learn = images[splits.train.indices.sort().values]
    constant = learn.std(0) == 0
    assert constant.any()
    wanted = (images - learn.mean(0)) / np.where(constant, 1, learn.std(0))
    inputs, _ = splits.test.batch(torch.arange(360))
    np.testing.assert_allclose(inputs, wanted[splits.test.indices], rtol=1e-4, atol=1e-5)
    assert (inputs[:, constant] == wanted[splits.test.indices][:, constant]).all()
    assert splits.train.scale == data.splits("digits", standardize="pixel", seed=9).test.scale


def test_values_as_they_are_stored(tmp_path):
    files.write_cifar("cifar10", tmp_path, images=2)
    splits = data.splits("cifar10", folder=tmp_path, standardize="none")
    assert np.array_equal(splits.test.batch(torch.tensor([1]))[0][0], files.cifar_image(11))
    assert splits.test.pixels.take(splits.test.indices).dtype == torch.uint8


@pytest.mark.parametrize(("name", "train", "classes"), [("cifar10", 20, 10), ("cifar100", 4, 100)])
def test_cifar(name, train, classes, tmp_path):
    files.write_cifar(name, tmp_path, images=4)
    splits = data.splits(name, folder=tmp_path, validation=0.25)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (train * 3 // 4, train // 4, 4)
    assert (splits.shape, splits.augment, len(splits.classes)) == ((3, 32, 32), "crop_flip", classes)
    held_back = torch.cat([inputs for inputs, _ in data.batches(splits.validation, 2)])
    stored = splits.validation.pixels.images[splits.validation.indices].double() / 255
    scale = splits.train.scale
    mean, std = (torch.tensor(numbers).double().view(3, 1, 1) / 255 for numbers in (scale.mean, scale.std))
    torch.testing.assert_close(held_back.double(), (stored - mean) / std, rtol=1e-4, atol=1e-5)  # not augmented


def test_a_batch_of_cifar_for_a_trace(tmp_path):
    files.write_cifar("cifar10", tmp_path, images=4)
    _, targets = data.load("cifar10", 20, (3, 32, 32), seed=1, folder=tmp_path)
    assert sorted(targets.tolist()) == sorted(number % 10 for number in range(20))
    with pytest.raises(InputError, match=r"cifar10: there are 20 images to learn from; got n=21\. Ask for fewer\."):
        data.load("cifar10", 21, (3, 32, 32), folder=tmp_path)
    with pytest.raises(InputError, match=r"have 10 classes, .*; got num_classes=3"):
        data.load("cifar10", 2, (3, 32, 32), folder=tmp_path, num_classes=3)


def test_a_batch_of_a_folder_for_a_trace(tmp_path):
    files.write_images(tmp_path, {"a": 10, "b": 10})
    inputs, targets = data.load(str(tmp_path), 16, (3, 8, 8))
    assert (inputs.shape, set(targets.tolist())) == ((16, 3, 8, 8), {0, 1})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: data.splits("cifr10"),
            UnknownNameError,
            r"Did you mean 'cifar10'.*Known: digits, cifar10, cifar100, fashion_mnist, .*, FOLDER",
        ),
        (lambda: data.splits("digits", validation=1.0), InputError, r"from 0 to less than 1; got 1\.0"),
        (lambda: data.splits("digits", shape=(3, 0, 4)), InputError, "positive integers"),
        (
            lambda: data.splits("digits", validation=1438),
            InputError,
            "are 1,437 images to learn from; got 1438 for val",
        ),
        (
            lambda: data.splits("digits", validation=-1),
            InputError,
            "are 1,437 images to learn from; got -1 for validation",
        ),
        (
            lambda: data.splits("digits", validation=400, train=1038),
            InputError,
            "there are 1,037 images of digits to train on, beside 400 for validation; got train=1038",
        ),
        (lambda: data.splits("digits", train=0), InputError, "1,150 images of digits to train on, .*; got train=0"),
        (lambda: data.splits("digits", resize="pol"), UnknownNameError, "unknown resize 'pol'. Did you mean 'pool'"),
        (
            lambda: data.splits("digits", standardize="p"),
            UnknownNameError,
            "unknown standardize 'p'.*channel, pixel, none",
        ),
        (
            lambda: data.splits("digits", shape=(1, 3, 4), resize="pool"),
            InputError,
            r"resize='pool': mean pooling divides the sides of images of 8x8; got 3x4\.",
        ),
        (
            lambda: data.splits("digits", shape=(1, 9, 7), resize="pad"),
            InputError,
            r"resize='pad': padding adds to the sides of images of 8x8; got 9x7\.",
        ),
        (lambda: data.splits("digits", shape=(8, 8)), InputError, r"an image has shape \(C, H, W\)"),
    ],
)
def test_impossible_splits(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("place", ["x" * 300, "a\0b", "~nobody-has-this-name/images"])
def test_folders_of_impossible_names_are_not_there(place):
    for name in ("cifar10", "mnist"):
        with pytest.raises(InputError, match=r"\S: (CIFAR-10|MNIST) lies in a .*; got (no such folder|none of them)"):
            data.splits(name, folder=place)
    with pytest.raises(UnknownNameError, match="unknown data set"):
        data.splits(place)


def test_channels_must_fit(tmp_path):
    files.write_cifar("cifar100", tmp_path, images=4)
    with pytest.raises(InputError, match=r"the images of cifar100 have 3 channels; got shape \(1, 32, 32\)"):
        data.splits("cifar100", folder=tmp_path, shape=(1, 32, 32))


@pytest.fixture
def mine():
    """A set from outside the package: constant images for a trace, and eight stored ones to train on."""

    def make(n, shape, seed, num_classes, folder):
        return torch.full((n, *shape), float(seed)), torch.arange(n) % (num_classes or 2)

    def read(folder):
        pixels = data.InMemory(
            torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 1, 2, 2), torch.arange(8) % 2
        )
        learn, test = (data.Part(pixels, at, data.Scale((0.0,), (1.0,)), (1, 2, 2)) for at in torch.arange(8).split(6))
        return data.Images(learn, test, ("even", "odd"))

    data.SOURCES.register("mine", data.Source(make, "constant images of mine", read))
    data.SOURCES.register("stored", data.Source(read=read, description="the same, stored only"))
    yield
    data.SOURCES.unregister("mine")
    data.SOURCES.unregister("stored")


def test_a_set_from_outside_is_used_by_name(mine):
    inputs, targets = data.load("mine", 4, (3, 2, 2), seed=7)
    assert (inputs == 7).all() and targets.tolist() == [0, 1, 0, 1]
    splits = data.splits("mine", validation=0.5)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [3, 3, 2]
    assert splits.test[0][0].tolist() == [[[6.0, 6.0], [6.0, 6.0]]]
    inputs, _ = data.load("stored", 6, (1, 2, 2), seed=3)
    assert sorted(inputs[:, 0, 0, 0].tolist()) == list(range(6))
    with pytest.raises(InputError, match="stored: there are 6 images to learn from; got n=7"):
        data.load("stored", 7, (1, 2, 2))
    with pytest.raises(UnknownNameError, match="Did you mean 'mine'"):
        data.load("mien", 4, (3, 2, 2))


def test_a_source_without_either_way_to_samples_says_so(mine):
    data.SOURCES.register("mine", data.Source(description="nothing yet"), replace=True)
    with pytest.raises(InputError, match="mine: a data set makes batches or reads images; got a source without either"):
        data.load("mine", 4, (3, 2, 2))


def test_a_set_from_outside_is_used_on_the_command_line(mine, tmp_path):
    from spp_cli.main import cli

    listed = CliRunner().invoke(cli, ["list", "data", "--json"], catch_exceptions=False)
    assert json.loads(listed.stdout)["mine"] == "constant images of mine"
    words = [
        "analyze",
        "--model",
        "ffn",
        "--batch-size",
        "4",
        "--no-figures",
        "--data",
        "mine",
        "--out",
        str(tmp_path / "run"),
    ]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code in (0, 1), done.output
    assert (tmp_path / "run" / "run.json").exists()
