"""What judges of several studies do with results: intervals over seeds, verdicts, best learning rates.

A verdict follows from an interval: a claim is confirmed where the whole of it lies on the claimed side of a bound that was
fixed before the run, refuted where the whole of it lies on the other, and otherwise not decided. "Not significant" refutes
nothing, and a point estimate decides nothing. Claims of one study are corrected together (``spp.studies.study.judged``).

An arm that is judged at a learning rate which suits another one loses for the wrong reason. So each arm has its own, which
validation images choose, of seeds that are not judged; what is reported is accuracy of the other seeds on test images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, SupportsFloat

import numpy as np
import numpy.typing as npt
import pandas as pd

from spp.errors import MissingExtraError
from spp.studies.study import LEVEL, Outcome, Results, Untestable, Verdict
from spp.training.results import History

# --- intervals -------------------------------------------------------------------------------------------------------


POWER = 0.8
"""What a run "could have told" is what this share of its repetitions would tell."""

MANY = 1000
"""A verdict that takes more runs is not said how many."""

RESAMPLES, RESAMPLING_SEED = 9999, 0
"""Of every bootstrap; the seed is fixed, so that the same results give the same verdict."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scale:
    """How numbers of one kind are analysed and said.

    Attributes:
        format: Of one number.
        unit: Said once, behind the numbers.
        times: Numbers are said times this.
        logarithmic: Means are geometric.
    """

    format: str = ".3g"
    unit: str = ""
    times: float = 1.0
    logarithmic: bool = False

    def __call__(self, *values: float) -> str:
        """Numbers in words."""
        return " to ".join(format(self.times * value, self.format) for value in values) + self.unit

    def beside(self, bound: float, distance: float, sign: int = 1) -> float:
        """The number that lies so far from a bound: behind it by a factor on a logarithmic scale, else by a difference."""
        return bound * distance**sign if self.logarithmic else bound + sign * distance


PLAIN, FACTOR = Scale(), Scale(logarithmic=True)
POINTS, PERCENT = Scale("+.1f", " points", 100.0), Scale(".0f", " %", 100.0)


LENGTHS = ("estimate", "low", "high", "detectable", "margin")
"""What of an interval is on the scale of its effect."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Where an effect lies; on a logarithmic scale distances are factors.

    Attributes:
        estimate: The effect in these runs.
        low: Lower end; minus infinity where the data give none.
        high: Upper end.
        level: Share of repetitions whose interval holds the truth.
        sizes: How many runs there are, or means over conditions, by condition.
        detectable: How far behind a bound an effect lies that ``POWER`` of repetitions would tell from it, by the observed
            spread: the longer arm of the interval plus Student's t of ``POWER``, one-sided, times the standard error.
        margin: Within what distance of 0 as many would show an effect of 0 to lie: the same with half of what ``POWER`` leaves.
    """

    estimate: float
    low: float
    high: float
    level: float
    sizes: tuple[int, ...]
    detectable: float = math.nan
    margin: float = math.nan


