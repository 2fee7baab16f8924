"""Predictions over measurements: the columns are another room's, the figure only draws them."""

import numpy as np
import pandas as pd
import pytest

from spp.errors import InputError, UnknownNameError
from spp.plot import SignalPlot, signal_plot
from spp.plot.panels import Curves
from spp.vocabulary import Signal

from .frames import RUN, block_frame, network


def _predicted(spread: float | None = 0.5) -> pd.DataFrame:
    frame = network(lambda t: 10.0 ** (-6 * t))
    forward, backward = frame["signal"] == "activation", frame["signal"] == "gradient"
    frame["acsm_predicted"] = np.where(forward, 2 * frame["acsm"], np.nan)
    frame["acv_predicted"] = np.where(forward, frame["acv"], np.nan)
    frame.loc[frame["depth"] == 7, "acv_predicted"] *= 5
    frame["gradient_predicted"] = np.where(backward, frame["mean_square"] / 4, np.nan)
    if spread is not None:
        frame["log_spread_predicted"] = spread
    return frame


def _plot(frame: pd.DataFrame, **options: object) -> SignalPlot:
    return signal_plot("theory", frame=frame, blocks=block_frame(), run=RUN, **options)  # type: ignore[arg-type]


def test_both_curves_are_the_frames_numbers() -> None:
    frame = _predicted()
    figure = _plot(frame, style="paper")
    columns = [("acsm", "acsm_predicted"), ("acv", "acv_predicted"), ("mean_square", "gradient_predicted")]
    for panel, drawn, (measured, predicted) in zip(figure.panels[::2], figure.artists_[::2], columns, strict=True):
        assert isinstance(panel, Curves)
        rows = frame[frame["signal"] == panel.signal].sort_values("depth")
        for curve, line, column in zip(panel.curves, drawn.curves, (measured, predicted), strict=True):
            np.testing.assert_array_equal(curve.y, rows[column])
            np.testing.assert_array_equal(line.get_ydata(), rows[column])
        assert drawn.curves[1].get_linestyle() == "--" and drawn.curves[0].get_linestyle() == "-"


def test_the_spread_is_a_band_about_the_prediction_and_about_one() -> None:
    figure = _plot(_predicted(0.5), signals="activation", statistics="acv")
    panel, strip = figure.panels
    assert isinstance(panel, Curves) and isinstance(strip, Curves)
    median = np.exp(-(0.5**2) / 2)  # of a lognormal, over its mean
    for one, unit in ((panel.curves[1], panel.curves[1].y), (strip.curves[0], 1.0)):
        (shade,) = one.shades
        np.testing.assert_allclose(shade.high / unit, median * np.exp(0.5))
        np.testing.assert_allclose(shade.low / unit, median * np.exp(-0.5))
    assert [len(drawn.shades) for drawn in figure.artists_] == [1, 1]
    assert not any(drawn.shades for drawn in _plot(_predicted(None), signals="activation", statistics="acv").artists_)
    assert panel.note.startswith("farthest from theory at ") and panel.note.endswith(": measured ×0.2")


def test_the_strip_has_what_was_measured_over_what_was_predicted() -> None:
    frame = _predicted(None)
    at = (frame["depth"] == 7) & (frame["signal"] == "activation")
    frame.loc[at, "acsm"] = 1e-20 * frame.loc[at, "mean_square"]  # a mean of zero, summed in floating point
    figure = _plot(frame, signals="activation", statistics="acsm")
    rows = frame[frame["signal"] == "activation"].sort_values("depth")
    (line,) = figure.artists_[1].curves
    expected = (rows["acsm"] / rows["acsm_predicted"]).where(rows["depth"] != 7)
    np.testing.assert_array_equal(line.get_ydata(), expected)
    axes = figure.axes_[1]
    assert axes.get_yscale() == "log" and axes.get_ylim()[0] < 0.5 < 2 < axes.get_ylim()[1]


def test_a_prediction_on_the_activations_row_serves_its_gradient() -> None:
    frame = _predicted()
    gradient = frame[frame["signal"] == "gradient"].set_index("depth")["gradient_predicted"]
    frame["gradient_predicted"] = np.where(
        frame["signal"] == "activation", frame["depth"].map(gradient).astype(float), np.nan
    )
    panel = _plot(frame, signals="gradient").panels[0]
    assert isinstance(panel, Curves)
    np.testing.assert_array_equal(panel.curves[1].y, gradient.sort_index())


def test_layers_without_a_prediction_leave_a_gap() -> None:
    frame = _predicted()
    frame.loc[frame["depth"] == 3, "acv_predicted"] = np.nan
    panel = _plot(frame, signals=[Signal.ACTIVATION], statistics="acv").panels[0]
    assert isinstance(panel, Curves)
    assert np.isnan(panel.curves[1].y[3]) and np.isfinite(panel.curves[0].y[3])
    assert not panel.curves[1].nonfinite.any()


def test_wrong_input_is_one_clear_line() -> None:
    with pytest.raises(
        InputError, match=r"needs predictions; got a frame without acsm_predicted, acv_predicted, gradient"
    ):
        _plot(network(lambda t: 1 + t))
    with pytest.raises(InputError, match=r"Add them with spp\.theory\.predict\(model, batch_shape\)\.$"):
        _plot(network(lambda t: 1 + t))
    with pytest.raises(UnknownNameError, match=r"unknown statistic 'mean'.*Known: acsm, acv, mean_square\."):
        _plot(_predicted(), statistics="mean")
    with pytest.raises(UnknownNameError, match=r"Known: activation, gradient\."):
        _plot(_predicted(), signals="weight")
