"""What people hand to a comparison, as runs with labels: traces, run folders or frames, under names or without.

Where labels are not given they are read off the facts in which the runs differ: three norms are called ``norm none``,
``norm batch`` and ``norm affine``; the same network under three seeds is one label with three runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pandas as pd

from spp.diagnosis import diagnose
from spp.diagnosis.findings import Finding
from spp.errors import InputError
from spp.frame import runs as saved
from spp.frame.build import build_exponents
from spp.frame.schema import BLOCK_COLUMNS, one_mode
from spp.plot.panels import MOST_LINES

TELLING = (
    "model",
    "norm",
    "activation",
    "init",
    "residual",
    "se",
    "data",
    "batch_size",
    "batches",
    "input_shape",
    "training",
    "loss",
    "loss_scale",
    "dtype",
    "device",
)
"""Facts that may tell runs apart, in the order in which a label names them."""

SHARED = (*TELLING, "parameters")
"""Facts that the caption states where all runs agree."""


NO_BLOCKS = pd.DataFrame(columns=list(BLOCK_COLUMNS))


class Beside(NamedTuple):
    """The tables of a run with its facts, where there is no trace; its findings are made when they are asked for."""

    frame: pd.DataFrame
    run: Mapping[str, object]
    blocks: pd.DataFrame = NO_BLOCKS
    findings: Callable[..., Iterable[Finding]] = tuple


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """One run: the label of its line, and what ``Beside`` has; runs of the same label differ in their seed alone."""

    label: str
    frame: pd.DataFrame
    run: Mapping[str, object]
    blocks: pd.DataFrame
    findings: Callable[..., Iterable[Finding]]


def arms_of(runs: Mapping[str, Any] | Sequence[Any]) -> list[Arm]:
    """Make labelled runs of what was handed in.

    Args:
        runs: ``{label: run}`` or ``{label: [run, run, ...]}`` for seeds of the same label, or a list of runs. A run is a
            ``Trace``, a run folder, or a frame.

    Raises:
        InputError: Something else.
        StoreError: A folder that is no run, or of a later version.
    """
    if isinstance(runs, Mapping):
        labelled = [(str(label), one) for label, several in runs.items() for one in _several(several)]
        return [Arm(label, *_read(one)) for label, one in labelled]
    if isinstance(runs, str | Path | pd.DataFrame) or not isinstance(runs, Iterable):
        runs = [runs]
    items = list(runs)
    read = [_read(one) for one in items]
    return [Arm(label, *one) for label, one in zip(_labels(items, [one.run for one in read]), read, strict=True)]


def labels_of(arms: Sequence[Arm]) -> list[str]:
    """The labels, each once.

    Raises:
        InputError: There are none, or more than can be told apart.
    """
    labels = list(dict.fromkeys(arm.label for arm in arms))
    if not labels:
        raise InputError("a comparison needs at least one run", received="none", where="runs")
    if len(labels) > MOST_LINES:
        raise InputError(
            f"at most {MOST_LINES} lines can be told apart in one figure", received=str(len(labels)), where="runs"
        )
    return labels


def shared(arms: Sequence[Arm]) -> dict[str, object]:
    """Return the facts in which all runs agree, and their seeds."""
    facts = {
        key: arms[0].run[key]
        for key in SHARED
        if arms[0].run.get(key) is not None and all(arm.run.get(key) == arms[0].run[key] for arm in arms)
    }
    seeds = list(dict.fromkeys(arm.run["seed"] for arm in arms if arm.run.get("seed") is not None))
    if len(seeds) == 1:
        facts["seed"] = seeds[0]
    elif seeds:
        facts["seeds"] = ", ".join(map(str, seeds))
    return facts


def _several(given: Any) -> list[Any]:
    # a frame with its facts is a tuple too
    return list(given) if isinstance(given, list | tuple) and not isinstance(given, Beside) else [given]


def _read(given: Any) -> Beside:
    if isinstance(given, pd.DataFrame):
        return Beside(one_mode(given), {})
    if isinstance(given, str | Path):
        tables, run = saved.read(given)
        return Beside(one_mode(tables["frame"]), run, one_mode(tables["blocks"]), partial(_found_in, tables, run))
    if isinstance(given, Beside):
        return given
    # by its attributes: runs are made by a room above this one
    frame, facts = getattr(given, "frame", None), getattr(given, "run", None)
    if isinstance(frame, pd.DataFrame) and isinstance(facts, Mapping):
        merges = getattr(given, "blocks", None)
        return Beside(one_mode(frame), facts, NO_BLOCKS if merges is None else one_mode(merges), _findings_of(given))
    raise InputError(
        "a run to compare is a trace, a run folder or a frame", received=f"a {type(given).__name__}", where="runs"
    )


def _findings_of(given: Any) -> Callable[..., Iterable[Finding]]:
    return lambda: getattr(given, "findings", ())


def _found_in(tables: Mapping[str, pd.DataFrame], run: Mapping[str, Any]) -> Iterable[Finding]:
    """The findings of a run folder's tables."""
    return diagnose(SimpleNamespace(**{"exponents": build_exponents(()), **tables}, run=dict(run)))


def _labels(items: Sequence[Any], runs: Sequence[Mapping[str, object]]) -> list[str]:
    keys = [key for key in TELLING if len({str(run.get(key)) for run in runs}) > 1]
    labels = [", ".join(_told(key, run.get(key)) for key in keys) or str(run.get("model") or "run") for run in runs]
    twins = [(label, str(run.get("seed"))) for label, run in zip(labels, runs, strict=True)]
    # where nothing tells two runs apart, not even the seed, they are called by where they come from
    return [
        label if twins.count(twin) == 1 else _origin(item, index, label)
        for index, (label, twin, item) in enumerate(zip(labels, twins, items, strict=True))
    ]


def _origin(item: Any, index: int, label: str) -> str:
    return Path(item).name if isinstance(item, str | Path) else f"{label} ({index + 1})"


def _told(key: str, value: object) -> str:
    if key == "training":
        return "training" if value else "evaluation"
    if key in ("model", "data", "dtype", "device", "loss"):
        return str(value)
    shape = "×".join(map(str, value)) if isinstance(value, list | tuple) else value
    return f"{key.replace('_', ' ')} {shape}"
