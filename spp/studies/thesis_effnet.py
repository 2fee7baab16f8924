"""``thesis-effnet``: EfficientNet-B0 without BatchNorm (Dewyse, JKU Linz, 2025), with the controls that the thesis lacks.

Two kinds of cells: ``init`` traces a network as it is drawn, at the thesis' own size, on noise; ``train`` trains one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from spp import plot
from spp.data import gaussian
from spp.frame.schema import Column
from spp.plot.runs import Beside
from spp.studies.study import Cell, Results, Setup, Study, Tables
from spp.studies.thesis_effnet_arms import (
    ARMS,
    LOW_RATES,
    QUICK_WIDTH,
    RATES,
    SIDE,
    TABLE_1,
    TRAINED,
    TRAINED_FULL,
)
from spp.studies.thesis_effnet_claims import CLAIMS, TABLE_1_THESIS, best_rate
from spp.studies.trials import chance, drawn, images, spread, trained
from spp.tracing import trace
from spp.training import Recipe
from spp.vocabulary import Signal

WATCHED = ("batch", "none", "snmp")
"""Arms whose signals are measured while they are trained, for the first seed and the rate ``WATCHED_RATE``."""

WATCHED_RATE = 0.001
CLASSES = 100
LABELS = {name: arm.label for name, arm in ARMS.items()}
DECAY = ("sn", "snmp", "sn_64", "snmp_64", "snmp_double", "sn_kept", "snmp_kept")
"""Arms whose variance is drawn from block to block."""

WIDE = {"input_shape": None, "batch_size": None}
"""Facts in which those differ."""

INIT_SEEDS, QUICK_SEEDS, FULL_SEEDS = 3, 2, 5
QUICK_EPOCHS, QUICK_BATCH, FULL_EPOCHS, FULL_BATCH = 3, 32, 20, 512


def arrangement(setup: Setup) -> list[str]:
    """What is run, and what of the source is done otherwise."""
    arms = TRAINED if setup.quick else TRAINED_FULL
    size = (
        f"Trained: width multiplier {QUICK_WIDTH:g}, scikit-learn's digits brought to 3x32x32, batch {QUICK_BATCH}, "
        f"{QUICK_EPOCHS} epochs, {len(setup.seed_list(QUICK_SEEDS))} seeds. Small, and another task: a proxy."
        if setup.quick
        else f"Trained: full width, CIFAR-100 at 32x32 with random crops and flips, 80 % of its 50,000 images to learn from, "
        f"batch {FULL_BATCH}, {FULL_EPOCHS} epochs, {len(setup.seed_list(FULL_SEEDS))} seeds."
    )
    return [
        f"At init: full width, 100 classes, 64 x 3x32x32 unit normal noise, {len(setup.seed_list(INIT_SEEDS))} seeds; the "
        "thesis' own size.",
        size,
        f"Adam at {', '.join(f'{rate:g}' for rate in RATES)}, constant, no weight decay; the last weights are tested.",
        *(f"{ARMS[arm].label}: {ARMS[arm].about}." for arm in arms),
        "Otherwise than in the thesis' code: validation images are not augmented; statistics are merged exactly, "
        "channel statistics are those of channels everywhere; BatchNorm has torch's eps and momentum; the seed rules "
        "weights, order and split.",
        "Its init of the baseline ignores the groups of depthwise convolutions. It is kept where the thesis has it, since "
        "that is what it reports on; the arm `no norm + gain` does without.",
    ]


def cells(setup: Setup) -> list[Cell]:
    """Every arm at init, and every trained arm at each rate, by seeds."""
    width = 1.0 if setup.quick else 60.0
    init = [Cell.of(1.0, part="init", arm=arm, seed=seed) for arm in ARMS for seed in setup.seed_list(INIT_SEEDS)]
    own = QUICK_SEEDS if setup.quick else FULL_SEEDS
    train = [
        Cell.of(14 * width, part="train", arm=arm, lr=lr, seed=seed)
        for seed in setup.seed_list(own)
        for arm in (TRAINED if setup.quick else TRAINED_FULL)
        for lr in (*RATES, *(LOW_RATES if arm.startswith("ws") and not setup.quick else ()))
    ]
    return init + train


def measure(cell: Cell, setup: Setup) -> Tables:
    """Trace or train one network."""
    return _init(cell, setup) if cell["part"] == "init" else _train(cell, setup)


def _init(cell: Cell, setup: Setup) -> Tables:
    """Signals, and what the claims are about: ``init`` (one row) and ``path``, the variance from the stem to the head."""
    arm = ARMS[cell["arm"]]
    model = drawn(lambda: arm.make(CLASSES), cell["seed"]).to(setup.device)
    batch = gaussian(arm.batch, (3, arm.side, arm.side), seed=cell["seed"], num_classes=CLASSES)
    found = drawn(lambda: trace(model, batch), cell["seed"])  # the classifier has dropout
    frame = found.frame
    stem = frame[(frame[Column.SIGNAL] == Signal.WEIGHT_GRADIENT) & (frame[Column.NAME] == "stem.conv")]
    path = _path(frame)
    facts = {
        "loss": found.run["loss_value"],
        "features_acv": path["acv"].iloc[-1],
        "stem_gradient": math.sqrt(float((stem[Column.MEAN_SQUARE] * stem[Column.NUMEL]).sum())),
    }
    kept = frame[frame[Column.SIGNAL].isin((Signal.ACTIVATION, Signal.GRADIENT))].reset_index(drop=True)
    return {"init": pd.DataFrame([facts]), "path": path, "signals": kept}


def _path(frame: pd.DataFrame) -> pd.DataFrame:
    """The variance where the stem, each block and the last convolution end, and what a block's gates made of it."""
    seen = frame[frame[Column.SIGNAL] == Signal.ACTIVATION].set_index(Column.NAME)[Column.ACV]
    ends = ["stem", *(name for name in seen.index if name.startswith("stage") and name.count(".") == 1), "final"]
    ends.sort(key=lambda name: (name == "final", name != "stem", name))
    gates = [
        seen[f"{end}.se"] / seen[f"{end}.depthwise_act"] if f"{end}.se" in seen.index else math.nan for end in ends
    ]
    return pd.DataFrame({"place": ends, "acv": seen[ends].to_numpy(), "gate": gates})


