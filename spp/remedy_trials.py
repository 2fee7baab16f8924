"""Remedies that are tried: ``run.try_remedies(model, batch)``, and the one of last resort, ``spp.calibrate(model, batch)``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain, combinations, cycle, islice
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from spp.diagnosis import Finding, Severity, View
from spp.diagnosis.attenuation import backward, distinct, forward
from spp.diagnosis.findings import number, percent, times
from spp.diagnosis.registry import limits_of, suspected
from spp.diagnosis.remedies import Case, Remedy, calibrate_, init_for, remedy
from spp.errors import InputError, plain, said
from spp.frame.schema import (
    CALIBRATION_COLUMNS,
    TRIAL_COLUMNS,
    CalibrationColumn,
    ComponentColumn,
    ModuleColumn,
    Spec,
    TrialColumn,
    check,
)
from spp.objective import Batch, Objective, batches_of, to_device
from spp.run import Run
from spp.tracing import trace

# -- trials -------------------------------------------------------------------------------------------------------------------

SHOWN = (
    *(TrialColumn.REMEDY, TrialColumn.RATE, TrialColumn.LOSS_FIRST, TrialColumn.LOSS_LAST, TrialColumn.GONE),
    *(TrialColumn.ERRORS, TrialColumn.WARNINGS, TrialColumn.LEFT, TrialColumn.BROUGHT),
    *(TrialColumn.FORWARD, TrialColumn.BACKWARD, TrialColumn.FAILED),
)
"""Columns that are printed."""
RATES = (0.1, 0.01, 0.001)
"""Learning rates of a training that is tried, one after the other until one holds."""
LEARNT = 0.05
"""By what share of it the loss is to be larger with targets of other samples: outputs of a bias alone have none."""
OptimizerMaker = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
WORTH = 0.02
"""By how many decades per layer a pair is to be nearer to criticality than one remedy: a factor of 1.05."""


class Trials(pd.DataFrame):
    """What became of each remedy that was tried, the best first: the columns of :data:`spp.frame.schema.TRIAL_COLUMNS`.

    Attributes:
        winner: The remedies of the first row, in the order in which they are applied; none where its trial refutes it: it
            failed, the network does not learn, or its finding stays though the network learnt without it.
        unfinished: How many trials an interrupt left out.
        refuted: The remedies that were tried alone in vain, each with the rule that it is no good against.
    """

    # pandas keeps, copies and pickles the attributes that are named here.
    _metadata: ClassVar[list[str]] = ["winner", "unfinished", "refuted"]
    winner: tuple[Remedy, ...]
    unfinished: int
    refuted: tuple[tuple[Remedy, str], ...]

    def __init__(self, tried: Sequence[_Trial] = (), unfinished: int = 0) -> None:
        order = sorted(tried, key=_Trial.badness)
        # The stubs of pandas know of __new__ alone.
        super().__init__(_table([one.row() for one in order], TRIAL_COLUMNS))  # type: ignore[call-arg]
        self.winner = tuple(order[0].ordered()) if order and not order[0].refutes(order[0].rule) else ()
        self.unfinished = unfinished
        alone = [one for one in order if len(one.remedies) == 1]
        self.refuted = tuple(
            (one.remedies[0], rule)
            for one in alone
            for rule in one.bench.rules_of(one.remedies[0])
            if one.refutes(rule)
        )

    def told(self, finding: Finding, info: Mapping[str, Any]) -> str:
        """The first remedy of a finding that its own trial does not refute, in words; "" where none is left."""
        left = (
            one
            for one in finding.remedies
            if not any(rule == finding.rule and _alike(one, other) for other, rule in self.refuted)
        )
        return next((one.words(info) for one in left), "")

    @property
    def _constructor(self) -> Any:
        # A selection of rows is a plain table: its first row need not be the best.
        return pd.DataFrame

    @property
    def verdict(self) -> str:
        """The best remedy with its numbers, in one sentence; that there is none, where nothing helps."""
        cut = f" (interrupted: {self.unfinished} trials were left out)" if self.unfinished else ""
        if self.empty:
            return f"there is nothing to try{cut}."
        if not self.winner:
            could = "helps" if (self[TrialColumn.FAILED] == "").any() else "could be applied"
            return f"none of {len(self)} remedies {could}{cut}."
        best: dict[Any, Any] = self.iloc[0].to_dict()
        left = ", ".join(f"{best[c]:.3g} {c}" for c in (TrialColumn.ERRORS, TrialColumn.WARNINGS))
        course = (
            f"{direction} {times(best[f'{direction}_before'])} -> {times(best[direction])}"
            for direction in map(str, (TrialColumn.FORWARD, TrialColumn.BACKWARD))
        )
        share = best[TrialColumn.GONE]
        gone = "is gone" if share == 1 else "stays" if share == 0 else f"is gone with {percent(share)} of the seeds"
        return (
            f"{best[TrialColumn.REMEDY].rstrip('.')}: {best[TrialColumn.RULE]} {gone}, {left}; per layer {', '.join(course)}"
            f"{_learning(best)}, the best of {len(self)} tried{cut}."
        )

    def __str__(self) -> str:
        if self.empty:
            return self.verdict
        shown = self[list(map(str, SHOWN))].map(lambda cell: plain(cell) if isinstance(cell, str) else cell)
        return f"{self.verdict}\n{shown.to_string(index=False, float_format='{:.3g}'.format)}"

    def _repr_html_(self) -> str:
        from html import escape

        shown = self[list(map(str, SHOWN))].to_html(index=False, border=0, float_format="{:.3g}".format, na_rep="")
        return f"<p>{escape(self.verdict)}</p>" + (shown if len(self) else "")


def _learning(row: Mapping[Any, Any]) -> str:
    """What a short training did to the loss; empty where there was none."""
    first, last, as_it_is = (
        row[c] for c in (TrialColumn.LOSS_FIRST, TrialColumn.LOSS_LAST, TrialColumn.LOSS_UNTREATED)
    )
    if np.isnan(row[TrialColumn.LEARNS]):
        return ""
    without = number(as_it_is) if np.isfinite(as_it_is) else "not finite"
    return f"; loss {number(first)} -> {number(last)} at a rate of {row[TrialColumn.RATE]:g} ({without} as it is)"


def try_remedies(
    run: Run,
    model: nn.Module,
    batch: Any,
    *,
    remedies: Iterable[Remedy] | None = None,
    seeds: int = 3,
    pairs: int = 3,
    steps: int = 20,
    optimizer: OptimizerMaker | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Trials:
    """Apply each remedy of the findings to a copy of the model, trace it again and train it: what it heals, leaves, brings.

    After the single ones, pairs of the best are tried. The model, the batch and the random state are left exactly as they
    were. Ctrl-C ends the trials and keeps what was measured until then.

    Args:
        run: What was measured of the model, by a trace or a watch.
        model: That model.
        batch: As for :func:`spp.trace`; what can be gone through only once is kept in memory.
        remedies: What to try; left out, the remedies of all errors and warnings that a program can apply, of those that
            another one hides too; branches scaled down where there are any; and :func:`calibrate`.
        seeds: How often each is tried; what draws no random number is tried once.
        pairs: Of how many of the best single remedies pairs are tried.
        steps: For how many steps a copy is trained on the batch, with the first seed, in the mode that the model is in;
            0 for none. There is none either where the trace begins at a probe and not at a loss.
        optimizer: Makes the optimizer of that training from the parameters. Left out, it is SGD with momentum 0.9 at rates of
            0.1, 0.01 and 0.001, one after the other until the network learns.
        progress: Show a bar; left out, where somebody looks at a terminal.
        options: Further arguments of :func:`spp.trace`, as ``loss``.

    Returns:
        One row per remedy or pair, the best first: the one with which the network learns, then the one that leaves the fewest
        errors, then warnings, then has the lowest loss, then is nearest to criticality, where neither the signal nor its
        gradient grows or falls from layer to layer. A trial that fails says why. To learn is to end with a finite loss
        below the first that is at least 5 % larger with targets of other samples. A finding that a trace cannot have, as
        those over time, is gone where the network learns.

    Raises:
        InputError: The run is of another model; ``seeds`` is below 1, ``steps`` below 0; an option is not what
            :func:`spp.trace` takes.
        TraceError: The model cannot be traced as it is.
    """
    _check(run, model, seeds, steps)
    # nothing is left of an iterator after the first trace
    batch = list(batch) if isinstance(batch, Iterator) else batch
    lesson = partial(
        _taught, given=_given(batch, options, steps), loss=options.get("loss"), steps=steps, maker=optimizer
    )
    bench = _Bench(run, model, batch, options, lesson, trace(model, batch, **options))
    asked = bench.singles() if remedies is None else [(one,) for one in remedies]
    tried: list[_Trial] = []
    todo = 0
    with _bar(progress, len(asked)) as bar:
        try:
            for group in (asked, None):
                group = _pairs(tried, pairs) if group is None else group
                bar.total = todo = len(tried) + len(group)
                for one in group:
                    tried.append(trial := _Trial(one, bench.rule_of(one), bench))
                    trial.run(seeds)
                    bar.update()
        except KeyboardInterrupt:
            # the one in which it came may have been measured with a seed or two
            tried = [one for one in tried if one.seen or one.failed]
    return Trials(tried, max(0, todo - len(tried)))


def _check(run: Run, model: nn.Module, seeds: int, steps: int) -> None:
    """Refuse what :func:`try_remedies` cannot take."""
    for name, value, least in (("seeds", seeds, 1), ("steps", steps, 0)):
        if value < least:
            told = "a remedy is tried once at least" if least else "a training has no fewer than 0 steps"
            raise InputError(told, received=str(value), where=name)
    named = {name for name, _ in model.named_modules()}
    modules = run.modules
    measured = modules[modules[ModuleColumn.TYPE] != "function"][ModuleColumn.NAME].astype(str)
    if lacking := [name for name in measured if name not in named]:
        rule = "remedies are tried on the model that was measured"
        raise InputError(rule, received=f"one without {plain(lacking[0])!r}", where="model")


def _bar(progress: bool | None, total: int) -> Any:
    # tqdm.auto warns in a notebook without widgets, whether or not a bar is shown
    from tqdm import tqdm

    return tqdm(
        total=total,
        desc="trying remedies",
        unit="trial",
        disable=not (sys.stderr.isatty() if progress is None else progress),
    )


def treated(model: nn.Module, remedies: Iterable[Remedy], case: Case) -> nn.Module:
    """A copy of the model with these remedies applied, in their order; draws from torch's global generator.

    Raises:
        InputError: One changes nothing in this model.
        Exception: Whatever a change raises.
    """
    made = deepcopy(model)
    for one in sorted(remedies, key=lambda one: one.order):
        before = _state(made)
        if one.change is None:
            raise InputError("a remedy that is tried can be done by a program", received=one.kind, where="remedies")
        made = one.change(made, one, case)
        if _same(before, _state(made)):
            raise InputError("a remedy changes something", received=f"{one.kind}, which finds nothing to change")
    return made


def _state(model: nn.Module) -> dict[str, Any]:
    """Values, and classes of modules: what a change may change."""
    values = {name: value.detach().clone() for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    return values | {f"{name}:": type(module) for name, module in model.named_modules()}


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(value, b[name]) if isinstance(value, Tensor) else value is b[name] for name, value in a.items()
    )


class Lesson(NamedTuple):
    """A short training: the loss at its first step and over the last fifth, the rate, and whether the network learns."""

    first: float = np.nan
    last: float = np.nan
    rate: float = np.nan
    learns: float = np.nan


def _given(batch: Any, options: Mapping[str, Any], steps: int) -> list[Batch]:
    """The batches of a training, as many as it can take."""
    most = min(steps, options.get("batches") or steps)
    return list(islice(batches_of(batch), most))


def _taught(model: nn.Module, *, given: Sequence[Batch], loss: Any, steps: int, maker: OptimizerMaker | None) -> Lesson:
    """Train copies of a model, at lower rates until it learns; the best of the attempts."""
    best = Lesson()
    makers = [maker] if maker is not None else [partial(torch.optim.SGD, lr=rate, momentum=0.9) for rate in RATES]
    for make in makers if steps and any(p.requires_grad for p in model.parameters()) else ():
        one = _attempt(deepcopy(model), given, Objective(loss, 0), steps, make)
        if np.isnan(best.learns) or one.learns or (np.isfinite(one.last) and not one.last >= best.last):
            best = one
        if one.learns:
            break
    return best


def _attempt(model: nn.Module, given: Sequence[Batch], loss: Objective, steps: int, make: OptimizerMaker) -> Lesson:
    """One training, in place; ``learns`` is NaN where the model has no loss."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, losses, others = make(parameters), [], []
    rate = float(optimizer.param_groups[0]["lr"])
    for step, batch in enumerate(islice(cycle(given), steps)):
        batch = to_device(batch, parameters[0].device)
        output = model(*batch.args, **batch.kwargs)
        roots, _ = loss(output, batch.target)
        if loss.value is None or not roots:
            return Lesson()
        losses.append(loss.value)
        if not np.isfinite(loss.value):
            return Lesson(losses[0], np.nan, rate, 0.0)
        if step >= steps - max(1, steps // 5):
            others.append(_of_others(loss, output, batch.target))
        optimizer.zero_grad()
        torch.autograd.backward(roots)
        optimizer.step()
    last = float(np.mean(losses[-len(others) :]))
    apart = np.nanmean(others) - last if np.isfinite(others).any() else losses[0] - last
    return Lesson(losses[0], last, rate, float(last < losses[0] and apart >= LEARNT * abs(last)))


def _of_others(loss: Objective, output: Any, target: Any) -> float:
    """The loss where each sample has the target of another one; NaN where targets are no tensor, or all alike."""
    if not isinstance(target, Tensor) or not target.dim():
        return np.nan
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(0))
    if torch.equal(target, other := target[order.to(target.device)]):
        return np.nan
    with torch.no_grad():
        loss(output, other)
    return np.nan if loss.value is None else loss.value


