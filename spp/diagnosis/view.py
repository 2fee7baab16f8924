"""A trace as the rules see it: rows by module call, the wiring, and the *steps* that the signal takes.

A step is a module call that the signal passes through: a leaf, or a gate (squeeze-and-excitation) taken as one, since what
happens inside a gate does not lie on the signal's way. The gain of a step is the mean square of what it gives out over that of
what it takes, which the stored wiring tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from spp.diagnosis.kinds import GATES, Kind, kind_of
from spp.diagnosis.path import along, components, of_signals
from spp.frame.schema import BlockColumn, Column, ModuleColumn
from spp.vocabulary import Signal

OUTSIDE = "."
"""How the wiring writes what came from outside the network."""


class Key(NamedTuple):
    """One call of one module."""

    name: str
    call: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One module call that the signal passes through.

    Attributes:
        key: Which call.
        kind: What the module does to the signal.
        row: Its activation's row of the frame.
        fed: The calls whose outputs it took, as far as they were measured.
        mean_square: Of what it gives out.
        fed_mean_square: Of what it takes, the largest where it takes several; NaN where that is not known.
    """

    key: Key
    kind: Kind
    row: Any
    fed: tuple[Key, ...]
    mean_square: float
    fed_mean_square: float

    @property
    def name(self) -> str:
        """The module's qualified name."""
        return self.key.name

    @property
    def depth(self) -> int:
        """Its place in the order of execution."""
        return int(self.row.depth)

    @property
    def samples(self) -> float:
        """Values per channel."""
        return float(self.row.numel) / max(1, int(self.row.channels))

    @property
    def is_weighted(self) -> bool:
        """Whether it is a convolution or Linear layer."""
        return self.kind in (Kind.WEIGHTED, Kind.DEPTHWISE)

    @property
    def decades(self) -> float:
        """log10 of its gain; NaN where one of the two is not known, zero or not finite."""
        a, b = self.fed_mean_square, self.mean_square
        return float(np.log10(b) - np.log10(a)) if 0 < a < np.inf and 0 < b < np.inf else float("nan")


