"""Moments: merging is exact, order does not matter, and the numbers of the reference sheet come out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spp.errors import InputError
from spp.stats import backends
from spp.stats.backends import reduce
from spp.stats.extra import FOURTH
from spp.stats.statistics import STATISTICS, summarize
from spp.stats.sums import Room, Sums, Total, totals
from tests.oracle import columns


def numbers(moments: Sums) -> dict[str, float]:
    summary = summarize([moments])
    return {name: summary[name][0] for name in ("mean", "var", "mean_square", "acsm", "acv", "min", "max")}


def test_hand_checked_numbers():
    """SCIENCE 1.1: [[1, 2], [3, 4]] over (n, c) gives ACSM 6.5, ACV 1, mean square 7.5; a constant k gives k^2 and 0."""
    found = numbers(reduce(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 1))
    assert (found["acsm"], found["acv"], found["mean_square"]) == (6.5, 1.0, 7.5)
    constant = numbers(reduce(torch.full((4, 3, 2), 0.3), 1))
    assert constant["acsm"] == pytest.approx(0.3**2, rel=1e-6) and constant["acv"] == 0.0


def test_unit_normal_channels_have_the_expected_split():
    """SCIENCE 1.1: n samples of N(0, 1) per channel have E[ACSM] = 1/n and E[ACV] = 1 - 1/n."""
    x = torch.randn(8, 20_000, generator=torch.Generator().manual_seed(0))
    found = numbers(reduce(x, 1))
    assert found["acsm"] == pytest.approx(1 / 8, rel=0.03) and found["acv"] == pytest.approx(7 / 8, rel=0.03)


@given(
    st.lists(st.integers(1, 40), min_size=3, max_size=3),
    st.floats(-1e3, 1e3),
    st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_merging_is_associative_and_commutative(sizes, offset, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b, c = (
        reduce(torch.randn(n, 5, generator=generator, dtype=torch.float64) + offset * i, 1) for i, n in enumerate(sizes)
    )
    left, right, other = a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a).merge(b)
    for one, two in ((left, right), (left, other)):
        np.testing.assert_allclose(one["mean"], two["mean"], rtol=1e-12, atol=1e-12 * (1 + abs(offset)))
        np.testing.assert_allclose(one["m2"], two["m2"], rtol=1e-12, atol=1e-300)
        assert (
            torch.equal(one["count"], two["count"])
            and torch.equal(one["min"], two["min"])
            and torch.equal(one["max"], two["max"])
        )


@pytest.mark.parametrize("mode", ["auto", "off"])
@pytest.mark.parametrize("shape", [(64, 12, 9, 9), (64, 40), (64, 7, 33)])
def test_one_batch_of_64_equals_4_of_16_and_64_of_1_in_any_order(monkeypatch, mode, shape):
    monkeypatch.setenv("SPP_KERNELS", mode)
    exact = backends.choose().native
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 2 + 0.7
    whole = reduce(x, 1)
    for size in (16, 1):
        parts = [reduce(part, 1) for part in x.split(size)]
        for order in (parts, parts[::-1], [parts[i] for i in torch.randperm(len(parts)).tolist()]):
            merged = order[0]
            for part in order[1:]:
                merged = merged.merge(part)
            assert torch.equal(merged["count"], whole["count"]) and torch.equal(merged["zeros"], whole["zeros"])
            assert torch.equal(merged["min"], whole["min"]) and torch.equal(merged["max"], whole["max"])
            a, b = numbers(merged), numbers(whole)
            for name in ("mean_square", "acv", "var", "acsm"):
                assert a[name] == pytest.approx(b[name], rel=1e-12 if exact else 1e-6), name
    monkeypatch.undo()
    backends.choose()


def test_scaling_scales_every_moment():
    x = torch.randn(6, 4)
    a, b = numbers(reduce(x, 1).scaled(0.25)), numbers(reduce(x * 0.25, 1))
    for name, value in a.items():
        assert value == pytest.approx(b[name], rel=1e-6)


def test_many_readings_are_summarized_at_once():
    tensors = [
        torch.randn(3, 4, 5),
        torch.empty(0, 2),
        torch.tensor(3.0),
        torch.full((2, 2), float("nan")),
        torch.zeros(4, 2),
    ]
    axes = [1, 1, None, 1, 1]
    summary = summarize([reduce(t, a) for t, a in zip(tensors, axes, strict=True)])
    assert summary["numel"].tolist() == [60, 0, 1, 4, 8] and summary["nonfinite"].tolist() == [0, 0, 0, 4, 0]
    assert np.isnan(summary["acv"][1]) and np.isnan(summary["min"][1]) and np.isnan(summary["acv"][3])
    assert summary["dead_fraction"][4] == 1.0 and summary["acsm"][2] == 9.0
    expected = columns(tensors[0].numpy(), 1)
    for name in ("mean", "var", "acsm", "acv", "min", "max", "dead_fraction"):
        assert summary[name][0] == pytest.approx(expected[name], rel=1e-6, abs=1e-9)


def test_an_error_names_the_axis():
    with pytest.raises(
        InputError, match=r"the channel axis needs to be an axis of the tensor; got axis 2 for shape \(2, 3\)"
    ):
        reduce(torch.ones(2, 3), 2)


@pytest.mark.parametrize("sizes", [(2, 3), (3, 0, 2), (4, 4, 1), (1, 5)])
def test_unequal_numbers_of_channels_merge_as_the_whole_tensor(sizes):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(3, size, generator=generator) * 3 + 1 for size in sizes]
    sums = reduce(tensors[0], 1, further=(FOURTH,))
    for tensor in tensors[1:]:
        sums = sums.merge(reduce(tensor, 1, further=(FOURTH,)))
    found = {name: values[0] for name, values in summarize([sums], [STATISTICS["kurtosis"]]).items()}
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    whole = summarize([reduce(flat, None, further=(FOURTH,))], [STATISTICS["kurtosis"]])
    for name in set(whole) - {"channels", "acsm", "acv", "dead_fraction"}:
        assert found[name] == pytest.approx(whole[name][0], rel=1e-6, nan_ok=True), name
    assert found["channels"] == 0 and np.isnan([found[name] for name in ("acsm", "acv", "dead_fraction")]).all()


@pytest.mark.parametrize("shape", [(8, 5, 9, 9), (8, 3), (4, 2, 300), (7,), (2, 6, 1, 1), (3, 0)])
def test_the_sums_of_a_whole_tensor_are_those_of_its_table(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2)) * 3 + 1
    x.view(-1)[::5] = 0
    x.view(-1)[1:2] = float("nan")
    for axis, ends in ((0, None), (len(shape) - 1, (-2.0, 2.0)), (None, None)):
        short, table = reduce(x, axis, ends, whole=True), reduce(x, axis, ends)
        for one, two in ((short, table), (short.scaled(0.5), table.scaled(0.5))):
            np.testing.assert_allclose(totals([one]), totals([two]), rtol=1e-12, atol=1e-12)
        assert short.same(reduce(x, axis, ends, whole=True)) and short.same(table) == table.same(short)
        if short.whole:
            assert not short.same(table)
            with pytest.raises(TypeError, match="numbers without their sums cannot be merged"):
                short.merge(short)


def test_readings_of_every_form_are_told_apart_at_once():
    generator = torch.Generator().manual_seed(5)
    tensors = [
        torch.randn(n, c, generator=generator) * 10.0 ** (c % 9) for n, c in ((8, 3), (1, 9), (30, 2), (40, 40_000))
    ]
    tensors += [torch.full((2, 2), float("nan")), torch.empty(0, 2), torch.empty(3, 0), torch.zeros(4, 2)]
    tensors[0][0, 1], tensors[1][0, :4] = float("inf"), 0.0
    room = Room(100)
    readings = [reduce(t, 1, whole=i % 2 == 0, room=room) for i, t in enumerate(tensors)]
    alone = np.concatenate([totals([reduce(t, 1)]) for t in tensors])
    np.testing.assert_allclose(totals(readings), alone, rtol=1e-12, atol=1e-9)  # sums may cancel


def test_many_tensors_are_reduced_as_each():
    generator = torch.Generator().manual_seed(4)
    tensors = [torch.randn(shape, generator=generator) for shape in ((8, 3, 5, 5), (40,), (64, 1, 3, 3), (7, 9))]
    tensors += [tensors[0].transpose(0, 1), torch.randn(70_000, generator=generator).bfloat16(), torch.tensor(2.0)]
    axes = [0, 0, 0, 1, None, 0, None]
    found = backends.reduce_all(tensors, axes, Room())
    if found is None:
        pytest.skip("no C kernel here")
    assert [d.channels for d in found] == [8, 40, 64, 9, 1, 70_000, 1]
    assert totals(found)[:, Total.CHANNELS].tolist() == [8, 40, 64, 9, 1, 70_000, 1]
    assert all(d.same(reduce(t, axis, whole=True)) for d, t, axis in zip(found, tensors, axes, strict=True))
    assert backends.reduce_all([], [], Room()) == []
    assert backends.reduce_all([*tensors, torch.ones(2).to_sparse()], [*axes, 0], Room()) is None
    assert backends.reduce_all([*tensors, torch.empty(0, 3)], [*axes, 0], Room()) is None
