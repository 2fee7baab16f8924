"""``thesis-effnet``: EfficientNet-B0 without BatchNorm (Dewyse, JKU Linz, 2025), with the controls that the thesis lacks.

Two kinds of cells: ``init`` traces a network as it is drawn, at the thesis' own size, on noise; ``train`` trains one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from spp import plot
from spp.data import Splits, gaussian
from spp.frame.schema import Column
from spp.models.efficientnet import MBConv
from spp.nn import AffineLayer, gain
from spp.nn.activations import make_activation
from spp.nn.init import initialize_
from spp.nn.residual import NF_ALPHA
from spp.plot.runs import Beside
from spp.studies.evidence import geometric
from spp.studies.reporting import frames, rate_in_words, scored, spread, tabled
from spp.studies.study import Cell, Figures, Results, Setup, Size, Study, Tables
from spp.studies.thesis_effnet.claims import CLAIMS, RATES, REGULAR, TABLE_1, TABLE_1_THESIS, best_runs
from spp.studies.trials import Arm, drawn, epoch_means, images, scores, trained
from spp.tracing import trace
from spp.training import Recipe
from spp.training.results import History
from spp.vocabulary import Signal

SIDE = 32
"""Of an image of CIFAR."""
BATCH = 64
"""Images that signals at init are measured on."""


@dataclass(frozen=True, slots=True)
class Network(Arm):
    """An EfficientNet.

    Attributes:
        gain: Whether the weights of convolutions are drawn with SiLU's gain, ``rms``, on top of the init.
        growing: Whether the expected variance grows through all blocks and every branch is scaled, as in the thesis' code.
        smoothing: Of the labels it is trained with.
    """

    gain: bool = False
    growing: bool = False
    smoothing: float = 0.0

    def make(self, classes: int, width: float = 1.0) -> nn.Module:
        """Build it for images of CIFAR's size; the thesis' drop path does nothing, so that there is none unless asked for."""
        size = {"input_shape": (3, SIDE, SIDE), "num_classes": classes, "width_multiplier": width, "drop_path": 0.0}
        model = self.build(**{name: value for name, value in size.items() if name not in self.changes})
        if self.gain:
            with torch.no_grad():
                for layer in model.modules():
                    if isinstance(layer, nn.Conv2d):
                        layer.weight.mul_(gain("silu", "rms"))
        return as_in_the_thesis_(model) if self.growing else model


def as_in_the_thesis_(model: nn.Module) -> nn.Module:
    """Make of a normalizer-free EfficientNet the thesis' own: an activated stem, betas that never reset, alpha everywhere."""
    model.get_submodule("stem").add_module("act", make_activation("silu", "rms"))
    for index, block in enumerate(one for one in model.modules() if isinstance(one, MBConv)):
        block.beta = math.sqrt(1 + NF_ALPHA**2 * index)
        gates = block.get_submodule("se")
        gates.act = make_activation("silu", "rms")
        for layer in (gates.get_submodule("reduce"), gates.get_submodule("expand")):
            layer.gain = nn.Parameter(torch.ones(int(layer.out_channels)))  # type: ignore[arg-type]
        if block.merges:
            block.skip_gain.requires_grad_(False)
            continue
        # alpha times a branch that has no skip beside it: a scale that is not learned, in the place of its norm
        channels = block.get_submodule("project").out_channels
        block.project_norm = AffineLayer(int(channels)).requires_grad_(False)  # type: ignore[arg-type]
        block.project_norm.weight.fill_(NF_ALPHA)
    return model


