"""Intervals hold the truth as often as they say, verdicts follow from them, and what chooses a rate is not judged."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spp.errors import MissingExtraError
from spp.studies import Claim, Outcome, Results, Setup, Verdict, evidence
from spp.studies.evidence import (
    Effect,
    between,
    beyond,
    difference,
    every,
    everywhere,
    factor,
    greater,
    less,
    mostly,
    provided,
    ratio,
    restricted,
    share,
    tuned,
    within,
)
from spp.studies.reporting import rate_in_words
from spp.studies.study import Untestable, claim, judged
from spp.studies.trials import outcome

CONFIRMED, REFUTED, OPEN = Outcome.CONFIRMED, Outcome.REFUTED, Outcome.NOT_DECIDED
STUDIES = 200
"""Simulated ones; a rate of 5 % of them has a standard error of 1.5 %."""


@pytest.fixture(scope="module", autouse=True)
def _fewer_resamples() -> Iterator[None]:
    """Enough for a rate over hundreds of studies, each of which has a bootstrap of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, "RESAMPLES", 499)
        # many verdicts ask for the interval of the same runs
        patch.setattr(Effect, "groups", property(once(Effect.groups.fget)))
        patch.setattr(Effect, "at", once(Effect.at))
        yield


def once(measure: Callable[..., Any]) -> Callable[..., Any]:
    """The same of an effect, computed once for all that have the same runs."""
    known: dict[Any, Any] = {}

    def asked(effect: Effect, level: float = 0.95) -> Any:
        runs = [None if one is None else (*one.index, *one.to_numpy()) for one in (effect.top, effect.bottom)]
        key = (*runs, effect.scale, effect.drawn, level)
        if key not in known:
            known[key] = measure(effect, level) if measure.__name__ == "at" else measure(effect)
        return known[key]

    return asked


def by_seed(values: npt.ArrayLike) -> pd.Series:
    """Runs of ``(seeds,)``, or of ``(conditions, seeds)`` with the same seeds in each."""
    array = np.asarray(values, dtype="float64")
    if array.ndim == 1:
        return pd.Series(array, index=pd.RangeIndex(len(array), name="seed"))
    index = pd.MultiIndex.from_product([range(len(array)), range(array.shape[1])], names=["depth", "seed"])
    return pd.Series(array.ravel(), index=index)


def nested(values: npt.NDArray[np.float64]) -> pd.Series:
    """The same with seeds of its own in each condition."""
    depth, seed = np.repeat(range(len(values)), values.shape[1]), range(values.size)
    return pd.Series(values.ravel(), index=pd.MultiIndex.from_arrays([depth, seed]))


# --- what is known of an interval without any resampling -------------------------------------------------------------


def test_a_mean_of_normal_seeds_has_students_interval() -> None:
    found = Effect(by_seed([1.0, 2.0, 3.0, 4.0, 5.0])).at(0.95)
    # 3 ± 2.776 sqrt(2.5 / 5), from a table of t
    assert (found.estimate, found.low, found.high) == pytest.approx((3, 3 - 1.96324, 3 + 1.96324), rel=1e-4)
    assert found.detectable == pytest.approx((2.77645 + 0.94096) * math.sqrt(0.5), rel=1e-4)
    assert found.margin == pytest.approx((2.77645 + 1.53321) * math.sqrt(0.5), rel=1e-4)


def test_a_ratio_of_few_seeds_has_fiellers_interval() -> None:
    top, bottom = by_seed([5.0, 7.0, 6.0, 8.0]), by_seed([10.0, 11.0, 13.0, 12.0])
    found = ratio(top, bottom).at(0.95)
    for end in (found.low, found.high):
        rest = top - end * bottom
        assert abs(rest.mean()) / (rest.std() / 2) == pytest.approx(3.18245, rel=1e-4)
    assert found.estimate == pytest.approx(26 / 46)


def test_a_skewed_sample_has_the_end_that_students_t_is_short_of() -> None:
    values = by_seed([1.0] * 20 + [60.0])
    wide = float(values.std()) / math.sqrt(21) * 2.08596
    found = Effect(values).at(0.95)
    assert found.low == pytest.approx(float(values.mean()) - wide, rel=1e-4)
    assert found.high > float(values.mean()) + 1.2 * wide


