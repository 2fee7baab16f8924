"""Depth over training steps: colours, lines and what cannot be coloured."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm, to_rgba
from torch import nn

import spp
from spp.diagnosis.main_path import component_table
from spp.errors import InputError
from spp.frame.schema import Column
from spp.plot import SignalPlot, signal_plot
from spp.plot.draw_cells import MOST_CELLS
from spp.plot.panels import Curves, Heat, Scale
from spp.plot.style import ALARM, CURVES

from .frames import RUN, block_frame, network


def trained(steps: tuple[int, ...] = (0, 1, 2, 5), norm: str = "none") -> spp.Trace:
    """A network traced before its first and after some later optimizer steps."""
    torch.manual_seed(0)
    model = spp.models.build("ffn", norm=norm, input_shape=(1, 4, 4))
    images, classes = torch.randn(16, 1, 4, 4), torch.randint(0, 10, (16,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    frames = []
    for step in range(max(steps) + 1):
        if step in steps:
            trace = spp.trace(model, (images, classes))
            frames.append(trace.frame.assign(step=np.int64(step)))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), classes).backward()
        optimizer.step()
    trace.frame = pd.concat(frames, ignore_index=True)
    trace.run["model"] = "ffn"
    return trace


@pytest.fixture(scope="module")
def watched() -> spp.Trace:
    return trained()


def _plot(frame: pd.DataFrame, **options: object) -> SignalPlot:
    return signal_plot("evolution", frame=frame, blocks=block_frame(), run=RUN, **options)  # type: ignore[arg-type]


def test_colours_are_the_frames_numbers(watched: spp.Trace) -> None:
    figure = watched.plot("evolution", style="paper", statistics="acv")
    heats = [
        (panel, drawn) for panel, drawn in zip(figure.panels, figure.artists_, strict=True) if isinstance(panel, Heat)
    ]
    assert len(heats) == 2
    for panel, drawn in heats:
        rows = watched.frame[(watched.frame[Column.SIGNAL] == panel.signal) & watched.frame[Column.LEAF]]
        expected = rows.pivot(index="step", columns="depth", values="acv").to_numpy()
        there = np.isfinite(panel.values).any(axis=0)
        np.testing.assert_array_equal(panel.values[:, there], (expected / expected[0])[:, expected[0] > 0])
        assert isinstance(drawn.mesh, QuadMesh) and isinstance(drawn.mesh.norm, LogNorm)
        # two hues, and none for what stays as it was
        assert drawn.mesh.norm.vmin * drawn.mesh.norm.vmax == pytest.approx(1.0) and drawn.mesh.norm(
            1.0
        ) == pytest.approx(0.5)
        np.testing.assert_array_equal(drawn.mesh.get_array().filled(np.nan), panel.values)


def test_the_first_middle_and_last_step_are_lines(watched: spp.Trace) -> None:
    figure = watched.plot("evolution", signals="activation", statistics="mean_square")
    heat, lines = figure.panels
    assert isinstance(heat, Heat) and isinstance(lines, Curves)
    assert [curve.label for curve in lines.curves] == ["step 0", "step 2", "step 5"]
    for curve, row in zip(lines.curves, (0, 2, 3), strict=True):
        np.testing.assert_allclose(curve.y / lines.curves[0].y, heat.values[row], rtol=1e-15)
    assert [line.get_label() for line in figure.figure_.legends[0].get_lines()] == ["step 0", "step 2", "step 5"]
    # light to dark, in hues that no run has
    colours = [to_rgba(line.get_color()) for line in figure.artists_[1].curves]
    assert sorted(colours, key=sum, reverse=True) == colours
    assert not {line.get_color() for line in figure.artists_[1].curves} & {look.colour for look in CURVES}


def test_by_component_against_the_first_step_with_the_loss_and_where_trouble_began(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = spp.models.build("ffn", norm="none", input_shape=(1, 4, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0)
    images, classes = torch.randn(16, 1, 4, 4), torch.randint(0, 10, (16,))
    with spp.watch(model, optimizer=optimizer, every=1) as watch:
        for _ in range(4):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), classes).backward()
            optimizer.step()
    figure = watch.plot()
    stream, back, loss, axes = figure.panels[0], figure.panels[1], figure.panels[4], figure.axes_[4]
    assert isinstance(stream, Heat) and isinstance(back, Heat) and isinstance(loss, Curves)
    ends = {step: watch.frame[watch.frame["step"] == step] for step in (0, 1)}
    tables = {step: component_table(rows, watch.blocks).set_index("name") for step, rows in ends.items()}
    names = list(tables[0].index)
    assert [tick.text for tick in stream.ticks if tick.level == 2] == names
    for panel, column in ((stream, "acv"), (back, "gradient_mean_square")):
        with np.errstate(invalid="ignore", divide="ignore"):
            expected = (tables[1][column] / tables[0][column]).to_numpy()
        np.testing.assert_array_equal(
            panel.values[1][np.isfinite(panel.values[1])], expected[np.isfinite(panel.values[1])]
        )
        assert np.isfinite(panel.values[1]).sum() >= len(names) - 2
    np.testing.assert_array_equal(loss.curves[0].y, watch.steps["loss"])
    (finding,) = [finding for finding in watch.findings if finding.severity == "error"][:1]
    (mark,) = loss.marks
    assert mark.label == finding.rule and mark.x == finding.step
    # under both columns, its steps named
    assert axes.get_position().x0 == pytest.approx(figure.axes_[0].get_position().x0, abs=0.02)
    assert axes.get_xlabel() == "training step" and [t.get_text() for t in axes.get_xticklabels()] == [
        "0",
        "1",
        "2",
        "3",
    ]
    assert figure.axes_[2].get_xlabel() == "component (execution order)"
    watch.save(tmp_path / "run")
    assert spp.load(tmp_path / "run").plot().caption == figure.caption and figure.caption.endswith("and the loss.")


def test_steps_can_be_chosen(watched: spp.Trace) -> None:
    lines = watched.plot("evolution", signals="activation", steps=[5, 1]).panels[1]
    assert isinstance(lines, Curves)
    assert [curve.label for curve in lines.curves] == ["step 5", "step 1"]


def test_the_caption_names_the_steps(watched: spp.Trace) -> None:
    caption = watched.plot("evolution").caption
    assert caption.endswith(
        ": ACV and mean square of activations and gradients of the loss (cross_entropy) with respect to the activations over "
        "11 components in execution order, at 4 training steps from 0 to 5 (lines: steps 0, 2 and 5)."
    )


def test_nonfinite_cells_and_zeros_are_coloured_apart() -> None:
    frame = network(lambda t: 10.0 ** (-8 * t), steps=(0, 1, 2))
    bad = (frame["step"] == 2) & (frame["depth"] == 3) & (frame["signal"] == "activation")
    frame.loc[bad, ["acv", "acsm"]] = np.nan
    frame.loc[bad, "nonfinite"] = 7
    none = (frame["step"] == 1) & (frame["depth"] == 5) & (frame["signal"] == "activation")
    frame.loc[none, "acv"] = 0.0
    figure = _plot(frame, signals="activation")
    heat, drawn = figure.panels[0], figure.artists_[0]
    assert isinstance(heat, Heat) and heat.scale is Scale.LOG
    zero, alarm = drawn.limits
    for artist, cell in ((zero, (1, 5)), (alarm, (2, 3))):
        assert [tuple(place) for place in np.argwhere(~np.ma.getmaskarray(artist.get_array()))] == [cell]  # type: ignore[attr-defined]
    assert alarm.cmap(alarm.norm(1.0)) == to_rgba(ALARM)  # type: ignore[attr-defined]
    words = [text.get_text() for text in figure.figure_.legends[0].get_texts()]
    assert {"zero (exact or to rounding)", "non-finite values"} <= set(words)


def test_many_cells_are_one_picture() -> None:
    named = [(f"layer{i}", "Linear") for i in range(MOST_CELLS // 100 + 1)]
    frame = network(lambda t: 1 + t, named=named, signals=["activation"], steps=range(100))  # type: ignore[list-item]
    drawn = _plot(frame, signals="activation").artists_[0]
    assert not isinstance(drawn.mesh, QuadMesh)
    assert drawn.mesh.get_array().shape == (100, len(named))  # type: ignore[union-attr]


def test_signed_numbers_have_two_hues() -> None:
    frame = network(lambda t: 1 + t, steps=(0, 1))
    frame["mean"] = np.where(frame["depth"] % 2 == 0, 1.0, -1e-3)
    figure = _plot(frame, signals="activation", statistics="mean")
    heat, drawn = figure.panels[0], figure.artists_[0]
    assert isinstance(heat, Heat) and heat.scale is Scale.SYMLOG
    assert drawn.mesh.norm.vmin == -drawn.mesh.norm.vmax  # type: ignore[union-attr]


def test_wrong_input_is_one_clear_line(watched: spp.Trace) -> None:
    with pytest.raises(InputError, match=r'more than one step; got step 0 alone\. Watch .* or draw kind="layers"\.'):
        _plot(network(lambda t: 1 + t))
    with pytest.raises(InputError, match=r"step 3.*Steps: 0, 1, 2, 5\."):
        watched.plot("evolution", steps=[3])
    with pytest.raises(InputError, match="one to 8 steps can be drawn as lines; got 0"):
        watched.plot("evolution", steps=[])
    with pytest.raises(InputError, match="an empty frame"):
        _plot(watched.frame.iloc[:0])
