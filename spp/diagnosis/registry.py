"""The table of rules, and how they are asked. A rule is a plain function from a :class:`~spp.diagnosis.view.View` to findings.

Your own::

    from spp.diagnosis import Finding, Severity, rule

    @rule("tiny_head", "the readout gives out nearly nothing", thresholds={"rms": (1e-6, "our loss divides by it")})
    def tiny_head(view, at):
        for key, row in view.leaves.items():
            if key.name == view.readout and row.rms < at.rms:
                yield Finding(severity=Severity.WARNING, name=key.name, message=f"{key.name} gives out {row.rms:.2g}.")

From then on ``spp.diagnose`` and ``trace.findings`` ask it too; ``thresholds={"tiny_head.rms": 1e-8}`` tunes it.

No rule names another one. A rule that finds causes has *tags*; a rule *follows* the tags of the causes beside which its
findings say nothing new. A cause hides only what begins at it or behind it, in the direction in which the signal travels:

=============== ========================================================================================
tag             what is wrong
=============== ========================================================================================
``everything``  numbers are not finite: nothing behind them can be trusted
``dead``        a layer gives out a constant
``layer``       one layer at fault, whose output every layer behind it has to live with
``bias``        a bias outweighs its layer's input
``groups``      an init ignores groups
``mean``        means outweigh the variance
``channels``    channels are dead
``batch``       statistics over too few values
``branch``      one residual branch is unlike the others
``identity``    residual branches begin at nothing, by design
``growth``      residual sums grow from block to block
``derivative``  one layer's backward is at fault
``fall``        activations or gradients die on their way
``rise``        activations or gradients explode on their way
``gradient``    gradients explode on their way back
``rate``        updates are so large that they write over the weights
``cleared``     gradients are cleared too late or too early
``taken``       the optimizer is left without gradients
``decay``       the weight decay outweighs the gradients
``died``        a layer was alive at the first step and is dead at the last
``alike``       samples were told apart at the first step and no longer are
``drifted``     a scale has drifted since the first step
``objective``   the loss, what it is given, or what it compares with
=============== ========================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pandas as pd

from spp.diagnosis.findings import Finding, Findings, arrange
from spp.diagnosis.remedies import advice, first_words
from spp.diagnosis.view import Measured, View
from spp.errors import InputError, SppError, UnknownNameError
from spp.frame.schema import Column
from spp.registry import Registry
from spp.stats.extra import FORMATS

Check = Callable[[View, Any], Iterable[Finding]]
"""From the view and the rule's thresholds, as attributes, to findings."""

FACT = "fact"
"""The tag of rules that have something to tell of every network, and are kept apart, see :func:`notes`."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """A number that a rule compares with, and why it is that number."""

    value: float
    reason: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of ``RULES``.

    Attributes:
        name: Its name, as findings carry it.
        description: What it finds, in one line.
        check: The function.
        thresholds: What it compares with, by name.
        source: Where it comes from: a paper, a section of the documentation, arithmetic.
        tags: What its findings are causes of.
        follows: Tags of the causes beside which its findings are left out.
    """

    name: str
    description: str
    check: Check
    thresholds: Mapping[str, Threshold]
    source: str = ""
    tags: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()

    def found(self, view: View, at: Any) -> list[Finding]:
        """Its findings, with its name, tags and causes.

        Raises:
            InputError: The function gave something else, or raised.
        """
        found = []
        try:
            told = list(self.check(view, at) or ())
        except SppError:
            raise
        # rules are anybody's: the name says whose, and the cause, which is kept, where
        except Exception as error:
            came = f"{type(error).__name__}: {error}"
            raise InputError("a rule can be asked of any run", received=came, where=f"rule {self.name!r}") from error
        for one in told:
            if not isinstance(one, Finding):
                raise InputError("a rule yields findings", received=type(one).__name__, where=f"rule {self.name!r}")
            tags, follows = one.tags, one.follows
            tags, follows = (self.tags if tags is None else tags), (self.follows if follows is None else follows)
            words = one.remedy or first_words(one.remedies, view.run)
            remedies = one.remedies or ((advice(words),) if words else ())
            found.append(replace(one, rule=self.name, tags=tags, follows=follows, remedy=words, remedies=remedies))
        return found


RULES = Registry[Rule]("rule", of=Rule)
"""Every rule by name, causes before what follows from them."""


def rule(
    name: str,
    description: str = "",
    *,
    thresholds: Mapping[str, tuple[float, str]] | None = None,
    source: str = "",
    tags: tuple[str, ...] = (),
    follows: tuple[str, ...] = (),
    replace: bool = False,
) -> Callable[[Check], Check]:
    """Register a function ``(view, at) -> findings`` as a rule; ``at`` has the thresholds as attributes.

    Args:
        name: The rule's name.
        description: What it finds, in one line; left out, the first line of the function's docstring.
        thresholds: From name to number and the reason for it.
        source: Where the rule comes from.
        tags: What its findings are causes of.
        follows: Tags of the causes beside which its findings are left out.
        replace: Whether a rule of that name may be there already.

    Raises:
        InputError: There is a rule of that name, and ``replace`` is False.
    """

    def register(check: Check) -> Check:
        limits = {key: Threshold(*pair) for key, pair in (thresholds or {}).items()}
        told = description or (check.__doc__ or "").partition("\n")[0].rstrip(".")
        word = told.partition(" ")[0]
        # As in a listing, where lines begin small, but for words like NaN.
        told = told[:1].lower() + told[1:] if word[1:].islower() or len(word) == 1 else told
        RULES.register(name, Rule(name, told, check, limits, source, tags, follows), replace=replace)
        return check

    return register


