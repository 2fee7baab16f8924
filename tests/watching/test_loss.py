"""The loss of each measured step: what backward ran from, in a trace, a watch and a run folder."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spp
from spp.frame.schema import STEP_COLUMNS, check


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def batches(count, size=8):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 6, generator=generator), torch.randint(0, 3, (size,), generator=generator))
        for _ in range(count)
    ]


def train(model, optimizer, given, *, scaler=None, parts=1, divided=True):
    """The losses of each step, over the whole batch."""
    losses = []
    for x, y in given:
        with torch.no_grad():
            losses.append(float(F.cross_entropy(model(x), y)) * (1 if divided else parts))
        optimizer.zero_grad()
        for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
            loss = F.cross_entropy(model(a), b) / (parts if divided else 1)
            (loss if scaler is None else scaler.scale(loss)).backward()
        (optimizer if scaler is None else scaler).step(*[] if scaler is None else [optimizer])
        if scaler is not None:
            scaler.update()
    return losses


def test_a_trace_has_one_step_with_the_mean_loss_over_its_batches():
    model, given = network(), batches(3)
    run = spp.trace(model, given)
    losses = [F.cross_entropy(model(x), y).item() for x, y in given]
    assert check(run.steps, STEP_COLUMNS)[["step", "loss", "training"]].to_dict("records") == [
        {"step": 0, "loss": pytest.approx(np.mean(losses), rel=1e-6), "training": True}
    ]
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(run)).steps, run.steps)
    probed = spp.trace(model.eval(), given[0][0])
    assert probed.steps["loss"].isna().all() and not probed.steps["training"].any()


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"parts": 2},
        {"parts": 2, "divided": False},
        {"scaler": torch.amp.GradScaler("cpu", init_scale=1024.0)},
    ],
    ids=["plain", "accumulated", "accumulated undivided", "scaled"],
)
def test_a_watch_keeps_what_backward_ran_from(how):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with spp.watch(model, optimizer, every=2) as watch:
        losses = train(model, optimizer, batches(5), **how)
    assert watch.steps["step"].tolist() == [0, 2, 4] and watch.steps["training"].all()
    assert watch.steps["loss"].tolist() == pytest.approx(losses[::2], rel=1e-6)


def test_a_watch_knows_the_graph_of_its_loss_and_what_is_seen_of_the_target(tmp_path):
    model, folder = network(), tmp_path / "run"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with spp.watch(model, optimizer, every=2, path=folder, flush=0) as watch:
        train(model, optimizer, given := batches(3), scaler=scaler, parts=2)
        # written with the rows, and not only at the end
        assert spp.load(folder).info["loss_graph"] == ["log_softmax", "nll_loss", "div"]
    (term,) = watch.info["loss_terms"]
    assert (term["criterion"], term["factor"], term["elements"]) == ("cross_entropy", pytest.approx(1.0), 8)
    target = given[0][1].double()
    assert watch.info["target"] == {
        **{"dtype": "int64", "classes": 3, "numel": 8, "nonfinite": 0, "distinct": len(target.unique())},
        **{"mean": pytest.approx(target.mean().item()), "var": pytest.approx(target.var(correction=0).item())},
        **{"min": target.min().item(), "max": target.max().item()},
    }
    assert spp.load(folder).info["target"] == watch.info["target"]


def test_a_target_that_nobody_keeps_is_not_told():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with spp.watch(model, optimizer, every=1) as watch:
        output = model(batches(1)[0][0])
        (output - 1).square().mean().backward()
        optimizer.step()
    assert watch.info["loss_graph"] == ["sub", "pow", "mean"] and "target" not in watch.info


def test_a_loss_that_is_no_number_is_missing_and_the_training_goes_on():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with spp.watch(model, optimizer, every=1) as watch:
        for x, _ in batches(2):
            output = model(x)
            output.backward(torch.ones_like(output))
            optimizer.step()
    assert watch.steps["step"].tolist() == [0, 1] and watch.steps["loss"].isna().all()


def test_losses_are_written_as_the_run_goes_and_replaced_where_it_is_taken_up_again(tmp_path):
    model, folder = network(), tmp_path / "run"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with spp.watch(model, optimizer, every=1, path=folder, flush=0) as watch:
        first = train(model, optimizer, batches(3))
        pd.testing.assert_frame_equal(spp.load(folder).steps, watch.steps)
    with spp.watch(model, optimizer, every=1, path=folder, resume=True, start=2) as watch:
        second = train(model, optimizer, batches(2))
    loaded = spp.load(folder)
    assert loaded.steps["step"].tolist() == [0, 1, 2, 3]
    assert loaded.steps["loss"].tolist() == pytest.approx(first[:2] + second, rel=1e-6)
    again = spp.load(loaded.save(tmp_path / "saved", csv=False))
    pd.testing.assert_frame_equal(again.steps, loaded.steps)


def test_a_watch_of_an_earlier_version_has_no_steps(tmp_path):
    model, folder = network(), tmp_path / "run"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with spp.watch(model, optimizer, every=1, path=folder):
        train(model, optimizer, batches(1))
    manifest = folder / "parts" / "manifest.jsonl"
    line = json.loads(manifest.read_text())
    del line["steps"]
    manifest.write_text(json.dumps(line) + "\n")
    assert check(spp.load(folder).steps, STEP_COLUMNS).empty
