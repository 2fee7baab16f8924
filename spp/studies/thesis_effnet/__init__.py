"""``thesis-effnet``: EfficientNet-B0 without BatchNorm (Dewyse, JKU Linz, 2025), with the controls that the thesis lacks.

Two kinds of cells: ``init`` traces a network as it is drawn, at the thesis' own size, on noise; ``train`` trains one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import nn

from spp import plot
from spp.data import gaussian
from spp.frame.schema import Column
from spp.nn import gain
from spp.studies.evidence import geometric
from spp.studies.reporting import frames, rate_in_words, spread, tabled
from spp.studies.study import Cell, Figures, Results, Setup, Size, Study, Tables
from spp.studies.thesis_effnet.claims import CLAIMS, RATES, TABLE_1, TABLE_1_THESIS, best_runs
from spp.studies.trials import Arm, drawn, images, trained
from spp.tracing import trace
from spp.training import Recipe
from spp.vocabulary import Signal

SIDE = 32
"""Of an image of CIFAR."""


@dataclass(frozen=True, slots=True)
class Network(Arm):
    """An EfficientNet.

    Attributes:
        gain: Whether the weights of convolutions are drawn with SiLU's gain, ``rms``, on top of the init.
        side: Of the images that its signals are measured on at init.
        batch: How many of them.
    """

    gain: bool = False
    side: int = SIDE
    batch: int = 64

    def make(self, classes: int, width: float = 1.0) -> nn.Module:
        """Build it for images of CIFAR's size; the thesis' drop path does nothing, so that there is none here."""
        shape = (3, SIDE, SIDE)
        model = self.build(input_shape=shape, num_classes=classes, width_multiplier=width, drop_path=0.0)
        if self.gain:
            with torch.no_grad():
                for layer in model.modules():
                    if isinstance(layer, nn.Conv2d):
                        layer.weight.mul_(gain("silu", "rms"))
        return model


B0 = "effnet_b0"
# the thesis' own init of its baseline: depthwise convolutions as if they were dense
BASELINE = {"init": "he_groups_blind", "head_init": "small_normal"}
TORCH_NORM = {"batch_eps": 1e-5, "batch_momentum": 0.1}
# images on which gates and padding are told apart: circular padding wants maps no smaller than itself
LARGE: Mapping[str, Any] = {"side": 64, "batch": 16}
# nothing that loses variance: gates of mean 1, and kernels that wrap around
KEPT_WHOLE: Mapping[str, Any] = {"changes": {"se": "doubled"}, "circular": (3, 5), **LARGE}

ARMS = {
    "batch": Network("BatchNorm", "the network as it is, SiLU, the thesis' init", B0, {**BASELINE, **TORCH_NORM}),
    "none": Network("no norm", "without norms, SiLU, the thesis' init", B0, {"norm": "none", **BASELINE}),
    "sn": Network("SN", "self-normalizing: SELU, LeCun init, no norm", "effnet_b0_sn"),
    "snmp": Network("SN-MP", "SN with magnitude-preserving sums and gates", "effnet_b0_snmp"),
    "dyt": Network("DyT", "DyT (alpha 0.5) in place of BatchNorm, SiLU, the thesis' init", "effnet_b0_dyt", BASELINE),
    "dyt_sn": Network("DyT + SN", "DyT (alpha 1) with SELU and LeCun init", "effnet_b0_dyt_sn"),
    "ws": Network("WS", "weights standardized, gates too, SiLU, no norm", "effnet_b0_ws", BASELINE),
    "ws_sn": Network("WS + SN", "the same with SELU and LeCun init", "effnet_b0_ws_sn"),
    "control": Network(
        "no norm + gain",
        "the control: no norm, variance g^2/fan_in in each convolution, groups counted, g the rms gain of SiLU",
        B0,
        {"norm": "none", "init": "lecun"},
        gain=True,
    ),
    "groups": Network(
        "no norm + groups",
        "no norm, He's init by fan-out with groups counted",
        B0,
        {"norm": "none", "init": "he_fan_out", "head_init": "small_normal"},
    ),
    "he": Network("no norm + He", "no norm, He's init by fan-in", B0, {"norm": "none", "init": "he"}),
    "sn_64": Network("SN at 64x64", "SN on larger images", "effnet_b0_sn", **LARGE),
    "snmp_64": Network("SN-MP at 64x64", "SN-MP on larger images", "effnet_b0_snmp", **LARGE),
    "snmp_double": Network("SN-MP + doubled gates", "its gates doubled", "effnet_b0_snmp", {"se": "doubled"}, **LARGE),
    "sn_kept": Network(
        "SN + doubled gates + circular",
        "SN with gates doubled and circular padding, so that neither loses variance",
        "effnet_b0_sn",
        **KEPT_WHOLE,
    ),
    "snmp_kept": Network("SN-MP + doubled gates + circular", "SN-MP with the same", "effnet_b0_snmp", **KEPT_WHOLE),
}
"""Every arm by name."""

TRAINED = (*TABLE_1, "dyt", "ws", "control")
"""What is trained at either size."""

TRAINED_FULL = (*TABLE_1, "dyt", "dyt_sn", "ws", "ws_sn", "control")
"""What is trained at full size."""

LOW_RATES = (1e-5, 1e-7)
"""Further ones at full size for weight standardization, which the thesis' scripts try down to 1e-7."""

