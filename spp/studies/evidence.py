"""What judges, tables and figures of several studies do with results: statistics over seeds, best rates, verdicts.

An arm that is judged at a learning rate which suits another one loses for the wrong reason. So arms are trained at every rate
of a grid, the rate is chosen by accuracy on the validation images, and what is reported is accuracy on the test images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsFloat

import numpy as np
import pandas as pd

from spp.plot import outcomes
from spp.plot.runs import Beside
from spp.studies.study import Figures, Outcome, Results, Verdict
from spp.training.results import History

TEN = 0.1
"""Accuracy of guessing one of ten classes."""

RATES: dict[str, Any] = {"x": "lr", "y": "accuracy", "xlabel": "learning rate", "ylabel": "accuracy on test images"}
"""The axes of a figure of accuracy over learning rates."""


def decided(
    found: str,
    numbers: Mapping[str, SupportsFloat],
    *,
    confirmed: bool | np.bool_,
    refuted: bool | np.bool_ | None = None,
) -> Verdict:
    """Confirmed, or refuted, or else not testable; without ``refuted``, what is not confirmed is refuted."""
    outcome = Outcome.REFUTED if refuted or refuted is None else Outcome.NOT_TESTABLE
    outcome = Outcome.CONFIRMED if confirmed else outcome
    # float: numbers of NumPy are no numbers of JSON
    return Verdict(outcome, found, {name: float(number) for name, number in numbers.items()})


@dataclass(frozen=True, slots=True)
class Difference:
    """By how much one arm is ahead of another, over runs that have everything else in common.

    Attributes:
        mean: Of the differences.
        error: Standard error of that mean, from the spread of the differences; NaN of a single one.
        n: How many there are.
    """

    mean: float
    error: float
    n: int

    @classmethod
    def between(cls, ahead: pd.Series[float], behind: pd.Series[float]) -> Difference:
        """Of two series with the same index; what only one of them has is left out."""
        each = (ahead - behind).dropna()
        # seeds are a sample, and few: divided by n - 1, which gives NaN for one and for none
        deviation = float(each.std(ddof=1))
        return cls(float(each.mean()), deviation / math.sqrt(len(each) or 1), len(each))

    @property
    def clear(self) -> bool:
        """Whether it is positive by more than twice its standard error."""
        return self.mean > 2 * self.error

    def points(self) -> str:
        """In words, of accuracies: ``3.1 ± 0.4 points``, with the standard error."""
        return f"{100 * self.mean:.1f} ± {100 * self.error:.1f} points"


def tuned(outcomes: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The runs at each arm's best learning rate.

    Args:
        outcomes: ``Results["outcome"]``: a row per run, with ``lr`` and ``validation``.
        by: Columns that make an arm.

    Returns:
        Those rows whose rate has the highest mean validation accuracy over seeds, of equal ones the smallest; with ``edge``,
        whether that rate is the smallest or the largest that was tried.
    """
    kept = []
    for _, arm in outcomes.groupby(list(by), sort=False):
        # a rate at which every run ended early has NaN, which idxmax would skip or stumble over: it counts as 0;
        # groupby sorts by rising rate, and idxmax takes the first of equals
        means = arm.groupby("lr")["validation"].mean().fillna(0.0)
        best = means.idxmax()
        kept.append(arm[arm["lr"] == best].assign(edge=best in (means.index[0], means.index[-1])))
    return pd.concat(kept, ignore_index=True) if kept else outcomes.assign(edge=pd.Series(dtype=bool))


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
    learning = "validation accuracy at the best rate"
    return {
        "rates": outcomes(runs, **RATES, **shared),
        "learning": outcomes(histories, x="epoch", y=History.VALIDATION_ACCURACY, ylabel=learning, **shared),
    }


def rate_in_words(runs: pd.DataFrame) -> str:
    """The rate of an arm in ``tuned``; one at the end of the grid says so, since a better one may lie beyond."""
    return f"{runs['lr'].iloc[0]:g}{' (end of the grid)' if runs['edge'].iloc[0] else ''}"


def geometric(values: pd.Series[float]) -> float:
    """Geometric mean."""
    # seeds spread variances and ratios by factors, which an arithmetic mean leaves to the largest
    return float(np.exp(np.log(values.astype(np.float64)).mean()))


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


def mean_accuracy(results: Results) -> pd.Series[float]:
    """Mean test accuracy over seeds, by arm and learning rate."""
    test = results["test"]
    return pd.Series(dtype="float64") if test.empty else test.groupby(["arm", "lr"], sort=False)["accuracy"].mean()
