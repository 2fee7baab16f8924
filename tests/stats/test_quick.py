"""The short way to a tensor's numbers: what it gives is right, and what it cannot give exactly it leaves to the reference."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from spp.stats.backends import reduce, reference
from spp.stats.backends.reference import CHUNK, saturated
from spp.stats.statistics import summarize
from spp.stats.sums import Room, Sums
from tests.stats.arrays import LAYOUTS, channels_last, contiguous, oracle, tensors

SHAPES = {
    "long rows": ((4, 6, 12, 16), 1),
    "rows of one channel each": ((37, 300), 0),
    "rows that fill a piece": ((3, 2, CHUNK // 4), 1),
    "long rows of odd length": ((2, 3, 131, 131), 1),
    "few elements": ((6, 5, 11), 1),
    "short runs": ((5, 40, 3, 3), 1),
    "short runs in several pieces": ((8, 2048, 6, 6), 1),
    "weights of a depthwise convolution": ((96, 1, 5, 5), 0),
    "columns": ((64, 50), 1),
    "a bias": ((33,), 0),
    "one channel": ((7, 11, 13), None),
}


NUMBERS = (
    *("numel", "nonfinite", "mean", "var", "mean_square", "acsm", "acv"),
    *("min", "max", "zero_fraction", "dead_fraction", "saturated_fraction"),
)


def quick(x: Tensor, axis: int | None, ends: tuple[float, float] | None) -> Sums | None:
    return reference.reduce_whole(x, axis, ends, Room(0))


def expected(x: Tensor, axis: int | None, ends: tuple[float, float] | None = None) -> dict[str, float]:
    """The numbers of the oracle's table."""
    table = torch.from_numpy(oracle(x, axis))
    if ends is not None:
        table[-1] = saturated(x, axis, ends)
    summary = summarize([Sums.of_table(table)])
    return {name: float(summary[name][0]) for name in NUMBERS}


def assert_numbers(found: Sums, want: dict[str, float]) -> None:
    got = {name: float(values[0]) for name, values in summarize([found]).items()}
    for name in ("numel", "nonfinite", "min", "max", "dead_fraction", "saturated_fraction"):
        assert got[name] == want[name], name
    assert got["zero_fraction"] == pytest.approx(want["zero_fraction"], rel=1e-12)
    for name in ("var", "mean_square", "acv"):
        assert got[name] == pytest.approx(want[name], rel=1e-6, abs=1e-300), name
    rms = np.sqrt(want["mean_square"])
    assert abs(got["mean"] - want["mean"]) <= 1e-6 * rms
    assert (
        abs(np.sqrt(got["acsm"]) - np.sqrt(want["acsm"])) <= 1e-6 * rms
    )  # as near as means within 1e-6 of the rms are


@settings(deadline=None, max_examples=200)
@given(tensors())
def test_what_it_gives_is_right(drawn):
    x, axis = drawn
    if (found := quick(x, axis, None)) is not None:
        assert_numbers(found, expected(x, axis))


@pytest.mark.parametrize(("shape", "axis"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("offset", [0.0, 0.5, 7.0])
def test_ordinary_tensors_go_the_short_way(shape, axis, offset):
    torch.manual_seed(0)
    x = torch.randn(shape).add(offset).relu()
    if len(shape) > 1 and axis is not None:
        x.select(axis, 1).zero_()  # a dead channel
    ends = (0.1, 1.5)
    found = quick(x, axis, ends)
    assert found is not None
    assert_numbers(found, expected(x, axis, ends))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_layouts_agree_or_are_left(layout):
    x = layout(torch.randn(8, 16, 10, 12))
    found = quick(x, 1, (-1.0, 1.0))
    assert (found is not None) or layout not in (contiguous, channels_last)
    if found is not None:
        assert_numbers(found, expected(x, 1, (-1.0, 1.0)))


@pytest.mark.parametrize(("shape", "axis"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_left(shape, axis, value):
    x = torch.randn(shape)
    x.view(-1)[x.numel() // 2] = value
    assert quick(x, axis, None) is None
    assert summarize([reduce(x, axis, whole=True)])["nonfinite"][0] == 1


@pytest.mark.parametrize(("shape", "axis"), SHAPES.values(), ids=SHAPES)
def test_a_mean_far_above_the_spread_is_left_or_exact(shape, axis):
    x = torch.randn(shape) + 1000
    if (found := quick(x, axis, None)) is not None:
        assert_numbers(found, expected(x, axis))


def test_long_rows_that_cannot_be_cut_are_left():
    """In float32 the squares of 100,000 numbers add up to less than six digits."""
    assert quick(torch.randn(2, 99_991), 0, None) is None
    for length in (99_990, 10_007):  # one that can, and one of which torch's own sums are exact enough
        x = torch.randn(2, length)
        found = quick(x, 0, None)
        assert found is not None
        assert_numbers(found, expected(x, 0))


@pytest.mark.parametrize("run", [64, 256, 509, 4608, 9 * 1021])
def test_squares_that_are_all_equal_are_added_up_exactly_enough(run):
    x = torch.tensor([-0.1000137, 0.1000137])[torch.randint(2, (6, run))]
    found = quick(x, 0, None)
    assert found is not None
    assert_numbers(found, expected(x, 0))


@pytest.mark.parametrize("size", [6, 12])
def test_a_channel_that_hardly_varies_among_others_that_do_is_measured_about_its_mean(size):
    torch.manual_seed(0)
    x = torch.randn(8, 40, size, size)
    for rest in (1e-3 * torch.randn(8, size, size), 0.0):
        x[:, 3] = 0.2 + rest
        for part in (x, x[:, 2:4].contiguous()):
            found = quick(part, 1, None)
            assert found is not None
            assert_numbers(found, expected(part, 1))


def test_constants_zeros_and_nothing():
    for value in (0.0, 3.25):
        x = torch.full((4, 6, 80), value)
        x[:, 1] = 5.5
        found = quick(x, 1, None)
        assert found is not None
        assert_numbers(found, expected(x, 1))
    for shape, axis in SHAPES.values():
        found = quick(torch.zeros(shape), axis, None)
        assert found is not None
        assert_numbers(found, expected(torch.zeros(shape), axis))
    assert quick(torch.zeros(0, 6), 1, None) is None
    assert quick(torch.ones(3, 4, dtype=torch.float64), 1, None) is None
