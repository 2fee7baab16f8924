"""The claims of ``nf-resnet``, each with the criterion that decides it, fixed before anything was run.

Where the paper's full text was not at hand, claims are those of the code that its authors released, and numbers are derived:
the closed forms of ``spp.theory.residual``.
"""

from __future__ import annotations

import math

import pandas as pd

from spp.studies.study import Claim, Outcome, Results, Setup, Verdict
from spp.theory import nf_resnet_variances, normalized_branch

PAPER = "Brock, De & Smith (ICLR 2021) and their released code"
NEAR, NEAR_MEAN = 0.05, 0.20
"""Relative distance from the closed form within which ACV and the branch, and ACSM, count as equal to it."""

NO_MEAN = 0.01
"""Share of the ACV below which an ACSM counts as none: where a stride takes every second pixel of a map of mean zero, the
sample has a small one."""

FLAT = 0.01
NF_NEAR, NF_MEAN = 0.25, 0.03
"""Of NF-ResNets with zero padding: relative distance of ACV, and ACSM."""

SHIFTED = 3.0
KEPT, LOST = 0.10, 0.97
"""Relative distance from 1 of branches without padding; share of the variance below which padding has cost some."""

DOUBLING = (0.9, 1.1)


def _seen(results: Results, arm: str) -> pd.DataFrame:
    """Means over seeds by depth and block."""
    blocks = results.of("blocks", arm=arm)
    if blocks.empty:
        return blocks
    keys = ["depth", "stage", "k", "block"]
    return blocks.groupby(keys, sort=False, as_index=False)[["acsm", "acv", "branch_acv"]].mean()


def _missing(arm: str) -> Verdict:
    return Verdict(Outcome.NOT_TESTABLE, f"The network {arm} was not measured.")


def _off(measured: pd.Series[float], expected: pd.Series[float] | float) -> float:
    """The largest relative distance."""
    return float((measured / expected - 1).abs().max())


def _outcome(holds: bool) -> Outcome:
    return Outcome.CONFIRMED if holds else Outcome.REFUTED


def judge_growth(results: Results, setup: Setup) -> Verdict:
    """B1."""
    seen = _seen(results, "bn")
    if seen.empty:
        return _missing("with BN-ReLU-Conv")
    branch = normalized_branch("relu", 2.0)
    late = seen[seen["stage"] > 1]
    line, ends = _off(late["acv"], (late["k"] + 1) * branch.acv), _off(late["branch_acv"], branch.acv)
    found = (
        f"In stages 2 to 4 the ACV is at most {line:.1%} from (k + 1)(1 - 1/pi) at every block k, and that of the branches at "
        f"most {ends:.1%} from 1 - 1/pi = 0.682 (mean {late['branch_acv'].mean():.3f})."
    )
    numbers = {"acv_off": line, "branch_off": ends, "branch": float(late["branch_acv"].mean())}
    return Verdict(_outcome(line <= NEAR and ends <= NEAR), found, numbers)


def judge_shift(results: Results, setup: Setup) -> Verdict:
    """B2."""
    seen = _seen(results, "bn")
    if seen.empty:
        return _missing("with BN-ReLU-Conv")
    late = seen[seen["stage"] > 1]
    off = _off(late["acsm"], (late["k"] + 1) / math.pi)
    found = f"In stages 2 to 4 the ACSM is at most {off:.1%} from (k + 1)/pi at every block k."
    return Verdict(_outcome(off <= NEAR_MEAN), found, {"acsm_off": off})


def judge_order(results: Results, setup: Setup) -> Verdict:
    """B3."""
    seen = _seen(results, "bn_last")
    if seen.empty:
        return _missing("with ReLU-BN-Conv")
    mean, off = float((seen["acsm"] / seen["acv"]).max()), _off(seen["branch_acv"], 1.0)
    found = f"The ACSM is at most {mean:.2%} of the ACV at every block, and the ACV of the branches at most {off:.1%} from 1."
    return Verdict(_outcome(mean <= NO_MEAN and off <= NEAR), found, {"acsm_share": mean, "branch_off": off})


