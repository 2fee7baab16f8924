"""The arms of ``affine-batchnorm``; what is claimed, and by which criterion it is judged; what is printed and drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from spp.frame.schema import BlockColumn
from spp.plot import compare
from spp.studies.evidence import (
    Difference,
    at_best_rates,
    decided,
    frames,
    geometric,
    rate_in_words,
    spread,
    tabled,
    tuned,
    tuning_figures,
)
from spp.studies.study import Figures, Results, Setup, Tables, Verdict, claim

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

NEAR, FAR = 2.0, 4.0
"""Signals are alike up to the one factor, and different from the other on."""

SUPPOSED = "the arms of Peerthum & Stamp (2023) put it; their own numbers could not be verified and are not printed"


def best_runs(results: Results) -> pd.DataFrame:
    """The runs of every arm at its own best rate."""
    return tuned(results["outcome"], ["layers", "batch", "arm"])


def beside(best: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy: a column per arm, a row per depth, batch size and seed."""
    return best.pivot(index=list(PLACE), columns="arm", values="accuracy")


def share(found: pd.DataFrame, arm: str, top: str) -> tuple[Difference, Difference]:
    """The gap between no norm and ``top``, and what an arm closes of it."""
    return Difference.between(found[top], found[NONE]), Difference.between(found[arm], found[NONE])


def by_share(results: Results, arm: str, top: str, *, large: bool) -> Verdict:
    """Confirmed where an arm closes most of a gap, refuted where it closes little; unless ``large``, the other way round."""
    gap, closed = share(beside(best_runs(results)), arm, top)
    # without any gap there is nothing to be a part of
    part = closed.mean / gap.mean if gap.mean else math.nan
    numbers = {"share": part, "gap": gap.mean, "error": gap.error, "pairs": gap.n}
    ends = f"{ARMS[NONE][0]} and {ARMS[top][0]}"
    found = f"{ends} are {gap.points()} of test accuracy apart (mean ± standard error, {gap.n} pairs of runs)"
    most, little = gap.clear and part > MOST, gap.clear and part < LEAST
    if gap.clear:
        amount = "most of it" if most else "little" if little else "neither most of it nor little"
        found += f", of which {ARMS[arm][0]} closes {part:.0%}, which is {amount}."
    else:
        found += ": no clear gap that anything could close."
    confirmed, refuted = (most, little) if large else (little, most)
    return decided(found, numbers, confirmed=confirmed, refuted=refuted)


@claim("P1", SUPPOSED)
def normalization(results: Results, setup: Setup) -> Verdict:
    """Normalization without shift and scale has most of BatchNorm's benefit.

    Criterion: of the gap in test accuracy between no norm and BatchNorm, over all depths, batch sizes and seeds,
    BatchNorm-minus closes more than a half (confirmed) or less than a quarter (refuted); not testable in between, or where
    the gap is less than twice its standard error.
    """
    return by_share(results, MINUS, BATCH, large=True)


@claim("P2", SUPPOSED)
def affine(results: Results, setup: Setup) -> Verdict:
    """Shift and scale without normalization do not have it.

    Criterion: of the same gap, AffineLayer closes less than a quarter (confirmed) or more than a half (refuted); else as
    P1.
    """
    return by_share(results, AFFINE, BATCH, large=False)


@claim("P3", "Peerthum & Stamp (2023), abstract; the arm that tests it is this re-run's")
def initialization(results: Results, setup: Setup) -> Verdict:
    """The success of BatchNorm may derive primarily from improved weight initialization.

    Criterion: of the gap in test accuracy between no norm and BatchNorm-minus, over all depths, batch sizes and seeds, LSUV
    closes more than a half (confirmed) or less than a quarter (refuted); else as P1.
    """
    return by_share(results, LSUV, MINUS, large=True)


@claim("P4", "this re-run's, to check its own arm")
def beginning(results: Results, setup: Setup) -> Verdict:
    """LSUV gives a network without norm the signal at init that BatchNorm-minus gives it, as P3 presumes.

    Criterion: the mean square of every block's output at init, a geometric mean over seeds, is that of BatchNorm-minus
    within a factor of 2 (confirmed), or somewhere off by 4 or more (refuted); not testable in between.
    """
    blocks = results["blocks"]
    blocks = blocks.assign(square=blocks[BlockColumn.ACSM] + blocks[BlockColumn.ACV])
    # categories of other depths would give empty groups without observed
    places = blocks.groupby(["layers", BlockColumn.BLOCK, "arm"], observed=True)["square"]
    squares = places.apply(geometric).unstack("arm")
    far, none = (float(np.exp(np.abs(np.log(squares[arm] / squares[MINUS])).max())) for arm in (LSUV, NONE))
    found = (
        f"Block outputs after LSUV differ from those of BatchNorm-minus by a factor of at most {far:.3g} in mean square; "
        f"without norm and LSUV, by up to {none:.3g}."
    )
    return decided(found, {"factor": far, "factor_none": none}, confirmed=far <= NEAR, refuted=far >= FAR)


CLAIMS = (normalization, affine, initialization, beginning)


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
    """The gap to BatchNorm-minus, in points, and how much of it the arms without normalization close."""
    words = {}
    for arm in (LSUV, AFFINE):
        gap, closed = share(beside(best), arm, MINUS)
        words[f"{ARMS[MINUS][0]} over none"] = gap.points()
        part = f"{closed.mean / gap.mean:.0%}" if gap.clear else "no clear gap"
        words[f"closed by {ARMS[arm][0]}"] = f"{part} ({100 * closed.mean:+.1f} points)"
    return words


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
    facts = {"data": "digits" if setup.quick else "CIFAR-10"}
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
