"""``nf-resnet``: its plan, its cells through the real code, and judges that can say either thing."""

from __future__ import annotations

from math import pi
from pathlib import Path

import numpy as np
import pytest
import torch

from spp.nn import StandardizedConv2d
from spp.studies import Cell, Outcome, Setup, Size, find
from spp.studies.nf_resnet import ARMS, SIZES, batch_of, closed_form
from spp.studies.publish import publish
from spp.studies.study import Tables
from tests.data.files import write_mnist
from tests.studies import judging
from tests.studies.judging import results

TINY, REAL, FULL = Setup(), Setup(size=Size.REAL), Setup(size=Size.FULL)
STUDY = find("nf-resnet")


def verdict(name: str, *cells: tuple[Cell, Tables]) -> Outcome:
    """Of what two seeds have alike, so that intervals are points."""
    both = [
        (Cell.of(**(dict(cell.parameters) | {"seed": seed})), tables)
        for cell, tables in cells
        # theory knows no seeds
        for seed in ((0,) if cell["part"] == "predict" else (1, 2))
    ]
    return judging.verdict(STUDY, name, *both)


DEPTHS = (3, 4, 6, 3)


@pytest.mark.parametrize(("setup", "depths"), [(TINY, {50}), (FULL, {50, 600})])
def test_the_plan_has_every_network_by_seeds_and_once_by_theory(setup: Setup, depths: set[int]) -> None:
    cells = list(STUDY.cells(setup))
    assert len(cells) == len(set(cells)) == len({cell.folder for cell in cells}) == 8 * 6 * len(depths)
    assert {cell["depth"] for cell in cells} == depths
    for arm in ARMS:
        own = [cell["part"] for cell in cells if cell["arm"] == arm]
        assert own.count("signals") == 5 * len(depths) and own.count("predict") == len(depths)
    assert SIZES[Size.FULL][0] == 224


def test_the_real_size_has_the_networks_of_the_paper_on_images_too() -> None:
    cells = list(STUDY.cells(REAL))
    assert len(cells) == len(set(cells)) == 3 * (8 * 7 + 3 * 6) and {cell["depth"] for cell in cells} == {50, 101, 200}
    assert {cell["arm"] for cell in cells if cell["part"] == "images"} == {"bn", "bn_last", "nf"}


def test_networks_differ_in_what_they_are_called_after() -> None:
    with torch.device("meta"):
        made = {name: arm.make(DEPTHS, 64) for name, arm in ARMS.items()}
    count = {name: sum(p.numel() for p in model.parameters()) for name, model in made.items()}
    assert count["nf"] == count["nf_shut"] == count["nf_circular"] == 25_557_048
    assert count["bn"] == count["bn_last"] and count["none"] == count["nf_plain"] - 16
    kinds = {name: {type(m).__name__ for m in model.modules()} for name, model in made.items()}
    assert "StandardizedConv2d" in kinds["nf"] and "StandardizedConv2d" not in kinds["nf_plain"]
    assert "MaxPool2d" in kinds["nf_plain"] and "MaxPool2d" not in kinds["nf_plain_unpooled"]
    assert "ScaledActivation" in kinds["nf_plain"] and "ScaledActivation" not in kinds["none"]
    modes = {m.padding_mode for m in made["nf_circular"].modules() if isinstance(m, StandardizedConv2d)}
    assert modes == {"circular", "zeros"}
    gains = {
        arm: {p.item() for name, p in ARMS[arm].make((1, 1, 1, 1), 32).named_parameters() if name.endswith("skip_gain")}
        for arm in ("nf", "nf_shut", "nf_plain")
    }
    assert gains == {"nf": {1.0}, "nf_shut": {0.0}, "nf_plain": {1.0}}


