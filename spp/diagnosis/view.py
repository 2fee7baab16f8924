"""A trace as the rules see it: rows by module call, the wiring, and the *steps* that the signal takes.

A step is a module call that the signal passes through: a leaf, or a gate (squeeze-and-excitation) taken as one, since what
happens inside a gate does not lie on the signal's way. The gain of a step is the mean square of what it gives out over that of
what it takes, which the stored wiring tells.
"""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, cached_property, lru_cache
from numbers import Integral
from types import NoneType
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from spp.diagnosis.main_path import cut, prefixes
from spp.frame.build import build_steps
from spp.frame.schema import BlockColumn, Column, ModuleColumn, last_step, one_mode
from spp.vocabulary import LEARNED, LayerKind, Signal

Array = npt.NDArray[np.float64]

# How the wiring writes what came from outside the network.
OUTSIDE = "."
# How many layers a statement about layers of a kind needs: one, and four others.
PEERS = 5
# Activations that make a gate.
GATES = ("sigmoid", "hardsigmoid")


_NUMBER = (int, float)
# Facts that rules look into, as this version writes them: a run may have been told others, which say nothing to a rule.
# A list is of such items; a mapping has these keys, of which those with a question mark may be missing.
_FORMS: dict[str, Any] = {
    "signals": [str],
    "optimizer": str,
    "not_optimized": [str],
    "dropped": _NUMBER,
    "optimizers": [
        {
            "type": str,
            "foreign": int,
            "groups": [{"lr": _NUMBER, "eps?": _NUMBER, "weight_decay": _NUMBER, "maximize": bool, "decoupled": bool}],
        }
    ],
    "loss_graph": [str],
    "loss_terms": [
        {
            "criterion": str,
            "takes": [str],
            "units": (int, NoneType),
            "repeated?": _NUMBER,
            "factor": (int, float, NoneType),
            "elements": _NUMBER,
        }
    ],
    "target": {
        "dtype": str,
        "numel?": int,
        "nonfinite?": int,
        **{f"{name}?": _NUMBER for name in ("classes", "distinct", "mean", "var", "min", "max")},
    },
    "inputs": [
        {
            **dict.fromkeys(("mean", "std", "min", "max", "features", "constant"), _NUMBER),
            **{"name": str, "shape": [int], "dtype": str, "whole": bool, "alike": bool},
            **dict.fromkeys(("scales?", "offset?"), _NUMBER),
        }
    ],
}


def _has_form(value: Any, form: Any) -> bool:
    """Whether a fact is what a rule can look into."""
    if isinstance(form, list):
        return isinstance(value, list) and all(_has_form(item, form[0]) for item in value)
    if isinstance(form, dict):
        asked = [(key.removesuffix("?"), one, key.endswith("?")) for key, one in form.items()]
        return isinstance(value, dict) and all(
            _has_form(value[key], one) if key in value else optional for key, one, optional in asked
        )
    return isinstance(value, form)


