"""What Peerthum & Stamp say of ``affine-batchnorm``, and the criterion of each claim, fixed before anything was run.

A condition is a depth and a batch size. It counts where the gap between the two ends is told from ``GAP``; what is claimed of
the share of the gap that an arm closes must hold in each of those.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd

from spp.frame.schema import BlockColumn
from spp.studies.evidence import PERCENT, Effect, difference, every, factor, greater, less, mostly, share, tuned, within
from spp.studies.study import Outcome, Results, Setup, Untestable, Verdict, claim

NONE, LSUV, AFFINE, MINUS, BATCH = "none", "lsuv", "affine", "batch_minus", "batch"
BIAS, FOLD, ACTNORM, RATES, LATER, SCALED = "bias", "fold", "actnorm", "fold_rates", "later", "scaled"
ARMS = {
    NONE: ("none", "no norm"),
    BIAS: ("none + bias", "no norm, a bias in each convolution"),
    LSUV: ("LSUV", "no norm, weights orthogonal and rescaled to unit variance by LSUV (Mishkin & Matas 2016)"),
    FOLD: (
        "fold",
        "BatchNorm-minus's very function at the start, without norm: each layer's weights are divided by the deviations of its "
        "channels, and its biases are their means over them, negative",
    ),
    ACTNORM: ("actnorm", "the same function, deviations and means in a scale and a shift behind each layer"),
    RATES: (
        "fold + rates",
        "fold, gradients of each layer times a constant, so that updates beside weights begin as large as in BatchNorm-minus",
    ),
    LATER: ("BN-K", "BatchNorm-minus in the first epoch, then folded by its running statistics"),
    SCALED: ("scale-invariant", "no norm, scaled weight standardization, and SkipInit"),
    AFFINE: ("AffineLayer", "shift and scale per channel, without normalization"),
    MINUS: ("BatchNorm-minus", "normalization, without shift and scale"),
    BATCH: ("BatchNorm", "both"),
}
"""By arm: its name in tables and figures, and what stands in the place of the norm."""

PLACE = ("layers", "batch", "seed")

GAP = 0.02
"""Test accuracy by which the ends of a gap differ for a share of it to be asked for."""

MOST = 0.5
"""More of a gap is most of it."""

NEAR = 2.0
"""Signals are alike up to this factor."""

NEAR_SHARE = 0.1
"""And shares of the mean square up to this difference."""

SUPPOSED = "the arms of Peerthum & Stamp (2023) put it; their own numbers could not be verified and are not printed"


ORIGINAL = (NONE, LSUV, AFFINE, MINUS, BATCH)
"""The arms of the paper, and LSUV."""


def best_runs(results: Results) -> pd.DataFrame:
    """The runs of every arm at its own best rate, without those of the seed that chose it."""
    return tuned(results["outcome"], ["layers", "batch", "arm"])


def beside(best: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy: a column per arm, a row per depth, batch size and seed."""
    return best.pivot(index=list(PLACE), columns="arm", values="accuracy")


def gap(found: pd.DataFrame, top: str) -> Effect:
    """By how much ``top`` is ahead of no norm."""
    return difference(found[top], found[NONE])


def part_closed(found: pd.DataFrame, arm: str, top: str) -> Effect:
    """What an arm closes of that gap."""
    return share(found[arm], found[NONE], found[top])


def by_share(
    results: Results, arm: str, top: str, level: float, *, large: bool, rate: Callable[..., float] | None = None
) -> Verdict:
    """Whether an arm closes most of a gap, or unless ``large`` less than most, in each condition that has one.

    Each arm is at its own best rate, or all are at the one that ``rate`` picks, with the seed that chooses no rate then.
    """
    ends = f"{ARMS[top][0]} over {ARMS[NONE][0]}"
    parts: dict[str, Callable[..., Verdict]] = {}
    gaps = {}
    if results["outcome"].empty:
        raise Untestable("No network was trained.")
    runs = results["outcome"]
    runs = best_runs(results) if rate is None else runs[runs["lr"] == rate(runs["lr"])]
    at = "" if rate is None else f" at the rate {runs['lr'].iloc[0]:g}"
    if missing := {NONE, arm, top} - set(runs["arm"]):
        raise Untestable(f"Not trained: {', '.join(ARMS[one][0] for one in ARMS if one in missing)}.")
    for (layers, batch), own in beside(runs).groupby(level=list(PLACE[:-1]), sort=False):
        place = f"ResNet-{layers}, batches of {batch}{at}"
        own = own.droplevel(list(PLACE[:-1]))
        gaps[place] = greater(f"{place}: {ends}", gap(own, top), GAP, level=level)
        if gaps[place].outcome is Outcome.CONFIRMED:
            asked = mostly if large else partial(less, bound=MOST)
            words = f"{place}: share of the gap that {ARMS[arm][0]} closes"
            parts[f"{layers}_{batch}"] = partial(asked, words, part_closed(own, arm, top))
    if not parts:
        # what is not there cannot be closed; that it is not there is no verdict either
        return Verdict(Outcome.NOT_DECIDED, " ".join(one.found for one in gaps.values()))
    found = every(parts, level=level)
    count = f"The gap ({ends}) is above {100 * GAP:g} points in {len(parts)} of {len(gaps)} conditions."
    return Verdict(found.outcome, f"{count} {found.found}", found.numbers)