@contextmanager
def _drawn(model: nn.Module, seed: int) -> Iterator[None]:
    """Random numbers of a seed; the user's random state stays, whatever is drawn."""
    devices = {p.device.index for p in model.parameters() if p.is_cuda}
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True)
class _Bench:
    """What all trials share.

    Attributes:
        run: What was measured of the model.
        model: The user's, which stays as it is.
        batch: As for a trace.
        options: Of the traces.
        lesson: Trains a model shortly, in place.
        before: A trace with the same options, which the others are compared with.
    """

    run: Run
    model: nn.Module
    batch: Any
    options: dict[str, Any]
    lesson: Callable[[nn.Module], Lesson]
    before: Run

    def singles(self) -> list[tuple[Remedy, ...]]:
        """The remedies that a program can apply: those of the findings, the worst one's first, of hidden ones, and of all."""
        bad = self.run.findings.worst(Severity.WARNING)
        if not bad:
            return []
        hidden = [one for one in suspected(self.run) if one.severity is not Severity.NOTE]
        every = [one for finding in (*bad, *hidden) for one in finding.remedies if one.change is not None]
        view = View(self.run)
        # words alone leave what fits every network
        every += [] if every else [remedy("init", init_for(view))]
        every += [remedy("branches")] if view.branch_ratios else []
        kinds = {(one.kind, str(one.value), one.where): one for one in (*every, remedy("calibrate"))}
        return [(one,) for one in kinds.values()]

    @cached_property
    def untreated(self) -> Lesson:
        """What becomes of the model as it is in the same training."""
        with _drawn(self.model, 0):
            return self.lesson(self.model)

    @cached_property
    def known(self) -> frozenset[str]:
        """The rules that a trace of the model as it is has errors and warnings of."""
        return frozenset(finding.rule for finding in self.before.findings.worst(Severity.WARNING))

    def rule_of(self, remedies: tuple[Remedy, ...]) -> str:
        """The rule whose finding the first of the remedies is against: the worst, where it is nobody's."""
        return next(chain(self.rules_of(remedies[0]), (one.rule for one in self.run.findings)), "")

    def rules_of(self, remedy: Remedy) -> list[str]:
        """The rules whose findings tell a remedy."""
        bad = self.run.findings.worst(Severity.WARNING)
        return [found.rule for found in bad if any(_alike(one, remedy) for one in found.remedies)]