def test_a_single_seed_decides_nothing() -> None:
    for effect in (Effect(by_seed([9.0])), Effect(by_seed([])), share(*map(by_seed, ([0.5], [0.1], [0.9])))):
        assert (effect.at().low, effect.at().high) == (-math.inf, math.inf)
        assert greater("It", effect, -1e9).outcome is OPEN
    assert greater("It", Effect(by_seed([math.inf, 1.0])), 0).outcome is OPEN


def test_seeds_that_agree_have_an_interval_of_one_point() -> None:
    found = Effect(by_seed([0.3, 0.3, 0.3])).at(0.95)
    assert found.low == pytest.approx(0.3) == found.high


def test_a_gap_that_is_not_told_from_none_has_no_share() -> None:
    none = by_seed([0.50, 0.52, 0.48, 0.51])
    verdict = mostly(
        "The share", share(none + by_seed([0.01, 0.02, 0.01, 0.02]), none, none[::-1].set_axis(none.index))
    )
    assert verdict.outcome is OPEN and "not told from 0" in verdict.found
    # nor has one whose sign is the wrong one
    assert mostly("The share", share(none - 0.2, none, none - 0.3)).outcome is OPEN
    clear = mostly("The share", share(none + by_seed([0.29, 0.3, 0.28, 0.3]), none, none + 0.3))
    assert clear.outcome is CONFIRMED and "98 % (95 % interval" in clear.found and "n = 4" in clear.found


def test_logarithms_give_factors() -> None:
    verdict = within("Growth", factor(by_seed([2.0, 2.2, 1.8]), by_seed([2.0, 2.0, 2.0])), 1.5)
    estimate = (2.0 * 2.2 * 1.8) ** (1 / 3) / 2
    assert verdict.outcome is CONFIRMED and verdict.numbers["estimate"] == pytest.approx(estimate)
    assert verdict.numbers["low"] * verdict.numbers["high"] == pytest.approx(estimate**2, rel=0.02)
    assert factor(by_seed([0.0, 1.0])).at().estimate < 1e-150


def test_censored_times_are_restricted_to_the_horizon() -> None:
    assert restricted(by_seed([3.0, math.inf, math.nan, 12.0]), 10).tolist() == [3, 10, 10, 10]


# --- laws ------------------------------------------------------------------------------------------------------------


samples = st.lists(st.integers(-1000, 1000).map(float), min_size=2, max_size=9)


@given(samples, st.randoms(use_true_random=False))
def test_the_order_of_seeds_does_not_matter(values: list[float], random: object) -> None:
    runs = by_seed(values)
    order = list(range(len(values)))
    random.shuffle(order)  # type: ignore[attr-defined]
    top, bottom = (pd.Series([one[i] for i in order], index=order) for one in (values, np.abs(values) + 2000))
    assert Effect(runs).at() == Effect(top).at()
    assert ratio(runs, by_seed(np.abs(values) + 2000)).at() == ratio(top, bottom).at()


@given(samples, st.sampled_from([0.125, 3.0, 1e6]), st.integers(-50, 50))
def test_an_interval_follows_unit_and_origin(values: list[float], unit: float, origin: int) -> None:
    one, other = Effect(by_seed(values)).at(), Effect(by_seed(values) * unit + origin).at()
    size = unit * (1 + np.ptp(values)) + abs(origin)
    assert other.low == pytest.approx(one.low * unit + origin, abs=1e-6 * size)
    assert other.high == pytest.approx(one.high * unit + origin, abs=1e-6 * size)
    assert other.detectable == pytest.approx(one.detectable * unit, abs=1e-6 * size)


@given(samples)
def test_a_higher_level_is_no_narrower(values: list[float]) -> None:
    narrow, wide = (Effect(by_seed(values)).at(level) for level in (0.9, 0.99))
    assert wide.low <= narrow.low <= narrow.estimate + 1e-9 and narrow.estimate - 1e-9 <= narrow.high <= wide.high


