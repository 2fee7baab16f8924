"""What is printed and drawn of ``thesis-effnet``: Table 1, figures 4 and 5 of the thesis, and the signal at init."""

from __future__ import annotations

from typing import Any

import pandas as pd

from spp import plot
from spp.studies.evidence import frames, geometric, spread, tabled
from spp.studies.study import Figures, Results, Setup, Tables
from spp.studies.thesis_effnet.claims import ARMS, RATES, SIDE, TABLE_1, TABLE_1_THESIS, TRAINED, best_rate

QUICK_WIDTH = 0.25
"""Width multiplier of the networks that are trained in the quick study."""

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
    if not setup.quick:
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
    size = f" at {QUICK_WIDTH:g} of its width" if setup.quick else ""
    shape = {"input_shape": [3, SIDE, SIDE]}
    noise = {"model": "EfficientNet-B0", "data": "unit normal", **shape, "batch_size": 64}
    data = {"model": f"EfficientNet-B0{size}", "data": "digits" if setup.quick else "CIFAR-100", **shape}
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
