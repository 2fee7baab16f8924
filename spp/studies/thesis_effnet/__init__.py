"""``thesis-effnet``: EfficientNet-B0 without BatchNorm (Dewyse, JKU Linz, 2025), with the controls that the thesis lacks.

Two kinds of cells: ``init`` traces a network as it is drawn, at the thesis' own size, on noise; ``train`` trains one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from spp.data import gaussian
from spp.frame.schema import Column
from spp.studies.study import Cell, Setup, Size, Study, Tables
from spp.studies.thesis_effnet.claims import (
    ARMS,
    CLAIMS,
    LOW_RATES,
    RATES,
    SIDE,
    TRAINED,
    TRAINED_FULL,
    WATCHED,
    WIDTHS,
    figures,
    tables,
)
from spp.studies.trials import drawn, images, trained
from spp.tracing import trace
from spp.training import Recipe
from spp.vocabulary import Signal

WATCHED_RATE = 0.001
CLASSES = 100
INIT_SEEDS = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """What is trained, and how long.

    Attributes:
        about: Width and images, in words.
        arms: Which are trained.
        low: Rates at which weight-standardized ones are trained besides.
        epochs: Passes over the training images.
        batch: Images per step.
        seeds: How many.
        cost: Of a training run, beside a trace at init.
    """

    about: str
    arms: tuple[str, ...]
    low: tuple[float, ...]
    epochs: int
    batch: int
    seeds: int
    cost: float


PLANS = {
    Size.TINY: Plan(
        f"width multiplier {WIDTHS[Size.TINY]:g}, scikit-learn's digits brought to 3x32x32, a proxy: small, and another task",
        arms=TRAINED,
        low=(),
        epochs=3,
        batch=32,
        seeds=2,
        cost=14.0,
    ),
    Size.FULL: Plan(
        "full width, CIFAR-100 at 32x32 with random crops and flips, 80 % of its 50,000 images to learn from",
        arms=TRAINED_FULL,
        low=LOW_RATES,
        epochs=20,
        batch=512,
        seeds=5,
        cost=840.0,
    ),
}


def arrangement(setup: Setup) -> list[str]:
    """What is run, and what of the source is done otherwise."""
    plan = PLANS[setup.size]
    return [
        f"At init: full width, 100 classes, 64 x 3x32x32 unit normal noise, {len(setup.seed_list(INIT_SEEDS))} seeds; the "
        "thesis' own size.",
        f"Trained: {plan.about}; batch {plan.batch}, {plan.epochs} epochs, {len(setup.seed_list(plan.seeds))} seeds.",
        f"Adam at {', '.join(f'{rate:g}' for rate in RATES)}, constant, no weight decay; the last weights are tested.",
        *(f"{ARMS[arm].label}: {ARMS[arm].about}." for arm in plan.arms),
        "Otherwise than in the thesis' code: validation images are not augmented; statistics are merged exactly, "
        "channel statistics are those of channels everywhere; BatchNorm has torch's eps and momentum; the seed rules "
        "weights, order and split.",
        "Its init of the baseline ignores the groups of depthwise convolutions. It is kept where the thesis has it, since "
        "that is what it reports on; the arm `no norm + gain` does without.",
    ]


def cells(setup: Setup) -> list[Cell]:
    """Every arm at init, and every trained arm at each rate, by seeds."""
    plan = PLANS[setup.size]
    init = [Cell.of(1.0, part="init", arm=arm, seed=seed) for arm in ARMS for seed in setup.seed_list(INIT_SEEDS)]
    train = [
        Cell.of(plan.cost, part="train", arm=arm, lr=lr, seed=seed)
        for seed in setup.seed_list(plan.seeds)
        for arm in plan.arms
        for lr in (*RATES, *(plan.low if arm.startswith("ws") else ()))
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
    plan = PLANS[setup.size]
    model = drawn(lambda: arm.make(len(data.classes), WIDTHS[setup.size]), seed)
    recipe = Recipe(epochs=plan.epochs, batch_size=plan.batch, lr=lr, seed=seed)
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
    sizes=tuple(PLANS),
)