# --- simulated studies, through the code of each verdict -------------------------------------------------------------


def held(make: Callable[[np.random.Generator], Effect], truth: float) -> float:
    """Share of simulated studies whose interval holds the truth."""
    rng = np.random.default_rng(1)
    found = [make(rng).at(0.95) for _ in range(STUDIES)]
    return float(np.mean([one.low <= truth <= one.high for one in found]))


FEW, SEVERAL = np.array([0.0, 0.1, 0.2, 0.5])[:, None], 4


@pytest.mark.parametrize(
    "make",
    [
        lambda rng: Effect(by_seed(0.2 + rng.normal(size=5))),
        lambda rng: Effect(by_seed(FEW + rng.normal(size=(SEVERAL, 5)))),
        # a seed has the same effect in every condition, so that four of them are no four seeds
        lambda rng: Effect(by_seed(FEW + 0.3 * rng.normal(size=(SEVERAL, 5)) + rng.normal(size=(1, 5)))),
        lambda rng: Effect(nested(FEW + rng.normal(size=(SEVERAL, 5)) * [[0.1], [1], [1], [3]])),
        lambda rng: Effect(by_seed(0.2 + rng.normal(size=(6, 1)) + rng.normal(size=(6, 3))), drawn=True),
    ],
    ids=["seeds", "conditions", "common seeds", "nested seeds", "drawn conditions"],
)
def test_an_interval_holds_the_truth_as_often_as_it_says(make: Callable[[np.random.Generator], Effect]) -> None:
    assert held(make, 0.2) >= 0.92


def test_conditions_that_are_drawn_are_no_more_seeds() -> None:
    """Seeds of a few conditions say little of other conditions: taken for a sample of those, they hold the truth rarely."""
    truth = 0.2
    pooled = held(lambda rng: Effect(nested(truth + rng.normal(size=(6, 1)) + 0.3 * rng.normal(size=(6, 5)))), truth)
    assert pooled < 0.8


def simulated(
    verdict: Callable[[Effect], Verdict], make: Callable[[np.random.Generator], Effect]
) -> dict[Outcome, float]:
    """Share of simulated studies with each outcome."""
    rng = np.random.default_rng(2)
    found = [verdict(make(rng)).outcome for _ in range(STUDIES)]
    return {one: found.count(one) / STUDIES for one in Outcome}


def noisy(seeds: int, sd: float, mean: float) -> Callable[[np.random.Generator], Effect]:
    return lambda rng: Effect(by_seed(rng.normal(mean, sd, seeds)))


def gap(part: float, seeds: int = 8, sd: float = 0.02) -> Callable[[np.random.Generator], Effect]:
    """An arm that closes this part of a gap of 20 points between noisy arms."""

    def made(rng: np.random.Generator) -> Effect:
        none, arm, full = (by_seed(rng.normal(mean, sd, seeds)) for mean in (0.6, 0.6 + 0.2 * part, 0.8))
        return share(arm, none, full)

    return made


def times(gain: float) -> Callable[[np.random.Generator], Effect]:
    """Epochs to a target, cut at 10, of which an arm takes ``gain`` times fewer."""

    def made(rng: np.random.Generator) -> Effect:
        slow, fast = (by_seed(np.ceil(rng.lognormal(math.log(mean), 0.2, 6))) for mean in (6.0, 6.0 / gain))
        return ratio(restricted(slow, 10), restricted(fast, 10))

    return made


NULLS = {
    "greater": (partial(greater, "It"), noisy(5, 1.0, 0.0)),
    "less": (partial(less, "It"), noisy(5, 1.0, 0.0)),
    "within": (partial(within, "It", margin=1.0), noisy(5, 0.3, 1.0)),
    "mostly": (partial(mostly, "It"), gap(0.5)),
    "factor": (partial(greater, "It", bound=1.0), lambda rng: factor(by_seed(rng.lognormal(0, 0.5, 5)))),
    "ratio": (partial(greater, "It", bound=1.0), times(1.0)),
    "beyond": (partial(beyond, "It", margin=1.0), noisy(5, 0.3, 1.0)),
    "provided": (lambda effect: provided(greater("A", effect, -9), greater("B", effect)), noisy(5, 1.0, 0.0)),
    "everywhere": (
        lambda effect: everywhere("It", {f"block {i}": effect for i in range(4)}, 0.0, math.inf),
        noisy(5, 1.0, 0.0),
    ),
    "every": (
        lambda effect: every(
            {"a": lambda level: greater("A", effect, level=level), "b": lambda level: less("B", effect, 9, level=level)}
        ),
        noisy(5, 1.0, 0.0),
    ),
}
"""By verdict: its code, and studies whose truth lies on the bound."""


