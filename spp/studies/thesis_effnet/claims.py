"""The networks of ``thesis-effnet`` and its claims, each with the criterion that decides it, fixed before anything was run.

The networks are EfficientNet-B0 as the thesis builds it, and the controls that it lacks. Numbers of the thesis stand here once,
in ``TABLE_1_THESIS``: test accuracy on CIFAR-100 in per cent, mean and deviation, read from its poster. What is printed and
drawn are its Table 1, its figures 4 and 5, and the signal at init.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import nn

from spp import plot
from spp.nn import gain
from spp.studies.evidence import Difference, decided, frames, geometric, mean_accuracy, spread, tabled
from spp.studies.study import Figures, Results, Setup, Size, Tables, Untestable, Verdict, claim
from spp.studies.trials import Arm

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

TABLE_1 = ("none", "batch", "sn", "snmp")
"""The arms of the thesis' Table 1."""

TRAINED = (*TABLE_1, "dyt", "ws", "control")
"""What is trained at either size."""

TRAINED_FULL = (*TABLE_1, "dyt", "dyt_sn", "ws", "ws_sn", "control")
"""What is trained at full size."""

RATES = (0.1, 0.01, 0.001)
"""Of Adam, in the thesis' Table 1."""

LOW_RATES = (1e-5, 1e-7)
"""Further ones at full size for weight standardization, which the thesis' scripts try down to 1e-7."""

# as in the thesis: a row for each learning rate, a column for each arm
TABLE_1_THESIS = {
    (arm, lr): number
    for lr, row in {
        0.1: ((1.0, 0.0), (1.2, 0.4), (1.0, 0.0), (1.0, 0.0)),
        0.01: ((1.0, 0.0), (13.9, 3.4), (1.0, 0.0), (1.0, 0.0)),
        0.001: ((1.0, 0.0), (33.5, 0.8), (30.0, 0.2), (29.2, 0.5)),
    }.items()
    for arm, number in zip(TABLE_1, row, strict=True)
}

POSTER = "Dewyse (JKU Linz, 2025), poster"
DEAD_ACV, DEAD_GRADIENT, ALIVE_ACV = 1e-20, 1e-10, 1e-3
"""Of the features and of the stem: far below what float32 and Adam's eps (1e-8) can work with; and alive."""

FALL, KEPT = 100.0, 10.0
"""By which factor the variance falls from the stem to the last block where it decays, and stays within where it does not."""

GATES = {"sn": (0.15, 0.35), "snmp": (0.4, 0.6)}
"""What gates at 1/2 make of the variance, 1/4 and 1/2, with room for gates that are not exactly there."""

POINTS = 2.0


def best_rate(results: Results, arm: str) -> float:
    """The learning rate at which an arm's mean test accuracy is highest; of equal ones the first tried."""
    runs = results.of("test", arm=arm)
    if runs.empty:
        return math.nan
    means = runs.groupby("lr", sort=False)["accuracy"].mean()
    return float(means.index.to_numpy()[means.to_numpy().argmax()])


def _at(results: Results, arm: str, lr: float) -> pd.Series[float]:
    """Test accuracies by seed."""
    runs = results.of("test", arm=arm, lr=lr)
    return pd.Series(dtype="float64") if runs.empty else runs.set_index("seed")["accuracy"]


def _measured(results: Results, arm: str, what: str) -> tuple[pd.DataFrame, pd.Series[float]]:
    """An arm at init, and its test accuracies at its best rate."""
    init, best = results.of("init", arm=arm), _at(results, arm, best_rate(results, arm))
    if init.empty or best.empty:
        raise Untestable(f"{what} is not there.")
    return init, best


@claim("C4", f"{POSTER}, Table 1 and figure 4")
def dead(results: Results, setup: Setup) -> Verdict:
    """Without BatchNorm, as the thesis initializes it, EfficientNet-B0 cannot be trained.

    Criterion: confirmed where at init, in every seed, the features' ACV is below {DEAD_ACV:g} and the gradient norm of the
    stem below {DEAD_GRADIENT:g}, and the mean test accuracy at the best rate is at most twice that of guessing; else
    refuted
    """
    init, best = _measured(results, "none", "The network without norms")
    acv, gradient, learnt = init["features_acv"].max(), init["stem_gradient"].max(), best.mean()
    found = (
        f"At init the features' ACV is at most {acv:.1e} and the gradient norm of the stem {gradient:.1e}, the loss "
        f"{init['loss'].mean():.4f} (ln 100 = {math.log(100):.4f}); trained, it reaches {learnt:.1%} at its best rate, "
        f"where guessing gives {setup.chance:.0%}."
    )
    numbers = {"features_acv": acv, "stem_gradient": gradient, "loss": init["loss"].mean(), "accuracy": learnt}
    holds = acv < DEAD_ACV and gradient < DEAD_GRADIENT and learnt <= 2 * setup.chance
    return decided(found, numbers, confirmed=holds)


