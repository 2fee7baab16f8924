"""``nf-resnet``: the Signal Propagation Plots of Brock, De & Smith (ICLR 2021), measured again beside theory.

Nothing is trained. A cell traces one network as it is drawn on unit normal noise (``signals``), or lets theory walk through it
(``predict``), which takes longer and does not depend on the seed.
"""

from __future__ import annotations

import torch

from spp.data import gaussian
from spp.studies.nf_resnet import figures
from spp.studies.nf_resnet.claims import ARMS, CLAIMS, MEASURED, places
from spp.studies.nf_resnet.figures import SIZES
from spp.studies.study import Cell, Setup, Study, Tables
from spp.studies.trials import drawn
from spp.theory import predict
from spp.tracing import trace

SEEDS = 5


def arrangement(setup: Setup) -> list[str]:
    """What is run, and what of the source is done otherwise."""
    side, batch, nets = SIZES[setup.quick]
    return [
        f"As drawn, nothing is trained: {batch} x 3x{side}x{side} unit normal noise, BatchNorm in training mode, "
        f"{len(setup.seed_list(SEEDS))} seeds, networks of {' and '.join(map(str, nets))} layers.",
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
    return [
        Cell.of(cost * sum(blocks), part=part, arm=arm, depth=depth, seed=seed)
        for depth, blocks in SIZES[setup.quick][2].items()
        for arm in ARMS
        for part, cost, seeds in (("signals", 1.0, setup.seed_list(SEEDS)), ("predict", 4.0, (0,)))
        for seed in seeds
    ]


def measure(cell: Cell, setup: Setup) -> Tables:
    """Trace one network, or let theory walk through it."""
    side, batch, nets = SIZES[setup.quick]
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
    tables=figures.tables,
    figures=figures.figures,
)