@dataclass(frozen=True, slots=True)
class Cnn(Arm):
    """The thesis' small convolutional network.

    Attributes:
        convs: Whether BatchNorm follows its convolutions.
        linears: Whether it follows its hidden Linear layers.
        smoothing: See :class:`Network`.
    """

    convs: bool = False
    linears: bool = False
    smoothing: float = 0.0

    def make(self, classes: int, width: float = 1.0) -> nn.Module:
        """Build it at its one width."""
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((3, 32, 64, 128)):
            norm = [nn.BatchNorm2d(outputs)] if self.convs else []
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), *norm, nn.ReLU(), nn.MaxPool2d(2)]
        layers.append(nn.Flatten())
        for inputs, outputs in pairwise((128 * (SIDE // 8) ** 2, 512, 256)):
            norms = [nn.BatchNorm1d(outputs)] if self.linears else []
            layers += [nn.Linear(inputs, outputs), *norms, nn.ReLU()]
        return initialize_(nn.Sequential(*layers, nn.Linear(256, classes)), "he_fan_out")


B0, SN, SNMP = "effnet_b0", "effnet_b0_sn", "effnet_b0_snmp"
# the thesis' own init of its baseline: depthwise convolutions as if they were dense
BASELINE = {"init": "he_groups_blind", "head_init": "small_normal"}
TORCH_NORM = {"batch_eps": 1e-5, "batch_momentum": 0.1}
DOUBLED = {"se": "doubled"}
# copies of the edge; maps of a single pixel, as the last ones are, can neither be wrapped around nor mirrored
KEPT = {3: "replicate", 5: "replicate"}
UNIFORM = {"norm": "none", "residual": "nf", "residual_options": {"gain": 1.0}, "preactivation": True, "gain": "rms"}

ARMS: dict[str, Network | Cnn] = {
    "batch": Network("BatchNorm", "the network as it is, SiLU, the thesis' init", B0, {**BASELINE, **TORCH_NORM}),
    "none": Network("no norm", "without norms, SiLU, the thesis' init", B0, {"norm": "none", **BASELINE}),
    "sn": Network("SN", "self-normalizing: SELU, LeCun init, no norm", SN),
    "snmp": Network("SN-MP", "SN with magnitude-preserving sums and gates", SNMP),
    "snmp_learned": Network("SN-MP learned", "SN-MP with a learned weight in each sum", "effnet_b0_snmp_learned"),
    "ws_se_sn": Network(
        "SN + WS in SE", "SN, weights standardized in squeeze-and-excitation alone", "effnet_b0_ws_se_sn"
    ),
    "nf": Network(
        "NF", "normalizer-free after Brock et al. (2021): scaled weights, SkipInit, betas that reset", "effnet_b0_nf"
    ),
    "un": Network(
        "UN",
        "the thesis' own normalizer-free network: betas that never reset, every branch times 0.2, scaled weights in "
        "squeeze-and-excitation alone, SiLU with its rms gain, its init",
        B0,
        {**UNIFORM, **DOUBLED, **BASELINE, "se_weight_norm": "scaled_ws"},
        growing=True,
    ),
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
    "sn_gates": Network("SN, doubled gates", "SN, its gates doubled", SN, DOUBLED),
    "sn_edge": Network("SN, edge copied", "SN, its convolutions padded with copies of the edge", SN, padding=KEPT),
    "sn_kept": Network("SN, both", "SN with both", SN, DOUBLED, padding=KEPT),
    "snmp_gates": Network("SN-MP, doubled gates", "SN-MP, its gates doubled", SNMP, DOUBLED),
    "snmp_edge": Network("SN-MP, edge copied", "SN-MP padded with copies of the edge", SNMP, padding=KEPT),
    "snmp_kept": Network("SN-MP, both", "SN-MP with both", SNMP, DOUBLED, padding=KEPT),
}
"""Every arm that is measured at init, by name."""

ALPHAS = {
    f"{arm}_{alpha:g}": replace(
        ARMS[arm],
        label=f"{ARMS[arm].label}, alpha {alpha:g}",
        changes={**ARMS[arm].changes, "norm_options": {"alpha": alpha}},
    )
    for alpha in (0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
    for arm in ("dyt", "dyt_sn")
}
"""The thesis' own search of DyT's alpha."""

CNNS = {
    "cnn": Cnn("CNN", "three convolutions of 32 to 128 channels, two hidden Linear layers, ReLU, no norm"),
    "cnn_convs": Cnn("CNN + BN in convolutions", "the same with BatchNorm behind its convolutions", convs=True),
    "cnn_all": Cnn(
        "CNN + BN in all", "the same with BatchNorm behind its hidden Linear layers too", convs=True, linears=True
    ),
    "cnn_linears": Cnn(
        "CNN + BN in Linear layers", "the same with BatchNorm behind the Linear layers alone", linears=True
    ),
}
"""The thesis' CNN, CNN1 and CNN2, with BatchNorm on and off."""

TRAINABLE: dict[str, Network | Cnn] = {
    **ARMS,
    "sn_dropout": Network(
        "SN + dropout",
        "SN with SELU's own dropout of 0.5 before the classifier",
        SN,
        {"dropout": 0.5, "alpha_dropout": True},
    ),
    "sn_depth": Network(
        "SN + stochastic depth", "SN whose branches are dropped, up to 0.2 at the last block", SN, {"drop_path": 0.2}
    ),
    "sn_smooth": Network("SN + label smoothing", "SN trained with labels smoothed by 0.1", SN, smoothing=0.1),
    **ALPHAS,
    **CNNS,
}
"""Every arm that can be trained."""

WATCHED = ("batch", "none", "snmp")
"""Arms whose signals are drawn over training, for the first seed and one rate."""

FOLLOWED = ("sn", "snmp")
"""Arms whose variance is followed along the network, for seeds that are judged."""

WATCHED_RATE = 0.001
CLASSES = 100
INIT_SEEDS, SHOWN_SEEDS = 5, 3
"""Networks as they are drawn: of arms that are judged so, and of others."""

JUDGED_AT_INIT = ("none", "control", *(arm for arm in ARMS if arm.startswith("sn")))


@dataclass(frozen=True, slots=True)
class Runs:
    """Arms that are trained alike.

    Attributes:
        arms: Their names.
        seeds: How many.
        rates: Of Adam; all are tried for the first seed, which chooses.
        later: Those of the other seeds, by arm; None for all.
        few: Where it is asked what regularization does: how many images they are trained on, and epochs.
    """

    arms: tuple[str, ...]
    seeds: int
    rates: tuple[float, ...] = RATES
    later: Mapping[str, tuple[float, ...]] | None = None
    few: tuple[int, int] | None = None

    def cells(self, setup: Setup, cost: float) -> list[Cell]:
        """A training run each."""
        return [
            Cell.of(cost, part="train" if self.few is None else "few", arm=arm, lr=lr, seed=seed)
            for at, seed in enumerate(setup.seed_list(self.seeds))
            for arm in self.arms
            for lr in (self.rates if not at or self.later is None else self.later.get(arm, ()))
        ]


TRIED = (0.1, 0.01, 0.003, 0.001)
"""At the real size, by the first seed."""

CHOSEN = {"batch": (0.003,), "none": (0.001,), "sn": (0.003,), "snmp": (0.001,), "control": (0.01,)}
"""The rate of the judged seeds at the real size: what the first seed's validation images chose in a pilot of these cells."""

TRAINED = (*TABLE_1, "dyt", "ws", "control")
"""What is trained at the tiny size."""

OTHERS = ("snmp_learned", "ws_se_sn", "nf", "un", "dyt", "dyt_sn", "ws", "ws_sn")
LOW_RATES = (1e-5, 1e-7)
"""Further ones for weight standardization, which the thesis' scripts try down to 1e-7."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is trained, and how long.

    Attributes:
        about: Width and images, in words.
        width: Multiplier of the networks that are trained.
        runs: What is trained.
        epochs: Passes over the training images.
        batch: Images per step.
        cost: Seconds of a training run.
        drawn: Epochs over whose batches signals are averaged; none for the first step of each epoch.
        images: How the images are made, as ``spp.data.splits`` takes it.
        tested: At most so many test images.
    """

    about: str
    width: float
    runs: tuple[Runs, ...]
    epochs: int
    batch: int
    cost: float
    drawn: tuple[int, ...] = ()
    images: Mapping[str, Any] = field(default_factory=dict)
    tested: int = 10_000

    @property
    def arms(self) -> list[str]:
        """Whatever is trained."""
        return list(dict.fromkeys(arm for runs in self.runs for arm in runs.arms))


PLANS = {
    Size.TINY: Plan(
        "width multiplier 0.25, scikit-learn's digits brought to 3x32x32, a proxy: small, and another task",
        width=0.25,
        runs=(Runs(TRAINED, 2),),
        epochs=3,
        batch=32,
        cost=40.0,
    ),
    Size.REAL: Plan(
        "width multiplier 0.25, Fashion-MNIST with a black border to 3x32x32, 1,600 images by seed to learn from, 300 others "
        "for validation, the first 1,000 test images",
        width=0.25,
        runs=(
            Runs(("sn", "snmp", "batch"), 6, TRIED, CHOSEN),
            Runs(("none", "control"), 4, TRIED, CHOSEN),
            # DyT + SN at alpha 1 is among the alphas
            Runs(tuple(arm for arm in OTHERS if arm != "dyt_sn"), 1, (WATCHED_RATE,)),
            Runs(("ws", "ws_sn"), 1, LOW_RATES[:1]),
            Runs(tuple(ALPHAS), 1, (WATCHED_RATE,)),
            Runs(tuple(CNNS), 1, (0.1, WATCHED_RATE)),
            Runs(("sn", *REGULAR), 4, CHOSEN["sn"], few=(192, 25)),
        ),
        epochs=3,
        batch=32,
        cost=12.0,
        drawn=(0, 1, 2),
        images={"resize": "pad", "train": 1600, "validation": 300},
        tested=1000,
    ),
    Size.FULL: Plan(
        "full width, CIFAR-100 at 32x32 with random crops and flips, 80 % of its 50,000 images to learn from",
        width=1.0,
        runs=(
            Runs((*TABLE_1, "control", *OTHERS), 5),
            Runs(("sn", *REGULAR), 5, (0.001,), few=(40_000, 20)),
            Runs(("ws", "ws_sn"), 5, LOW_RATES),
            Runs(tuple(ALPHAS), 1, (WATCHED_RATE,)),
            Runs(tuple(CNNS), 5),
        ),
        epochs=20,
        batch=512,
        cost=840.0,
        drawn=(0, 9, 19),
    ),
}


def arrangement(setup: Setup) -> list[str]:
    """What is run, and what of the source is done otherwise."""
    plan = PLANS[setup.size]
    return [
        f"At init: full width, 100 classes, {BATCH} x 3x{SIDE}x{SIDE} unit normal noise, "
        f"{len(setup.seed_list(INIT_SEEDS))} seeds of whatever is judged; the thesis' own size.",
        f"Trained: {plan.about}; batch {plan.batch}, {plan.epochs} epochs.",
        "Adam, constant, no weight decay; the last weights are tested.",
        *(_told(runs, setup) for runs in plan.runs),
        *[
            "The rate of the judged seeds was found in a pilot of the first seed, by its validation images; the run repeats "
            "it, and judges no arm for which it comes out otherwise.",
            f"Signals over training are means over all batches of an epoch, as the thesis draws them: for the first seed at "
            f"{WATCHED_RATE:g} of epochs {', '.join(map(str, plan.drawn))}, for judged seeds of the last one.",
        ]
        * (setup.size is Size.REAL),
        *(
            f"{TRAINABLE[arm].label}: {TRAINABLE[arm].about}."
            for arm in dict.fromkeys([*ARMS, *plan.arms])
            if arm not in ALPHAS
        ),
        "Otherwise than in the thesis' code: validation images are not augmented; statistics are merged exactly, "
        "channel statistics are those of channels everywhere; BatchNorm has torch's eps and momentum; the seed rules "
        "weights, order and split. In its CNN the switch of BatchNorm is turned round; here on is on.",
        "Its init of the baseline ignores the groups of depthwise convolutions. It is kept where the thesis has it, since "
        "that is what it reports on; the arm `no norm + gain` does without.",
    ]


def _told(runs: Runs, setup: Setup) -> str:
    """One line about a group of runs."""
    seeds, labels = len(setup.seed_list(runs.seeds)), [TRAINABLE[arm].label for arm in runs.arms]
    who = f"{labels[0]} to {labels[-1]}" if len(labels) > 8 else ", ".join(labels)
    rates = ", ".join(f"{rate:g}" for rate in runs.rates)
    if runs.few:
        who += f", on {runs.few[0]:,} images for {runs.few[1]} epochs"
    if runs.later is None or seeds == 1:
        return f"{who}: at {rates}, {seeds} seed{'s' * (seeds > 1)}."
    judged = {TRAINABLE[arm].label: f"{runs.later[arm][0]:g}" for arm in runs.arms}
    others = " and ".join(f"{lr} ({label})" for label, lr in judged.items()) if len(judged) > 1 else judged[labels[0]]
    return f"{who}: the first seed at {rates}, which chooses; {seeds - 1} others at {others}, which are judged."


def limits(setup: Setup) -> list[str]:
    """What the run cannot say."""
    plan = PLANS[setup.size]
    proxy = (
        f"Networks of {plan.width:g} of the width that are trained on {setup.size.images('')} for "
        f"{plan.epochs} epochs are a proxy: their accuracies say nothing of CIFAR-100's in the thesis."
    )
    real = [
        "150 steps show how fast arms learn, not where they would end; the thesis has 1,580, of 512 images each. C6, C6-same "
        "and C8 are about a beginning; what a test sees of BatchNorm there are young running statistics.",
        "C5-training and C5-gates are about networks of a quarter of the width that see images, C5 about whole ones that see "
        "noise: the one fall is no remainder of the other. SN-MP, of which one seed was drawn, falls by 5 in the first epoch.",
        "C9 asks where there is something to regularize: 192 images that are learned by heart, of a grey and easy set. On the "
        "40,000 of the thesis the gap between training and test may be another.",
        "Arms of one seed (learned sums, weight standardization, NF, UN, DyT, the CNNs) are shown, not judged.",
        "The first test images are the same for all: intervals are over seeds of weights, order and training images.",
        "Each arm has four rates; one seed and 300 images chose among them, and SN has two that are nearly as good.",
        "The parts that gates and padding have in the fall of the variance are those of networks as they are drawn, on noise, "
        "at 32x32, where the last maps are a single pixel: a kernel of 5x5 meets 24 zeros there. On larger images zeros weigh "
        "less.",
    ]
    others = [
        "Rates are three powers of ten, none chosen for an arm: an arm may be better in between.",
        "The variance from block to block is that of networks as they are drawn, not of trained ones.",
    ]
    return [*[proxy] * (setup.size is not Size.FULL), *(real if setup.size is Size.REAL else others)]


def cells(setup: Setup) -> list[Cell]:
    """Every arm at init by seeds, and every trained arm at its rates, by seeds."""
    plan = PLANS[setup.size]
    init = [
        Cell.of(1.0, part="init", arm=arm, seed=seed)
        for arm in ARMS
        for seed in setup.seed_list(INIT_SEEDS if arm in JUDGED_AT_INIT else SHOWN_SEEDS)
    ]
    found = [cell for runs in plan.runs for cell in runs.cells(setup, plan.cost)]
    return init + list(dict.fromkeys(found))


def measure(cell: Cell, setup: Setup) -> Tables:
    """Trace or train one network."""
    return _init(cell, setup) if cell["part"] == "init" else _train(cell, setup)


def _init(cell: Cell, setup: Setup) -> Tables:
    """Signals, and what the claims are about: ``init`` (one row) and ``path``, the variance from the stem to the head."""
    model = drawn(lambda: ARMS[cell["arm"]].make(CLASSES), cell["seed"]).to(setup.device)
    batch = gaussian(BATCH, (3, SIDE, SIDE), seed=cell["seed"], num_classes=CLASSES)
    # the classifier has dropout, which draws masks
    found = drawn(lambda: trace(model, batch), cell["seed"])
    frame = found.frame
    stem = frame[(frame[Column.SIGNAL] == Signal.WEIGHT_GRADIENT) & (frame[Column.NAME] == "stem.conv")]
    path = path_of(frame)
    facts = {
        "loss": found.run["loss_value"],
        "features_acv": path["acv"].iloc[-1],
        "stem_gradient": math.sqrt(float((stem[Column.MEAN_SQUARE] * stem[Column.NUMEL]).sum())),
    }
    # weights are left out: nothing is drawn of them, and they are most rows
    kept = frame[frame[Column.SIGNAL].isin((Signal.ACTIVATION, Signal.GRADIENT))].reset_index(drop=True)
    return {"init": pd.DataFrame([facts]), "path": path, "signals": kept}


ENDS = ("expand_act", "depthwise_act", "se", "project")
"""Where the steps of a block end."""


def path_of(frame: pd.DataFrame) -> pd.DataFrame:
    """The variance where the stem, each block and the last convolution end, and what the steps of a block made of it.

    ``gate`` is what squeeze-and-excitation multiplied it by, ``others`` by what factor, up or down, the other steps changed it
    (the geometric mean over expansion, depthwise convolution and projection).
    """
    seen = frame[frame[Column.SIGNAL] == Signal.ACTIVATION].set_index(Column.NAME)[Column.ACV]
    ends = ["stem", *(name for name in seen.index if name.startswith("stage") and name.count(".") == 1), "final"]
    # by name: there are fewer than ten stages, and than ten blocks in each
    ends.sort(key=lambda name: (name == "final", name != "stem", name))
    rows = [{"place": "stem", "acv": seen["stem"]}]
    for before, end in pairwise(ends):
        steps = [name for name in ENDS if f"{end}.{name}" in seen.index]
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(seen[[before, *(f"{end}.{name}" for name in steps)]].to_numpy("float64"))
            changes = dict(zip(steps, np.diff(logs), strict=True))
        row: dict[str, Any] = {"place": end, "acv": seen[end]}
        if "se" in changes:
            gate = changes.pop("se")
            row |= {"gate": math.exp(gate), "others": math.exp(np.mean(np.abs(list(changes.values()))))}
        rows.append(row)
    return pd.DataFrame(rows, columns=["place", "acv", "gate", "others"])


def data_of(setup: Setup, seed: int, **counts: int) -> Splits:
    """What a cell trains on and is tested on."""
    plan = PLANS[setup.size]
    data = images(setup, "cifar100", seed=seed, shape=(3, SIDE, SIDE), **{**plan.images, **counts})
    return replace(data, test=replace(data.test, indices=data.test.indices[: plan.tested]))


def _train(cell: Cell, setup: Setup) -> Tables:
    arm, lr, seed, plan = TRAINABLE[cell["arm"]], float(cell["lr"]), int(cell["seed"]), PLANS[setup.size]
    few = next((runs.few for runs in plan.runs if runs.few), None) if cell["part"] == "few" else None
    data = data_of(setup, seed, **({"train": few[0]} if few else {}))
    # the same numbers, in a layout of which convolutions of few channels take half the time on a CPU
    model = drawn(lambda: arm.make(len(data.classes), plan.width), seed)
    # torch's own stubs do not know this argument
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    epochs = few[1] if few else plan.epochs
    recipe = Recipe(epochs=epochs, batch_size=plan.batch, lr=lr, seed=seed, label_smoothing=arm.smoothing)
    length = -(-len(data.train) // plan.batch)
    if few:
        tables = trained(model, data, recipe, setup)
        learned = tables["history"][str(History.TRAIN_ACCURACY)].iloc[-1]
        return {"few": tables["test"].assign(learned=learned, **scores(model, data.test))}
    first = seed == setup.seed_list(1)[0]
    shown = cell["arm"] in WATCHED and lr == WATCHED_RATE and first
    followed = cell["arm"] in FOLLOWED and not first and bool(plan.drawn) and lr in CHOSEN[cell["arm"]]
    measured = plan.drawn if shown else plan.drawn[-1:]
    every: Any = [epoch * length + step for epoch in measured for step in range(length)] if plan.drawn else "epoch"
    # along the network activations tell enough
    only = {"include": ["stem", "stage?.?", *(f"*.{end}" for end in ENDS), "final"], "signals": ("activation",)}
    tables = trained(
        model, data, recipe, setup, every=every if shown or followed else None, watch=None if shown else only
    )
    tables["test"] = tables["test"].assign(**scores(model, data.test))
    if shown or followed:
        means = epoch_means(tables.pop("evolution"), length)
        # weights are measured once more behind the last step
        training = means[(means[str(Column.MODE)] == "train") & (means["epoch"] < plan.epochs)]
        by_epoch = {epoch: path_of(own) for epoch, own in training.groupby("epoch")}
        tables["progress"] = pd.concat(by_epoch, names=["epoch"]).reset_index("epoch").reset_index(drop=True)
        tables |= {"evolution": means} if shown else {}
    return tables


# --- what is printed and drawn ---------------------------------------------------------------------------------------


DECAY = {
    f"{arm}{end}": {"network": TRAINABLE[arm].label, "line": line}
    for arm in FOLLOWED
    for end, line in {"": "as it is", "_gates": "gates doubled", "_edge": "edge copied", "_kept": "both"}.items()
}
"""Arms whose variance is drawn from block to block, with their panels and lines."""

PLACES = {"stem": 0, "block 0": 1, "block 4": 5, "block 8": 9, "block 15": 16}
"""Ends along the network that are printed."""


def tables(results: Results, setup: Setup) -> Tables:
    """Accuracy by arm and rate, as Table 1; the same with the thesis' numbers; the signal at init and over training."""
    test, path, facts = results["test"], results["path"], results["init"]
    best = best_runs(results)
    ends = [] if path.empty else list(path["place"].unique())
    labels = {name: arm.label for name, arm in TRAINABLE.items()}

    def accuracy(arm: str, own: pd.DataFrame) -> dict[str, Any]:
        at = {lr: own[own["lr"] == lr] for lr in sorted(test["lr"].unique(), reverse=True)}
        chosen = best[best["arm"] == arm] if own["lr"].nunique() > 1 else own.iloc[:0]
        return {
            "network": labels[arm],
            **{f"lr {lr:g}": _reached(runs) for lr, runs in at.items()},
            # of a single rate none is the best
            "best lr": rate_in_words(chosen) if len(chosen) else "",
        }

    def at_init(arm: str, seen: pd.DataFrame) -> dict[str, Any]:
        mine = facts[facts["arm"] == arm]
        acv = {f"ACV, {name}": seen[seen["place"] == ends[at]]["acv"] for name, at in PLACES.items()}
        acv |= {"ACV, features": mine["features_acv"], "gradient norm, stem": mine["stem_gradient"]}
        # geometric means over seeds, since these numbers span sixty decades
        words = {name: f"{geometric(values):.2g}" for name, values in acv.items()}
        return {"network": labels[arm], **words, "loss": f"{mine['loss'].mean():.4g}", "seeds": len(mine)}

    def in_training(key: tuple[str, float, int], own: pd.DataFrame) -> dict[str, Any]:
        arm, lr, epoch = key
        blocks = own.dropna(subset="gate")
        return {
            "network": labels[arm],
            "lr": lr,
            "epoch": epoch,
            **{f"ACV, {name}": f"{geometric(own[own['place'] == ends[at]]['acv']):.2g}" for name, at in PLACES.items()},
            "a gate multiplies by": f"{geometric(blocks['gate']):.2g}",
            "another step changes by": f"{geometric(blocks['others']):.2g}",
            "seeds": own["seed"].nunique(),
        }

    def by_heart(arm: str, own: pd.DataFrame) -> dict[str, Any]:
        words = {"training accuracy": own["learned"], "test accuracy": own["accuracy"]}
        return {"network": labels[arm], **{name: spread(runs, 100) for name, runs in words.items()}, "seeds": len(own)}

    printed = {
        "accuracy": tabled(test, "arm", accuracy),
        # of a single seed there is no spread
        "scores": scored(test if test.empty else test.groupby(["arm", "lr"]).filter(lambda own: len(own) > 1), labels),
        "init": tabled(path, "arm", at_init),
        "in-training": tabled(results["progress"] if ends else pd.DataFrame(), ["arm", "lr", "epoch"], in_training),
        "few-images": tabled(results["few"], "arm", by_heart),
    }
    if setup.size is Size.FULL:
        printed["table-1"] = pd.DataFrame(
            [{"lr": lr} | {ARMS[arm].label: _beside_the_thesis(results, arm, lr) for arm in TABLE_1} for lr in RATES]
        )
    return {name: table for name, table in printed.items() if len(table)}


def _reached(runs: pd.DataFrame) -> str:
    if runs.empty:
        return ""
    early = int((~runs["finished"]).sum())
    said = spread(runs["accuracy"], 100) if len(runs) > 1 else f"{100 * runs['accuracy'].iloc[0]:.1f}"
    return f"{said} ({len(runs)} seed{'s' * (len(runs) > 1)}{f', {early} ended early' if early else ''})"


def _beside_the_thesis(results: Results, arm: str, lr: float) -> str:
    mean, deviation = TABLE_1_THESIS[arm, lr]
    return f"{spread(results.of('test', arm=arm, lr=lr)['accuracy'], 100)} (thesis: {mean:.1f} ± {deviation:.1f})"


def figures(results: Results, setup: Setup) -> Figures:
    """The signal at init, and from block to block; accuracy by learning rate; the thesis' figures 4 and 5, over training."""
    plan = PLANS[setup.size]
    size = f" at {plan.width:g} of its width" if plan.width != 1 else ""
    shape = {"input_shape": [3, SIDE, SIDE]}
    noise = {"model": "EfficientNet-B0", "data": "unit normal", **shape, "batch_size": BATCH}
    data = {"model": f"EfficientNet-B0{size}", "data": setup.size.images("CIFAR-100"), **shape}
    labels = {name: arm.label for name, arm in ARMS.items()}
    arms = ("batch", "none", "groups", "he", "control")
    made = {
        "init": plot.compare({labels[arm]: frames(results["signals"], arm, noise) for arm in arms}, statistics="acv")
    }
    path, test = (
        table[table["arm"].isin(wanted)] if len(table) else table
        for table, wanted in ((results["path"], DECAY), (results["test"], (*TABLE_1, "control")))
    )
    if len(path):
        told = path.assign(**{key: [DECAY[arm][key] for arm in path["arm"]] for key in ("network", "line")})
        axes: dict[str, Any] = {"x": "place", "y": "acv", "xlabel": "place in the network", "ylabel": "ACV"}
        made["decay"] = plot.outcomes(told, yscale="log", run=noise, by="line", panels="network", **axes)
    if len(test):
        axes = {"x": "lr", "y": "accuracy", "xlabel": "learning rate", "ylabel": "test accuracy"}
        made["accuracy"] = plot.outcomes(test, chance=setup.chance, run=data, by="arm", names=labels, **axes)
    watched = {arm: _watched(results["evolution"], arm, data) for arm in WATCHED}
    if all(watched.values()):
        made["figure-4"] = plot.evolutions({labels[arm]: watched[arm] for arm in ("batch", "none")})
        (preserving,) = watched["snmp"]
        facts = {**preserving.run, "norm": labels["snmp"]}
        made["figure-5"] = plot.signal_plot("evolution", frame=preserving.frame, blocks=pd.DataFrame(), run=facts)
    return made


def _watched(evolution: pd.DataFrame, arm: str, facts: Mapping[str, Any]) -> list[Beside]:
    """The run of an arm that was watched; how many steps an epoch has follows from its last row."""
    mine = evolution[evolution["arm"] == arm] if len(evolution) else evolution
    if mine.empty:
        return []
    step, epoch = (mine[column].iloc[-1] for column in (str(Column.STEP), "epoch"))
    return frames(mine, arm, {**facts, **({"steps_per_epoch": int(step // epoch)} if epoch else {})})


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
