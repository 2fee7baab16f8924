"""Results over a column of a table: medians and ranges, the axis that fits, and what is drawn."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from spp import plot
from spp.errors import InputError, UnknownNameError
from spp.plot.kinds.outcomes import axis_of
from spp.plot.panels import Axis, Outcomes

RATES = (0.1, 0.001, 0.01)


def _table(**more: Any) -> pd.DataFrame:
    rows = [
        {"norm": norm, "lr": lr, "seed": seed, "accuracy": base + 0.01 * seed + lr}
        for norm, base in (("none", 0.5), ("batch", 0.7))
        for lr in RATES
        for seed in (0, 1, 5)
    ]
    return pd.DataFrame(rows).assign(**more)


def _only(figure: Any) -> Outcomes:
    (panel,) = figure.panels
    assert isinstance(panel, Outcomes)
    return panel


def test_a_line_is_the_median_over_seeds_and_its_band_their_range() -> None:
    figure = plot.outcomes(_table(), x="lr", y="accuracy", by="norm", chance=0.1)
    panel = _only(figure)
    none, batch = panel.curves
    assert (none.label, batch.label) == ("none", "batch")
    rates = np.array(sorted(RATES))
    np.testing.assert_array_equal(none.x, rates)
    np.testing.assert_allclose(none.y, 0.51 + rates)
    np.testing.assert_allclose(none.shades[0].low, 0.50 + rates)
    np.testing.assert_allclose(batch.shades[0].high, 0.75 + rates)
    (drawn,) = figure.artists_
    for curve, line in zip(panel.curves, drawn.curves, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), curve.x)
        np.testing.assert_array_equal(line.get_ydata(), curve.y)
    assert drawn.zero_line is not None and list(drawn.zero_line.get_ydata()) == [0.1, 0.1]
    assert list(drawn.handles) == ["range over seeds (line: median)", "none", "batch", "chance (0.1)"]
    (axes,) = figure.axes_
    assert axes.get_xscale() == "log" and axes.get_ylim()[0] < 0.1
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.001", "0.01", "0.1"]


def test_the_caption_says_what_is_drawn() -> None:
    facts = {"model": "ffn", "data": "digits"}
    figure = plot.outcomes(_table(), x="lr", y="accuracy", by="norm", xlabel="learning rate", run=facts)
    assert figure.caption == (
        "Results of ffn on digits inputs: accuracy against learning rate (log scale) for none and batch; "
        "the lines are medians and the bands ranges over 3 runs."
    )
    one = plot.outcomes(_table().query("seed == 0"), x="lr", y="accuracy", by="norm")
    assert one.caption == "Results: accuracy against lr (log scale) for none and batch."
    assert not one.panels[0].curves[0].shades  # type: ignore[union-attr]


def test_panels_have_the_same_axes_and_names() -> None:
    table = pd.concat([_table(model="small"), _table(model="large").assign(accuracy=0.9)])
    names = {"none": "no norm", "large": "a large one"}
    figure = plot.outcomes(table, x="lr", y="accuracy", by="norm", panels="model", names=names)
    assert [panel.note for panel in figure.panels] == ["small", "a large one"]
    assert [curve.label for curve in figure.panels[0].curves] == ["no norm", "batch"]  # type: ignore[union-attr]
    assert len({axes.get_ylim() for axes in figure.axes_}) == 1
    assert [axes.get_title() for axes in figure.axes_] == ["small", "a large one"]
    assert "for each model" in figure.caption


def test_lines_and_words_come_in_the_order_of_their_categories() -> None:
    table = _table()
    table["norm"] = pd.Categorical(table["norm"], ["batch", "unused", "none"])
    figure = plot.outcomes(table, x="norm", y="accuracy", names={"none": "no norm"})
    panel = _only(figure)
    assert panel.axis is Axis.CATEGORY and panel.places == ((0.0, "batch"), (1.0, "no norm"))
    (curve,) = panel.curves
    assert list(curve.x) == [0.0, 1.0] and curve.label == "accuracy"
    by = plot.outcomes(table, x="lr", y="accuracy", by="norm")
    assert [one.label for one in _only(by).curves] == ["batch", "none"]


def test_a_run_that_diverged_is_left_out_of_the_median_and_marked() -> None:
    table = _table()
    table.loc[(table["norm"] == "none") & (table["lr"] == 0.1) & (table["seed"] == 5), "accuracy"] = np.nan
    table.loc[(table["norm"] == "batch") & (table["lr"] == 0.01), "accuracy"] = np.inf
    figure = plot.outcomes(table, x="lr", y="accuracy", by="norm")
    none, batch = _only(figure).curves
    assert none.y[-1] == pytest.approx(0.605) and list(none.nonfinite) == [False, False, True]
    assert np.isnan(batch.y[1]) and list(batch.nonfinite) == [False, True, False]
    marks = [(list(line.get_xdata()), float(line.get_ydata()[0])) for line in figure.artists_[0].nonfinite]
    assert [place for place, _ in marks] == [[0.1], [0.01]]
    assert marks[0][1] == pytest.approx(0.605) and marks[1][1] > 0.8  # in its place, and at the top
    gone = plot.outcomes(table.assign(accuracy=np.nan), x="lr", y="accuracy")
    assert _only(gone).message == "no finite result"


def test_what_an_arm_lacks_is_missing_from_its_line() -> None:
    table = _table().query("norm == 'batch' or lr < 0.05")
    none, batch = _only(plot.outcomes(table, x="lr", y="accuracy", by="norm")).curves
    assert (len(none.x), len(batch.x)) == (2, 3)


def test_a_range_without_neighbours_is_a_bar() -> None:
    figure = plot.outcomes(_table().query("lr == 0.1"), x="lr", y="accuracy", by="norm")
    bars = figure.artists_[0].shades
    segments = [bar.get_segments() for bar in bars if hasattr(bar, "get_segments")]
    np.testing.assert_allclose(segments[0][0], [[0.1, 0.6], [0.1, 0.65]])


@pytest.mark.parametrize(
    ("numbers", "axis"),
    [
        ([1e-3, 1e-2, 1e-1], "log"),
        ([16, 32, 64, 128], "log"),
        ([1, 2, 3, 4], "linear"),
        ([0, 0.1, 10], "linear"),
        ([0.1, 1.0], "log"),
        ([3, 4], "linear"),
        ([5], "linear"),
        (["a", "b"], "category"),
        ([True, False], "category"),
    ],
)
def test_numbers_stand_on_the_axis_on_which_they_are_evenly_spaced(numbers: list[Any], axis: str) -> None:
    assert axis_of(pd.Series(numbers)) == axis


def test_many_numbers_are_named_as_room_allows() -> None:
    table = pd.DataFrame({"epoch": range(60), "loss": np.exp(-np.arange(60) / 10)})
    axes = plot.outcomes(table, x="epoch", y="loss", yscale="log", width="single").axes_[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "20", "40", "60"]
    assert axes.get_yscale() == "log" and axes.get_ylabel() == "loss (log scale)"
    words = pd.DataFrame({"net": [f"a rather long name {i}" for i in range(6)], "loss": range(6)})
    labels = plot.outcomes(words, x="net", y="loss", width="single").axes_[0].get_xticklabels()
    assert {label.get_rotation() for label in labels} == {90.0}
    rates = pd.DataFrame({"lr": np.logspace(-9, 0, 40), "loss": 1.0})
    shown = plot.outcomes(rates, x="lr", y="loss", width="single").axes_[0].get_xticklabels()
    boxes = [label.get_window_extent() for label in shown]
    assert len(boxes) > 3 and all(a.x1 < b.x0 for a, b in pairwise(boxes))


def test_it_is_saved_as_the_other_figures_are(tmp_path: Path) -> None:
    figure, again = (plot.outcomes(_table(), x="lr", y="accuracy", by="norm", chance=0.1) for _ in range(2))
    for suffix in ("png", "pdf", "svg", "pgf"):
        first = figure.save(tmp_path / f"a.{suffix}", style="paper", width="single").read_bytes()
        assert again.save(tmp_path / f"b.{suffix}", style="paper", width="single").read_bytes() == first


def test_wrong_input_is_one_clear_line() -> None:
    table = _table()
    with pytest.raises(UnknownNameError, match=r"^x: unknown column 'lrr'\. Did you mean 'lr'.*Known: norm, lr, seed"):
        plot.outcomes(table, x="lrr", y="accuracy")
    with pytest.raises(UnknownNameError, match=r"panels: unknown column 'model'"):
        plot.outcomes(table, x="lr", y="accuracy", panels="model")
    with pytest.raises(InputError, match=r"^table: a figure needs at least one result; got an empty frame\.$"):
        plot.outcomes(table.iloc[:0], x="lr", y="accuracy")
    with pytest.raises(InputError, match=r"norm: results are numbers; got"):
        plot.outcomes(table, x="lr", y="norm")
    with pytest.raises(InputError, match=r"at most 8 lines can be told apart in one figure; got 9"):
        plot.outcomes(pd.DataFrame({"a": range(9), "b": 1.0, "c": range(9)}), x="a", y="b", by="c")
    with pytest.raises(UnknownNameError, match=r"unknown axis 'ln'.*linear, log, category"):
        plot.outcomes(table, x="lr", y="accuracy", xscale="ln")
    with pytest.raises(InputError, match=r"a log axis is for numbers; got"):
        plot.outcomes(table, x="norm", y="accuracy", xscale="log")
    with pytest.raises(InputError, match=r"a log axis is for positive numbers; got 0"):
        plot.outcomes(table.assign(lr=0.0), x="lr", y="accuracy", xscale="log")
    with pytest.raises(InputError, match=r"not negative; got -1"):
        plot.outcomes(table.assign(accuracy=-1.0), x="lr", y="accuracy", yscale="log")
    with pytest.raises(UnknownNameError, match=r"unknown scale 'symlog'"):
        plot.outcomes(table, x="lr", y="accuracy", yscale="symlog")
