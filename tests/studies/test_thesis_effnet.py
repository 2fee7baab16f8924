"""``thesis-effnet``: its plan, its cells through the real code, and judges that can say either thing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from torch import nn

from spp.data import Splits
from spp.errors import InputError
from spp.studies import Cell, Outcome, Setup, Size, find, thesis_effnet
from spp.studies.publish import publish
from spp.studies.study import Tables
from spp.studies.thesis_effnet import ALPHAS, ARMS, CHOSEN, CNNS, OTHERS, PLANS, TRAINABLE, TRAINED, path_of
from spp.studies.thesis_effnet.claims import RATES, REGULAR, TABLE_1, TABLE_1_THESIS
from spp.studies.trials import images
from tests.data.files import write_cifar, write_mnist
from tests.studies import judging
from tests.studies.judging import results

TINY, REAL, FULL = Setup(), Setup(size=Size.REAL), Setup(size=Size.FULL, data=Path("data"))
STUDY = find("thesis-effnet")
verdict = partial(judging.verdict, STUDY)


def along(arm: str, acv: tuple[float, ...], gate: float | None = None, others: float = 1.0) -> pd.DataFrame:
    """The variance along a network; every block has a gate, of the value it has at init unless it is given."""
    gate = gate or (0.5 if arm.startswith("snmp") else 0.25)
    none, blocks = [float("nan")], len(acv) - 2
    places = ["stem", *(f"stage{k}.0" for k in range(blocks)), "final"]
    table = {
        "place": places,
        "acv": acv,
        "gate": none + [gate] * blocks + none,
        "others": none + [others] * blocks + none,
    }
    return pd.DataFrame(table)


def at_init(arm: str, seed: int, *, acv: float, gradient: float = 1.0, path: tuple[float, ...] = (1.0, 1.0, 1.0)):
    cell = Cell.of(part="init", arm=arm, seed=seed)
    facts = pd.DataFrame({"loss": [4.6], "features_acv": [acv], "stem_gradient": [gradient]})
    return cell, {"init": facts, "path": along(arm, path)}


def run(
    arm: str, seed: int, accuracy: float, *, lr: float = 0.001, finished: bool = True, validation: float | None = None
):
    cell = Cell.of(part="train", arm=arm, lr=lr, seed=seed)
    test = pd.DataFrame({"accuracy": [accuracy], "loss": [1.0], "finished": [finished]})
    history = {"epoch": [0], "validation_accuracy": [accuracy if validation is None else validation]}
    return cell, {"test": test, "history": pd.DataFrame(history)}


def seeds(make: Callable[..., tuple[Cell, Tables]], arm: str, *given: float, count: int = 3, **more: Any) -> list[Any]:
    """What several seeds have alike, so that intervals are points; of runs, the first one chooses the rate."""
    return [make(arm, seed, *given, **more) for seed in range(count)]


@pytest.mark.parametrize(
    ("setup", "arms", "seeds"), [(TINY, TRAINED, 2), (FULL, (*TABLE_1, "control", *OTHERS, *CNNS), 5)]
)
def test_the_plan_has_every_arm_at_every_rate_by_seeds(setup: Setup, arms: tuple[str, ...], seeds: int) -> None:
    cells = list(STUDY.cells(setup))
    assert len(cells) == len(set(cells)) == len({cell.folder for cell in cells})
    train = [cell for cell in cells if cell["part"] == "train"]
    for arm in arms:
        for lr in RATES:
            assert sum(cell["arm"] == arm and cell["lr"] == lr for cell in train) == seeds
    assert set(TABLE_1) < set(arms) and {"dyt", "ws", "control"} < set(arms)
    assert {cell["arm"] for cell in cells if cell["part"] == "init"} == set(ARMS)
    assert any(cell["lr"] < 1e-6 for cell in train) is (setup.size is Size.FULL)


def test_at_the_real_size_one_seed_chooses_and_the_others_have_its_rate() -> None:
    cells = list(STUDY.cells(REAL))
    assert len(cells) == len(set(cells)) and sum(cell.cost for cell in cells) <= 35 * 60
    trained = pd.DataFrame([dict(cell.parameters) for cell in cells if cell["part"] != "init"])
    for arm, rates in CHOSEN.items():
        own = trained[(trained["arm"] == arm) & (trained["part"] == "train")]
        assert set(own.loc[own["seed"] == 868, "lr"]) == {0.003, *RATES}
        assert set(own.loc[own["seed"] != 868, "lr"]) == set(rates) and own["seed"].nunique() >= 4
    few = trained[trained["part"] == "few"]
    assert few.groupby("arm")["seed"].apply(frozenset).nunique() == 1 and set(few["arm"]) == {"sn", *REGULAR}
    assert set(few["lr"]) == set(CHOSEN["sn"]) and {*OTHERS, *ALPHAS, *CNNS} - {"dyt_sn"} < set(trained["arm"])


def test_networks_are_those_of_the_thesis() -> None:
    with torch.device("meta"):
        made = {name: TRAINABLE[name].make(100) for name in (*TABLE_1, *REGULAR, *CNNS, "snmp_learned", "sn_kept")}
        count = {name: sum(p.numel() for p in model.parameters()) for name, model in made.items()}
    assert count["batch"] == 4_135_648 and count["none"] == count["sn"] == count["snmp"] == 4_093_632
    assert count["snmp_learned"] == count["snmp"] + 9
    assert made["batch"].config.batch_eps == 1e-5 and made["none"].config.init == "he_groups_blind"
    assert all(made[arm].config.drop_path == 0 and made[arm].config.dropout == 0.2 for arm in TABLE_1)
    assert {layer.padding_mode for layer in made["sn_kept"].modules() if isinstance(layer, nn.Conv2d)} == {
        "zeros",
        "replicate",
    }
    assert made["sn_depth"].config.drop_path == 0.2 and TRAINABLE["sn_smooth"].smoothing == 0.1
    assert [(m.p, type(m)) for m in made["sn_dropout"].modules() if "Dropout" in type(m).__name__] == [
        (0.5, nn.AlphaDropout)
    ]
    # 3 convolutions and 3 Linear layers with biases; scale and shift of what a norm follows
    plain = 9 * (3 * 32 + 32 * 64 + 64 * 128) + 2048 * 512 + 512 * 256 + 256 * 100 + 224 + 868
    norms = {"cnn": 0, "cnn_convs": 224, "cnn_all": 224 + 768, "cnn_linears": 768}
    assert {arm: count[arm] - plain for arm in CNNS} == {arm: 2 * more for arm, more in norms.items()}
    alphas = {arm: TRAINABLE[arm].changes["norm_options"]["alpha"] for arm in ALPHAS}
    assert alphas["dyt_0.2"] == 0.2 and alphas["dyt_sn_1.2"] == 1.2 and len(alphas) == 12


def test_un_is_the_network_of_the_thesis_code() -> None:
    """Written out again: betas that never reset, alpha with and without a skip, scaled weights in the gates alone."""
    torch.manual_seed(0)
    model = ARMS["un"].make(10, 0.25).double().eval()

    def act(x: torch.Tensor) -> torch.Tensor:
        return x * x.sigmoid() / 0.596469

    def scaled(layer: nn.Module) -> torch.Tensor:
        weight = layer.weight
        centred = weight - weight.mean((1, 2, 3), keepdim=True)
        return layer.gain.view(-1, 1, 1, 1) * centred / centred.square().sum((1, 2, 3), keepdim=True).clamp(1e-4).sqrt()

    x = torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    conv = nn.functional.conv2d
    inputs, x = x, act(conv(x, model.stem.conv.weight, stride=2, padding=1))
    blocks = [block for number in range(1, 8) for block in getattr(model, f"stage{number}")]
    for index, block in enumerate(blocks):
        y = act(x) / (1 + 0.04 * index) ** 0.5
        if index:
            y = act(conv(y, block.expand.weight))
        deep = block.depthwise
        y = act(conv(y, deep.weight, stride=deep.stride, padding=deep.padding, groups=len(deep.weight)))
        gate = act(conv(y.mean((2, 3), keepdim=True), scaled(block.se.reduce), block.se.reduce.bias))
        y = 2 * y * conv(gate, scaled(block.se.expand), block.se.expand.bias).sigmoid()
        y = 0.2 * conv(y, block.project.weight)
        x = x + y if y.shape == x.shape and deep.stride == (1, 1) else y
    x = act(conv(x, model.final.conv.weight)).mean((2, 3))
    wanted = nn.functional.linear(x, model.head.fc.weight, model.head.fc.bias)
    # one more than at full width, where the first block changes its channels
    assert sum(block.merges for block in blocks) == 10
    torch.testing.assert_close(model(inputs), wanted, rtol=1e-4, atol=0)
    # alpha is no parameter of the thesis' network
    assert not any(p.requires_grad for block in blocks for p in (*block.project_norm.parameters(),))


def test_the_control_has_the_gain_in_its_weights() -> None:
    torch.manual_seed(0)
    model = ARMS["control"].make(10)
    for name in ("stage5.0.depthwise", "stage5.0.project", "final.conv"):
        weight = model.get_submodule(name).weight
        assert weight.var().item() * weight[0].numel() == pytest.approx(1.676532470331**2, rel=0.05)


@pytest.fixture(scope="module")
def measured() -> Callable[[str], tuple[Cell, Tables]]:
    """An arm at init, measured once."""

    @cache
    def once(arm: str) -> tuple[Cell, Tables]:
        cell = Cell.of(part="init", arm=arm, seed=868)
        return cell, STUDY.measure(cell, TINY)

    return once


def test_the_global_random_state_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thesis_effnet, "BATCH", 2)
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(STUDY.measure(Cell.of(part="init", arm="none", seed=868), TINY)["init"])
    assert_frame_equal(found[0], found[1])


def test_signals_at_init_are_what_was_measured_before(measured: Callable[[str], tuple[Cell, Tables]]) -> None:
    """SCIENCE: 2.2e-29 and 2.9e-15 as the thesis draws it; SN 0.99 at the stem, 1.1e-4 at the last block."""
    _, dead = measured("none")
    facts = dead["init"].iloc[0]
    assert 3e-30 < facts["features_acv"] < 2e-28 and 5e-16 < facts["stem_gradient"] < 2e-14
    assert facts["loss"] == pytest.approx(4.60517, abs=1e-4)
    path = measured("sn")[1]["path"]
    assert path["place"].tolist()[:2] == ["stem", "stage1.0"] and path["place"].tolist()[-2:] == ["stage7.0", "final"]
    assert len(path) == 18 and path["gate"].dropna().between(0.2, 0.3).all()
    assert path["acv"].iloc[0] == pytest.approx(0.99, abs=0.1) and 5e-5 < path["acv"].iloc[16] < 3e-4


def test_without_what_loses_variance_it_stays(measured: Callable[[str], tuple[Cell, Tables]]) -> None:
    path = measured("snmp_kept")[1]["path"]
    assert path["acv"].between(0.8, 1.3).all() and path["gate"].dropna().between(0.95, 1.25).all()
    # its other steps keep what gates at 1/2 and zeros at the edge take away
    lost = measured("sn")[1]["path"]
    assert path["others"].max() < 1.7 < lost["others"].max()


def test_the_steps_of_a_block_are_told_apart() -> None:
    acv = {"stem": 8.0, "stage1.0.depthwise_act": 4.0, "stage1.0.se": 1.0, "stage1.0.project": 2.0, "stage1.0": 2.0}
    acv |= {"stage2.0.expand_act": 2.0, "stage2.0.depthwise_act": 4.0, "stage2.0.se": 2.0, "stage2.0.project": 1.0}
    acv |= {"stage2.0": 3.0, "final": 5.0}
    frame = pd.DataFrame({"name": list(acv), "acv": list(acv.values()), "signal": "activation"})
    path = path_of(frame)
    assert path["place"].tolist() == ["stem", "stage1.0", "stage2.0", "final"]
    assert path["gate"].tolist()[1:3] == pytest.approx([0.25, 0.5])
    # twice down and twice up; nothing, twice up, twice down
    assert path["others"].tolist()[1:3] == pytest.approx([2.0, 4 ** (1 / 3)])
    assert path["acv"].tolist() == [8.0, 2.0, 3.0, 5.0]


def few(splits: Splits, count: int = 16) -> Splits:
    parts = {name: getattr(splits, name) for name in ("train", "validation", "test")}
    return replace(splits, **{name: replace(part, indices=part.indices[:count]) for name, part in parts.items()})


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real cells on sixteen images of each part."""
    short = {"epochs": 2, "batch": 8, "width": 0.1}
    for size, changes in {
        Size.TINY: {"epochs": 2, "width": 0.1},
        Size.REAL: {**short, "drawn": (0, 1), "images": {"resize": "pad", "train": 16, "validation": 8}, "tested": 20},
        Size.FULL: {"epochs": 1, "batch": 8},
    }.items():
        monkeypatch.setitem(PLANS, size, replace(PLANS[size], **changes))
    monkeypatch.setattr(thesis_effnet, "images", lambda *given, **more: few(images(*given, **more)))


