"""What the thesis says of EfficientNet-B0, and the criterion of each claim, fixed before anything was run.

Numbers of the thesis stand here once, in ``TABLE_1_THESIS``: test accuracy on CIFAR-100 in per cent, mean and deviation, read
from its poster.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pandas as pd

from spp.studies.evidence import (
    PERCENT,
    Effect,
    between,
    contrary,
    difference,
    every,
    factor,
    geometric,
    greater,
    less,
    mostly,
    outcomes_of,
    provided,
    tuned,
    within,
)
from spp.studies.evidence import POINTS as POINTS_SCALE
from spp.studies.study import Outcome, Results, Setup, Size, Untestable, Verdict, claim

REGULAR = ("sn_dropout", "sn_depth", "sn_smooth")
"""SN with other regularization than BatchNorm's, which the thesis names as future work."""

TABLE_1 = ("none", "batch", "sn", "snmp")
"""The arms of the thesis' Table 1."""

RATES = (0.1, 0.01, 0.001)
"""Of Adam, in the thesis' Table 1."""

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
"""By which factor the variance falls from the stem to the last block where it decays, and by less where it does not."""

GATES = {"sn": (0.15, 0.35), "snmp": (0.4, 0.6)}
"""What gates at 1/2 make of the variance, 1/4 and 1/2, with room for gates that are not exactly there."""

STILL = {"sn": 0.5, "snmp": 0.71}
"""Half of that, in logarithms: gates that take less than this have opened."""

BY_HEART = 0.9
"""Training accuracy, of the last epoch as it goes, from which on there is something to regularize."""

POINT, POINTS = 0.01, 0.02
"""Of test accuracy: what counts as better, and how near is the same, or near to the thesis' table."""

NAMES = {"sn": "SN", "snmp": "SN-MP"}
REGULAR_NAMES = dict(zip(REGULAR, ("Dropout", "Stochastic depth", "Label smoothing"), strict=True))


def best_runs(results: Results) -> pd.DataFrame:
    """The runs of every arm at its own best rate, without those of the seed that chose it."""
    runs = outcomes_of(results)
    return runs if runs.empty else tuned(runs, ["arm"])


def _accuracy(results: Results, arm: str, what: str) -> pd.Series[float]:
    """Test accuracies at its best rate, by seed."""
    best = best_runs(results)
    own = best if best.empty else best[best["arm"] == arm]
    if own.empty:
        raise Untestable(f"{what} is not there.")
    return own.set_index("seed")["accuracy"]


def _at_init(results: Results, arm: str, what: str) -> pd.DataFrame:
    init = results.of("init", arm=arm)
    if init.empty:
        raise Untestable(f"{what} is not there.")
    return init.set_index("seed")


@claim("C4", f"{POSTER}, Table 1 and figure 4")
def dead(results: Results, setup: Setup, level: float) -> Verdict:
    """Without BatchNorm, as the thesis initializes it, EfficientNet-B0 cannot be trained.

    Criterion: at init the features' ACV is below {DEAD_ACV:g} and the gradient norm of the stem below {DEAD_GRADIENT:g}, and
    the test accuracy at the best rate is below twice that of guessing.
    """
    what = "The network without norms"
    init, reached = _at_init(results, "none", what), _accuracy(results, "none", what)
    parts = {
        "features": partial(less, "ACV of the features at init", factor(init["features_acv"]), DEAD_ACV),
        "stem": partial(less, "Gradient norm of the stem at init", factor(init["stem_gradient"]), DEAD_GRADIENT),
        "accuracy": partial(less, "Test accuracy at the best rate", Effect(reached, scale=PERCENT), 2 * setup.chance),
    }
    found = every(parts, level=level)
    loss = f"The loss at init is {init['loss'].mean():.4f} (ln 100 = {math.log(100):.4f})."
    return Verdict(found.outcome, f"{found.found} {loss}", found.numbers)