@claim("P1", SUPPOSED)
def normalization(results: Results, setup: Setup, level: float) -> Verdict:
    """Normalization without shift and scale has most of BatchNorm's benefit.

    Criterion: of the gap in test accuracy between no norm and BatchNorm, BatchNorm-minus closes more than a half, in every
    depth and batch size where that gap is above {GAP:g}.
    """
    return by_share(results, MINUS, BATCH, level, large=True)


@claim("P2", SUPPOSED)
def affine(results: Results, setup: Setup, level: float) -> Verdict:
    """Shift and scale without normalization do not have it.

    Criterion: of the same gap, AffineLayer closes less than a half, in every depth and batch size where it is above {GAP:g}.
    """
    return by_share(results, AFFINE, BATCH, level, large=False)


@claim("P3", "Peerthum & Stamp (2023), abstract; the arms that test it are this re-run's")
def initialization(results: Results, setup: Setup, level: float) -> Verdict:
    """The success of BatchNorm may derive primarily from improved weight initialization.

    Criterion: of the gap in test accuracy between no norm and BatchNorm-minus, fold, which begins as the very function of
    BatchNorm-minus, closes more than a half, each arm at its best rate, in every depth and batch size where it is above
    {GAP:g}.
    """
    return by_share(results, FOLD, MINUS, level, large=True)


def _apart(ratio: float) -> float:
    return max(ratio, 1 / ratio)


@claim("P4", "this re-run's, to check its own arm")
def beginning(results: Results, setup: Setup, level: float) -> Verdict:
    """LSUV gives a network without norm the signal at init that BatchNorm-minus gives it.

    Criterion: at init, at every depth, the mean square of the block's output that differs most is within a factor of {NEAR:g}
    of that of BatchNorm-minus; so is the mean square of the gradient at the first block over that at the last; and the share
    of the squared channel means in the mean square of the last block is within {NEAR_SHARE:g}.
    """
    blocks = results["blocks"]
    if blocks.empty:
        raise Untestable("No network was measured at init.")
    blocks = blocks.assign(
        square=blocks[BlockColumn.ACSM] + blocks[BlockColumn.ACV],
        gradient=blocks[BlockColumn.GRADIENT_ACSM] + blocks[BlockColumn.GRADIENT_ACV],
    ).sort_values(str(BlockColumn.DEPTH), kind="stable")
    blocks["mean"] = blocks[BlockColumn.ACSM] / blocks["square"]
    parts: dict[str, Callable[..., Verdict]] = {}
    for layers, own in blocks.groupby("layers", sort=False):
        # a column per arm, a row per seed and block
        squares = own.assign(block=own[BlockColumn.BLOCK].astype(str)).pivot(
            index=["seed", "block"], columns="arm", values="square"
        )
        worst = (squares[LSUV] / squares[MINUS]).map(_apart).groupby(level="seed").max()
        ends = own.groupby(["arm", "seed"], sort=False)[["gradient", "mean"]].agg(["first", "last"])
        fall = ends["gradient", "first"] / ends["gradient", "last"]
        shift = ends["mean", "last"]
        name = f"ResNet-{layers}"
        parts |= {
            f"forward_{layers}": partial(less, f"{name}: largest factor in mean square", factor(worst), NEAR),
            f"backward_{layers}": partial(
                within,
                f"{name}: gradient, first over last block, LSUV over BatchNorm-minus",
                factor(fall[LSUV], fall[MINUS]),
                NEAR,
            ),
            f"shift_{layers}": partial(
                within,
                f"{name}: share of squared means in the last block, LSUV less BatchNorm-minus",
                difference(shift[LSUV], shift[MINUS], PERCENT),
                NEAR_SHARE,
            ),
        }
    return every(parts, level=level)


OWN = "this re-run's, from a pilot of one seed"


@claim("P5", OWN)
def small_rates(results: Results, setup: Setup, level: float) -> Verdict:
    """At the smallest rate, it is the init: a network that begins as BatchNorm-minus learns as fast without it.

    Criterion: of the gap between no norm and BatchNorm-minus at the smallest rate, fold closes more than a half, in every depth
    and batch size where that gap is above {GAP:g}.
    """
    return by_share(results, FOLD, MINUS, level, large=True, rate=min)


@claim("P6", OWN)
def large_rates(results: Results, setup: Setup, level: float) -> Verdict:
    """At the largest rate, it is not: BatchNorm-minus tolerates the rate, and its init does not.

    Criterion: of the same gap at the largest rate, fold closes less than a half, in every depth and batch size where that gap
    is above {GAP:g}.
    """
    return by_share(results, FOLD, MINUS, level, large=False, rate=max)


@claim("P7", OWN)
def step_sizes(results: Results, setup: Setup, level: float) -> Verdict:
    """Nor is it the init together with the size of the first steps of each layer.

    Criterion: of the same gap at the largest rate, fold + rates closes less than a half, in every depth and batch size where
    that gap is above {GAP:g}.
    """
    return by_share(results, RATES, MINUS, level, large=False, rate=max)


CLAIMS = (normalization, affine, initialization, beginning, small_rates, large_rates, step_sizes)