WIDTHS = {Size.TINY: 0.25, Size.FULL: 1.0}
"""Width multiplier of the networks that are trained."""

WATCHED = ("batch", "none", "snmp")
"""Arms whose signals are measured while they are trained, for the first seed and one rate."""

WATCHED_RATE = 0.001
CLASSES = 100
INIT_SEEDS = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """What is trained, and how long.

    Attributes:
        about: Width and images, in words.
        arms: Which are trained.
        low: Rates at which weight-standardized ones are trained besides.
        epochs: Passes over the training images.
        batch: Images per step.
        seeds: How many.
        cost: Of a training run, beside a trace at init.
    """

    about: str
    arms: tuple[str, ...]
    low: tuple[float, ...]
    epochs: int
    batch: int
    seeds: int
    cost: float


PLANS = {
    Size.TINY: Plan(
        f"width multiplier {WIDTHS[Size.TINY]:g}, scikit-learn's digits brought to 3x32x32, a proxy: small, and another task",
        arms=TRAINED,
        low=(),
        epochs=3,
        batch=32,
        seeds=2,
        cost=40.0,
    ),
    Size.FULL: Plan(
        "full width, CIFAR-100 at 32x32 with random crops and flips, 80 % of its 50,000 images to learn from",
        arms=TRAINED_FULL,
        low=LOW_RATES,
        epochs=20,
        batch=512,
        seeds=5,
        cost=840.0,
    ),
}


def arrangement(setup: Setup) -> list[str]:
    """What is run, and what of the source is done otherwise."""
    plan = PLANS[setup.size]
    return [
        f"At init: full width, 100 classes, 64 x 3x32x32 unit normal noise, {len(setup.seed_list(INIT_SEEDS))} seeds; the "
        "thesis' own size.",
        f"Trained: {plan.about}; batch {plan.batch}, {plan.epochs} epochs, {len(setup.seed_list(plan.seeds))} seeds.",
        f"Adam at {', '.join(f'{rate:g}' for rate in RATES)}, constant, no weight decay; the last weights are tested.",
        *(f"{ARMS[arm].label}: {ARMS[arm].about}." for arm in plan.arms),
        "Otherwise than in the thesis' code: validation images are not augmented; statistics are merged exactly, "
        "channel statistics are those of channels everywhere; BatchNorm has torch's eps and momentum; the seed rules "
        "weights, order and split.",
        "Its init of the baseline ignores the groups of depthwise convolutions. It is kept where the thesis has it, since "
        "that is what it reports on; the arm `no norm + gain` does without.",
    ]


def limits(setup: Setup) -> list[str]:
    """What the run cannot say."""
    proxy = (
        f"Networks of {WIDTHS[setup.size]:g} of the width that are trained on {setup.size.images('')} for "
        f"{PLANS[setup.size].epochs} epochs are a proxy: their accuracies say nothing of CIFAR-100's in the thesis."
    )
    return [
        *[proxy] * (setup.size is not Size.FULL),
        "Rates are three powers of ten, none chosen for an arm: an arm may be better in between.",
        "The variance from block to block is that of networks as they are drawn, not of trained ones.",
    ]


