"""What the thesis says of fully connected networks, and the criterion of each claim, fixed before anything was run."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pandas as pd

from spp.studies.evidence import PERCENT, Effect, beyond, difference, every, factor, greater, less
from spp.studies.study import Results, Setup, Size, Untestable, Verdict, claim

RATES = (0.1, 0.01, 0.001)
"""Of Adam, at which every arm is trained."""

SCALED = ("batch_minus", "batch")
SNAPSHOT = "snapshot"
"""The network of the thesis' own code, which keeps scale and shift in its first norm."""

DIGITS = "each pixel standardized"
"""What the data are called that claims about init are judged on, unless they are ``IMAGES``, of the real size."""

IMAGES = "Fashion-MNIST"

POSTER = "Dewyse (JKU Linz, 2025), poster"
BELOW, TOP = 2, 9
"""The gradient is compared between the outputs of these two Linear layers."""

FLOOR = 5.0
"""Growth over seven layers: more than this, at init, is growth; theory for infinite width says 14.62."""

LEVELS = 5
CHANGED = 1.25
"""A growth over seven layers that differs by less than this factor is the same."""

LARGE, SMALLER = 0.1, (0.01, 0.001)
KEPT = 0.8
"""Part of the accuracy at a smaller rate that is left at the large one where that one is possible."""


@claim("C1", f"{POSTER}, figure 1; theory: Yang et al. (ICLR 2019), theorem 8")
def growth(results: Results, setup: Setup, level: float) -> Verdict:
    """BatchNorm makes gradients grow towards the input, at init.

    Criterion: the mean square of the gradient at the output of Linear layer {BELOW} over that at layer {TOP}, on all
    training digits at once or the first 4096 images of Fashion-MNIST, geometric mean over seeds, is above {FLOOR:g} with
    BatchNorm, and with BatchNorm over without, by seed, as well.
    """
    digits = results.of("ratios", data=IMAGES if setup.size is Size.REAL else DIGITS)
    if digits.empty:
        raise Untestable("No network was measured at init.")
    norm, none = (digits[digits["arm"] == arm].set_index("seed")["ratio"] for arm in ("batch", "none"))
    parts = {
        "batch": partial(greater, "Growth over seven layers with BatchNorm", factor(norm), FLOOR),
        "over": partial(greater, "The same over that without norm", factor(norm, none), FLOOR),
    }
    found = every(parts, level=level)
    return Verdict(found.outcome, f"{found.found} Theory for infinite width: 14.62 with, 1 without.", found.numbers)


def at_equal_loss(scaling: pd.DataFrame) -> pd.DataFrame:
    """Logarithms of ratio and size of the gradients at losses that all runs of a learning rate pass through.

    Over training a run's loss falls from one level to another; levels are spaced evenly, on a log scale, between the lowest of
    all first losses and the highest of all lowest ones. At each, a run's numbers are those of the first time that it gets
    there, interpolated between two epochs in the logarithm of the loss, and a run has the mean over levels.
    """
    rows = []
    for lr, own in scaling.groupby("lr", sort=False):
        runs = {key: one.sort_values("epoch") for key, one in own.groupby(["arm", "seed"], sort=False)}
        high = min(float(one["loss"].iloc[0]) for one in runs.values())
        low = max(float(one["loss"].min()) for one in runs.values())
        # a run that never gets to where another begins has no loss in common with it
        if not low < high:
            continue
        levels = np.geomspace(high, low, LEVELS + 1)[1:]
        for (arm, seed), one in runs.items():
            middle = np.mean([_passed(one, level) for level in levels], axis=0)
            rows.append({"arm": arm, "seed": seed, "lr": lr, "ratio": middle[0], "size": middle[1], "low": low})
    return pd.DataFrame(rows, columns=["arm", "seed", "lr", "ratio", "size", "low"])


def _passed(run: pd.DataFrame, level: float) -> tuple[float, float]:
    """Logarithms of ratio and size where the loss first falls to ``level``."""
    loss, logs = run["loss"].to_numpy(), np.log(run[["ratio", "size"]].to_numpy())
    # the last level is the lowest loss of some run, which rounding in geomspace may put just below it
    after = int(np.argmax(loss <= level * (1 + 1e-12)))
    middle = logs[0]
    if after:
        part = math.log(loss[after - 1] / level) / math.log(loss[after - 1] / loss[after])
        middle = logs[after - 1] + part * (logs[after] - logs[after - 1])
    return float(middle[0]), float(middle[1])


