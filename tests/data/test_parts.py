"""Batches: every sample once an epoch, in an order that seed and epoch decide."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from spp.data import Part, batches, shuffled
from spp.data.images import InMemory, Scale
from spp.data.parts import count, generator_of
from spp.errors import InputError


def make_part(n=20, shape=(3, 8, 8)):
    images = torch.randint(256, (n + 5, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images[:, 0, 0, 0] = torch.arange(n + 5)  # the number of the image
    return Part(
        InMemory(images, torch.arange(n + 5)), torch.arange(n) + 5, Scale((0.0, 10.0, 20.0), (1.0, 2.0, 3.0)), shape
    )


def test_standardized_as_numpy_does():
    part = make_part()
    inputs, targets = part.batch(torch.tensor([3, 1]))
    stored = part.pixels.images[[8, 6]].numpy().astype(np.float64)
    mean, std = np.array([0, 10, 20])[:, None, None], np.array([1, 2, 3])[:, None, None]
    np.testing.assert_allclose(inputs, (stored - mean) / std, rtol=1e-6)
    assert (inputs.dtype, targets.tolist()) == (torch.float32, [8, 6])


def test_in_order_all_samples_come_as_they_are_stored():
    part = make_part()
    found = list(batches(part, 8))
    assert [len(inputs) for inputs, _ in found] == [8, 8, 4]
    assert torch.cat([targets for _, targets in found]).tolist() == list(range(5, 25))
    assert torch.equal(torch.cat([inputs for inputs, _ in found])[:, 0, 0, 0], torch.arange(5, 25).float())


@settings(deadline=None, max_examples=50)
@given(n=st.integers(1, 40), size=st.integers(1, 50), seed=st.integers(0, 2**62), epoch=st.integers(0, 10**6))
def test_an_epoch_has_every_sample_once_except_a_last_one_that_is_alone(n, size, seed, epoch):
    part = make_part(n)
    found = [targets for _, targets in shuffled(part, size, seed=seed, epoch=epoch)]
    assert len(found) == count(part, size)
    seen = torch.cat(found).tolist()
    left_out = 1 if n > size > 1 and n % size == 1 else 0
    if size == 1:
        left_out = 0
    assert len(set(seen)) == len(seen) == n - left_out
    assert set(seen) <= set(range(5, 5 + n))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**62), epoch=st.integers(0, 1000), start=st.integers(0, 4))
def test_an_epoch_that_goes_on_in_its_middle_has_the_batches_it_would_have_had(seed, epoch, start):
    part = make_part()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    whole = list(shuffled(part, 5, seed=seed, epoch=epoch, augment="crop_flip"))
    rest = list(shuffled(part, 5, seed=seed, epoch=epoch, augment="crop_flip", start=start))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(rest) == 4 - start
    for (a, b), (c, d) in zip(whole[start:], rest, strict=True):
        assert torch.equal(a, c) and torch.equal(b, d)


def test_seed_and_epoch_decide_the_order():
    def order(**which):
        return torch.cat([targets for _, targets in shuffled(make_part(), 20, **which)]).tolist()

    assert order(seed=0, epoch=0) == order(seed=0, epoch=0)
    different = [order(seed=seed, epoch=epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({tuple(one) for one in different}) == 4


def test_generators_of_neighbours_have_nothing_in_common():
    draws = [torch.randn(100, generator=generator_of(*numbers)) for numbers in ((0, 1), (1, 0), (0, 1, 0), (0,), (1,))]
    table = np.corrcoef(torch.stack(draws).numpy())
    assert np.abs(table - np.eye(5)).max() < 0.5


@pytest.mark.parametrize("shape", [(3, 16, 8), (192,)])
def test_shapes(shape):
    part = make_part(shape=shape)
    assert next(iter(batches(part, 4)))[0].shape == (4, *shape)


def test_torchs_loader_takes_a_part():
    part = make_part()
    inputs, targets = next(iter(DataLoader(part, batch_size=6)))
    expected = next(iter(batches(part, 6)))
    assert torch.equal(inputs, expected[0]) and torch.equal(targets, expected[1])
    assert part[-1][1] == 24
    with pytest.raises(IndexError):
        part[20]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: next(batches(make_part(), 0)), "a batch has at least one sample; got size=0"),
        (lambda: next(shuffled(make_part(0), 4, seed=0, epoch=0)), "got an empty part of the data"),
        (
            lambda: make_part().batch(torch.tensor([0]), augment="crop"),
            "an augmentation draws from a generator; got none",
        ),
        (lambda: make_part(shape=(1, 8, 8))[0], "the images have 3 channels; got a shape of 1 in"),
    ],
)
def test_impossible_batches(call, message):
    with pytest.raises(InputError, match=message):
        call()
