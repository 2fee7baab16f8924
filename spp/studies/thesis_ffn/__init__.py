"""``thesis-ffn``: what BatchNorm does to gradients in a fully connected network (Dewyse, JKU Linz, 2025).

Three kinds of cells: ``init`` traces networks as they are drawn; ``train`` trains one; ``scaling`` follows the gradients of
the two kinds of BatchNorm over training, on all training images at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from spp import plot
from spp.data import Part, Splits, gaussian, splits
from spp.data.images import InMemory, Scale
from spp.data.sources import digit_pixels, held_out
from spp.frame.schema import Column
from spp.plot.runs import Beside
from spp.studies.evidence import geometric
from spp.studies.reporting import frames, scored, spread, tabled
from spp.studies.study import Cell, Figures, Results, Setup, Size, Study, Tables
from spp.studies.thesis_ffn.claims import (
    BELOW,
    CLAIMS,
    DIGITS,
    IMAGES,
    RATES,
    SCALED,
    SNAPSHOT,
    TOP,
    at_equal_loss,
)
from spp.studies.trials import Arm, drawn, epoch_means, images, scores, trained
from spp.theory import batchnorm_gradient_factor, chi
from spp.tracing import trace
from spp.training import News, Recipe
from spp.vocabulary import Signal
from spp.watching import Every

ARMS = {
    "none": Arm("no norm", changes={"norm": "none"}),
    "selu": Arm("SELU", changes={"norm": "none", "activation": "selu", "init": "lecun"}),
    "batch_minus": Arm("BN without scale and shift", changes={"norm": "batch_minus"}),
    "snapshot": Arm(
        "BN, scale and shift in the first norm alone", changes={"norm": "batch_minus", "first_norm": "batch"}
    ),
    "batch": Arm("BN", changes={"norm": "batch"}),
}
"""Every arm by name."""

STEPS = TOP - BELOW
SCALING_RATES = (0.01, 0.001)
WATCHED_RATE = 0.001
INIT_SEEDS, SCALING_SEEDS = 20, 5
DRAWN = (0, 9, 19)
"""Epochs of the poster's figures 1 and 2."""

MEASURED = 4096
"""At most so many training images are measured on at once."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long networks are trained.

    Attributes:
        images: What is trained on, in words.
        epochs: Passes over the training images.
        batch: Images per step.
        seeds: How many.
        scaling: Epochs over which the gradients of the two BatchNorms are followed.
        cost: Of an epoch, beside one at the tiny size.
    """

    images: str
    epochs: int
    batch: int
    seeds: int
    scaling: int
    cost: float
    snapshot: bool = True
    """Whether the network of the thesis' code, which keeps scale and shift in its first norm, is trained as well."""

    @property
    def arms(self) -> list[str]:
        """What is trained."""
        return [arm for arm in ARMS if self.snapshot or arm != SNAPSHOT]


PLANS = {
    Size.TINY: Plan(
        "scikit-learn's digits, each of the 64 pixels standardized, 1437 to train on and 360 to test on",
        epochs=20,
        batch=128,
        seeds=3,
        scaling=50,
        cost=1.0,
        snapshot=False,
    ),
    # as many steps in an epoch as the thesis has, of a fourth of its batch: all images would take four times as long
    Size.REAL: Plan(
        "Fashion-MNIST, 784 pixels standardized by one mean and deviation, 10,112 images by seed to train on and all 10,000 to "
        "test on",
        epochs=20,
        batch=128,
        seeds=5,
        scaling=20,
        cost=3.0,
    ),
    Size.FULL: Plan(
        "CIFAR-100 with random crops and flips, 80 % of its 50,000 images to train on",
        epochs=20,
        batch=512,
        seeds=5,
        scaling=20,
        cost=100.0,
    ),
}


