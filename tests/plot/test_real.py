"""Figures of real traces: what is drawn is what was measured."""

import numpy as np
import pytest
import torch

import spp
from spp.errors import InputError
from spp.frame.schema import Column
from spp.plot import signal_plot
from spp.plot.panels import Family, Scale
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


def test_the_main_line_goes_from_component_to_component(residual: spp.Trace) -> None:
    plot = residual.plot("layers")
    ends = residual.components.set_index("name")
    for panel, drawn in zip(plot.panels, plot.artists_, strict=True):
        if panel.signal is Signal.WEIGHT:
            assert panel.stream is None and drawn.line is None
            continue
        assert drawn.line is not None and panel.stream.names == tuple(ends.index)
        if panel.signal is Signal.ACTIVATION:
            shown = ~panel.stream.zero | (panel.scale is not Scale.LOG)
            np.testing.assert_array_equal(drawn.line.get_ydata()[shown], ends[panel.statistic].to_numpy()[shown])
        # where the last leaf of each component stands
        last = [
            max(x for x, name in zip(panel.x, panel.names, strict=True) if name.startswith(end)) for end in ends.index
        ]
        np.testing.assert_array_equal(drawn.line.get_xdata(), last)


def test_each_kind_of_layer_has_a_line_of_its_own(residual: spp.Trace) -> None:
    plot = residual.plot("layers", signals="activation", statistics="acv")
    panel, drawn = plot.panels[0], plot.artists_[0]
    assert set(drawn.lines) == {Family.WEIGHTED, Family.NORM, Family.ACTIVATION}
    for family, line in drawn.lines.items():
        of = [one == family for one in panel.families]
        np.testing.assert_array_equal(line.get_xdata(), panel.x[of])
        np.testing.assert_array_equal(line.get_ydata(), panel.y[of])


def test_gates_stand_beside_the_way() -> None:
    model = spp.models.build("effnet_b0", norm="none", width_multiplier=0.25)
    plot = spp.trace(model, spp.data.gaussian(2, (3, 32, 32), seed=0), signals="activation").plot(
        "layers", signals="activation"
    )
    panel = plot.panels[0]
    names = [name for name, joined in zip(panel.names, panel.joined, strict=True) if not joined]
    assert names and all(".se." in name for name in names)
    assert not any(".se." in name for name, joined in zip(panel.names, panel.joined, strict=True) if joined)
    lined = {x for line in plot.artists_[0].lines.values() for x in line.get_xdata()}
    assert lined.isdisjoint(panel.x[~panel.joined])


def test_what_is_compared_has_one_scale(residual: spp.Trace) -> None:
    axes = residual.plot("layers").axes_
    for one, other in zip(axes[::2], axes[1::2], strict=True):
        assert one.get_ylim() == other.get_ylim() and one.get_yscale() == other.get_yscale()
    # a share has a scale of its own
    axes = residual.plot("layers", signals="activation", statistics=["acv", "zero_fraction", "acsm"]).axes_
    assert axes[0].get_ylim() == axes[2].get_ylim() and axes[1].get_ylim()[1] < 1.1 < axes[0].get_ylim()[1]


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
