"""``spp.watch`` as its users meet it: schedules, what is refused, what the training survives, saving and loading."""

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import spp
from spp.frame.schema import UNMEASURED_COLUMNS, WATCH_BLOCK_COLUMNS, WATCH_COLUMNS, check
from spp.watching.loop import schedule_of
from tests.watching.loops import Net, batches, plain, train


@pytest.fixture(autouse=True)
def _one_thread(_calm: None) -> None:
    torch.set_num_threads(1)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.05)


def steps_of(model, steps=8, **options):
    optimizer = sgd(model)
    with spp.watch(model, optimizer, **options) as watch:
        train(model, optimizer, steps)
    return watch.frame["step"].unique().tolist()


@given(st.integers(1, 50), st.integers(0, 500))
def test_every_so_many_steps(every, step):
    assert schedule_of(every)(step) == (step % every == 0)


def test_the_logarithmic_schedule_has_ten_steps_in_each_factor_of_ten():
    due = [step for step in range(10_001) if schedule_of("log")(step)]
    assert due[:13] == [0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25]
    for decade in (10, 100, 1000):
        assert len([s for s in due if decade <= s < 10 * decade]) == 10
    distances = np.diff(np.log10(due[due.index(100) :]))
    np.testing.assert_allclose(distances, 0.1, atol=0.01)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"every": 3}, [0, 3, 6]),
        ({"every": [1, 5, 99]}, [1, 5]),
        ({"every": "log"}, [0, 1, 2, 3, 4, 5, 6]),
        ({"schedule": lambda step: step in (2, 7)}, [2, 7]),
        ({"every": 4, "start": 102}, [104, 108]),
    ],
    ids=["every", "list", "log", "schedule", "start"],
)
def test_schedules(options, expected):
    assert steps_of(plain(), **options) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "every: every is a positive number of steps, a list of steps, or 'log'; got 0."),
        ({"every": -2}, "got -2"),
        ({"every": "daily"}, "got 'daily'"),
        ({"every": []}, r"got \[\]"),
        ({"every": [1, -1]}, r"got \[1, -1\]"),
        ({"every": True}, "got True"),
        ({"schedule": 5}, "schedule: a schedule is a callable step -> bool; got 5"),
        ({"signals": ["activations"]}, "unknown signal 'activations'. Did you mean 'activation'"),
        ({"signals": []}, "at least one signal is measured; got none"),
        ({"include": "headd"}, "unknown module pattern 'headd'"),
        ({"start": -1}, "start: start is the number of the first step; got -1"),
    ],
)
def test_arguments_that_are_refused(arguments, message):
    model = Net()
    with pytest.raises(spp.InputError, match=message):
        spp.watch(model, sgd(model), **arguments)


def test_a_model_or_an_optimizer_that_is_none():
    model = plain()
    with pytest.raises(spp.InputError, match=r"model: a model is a torch.nn.Module; got a list"):
        spp.watch([model])
    with pytest.raises(spp.InputError, match=r"optimizer: an optimizer is a torch.optim.Optimizer; got a float"):
        spp.watch(model, 0.1)


def test_the_optimizer_of_another_model():
    model, other = plain(), plain()
    with pytest.warns(spp.SppWarning, match=r"SGD has none of the parameters of the model that is watched"):
        watch = spp.watch(model, sgd(other), every=1)
    assert watch.info["optimizers"][0]["foreign"] == 8 and len(watch.info["not_optimized"]) == 8


