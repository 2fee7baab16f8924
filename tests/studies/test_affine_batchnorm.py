"""BatchNorm taken apart: the plan, the arms, a run of each size, and verdicts that can come out either way."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from spp.studies import Cell, Outcome, Results, Setup, Size, evidence, run
from spp.studies import affine_batchnorm as study
from spp.studies.affine_batchnorm import (
    ACTNORM,
    AFFINE,
    ARMS,
    BATCH,
    BIAS,
    CLAIMS,
    FOLD,
    JUDGED,
    LATER,
    LSUV,
    MINUS,
    NONE,
    ORIGINAL,
    RATES,
    SCALED,
    STARTS,
)
from spp.studies.trials import drawn, images
from tests.data.files import write_cifar

JUDGES = {claim.name: claim.judge for claim in CLAIMS}
TINY, REAL, FULL = Setup(), Setup(size=Size.REAL), Setup(size=Size.FULL)
SMALL = {"input_shape": (1, 8, 8), "widths": (4, 4, 8, 8)}


@pytest.mark.parametrize(("setup", "depths"), [(TINY, (18, 34)), (REAL, (18,)), (FULL, (18, 34, 50, 101))])
def test_the_plan_has_every_arm_at_every_depth_batch_rate_and_seed(setup: Setup, depths: tuple[int, ...]) -> None:
    cells, size = study.cells(setup), study.plan(setup)
    arms = ORIGINAL if setup is TINY else tuple(STARTS)
    assert len(set(cells)) == len(cells) and len({cell.folder for cell in cells}) == len(cells)
    trained = [cell for cell in cells if cell["kind"] == "train"]
    assert {cell["layers"] for cell in trained} == set(depths)
    # arms that are judged have further seeds, where their number is the plan's own
    seeds = sum(size.seeds + size.more * (arm in JUDGED) for arm in arms)
    assert len(trained) == len(depths) * len(size.batches) * len(size.rates) * seeds
    assert len(cells) - len(trained) == len(depths) * len(arms) * size.seeds
    assert {cell["arm"] for cell in cells} == set(arms) and set(arms) <= set(ARMS) == set(STARTS)
    once = replace(setup, seeds=1)
    assert len(study.cells(once)) == len(depths) * len(arms) * (len(size.batches) * len(size.rates) + 1)
    assert all("digits" in line for line in study.arrangement(setup)[:1]) is (setup is TINY)


@pytest.fixture(scope="module")
def made() -> dict[str, nn.Module]:
    data = images(Setup(), "cifar10", seed=1)
    size = replace(study.PLANS[Size.TINY], changes=SMALL)
    return {arm: drawn(lambda arm=arm: study.network(18, arm, size, data), 868) for arm in ARMS}  # type: ignore[misc]


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return study.first(images(Setup(), "cifar10", seed=1).train, study.START_IMAGES)


def test_arms_differ_in_their_norm_alone(made: dict[str, nn.Module], batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    # trained ones: torch makes a bias that it folds without a gradient
    count = {arm: sum(p.numel() for p in model.parameters() if p.requires_grad) for arm, model in made.items()}
    norms = sum(m.num_features for m in made[BATCH].modules() if isinstance(m, nn.BatchNorm2d))
    assert {arm: n - count[NONE] for arm, n in count.items() if arm != SCALED} == {
        **dict.fromkeys((NONE, LSUV, LATER, MINUS), 0),
        **dict.fromkeys((BIAS, FOLD, RATES), norms),
        **dict.fromkeys((ACTNORM, AFFINE, BATCH), 2 * norms),
    }
    x = batch[0][:64]
    out = {arm: model(x) for arm, model in made.items()}
    assert torch.equal(out[AFFINE], out[NONE]) and torch.equal(out[BIAS], out[NONE])
    assert torch.allclose(out[BATCH], out[MINUS], atol=1e-5) and torch.equal(out[LATER], out[MINUS])
    assert not torch.allclose(out[NONE], out[MINUS], atol=1e-2)
    assert torch.equal(made[NONE].get_parameter("stem.conv.weight"), made[BATCH].get_parameter("stem.conv.weight"))
    stem = made[LSUV].get_submodule("stem.conv")
    assert float(stem(batch[0]).detach().var()) == pytest.approx(1, abs=0.1)
    # SkipInit: the branches of the scale-invariant network are closed
    gains = [value for name, value in made[SCALED].named_parameters() if name.endswith("skip_gain")]
    assert len(gains) == 8 and not any(map(bool, gains))


@pytest.mark.parametrize("arm", [FOLD, ACTNORM, RATES])
def test_arms_begin_as_the_very_function_of_batchnorm_minus(
    made: dict[str, nn.Module], batch: tuple[torch.Tensor, torch.Tensor], arm: str
) -> None:
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in made[arm].modules())
    with torch.no_grad():
        expected, found = made[MINUS].train()(batch[0]), made[arm].train()(batch[0])
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_fold_with_rates_begins_with_the_update_ratios_of_batchnorm_minus(
    made: dict[str, nn.Module], batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    wanted, found, folded = (study.update_ratios(made[arm], batch) for arm in (MINUS, RATES, FOLD))
    assert len(wanted) == 20 and found == pytest.approx(wanted, rel=1e-4)
    assert max(abs(folded[layer] / wanted[layer] - 1) for layer in wanted) > 0.2


def test_batchnorm_is_folded_by_its_running_statistics_and_trained_on(
    made: dict[str, nn.Module], batch: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = copy.deepcopy(made[MINUS]).train()
    model(batch[0][:64])
    expected = model.eval()(batch[0])
    study.fold_(model)
    assert torch.allclose(model(batch[0]), expected, rtol=1e-4, atol=1e-4)
    few = {"changes": SMALL, "epochs": 2, "images": {"train": 64, "validation": 32}}
    monkeypatch.setitem(study.PLANS, Size.TINY, replace(study.PLANS[Size.TINY], **few))
    cell = Cell.of(kind="train", layers=18, batch=32, arm=LATER, lr=0.01, seed=868)
    tables = study.measure(cell, TINY)
    assert tables["history"]["epoch"].tolist() == [0, 1] and len(tables["outcome"]) == 1


def test_a_cell_at_full_size_trains_on_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar("cifar10", tmp_path, images=4)
    monkeypatch.setitem(
        study.PLANS, Size.FULL, replace(study.PLANS[Size.FULL], epochs=1, changes={"widths": (4, 4, 8, 8)})
    )
    setup = replace(FULL, data=tmp_path)
    for cell in (
        Cell.of(kind="train", layers=18, batch=16, arm=LSUV, lr=0.01, seed=868),
        Cell.of(kind="signal", layers=18, arm=MINUS, seed=868),
    ):
        tables = study.measure(cell, setup)
        if cell["kind"] == "train":
            assert tables["outcome"]["accuracy"].between(0, 1).all() and len(tables["history"]) == 1
        else:
            assert len(tables["blocks"]) == 8 and (tables["signals"]["type"] == "BatchNorm2d").any()


def results(
    accuracy: dict[str, tuple[float, ...]],
    squares: dict[str, float] | None = None,
    falls: dict[str, float] | None = None,
) -> Results:
    """Results whose arms have these accuracies over seeds, and these mean squares and falls of the gradient over two blocks.

    The first seed chooses the rate, 0.2, which is better in validation, and is not judged; the others have that rate alone.
    All runs of an arm are one table, since hundreds of such results are judged: what a table says of its rows wins.
    """
    tables: dict[Cell, dict[str, pd.DataFrame]] = {}
    for arm, values in accuracy.items():
        chooses = [(0, 0.1, 0.5, 0.99), (0, 0.2, 0.6, 0.99)]
        rows = [*chooses, *((1 + seed, 0.2, 0.6, value) for seed, value in enumerate(values))]
        table = pd.DataFrame(rows, columns=["seed", "lr", "validation", "accuracy"])
        tables[Cell.of(kind="train", layers=18, batch=32, arm=arm, lr=0.2, seed=0)] = {"outcome": table}
    for arm, square in (squares or {}).items():
        for seed in range(3):
            square *= 1 + 0.001 * seed
            blocks = {"depth": [3, 7], "block": ["a", "b"], "acsm": [0.5, square / 4], "acv": [0.5, 3 * square / 4]}
            gradients = {"gradient_acsm": [0.1 * (falls or {}).get(arm, 1.0), 0.1], "gradient_acv": [0.0, 0.0]}
            tables[Cell.of(kind="signal", layers=18, arm=arm, seed=seed)] = {"blocks": pd.DataFrame(blocks | gradients)}
    return Results(tuple(tables), tables, dict.fromkeys(tables, 1.0))


def arms(none: float, fold: float, affine: float, minus: float, batch: float) -> dict[str, tuple[float, ...]]:
    """Three seeds of each, a point apart, and not quite the same apart in each arm."""
    middle = {NONE: none, FOLD: fold, AFFINE: affine, MINUS: minus, BATCH: batch}
    return {arm: (value - 0.01, value, value + 0.01 + 0.001 * i) for i, (arm, value) in enumerate(middle.items())}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (arms(0.5, 0.8, 0.55, 0.9, 0.9), "P1 confirmed, P2 confirmed, P3 confirmed"),
        (arms(0.5, 0.55, 0.8, 0.55, 0.9), "P1 refuted, P2 refuted, P3 confirmed"),
        (arms(0.5, 0.52, 0.55, 0.9, 0.9), "P1 confirmed, P2 confirmed, P3 refuted"),
        (arms(0.5, 0.9, 0.5, 0.5, 0.5), ", ".join(f"P{n} not decided" for n in (1, 2, 3))),
    ],
)
def test_verdicts_follow_the_share_of_the_gap(found: dict[str, tuple[float, ...]], expected: str) -> None:
    judged = {name: JUDGES[name](results(found), Setup()) for name in ("P1", "P2", "P3")}
    assert ", ".join(f"{name} {verdict.outcome}" for name, verdict in judged.items()) == expected
    assert all("ResNet-18, batches of 32" in verdict.found for verdict in judged.values())


def test_verdicts_at_one_rate_ask_for_that_rate_alone() -> None:
    """Fold closes the gap at the small rate and nothing of it at the large one, where fold + rates closes a tenth."""
    levels = {
        0.01: {NONE: 0.5, FOLD: 0.85, RATES: 0.85, MINUS: 0.9},
        0.1: {NONE: 0.1, FOLD: 0.1, RATES: 0.18, MINUS: 0.9},
    }
    rng, tables = np.random.default_rng(3), {}
    for lr, arms in levels.items():
        for arm, value in arms.items():
            for seed in range(5):
                cell = Cell.of(kind="train", layers=18, batch=128, arm=arm, lr=lr, seed=seed)
                row = {"validation": value, "accuracy": rng.normal(value, 0.005)}
                tables[cell] = {"outcome": pd.DataFrame([row])}
    found = Results(tuple(tables), tables, dict.fromkeys(tables, 1.0))
    judged = {name: JUDGES[name](found, REAL) for name in ("P5", "P6", "P7")}
    assert {verdict.outcome for verdict in judged.values()} == {Outcome.CONFIRMED}
    assert judged["P5"].numbers["18_128_estimate"] == pytest.approx(0.875, abs=0.03)
    assert judged["P7"].numbers["18_128_estimate"] == pytest.approx(0.1, abs=0.02)
    assert "at the rate 0.01" in judged["P5"].found and "at the rate 0.1:" in judged["P6"].found
    # seeds of both rates are judged, since none chose
    assert judged["P5"].numbers["18_128_n"] == 5


def test_a_gap_within_the_noise_of_seeds_decides_nothing() -> None:
    found = {**arms(0.5, 0.6, 0.5, 0.6, 0.6), NONE: (0.3, 0.5, 0.7)}
    verdict = JUDGES["P3"](results(found), Setup())
    assert verdict.outcome is Outcome.NOT_DECIDED and "BatchNorm-minus over none" in verdict.found


def test_a_share_whose_interval_holds_one_half_decides_nothing() -> None:
    """The first version judged P2 by a point estimate of 22 % whose interval was -90 to 65 %."""
    found = {**arms(0.5, 0.8, 0.55, 0.9, 0.9), AFFINE: (0.4, 0.52, 0.75)}
    verdict = JUDGES["P2"](results(found), Setup())
    assert verdict.outcome is Outcome.NOT_DECIDED and verdict.numbers["18_32_estimate"] < 0.25


@pytest.mark.parametrize(
    ("closed", "outcome", "least", "most"),
    [
        # on the bound
        (0.5, Outcome.NOT_DECIDED, 0.9, 1.0),
        (0.9, Outcome.CONFIRMED, 0.9, 1.0),
        (0.1, Outcome.REFUTED, 0.9, 1.0),
        # too near to it for six seeds
        (0.56, Outcome.CONFIRMED, 0.0, 0.6),
    ],
)
def test_simulated_studies_get_the_verdict_of_what_was_simulated(
    monkeypatch: pytest.MonkeyPatch, closed: float, outcome: Outcome, least: float, most: float
) -> None:
    """From the tables of cells to the verdict; accuracies of seeds differ by a point and a half."""
    monkeypatch.setattr(evidence, "RESAMPLES", 199)
    rng, count = np.random.default_rng(7), 60
    found = []
    for _ in range(count):
        middle = {NONE: 0.6, MINUS: 0.6 + 0.2 * closed, BATCH: 0.8}
        runs = {arm: tuple(rng.normal(value, 0.015, 6)) for arm, value in middle.items()}
        found.append(JUDGES["P1"](results(runs), Setup()).outcome)
    assert least <= found.count(outcome) / count <= most


@pytest.mark.parametrize(
    ("square", "fall", "outcome"),
    [
        (1.9, 1.0, Outcome.CONFIRMED),
        (0.4, 1.0, Outcome.REFUTED),
        (5.0, 1.0, Outcome.REFUTED),
        # forward alike, backward not, as it is with LSUV
        (1.0, 0.15, Outcome.REFUTED),
    ],
)
def test_lsuv_begins_as_batchnorm_does_or_not(square: float, fall: float, outcome: Outcome) -> None:
    squares = dict.fromkeys(ARMS, 1.0) | {LSUV: square, NONE: 8.0}
    verdict = JUDGES["P4"](results({}, squares, {LSUV: fall}), Setup())
    assert verdict.outcome is outcome
    assert verdict.numbers["backward_18_estimate"] == pytest.approx(fall, rel=0.02)


def test_without_runs_nothing_is_testable() -> None:
    assert {claim.judge(results({}), Setup()).outcome for claim in CLAIMS} == {Outcome.NOT_TESTABLE}


def test_a_run_publishes_tables_figures_and_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"depths": (18,), "batches": (256,), "rates": (0.01,), "epochs": 1, "costs": (1.0,), "changes": SMALL}
    monkeypatch.setitem(study.PLANS, Size.TINY, replace(study.PLANS[Size.TINY], **changes))
    published = run(study.STUDY, tmp_path, Setup(seeds=1))
    assert list(published.tables["accuracy"].columns[3:]) == [ARMS[arm][0] for arm in ORIGINAL]
    assert published.tables["rates"].iloc[0, 3:].eq("0.01 (end of the grid)").all()
    assert published.tables["gap"]["network"].tolist() == ["ResNet-18", "all"]
    start = published.tables["start"].set_index("arm")
    assert start.loc["AffineLayer"].equals(start.loc["none"]) and start.loc["BatchNorm", "last block"] > 0
    assert {"start-18.png", "start-18.pdf", "accuracy.tex", "per-rate.tex"} <= set(published.files)
    # of one seed, and without the arms that begin as BatchNorm-minus
    outcomes = {claim.name: verdict.outcome for claim, verdict in published.verdicts.items()}
    assert outcomes["P1"] == outcomes["P2"] == Outcome.NOT_DECIDED and outcomes["P3"] == Outcome.NOT_TESTABLE