def judge_doubling(results: Results, setup: Setup) -> Verdict:
    """B4."""
    seen = _seen(results, "none")
    if seen.empty:
        return _missing("without norm")
    rows = []
    for _, own in seen.groupby("depth", sort=False):
        last = own.iloc[-1]
        total = float(last["acsm"] + last["acv"])
        rows.append((int(last["block"]), math.log2(total) / float(last["block"]), float(last["acsm"] / last["acv"])))
    found = "; ".join(
        f"behind {blocks} blocks the mean square is 2^{power * blocks:.1f}, {2**power:.2f} times more in each, and the ACSM is "
        f"{share:.1f} times the ACV"
        for blocks, power, share in rows
    )
    holds = all(DOUBLING[0] <= power <= DOUBLING[1] and share > 1 for _, power, share in rows)
    numbers = {f"log2_per_block_{blocks}": power for blocks, power, _ in rows}
    return Verdict(_outcome(holds), f"{found[:1].upper()}{found[1:]}.", numbers)


def judge_normalizer_free(results: Results, setup: Setup) -> Verdict:
    """B5."""
    seen, shut = _seen(results, "nf"), _seen(results, "nf_shut")
    if seen.empty or shut.empty:
        return _missing("NF")
    expected = pd.concat(
        [
            pd.DataFrame({"acv": [v for stage in nf_resnet_variances(_depths(own)) for _, v in stage]})
            for _, own in seen.groupby("depth", sort=False)
        ],
        ignore_index=True,
    )["acv"]
    off, mean = _off(seen["acv"].reset_index(drop=True), expected), float(seen["acsm"].max())
    stages = shut.groupby(["depth", "stage"], sort=False)["acv"]
    flat = float((stages.max() / stages.min() - 1).max())
    found = (
        f"With SkipInit's gain at 1 the ACV is at most {off:.1%} from 1 + 0.04 k, and the ACSM at most {mean:.3f}; with the "
        f"gain at 0 the ACV changes by at most {flat:.2%} within a stage."
    )
    holds = off <= NF_NEAR and mean < NF_MEAN and flat <= FLAT
    return Verdict(_outcome(holds), found, {"acv_off": off, "acsm": mean, "flat": flat})


def _depths(seen: pd.DataFrame) -> tuple[int, ...]:
    return tuple(int(k) for k in seen.groupby("stage", sort=True)["k"].max())


def judge_standardization(results: Results, setup: Setup) -> Verdict:
    """B6."""
    plain, seen, unpooled = (_seen(results, arm) for arm in ("nf_plain", "nf", "nf_plain_unpooled"))
    if plain.empty or seen.empty:
        return _missing("NF without weight standardization")
    shifted, kept = float(plain["acsm"].max()), float(seen["acsm"].max())
    found = (
        f"With plain Gaussian weights the ACSM rises to {shifted:.2f} and the ACV of the branches to "
        f"{plain['branch_acv'].max():.2f}; with scaled weight standardization they stay below {kept:.3f} and "
        f"{seen['branch_acv'].max():.2f}."
    )
    numbers = {"plain": shifted, "standardized": kept, "plain_branch": float(plain["branch_acv"].max())}
    if len(unpooled):
        numbers["plain_unpooled"] = float(unpooled["acsm"].max())
        found += (
            f" Part of the shift comes in with the maxima that the stem pools: where it takes every second pixel in their "
            f"place, the ACSM without standardization rises to {numbers['plain_unpooled']:.2f}."
        )
    return Verdict(_outcome(shifted > SHIFTED and kept < NF_MEAN), found, numbers)


