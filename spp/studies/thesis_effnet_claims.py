"""The claims of ``thesis-effnet``, each with the criterion that decides it, fixed before anything was run.

Numbers of the thesis stand here once, in ``TABLE_1_THESIS``: test accuracy on CIFAR-100 in per cent, mean and deviation, read
from its poster.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pandas as pd

from spp.studies.study import Claim, Outcome, Results, Setup, Verdict
from spp.studies.trials import chance

TABLE_1_THESIS: Mapping[tuple[str, float], tuple[float, float]] = MappingProxyType(
    {
        ("none", 0.1): (1.0, 0.0),
        ("batch", 0.1): (1.2, 0.4),
        ("sn", 0.1): (1.0, 0.0),
        ("snmp", 0.1): (1.0, 0.0),
        ("none", 0.01): (1.0, 0.0),
        ("batch", 0.01): (13.9, 3.4),
        ("sn", 0.01): (1.0, 0.0),
        ("snmp", 0.01): (1.0, 0.0),
        ("none", 0.001): (1.0, 0.0),
        ("batch", 0.001): (33.5, 0.8),
        ("sn", 0.001): (30.0, 0.2),
        ("snmp", 0.001): (29.2, 0.5),
    }
)

POSTER = "Dewyse (JKU Linz, 2025), poster"
DEAD_ACV, DEAD_GRADIENT, ALIVE_ACV = 1e-20, 1e-10, 1e-3
"""Of the features and of the stem: far below what float32 and Adam's eps (1e-8) can work with; and alive."""

FALL, KEPT = 100.0, 10.0
"""By which factor the variance falls from the stem to the last block where it decays, and stays within where it does not."""

GATES: Mapping[str, tuple[float, float]] = MappingProxyType({"sn": (0.15, 0.35), "snmp": (0.4, 0.6)})
"""What gates at 1/2 make of the variance, 1/4 and 1/2, with room for gates that are not exactly there."""

POINTS = 2.0


def best_rate(test: pd.DataFrame, arm: str) -> float:
    """The learning rate at which an arm's mean test accuracy is highest; of equal ones the first tried."""
    means = test[test["arm"] == arm].groupby("lr", sort=False)["accuracy"].mean()
    return float(means.index.to_numpy()[means.to_numpy().argmax()]) if len(means) else math.nan


def _missing(what: str) -> Verdict:
    return Verdict(Outcome.NOT_TESTABLE, f"{what} is not there.")


def _best(results: Results, arm: str) -> pd.Series[float]:
    """Test accuracies by seed at the arm's best rate."""
    test = results["test"]
    if test.empty or arm not in set(test["arm"]):
        return pd.Series(dtype="float64")
    mine = test[(test["arm"] == arm) & (test["lr"] == best_rate(test, arm))]
    return mine.set_index("seed")["accuracy"]


def judge_dead(results: Results, setup: Setup) -> Verdict:
    """C4."""
    init, best = results.of("init", arm="none"), _best(results, "none")
    if init.empty or best.empty:
        return _missing("The network without norms")
    acv, gradient, learnt = init["features_acv"].max(), init["stem_gradient"].max(), float(best.mean())
    dead = acv < DEAD_ACV and gradient < DEAD_GRADIENT
    untrained = learnt <= 2 * chance(setup)
    found = (
        f"At init the features' ACV is at most {acv:.1e} and the gradient norm of the stem {gradient:.1e}, the loss "
        f"{init['loss'].mean():.4f} (ln 100 = {math.log(100):.4f}); trained, it reaches {best.mean():.1%} at its best rate, "
        f"where guessing gives {chance(setup):.0%}."
    )
    numbers = {"features_acv": float(acv), "stem_gradient": float(gradient), "loss": float(init["loss"].mean())}
    return Verdict(Outcome.CONFIRMED if dead and untrained else Outcome.REFUTED, found, {**numbers, "accuracy": learnt})


