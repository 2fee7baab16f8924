"""A watch that saw steps has rows of them, or says why not: optimizers, modes and parts that a loop uses in its own way."""

import warnings

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import spp
from tests.watching.loops import batches, plain

STATISTICS = ["mean_square", "acsm", "acv", "abs_max"]


def sgd(model, lr=0.05):
    return torch.optim.SGD(model.parameters(), lr=lr)


def steps(model, optimizer, n=3, call=None, context=torch.enable_grad):
    for x, y in batches(n):
        with context():
            loss = nn.functional.cross_entropy((call or model)(x), y)
        if optimizer is not None:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()


def by_key(frame):
    """The rows of a frame by what they are about, in any order."""
    return frame.set_index(["step", "mode", "name", "call", "output", "signal"])[STATISTICS].astype(float).sort_index()


def same(a, b):
    pd.testing.assert_frame_equal(by_key(a), by_key(b), rtol=1e-5, check_index_type=False, check_categorical=False)


# -- optimizers ---------------------------------------------------------------------------------------------------------------


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimization (Foret et al. 2021), as its usual implementation wraps an optimizer."""

    def __init__(self, params, base, rho=0.05, **options):
        super().__init__(params, {"rho": rho, **options})
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self):
        norm = torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"]]).norm()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old"] = p.data.clone()
                p.add_(p.grad * group["rho"] / norm)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.data = self.state[p]["old"]
        self.base_optimizer.step()
        self.zero_grad()


def test_the_optimizer_inside_of_sam_is_found():
    torch.manual_seed(0)
    model = plain()
    sam = SAM(model.parameters(), torch.optim.SGD, lr=0.05)
    with spp.watch(model, sam, every=1) as watch:
        for x, y in batches(3):
            before = {n: p.detach().clone() for n, p in model.named_parameters()}
            nn.functional.cross_entropy(model(x), y).backward()
            sam.first_step()
            nn.functional.cross_entropy(model(x), y).backward()
            sam.second_step()
    rows = watch.frame
    assert rows["step"].unique().tolist() == [0, 1, 2] and set(rows["signal"]) == {str(s) for s in spp.Signal}
    moved = model[0].weight.detach() - before["0.weight"]
    row = rows.query("step == 2 and name == '0' and output == 'weight' and signal == 'weight'").iloc[0]
    assert row["update_ratio"] == pytest.approx(float(moved.norm() / before["0.weight"].norm()), rel=1e-4)
    assert row["mean_square"] == pytest.approx(float(before["0.weight"].square().mean()), rel=1e-5)


class Local(torch.optim.SGD):
    """Holds the optimizer of a shard, whose steps are not the whole step."""

    def __init__(self, params, shard):
        super().__init__(params, lr=0.05)
        self.shard = shard


def test_the_optimizer_of_a_shard_is_not_the_whole():
    model = plain()
    outer = Local(model.parameters(), torch.optim.SGD(model[0].parameters(), lr=0.05))
    with spp.watch(model, outer, every=1) as watch:
        steps(model, outer)
    assert watch.info["optimizer"] == "Local" and watch.frame["step"].nunique() == 3


def test_an_optimizer_that_never_steps_is_named():
    model = plain()
    given, used = torch.optim.Adam(model.parameters()), sgd(model)
    with (
        pytest.warns(spp.SppWarning, match=r"Adam took no step while it was watched \(3 forwards"),
        spp.watch(model, given, every=1) as watch,
    ):
        steps(model, used)
    assert watch.frame.empty


def test_of_several_optimizers_a_step_is_the_last_ones():
    frames = []
    for several in (False, True):
        torch.manual_seed(0)
        model = plain()
        one = sgd(model)
        both = [torch.optim.SGD(model[0].parameters(), lr=0.05), torch.optim.SGD(model[3:].parameters(), lr=0.05)]
        with spp.watch(model, both if several else one, every=1) as watch:
            for x, y in batches(3):
                nn.functional.cross_entropy(model(x), y).backward()
                for optimizer in both if several else [one]:
                    optimizer.step()
                    optimizer.zero_grad()
        frames.append(watch.frame)
    assert watch.info["optimizer"] == "SGD + SGD"
    same(*frames)
    ratios = [
        f.query("signal == 'weight'").set_index(["step", "name", "output"])["update_ratio"].astype(float)
        for f in frames
    ]
    pd.testing.assert_series_equal(*ratios, rtol=1e-5)
    assert (ratios[1].dropna() > 0).all()


def test_of_several_optimizers_each_has_its_gradients_unscaled_when_it_steps():
    frames = []
    for scaled in (False, True):
        torch.manual_seed(0)
        model = plain()
        both = [torch.optim.SGD(model[0].parameters(), lr=0.05), torch.optim.SGD(model[3:].parameters(), lr=0.05)]
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        with spp.watch(model, both, every=1) as watch:
            for x, y in batches(3):
                scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
                for optimizer in both:
                    scaler.step(optimizer)
                scaler.update()
                for optimizer in both:
                    optimizer.zero_grad()
        frames.append(watch.frame)
    same(*frames)


def test_a_generator_and_a_discriminator_in_one_model():
    """Between the first optimizer's step and the last one's the step goes on."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.make, self.judge = nn.Linear(4, 6), nn.Linear(6, 1)

    torch.manual_seed(0)
    model = Both()
    judging, making = sgd(model.judge), sgd(model.make)
    with spp.watch(model, [judging, making], every=2) as watch:
        for _ in range(4):
            z = torch.randn(8, 4)
            (model.judge(torch.randn(8, 6)).mean() - model.judge(model.make(z).detach()).mean()).backward()
            judging.step()
            model.zero_grad()
            model.judge(model.make(z)).mean().backward()
            making.step()
            model.zero_grad()
    frame = watch.frame.query("step == 2")
    assert watch.frame["step"].unique().tolist() == [0, 2]
    found = set(zip(frame["name"], frame["signal"], strict=True))
    assert found >= {(n, s) for n in ("make", "judge") for s in ("activation", "gradient", "weight", "weight_gradient")}


