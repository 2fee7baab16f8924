"""A statistic is a row: registered from outside the package it has a column, on every backend, merged, saved and read back."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import spp
from spp.errors import InputError, UnknownNameError
from spp.frame.schema import COLUMNS, PREDICTED, Column, check
from spp.stats import backends
from spp.stats.statistics import STATISTICS, Spec, Statistic, register_statistic, summarize
from spp.stats.sums import SUMS, Sum


def negatives(tensor: Tensor, axis: int | None) -> Tensor:
    """How many values of each channel are negative."""
    rest = [d for d in range(tensor.dim()) if axis is not None and d != axis % tensor.dim()]
    return (tensor < 0).sum(rest if axis is not None else None).to(torch.float64).reshape(-1)


def spread() -> Statistic:
    return Statistic(
        "spread",
        ("min", "max"),
        lambda s: s["max"] - s["min"],
        Spec("float64", "spread", "largest minus smallest finite element", missing=True),
    )


def negative_fraction() -> Statistic:
    return Statistic(
        "negative_fraction",
        (Sum("negatives", negatives), "count"),
        lambda s: s["negatives"] / s["count"],
        Spec("float64", "share of negatives", "share of values below zero", missing=True),
    )


@pytest.fixture
def registered():
    rows = register_statistic(spread()), register_statistic(negative_fraction())
    yield rows
    for row in rows:
        STATISTICS.unregister(row.name)
    SUMS.unregister("negatives")


@pytest.fixture(params=["auto", "off"])
def kernels(request, monkeypatch):
    monkeypatch.setenv("SPP_KERNELS", request.param)
    backends.choose()
    yield
    monkeypatch.undo()
    backends.choose()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))


def test_registered_statistics_have_columns_and_the_rest_stays_as_it_is(registered, kernels):
    model, batch = network(), torch.randn(6, 3, 6, 6)
    plain = spp.trace(model, batch).frame
    frame = spp.trace(model, batch, statistics=("spread", "negative_fraction")).frame
    assert list(frame.columns) == [*COLUMNS, "spread", "negative_fraction"]
    for name in plain.select_dtypes("number"):
        np.testing.assert_allclose(frame[name], plain[name], rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(frame["spread"], frame[Column.MAX] - frame[Column.MIN], rtol=1e-6)
    out = model[0](batch)
    row = frame[(frame.name == "0") & (frame.signal == "activation")]
    assert row["negative_fraction"].item() == pytest.approx((out < 0).float().mean().item(), abs=1e-6)
    weights = frame[(frame.name == "3") & (frame.signal == "weight") & (frame.output == "weight")]
    assert weights["negative_fraction"].item() == (model[3].weight < 0).double().mean().item()


def test_they_are_drawn_where_the_frame_has_them(registered):
    run = spp.trace(network(), torch.randn(4, 3, 6, 6), statistics=("spread",))
    drawn = run.plot("layers", statistics=("spread",))
    assert "spread" in drawn.axes_[0].get_ylabel()
    with pytest.raises(
        InputError, match=r"were measured; got 'negative_fraction', .*statistics=\('negative_fraction',\)"
    ):
        run.plot("layers", statistics=("negative_fraction",))


def test_sums_of_ones_own_merge_over_batches(registered, kernels):
    model, batch = network().double(), torch.randn(8, 3, 6, 6, dtype=torch.float64)
    whole = spp.trace(model, batch, statistics="negative_fraction").frame
    parts = spp.trace(model, list(batch.split(2)), statistics="negative_fraction").frame
    activations = (whole.signal == "activation").to_numpy()
    np.testing.assert_array_equal(parts["negative_fraction"][activations], whole["negative_fraction"][activations])


def test_a_run_with_them_is_checked_saved_read_and_joined_with_theory(registered, tmp_path):
    run = spp.trace(network(), torch.randn(4, 3, 6, 6), statistics=("spread",))
    run.save(tmp_path / "run")
    again = spp.load(tmp_path / "run").frame
    assert again["spread"].equals(run.frame["spread"])
    with_theory = run.frame.assign(**dict.fromkeys(map(str, PREDICTED), np.nan))
    assert check(with_theory, COLUMNS) is with_theory
    STATISTICS.unregister("spread")
    try:
        with pytest.raises(InputError, match=r"unknown \['spread'\].*register statistics of your own before"):
            spp.load(tmp_path / "run")
    finally:
        register_statistic(spread())


def test_a_row_that_is_passed_is_registered_by_that():
    row = spread()
    try:
        frame = spp.trace(network(), torch.randn(4, 3, 6, 6), statistics=[row, row]).frame
        assert STATISTICS["spread"] is row and check(frame, COLUMNS) is frame
    finally:
        STATISTICS.unregister("spread")


def test_moments_4_is_another_name_for_the_kurtosis():
    model, batch = network(), torch.randn(4, 3, 6, 6)
    old, new = (spp.trace(model, batch, **options).frame for options in ({"moments": 4}, {"statistics": ("kurtosis",)}))
    assert new[Column.KURTOSIS].notna().any() and list(new.columns) == list(COLUMNS)
    assert old.equals(new)


def test_extremes_and_scales_of_sums_of_ones_own():
    largest = Sum("largest", lambda x, axis: x.abs().amax().reshape(1), merge="max", scaled=1)
    row = Statistic("peak", (largest,), lambda s: s["largest"], Spec("float64", "peak", "largest magnitude"))
    register_statistic(row)
    try:
        a, b = (backends.reduce(x, 1, further=[largest]) for x in (torch.randn(5, 3), 2 * torch.randn(7, 3)))
        both = a.merge(b).scaled(0.5)
        found = summarize([a, both], [row])["peak"]
        assert found[1] == 0.5 * max(found[0], float(b.further["largest"]))
    finally:
        STATISTICS.unregister("peak")
        SUMS.unregister("largest")


def test_errors_name_what_there_is():
    with pytest.raises(UnknownNameError, match="kurtosis"):
        spp.trace(network(), torch.randn(4, 3, 6, 6), statistics=("curtosis",))
    with pytest.raises(InputError, match="names of the table of statistics are unique"):
        register_statistic(Statistic("acsm", ("count",), lambda s: s["count"], Spec("float64", "a", "b")))
    with pytest.raises(UnknownNameError, match="zeros"):
        register_statistic(Statistic("share", ("zeroes",), lambda s: s["zeroes"], Spec("float64", "a", "b")))
    with pytest.raises(InputError, match="a statistic is a column of float64 or int64; got str"):
        register_statistic(Statistic("word", ("count",), lambda s: s["count"], Spec("str", "a", "b")))
