"""The networks of ``thesis-ffn``, and its claims, each with the criterion that decides it, fixed before anything was run.

What is printed and drawn are the poster's figures, and what the claims are about.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from spp import plot
from spp.frame.schema import Column
from spp.plot.runs import Beside
from spp.studies.evidence import decided, frames, geometric, mean_accuracy, spread, tabled
from spp.studies.study import Figures, Results, Setup, Tables, Untestable, Verdict, claim
from spp.studies.trials import Arm
from spp.theory import batchnorm_gradient_factor, chi

ARMS = {
    "none": Arm("no norm", changes={"norm": "none"}),
    "selu": Arm("SELU", changes={"norm": "none", "activation": "selu", "init": "lecun"}),
    "batch_minus": Arm("BN without scale and shift", changes={"norm": "batch_minus"}),
    "batch": Arm("BN", changes={"norm": "batch"}),
}
"""Every arm by name."""

RATES = (0.1, 0.01, 0.001)
"""Of Adam, at which every arm is trained."""

SCALED = ("batch_minus", "batch")
DIGITS = "each pixel standardized"
"""What the data are called that claims about init are judged on."""

POSTER = "Dewyse (JKU Linz, 2025), poster"
BELOW, TOP = 2, 9
STEPS = TOP - BELOW
"""The gradient is compared between the outputs of these two Linear layers, so many steps apart."""

WITH, WITHOUT, NOT = (11.5, 15.5), (0.7, 1.6), 5.0
"""Of the geometric mean over seeds: where it lies with BatchNorm and without, and below what the claim is refuted."""

FEWEST = 10
LEVELS = 5


@claim("C1", f"{POSTER}, figure 1; theory: Yang et al. (ICLR 2019), theorem 8")
def growth(results: Results, setup: Setup) -> Verdict:
    """BatchNorm makes gradients grow towards the input, at init.

    Criterion: the mean square of the gradient at the output of Linear layer {BELOW} over that at layer {TOP}, on all
    training digits at once, geometric mean over at least {FEWEST} seeds: confirmed where it is in [{WITH[0]:g},
    {WITH[1]:g}] with BatchNorm and in [{WITHOUT[0]:g}, {WITHOUT[1]:g}] without; refuted where it is below {NOT:g} with
    BatchNorm; else not testable
    """
    digits = results.of("ratios", data=DIGITS)
    if digits.empty:
        raise Untestable("No network was measured at init.")
    own = {arm: digits[digits["arm"] == arm]["ratio"] for arm in ("batch", "none")}
    seeds = min(len(one) for one in own.values())
    norm, none = (geometric(one) for one in own.values())
    found = (
        f"The mean square of the gradient grows over seven layers by a factor of {norm:.2f} with BatchNorm (range "
        f"{own['batch'].min():.1f} to {own['batch'].max():.1f}; theory for infinite width (pi/(pi-1))^7 = 14.62) and of "
        f"{none:.2f} without (range {own['none'].min():.2f} to {own['none'].max():.2f}; theory 1), geometric means over "
        f"{seeds} seeds."
    )
    refuted, enough = norm < NOT, seeds >= FEWEST
    confirmed = enough and WITH[0] <= norm <= WITH[1] and WITHOUT[0] <= none <= WITHOUT[1]
    if not refuted and not enough:
        found += f" The criterion wants {FEWEST} seeds."
    elif not refuted and not confirmed:
        found += " That is neither what the claim says nor its contrary."
    return decided(found, {"batch": norm, "none": none, "seeds": seeds}, confirmed=confirmed, refuted=refuted)


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


def differences(scaling: pd.DataFrame) -> pd.DataFrame:
    """By learning rate: what scale and shift change about the logarithms, and the spread over seeds that it is held against."""
    last = scaling[scaling["epoch"] == scaling["epoch"].max()]
    # over logarithms, since ratios are compared by factors
    last = last.assign(ratio=np.log(last["ratio"]))
    equal = at_equal_loss(scaling)
    rows = []
    for lr in scaling["lr"].unique():
        row: dict[str, float] = {"lr": float(lr)}
        for name, table, column in (("end", last, "ratio"), ("ratio", equal, "ratio"), ("size", equal, "size")):
            own = table[table["lr"] == lr]
            on, off = (own[own["arm"] == arm].set_index("seed")[column] for arm in ("batch", "batch_minus"))
            row[name] = float(on.mean() - off.mean())
            row[f"{name}_spread"] = float(np.sqrt((on.var(ddof=1) + off.var(ddof=1)) / 2))
        rows.append(row)
    return pd.DataFrame(rows)


@claim("C2", f"{POSTER}, figures 1 and 2")
def rescaling(results: Results, setup: Setup) -> Verdict:
    """The learned scale and shift of BatchNorm rescale gradients, and reduce them.

    Criterion: with and without, compared at equal training loss: refuted where at every learning rate the logarithm of the
    growth over seven layers differs by less than its standard deviation over seeds; confirmed where at every rate it
    differs by more and the gradients at the ReLUs are smaller by more than their deviation; else not testable
    """
    scaling = results["scaling"]
    if scaling.empty or scaling["arm"].nunique() < 2 or scaling["seed"].nunique() < 2:
        raise Untestable("Training of both kinds, over several seeds, is not there.")
    by_rate = differences(scaling)
    numbers = {f"{key}_at_{row['lr']:g}": row[key] for _, row in by_rate.iterrows() for key in row.index if key != "lr"}
    factors = by_rate.apply(np.exp).assign(lr=by_rate["lr"])
    said = "; ".join(
        f"at the rate {row['lr']:g} scale and shift change the growth over seven layers by a factor of {row['ratio']:.2f} at "
        f"equal loss (seeds differ by {row['ratio_spread']:.2f}; {row['end']:.2f} after the last epoch) and the size of the "
        f"gradients by {row['size']:.2f} (seeds: {row['size_spread']:.2f})"
        for _, row in factors.iterrows()
    )
    if by_rate[["ratio", "size", "ratio_spread", "size_spread"]].isna().any(axis=None):
        return decided(f"{said}; not all runs pass through the same losses.", numbers, confirmed=False, refuted=False)
    within = by_rate["ratio"].abs() < by_rate["ratio_spread"]
    smaller = by_rate["size"] < -by_rate["size_spread"]
    confirmed, refuted = smaller.all() and not within.any(), bool(within.all())
    more = "" if confirmed or refuted else " The rates and the two measures do not agree."
    return decided(f"{said[:1].upper()}{said[1:]}.{more}", numbers, confirmed=confirmed, refuted=refuted)


@claim("C3", f"{POSTER}")
def rates(results: Results, setup: Setup) -> Verdict:
    """BatchNorm makes large learning rates possible.

    Criterion: confirmed where at the rate 0.1 the mean test accuracy with BatchNorm is at least 0.8 of that at its best
    smaller rate and three times that of guessing, and without norm and with SELU at most twice that of guessing; else
    refuted
    """
    means, guess = mean_accuracy(results), setup.chance
    wanted = [(arm, lr) for arm in ("none", "selu", "batch") for lr in (0.1, 0.01, 0.001)]
    if not set(wanted) <= set(means.index):
        raise Untestable("One of the networks was not trained at one of the rates.")
    large, middle, slow = ({arm: means[arm, lr] for arm in ("none", "selu", "batch")} for lr in (0.1, 0.01, 0.001))
    survives = large["batch"] >= max(0.8 * max(middle["batch"], slow["batch"]), 3 * guess)
    others = max(large["none"], large["selu"]) <= 2 * guess
    found = (
        f"At the rate 0.1 BatchNorm reaches {large['batch']:.1%}, no norm {large['none']:.1%}, SELU {large['selu']:.1%} "
        f"(guessing: {guess:.0%}); at 0.01 {middle['batch']:.1%}, {middle['none']:.1%} and {middle['selu']:.1%}; "
        f"at 0.001 {slow['batch']:.1%}, {slow['none']:.1%} and {slow['selu']:.1%}, where "
        f"BatchNorm is {'' if slow['batch'] < min(slow['none'], slow['selu']) else 'not '}slower than both."
    )
    numbers = {f"{arm}_at_{lr:g}": means[arm, lr] for arm, lr in wanted}
    return decided(found, numbers, confirmed=survives and others)


CLAIMS = (growth, rescaling, rates)


# --- what is printed and drawn ---------------------------------------------------------------------------------------


DRAWN = (0, 9, 19)
"""Epochs of the poster's figures 1 and 2."""


