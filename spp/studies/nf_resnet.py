"""``nf-resnet``: the Signal Propagation Plots of Brock, De & Smith (ICLR 2021), measured again beside theory.

Nothing is trained. A cell traces one network as it is drawn on unit normal noise (``signals``), or lets theory walk through it
(``predict``), which takes longer and does not depend on the seed.

The criteria of the claims were fixed before anything was run. Where the paper's full text was not at hand, claims are those of
the code that its authors released, and numbers are derived: the closed forms of ``spp.theory.residual``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from spp import plot
from spp.data import gaussian
from spp.plot.kinds.outcomes import values
from spp.studies.evidence import decided
from spp.studies.study import Cell, Figures, Results, Setup, Size, Study, Tables, Untestable, Verdict, claim
from spp.studies.trials import Arm, drawn
from spp.theory import nf_resnet_variances, normalized_branch, predict, stage_curve
from spp.tracing import trace

# side of the images, batch, and depths of the networks with the blocks of their stages
SIZES: dict[Size, tuple[int, int, dict[int, tuple[int, ...]]]] = {
    Size.TINY: (64, 32, {50: (3, 4, 6, 3)}),
    Size.FULL: (224, 16, {50: (3, 4, 6, 3), 600: (50, 50, 50, 50)}),
}

SEEDS = 5

MEASURED = ("acsm", "acv", "branch_acv")
"""The statistics at the end of each block."""


@dataclass(frozen=True, slots=True)
class Network(Arm):
    """A ResNet.

    Attributes:
        pooled: Whether the stem pools maxima, whose mean is positive, or else takes every second pixel.
    """

    pooled: bool = True

    def make(self, depths: tuple[int, ...], side: int) -> nn.Module:
        """Build it for images of that side."""
        # depths of any length: the sizes of the study differ in them
        model = self.build(depths=depths, input_shape=(3, side, side))
        if not self.pooled:
            model.get_submodule("stem").add_module("pool", nn.AvgPool2d(1, stride=2))
        return model


V2, NF = "resnetv2_50", "nf_resnet50"
# SkipInit's gain at 1, as where the paper draws its plots; at 0, where training begins, branches are shut
OPEN: Mapping[str, Any] = {"residual_options": {"gain": 1.0}, "drop_path": 0.0}
PLAIN = {**OPEN, "norm": "none", "gain": "gamma", "init": "lecun"}

ARMS = {
    "bn": Network("BN-ReLU-Conv", "pre-activation ResNet with BatchNorm, He's init", V2, {"init": "he"}),
    "bn_last": Network(
        "ReLU-BN-Conv",
        "the same with BatchNorm behind the activation, LeCun's init",
        V2,
        {"init": "lecun", "order": "act_norm"},
    ),
    "none": Network("no norm", "the same without norm, He's init", V2, {"norm": "none", "gain": "none", "init": "he"}),
    "nf": Network("NF", "NF-ResNet with scaled weight standardization, SkipInit's gain at 1", NF, OPEN),
    "nf_shut": Network("NF, gain 0", "the same as training begins, SkipInit's gain at 0", NF, {"drop_path": 0.0}),
    "nf_circular": Network(
        "NF, circular padding", "NF with 3x3 convolutions that wrap around the image", NF, OPEN, circular=(3,)
    ),
    "nf_plain": Network(
        "NF without WS", "NF with plain Gaussian weights of variance 1/fan_in, the activation's gain kept", NF, PLAIN
    ),
    "nf_plain_unpooled": Network(
        "NF without WS, unpooled",
        "the same with every second pixel of the stem in place of maxima, whose mean is positive",
        NF,
        PLAIN,
        pooled=False,
    ),
}
"""Every arm by name."""


def places(depths: tuple[int, ...]) -> pd.DataFrame:
    """Every block, counted through (``block``) and within its stage (``k``), from 1."""
    rows = [(stage, k) for stage, depth in enumerate(depths, 1) for k in range(1, depth + 1)]
    return pd.DataFrame(rows, columns=["stage", "k"]).assign(block=range(1, len(rows) + 1))


def closed_form(arm: str, depths: tuple[int, ...]) -> pd.DataFrame | None:
    """The statistics in the limit of many channels without padding; None where there is no closed form.

    Without norm and without weight standardization the sum of ACSM and ACV has one, their shares have not.
    """
    blocks = places(depths)
    if arm in ("bn", "bn_last"):
        branch = normalized_branch("relu", 2.0) if arm == "bn" else normalized_branch("relu", 1.0, norm_last=True)
        curves = [one for depth in depths for one in stage_curve(branch, depth)]
        return blocks.assign(acsm=[c.acsm for c in curves], acv=[c.acv for c in curves], branch_acv=branch.acv)
    if arm in ("nf", "nf_circular", "nf_shut"):
        stages = nf_resnet_variances(depths, 0.0 if arm == "nf_shut" else 0.2)
        return blocks.assign(acsm=0.0, acv=[variance for stage in stages for _, variance in stage], branch_acv=1.0)
    return None


# --- what is run -----------------------------------------------------------------------------------------------------


def arrangement(setup: Setup) -> list[str]:
    """What is run, and what of the source is done otherwise."""
    side, batch, nets = SIZES[setup.size]
    return [
        f"As drawn, nothing is trained: {batch} x 3x{side}x{side} unit normal noise, BatchNorm in training mode, "
        f"{len(setup.seed_list(SEEDS))} seeds, networks of {' and '.join(map(str, nets))} layers.",
        *(f"{arm.label}: {arm.about}." for arm in ARMS.values()),
        "ACSM and ACV at the end of each block, ACV at the end of its branch before SkipInit's gain and alpha (0.2).",
        "`closed form` is the limit of many channels without padding; `layer by layer` is spp.theory.predict, padding and "
        "pooling included.",
        "Otherwise than in the source: PyTorch in place of JAX; analytic constants for the activation's gain in place of "
        "sampled ones (1.7129 in place of 1.7140 for ReLU)."
        + (" Images are 64x64, so that zero padding costs more than at 224x224." if side < 224 else ""),
    ]


def cells(setup: Setup) -> list[Cell]:
    """Every arm at each depth by seed, and once by theory."""
    return [
        Cell.of(cost * sum(blocks), part=part, arm=arm, depth=depth, seed=seed)
        for depth, blocks in SIZES[setup.size][2].items()
        for arm in ARMS
        for part, cost, seeds in (("signals", 1.0, setup.seed_list(SEEDS)), ("predict", 4.0, (0,)))
        for seed in seeds
    ]


def measure(cell: Cell, setup: Setup) -> Tables:
    """Trace one network, or let theory walk through it."""
    side, batch, nets = SIZES[setup.size]
    depths, seed, shape = nets[cell["depth"]], int(cell["seed"]), (3, side, side)
    model, blocks = drawn(lambda: ARMS[cell["arm"]].make(depths, side), seed), places(depths)
    if cell["part"] == "predict":
        # a module that is called again has a row for each call
        table = predict(model, (batch, *shape)).drop_duplicates("name").set_index("name")
        ends = [f"stage{stage}.{k - 1}" for stage, k in zip(blocks["stage"], blocks["k"], strict=True)]
        found = {
            "acsm": table["acsm_predicted"].reindex(ends),
            "acv": table["acv_predicted"].reindex(ends),
            "branch_acv": table["acv_predicted"].reindex([f"{end}.conv3" for end in ends]),
        }
        return {"prediction": blocks.assign(**{key: column.to_numpy() for key, column in found.items()})}
    # activations alone are measured: without a graph a forward takes much less memory
    with torch.no_grad():
        seen = trace(model.to(setup.device), gaussian(batch, shape, seed=seed), signals=("activation",)).blocks
    return {"blocks": blocks.assign(**{key: seen[key].to_numpy(dtype="float64") for key in MEASURED})}


# --- claims ----------------------------------------------------------------------------------------------------------


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


def _seen(results: Results, arm: str, what: str) -> pd.DataFrame:
    """Means over seeds by depth and block; ``what`` is said where the arm was not measured."""
    blocks = results.of("blocks", arm=arm)
    if blocks.empty:
        raise Untestable(f"The network {what} was not measured.")
    return blocks.groupby(["depth", "stage", "k", "block"], sort=False, as_index=False)[list(MEASURED)].mean()


def _late(results: Results) -> pd.DataFrame:
    """Blocks of BN-ReLU-Conv whose input is Gaussian: the pooled one of the first stage is not."""
    seen = _seen(results, "bn", "with BN-ReLU-Conv")
    return seen[seen["stage"] > 1]


def _off(measured: pd.Series[float], expected: pd.Series[float] | float) -> float:
    """The largest relative distance."""
    return float((measured / expected - 1).abs().max())


@claim("B1", PAPER)
def growth(results: Results, setup: Setup) -> Verdict:
    """With BN-ReLU-Conv the variance of the stream grows linearly within a stage, and every branch adds 0.68.

    Criterion: confirmed where, in means over seeds, the ACV at every block of stages 2 to 4 is within {NEAR:.0%} of (k +
    1)(1 - 1/pi) and that of every branch within {NEAR:.0%} of 1 - 1/pi; else refuted. In stage 1 the pooled input is not
    Gaussian
    """
    late, branch = _late(results), normalized_branch("relu", 2.0)
    line, ends = _off(late["acv"], (late["k"] + 1) * branch.acv), _off(late["branch_acv"], branch.acv)
    mean = late["branch_acv"].mean()
    found = (
        f"In stages 2 to 4 the ACV is at most {line:.1%} from (k + 1)(1 - 1/pi) at every block k, and that of the branches at "
        f"most {ends:.1%} from 1 - 1/pi = 0.682 (mean {mean:.3f})."
    )
    numbers = {"acv_off": line, "branch_off": ends, "branch": mean}
    return decided(found, numbers, confirmed=line <= NEAR and ends <= NEAR)


@claim("B2", PAPER)
def shift(results: Results, setup: Setup) -> Verdict:
    """With BN-ReLU-Conv the squared mean of channels grows linearly too: the mean shift.

    Criterion: confirmed where, in means over seeds, the ACSM at every block of stages 2 to 4 is within {NEAR_MEAN:.0%} of
    (k + 1)/pi; else refuted
    """
    late = _late(results)
    off = _off(late["acsm"], (late["k"] + 1) / math.pi)
    found = f"In stages 2 to 4 the ACSM is at most {off:.1%} from (k + 1)/pi at every block k."
    return decided(found, {"acsm_off": off}, confirmed=off <= NEAR_MEAN)


@claim("B3", PAPER)
def order(results: Results, setup: Setup) -> Verdict:
    """With ReLU-BN-Conv there is no mean shift, and branches have variance 1.

    Criterion: confirmed where, in means over seeds, the ACSM at every block is at most {NO_MEAN:.0%} of the ACV, and the
    ACV of every branch within {NEAR:.0%} of 1; else refuted
    """
    seen = _seen(results, "bn_last", "with ReLU-BN-Conv")
    mean, off = (seen["acsm"] / seen["acv"]).max(), _off(seen["branch_acv"], 1.0)
    found = f"The ACSM is at most {mean:.2%} of the ACV at every block, and the ACV of the branches at most {off:.1%} from 1."
    return decided(found, {"acsm_share": mean, "branch_off": off}, confirmed=mean <= NO_MEAN and off <= NEAR)


@claim("B4", f"{PAPER}; the doubling is derived")
def doubling(results: Results, setup: Setup) -> Verdict:
    """Without norm the signal doubles in every block, and its mean takes over.

    Criterion: confirmed where the mean square behind L blocks is between 2^({DOUBLING[0]:g} L) and 2^({DOUBLING[1]:g} L),
    and the ACSM larger than the ACV; else refuted
    """
    last = _seen(results, "none", "without norm").groupby("depth", sort=False).tail(1)
    last = last.assign(share=last["acsm"] / last["acv"])
    powers = {int(row["block"]): math.log2(row["acsm"] + row["acv"]) / row["block"] for _, row in last.iterrows()}
    found = "; ".join(
        f"behind {blocks} blocks the mean square is 2^{power * blocks:.1f}, {2**power:.2f} times more in each, and the ACSM is "
        f"{share:.1f} times the ACV"
        for (blocks, power), share in zip(powers.items(), last["share"], strict=True)
    )
    holds = all(DOUBLING[0] <= power <= DOUBLING[1] for power in powers.values()) and bool((last["share"] > 1).all())
    numbers = {f"log2_per_block_{blocks}": power for blocks, power in powers.items()}
    return decided(f"{found[:1].upper()}{found[1:]}.", numbers, confirmed=holds)


@claim("B5", PAPER)
def normalizer_free(results: Results, setup: Setup) -> Verdict:
    """An NF-ResNet carries the signal as foretold, 1 + alpha^2 k behind block k of a stage, without a mean shift.

    Criterion: confirmed where with SkipInit's gain at 1 the ACV at every block is within {NF_NEAR:.0%} of it (zero padding
    takes the rest) and the ACSM below {NF_MEAN:g}, and with the gain at 0 the ACV is equal within each stage to {FLAT:.0%};
    else refuted
    """
    seen, shut = _seen(results, "nf", "NF"), _seen(results, "nf_shut", "NF")
    expected = 1 + 0.2**2 * seen["k"]
    off, mean = _off(seen["acv"], expected), seen["acsm"].max()
    stages = shut.groupby(["depth", "stage"], sort=False)["acv"]
    flat = (stages.max() / stages.min() - 1).max()
    found = (
        f"With SkipInit's gain at 1 the ACV is at most {off:.1%} from 1 + 0.04 k, and the ACSM at most {mean:.3f}; with the "
        f"gain at 0 the ACV changes by at most {flat:.2%} within a stage."
    )
    holds = off <= NF_NEAR and mean < NF_MEAN and flat <= FLAT
    return decided(found, {"acv_off": off, "acsm": mean, "flat": flat}, confirmed=holds)


@claim("B6", PAPER)
def standardization(results: Results, setup: Setup) -> Verdict:
    """It is scaled weight standardization that prevents the mean shift.

    Criterion: confirmed where without it the ACSM rises above {SHIFTED:g} and with it stays below {NF_MEAN:g}; else refuted
    """
    plain, seen = (_seen(results, arm, "NF without weight standardization") for arm in ("nf_plain", "nf"))
    shifted, kept, branch = plain["acsm"].max(), seen["acsm"].max(), plain["branch_acv"].max()
    found = (
        f"With plain Gaussian weights the ACSM rises to {shifted:.2f} and the ACV of the branches to {branch:.2f}; with scaled "
        f"weight standardization they stay below {kept:.3f} and {seen['branch_acv'].max():.2f}."
    )
    numbers = {"plain": shifted, "standardized": kept, "plain_branch": branch}
    if not results.of("blocks", arm="nf_plain_unpooled").empty:
        numbers["plain_unpooled"] = _seen(results, "nf_plain_unpooled", "")["acsm"].max()
        found += (
            f" Part of the shift comes in with the maxima that the stem pools: where it takes every second pixel in their "
            f"place, the ACSM without standardization rises to {numbers['plain_unpooled']:.2f}."
        )
    return decided(found, numbers, confirmed=shifted > SHIFTED and kept < NF_MEAN)


@claim("B7", "not in the paper: derived, ((3 H - 2)/(3 H))^2 for a 3x3 convolution on H x H")
def padding(results: Results, setup: Setup) -> Verdict:
    """What an NF-ResNet loses of the variance of its branches, it loses to zero padding.

    Criterion: confirmed where the mean ACV of branches falls from stage to stage, to below {LOST:g} in the last, within
    {KEPT:.0%} of spp.theory.predict in each, and with circular padding is within {KEPT:.0%} of 1 in each; else refuted
    """
    seen = [_seen(results, arm, "NF with either padding") for arm in ("nf", "nf_circular")]
    walked = results.of("prediction", arm="nf")
    if walked.empty:
        raise Untestable("The network NF with either padding was not measured.")
    zero, circular, theory = (
        one.groupby(["depth", "stage"], sort=False)["branch_acv"].mean() for one in (*seen, walked)
    )
    falling = bool((zero.groupby("depth").diff().dropna() < 0).all())
    off, predicted, last = _off(circular, 1.0), _off(zero, theory), zero.iloc[-1]
    by_stage = [", ".join(f"{value:.2f}" for value in one) for one in (zero, theory, circular)]
    found = (
        f"The ACV of the branches is, by stage, {by_stage[0]} with zero padding (layer by layer, theory says {by_stage[1]}) "
        f"and {by_stage[2]} with circular padding."
    )
    holds = falling and last < LOST and predicted <= KEPT and off <= KEPT
    return decided(found, {"circular_off": off, "predicted_off": predicted, "last": last}, confirmed=holds)


CLAIMS = (growth, shift, order, doubling, normalizer_free, standardization, padding)


# --- what is printed and drawn ---------------------------------------------------------------------------------------


TITLES = {"acsm": "ACSM", "acv": "ACV", "branch_acv": "ACV of the branch"}


def sources(results: Results, arm: str, depth: int, depths: tuple[int, ...]) -> dict[str, pd.DataFrame]:
    """An arm at every block: as measured, and what theory says; empty where it says nothing."""
    closed = closed_form(arm, depths)
    return {
        "measured": results.of("blocks", arm=arm, depth=depth),
        "closed form": pd.DataFrame() if closed is None else closed,
        "layer by layer": results.of("prediction", arm=arm, depth=depth),
    }


def tables(results: Results, setup: Setup) -> Tables:
    """The end of each stage by arm: measured, by the closed form, layer by layer."""
    printed: Tables = {}
    for depth, depths in SIZES[setup.size][2].items():
        rows = []
        for arm, one in ARMS.items():
            found = sources(results, arm, depth, depths)
            seen = found["measured"]
            for stage, count in enumerate(depths if len(seen) else (), 1):
                ends = {name: _end(table, stage, count) for name, table in found.items() if len(table)}
                row = {"network": one.label, "stage": stage, "blocks": count, "seeds": seen["seed"].nunique()}
                for key, title in TITLES.items():
                    at = ends["measured"][key]
                    row[title] = f"{at.mean():.3g} ± {at.std(ddof=0):.2g}"
                    for name in ("closed form", "layer by layer"):
                        row[f"{title}, {name}"] = f"{ends[name][key].mean():.3g}" if name in ends else ""
                rows.append(row)
        if rows:
            printed[f"stages-{depth}"] = pd.DataFrame(rows)
    return printed


def _end(table: pd.DataFrame, stage: int, k: int) -> pd.DataFrame:
    return table[(table["stage"] == stage) & (table["k"] == k)]


def figures(results: Results, setup: Setup) -> Figures:
    """One for each arm and depth: the three statistics by block, measured and by theory."""
    side, batch, nets = SIZES[setup.size]
    made = {}
    for depth, depths in nets.items():
        for arm, one in ARMS.items():
            lines = sources(results, arm, depth, depths)
            if lines["measured"].empty:
                continue
            long = pd.concat(
                [
                    table.assign(value=table[key], statistic=TITLES[key], line=name)
                    for key in MEASURED
                    for name, table in lines.items()
                    if len(table)
                ],
                ignore_index=True,
            )
            # without norm the mean square doubles in every block, which only a log axis can show
            finite = long["value"][np.isfinite(long["value"])]
            seeds = ", ".join(map(str, values(lines["measured"]["seed"])))
            facts = {"data": "unit normal", "batch_size": batch, "input_shape": [3, side, side], "seeds": seeds}
            made[f"{arm}-{depth}".replace("_", "-")] = plot.outcomes(
                long,
                x="block",
                y="value",
                by="line",
                panels="statistic",
                xlabel="residual block",
                ylabel="statistic",
                yscale="log" if finite.max() > 100 else "linear",
                run={"model": f"{one.label}, {depth} layers", **facts},
            )
    return made


STUDY = Study(
    name="nf-resnet",
    title="Signal Propagation Plots of normalized and normalizer-free ResNets",
    source="Brock, De & Smith (ICLR 2021), arXiv 2101.08692",
    question="Do ResNets carry their signal as theory says: growing with BatchNorm, shifted in the mean by ReLU and "
    "convolution, and held without norms by scaled weight standardization?",
    arrangement=arrangement,
    claims=CLAIMS,
    cells=cells,
    measure=measure,
    tables=tables,
    figures=figures,
    sizes=tuple(SIZES),
)
