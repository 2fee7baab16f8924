"""What a study is: cells of work, claims with their criteria, and what is drawn and tabled of the results.

A cell is measured by a function of its parameters alone, so that cells run in any order, in any process, once. A claim has
its criterion in code, fixed before anything runs; a verdict says what came out, with the numbers.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from spp.errors import InputError, UnknownNameError

# SignalPlot loads matplotlib, which `spp study list` does without
if TYPE_CHECKING:
    from spp.plot import SignalPlot

    Figures = dict[str, SignalPlot]
else:
    Figures = dict[str, Any]
"""Figures by name."""

Value = str | int | float | bool
"""What a parameter of a cell may be."""

Tables = dict[str, pd.DataFrame]
"""Tables by name."""

SEEDS = (868, 67, 472, 362, 970)
"""The seeds of the thesis (Dewyse 2025); further ones count up from 1."""


class Size(StrEnum):
    """How large an experiment is: which images it trains on, and what it takes."""

    TINY = "tiny"
    REAL = "real"
    FULL = "full"

    @property
    def about(self) -> str:
        """One line."""
        return {
            "tiny": "minutes on a CPU, for a look and for the tests: a proxy",
            "real": "real images, at most an hour on two cores",
            "full": "as it was published, on a GPU",
        }[self]

    def images(self, full: str) -> str:
        """What its images are called; ``full`` are those of the full size."""
        return {"tiny": "digits", "real": "Fashion-MNIST"}.get(self, full)


@dataclass(frozen=True, slots=True)
class Setup:
    """At which size a study runs, and on what.

    Attributes:
        size: Tiny, real or full; its name will do.
        data: Folder where the images lie: CIFAR's at full size; Fashion-MNIST's where it is not in one of the usual places.
        seeds: How many seeds; None for the study's own number.
        device: ``cpu`` or ``cuda``.
    """

    size: Size = Size.TINY
    data: Path | None = None
    seeds: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.size not in list(Size):
            raise UnknownNameError("size", str(self.size), map(str, Size), where="size")
        # the class is frozen; a name becomes the member, which knows more
        object.__setattr__(self, "size", Size(self.size))
        if self.seeds is not None and self.seeds < 1:
            raise InputError("a study has at least one seed", received=str(self.seeds), where="seeds")

    def seed_list(self, own: int) -> tuple[int, ...]:
        """As many seeds as were asked for, or ``own``: those of the thesis first."""
        # further seeds go on behind those of the thesis, so that more of them add cells and replace none
        wanted = self.seeds or own
        return (*SEEDS, *range(1, max(0, wanted - len(SEEDS)) + 1))[:wanted]

    @property
    def chance(self) -> float:
        """The accuracy of guessing, of ten classes or of CIFAR-100's."""
        return 0.01 if self.size is Size.FULL else 0.1


@dataclass(frozen=True, slots=True)
class Cell:
    """One piece of work, done whole or not at all.

    Attributes:
        parameters: What tells it from the others, by name, as ``{"norm": "batch", "lr": 0.1, "seed": 868}``; kept as pairs.
        cost: Seconds it takes, about, on one core, or at full size on a GPU; no number depends on it.
    """

    parameters: tuple[tuple[str, Value], ...]
    cost: float = field(default=1.0, compare=False)

    @classmethod
    def of(cls, cost: float = 1.0, /, **parameters: Value) -> Cell:
        """A cell with these parameters, in this order."""
        return cls(tuple(parameters.items()), cost)

    def __getitem__(self, name: str) -> Any:
        return dict(self.parameters)[name]

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.parameters)

    @property
    def folder(self) -> str:
        """A name for its folder that no other cell has on any file system."""
        slug = re.sub(r"[^A-Za-z0-9.=+-]+", "-", "_".join(f"{k}={v}" for k, v in self.parameters))[:80]
        # slugs of different cells can be equal, above all where case does not count
        return f"{slug}-{hashlib.sha256(str(self).encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """What the finished cells of a study measured.

    Attributes:
        cells: Those cells, in the order of the plan.
        tables: By cell.
        seconds: Time of each.
        machines: Where each was measured, with the versions there; empty where that was not noted.
    """

    cells: tuple[Cell, ...]
    tables: Mapping[Cell, Tables]
    seconds: Mapping[Cell, float]
    machines: Mapping[Cell, str] = field(default_factory=dict)
    _whole: dict[str, pd.DataFrame] = field(default_factory=dict, init=False, repr=False)
    """Tables over all cells that were asked for: verdicts, tables and figures ask many times, and cells are hundreds."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tables."""
        return tuple(dict.fromkeys(name for cell in self.cells for name in self.tables[cell]))

    def __getitem__(self, name: str) -> pd.DataFrame:
        """One table over all cells that have it, the cells' parameters as its first columns."""
        if name not in self._whole:
            parts = [_named(cell, self.tables[cell][name]) for cell in self.cells if name in self.tables[cell]]
            self._whole[name] = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
        # a copy, since readers assign columns
        return self._whole[name].copy()

    def of(self, name: str, **parameters: Value) -> pd.DataFrame:
        """The same of those cells whose parameters have these values."""
        table = self[name]
        for key, value in parameters.items():
            # a table without the column has no row of such cells, as an empty one
            table = table[table[key] == value] if key in table.columns else table.iloc[:0]
        return table.reset_index(drop=True)