def tables(results: Results, setup: Setup) -> Tables:
    """Growth of the gradients at init beside theory; accuracy by arm and rate; what scale and shift do to gradients."""
    theory = {
        "none": 1.0,
        "selu": chi("selu", 1.0, 1.0) ** STEPS,
        "batch": batchnorm_gradient_factor("relu") ** STEPS,
    }

    def at_init(key: tuple[str, str], own: pd.DataFrame) -> dict[str, Any]:
        data, arm = key
        return {
            "data": data,
            "network": ARMS[arm].label,
            "gradient, layer 2 over layer 9": f"{geometric(own['ratio']):.2f}",
            "range": f"{own['ratio'].min():.2f} to {own['ratio'].max():.2f}",
            "sd of the log": f"{np.log(own['ratio']).std(ddof=0):.3f}",
            "theory, infinite width": f"{theory[arm.removesuffix('_minus')]:.2f}",
            "seeds": len(own),
        }

    def accuracy(arm: str, own: pd.DataFrame) -> dict[str, Any]:
        at = {lr: own[own["lr"] == lr]["accuracy"] for lr in RATES}
        words = {f"lr {lr:g}": spread(runs, 100) if len(runs) else "" for lr, runs in at.items()}
        return {"network": ARMS[arm].label, **words, "seeds": own["seed"].nunique()}

    return {
        "init": tabled(results["ratios"], ["data", "arm"], at_init),
        "accuracy": tabled(results["test"], "arm", accuracy),
        "scaling": scaling_table(results["scaling"]),
    }