@pytest.mark.parametrize("wrong", [[], [1.0]])
def test_lists_that_are_refused(wrong):
    with pytest.raises(spp.InputError, match=r"optimizer: an optimizer is a torch.optim.Optimizer; got a (list|float)"):
        spp.watch(plain(), wrong)


# -- modes --------------------------------------------------------------------------------------------------------------------


class Frozen(nn.Sequential):
    """A network with BatchNorm, whose statistics stay where they are in eval mode."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5))


@pytest.mark.parametrize("signals", [spp.ALL, ["activation"]])
def test_fine_tuning_in_eval_mode_is_training(signals):
    torch.manual_seed(0)
    model = Frozen().eval()
    optimizer = sgd(model)
    with spp.watch(model, optimizer, every=4, signals=signals) as watch:
        steps(model, optimizer, 10)
    assert watch.frame.groupby("mode", observed=True)["step"].unique().map(list).to_dict() == {"train": [0, 4, 8]}


@pytest.mark.parametrize("every", [1, 3])
def test_fine_tuning_in_eval_mode_without_an_optimizer(every):
    """That the first forward is trained on is seen when it is over; from then on forwards with gradients are steps."""
    torch.manual_seed(0)
    model = Frozen().eval()
    optimizer = sgd(model)
    with spp.watch(model, every=every) as watch:
        steps(model, optimizer, 7)
    expected = {1: [1, 2, 3, 4, 5, 6], 3: [1, 3, 6]}[every]
    assert watch.frame.groupby("mode", observed=True)["step"].unique().map(list).to_dict() == {"train": expected}
    assert set(watch.frame["signal"]) == {str(s) for s in spp.ALL}


def test_a_model_that_goes_into_eval_mode_later():
    torch.manual_seed(0)
    model = Frozen()
    optimizer = sgd(model)
    with spp.watch(model, optimizer, every=4) as watch:
        for step, (x, y) in enumerate(batches(10)):
            if step == 2:
                model.eval()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert watch.frame.groupby("mode", observed=True)["step"].unique().map(list).to_dict() == {"train": [0, 4, 8]}


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("with_optimizer", [True, False])
def test_evaluations_of_a_model_in_eval_mode_are_told_from_its_training(context, with_optimizer):
    """Whether or not the evaluation has gradients switched off."""
    torch.manual_seed(0)
    model = plain()
    optimizer = sgd(model)
    with spp.watch(model, optimizer if with_optimizer else None, every=2) as watch:
        for x, y in batches(4):
            model.train()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            model.eval()
            with context():
                model(x)
                model(2 * x)
    found = watch.frame.groupby("mode", observed=True)["step"].unique().map(list).to_dict()
    # the evaluation after the last step is in a step that does not come to its end, and is seen at once without gradients only
    last = [4] if context is torch.no_grad else []
    assert found == {"train": [0, 2], "eval": [1, 2, *last] if with_optimizer else [0, 2]}
    assert set(watch.frame.query("mode == 'eval'")["signal"]) == {"activation"}


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_an_evaluation_loop_alone_has_rows(context):
    torch.manual_seed(0)
    model = plain().eval()
    with spp.watch(model, every=1) as watch:
        steps(model, None, context=context)
    expected = spp.trace(model, batches(1)[0][0], signals=["activation"]).frame
    assert (watch.frame["mode"] == "eval").all() and watch.frame["step"].unique().tolist() == [0]
    assert watch.frame["mean_square"].tolist() == pytest.approx(expected["mean_square"].tolist(), rel=1e-6)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"every": [7]}, "none of the steps 0 to 2 was due"),
        ({"schedule": lambda step: False}, "none of the steps 0 to 2 was due"),
    ],
)
@pytest.mark.parametrize("with_optimizer", [True, False])
def test_a_schedule_that_is_never_due_is_named(options, reason, with_optimizer):
    model = plain()
    optimizer = sgd(model)
    with pytest.warns(spp.SppWarning, match=reason), spp.watch(model, optimizer if with_optimizer else None, **options):
        steps(model, optimizer)


def test_signals_that_an_evaluation_has_not_are_named():
    model = plain().eval()
    with (
        pytest.warns(spp.SppWarning, match="all forwards were in eval mode"),
        spp.watch(model, every=1, signals=["weight"]),
    ):
        steps(model, None, context=torch.no_grad)


def test_a_watch_that_was_paused_is_told_so():
    model = plain()
    optimizer = sgd(model)
    with pytest.warns(spp.SppWarning, match="was paused"), spp.watch(model, optimizer, every=1) as watch:
        watch.pause()
        steps(model, optimizer)


# -- parts --------------------------------------------------------------------------------------------------------------------


class VAE(nn.Module):
    """An encoder, two heads, a decoder; its forward runs them all."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 8), nn.Tanh())
        self.mean, self.spread = nn.Linear(8, 3), nn.Linear(8, 3)
        self.decoder = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 6))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(x)
        return self.mean(h), self.spread(h)

    def forward(self, x: Tensor) -> Tensor:
        mean, spread = self.encode(x)
        return self.decoder(mean + spread)


