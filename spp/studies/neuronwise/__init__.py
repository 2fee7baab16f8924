"""``neuronwise``: neuron-wise input normalization in its modes, against no norm, BatchNorm and LayerNorm.

The gradient of each neuron's weights is taken in coordinates in which the neuron's inputs, over its own linear region, have
mean 0 and variance 1. What the proposal promises exactly is measured on networks at their beginning and in training; what it
promises of training is measured at every arm's own best learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import Generator, nn

from spp.data import Splits
from spp.plot import outcomes
from spp.studies.neuronwise import networks as nets
from spp.studies.neuronwise.claims import ADAM, CHANGED, CLAIMS, NEAT, SGD, best, runs
from spp.studies.reporting import RATES, TEN, at_best_rates, rate_in_words, spread, tabled, tuning_figures
from spp.studies.study import Cell, Figures, Results, Setup, Size, Study, Tables
from spp.studies.trials import commas, drawn, first, images, outcome, trained
from spp.training import Recipe, fit

LAW, TRAINED, TIMING = "law", "train", "timing"
"""Kinds of cells."""

WARMED, WARMED_RATES = 3, {NEAT: 0.1, CHANGED: 0.003}
"""Epochs of plain training, and its rate, after which gradients are compared once more.

The rate is small on changed inputs, whose large features make ordinary steps long."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is varied, and how long it is trained.

    Attributes:
        networks: Their sizes.
        rates: Learning rates of SGD, tried for every arm.
        changed: Learning rates where inputs are changed.
        adam: Learning rates of Adam.
        epochs: Passes over the training images.
        batch: Images per step.
        target: Accuracy on validation images; the epochs until it is reached are counted.
        seeds: How many.
        cost: Seconds of a run of the fully connected and of the convolutional network, about.
    """

    networks: nets.Sizes
    rates: tuple[float, ...]
    changed: tuple[float, ...]
    adam: tuple[float, ...]
    epochs: int
    batch: int
    target: float
    seeds: int
    cost: tuple[float, float]


PLANS = {
    Size.TINY: Plan(
        networks=nets.Sizes((1, 8, 8), 5, 64, (8, 16, 32), 32),
        rates=(0.03, 0.1, 0.3, 1.0, 3.0),
        changed=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
        adam=(0.001, 0.003, 0.01, 0.03),
        epochs=10,
        batch=64,
        target=0.95,
        seeds=5,
        cost=(0.6, 1.2),
    ),
    Size.FULL: Plan(
        networks=nets.Sizes((3, 32, 32), 10, 100, (32, 64, 128), 256),
        rates=(0.01, 0.03, 0.1, 0.3, 1.0),
        changed=(0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
        adam=(0.0003, 0.001, 0.003, 0.01),
        epochs=20,
        batch=128,
        target=0.45,
        seeds=5,
        cost=(120.0, 240.0),
    ),
}
ADAM_ARMS = (nets.PLAIN, nets.BATCH, nets.COORDS, nets.DAMPED)
CHANGED_ARMS = (nets.PLAIN, nets.BATCH, nets.LAYER, nets.COORDS, nets.DAMPED, "outer")


def plan(setup: Setup) -> Plan:
    """The plan at the size that is asked for."""
    return PLANS[setup.size]


def arrangement(setup: Setup) -> list[str]:
    """What is run, as lines of text."""
    chosen = plan(setup)
    sizes = chosen.networks
    data = "scikit-learn's digits at 8x8" if setup.size is Size.TINY else "CIFAR-10, shifted and mirrored"
    return [
        f"Data: {data}; a fifth of the training images held back, by seed, for validation.",
        f"Networks: {nets.FFN}, {sizes.depth} Linear layers of width {sizes.width}; {nets.CNN}, convolutions of "
        f"{commas(sizes.channels)} channels, max pooling between them, a hidden layer of {sizes.hidden}; ReLU, "
        "He's weights, zero biases. The "
        "classifier has ordinary gradients in every arm.",
        f"Arms: no norm (plain), BatchNorm (batch) and LayerNorm (layer) between layer and ReLU; the modes "
        f"{commas(nets.MODES)} with statistics of the batch. {nets.DAMPED_EPS:g} is added to the variance in {nets.DAMPED}, "
        f"{nets.DEFAULT_EPS:g}, the library's own value, in the others.",
        f"Recipe: plain SGD (no momentum, no weight decay, a constant rate), {chosen.epochs} epochs, batches of "
        f"{chosen.batch}; rates {commas(chosen.rates)} for every arm. The same with Adam for {commas(ADAM_ARMS)}, "
        f"rates {commas(chosen.adam)}.",
        f"Changed inputs: {nets.FFN}, every feature x as a x + d, a from 1/3 to 3 and d of standard deviation 2, the first "
        f"layer changed so that the network begins as the same function; {commas(CHANGED_ARMS)}, "
        f"rates {commas(chosen.changed)}.",
        "Every arm is judged, on test images, at its own best rate, chosen by accuracy on validation images "
        "of the first seed, which is not judged itself. Epochs are "
        f"counted until {chosen.target:.0%} of the validation images are right.",
        f"Seeds: {commas(setup.seed_list(chosen.seeds))}. Damping, epochs and rates were settled in a pilot on "
        "another one, scored on the same test images.",
        "Departures: the proposal has no experiment of its own; all of this is.",
    ]


def limits(setup: Setup) -> list[str]:
    """What the run cannot say."""
    return [
        "Epochs are counted, not seconds: a neuron-wise step takes longer, and fewer epochs may be more time.",
        "Two small networks and constant rates: deeper ones, schedules and momentum are not covered.",
        "It has no experiment of the proposal's own to compare with.",
    ]


def cells(setup: Setup) -> list[Cell]:
    """Laws, training runs with SGD, Adam and changed inputs, and times."""
    chosen, seeds = plan(setup), setup.seed_list(plan(setup).seeds)
    costs = dict(zip((nets.FFN, nets.CNN), chosen.cost, strict=True))
    grids = [
        *((net, SGD, NEAT, nets.ARMS, chosen.rates) for net in costs),
        (nets.FFN, SGD, CHANGED, CHANGED_ARMS, chosen.changed),
        *((net, ADAM, NEAT, ADAM_ARMS, chosen.adam) for net in costs),
    ]
    return [
        *(
            Cell.of(costs[net] / 2, kind=LAW, net=net, inputs=inputs, seed=seed)
            for net, inputs in ((nets.FFN, NEAT), (nets.FFN, CHANGED), (nets.CNN, NEAT))
            for seed in seeds
        ),
        *(
            Cell.of(costs[net], kind=TRAINED, net=net, optimizer=optimizer, inputs=inputs, arm=arm, lr=lr, seed=seed)
            for net, optimizer, inputs, arms, rates in grids
            for arm in arms
            for lr in rates
            for seed in seeds
        ),
        *(
            Cell.of(0.5, kind=TIMING, net=net, arm=arm, seed=seeds[0])
            for net in costs
            for arm in nets.ARMS
            if arm != nets.PLAIN
        ),
    ]


def measure(cell: Cell, setup: Setup) -> Tables:
    """Compare gradients, train, or take the time."""
    chosen, net, seed = plan(setup), cell["net"], cell["seed"]
    data = images(setup, "cifar10", seed=seed)
    if cell["kind"] == LAW:
        return {
            "law": law(built(net, nets.PLAIN, seed, chosen, data, inputs=cell["inputs"]), cell["inputs"], chosen, data)
        }
    if cell["kind"] == TIMING:
        plain, other = (built(net, arm, seed, chosen, data).to(setup.device) for arm in (nets.PLAIN, cell["arm"]))
        return {"timing": nets.timed(plain, other, first(data.train, chosen.batch))}
    model = built(net, cell["arm"], seed, chosen, data, inputs=cell["inputs"])
    own = {"optimizer": cell["optimizer"], "lr": cell["lr"], "seed": seed}
    found = trained(model, data, Recipe(epochs=chosen.epochs, batch_size=chosen.batch, momentum=0.0, **own), setup)
    return {"outcome": outcome(found, chosen.target), "history": found["history"]}


def built(net: str, arm: str, seed: int, chosen: Plan, data: Splits, *, inputs: str = NEAT) -> nn.Module:
    """The network of a cell; the change of inputs follows from its seed too."""
    model = drawn(lambda: nets.make(net, arm, chosen.networks, len(data.classes)), seed)
    return model if inputs == NEAT else nets.Changed(model, chosen.networks, Generator().manual_seed(seed))


def law(model: nn.Module, inputs: str, chosen: Plan, data: Splits) -> pd.DataFrame:
    """Ordinary and neuron-wise gradients at the beginning and after some epochs of plain training, for every mode."""
    batch = first(data.train, chosen.batch)
    recipe = Recipe(epochs=WARMED, batch_size=chosen.batch, optimizer="sgd", momentum=0.0, lr=WARMED_RATES[inputs])
    before = [nets.compared(model, arm, batch).assign(arm=arm, epochs=0) for arm in nets.MODES]
    fit(model, data, recipe)
    after = [nets.compared(model, arm, batch).assign(arm=arm, epochs=WARMED) for arm in nets.MODES]
    return pd.concat([*before, *after], ignore_index=True)


# --- what is printed and drawn ---------------------------------------------------------------------------------------


def tables(results: Results, setup: Setup) -> Tables:
    """Training with SGD, with Adam and on changed inputs; gradients against the ordinary ones; times."""
    printed = {
        "training": training(best(results)),
        "adam": training(best(results, optimizer=ADAM)),
        "changed": training(best(results, inputs=CHANGED)),
        "gradients": tabled(results["law"], ["inputs", "epochs", "arm"], _gradients),
    }
    times = results["timing"]
    if not times.empty:
        words = {"net": "network", "arm": "arm", "ms": "ms per step", "plain_ms": "plain", "ratio": "ratio"}
        printed["speed"] = times[list(words)].round(2).rename(columns=words)
    return printed


def training(found: pd.DataFrame) -> pd.DataFrame:
    """By network and arm: the best rate, test accuracy there, and epochs to the target."""

    def row(key: tuple[str, str], own: pd.DataFrame) -> dict[str, Any]:
        reached = own["epochs"][np.isfinite(own["epochs"])]
        missed = f" ({len(reached)} of {len(own)} seeds)" if 0 < len(reached) < len(own) else ""
        return {
            "network": key[0],
            "arm": key[1],
            "rate": rate_in_words(own),
            "test accuracy": spread(own["accuracy"], 100),
            "epochs to the target": (spread(reached) if len(reached) else "never") + missed,
            "seeds": len(own),
        }

    return tabled(found, ["net", "arm"], row)


def _gradients(key: tuple[str, int, str], own: pd.DataFrame) -> dict[str, Any]:
    """How many neurons' gradients point against the ordinary ones, and how far at most."""
    neurons, against = int(own["neurons"].sum()), int(own["against"].sum())
    return {
        "inputs": key[0],
        "epochs trained": key[1],
        "mode": key[2],
        "neurons": neurons,
        "against the gradient": f"{against} ({against / max(neurons, 1):.1%})",
        "smallest cosine": round(float(own["cosine"].min()), 4),
    }