def scaling_table(scaling: pd.DataFrame) -> pd.DataFrame:
    """Growth and size of the gradients with and without scale and shift, by rate."""
    equal = scaling if scaling.empty else at_equal_loss(scaling)

    def row(key: tuple[float, str], own: pd.DataFrame) -> dict[str, Any]:
        lr, arm = key
        last = own[own["epoch"] == own["epoch"].max()]
        same = equal[(equal["lr"] == lr) & (equal["arm"] == arm)]
        return {
            "lr": lr,
            "scale and shift": "yes" if arm == "batch" else "no",
            "growth at init": f"{geometric(own[own['epoch'] == 0]['ratio']):.2f}",
            f"growth after epoch {int(own['epoch'].max())}": _around(np.log(last["ratio"])),
            "growth at equal loss": _around(same["ratio"]),
            "size at equal loss": _around(same["size"]),
            "loss down to": f"{same['low'].max():.3g}" if len(same) else "",
            "seeds": own["seed"].nunique(),
        }

    return tabled(scaling, ["lr", "arm"], row)


def _around(logs: pd.Series[float]) -> str:
    """Geometric mean and the factor of one deviation."""
    return f"{math.exp(logs.mean()):.3g} ×/÷ {math.exp(logs.std(ddof=0)):.2f}" if len(logs) else ""


def figures(results: Results, setup: Setup) -> Figures:
    """Gradients at init; the poster's figures 1 to 3; accuracy by rate; the ratio over training."""
    names = {arm: one.label for arm, one in ARMS.items()}
    facts: dict[str, Any] = {"model": "FFN of 10 layers", "data": setup.size.images("CIFAR-100")}
    found: Figures = {}
    signals, evolution, test, scaling = (results[name] for name in ("signals", "evolution", "test", "scaling"))
    if len(signals):
        runs = {names[arm]: frames(signals, arm, {**facts, "data": "digits"}) for arm in ("none", "selu", "batch")}
        found["init"] = plot.compare(runs, signals="gradient", statistics="mean_square", width="single")
    if len(evolution):
        drawn_epochs = evolution[evolution["epoch"].isin(DRAWN)]
        relus = drawn_epochs[drawn_epochs[str(Column.NAME)].str.endswith(".act")]
        for name, rows, arms, shown in (
            ("figures-1-and-2", relus, SCALED, ("gradient",)),
            ("figure-3", drawn_epochs, ("none", "selu"), ("activation", "gradient")),
        ):
            columns = {names[arm]: _run(rows, arm, facts) for arm in arms if (rows["arm"] == arm).any()}
            if columns:
                found[name] = plot.evolutions(columns, signals=shown, statistics="mean_square")
    shared: dict[str, Any] = {"by": "arm", "names": names, "run": facts}
    if len(test):
        axes: dict[str, Any] = {"x": "lr", "y": "accuracy", "xlabel": "learning rate", "ylabel": "test accuracy"}
        found["accuracy"] = plot.outcomes(test, chance=setup.chance, width="single", **axes, **shared)
    if len(scaling):
        table = scaling.assign(rate=[f"learning rate {lr:g}" for lr in scaling["lr"]])
        axes = {"x": "epoch", "y": "ratio", "xlabel": "epochs trained", "ylabel": "gradient, layer 2 over layer 9"}
        found["scaling"] = plot.outcomes(table, panels="rate", yscale="log", **axes, **shared)
    return found


def _run(rows: pd.DataFrame, arm: str, facts: dict[str, Any]) -> Beside:
    """The run of an arm that was watched; how many steps an epoch has follows from its last one."""
    # the caption tells epochs, and the frame knows steps
    step, epoch = (rows[rows["arm"] == arm][column].iloc[-1] for column in (str(Column.STEP), "epoch"))
    (one,) = frames(rows, arm, {**facts, **({"steps_per_epoch": int(step // epoch)} if epoch else {})})
    return one