def _named(cell: Cell, table: pd.DataFrame) -> pd.DataFrame:
    # what a table says of its rows wins, as the rate of each epoch in a history
    own = {key: [value] * len(table) for key, value in cell.parameters if key not in table.columns}
    return pd.concat([pd.DataFrame(own), table.reset_index(drop=True)], axis=1)


class Outcome(StrEnum):
    """What became of a claim."""

    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    NOT_DECIDED = "not decided"
    NOT_TESTABLE = "not testable at this size"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came out of one claim.

    Attributes:
        outcome: Confirmed or refuted; not decided, where the interval lies on both sides; not testable, where data are missing.
        found: One sentence with the numbers that decided.
        numbers: Those numbers, by name; None for none.
    """

    outcome: Outcome
    found: str
    numbers: Mapping[str, float] | None = None


Judge = Callable[..., Verdict]
"""Decides about a claim: from results and setup and, unless it is exact, the level of its intervals."""

LEVEL = 0.95
"""Of the intervals of all claims of a study together."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim of the work that a study re-runs.

    Attributes:
        name: Short, as ``C1``.
        text: What is claimed, one sentence.
        source: Who says so, and where.
        criterion: When it counts as confirmed and when as refuted, one sentence; what ``judge`` does.
        judge: Decides, from results and setup.
        exact: Whether it takes no level, since it has no interval.
    """

    name: str
    text: str
    source: str
    criterion: str
    judge: Judge = field(repr=False)
    exact: bool = True


class Untestable(Exception):
    """Raised in a judge where the results decide nothing; the message is what was found."""


def claim(name: str, source: str) -> Callable[[Judge], Claim]:
    """Make a claim of the judge that follows, which may raise ``Untestable``; one that takes a ``level`` is not exact.

    The judge's docstring is the claim's text, then, after ``Criterion:``, its criterion; names in braces are constants of the
    judge's module, so that what is printed is what decides.
    """

    def made(judge: Judge) -> Claim:
        exact = "level" not in inspect.signature(judge).parameters

        @wraps(judge)
        def judged(results: Results, setup: Setup, level: float = LEVEL) -> Verdict:
            try:
                return judge(results, setup) if exact else judge(results, setup, level)
            except Untestable as error:
                return Verdict(Outcome.NOT_TESTABLE, str(error))

        # filled in here, since a docstring cannot be an f-string
        prose = " ".join((judge.__doc__ or "").split()).format_map(getattr(judge, "__globals__"))  # noqa: B009
        text, _, criterion = prose.partition(" Criterion: ")
        return Claim(name, text, source, criterion, judged, exact)

    return made


def judged(claims: Sequence[Claim], results: Results, setup: Setup, level: float = LEVEL) -> dict[Claim, Verdict]:
    """The verdicts on all claims of a study, corrected together (Holm 1979).

    Of claims that are not exact, ``m`` that can be tested have intervals at ``1 - (1 - level) / m``; while some of them are
    decided, the others are judged again with the smaller ``m``. So the chance that any of them is decided wrongly is at
    most ``1 - level``.
    """
    found = {claim: claim.judge(results, setup) for claim in claims if claim.exact}
    left = [claim for claim in claims if not claim.exact]
    while left:
        at = {claim: claim.judge(results, setup, 1 - (1 - level) / len(left)) for claim in left}
        found |= at
        still = [claim for claim in left if at[claim].outcome is Outcome.NOT_DECIDED]
        # the level stays as it is, where no claim has left: what was not decided would not be decided again
        left = still if len(still) < len(left) else []
    return {claim: found[claim] for claim in claims}


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One published experiment, to be run again.

    Attributes:
        name: As typed after ``spp study run``.
        title: One line.
        source: The published work.
        question: What it asks, one or two sentences.
        arrangement: What is run at this size, as lines of text: data, networks, recipe, seeds, departures from the source.
        claims: What is judged.
        cells: The plan at a size.
        measure: Does one cell; a function of a module, since other processes look it up by name. Its tables must depend on
            nothing but the cell and the setup: times belong into a table called ``timing``, if anywhere.
        tables: What is published of the results, by name: frames of words and numbers, ready to print.
        figures: What is drawn of them, by name; nothing if left out.
        sizes: At which sizes there is a plan; others are refused.
        limits: What a run of this size cannot say, as lines of text; nothing if left out.
    """

    name: str
    title: str
    source: str
    question: str
    arrangement: Callable[[Setup], Sequence[str]]
    claims: tuple[Claim, ...]
    cells: Callable[[Setup], Sequence[Cell]]
    measure: Callable[[Cell, Setup], Tables]
    tables: Callable[[Results, Setup], Tables]
    figures: Callable[[Results, Setup], Figures] | None = None
    sizes: tuple[Size, ...] = (Size.TINY, Size.FULL)
    limits: Callable[[Setup], Sequence[str]] = lambda setup: ()

    @property
    def criteria(self) -> str | None:
        """SHA-256 of the file in which the criteria stand, as ``sha256sum`` prints it; None without a source."""
        try:
            # the loader reads it, from a folder or a zip
            source = inspect.getsource(inspect.getmodule(self.claims[0].judge))  # type: ignore[arg-type]
        except (OSError, TypeError, IndexError):
            return None
        return hashlib.sha256(source.encode()).hexdigest()

    def check(self, setup: Setup) -> None:
        """Refuse a size without a plan.

        Raises:
            InputError: The study has none of that size.
        """
        if setup.size not in self.sizes:
            raise InputError(
                f"{self.name} has a plan for the sizes {', '.join(self.sizes)}", received=setup.size, where="size"
            )
