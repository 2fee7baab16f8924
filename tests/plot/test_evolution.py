"""Depth over training steps: colours, lines and what cannot be coloured."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm, to_rgba
from torch import nn

import spp
from spp.errors import InputError
from spp.frame.schema import Column
from spp.plot import SignalPlot, signal_plot
from spp.plot.draw_cells import MOST_CELLS
from spp.plot.panels import Curves, Heat, Scale
from spp.plot.style import ALARM

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
    figure = watched.plot("evolution", style="paper")
    heats = [
        (panel, drawn) for panel, drawn in zip(figure.panels, figure.artists_, strict=True) if isinstance(panel, Heat)
    ]
    assert len(heats) == 2
    for panel, drawn in heats:
        rows = watched.frame[(watched.frame[Column.SIGNAL] == panel.signal) & watched.frame[Column.LEAF]]
        expected = rows.pivot(index="step", columns="depth", values="acv").to_numpy()
        found = panel.values[:, np.isfinite(panel.values).any(axis=0)]
        np.testing.assert_array_equal(found, expected)
        assert isinstance(drawn.mesh, QuadMesh) and isinstance(drawn.mesh.norm, LogNorm)
        np.testing.assert_array_equal(drawn.mesh.get_array().filled(np.nan), panel.values)


def test_the_first_middle_and_last_step_are_lines(watched: spp.Trace) -> None:
    figure = watched.plot("evolution", signals="activation", statistics="mean_square")
    heat, lines = figure.panels
    assert isinstance(heat, Heat) and isinstance(lines, Curves)
    assert [curve.label for curve in lines.curves] == ["step 0", "step 2", "step 5"]
    for curve, row in zip(lines.curves, (0, 2, 3), strict=True):
        np.testing.assert_array_equal(curve.y, heat.values[row])
    assert [line.get_label() for line in figure.figure_.legends[0].get_lines()] == ["step 0", "step 2", "step 5"]


def test_steps_can_be_chosen(watched: spp.Trace) -> None:
    lines = watched.plot("evolution", signals="activation", steps=[5, 1]).panels[1]
    assert isinstance(lines, Curves)
    assert [curve.label for curve in lines.curves] == ["step 5", "step 1"]


def test_the_caption_names_the_steps(watched: spp.Trace) -> None:
    caption = watched.plot("evolution").caption
    assert caption.endswith(
        ": ACV of activations and gradients of the loss (cross_entropy) with respect to the activations over 29 modules in "
        "execution order, at 4 training steps from 0 to 5 (lines: steps 0, 2 and 5)."
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