def _sound(run: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a run without those that are not of the form that rules know."""
    sound = {key: value for key, value in run.items() if key not in _FORMS or _has_form(value, _FORMS[key])}
    if not {"loss_graph", "loss_terms"} <= set(sound):
        sound = {key: value for key, value in sound.items() if key not in ("loss_graph", "loss_terms")}
    return sound


class Measured(Protocol):
    """What a diagnosis reads: the tables of a trace, measured just now or loaded from a run folder, and its facts."""

    @property
    def frame(self) -> pd.DataFrame:
        """One row per observed tensor."""

    @property
    def blocks(self) -> pd.DataFrame:
        """One row per residual merge."""

    @property
    def modules(self) -> pd.DataFrame:
        """One row per module."""

    @property
    def unmeasured(self) -> pd.DataFrame:
        """One row per thing that could not be measured."""

    @property
    def exponents(self) -> pd.DataFrame:
        """Counts by power of two."""

    @property
    def steps(self) -> pd.DataFrame:
        """One row per measured step."""

    @property
    def run(self) -> dict[str, Any]:
        """The facts of the run."""


class Kind(StrEnum):
    """What a step is, as far as the rules tell apart what :mod:`spp.layers` knows."""

    # Convolutions and Linear layers.
    WEIGHTED = "weighted layer"
    DEPTHWISE = "depthwise convolution"
    NORM = "norm"
    ACTIVATION = "activation"
    # Squeeze-and-excitation blocks and the like, as a whole.
    GATE = "gate"
    # Steps whose gain follows from what they do, not from what they are set to.
    PLAIN = "pooling, softmax and the like"
    # Tables of tokens, positions and the like, where a signal begins.
    TABLE = "table"
    OTHER = "other"


# Kinds of leaves without weights; all else is ``OTHER``.
KINDS = {
    LayerKind.NORM: Kind.NORM,
    LayerKind.ACTIVATION: Kind.ACTIVATION,
    LayerKind.SOFTMAX: Kind.PLAIN,
    LayerKind.POOLING: Kind.PLAIN,
    LayerKind.DROPOUT: Kind.PLAIN,
    LayerKind.RESHAPE: Kind.PLAIN,
    LayerKind.EMBEDDING: Kind.TABLE,
}


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
        return ratio(self.mean_square, self.fed_mean_square)


@dataclass(frozen=True, slots=True)
class BranchRatio:
    """A residual merge: the variance of the branch over that of the skip.

    Attributes:
        block: The residual block.
        name: The leaf that sets the branch's scale.
        depth: Depth of that leaf.
        decades: log10 of the ratio; minus infinity for a branch of exact zeros.
        group: The class of the block, which merge of it, and whether the skip is projected: attention is no measure for
            feed-forward, and an encoder none for a decoder.
        merge: Which merge of its block it is.
    """

    block: str
    name: str
    depth: int | None
    decades: float
    group: tuple[str, int, bool]
    merge: int


class View:
    """The tables of a trace, and what the rules ask of them.

    Args:
        trace: What was measured; of several steps the last one counts.
        precision: The number formats asked about.
        limits: The thresholds of every rule, by rule: what is a cause depends on how bad its consequence is.

    Attributes:
        frame, blocks, modules, unmeasured, exponents: The tables.
        run: The facts of the run.
        precision, limits: As given.
        travels: What :mod:`spp.diagnosis.attenuation` has worked out.
    """

    def __init__(self, trace: Measured, precision: tuple[str, ...] = (), limits: dict[str, Any] | None = None) -> None:
        # a watch reads its frame back from disk whenever it is asked
        self._trace, self._every, self.run = trace, trace.frame, _sound(trace.run)
        self.frame = last_step(self._every)
        self.modules, self.unmeasured, self.exponents = trace.modules, trace.unmeasured, trace.exponents
        self.precision, self.limits = precision, limits or {}
        self.travels: dict[str, Any] = {}

    @cached_property
    def blocks(self) -> pd.DataFrame:
        """One row per residual merge."""
        return last_step(self._trace.blocks)

    @cached_property
    def history(self) -> pd.DataFrame:
        """The rows of every step of training, the last one's too; of a trace the frame itself."""
        return one_mode(self._every)

    @cached_property
    def losses(self) -> pd.DataFrame:
        """One row per measured step, with its loss; empty where none were kept."""
        table = getattr(self._trace, "steps", None)
        return build_steps() if table is None else table

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """The rows of evaluations, which have activations alone; empty for a trace."""
        modes = self._every[Column.MODE] if Column.MODE in self._every else np.array([], dtype=object)
        return self._every[modes == "eval"] if len(modes) else self._every.iloc[:0]

    @cached_property
    def progress(self) -> pd.DataFrame:
        """One row per measured step: its loss, and what the optimizer was set to."""
        return self.losses

    @cached_property
    def holes(self) -> list[Any]:
        """The rows of what could not be measured."""
        return records(self.unmeasured)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The row of ``modules`` of each module, by name.

        In a norm with a dropout and an activation inside (timm) the dropout gets what was normalized, and stands for it.
        """
        found = {str(row.name): row for row in records(self.modules)}
        fused = [name for name, row in found.items() if row.kind == LayerKind.NORM and not row.leaf]
        return found | {f"{name}.drop": found[name] for name in fused if f"{name}.drop" in found}

    @cached_property
    def rows(self) -> dict[str, list[Any]]:
        """The rows of the frame of each signal, in its order, without what neuron-wise layers learned, which is no signal."""
        found: dict[str, list[Any]] = {str(signal): [] for signal in Signal}
        for row in records(self.frame):
            if not row.output.startswith(LEARNED):
                found[row.signal].append(row)
        return found

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
            if self.activation(key.name) not in GATES:
                continue
            name = key.name
            while name := name.rpartition(".")[0]:
                outer = self.activations.get(Key(name))
                if outer is None or name in found:
                    continue
                if outer.numel > row.numel and outer.shape in [source.shape for source in self.sources(Key(name))]:
                    found[name] = key.name
                break
        return found

    @cached_property
    def steps(self) -> list[Step]:
        """Every step, in the order of execution."""
        found = []
        for key, row in self.activations.items():
            gate = key.name in self.gates
            around = list(prefixes(key.name))[:-1]
            if not gate and (not row.leaf or not self.gates.keys().isdisjoint(around)):
                continue
            fed, entered = self.fed(key), self.entered(key)
            sizes = [source.mean_square for source in self.sources(key)]
            # Of a step one of whose inputs was not measured the gain is not known.
            known = entered is not None or len(sizes) == len(fed) > 0
            taken = max(sizes) if known else float("nan")
            found.append(Step(key, Kind.GATE if gate else self._kind(key.name), row, fed, row.mean_square, taken))
        return found

    @cached_property
    def components(self) -> dict[str, list[str]]:
        """The leaves of each component."""
        types = {row.name: row.type for row in self.activations.values()}
        residual = {row.block for rows in self.rows.values() for row in rows if isinstance(row.block, str)}
        return cut(types, list(dict.fromkeys(key.name for key in self.leaves)), residual - {""})

    @cached_property
    def ends(self) -> dict[Signal, dict[str, Any]]:
        """The row at the end of each component, in forward order, as of :func:`spp.diagnosis.main_path.along`."""
        found: dict[Signal, dict[str, Any]] = {}
        for signal, rows in ((Signal.ACTIVATION, self.activations), (Signal.GRADIENT, self.gradients)):
            # Of several calls the last one counts.
            last = {key.name: row for key, row in rows.items()}
            ends = {
                component: next((last[name] for name in (component, *reversed(leaves)) if name in last), None)
                for component, leaves in self.components.items()
            }
            known = [(component, row) for component, row in ends.items() if row is not None]
            found[signal] = dict(sorted(known, key=lambda pair: int(pair[1].depth)))
        return found

    @cached_property
    def ways(self) -> list[list[Key]]:
        """The ends of components that feed one another, in the order in which the signal meets them.

        The first one leads to the output, the others to where they join an earlier one. Of what is added or joined the largest
        part counts: a branch, a table of positions or the output of an encoder is no part of the way.
        """
        whole = {leaf: name for name, leaves in self.components.items() for leaf in leaves}
        last = {key.name: key for key in self.activations}
        ends = [last.get(name) or last[leaves[-1]] for name, leaves in self.components.items()]
        ends.sort(key=lambda key: int(self.activations[key].depth))
        seen: set[Key] = set()
        found = []
        for end in reversed(ends):
            way: list[Key] = []
            here: Key | None = end
            while here is not None and here not in seen:
                seen.add(here)
                way.append(here)
                here = self._before(here, whole, ends)
            found += [way[::-1]] if way else []
        return found

    def _before(self, key: Key, whole: dict[str, str], ends: list[Key]) -> Key | None:
        """The end of a component that feeds the component that ends with ``key``, or None."""
        # A container may take more than the signal, its first step hardly ever does.
        first = next((step.key for step in self.inside(key.name) if step.key.call == key.call), key)
        sources = [source for source in (*self.wired(first), *self.wired(key)) if source in self.activations]
        outer = [source for source in sources if not f"{source.name}.".startswith(f"{key.name}.")]
        if not outer:
            return None
        # Of a sum the largest part counts.
        wired = set(self.wired(first))
        parts = [part for part in outer if part in wired] or outer[:1]
        entered = self.entered(first)
        most = np.inf if entered is None else 2 * entered.mean_square
        # What is larger than the sum was scaled down on its way.
        sizes = [
            (size <= most, 0.0 if math.isnan(size) else size)
            for size in (self.activations[part].mean_square for part in parts)
        ]
        source = parts[sizes.index(max(sizes))]
        component = Key(whole.get(source.name, source.name), source.call)
        if source.name not in whole and component.name not in self.components:
            # A part of a component, or what holds several, of which the last one counts.
            around = next((name for name in prefixes(source.name) if name in self.components), None)
            inside = [end for end in ends if f"{end.name}.".startswith(f"{source.name}.")] if around is None else []
            component = inside[-1] if inside else Key(around or source.name, source.call)
        found = component if component in self.activations else source
        # What holds the taker too is no source of it.
        return found if self.activations[found].depth < self.activations[key].depth else source

    @cached_property
    def branch_ratios(self) -> list[BranchRatio]:
        """The residual merges whose branch and skip were both measured, in order."""
        found = []
        before: dict[tuple[str, int], float] = {}
        merges = self.blocks.groupby(BlockColumn.BLOCK)[BlockColumn.MERGE].nunique()
        for row in records(self.blocks):
            named = self.activations.get(Key(row.skip, int(row.call))) if isinstance(row.skip, str) else None
            # A skip that no module gives out is the sum of the block's merge before.
            skip = float(named.acv) if named is not None else before.get((row.block, row.call), float("nan"))
            before[row.block, row.call] = float(row.acv)
            if not skip > 0 or not np.isfinite(row.branch_acv):
                continue
            share = float(np.log10(row.branch_acv / skip)) if row.branch_acv > 0 else -np.inf
            name, depth = self._branch_end(Key(str(row.branch), int(row.call)))
            # Where one module holds all merges, their number in it says nothing of what they are.
            which = int(row.merge) if merges[row.block] < PEERS else -1
            group = (str(getattr(self.facts.get(row.block), "type", "")), which, bool(row.transition))
            found.append(BranchRatio(str(row.block), name, depth, share, group, int(row.merge)))
        return found

    def born_as_skips(self, decades: float) -> list[BranchRatio]:
        """The branches that are less than ``10^-decades`` of their skips, where they are the most: a design, not an accident.

        Fixup, SkipInit, ReZero, LayerScale and zero-gamma begin so.
        """
        small = [branch for branch in self.branch_ratios if branch.decades <= -decades]
        return small if len(small) > len(self.branch_ratios) / 2 else []

    @cached_property
    def merged(self) -> set[str]:
        """The modules in which residual branches merge."""
        return set(self.blocks[BlockColumn.BLOCK].astype(str))

    @cached_property
    def readout(self) -> str:
        """The last convolution or Linear layer that ran; empty where there is none."""
        return next((step.name for step in reversed(self.steps) if step.is_weighted), "")

    @cached_property
    def norms(self) -> list[Step]:
        """The steps that normalize."""
        return [step for step in self.steps if step.kind is Kind.NORM]

    @cached_property
    def last_norms(self) -> dict[str, int]:
        """Depth of the last norm of each residual block that has one."""
        return {step.row.block: step.depth for step in self.norms if isinstance(step.row.block, str)}

    def fed(self, key: Key) -> tuple[Key, ...]:
        """The calls whose outputs a call took; empty where that is not known or where they came from outside."""
        names = self._wiring(key)
        return () if OUTSIDE in names else tuple(_key(name) for name in names)

    def wired(self, key: Key) -> Iterator[Key]:
        """The calls whose outputs a call took, whatever else it took."""
        return (_key(name) for name in self._wiring(key) if name != OUTSIDE)

    def _wiring(self, key: Key) -> tuple[str, ...]:
        wiring = getattr(self.facts.get(key.name), ModuleColumn.INPUTS, None)
        calls = _split(wiring) if isinstance(wiring, str) else ()
        return calls[key.call] if key.call < len(calls) else ()

    def sources(self, key: Key) -> list[Any]:
        """The row of what entered a call, else the rows of what gave it out, as far as they were measured."""
        entered = self.entered(key)
        given_out = [self.activations[source] for source in self.fed(key) if source in self.activations]
        return given_out if entered is None else [entered]

    def entered(self, key: Key) -> Any:
        """The row of what entered a call, which may be that of what another call gave out; None where it was not measured."""
        column = getattr(self.facts.get(key.name), ModuleColumn.INPUT_ROWS, None)
        calls = column.split(",") if isinstance(column, str) else []
        word = calls[key.call] if key.call < len(calls) else ""
        return self._entering.get(key) if word == OUTSIDE else self.activations.get(_key(word)) if word else None

    @cached_property
    def _entering(self) -> dict[Key, Any]:
        """The rows of what entered calls and was given out by none, the first of each."""
        table = getattr(self._trace, "inputs", None)
        return {} if table is None else {Key(str(row.name), int(row.call)): row for row in records(table)}

    def places(self, row: Any) -> float:
        """How many values of each channel one sample has: 1 for vectors."""
        sides = str(row.shape).split("x")
        return float(row.numel) / max(1, int(row.channels) * int(sides[0] or 1) * int(row.called or 1))

    @cached_property
    def most_places(self) -> float:
        """The largest number of places of a step: 1 in a network of vectors."""
        return max((self.places(step.row) for step in self.steps), default=1.0)

    def in_branch(self, name: str) -> bool:
        """Whether a module lies in a residual block, where what it does may be made good by the skip."""
        row = self.activations.get(Key(name))
        return row is not None and isinstance(row.block, str)

    def trained(self, name: str) -> bool:
        """Whether a module ran in training mode."""
        fact = self.facts.get(name)
        return fact is None or bool(fact.training)

    def activation(self, name: str) -> str:
        """The nonlinearity that a module is, without underscores, as runs of version 1 have it; empty for any other module."""
        found = getattr(self.facts.get(name), ModuleColumn.ACTIVATION, None)
        return found.replace("_", "") if isinstance(found, str) else ""

    def feeder(self, step: Step) -> Step | None:
        """The weighted layer or norm that feeds a step, through other steps if need be."""
        known = self.by_key
        while step.fed and step.fed[0] in known and known[step.fed[0]].depth < step.depth:
            step = known[step.fed[0]]
            if step.is_weighted or step.kind is Kind.NORM:
                return step
        return None

    def takers(self, key: Key) -> list[Step]:
        """The steps that took what a call gave out."""
        return self._takers.get(key, [])

    def inside(self, name: str) -> list[Step]:
        """The steps of a module and of those inside it."""
        return self._inside.get(name, [])

    def normed(self, step: Step) -> bool:
        """Whether a norm takes what the step gives out."""
        return any(taker.kind is Kind.NORM for taker in self.takers(step.key))

    def is_end(self, step: Step) -> bool:
        """Whether a step is the readout or another head: nothing takes what it gives out, whose scale is free."""
        return step.name == self.readout or not self.takers(step.key)

    def has_zero_weight(self, name: str) -> bool:
        """Whether a module's weight is exactly zero, or that of the module whose part it is."""
        weight = self.weights.get((name, "weight")) or self.weights.get((name.rpartition(".")[0], "weight"))
        return weight is not None and weight.mean_square == 0

    def zero_by_design(self, name: str) -> bool:
        """Whether a module's weight is zero where some inits mean it to be: at the readout and the end of a residual branch."""
        return self.has_zero_weight(name) and (name == self.readout or name in self.branch_ends)

    @cached_property
    def branch_ends(self) -> dict[str, tuple[str, int, bool]]:
        """The leaves that set the scale of a residual branch, and the group of branches that each belongs to."""
        return {branch.name: branch.group for branch in self.branch_ratios}

    def weight_gain(self, name: str) -> float:
        """``fan_in`` times the mean square of the weight: the second moment that it makes of unit noise."""
        row, fact = self.weights.get((name, "weight")), self.facts.get(name)
        if row is None or fact is None or not given(fact, "fan_in"):
            return float("nan")
        return float(fact.fan_in) * float(row.mean_square)

    def weight_gains(self, kind: Kind) -> list[float]:
        """Gains of the weights of all steps of this kind, where they are known."""
        gains = [self.weight_gain(step.name) for step in self.steps if step.kind is kind]
        return [gain for gain in gains if np.isfinite(gain)]

    def backward_decades(self, step: Step, *, total: bool = True) -> float:
        """log10 of the squared norm of the gradient of what a step takes over that of what it gives out.

        Of the mean square instead, where ``total`` is False. NaN where something else takes the same tensor, or where one
        of the two is missing, zero or not finite.
        """
        own = self.gradients.get(step.key)
        # A tensor that several take has the sum of their gradients.
        fed = self.gradients.get(step.fed[0]) if len(step.fed) == 1 and len(self.takers(step.fed[0])) == 1 else None
        if own is None or fed is None:
            return float("nan")
        return ratio(fed.mean_square * (fed.numel if total else 1), own.mean_square * (own.numel if total else 1))

    @cached_property
    def by_key(self) -> dict[Key, Step]:
        """The steps by the call that each is."""
        return {step.key: step for step in self.steps}

    @cached_property
    def _takers(self) -> dict[Key, list[Step]]:
        found: dict[Key, list[Step]] = {}
        for step in self.steps:
            for key in step.fed:
                found.setdefault(key, []).append(step)
        return found

    @cached_property
    def _inside(self) -> dict[str, list[Step]]:
        found: dict[str, list[Step]] = {}
        for step in self.steps:
            for name in prefixes(step.name):
                found.setdefault(name, []).append(step)
        return found

    def _kind(self, name: str) -> Kind:
        fact = self.facts.get(name)
        if fact is None:
            return Kind.OTHER
        # the product of an attention that is a function: what it averages, not what it is set to
        if fact.kind is LayerKind.ATTENTION and not fact.parameters:
            return Kind.PLAIN
        if fact.kind not in (LayerKind.CONVOLUTION, LayerKind.LINEAR) or not given(fact, "fan_in"):
            return KINDS.get(fact.kind, Kind.OTHER)
        # One input channel for each group: the second side of the weight's shape is 1.
        sides = str(getattr(self.weights.get((name, "weight")), "shape", "")).split("x")
        depthwise = given(fact, "groups") and fact.groups > 1 and len(sides) > 2 and sides[1] == "1"
        return Kind.DEPTHWISE if depthwise else Kind.WEIGHTED

    def _branch_end(self, branch: Key) -> tuple[str, int | None]:
        """The leaf that sets a branch's scale: its last weighted layer or norm, through dropout and the like."""
        inside = [step for step in self.inside(branch.name) if step.name != branch.name]
        step = self.by_key.get(branch) or (inside[-1] if inside else None)
        if step is None:
            row = self.activations.get(branch)
            return branch.name, None if row is None else int(row.depth)
        if step.kind is Kind.PLAIN:
            step = self.feeder(step) or step
        return step.name, step.depth

    def _main(self, signal: str) -> dict[Key, Any]:
        found: dict[Key, Any] = {}
        for row in sorted((row for row in self.rows[signal] if row.depth is not None), key=lambda row: row.depth):
            # Of several outputs the first is the main one.
            found.setdefault(Key(row.name, row.call), row)
        return found

    def _parameters(self, signal: Signal) -> dict[tuple[str, str], Any]:
        return {(row.name, row.output): row for row in self.rows[signal]}


def median_without(ordered: Array, value: float) -> float:
    """The median of sorted values without one of those that are equal to ``value``; NaN where one of the rest is."""
    out, last = int(np.searchsorted(ordered, value)), len(ordered) - 2
    if np.isnan(ordered[-1] if out <= last else ordered[-2]):
        return float("nan")
    low, high = (i + (i >= out) for i in (last // 2, (last + 1) // 2))
    return float((ordered[low] + ordered[high]) / 2)


def given(fact: Any, column: str) -> bool:
    """Whether a row of ``modules`` has an integer there."""
    return isinstance(getattr(fact, column, None), Integral)


def ratio(above: float, below: float) -> float:
    """log10 of a ratio; NaN where one of the two is missing, zero or not finite."""
    return math.log10(above) - math.log10(below) if 0 < above < math.inf and 0 < below < math.inf else math.nan


def records(table: pd.DataFrame) -> list[Any]:
    """The rows of a table as named tuples, with None where an integer is missing."""
    # pandas' own NA raises as soon as it is asked whether it is true; its text is five times as fast as a list as by itself.
    columns = [_values(column) for _, column in table.items()]
    return list(map(_row_type(tuple(map(str, table.columns)))._make, zip(*columns, strict=True)))


def _values(column: pd.Series) -> list[Any]:
    # Lists of arrays that are none of numpy's are made one by one.
    array: Any = column.array
    missing = isinstance(column.dtype, pd.Int64Dtype)
    return list((array.to_numpy(object, na_value=None) if missing else column.to_numpy()).tolist())


@cache
def _row_type(names: tuple[str, ...]) -> Any:
    # Making one costs as much as hundreds of its rows.
    return namedtuple("Row", names, rename=True)


@lru_cache(1 << 16)
def _split(wiring: str) -> tuple[tuple[str, ...], ...]:
    """The words of each call."""
    return tuple(tuple(call.split()) for call in wiring.split(","))


@lru_cache(1 << 16)
def _key(word: str) -> Key:
    name, _, call = word.partition(":")
    return Key(name, int(call) if call else 0)


def measured(where: Any, signal: Signal, statistic: str, value: float, expected: str | None = None) -> dict[str, Any]:
    """What a finding says was measured, and where: a step, a row or a branch; None for the whole network."""
    depth = getattr(where, "depth", None)
    return {
        "name": "" if where is None else str(where.name),
        "depth": None if depth is None else int(depth),
        "signal": signal,
        "statistic": str(statistic),
        "value": float(value),
        "expected": expected,
    }
