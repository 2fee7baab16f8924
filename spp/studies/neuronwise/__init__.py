"""``neuronwise``: neuron-wise input normalization in its modes, against norms, and against the plain mean of the batch.

The gradient of each neuron's weights is taken in coordinates in which the neuron's inputs, over its own linear region, have
mean 0 and variance 1. What the proposal promises exactly is measured on networks at their beginning and in training; what it
promises of training is measured at every arm's own best learning rate, in epochs and in time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from spp.data import Splits
from spp.plot import outcomes
from spp.studies.evidence import by_rate
from spp.studies.neuronwise import networks as nets
from spp.studies.neuronwise.claims import (
    ADAM,
    CHOOSING,
    CLAIMS,
    NEAT,
    RAW,
    SGD,
    best,
    best_balancing,
    runs,
)
from spp.studies.reporting import RATES, TEN, at_best_rates, rate_in_words, spread, tabled, tuning_figures
from spp.studies.study import Cell, Figures, Results, Setup, Size, Study, Tables
from spp.studies.trials import commas, drawn, first, images, outcome, trained
from spp.training import Recipe, fit

LAW, TRAINED, TIMING, BALANCED = "law", "train", "timing", "balance"
"""Kinds of cells."""

WARMED, WARMED_RATES = 3, {NEAT: 0.1, RAW: 0.00001}
"""Epochs of plain training, and its rate, after which gradients are compared once more.

