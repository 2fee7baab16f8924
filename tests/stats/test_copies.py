"""How far tensors have moved since they were copied, against NumPy in float64."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spp.stats import backends
from spp.stats.backends import native
from spp.stats.backends.native import ROOM, Copies
from tests.stats.arrays import FLOATS

pytestmark = pytest.mark.skipif(not native.status().native, reason=f"no C kernel here: {native.status().reason}")


def squares(before: Tensor, now: Tensor) -> float:
    difference = now.double().numpy() - before.double().numpy()
    return float(np.square(difference[np.isfinite(difference)]).sum())


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("threads", [1, 2])
def test_moved_is_the_sum_of_squares_of_the_differences(dtype, threads):
    if dtype not in native.LIBRARY.readable:
        pytest.skip(f"this build does not read {dtype}")
    before = [torch.randn(shape).to(dtype) for shape in ((3, 5), (7,), (2, 3, 5, 5), (), (ROOM // 4 + 3,), (40, 300))]
    before[2] = before[2].contiguous(memory_format=torch.channels_last)
    tensors = [tensor.clone() for tensor in before]
    copies = Copies.of(tensors)
    assert copies is not None
    for tensor in tensors:
        tensor.mul_(0.9).add_(0.01)
    tensors[0][1, 2], tensors[1][3] = torch.nan, torch.inf
    want = [squares(old, new) for old, new in zip(before, tensors, strict=True)]
    had = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert copies.moved(tensors) == pytest.approx(want, rel=1e-12)
    finally:
        torch.set_num_threads(had)


def test_what_cannot_be_compared_any_more_is_missing():
    tensors = [torch.ones(4, 4), torch.ones(3), torch.ones(2)]
    copies = Copies.of(tensors)
    assert copies is not None
    moved = copies.moved([torch.ones(4, 4).t()[:, :2], torch.zeros(3, dtype=torch.float64), torch.full((2,), 3.0)])
    assert np.isnan(moved[:2]).all() and moved[2] == 8.0


def test_only_plain_tensors_in_one_stretch_are_copied(monkeypatch):
    one = nn.Parameter(torch.ones(4, 4))
    assert Copies.of([one]) is not None and Copies.of([]) is not None
    assert Copies.of([one, torch.ones(4, 4)[:, ::2]]) is None
    assert Copies.of([one, torch.ones(3, dtype=torch.int64)]) is None
    assert backends.copies([one]) is not None
    monkeypatch.setenv("SPP_KERNELS", "off")
    try:
        backends.choose()
        assert backends.copies([one]) is None
    finally:
        monkeypatch.undo()
        backends.choose()
