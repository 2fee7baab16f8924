"""Figures of real traces: what is drawn is what was measured."""

import numpy as np
import pytest
import torch

import spp
from spp.errors import InputError
from spp.frame.schema import Column
from spp.plot import signal_plot
from spp.plot.panels import Scale
from spp.vocabulary import Signal


@pytest.fixture(scope="module")
def residual() -> spp.Trace:
    torch.manual_seed(0)
    # narrow: layers and merges are those of the network by name, and nothing here reads its widths
    model = spp.models.build("resnetv2_50", norm="batch", init="he", widths=(8, 16, 32, 64))
    return spp.trace(model, spp.data.gaussian(4, (3, 32, 32), seed=0))


def test_every_measured_leaf_is_drawn(residual: spp.Trace) -> None:
    plot = residual.plot("layers")
    frame = residual.frame[residual.frame[Column.LEAF]]
    for panel, drawn in zip(plot.panels, plot.artists_, strict=True):
        rows = frame[frame[Column.SIGNAL] == panel.signal].sort_values(Column.DEPTH, kind="stable")
        if panel.signal is Signal.WEIGHT:
            rows = rows[rows[Column.SHAPE].str.contains("x")]
        np.testing.assert_array_equal(panel.y, rows[panel.statistic].to_numpy())
        marks = [*drawn.points.values(), *([drawn.zeros] if drawn.zeros else [])]
        assert sum(len(line.get_xdata()) for line in marks) == len(rows)


def test_normalized_layers_have_a_mean_of_zero(residual: spp.Trace) -> None:
    panel = residual.plot(signals="activation", statistics="acsm").panels[0]
    rows = residual.frame[(residual.frame[Column.SIGNAL] == Signal.ACTIVATION) & residual.frame[Column.LEAF]]
    norms = set(rows.loc[rows[Column.TYPE].astype(str).str.contains("Norm"), Column.NAME])
    assert {name for name, zero in zip(panel.names, panel.zero, strict=True) if zero} == norms


def test_blocks_of_a_real_network(residual: spp.Trace) -> None:
    plot = residual.plot("blocks")
    for panel, drawn, column in zip(plot.panels, plot.artists_, ("acsm", "acv", "branch_acv"), strict=True):
        assert drawn.line is not None
        np.testing.assert_array_equal(drawn.line.get_ydata(), residual.blocks.sort_values("depth")[column].to_numpy())
        assert panel.size == 16 and panel.scale is Scale.LINEAR
        assert panel.transitions == (0.0, 3.0, 7.0, 13.0)


def test_a_network_without_merges() -> None:
    trace = spp.trace(spp.models.build("ffn", input_shape=(1, 4, 4)), spp.data.gaussian(4, (1, 4, 4), seed=0))
    with pytest.raises(InputError, match='Draw kind="layers" instead'):
        trace.plot("blocks")
    assert len(trace.plot("layers").axes_) == 6


def test_the_inside_of_attention_is_not_lost() -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    trace = spp.trace(layer, torch.randn(4, 5, 16))
    plot = signal_plot(frame=trace.frame, blocks=trace.blocks, run=trace.run, unmeasured=trace.unmeasured)
    activation, weight = plot.panels[0], plot.panels[2]
    assert any(name.startswith("self_attn") for name in activation.names)
    assert "self_attn[in_proj_weight]" in weight.names
