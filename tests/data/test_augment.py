"""Augmentation: every image is a window of the padded one, mirrored or not, and draws are private."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spp.data.images import AUGMENTATIONS, crop, crop_flip
from spp.errors import UnknownNameError


def pixels(n=16, height=32, width=32):
    return torch.randint(1, 256, (n, 3, height, width), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def windows(image, pad):
    """Every window of the padded image, by NumPy: ``{(down, right): window}``."""
    (down, right), (height, width) = pad, image.shape[1:]
    padded = np.pad(image, ((0, 0), (down, down), (right, right)))
    return {(y, x): padded[:, y : y + height, x : x + width] for y in range(2 * down + 1) for x in range(2 * right + 1)}


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**40), height=st.sampled_from([8, 16, 32]), width=st.sampled_from([8, 24]))
def test_each_image_is_a_window_of_the_padded_one(seed, height, width):
    before = pixels(4, height, width)
    after = crop(before, torch.Generator().manual_seed(seed))
    assert (after.shape, after.dtype) == (before.shape, torch.uint8)
    for old, new in zip(before.numpy(), after.numpy(), strict=True):
        assert any(np.array_equal(window, new) for window in windows(old, (height // 8, width // 8)).values())


def test_all_shifts_and_both_sides_come_equally_often():
    before = pixels(1).repeat(4000, 1, 1, 1)
    after = crop_flip(before, torch.Generator().manual_seed(3)).numpy()
    known = {window.tobytes(): (*at, 0) for at, window in windows(before[0].numpy(), (4, 4)).items()}
    known |= {window[:, :, ::-1].tobytes(): (*at, 1) for at, window in windows(before[0].numpy(), (4, 4)).items()}
    drawn = np.array([known[image.tobytes()] for image in after])
    assert drawn[:, 2].mean() == pytest.approx(0.5, abs=0.03)
    for axis in (0, 1):
        assert np.bincount(drawn[:, axis], minlength=9) == pytest.approx([4000 / 9] * 9, rel=0.2)


def test_draws_are_private():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = crop_flip(pixels(), torch.Generator().manual_seed(5))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, crop_flip(pixels(), torch.Generator().manual_seed(5)))
    assert not torch.equal(first, crop_flip(pixels(), torch.Generator().manual_seed(6)))


def test_unknown_augmentation():
    with pytest.raises(UnknownNameError, match=r"unknown augmentation 'crops'\. Did you mean 'crop'"):
        AUGMENTATIONS.row("crops")
    assert [name for name, change in AUGMENTATIONS.items() if change is None] == ["none"]
