"""What is printed and drawn of ``thesis-ffn``: the poster's figures, and what the claims are about."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from spp import plot
from spp.frame.schema import Column
from spp.plot.runs import Beside
from spp.studies.evidence import frames, geometric, spread, tabled
from spp.studies.study import Figures, Results, Setup, Tables
from spp.studies.thesis_ffn.claims import ARMS, SCALED, STEPS, at_equal_loss
from spp.theory import batchnorm_gradient_factor, chi

RATES = (0.1, 0.01, 0.001)
"""Of Adam, at which every arm is trained."""

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
    facts: dict[str, Any] = {"model": "FFN of 10 layers", "data": "digits" if setup.quick else "CIFAR-100"}
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
