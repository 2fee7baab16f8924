"""What a watch has seen so far, as tables."""

from __future__ import annotations

import warnings

import pandas as pd

from spp.errors import SppWarning
from spp.frame.build import build_modules, build_unmeasured
from spp.frame.history import History, joined, sampled
from spp.frame.schema import UNMEASURED_COLUMNS
from spp.measure.facts import ModuleFacts, module_facts
from spp.measure.holes import Hole
from spp.measure.sites import Entry
from spp.measure.weights import parameters_of
from spp.watch_steps.sample import Finished

Shapes = dict[str, tuple[int, ...]]


class Keeper:
    """Keeps the rows of every sampled step, the facts of the modules, and what was not measured."""

    def __init__(self) -> None:
        self.history = History()
        self.facts: list[ModuleFacts] = []
        self._unmeasured: list[pd.DataFrame] = []
        self._known: set[object] = set()
        self._shapes: Shapes | None = None

    def add(self, finished: Finished) -> None:
        """Keep what one step gave."""
        self._compare(finished)
        for mode, tally in finished.tallies.items():
            self.history.add(sampled(tally, finished.step, mode, finished.updates))
            self._note(tally.holes)
        if not self.facts:
            first = next(iter(finished.tallies.values()), None)
            self.facts = module_facts(finished.entries, {} if first is None else first.calls)

    @property
    def modules(self) -> pd.DataFrame:
        """One row per module."""
        return build_modules(self.facts)

    @property
    def unmeasured(self) -> pd.DataFrame:
        """One row per thing that was not measured in some step."""
        self._unmeasured = [joined(self._unmeasured, UNMEASURED_COLUMNS)]
        return self._unmeasured[0]

    def _note(self, holes: list[Hole]) -> None:
        new = [hole for hole in holes if hole.key not in self._known]
        if new:
            self._known.update(hole.key for hole in new)
            self._unmeasured.append(build_unmeasured(new))

    def _compare(self, finished: Finished) -> None:
        """Say when the model is another than in the step before; rows go on under their names."""
        now = shapes(finished.entries)
        if self._shapes is not None and now != self._shapes:
            message = (
                f"the model that is watched has changed before step {finished.step}: {difference(self._shapes, now)}; "
            )
            warnings.warn(message + "the rows from here on are about the changed model.", SppWarning, stacklevel=2)
            self.facts = []
        self._shapes = now


def shapes(entries: list[Entry]) -> Shapes:
    """The shape of every parameter, by qualified name; modules without any count with none."""
    found: Shapes = {}
    for entry in entries:
        found[entry.name] = ()
        for name, parameter in parameters_of(entry.module):
            found[f"{entry.name}.{name}" if entry.name else name] = tuple(parameter.shape)
    return found


def difference(before: Shapes, now: Shapes) -> str:
    """The first difference between two models, in words, and how many there are."""
    lines = [f"{n!r} has shape {now[n]}, had {before[n]}" for n in now if n in before and now[n] != before[n]]
    lines += [f"{n!r} is new" for n in now if n not in before] + [f"{n!r} is gone" for n in before if n not in now]
    return lines[0] + (f" (and {len(lines) - 1} more differences)" if len(lines) > 1 else "")
