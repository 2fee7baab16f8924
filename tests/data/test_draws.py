import random
import sys

import numpy as np
import pytest
import torch

from spp import data
from spp.errors import InputError, MissingExtraError, UnknownNameError
from tests.data import files


def global_state():
    return torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002 (watched, not used)


@pytest.mark.parametrize(
    "call",
    [
        lambda: data.gaussian(4, (3, 5, 5), num_classes=3),
        lambda: data.digits(4, (3, 16, 16)),
        lambda: data.load("gaussian", 2, (3,)),
    ],
)
def test_global_random_state_is_neither_read_nor_moved(call):
    torch.manual_seed(1)
    before = global_state()
    first = call()
    after = global_state()
    assert torch.equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])
    assert before[2] == after[2]
    torch.manual_seed(2)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(first, call(), strict=True))


def test_gaussian_is_unit_normal_and_its_seed_decides():
    x = data.gaussian(64, (3, 32, 32), seed=3)
    assert (x.shape, x.dtype) == ((64, 3, 32, 32), torch.float32)
    assert x.mean().item() == pytest.approx(0, abs=0.01)
    assert x.var().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(x, data.gaussian(64, (3, 32, 32), seed=3))
    assert not torch.equal(x, data.gaussian(64, (3, 32, 32), seed=4))


def test_gaussian_targets_are_uniform_and_do_not_move_the_inputs():
    x, y = data.gaussian(3000, (2,), num_classes=3)
    assert torch.equal(x, data.gaussian(3000, (2,)))
    assert (y.shape, y.dtype) == ((3000,), torch.int64)
    assert torch.bincount(y).tolist() == pytest.approx([1000] * 3, abs=100)


@pytest.mark.parametrize(
    ("shape", "image"),
    [((1, 8, 8), (1, 8)), ((3, 224, 224), (3, 224)), ((3072,), (3, 32)), ((64,), (1, 8)), ((1, 4, 6), 0)],
)
def test_digits_take_the_shape_that_is_wanted(shape, image):
    x, y = data.digits(5, shape)
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((5, *shape), torch.float32, (5,), torch.int64)
    if image:
        channels, side = image
        maps = x.view(5, channels, side, side)
        assert torch.equal(maps, maps[:, :1].expand_as(maps))


def test_digits_are_scikit_learns_images_standardized_in_a_seeded_order():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x, y = data.digits(1797, (1, 8, 8), seed=5)
    assert x.mean().item() == pytest.approx(0, abs=1e-6)
    assert x.var(correction=0).item() == pytest.approx(1, abs=1e-5)
    restored = (x[:, 0].double() * bunch.images.std() + bunch.images.mean()).round().int().flatten(1)
    wanted = torch.from_numpy(bunch.images).int().flatten(1)
    key = torch.cat([restored, y.int().unsqueeze(1)], 1).tolist()
    assert sorted(key) == sorted(torch.cat([wanted, torch.from_numpy(bunch.target).int().unsqueeze(1)], 1).tolist())
    assert not torch.equal(restored, wanted)
    assert torch.equal(x[:7], data.digits(7, (1, 8, 8), seed=5)[0])
    assert not torch.equal(x[:7], data.digits(7, (1, 8, 8), seed=6)[0])


def test_digits_resized_keep_what_the_docstring_says():
    x, _ = data.digits(1797, (1, 112, 112))
    assert x.var(correction=0).item() == pytest.approx(0.75, abs=0.005)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.gaussian(0, (3,)), r"a batch has at least one sample; got n=0\."),
        (lambda: data.digits(0, (64,)), r"a batch has at least one sample; got n=0\."),
        (lambda: data.gaussian(1, (3, 0)), r"positive integers, as \(3, 224, 224\); got \(3, 0\)\."),
        (lambda: data.gaussian(1, ()), r"positive integers, as \(3, 224, 224\); got \(\)\."),
        (lambda: data.gaussian(1, (3,), num_classes=0), r"num_classes is a positive integer; got 0\."),
        (lambda: data.digits(1798, (64,)), r"the digits are 1797 images; got n=1798\. Ask for at most 1797\."),
        (
            lambda: data.digits(1, (65,)),
            r"an image has shape \(C, H, W\), or \(F,\) with F = H\*H or F = 3\*H\*H.*\(65,\)",
        ),
        (lambda: data.digits(1, (8, 8)), r"an image has shape \(C, H, W\), .* got \(8, 8\)\."),
        (lambda: data.load("digits", 1, (64,), num_classes=5), r"the digits have 10 classes, .*; got num_classes=5\."),
    ],
)
def test_impossible_batches(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_unknown_data_set():
    with pytest.raises(
        UnknownNameError,
        match=r"unknown data set 'digit'\. Did you mean 'digits' or .*\? Known: gaussian, digits, cifar10, cifar100, fash",
    ):
        data.load("digit", 1, (64,))


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(
        MissingExtraError, match=r"data set 'digits' needs scikit-learn; .*pip install \"torch-spp\[data\]\""
    ):
        data.digits(1, (64,))


@pytest.mark.parametrize("name", data.names())
def test_load_by_name(name, tmp_path):
    files.write_cifar(name, tmp_path, images=8)
    files.write_mnist(name, tmp_path, images=8)
    inputs, targets = data.load(name, 6, (3, 8, 8), seed=2, num_classes=100, folder=tmp_path)
    assert inputs.shape == (6, 3, 8, 8)
    assert targets.shape == (6,)
    assert data.DATA[name].description


def test_gaussian_without_classes_has_no_targets():
    inputs, targets = data.load("gaussian", 6, (2,), seed=2)
    assert torch.equal(inputs, data.gaussian(6, (2,), seed=2))
    assert targets is None


def test_the_first_import_of_scikit_learn_does_not_move_pythons_random_state(python):
    script = """
import os
import random
import sys
assert "sklearn" not in sys.modules
before = random.getstate()
from spp import data
data.digits(2, (64,))
print(random.getstate() == before)
"""
    done = python(script)
    assert done.stdout == "True\n", done.stderr
