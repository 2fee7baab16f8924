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
        (lambda: data.splits("digits", shape=(8, 8)), InputError, r"an image has shape \(C, H, W\)"),
    ],
)
def test_impossible_splits(call, error, message):
    with pytest.raises(error, match=message):
        call()


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