def arrangement(setup: Setup) -> list[str]:
    """What is run, and what of the source is done otherwise."""
    plan, tiny, real = PLANS[setup.size], setup.size is Size.TINY, setup.size is Size.REAL
    return [
        "Ten Linear layers of width 100, ReLU (or SELU), He's init by fan-out (LeCun's for SELU), biases of zero.",
        f"At init: gradients of the cross-entropy of {'the first 4096 images' if real else 'all 1437 digits'} at once, "
        f"{len(setup.seed_list(INIT_SEEDS))} seeds; also "
        f"{'' if real else 'with one mean and deviation for all pixels, and '}on unit normal noise.",
        f"Trained: {plan.images}, batch {plan.batch}, {plan.epochs} epochs, Adam at "
        f"{', '.join(f'{rate:g}' for rate in RATES)}, constant, no weight decay, "
        f"{len(setup.seed_list(plan.seeds))} seeds; the last weights are tested.",
        f"Scaling: the {'three' if plan.snapshot else 'two'} BatchNorms at "
        f"{' and '.join(f'{rate:g}' for rate in SCALING_RATES)}, "
        f"{plan.scaling} epochs, {len(setup.seed_list(SCALING_SEEDS))} seeds; after "
        "every epoch the gradients are measured on "
        + ("all training images at once." if tiny else f"the first {MEASURED} training images at once."),
        "`BN without scale and shift` is without them in every layer; the thesis' code keeps them in the first"
        + (f", as `{ARMS[SNAPSHOT].label}` does" if plan.snapshot else "")
        + ". Gradients are mean squares, which the thesis calls ACSM for layers of this kind.",
        *[
            "One mean and deviation for all pixels, not one for each: corners are black in nearly every image, so that a fleck "
            "there would be up to 284 deviations from its mean.",
            "An epoch has 79 steps, as with 80 % of CIFAR-100 at batch 512; figures 1 to 3 show means over all batches of "
            f"epochs {', '.join(map(str, DRAWN))}, as the thesis draws them, of the first seed.",
        ]
        * real,
        "The learning rate of the poster's figures 1 to 3 is not stated; they are drawn at 0.001.",
    ]


def limits(setup: Setup) -> list[str]:
    """What the run cannot say."""
    proxy = (
        "The thesis trained on CIFAR-100; accuracies on other images are no reproduction of its own, nor of its tables."
    )
    return [
        *[proxy] * (setup.size is not Size.FULL),
        "One depth, one width and one optimizer (Adam at three constant rates): a claim may fail or hold elsewhere.",
        "Where gradients are compared over training, BatchNorm with and without scale and shift follow different weights; what "
        "is compared are runs, not layers.",
    ]


def cells(setup: Setup) -> list[Cell]:
    """The networks at init by seed; each arm at each rate by seed; the two BatchNorms over training."""
    plan = PLANS[setup.size]
    init = [Cell.of(3.0, part="init", seed=seed) for seed in setup.seed_list(INIT_SEEDS)]
    train = [
        Cell.of(3.0 * plan.cost, part="train", arm=arm, lr=lr, seed=seed)
        for seed in setup.seed_list(plan.seeds)
        for arm in plan.arms
        for lr in RATES
    ]
    scaling = [
        Cell.of(10.0 * plan.cost, part="scaling", arm=arm, lr=lr, seed=seed)
        for seed in setup.seed_list(SCALING_SEEDS)
        for arm in plan.arms
        if arm in (*SCALED, SNAPSHOT)
        for lr in SCALING_RATES
    ]
    return init + train + scaling


def measure(cell: Cell, setup: Setup) -> Tables:
    """Trace or train one network, or, at init, one of each."""
    return {"init": _init, "train": _train, "scaling": _scaling}[cell["part"]](cell, setup)


