"""``run.try_remedies``: remedies on copies of the model, which itself stays as it is; what they heal, leave and bring."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

import spp
from spp.diagnosis import REMEDIES, Remedy, remedy
from spp.errors import InputError
from spp.frame.schema import TRIAL_COLUMNS, check

BATCH = torch.randn(64, 32, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 10


def deep(init="small_normal", layers=16):
    torch.manual_seed(0)
    parts = [part for _ in range(layers) for part in (nn.Linear(32, 32), nn.Tanh())]
    return spp.nn.initialize_(nn.Sequential(*parts, nn.Linear(32, 10)), init)


@pytest.fixture(scope="module")
def tried():
    """Model, its state before, and the table."""
    model = nn.Sequential(nn.BatchNorm1d(32), *deep())
    run = spp.trace(model, BATCH)
    kept, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    made = run.try_remedies(model, BATCH, seeds=2, steps=5)
    assert torch.equal(drawn, torch.get_rng_state())
    return model, kept, run, made


def test_the_model_stays_bit_identical(tried):
    model, kept, *_ = tried
    now = model.state_dict()
    assert now.keys() == kept.keys() and all(torch.equal(value, now[name]) for name, value in kept.items())
    assert all(parameter.grad is None for parameter in model.parameters()) and model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert [type(module) for module in model[1:]] == [type(module) for module in deep()]


def test_the_table_says_what_became_of_each_the_best_first(tried):
    *_, run, made = tried
    check(made.copy(), TRIAL_COLUMNS)
    assert run.findings.rule[0] == "vanishing"
    best = made.iloc[0]
    assert (best["rule"], best["gone"], best["errors"], best["warnings"], best["left"]) == ("vanishing", 1, 0, 0, "")
    assert abs(best["forward"]) < 0.1 < abs(best["forward_before"])
    assert list(made["errors"]) == sorted(made["errors"])
    single = made.set_index("remedy")
    assert single.seeds["`spp.nn.initialize_(model, 'lecun')`"] == 2
    assert single.seeds["`spp.calibrate(model, batch)`"] == 1
    assert any(" and " in words for words in made["remedy"])
    assert made.winner and made.verdict.startswith(
        f"{best['remedy']}: vanishing is gone, 0 errors, 0 warnings; per layer forward ÷"
    )
    assert made.verdict in str(made) and "<table" in made._repr_html_()


def test_what_the_numbers_are_of_is_a_trace_of_the_changed_model(tried):
    model, _, run, made = tried
    assert [one.kind for one in made.winner]
    changed = copy.deepcopy(model)
    torch.manual_seed(0)
    for one in made.winner:
        changed = one.change(changed, one, spp.remedy_trials.Case(run, BATCH))
    assert not spp.trace(changed, BATCH).findings.worst("warning")


def test_a_trial_that_fails_says_why_in_its_row():
    def fails(model, one, case):
        raise ArithmeticError("no such luck")

    REMEDIES.register("fails", Remedy(kind="fails", python="luck(model)", change=fails))
    try:
        model = deep()
        run = spp.trace(model, BATCH)
        asked = [
            remedy("fails"),
            remedy("activation", "tanh"),
            remedy("se", "doubled"),
            remedy("init", "lecun"),
            remedy("told"),
        ]
        made = run.try_remedies(model, BATCH, remedies=asked, seeds=1, pairs=0, steps=0)
    finally:
        REMEDIES.unregister("fails")
    assert made["remedy"][0] == "`spp.nn.initialize_(model, 'lecun')`" and made["failed"][0] == ""
    why = dict(zip(made["remedy"], made["failed"], strict=True))
    assert why["`luck(model)`"] == "ArithmeticError: no such luck"
    assert "a remedy changes something" in why["`spp.nn.put_activation(model, 'tanh')`"]
    assert "squeeze-and-excitation blocks; got none" in why["`spp.diagnosis.double_gates_(model, run)`"]
    assert made["failed"].astype(bool).sum() == 4 and made["errors"].isna().sum() == 4


def ill(change):
    """Sixteen healthy layers of ReLU, one of them changed."""
    torch.manual_seed(0)
    parts = [part for _ in range(16) for part in (nn.Linear(32, 32), nn.ReLU())]
    model = spp.nn.initialize_(nn.Sequential(*parts, nn.Linear(32, 10)), "he")
    with torch.no_grad():
        change(model[8])
    return model


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("cliff", lambda layer: layer.weight.mul_(300)),
        ("dead_layer", lambda layer: layer.weight.zero_()),
        ("dead_channels", lambda layer: layer.bias[:24].fill_(-30)),
        ("dead_channels", lambda layer: layer.weight[:26].zero_()),
        ("bias_outlier", lambda layer: layer.bias.fill_(40)),
    ],
)
def test_python_runs_as_it_is_printed_and_heals(rule, change):
    model = ill(change)
    run = spp.trace(model, BATCH)
    found = next(finding for finding in run.findings.worst("warning") if finding.rule == rule)
    words = found.remedy.split("`")[1]
    exec(words, {"spp": spp, "torch": torch, "model": model, "batch": BATCH, "run": run})
    assert rule not in {finding.rule for finding in spp.trace(model, BATCH).findings.worst("warning")}


def test_ctrl_c_keeps_what_was_measured(monkeypatch):
    calls = []

    def interrupted(model, one, case):
        calls.append(one)
        raise KeyboardInterrupt

    REMEDIES.register("slow", Remedy(kind="slow", python="wait()", change=interrupted))
    try:
        model = deep()
        run = spp.trace(model, BATCH)
        asked = [remedy("init", "lecun"), remedy("slow"), remedy("norm", "batch")]
        made = run.try_remedies(model, BATCH, remedies=asked, steps=0)
    finally:
        REMEDIES.unregister("slow")
    assert len(calls) == 1 and made.unfinished == 2
    assert list(made["remedy"]) == ["`spp.nn.initialize_(model, 'lecun')`"]
    assert made.verdict.endswith("(interrupted: 2 trials were left out).")


def test_nothing_to_heal_and_bad_input():
    model = deep("lecun", 3)
    run = spp.trace(model, BATCH)
    made = spp.try_remedies(run, model, BATCH)
    assert made.empty and made.winner == () and str(made) == "there is nothing to try."
    with pytest.raises(InputError, match="remedies are tried on the model that was measured; got one without '6'"):
        run.try_remedies(model[:6], BATCH)
    with pytest.raises(InputError, match="a remedy is tried once at least; got 0"):
        run.try_remedies(model, BATCH, seeds=0)
    with pytest.raises(InputError, match="a training has no fewer than 0 steps; got -1"):
        run.try_remedies(model, BATCH, steps=-1)


def test_an_iterator_of_batches_and_options_of_the_trace():
    model = deep()
    run = spp.trace(model, BATCH)
    made = run.try_remedies(
        model,
        iter([BATCH, BATCH]),
        remedies=[remedy("init", "lecun")],
        seeds=1,
        steps=0,
        loss=lambda out, y: out.square().mean(),
    )
    assert made["failed"][0] == "" and made["gone"][0] == 1


class Summed(nn.Module):
    """Residual sums that the network itself makes, which no module gives out."""

    def __init__(self, blocks=24):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32)) for _ in range(blocks)
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def test_residual_sums_of_the_network_itself_are_seen_to_grow_and_the_remedy_lets_it_learn():
    torch.manual_seed(0)
    model = spp.nn.initialize_(Summed(), "he")
    run = spp.trace(model, BATCH)
    (found,) = run.findings.worst("warning")
    assert found.rule == "residual_growth" and (found.since, found.until) == ("blocks.1.3", "blocks.23.3")
    grown = (run.blocks.acsm + run.blocks.acv).to_numpy()
    assert found.value == pytest.approx((grown[-1] / grown[0]) ** (1 / 23), rel=1e-6)
    made = run.try_remedies(model, BATCH, remedies=[remedy("branches"), remedy("init", "he")], seeds=1, pairs=0)
    best, last = made.iloc[0], made.iloc[-1]
    assert [one.kind for one in made.winner] == ["branches"]
    assert best.learns == 1 and best.loss_last < best.loss_first and best.gone == 1
    assert last.learns == 0 and not last.loss_last < best.loss_last
    assert made.verdict.endswith("as it is), the best of 2 tried.") and " at a rate of " in made.verdict


def test_outputs_of_a_bias_alone_are_not_learnt_and_what_blows_up_ranks_last():
    def deafen(model, one, case):
        model[0].weight.data.zero_()
        model[0].weight.requires_grad_(False)
        return model

    def inflate(model, one, case):
        model[0].weight.data.mul_(1e30)
        return model

    torch.manual_seed(0)
    model = spp.nn.initialize_(nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)), "he")
    # most samples are of one class, so that a bias alone lowers the loss
    batch = BATCH[0], torch.where(torch.arange(64) < 48, 0, BATCH[1])
    run = spp.trace(model, batch)
    kinds = {"deaf": deafen, "huge": inflate, "well": lambda model, one, case: spp.nn.initialize_(model, "lecun")}
    for kind, change in kinds.items():
        REMEDIES.register(kind, Remedy(kind=kind, python=f"{kind}(model)", change=change))
    try:
        made = run.try_remedies(model, batch, remedies=map(remedy, kinds), seeds=1, pairs=0, steps=10)
    finally:
        for kind in kinds:
            REMEDIES.unregister(kind)
    rows = made.set_index("remedy")
    assert made["remedy"][0] == "`well(model)`" and rows.learns["`well(model)`"] == 1
    assert (
        rows.learns["`deaf(model)`"] == 0 and rows.loss_last["`deaf(model)`"] < rows.loss_first["`deaf(model)`"] - 0.1
    )
    assert rows.learns["`huge(model)`"] == 0
    refuted = {one.kind for one, _ in made.refuted}
    assert not refuted, "nothing was found that they are against"


def test_an_optimizer_of_ones_own_and_a_finding_over_time():
    model = deep("small_normal", 12)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    start = copy.deepcopy(model)
    with spp.watch(model, optimizer, every=1) as run:
        for _ in range(12):
            loss = nn.functional.cross_entropy(model(BATCH[0]), BATCH[1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    adam = partial(torch.optim.Adam, lr=0.003)
    made = run.try_remedies(
        start, BATCH, remedies=[remedy("init", "lecun")], seeds=1, pairs=0, steps=15, optimizer=adam
    )
    assert (made["rate"][0], made["learns"][0], made["gone"][0]) == (0.003, 1, 1) and made.winner