@dataclass(frozen=True, slots=True, eq=False)
class Effect:
    """A mean over runs, or a ratio of two means, with the spread over seeds that its interval comes from.

    The index of a run is its seed, or its conditions and, last, its seed. Conditions weigh alike. Where every condition has
    the same seeds, a seed stands for one draw of weights and images, so that its runs are averaged and seeds are the
    sample. Otherwise seeds are a sample within each condition.

    Attributes:
        top: By run.
        bottom: By run, what the mean of ``top`` is divided by the mean of; None for a mean.
        scale: Of the numbers.
        drawn: Whether conditions are a sample themselves, for a claim that reaches beyond them; few of them tell little.
    """

    top: pd.Series[float]
    bottom: pd.Series[float] | None = None
    scale: Scale = PLAIN
    drawn: bool = False

    @property
    def groups(self) -> list[Array]:
        """Tops and bottoms, ``(runs, 2)``, by condition; a single group of means where seeds are the same in all."""
        pairs = pd.DataFrame({"top": self.top, "bottom": 1.0 if self.bottom is None else self.bottom}).dropna()
        if self.scale.logarithmic:
            # a signal that has underflowed is as small as a number can be
            pairs["top"] = np.log(pairs["top"].astype(np.float64).clip(lower=np.finfo(np.float64).tiny))
        levels, parts = list(range(pairs.index.nlevels)), [pairs]
        if len(levels) > 1:
            parts, by_seed = [one for _, one in pairs.groupby(level=levels[:-1])], pairs.groupby(level=levels[-1])
            if not self.drawn and (by_seed.size() == len(parts)).all():
                parts = [by_seed.mean()]
        arrays = [one.to_numpy(dtype=np.float64) for one in parts if len(one)]
        # sorted, since resampling must not depend on the order in which runs come
        return sorted((one[np.lexsort(one.T)] for one in arrays), key=lambda one: one.tolist())

    def at(self, level: float = LEVEL) -> Interval:
        """Its interval at a level.

        Each end is the outer one of two. Student's t (Fieller's interval for a ratio, Welch's degrees of freedom over
        conditions) allows for few seeds and takes their spread for normal. A bootstrap (SciPy's BCa over seeds, percentiles
        of a hierarchical one over conditions) sees skewness, and is too narrow of few seeds. Without a spread, or where the
        denominator of a ratio is not told from 0, there are no ends.
        """
        groups = self.groups
        sizes = tuple(map(len, groups))
        means = np.array([one.mean(0) for one in groups]).reshape(-1, 2)
        # of infinite numbers there is no mean
        if not len(means) or not np.isfinite(means).all():
            return Interval(math.nan, -math.inf, math.inf, level, sizes)
        center = means.mean(0)
        estimate = float(center[0] / center[1]) if center[1] else math.nan
        covariance, freedom = _spread(groups, means, estimate, drawn=self.drawn)
        if not freedom:
            return self._said(Interval(estimate, -math.inf, math.inf, level, sizes))
        error = _error(covariance, estimate) / abs(float(center[1]))
        critical, power, half = _scipy().t.ppf([(1 + level) / 2, POWER, (1 + POWER) / 2], freedom).tolist()
        low, high = _fieller(center, covariance, critical)
        # without any spread there is nothing to resample
        if math.isfinite(low) and error > 1e-12 * abs(estimate):
            resampled = _resampled(groups, estimate, error, level, drawn=self.drawn)
            low, high = min(low, resampled[0]), max(high, resampled[1])
        reach = max(estimate - low, high - estimate)
        return self._said(Interval(estimate, low, high, level, sizes, reach + power * error, reach + half * error))

    def _said(self, found: Interval) -> Interval:
        if not self.scale.logarithmic:
            return found
        with np.errstate(over="ignore"):
            factors: dict[str, Any] = {name: float(np.exp(getattr(found, name))) for name in LENGTHS}
        return replace(found, **factors)


def _scipy() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingExtraError("SciPy", "studies", purpose="an interval") from error
    return stats


def _error(covariance: Array, ratio: float) -> float:
    """Standard error of the mean of ``top - ratio * bottom``."""
    contrast = np.array([1.0, -ratio])
    return math.sqrt(max(float(contrast @ covariance @ contrast), 0.0))


def _spread(groups: list[Array], means: Array, ratio: float, *, drawn: bool) -> tuple[Array, float]:
    """Covariance of the mean top and the mean bottom, and degrees of freedom; none of them where there is no spread."""
    count, sizes = len(groups), np.array([len(one) for one in groups])
    if drawn and count > 1:
        return np.cov(means.T) / count, count - 1.0
    if drawn or sizes.min() < 2 or not math.isfinite(ratio):
        return np.zeros((2, 2)), 0.0
    parts = np.array([np.cov(one.T) / len(one) for one in groups]) / count**2
    variances = np.array([_error(part, ratio) ** 2 for part in parts])
    squares = float((variances**2 / (sizes - 1)).sum())
    return parts.sum(0), float(variances.sum() ** 2 / squares) if squares else float((sizes - 1).sum())


def _fieller(center: Array, covariance: Array, critical: float) -> tuple[float, float]:
    """Ratios for which the mean of ``top - ratio * bottom`` is not told from 0 (Fieller 1954); of a mean, Student's t."""
    (last, middle), (_, lead) = (np.outer(center, center) - critical**2 * covariance).tolist()
    # the denominator's own interval holds 0, or lies below it
    if lead <= 0 or center[1] <= 0:
        return -math.inf, math.inf
    root = math.sqrt(max(middle**2 - lead * last, 0.0))
    return (middle - root) / lead, (middle + root) / lead


