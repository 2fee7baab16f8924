"""``affine-batchnorm``: BatchNorm taken apart (Peerthum & Stamp 2023), and whether a better init explains it.

BatchNorm is a normalization, then a shift and a scale. Networks with either half, with both and with neither are trained,
and with neither after preparations that take over, before training, more or less of what BatchNorm does to it then. If what
BatchNorm does is to start a network well, the network that begins as the very same function must do as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from spp.data import Splits
from spp.frame.schema import BlockColumn
from spp.models import build
from spp.nn import AffineLayer, lsuv_
from spp.plot import compare
from spp.studies.affine_batchnorm.claims import (
    ACTNORM,
    AFFINE,
    ARMS,
    BATCH,
    BIAS,
    CLAIMS,
    FOLD,
    LATER,
    LSUV,
    MINUS,
    NONE,
    ORIGINAL,
    RATES,
    SCALED,
    beside,
    best_runs,
    gap,
    part_closed,
)
from spp.studies.evidence import Effect, geometric
from spp.studies.reporting import at_best_rates, frames, rate_in_words, spread, tabled, tuning_figures
from spp.studies.study import Cell, Figures, Results, Setup, Size, Study, Tables
from spp.studies.trials import commas, drawn, first, images, outcome, traced, trained
from spp.training import Recipe
from spp.training.results import History

SIGNAL, TRAINED = "signal", "train"
"""Kinds of cells: a trace at init, and a training run."""

JUDGED = (NONE, FOLD, RATES, AFFINE, MINUS, BATCH)
"""Arms that claims ask for a share of the gap."""

START_IMAGES, TRACED_IMAGES = 512, 128
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
        arms: Which are run.
        more: Seeds beyond those, of the arms in ``JUDGED``.
        data: What the images are, in words.
        images: How they are made, and how many are trained on, as ``spp.data.splits`` takes it.
    """

    depths: tuple[int, ...]
    batches: tuple[int, ...]
    rates: tuple[float, ...]
    epochs: int
    seeds: int
    changes: dict[str, Any]
    costs: tuple[float, ...]
    arms: tuple[str, ...] = tuple(ARMS)
    more: int = 0
    data: str = "CIFAR-10; a fifth of the training images held back"
    images: Mapping[str, Any] = field(default_factory=dict)


