"""The figures of ``thesis-ffn``: those of the poster, and what the claims are about."""

from __future__ import annotations

from typing import Any

import pandas as pd

from spp import plot
from spp.frame.schema import Column
from spp.plot.runs import Beside
from spp.studies.study import Results, Setup
from spp.studies.thesis_ffn_arms import ARMS, SCALED
from spp.studies.trials import chance

DRAWN = (0, 9, 19)
"""Epochs of the poster's figures 1 and 2."""


def figures(results: Results, setup: Setup) -> dict[str, plot.SignalPlot]:
    """Gradients at init; the poster's figures 1 to 3; accuracy by rate; the ratio over training."""
    names = {arm: label for arm, (label, _) in ARMS.items()}
    data = "digits" if setup.quick else "CIFAR-100"
    facts: dict[str, Any] = {"model": "FFN of 10 layers", "data": data}
    found: dict[str, plot.SignalPlot] = {}
    signals, evolution, scaling = results["signals"], results["evolution"], results["scaling"]
    if len(signals):
        runs = {
            names[arm]: [
                Beside(one.drop(columns=["part", "seed", "arm"]), {**facts, "data": "digits", "seed": seed})
                for seed, one in signals[signals["arm"] == arm].groupby("seed", sort=False)
            ]
            for arm in ("none", "selu", "batch")
        }
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
    if len(results["test"]):
        found["accuracy"] = plot.outcomes(
            results["test"],
            x="lr",
            y="accuracy",
            by="arm",
            chance=chance(setup),
            names=names,
            xlabel="learning rate",
            ylabel="test accuracy",
            run=facts,
            width="single",
        )
    if len(scaling):
        table = scaling.assign(rate=[f"learning rate {lr:g}" for lr in scaling["lr"]])
        found["scaling"] = plot.outcomes(
            table,
            x="epoch",
            y="ratio",
            by="arm",
            panels="rate",
            names=names,
            xlabel="epochs trained",
            ylabel="gradient, layer 2 over layer 9",
            yscale="log",
            run=facts,
        )
    return found


def _run(rows: pd.DataFrame, arm: str, facts: dict[str, Any]) -> Beside:
    mine = rows[rows["arm"] == arm]
    step, epoch = (mine[column].iloc[-1] for column in (str(Column.STEP), "epoch"))
    more = {"steps_per_epoch": int(step // epoch)} if epoch else {}
    seed = int(mine["seed"].iloc[0])
    own = ["part", "arm", "lr", "seed", "epoch"]
    return Beside(mine.drop(columns=own).reset_index(drop=True), {**facts, **more, "seed": seed})
