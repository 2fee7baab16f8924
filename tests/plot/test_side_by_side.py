"""Training runs beside each other: the numbers of each, one axis for all, and passes that are training alone."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from spp.errors import InputError
from spp.frame.schema import one_mode
from spp.plot import evolutions, signal_plot
from spp.plot.panels import Curves, Scale

from .frames import RUN, block_frame, network

NAMED = [("layer1.act", "ReLU"), ("layer2.act", "ReLU"), ("layer3.act", "ReLU"), ("head.fc", "Linear")]


def run(factor: float, norm: str, **facts: object):
    """A run whose numbers at step s are ``factor`` times 10 to the power of depth minus s."""
    frames = [network(lambda t, s=s: factor * 10.0 ** (3 * t - s), named=NAMED, steps=(s,)) for s in (0, 2, 4)]

    modes = pd.Categorical(["train"] * sum(map(len, frames)))
    frame = pd.concat(frames, ignore_index=True).assign(mode=modes)
    return SimpleNamespace(frame=frame, run={**RUN, "norm": norm, "steps_per_epoch": 4, **facts})


def test_each_run_is_a_column_and_each_step_a_line():
    one, other = run(1.0, "batch"), run(100.0, "none")
    figure = evolutions([one, other], signals="gradient", statistics="acv", steps=[0, 4])
    left, right = figure.panels
    assert isinstance(left, Curves) and isinstance(right, Curves)
    assert [(panel.title, len(panel.curves)) for panel in (left, right)] == [("norm batch", 2), ("norm none", 2)]
    assert [curve.label for curve in left.curves] == ["step 0 (epoch 0)", "step 4 (epoch 1)"]
    for panel, factor in ((left, 1.0), (right, 100.0)):
        for curve, step in zip(panel.curves, (0, 4), strict=True):
            np.testing.assert_allclose(curve.y, factor * 10.0 ** (np.arange(4) - step))
            assert curve.names == tuple(name for name, _ in NAMED)
    drawn = figure.artists_[1].curves
    np.testing.assert_allclose([line.get_ydata() for line in drawn], [curve.y for curve in right.curves])


def test_panels_of_a_row_are_read_on_one_axis():
    figure = evolutions({"a": run(1.0, "batch"), "b": run(1e4, "batch")}, statistics="acv")
    rows = [figure.axes_[:2], figure.axes_[2:]]
    for left, right in rows:
        assert left.get_ylim() == right.get_ylim()
        assert left.get_yscale() == right.get_yscale() == "log"
    assert all(panel.scale is Scale.LOG for panel in figure.panels)
    alone = evolutions({"a": run(1.0, "batch")}, statistics="acv")
    assert alone.axes_[0].get_ylim()[1] < figure.axes_[0].get_ylim()[1]


def test_without_steps_the_first_the_middle_and_the_last_in_common():
    one, other = run(1.0, "batch"), run(1.0, "none")
    other.frame = other.frame[other.frame["step"] > 0]
    (panel, *_) = evolutions([one, other]).panels
    assert [curve.label for curve in panel.curves] == ["step 2", "step 4 (epoch 1)"]


def test_seeds_are_told_apart_and_the_caption_says_what_is_drawn():
    figure = evolutions([run(1.0, "batch", seed=1), run(1.0, "batch", seed=2)], signals="gradient")
    assert [panel.title for panel in figure.panels] == ["testnet, seed 1", "testnet, seed 2"]
    assert "beside each other, ACV of gradients" in figure.caption
    assert "at step 0 (epoch 0), step 2 and step 4 (epoch 1)." in figure.caption


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evolutions([run(1.0, str(i)) for i in range(5)]), "one to 4 runs fit beside each other; got 5"),
        (lambda: evolutions([run(1.0, "a")], steps=[0, 3]), r"got step 3\. Steps: 0, 2, 4"),
        (lambda: evolutions([run(1.0, "a")], steps=list(range(9))), "one to 8 steps can be drawn as lines; got 9"),
    ],
)
def test_what_cannot_be_drawn(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_evaluations_are_left_out_where_there_is_training():
    training = network(lambda t: 1 + t, named=NAMED, steps=(0, 5))
    evaluation = network(lambda t: 9 + t, named=NAMED, steps=(6,))
    modes = pd.Categorical(["train"] * len(training) + ["eval"] * len(evaluation))
    frame = pd.concat([training, evaluation], ignore_index=True).assign(mode=modes)
    assert set(one_mode(frame)["step"]) == {0, 5}
    assert one_mode(frame[frame["mode"] == "eval"])["step"].unique().tolist() == [6]
    assert one_mode(training) is training
    figure = signal_plot("layers", frame=frame, blocks=block_frame(), run=RUN)
    assert figure.step == 5