def judge_padding(results: Results, setup: Setup) -> Verdict:
    """B7."""
    zero, circular, walked = _seen(results, "nf"), _seen(results, "nf_circular"), results.of("prediction", arm="nf")
    if zero.empty or circular.empty or walked.empty:
        return _missing("NF with either padding")
    stages = [one.groupby(["depth", "stage"], sort=False)["branch_acv"].mean() for one in (zero, circular, walked)]
    falling = bool((stages[0].groupby("depth").diff().dropna() < 0).all())
    off, predicted = _off(stages[1], 1.0), _off(stages[0], stages[2])
    last = float(stages[0].iloc[-1])
    found = (
        f"The ACV of the branches is, by stage, {', '.join(f'{v:.2f}' for v in stages[0])} with zero padding (layer by layer, "
        f"theory says {', '.join(f'{v:.2f}' for v in stages[2])}) and {', '.join(f'{v:.2f}' for v in stages[1])} with circular "
        "padding."
    )
    holds = falling and last < LOST and predicted <= KEPT and off <= KEPT
    return Verdict(_outcome(holds), found, {"circular_off": off, "predicted_off": predicted, "last": last})


CLAIMS = (
    Claim(
        "B1",
        "With BN-ReLU-Conv the variance of the stream grows linearly within a stage, and every branch adds 0.68.",
        PAPER,
        f"confirmed where, in means over seeds, the ACV at every block of stages 2 to 4 is within {NEAR:.0%} of (k + 1)(1 - "
        f"1/pi) and that of every branch within {NEAR:.0%} of 1 - 1/pi; else refuted. In stage 1 the pooled input is not "
        "Gaussian",
        judge_growth,
    ),
    Claim(
        "B2",
        "With BN-ReLU-Conv the squared mean of channels grows linearly too: the mean shift.",
        PAPER,
        f"confirmed where, in means over seeds, the ACSM at every block of stages 2 to 4 is within {NEAR_MEAN:.0%} of (k + "
        "1)/pi; else refuted",
        judge_shift,
    ),
    Claim(
        "B3",
        "With ReLU-BN-Conv there is no mean shift, and branches have variance 1.",
        PAPER,
        f"confirmed where, in means over seeds, the ACSM at every block is at most {NO_MEAN:.0%} of the ACV, and the ACV of "
        f"every branch within {NEAR:.0%} of 1; else refuted",
        judge_order,
    ),
    Claim(
        "B4",
        "Without norm the signal doubles in every block, and its mean takes over.",
        f"{PAPER}; the doubling is derived",
        f"confirmed where the mean square behind L blocks is between 2^({DOUBLING[0]:g} L) and 2^({DOUBLING[1]:g} L), and the "
        "ACSM larger than the ACV; else refuted",
        judge_doubling,
    ),
    Claim(
        "B5",
        "An NF-ResNet carries the signal as foretold, 1 + alpha^2 k behind block k of a stage, without a mean shift.",
        PAPER,
        f"confirmed where with SkipInit's gain at 1 the ACV at every block is within {NF_NEAR:.0%} of it (zero padding takes "
        f"the rest) and the ACSM below {NF_MEAN:g}, and with the gain at 0 the ACV is equal within each stage to {FLAT:.0%}; "
        "else refuted",
        judge_normalizer_free,
    ),
    Claim(
        "B6",
        "It is scaled weight standardization that prevents the mean shift.",
        PAPER,
        f"confirmed where without it the ACSM rises above {SHIFTED:g} and with it stays below {NF_MEAN:g}; else refuted",
        judge_standardization,
    ),
    Claim(
        "B7",
        "What an NF-ResNet loses of the variance of its branches, it loses to zero padding.",
        "not in the paper: derived, ((3 H - 2)/(3 H))^2 for a 3x3 convolution on H x H",
        f"confirmed where the mean ACV of branches falls from stage to stage, to below {LOST:g} in the last, within {KEPT:.0%} "
        f"of spp.theory.predict in each, and with circular padding is within {KEPT:.0%} of 1 in each; else refuted",
        judge_padding,
    ),
)
