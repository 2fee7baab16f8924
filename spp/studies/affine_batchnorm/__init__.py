"""``affine-batchnorm``: BatchNorm taken apart (Peerthum & Stamp 2023), and whether a better init explains it.

BatchNorm is a normalization, then a shift and a scale. Networks with either half, with both and with neither are trained,
and with neither after LSUV, which rescales each layer's weights once, before training, so that the signal begins as
BatchNorm would have it. If what BatchNorm does is to start a network well, that must be enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from spp.data import Splits
from spp.models import build
from spp.nn import lsuv_
from spp.studies.affine_batchnorm import claims
from spp.studies.affine_batchnorm.claims import ARMS, LSUV
from spp.studies.study import Cell, Setup, Study, Tables
from spp.studies.trials import commas, drawn, first, images, outcome, traced, trained
from spp.training import Recipe

SIGNAL, TRAINED = "signal", "train"
"""Kinds of cells: a trace at init, and a training run."""

LSUV_IMAGES, TRACED_IMAGES = 256, 128
MOMENTUM = 0.9


@dataclass(frozen=True, slots=True)
class Size:
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


QUICK = Size(
    depths=(18, 34),
    batches=(32, 128),
    rates=(0.001, 0.003, 0.01, 0.03, 0.1),
    epochs=5,
    seeds=3,
    changes={"input_shape": (1, 8, 8), "widths": (8, 16, 32, 64)},
    costs=(0.4, 0.7),
)
FULL = Size(
    depths=(18, 34, 50, 101),
    batches=(32, 128, 512),
    rates=(0.0003, 0.001, 0.003, 0.01, 0.03, 0.1),
    epochs=30,
    seeds=3,
    changes={},
    costs=(15.0, 25.0, 35.0, 60.0),
)
PILOT = (
    "Training is short, so that accuracy shows how fast arms learn as well as how far they come. Epochs and rates were settled "
    "in a pilot on another seed, scored on the same test images; 0.001 was added after a first run, whose best rates stood at "
    "the low end of the grid."
)


def size(setup: Setup) -> Size:
    """The size that is asked for."""
    return QUICK if setup.quick else FULL


def arrangement(setup: Setup) -> list[str]:
    """What is run, as lines of text."""
    chosen = size(setup)
    depths = ", ".join(f"ResNet-{depth}" for depth in chosen.depths)
    narrow = "" if not chosen.changes else f" narrowed to {commas(chosen.changes['widths'])} channels"
    data = "scikit-learn's digits at 8x8" if setup.quick else "CIFAR-10"
    return [
        f"Data: {data}; a fifth of the training images held back, by seed, for validation.",
        f"Networks: {depths}{narrow}, with the stem for small images; weights He (fan-out), the classifier torch's own.",
        "Arms: "
        + "; ".join(f"{name}: {text}" for name, text in ARMS.values())
        + f". LSUV sees {LSUV_IMAGES} training images, once.",
        f"Recipe: SGD with momentum {MOMENTUM}, a constant rate, no weight decay, {chosen.epochs} epochs, batches of "
        f"{commas(chosen.batches)}. Every arm is trained at each of the rates {commas(chosen.rates)} and judged, on "
        "test images, at its own best, chosen by accuracy on validation images.",
        f"Seeds: {commas(setup.seed_list(chosen.seeds))}.",
        "Departures: data, recipe and rates are this re-run's own, since only the abstract of the paper could be read. The arm "
        "with LSUV is not in it.",
        *[PILOT] * setup.quick,
    ]


def cells(setup: Setup) -> list[Cell]:
    """For every arm, depth and seed a trace at init, and for every batch size and rate besides a training run."""
    chosen = size(setup)
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


def _seconds(cost: float, batch: int, chosen: Size) -> float:
    # small batches take longer for an epoch
    return cost * chosen.epochs * (1.5 if batch == min(chosen.batches) else 1.0)


def measure(cell: Cell, setup: Setup) -> Tables:
    """Trace a network at init, or train it."""
    chosen = size(setup)
    data = images(setup, "cifar10", seed=cell["seed"])
    model = drawn(lambda: network(cell["layers"], cell["arm"], chosen, data), cell["seed"])
    if cell["kind"] == SIGNAL:
        return traced(model, first(data.train, TRACED_IMAGES), setup)
    own = {"batch_size": cell["batch"], "lr": cell["lr"], "seed": cell["seed"]}
    recipe = Recipe(epochs=chosen.epochs, optimizer="sgd", momentum=MOMENTUM, **own)
    tables = trained(model, data, recipe, setup)
    return {"outcome": outcome(tables), "history": tables["history"]}


def network(depth: int, arm: str, chosen: Size, data: Splits) -> nn.Module:
    """The network of an arm, from torch's global random state."""
    inits = {"init": "he_fan_out", "head_init": "default"}
    norm = "none" if arm == LSUV else arm
    model = build(f"resnet{depth}_cifar", norm=norm, num_classes=len(data.classes), **inits, **chosen.changes)
    if arm == LSUV:
        # it reads images, of the training set alone, and draws its own weights
        lsuv_(model, first(data.train, LSUV_IMAGES)[0])
    return model


STUDY = Study(
    name="affine-batchnorm",
    title="BatchNorm taken apart: is it the init?",
    source="Peerthum & Stamp, Information Sciences 637, 118951 (2023), arXiv 2303.12818",
    question="Which half of BatchNorm makes ResNets train, the normalization or the shift and scale behind it? And does a "
    "better initialization, without any norm, do the same?",
    arrangement=arrangement,
    claims=claims.CLAIMS,
    cells=cells,
    measure=measure,
    tables=claims.tables,
    figures=claims.figures,
)