@claim("C4-control", "not in the thesis: the control that it lacks")
def control(results: Results, setup: Setup, level: float) -> Verdict:
    """What C4 sees is the doing of the init, which ignores groups and the activation's gain, not of the missing norm.

    Criterion: the same network without norms, its weights with variance g^2/fan_in per group (g the rms gain of SiLU), has
    features with an ACV above {ALIVE_ACV:g} at init, and learns more than twice what guessing gives at the best rate.
    """
    init, reached = _at_init(results, "control", "The control"), _accuracy(results, "control", "The control")
    parts = {
        "features": partial(greater, "ACV of the features at init", factor(init["features_acv"]), ALIVE_ACV),
        "accuracy": partial(
            greater, "Test accuracy at the best rate", Effect(reached, scale=PERCENT), 2 * setup.chance
        ),
    }
    found = every(parts, level=level)
    steps = [results.of("init", arm=arm) for arm in ("groups", "he")]
    counted = ""
    if all(map(len, steps)):
        groups, he = (geometric(step["features_acv"]) for step in steps)
        counted = f" With groups counted alone the ACV is {groups:.1e}, with He's init by fan-in {he:.1e}."
    return Verdict(found.outcome, f"{found.found}{counted}", found.numbers)


def falls(results: Results, arm: str) -> pd.Series[float]:
    """By seed, the variance at the end of the stem over that at the end of the last block, at init."""
    return fall(results.of("path", arm=arm))


def fall(path: pd.DataFrame) -> pd.Series[float]:
    """The same of a path along one kind of network."""
    if path.empty:
        raise Untestable("One of the self-normalizing networks is not there.")
    # the last place is the convolution behind the last block
    found = {seed: own["acv"].iloc[0] / own["acv"].iloc[-2] for seed, own in path.groupby("seed", sort=False)}
    return pd.Series(found, dtype="float64")


@claim("C5", f"{POSTER}, figure 5")
def decay(results: Results, setup: Setup, level: float) -> Verdict:
    """SN-EfficientNet is stable, but its variance falls from block to block.

    Criterion: at init, from stem to last block the variance falls by more than a factor of {FALL:g}, with and without MP;
    gates multiply it by {GATES[sn][0]:g} to {GATES[sn][1]:g} (SN) and {GATES[snmp][0]:g} to {GATES[snmp][1]:g} (MP); and no run
    at the rate 0.001 ends with a loss that is not finite.
    """
    runs = pd.concat([results.of("test", arm=arm, lr=0.001) for arm in GATES])
    if runs.empty:
        raise Untestable("One of the self-normalizing networks is not there.")
    parts: dict[str, Callable[..., Verdict]] = {}
    for arm, ends in GATES.items():
        words, gate = f"{NAMES[arm]}: fall of the variance from stem to last block", gates(results.of("path", arm=arm))
        parts[f"fall_{arm}"] = partial(greater, words, factor(falls(results, arm)), FALL)
        parts[f"gate_{arm}"] = partial(between, f"{NAMES[arm]}: a gate multiplies the variance by", factor(gate), *ends)
    found = every(parts, level=level)
    whole = int(runs["finished"].sum())
    words = f"{found.found} {whole} of {len(runs)} runs at the rate 0.001 end with a finite loss."
    return Verdict(found.outcome if whole == len(runs) else Outcome.REFUTED, words, found.numbers)


def gates(path: pd.DataFrame, column: str = "gate") -> pd.Series[float]:
    """By seed, what gates multiply the variance by, or, as ``others``, by what factor the other steps of blocks change it."""
    return path.dropna(subset=column).groupby("seed")[column].apply(geometric)


@claim("C5-cause", f"{POSTER}, figure 5; made precise here: gates at 1/2, against zero padding")
def cause(results: Results, setup: Setup, level: float) -> Verdict:
    """The variance of SN-EfficientNet falls because of squeeze-and-excitation.

    Criterion: at init, on images of 32x32, of the fall, in logarithms, that doubled gates and copies of the edge in place of
    zeros take away together, gates take more than a half, with and without MP: the mean of what they take alone and of what
    they take where the edge is copied already. And with both a fall of less than {KEPT:g} is left.
    """
    parts: dict[str, Callable[..., Verdict]] = {}
    for arm, name in NAMES.items():
        whole, doubled, edge, both = (
            -falls(results, f"{arm}{end}").map(math.log) for end in ("", "_gates", "_edge", "_kept")
        )
        part = Effect(((doubled - whole) + (both - edge)) / 2, both - whole, PERCENT)
        parts[f"gates_{arm}"] = partial(mostly, f"{name}: part of the fall, in logarithms, that is due to gates", part)
        left = f"{name}: fall of the variance with gates doubled and the edge copied"
        parts[f"left_{arm}"] = partial(less, left, factor(falls(results, f"{arm}_kept")), KEPT)
    return every(parts, level=level)