class View:
    """The tables of a trace, and what the rules ask of them.

    Args:
        tables: ``frame``, ``blocks``, ``modules``, ``unmeasured`` and ``exponents``, one step.
        run: The facts of the run.
        precision: The number formats asked about.
        limits: The thresholds of every rule, by rule: what is a cause depends on how bad its consequence is.

    Attributes:
        frame, blocks, modules, unmeasured, exponents: The tables.
        run, precision, limits: As given.
    """

    def __init__(
        self,
        tables: Mapping[str, pd.DataFrame],
        run: Mapping[str, Any],
        precision: tuple[str, ...] = (),
        limits: Mapping[str, Any] | None = None,
    ) -> None:
        self.frame, self.blocks, self.modules = tables["frame"], tables["blocks"], tables["modules"]
        self.unmeasured, self.exponents = tables["unmeasured"], tables["exponents"]
        self.run, self.precision, self.limits = run, precision, limits or {}

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The row of ``modules`` of each module, by name."""
        return {str(row.name): row for row in records(self.modules)}

    @cached_property
    def activations(self) -> dict[Key, Any]:
        """The row of each call's main output, in the order of execution."""
        return self._main(Signal.ACTIVATION)

    @cached_property
    def gradients(self) -> dict[Key, Any]:
        """The row of the gradient of each call's main output, in the order of execution."""
        return self._main(Signal.GRADIENT)

    @cached_property
    def weights(self) -> dict[tuple[str, str], Any]:
        """The row of each parameter, by module and parameter."""
        return self._parameters(Signal.WEIGHT)

    @cached_property
    def weight_gradients(self) -> dict[tuple[str, str], Any]:
        """The row of each parameter's gradient, by module and parameter."""
        return self._parameters(Signal.WEIGHT_GRADIENT)

    @cached_property
    def leaves(self) -> dict[Key, Any]:
        """The rows of ``activations`` that belong to leaves."""
        return {key: row for key, row in self.activations.items() if row.leaf}

    @cached_property
    def gates(self) -> dict[str, str]:
        """Containers that multiply their input by a gate, and the bounded activation inside that makes it.

        A gate has the shape of its input, and inside it a sigmoid gives out a tensor that is smaller.
        """
        found: dict[str, str] = {}
        for key, row in self.leaves.items():
            if row.type.lower() not in GATES:
                continue
            name = key.name
            while name := name.rpartition(".")[0]:
                outer = self.activations.get(Key(name))
                if outer is None or name in found:
                    continue
                fed = [self.activations[k].shape for k in self.fed(Key(name)) if k in self.activations]
                if outer.numel > row.numel and outer.shape in fed:
                    found[name] = key.name
                break
        return found

    @cached_property
    def steps(self) -> list[Step]:
        """Every step, in the order of execution."""
        found = []
        for key, row in self.activations.items():
            gate = key.name in self.gates
            if not (row.leaf or gate) or (not gate and self.inside_gate(key.name)):
                continue
            fed = self.fed(key)
            sizes = [self.activations[k].mean_square for k in fed if k in self.activations]
            known = len(sizes) == len(fed) > 0
            kind = Kind.GATE if gate else kind_of(self.facts.get(key.name), self.weights.get((key.name, "weight")))
            found.append(Step(key, kind, row, fed, row.mean_square, max(sizes) if known else float("nan")))
        return found

    @cached_property
    def stream(self) -> pd.DataFrame:
        """Activations at the end of each component of the network but its readout, see :mod:`spp.diagnosis.path`."""
        return self._body(along(self.frame, Signal.ACTIVATION))

    @cached_property
    def back(self) -> pd.DataFrame:
        """Gradients at the same places, in the order in which the signal runs forward."""
        return self._body(along(self.frame, Signal.GRADIENT))

    @cached_property
    def components(self) -> dict[str, list[str]]:
        """The leaves of each component."""
        return components(self.frame)

    @cached_property
    def branches(self) -> set[str]:
        """Modules whose output ends a residual branch."""
        return set(self.blocks[BlockColumn.BRANCH].astype(str))

    @cached_property
    def readout(self) -> str:
        """The last convolution or Linear layer that ran; empty where there is none."""
        names = [s.name for s in self.steps if s.kind in (Kind.WEIGHTED, Kind.DEPTHWISE)]
        return names[-1] if names else ""

    def fed(self, key: Key) -> tuple[Key, ...]:
        """The calls whose outputs a call took; empty where that is not known or where they came from outside."""
        fact = self.facts.get(key.name)
        wiring = getattr(fact, ModuleColumn.INPUTS, None)
        calls = wiring.split(",") if isinstance(wiring, str) else []
        if key.call >= len(calls):
            return ()
        names = [] if OUTSIDE in calls[key.call].split() else calls[key.call].split()
        return tuple(_key(name) for name in names)

    def inside_gate(self, name: str) -> bool:
        """Whether a module lies inside one of the gates."""
        return any(name.startswith(f"{gate}.") for gate in self.gates)

    def in_branch(self, name: str) -> bool:
        """Whether a module lies in a residual block, where what it does may be made good by the skip."""
        row = self.activations.get(Key(name))
        return row is not None and isinstance(row.block, str)

    def trained(self, name: str) -> bool:
        """Whether a module ran in training mode."""
        fact = self.facts.get(name)
        return fact is None or bool(fact.training)

    def feeder(self, step: Step) -> Step | None:
        """The weighted layer or norm that feeds a step, through other steps if need be."""
        known = {s.key: s for s in self.steps}
        while step.fed and step.fed[0] in known and known[step.fed[0]].depth < step.depth:
            step = known[step.fed[0]]
            if step.is_weighted or step.kind is Kind.NORM:
                return step
        return None

    def takers(self, key: Key) -> list[Step]:
        """The steps that took what a call gave out."""
        return self._takers.get(key, [])

    @cached_property
    def _takers(self) -> dict[Key, list[Step]]:
        found: dict[Key, list[Step]] = {}
        for step in self.steps:
            for key in step.fed:
                found.setdefault(key, []).append(step)
        return found

    def _main(self, signal: Signal) -> dict[Key, Any]:
        rows = self.frame[(self.frame[Column.SIGNAL] == signal) & self.frame[Column.DEPTH].notna()]
        rows = of_signals(rows)
        found: dict[Key, Any] = {}
        for row in records(rows.sort_values(Column.DEPTH, kind="stable")):
            found.setdefault(Key(str(row.name), int(row.call)), row)
        return found

    def _parameters(self, signal: Signal) -> dict[tuple[str, str], Any]:
        rows = records(self.frame[self.frame[Column.SIGNAL] == signal])
        return {(str(row.name), str(row.output)): row for row in rows}

    def _body(self, path: pd.DataFrame) -> pd.DataFrame:
        """``path`` without the readout, whose scale is free, and without norms that stand alone, whose scale is their own."""
        if len(path) <= 2:
            return path
        kinds = {step.name: step.kind for step in self.steps}
        left_out = [
            name
            for name, leaves in self.components.items()
            if name in path.index and (self.readout in leaves or (leaves == [name] and kinds.get(name) is Kind.NORM))
        ]
        return path.drop(index=left_out) if len(path) > len(left_out) + 1 else path


def records(table: pd.DataFrame) -> list[Any]:
    """The rows of a table as named tuples, with None where an integer is missing: pandas' own NA is no truth value."""
    return list(_plain(table).itertuples(index=False))


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    integers = [name for name, dtype in table.dtypes.items() if str(dtype) == "Int64"]
    return table.assign(**{str(n): table[n].astype(object).where(table[n].notna(), None) for n in integers})


def _key(word: str) -> Key:
    name, _, call = word.partition(":")
    return Key(name, int(call) if call else 0)


def finite(values: pd.Series) -> Iterator[tuple[str, float]]:
    """The labels and log10 of the values that are finite and positive."""
    for label, value in values.items():
        if 0 < value < np.inf:
            yield str(label), float(np.log10(value))