The rate is small on raw pixels, whose large features make ordinary steps long."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is varied, and how long it is trained.

    Attributes:
        networks: Their sizes.
        rates: Learning rates of SGD, tried for every arm.
        raw: Learning rates on raw pixels.
        adam: Learning rates of Adam.
        balancing: Learning rates on cart-pole.
        epochs: Passes over the training images, of either network.
        batch: Images per step.
        target: Accuracy on validation images, of either network; the epochs until it is reached are counted.
        steps: Of cart-pole.
        seeds: How many.
        cost: Seconds of a run of the fully connected and of the convolutional network, and on cart-pole, about.
        data: What the images are, in words.
        images: How they are made, and how many are trained on, as ``spp.data.splits`` takes it.
    """

    networks: nets.Sizes
    rates: tuple[float, ...]
    raw: tuple[float, ...]
    adam: tuple[float, ...]
    balancing: tuple[float, ...]
    epochs: Mapping[str, int]
    batch: int
    target: Mapping[str, float]
    steps: int
    seeds: int
    cost: Mapping[str, float]
    data: str
    images: Mapping[str, Any] = field(default_factory=dict)


PLANS = {
    Size.TINY: Plan(
        networks=nets.Sizes((1, 8, 8), 5, 64, (8, 16, 32), 32),
        rates=(0.03, 0.1, 0.3, 1.0, 3.0),
        raw=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
        adam=(0.001, 0.003, 0.01, 0.03),
        balancing=(0.001, 0.003),
        epochs={nets.FFN: 10, nets.CNN: 10},
        batch=64,
        target={nets.FFN: 0.95, nets.CNN: 0.95},
        steps=2000,
        seeds=5,
        cost={nets.FFN: 0.6, nets.CNN: 1.2, BALANCED: 1.5},
        data="scikit-learn's digits at 8x8, a fifth of the training images held back",
    ),
    Size.REAL: Plan(
        networks=nets.Sizes((1, 14, 14), 6, 100, (8, 16, 32), 64),
        rates=(0.01, 0.03, 0.1, 0.3),
        raw=(0.000001, 0.00001, 0.0001, 0.001, 0.01, 0.03, 0.1),
        adam=(0.0003, 0.001, 0.003),
        balancing=(0.0005, 0.001, 0.002, 0.005),
        epochs={nets.FFN: 8, nets.CNN: 5},
        batch=64,
        target={nets.FFN: 0.82, nets.CNN: 0.8},
        steps=8_000,
        seeds=9,
        cost={nets.FFN: 2.2, nets.CNN: 3.8, BALANCED: 5.5},
        data="Fashion-MNIST, means of 2x2 pixels (14x14), 6,400 of its training images, 2,000 others held back",
        images={"shape": (1, 14, 14), "resize": "pool", "train": 6400, "validation": 2000},
    ),
    Size.FULL: Plan(
        networks=nets.Sizes((3, 32, 32), 10, 100, (32, 64, 128), 256),
        rates=(0.01, 0.03, 0.1, 0.3, 1.0),
        raw=(0.00001, 0.0001, 0.001, 0.01, 0.03, 0.1, 0.3),
        adam=(0.0003, 0.001, 0.003, 0.01),
        balancing=(0.0003, 0.001, 0.003, 0.01),
        epochs={nets.FFN: 20, nets.CNN: 20},
        batch=128,
        target={nets.FFN: 0.45, nets.CNN: 0.45},
        steps=50_000,
        seeds=8,
        cost={nets.FFN: 120.0, nets.CNN: 240.0, BALANCED: 60.0},
        data="CIFAR-10, shifted and mirrored, a fifth of the training images held back",
    ),
}
_FEWER = (*nets.NORMS_BY_ARM, nets.DAMPED, nets.CENTRE, *nets.WHOLE)
SGD_ARMS = {nets.FFN: (*_FEWER, nets.COORDS, nets.OUTER), nets.CNN: _FEWER}
ADAM_ARMS = {nets.FFN: (nets.PLAIN, nets.BATCH, nets.DAMPED), nets.CNN: (nets.PLAIN, nets.DAMPED)}
RAW_ARMS = (nets.PLAIN, nets.BATCH, nets.LAYER, nets.COORDS, nets.DAMPED, nets.WHOLE_DAMPED)
BALANCING_ARMS = (nets.PLAIN, nets.LAYER, nets.COORDS, nets.WHOLE_DAMPED)
SHOWN = (*nets.NORMS_BY_ARM, nets.COORDS, nets.DAMPED, nets.WHOLE_DAMPED)
"""Arms that figures show, which cannot tell more lines apart."""


def plan(setup: Setup) -> Plan:
    """The plan at the size that is asked for."""
    return PLANS[setup.size]


def arrangement(setup: Setup) -> list[str]:
    """What is run, as lines of text."""
    chosen = plan(setup)
    sizes = chosen.networks
    seeds = setup.seed_list(chosen.seeds)
    return [
        f"Data: {chosen.data}, by seed, for validation; standardized by one mean and one deviation per channel.",
        f"Networks: {nets.FFN}, {sizes.depth} Linear layers of width {sizes.width}; {nets.CNN}, convolutions of "
        f"{commas(sizes.channels)} channels, max pooling between them, a hidden layer of {sizes.hidden}; ReLU, "
        "He's weights, zero biases. The "
        "classifier has ordinary gradients in every arm.",
        f"Arms: no norm ({nets.PLAIN}), BatchNorm ({nets.BATCH}), LayerNorm ({nets.LAYER}) and GroupNorm in "
        f"{nets.GROUPS} groups ({nets.GROUP}) between layer and ReLU; scaled weight standardization without norm "
        f"({nets.SCALED}); the modes {commas((nets.COORDS, nets.DAMPED, nets.CENTRE, nets.OUTER))} with statistics of the "
        "batch over each neuron's region (and outer_centre, where gradients are compared); "
        f"and their rivals {commas(nets.WHOLE)}, which are {nets.DAMPED} and {nets.CENTRE} with all samples in every region "
        f"(P = 1): the plain mean of the batch. {nets.DAMPED_EPS:g} is added to the variance in {nets.DAMPED} and "
        f"{nets.WHOLE_DAMPED}, {nets.DEFAULT_EPS:g}, the library's own value, in the others.",
        f"Recipe: plain SGD (no momentum, no weight decay, a constant rate), batches of {chosen.batch}, "
        + " and ".join(f"{epochs} epochs of {net}" for net, epochs in chosen.epochs.items())
        + f"; rates {commas(chosen.rates)} for every arm, without {nets.COORDS} and {nets.OUTER} in {nets.CNN}. "
        "The same with Adam for " + "; ".join(f"{commas(arms)} of {net}" for net, arms in ADAM_ARMS.items()) + ", "
        f"rates {commas(chosen.adam)}.",
        f"Raw pixels: {nets.FFN}, on the values as they are stored, from 0 on, the first layer changed so that the network "
        f"begins as the same function; {commas(RAW_ARMS)}, rates {commas(chosen.raw)}.",
        f"Cart-pole: a network of one hidden layer of {sizes.width} learns to balance in {chosen.steps:,} steps, from one "
        f"state at a time, by actor-critic with eligibility traces; {commas(BALANCING_ARMS)}, the latter two with running "
        "statistics (momentum 0.01) and 0.01 added to the variance; "
        f"rates {commas(chosen.balancing)}. BatchNorm refuses a batch of one.",
        "Every arm is judged, on test images, at its own best rate: every rate is tried with the first "
        f"{CHOOSING} seeds ({commas(seeds[:CHOOSING])}), which are not judged themselves, the best is that of accuracy on "
        "validation images (of the length of episodes on cart-pole), and the other seeds are trained at that rate alone. "
        "Epochs are counted until "
        + " and ".join(f"{target:.0%} ({net})" for net, target in chosen.target.items())
        + " of the validation images are right, linearly between two epochs.",
        f"Time is the process time of a step, beside that of {nets.PLAIN}, taken in turns once for every seed that is judged.",
        f"Seeds: {commas(seeds)}. Damping, epochs, rates and the learner of cart-pole were settled in a pilot on another one.",
        "Departures: the proposal has no experiment of its own; all of this is.",
    ]


def limits(setup: Setup) -> list[str]:
    """What the run cannot say."""
    lines = [
        "Times are of this machine and this implementation, whose backward pass has two products more than an ordinary one.",
        "What is added to the variance has the unit of the inputs squared: on raw pixels it is next to nothing, so that pixels "
        f"that hardly vary have longer steps in {nets.COORDS} than on standardized ones.",
        "Two small networks and constant rates: deeper ones, schedules and momentum are not covered.",
        "Rates lie far apart and are chosen on few seeds: an arm may be better at one between, or beyond the end of the grid "
        "where its best one is there, and one chosen on seeds that learn may be one at which others do not.",
        "It has no experiment of the proposal's own to compare with.",
    ]
    if setup.size is Size.REAL:
        lines.append(
            f"GroupNorm in {nets.CNN} was run twice, under the same criteria: at first in 32 groups, which leaves a hidden "
            "layer of 64 nothing but signs, and only the second is shown."
        )
    return lines


def cells(setup: Setup) -> list[Cell]:
    """Laws, times, and for each arm the runs that choose its rate with those that are judged at it, as one cell."""
    chosen, seeds = plan(setup), setup.seed_list(plan(setup).seeds)
    grids = [
        *((net, SGD, NEAT, arms, chosen.rates) for net, arms in SGD_ARMS.items()),
        (nets.FFN, SGD, RAW, RAW_ARMS, chosen.raw),
        *((net, ADAM, NEAT, arms, chosen.adam) for net, arms in ADAM_ARMS.items()),
    ]
    # the seeds are a part of the name: with more of them, rates are chosen and runs are judged anew
    whole = {"seeds": commas(seeds)}

    def cost(kind: str, rates: Sequence[float]) -> float:
        return chosen.cost[kind] * (len(rates) * len(seeds[:CHOOSING]) + len(seeds[CHOOSING:]))

    return [
        *(
            Cell.of(cost(net, rates), kind=TRAINED, net=net, optimizer=optimizer, inputs=inputs, arm=arm, **whole)
            for net, optimizer, inputs, arms, rates in grids
            for arm in arms
        ),
        *(Cell.of(cost(BALANCED, chosen.balancing), kind=BALANCED, arm=arm, **whole) for arm in BALANCING_ARMS),
        *(
            Cell.of(chosen.cost[net] / 2, kind=LAW, net=net, inputs=inputs, seed=seed)
            for net, inputs in ((nets.FFN, NEAT), (nets.FFN, RAW), (nets.CNN, NEAT))
            for seed in seeds
        ),
        *(
            Cell.of(0.5, kind=TIMING, net=net, arm=arm, seed=seed)
            for net, arms in SGD_ARMS.items()
            for arm in arms
            if arm != nets.PLAIN
            for seed in seeds[CHOOSING:] or seeds
        ),
    ]


def measure(cell: Cell, setup: Setup) -> Tables:
    """Compare gradients, take the time, or learn: images or to balance."""
    chosen, kind = plan(setup), cell["kind"]
    if kind in (LAW, TIMING):
        net, seed = cell["net"], cell["seed"]
        data = pictures(setup, seed)
        if kind == LAW:
            return {
                "law": law(
                    built(net, nets.PLAIN, seed, chosen, data, inputs=cell["inputs"]), cell["inputs"], chosen, data
                )
            }
        plain, other = (built(net, arm, seed, chosen, data).to(setup.device) for arm in (nets.PLAIN, cell["arm"]))
        return {"timing": nets.timed(plain, other, first(data.train, chosen.batch))}
    seeds = setup.seed_list(chosen.seeds)
    if kind == BALANCED:
        return searched(lambda lr, seed: balance(cell["arm"], lr, seed, chosen), chosen.balancing, seeds)
    rates = chosen.raw if cell["inputs"] == RAW else chosen.adam if cell["optimizer"] == ADAM else chosen.rates

    def learn(lr: float, seed: int) -> Tables:
        data = pictures(setup, seed)
        model = built(cell["net"], cell["arm"], seed, chosen, data, inputs=cell["inputs"])
        own = {"epochs": chosen.epochs[cell["net"]], "optimizer": cell["optimizer"], "lr": lr, "seed": seed}
        found = trained(model, data, Recipe(batch_size=chosen.batch, momentum=0.0, **own), setup)
        return {"outcome": outcome(found, chosen.target[cell["net"]]), "history": found["history"]}

    return searched(learn, rates, seeds)


def searched(run: Callable[[float, int], Tables], rates: Sequence[float], seeds: Sequence[int]) -> Tables:
    """Every rate with the seeds that choose, then the best of them with the others; tables have ``lr`` and ``seed``."""
    parts: dict[str, list[pd.DataFrame]] = {}

    def done(lr: float, seed: int) -> None:
        for name, table in run(lr, seed).items():
            parts.setdefault(name, []).append(table.assign(lr=lr, seed=seed))

    for seed in seeds[:CHOOSING]:
        for lr in rates:
            done(lr, seed)
    # the first table has the validation
    best_rate: Any = by_rate(pd.concat(next(iter(parts.values())))).idxmax()
    for seed in seeds[CHOOSING:]:
        done(best_rate, seed)
    return {name: pd.concat(tables, ignore_index=True) for name, tables in parts.items()}


def balance(arm: str, lr: float, seed: int, chosen: Plan) -> Tables:
    """Mean length of the episodes of a learner, and each of them by the step at which it began."""
    lengths = list(nets.balanced(nets.learner(arm, seed, chosen.networks.width), lr, chosen.steps, seed))
    mean = chosen.steps / len(lengths)
    began = np.cumsum([0, *lengths[:-1]])
    return {
        "balance": pd.DataFrame([{"validation": mean, "length": mean}]),
        "episodes": pd.DataFrame({"began": began, "length": lengths}),
    }


def pictures(setup: Setup, seed: int) -> Splits:
    """The images of a seed."""
    return images(setup, "cifar10", seed=seed, **plan(setup).images)


def built(net: str, arm: str, seed: int, chosen: Plan, data: Splits, *, inputs: str = NEAT) -> nn.Module:
    """The network of a cell; behind raw pixels, which are what standardized ones are made of."""
    model = drawn(lambda: nets.make(net, arm, chosen.networks, len(data.classes)), seed)
    if inputs == NEAT:
        return model
    unit, origin = (
        torch.tensor(values).view(-1, 1, 1).expand(data.shape)
        for values in (data.train.scale.std, data.train.scale.mean)
    )
    return nets.Changed(model, unit.contiguous(), origin.contiguous())


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
    """Training with SGD, with Adam, on raw pixels and of cart-pole; gradients against the ordinary ones; times."""
    printed = {
        "training": training(best(results)),
        "adam": training(best(results, optimizer=ADAM)),
        "raw": training(best(results, inputs=RAW)),
        "gradients": tabled(results["law"], ["inputs", "epochs", "arm"], _gradients),
    }
    if not results["balance"].empty:
        printed["cart-pole"] = tabled(best_balancing(results), "arm", _balancing)
    if not results["timing"].empty:
        printed["time"] = times(results)
    return printed


def times(results: Results) -> pd.DataFrame:
    """By network and arm: the time of a step beside a plain one, and to the target, in epochs and in time."""
    found, steps = best(results).set_index(["net", "arm"]), results["timing"].groupby(["net", "arm"])["ratio"].mean()

    def row(key: tuple[str, str], own: pd.DataFrame) -> dict[str, Any]:
        epochs, step = float(own["epochs"].median()), steps.get(key, 1.0)
        return {
            "network": key[0],
            "arm": key[1],
            "time of a step, plain = 1": round(step, 2),
            "epochs to the target, median": round(epochs, 2),
            "the same in the time of plain epochs": round(epochs * step, 2),
        }

    return tabled(found.reset_index(), ["net", "arm"], row)


def _balancing(key: str, own: pd.DataFrame) -> dict[str, Any]:
    row = {"arm": key, "rate": rate_in_words(own), "mean length of episodes": spread(own["length"])}
    return {
        **row,
        "shortest and longest mean": f"{own['length'].min():.0f} to {own['length'].max():.0f}",
        "seeds": len(own),
    }


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
    """Accuracy over rates, learning at the best ones, what raw pixels do, and learning to balance."""
    facts = {"data": setup.size.images("CIFAR-10"), "optimizer": SGD}
    neat, raw = (_of_choosing(runs(results, inputs=inputs)) for inputs in (NEAT, RAW))
    histories = at_best_rates(results.of("history", optimizer=SGD, inputs=NEAT), best(results), ["net", "arm"])
    # the caption calls panels by the name of their column
    neat, raw, histories = (
        table[table["arm"].isin(SHOWN)].assign(network=table["net"]) for table in (neat, raw, histories)
    )
    both = pd.concat([neat[neat["net"].isin(raw["net"]) & neat["arm"].isin(raw["arm"])], raw])
    both = both.assign(kind_of_inputs=both["inputs"] + " inputs")
    shared: dict[str, Any] = {"by": "arm", "panels": "kind_of_inputs", "chance": TEN, "run": {**facts, "model": "ffn"}}
    drawn = tuning_figures(neat, histories, panels="network", run=facts)
    drawn["raw"] = outcomes(both, **RATES, **shared)
    episodes = at_best_rates(results["episodes"].assign(epoch=0), best_balancing(results), ["arm"])
    # means over tenths of the steps, since episodes end at other steps in every run
    tenth = plan(setup).steps / 10
    episodes = episodes.assign(steps=(np.floor(episodes["began"] / tenth) + 1) * tenth)
    lengths = episodes.groupby(["arm", "seed", "steps"], sort=False)["length"].mean().reset_index()
    drawn["cart-pole"] = outcomes(
        lengths, x="steps", y="length", by="arm", ylabel="length of episodes", run={"data": "cart-pole"}
    )
    return drawn


def _of_choosing(table: pd.DataFrame) -> pd.DataFrame:
    """The runs that chose rates: the others have one rate."""
    return table[table["seed"].isin(table["seed"].unique()[:CHOOSING])]


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