@claim("C4-control", "not in the thesis: the control that it lacks")
def control(results: Results, setup: Setup) -> Verdict:
    """What C4 sees is the doing of the init, which ignores groups and the activation's gain, not of the missing norm.

    Criterion: confirmed where the same network without norms, its weights with variance g^2/fan_in per group (g the rms
    gain of SiLU), has features with an ACV above {ALIVE_ACV:g} at init in every seed, and every seed learns more than twice
    what guessing gives at the best rate; else refuted
    """
    init, best = _measured(results, "control", "The control")
    norm = _at(results, "batch", best_rate(results, "batch"))
    acv, least = init["features_acv"].min(), best.min()
    steps = [results.of("init", arm=arm) for arm in ("groups", "he")]
    counted = ""
    if all(map(len, steps)):
        groups, he = (geometric(step["features_acv"]) for step in steps)
        counted = f" ({groups:.1e} with groups counted alone, {he:.1e} with He's init by fan-in)"
    found = (
        f"At init the features' ACV is at least {acv:.1e}{counted}; trained, it reaches {best.mean():.1%} at its best rate "
        f"(worst seed {least:.1%}), BatchNorm {norm.mean():.1%}."
    )
    numbers = {"features_acv": acv, "accuracy": best.mean(), "worst": least, "batch": norm.mean()}
    return decided(found, numbers, confirmed=acv > ALIVE_ACV and least > 2 * setup.chance)


def falls(results: Results, arm: str) -> npt.NDArray[np.float64]:
    """By seed, the variance at the end of the stem over that at the end of the last block."""
    paths = [one["acv"].to_numpy() for _, one in results.of("path", arm=arm).groupby("seed", sort=False)]
    # the last place is the convolution behind the last block
    return np.array([path[0] / path[-2] for path in paths])


@claim("C5", f"{POSTER}, figure 5; the cause made precise here: gates at 1/2, and zero padding")
def decay(results: Results, setup: Setup) -> Verdict:
    """SN-EfficientNet is stable, but its variance falls from block to block, because of squeeze-and-excitation.

    Criterion: confirmed where from stem to last block the variance falls by more than a factor of {FALL:g} in every seed,
    with and without MP; gates multiply it by {GATES[sn][0]:g} to {GATES[sn][1]:g} (SN) and {GATES[snmp][0]:g} to
    {GATES[snmp][1]:g} (MP); with doubled gates and circular padding it falls by less than {KEPT:g}; and no run at the rate
    0.001 ends with a loss that is not finite; else refuted
    """
    arms, kept = ("sn", "snmp", "sn_kept", "snmp_kept"), ("sn_kept", "snmp_kept")
    runs = pd.concat([results.of("test", arm=arm, lr=0.001) for arm in GATES])
    if runs.empty or any(results.of("path", arm=arm).empty for arm in arms):
        raise Untestable("One of the self-normalizing networks is not there.")
    fall = {arm: falls(results, arm) for arm in arms}
    gates = {arm: geometric(results.of("path", arm=arm)["gate"].dropna()) for arm in GATES}
    found = (
        f"From the stem to the last block the variance falls by a factor of at least {fall['sn'].min():.0f} (SN) and "
        f"{fall['snmp'].min():.0f} (SN-MP); a gate multiplies it by {gates['sn']:.2f} and {gates['snmp']:.2f}. With gates "
        f"doubled and circular padding it falls by at most {fall['sn_kept'].max():.2g} and {fall['snmp_kept'].max():.2g} "
        f"(below 1: it grows). {int(runs['finished'].sum())} of {len(runs)} runs at the rate 0.001 end with a finite "
        "loss."
    )
    numbers = {f"fall_{arm}": fall[arm].min() for arm in GATES} | {f"gate_{arm}": gates[arm] for arm in GATES}
    numbers |= {f"fall_{arm}": fall[arm].max() for arm in kept}
    decays = all(fall[arm].min() > FALL and low <= gates[arm] <= high for arm, (low, high) in GATES.items())
    whole = all(fall[arm].max() < KEPT for arm in kept)
    return decided(found, numbers, confirmed=decays and whole and bool(runs["finished"].all()))