def _followed(results: Results, arm: str) -> pd.DataFrame:
    """The last epoch of the runs that were followed along the network and are judged."""
    progress, seeds = results.of("progress", arm=arm), _accuracy(results, arm, "SN or SN-MP").index
    judged = progress if progress.empty else progress[progress["seed"].isin(set(seeds))]
    if judged.empty:
        raise Untestable("The variance was not followed over training.")
    last: pd.DataFrame = judged[judged["epoch"] == judged["epoch"].max()]
    return last


@claim("C5-training", f"{POSTER}, figure 5")
def decay_in_training(results: Results, setup: Setup, level: float) -> Verdict:
    """While SN-EfficientNet is trained, its variance still falls from block to block.

    Criterion: that of C5 about the fall, of means over all batches of the last epoch, at the best rate.
    """
    words = "{}: fall of the variance from stem to last block in the last epoch"
    return every(
        {
            arm: partial(greater, words.format(name), factor(fall(_followed(results, arm))), FALL)
            for arm, name in NAMES.items()
        },
        level=level,
    )


@claim("C5-gates", f"{POSTER}, figure 5")
def fluctuation(results: Results, setup: Setup, level: float) -> Verdict:
    """While SN-EfficientNet is trained, it is at squeeze-and-excitation that its variance goes up and down.

    Criterion: as means over all batches of the last epoch, at the best rate, gates multiply the variance by less than
    {STILL[sn]:g} (SN) and {STILL[snmp]:g} (MP), the geometric mean over blocks, and change it by a larger factor than the other
    steps of a block do (expansion, depthwise convolution and projection; up or down).
    """
    parts: dict[str, Callable[..., Verdict]] = {}
    for arm, bound in STILL.items():
        path = _followed(results, arm)
        gate = gates(path)
        words = f"{NAMES[arm]}: in the last epoch a gate multiplies the variance by"
        parts[f"gate_{arm}"] = partial(less, words, factor(gate), bound)
        # up or down: what takes a third counts as what gives three times as much
        changed = gates(path.assign(gate=[max(one, 1 / one) for one in path["gate"]]))
        words = f"{NAMES[arm]}: factor of a gate over that of another step"
        parts[f"more_{arm}"] = partial(greater, words, factor(changed, gates(path, "others")), 1.0)
    return every(parts, level=level)


def _magnitude(results: Results, setup: Setup, judge: Callable[..., Verdict], margin: float, level: float) -> Verdict:
    """SN-MP less SN, where SN learns."""
    plain, preserving = (_accuracy(results, arm, "SN or SN-MP") for arm in ("sn", "snmp"))
    found = provided(
        greater("Test accuracy of SN", Effect(plain, scale=PERCENT), 2 * setup.chance, level=level),
        judge("SN-MP less SN", difference(preserving, plain), margin, level=level),
    )
    proxy = ""
    if setup.size is not Size.FULL:
        proxy = f" This is a proxy, {setup.size.images('')} and a smaller network, not CIFAR-100."
    return Verdict(found.outcome, f"{found.found}{proxy}", found.numbers)


@claim("C6", f"{POSTER}, Table 1: 29.2 ± 0.5 against 30.0 ± 0.2 per cent")
def magnitude(results: Results, setup: Setup, level: float) -> Verdict:
    """Magnitude-preserving sums and gates do not improve the accuracy of SN-EfficientNet.

    Criterion: SN-MP less SN in test accuracy, each at its best rate, by seed, is below {POINT:g}; not decided unless SN learns
    more than twice what guessing gives.
    """
    return _magnitude(results, setup, less, POINT, level)


