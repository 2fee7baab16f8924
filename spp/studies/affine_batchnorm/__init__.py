"""``affine-batchnorm``: BatchNorm taken apart (Peerthum & Stamp 2023), and whether a better init explains it.

BatchNorm is a normalization, then a shift and a scale. Networks with either half, with both and with neither are trained,
and with neither after LSUV, which rescales each layer's weights once, before training, so that the signal begins as
BatchNorm would have it. If what BatchNorm does is to start a network well, that must be enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import nn

from spp.data import Splits
from spp.frame.schema import BlockColumn
from spp.models import build
from spp.nn import lsuv_
from spp.plot import compare
from spp.studies.affine_batchnorm.claims import (
    AFFINE,
    ARMS,
    BATCH,
    CLAIMS,
    LSUV,
    MINUS,
    NONE,
    beside,
    best_runs,
    gap,
    part_closed,
)
from spp.studies.evidence import Effect, at_best_rates, frames, geometric, rate_in_words, spread, tabled, tuning_figures
from spp.studies.study import Cell, Figures, Results, Setup, Size, Study, Tables
from spp.studies.trials import commas, drawn, first, images, outcome, traced, trained
from spp.training import Recipe

SIGNAL, TRAINED = "signal", "train"
"""Kinds of cells: a trace at init, and a training run."""

LSUV_IMAGES, TRACED_IMAGES = 256, 128
MOMENTUM = 0.9


@dataclass(frozen=True, slots=True)
class Plan:
    """What is varied, and how long it is trained.

    Attributes:
        depths: Of the ResNets.
        batches: Images per step.
        rates: Learning rates, tried for every arm.
        epochs: Passes over the training images.
        seeds: How many.
        changes: Of the networks.
        costs: Seconds of an epoch, about, by depth.
    """

    depths: tuple[int, ...]
    batches: tuple[int, ...]
    rates: tuple[float, ...]
    epochs: int
    seeds: int
    changes: dict[str, Any]
    costs: tuple[float, ...]


PLANS = {
    Size.TINY: Plan(
        depths=(18, 34),
        batches=(32, 128),
        rates=(0.001, 0.003, 0.01, 0.03, 0.1),
        epochs=5,
        seeds=3,
        changes={"input_shape": (1, 8, 8), "widths": (8, 16, 32, 64)},
        costs=(0.4, 0.7),
    ),
    Size.FULL: Plan(
        depths=(18, 34, 50, 101),
        batches=(32, 128, 512),
        rates=(0.0003, 0.001, 0.003, 0.01, 0.03, 0.1),
        epochs=30,
        seeds=3,
        changes={},
        costs=(15.0, 25.0, 35.0, 60.0),
    ),
}
PILOT = (
    "Training is short, so that accuracy shows how fast arms learn as well as how far they come. Epochs and rates were settled "
    "in a pilot on another seed, scored on the same test images; 0.001 was added after a first run, whose best rates stood at "
    "the low end of the grid."
)


def plan(setup: Setup) -> Plan:
    """The plan at the size that is asked for."""
    return PLANS[setup.size]


def arrangement(setup: Setup) -> list[str]:
    """What is run, as lines of text."""
    chosen = plan(setup)
    depths = ", ".join(f"ResNet-{depth}" for depth in chosen.depths)
    narrow = "" if not chosen.changes else f" narrowed to {commas(chosen.changes['widths'])} channels"
    data = "scikit-learn's digits at 8x8" if setup.size is Size.TINY else "CIFAR-10"
    return [
        f"Data: {data}; a fifth of the training images held back, by seed, for validation.",
        f"Networks: {depths}{narrow}, with the stem for small images; weights He (fan-out), the classifier torch's own.",
        "Arms: "
        + "; ".join(f"{name}: {text}" for name, text in ARMS.values())
        + f". LSUV sees {LSUV_IMAGES} training images, once.",
        f"Recipe: SGD with momentum {MOMENTUM}, a constant rate, no weight decay, {chosen.epochs} epochs, batches of "
        f"{commas(chosen.batches)}. Every arm is trained at each of the rates {commas(chosen.rates)} and judged, on "
        "test images, at its own best, chosen by accuracy on validation images of the first seed, which is not judged itself.",
        f"Seeds: {commas(setup.seed_list(chosen.seeds))}.",
        "Departures: data, recipe and rates are this re-run's own, since only the abstract of the paper could be read. The arm "
        "with LSUV is not in it.",
        *[PILOT] * (setup.size is Size.TINY),
    ]


def limits(setup: Setup) -> list[str]:
    """What the run cannot say."""
    return [
        "Data, recipe and rates are not those of the paper, whose text could not be read: a verdict is about this set-up.",
        "LSUV gives one variance per tensor and leaves the mean shift and the gradients as they are: what it does not close "
        "may still be a matter of initialization.",
        "A share of a gap says nothing where there is next to no gap, as with small batches and rates.",
    ]


def cells(setup: Setup) -> list[Cell]:
    """For every arm, depth and seed a trace at init, and for every batch size and rate besides a training run."""
    chosen = plan(setup)
    seeds = setup.seed_list(chosen.seeds)
    costs = dict(zip(chosen.depths, chosen.costs, strict=True))
    traces = [
        Cell.of(cost / 2, kind=SIGNAL, layers=depth, arm=arm, seed=seed)
        for depth, cost in costs.items()
        for arm in ARMS
        for seed in seeds
    ]
    return traces + [
        Cell.of(_seconds(cost, batch, chosen), kind=TRAINED, layers=depth, batch=batch, arm=arm, lr=lr, seed=seed)
        for depth, cost in costs.items()
        for batch in chosen.batches
        for arm in ARMS
        for lr in chosen.rates
        for seed in seeds
    ]


def _seconds(cost: float, batch: int, chosen: Plan) -> float:
    # small batches take longer for an epoch
    return cost * chosen.epochs * (1.5 if batch == min(chosen.batches) else 1.0)


def measure(cell: Cell, setup: Setup) -> Tables:
    """Trace a network at init, or train it."""
    chosen = plan(setup)
    data = images(setup, "cifar10", seed=cell["seed"])
    model = drawn(lambda: network(cell["layers"], cell["arm"], chosen, data), cell["seed"])
    if cell["kind"] == SIGNAL:
        return traced(model, first(data.train, TRACED_IMAGES), setup)
    own = {"batch_size": cell["batch"], "lr": cell["lr"], "seed": cell["seed"]}
    recipe = Recipe(epochs=chosen.epochs, optimizer="sgd", momentum=MOMENTUM, **own)
    tables = trained(model, data, recipe, setup)
    return {"outcome": outcome(tables), "history": tables["history"]}


def network(depth: int, arm: str, chosen: Plan, data: Splits) -> nn.Module:
    """The network of an arm, from torch's global random state."""
    inits = {"init": "he_fan_out", "head_init": "default"}
    norm = "none" if arm == LSUV else arm
    model = build(f"resnet{depth}_cifar", norm=norm, num_classes=len(data.classes), **inits, **chosen.changes)
    if arm == LSUV:
        # it reads images, of the training set alone, and draws its own weights
        lsuv_(model, first(data.train, LSUV_IMAGES)[0])
    return model


