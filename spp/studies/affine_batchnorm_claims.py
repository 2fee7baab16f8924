"""What is claimed about BatchNorm's halves and its cause, by which criterion it is judged, and what is printed and drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from spp.frame.schema import BlockColumn
from spp.plot import compare, outcomes
from spp.plot.runs import Beside
from spp.studies.study import Claim, Outcome, Results, Setup, Tables, Verdict
from spp.studies.trials import geometric, spread
from spp.studies.tuning import Difference, rate_in_words, tuned
from spp.training.results import History

if TYPE_CHECKING:
    from spp.plot import SignalPlot

SIGNAL, TRAINED = "signal", "train"
"""Kinds of cells: a trace at init, and a training run."""

NONE, LSUV, AFFINE, MINUS, BATCH = "none", "lsuv", "affine", "batch_minus", "batch"
ARMS = {
    NONE: ("none", "no norm"),
    LSUV: ("LSUV", "no norm, weights orthogonal and rescaled to unit variance by LSUV (Mishkin & Matas 2016)"),
    AFFINE: ("AffineLayer", "shift and scale per channel, without normalization"),
    MINUS: ("BatchNorm-minus", "normalization, without shift and scale"),
    BATCH: ("BatchNorm", "both"),
}
"""By arm: its name in tables and figures, and what stands in the place of the norm."""

PLACE = ("layers", "batch", "seed")
MOST, LEAST = 0.5, 0.25
"""Of a gap: more than the one is most of it, less than the other is little."""

PANELS = "network_and_batch_size"
"""What the panels of figures are for."""

CHANCE = 0.1
"""Accuracy of guessing one of ten classes."""

NEAR, FAR = 2.0, 4.0
"""Signals are alike up to the one factor, and different from the other on."""

SUPPOSED = "the arms of Peerthum & Stamp (2023) put it; their own numbers could not be verified and are not printed"


def accuracies(results: Results) -> pd.DataFrame:
    """Test accuracy of every arm at its own best rate: a column per arm, a row per depth, batch size and seed."""
    return beside(tuned(results.of("outcome", kind=TRAINED), ["layers", "batch", "arm"]))


def beside(best: pd.DataFrame) -> pd.DataFrame:
    """The arms' runs at their best rates beside each other."""
    return best.pivot(index=list(PLACE), columns="arm", values="accuracy")


def share(results: Results, arm: str, top: str) -> tuple[float, Difference]:
    """How much of the gap between no norm and ``top`` an arm closes, over all depths, batch sizes and seeds; and the gap."""
    found = accuracies(results)
    gap = Difference.between(found[top], found[NONE])
    closed = Difference.between(found[arm], found[NONE]).mean
    return closed / gap.mean if gap.mean else math.nan, gap


def by_share(results: Results, arm: str, top: str, *, large: Outcome, small: Outcome) -> Verdict:
    """The verdict ``large`` where an arm closes most of a gap, ``small`` where it closes little of it."""
    part, gap = share(results, arm, top)
    numbers = {"share": part, "gap": gap.mean, "error": gap.error, "pairs": float(gap.n)}
    name, ends = ARMS[arm][0], f"{ARMS[NONE][0]} and {ARMS[top][0]}"
    measured = f"{ends} are {gap.points()} of test accuracy apart (mean ± standard error, {gap.n} pairs of runs)"
    if not gap.clear:
        return Verdict(Outcome.NOT_TESTABLE, f"{measured}: no clear gap that anything could close.", numbers)
    found = f"{measured}, of which {name} closes {part:.0%}"
    if part > MOST:
        return Verdict(large, f"{found}, which is most of it.", numbers)
    if part < LEAST:
        return Verdict(small, f"{found}, which is little.", numbers)
    return Verdict(Outcome.NOT_TESTABLE, f"{found}, which is neither most of it nor little.", numbers)


def judge_minus(results: Results, setup: Setup) -> Verdict:
    """Whether normalization alone has BatchNorm's benefit."""
    return by_share(results, MINUS, BATCH, large=Outcome.CONFIRMED, small=Outcome.REFUTED)


def judge_affine(results: Results, setup: Setup) -> Verdict:
    """Whether shift and scale alone lack it."""
    return by_share(results, AFFINE, BATCH, large=Outcome.REFUTED, small=Outcome.CONFIRMED)