@claim("C6-same", f"{POSTER}, Table 1: 0.8 points apart, of runs that differ by 0.2 and 0.5")
def same(results: Results, setup: Setup, level: float) -> Verdict:
    """With magnitude-preserving sums and gates, SN-EfficientNet is as accurate as without: an equivalence test.

    Criterion: that difference lies within {POINTS:g} of 0, by its whole interval (confirmed), or its whole interval outside.
    """
    return _magnitude(results, setup, within, POINTS, level)


@claim("C7", f"{POSTER}, Table 1")
def table_1(results: Results, setup: Setup, level: float) -> Verdict:
    """Table 1: accuracies on CIFAR-100 without norm, with BatchNorm, SN and SN-MP at three learning rates.

    Criterion: each of the twelve means is within {POINTS:g} of the thesis' or within two of its deviations, whichever is
    wider; only at full size.
    """
    if setup.size is not Size.FULL:
        raise Untestable(
            "Accuracies on CIFAR-100 need CIFAR-100: 20 epochs of EfficientNet-B0 at full width, which is work for a GPU."
        )
    parts = {}
    for (arm, lr), (mean, deviation) in TABLE_1_THESIS.items():
        runs = results.of("test", arm=arm, lr=lr)
        if runs.empty:
            raise Untestable(f"{arm} at the rate {lr:g} is not there.")
        off = Effect(runs.set_index("seed")["accuracy"] - mean / 100, scale=POINTS_SCALE)
        margin = max(POINTS, 2 * deviation / 100)
        parts[f"{arm}_{lr:g}"] = partial(within, f"{arm} at {lr:g}, less {mean:g} %", off, margin)
    return every(parts, level=level)


@claim("C8", f"{POSTER}, Table 1: 30.0 against 33.5 per cent")
def below(results: Results, setup: Setup, level: float) -> Verdict:
    """SN-EfficientNet trains, but it stays below BatchNorm.

    Criterion: BatchNorm less SN in test accuracy, each at its best rate, by seed, is above 0; not decided unless SN learns more
    than twice what guessing gives.
    """
    plain, norm = (_accuracy(results, arm, "SN or BatchNorm") for arm in ("sn", "batch"))
    return provided(
        greater("Test accuracy of SN", Effect(plain, scale=PERCENT), 2 * setup.chance, level=level),
        greater("BatchNorm less SN", difference(norm, plain), level=level),
    )


@claim("C9", "Dewyse (JKU Linz, 2025), future work: other regularization in place of BatchNorm's")
def regularization(results: Results, setup: Setup, level: float) -> Verdict:
    """Other regularization improves SN-EfficientNet.

    Criterion: trained on so few images that SN learns them by heart, of SN with dropout, with stochastic depth and with label
    smoothing less SN alone in test accuracy, by seed, one is above {POINT:g}; refuted where each is below it; not decided
    unless the training accuracy of SN is above {BY_HEART:.0%} and its test accuracy more than {POINTS:g} below that.
    """
    few = results["few"]
    runs = {} if few.empty else {arm: own.set_index("seed") for arm, own in few.groupby("arm")}
    if not {"sn", *REGULAR} <= set(runs):
        raise Untestable("SN was not trained on few images, with other regularization and without.")
    plain = runs["sn"]
    premise = every(
        {
            "learned": partial(greater, "SN: training accuracy", Effect(plain["learned"], scale=PERCENT), BY_HEART),
            "gap": partial(greater, "Less test accuracy", difference(plain["learned"], plain["accuracy"]), POINTS),
        },
        level=level,
    )
    parts = {
        arm: partial(less, f"{name}: SN with it less SN", difference(runs[arm]["accuracy"], plain["accuracy"]), POINT)
        for arm, name in REGULAR_NAMES.items()
    }
    return provided(premise, contrary(every(parts, level=level)))


CLAIMS = (
    dead,
    control,
    decay,
    cause,
    decay_in_training,
    fluctuation,
    magnitude,
    same,
    table_1,
    below,
    regularization,
)