@claim("C6", f"{POSTER}, Table 1: 29.2 ± 0.5 against 30.0 ± 0.2 per cent")
def magnitude(results: Results, setup: Setup) -> Verdict:
    """Magnitude-preserving sums and gates do not improve the accuracy of SN-EfficientNet.

    Criterion: refuted where, at the rate that is best for SN, SN-MP is better over the seeds by more than twice the
    standard error and by more than one point; confirmed where it is not; not testable where neither learns more than twice
    what guessing gives
    """
    lr = best_rate(results, "sn")
    if results.of("test", arm="sn").empty or results.of("test", arm="snmp").empty:
        raise Untestable("SN or SN-MP is not there.")
    plain, preserving = (_at(results, arm, lr) for arm in ("sn", "snmp"))
    gain = Difference.between(preserving, plain)
    if gain.n < 2:
        raise Untestable("A single seed has no spread to compare a difference with.")
    numbers = {"sn": plain.mean(), "snmp": preserving.mean(), "gain": gain.mean, "error": gain.error, "lr": lr}
    found = (
        f"At the rate {lr:g}, SN reaches {numbers['sn']:.1%} and SN-MP {numbers['snmp']:.1%}: {100 * gain.mean:+.1f} points, "
        f"standard error {100 * gain.error:.1f} over {gain.n} seeds."
    )
    if setup.size is not Size.FULL:
        width, data = WIDTHS[setup.size], setup.size.images("")
        found += f" This is a proxy, {data} at {width:g} of the width, not CIFAR-100."
    # two arms that guess are equal, which says nothing of either
    learns = max(numbers["sn"], numbers["snmp"]) > 2 * setup.chance
    if not learns:
        found += " Neither learns more than guessing, so that there is nothing to compare."
    better = gain.clear and gain.mean > 0.01
    return decided(found, numbers, confirmed=learns and not better, refuted=learns and better)


@claim("C7", f"{POSTER}, Table 1")
def table_1(results: Results, setup: Setup) -> Verdict:
    """Table 1: accuracies on CIFAR-100 without norm, with BatchNorm, SN and SN-MP at three learning rates.

    Criterion: confirmed where each of the twelve means is within {POINTS:g} points of the thesis' or within two of its
    deviations; else refuted; only at full size
    """
    if setup.size is not Size.FULL:
        raise Untestable(
            "Accuracies on CIFAR-100 need CIFAR-100: 20 epochs of EfficientNet-B0 at full width, which is work for a GPU."
        )
    means = mean_accuracy(results) * 100
    off: dict[str, float] = {}
    for (arm, lr), (mean, deviation) in TABLE_1_THESIS.items():
        if (arm, lr) not in means.index:
            raise Untestable(f"{arm} at the rate {lr:g} is not there.")
        gap = float(means[arm, lr]) - mean
        if abs(gap) > max(POINTS, 2 * deviation):
            off[f"{arm} at {lr:g}"] = gap
    said = ", ".join(f"{name}: {gap:+.1f} points" for name, gap in off.items()) or "none is further off"
    within = f"{len(TABLE_1_THESIS) - len(off)} of {len(TABLE_1_THESIS)}"
    return decided(f"{within} entries within {POINTS:g} points or two deviations; {said}.", off, confirmed=not off)


CLAIMS = (dead, control, decay, magnitude, table_1)


# --- what is printed and drawn ---------------------------------------------------------------------------------------


WIDTHS = {Size.TINY: 0.25, Size.FULL: 1.0}
"""Width multiplier of the networks that are trained."""

WATCHED = ("batch", "none", "snmp")
"""Arms whose signals are measured while they are trained, for the first seed and one rate."""

DECAY = ("sn", "snmp", "sn_64", "snmp_64", "snmp_double", "sn_kept", "snmp_kept")
"""Arms whose variance is drawn from block to block."""

PLACES = {"stem": 0, "block 0": 1, "block 4": 5, "block 8": 9, "block 15": 16}
"""Ends along the network that are printed."""


def tables(results: Results, setup: Setup) -> Tables:
    """Accuracy by arm and rate, as Table 1; the same with the thesis' numbers; the signal at init."""
    test, path, facts = results["test"], results["path"], results["init"]
    ends = [] if path.empty else list(path["place"].unique())

    def accuracy(arm: str, own: pd.DataFrame) -> dict[str, Any]:
        at = {lr: own[own["lr"] == lr] for lr in sorted(test["lr"].unique(), reverse=True)}
        best = best_rate(results, arm)
        return {
            "network": ARMS[arm].label,
            **{f"lr {lr:g}": _reached(runs) for lr, runs in at.items()},
            "best lr": best,
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