def test_what_the_optimizers_were_set_to_and_each_steps_rate():
    model = plain()
    groups = [{"params": model[0].parameters(), "weight_decay": 0.0}, {"params": model[3].parameters()}]
    optimizer = torch.optim.AdamW(groups, 1e-2, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    with spp.watch(model, optimizer, every=2) as watch:
        train(model, optimizer, 5, after=lambda step: schedule.step())
    (facts,) = watch.info["optimizers"]
    assert [(g["parameters"], g["lr"], g["weight_decay"], g["decoupled"]) for g in facts["groups"]] == [
        (2, 1e-2, 0.0, True),
        (2, 1e-2, 0.1, True),
    ]
    assert watch.info["not_optimized"] == ["4.weight", "4.bias", "5.weight", "5.bias"]
    assert watch.steps.rate.tolist() == pytest.approx([1e-2, 1e-2 / 3, 1e-2 / 5])
    assert watch.steps.carried.tolist() == [0.0, 0.0, 0.0]


def test_a_model_that_changes_its_shape_is_followed_with_one_warning():
    model = plain()
    optimizer = sgd(model)
    with spp.watch(model, optimizer, every=1) as watch:
        train(model, optimizer, 2)
        model[3], model[4], model[5] = nn.Linear(36, 12), nn.LayerNorm(12), nn.Linear(12, 5)
        optimizer.param_groups[0]["params"] = list(model.parameters())
        with pytest.warns(
            spp.SppWarning,
            match=r"has changed before step 2: '3.weight' has shape \(12, 36\), had \(8, 36\) \(and 4 more differences\)",
        ):
            train(model, optimizer, 2)
    rows = watch.frame.query("name == '3' and signal == 'activation'")
    assert rows["step"].tolist() == [0, 1, 2, 3] and rows["channels"].tolist() == [8, 8, 12, 12]


def test_micro_batches_whose_channels_differ_in_number_merge_as_whole_tensors():
    model = nn.Sequential(nn.Conv1d(1, 1, 1), nn.ReLU())
    optimizer = sgd(model)
    inputs = [torch.randn(2, 1, length) for length in (5, 7, 5)]
    with spp.watch(model, optimizer, every=1, channel_axis=-1) as watch:
        for _ in range(2):
            for x in inputs:
                model(x).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    rows = watch.frame.query("signal in ('activation', 'gradient') and name == '0'")
    assert rows["numel"].tolist() == [34] * 4 and (rows["channels"] == 0).all()
    assert rows["rms"].notna().all() and rows[["acsm", "acv", "dead_fraction"]].isna().all().all()
    reasons = watch.unmeasured.query("signal == 'activation'")
    assert (
        reasons["name"].tolist() == ["0", "1", ""]
        and reasons["reason"].str.contains("channel_axis=", regex=False).all()
    )


@pytest.mark.parametrize("when", ["activation", "schedule", "selection"])
def test_a_failure_of_the_measuring_ends_the_watching_not_the_training(when):
    calls = []

    def broken(*_):
        calls.append(1)
        if when != "selection" or len(calls) > 20:  # selectors are tried once before the loop
            raise RuntimeError("no axis today")
        return True

    options = {{"activation": "channel_axis", "schedule": "schedule", "selection": "include"}[when]: broken}
    torch.manual_seed(0)
    model = Net()
    optimizer = sgd(model)
    watch = spp.watch(model, optimizer, **{"every": 1, **options})
    with pytest.warns(
        spp.SppWarning, match="the watching has ended, the training goes on: RuntimeError: no axis today"
    ):
        watch.start()
        watched = train(model, optimizer, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        watch.close()
    torch.manual_seed(0)
    model = Net()
    assert watched == train(model, sgd(model), 3)
    assert watch.frame.empty


def test_a_measuring_without_memory_is_told_in_one_line():
    def hungry(*_):
        torch.empty(1 << 60)

    model = plain()
    optimizer = sgd(model)
    told = "the watching has ended, the training goes on: RuntimeError: no memory for 4 EiB$"
    watch = spp.watch(model, optimizer, every=1, channel_axis=hungry)
    with pytest.warns(spp.SppWarning, match=told):
        watch.start()
        train(model, optimizer, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        watch.close()


def test_a_loop_that_calls_something_else_is_told_so():
    model = plain()
    other, optimizer = copy.deepcopy(model), sgd(model)
    with pytest.warns(spp.SppWarning, match="no forward of the model was seen"), spp.watch(model, optimizer, every=1):
        other(batches(1)[0][0]).sum().backward()
        optimizer.step()


def test_a_watch_starts_once():
    model = plain()
    with spp.watch(model) as watch:
        model(batches(1)[0][0])
        with pytest.raises(spp.InputError, match="a watch is started once"):
            watch.start()


def test_before_anything_was_sampled_the_tables_are_empty_and_right():
    watch = spp.watch(plain(), every=[10])
    assert check(watch.frame, WATCH_COLUMNS).empty and check(watch.blocks, WATCH_BLOCK_COLUMNS).empty
    assert check(watch.unmeasured, UNMEASURED_COLUMNS).empty and watch.modules.empty
    assert repr(watch) == "Watch of Sequential: 0 rows over 0 sampled steps"


def test_include_exclude_and_signals():
    model = Net()
    optimizer = sgd(model)
    with spp.watch(model, optimizer, every=1, signals="activation", include="block*", exclude=nn.ReLU) as watch:
        train(model, optimizer, 2)
    assert set(watch.frame["name"]) == {"block", "block.0", "block.1", "block.3"}
    assert set(watch.frame["signal"]) == {"activation"}


def test_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    model = Net()
    optimizer = sgd(model)
    with spp.watch(model, optimizer, every=2) as watch:
        train(model, optimizer, 5)
    watch.run["note"] = "mine"
    run = spp.load(watch.save(tmp_path / "run"))
    pd.testing.assert_frame_equal(run.frame, watch.frame)
    pd.testing.assert_frame_equal(run.blocks, watch.blocks)
    pd.testing.assert_frame_equal(run.modules, watch.modules)
    assert run.run["note"] == "mine" and run.run["kind"] == "watch" and run.run["optimizer"] == "SGD"
    assert run.frame["step"].nunique() == 3
    assert len(pickle.dumps(run)) > 0
    assert run.plot().kind == watch.plot().kind == "evolution"
    run.plot("layers", step=2)


def test_the_model_can_be_copied_and_saved_while_it_is_watched(tmp_path):
    import copy

    model = plain()
    optimizer = sgd(model)
    with spp.watch(model, optimizer, every=1):
        train(model, optimizer, 1)
        twin = copy.deepcopy(model)
        torch.save(model, tmp_path / "model.pt")
        assert "_compiled_call_impl" not in twin.__dict__
    x = batches(1)[0][0]
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(twin(x), model(x)) and torch.equal(loaded(x), model(x))
