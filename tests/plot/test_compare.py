"""Several runs in one figure: alignment, medians and ranges, and where curves part."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import spp
from spp import plot
from spp.errors import InputError, StoreError, UnknownNameError
from spp.plot.captions import brief
from spp.plot.divergence import binned, compared, divergence
from spp.plot.panels import MOST_LINES, Curve, Curves
from spp.plot.series import BY_DEPTH, align, innermost, merged_order
from spp.plot.style import CURVES
from spp.vocabulary import Signal

from .frames import RUN, frame, network, residual_names, row


def _run(curve: Any, seed: int = 7, named: Sequence[tuple[str, str]] | None = None, **facts: object) -> Any:
    return SimpleNamespace(frame=network(curve, named=named), run=RUN | {"seed": seed} | facts)


def _curve(values: Sequence[float], label: str = "b", names: Sequence[str] | None = None, **more: Any) -> Curve:
    x = np.arange(len(values), dtype=np.float64)
    return Curve.of(label, x, np.array(values), names=tuple(names or [f"l{i}" for i in range(len(values))]), **more)


def _panels(figure: Any, signal: Signal, statistic: str) -> Curves:
    (panel,) = [p for p in figure.panels if p.signal is signal and p.statistic == statistic]
    assert isinstance(panel, Curves)
    return panel


def test_each_line_is_the_frames_numbers_and_the_difference_their_ratio() -> None:
    one, two = _run(lambda t: 1 + t), _run(lambda t: 10.0 ** (-6 * t), norm="batch")
    figure = plot.compare({"none": one, "batch": two}, signals="activation", statistics="acv", style="paper")
    panel, difference = figure.panels
    assert isinstance(panel, Curves) and isinstance(difference, Curves)
    for curve, run in zip(panel.curves, (one, two), strict=True):
        rows = run.frame[run.frame["signal"] == "activation"].sort_values("depth")
        np.testing.assert_array_equal(curve.y, rows["acv"])
    np.testing.assert_allclose(difference.curves[0].y, panel.curves[1].y / panel.curves[0].y)
    for shown, drawn in zip(figure.panels, figure.artists_, strict=True):
        for curve, line in zip(shown.curves, drawn.curves, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), curve.x)
            np.testing.assert_array_equal(line.get_ydata(), curve.y)


@pytest.mark.parametrize("statistic", ["mean_square", "nonfinite", "kurtosis"])
def test_any_statistic_can_be_compared(statistic: str) -> None:
    """The mean square too, which other statistics are measured by."""
    one, two = _run(lambda t: 1 + t), _run(lambda t: 2 + t, norm="batch")
    figure = plot.compare({"none": one, "batch": two}, signals="activation", statistics=statistic, style="paper")
    for curve, run in zip(figure.panels[0].curves, (one, two), strict=True):  # type: ignore[union-attr]
        rows = run.frame[run.frame["signal"] == "activation"].sort_values("depth")
        np.testing.assert_array_equal(curve.y, rows[statistic])


def test_the_note_names_the_layer_and_the_factor() -> None:
    names = [name for name, _ in residual_names()]
    other = lambda t: np.where(np.arange(len(t)) >= 40, 5.0, 1.0)  # noqa: E731
    figure = plot.compare(
        {"a": _run(lambda t: t * 0 + 1), "b": _run(other)}, signals="activation", statistics="acv", style="paper"
    )
    assert figure.panels[1].note == f"b parts at {names[40]}: ×5"
    assert f"b parts at {names[40]}" in figure.axes_[1].get_title().replace("\n", " ")


def test_seeds_of_a_label_are_a_median_and_a_range() -> None:
    runs = [_run(lambda t, f=factor: f * (1 + t), seed=seed) for seed, factor in enumerate([1.0, 3.0, 2.0])]
    figure = plot.compare(runs, signals="activation", statistics="acv")
    (panel,) = figure.panels  # one label: nothing to compare with
    assert isinstance(panel, Curves)
    (curve,) = panel.curves
    base = runs[0].frame.query("signal == 'activation'")["acv"].to_numpy()
    np.testing.assert_allclose(curve.y, 2 * base)
    np.testing.assert_allclose(curve.shades[0].low, base)
    np.testing.assert_allclose(curve.shades[0].high, 3 * base)
    assert "seeds 0, 1, 2" in figure.caption
    assert len(figure.artists_[0].shades) == 1


def test_labels_are_the_facts_that_differ() -> None:
    runs = [_run(lambda t: 1 + t, norm=norm, seed=seed) for norm in ("none", "batch") for seed in (0, 1)]
    figure = plot.compare(runs, signals="activation", statistics="acv")
    assert [curve.label for curve in figure.panels[0].curves] == ["norm none", "norm batch"]  # type: ignore[union-attr]
    assert "norm none and norm batch compared" in figure.caption and "norm none," not in figure.caption
    assert "init he" in figure.caption and "batch of 32" in figure.caption


def test_runs_that_nothing_tells_apart_are_numbered() -> None:
    figure = plot.compare([_run(lambda t: 1 + t), _run(lambda t: 2 + t)], signals="activation", statistics="acv")
    assert [curve.label for curve in figure.panels[0].curves] == ["testnet (1)", "testnet (2)"]  # type: ignore[union-attr]


def test_a_frame_alone_can_be_compared() -> None:
    frames = {"a": network(lambda t: 1 + t), "b": network(lambda t: 2 + t)}
    assert len(plot.compare(frames, statistics=["acv"]).panels) == 4


def test_run_folders_are_compared_and_named(tmp_path: Path) -> None:
    trace = spp.trace(spp.models.build("ffn", norm="none"), spp.data.gaussian(4, (3, 32, 32), seed=0))
    folders = [trace.save(tmp_path / name) for name in ("before", "after")]
    figure = plot.compare(folders, signals="activation", statistics="acv")
    assert [curve.label for curve in figure.panels[0].curves] == ["before", "after"]  # type: ignore[union-attr]
    assert figure.panels[1].note == "after stays within a factor 2 of before"
    with pytest.raises(StoreError, match=r"a run is a folder that trace\.save"):
        plot.compare([tmp_path])


def test_layers_of_the_same_name_stand_under_each_other() -> None:
    short = [("fc0", "Linear"), ("fc1", "Linear"), ("fc2", "Linear")]
    long = [("fc0", "Linear"), ("norm0", "LayerNorm"), ("fc1", "Linear"), ("norm1", "LayerNorm"), ("fc2", "Linear")]
    leaves = [innermost(network(lambda t: 1 + t, named=named)) for named in (short, long)]
    axis = align(leaves)
    assert axis.by_name and axis.labels == ("fc0", "norm0", "fc1", "norm1", "fc2")
    assert axis.places[0] == {("fc0", 0): 0, ("fc1", 0): 2, ("fc2", 0): 4}


def test_networks_with_other_names_are_aligned_by_relative_depth() -> None:
    other = [(f"layer{i}", "Linear") for i in range(5)]
    figure = plot.compare(
        {"a": _run(lambda t: 1 + t), "b": _run(lambda t: 3 + 3 * t, named=other)},
        signals="activation",
        statistics="acv",
    )
    first = figure.panels[0]
    assert isinstance(first, Curves) and first.xlabel == BY_DEPTH
    assert [float(curve.x[-1]) for curve in first.curves] == [first.size - 1] * 2
    assert figure.panels[1].note.startswith("b parts at layer0: ×")


@given(st.lists(st.lists(st.sampled_from("abcdefghij"), max_size=10, unique=True).map(sorted), min_size=1, max_size=4))
def test_merging_orders_that_agree_keeps_every_one_of_them(sequences: list[list[str]]) -> None:
    order = merged_order(sequences)
    assert sorted(order) == sorted({key for one in sequences for key in one})
    first = [key for key in order if key in sequences[0]]
    assert first == sequences[0]


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ([1, 1, 1, 1, 1], [1, 1, 5, 5, 50], "b parts at l2: ×5; most at l4: ×50"),
        ([1, 1, 1, 1, 1], [1, 9, 1, 1, 1], "b stays within a factor 2 of a"),
        ([1, 1, 1, 1, 1], [1, 1, 1, 1, 0.1], "b parts at l4: ×0.1"),
        ([1, 1, 1, 1, 1], [1, 1, np.nan, np.nan, np.nan], "b parts at l2: not finite"),
        ([1, 1, 1, 1, 1], [1, 1, 0, 0, 0], "b parts at l2: zero on one side"),
        ([1, 1, 1, 1, 1], [1, 1, 1, 1e-9, 2e-9], "b parts at l3: ×1e-9"),
    ],
)
def test_divergence(a: list[float], b: list[float], words: str) -> None:
    assert str(divergence(_curve(a, "a"), _curve(b), ratio=True)) == words


def test_signed_numbers_are_subtracted() -> None:
    a, b = _curve([0.1, 0.1, 0.1, 0.1], "a"), _curve([0.1, -0.3, -0.3, -0.5])
    assert str(divergence(a, b, ratio=False)) == "b parts at l1: -0.4; most at l3: -0.6"
    np.testing.assert_allclose(compared(a, b, ratio=False).y, [0, -0.4, -0.4, -0.6], atol=1e-15)


def test_what_is_zero_to_rounding_is_no_divergence() -> None:
    b = Curve.of("b", np.arange(3.0), np.array([1.0, 1e-17, 1.0]), np.ones(3), names=("x", "y", "z"))
    assert divergence(_curve([1, 1, 1], "a"), b, ratio=True).name == ""
    assert np.isnan(compared(_curve([1, 1, 1], "a"), b, ratio=True).y[1])


def test_the_mean_over_a_part_of_the_depth_is_geometric() -> None:
    curve = _curve([1.0, 100.0, 0.0, 4.0])
    np.testing.assert_allclose(binned(curve, 4, 2, log=True).y, [10.0, 4.0])
    np.testing.assert_allclose(binned(curve, 4, 2, log=False).y, [50.5, 2.0])
    assert binned(curve, 4, 2, log=True).names == ("l0", "l2")


@pytest.mark.parametrize(("value", "text"), [(140.3, "140"), (6.02e9, "6e9"), (0.2849, "0.28"), (1.2e-14, "1.2e-14")])
def test_factors_are_short(value: float, text: str) -> None:
    assert brief(value) == text


def test_nonfinite_layers_and_zeros_are_marked_for_each_line() -> None:
    rows = [row(i, f"l{i}", Signal.ACTIVATION, v, v) for i, v in enumerate([1.0, 0.0, 1e-5, np.nan])]
    table = frame(rows)
    table.loc[3, "nonfinite"] = 4
    other = network(lambda t: 1 + t, named=[(f"l{i}", "Conv2d") for i in range(4)])
    figure = plot.compare({"a": table, "b": other}, "compare")
    drawn = figure.artists_[0]
    assert [list(line.get_xdata()) for line in drawn.nonfinite] == [[3.0]]
    assert [list(line.get_xdata()) for line in drawn.limits] == [[1.0]]  # type: ignore[attr-defined]


def test_every_line_has_a_look_of_its_own() -> None:
    figure = plot.compare({f"run {i}": _run(lambda t, i=i: i + 1 + t) for i in range(8)}, statistics="acv")
    lines = figure.artists_[0].curves
    assert len(CURVES) == MOST_LINES == 8
    for get in ("get_color", "get_marker"):
        assert len({getattr(line, get)() for line in lines}) == 8
    assert len({str(line._unscaled_dash_pattern) for line in lines}) == 8  # type: ignore[attr-defined]


def test_wrong_input_is_one_clear_line() -> None:
    one = _run(lambda t: 1 + t)
    with pytest.raises(InputError, match=r"^runs: a comparison needs at least one run; got none\.$"):
        plot.compare([])
    with pytest.raises(InputError, match=r"at most 8 lines can be told apart in one figure; got 9"):
        plot.compare({str(i): one for i in range(9)})
    with pytest.raises(InputError, match=r"a run to compare is a trace, a run folder or a frame; got a int"):
        plot.compare([3])
    with pytest.raises(UnknownNameError, match=r"unknown statistic 'avc'\. Did you mean 'acv'.*Known: mean, var"):
        plot.compare([one], statistics="avc")
    with pytest.raises(InputError, match="got an empty frame"):
        plot.compare([one.frame.iloc[:0]])
    other = _run(lambda t: 1 + t, named=[("fc", "Linear")], seed=1)
    with pytest.raises(InputError, match="runs of one label need the same layers"):
        plot.compare({"a": [one, other]}, "compare")
    with pytest.raises(InputError, match="runs of one label need the same components"):
        plot.compare({"a": [one, other]})
    with pytest.raises(InputError, match=r"step 5.*Steps: 0\."):
        plot.compare([one], step=5)
    assert isinstance(one.frame, pd.DataFrame)


def test_networks_whose_layers_do_not_face_each_other_and_of_which_one_lacks_a_signal(tmp_path):
    torch.manual_seed(0)
    a, b = (nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(n))) for n in (3, 5))
    named = nn.ModuleDict({"other": b})["other"]
    x = torch.randn(8, 4)
    without = spp.trace(nn.Sequential(nn.Sequential(named)), x, signals=["activation"])
    for runs in ({"a": spp.trace(a, x), "b": without}, {"b": without, "a": spp.trace(a, x)}):
        assert spp.compare(runs).plot().save(tmp_path / "figure.svg").exists()
