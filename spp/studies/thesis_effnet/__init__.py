"""``thesis-effnet``: EfficientNet-B0 without BatchNorm (Dewyse, JKU Linz, 2025), with the controls that the thesis lacks.

Two kinds of cells: ``init`` traces a network as it is drawn, at the thesis' own size, on noise; ``train`` trains one.
"""

from __future__ import annotations

import math

import pandas as pd

from spp.data import gaussian
from spp.frame.schema import Column
from spp.studies.study import Cell, Setup, Study, Tables
from spp.studies.thesis_effnet.claims import (
    ARMS,
    CLAIMS,
    LOW_RATES,
    QUICK_WIDTH,
    RATES,
    SIDE,
    TRAINED,
    TRAINED_FULL,
    WATCHED,
    figures,
    tables,
)
from spp.studies.trials import drawn, images, trained
from spp.tracing import trace
from spp.training import Recipe
from spp.vocabulary import Signal

WATCHED_RATE = 0.001
CLASSES = 100
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
    # the classifier has dropout, which draws masks
    found = drawn(lambda: trace(model, batch), cell["seed"])
    frame = found.frame
    stem = frame[(frame[Column.SIGNAL] == Signal.WEIGHT_GRADIENT) & (frame[Column.NAME] == "stem.conv")]
    path = _path(frame)
    facts = {
        "loss": found.run["loss_value"],
        "features_acv": path["acv"].iloc[-1],
        "stem_gradient": math.sqrt(float((stem[Column.MEAN_SQUARE] * stem[Column.NUMEL]).sum())),
    }
    # weights are left out: nothing is drawn of them, and they are most rows
    kept = frame[frame[Column.SIGNAL].isin((Signal.ACTIVATION, Signal.GRADIENT))].reset_index(drop=True)
    return {"init": pd.DataFrame([facts]), "path": path, "signals": kept}


def _path(frame: pd.DataFrame) -> pd.DataFrame:
    """The variance where the stem, each block and the last convolution end, and what a block's gates made of it."""
    seen = frame[frame[Column.SIGNAL] == Signal.ACTIVATION].set_index(Column.NAME)[Column.ACV]
    ends = ["stem", *(name for name in seen.index if name.startswith("stage") and name.count(".") == 1), "final"]
    # by name: there are fewer than ten stages, and than ten blocks in each
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
    return trained(model, data, recipe, setup, every="epoch" if watched else None)


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