@pytest.mark.parametrize("name", NULLS)
def test_a_truth_on_the_bound_is_rarely_decided(name: str) -> None:
    verdict, make = NULLS[name]
    rates = simulated(verdict, make)
    # an interval at 95 % has 2.5 % on either side; two standard errors of the simulation above 5 % is the limit
    assert rates[CONFIRMED] <= 0.05 and rates[REFUTED] <= 0.05 and rates[OPEN] >= 0.9


@pytest.mark.parametrize(
    ("verdict", "make"),
    [
        (partial(greater, "It"), noisy(6, 1.0, -2.5)),
        (partial(within, "It", margin=1.0), noisy(6, 1.0, 3.5)),
        (partial(mostly, "It"), gap(0.0)),
        (partial(greater, "It", bound=1.0), times(0.5)),
        (partial(beyond, "It", margin=1.0), noisy(6, 0.3, 0.0)),
        (lambda effect: everywhere("It", {"block 1": effect, "block 2": effect}, 0, 9), noisy(6, 1.0, -4.0)),
        (lambda effect: provided(less("A", effect), greater("B", effect)), noisy(6, 1.0, -2.5)),
    ],
)
def test_the_contrary_is_refuted(
    verdict: Callable[[Effect], Verdict], make: Callable[[np.random.Generator], Effect]
) -> None:
    rates = simulated(verdict, make)
    assert rates[REFUTED] >= 0.9 and rates[CONFIRMED] == 0


def test_an_effect_of_the_stated_size_is_confirmed_four_times_of_five() -> None:
    seeds = 5
    # the stated size follows from the spread: here the true one, sd 1
    pattern = by_seed(np.linspace(-1, 1, seeds))
    least = Effect(pattern / pattern.std()).at().detectable
    assert simulated(partial(greater, "It"), noisy(seeds, 1.0, least))[CONFIRMED] == pytest.approx(0.8, abs=0.07)
    assert simulated(partial(greater, "It"), noisy(seeds, 1.0, least / 3))[CONFIRMED] < 0.3
    margin = Effect(pattern / pattern.std()).at().margin
    rates = simulated(partial(within, "It", margin=margin), noisy(seeds, 1.0, 0.0))
    assert rates[CONFIRMED] == pytest.approx(0.8, abs=0.08)


def test_as_many_runs_as_are_said_to_be_needed_confirm_four_times_of_five() -> None:
    pattern = by_seed(np.linspace(-1, 1, 5))
    found = greater("It", Effect(pattern / pattern.std() + 0.5))
    assert found.outcome is OPEN
    needed = int(re.search(r"about (\d+) runs", found.found).group(1))
    assert simulated(partial(greater, "It"), noisy(needed, 1.0, 0.5))[CONFIRMED] == pytest.approx(0.8, abs=0.08)
    by_factor = between("It", factor(np.exp(pattern / pattern.std() + 0.5)), 1.0, math.inf)
    assert f"about {needed} runs of this spread would tell" in by_factor.found
    assert "more than 1000 runs" in greater("It", Effect(pattern + 0.001)).found
    assert "would tell" not in greater("It", Effect(pattern / 9 + 1)).found


def test_a_share_of_the_stated_size_is_confirmed_four_times_of_five() -> None:
    rng = np.random.default_rng(3)
    least = float(np.median([mostly("It", gap(0.5)(rng)).numbers["detectable"] for _ in range(99)]))
    assert simulated(partial(mostly, "It"), gap(0.5 + least))[CONFIRMED] == pytest.approx(0.8, abs=0.08)


