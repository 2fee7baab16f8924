"""Learning rates: what a run came to, and the rate at which each arm of a study is judged, its own best one.

An arm that is judged at a rate which suits another one loses for the wrong reason. So every arm is trained at every rate of
a grid, the rate is chosen by accuracy on the validation images, and what is reported is accuracy on the test images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from spp.studies.study import Tables
from spp.training.results import History


def outcome(tables: Tables, target: float | None = None) -> pd.DataFrame:
    """What a run came to, one row.

    Args:
        tables: Of ``spp.studies.trials.trained``.
        target: Accuracy on the validation images whose first epoch is looked for.

    Returns:
        ``validation`` and ``validation_loss``, of the last weights; ``accuracy``, ``loss`` and ``finished``, on the test
        images; with a target, ``epochs``, how many it took, infinite where it was not reached.
    """
    history, test = tables["history"], tables["test"]
    last = history.iloc[-1]
    row: dict[str, Any] = {
        "validation": last[History.VALIDATION_ACCURACY],
        "validation_loss": last[History.VALIDATION_LOSS],
        **{str(name): value for name, value in test.iloc[0].items()},
    }
    if target is not None:
        reached = history.loc[history[History.VALIDATION_ACCURACY] >= target, History.EPOCH]
        row["epochs"] = math.inf if reached.empty else float(reached.iloc[0]) + 1
    return pd.DataFrame([row])


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
        means = arm.groupby("lr")["validation"].mean().fillna(0.0)  # by rising rate; idxmax takes the first of equals
        best = means.idxmax()
        kept.append(arm[arm["lr"] == best].assign(edge=best in (means.index[0], means.index[-1])))
    return pd.concat(kept, ignore_index=True) if kept else outcomes.assign(edge=pd.Series(dtype=bool))


def rate_in_words(runs: pd.DataFrame) -> str:
    """The rate of an arm in ``tuned``; one at the end of the grid says so, since a better one may lie beyond."""
    return f"{runs['lr'].iloc[0]:g}{' (end of the grid)' if runs['edge'].iloc[0] else ''}"


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
        return cls(
            float(each.mean()), float(each.std(ddof=1)) / math.sqrt(len(each)) if len(each) else math.nan, len(each)
        )

    @property
    def clear(self) -> bool:
        """Whether it is positive by more than twice its standard error."""
        return self.mean > 2 * self.error

    def points(self) -> str:
        """In words, of accuracies: ``3.1 ± 0.4 points``, with the standard error."""
        return f"{100 * self.mean:.1f} ± {100 * self.error:.1f} points"