def _alike(one: Remedy, other: Remedy) -> bool:
    return (one.kind, one.value, one.where) == (other.kind, other.value, other.where)


@dataclass(slots=True)
class _Trial:
    """One remedy, or several at once, and what was seen after it, with each seed."""

    remedies: tuple[Remedy, ...]
    rule: str
    bench: _Bench
    seen: list[tuple[list[Finding], float, float]] = field(default_factory=list)
    lesson: Lesson = field(default_factory=Lesson)
    seconds: float = 0.0
    failed: str = ""

    def run(self, seeds: int) -> None:
        start = time.perf_counter()
        for seed in range(seeds):
            with _drawn(self.bench.model, seed):
                drawn = torch.get_rng_state()
                try:
                    made = treated(self.bench.model, self.remedies, Case(self.bench.run, self.bench.batch))
                    drew = not torch.equal(drawn, torch.get_rng_state())
                    after = trace(made, self.bench.batch, **{"seed": seed, **self.bench.options})
                    self.seen.append((after.findings.worst(Severity.WARNING), *slopes(after)))
                    if not seed:
                        self.lesson = self.bench.lesson(made)
                # whatever the model makes of it is told in the row
                except Exception as error:
                    self.failed = plain(said(error))
                    break
            self.seconds = time.perf_counter() - start
            if not drew:
                break

    def row(self) -> dict[str, Any]:
        before, known = slopes(self.bench.before), self.bench.known
        rules = dict.fromkeys(finding.rule for findings, _, _ in self.seen for finding in findings)
        after = [self._mean(values) for values in zip(*((f, b) for _, f, b in self.seen), strict=True)] or [
            np.nan,
            np.nan,
        ]
        return {
            TrialColumn.REMEDY: " and ".join(_typed(one, self.bench.run.info) for one in self.ordered()),
            TrialColumn.RULE: self.rule,
            TrialColumn.GONE: self.gone(self.rule),
            TrialColumn.ERRORS: self._number(Severity.ERROR),
            TrialColumn.WARNINGS: self._number(Severity.WARNING),
            TrialColumn.LEFT: ", ".join(rule for rule in rules if rule in known),
            TrialColumn.BROUGHT: ", ".join(rule for rule in rules if rule not in known),
            TrialColumn.FORWARD_BEFORE: before[0],
            TrialColumn.FORWARD: after[0],
            TrialColumn.BACKWARD_BEFORE: before[1],
            TrialColumn.BACKWARD: after[1],
            TrialColumn.DISTANCE: abs(after[0]) + abs(after[1]),
            TrialColumn.RATE: self.lesson.rate,
            TrialColumn.LOSS_FIRST: self.lesson.first,
            TrialColumn.LOSS_LAST: self.lesson.last,
            TrialColumn.LOSS_UNTREATED: self.bench.untreated.last,
            TrialColumn.LEARNS: self.lesson.learns,
            TrialColumn.SEEDS: len(self.seen),
            TrialColumn.SECONDS: self.seconds,
            TrialColumn.FAILED: self.failed,
        }

    def badness(self) -> tuple[float, ...]:
        """What trials are sorted by, the best first."""
        row = self.row()
        # a second remedy is to be worth it
        far = row[TrialColumn.DISTANCE] + WORTH * len(self.remedies)
        gone, loss = (float(np.nan_to_num(value)) for value in (row[TrialColumn.GONE], self.lesson.last))
        loss += LEARNT * abs(loss) * len(self.remedies)
        left = row[TrialColumn.ERRORS], row[TrialColumn.WARNINGS]
        bad = (float(self.lesson.learns == 0), *left, -gone, loss, far)
        return (bool(self.failed), *bad) if self.seen else (True, *[np.inf] * len(bad))

    def gone(self, rule: str) -> float:
        """Share of the seeds with which a rule finds nothing; of what a trace cannot find, whether the network learns."""
        if rule not in self.bench.known:
            return self.lesson.learns if self.seen else np.nan
        return self._mean(rule not in {finding.rule for finding in findings} for findings, _, _ in self.seen)

    def refutes(self, rule: str) -> bool:
        """Whether the remedies are no good against what a rule found.

        They failed, the network does not learn, or the finding stays where the network learns as it is.
        """
        if self.failed or self.lesson.learns == 0:
            return True
        return self.gone(rule) == 0 and not (self.lesson.learns == 1 and self.bench.untreated.learns == 0)

    def ordered(self) -> list[Remedy]:
        return sorted(self.remedies, key=lambda one: one.order)

    def _number(self, severity: Severity) -> float:
        return self._mean([sum(one.severity is severity for one in findings) for findings, _, _ in self.seen])

    def _mean(self, values: Iterable[float]) -> float:
        known = list(values)
        return float(np.mean(known)) if known else float("nan")


