"""The parts of the page that need no script: heading, figures at a glance, what was not measured, the facts of the run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from spp.frame.schema import Column, ModuleColumn, UnmeasuredColumn
from spp.plot.facts import heading
from spp.plot.panels import PLURAL
from spp.report.markup import definitions, layer, tag, text
from spp.vocabulary import Signal

Run = Mapping[str, Any]

FIRST = (
    "model",
    "norm",
    "activation",
    "init",
    "data",
    "input_shape",
    "batch_size",
    "batches",
    "samples",
    "seed",
    "loss",
)
"""Facts that come first, in this order; the others follow by name."""

MOST_NAMES = 200
"""Modules that are listed under one reason; the rest is counted."""


def title(run: Run) -> str:
    """Return the title of the page, in plain text."""
    norm = f", norm {run['norm']}" if run.get("norm") is not None else ""
    return f"{run.get('model') or 'A network'}{norm}"


def header(run: Run, step: int) -> str:
    """Return the name of the network and one line of what was done to it."""
    rest = heading(run, step).partition(" · ")[2] if run.get("model") else heading(run, step)
    line = tag("p", text(rest), class_="run") if rest else ""
    return tag(
        "div",
        tag("p", "Signal propagation report", class_="kind"),
        tag("h1", text(run.get("model") or "A network")),
        line,
    )


def glance(frame: pd.DataFrame, blocks: pd.DataFrame, modules: pd.DataFrame, unmeasured: pd.DataFrame, run: Run) -> str:
    """Return the handful of numbers that say how large the network is and whether the trace is whole."""
    nonfinite = int((frame[Column.NONFINITE] > 0).sum())
    leaves = int((modules[ModuleColumn.LEAF] & (modules[ModuleColumn.CALLS] > 0)).sum())
    parameters = run.get("parameters")
    tiles = [
        ("parameters", _size(parameters) if isinstance(parameters, int) else "", ""),
        ("layers that ran", f"{leaves:,}", ""),
        ("residual merges", f"{len(blocks):,}", ""),
        ("tensors measured", f"{len(frame):,}", ""),
        ("with NaN or infinity", f"{nonfinite:,}", "bad" if nonfinite else "good"),
        ("not measured", f"{len(unmeasured):,}", ""),
    ]
    found = [
        tag("div", tag("dd", number), tag("dt", label), class_=mood or None) for label, number, mood in tiles if number
    ]
    return tag("dl", *found, class_="glance")


def holes(unmeasured: pd.DataFrame) -> str:
    """Return what could not be measured: one entry per reason and signal, with the modules it concerns."""
    if unmeasured.empty:
        body = tag("p", "Everything that was asked for was measured.", class_="calm")
        return _section("Not measured", "no holes", body, "unmeasured")
    keys = [UnmeasuredColumn.REASON, UnmeasuredColumn.SIGNAL]
    entries = []
    for (reason, signal), rows in unmeasured.groupby(keys, sort=False, observed=True):
        names = list(dict.fromkeys(rows[UnmeasuredColumn.NAME].astype(str)))
        more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
        what = Signal(str(signal)).replace("_", " ") if len(rows) == 1 else PLURAL[Signal(str(signal))]
        summary = tag("summary", tag("b", f"{len(rows):,} {what}: "), text(reason))
        listed = tag("p", " ".join(map(layer, names[:MOST_NAMES])), more, class_="names")
        entries.append(tag("details", summary, listed))
    noun = "tensor" if len(unmeasured) == 1 else "tensors"
    return _section("Not measured", f"{len(unmeasured):,} {noun}, and why", "".join(entries), "unmeasured")


def facts(run: Run) -> str:
    """Return every fact of the run, and the command that repeats it where there is one."""
    simple = {
        key: value
        for key, value in run.items()
        if value is not None and not isinstance(value, Mapping) and key != "argv"
    }
    order = [key for key in FIRST if key in simple] + sorted(key for key in simple if key not in FIRST)
    parts = [definitions((_label(key), _value(simple[key])) for key in order)]
    argv = run.get("argv")
    if isinstance(argv, list) and argv:
        command = tag("code", text(shlex.join(["spp", *map(str, argv)])), id="command")
        parts.append(tag("div", tag("h3", "To run it again"), tag("pre", command), class_="again"))
    for key, value in sorted(run.items()):
        if isinstance(value, Mapping) and value:
            pairs = definitions(
                (_label(name), _value(inner)) for name, inner in sorted(value.items()) if inner is not None
            )
            parts.append(tag("details", tag("summary", text(_label(key).capitalize())), pairs))
    return _section("The run", "what was traced, and how", "".join(parts), "run")


def _section(name: str, summary: str, body: str, key: str) -> str:
    return tag("section", tag("h2", text(name), " ", tag("small", text(summary))), body, id=key, aria_label=name)


def _label(key: object) -> str:
    return str(key).replace("_", " ")


def _value(value: Any) -> str:
    return text(", ".join(_words(value)) if isinstance(value, (list, tuple)) else next(_words([value])))


def _words(values: Any) -> Iterator[str]:
    for value in values:
        if isinstance(value, bool):
            yield "yes" if value else "no"
        elif isinstance(value, int):
            yield f"{value:,}" if value >= 10_000 else str(value)
        elif isinstance(value, float):
            yield f"{value:.6g}"
        elif isinstance(value, (list, tuple, Mapping)):
            yield json.dumps(value, default=str)
        else:
            yield str(value)


def _size(number: int) -> str:
    """Three digits and a unit, as ``5.29 M``."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
