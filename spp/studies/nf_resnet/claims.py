"""What Brock et al. and theory say of ``nf-resnet``, and the criterion of each claim, fixed before anything was run.

A number is compared with theory block by block: a claim is confirmed where the interval of the mean over seeds lies within its
margin at every block.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from spp.studies.evidence import (
    FACTOR,
    PERCENT,
    PLAIN,
    Effect,
    Scale,
    between,
    every,
    everywhere,
    factor,
    greater,
    less,
)
from spp.studies.study import Results, Setup, Untestable, Verdict, claim
from spp.theory import normalized_branch

PAPER = "Brock, De & Smith (ICLR 2021) and their released code"
SUMMARY = "Brock, De & Smith (ICLR 2021), as summaries of it say; its own words were not at hand"
NAMES = {"bn": "BN-ReLU-Conv", "bn_last": "ReLU-BN-Conv", "nf": "NF"}
NEAR, NEAR_MEAN = 0.05, 0.20
"""Relative distance from the closed form within which ACV and the branch, and ACSM, count as equal to it."""

NO_MEAN = 0.01
"""Share of the ACV below which an ACSM counts as none: where a stride takes every second pixel of a map of mean zero, the
sample has a small one."""

FLAT = 0.01
NF_NEAR, NF_MEAN = 0.06, 0.03
"""Of NF-ResNets: relative distance of ACV from theory with padding, and ACSM.