# --- what is printed and drawn ---------------------------------------------------------------------------------------


PANELS = "network_and_batch_size"
"""What the panels of figures are for."""


def tables(results: Results, setup: Setup) -> Tables:
    """Accuracy, the rates it was reached at, what closes which gap, and the signal at init."""
    best = best_runs(results)

    def by_place(words: Callable[[pd.DataFrame], dict[str, str]]) -> pd.DataFrame:
        def row(key: tuple[int, int], own: pd.DataFrame) -> dict[str, Any]:
            place = {"network": f"ResNet-{key[0]}", "batch size": key[1], "seeds": own["seed"].nunique()}
            return {**place, **words(own)}

        return tabled(best, ["layers", "batch"], row)

    def by_arm(word: Callable[[pd.DataFrame], str]) -> Callable[[pd.DataFrame], dict[str, str]]:
        return lambda own: {name: word(own[own["arm"] == arm]) for arm, (name, _) in ARMS.items()}

    everywhere = {"network": "all", "batch size": "all", "seeds": best["seed"].nunique(), **gaps(best)}
    return {
        "accuracy": by_place(by_arm(lambda runs: spread(runs["accuracy"], 100))),
        "rates": by_place(by_arm(rate_in_words)),
        "gap": pd.concat([by_place(gaps), pd.DataFrame([everywhere])], ignore_index=True),
        "start": start(results),
    }