def judge_init(results: Results, setup: Setup) -> Verdict:
    """Whether a better init has the benefit of normalization."""
    return by_share(results, LSUV, MINUS, large=Outcome.CONFIRMED, small=Outcome.REFUTED)


def judge_start(results: Results, setup: Setup) -> Verdict:
    """Whether LSUV begins with the signal of BatchNorm-minus."""
    far = {arm: farthest(results, arm) for arm in (LSUV, NONE)}
    found = (
        f"Block outputs after LSUV differ from those of BatchNorm-minus by a factor of at most {far[LSUV]:.3g} in mean square; "
        f"without norm and LSUV, by up to {far[NONE]:.3g}."
    )
    outcome = Outcome.CONFIRMED if far[LSUV] <= NEAR else Outcome.REFUTED if far[LSUV] >= FAR else Outcome.NOT_TESTABLE
    return Verdict(outcome, found, {"factor": far[LSUV], "factor_none": far[NONE]})


def farthest(results: Results, arm: str) -> float:
    """The largest factor between an arm and BatchNorm-minus in the mean square of any block's output at init."""
    blocks = results.of("blocks", kind=SIGNAL)
    blocks = blocks.assign(square=blocks[BlockColumn.ACSM] + blocks[BlockColumn.ACV])
    squares = (
        blocks.groupby(["layers", BlockColumn.BLOCK, "arm"], observed=True)["square"].apply(geometric).unstack("arm")
    )
    return float(np.exp(np.abs(np.log(squares[arm] / squares[MINUS])).max()))


CLAIMS = (
    Claim(
        "P1",
        "Normalization without shift and scale has most of BatchNorm's benefit.",
        SUPPOSED,
        "of the gap in test accuracy between no norm and BatchNorm, over all depths, batch sizes and seeds, BatchNorm-minus "
        "closes more than a half (confirmed) or less than a quarter (refuted); not testable in between, or where the gap is "
        "less than twice its standard error.",
        judge_minus,
    ),
    Claim(
        "P2",
        "Shift and scale without normalization do not have it.",
        SUPPOSED,
        "of the same gap, AffineLayer closes less than a quarter (confirmed) or more than a half (refuted); else as P1.",
        judge_affine,
    ),
    Claim(
        "P3",
        "The success of BatchNorm may derive primarily from improved weight initialization.",
        "Peerthum & Stamp (2023), abstract; the arm that tests it is this re-run's",
        "of the gap in test accuracy between no norm and BatchNorm-minus, over all depths, batch sizes and seeds, LSUV closes "
        "more than a half (confirmed) or less than a quarter (refuted); else as P1.",
        judge_init,
    ),
    Claim(
        "P4",
        "LSUV gives a network without norm the signal at init that BatchNorm-minus gives it, as P3 presumes.",
        "this re-run's, to check its own arm",
        "the mean square of every block's output at init, a geometric mean over seeds, is that of BatchNorm-minus within a "
        "factor of 2 (confirmed), or somewhere off by 4 or more (refuted); not testable in between.",
        judge_start,
    ),
)


def tables(results: Results, setup: Setup) -> Tables:
    """Accuracy, the rates it was reached at, what closes which gap, and the signal at init."""
    best = tuned(results.of("outcome", kind=TRAINED), ["layers", "batch", "arm"])
    found = beside(best)
    accuracy, rates, closed = [], [], []
    for (layers, batch), own in best.groupby(["layers", "batch"], sort=False):
        place = {"network": f"ResNet-{layers}", "batch size": batch, "seeds": own["seed"].nunique()}
        arms = {arm: own[own["arm"] == arm] for arm in ARMS}
        accuracy.append({**place, **{ARMS[arm][0]: spread(runs["accuracy"], 100) for arm, runs in arms.items()}})
        rates.append({**place, **{ARMS[arm][0]: rate_in_words(runs) for arm, runs in arms.items()}})
        closed.append({**place, **gaps(beside(own))})
    closed.append(
        {"network": "all", "batch size": "all", "seeds": found.index.get_level_values("seed").nunique(), **gaps(found)}
    )
    return {
        "accuracy": pd.DataFrame(accuracy),
        "rates": pd.DataFrame(rates),
        "gap": pd.DataFrame(closed),
        "start": start(results),
    }