def _resampled(groups: list[Array], estimate: float, error: float, level: float, *, drawn: bool) -> tuple[float, float]:
    """The ends of a bootstrap interval."""
    rng, count = np.random.default_rng(RESAMPLING_SEED), len(groups)
    # in units of the error, from the estimate on: ends then follow any change of unit and origin
    units = [np.stack([(one[:, 0] - estimate * one[:, 1]) / error, one[:, 1]], axis=1) for one in groups]

    def ratio(top: Array, bottom: Array, axis: int = -1) -> Array:
        # rounded, since BCa counts the resamples below the estimate, to which of few seeds many are equal
        found: Array = np.round(top.mean(axis) / bottom.mean(axis), 9)
        return found

    if count == 1:
        options = {"n_resamples": RESAMPLES, "confidence_level": level, "method": "BCa", "paired": True, "rng": rng}
        found = _scipy().bootstrap(tuple(units[0].T), ratio, **options).confidence_interval
        low, high = found.low, found.high
    else:
        slots = []
        for slot in range(count):
            # a condition that is drawn twice has its seeds drawn anew
            means = np.stack([one[rng.integers(len(one), size=(RESAMPLES, len(one)))].mean(1) for one in units])
            slots.append(means[rng.integers(count, size=RESAMPLES), np.arange(RESAMPLES)] if drawn else means[slot])
        tops, bottoms = np.stack(slots, axis=1).transpose(2, 0, 1)
        low, high = np.quantile(ratio(tops, bottoms), [(1 - level) / 2, (1 + level) / 2])
    return estimate + error * float(low), estimate + error * float(high)


def difference(
    ahead: pd.Series[float], behind: pd.Series[float], scale: Scale = POINTS, *, drawn: bool = False
) -> Effect:
    """By how much one arm is ahead of another, over pairs of runs that have everything else in common.

    Args:
        ahead: By run: the index is its seed, or conditions and, last, the seed.
        behind: The same; runs that only one of them has are left out.
        scale: ``POINTS`` of accuracies.
        drawn: See :class:`Effect`.
    """
    return Effect(ahead - behind, scale=scale, drawn=drawn)


def factor(values: pd.Series[float], over: pd.Series[float] | None = None, *, drawn: bool = False) -> Effect:
    """A geometric mean of positive numbers; with ``over``, of the ratio of both by pairs of runs."""
    return Effect(values if over is None else values / over, scale=FACTOR, drawn=drawn)


def ratio(top: pd.Series[float], bottom: pd.Series[float], *, drawn: bool = False) -> Effect:
    """A ratio of arithmetic means over pairs of runs."""
    return Effect(top, bottom, drawn=drawn)


def share(arm: pd.Series[float], none: pd.Series[float], full: pd.Series[float], *, drawn: bool = False) -> Effect:
    """What an arm closes of a gap: the mean of ``arm - none`` over that of ``full - none``, over the same runs.

    Where the gap is not told from 0, the interval has no ends and decides nothing.
    """
    return Effect(arm - none, full - none, PERCENT, drawn)


def restricted(times: pd.Series[float], horizon: float) -> pd.Series[float]:
    """Times to an event as far as they were watched; their mean is the restricted mean (Royston & Parmar 2013).

    Args:
        times: By run; infinite or NaN where the event did not come.
        horizon: How long it was waited for, in every run; one that ended early counts as one without the event.
    """
    return times.fillna(math.inf).clip(upper=horizon)


# --- verdicts --------------------------------------------------------------------------------------------------------


def decided(found: str, numbers: Mapping[str, SupportsFloat], *, confirmed: bool | np.bool_) -> Verdict:
    """Of an exact claim, which no seed could change: confirmed or else refuted."""
    outcome = Outcome.CONFIRMED if confirmed else Outcome.REFUTED
    # float: numbers of NumPy are no numbers of JSON
    return Verdict(outcome, found, {name: float(number) for name, number in numbers.items()})