def _typed(one: Remedy, info: dict[str, Any]) -> str:
    return one.quoted(info) or one.words(info)


def _pairs(tried: Sequence[_Trial], most: int) -> list[tuple[Remedy, ...]]:
    """Pairs of the best single remedies, of different kinds."""
    best = [one.remedies[0] for one in sorted(tried, key=_Trial.badness) if not one.failed][:most]
    return [pair for pair in combinations(best, 2) if pair[0].kind != pair[1].kind]


def slopes(run: Run) -> tuple[float, float]:
    """The steepest course of the activations and of the gradients, in decades per weighted layer of the network.

    Of the activations' mean square, or of their channel variance where that goes farther; of the gradient's squared norm,
    followed backwards. 0 where none was measured, or all of it stays as it is.
    """
    view = View(run, limits=limits_of())
    layers = max(1, sum(step.is_weighted for step in view.steps))
    return tuple(
        max((leg.decades for one in ways for leg in (one.down, one.up) if leg is not None), key=abs, default=0.0)
        / layers
        for ways in ((forward(view), distinct(view)), (backward(view),))
    )  # type: ignore[return-value]


def _table(rows: Sequence[dict[Any, Any]], columns: dict[Any, Spec]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=list(map(str, columns)))
    return check(table.astype({str(column): spec.dtype for column, spec in columns.items()}), columns)