def test_a_sentence_has_the_interval_the_sample_and_what_could_have_been_told() -> None:
    verdict = greater("It", difference(by_seed([0.92, 0.93, 0.94]), by_seed([0.90, 0.90, 0.90])), 0.01)
    assert verdict.found == (
        "It: +3.0 points (95 % interval +0.5 to +5.5 points, n = 3; with power 80 % +4.1 points would be told from "
        "+1.0 points; about 5 runs of this spread would tell)."
    )
    assert set(verdict.numbers) == {"estimate", "low", "high", "level", "n", "detectable", "margin"}
    both = between("It", Effect(nested(np.array([[1.0, 2.0], [2.0, 4.0]]))), -9, 9)
    assert "n = 4 in 2 conditions" in both.found and "the smallest margin to be shown is" in both.found


# --- several claims --------------------------------------------------------------------------------------------------


def effect(mean: float) -> Effect:
    return Effect(by_seed(mean + np.array([-2.0, -1.0, 0.0, 1.0, 2.0])))


def test_a_premise_that_is_not_confirmed_leaves_nothing_decided() -> None:
    verdict = provided(greater("A", effect(0.1)), greater("B", effect(9.0)))
    assert verdict.outcome is OPEN and verdict.numbers["premise_estimate"] == pytest.approx(0.1)
    assert verdict.found.startswith("A: 0.1 (95 % interval") and "B: 9 (" in verdict.found


def test_of_many_places_the_one_nearest_to_refuting_is_told() -> None:
    places = {"block 1": effect(5.0), "block 2": effect(2.5), "block 3": effect(4.0)}
    verdict = everywhere("It", places, 0, math.inf)
    assert verdict.outcome is CONFIRMED and verdict.found.startswith("It, block 2 (the furthest of 3 places): 2.5 (")
    assert everywhere("It", places | {"block 4": effect(-4.0)}, 0, math.inf).outcome is REFUTED
    with pytest.raises(Untestable):
        everywhere("It", {}, 0, 1)


def test_without_scipy_an_error_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingExtraError, match=r"an interval needs SciPy.*torch-spp\[studies\]"):
        effect(1.0).at()


def test_what_says_several_things_is_confirmed_by_all_and_refuted_by_one() -> None:
    def said(*means: float) -> Verdict:
        parts = {
            f"m{i}": partial(lambda mean, level: greater("M", effect(mean), level=level), m)
            for i, m in enumerate(means)
        }
        return every(parts)

    assert said(2.0, 3.0).outcome is CONFIRMED and said(2.0, -9.0).outcome is REFUTED
    assert said(2.0, 0.5).outcome is OPEN and said(2.0, 3.0).numbers["m1_estimate"] == 3
    # refuted alone, and not as one of many: its interval is wider there
    assert said(-2.0).outcome is REFUTED and said(*[9.0] * 7, -2.0).outcome is OPEN


def of(name: str, mean: float) -> Claim:
    @claim(name, "a test")
    def judge(results: Results, setup: Setup, level: float) -> Verdict:
        """It. Criterion: greater than 0."""
        return greater("It", effect(mean), level=level)

    return judge


def test_claims_of_a_study_are_corrected_together() -> None:
    results, setup = Results((), {}, {}), Setup()
    alone = of("A", 2.05)
    assert not alone.exact and alone.judge(results, setup).outcome is CONFIRMED
    with_open = judged([alone, of("B", 0.1), of("C", 0.2)], results, setup)
    assert [one.outcome for one in with_open.values()] == [OPEN] * 3
    assert {one.numbers["level"] for one in with_open.values()} == {1 - 0.05 / 3}
    # those that are clear leave their share of the error to the others: Holm, not Bonferroni
    with_clear = judged([alone, of("B", 9.0), of("C", -9.0)], results, setup)
    assert [one.outcome for one in with_clear.values()] == [CONFIRMED, CONFIRMED, REFUTED]
    assert with_clear[alone].numbers["level"] == 0.95

    def exact(results: Results, setup: Setup) -> Verdict:
        return Verdict(CONFIRMED, "It is.")

    known = Claim("D", "It", "a test", "it is", exact)
    assert judged([known, alone], results, setup) == {known: exact(results, setup), alone: alone.judge(results, setup)}