def judge_control(results: Results, setup: Setup) -> Verdict:
    """The control: no norm either, but a proper init."""
    init, best, norm = results.of("init", arm="control"), _best(results, "control"), _best(results, "batch")
    if init.empty or best.empty:
        return _missing("The control")
    acv, least = float(init["features_acv"].min()), float(best.min())
    alive, learns = acv > ALIVE_ACV, least > 2 * chance(setup)
    steps = [results.of("init", arm=arm)["features_acv"] for arm in ("groups", "he")]
    middles = [float(np.exp(np.log(one).mean())) for one in steps if len(one)]
    found = (
        f"At init the features' ACV is at least {acv:.1e}"
        + (
            f" ({middles[0]:.1e} with groups counted alone, {middles[1]:.1e} with He's init by fan-in)"
            if len(middles) == 2
            else ""
        )
        + f"; trained, it reaches {best.mean():.1%} at its best rate (worst seed {least:.1%}), BatchNorm {norm.mean():.1%}."
    )
    numbers = {"features_acv": acv, "accuracy": float(best.mean()), "worst": least, "batch": float(norm.mean())}
    return Verdict(Outcome.CONFIRMED if alive and learns else Outcome.REFUTED, found, numbers)


def falls(results: Results, arm: str) -> npt.NDArray[np.float64]:
    """By seed, the variance at the end of the stem over that at the end of the last block."""
    paths = [one["acv"].to_numpy() for _, one in results.of("path", arm=arm).groupby("seed", sort=False)]
    return np.array([path[0] / path[-2] for path in paths])


def judge_decay(results: Results, setup: Setup) -> Verdict:
    """C5."""
    arms = ("sn", "snmp", "sn_kept", "snmp_kept")
    fall = {arm: falls(results, arm) for arm in arms if len(results.of("path", arm=arm))}
    test = results["test"]
    trained = test[test["arm"].isin(("sn", "snmp")) & (test["lr"] == 0.001)] if len(test) else test
    if len(fall) < len(arms) or trained.empty:
        return _missing("One of the self-normalizing networks")
    gates = {arm: float(np.exp(np.log(results.of("path", arm=arm)["gate"].dropna()).mean())) for arm in GATES}
    decays = all(fall[arm].min() > FALL for arm in GATES)
    by_gates = all(low <= gates[arm] <= high for arm, (low, high) in GATES.items())
    kept = all(fall[arm].max() < KEPT for arm in ("sn_kept", "snmp_kept"))
    stable = bool(trained["finished"].all())
    found = (
        f"From the stem to the last block the variance falls by a factor of at least {fall['sn'].min():.0f} (SN) and "
        f"{fall['snmp'].min():.0f} (SN-MP); a gate multiplies it by {gates['sn']:.2f} and {gates['snmp']:.2f}. With gates "
        f"doubled and circular padding it falls by at most {fall['sn_kept'].max():.2g} and {fall['snmp_kept'].max():.2g} "
        f"(below 1: it grows). {int(trained['finished'].sum())} of {len(trained)} runs at the rate 0.001 end with a finite "
        "loss."
    )
    numbers = {f"fall_{arm}": float(fall[arm].min()) for arm in GATES} | {f"gate_{arm}": gates[arm] for arm in GATES}
    numbers |= {f"fall_{arm}": float(fall[arm].max()) for arm in ("sn_kept", "snmp_kept")}
    outcome = Outcome.CONFIRMED if decays and by_gates and kept and stable else Outcome.REFUTED
    return Verdict(outcome, found, numbers)


def judge_magnitude(results: Results, setup: Setup) -> Verdict:
    """C6."""
    test = results["test"]
    if test.empty or not {"sn", "snmp"} <= set(test["arm"]):
        return _missing("SN or SN-MP")
    lr = best_rate(test, "sn")
    own = {arm: test[(test["arm"] == arm) & (test["lr"] == lr)].set_index("seed")["accuracy"] for arm in ("sn", "snmp")}
    gain = (own["snmp"] - own["sn"]).dropna()
    if len(gain) < 2:
        return Verdict(Outcome.NOT_TESTABLE, "A single seed has no spread to compare a difference with.")
    error = float(gain.std(ddof=1)) / math.sqrt(len(gain))
    mean = float(gain.mean())
    numbers = {arm: float(own[arm].mean()) for arm in own} | {"gain": mean, "error": error, "lr": lr}
    found = (
        f"At the rate {lr:g}, SN reaches {numbers['sn']:.1%} and SN-MP {numbers['snmp']:.1%}: {100 * mean:+.1f} points, "
        f"standard error {100 * error:.1f} over {len(gain)} seeds."
    )
    if setup.quick:
        found += " This is the proxy of the quick study, digits at a quarter of the width, not CIFAR-100."
    if max(numbers["sn"], numbers["snmp"]) <= 2 * chance(setup):
        return Verdict(
            Outcome.NOT_TESTABLE,
            found + " Neither learns more than guessing, so that there is nothing to compare.",
            numbers,
        )
    better = mean > max(2 * error, 0.01)
    return Verdict(Outcome.REFUTED if better else Outcome.CONFIRMED, found, numbers)