def _train(cell: Cell, setup: Setup) -> Tables:
    arm, lr, seed = ARMS[cell["arm"]], float(cell["lr"]), int(cell["seed"])
    data = images(setup, "cifar100", seed=seed, shape=(3, SIDE, SIDE))
    width, epochs, batch = (QUICK_WIDTH, QUICK_EPOCHS, QUICK_BATCH) if setup.quick else (1.0, FULL_EPOCHS, FULL_BATCH)
    model = drawn(lambda: arm.make(len(data.classes), width), seed)
    recipe = Recipe(epochs=epochs, batch_size=batch, lr=lr, seed=seed)
    watched = cell["arm"] in WATCHED and lr == WATCHED_RATE and seed == setup.seed_list(1)[0]
    tables = trained(model, data, recipe, setup, every="epoch" if watched else None)
    if watched:
        tables["evolution"] = tables.pop("signals")
    return tables


def tables(results: Results, setup: Setup) -> Tables:
    """Accuracy by arm and rate, as Table 1; the same with the thesis' numbers; the signal at init."""
    printed = {"accuracy": _accuracy(results), "init": _at_init(results)}
    if not setup.quick:
        printed["table-1"] = _table_1(results)
    return printed


def _accuracy(results: Results) -> pd.DataFrame:
    test = results["test"]
    rows = []
    for arm, runs in test.groupby("arm", sort=False):
        row: dict[str, Any] = {"network": ARMS[str(arm)].label}
        for lr in sorted(test["lr"].unique(), reverse=True):
            mine = runs[runs["lr"] == lr]
            early = int((~mine["finished"]).sum())
            row[f"lr {lr:g}"] = (
                "" if mine.empty else spread(mine["accuracy"], 100) + (f" ({early} ended early)" if early else "")
            )
        rows.append({**row, "best lr": best_rate(test, str(arm)), "seeds": runs["seed"].nunique()})
    return pd.DataFrame(rows)


def _table_1(results: Results) -> pd.DataFrame:
    test = results["test"]
    rows = []
    for lr in RATES:
        row: dict[str, Any] = {"lr": lr}
        for arm in TABLE_1:
            mine = test[(test["arm"] == arm) & (test["lr"] == lr)]
            mean, deviation = TABLE_1_THESIS[arm, lr]
            row[ARMS[arm].label] = f"{spread(mine['accuracy'], 100)} (thesis: {mean:.1f} ± {deviation:.1f})"
        rows.append(row)
    return pd.DataFrame(rows)