def parts(model, x):
    mean, spread = model.encode(x)
    return model.decoder(mean + spread)


@pytest.mark.parametrize("micro", [1, 2])
def test_a_loop_that_calls_parts_has_the_rows_of_one_that_calls_the_whole(micro):
    frames = []
    for call in (lambda model, x: model(x), parts):
        torch.manual_seed(0)
        model = VAE()
        optimizer = sgd(model)
        with spp.watch(model, optimizer, every=2) as watch:
            for _ in range(3):
                for x in torch.randn(8, 6).chunk(micro):
                    (call(model, x) - x).square().mean().div(micro).backward()
                optimizer.step()
                optimizer.zero_grad()
        frames.append(watch.frame)
        assert set(watch.unmeasured["name"]) <= {""}
    whole = frames[0][frames[0]["name"] != ""]
    same(whole, frames[1])
    assert frames[1]["depth"].dropna().is_unique or len(frames[1]) > len(whole) / 2
    assert (frames[1]["signal"] == "gradient").any() and frames[1]["step"].unique().tolist() == [0, 2]


def test_a_policy_that_is_rolled_out_without_gradients():
    """Thousands of calls without gradients are no part of the step that they are for."""

    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.actor, self.critic = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 1)

        def act(self, x):
            return self.actor(self.body(x)).softmax(-1)

        def values(self, x):
            return self.critic(self.body(x))

    torch.manual_seed(0)
    model = Policy()
    optimizer = sgd(model)
    with spp.watch(model, optimizer, every=1) as watch:
        for _ in range(2):
            with torch.no_grad():
                for _ in range(20):
                    model.act(torch.randn(1, 4))
            x = torch.randn(16, 4)
            (model.act(x).log().mean() + model.values(x).square().mean()).backward()
            optimizer.step()
            optimizer.zero_grad()
    rows = watch.frame.query("step == 0 and signal == 'activation'")
    assert sorted(zip(rows["name"], rows["call"], strict=True)) == [
        ("actor", 0),
        ("body", 0),
        ("body", 1),
        ("critic", 0),
    ]
    assert set(rows["shape"].map(lambda s: str(s)).str.contains("16")) == {True}


def test_parts_beside_the_whole_are_the_loops_own():
    """A part that is called beside the model (a regularizer) does not mix with what the model's forward gives."""
    frames = []
    for beside in (False, True):
        torch.manual_seed(0)
        model = VAE()
        optimizer = sgd(model)
        x = torch.randn(8, 6)
        with spp.watch(model, optimizer, every=1) as watch:
            loss = (model(x) - x).square().mean()
            if beside:
                model.encoder(3 * x).detach()
            loss.backward()
            optimizer.step()
        frames.append(watch.frame)
    same(*frames)


def test_parts_of_a_model_without_an_optimizer():
    model = VAE()
    with (
        pytest.warns(spp.SppWarning, match="calls parts of the model only, give the optimizer too"),
        spp.watch(model, every=1),
    ):
        parts(model, torch.randn(8, 6)).sum().backward()


def test_parts_leave_nothing_behind_and_train_the_same():
    results = []
    for watched in (False, True):
        torch.manual_seed(0)
        model = VAE()
        optimizer = sgd(model)
        call = nn.Module.__call__
        watch = spp.watch(model, optimizer, every=2)
        if watched:
            watch.start()
        losses = []
        for _ in range(5):
            x = torch.randn(8, 6)
            loss = (parts(model, x) - x).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            watch.close()
        assert nn.Module.__call__ is call
        results.append(losses)
    assert results[0] == results[1]
