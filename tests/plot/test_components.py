"""The figure by component: the numbers of ``run.components``, runs in colours, names at the ends of lines, findings."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib.text import Annotation
from torch import nn

import spp
import spp.plot
from spp.frame.schema import Column, ComponentColumn
from spp.plot.kinds.components import by_component
from spp.plot.kinds.layers import STREAM
from spp.plot.panels import MOST_LINES, Curves, Scale
from spp.plot.runs import arms_of
from spp.plot.style import CURVES, PALETTE
from spp.vocabulary import Severity


def traced(norm: str, seed: int = 0) -> spp.Run:
    torch.manual_seed(seed)
    model = spp.models.build("resnet18_cifar", norm=norm)
    return spp.trace(model, spp.data.gaussian(4, (3, 16, 16), seed=seed))


@pytest.fixture(scope="module")
def runs() -> dict[str, spp.Run]:
    return {norm: traced(norm) for norm in ("none", "batch")}


def curves(panel: object) -> dict[tuple[int | None, str], np.ndarray]:
    assert isinstance(panel, Curves)
    return {(curve.look, curve.line): curve.y for curve in panel.curves}


def test_one_run_is_the_components_table(runs: dict[str, spp.Run]) -> None:
    run = runs["none"]
    plot, table = run.plot(), run.components
    assert plot.kind == "components" and len(plot.axes_) == 3
    stream, branches, gradient = plot.panels
    np.testing.assert_array_equal(curves(stream)[None, "-"], table["acv"])
    np.testing.assert_array_equal(curves(stream)[None, ":"], table["acsm"])
    np.testing.assert_array_equal(curves(branches)[None, "-"], table["branch_acv"].dropna())
    np.testing.assert_array_equal(curves(gradient)[None, "-"], table["gradient_mean_square"])
    assert [text.get_text() for text, _ in plot.artists_[0].ends] == ["ACV", "ACSM"]
    for drawn, panel in zip(plot.artists_, plot.panels, strict=True):
        for line, curve in zip(drawn.curves, panel.curves, strict=True):
            np.testing.assert_array_equal(line.get_ydata(), np.where(curve.zero, np.nan, curve.y))
            assert line.get_linestyle() == curve.line
    assert "at the end of 10 components" in plot.caption


def test_where_nothing_branches_the_weights_are_drawn() -> None:
    model = nn.Sequential(*(part for _ in range(4) for part in (nn.Linear(8, 8), nn.Tanh())))
    run = spp.trace(model, spp.data.gaussian(4, (8,), seed=0))
    panel = run.plot().panels[1]
    np.testing.assert_array_equal(curves(panel)[None, "-"], run.components["weight_mean_square"].dropna())


def test_runs_have_colours_and_names_at_the_ends_of_their_lines(runs: dict[str, spp.Run]) -> None:
    plot = spp.compare(runs).plot()
    assert plot.kind == "components" and not plot.figure_.legends
    strip = plot.panels[1]
    own = [(drawn, panel) for drawn, panel in zip(plot.artists_, plot.panels, strict=True) if panel is not strip]
    assert [panel.statistic for _, panel in own] == ["acv", "branch_acv", "gradient_mean_square"]
    for drawn, panel in own:
        assert {text.get_text() for text, _ in drawn.ends} == {"none", "batch"}
        for text, _ in drawn.ends:
            index = ["none", "batch"].index(text.get_text())
            assert text.get_color() == CURVES[index].colour
        boxes = sorted((text.get_window_extent() for text, _ in drawn.ends), key=lambda box: box.y0)
        assert boxes[0].y1 <= boxes[1].y0
        page = plot.figure_.bbox
        assert all(page.x0 <= box.x0 and box.x1 <= page.x1 for box in boxes)
        for index, norm in enumerate(runs):
            column = {"branch_acv": "branch_acv", "acv": "acv"}.get(panel.statistic, "gradient_mean_square")
            np.testing.assert_array_equal(curves(panel)[index, "-"], runs[norm].components[column].dropna())
    assert plot.panels[0].scale is Scale.LOG
    # by how much they differ, and where they part
    tables = [run.components.set_index("name")["acv"] for run in runs.values()]
    np.testing.assert_array_equal(strip.curves[0].y, tables[1] / tables[0])  # type: ignore[attr-defined]
    assert strip.note.startswith("batch parts at ") and strip.ylabel == "ACV, ratio\nto none"


def test_the_numbers_that_are_drawn_are_a_table(runs: dict[str, spp.Run]) -> None:
    plot = spp.compare(runs).plot()
    data = plot.data
    for label, run in runs.items():
        one = data[(data["panel"] == 0) & (data["line"] == label)]
        assert one["name"].tolist() == run.components["name"].tolist()
        np.testing.assert_array_equal(one["y"], run.components["acv"])
    layers = runs["none"].plot("layers").data
    leaves = runs["none"].frame.query("leaf and signal == 'gradient'").sort_values("depth")
    points = layers[(layers["signal"] == "gradient") & (layers["statistic"] == "acv") & (layers["line"] != STREAM)]
    np.testing.assert_array_equal(points["y"], leaves["acv"])


def test_seeds_are_a_median_and_a_band() -> None:
    seeds = [traced("batch", seed) for seed in range(3)]
    panel = by_component(arms_of({"batch": seeds})).grid[0][0]
    assert isinstance(panel, Curves)
    table = np.array([run.components["acv"] for run in seeds])
    line = panel.curves[0]
    np.testing.assert_array_equal(line.y, np.median(table, axis=0))
    np.testing.assert_array_equal(line.shades[0].low, table.min(axis=0))
    np.testing.assert_array_equal(line.shades[0].high, table.max(axis=0))
    assert not panel.curves[1].shades


def test_many_runs_have_a_legend(runs: dict[str, spp.Run]) -> None:
    plot = spp.compare({f"run {i}": runs["none"] for i in range(6)}).plot()
    assert not any(drawn.ends for drawn in plot.artists_)
    named = {text.get_text() for text in plot.figure_.legends[0].get_texts()}
    assert {f"run {i}" for i in range(6)} <= named
    with pytest.raises(spp.errors.InputError, match=f"at most {MOST_LINES} lines"):
        spp.compare({f"run {i}": runs["none"] for i in range(9)}).plot()


def test_the_worst_finding_stands_where_it_begins() -> None:
    model = spp.models.build("ffn", input_shape=(1, 4, 4), norm="none", init="small_normal")
    run = spp.trace(model, spp.data.gaussian(8, (1, 4, 4), seed=0))
    finding = run.findings.worst("warning")[0]
    plot = run.plot()
    (mark,) = plot.panels[0].marks  # type: ignore[attr-defined]
    place = list(run.components["name"]).index(finding.since.partition(".")[0])
    assert (mark.x, mark.label) == (place, finding.rule) and finding.severity is Severity.ERROR
    word = next(artist for artist in plot.artists_[0].marks if isinstance(artist, Annotation))
    box, room = word.get_window_extent(), plot.axes_[0].get_window_extent()
    assert word.get_text() == finding.rule and room.x0 <= box.x0 and box.x1 <= room.x1 and box.y1 <= room.y1
    assert not spp.plot.signal_plot("components", frame=run.frame, blocks=run.blocks, run={}).panels[0].marks  # type: ignore[attr-defined]


def test_theory_is_dashed_where_the_frame_has_it() -> None:
    model = spp.models.build("ffn", input_shape=(1, 4, 4), norm="none", activation="tanh")
    batch = spp.data.gaussian(8, (1, 4, 4), seed=0)
    run = spp.trace(model, batch)
    run.frame = spp.theory.attach(run.frame, spp.theory.predict(model, tuple(batch.shape)))
    stream, _, gradient = run.plot().panels
    ends = run.frame.set_index([str(Column.NAME), str(Column.SIGNAL)])
    last = run.components[str(ComponentColumn.NAME)].iloc[-1]
    predicted = [curve.y[-1] for curve in stream.curves if curve.line == "--"]  # type: ignore[attr-defined]
    expected = ends.loc[(last, "activation"), ["acv_predicted", "acsm_predicted"]]
    np.testing.assert_allclose(predicted, np.ravel(expected))
    assert any(curve.line == "--" for curve in gradient.curves)  # type: ignore[attr-defined]


def test_signals_or_statistics_ask_for_layers(runs: dict[str, spp.Run]) -> None:
    assert runs["none"].plot(signals="activation").kind == "layers"
    assert spp.compare(runs).plot(statistics="acv").kind == "compare"
    with pytest.raises(spp.errors.UnknownNameError, match="Known: components, compare"):
        spp.compare(runs).plot("layers")


# Machado, Oliveira & Fernandes 2009, severity 1: linear RGB as those see it who lack one kind of cone
SEEN = {
    "all": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def lab(colour: str, seen: np.ndarray) -> np.ndarray:
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(seen @ linear, 0, 1) / np.array([0.9505, 1.0, 1.089])
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("seen", SEEN.values(), ids=SEEN)
def test_hues_of_runs_are_told_apart_by_everybody(seen: np.ndarray) -> None:
    def nearest(colours: list[str]) -> float:
        return min(float(np.linalg.norm(lab(a, seen) - lab(b, seen))) for a, b in combinations(colours, 2))

    hues = [look.colour for look in CURVES]
    # those whose names stand at their lines, and those that have line styles and a legend beside their hue
    assert nearest(hues[:5]) > 20 and nearest(hues) > 12
    assert not set(hues) & {look.colour for look in PALETTE.values()}


def test_a_figure_over_one_column_leaves_room_for_its_caption(runs: dict[str, spp.Run]) -> None:
    plots = (runs["none"].plot(style="paper", width="single"), spp.compare(runs).plot(style="paper", width="single"))
    assert all(plot.figure_.get_size_inches()[1] <= 4.5 for plot in plots)