PLANS = {
    Size.TINY: Plan(
        depths=(18, 34),
        batches=(32, 128),
        rates=(0.001, 0.003, 0.01, 0.03, 0.1),
        epochs=5,
        seeds=3,
        changes={"input_shape": (1, 8, 8), "widths": (8, 16, 32, 64)},
        costs=(0.4, 0.7),
        arms=ORIGINAL,
        data="scikit-learn's digits at 8x8; a fifth of the training images held back",
    ),
    Size.REAL: Plan(
        depths=(18,),
        batches=(128,),
        rates=(0.01, 0.03, 0.1),
        epochs=2,
        seeds=5,
        more=8,
        changes={"input_shape": (1, 14, 14), "widths": (8, 16, 32, 64)},
        costs=(2.5,),
        data="Fashion-MNIST, means of 2x2 pixels (14x14), 6,400 of its training images; 1,000 others held back",
        images={"shape": (1, 14, 14), "resize": "pool", "train": 50 * 128, "validation": 1000},
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
    return [
        f"Data: {chosen.data}, by seed, for validation.",
        f"Networks: {depths}{narrow}, with the stem for small images; weights He (fan-out), the classifier torch's own.",
        "Arms: "
        + "; ".join(": ".join(ARMS[arm]) for arm in chosen.arms)
        + f". What is set before training is measured on {START_IMAGES} training images, once.",
        f"Recipe: SGD with momentum {MOMENTUM}, a constant rate, no weight decay, {chosen.epochs} epochs, batches of "
        f"{commas(chosen.batches)}. Every arm is trained at each of the rates {commas(chosen.rates)} and judged, on "
        "test images, at its own best, chosen by accuracy on validation images of the first seed, which is not judged itself.",
        f"Seeds: {commas(_seeds(setup, MINUS))}"
        + (
            f", the last {chosen.more} of them for {', '.join(ARMS[arm][0] for arm in JUDGED)} alone."
            if _later(setup)
            else "."
        ),
        "Departures: data, recipe and rates are this re-run's own, since only the abstract of the paper could be read. Of the "
        "arms, none, AffineLayer, BatchNorm-minus and BatchNorm are those of the paper.",
        *[PILOT] * (setup.size is Size.TINY),
    ]


def limits(setup: Setup) -> list[str]:
    """What the run cannot say."""
    chosen = plan(setup)
    lines = [
        "Data, recipe and rates are not those of the paper, whose text could not be read: a verdict is about this set-up.",
        "LSUV gives one variance per tensor and leaves the mean shift and the gradients as they are: what it does not close "
        "may still be a matter of initialization.",
        "A share of a gap says nothing where there is next to no gap, as with small batches and rates.",
    ]
    if setup.size is Size.REAL:
        lines += [
            "The paper has four depths and several batch sizes; here is one of each, on narrow networks and small images. "
            "What holds at other depths and batch sizes is open.",
            f"Training ends after {chosen.epochs * chosen.images['train'] // chosen.batches[0]} steps: accuracy is how fast "
            "arms learn, and says nothing of where they would end.",
            "With BN-K, the momentum begins anew after the epoch with the norm.",
            "One seed chooses the rate of an arm: an arm whose best rate there suits no other seed is judged below what it can "
            "do, as AffineLayer is at 0.1. The table per rate has all of them.",
        ]
    if _later(setup):
        lines.append(
            f"A first look at {chosen.seeds} seeds decided none of P1 to P3 and P5 to P7; the {chosen.more} further ones are "
            "as many as most of these then asked for. Their intervals are not corrected for the first look."
        )
    return lines


def cells(setup: Setup) -> list[Cell]:
    """For every arm, depth and seed a trace at init, and for every batch size and rate besides a training run."""
    chosen = plan(setup)
    costs = dict(zip(chosen.depths, chosen.costs, strict=True))
    traces = [
        Cell.of(cost / 2, kind=SIGNAL, layers=depth, arm=arm, seed=seed)
        for depth, cost in costs.items()
        for arm in chosen.arms
        for seed in setup.seed_list(chosen.seeds)
    ]
    return traces + [
        Cell.of(_seconds(cost, batch, chosen), kind=TRAINED, layers=depth, batch=batch, arm=arm, lr=lr, seed=seed)
        for depth, cost in costs.items()
        for batch in chosen.batches
        for arm in chosen.arms
        for lr in chosen.rates
        for seed in _seeds(setup, arm)
    ]


def _later(setup: Setup) -> bool:
    """Whether arms that are judged have seeds of their own: where how many there are is not asked for."""
    return plan(setup).more > 0 and setup.seeds is None


def _seeds(setup: Setup, arm: str) -> tuple[int, ...]:
    chosen = plan(setup)
    return setup.seed_list(chosen.seeds + (chosen.more if arm in JUDGED and _later(setup) else 0))


def _seconds(cost: float, batch: int, chosen: Plan) -> float:
    # small batches take longer for an epoch
    return cost * chosen.epochs * (1.5 if batch == min(chosen.batches) else 1.0)


def measure(cell: Cell, setup: Setup) -> Tables:
    """Trace a network at init, or train it."""
    chosen, arm = plan(setup), cell["arm"]
    data = images(setup, "cifar10", seed=cell["seed"], **chosen.images)
    model = drawn(lambda: network(cell["layers"], arm, chosen, data), cell["seed"])
    if cell["kind"] == SIGNAL:
        return traced(model, first(data.train, TRACED_IMAGES), setup)
    own = {"batch_size": cell["batch"], "lr": cell["lr"], "seed": cell["seed"]}
    recipe = Recipe(epochs=chosen.epochs, optimizer="sgd", momentum=MOMENTUM, **own)
    if arm != LATER or chosen.epochs == 1:
        tables = trained(model, data, recipe, setup)
        return {"outcome": outcome(tables), "history": tables["history"]}
    begun = trained(model, data, replace(recipe, epochs=1), setup)["history"]
    fold_(model)
    # another seed, or the second epoch would have the order of the first
    tables = trained(model, data, replace(recipe, epochs=chosen.epochs - 1, seed=recipe.seed + 10_000), setup)
    later = tables["history"].assign(**{History.EPOCH: tables["history"][History.EPOCH] + 1})
    return {"outcome": outcome(tables), "history": pd.concat([begun, later], ignore_index=True)}


# --- arms ------------------------------------------------------------------------------------------------------------


Batch = tuple[Tensor, Tensor]


def _lsuv(model: nn.Module, batch: Batch) -> None:
    lsuv_(model, batch[0])


def _biased(model: nn.Module, batch: Batch) -> None:
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.bias = nn.Parameter(torch.zeros(layer.out_channels))


def _fold(model: nn.Module, batch: Batch) -> None:
    settle_(model, batch[0])
    fold_(model)


def _actnorm(model: nn.Module, batch: Batch) -> None:
    settle_(model, batch[0])
    for path, norm in list(_norms(model)):
        layer, scale = AffineLayer(norm.num_features), _deviation(norm).reciprocal()
        layer.weight.data, layer.bias.data = scale, -_mean(norm) * scale
        model.set_submodule(path, layer)


def _fold_with_rates(model: nn.Module, batch: Batch) -> None:
    wanted = update_ratios(model, batch)
    _fold(model, batch)
    for path, ratio in update_ratios(model, batch).items():
        for parameter in model.get_submodule(path).parameters():
            # SGD moves by the rate times gradients: a factor of these is one of the rate
            factor = partial(torch.mul, torch.tensor(wanted[path] / ratio))
            parameter.register_hook(factor)  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Start:
    """What an arm is built as, and what is done to it before training, with training images and their classes."""

    changes: Mapping[str, str]
    prepare: Callable[[nn.Module, Batch], None] | None = None


STARTS = {
    NONE: Start({"norm": "none"}),
    BIAS: Start({"norm": "none"}, _biased),
    LSUV: Start({"norm": "none"}, _lsuv),
    FOLD: Start({"norm": MINUS}, _fold),
    ACTNORM: Start({"norm": MINUS}, _actnorm),
    RATES: Start({"norm": MINUS}, _fold_with_rates),
    LATER: Start({"norm": MINUS}),
    SCALED: Start({"norm": "scaled_ws", "residual": "skipinit"}),
    AFFINE: Start({"norm": AFFINE}),
    MINUS: Start({"norm": MINUS}),
    BATCH: Start({"norm": BATCH}),
}
"""How each arm begins."""


def network(depth: int, arm: str, chosen: Plan, data: Splits) -> nn.Module:
    """The network of an arm, from torch's global random state."""
    inits = {"init": "he_fan_out", "head_init": "default"}
    start = STARTS[arm]
    model = build(f"resnet{depth}_cifar", num_classes=len(data.classes), **inits, **start.changes, **chosen.changes)
    if start.prepare is not None:
        start.prepare(model, first(data.train, START_IMAGES))
    return model


def _norms(model: nn.Module) -> Iterator[tuple[str, nn.BatchNorm2d]]:
    return ((path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d))


def _mean(norm: nn.BatchNorm2d) -> Tensor:
    assert norm.running_mean is not None
    return norm.running_mean


def _deviation(norm: nn.BatchNorm2d) -> Tensor:
    assert norm.running_var is not None
    return (norm.running_var + norm.eps).sqrt()


def settle_(model: nn.Module, inputs: Tensor) -> None:
    """Set running statistics to those of a batch, biased variances as the norm divides by, layer after layer."""

    def fill(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        norm.running_var, norm.running_mean = torch.var_mean(given[0], (0, 2, 3), correction=0)

    hooks = [norm.register_forward_pre_hook(fill) for _, norm in _norms(model)]
    with torch.no_grad():
        # in evaluation, a layer is followed by what its norm will be
        model.eval()(inputs)
    model.train()
    for hook in hooks:
        hook.remove()


def fold_(model: nn.Module) -> None:
    """Take every BatchNorm into the convolution before it, by its running statistics."""
    model.eval()
    for path, norm in list(_norms(model)):
        # conv1 and norm1, and so on
        before = path.replace("norm", "conv")
        # torch leaves out the gradient of a bias that it adds
        layer = model.get_submodule(before)
        assert isinstance(layer, nn.Conv2d)
        model.set_submodule(before, fuse_conv_bn_eval(layer, norm).requires_grad_())
        model.set_submodule(path, nn.Identity())
    model.train()


def update_ratios(model: nn.Module, batch: Batch) -> dict[str, float]:
    """Norm of the gradient beside that of the weights, by convolution."""
    model.train().zero_grad()
    F.cross_entropy(model(batch[0]), batch[1]).backward()  # type: ignore[no-untyped-call]
    found = {
        path: float(layer.weight.grad.norm() / layer.weight.detach().norm())
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.weight.grad is not None
    }
    model.zero_grad()
    return found


# --- what is printed and drawn ---------------------------------------------------------------------------------------


PANELS = "network_and_batch_size"
"""What the panels of figures are for."""

DRAWN = {"": (*ORIGINAL, BIAS), "-of-starts": (NONE, FOLD, ACTNORM, RATES, LATER, SCALED, MINUS)}
"""The arms of each pair of figures over rates and epochs, by the end of its name: no more than can be told apart."""


def tables(results: Results, setup: Setup) -> Tables:
    """Accuracy, the rates it was reached at, what closes which gap, and the signal at init."""
    best = best_runs(results)

    def by_place(words: Callable[[pd.DataFrame], dict[str, str]]) -> pd.DataFrame:
        def row(key: tuple[int, int], own: pd.DataFrame) -> dict[str, Any]:
            place = {"network": f"ResNet-{key[0]}", "batch size": key[1], "seeds": own["seed"].nunique()}
            return {**place, **words(own)}

        return tabled(best, ["layers", "batch"], row)

    def by_arm(word: Callable[[pd.DataFrame], str]) -> Callable[[pd.DataFrame], dict[str, str]]:
        return lambda own: {ARMS[arm][0]: word(one) for arm in plan(setup).arms if len(one := own[own["arm"] == arm])}

    everywhere = {"network": "all", "batch size": "all", "seeds": best["seed"].nunique(), **gaps(best)}
    runs = results["outcome"]

    def per_rate(key: tuple[int, int, float], own: pd.DataFrame) -> dict[str, Any]:
        place = {"network": f"ResNet-{key[0]}", "batch size": key[1], "rate": key[2], "seeds": own["seed"].nunique()}
        return place | by_arm(lambda one: spread(one["accuracy"], 100))(own) | gaps(own)

    return {
        "accuracy": by_place(by_arm(lambda runs: spread(runs["accuracy"], 100))),
        "rates": by_place(by_arm(rate_in_words)),
        "gap": pd.concat([by_place(gaps), pd.DataFrame([everywhere])], ignore_index=True),
        "per-rate": tabled(runs, ["layers", "batch", "lr"], per_rate),
        "start": start(results),
    }


def gaps(best: pd.DataFrame) -> dict[str, str]:
    """The gap to BatchNorm-minus, in points, and what the arms without normalization close of it; with intervals at 95 %."""

    def words(effect: Effect) -> str:
        found = effect.at()
        ends = f" [{effect.scale(found.low, found.high)}]" if math.isfinite(found.low) else ""
        return f"{effect.scale(found.estimate)}{ends}" if ends or effect.bottom is None else "no clear gap"

    found = beside(best)
    if not {NONE, MINUS} <= set(found):
        # of a run that is not finished
        return {}
    parts = {
        f"closed by {ARMS[arm][0]}": words(part_closed(found, arm, MINUS))
        for arm in ARMS
        if arm in found and arm not in (NONE, MINUS)
    }
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
    drawn: dict[str, Any] = {}
    for suffix, arms in DRAWN.items():
        some, learned = (table[table["arm"].isin(arms)] for table in (runs, histories))
        if not some.empty:
            more = tuning_figures(some, learned, panels=PANELS, names={arm: names[arm] for arm in arms}, run=facts)
            drawn |= {f"{name}{suffix}": figure for name, figure in more.items()}
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