def standardized_digits(setup: Setup, seed: int) -> Splits:
    """The digits with a mean and a deviation for each of the 64 pixels, which stand as channels of one pixel."""
    plain = splits("digits", validation=0.0, seed=seed)
    pixels, _ = digit_pixels()
    flat = InMemory(pixels.images.reshape(len(pixels.targets), -1, 1, 1), pixels.targets)
    numbers = flat.images.double().flatten(1)
    deviation = numbers.std(0, correction=0)
    # pixels at the edge are white in every image
    deviation[deviation == 0] = 1.0
    scale = Scale(tuple(numbers.mean(0).tolist()), tuple(deviation.tolist()))
    shape = (flat.images.shape[1], 1, 1)
    parts = {
        name: replace(getattr(plain, name), pixels=flat, scale=scale, shape=shape)
        for name in ("train", "validation", "test")
    }
    return replace(plain, **parts, shape=shape)


def data_of(setup: Setup, seed: int) -> Splits:
    """What a cell trains on."""
    if setup.size is Size.TINY:
        return standardized_digits(setup, seed)
    counts: dict[str, Any] = {"train": 79 * 128, "validation": 1_000} if setup.size is Size.REAL else {}
    return images(setup, "cifar100", seed=seed, **counts)


def made(arm: str, shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """The network of an arm."""
    return drawn(lambda: ARMS[arm].build(input_shape=shape, num_classes=classes), seed)


def first_of(part: Part, count: int) -> tuple[Tensor, Tensor]:
    """The first ``count`` samples of a part in the order of the set, as they are stored."""
    # the seed shuffles which images train and their order: this order is the same for all
    return part.batch(torch.argsort(part.indices)[:count])


def _init(cell: Cell, setup: Setup) -> Tables:
    """``ratios``, a row by arm and data; ``signals`` of every arm on the images that the claim is about."""
    seed = int(cell["seed"])
    if setup.size is Size.REAL:
        batches = {IMAGES: first_of(images(setup, "cifar100", seed=0, validation=0.0).train, MEASURED)}
    else:
        learn, _ = held_out()
        plain = splits("digits", validation=0.0, seed=0).train
        batches = {
            DIGITS: first_of(standardized_digits(setup, 0).train, len(learn)),
            "all pixels standardized": first_of(plain, len(learn)),
        }
    judged = next(iter(batches))
    inputs, _ = batches[judged]
    batches["unit normal noise"] = gaussian(len(inputs), tuple(inputs.shape[1:]), seed=seed, num_classes=10)
    rows, signals = [], []
    for name, (inputs, targets) in batches.items():
        for arm in PLANS[setup.size].arms:
            model = made(arm, tuple(inputs.shape[1:]), 10, seed).to(setup.device)
            found = trace(model, (inputs, targets), signals=("activation", "gradient"))
            rows.append({"arm": arm, "data": name, "ratio": ratio(found.frame), "loss": found.run["loss_value"]})
            if name == judged:
                signals.append(found.frame.assign(arm=arm))
    return {"ratios": pd.DataFrame(rows), "signals": pd.concat(signals, ignore_index=True)}


def ratio(frame: pd.DataFrame) -> float:
    """Mean square of the gradient at the second Linear layer's output over that at the ninth's: seven steps."""
    seen = gradients(frame)
    return float(seen[f"layer{BELOW}.linear"] / seen[f"layer{TOP}.linear"])


def gradients(frame: pd.DataFrame) -> pd.Series[float]:
    """Mean square of the gradient by module."""
    return frame[frame[Column.SIGNAL] == Signal.GRADIENT].set_index(Column.NAME)[Column.MEAN_SQUARE]


def _prepared(cell: Cell, setup: Setup, epochs: int) -> tuple[nn.Module, Splits, Recipe]:
    lr, seed = float(cell["lr"]), int(cell["seed"])
    data = data_of(setup, seed)
    recipe = Recipe(epochs=epochs, batch_size=PLANS[setup.size].batch, lr=lr, seed=seed)
    return made(cell["arm"], data.shape, len(data.classes), seed).to(setup.device), data, recipe


def _train(cell: Cell, setup: Setup) -> Tables:
    model, data, recipe = _prepared(cell, setup, PLANS[setup.size].epochs)
    watched = cell["lr"] == WATCHED_RATE and cell["seed"] == setup.seed_list(1)[0]
    # an epoch ends with a short batch, so that its steps are rounded up
    length = -(-len(data.train) // recipe.batch_size)
    every: Every = "epoch"
    if setup.size is Size.REAL:
        every = [epoch * length + step for epoch in DRAWN for step in range(length)]
    tables = trained(model, data, recipe, setup, every=every if watched else None)
    tables["test"] = tables["test"].assign(**scores(model, data.test))
    if watched:
        tables["evolution"] = epoch_means(tables["evolution"], length)
    return tables


def _scaling(cell: Cell, setup: Setup) -> Tables:
    """``scaling``: before training and after every epoch, on one batch, loss, ratio and size of the gradients."""
    model, data, recipe = _prepared(cell, setup, PLANS[setup.size].scaling)
    fixed = first_of(data.train, MEASURED)
    rows: list[dict[str, float]] = []

    def look(news: News | None) -> None:
        if news is not None and news.row is None:
            return
        # fit validates in evaluation mode, where BatchNorm does not see the batch
        model.train()
        found = trace(model, fixed, signals=("gradient",), include=["*.act", "*.linear"])
        seen = gradients(found.frame)
        relus = np.log([seen[f"layer{index}.act"] for index in range(1, TOP + 1)])
        rows.append(
            {
                "epoch": 0 if news is None else news.epoch + 1,
                "loss": float(found.run["loss_value"]),
                "ratio": ratio(found.frame),
                "size": float(np.exp(relus.mean())),
            }
        )

    look(None)
    tables = trained(model, data, recipe, setup, report=look)
    return {"scaling": pd.DataFrame(rows), "scaling-test": tables["test"]}


# --- what is printed and drawn ---------------------------------------------------------------------------------------


def tables(results: Results, setup: Setup) -> Tables:
    """Growth of the gradients at init beside theory; accuracy by arm and rate; what scale and shift do to gradients."""
    theory = {
        "none": 1.0,
        "selu": chi("selu", 1.0, 1.0) ** STEPS,
        "batch": batchnorm_gradient_factor("relu") ** STEPS,
    }
    theory |= dict.fromkeys(("batch_minus", SNAPSHOT), theory["batch"])

    def at_init(key: tuple[str, str], own: pd.DataFrame) -> dict[str, Any]:
        data, arm = key
        return {
            "data": data,
            "network": ARMS[arm].label,
            "gradient, layer 2 over layer 9": f"{geometric(own['ratio']):.2f}",
            "range": f"{own['ratio'].min():.2f} to {own['ratio'].max():.2f}",
            "sd of the log": f"{np.log(own['ratio']).std(ddof=0):.3f}",
            "theory, infinite width": f"{theory[arm]:.2f}",
            "seeds": len(own),
        }

    def accuracy(arm: str, own: pd.DataFrame) -> dict[str, Any]:
        at = {lr: own[own["lr"] == lr]["accuracy"] for lr in RATES}
        words = {f"lr {lr:g}": spread(runs, 100) if len(runs) else "" for lr, runs in at.items()}
        return {"network": ARMS[arm].label, **words, "seeds": own["seed"].nunique()}

    return {
        "init": tabled(results["ratios"], ["data", "arm"], at_init),
        "accuracy": tabled(results["test"], "arm", accuracy),
        "scores": scored(results["test"], {arm: one.label for arm, one in ARMS.items()}),
        "scaling": scaling_table(results["scaling"]),
    }


def scaling_table(scaling: pd.DataFrame) -> pd.DataFrame:
    """Growth and size of the gradients with and without scale and shift, by rate."""
    equal = scaling if scaling.empty else at_equal_loss(scaling)

    def row(key: tuple[float, str], own: pd.DataFrame) -> dict[str, Any]:
        lr, arm = key
        last = own[own["epoch"] == own["epoch"].max()]
        same = equal[(equal["lr"] == lr) & (equal["arm"] == arm)]
        return {
            "lr": lr,
            "scale and shift": {"batch": "yes", SNAPSHOT: "in the first norm"}.get(arm, "no"),
            "growth at init": f"{geometric(own[own['epoch'] == 0]['ratio']):.2f}",
            f"growth after epoch {int(own['epoch'].max())}": _around(np.log(last["ratio"])),
            "growth at equal loss": _around(same["ratio"]),
            "size at equal loss": _around(same["size"]),
            "loss down to": f"{same['low'].max():.3g}" if len(same) else "",
            "seeds": own["seed"].nunique(),
        }

    return tabled(scaling, ["lr", "arm"], row)


def _around(logs: pd.Series[float]) -> str:
    """Geometric mean and the factor of one deviation."""
    return f"{math.exp(logs.mean()):.3g} ×/÷ {math.exp(logs.std(ddof=0)):.2f}" if len(logs) else ""


def figures(results: Results, setup: Setup) -> Figures:
    """Gradients at init; the poster's figures 1 to 3; accuracy by rate; the ratio over training."""
    names = {arm: one.label for arm, one in ARMS.items()}
    facts: dict[str, Any] = {"model": "FFN of 10 layers", "data": setup.size.images("CIFAR-100")}
    found: Figures = {}
    signals, evolution, test, scaling = (results[name] for name in ("signals", "evolution", "test", "scaling"))
    if len(signals):
        runs = {
            names[arm]: frames(
                signals, arm, {**facts, "data": Size.REAL.images("") if setup.size is Size.REAL else "digits"}
            )
            for arm in ("none", "selu", "batch")
        }
        found["init"] = plot.compare(runs, signals="gradient", statistics="mean_square", width="single")
    if len(evolution):
        drawn_epochs = evolution[evolution["epoch"].isin(DRAWN)]
        relus = drawn_epochs[drawn_epochs[str(Column.NAME)].str.endswith(".act")]
        for name, rows, arms, shown in (
            ("figures-1-and-2", relus, ("batch_minus", SNAPSHOT, "batch"), ("gradient",)),
            ("figure-3", drawn_epochs, ("none", "selu"), ("activation", "gradient")),
        ):
            columns = {names[arm]: _run(rows, arm, facts) for arm in arms if (rows["arm"] == arm).any()}
            if columns:
                found[name] = plot.evolutions(columns, signals=shown, statistics="mean_square")
    shared: dict[str, Any] = {"by": "arm", "names": names, "run": facts}
    if len(test):
        axes: dict[str, Any] = {"x": "lr", "y": "accuracy", "xlabel": "learning rate", "ylabel": "test accuracy"}
        found["accuracy"] = plot.outcomes(test, chance=setup.chance, width="single", **axes, **shared)
    if len(scaling):
        table = scaling.assign(rate=[f"learning rate {lr:g}" for lr in scaling["lr"]])
        axes = {"x": "epoch", "y": "ratio", "xlabel": "epochs trained", "ylabel": "gradient, layer 2 over layer 9"}
        found["scaling"] = plot.outcomes(table, panels="rate", yscale="log", **axes, **shared)
    return found


def _run(rows: pd.DataFrame, arm: str, facts: dict[str, Any]) -> Beside:
    """The run of an arm that was watched; how many steps an epoch has follows from its last one."""
    # the caption tells epochs, and the frame knows steps
    step, epoch = (rows[rows["arm"] == arm][column].iloc[-1] for column in (str(Column.STEP), "epoch"))
    (one,) = frames(rows, arm, {**facts, **({"steps_per_epoch": int(step // epoch)} if epoch else {})})
    return one


STUDY = Study(
    name="thesis-ffn",
    title="What BatchNorm does to gradients in a fully connected network",
    source="Dewyse (JKU Linz, 2025), poster and code",
    question="Does BatchNorm make gradients grow towards the input, do its learned scale and shift counter that, and does it "
    "make large learning rates possible?",
    arrangement=arrangement,
    claims=CLAIMS,
    cells=cells,
    measure=measure,
    tables=tables,
    figures=figures,
    limits=limits,
    sizes=tuple(PLANS),
)