def figures(results: Results, setup: Setup) -> Figures:
    """Accuracy over rates, learning at the best ones, and what changed inputs do."""
    facts = {"data": setup.size.images("CIFAR-10"), "optimizer": SGD}
    neat, changed = runs(results), runs(results, inputs=CHANGED)
    histories = at_best_rates(results.of("history", optimizer=SGD, inputs=NEAT), best(results), ["net", "arm"])
    # the caption calls panels by the name of their column
    neat, changed, histories = (table.assign(network=table["net"]) for table in (neat, changed, histories))
    both = pd.concat([neat[neat["net"].isin(changed["net"]) & neat["arm"].isin(changed["arm"])], changed])
    both = both.assign(kind_of_inputs=both["inputs"] + " inputs")
    shared: dict[str, Any] = {"by": "arm", "panels": "kind_of_inputs", "chance": TEN, "run": {**facts, "model": "ffn"}}
    drawn = tuning_figures(neat, histories, panels="network", run=facts)
    return {**drawn, "changed": outcomes(both, **RATES, **shared)}


STUDY = Study(
    name="neuronwise",
    title="Neuron-wise input normalization: gradients in each neuron's own coordinates",
    source="a project proposal at the Technical University of Munich (Gassert, Althoff)",
    question="Does it help to take each neuron's weight gradient with respect to inputs that are normalized over the "
    "neuron's own linear region, and which of its modes keep what they promise?",
    arrangement=arrangement,
    claims=CLAIMS,
    cells=cells,
    measure=measure,
    tables=tables,
    figures=figures,
    limits=limits,
    sizes=tuple(PLANS),
)