Without alpha^2 k, theory would be off by more than that from the second block of a stage on."""

SHIFTED = 3.0
KEPT, LOST = 0.10, 0.97
"""Relative distance from 1 of branches without padding; share of the variance below which padding has cost some."""

DOUBLING = (0.9, 1.1)

ALIKE = 1.25
"""Factor within which images and noise give nearly the same plot, whose lines lie visibly apart beyond it."""


def _seen(results: Results, arm: str, what: str) -> pd.DataFrame:
    """Every block by depth and seed; ``what`` is said where the arm was not measured."""
    blocks = results.of("blocks", arm=arm)
    if blocks.empty:
        raise Untestable(f"The network {what} was not measured.")
    return blocks


def _late(results: Results) -> pd.DataFrame:
    """Blocks of BN-ReLU-Conv whose input is Gaussian: the pooled one of the first stage is not."""
    seen = _seen(results, "bn", "with BN-ReLU-Conv")
    return seen[seen["stage"] > 1]


def _foretold(results: Results, arm: str, seen: pd.DataFrame, column: str) -> pd.Series[float]:
    """What theory says, layer by layer, of each of those blocks."""
    walked = results.of("prediction", arm=arm)
    if walked.empty:
        raise Untestable("Theory was not asked.")
    return seen.join(walked.set_index(["depth", "block"])[column].rename("foretold"), on=["depth", "block"])["foretold"]


def _by_block(seen: pd.DataFrame, values: pd.Series[float], scale: Scale = PLAIN) -> dict[str, Effect]:
    """Means over seeds, by the name of the block."""
    groups = seen.assign(value=values).groupby(["depth", "stage", "k"], sort=False)
    return {
        f"block {k} of stage {stage} at {depth} layers": Effect(own.set_index("seed")["value"], scale=scale)
        for (depth, stage, k), own in groups
    }


def _most(seen: pd.DataFrame, values: pd.Series[float], scale: Scale = PLAIN) -> Effect:
    """The largest over depths and blocks, by seed."""
    return Effect(values.groupby(seen["seed"]).max(), scale=scale)


@claim("B1", PAPER)
def growth(results: Results, setup: Setup, level: float) -> Verdict:
    """With BN-ReLU-Conv the variance of the stream grows linearly within a stage, and every branch adds 0.68.

    Criterion: the ACV at every block of stages 2 to 4 is within {NEAR:.0%} of (k + 1)(1 - 1/pi) and that of every branch
    within {NEAR:.0%} of 1 - 1/pi. In stage 1 the pooled input is not Gaussian.
    """
    late, branch = _late(results), normalized_branch("relu", 2.0)
    stream, ends = late["acv"] / ((late["k"] + 1) * branch.acv), late["branch_acv"] / branch.acv
    near = (1 - NEAR, 1 + NEAR)
    parts = {
        "stream": partial(everywhere, "ACV over (k + 1)(1 - 1/pi)", _by_block(late, stream), *near),
        "branch": partial(everywhere, "ACV of the branch over 1 - 1/pi", _by_block(late, ends), *near),
    }
    return every(parts, level=level)


@claim("B2", PAPER)
def shift(results: Results, setup: Setup, level: float) -> Verdict:
    """With BN-ReLU-Conv the squared mean of channels grows linearly too: the mean shift.

    Criterion: the ACSM at every block of stages 2 to 4 is within {NEAR_MEAN:.0%} of (k + 1)/pi.
    """
    late = _late(results)
    line = _by_block(late, late["acsm"] / ((late["k"] + 1) / math.pi))
    return everywhere("ACSM over (k + 1)/pi", line, 1 - NEAR_MEAN, 1 + NEAR_MEAN, level=level)


@claim("B3", PAPER)
def order(results: Results, setup: Setup, level: float) -> Verdict:
    """With ReLU-BN-Conv there is no mean shift, and branches have variance 1.

    Criterion: the ACSM is below {NO_MEAN:.0%} of the ACV where it is largest, and the ACV of every branch is within {NEAR:.0%}
    of 1.
    """
    seen = _seen(results, "bn_last", "with ReLU-BN-Conv")
    mean = _most(seen, seen["acsm"] / seen["acv"])
    branch = _by_block(seen, seen["branch_acv"])
    parts = {
        "mean": partial(less, "Largest ACSM over ACV", mean, NO_MEAN),
        "branch": partial(everywhere, "ACV of the branch", branch, 1 - NEAR, 1 + NEAR),
    }
    return every(parts, level=level)


@claim("B4", f"{PAPER}; the doubling is derived")
def doubling(results: Results, setup: Setup, level: float) -> Verdict:
    """Without norm the signal doubles in every block, and its mean takes over.

    Criterion: the mean square behind L blocks is between 2^({DOUBLING[0]:g} L) and 2^({DOUBLING[1]:g} L), and the ACSM larger
    than the ACV, at every depth.
    """
    parts = {}
    for depth, own in _seen(results, "none", "without norm").groupby("depth", sort=False):
        last = own[own["block"] == own["block"].max()].set_index("seed")
        power = Effect(np.log2(last["acsm"] + last["acv"]) / last["block"])
        words = f"behind {last['block'].iloc[0]} blocks"
        parts[f"log2_{depth}"] = partial(between, f"log2 of the mean square {words}, per block", power, *DOUBLING)
        parts[f"mean_{depth}"] = partial(greater, f"ACSM over ACV {words}", factor(last["acsm"], last["acv"]), 1.0)
    return every(parts, level=level)


@claim("B5", PAPER)
def normalizer_free(results: Results, setup: Setup, level: float) -> Verdict:
    """An NF-ResNet carries the signal as foretold, 1 + alpha^2 k behind block k of a stage, without a mean shift.

    Criterion: with SkipInit's gain at 1 the ACV at every block is within {NF_NEAR:.0%} of spp.theory.predict, which is 1 +
    alpha^2 k with the zero padding of each layer, and the largest ACSM below {NF_MEAN:g}; with the gain at 0 the ACV is equal
    within each stage to {FLAT:.0%}.
    """
    seen, shut = _seen(results, "nf", "NF"), _seen(results, "nf_shut", "NF")
    near = _by_block(seen, seen["acv"] / _foretold(results, "nf", seen, "acv"))
    stages = shut.groupby(["depth", "stage", "seed"], sort=False)["acv"]
    flat = (stages.max() / stages.min() - 1).groupby("seed").max()
    parts = {
        "acv": partial(everywhere, "ACV over theory, gain 1", near, 1 - NF_NEAR, 1 + NF_NEAR),
        "acsm": partial(less, "Largest ACSM, gain 1", _most(seen, seen["acsm"]), NF_MEAN),
        "flat": partial(less, "Largest change of the ACV within a stage, gain 0", Effect(flat), FLAT),
    }
    return every(parts, level=level)


@claim("B6", PAPER)
def standardization(results: Results, setup: Setup, level: float) -> Verdict:
    """It is scaled weight standardization that prevents the mean shift.

    Criterion: without it the largest ACSM is above {SHIFTED:g}, also where the stem takes every second pixel in place of
    maxima, whose mean is positive; with it, below {NF_MEAN:g}.
    """
    arms = {"nf_plain": "plain Gaussian weights", "nf_plain_unpooled": "plain Gaussian weights behind an unpooled stem"}
    missing = "NF without weight standardization"
    plain = {arm: _seen(results, arm, missing) for arm in arms if len(results.of("blocks", arm=arm))}
    seen = _seen(results, "nf", missing)
    if "nf_plain" not in plain:
        raise Untestable(f"The network {missing} was not measured.")
    parts = {
        arm: partial(greater, f"Largest ACSM with {arms[arm]}", _most(own, own["acsm"]), SHIFTED)
        for arm, own in plain.items()
    }
    parts["standardized"] = partial(less, "With scaled weight standardization", _most(seen, seen["acsm"]), NF_MEAN)
    return every(parts, level=level)


@claim("B7", "not in the paper: derived, ((3 H - 2)/(3 H))^2 for a 3x3 convolution on H x H")
def padding(results: Results, setup: Setup, level: float) -> Verdict:
    """What an NF-ResNet loses of the variance of its branches, it loses to zero padding.

    Criterion: the mean ACV of branches falls from stage to stage, to below {LOST:g} in the last, is within {KEPT:.0%} of
    spp.theory.predict in each, and with circular padding within {KEPT:.0%} of 1 in each.
    """
    seen, circular = (_seen(results, arm, "NF with either padding") for arm in ("nf", "nf_circular"))
    by = ["depth", "stage", "seed"]
    zero, kept = (own.groupby(by, sort=False)["branch_acv"].mean() for own in (seen, circular))
    theory = seen.assign(theory=_foretold(results, "nf", seen, "branch_acv")).groupby(by, sort=False)["theory"].mean()
    steps = zero / zero.groupby(["depth", "seed"], sort=False).shift()
    near = (1 - KEPT, 1 + KEPT)
    ends = zero.groupby(["depth", "seed"], sort=False).last()
    parts = {
        "falling": partial(
            everywhere, "ACV of the branches over that of the stage before", _by_stage(steps), -math.inf, 1.0
        ),
        "last": partial(less, "ACV of the branches in the last stage", Effect(ends, scale=PERCENT), LOST),
        "theory": partial(everywhere, "ACV of the branches over theory", _by_stage(zero / theory), *near),
        "circular": partial(everywhere, "ACV of the branches with circular padding", _by_stage(kept), *near),
    }
    return every(parts, level=level)


def _by_stage(values: pd.Series[float]) -> dict[str, Effect]:
    groups = values.dropna().groupby(["depth", "stage"], sort=False)
    return {f"stage {stage} at {depth} layers": Effect(own.droplevel([0, 1])) for (depth, stage), own in groups}


def _alike(results: Results, arm: str, *columns: str) -> dict[str, Callable[..., Verdict]]:
    """Each statistic on images over that on noise, of the same weights, at every block."""
    seen, images, keys = (
        _seen(results, arm, "on noise"),
        results.of("images", arm=arm),
        ["depth", "block", "seed"],
    )
    if images.empty:
        raise Untestable("No network was traced on images.")
    both = seen[[*keys, "stage", "k"]].join(images.set_index(keys)[list(columns)], on=keys)
    return {
        f"{arm}_{column}": partial(
            everywhere,
            f"{NAMES[arm]}, {column.upper()} on images over that on noise",
            _by_block(both, both[column] / seen[column], FACTOR),
            1 / ALIKE,
            ALIKE,
        )
        for column in columns
    }


@claim("B8", SUMMARY)
def alike(results: Results, setup: Setup, level: float) -> Verdict:
    """With BatchNorm, real images give nearly the same plot as unit normal noise.

    Criterion: at every block and depth, the ACV of the stream on images over that on noise, of the same weights, geometric
    mean over seeds, is within a factor of {ALIKE:g} of 1 with BN-ReLU-Conv and with ReLU-BN-Conv, and so is the ACSM with
    BN-ReLU-Conv; with ReLU-BN-Conv, which has none, the largest ACSM on images is below {NO_MEAN:.0%} of the ACV.
    """
    parts = {**_alike(results, "bn", "acv", "acsm"), **_alike(results, "bn_last", "acv")}
    last = results.of("images", arm="bn_last")
    mean = _most(last, last["acsm"] / last["acv"])
    parts["bn_last_acsm"] = partial(less, f"{NAMES['bn_last']}, largest ACSM over ACV on images", mean, NO_MEAN)
    return every(parts, level=level)


@claim("B9", SUMMARY)
def alike_without(results: Results, setup: Setup, level: float) -> Verdict:
    """With scaled weight standardization in place of a norm, real images give nearly the same plot as unit normal noise.

    Criterion: at every block and depth, the ACV of the stream on images over that on noise, of the same weights, geometric
    mean over seeds, is within a factor of {ALIKE:g} of 1, and the largest ACSM on images is below {NF_MEAN:g}.
    """
    parts = _alike(results, "nf", "acv")
    seen = results.of("images", arm="nf")
    parts["nf_acsm"] = partial(less, "NF, largest ACSM on images", _most(seen, seen["acsm"]), NF_MEAN)
    return every(parts, level=level)


CLAIMS = (growth, shift, order, doubling, normalizer_free, standardization, padding, alike, alike_without)
