"""The table of rules. A rule is a plain function from a :class:`~spp.diagnosis.view.View` to findings.

Your own::

    from spp.diagnosis import Finding, Severity, rule

    @rule("tiny_head", "the readout gives out nearly nothing", thresholds={"rms": (1e-6, "our loss divides by it")})
    def tiny_head(view, at):
        for key, row in view.leaves.items():
            if key.name == view.readout and row.rms < at.rms:
                yield Finding(severity=Severity.WARNING, name=key.name, message=f"{key.name} gives out {row.rms:.2g}.")

From then on ``spp.diagnose`` and ``trace.findings`` ask it too; ``thresholds={"tiny_head.rms": 1e-8}`` tunes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from spp.diagnosis.findings import Finding
from spp.diagnosis.view import View
from spp.errors import InputError, UnknownNameError

Check = Callable[[View, Any], Iterable[Finding]]
"""From the view and the rule's thresholds, as attributes, to findings."""


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
    """

    name: str
    description: str
    check: Check
    thresholds: Mapping[str, Threshold]
    source: str = ""


RULES: dict[str, Rule] = {}
"""Every rule by name, causes before what follows from them."""


def rule(
    name: str,
    description: str,
    *,
    thresholds: Mapping[str, tuple[float, str]] | None = None,
    source: str = "",
    replace: bool = False,
) -> Callable[[Check], Check]:
    """Register a function ``(view, at) -> findings`` as a rule; ``at`` has the thresholds as attributes.

    Args:
        name: The rule's name.
        description: What it finds, in one line.
        thresholds: From name to number and the reason for it.
        source: Where the rule comes from.
        replace: Whether a rule of that name may be there already.

    Raises:
        InputError: There is a rule of that name, and ``replace`` is False.
    """

    def register(check: Check) -> Check:
        if name in RULES and not replace:
            raise InputError(
                "a rule has a name of its own",
                received=repr(name),
                where="rule",
                remedy="Give replace=True to replace it.",
            )
        limits = {key: Threshold(*pair) for key, pair in (thresholds or {}).items()}
        RULES[name] = Rule(name, description, check, limits, source)
        return check

    return register


def chosen(rules: Iterable[str | Check] | None) -> list[Rule]:
    """The rules asked for, in causal order: all of them for None, else by name, and functions of one's own last.

    Raises:
        UnknownNameError: No rule has that name.
        InputError: Something is neither a name nor a function.
    """
    if rules is None:
        return list(RULES.values())
    names, own = set(), []
    for item in [rules] if isinstance(rules, str) else rules:
        if isinstance(item, str):
            if item not in RULES:
                raise UnknownNameError("rule", item, RULES, where="rules")
            names.add(item)
        elif callable(item):
            known = next((row for row in RULES.values() if row.check is item), None)
            if known is None:
                own.append(Rule(getattr(item, "__name__", "rule"), "", item, {}))
            else:
                names.add(known.name)
        else:
            raise InputError(
                "a rule is a name or a function (view, at) -> findings", received=repr(item), where="rules"
            )
    return [row for row in RULES.values() if row.name in names] + own


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
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError("a threshold is a number", received=repr(value), where=f"thresholds[{name!r}]")
        known[name] = float(value)
    return {
        row.name: SimpleNamespace(**{key: known[f"{row.name}.{key}"] for key in row.thresholds})
        for row in RULES.values()
    }