def between(what: str, effect: Effect, low: float, high: float, *, level: float = LEVEL) -> Verdict:
    """Whether an effect lies between two bounds: confirmed where its whole interval does, refuted where none of it does.

    Args:
        what: What was measured, as a sentence begins.
        effect: Its runs.
        low: In the numbers of the effect's scale, as 1.1 for a factor and 0.01 for a point; minus infinity for none.
        high: Likewise; infinity for none.
        level: Of the interval.

    Returns:
        With the smallest effect that such a run could have told from a bound that stands alone; of two bounds, with the
        margin within which it could have shown a number to lie. Where it is not decided, with about how many runs would
        decide it with that power, were the effect as large as it was found to be.
    """
    found, scale = effect.at(level), effect.scale
    outcome = Outcome.NOT_DECIDED
    if low < found.low and found.high < high:
        outcome = Outcome.CONFIRMED
    elif found.high < low or high < found.low:
        outcome = Outcome.REFUTED
    runs = effect.groups
    size = f"n = {sum(map(len, runs))}" + (f" in {len(runs)} conditions" if len(runs) > 1 else "")
    numbers = {
        "estimate": found.estimate,
        "low": found.low,
        "high": found.high,
        "level": level,
        "n": sum(map(len, runs)),
    }
    if not math.isfinite(found.low):
        # a ratio of a single seed is one of a gap that is not told from 0 as well
        why = "too few finite numbers" if effect.bottom is None else "what it is a part of is not told from 0"
        return Verdict(outcome, f"{what}: {scale(found.estimate)} ({size}; no interval: {why}).", numbers)
    numbers |= {"detectable": found.detectable, "margin": found.margin}
    needed = ""
    if outcome is Outcome.NOT_DECIDED:
        number = _needed(found, low, high, scale, sum(map(len, runs)))
        needed = f"; {f'about {number}' if number else f'more than {MANY}'} runs of this spread would tell"
    told = f"with power {100 * POWER:.0f} % the smallest margin to be shown is {scale(found.margin)}"
    if not (math.isfinite(low) and math.isfinite(high)):
        bound, sign = (low, 1) if math.isfinite(low) else (high, -1)
        least = scale.beside(bound, found.detectable, sign)
        told = f"with power {100 * POWER:.0f} % {scale(least)} would be told from {scale(bound)}"
    ends = f"{100 * level:.4g} % interval {scale(found.low, found.high)}"
    return Verdict(outcome, f"{what}: {scale(found.estimate)} ({ends}, {size}; {told}{needed}).", numbers)


def _needed(found: Interval, low: float, high: float, scale: Scale, runs: int) -> int | None:
    """How many runs would tell the effect from the nearest bound, were it as large as it was found to be."""
    estimate, detectable, *bounds = (
        (math.log(number) if number > 0 else -math.inf) if scale.logarithmic else number
        for number in (found.estimate, found.detectable, low, high)
    )
    away = min(abs(estimate - bound) for bound in bounds)
    sizes = np.arange(max(runs, 2), MANY + 1)
    # a standard error falls with the root of the runs, and what it is multiplied by with their number
    factors = _scipy().t.ppf([[(1 + found.level) / 2], [POWER]], sizes - 1).sum(0) / np.sqrt(sizes)
    told = detectable * factors / factors[0] <= away
    return int(sizes[told.argmax()]) if told.any() else None


def greater(what: str, effect: Effect, bound: float = 0.0, *, level: float = LEVEL) -> Verdict:
    """Whether an effect is above a bound; see :func:`between`."""
    return between(what, effect, bound, math.inf, level=level)


def less(what: str, effect: Effect, bound: float = 0.0, *, level: float = LEVEL) -> Verdict:
    """Whether it is below a bound; see :func:`between`."""
    return between(what, effect, -math.inf, bound, level=level)


def within(what: str, effect: Effect, margin: float, *, level: float = LEVEL) -> Verdict:
    """Whether it is none, up to a margin that was fixed before: two one-sided tests, each at half of what ``level`` leaves.

    Args:
        what: See :func:`between`.
        effect: Likewise.
        margin: Around 0; of a factor, around 1, as 1.1 for 1/1.1 to 1.1.
        level: See :func:`between`.
    """
    none = 1.0 if effect.scale.logarithmic else 0.0
    ends = (effect.scale.beside(none, margin, sign) for sign in (-1, 1))
    return between(what, effect, *ends, level=level)


def beyond(what: str, effect: Effect, margin: float, *, level: float = LEVEL) -> Verdict:
    """The contrary of :func:`within`: confirmed where the interval lies outside of the margin, refuted where inside."""
    return contrary(within(what, effect, margin, level=level))


def contrary(verdict: Verdict) -> Verdict:
    """The verdict on the contrary of a claim: what confirms the one refutes the other."""
    turned = {Outcome.CONFIRMED: Outcome.REFUTED, Outcome.REFUTED: Outcome.CONFIRMED}
    return replace(verdict, outcome=turned.get(verdict.outcome, verdict.outcome))


def mostly(what: str, effect: Effect, *, level: float = LEVEL) -> Verdict:
    """Whether a share is above one half; see :func:`between`."""
    return greater(what, effect, 0.5, level=level)


def every(parts: Mapping[str, Callable[..., Verdict]], *, level: float = LEVEL) -> Verdict:
    """Of a claim that says several things: confirmed where each of them is, refuted where one is, else not decided.

    What must all hold is confirmed without a correction; that one of several is refuted by chance is corrected for
    (Bonferroni): the intervals that refute are wider.

    Args:
        parts: By the name that their numbers get: makes a verdict of a ``level``, as ``partial(greater, what, effect)``.
        level: Of the claim.
    """
    outcome, found = _together(parts, level)
    numbers = {f"{name}_{key}": number for name, one in found.items() for key, number in (one.numbers or {}).items()}
    return Verdict(outcome, " ".join(one.found for one in found.values()), numbers)