def gaps(best: pd.DataFrame) -> dict[str, str]:
    """The gap to BatchNorm-minus, in points, and what the arms without normalization close of it; with intervals at 95 %."""

    def words(effect: Effect) -> str:
        found = effect.at()
        ends = f" [{effect.scale(found.low, found.high)}]" if math.isfinite(found.low) else ""
        return f"{effect.scale(found.estimate)}{ends}" if ends or effect.bottom is None else "no clear gap"

    found = beside(best)
    parts = {f"closed by {ARMS[arm][0]}": words(part_closed(found, arm, MINUS)) for arm in (LSUV, AFFINE)}
    return {f"{ARMS[MINUS][0]} over none": words(gap(found, MINUS)), **parts}


def start(results: Results) -> pd.DataFrame:
    """At init, by depth and arm: the mean square at the end of the first and last block, and the gradient's likewise."""
    blocks = results["blocks"]
    square = blocks[BlockColumn.ACSM] + blocks[BlockColumn.ACV]
    gradient = blocks[BlockColumn.GRADIENT_ACSM] + blocks[BlockColumn.GRADIENT_ACV]
    # first and last, below, are those along the network
    blocks = blocks.assign(square=square, gradient=gradient).sort_values(str(BlockColumn.DEPTH), kind="stable")

    def row(key: tuple[int, str], own: pd.DataFrame) -> dict[str, Any]:
        ends = own.groupby("seed").agg({name: ["first", "last"] for name in ("square", "gradient")})
        return {
            "network": f"ResNet-{key[0]}",
            "arm": ARMS[key[1]][0],
            "mean square, first block": geometric(ends["square", "first"]),
            "last block": geometric(ends["square", "last"]),
            "gradient's, first over last block": geometric(ends["gradient", "first"] / ends["gradient", "last"]),
        }

    return tabled(blocks, ["layers", "arm"], row)


def figures(results: Results, setup: Setup) -> Figures:
    """Accuracy over rates; how the arms learn at their best ones; and for each depth the signal at init."""
    facts = {"data": setup.size.images("CIFAR-10")}
    names = {arm: name for arm, (name, _) in ARMS.items()}
    runs = placed(results["outcome"])
    histories = at_best_rates(placed(results["history"]), best_runs(results), ["layers", "batch", "arm"])
    drawn = tuning_figures(runs, histories, panels=PANELS, names=names, run=facts)
    # AffineLayer and the affine half of BatchNorm do nothing yet at init
    labels = {
        NONE: f"{names[NONE]} (and {names[AFFINE]})",
        LSUV: names[LSUV],
        MINUS: f"{names[MINUS]} (and {names[BATCH]})",
    }
    for layers in runs["layers"].unique():
        signals, own = results.of("signals", layers=layers), {**facts, "model": f"ResNet-{layers}"}
        lines = {label: frames(signals, arm, own) for arm, label in labels.items()}
        drawn[f"start-{layers}"] = compare(lines, statistics=["mean_square"])
    return drawn


def placed(table: pd.DataFrame) -> pd.DataFrame:
    """A table with the words for network and batch size."""
    pairs = zip(table["layers"], table["batch"], strict=True)
    return table.assign(**{PANELS: [f"ResNet-{layers}, batches of {batch:.0f}" for layers, batch in pairs]})


STUDY = Study(
    name="affine-batchnorm",
    title="BatchNorm taken apart: is it the init?",
    source="Peerthum & Stamp, Information Sciences 637, 118951 (2023), arXiv 2303.12818",
    question="Which half of BatchNorm makes ResNets train, the normalization or the shift and scale behind it? And does a "
    "better initialization, without any norm, do the same?",
    arrangement=arrangement,
    claims=CLAIMS,
    cells=cells,
    measure=measure,
    tables=tables,
    figures=figures,
    limits=limits,
    sizes=tuple(PLANS),
)