def _at_init(results: Results) -> pd.DataFrame:
    path, facts = results["path"], results["init"]
    ends = list(path["place"].unique())
    shown = {"stem": ends[0], "block 0": ends[1], "block 4": ends[5], "block 8": ends[9], "block 15": ends[16]}
    rows = []
    for arm, seen in path.groupby("arm", sort=False):
        mine = facts[facts["arm"] == arm]
        row: dict[str, Any] = {
            "network": ARMS[str(arm)].label,
            "images": f"{ARMS[str(arm)].side}x{ARMS[str(arm)].side}",
        }
        row |= {f"ACV, {name}": _middle(seen[seen["place"] == place]["acv"]) for name, place in shown.items()}
        row |= {"ACV, features": _middle(mine["features_acv"]), "gradient norm, stem": _middle(mine["stem_gradient"])}
        rows.append({**row, "loss": f"{mine['loss'].mean():.4g}", "seeds": len(mine)})
    return pd.DataFrame(rows)


def _middle(values: pd.Series[float]) -> str:
    """Geometric mean over seeds, in words, since these numbers span sixty decades."""
    return f"{float(np.exp(np.log(values).mean())):.2g}"


def figures(results: Results, setup: Setup) -> dict[str, plot.SignalPlot]:
    """The signal at init, and from block to block; accuracy by learning rate; the thesis' figures 4 and 5, over training."""
    noise = {"model": "EfficientNet-B0", "data": "unit normal", "input_shape": [3, SIDE, SIDE], "batch_size": 64}
    size = f" at {QUICK_WIDTH:g} of its width" if setup.quick else ""
    data = {
        "model": f"EfficientNet-B0{size}",
        "data": "digits" if setup.quick else "CIFAR-100",
        "input_shape": [3, SIDE, SIDE],
    }
    signals, evolution = results["signals"], results["evolution"]
    runs = {ARMS[arm].label: _runs(signals, arm, noise) for arm in ("batch", "none", "groups", "he", "control")}
    made = {"init": plot.compare(runs, statistics="acv")}
    path, test = results["path"], results["test"]
    path = path[path["arm"].isin(DECAY)]
    if len(path):
        made["decay"] = plot.outcomes(
            path,
            x="place",
            y="acv",
            by="arm",
            names=LABELS,
            yscale="log",
            xlabel="place in the network",
            ylabel="ACV",
            run=noise | WIDE,
        )
    test = test[test["arm"].isin(TRAINED)] if len(test) else test
    if len(test):
        made["accuracy"] = plot.outcomes(
            test,
            x="lr",
            y="accuracy",
            by="arm",
            names=LABELS,
            chance=chance(setup),
            xlabel="learning rate",
            ylabel="test accuracy",
            run=data,
        )
    watched = {arm: _runs(evolution, arm, data) for arm in WATCHED}
    if all(watched.values()):
        made["figure-4"] = plot.evolutions({ARMS[arm].label: watched[arm] for arm in ("batch", "none")})
        (magnitude,) = watched["snmp"]
        made["figure-5"] = plot.signal_plot(
            "evolution", frame=magnitude.frame, blocks=pd.DataFrame(), run={**magnitude.run, "norm": ARMS["snmp"].label}
        )
    return made


def _runs(table: pd.DataFrame, arm: str, facts: dict[str, Any]) -> list[Beside]:
    """The frames of an arm, one by seed, as they were measured."""
    if table.empty:
        return []
    mine = table[table["arm"] == arm]
    own = [column for column in ("part", "arm", "lr", "seed") if column in mine.columns]
    return [
        Beside(one.drop(columns=own).reset_index(drop=True), {**facts, "seed": seed})
        for seed, one in mine.groupby("seed", sort=False)
    ]


STUDY = Study(
    name="thesis-effnet",
    title="EfficientNet-B0 without BatchNorm",
    source="Dewyse (JKU Linz, 2025), poster and code",
    question="Can a stable EfficientNet-B0 be built without BatchNorm, and at what cost? And is it the norm that is missed, or "
    "a proper initialization?",
    arrangement=arrangement,
    claims=CLAIMS,
    cells=cells,
    measure=measure,
    tables=tables,
    figures=figures,
)
