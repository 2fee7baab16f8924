"""``nf-resnet``: the Signal Propagation Plots of Brock, De & Smith (ICLR 2021), measured again beside theory.

Nothing is trained. A cell traces one network as it is drawn on unit normal noise (``signals``), or lets theory walk through it
(``predict``), which takes longer and does not depend on the seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from spp import models, plot
from spp.data import gaussian
from spp.plot.results import values
from spp.studies.nf_resnet_claims import CLAIMS
from spp.studies.study import Cell, Results, Setup, Study, Tables
from spp.studies.trials import drawn
from spp.theory import nf_resnet_variances, normalized_branch, predict, stage_curve
from spp.theory.residual import ChannelMoments
from spp.tracing import trace

OPEN = {"residual_options": {"gain": 1.0}, "drop_path": 0.0}
"""SkipInit's gain at 1, as where the paper draws its plots; at 0, where training begins, branches are shut."""


PLAIN = {**OPEN, "norm": "none", "gain": "gamma", "init": "lecun"}


@dataclass(frozen=True, slots=True)
class Arm:
    """One network.

    Attributes:
        label: What a reader calls it.
        about: One line for the list of what is run.
        model: Name of the bundled network.
        changes: What is changed about it.
        circular: Whether 3x3 convolutions wrap around the image in place of padding with zeros.
        pooled: Whether the stem pools maxima, whose mean is positive, or else takes every second pixel.
    """

    label: str
    about: str
    model: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    circular: bool = False
    pooled: bool = True

    def make(self, depths: tuple[int, ...], side: int) -> nn.Module:
        """Build it for images of that side."""
        model = models.build(self.model, depths=depths, input_shape=(3, side, side), **self.changes)
        if not self.pooled:
            model.get_submodule("stem").add_module("pool", nn.AvgPool2d(1, stride=2))
        if self.circular:
            for layer in model.modules():
                if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                    layer.padding_mode = "circular"
        return model


ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "bn": Arm("BN-ReLU-Conv", "pre-activation ResNet with BatchNorm, He's init", "resnetv2_50", {"init": "he"}),
        "bn_last": Arm(
            "ReLU-BN-Conv",
            "the same with BatchNorm behind the activation, LeCun's init",
            "resnetv2_50",
            {"init": "lecun", "order": "act_norm"},
        ),
        "none": Arm(
            "no norm", "the same without norm, He's init", "resnetv2_50", {"norm": "none", "gain": "none", "init": "he"}
        ),
        "nf": Arm("NF", "NF-ResNet with scaled weight standardization, SkipInit's gain at 1", "nf_resnet50", OPEN),
        "nf_shut": Arm(
            "NF, gain 0", "the same as training begins, SkipInit's gain at 0", "nf_resnet50", {"drop_path": 0.0}
        ),
        "nf_circular": Arm(
            "NF, circular padding",
            "NF with 3x3 convolutions that wrap around the image",
            "nf_resnet50",
            OPEN,
            circular=True,
        ),
        "nf_plain": Arm(
            "NF without WS",
            "NF with plain Gaussian weights of variance 1/fan_in, the activation's gain kept",
            "nf_resnet50",
            PLAIN,
        ),
        "nf_plain_unpooled": Arm(
            "NF without WS, unpooled",
            "the same with every second pixel of the stem in place of maxima, whose mean is positive",
            "nf_resnet50",
            PLAIN,
            pooled=False,
        ),
    }
)
"""Every arm by name."""

SIZES: Mapping[bool, tuple[int, int, tuple[tuple[int, tuple[int, ...]], ...]]] = MappingProxyType(
    {
        True: (64, 32, ((50, (3, 4, 6, 3)),)),
        False: (224, 16, ((50, (3, 4, 6, 3)), (600, (50, 50, 50, 50)))),
    }
)
"""Whether the study is quick: side of the images, batch, and depths of the networks with the blocks of their stages."""

SEEDS = 5
MEASURED = ("acsm", "acv", "branch_acv")
TITLES = {"acsm": "ACSM", "acv": "ACV", "branch_acv": "ACV of the branch"}


def arrangement(setup: Setup) -> list[str]:
    """What is run, and what of the source is done otherwise."""
    side, batch, nets = SIZES[setup.quick]
    return [
        f"As drawn, nothing is trained: {batch} x 3x{side}x{side} unit normal noise, BatchNorm in training mode, "
        f"{len(setup.seed_list(SEEDS))} seeds, networks of {' and '.join(str(depth) for depth, _ in nets)} layers.",
        *(f"{arm.label}: {arm.about}." for arm in ARMS.values()),
        "ACSM and ACV at the end of each block, ACV at the end of its branch before SkipInit's gain and alpha (0.2).",
        "`closed form` is the limit of many channels without padding; `layer by layer` is spp.theory.predict, padding and "
        "pooling included.",
        "Otherwise than in the source: PyTorch in place of JAX; analytic constants for the activation's gain in place of "
        "sampled ones (1.7129 in place of 1.7140 for ReLU)."
        + (" Images are 64x64, so that zero padding costs more than at 224x224." if setup.quick else ""),
    ]


def cells(setup: Setup) -> list[Cell]:
    """Every arm at each depth by seed, and once by theory."""
    _, _, nets = SIZES[setup.quick]
    return [
        Cell.of(cost * sum(blocks), part=part, arm=arm, depth=depth, seed=seed)
        for depth, blocks in nets
        for arm in ARMS
        for part, cost, seeds in (("signals", 1.0, setup.seed_list(SEEDS)), ("predict", 4.0, (0,)))
        for seed in seeds
    ]


