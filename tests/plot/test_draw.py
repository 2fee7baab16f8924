"""What stands on an Axes: the frame's numbers, the marks and the bands; nothing global is touched."""

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from spp.plot.draw import Drawn, draw_panel
from spp.plot.panels import Family, Panel, Scale
from spp.vocabulary import Signal

from .frames import block_frame, block_panels, frame, layer_panels, network, row


def _drawn(panel: Panel) -> tuple[Drawn, Figure]:
    figure = Figure()
    return draw_panel(panel, figure.add_subplot()), figure


def _points(drawn: Drawn) -> dict[float, float]:
    return {x: y for line in drawn.points.values() for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}


def test_points_are_the_panels_numbers() -> None:
    for line in layer_panels(network(lambda t: 10.0 ** (-40 * t)))[0]:
        for panel in line:
            drawn, _ = _drawn(panel)
            assert _points(drawn) == dict(zip(panel.x, panel.y, strict=True))


def test_points_are_marked_by_family() -> None:
    drawn, _ = _drawn(layer_panels(network(lambda t: 1 + t))[0][0][0])
    markers = {family: line.get_marker() for family, line in drawn.points.items()}
    assert set(markers) == set(Family)
    assert len(set(markers.values())) == len(markers)


@pytest.mark.parametrize(("depth", "scale"), [(40, "log"), (0.5, "linear")])
def test_the_axis_follows_the_data(depth: float, scale: str) -> None:
    drawn, figure = _drawn(layer_panels(network(lambda t: 10.0 ** (-depth * t)))[0][0][1])
    assert figure.axes[0].get_yscale() == scale
    assert (drawn.zero_line is not None) == (scale == "linear")
    if scale == "linear":
        low, high = figure.axes[0].get_ylim()
        assert low < 0 < high


def test_signed_numbers_over_many_decades_are_symlog() -> None:
    rows = [row(i, f"l{i}", Signal.ACTIVATION, 1.0, 1.0, mean=(-1) ** i * 10.0**-i) for i in range(8)]
    panel = layer_panels(frame(rows), signals="activation", statistics="mean")[0][0][0]
    drawn, figure = _drawn(panel)
    assert panel.scale is Scale.SYMLOG and figure.axes[0].get_yscale() == "symlog"
    assert "symlog" in figure.axes[0].get_ylabel()
    assert drawn.zero_line is not None
    ticks = figure.axes[0].get_yticks()
    assert 0.0 in ticks and ticks.min() < 0 < ticks.max() and len(ticks) <= 5


def test_a_mean_of_rounding_does_not_stretch_the_axis() -> None:
    means = [0.5, 1e-9, -0.1, -1e-10, 0.3]
    rows = [row(i, f"l{i}", Signal.ACTIVATION, 1.0, 1.0, mean=mean) for i, mean in enumerate(means)]
    panel = layer_panels(frame(rows), signals="activation", statistics="mean")[0][0][0]
    drawn, _ = _drawn(panel)
    assert panel.scale is Scale.LINEAR
    assert list(_points(drawn).values()) == means


def test_bands_cover_every_second_stage() -> None:
    panel = layer_panels(network(lambda t: 1 + t))[0][0][0]
    drawn, _ = _drawn(panel)
    spans = [(band.get_x(), band.get_x() + band.get_width()) for band in drawn.bands]
    assert spans == [(span.start - 0.5, span.stop - 0.5) for span in panel.stages[1::2]]


def test_zeros_stand_at_the_floor_of_a_log_axis() -> None:
    curve = [1.0, 0.0, 1e-5, 1e-9, 0.0]
    rows = [row(i, f"l{i}", Signal.ACTIVATION, v, v) for i, v in enumerate(curve)]
    drawn, figure = _drawn(layer_panels(frame(rows), signals="activation", statistics="acv")[0][0][0])
    assert drawn.zeros is not None
    assert list(drawn.zeros.get_xdata()) == [1, 4]
    (height,) = set(drawn.zeros.get_ydata())
    low, high = np.log10(figure.axes[0].get_ylim())
    assert low + height * (high - low) < np.log10(1e-9)  # below every number that is drawn
    assert set(_points(drawn)) == {0, 2, 3}