def cells(setup: Setup) -> list[Cell]:
    """Every arm at init, and every trained arm at each rate, by seeds."""
    plan = PLANS[setup.size]
    init = [Cell.of(3.0, part="init", arm=arm, seed=seed) for arm in ARMS for seed in setup.seed_list(INIT_SEEDS)]
    train = [
        Cell.of(plan.cost, part="train", arm=arm, lr=lr, seed=seed)
        for seed in setup.seed_list(plan.seeds)
        for arm in plan.arms
        for lr in (*RATES, *(plan.low if arm.startswith("ws") else ()))
    ]
    return init + train


def measure(cell: Cell, setup: Setup) -> Tables:
    """Trace or train one network."""
    return _init(cell, setup) if cell["part"] == "init" else _train(cell, setup)


def _init(cell: Cell, setup: Setup) -> Tables:
    """Signals, and what the claims are about: ``init`` (one row) and ``path``, the variance from the stem to the head."""
    arm = ARMS[cell["arm"]]
    model = drawn(lambda: arm.make(CLASSES), cell["seed"]).to(setup.device)
    batch = gaussian(arm.batch, (3, arm.side, arm.side), seed=cell["seed"], num_classes=CLASSES)
    # the classifier has dropout, which draws masks
    found = drawn(lambda: trace(model, batch), cell["seed"])
    frame = found.frame
    stem = frame[(frame[Column.SIGNAL] == Signal.WEIGHT_GRADIENT) & (frame[Column.NAME] == "stem.conv")]
    path = _path(frame)
    facts = {
        "loss": found.run["loss_value"],
        "features_acv": path["acv"].iloc[-1],
        "stem_gradient": math.sqrt(float((stem[Column.MEAN_SQUARE] * stem[Column.NUMEL]).sum())),
    }
    # weights are left out: nothing is drawn of them, and they are most rows
    kept = frame[frame[Column.SIGNAL].isin((Signal.ACTIVATION, Signal.GRADIENT))].reset_index(drop=True)
    return {"init": pd.DataFrame([facts]), "path": path, "signals": kept}


def _path(frame: pd.DataFrame) -> pd.DataFrame:
    """The variance where the stem, each block and the last convolution end, and what a block's gates made of it."""
    seen = frame[frame[Column.SIGNAL] == Signal.ACTIVATION].set_index(Column.NAME)[Column.ACV]
    ends = ["stem", *(name for name in seen.index if name.startswith("stage") and name.count(".") == 1), "final"]
    # by name: there are fewer than ten stages, and than ten blocks in each
    ends.sort(key=lambda name: (name == "final", name != "stem", name))
    gates = [
        seen[f"{end}.se"] / seen[f"{end}.depthwise_act"] if f"{end}.se" in seen.index else math.nan for end in ends
    ]
    return pd.DataFrame({"place": ends, "acv": seen[ends].to_numpy(), "gate": gates})


def _train(cell: Cell, setup: Setup) -> Tables:
    arm, lr, seed = ARMS[cell["arm"]], float(cell["lr"]), int(cell["seed"])
    data = images(setup, "cifar100", seed=seed, shape=(3, SIDE, SIDE))
    plan = PLANS[setup.size]
    model = drawn(lambda: arm.make(len(data.classes), WIDTHS[setup.size]), seed)
    recipe = Recipe(epochs=plan.epochs, batch_size=plan.batch, lr=lr, seed=seed)
    watched = cell["arm"] in WATCHED and lr == WATCHED_RATE and seed == setup.seed_list(1)[0]
    return trained(model, data, recipe, setup, every="epoch" if watched else None)


# --- what is printed and drawn ---------------------------------------------------------------------------------------


DECAY = ("sn", "snmp", "sn_64", "snmp_64", "snmp_double", "sn_kept", "snmp_kept")
"""Arms whose variance is drawn from block to block."""

PLACES = {"stem": 0, "block 0": 1, "block 4": 5, "block 8": 9, "block 15": 16}
"""Ends along the network that are printed."""