def measure(cell: Cell, setup: Setup) -> Tables:
    """Trace one network, or let theory walk through it."""
    side, batch, nets = SIZES[setup.quick]
    arm, depths, seed = ARMS[cell["arm"]], dict(nets)[cell["depth"]], int(cell["seed"])
    model = drawn(lambda: arm.make(depths, side), seed)
    if cell["part"] == "predict":
        return {"prediction": _predicted(model, (batch, 3, side, side), depths)}
    with torch.no_grad():
        found = trace(model.to(setup.device), gaussian(batch, (3, side, side), seed=seed), signals=("activation",))
    blocks = found.blocks
    return {"blocks": _places(depths).assign(**{key: blocks[key].to_numpy(dtype="float64") for key in MEASURED})}


def _places(depths: tuple[int, ...]) -> pd.DataFrame:
    """Every block, counted through (``block``) and within its stage (``k``), from 1."""
    rows = [(stage, k) for stage, depth in enumerate(depths, 1) for k in range(1, depth + 1)]
    return pd.DataFrame(rows, columns=["stage", "k"]).assign(block=range(1, len(rows) + 1))


def _predicted(model: nn.Module, shape: tuple[int, ...], depths: tuple[int, ...]) -> pd.DataFrame:
    """Theory's numbers at the end of each block and of its branch."""
    table = predict(model, shape).drop_duplicates("name").set_index("name")
    places = _places(depths)
    ends = [f"stage{stage}.{k - 1}" for stage, k in zip(places["stage"], places["k"], strict=True)]
    return places.assign(
        acsm=table["acsm_predicted"].reindex(ends).to_numpy(),
        acv=table["acv_predicted"].reindex(ends).to_numpy(),
        branch_acv=table["acv_predicted"].reindex([f"{end}.conv3" for end in ends]).to_numpy(),
    )


def closed_form(arm: str, depths: tuple[int, ...]) -> pd.DataFrame | None:
    """The same in the limit of many channels without padding; None where there is no closed form.

    Without norm and without weight standardization the sum of ACSM and ACV has one, their shares have not.
    """
    places = _places(depths)
    if arm in ("bn", "bn_last"):
        branch = normalized_branch("relu", 2.0) if arm == "bn" else normalized_branch("relu", 1.0, norm_last=True)
        curves: list[ChannelMoments] = [one for depth in depths for one in stage_curve(branch, depth)]
        return places.assign(acsm=[c.acsm for c in curves], acv=[c.acv for c in curves], branch_acv=branch.acv)
    if arm in ("nf", "nf_circular", "nf_shut"):
        stages = nf_resnet_variances(depths, 0.0 if arm == "nf_shut" else 0.2)
        return places.assign(acsm=0.0, acv=[variance for stage in stages for _, variance in stage], branch_acv=1.0)
    return None


def tables(results: Results, setup: Setup) -> Tables:
    """The end of each stage by arm: measured, by the closed form, layer by layer."""
    blocks, prediction = results["blocks"], results["prediction"]
    _, _, nets = SIZES[setup.quick]
    printed: Tables = {}
    for depth, depths in nets:
        rows = []
        for arm, one in ARMS.items():
            mine = _of(blocks, arm, depth)
            if mine.empty:
                continue
            closed, walked = closed_form(arm, depths), _of(prediction, arm, depth)
            for stage, count in enumerate(depths, 1):
                row: dict[str, Any] = {"network": one.label, "stage": stage, "blocks": count}
                for key in MEASURED:
                    at = _end(mine, stage, count, key)
                    said = [f"{at.mean():.3g} ± {at.std(ddof=0):.2g}"]
                    if closed is not None:
                        said.append(f"{_end(closed, stage, count, key).mean():.3g}")
                    if len(walked):
                        said.append(f"{_end(walked, stage, count, key).mean():.3g}")
                    row[TITLES[key]] = " | ".join(said if closed is not None else [said[0], "", *said[1:]])
                rows.append({**row, "seeds": mine["seed"].nunique()})
        if rows:
            printed[f"stages-{depth}"] = _split(pd.DataFrame(rows))
    return printed


def _of(table: pd.DataFrame, arm: str, depth: int) -> pd.DataFrame:
    return table if table.empty else table[(table["arm"] == arm) & (table["depth"] == depth)]


def _end(table: pd.DataFrame, stage: int, k: int, key: str) -> pd.Series[float]:
    """Numbers at the last block of a stage."""
    return table[(table["stage"] == stage) & (table["k"] == k)][key]


def _split(table: pd.DataFrame) -> pd.DataFrame:
    """Three columns for each statistic: measured, by the closed form, layer by layer."""
    out = table.drop(columns=list(TITLES.values()))
    for title in TITLES.values():
        parts = table[title].str.split(" | ", regex=False, expand=True).reindex(columns=range(3))
        for index, name in enumerate(("", ", closed form", ", layer by layer")):
            out[f"{title}{name}"] = parts[index].fillna("")
    return out


def figures(results: Results, setup: Setup) -> dict[str, plot.SignalPlot]:
    """One for each arm and depth: the three statistics by block, measured and by theory."""
    side, batch, nets = SIZES[setup.quick]
    blocks, prediction = results["blocks"], results["prediction"]
    made = {}
    for depth, depths in nets:
        for arm, one in ARMS.items():
            lines = {"measured": _of(blocks, arm, depth), "closed form": closed_form(arm, depths)}
            lines["layer by layer"] = _of(prediction, arm, depth)
            if lines["measured"] is None or lines["measured"].empty:
                continue
            long = pd.concat(
                [
                    table.assign(value=table[key], statistic=TITLES[key], line=name)
                    for key in MEASURED
                    for name, table in lines.items()
                    if table is not None and len(table)
                ],
                ignore_index=True,
            )
            positive = long["value"][np.isfinite(long["value"]) & (long["value"] > 0)]
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
                yscale="log" if len(positive) and positive.max() > 100 else "linear",
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
)