def test_zeros_of_a_linear_axis_are_plain_points() -> None:
    rows = [row(i, f"l{i}", Signal.ACTIVATION, v, v) for i, v in enumerate([1.0, 0.0, 2.0])]
    drawn, _ = _drawn(layer_panels(frame(rows), signals="activation", statistics="acv")[0][0][0])
    assert drawn.zeros is None
    assert _points(drawn) == {0: 1.0, 1: 0.0, 2: 2.0}


@pytest.mark.parametrize("growth", [20, 0.1])
def test_nonfinite_layers_are_marked_in_place(growth: float) -> None:
    table = network(lambda t: np.where(t > 0.8, np.inf, 10.0 ** (growth * t)))
    table.loc[table["depth"] == 5, "nonfinite"] = 1
    panel = layer_panels(table)[0][0][1]
    drawn, figure = _drawn(panel)
    marked = sorted(float(x) for line in drawn.nonfinite for x in line.get_xdata())
    assert marked == sorted(panel.x[panel.nonfinite])
    assert set(_points(drawn)) | set(marked) == set(panel.x)
    assert np.isfinite(figure.axes[0].get_ylim()).all()


@pytest.mark.parametrize("value", [np.nan, 0.0, 1e-38, 1e300, 5e-324])
def test_one_layer_of_any_value_can_be_drawn(value: float) -> None:
    nonfinite = int(np.isnan(value))
    rows = [row(0, "fc", Signal.ACTIVATION, value, value, nonfinite=nonfinite)]
    drawn, figure = _drawn(layer_panels(frame(rows), signals="activation", statistics="acv")[0][0][0])
    figure.draw_without_rendering()
    assert len(_points(drawn)) + len(drawn.nonfinite) == 1


def test_small_linear_numbers_carry_their_power_of_ten_in_the_label() -> None:
    rows = [row(i, f"l{i}", Signal.GRADIENT, v, v) for i, v in enumerate([2e-7, 5e-7])]
    _, figure = _drawn(layer_panels(frame(rows), signals="gradient", statistics="acv")[0][0][0])
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert axes.get_ylabel().endswith("[$10^{-7}$]")
    labels = {
        float(tick): label.get_text() for tick, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
    }
    assert labels and all(float(text.replace("−", "-")) == pytest.approx(tick * 1e7) for tick, text in labels.items())


def test_a_panel_without_data_says_why() -> None:
    table = network(lambda t: 1 + t, signals=[Signal.ACTIVATION])
    panel = layer_panels(table, signals=["gradient"])[0][0][0]
    drawn, _ = _drawn(panel)
    assert drawn.message is not None
    assert drawn.message.get_text() == "gradients not measured:\nthe trace holds only activations"
    assert drawn.line is None and not drawn.points


def test_transition_blocks_are_marked() -> None:
    panel = block_panels(block_frame())[0][0][1]
    drawn, _ = _drawn(panel)
    assert drawn.transitions is not None and drawn.line is not None
    assert tuple(drawn.transitions.get_xdata()) == panel.transitions
    np.testing.assert_array_equal(drawn.line.get_ydata(), panel.y)


def test_only_its_own_axes_are_touched() -> None:
    figure = Figure()
    mine, other = figure.subplots(1, 2)
    before = (other.get_xlim(), other.get_ylim(), len(other.get_children()))
    parameters = dict(matplotlib.rcParams)
    drawn = draw_panel(layer_panels(network(lambda t: 1 + t))[0][0][0], mine)
    assert (other.get_xlim(), other.get_ylim(), len(other.get_children())) == before
    assert dict(matplotlib.rcParams) == parameters
    assert not figure.texts and not figure.legends
    assert all(artist.axes is mine for artist in drawn.artists())