def gaps(found: pd.DataFrame) -> dict[str, str]:
    """The gap to BatchNorm-minus, in points, and how much of it the arms without normalization close."""
    gap = Difference.between(found[MINUS], found[NONE])
    words = {f"{ARMS[MINUS][0]} over none": gap.points()}
    for arm in (LSUV, AFFINE):
        part = Difference.between(found[arm], found[NONE]).mean
        closed = f"{part / gap.mean:.0%}" if gap.clear else "no clear gap"
        words[f"closed by {ARMS[arm][0]}"] = f"{closed} ({100 * part:+.1f} points)"
    return words


def start(results: Results) -> pd.DataFrame:
    """At init, by depth and arm: the mean square at the end of the first and last block, and the gradient's likewise."""
    blocks = results.of("blocks", kind=SIGNAL)
    square = blocks[BlockColumn.ACSM] + blocks[BlockColumn.ACV]
    gradient = blocks[BlockColumn.GRADIENT_ACSM] + blocks[BlockColumn.GRADIENT_ACV]
    blocks = blocks.assign(square=square, gradient=gradient).sort_values(str(BlockColumn.DEPTH), kind="stable")
    rows = []
    for (layers, arm), own in blocks.groupby(["layers", "arm"], sort=False):
        ends = own.groupby("seed").agg({name: ["first", "last"] for name in ("square", "gradient")})
        rows.append(
            {
                "network": f"ResNet-{layers}",
                "arm": ARMS[str(arm)][0],
                "mean square, first block": geometric(ends["square", "first"]),
                "last block": geometric(ends["square", "last"]),
                "gradient's, first over last block": geometric(ends["gradient", "first"] / ends["gradient", "last"]),
            }
        )
    return pd.DataFrame(rows)


def figures(results: Results, setup: Setup) -> dict[str, SignalPlot]:
    """Accuracy over rates; how the arms learn at their best ones; and for each depth the signal at init."""
    facts = {"data": "digits" if setup.quick else "CIFAR-10"}
    runs = placed(results.of("outcome", kind=TRAINED))
    keys = ["layers", "batch", "arm", "lr", "seed"]
    histories = placed(results["history"].merge(tuned(runs, ["layers", "batch", "arm"])[keys], on=keys))
    histories = histories.assign(epoch=histories[History.EPOCH] + 1)
    shared: dict[str, Any] = {
        "by": "arm",
        "panels": PANELS,
        "names": {arm: name for arm, (name, _) in ARMS.items()},
        "run": facts,
    }
    accuracy = "accuracy on test images"
    drawn = {
        "rates": outcomes(runs, x="lr", y="accuracy", xlabel="learning rate", ylabel=accuracy, chance=CHANCE, **shared),
        "learning": outcomes(
            histories,
            x="epoch",
            y=History.VALIDATION_ACCURACY,
            ylabel="validation accuracy at the best rate",
            chance=CHANCE,
            **shared,
        ),
    }
    return drawn | {f"start-{layers}": starts(results, layers, facts) for layers in runs["layers"].unique()}


def placed(table: pd.DataFrame) -> pd.DataFrame:
    """A table with the words for network and batch size."""
    words = [
        f"ResNet-{layers}, batches of {batch:.0f}"
        for layers, batch in zip(table["layers"], table["batch"], strict=True)
    ]
    return table.assign(**{PANELS: words})


def starts(results: Results, layers: int, facts: Mapping[str, object]) -> SignalPlot:
    """The signal at init; AffineLayer and the affine half of BatchNorm do nothing yet."""
    labels = {
        NONE: f"{ARMS[NONE][0]} (and {ARMS[AFFINE][0]})",
        LSUV: ARMS[LSUV][0],
        MINUS: f"{ARMS[MINUS][0]} (and {ARMS[BATCH][0]})",
    }
    signals = results.of("signals", kind=SIGNAL, layers=layers)
    runs = {
        label: [
            Beside(frame, {**facts, "model": f"ResNet-{layers}", "seed": seed})
            for seed, frame in signals[signals["arm"] == arm].groupby("seed", sort=False)
        ]
        for arm, label in labels.items()
    }
    return compare(runs, statistics=["mean_square"])
