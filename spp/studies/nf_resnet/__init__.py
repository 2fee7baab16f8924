"""``nf-resnet``: the Signal Propagation Plots of Brock, De & Smith (ICLR 2021), measured again beside theory.

Nothing is trained. A cell traces one network as it is drawn on unit normal noise (``signals``) or on images (``images``), or
lets theory walk through it (``predict``), which takes longer and does not depend on the seed.

The criteria of the claims were fixed before anything was run. Where the paper's full text was not at hand, claims are those of
the code that its authors released, and numbers are derived: the closed forms of ``spp.theory.residual``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from spp import plot
from spp.data import gaussian
from spp.plot.kinds.outcomes import values
from spp.studies.nf_resnet.claims import CLAIMS
from spp.studies.study import Cell, Figures, Results, Setup, Size, Study, Tables
from spp.studies.trials import Arm, commas, drawn, first, images
from spp.theory import nf_resnet_variances, normalized_branch, predict, stage_curve
from spp.tracing import trace

# side of the images, batch, and depths of the networks with the blocks of their stages
SIZES: dict[Size, tuple[int, int, dict[int, tuple[int, ...]]]] = {
    Size.TINY: (64, 32, {50: (3, 4, 6, 3)}),
    Size.REAL: (64, 32, {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 200: (3, 24, 36, 3)}),
    Size.FULL: (224, 16, {50: (3, 4, 6, 3), 600: (50, 50, 50, 50)}),
}

SEEDS = {Size.TINY: 5, Size.REAL: 6, Size.FULL: 5}

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
        "NF, circular padding", "NF with 3x3 convolutions that wrap around the image", NF, OPEN, padding={3: "circular"}
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

SEEN = ("bn", "bn_last", "nf")
"""Those that see images at the real size: the networks that the paper draws."""


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
        f"{len(setup.seed_list(SEEDS[setup.size]))} seeds, networks of {commas(nets)} layers.",
        *[
            f"{', '.join(ARMS[arm].label for arm in SEEN)} also on {batch} images of Fashion-MNIST each, drawn by seed: grey "
            f"repeated over three channels, brought from 28x28 to {side}x{side} bilinearly, then mean 0 and deviation 1 over "
            "the batch. Weights are those of the same seed on noise."
        ]
        * (setup.size is Size.REAL),
        *(f"{arm.label}: {arm.about}." for arm in ARMS.values()),
        "ACSM and ACV at the end of each block, ACV at the end of its branch before SkipInit's gain and alpha (0.2).",
        "`closed form` is the limit of many channels without padding; `layer by layer` is spp.theory.predict, padding and "
        "pooling included.",
        "Otherwise than in the source: PyTorch in place of JAX; analytic constants for the activation's gain in place of "
        "sampled ones (1.7129 in place of 1.7140 for ReLU)."
        + (" Images are 64x64, so that zero padding costs more than at 224x224." if side < 224 else ""),
    ]


def limits(setup: Setup) -> list[str]:
    """What the run cannot say."""
    noise = "Inputs are unit normal noise; images have correlated pixels, which these numbers do not cover."
    grey = [
        "Fashion-MNIST is grey, smooth where it is enlarged, and black behind its subject. Photographs in colour, at 224x224, "
        "which the paper is about, are other images: B8 and B9 say nothing of them.",
        "Why images are less to an NF-ResNet than noise is not a claim of this run. A standardized filter has mean zero: it "
        "sees how neighbours differ, in smooth images by little. Of two seeds beside this run (50 layers), the ACV was 0.26 to "
        "0.34 of that on noise, and 0.79 to 0.86 where the pixels of the same images were shuffled: smoothness is most of it.",
        "B9 is about the level of the plot. Its shape, as the tables show, is nearly that on noise, at a third of the height, "
        "which the first blocks have already; what follows for training was not asked.",
    ]
    return [
        "Networks are measured as they are drawn: nothing is said of training, nor of accuracy.",
        *(grey if setup.size is Size.REAL else [noise]),
        "Bounds on distances from the closed forms hold for these widths, depths and sides of images, not for all.",
    ]


def cells(setup: Setup) -> list[Cell]:
    """Every arm at each depth by seed, and once by theory; of real size, the paper's own on images too."""
    seeds = setup.seed_list(SEEDS[setup.size])
    also = {"images": (0.05, seeds)} if setup.size is Size.REAL else {}
    return [
        Cell.of(cost * sum(blocks), part=part, arm=arm, depth=depth, seed=seed)
        for depth, blocks in SIZES[setup.size][2].items()
        for arm in ARMS
        for part, (cost, own) in {"signals": (0.05, seeds), "predict": (0.1, (0,)), **also}.items()
        if part != "images" or arm in SEEN
        for seed in own
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
        seen = trace(model.to(setup.device), batch_of(cell["part"], shape, setup, seed), signals=("activation",)).blocks
    measured = blocks.assign(**{key: seen[key].to_numpy(dtype="float64") for key in MEASURED})
    return {"images" if cell["part"] == "images" else "blocks": measured}


def batch_of(part: str, shape: tuple[int, int, int], setup: Setup, seed: int) -> Tensor:
    """Noise, or images with its mean and deviation."""
    batch = SIZES[setup.size][1]
    if part == "signals":
        return gaussian(batch, shape, seed=seed)
    inputs, _ = first(images(setup, "cifar10", seed=seed, shape=shape, validation=0.0).train, batch)
    # enlarging lessens the variance, which a network without norm carries to its end
    return (inputs - inputs.mean()) / inputs.std(correction=0)


# --- what is printed and drawn ---------------------------------------------------------------------------------------


TITLES = {"acsm": "ACSM", "acv": "ACV", "branch_acv": "ACV of the branch"}


def sources(results: Results, arm: str, depth: int, depths: tuple[int, ...]) -> dict[str, pd.DataFrame]:
    """An arm at every block: as measured, and what theory says; empty where it says nothing."""
    closed = closed_form(arm, depths)
    return {
        "measured": results.of("blocks", arm=arm, depth=depth),
        "Fashion-MNIST": results.of("images", arm=arm, depth=depth),
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
                    for name in list(found)[1:]:
                        row[f"{title}, {name}"] = f"{ends[name][key].mean():.3g}" if name in ends else ""
                rows.append(row)
        if rows:
            table = pd.DataFrame(rows)
            # no column of images where none were traced
            printed[f"stages-{depth}"] = table.loc[:, (table != "").any()]
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
            data = "unit normal or Fashion-MNIST" if len(lines["Fashion-MNIST"]) else "unit normal"
            facts = {"data": data, "batch_size": batch, "input_shape": [3, side, side], "seeds": seeds}
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
    limits=limits,
    sizes=tuple(SIZES),
)