def test_closed_forms_are_those_of_the_reference() -> None:
    """SCIENCE 1.2 and 1.3."""
    bn, last, nf = (closed_form(arm, DEPTHS) for arm in ("bn", "bn_last", "nf"))
    assert bn is not None and last is not None and nf is not None
    third = bn[bn["stage"] == 3]
    np.testing.assert_allclose(third["acv"], [1.36338, 2.04507, 2.72676, 3.40845, 4.09014, 4.77183], atol=5e-6)
    np.testing.assert_allclose(third["acsm"], [0.63662, 0.95493, 1.27324, 1.59155, 1.90986, 2.22817], atol=5e-6)
    assert bn["branch_acv"].iloc[0] == pytest.approx(0.6816901138)
    assert last["acv"].tolist() == [2, 3, 4, 2, 3, 4, 5, 2, 3, 4, 5, 6, 7, 2, 3, 4] and (last["acsm"] == 0).all()
    np.testing.assert_allclose(nf["acv"].iloc[:4], [1.04, 1.08, 1.12, 1.04])
    assert closed_form("nf_plain", DEPTHS) is None


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real cells at the smallest size that has something in each stage."""
    monkeypatch.setitem(SIZES, Size.TINY, (32, 8, {20: (2, 1, 1, 1)}))
    monkeypatch.setitem(SIZES, Size.REAL, (32, 8, {20: (2, 1, 1, 1)}))
    monkeypatch.setitem(SIZES, Size.FULL, (64, 4, {20: (1, 1, 1, 1)}))


@pytest.mark.usefixtures("tiny", "drawn_once")
def test_what_it_publishes_follows_from_its_cells(tmp_path: Path) -> None:
    cells = [Cell.of(part="signals", arm=arm, depth=20, seed=seed) for arm in ("bn", "nf_plain") for seed in (868, 67)]
    cells += [Cell.of(part="predict", arm="bn", depth=20, seed=0)]
    measured = results(*((cell, STUDY.measure(cell, TINY)) for cell in cells))
    blocks = measured.of("blocks", arm="bn", seed=868)
    assert blocks[["stage", "k"]].to_numpy().tolist() == [[1, 1], [1, 2], [2, 1], [3, 1], [4, 1]]
    assert blocks["branch_acv"].to_numpy() == pytest.approx([1 - 1 / pi] * 5, rel=0.1)
    walked = measured.of("prediction", arm="bn")
    np.testing.assert_allclose(walked["branch_acv"], 1 - 1 / pi, rtol=0.05)
    published = publish(STUDY, TINY, measured, tmp_path)
    outcomes = {claim.name: verdict.outcome for claim, verdict in published.verdicts.items()}
    assert len(outcomes) == 9 and outcomes["B3"] == outcomes["B7"] == outcomes["B8"] == Outcome.NOT_TESTABLE
    table = published.tables["stages-20"]
    assert len(table) == 8 and {"ACV", "ACV, closed form", "ACV, layer by layer"} <= set(table.columns)
    assert "2.05" in table["ACV, closed form"].iloc[0] and (table["ACV, closed form"].iloc[4:] == "").all()
    assert {"bn-20.png", "nf-plain-20.pdf", "stages-20.tex"} <= set(published.files)
    full = STUDY.measure(Cell.of(part="signals", arm="nf_circular", depth=20, seed=868), FULL)
    assert len(full["blocks"]) == 4


def blocks(arm: str, **changed: float) -> tuple[Cell, Tables]:
    """An arm that follows its closed form, times (BN-ReLU-Conv) or plus (the others) what is changed."""
    exact = closed_form("nf" if arm in ("nf_plain", "none") else arm, DEPTHS)
    assert exact is not None
    table = exact.astype({"acsm": float})
    for key, value in changed.items():
        table[key] = table[key] * value if arm == "bn" else table[key] + value
    return Cell.of(part="signals", arm=arm, depth=50, seed=1), {"blocks": table}


def test_b1_and_b2_want_the_closed_form() -> None:
    assert verdict("B1", blocks("bn")) == verdict("B2", blocks("bn")) == Outcome.CONFIRMED
    assert verdict("B1", blocks("bn", acv=1.06)) == verdict("B1", blocks("bn", branch_acv=0.9)) == Outcome.REFUTED
    assert verdict("B2", blocks("bn", acsm=1.1)) == Outcome.CONFIRMED
    assert verdict("B2", blocks("bn", acsm=0.7)) == Outcome.REFUTED
    assert verdict("B1") == verdict("B2") == Outcome.NOT_TESTABLE


def test_b3_wants_no_mean() -> None:
    assert verdict("B3", blocks("bn_last", acsm=0.001)) == Outcome.CONFIRMED
    assert (
        verdict("B3", blocks("bn_last", acsm=0.1))
        == verdict("B3", blocks("bn_last", branch_acv=0.1))
        == Outcome.REFUTED
    )


def doubled(power: float, share: float) -> tuple[Cell, Tables]:
    cell, tables = blocks("none")
    total = 2.0 ** (power * tables["blocks"]["block"])
    return cell, {"blocks": tables["blocks"].assign(acsm=share * total, acv=(1 - share) * total)}


def test_b4_wants_a_doubling_of_the_mean() -> None:
    assert verdict("B4", doubled(1.0, 0.6)) == Outcome.CONFIRMED
    assert verdict("B4", doubled(0.8, 0.6)) == verdict("B4", doubled(1.0, 0.4)) == Outcome.REFUTED


def test_b5_wants_the_foretold_variance_and_flat_stages() -> None:
    shut, walked = blocks("nf_shut"), padded("nf", "predict", (1.0, 1.0, 1.0, 1.0))
    assert verdict("B5", blocks("nf", acv=-0.03), shut, walked) == Outcome.CONFIRMED
    # without alpha^2 k
    flat = blocks("nf")[1]["blocks"].assign(acv=1.0)
    assert verdict("B5", (blocks("nf")[0], {"blocks": flat}), shut, walked) == Outcome.REFUTED
    assert verdict("B5", blocks("nf", acsm=0.05), shut, walked) == Outcome.REFUTED
    cell, tables = shut
    growing = tables["blocks"].assign(acv=1 + 0.1 * tables["blocks"]["k"])
    assert verdict("B5", blocks("nf"), (cell, {"blocks": growing}), walked) == Outcome.REFUTED
    assert verdict("B5", blocks("nf"), shut) == verdict("B5", blocks("nf"), walked) == Outcome.NOT_TESTABLE


def test_b6_wants_a_shift_without_standardization_alone() -> None:
    assert verdict("B6", blocks("nf"), blocks("nf_plain", acsm=6.0)) == Outcome.CONFIRMED
    assert verdict("B6", blocks("nf"), blocks("nf_plain", acsm=2.0)) == Outcome.REFUTED
    unpooled = (Cell.of(part="signals", arm="nf_plain_unpooled", depth=50, seed=1), blocks("nf_plain", acsm=5.0)[1])
    assert verdict("B6", blocks("nf"), blocks("nf_plain", acsm=6.0), unpooled) == Outcome.CONFIRMED
    assert verdict("B6", blocks("nf", acsm=0.1), blocks("nf_plain", acsm=6.0)) == Outcome.REFUTED


def padded(arm: str, part: str, values: tuple[float, ...]) -> tuple[Cell, Tables]:
    _, tables = blocks(arm)
    by_stage = tables["blocks"]["stage"].map(dict(enumerate(values, 1)))
    name = "blocks" if part == "signals" else "prediction"
    return Cell.of(part=part, arm=arm, depth=50, seed=1), {name: tables["blocks"].assign(branch_acv=by_stage)}


def test_b7_wants_padding_to_be_the_cause() -> None:
    falling, whole = (0.95, 0.9, 0.7, 0.45), (1.0, 1.0, 0.98, 0.95)
    walked, circular = padded("nf", "predict", falling), padded("nf_circular", "signals", whole)
    assert verdict("B7", padded("nf", "signals", falling), walked, circular) == Outcome.CONFIRMED
    assert verdict("B7", padded("nf", "signals", whole), walked, circular) == Outcome.REFUTED
    assert (
        verdict("B7", padded("nf", "signals", falling), walked, padded("nf_circular", "signals", falling))
        == Outcome.REFUTED
    )
    assert verdict("B7", padded("nf", "signals", falling), circular) == Outcome.NOT_TESTABLE


@pytest.mark.usefixtures("tiny")
def test_images_have_the_mean_and_variance_of_noise(tmp_path: Path) -> None:
    write_mnist("fashion_mnist", tmp_path, images=40)
    setup = Setup(size=Size.REAL, data=tmp_path)
    inputs = batch_of("images", (3, 32, 32), setup, 868)
    assert inputs.shape == (8, 3, 32, 32) and inputs[:, 0].equal(inputs[:, 2])
    assert inputs.mean().item() == pytest.approx(0, abs=1e-5) and inputs.std().item() == pytest.approx(1, rel=1e-3)
    (name, table), *rest = STUDY.measure(Cell.of(part="images", arm="nf", depth=20, seed=868), setup).items()
    assert name == "images" and len(table) == 5 and not rest


def on_images(arm: str, **changed: float) -> tuple[Cell, Tables]:
    table = blocks(arm)[1]["blocks"]
    return Cell.of(part="images", arm=arm, depth=50, seed=1), {
        "images": table.assign(**{k: table[k] * v for k, v in changed.items()})
    }


def test_b8_and_b9_want_images_that_look_like_noise() -> None:
    noise = [blocks("bn"), blocks("bn_last"), blocks("nf")]
    both = [*noise, on_images("bn_last"), on_images("nf")]
    assert verdict("B8", *both, on_images("bn", acv=1.2, acsm=0.85)) == Outcome.CONFIRMED
    assert (
        verdict("B8", *both, on_images("bn", acv=1.3))
        == verdict("B8", *both, on_images("bn", acsm=0.7))
        == Outcome.REFUTED
    )
    assert verdict("B9", *noise, on_images("nf", acv=0.9)) == Outcome.CONFIRMED
    assert verdict("B9", *noise, on_images("nf", acv=0.7)) == Outcome.REFUTED
    assert verdict("B8", *noise) == verdict("B9", *noise) == Outcome.NOT_TESTABLE


def test_an_interval_over_seeds_decides_and_not_their_mean() -> None:
    table = blocks("bn")[1]["blocks"]

    def spread(factors: tuple[float, ...]) -> Outcome:
        cells = [
            (
                Cell.of(part="signals", arm="bn", depth=50, seed=seed),
                {"blocks": table.assign(acv=table["acv"] * factor)},
            )
            for seed, factor in enumerate(factors)
        ]
        return judging.verdict(STUDY, "B1", *cells)

    assert spread((0.99, 1.0, 1.01)) == Outcome.CONFIRMED and spread((0.9, 1.1)) == Outcome.NOT_DECIDED
    assert spread((1.19, 1.2, 1.21)) == Outcome.REFUTED and spread((1.0,)) == Outcome.NOT_DECIDED