def changes(scaling: pd.DataFrame, column: str, without: str = "batch_minus") -> dict[float, Effect]:
    """By learning rate, the factor by which scale and shift change the growth or the size of gradients at equal loss."""
    scaling = scaling if scaling.empty else scaling[scaling["arm"].isin((without, "batch"))]
    if scaling.empty or scaling["arm"].nunique() < 2:
        raise Untestable("Training of both kinds is not there.")
    equal = at_equal_loss(scaling)
    rates = list(scaling["lr"].unique())
    found = {}
    for lr in rates:
        own = equal[equal["lr"] == lr]
        on, off = (np.exp(own[own["arm"] == arm].set_index("seed")[column]) for arm in ("batch", without))
        found[float(lr)] = factor(on, off)
    return found


@claim("C2", f"{POSTER}, figures 1 and 2")
def smaller(results: Results, setup: Setup, level: float) -> Verdict:
    """The learned scale and shift of BatchNorm reduce gradients.

    Criterion: at every learning rate, the size of the gradients at the ReLUs with scale and shift over that without, by seed,
    at equal training loss, is below 1.
    """
    return every(
        {
            f"{lr:g}": partial(less, f"Rate {lr:g}: size of gradients with scale and shift over without", effect, 1.0)
            for lr, effect in changes(results["scaling"], "size").items()
        },
        level=level,
    )


@claim("C2-snapshot", f"{POSTER}, figures 1 and 2, and code")
def smaller_than_snapshot(results: Results, setup: Setup, level: float) -> Verdict:
    """The same beside the network of the thesis' code, which keeps scale and shift in its first norm.

    Criterion: that of C2, over the network with scale and shift in its first norm alone.
    """
    return every(
        {
            f"{lr:g}": partial(less, f"Rate {lr:g}: size with all scales and shifts over the first alone", effect, 1.0)
            for lr, effect in changes(results["scaling"], "size", SNAPSHOT).items()
        },
        level=level,
    )


@claim("C2-profile", f"{POSTER}, figures 1 and 2")
def rescaling(results: Results, setup: Setup, level: float) -> Verdict:
    """The learned scale and shift of BatchNorm change the growth of gradients towards the input.

    Criterion: at every learning rate, the growth over seven layers with scale and shift over that without, by seed, at equal
    training loss, differs by more than a factor of {CHANGED:g} (confirmed); refuted where at one it differs by less.
    """
    return every(
        {
            f"{lr:g}": partial(beyond, f"Rate {lr:g}: growth with scale and shift over without", effect, CHANGED)
            for lr, effect in changes(results["scaling"], "ratio").items()
        },
        level=level,
    )


@claim("C3", f"{POSTER}")
def rates(results: Results, setup: Setup, level: float) -> Verdict:
    """BatchNorm makes large learning rates possible.

    Criterion: at the rate {LARGE:g} the test accuracy with BatchNorm is above {KEPT:g} of that at each smaller rate and above
    three times that of guessing, and without norm and with SELU below twice that of guessing.
    """
    test, guess = results["test"], setup.chance
    wanted = [(arm, LARGE) for arm in ("none", "selu", "batch")] + [("batch", lr) for lr in SMALLER]
    runs = {} if test.empty else {key: own.set_index("seed")["accuracy"] for key, own in test.groupby(["arm", "lr"])}
    if not set(wanted) <= set(runs):
        raise Untestable("One of the networks was not trained at one of the rates.")
    large = runs["batch", LARGE]
    parts = {
        "batch": partial(greater, f"BatchNorm at {LARGE:g}", Effect(large, scale=PERCENT), 3 * guess),
        **{
            f"batch_{lr:g}": partial(
                greater, f"The same less {KEPT:g} of that at {lr:g}", difference(large, KEPT * runs["batch", lr])
            )
            for lr in SMALLER
        },
        **{
            arm: partial(less, f"{words} at {LARGE:g}", Effect(runs[arm, LARGE], scale=PERCENT), 2 * guess)
            for arm, words in (("none", "No norm"), ("selu", "SELU"))
        },
    }
    return every(parts, level=level)


CLAIMS = (growth, smaller, smaller_than_snapshot, rescaling, rates)
