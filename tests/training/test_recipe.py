"""A recipe: what it takes and what it refuses, and the rates and optimizers that it stands for."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spp.errors import InputError, UnknownNameError
from spp.training import OPTIMIZERS, SCHEDULES, OptimizerRow, Recipe, ScheduleRow, fit
from spp.training.loop import apply_step
from spp.training.recipe import make_optimizer, rate
from tests.training import small


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"optimizer": "adma"}, UnknownNameError, r"optimizer: unknown optimizer 'adma'\. Did you mean 'adam'"),
        ({"schedule": "cos"}, UnknownNameError, r"Did you mean 'cosine'.*Known: constant, step, cosine"),
        ({"precision": "int8"}, UnknownNameError, r"Known: float32, bfloat16, float16"),
        ({"augment": "flip"}, UnknownNameError, r"unknown augmentation 'flip'"),
        ({"epochs": 0}, InputError, r"recipe: epochs is a whole number of at least 1; got 0\."),
        ({"batch_size": 2.5}, InputError, r"batch_size is a whole number of at least 1; got 2\.5"),
        ({"seed": -1}, InputError, r"seed is a whole number of at least 0; got -1"),
        ({"epochs": True}, InputError, r"epochs is a whole number"),
        ({"lr": 0.0}, InputError, r"lr is a number, positive; got 0\.0"),
        ({"lr": math.nan}, InputError, r"lr is a number, positive; got nan"),
        ({"agc": -0.1}, InputError, r"agc is a number, positive; got -0\.1"),
        ({"weight_decay": "x"}, InputError, r"weight_decay is a number, at least 0; got 'x'"),
        ({"momentum": 1.0}, InputError, r"momentum is a number, at least 0 and less than 1; got 1\.0"),
        ({"label_smoothing": 1.0}, InputError, r"label_smoothing is a number, at least 0 and less than 1"),
        ({"nesterov": True}, InputError, r"nesterov is a form of SGD with momentum; got optimizer='adam'"),
        ({"nesterov": True, "optimizer": "sgd", "momentum": 0.0}, InputError, r"got optimizer='sgd', momentum=0\.0"),
    ],
)
def test_impossible_recipes(fields, error, message):
    with pytest.raises(error, match=message):
        Recipe(**fields)


@given(step=st.integers(0, 499), warmup=st.sampled_from([0, 0.5, 3]), epochs=st.just(50))
def test_constant_with_warmup(step, warmup, epochs):
    expected = 0.3 * (min(1.0, (step + 1) / (10 * warmup)) if warmup else 1.0)
    assert rate(Recipe(lr=0.3, warmup=warmup, epochs=epochs), step, 10) == pytest.approx(expected)


@settings(deadline=None)
@given(epochs=st.integers(1, 30), batches=st.integers(1, 7))
def test_cosine_and_step_are_torchs(epochs, batches):
    parameter = torch.nn.Parameter(torch.zeros(1))
    for name, make in {
        "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, epochs * batches),
        "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 3 * batches, gamma=0.5),
    }.items():
        optimizer = torch.optim.SGD([parameter], lr=0.7)
        scheduler = make(optimizer)
        recipe = Recipe(lr=0.7, schedule=name, epochs=epochs, step_size=3, gamma=0.5)
        for step in range(epochs * batches):
            assert rate(recipe, step, batches) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
            optimizer.step()
            scheduler.step()


def test_cosine_begins_where_warmup_ends():
    recipe = Recipe(lr=1.0, schedule="cosine", warmup=2, epochs=10)
    assert rate(recipe, 20, 10) == pytest.approx(1.0)
    assert rate(recipe, 60, 10) == pytest.approx(0.5)
    assert rate(Recipe(lr=1.0, schedule="cosine", warmup=10, epochs=10), 99, 10) == pytest.approx(1.0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_have_what_the_recipe_says(name):
    model = small.network()
    recipe = Recipe(optimizer=name, lr=0.03, weight_decay=0.1, momentum=0.8, nesterov=name == "sgd")
    (group,) = make_optimizer(model, recipe).param_groups
    assert (group["lr"], group["weight_decay"]) == (0.03, 0.1)
    assert (group.get("momentum"), group.get("nesterov")) == ((0.8, True) if name == "sgd" else (None, None))
    assert sum(p.numel() for p in group["params"]) == sum(p.numel() for p in model.parameters())
    (own,) = make_optimizer(model, Recipe(optimizer=name)).param_groups
    assert (own["lr"], own["weight_decay"]) == (OPTIMIZERS[name].lr, OPTIMIZERS[name].weight_decay)


def test_agc_clips_all_but_the_classifier_before_the_step():
    recipe = Recipe(optimizer="sgd", momentum=0.0, lr=1.0, agc=0.01)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    moved = {}
    for clipped in (True, False):
        model = small.network(dropout=0.0)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        loss = 1000 * model(torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))).square().mean()
        optimizer = make_optimizer(model, recipe)
        apply_step(model, loss, optimizer, scaler, recipe if clipped else Recipe(), 1.0)
        moved[clipped] = {name: (p.detach() - before[name]) for name, p in model.named_parameters()}
    head = {name for name in before if name.startswith("head.fc.")}
    for name in before:
        if name in head:
            assert torch.equal(moved[True][name], moved[False][name])
        elif before[name].ndim == 2:
            rows, limit = moved[True][name].norm(dim=1), 0.01 * before[name].norm(dim=1).clamp(min=1e-3)
            assert (rows <= limit * 1.001).all()
            assert (moved[False][name].norm(dim=1) > limit).any()


def test_every_row_is_described():
    assert all(row.description for row in (*OPTIMIZERS.values(), *SCHEDULES.values()))


def test_rows_from_outside_train_like_the_others():
    OPTIMIZERS.register("rms", OptimizerRow(torch.optim.RMSprop, 0.01, 0.0, "scaled by its RMS", ("momentum",)))
    SCHEDULES.register("half", ScheduleRow(lambda epoch, recipe: 0.5, "half of it"))
    try:
        recipe = Recipe(optimizer="rms", schedule="half", momentum=0.3, epochs=1, batch_size=600)
        (group,) = make_optimizer(small.network(), recipe).param_groups
        assert (group["lr"], group["momentum"]) == (0.01, 0.3) and OPTIMIZERS.describe("rms") == "scaled by its RMS"
        assert fit(small.network(), small.digits(), recipe).history["lr"].tolist() == [0.005]
    finally:
        OPTIMIZERS.unregister("rms"), SCHEDULES.unregister("half")


def test_differences_are_between_stored_and_own():
    from dataclasses import asdict

    assert Recipe(lr=0.1).differences(asdict(Recipe(lr=0.2, epochs=3))) == {"lr": (0.2, 0.1), "epochs": (3, 20)}


@pytest.mark.parametrize("agc", [None, 0.01])
def test_a_scaled_loss_gives_the_step_of_an_unscaled_one(agc):
    """As float16 has it on a GPU: gradients are unscaled before they are clipped."""
    recipe, moved = Recipe(optimizer="sgd", momentum=0.0, lr=0.5, agc=agc), []
    for enabled in (True, False):
        model = small.network(dropout=0.0)
        loss = model(torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))).square().mean()
        scaler = torch.amp.GradScaler("cpu", enabled=enabled)
        apply_step(model, loss, make_optimizer(model, recipe), scaler, recipe, 0.5)
        moved.append(model.state_dict())
    torch.testing.assert_close(moved[0], moved[1])


def test_a_scaled_step_that_overflows_is_left_out():
    model, recipe = small.network(dropout=0.0), Recipe(optimizer="sgd", lr=0.5)
    before = {name: value.clone() for name, value in model.named_parameters()}
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    loss = 2.0**20 * model(torch.randn(8, 1, 8, 8)).square().mean()
    apply_step(model, loss, make_optimizer(model, recipe), scaler, recipe, 0.5)
    assert small.same(before, dict(model.named_parameters()))
    assert scaler.get_scale() < 2.0**120