# -- calibration --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Calibration:
    """What :func:`calibrate` changed.

    Attributes:
        layers: One row per layer that was looked at, see :data:`spp.frame.schema.CALIBRATION_COLUMNS`.
        components: ACV along the network before and after, by component.
    """

    layers: pd.DataFrame
    components: pd.DataFrame
    _kept: dict[nn.Parameter, Tensor] = field(repr=False)

    def undo(self) -> None:
        """Put every weight back, bit by bit."""
        with torch.no_grad():
            for parameter, value in self._kept.items():
                parameter.copy_(value)

    def __str__(self) -> str:
        changed = self.layers[self.layers[CalibrationColumn.FACTOR] != 1]
        head = f"{len(changed)} of {len(self.layers)} layers scaled"
        return f"{head}\n{self.components.to_string(index=False, float_format='{:.3g}'.format)}"

    def _repr_html_(self) -> str:
        return self.components.to_html(index=False, border=0, float_format="{:.3g}".format)


def calibrate(
    model: nn.Module, batch: Any, *, target: str = "flat", tolerance: float = 0.1, steps: int = 10
) -> Calibration:
    """Scale the weight of each layer, in place, until the signal keeps its variance along the network on this batch.

    LSUV (Mishkin & Matas 2016, arXiv 1511.06422) for any network: in the order in which they run, each convolution and Linear
    layer's weight is scaled so that the average channel variance (ACV) of its output is 1, and at the end of a residual branch
    a share of its skip's. Directions of weights, biases and norms stay as they are; so do layers in front of a norm, which
    takes their scale away, layers inside gates, weights that several modules share, and layers whose output does not vary.

    Args:
        model: Any module, in the mode it is in. It may have been trained: what it has learnt is scaled with it.
        batch: As for :func:`spp.trace`; the first one counts.
        target: What ACV is to do along residual blocks. ``flat``: each of L branches has 1/L of its skip's variance, so that
            it grows e-fold at most over all of them. ``theory``: every branch has the variance of the first block's input,
            so that it grows as behind norms, ``1 + l`` after l blocks (De & Smith 2020, arXiv 2002.10444). Sums that weigh
            their branches themselves, as those of SkipInit, have branches of ACV 1.
        tolerance: How far from its target a variance may stay, relative to it.
        steps: Rescalings of a layer at most.

    Returns:
        What was changed; ``undo()`` of it puts all of it back.

    Raises:
        InputError: The target is none of these, or the tolerance is not positive.
        TraceError: The model raises.

    Examples:
        >>> model = nn.Sequential(*[nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(20)])
        >>> done = calibrate(model, torch.randn(256, 64))
        >>> bool((done.components.acv_after > 0.3).all()), bool((done.components.acv_before > 0.3).all())
        (True, False)
    """
    before = trace(model, batch, batches=1, signals=("activation", "weight"))
    kept = {parameter: parameter.detach().clone() for parameter in model.parameters()}
    with torch.random.fork_rng(devices={p.device.index for p in kept if p.device.type == "cuda"}):
        done = calibrate_(model, before, batch, target=target, tolerance=tolerance, steps=steps)
    after = trace(model, batch, batches=1, signals=("activation",))
    kept = {parameter: value for parameter, value in kept.items() if not torch.equal(parameter, value)}
    rows = [
        {
            CalibrationColumn.NAME: name,
            CalibrationColumn.BEFORE: one.before,
            CalibrationColumn.TARGET: one.target,
            CalibrationColumn.AFTER: one.after,
            CalibrationColumn.FACTOR: (one.after / one.before) ** 0.5 if one.steps else 1.0,
        }
        for name, one in done.items()
    ]
    layers = _table(rows, CALIBRATION_COLUMNS)
    pair = [run.components[[ComponentColumn.NAME, ComponentColumn.ACV]] for run in (before, after)]
    components = pair[0].merge(pair[1], on=str(ComponentColumn.NAME), suffixes=("_before", "_after"))
    return Calibration(layers, components, kept)
