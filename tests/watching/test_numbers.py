"""The numbers of a watch: those of a trace of the same step, merged over micro-batches, scales divided out."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import spp
from spp.frame.schema import WATCH_BLOCK_COLUMNS, WATCH_COLUMNS, check
from tests.distributed import worker as ranks
from tests.watching.loops import Net, batches, plain, train

KEY = ["name", "call", "output", "signal"]
NUMBERS = ["numel", "mean", "var", "acsm", "acv", "min", "max", "zero_fraction", "dead_fraction", "nonfinite"]


def watched(model, *, every=1, steps=1, optimizer=True, rate=0.1, **loop):
    step = torch.optim.SGD(model.parameters(), lr=rate)
    with spp.watch(model, step if optimizer else None, every=every) as watch:
        train(model, step, steps, **loop)
    check(watch.blocks, WATCH_BLOCK_COLUMNS)
    return check(watch.frame, WATCH_COLUMNS)


def same(a, b, rtol, without=()):
    a, b = a.set_index(KEY).sort_index(), b.set_index(KEY).sort_index()
    assert a.index.tolist() == b.index.tolist()
    for column in NUMBERS:
        if column not in without:
            np.testing.assert_allclose(a[column], b[column], rtol=rtol, atol=rtol * 1e-3, err_msg=column)


@pytest.mark.parametrize("optimizer", [True, False], ids=["optimizer", "forwards"])
def test_a_sampled_step_is_a_trace(optimizer):
    model = Net()
    model.drop.p = 0.0
    images, labels = batches(1)[0]
    trace = spp.trace(model, (images, labels))
    frame = watched(model, optimizer=optimizer)
    same(frame, trace.frame, 1e-6)
    pd.testing.assert_series_equal(frame["depth"], trace.frame["depth"])
    pd.testing.assert_series_equal(frame["role"], trace.frame["role"])
    assert frame["role"].notna().any()


def test_micro_batches_are_one_batch():
    model = plain().double()
    images, labels = batches(1)[0]
    whole = spp.trace(model, (images.double(), labels), loss=nn.functional.cross_entropy)
    parts = watched(model, accumulate=3, dtype=torch.float64)
    same(parts, whole.frame, 1e-10)
    assert parts.query("signal == 'activation' and name == '0'")["shape"].tolist() == ["2x4x3x3"]


def test_the_update_ratio_is_the_relative_size_of_the_step():
    torch.manual_seed(0)
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    with spp.watch(model, optimizer, every=1) as watch:
        train(model, optimizer, 1)
    weights = watch.frame.query("signal == 'weight'")
    assert len(weights) == len(before)
    for row in weights.to_dict("records"):
        name = f"{row['name']}.{row['output']}"
        change = (dict(model.named_parameters())[name].detach() - before[name]).double()
        size = before[name].double().norm()
        if size == 0:  # layer norm's bias starts at zero, and nothing is a share of that
            assert np.isnan(row["update_ratio"]) and name == "4.bias"
        else:
            np.testing.assert_allclose(row["update_ratio"], change.norm() / size, rtol=1e-6)
            assert row["update_ratio"] > 0
    assert watch.frame.query("signal != 'weight'")["update_ratio"].isna().all()


@pytest.mark.parametrize("kernels", ["auto", "off"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_update_ratio_of_half_precision_is_not_rounded_to_it(monkeypatch, kernels, dtype):
    monkeypatch.setenv("SPP_KERNELS", kernels)
    model = nn.Linear(40, 40).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
    before = model.weight.detach().double()
    with spp.watch(model, optimizer, every=1) as watch:
        model(torch.randn(8, 40).to(dtype)).sum().backward()
        optimizer.step()
    ratio = watch.frame.query("signal == 'weight' and output == 'weight'")["update_ratio"].item()
    np.testing.assert_allclose(ratio, (model.weight.double() - before).norm().item() / before.norm().item(), rtol=1e-6)


def test_weights_that_are_not_updated_have_no_update_ratio():
    model = plain()
    frozen = model[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p is not frozen], lr=0.1)
    with spp.watch(model, optimizer, every=1) as watch:
        train(model, optimizer, 1)
    weights = watch.frame.query("signal == 'weight'").set_index(["name", "output"])["update_ratio"]
    assert np.isnan(weights["0", "weight"]) and weights["0", "bias"] > 0
    assert "frozen" in watch.unmeasured.query("name == '0'")["reason"].iloc[0]


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_the_scale_of_a_gradient_scaler_is_divided_out(scale):
    frames = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=scale)):
        torch.manual_seed(1)
        frames.append(watched(plain(), scaler=scaler, accumulate=2))
    pd.testing.assert_frame_equal(*frames)


def test_the_scale_is_divided_out_without_an_optimizer_too():
    frames = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=1)):
        torch.manual_seed(1)
        frames.append(watched(plain(), scaler=scaler, optimizer=False, steps=2))
    pd.testing.assert_frame_equal(*(f.query("signal != 'weight_gradient'") for f in frames))
    one, other = (f.query("signal == 'weight_gradient'") for f in frames)
    same(one.query("step == 1"), other.query("step == 1"), 1e-12)


def test_the_scale_is_divided_out_where_a_fused_optimizer_does_it():
    frames = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=512.0)):
        torch.manual_seed(1)
        model = plain()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
        with spp.watch(model, optimizer, every=1) as watch:
            train(model, optimizer, 1, scaler=scaler)
        frames.append(watch.frame)
    pd.testing.assert_frame_equal(*frames)


def test_a_step_that_the_scaler_skips_is_no_step():
    torch.manual_seed(1)
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with spp.watch(model, optimizer, every=1) as watch:
        for factor in (1.0, float("inf"), 1.0):
            x, y = batches(1)[0]
            optimizer.zero_grad()
            scaler.scale(nn.functional.cross_entropy(model(x), y) * factor).backward()
            scaler.step(optimizer)
            scaler.update()
        assert watch.step == 2
    assert watch.frame["step"].unique().tolist() == [0, 1]
    assert not watch.frame["nonfinite"].any()
    numel = watch.frame.query("name == '0' and signal == 'activation'")["numel"]
    assert numel.nunique() == 1  # the forward of the skipped step is not merged with the next


def test_gradients_are_those_the_optimizer_uses():
    torch.manual_seed(0)
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = batches(1)[0]
    with spp.watch(model, optimizer, every=1) as watch:
        nn.functional.cross_entropy(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        clipped = model[3].weight.grad.clone()
        optimizer.step()
    row = watch.frame.query("name == '3' and output == 'weight' and signal == 'weight_gradient'").iloc[0]
    np.testing.assert_allclose(row["rms"], clipped.square().mean().sqrt(), rtol=1e-5)


def test_without_an_optimizer_steps_are_forwards_in_train_mode():
    model = plain()
    x = batches(1)[0][0]
    with spp.watch(model, every=2) as watch:
        for _ in range(5):
            model(x).sum().backward()
            model.eval()
            model(x)
            model.train()
    train_rows = watch.frame.query("mode == 'train'")
    assert train_rows["step"].unique().tolist() == [0, 2, 4]
    gradients = train_rows.query("signal == 'weight_gradient' and name == '3' and output == 'weight'")["rms"].to_numpy()
    np.testing.assert_allclose(gradients / gradients[0], [1, 3, 5], rtol=1e-5)  # .grad as it stands, never zeroed here
    evaluations = watch.frame.query("mode == 'eval'")
    assert evaluations["step"].unique().tolist() == [0, 2, 4] and set(evaluations["signal"]) == {"activation"}


def test_an_evaluation_has_rows_of_its_own():
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = batches(1)[0][0]

    def evaluate(step):
        model.eval()
        with torch.no_grad():
            for _ in range(3):
                model(x)
        model.train()

    with spp.watch(model, optimizer, every=2) as watch:
        train(model, optimizer, 4, after=evaluate)
    frame = watch.frame
    assert frame.groupby("mode", observed=True)["step"].unique().map(list).to_dict() == {
        "train": [0, 2],
        "eval": [1, 2, 4],
    }
    rows = frame.query("mode == 'eval' and name == 'drop'")
    assert rows["numel"].tolist() == [600] * 3  # one batch each, dropout off
    expected = spp.trace(model.eval(), x, signals=["activation"]).frame
    same(frame.query("mode == 'eval' and step == 4"), expected, 1e-6)


def test_measure_pause_and_resume():
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with spp.watch(model, optimizer, every=[100]) as watch:

        def after(step):
            {0: watch.measure, 3: watch.measure, 4: watch.pause, 5: watch.measure, 6: watch.resume}.get(step, int)()

        train(model, optimizer, 10, after=after)
    assert watch.frame["step"].unique().tolist() == [1, 4, 7]
    assert watch.step == 10


def test_a_closure_is_measured_at_its_first_call():
    torch.manual_seed(0)
    model = plain()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
    x, y = batches(1)[0]
    calls = []

    def closure():
        calls.append(1)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    expected = spp.trace(model, (x, y)).frame
    with spp.watch(model, optimizer, every=2) as watch:
        for _ in range(3):
            optimizer.step(closure)
    assert len(calls) > 3 and watch.frame["step"].unique().tolist() == [0, 2]
    same(watch.frame.query("step == 0"), expected, 1e-6)
    ratios = watch.frame.query("signal == 'weight' and name == '3'")["update_ratio"]
    assert (ratios > 0).all()


def test_gradients_that_arrive_in_parts_are_left_out_and_named():
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = batches(1)[0][0]
    with spp.watch(model, optimizer, every=1) as watch:
        output = model(x)
        output.sum().backward(retain_graph=True)
        output.square().sum().backward()
        optimizer.step()
    assert not len(watch.frame.query("signal == 'gradient'"))
    assert len(watch.frame.query("signal == 'weight_gradient'")) == 8
    assert watch.unmeasured["reason"].str.contains("several backward passes").all()


def test_a_gradient_penalty_counts_in_the_outer_backward_only():
    torch.manual_seed(0)
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = batches(1)[0][0].requires_grad_()

    def loss(output, _):
        (slope,) = torch.autograd.grad(output.sum(), x, create_graph=True)
        return output.square().mean() + slope.square().mean()

    expected = spp.trace(model, (x, torch.zeros(())), loss=loss).frame
    with spp.watch(model, optimizer, every=1) as watch:
        loss(model(x), None).backward()
        optimizer.step()
    same(watch.frame, expected, 1e-6)


def test_blocks_have_steps_too():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with spp.watch(model, optimizer, every=2) as watch:
        train(model, optimizer, 3, accumulate=2)
    assert watch.blocks["step"].tolist() == [0, 2] and watch.blocks["branch"].tolist() == ["block.3", "block.3"]
    assert watch.blocks[["acv", "branch_acv", "gradient_acv"]].notna().all(axis=None)


@pytest.mark.parametrize("flush", [None, 0, 3600], ids=["in memory", "one by one", "at once"])
def test_rows_of_an_evaluation_know_their_block(tmp_path, flush):
    """Without a graph no merge is found where functions lie between the modules; what the steps found holds for it."""
    torch.manual_seed(0)
    model = ranks.Net()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    options = {} if flush is None else {"path": tmp_path / "run", "flush": flush}
    x, _ = ranks.batch(0, torch.float32)
    with spp.watch(model, optimizer, every=1, functions=False, **options) as watch:
        for step in range(5):
            model.train(step % 2 == 1)
            with torch.set_grad_enabled(model.training):
                output = model(x)
            if model.training:
                output.sum().backward()
                optimizer.step()
    seen = watch.frame.query("name == 'blocks.0.down' and signal == 'activation'")
    assert seen["mode"].tolist() == ["eval", "train", "eval", "train", "eval"]
    assert seen["block"].fillna("none").tolist() == ["none", *["blocks.0"] * 4]  # before any step none was known
