"""Every arm is judged at its own best rate, which validation images choose."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from spp.studies.evidence import Difference, rate_in_words, tuned
from spp.studies.trials import outcome


def test_outcome_is_the_last_epoch_the_test_and_the_epochs_to_a_target() -> None:
    history = pd.DataFrame(
        {"epoch": [0, 1, 2], "validation_accuracy": [0.3, 0.8, 0.7], "validation_loss": [2.0, 1, 0.5]}
    )
    test = pd.DataFrame({"accuracy": [0.6], "loss": [0.9], "finished": [True]})
    tables = {"history": history, "test": test}
    assert outcome(tables).iloc[0].to_dict() == {
        "validation": 0.7,
        "validation_loss": 0.5,
        "accuracy": 0.6,
        "loss": 0.9,
        "finished": True,
    }
    assert [outcome(tables, target)["epochs"].item() for target in (0.3, 0.8, 0.81)] == [1.0, 2.0, math.inf]


def outcomes(validation: dict[tuple[str, float], list[float]]) -> pd.DataFrame:
    """Validation accuracy over seeds by arm and rate; on test images everything is the other way round."""
    rows = [
        {"arm": arm, "lr": lr, "seed": seed, "validation": value, "accuracy": 1 - value}
        for (arm, lr), values in validation.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_each_arm_has_the_rate_of_its_highest_mean_validation_accuracy() -> None:
    table = outcomes(
        {
            ("a", 0.1): [0.9, 0.7],
            ("a", 0.01): [0.6, 0.6],
            ("a", 1.0): [0.99, 0.1],
            ("b", 1.0): [0.5, 0.5],
            ("b", 0.1): [0.5, 0.5],
            ("b", 0.01): [0.1, float("nan")],
        }
    )
    best = tuned(table, ["arm"])
    assert best.groupby("arm")["lr"].unique().map(list).to_dict() == {"a": [0.1], "b": [0.1]}  # of equals, the smallest
    assert len(best) == 4 and not best["edge"].any()
    assert rate_in_words(best) == "0.1"
    worse = tuned(table[table["lr"] < 1], ["arm"])
    assert worse["edge"].all() and rate_in_words(worse) == "0.1 (end of the grid)"


def test_a_rate_at_which_nothing_is_finite_is_never_the_best() -> None:
    table = outcomes({("a", 0.1): [float("nan")] * 2, ("a", 0.2): [0.01, 0.02], ("a", 0.3): [float("nan"), 0.01]})
    assert tuned(table, ["arm"])["lr"].unique().tolist() == [0.2]


def test_a_difference_is_of_pairs() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=5), rng.normal(size=7)
    one = Difference.between(pd.Series(a, index=range(5)), pd.Series(b, index=range(7)))
    each = a - b[:5]
    assert one.n == 5 and one.mean == pytest.approx(each.mean(), rel=1e-12)
    assert one.error == pytest.approx(each.std(ddof=1) / np.sqrt(5), rel=1e-12)
    assert Difference(0.021, 0.01, 4).clear and not Difference(0.019, 0.01, 4).clear
    assert not Difference(0.5, math.nan, 1).clear  # of a single pair nothing is known
    assert Difference(0.0312, 0.004, 4).points() == "3.1 ± 0.4 points"