def test_any_wrong_verdict_among_several_claims_is_as_rare_as_one() -> None:
    rng, wrong = np.random.default_rng(4), 0

    def null(values: npt.NDArray[np.float64]) -> Claim:
        def judge(results: Results, setup: Setup, level: float = 0.95) -> Verdict:
            return greater("It", Effect(by_seed(values)), level=level)

        return Claim("N", "", "", "", judge, exact=False)

    for _ in range(100):
        claims = [null(rng.normal(size=5)) for _ in range(4)]
        wrong += any(one.outcome is not OPEN for one in judged(claims, Results((), {}, {}), Setup()).values())
    # 5 % of 100, and two standard errors; uncorrected it is 19 %
    assert wrong <= 9


# --- learning rates --------------------------------------------------------------------------------------------------


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
    epochs = [outcome(tables, target)["epochs"].item() for target in (0.15, 0.3, 0.4, 0.8, 0.81)]
    assert epochs == pytest.approx([0.5, 1.0, 1.2, 2.0, math.inf])


def outcomes(validation: dict[tuple[str, float], list[float]]) -> pd.DataFrame:
    """Validation accuracy over seeds by arm and rate; on test images everything is the other way round."""
    rows = [
        {"arm": arm, "lr": lr, "seed": seed, "validation": value, "accuracy": 1 - value}
        for (arm, lr), values in validation.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_one_seed_chooses_the_rate_and_the_others_are_judged() -> None:
    table = outcomes(
        {
            ("a", 0.1): [0.9, 0.1, 0.2],
            ("a", 0.01): [0.6, 0.9, 0.9],
            ("a", 1.0): [0.8, 0.9, 0.9],
            ("b", 1.0): [0.5, 0.5],
            ("b", 0.1): [0.5, 0.5],
            ("b", 0.01): [0.1, float("nan")],
        }
    )
    best = tuned(table, ["arm"])
    assert best.groupby("arm")["lr"].unique().map(list).to_dict() == {"a": [0.1], "b": [0.1]}  # of equals, the smallest
    assert best["seed"].tolist() == [1, 2, 1] and not best["edge"].any()
    assert rate_in_words(best) == "0.1"
    # two choose by their mean
    assert tuned(table, ["arm"], choosing=2)[["lr", "seed"]].iloc[0].tolist() == [1.0, 2]
    worse = tuned(table[table["lr"] < 1], ["arm"])
    assert worse["edge"].all() and rate_in_words(worse) == "0.1 (end of the grid)"
    # further seeds need the chosen rate alone
    sparse = table[(table["seed"] == 0) | (table["lr"] == 0.1)]
    pd.testing.assert_frame_equal(tuned(sparse, ["arm"]), best)
    # a single seed chooses, and is shown; it has no spread, so that nothing is decided by it
    assert tuned(table[table["seed"] == 0], ["arm"])["seed"].tolist() == [0, 0]


def test_a_rate_at_which_nothing_is_finite_is_never_the_best() -> None:
    table = outcomes({("a", 0.1): [float("nan")] * 2, ("a", 0.2): [0.01, 0.02], ("a", 0.3): [float("nan"), 0.01]})
    assert tuned(table, ["arm"])["lr"].unique().tolist() == [0.2]


def test_the_best_of_equal_rates_is_judged_without_the_luck_that_chose_it() -> None:
    """Ten rates that are all the same: the highest of ten validation accuracies is lucky, and its test accuracy is not."""
    rng = np.random.default_rng(5)
    means = []
    for _ in range(200):
        luck = rng.normal(0.8, 0.05, (10, 3))
        rows = [
            {"arm": "a", "lr": lr, "seed": seed, "validation": luck[lr, seed], "accuracy": luck[lr, seed]}
            for lr in range(10)
            for seed in range(3)
        ]
        means.append(tuned(pd.DataFrame(rows), ["arm"])["accuracy"].mean())
    assert np.mean(means) == pytest.approx(0.8, abs=3 * 0.05 / math.sqrt(400))
