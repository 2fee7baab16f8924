"""Neuron-wise input normalization: the plan, its networks, what gradients do, and verdicts that can come out either way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Generator

from spp.nn.neuronwise import NeuronwiseLayer
from spp.studies import Cell, Outcome, Results, Setup, Size, run
from spp.studies import neuronwise as study
from spp.studies.neuronwise import networks
from spp.studies.neuronwise.claims import ADAM, CHANGED, CLAIMS, NEAT, SGD
from spp.studies.neuronwise.networks import (
    ARMS,
    BATCH,
    CNN,
    COORDS,
    DAMPED,
    FFN,
    MODES,
    PLAIN,
    Changed,
    Sizes,
    compared,
    make,
    timed,
)
from spp.studies.trials import drawn
from tests.data.files import write_cifar

JUDGES = {claim.name: claim.judge for claim in CLAIMS}
SMALL = Sizes((1, 8, 8), 3, 8, (4, 8), 8)
SHORT = {"networks": SMALL, "rates": (0.1,), "changed": (0.01,), "adam": (0.01,), "epochs": 1, "batch": 256}


@pytest.mark.parametrize("size", study.STUDY.sizes)
def test_the_plan_tunes_every_arm_on_the_same_rates(size: Size) -> None:
    setup = Setup(size=size)
    cells, plan = study.cells(setup), study.plan(setup)
    assert len(set(cells)) == len(cells) == len({cell.folder for cell in cells})
    trained = [cell for cell in cells if cell["kind"] == "train"]
    grid = {(c["net"], c["optimizer"], c["inputs"], c["arm"]): set[float]() for c in trained}
    for c in trained:
        grid[c["net"], c["optimizer"], c["inputs"], c["arm"]].add(c["lr"])
    assert all(grid[net, SGD, NEAT, arm] == set(plan.rates) for net in (FFN, CNN) for arm in ARMS)
    assert all(
        grid[FFN, SGD, CHANGED, arm] == set(plan.changed) for arm in (PLAIN, "batch", "layer", COORDS, DAMPED, "outer")
    )
    assert {key[3] for key in grid if key[1] == ADAM} == {PLAIN, "batch", COORDS, DAMPED}
    seeds = {cell["seed"] for cell in trained}
    assert len(seeds) == 5 and len(trained) == 5 * sum(map(len, grid.values()))
    timing = [cell for cell in cells if cell["kind"] == "timing"]
    assert {cell["arm"] for cell in timing} == set(ARMS) - {PLAIN} and len(study.arrangement(setup)) > 5


@pytest.mark.parametrize("net", [FFN, CNN])
@pytest.mark.parametrize("arm", ARMS)
def test_arms_begin_with_the_same_weights_and_convert_all_but_the_classifier(net: str, arm: str) -> None:
    plain, own = (drawn(lambda name=name: make(net, name, SMALL, 10), 1) for name in (PLAIN, arm))  # type: ignore[misc]
    theirs = dict(own.named_parameters())
    assert all(torch.equal(value, theirs[name]) for name, value in plain.named_parameters() if value.ndim > 1)
    converted = [module for module in own.modules() if isinstance(module, NeuronwiseLayer)]
    assert len(converted) == (0 if arm not in MODES else 2 if net == FFN else 3)
    assert {(one.mode, one.eps) for one in converted} <= {MODES.get(arm)}
    assert own(torch.randn(4, 1, 8, 8)).shape == (4, 10)


def test_changed_inputs_change_nothing_but_the_coordinates() -> None:
    plain, inner = (drawn(lambda: make(FFN, PLAIN, SMALL, 10), 1) for _ in range(2))
    plain, changed = plain.double(), Changed(inner, SMALL, Generator().manual_seed(3)).double()
    x = torch.randn(16, 1, 8, 8, dtype=torch.float64)
    assert torch.allclose(changed(x), plain(x), rtol=1e-5, atol=1e-6)  # a and d were drawn in float32
    assert not torch.allclose(inner(x), plain(x), atol=0.1)
    assert changed.scale.min() > 0.33 and changed.scale.max() < 3.01 and changed.scale.max() > 2
    assert float(changed.shift.std()) == pytest.approx(2, rel=0.3)


def test_a_step_of_coords_is_the_same_function_on_changed_inputs_and_an_ordinary_one_is_not() -> None:
    x, y = torch.randn(64, 1, 8, 8, dtype=torch.float64), torch.arange(64) % 10
    moved = {}
    for arm in (PLAIN, COORDS):
        outputs = []
        for inputs in (NEAT, CHANGED):
            model = drawn(lambda arm=arm: make(FFN, arm, SMALL, 10), 1)  # type: ignore[misc]
            model = (model if inputs == NEAT else Changed(model, SMALL, Generator().manual_seed(3))).double()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            torch.optim.SGD(model.parameters(), lr=0.01).step()
            outputs.append(model(x).detach())
        moved[arm] = float((outputs[0] - outputs[1]).abs().max())
    assert moved[COORDS] < 0.01 * moved[PLAIN]


def test_coords_descend_and_outer_can_ascend() -> None:
    model = drawn(lambda: make(FFN, PLAIN, Sizes((1, 8, 8), 5, 64, (8,), 8), 10), 868)
    batch = (1 + torch.randn(64, 1, 8, 8, generator=Generator().manual_seed(0)), torch.arange(64) % 10)
    found = {arm: compared(model, arm, batch) for arm in MODES}
    assert all(len(one) == 4 and one["forward"].all() and one["inputs_gradient"].all() for one in found.values())
    assert all(
        found[arm]["against"].sum() == 0 < found[arm]["cosine"].min() for arm in (COORDS, DAMPED, "coords_centre")
    )
    assert all(found[arm]["against"].sum() > 0 > found[arm]["cosine"].min() for arm in ("outer", "outer_centre"))
    assert found[COORDS]["neurons"].between(32, 64).all()


def test_time_is_taken_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "ROUNDS", 4)
    plain, other = (make(FFN, arm, SMALL, 10) for arm in (PLAIN, COORDS))
    before = [p.clone() for p in other.parameters()]
    row = timed(plain, other, (torch.randn(8, 1, 8, 8), torch.arange(8))).iloc[0]
    assert row["ms"] > 0 and row["plain_ms"] > 0 and row["ratio"] > 0
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


def test_a_cell_at_full_size_trains_on_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar("cifar10", tmp_path, images=8)
    monkeypatch.setitem(study.PLANS, Size.FULL, replace(study.PLANS[Size.FULL], epochs=1))
    for net, arm in ((FFN, DAMPED), (CNN, BATCH)):
        cell = Cell.of(kind="train", net=net, optimizer=SGD, inputs=NEAT, arm=arm, lr=0.01, seed=868)
        tables = study.measure(cell, Setup(size=Size.FULL, data=tmp_path))
        assert tables["outcome"]["accuracy"].between(0, 1).all() and tables["outcome"]["epochs"].item() in (1, math.inf)


def results(
    accuracy: Mapping[tuple[str, str, str], tuple[float, ...]] | None = None,
    epochs: Mapping[tuple[str, str, str], tuple[float, ...]] | None = None,
    law: Mapping[str, tuple[int, float, bool]] | None = None,
    slower: float | None = None,
) -> Results:
    """Results with these test accuracies by network, inputs and arm, epochs by network, optimizer and arm, and laws by mode."""
    tables: dict[Cell, dict[str, pd.DataFrame]] = {}

    def put(net: str, optimizer: str, inputs: str, arm: str, seed: int, **row: float) -> None:
        cell = Cell.of(kind="train", net=net, optimizer=optimizer, inputs=inputs, arm=arm, lr=0.1, seed=seed)
        frame = pd.DataFrame([{"validation": 0.5, "finished": True, "accuracy": 0.5, "epochs": 1.0, **row}])
        tables[cell] = {"outcome": frame, "history": pd.DataFrame({"epoch": [0, 9]})}

    for (net, inputs, arm), values in (accuracy or {}).items():
        # the first seed chooses the rate, and is not judged
        for seed, value in enumerate((values[0], *values)):
            put(net, SGD, inputs, arm, seed, accuracy=value)
    for (net, optimizer, arm), values in (epochs or {}).items():
        for seed, value in enumerate((values[0], *values)):
            put(net, optimizer, NEAT, arm, seed, epochs=value)
    for arm, (against, cosine, same) in (law or {}).items():
        row = {"arm": arm, "epochs": 0, "neurons": 10, "against": against, "cosine": cosine, "forward": same}
        cell = Cell.of(kind="law", net=FFN, inputs=NEAT, seed=len(tables))
        tables[cell] = {"law": pd.DataFrame([row | {"inputs_gradient": True}])}
    for net in (FFN, CNN) if slower else ():
        tables[Cell.of(kind="timing", net=net, arm=DAMPED, seed=0)] = {"timing": pd.DataFrame([{"ratio": slower}])}
    return Results(tuple(tables), tables, dict.fromkeys(tables, 1.0))


@pytest.mark.parametrize(
    ("law", "expected"),
    [
        ({"coords": (0, 0.1, True), "outer": (2, -0.3, True)}, ["confirmed", "confirmed", "confirmed"]),
        ({"coords": (1, -0.1, False), "outer": (0, 0.3, True)}, ["refuted", "refuted", "not testable at this size"]),
        ({"coords_centre": (1, -0.1, True), "outer_centre": (1, -0.3, True)}, ["confirmed", "refuted", "confirmed"]),
    ],
)
def test_laws_are_judged(law: dict[str, tuple[int, float, bool]], expected: list[str]) -> None:
    assert [JUDGES[name](results(law=law), Setup()).outcome for name in ("N1", "N2", "N3")] == expected


@pytest.mark.parametrize(
    ("plain", "coords", "outcome"),
    [
        (0.8, 0.952, Outcome.CONFIRMED),
        (0.8, 0.81, Outcome.REFUTED),
        (0.8, 0.94, Outcome.NOT_DECIDED),
        (0.955, 0.955, Outcome.NOT_DECIDED),
    ],
)
def test_invariance_is_judged_by_what_is_lost(plain: float, coords: float, outcome: Outcome) -> None:
    found = {
        (FFN, NEAT, PLAIN): (0.95, 0.96, 0.97),
        (FFN, NEAT, COORDS): (0.95, 0.96, 0.97),
        (FFN, CHANGED, PLAIN): (plain, plain + 0.01, plain + 0.021),
        (FFN, CHANGED, COORDS): (coords, coords + 0.01, coords + 0.021),
    }
    verdict = JUDGES["N4"](results(found), Setup())
    assert verdict.outcome is outcome and "interval" in verdict.found
    assert verdict.numbers["apart"] == pytest.approx(abs(0.95 - coords), abs=0.01)


@pytest.mark.parametrize(
    ("plain", "damped", "outcome"),
    [
        ({FFN: (6, 5, 7), CNN: (math.inf, 9, 9)}, {FFN: (2, 2, 3), CNN: (5, 4, 5)}, Outcome.CONFIRMED),
        ({FFN: (2, 2, 2), CNN: (5, 5, 6)}, {FFN: (4, 5, 4), CNN: (math.inf, 5, 5)}, Outcome.REFUTED),
        ({FFN: (4, 6, 5), CNN: (5, 6, 4)}, {FFN: (2, 2, 2), CNN: (5, 5, 5)}, Outcome.NOT_DECIDED),
    ],
)
def test_speed_is_judged_by_epochs_and_by_time(
    plain: dict[str, tuple[float, ...]], damped: dict[str, tuple[float, ...]], outcome: Outcome
) -> None:
    arms = ((PLAIN, plain), (DAMPED, damped))
    epochs = {(net, SGD, arm): values[net] for arm, values in arms for net in values}
    verdict = JUDGES["N5"](results(epochs=epochs), Setup())
    assert verdict.outcome is outcome
    if outcome is not Outcome.CONFIRMED:
        return
    # ten epochs were trained, and what does not arrive counts ten
    assert (verdict.numbers["ffn_estimate"], verdict.numbers["cnn_estimate"]) == pytest.approx((18 / 7, 28 / 14))
    assert JUDGES["N5-time"](results(epochs=epochs), Setup()).outcome is Outcome.NOT_TESTABLE
    for slower, other in ((1.2, Outcome.CONFIRMED), (2.3, Outcome.NOT_DECIDED), (6.0, Outcome.REFUTED)):
        verdict = JUDGES["N5-time"](results(epochs=epochs, slower=slower), Setup())
        assert verdict.outcome is other and f"{slower:.2f} times as long" in verdict.found


@pytest.mark.parametrize(
    ("damped", "outcome"),
    [
        ((0.957, 0.967, 0.973), Outcome.CONFIRMED),
        ((0.94, 0.95, 0.955), Outcome.REFUTED),
        ((0.9, 0.97, 0.99), Outcome.NOT_DECIDED),
    ],
)
def test_batchnorm_is_reached_within_a_point(damped: tuple[float, ...], outcome: Outcome) -> None:
    found = {(net, NEAT, arm): v for net in (FFN, CNN) for arm, v in ((DAMPED, damped), (BATCH, (0.96, 0.97, 0.975)))}
    verdict = JUDGES["N6"](results(found), Setup())
    # two networks of a seed are no two seeds
    assert verdict.outcome is outcome and verdict.numbers["n"] == 3


@pytest.mark.parametrize(
    ("sgd", "adam", "outcome"),
    [
        (8.0, 4.0, Outcome.CONFIRMED),
        (6.0, 9.0, Outcome.REFUTED),
        (8.0, 8.0, Outcome.NOT_DECIDED),
        (4.0, 2.0, Outcome.NOT_DECIDED),
    ],
)
def test_what_adam_leaves_is_compared_with_sgd(sgd: float, adam: float, outcome: Outcome) -> None:
    found = {
        (net, optimizer, arm): (epochs,) * 2
        for net in (FFN, CNN)
        for optimizer, plain in ((SGD, sgd), (ADAM, adam))
        for arm, epochs in ((PLAIN, plain), (DAMPED, 4.0))
    }
    assert JUDGES["N7"](results(epochs=found), Setup()).outcome is outcome


@pytest.mark.usefixtures("drawn_once")
def test_a_run_publishes_tables_and_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "ROUNDS", 4)
    monkeypatch.setattr(study, "WARMED", 1)
    # the arms that claims compare; test_the_plan says that the others are run too
    monkeypatch.setattr(study, "ADAM_ARMS", (PLAIN, DAMPED))
    monkeypatch.setattr(study, "CHANGED_ARMS", (PLAIN, COORDS))
    monkeypatch.setitem(study.PLANS, Size.TINY, replace(study.PLANS[Size.TINY], **SHORT))
    published = run(study.STUDY, tmp_path, Setup(seeds=1))
    assert set(published.tables) == {"training", "adam", "changed", "gradients", "speed"}
    assert len(published.tables["training"]) == 2 * len(ARMS) and len(published.tables["speed"]) == 2 * len(ARMS) - 2
    assert published.tables["training"]["epochs to the target"].eq("never").any()
    assert len(published.tables["gradients"]) == 2 * 2 * len(MODES)
    assert [verdict.outcome for verdict in published.verdicts.values()][:2] == [Outcome.CONFIRMED] * 2
    assert "timing.parquet" in published.files and (tmp_path / "README.md").read_text().count("**confirmed**") >= 2