def diagnose(
    trace: Measured,
    *,
    rules: Iterable[str | Check] | None = None,
    thresholds: Mapping[str, float] | None = None,
    precision: str | Iterable[str] | None = None,
) -> Findings:
    """Say what is wrong with the signals of a network, where it begins, and what to try.

    Needs neither the model nor torch, only what a saved run holds. Of a frame with several steps the last one counts.

    Args:
        trace: A :class:`spp.Trace`, measured just now or loaded.
        rules: Names of the rules to ask (``spp list rules``), or functions ``(view, at) -> findings``; all if left out.
        thresholds: What to change, as ``{"cliff.decades": 3}``; the documentation gives each threshold's reason.
        precision: Number formats that training is meant to use (``float16``, ``bfloat16``, ``fp8-e4m3``, ``fp8-e5m2``): what
            they would lose becomes a warning. Left out: that of the run.

    Returns:
        One row per finding, see :data:`spp.frame.schema.FINDING_COLUMNS`: worst first, causes before what follows from them;
        empty where there is nothing to say. Beside them the ``notes`` (none where ``rules`` are given), see :func:`notes`.

    Raises:
        UnknownNameError: No such rule, threshold or number format.
        InputError: A rule or a threshold is not what was asked for.
    """
    formats = (precision,) if isinstance(precision, str) else tuple(precision or ())
    for name in formats:
        if name not in FORMATS:
            raise UnknownNameError("number format", name, FORMATS, where="precision")
    view, rows = View(trace, formats, limits_of(thresholds)), chosen(rules)
    return Findings(arrange(_found(view, rows)), partial(_facts, view) if rules is None else ())


def find(trace: Measured, **options: Any) -> list[Finding]:
    """The findings of :func:`diagnose`, which says what ``options`` there are, as records."""
    return list(diagnose(trace, **options))


def suspected(trace: Measured) -> list[Finding]:
    """What every rule finds, causes first, with what :func:`diagnose` leaves out beside a cause."""
    view = View(trace, (), limits_of())
    return _found(view, chosen(None))


def notes(frame: pd.DataFrame, limit: int = 3) -> list[Finding]:
    """What is worth knowing of any network, the most striking first: findings of the rules tagged ``fact``.

    Each is a ratio within one network, so that multiplying a signal by a constant changes none. A healthy network has its
    facts too; they then say that the signal keeps its scale. ``statistic`` is the theme, ``value`` how striking the fact is,
    in decades or what a reader would weigh like that many.

    Args:
        frame: The frame of a trace (one step), with the columns of ``spp.frame.schema.COLUMNS``.
        limit: How many to return at most; fewer come back where the frame has less to say.

    Raises:
        InputError: ``limit`` is negative, or the frame holds several steps.
    """
    if limit < 0:
        raise InputError("limit is a number of facts", received=str(limit), where="limit")
    if frame[Column.STEP].nunique() > 1:
        raise InputError("facts are told of one step", received="several steps", where="frame", remedy="Select one.")
    nothing = dict.fromkeys(("blocks", "modules", "unmeasured", "exponents"), pd.DataFrame())
    return _facts(View(SimpleNamespace(frame=frame, run={}, **nothing), limits=limits_of()))[:limit]


def _found(view: View, rows: Iterable[Rule]) -> list[Finding]:
    return [found for row in rows for found in row.found(view, view.limits.get(row.name, SimpleNamespace()))]


def _facts(view: View) -> list[Finding]:
    return sorted(_found(view, (row for row in RULES.values() if FACT in row.tags)), key=lambda fact: -fact.value)


def chosen(rules: Iterable[str | Check] | None) -> list[Rule]:
    """The rules asked for, in causal order: by name, and functions of one's own last; for None all but those of facts.

    Raises:
        UnknownNameError: No rule has that name.
        InputError: Something is neither a name nor a function.
    """
    if rules is None:
        return [row for row in _causal() if FACT not in row.tags]
    # A function that is registered comes with its thresholds and tags.
    by_check = {row.check: row for row in RULES.values()}
    found: list[Rule] = []
    for item in [rules] if isinstance(rules, str) else rules:
        if isinstance(item, str):
            found.append(RULES.row(item, where="rules"))
        elif callable(item):
            found.append(by_check.get(item) or Rule(getattr(item, "__name__", "rule"), "", item, {}))
        else:
            wanted = "a rule is a name or a function (view, at) -> findings"
            raise InputError(wanted, received=repr(item), where="rules")
    names = {row.name for row in found}
    return [row for row in _causal() if row.name in names] + [row for row in found if row.check not in by_check]


def _causal() -> list[Rule]:
    """Every rule, causes first: one that was registered last and follows nothing stands before what follows it."""
    rows: list[Rule] = []
    # A cause that is registered last would find its consequences told already.
    for row in RULES.values():
        behind = (i for i, other in enumerate(rows) if not row.follows and not set(row.tags).isdisjoint(other.follows))
        rows.insert(next(behind, len(rows)), row)
    return rows


def limits_of(changes: Mapping[str, float] | None = None) -> dict[str, SimpleNamespace]:
    """The thresholds of every rule as attributes, with ``changes`` (``"rule.threshold"`` to number) made.

    Raises:
        UnknownNameError: No rule has such a threshold.
        InputError: It is no number.
    """
    known = {f"{row.name}.{key}": limit.value for row in RULES.values() for key, limit in row.thresholds.items()}
    for name, value in (changes or {}).items():
        if name not in known:
            raise UnknownNameError("threshold", name, known, where="thresholds")
        # True and False are integers to Python.
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError("a threshold is a number", received=repr(value), where=f"thresholds[{name!r}]")
        known[name] = float(value)
    return {
        row.name: SimpleNamespace(**{key: known[f"{row.name}.{key}"] for key in row.thresholds})
        for row in RULES.values()
    }
