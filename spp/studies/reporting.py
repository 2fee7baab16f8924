"""What tables and figures of several studies have in common: runs at their best rates, spreads in words, frames by seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from spp.plot import outcomes
from spp.plot.runs import Beside
from spp.studies.study import Figures
from spp.studies.trials import SCORES
from spp.training.results import History

TEN = 0.1
"""Accuracy of guessing one of ten classes."""

RATES: dict[str, Any] = {"x": "lr", "y": "accuracy", "xlabel": "learning rate", "ylabel": "accuracy on test images"}
"""The axes of a figure of accuracy over learning rates."""


def at_best_rates(histories: pd.DataFrame, best: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Those histories whose runs are among ``best``, of ``tuned``; epochs counted from 1, as figures show them."""
    keys = [*by, "lr", "seed"]
    found = histories.merge(best[keys], on=keys)
    return found.assign(epoch=found[History.EPOCH] + 1)


def tuning_figures(
    runs: pd.DataFrame, histories: pd.DataFrame, *, panels: str, run: Mapping[str, object], **options: Any
) -> Figures:
    """Test accuracy over rates, of all runs; and validation accuracy over epochs, of those at the best rates."""
    shared: dict[str, Any] = {"by": "arm", "panels": panels, "chance": TEN, "run": run, **options}
    learning: dict[str, Any] = {"x": "epoch", "y": History.VALIDATION_ACCURACY} | shared
    # what lies between arms that all learn is not seen on an axis that reaches down to chance
    learning["chance"] = TEN if histories[History.VALIDATION_ACCURACY].min() < 2 * TEN else None
    return {
        "rates": outcomes(runs, **RATES, **shared),
        "learning": outcomes(histories, ylabel="validation accuracy at the best rate", **learning),
    }


def rate_in_words(runs: pd.DataFrame) -> str:
    """The rate of an arm in ``tuned``; one at the end of the grid says so, since a better one may lie beyond."""
    return f"{runs['lr'].iloc[0]:g}{' (end of the grid)' if runs['edge'].iloc[0] else ''}"


def spread(values: pd.Series[float], scale: float = 1.0, digits: int = 1) -> str:
    """Mean and standard deviation over seeds (biased: divided by n), in words, as ``95.1 ± 0.4``."""
    # of these very seeds, as a description: divided by n
    mean, deviation = float(values.mean()) * scale, float(values.std(ddof=0)) * scale
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def tabled(
    table: pd.DataFrame, by: str | list[str], row: Callable[[Any, pd.DataFrame], dict[str, Any]]
) -> pd.DataFrame:
    """A row for each group, in the order in which groups come; ``row`` is given the group's key and its part of the table."""
    # an empty table has no columns to group by
    groups = () if table.empty else table.groupby(by, sort=False)
    return pd.DataFrame([row(key, own) for key, own in groups])


def scored(test: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Scores and accuracy on the test images by arm and rate, in per cent, as the thesis reports them."""

    def row(key: tuple[str, float], own: pd.DataFrame) -> dict[str, Any]:
        arm, lr = key
        words = {name.replace("_", " "): spread(own[name], 100) for name in (*SCORES, "accuracy") if name in own}
        return {"network": labels[arm], "lr": lr, **words, "seeds": own["seed"].nunique()}

    return tabled(test, ["arm", "lr"], row)


def frames(table: pd.DataFrame, arm: str, facts: Mapping[str, object]) -> list[Beside]:
    """The frames of an arm, one by seed, as a figure takes them: without the parameters of their cells."""
    if table.empty:
        return []
    mine = table[table["arm"] == arm]
    # not "kind": the cell's gives way to the frame's own, which says what a layer is
    own = [name for name in ("part", "layers", "arm", "lr", "seed", "epoch") if name in mine.columns]
    return [
        Beside(one.drop(columns=own).reset_index(drop=True), {**facts, "seed": seed})
        for seed, one in mine.groupby("seed", sort=False)
    ]
