"""The claims of ``thesis-ffn``, each with the criterion that decides it, fixed before anything was run."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from spp.studies.study import Claim, Outcome, Results, Setup, Verdict
from spp.studies.trials import chance, geometric

POSTER = "Dewyse (JKU Linz, 2025), poster"
BELOW, TOP = 2, 9
STEPS = TOP - BELOW
"""The gradient is compared between the outputs of these two Linear layers, so many steps apart."""

WITH, WITHOUT, NOT = (11.5, 15.5), (0.7, 1.6), 5.0
"""Of the geometric mean over seeds: where it lies with BatchNorm and without, and below what the claim is refuted."""

FEWEST = 10
LEVELS = 5


def judge_growth(results: Results, setup: Setup) -> Verdict:
    """C1."""
    ratios = results["ratios"]
    if ratios.empty:
        return Verdict(Outcome.NOT_TESTABLE, "No network was measured at init.")
    digits = ratios[ratios["data"] == "each pixel standardized"]
    own = {arm: digits[digits["arm"] == arm]["ratio"] for arm in ("batch", "none")}
    seeds = min(len(one) for one in own.values())
    norm, none = (geometric(own[arm]) for arm in ("batch", "none"))
    found = (
        f"The mean square of the gradient grows over seven layers by a factor of {norm:.2f} with BatchNorm (range "
        f"{own['batch'].min():.1f} to {own['batch'].max():.1f}; theory for infinite width (pi/(pi-1))^7 = 14.62) and of "
        f"{none:.2f} without (range {own['none'].min():.2f} to {own['none'].max():.2f}; theory 1), geometric means over "
        f"{seeds} seeds."
    )
    numbers = {"batch": norm, "none": none, "seeds": float(seeds)}
    if norm < NOT:
        return Verdict(Outcome.REFUTED, found, numbers)
    if seeds < FEWEST:
        return Verdict(Outcome.NOT_TESTABLE, f"{found} The criterion wants {FEWEST} seeds.", numbers)
    inside = WITH[0] <= norm <= WITH[1] and WITHOUT[0] <= none <= WITHOUT[1]
    if inside:
        return Verdict(Outcome.CONFIRMED, found, numbers)
    return Verdict(Outcome.NOT_TESTABLE, f"{found} That is neither what the claim says nor its contrary.", numbers)


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
        if not low < high:
            continue
        levels = np.geomspace(high, low, LEVELS + 1)[1:]
        for (arm, seed), one in runs.items():
            at = [_passed(one, level) for level in levels]
            middle = np.mean(at, axis=0)
            rows.append({"arm": arm, "seed": seed, "lr": lr, "ratio": middle[0], "size": middle[1], "low": low})
    return pd.DataFrame(rows, columns=["arm", "seed", "lr", "ratio", "size", "low"])


def _passed(run: pd.DataFrame, level: float) -> tuple[float, float]:
    """Logarithms of ratio and size where the loss first falls to ``level``."""
    loss, logs = run["loss"].to_numpy(), np.log(run[["ratio", "size"]].to_numpy())
    after = int(np.argmax(loss <= level * (1 + 1e-12)))
    if after == 0:
        return float(logs[0, 0]), float(logs[0, 1])
    before = after - 1
    part = math.log(loss[before] / level) / math.log(loss[before] / loss[after])
    middle = logs[before] + part * (logs[after] - logs[before])
    return float(middle[0]), float(middle[1])


def differences(results: Results) -> pd.DataFrame:
    """By learning rate: what scale and shift change about the logarithms, and the spread over seeds that it is held against."""
    scaling = results["scaling"]
    if scaling.empty or scaling["arm"].nunique() < 2 or scaling["seed"].nunique() < 2:
        return pd.DataFrame()
    last = scaling[scaling["epoch"] == scaling["epoch"].max()]
    last = last.assign(ratio=np.log(last["ratio"]))
    equal = at_equal_loss(scaling)
    rows = []
    for lr in scaling["lr"].unique():
        row: dict[str, float] = {"lr": float(lr)}
        for name, table, column in (("end", last, "ratio"), ("ratio", equal, "ratio"), ("size", equal, "size")):
            own = table[table["lr"] == lr]
            on, off = (own[own["arm"] == arm].set_index("seed")[column] for arm in ("batch", "batch_minus"))
            row[name] = float(on.mean() - off.mean()) if len(on) and len(off) else math.nan
            row[f"{name}_spread"] = float(np.sqrt((on.var(ddof=1) + off.var(ddof=1)) / 2))
        rows.append(row)
    return pd.DataFrame(rows)


def judge_scaling(results: Results, setup: Setup) -> Verdict:
    """C2."""
    found = differences(results)
    if found.empty:
        return Verdict(Outcome.NOT_TESTABLE, "Training of both kinds, over several seeds, is not there.")
    numbers = {f"{key}_at_{row['lr']:g}": row[key] for _, row in found.iterrows() for key in row.index if key != "lr"}
    said = "; ".join(
        _said({str(key): math.exp(value) if key != "lr" else value for key, value in row.items()})
        for _, row in found.iterrows()
    )
    if found[["ratio", "size", "ratio_spread", "size_spread"]].isna().any(axis=None):
        return Verdict(Outcome.NOT_TESTABLE, f"{said}; not all runs pass through the same losses.", numbers)
    within = found["ratio"].abs() < found["ratio_spread"]
    smaller = found["size"] < -found["size_spread"]
    sentence = said[:1].upper() + said[1:] + "."
    if within.all():
        return Verdict(Outcome.REFUTED, sentence, numbers)
    if smaller.all() and not within.any():
        return Verdict(Outcome.CONFIRMED, sentence, numbers)
    return Verdict(Outcome.NOT_TESTABLE, f"{sentence} The rates and the two measures do not agree.", numbers)


def _said(row: dict[str, float]) -> str:
    """One rate, in factors."""
    return (
        f"at the rate {row['lr']:g} scale and shift change the growth over seven layers by a factor of {row['ratio']:.2f} at "
        f"equal loss (seeds differ by {row['ratio_spread']:.2f}; {row['end']:.2f} after the last epoch) and the size of the "
        f"gradients by {row['size']:.2f} (seeds: {row['size_spread']:.2f})"
    )


def judge_rates(results: Results, setup: Setup) -> Verdict:
    """C3."""
    test = results["test"]
    means = test.groupby(["arm", "lr"], sort=False)["accuracy"].mean() if len(test) else pd.Series(dtype="float64")
    wanted = [(arm, lr) for arm in ("none", "selu", "batch") for lr in (0.1, 0.01, 0.001)]
    if not set(wanted) <= set(means.index):
        return Verdict(Outcome.NOT_TESTABLE, "One of the networks was not trained at one of the rates.")
    guess, large = chance(setup), {arm: float(means[arm, 0.1]) for arm in ("none", "selu", "batch")}
    best = max(float(means["batch", lr]) for lr in (0.01, 0.001))
    survives = large["batch"] >= max(0.8 * best, 3 * guess)
    others = max(large["none"], large["selu"]) <= 2 * guess
    slow = {arm: float(means[arm, 0.001]) for arm in ("none", "selu", "batch")}
    found = (
        f"At the rate 0.1 BatchNorm reaches {large['batch']:.1%}, no norm {large['none']:.1%}, SELU {large['selu']:.1%} "
        f"(guessing: {guess:.0%}); at 0.01 {means['batch', 0.01]:.1%}, {means['none', 0.01]:.1%} and "
        f"{means['selu', 0.01]:.1%}; at 0.001 {slow['batch']:.1%}, {slow['none']:.1%} and {slow['selu']:.1%}, where "
        + f"BatchNorm is {'' if slow['batch'] < min(slow['none'], slow['selu']) else 'not '}slower than both."
    )
    numbers = {f"{arm}_at_{lr:g}": float(means[arm, lr]) for arm, lr in wanted}
    return Verdict(Outcome.CONFIRMED if survives and others else Outcome.REFUTED, found, numbers)


def scaling_table(results: Results) -> pd.DataFrame:
    """Growth and size of the gradients with and without scale and shift, by rate."""
    scaling = results["scaling"]
    if scaling.empty:
        return pd.DataFrame()
    equal = at_equal_loss(scaling)
    rows = []
    for (lr, arm), own in scaling.groupby(["lr", "arm"], sort=False):
        last = own[own["epoch"] == own["epoch"].max()]
        same = equal[(equal["lr"] == lr) & (equal["arm"] == arm)]
        rows.append(
            {
                "lr": lr,
                "scale and shift": "yes" if arm == "batch" else "no",
                "growth at init": f"{geometric(own[own['epoch'] == 0]['ratio']):.2f}",
                f"growth after epoch {int(own['epoch'].max())}": _around(np.log(last["ratio"])),
                "growth at equal loss": _around(same["ratio"]),
                "size at equal loss": _around(same["size"]),
                "loss down to": f"{same['low'].max():.3g}" if len(same) else "",
                "seeds": own["seed"].nunique(),
            }
        )
    return pd.DataFrame(rows)


def _around(logs: pd.Series[float]) -> str:
    """Geometric mean and the factor of one deviation."""
    return f"{math.exp(logs.mean()):.3g} ×/÷ {math.exp(logs.std(ddof=0)):.2f}" if len(logs) else ""


CLAIMS = (
    Claim(
        "C1",
        "BatchNorm makes gradients grow towards the input, at init.",
        f"{POSTER}, figure 1; theory: Yang et al. (ICLR 2019), theorem 8",
        f"the mean square of the gradient at the output of Linear layer {BELOW} over that at layer {TOP}, on all training "
        f"digits at once, geometric mean over at least {FEWEST} seeds: confirmed where it is in [{WITH[0]:g}, {WITH[1]:g}] "
        f"with BatchNorm and in [{WITHOUT[0]:g}, {WITHOUT[1]:g}] without; refuted where it is below {NOT:g} with BatchNorm; "
        "else not testable",
        judge_growth,
    ),
    Claim(
        "C2",
        "The learned scale and shift of BatchNorm rescale gradients, and reduce them.",
        f"{POSTER}, figures 1 and 2",
        "with and without, compared at equal training loss: refuted where at every learning rate the logarithm of the growth "
        "over seven layers differs by less than its standard deviation over seeds; confirmed where at every rate it differs by "
        "more and the gradients at the ReLUs are smaller by more than their deviation; else not testable",
        judge_scaling,
    ),
    Claim(
        "C3",
        "BatchNorm makes large learning rates possible.",
        f"{POSTER}",
        "confirmed where at the rate 0.1 the mean test accuracy with BatchNorm is at least 0.8 of that at its best smaller "
        "rate and three times that of guessing, and without norm and with SELU at most twice that of guessing; else refuted",
        judge_rates,
    ),
)
