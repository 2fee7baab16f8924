"""Panels hold the frame's numbers, in execution order, and choose their own scale."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spp.errors import InputError, UnknownNameError
from spp.frame.schema import UNMEASURED_COLUMNS, Column
from spp.plot.panels import Family, Scale, choose_scale
from spp.vocabulary import Signal

from .frames import block_frame, block_panels, frame, layer_panels, network, residual_names, row


def _flat(t: np.ndarray) -> np.ndarray:
    return 1.0 + 0.1 * t


def _collapse(t: np.ndarray) -> np.ndarray:
    return 10.0 ** (-40 * t)


def test_six_panels_hold_the_frames_numbers() -> None:
    table = network(_collapse)
    grid, step = layer_panels(table)
    assert step == 0
    assert [[(p.signal, p.statistic) for p in line] for line in grid] == [
        [(signal, "acsm"), (signal, "acv")] for signal in (Signal.ACTIVATION, Signal.WEIGHT, Signal.GRADIENT)
    ]
    for line in grid:
        for panel in line:
            rows = table[table[Column.SIGNAL] == panel.signal]
            if panel.signal is Signal.WEIGHT:
                rows = rows[rows[Column.SHAPE].str.contains("x")]
            np.testing.assert_array_equal(panel.y, rows[panel.statistic].to_numpy())
            np.testing.assert_array_equal(panel.x, rows[Column.DEPTH].to_numpy(dtype=float))


def test_rows_in_any_order_give_execution_order() -> None:
    table = network(_collapse)
    shuffled = table.sample(frac=1.0, random_state=0)
    for ours, theirs in zip(layer_panels(table)[0], layer_panels(shuffled)[0], strict=True):
        np.testing.assert_array_equal(ours[1].x, theirs[1].x)
        np.testing.assert_array_equal(ours[1].y, theirs[1].y)


def test_containers_leave_no_gap_on_the_axis() -> None:
    rows = [
        row(0, "a", Signal.ACTIVATION, 1.0, 1.0),
        row(1, "box.b", Signal.ACTIVATION, 1.0, 2.0),
        row(2, "box", Signal.ACTIVATION, 1.0, 2.0, leaf=False),
        row(3, "c", Signal.ACTIVATION, 1.0, 3.0),
        row(4, "", Signal.ACTIVATION, 1.0, 3.0, leaf=False),
    ]
    panel = layer_panels(frame(rows), signals="activation", statistics="acv")[0][0][0]
    assert panel.x.tolist() == [0, 1, 2]
    assert panel.y.tolist() == [1, 2, 3]


def test_a_module_that_calls_no_child_counts_as_a_layer() -> None:
    rows = [
        row(None, "block.attn.out_proj", Signal.WEIGHT, 0.1, 0.1, output="weight", shape="8x8"),
        row(0, "block.attn", Signal.ACTIVATION, 1.0, 1.0, leaf=False, output="0"),
        row(0, "block.attn", Signal.WEIGHT, 0.5, 0.5, leaf=False, output="in_proj_weight", shape="24x8"),
        row(1, "block.fc", Signal.ACTIVATION, 1.0, 2.0),
        row(2, "block", Signal.ACTIVATION, 1.0, 2.0, leaf=False),
    ]
    activations, weights = (line[1] for line in layer_panels(frame(rows), signals=["activation", "weight"])[0])
    assert activations.names == ("block.attn[0]", "block.fc")
    assert weights.y.tolist() == [0.5] and weights.x.tolist() == [0]


def test_a_lone_root_module_is_drawn() -> None:
    panel = layer_panels(frame([row(0, "", Signal.ACTIVATION, 1.0, 2.0)]), signals="activation")[0][0][1]
    assert panel.y.tolist() == [2.0]


def test_a_bias_is_not_mixed_into_the_weights() -> None:
    panel = layer_panels(network(_flat), signals=["weight"])[0][0][1]
    assert set(panel.families) == {Family.WEIGHTED}
    assert panel.y.min() == 0.02


def test_repeated_calls_have_each_their_place() -> None:
    rows = [row(i, "cell", Signal.ACTIVATION, 1.0, 1.0 + i, call=i) for i in range(3)]
    panel = layer_panels(frame(rows), signals="activation")[0][0][1]
    assert panel.x.tolist() == [0, 1, 2]
    assert panel.names == ("cell #1", "cell #2", "cell #3")


def test_several_outputs_share_a_place_and_the_line_takes_the_first() -> None:
    rows = [
        row(0, "lstm", Signal.ACTIVATION, 1.0, 1.0, output="0"),
        row(0, "lstm", Signal.ACTIVATION, 1.0, 5.0, output="1.0"),
        row(1, "fc", Signal.ACTIVATION, 1.0, 2.0),
    ]
    panel = layer_panels(frame(rows), signals="activation")[0][0][1]
    assert panel.x.tolist() == [0, 0, 1]
    assert panel.joined.tolist() == [True, False, True]
    assert panel.names == ("lstm[0]", "lstm[1.0]", "fc")


def test_flat_curves_are_linear_and_collapses_logarithmic() -> None:
    assert layer_panels(network(_flat))[0][0][1].scale is Scale.LINEAR
    panel = layer_panels(network(_collapse))[0][0][1]
    assert panel.scale is Scale.LOG
    assert panel.ylabel == "activations\nACV"
    assert panel.title == "ACV, average channel variance"
    assert panel.xlabel == "layer (execution order)"


def test_rounding_counts_as_zero_and_tiny_signals_do_not() -> None:
    rows = [
        row(0, "conv", Signal.ACTIVATION, 0.3, 1.0),
        row(1, "norm", Signal.ACTIVATION, 1e-17, 1.0),
        row(2, "tiny", Signal.ACTIVATION, 1e-40, 1e-38),
        row(3, "dead", Signal.ACTIVATION, 0.0, 0.0),
    ]
    panel = layer_panels(frame(rows), signals="activation", statistics="acsm")[0][0][0]
    assert panel.zero.tolist() == [False, True, False, True]
    assert panel.y.tolist() == [0.3, 1e-17, 1e-40, 0.0]


def test_nonfinite_layers_stay() -> None:
    table = network(lambda t: np.where(t > 0.5, np.inf, 10.0**t))
    rows = table[Column.SIGNAL] == Signal.ACTIVATION
    table.loc[rows & (table[Column.DEPTH] == 3), Column.NONFINITE] = 2
    panel = layer_panels(table)[0][0][1]
    assert panel.nonfinite.sum() == np.isinf(panel.y).sum() + 1
    assert panel.nonfinite[3]
    assert len(panel.y) == panel.size


@pytest.mark.parametrize("signal", list(Signal))
def test_a_missing_signal_says_why(signal: Signal) -> None:
    others = [other for other in Signal if other is not signal]
    table = network(_flat, signals=others)
    panel = layer_panels(table, signals=[signal])[0][0][0]
    assert "not measured:\nthe trace holds only" in panel.message
    reason = pd.DataFrame(
        [["a", "Conv2d", 0, "", signal, "left out by signals="]], columns=[str(column) for column in UNMEASURED_COLUMNS]
    )
    panel = layer_panels(table, signals=[signal], unmeasured=reason)[0][0][0]
    assert panel.message.endswith("not measured:\nleft out by signals=")


def test_a_network_without_matrices_says_so() -> None:
    rows = [row(0, "norm", Signal.WEIGHT, 1.0, 0.0, shape="8"), row(0, "norm", Signal.ACTIVATION, 1.0, 1.0)]
    assert (
        layer_panels(frame(rows), signals="weight")[0][0][0].message == "weights not measured:\nnone of rank 2 or more"
    )


def test_steps_are_chosen_and_refused() -> None:
    table = network(_flat, steps=(0, 9, 19))
    assert layer_panels(table)[1] == 19
    assert layer_panels(table, step=9)[1] == 9
    with pytest.raises(
        InputError, match=r"^step: a figure draws a step that was measured; got step 5\. Steps: 0, 9, 19\.$"
    ):
        layer_panels(table, step=5)


def test_unknown_names_list_the_known_ones() -> None:
    table = network(_flat)
    with pytest.raises(
        UnknownNameError, match=r"unknown signal 'activations'.*Known: activation, gradient, weight"
    ) as caught:
        layer_panels(table, signals=["activations"])
    assert caught.value.known == tuple(Signal) or set(caught.value.known) == set(Signal)
    with pytest.raises(
        UnknownNameError, match=r"unknown statistic 'acms'\. Did you mean 'acsm'.*Known: mean, var, .*kurtosis\."
    ):
        layer_panels(table, statistics=["acms"])
    with pytest.raises(UnknownNameError, match=r"Known: acsm, acv, branch_acv\."):
        block_panels(block_frame(), statistics=["mean"])
    with pytest.raises(UnknownNameError, match=r"unknown signal 'weight'.*Known: activation, gradient\."):
        block_panels(block_frame(), signals="weight")
    with pytest.raises(InputError, match=r"got an empty list"):
        layer_panels(table, signals=[])


def test_an_empty_frame_is_one_clear_line() -> None:
    with pytest.raises(InputError, match=r"^frame: a figure needs at least one measured tensor; got an empty frame\.$"):
        layer_panels(network(_flat).iloc[:0])
    with pytest.raises(
        InputError, match=r"^frame: the layers figure draws modules that ran; got a frame without one\.$"
    ):
        layer_panels(frame([row(None, "box", Signal.WEIGHT, 1.0, 1.0)]))


def test_blocks_hold_the_tables_numbers() -> None:
    table = block_frame()
    (line,), _ = block_panels(table)
    for panel, column in zip(line, ("acsm", "acv", "branch_acv"), strict=True):
        np.testing.assert_array_equal(panel.y, table[column].to_numpy())
        assert panel.transitions == (0.0, 3.0, 7.0, 13.0)
        assert [span.name for span in panel.stages] == ["stage1", "stage2", "stage3", "stage4"]
    gradient = block_panels(table, signals=["gradient"])[0][0][0]
    np.testing.assert_array_equal(gradient.y, table["gradient_acsm"].to_numpy())


def test_no_residual_merge_points_to_the_other_kind() -> None:
    with pytest.raises(InputError, match=r'residual merges; got a network without one\. Draw kind="layers" instead\.$'):
        block_panels(block_frame().iloc[:0])


@given(st.lists(st.floats(1e-300, 1e300), min_size=1, max_size=30))
def test_the_scale_is_logarithmic_exactly_beyond_two_decades(values: list[float]) -> None:
    y = np.array(values)
    scale, threshold = choose_scale(y, y == 0)
    assert (scale is Scale.LOG) == (y.max() >= 100 * y.min())
    assert threshold == 0.0
    if len(y) > 1 and scale is Scale.LOG:
        y[0] = -y[0]
        scale, threshold = choose_scale(y, y == 0)
        assert scale is Scale.SYMLOG or (y < 0).all()
        assert threshold > 0


def test_ten_thousand_rows_are_quick() -> None:
    names = [(f"stage{i // 1000}.{i // 10}.conv{i % 10}", "Conv2d") for i in range(4000)]
    table = network(_collapse, named=names)
    assert len(table) > 10_000
    assert len(layer_panels(table)[0][0][0].y) == 4000


def test_the_names_of_the_bundled_layout() -> None:
    assert len(residual_names()) == 3 + 16 * 9 + 2