def _together(parts: Mapping[str, Callable[..., Verdict]], level: float) -> tuple[Outcome, dict[str, Verdict]]:
    if not parts:
        raise Untestable("Nothing that the claim is about was measured.")
    found = {name: part(level=level) for name, part in parts.items()}
    if all(one.outcome is Outcome.CONFIRMED for one in found.values()):
        return Outcome.CONFIRMED, found
    widened = {name: part(level=1 - (1 - level) / len(parts)) for name, part in parts.items()}
    if any(one.outcome is Outcome.REFUTED for one in widened.values()):
        return Outcome.REFUTED, widened
    return Outcome.NOT_DECIDED, found


def everywhere(what: str, effects: Mapping[str, Effect], low: float, high: float, *, level: float = LEVEL) -> Verdict:
    """The same of one thing at many places, as the blocks of a network: what is said is the place nearest to refuting it.

    Args:
        what: See :func:`between`.
        effects: By place, as ``block 3``.
        low: See :func:`between`.
        high: Likewise.
        level: Of the claim.
    """
    parts = {
        place: partial(between, f"{what}, {place} (the furthest of {len(effects)} places)", effect, low, high)
        for place, effect in effects.items()
    }
    outcome, found = _together(parts, level)

    def excess(one: Verdict) -> float:
        numbers = one.numbers or {}
        return max(low - numbers["low"], numbers["high"] - high)

    worst = max(found.values(), key=excess)
    return replace(worst, outcome=outcome)


def provided(premise: Verdict, verdict: Verdict) -> Verdict:
    """A verdict that means something only where a premise is confirmed, as that an arm learns; else not decided."""
    numbers = {f"premise_{key}": number for key, number in (premise.numbers or {}).items()} | dict(
        verdict.numbers or {}
    )
    outcome = verdict.outcome if premise.outcome is Outcome.CONFIRMED else Outcome.NOT_DECIDED
    return Verdict(outcome, f"{premise.found} {verdict.found}", numbers)


# --- learning rates --------------------------------------------------------------------------------------------------


def by_rate(runs: pd.DataFrame) -> pd.Series[float]:
    """Mean validation accuracy by rising learning rate; the first of the best is the rate of an arm."""
    # a rate at which every run ended early has NaN, which idxmax would skip or stumble over: it counts as 0
    return runs.groupby("lr")["validation"].mean().fillna(0.0)


def tuned(outcomes: pd.DataFrame, by: Sequence[str], choosing: int = 1) -> pd.DataFrame:
    """The runs that are judged, each at its arm's best learning rate.

    What chooses is not judged: the rate has the highest mean validation accuracy over the first seeds, of equal ones it is
    the smallest; judged are the test images of the other seeds, which need no other rate to have been tried.

    Args:
        outcomes: ``Results["outcome"]``: a row per run, with ``lr``, ``seed`` and ``validation``.
        by: Columns that make an arm.
        choosing: How many seeds choose, in the order in which they come.

    Returns:
        Rows of the other seeds at that rate; of all seeds where there are no others, which have no spread to judge by
        where ``choosing`` is 1. With ``edge``, whether that rate is the smallest or the largest that was tried.
    """
    kept = []
    for _, arm in outcomes.groupby(list(by), sort=False):
        chooses = arm["seed"].isin(arm["seed"].unique()[:choosing])
        means = by_rate(arm[chooses])
        # idxmax takes the first of equals
        best = means.idxmax()
        judged = arm if chooses.all() else arm[~chooses]
        kept.append(judged[judged["lr"] == best].assign(edge=best in (means.index[0], means.index[-1])))
    return pd.concat(kept, ignore_index=True) if kept else outcomes.assign(edge=pd.Series(dtype=bool))


def outcomes_of(results: Results, by: Sequence[str] = ("arm",)) -> pd.DataFrame:
    """What ``tuned`` takes, of runs that keep ``test`` and ``history`` apart: tests with the last ``validation`` accuracy."""
    test, history = results["test"], results["history"]
    if test.empty or history.empty:
        return pd.DataFrame()
    keys = [*by, "lr", "seed"]
    last = history.groupby(keys, sort=False)[str(History.VALIDATION_ACCURACY)].last().rename("validation")
    return test.join(last, on=keys)


def geometric(values: pd.Series[float]) -> float:
    """Geometric mean."""
    # seeds spread variances and ratios by factors, which an arithmetic mean leaves to the largest
    return float(np.exp(np.log(values.astype(np.float64)).mean()))
