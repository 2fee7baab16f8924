"""The spread over channels by depth: the drawn bands are the table's numbers."""

import numpy as np
import pandas as pd
import pytest
import torch

import spp
from spp.errors import InputError, UnknownNameError
from spp.plot.panels import Curves


@pytest.fixture(scope="module")
def trace() -> spp.Trace:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 40, 3), torch.nn.BatchNorm2d(40), torch.nn.ReLU(), torch.nn.Conv2d(40, 30, 3)
    )
    return spp.trace(model, torch.randn(8, 3, 9, 9), channels=True)


def _rows(trace: spp.Trace, signal: str, statistic: str) -> pd.DataFrame:
    table = trace.channels.query("signal == @signal and statistic == @statistic and name != ''")
    return table.sort_values("depth")


def test_the_bands_are_the_tables_quantiles(trace: spp.Trace) -> None:
    figure = trace.plot("channels", style="paper")
    assert [(panel.signal, panel.statistic) for panel in figure.panels] == [
        (signal, f"channel_{statistic}") for signal in ("activation", "gradient") for statistic in ("mean", "var")
    ]
    panel, drawn = figure.panels[1], figure.artists_[1]
    assert isinstance(panel, Curves)
    rows = _rows(trace, "activation", "var")
    (curve,) = panel.curves
    np.testing.assert_array_equal(curve.y, rows["p50"])
    everything, most = curve.shades
    np.testing.assert_array_equal(everything.high, rows["max"])
    np.testing.assert_array_equal(most.low, rows["p10"])
    np.testing.assert_array_equal(most.high, rows["p90"])
    assert len(drawn.shades) == 2
    np.testing.assert_array_equal(drawn.curves[0].get_ydata(), curve.y)


def test_means_are_in_units_of_the_root_mean_square(trace: spp.Trace) -> None:
    panel = trace.plot("channels", signals="activation", statistics="mean").panels[0]
    assert isinstance(panel, Curves)
    rows = _rows(trace, "activation", "mean")
    frame = trace.frame.query("signal == 'activation' and name != ''").sort_values("depth")
    expected = rows["p90"].to_numpy() / frame["rms"].to_numpy()
    np.testing.assert_allclose(panel.curves[0].shades[1].high, np.where(rows["name"] == "1", 0.0, expected))
    assert panel.names if hasattr(panel, "names") else panel.curves[0].names == ("0", "1", "2", "3")


def test_weights_can_be_drawn_too(trace: spp.Trace) -> None:
    panel = trace.plot("channels", signals="weight", statistics="var").panels[0]
    assert isinstance(panel, Curves)
    assert panel.curves[0].names == ("0", "3")


def test_the_caption_says_what_the_bands_are(trace: spp.Trace) -> None:
    assert trace.plot("channels", statistics="var").caption.endswith(
        "channel variance of activations and gradients of the loss (probe) with respect to the activations over 4 modules in "
        "execution order: median over the channels, 10 to 90 % of them, and all of them."
    )


def test_wrong_input_is_one_clear_line(trace: spp.Trace) -> None:
    plain = spp.trace(torch.nn.Sequential(torch.nn.Linear(4, 2)), torch.randn(3, 4))
    with pytest.raises(InputError, match=r"got a trace without it\. Trace with channels=True\."):
        plain.plot("channels")
    with pytest.raises(UnknownNameError, match=r"unknown statistic 'acv'.*Known: mean, var\."):
        trace.plot("channels", statistics="acv")