@pytest.mark.usefixtures("tiny", "drawn_once")
def test_what_it_publishes_follows_from_its_cells(
    measured: Callable[[str], tuple[Cell, Tables]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = [Cell.of(part="train", arm=arm, lr=0.001, seed=868) for arm in ("batch", "none", "snmp")]
    found = results(measured("batch"), measured("none"), *((cell, STUDY.measure(cell, TINY)) for cell in train))
    assert found["evolution"].query("mode == 'train'").groupby("arm")["step"].nunique().to_dict() == {
        "batch": 2,
        "none": 2,
        "snmp": 2,
    }
    published = publish(STUDY, TINY, found, tmp_path)
    outcomes = {claim.name: verdict.outcome for claim, verdict in published.verdicts.items()}
    assert outcomes["C7"] == outcomes["C5"] == outcomes["C9"] == Outcome.NOT_TESTABLE and len(outcomes) == 11
    accuracy = published.tables["accuracy"]
    assert accuracy["network"].tolist() == ["BatchNorm", "no norm", "SN-MP"] and "lr 0.001" in accuracy.columns
    assert published.tables["init"]["ACV, features"].iloc[1].startswith("2e-29")
    assert {"init.png", "accuracy.png", "figure-4.pdf", "figure-5.png", "accuracy.csv", "init.tex"} <= set(
        published.files
    )


@pytest.mark.usefixtures("tiny")
def test_the_full_size_trains_on_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar("cifar100", tmp_path, images=20)
    setup = Setup(size=Size.FULL, data=tmp_path)
    found = STUDY.measure(Cell.of(part="train", arm="sn", lr=0.001, seed=868), setup)
    assert set(found) == {"history", "test"} and found["history"]["step"].tolist() == [2]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPP_DATA", raising=False)
    with pytest.raises(InputError, match=r"CIFAR-100 lies in a local folder.*--data of a study, or SPP_DATA"):
        images(Setup(size=Size.FULL), "cifar100", seed=868)
    monkeypatch.setenv("SPP_DATA", str(tmp_path))
    held = images(Setup(size=Size.FULL), "cifar100", seed=868, validation=5, train=10)
    assert (len(held.train), len(held.validation)) == (10, 5)


@pytest.mark.usefixtures("tiny")
def test_the_real_size_follows_judged_seeds_and_few_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist("fashion_mnist", tmp_path, images=60)
    setup, lr = Setup(size=Size.REAL, data=tmp_path), CHOSEN["sn"][0]
    judged = STUDY.measure(Cell.of(part="train", arm="sn", lr=lr, seed=67), setup)
    assert set(judged) == {"history", "test", "progress"} and judged["progress"]["epoch"].tolist() == [1] * 18
    assert judged["progress"]["gate"].dropna().between(0.2, 0.3).sum() == 16
    shown = STUDY.measure(Cell.of(part="train", arm="none", lr=0.001, seed=868), setup)
    assert shown["progress"].groupby("epoch").size().tolist() == [18, 18]
    assert set(shown["evolution"]["signal"]) >= {"activation", "gradient"} and {"f1", "roc_auc"} < set(shown["test"])
    monkeypatch.setitem(
        PLANS, Size.REAL, replace(PLANS[Size.REAL], runs=(replace(PLANS[Size.REAL].runs[-1], few=(8, 3)),))
    )
    found = STUDY.measure(Cell.of(part="few", arm="sn_smooth", lr=lr, seed=868), setup)
    assert list(found) == ["few"] and 0 <= found["few"]["learned"].item() <= 1


def test_c4_wants_a_dead_signal_and_no_learning() -> None:
    dead = seeds(at_init, "none", acv=1e-29, gradient=1e-15)
    assert verdict("C4", *dead, *seeds(run, "none", 0.1)) == Outcome.CONFIRMED
    learns = [*seeds(run, "none", 0.1), *seeds(run, "none", 0.3, lr=0.01)]
    assert verdict("C4", *dead, *learns) == Outcome.REFUTED
    alive = seeds(at_init, "none", acv=1e-9)
    assert verdict("C4", *alive, *seeds(run, "none", 0.1)) == Outcome.REFUTED
    # a signal that has underflowed
    gone = seeds(at_init, "none", acv=0.0, gradient=0.0)
    assert verdict("C4", *gone, *seeds(run, "none", 0.1)) == Outcome.CONFIRMED
    assert verdict("C4", *dead) == Outcome.NOT_TESTABLE
    # one per cent is guessing there
    assert verdict("C4", *dead, *seeds(run, "none", 0.03), setup=FULL) == Outcome.REFUTED


def test_the_control_wants_a_living_signal_and_learning() -> None:
    alive = seeds(at_init, "control", acv=0.06)
    others = (at_init("groups", 1, acv=1e-12), at_init("he", 1, acv=1e-9), run("batch", 1, 0.9))
    assert verdict("C4-control", *alive, *seeds(run, "control", 0.5), *others) == Outcome.CONFIRMED
    assert verdict("C4-control", *alive, *seeds(run, "control", 0.15), *others) == Outcome.REFUTED
    decayed = seeds(at_init, "control", acv=1e-6)
    assert verdict("C4-control", *decayed, *seeds(run, "control", 0.5)) == Outcome.REFUTED
    assert verdict("C4-control", *alive) == Outcome.NOT_TESTABLE
    # the seed that chooses a rate is lucky at it, and not judged
    lucky = [run("control", 0, 0.9, lr=0.01), *(run("control", seed, 0.15, lr=0.01) for seed in (1, 2, 3))]
    assert verdict("C4-control", *alive, *lucky, *seeds(run, "control", 0.5)) == Outcome.REFUTED


def self_normalizing(**changed: float) -> list[tuple[Cell, Tables]]:
    """Networks whose gates take most of the fall, and zeros at the edge the rest."""
    ends = {
        f"{arm}{end}": acv for arm in ("sn", "snmp") for end, acv in (("", 1e-4), ("_gates", 1e-1), ("_edge", 1e-3))
    }
    ends |= {"sn_kept": 5.0, "snmp_kept": 1.0} | changed
    return [
        one for arm, end in ends.items() for one in seeds(at_init, arm, acv=1.0, path=(1.0, 0.5, end, end), count=2)
    ]


def test_c5_wants_the_decay_and_finite_losses() -> None:
    runs = [run("sn", 1, 0.5), run("snmp", 1, 0.5)]
    assert verdict("C5", *self_normalizing(), *runs) == Outcome.CONFIRMED
    assert verdict("C5", *self_normalizing(snmp=0.5), *runs) == Outcome.REFUTED
    assert verdict("C5", *self_normalizing(), runs[0], run("snmp", 1, 0.1, finished=False)) == Outcome.REFUTED
    assert verdict("C5", *(one for one in self_normalizing() if one[0]["arm"] != "sn"), *runs) == Outcome.NOT_TESTABLE
    assert verdict("C5", *self_normalizing()) == Outcome.NOT_TESTABLE


def test_c5_of_the_cause_wants_gates_to_take_most_of_it() -> None:
    """The first version changed gates, padding and images together, and gave the whole to the gates."""
    assert verdict("C5-cause", *self_normalizing()) == Outcome.CONFIRMED
    # it was the padding: gates take little of it alone, and little where the edge is copied
    assert verdict("C5-cause", *self_normalizing(snmp_gates=1e-3, snmp_edge=1e-1)) == Outcome.REFUTED
    # either takes all of it alone: a half each, which is on neither side
    assert verdict("C5-cause", *self_normalizing(snmp_gates=1.0, snmp_edge=1.0)) == Outcome.NOT_DECIDED
    assert verdict("C5-cause", *self_normalizing(sn_kept=1e-3)) == Outcome.REFUTED  # it was neither
    gone = [one for one in self_normalizing() if one[0]["arm"] != "snmp_edge"]
    assert verdict("C5-cause", *gone) == Outcome.NOT_TESTABLE


def followed(
    arm: str, *, end: float = 1e-4, gate: float | None = None, others: float = 1.1
) -> list[tuple[Cell, Tables]]:
    """Runs of four seeds, of which the first chooses the rate and is not judged."""
    found = seeds(run, arm, 0.5, count=4)
    for cell, tables in found:
        chooses = cell["seed"] == 0
        last = along(arm, (1.0, 0.5, 1.0 if chooses else end, end), None if chooses else gate, others)
        # an epoch before, at which nothing is decided
        tables["progress"] = pd.concat([along(arm, (1.0,) * 4).assign(epoch=0), last.assign(epoch=2)])
    return found


def test_c5_over_training_is_about_the_last_epoch_of_judged_seeds() -> None:
    whole = [*followed("sn"), *followed("snmp")]
    assert verdict("C5-training", *whole) == verdict("C5-gates", *whole) == Outcome.CONFIRMED
    assert verdict("C5-training", *followed("sn"), *followed("snmp", end=0.2)) == Outcome.REFUTED
    # gates that have opened; and steps that change the variance more than gates do
    assert verdict("C5-gates", *followed("sn", gate=0.8), *followed("snmp")) == Outcome.REFUTED
    assert verdict("C5-gates", *followed("sn"), *followed("snmp", others=3.0)) == Outcome.REFUTED
    assert verdict("C5-gates", *followed("sn")) == verdict("C5-training") == Outcome.NOT_TESTABLE


def pairs(sn: list[float], snmp: list[float]) -> list[tuple[Cell, Tables]]:
    """A seed that chooses the rate, and these that are judged."""
    return [run(a, k, v) for a, values in (("sn", sn), ("snmp", snmp)) for k, v in enumerate([0.5, *values])]


def test_c6_is_confirmed_by_an_interval_below_a_point_alone() -> None:
    assert verdict("C6", *pairs([0.8, 0.82, 0.81], [0.70, 0.73, 0.71])) == Outcome.CONFIRMED
    assert verdict("C6", *pairs([0.8, 0.82], [0.805, 0.825])) == Outcome.CONFIRMED
    assert verdict("C6", *pairs([0.8, 0.82], [0.9, 0.92])) == Outcome.REFUTED
    # the first version took this spread for the absence of an effect
    assert verdict("C6", *pairs([0.8, 0.6], [0.7, 0.9])) == Outcome.NOT_DECIDED
    assert verdict("C6", *pairs([0.1, 0.1], [0.12, 0.1])) == Outcome.NOT_DECIDED  # neither learns
    assert verdict("C6", *pairs([0.8], [0.9])) == Outcome.NOT_DECIDED
    assert verdict("C6") == Outcome.NOT_TESTABLE


def test_c6_of_sameness_is_an_equivalence_test() -> None:
    assert verdict("C6-same", *pairs([0.8, 0.82, 0.81], [0.805, 0.825, 0.816])) == Outcome.CONFIRMED
    assert verdict("C6-same", *pairs([0.8, 0.82, 0.81], [0.70, 0.73, 0.71])) == Outcome.REFUTED
    # no difference at all, of so few and so different seeds, is not sameness
    assert verdict("C6-same", *pairs([0.8, 0.82, 0.84], [0.84, 0.82, 0.8])) == Outcome.NOT_DECIDED
    assert verdict("C6-same") == Outcome.NOT_TESTABLE


def test_c8_wants_batchnorm_above() -> None:
    assert verdict("C8", *seeds(run, "sn", 0.7), *seeds(run, "batch", 0.8)) == Outcome.CONFIRMED
    assert verdict("C8", *seeds(run, "sn", 0.8), *seeds(run, "batch", 0.7)) == Outcome.REFUTED
    assert verdict("C8", *seeds(run, "sn", 0.15), *seeds(run, "batch", 0.7)) == Outcome.NOT_DECIDED
    assert verdict("C8", *seeds(run, "sn", 0.7)) == Outcome.NOT_TESTABLE


def by_heart(learned: float = 1.0, **accuracy: float) -> list[tuple[Cell, Tables]]:
    found = dict.fromkeys(("sn", *REGULAR), 0.7) | accuracy
    return [
        (
            Cell.of(part="few", arm=arm, lr=0.001, seed=seed),
            {"few": pd.DataFrame({"learned": [learned], "accuracy": [value + 0.001 * seed]})},
        )
        for arm, value in found.items()
        for seed in range(3)
    ]


def test_c9_wants_one_regularization_above_sn() -> None:
    assert verdict("C9", *by_heart(sn_depth=0.75)) == Outcome.CONFIRMED
    assert verdict("C9", *by_heart()) == Outcome.REFUTED
    # nothing was learned by heart, so that there was nothing to regularize
    assert verdict("C9", *by_heart(0.8)) == verdict("C9", *by_heart(0.71)) == Outcome.NOT_DECIDED
    assert verdict("C9", *by_heart()[:9]) == verdict("C9") == Outcome.NOT_TESTABLE


def test_c7_compares_with_the_table_of_the_thesis_at_full_size_only() -> None:
    same = [one for (arm, lr), (mean, _) in TABLE_1_THESIS.items() for one in seeds(run, arm, mean / 100, lr=lr)]
    assert verdict("C7", *same, setup=FULL) == Outcome.CONFIRMED
    assert verdict("C7", *same) == Outcome.NOT_TESTABLE
    off = [*seeds(run, "sn", 0.2), *(one for one in same if (one[0]["arm"], one[0]["lr"]) != ("sn", 0.001))]
    assert verdict("C7", *off, setup=FULL) == Outcome.REFUTED
    assert verdict("C7", *same[:-3], setup=FULL) == Outcome.NOT_TESTABLE
    table = STUDY.tables(results(at_init("none", 1, acv=1.0, path=(1.0,) * 18), *same), FULL)["table-1"]
    assert table["BatchNorm"].iloc[1] == "13.9 ± 0.0 (thesis: 13.9 ± 3.4)"