def tables(results: Results, setup: Setup) -> Tables:
    """Accuracy by arm and rate, as Table 1; the same with the thesis' numbers; the signal at init."""
    test, path, facts = results["test"], results["path"], results["init"]
    best = best_runs(results)
    ends = [] if path.empty else list(path["place"].unique())

    def accuracy(arm: str, own: pd.DataFrame) -> dict[str, Any]:
        at = {lr: own[own["lr"] == lr] for lr in sorted(test["lr"].unique(), reverse=True)}
        return {
            "network": ARMS[arm].label,
            **{f"lr {lr:g}": _reached(runs) for lr, runs in at.items()},
            "best lr": rate_in_words(best[best["arm"] == arm]) if len(best) else "",
            "seeds": own["seed"].nunique(),
        }

    def at_init(arm: str, seen: pd.DataFrame) -> dict[str, Any]:
        mine, side = facts[facts["arm"] == arm], ARMS[arm].side
        acv = {f"ACV, {name}": seen[seen["place"] == ends[at]]["acv"] for name, at in PLACES.items()}
        acv |= {"ACV, features": mine["features_acv"], "gradient norm, stem": mine["stem_gradient"]}
        # geometric means over seeds, since these numbers span sixty decades
        words = {name: f"{geometric(values):.2g}" for name, values in acv.items()}
        row = {"network": ARMS[arm].label, "images": f"{side}x{side}", **words}
        return {**row, "loss": f"{mine['loss'].mean():.4g}", "seeds": len(mine)}

    printed = {"accuracy": tabled(test, "arm", accuracy), "init": tabled(path, "arm", at_init)}
    if setup.size is Size.FULL:
        printed["table-1"] = pd.DataFrame(
            [{"lr": lr} | {ARMS[arm].label: _beside_the_thesis(results, arm, lr) for arm in TABLE_1} for lr in RATES]
        )
    return printed


def _reached(runs: pd.DataFrame) -> str:
    early = int((~runs["finished"]).sum())
    return "" if runs.empty else spread(runs["accuracy"], 100) + (f" ({early} ended early)" if early else "")


def _beside_the_thesis(results: Results, arm: str, lr: float) -> str:
    mean, deviation = TABLE_1_THESIS[arm, lr]
    return f"{spread(results.of('test', arm=arm, lr=lr)['accuracy'], 100)} (thesis: {mean:.1f} ± {deviation:.1f})"


def figures(results: Results, setup: Setup) -> Figures:
    """The signal at init, and from block to block; accuracy by learning rate; the thesis' figures 4 and 5, over training."""
    size = f" at {WIDTHS[setup.size]:g} of its width" if WIDTHS[setup.size] != 1 else ""
    shape = {"input_shape": [3, SIDE, SIDE]}
    noise = {"model": "EfficientNet-B0", "data": "unit normal", **shape, "batch_size": 64}
    data = {"model": f"EfficientNet-B0{size}", "data": setup.size.images("CIFAR-100"), **shape}
    # arms of the decay see images of two sizes, so that the caption names neither
    several = noise | {"input_shape": None, "batch_size": None}
    labels = {name: arm.label for name, arm in ARMS.items()}
    shared: dict[str, Any] = {"by": "arm", "names": labels}
    arms = ("batch", "none", "groups", "he", "control")
    made = {
        "init": plot.compare({labels[arm]: frames(results["signals"], arm, noise) for arm in arms}, statistics="acv")
    }
    path, test = (
        table[table["arm"].isin(wanted)] if len(table) else table
        for table, wanted in ((results["path"], DECAY), (results["test"], TRAINED))
    )
    if len(path):
        axes: dict[str, Any] = {"x": "place", "y": "acv", "xlabel": "place in the network", "ylabel": "ACV"}
        made["decay"] = plot.outcomes(path, yscale="log", run=several, **axes, **shared)
    if len(test):
        axes = {"x": "lr", "y": "accuracy", "xlabel": "learning rate", "ylabel": "test accuracy"}
        made["accuracy"] = plot.outcomes(test, chance=setup.chance, run=data, **axes, **shared)
    watched = {arm: frames(results["evolution"], arm, data) for arm in WATCHED}
    if all(watched.values()):
        made["figure-4"] = plot.evolutions({labels[arm]: watched[arm] for arm in ("batch", "none")})
        (preserving,) = watched["snmp"]
        facts = {**preserving.run, "norm": labels["snmp"]}
        made["figure-5"] = plot.signal_plot("evolution", frame=preserving.frame, blocks=pd.DataFrame(), run=facts)
    return made


STUDY = Study(
    name="thesis-effnet",
    title="EfficientNet-B0 without BatchNorm",
    source="Dewyse (JKU Linz, 2025), poster and code",
    question="Can a stable EfficientNet-B0 be built without BatchNorm, and at what cost? And is it the norm that is missed, or "
    "a proper initialization?",
    arrangement=arrangement,
    claims=CLAIMS,
    cells=cells,
    measure=measure,
    tables=tables,
    figures=figures,
    limits=limits,
    sizes=tuple(PLANS),
)
