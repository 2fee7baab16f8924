"""The numbers that boards get: those of the frame, each once."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import spp
from spp.errors import InputError
from spp.integrations import Board, board
from tests.integrations.conftest import samples


def steps(model, optimizer, count):
    inputs, targets = samples()
    for _ in range(count):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()


def test_every_sampled_step_comes_once_with_the_frames_numbers(net):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with spp.watch(net, optimizer, every=2) as watch:
        scalars = Board(watch, print)
        assert list(scalars.take()) == []
        steps(net, optimizer, 3)
        first = dict(scalars.take())
        assert list(scalars.take()) == []
        net.eval()(samples()[0])
        net.train()
        steps(net, optimizer, 2)
        second = dict(scalars.take())
    assert (list(first), list(second)) == ([0, 2], [4])
    names = {f"{kind}/{layer}" for kind in ("activation_rms", "gradient_rms") for layer in ("layer1", "act", "layer2")}
    names |= {f"weight_update_ratio/{layer}.{name}" for layer in ("layer1", "layer2") for name in ("weight", "bias")}
    assert set(first[0]) == names
    frame = watch.frame
    row = frame[(frame.step == 2) & (frame.name == "act") & (frame.signal == "gradient")]
    assert first[2]["gradient_rms/act"] == row["rms"].item()


def test_other_statistics_other_calls_and_numbers_that_are_none(net):
    model = nn.Sequential(net.layer1, net.act, nn.Linear(8, 6), net.layer1, net.act, net.layer2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with spp.watch(model, optimizer, every=1) as watch:
        scalars = Board(watch, print, [("activation", "acv"), ("activation", "kurtosis"), ("weight", "rms")])
        steps(model, optimizer, 1)
    ((_, values),) = scalars.take()
    assert {name for name in values if name.startswith("activation")} == {
        f"activation_acv/{name}" for name in ("0", "1", "2", "0 (call 1)", "1 (call 1)", "5")
    }
    assert {"weight_rms/0.weight", "weight_rms/5.bias"} <= set(values)
    assert all(np.isfinite(value) for value in values.values())


def test_a_lone_module_is_called_the_model():
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with spp.watch(model, optimizer, every=1) as watch:
        scalars = Board(watch, print)
        steps(model, optimizer, 1)
    ((_, values),) = scalars.take()
    assert set(values) == {
        "activation_rms/model",
        "gradient_rms/model",
        "weight_update_ratio/weight",
        "weight_update_ratio/bias",
    }


def test_listeners_get_the_rows_of_the_frame_as_they_come(net, tmp_path):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    heard = []
    with spp.watch(net, optimizer, every=2, path=tmp_path / "run") as watch:
        watch.listen(lambda frame, blocks: heard.append((frame, len(heard))))
        steps(net, optimizer, 3)
    pd.testing.assert_frame_equal(
        pd.concat([frame.astype({"name": "str", "type": "str"}) for frame, _ in heard], ignore_index=True)[
            ["step", "rms"]
        ],
        watch.frame[["step", "rms"]],
    )


def test_a_listener_that_raises_ends_the_watching_and_not_the_training(net):
    def broken(frame, blocks):
        raise ZeroDivisionError("a bug")

    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with spp.watch(net, optimizer, every=1) as watch:
        watch.listen(broken)
        with pytest.warns(
            spp.SppWarning, match="the watching has ended, the training goes on: ZeroDivisionError: a bug"
        ):
            steps(net, optimizer, 3)
    assert len(set(watch.frame["step"])) <= 1


def test_a_board_of_ones_own_is_one_function(net):
    sent = []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with spp.watch(net, optimizer, every=2) as watch:
        mine = board(lambda step, values: sent.append((step, values)), shown=[("gradient", "rms")])(watch)
        for _ in range(3):
            steps(net, optimizer, 1)
            mine.update()
    assert [step for step, _ in sent] == [0, 2]
    frame = watch.frame
    row = frame[(frame.step == 2) & (frame.name == "layer2") & (frame.signal == "gradient")]
    assert sent[1][1]["gradient_rms/layer2"] == row["rms"].item()
    assert all(name.startswith("gradient_rms/") for name in sent[1][1])
    with pytest.raises(InputError, match="a board that shows figures has a function for them"):
        mine.figure()
    board(print, show=lambda *one: sent.append(one))(watch).figure("layers", tag="last", step=2)
    tag, image, plot = sent[-1]
    assert (tag, image.mode) == ("last", "RGB") and image.width > 400 and plot.caption