def judge_table(results: Results, setup: Setup) -> Verdict:
    """C7."""
    if setup.quick:
        return Verdict(
            Outcome.NOT_TESTABLE,
            "Accuracies on CIFAR-100 need CIFAR-100: 20 epochs of EfficientNet-B0 at full width, which is work for a GPU.",
        )
    test = results["test"]
    means = (
        test.groupby(["arm", "lr"], sort=False)["accuracy"].mean() * 100 if len(test) else pd.Series(dtype="float64")
    )
    off: dict[str, float] = {}
    for (arm, lr), (mean, deviation) in TABLE_1_THESIS.items():
        if (arm, lr) not in means.index:
            return _missing(f"{arm} at the rate {lr:g}")
        gap = float(means[arm, lr]) - mean
        if abs(gap) > max(POINTS, 2 * deviation):
            off[f"{arm} at {lr:g}"] = gap
    said = ", ".join(f"{name}: {gap:+.1f} points" for name, gap in off.items()) or "none is further off"
    within = f"{len(TABLE_1_THESIS) - len(off)} of {len(TABLE_1_THESIS)}"
    found = f"{within} entries within {POINTS:g} points or two deviations; {said}."
    return Verdict(Outcome.REFUTED if off else Outcome.CONFIRMED, found, off)


CLAIMS = (
    Claim(
        "C4",
        "Without BatchNorm, as the thesis initializes it, EfficientNet-B0 cannot be trained.",
        f"{POSTER}, Table 1 and figure 4",
        f"confirmed where at init, in every seed, the features' ACV is below {DEAD_ACV:g} and the gradient norm of the stem "
        f"below {DEAD_GRADIENT:g}, and the mean test accuracy at the best rate is at most twice that of guessing; else refuted",
        judge_dead,
    ),
    Claim(
        "C4-control",
        "What C4 sees is the doing of the init, which ignores groups and the activation's gain, not of the missing norm.",
        "not in the thesis: the control that it lacks",
        f"confirmed where the same network without norms, its weights with variance g^2/fan_in per group (g the rms gain of "
        f"SiLU), has features with an ACV above {ALIVE_ACV:g} at init in every seed, and every seed learns more than twice "
        "what guessing gives at the best rate; else refuted",
        judge_control,
    ),
    Claim(
        "C5",
        "SN-EfficientNet is stable, but its variance falls from block to block, because of squeeze-and-excitation.",
        f"{POSTER}, figure 5; the cause made precise here: gates at 1/2, and zero padding",
        f"confirmed where from stem to last block the variance falls by more than a factor of {FALL:g} in every seed, with and "
        f"without MP; gates multiply it by {GATES['sn'][0]:g} to {GATES['sn'][1]:g} (SN) and {GATES['snmp'][0]:g} to "
        f"{GATES['snmp'][1]:g} (MP); with doubled gates and circular padding it falls by less than {KEPT:g}; and no run at the "
        "rate 0.001 ends with a loss that is not finite; else refuted",
        judge_decay,
    ),
    Claim(
        "C6",
        "Magnitude-preserving sums and gates do not improve the accuracy of SN-EfficientNet.",
        f"{POSTER}, Table 1: 29.2 ± 0.5 against 30.0 ± 0.2 per cent",
        "refuted where, at the rate that is best for SN, SN-MP is better over the seeds by more than twice the standard error "
        "and by more than one point; confirmed where it is not; not testable where neither learns more than twice what "
        "guessing gives",
        judge_magnitude,
    ),
    Claim(
        "C7",
        "Table 1: accuracies on CIFAR-100 without norm, with BatchNorm, SN and SN-MP at three learning rates.",
        f"{POSTER}, Table 1",
        f"confirmed where each of the twelve means is within {POINTS:g} points of the thesis' or within two of its deviations; "
        "else refuted; only at full size",
        judge_table,
    ),
)
