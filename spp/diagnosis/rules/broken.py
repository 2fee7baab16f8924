"""What is broken outright: values that are no numbers, modules that never run, parameters that no gradient reaches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from spp.diagnosis.findings import EVERYTHING, Finding, count, further, number, percent, quoted, some
from spp.diagnosis.registry import rule
from spp.diagnosis.view import Key, View, measured
from spp.frame.schema import Column, StepColumn
from spp.vocabulary import Severity, Signal

NEVER = "never called in this pass"
UNREACHED = "no gradient arrived: the loss does not depend on this parameter"
NO_BACKWARD = "nothing the loss depends on requires a gradient"


@rule("nonfinite", source="arithmetic: every number behind it is doubtful", tags=(EVERYTHING,))
def nonfinite(view: View, at: Any) -> Iterator[Finding]:
    """NaN or infinity, in the first weight, activation or gradient that holds any.

    The first non-finite values in the direction the signal travels: weights, then activations, then gradients.
    Activations of -inf alone whose takers are finite, the loss at the end, are masks, and a note.
    """
    weights = [row for row in view.weights.values() if row.nonfinite]
    every = [row for row in view.activations.values() if row.nonfinite]
    gradients = _leaves_first(row for row in reversed(view.gradients.values()) if row.nonfinite)
    harmless = not gradients and all(map(_is_neginf, every)) and _ends_well(view)
    masks = every if harmless else [row for row in every if _is_mask(view, row, every)]
    activations = _leaves_first(row for row in every if row not in masks)
    if weights:
        # Weights of modules that never ran have no depth.
        first = maker = min(weights, key=lambda row: (row.depth is None, row.depth))
        signal, others = Signal.WEIGHT, activations
        what = f"The parameter {first.name}.{first.output} holds {_named(first)}"
        remedy = "Load or initialize it again; look at the step that wrote it."
    elif activations:
        first = maker = activations[0]
        signal, others = Signal.ACTIVATION, activations[1:]
        key = Key(str(first.name), int(first.call))
        what = _made(view, key, first)
        remedy = _remedy(first.dtype, fed=bool(view.fed(key)))
    elif gradients:
        first = gradients[0]
        signal, others = Signal.GRADIENT, gradients[1:]
        takers = view.takers(Key(str(first.name), int(first.call)))
        maker = takers[0].row if takers else first
        what = (
            f"Activations are finite; going backwards {_named(first)} first appears at {quoted(maker.name)} ({maker.type}), in "
            f"the gradient {'of what it takes' if takers else 'at its output'}"
        )
        remedy = _remedy(first.dtype, fed=True, backward=True)
    else:
        yield from _masks(_leaves_first(masks))
        return
    root = view.activations.get(Key(""))
    reached = [*view.gradients.values(), *view.weight_gradients.values(), *([] if root is None else [root])]
    also = further(len(others), before="; ", after=" after it")
    yield Finding(
        # What a mask or an unused branch holds back does no harm.
        severity=Severity.ERROR if any(row.nonfinite for row in reached) or not reached else Severity.WARNING,
        **measured(maker, signal, Column.NONFINITE, first.nonfinite, "0"),
        message=f"{what} ({percent(first.nonfinite / first.numel)} of its values{also}).",
        remedy=remedy,
        evidence=f"{first.dtype}; largest finite magnitude {number(first.abs_max)}",
    )


def _named(row: Any) -> str:
    """``NaN``, ``+inf and -inf``: what is not finite."""
    counts = {"NaN": row.nan, "+inf": row.posinf, "-inf": row.neginf}
    return " and ".join(name for name, n in counts.items() if not pd.isna(n) and n) or "NaN or infinity"


def _made(view: View, key: Key, row: Any) -> str:
    """Where the first value that is not finite is made: in a call whose input was measured finite, or before it."""
    what, here, came = _named(row), f"{quoted(row.name)} ({row.type})", view.entered(key)
    made, comes = ("are made", "come") if " and " in what else ("is made", "comes")
    feeders = [view.activations[source] for source in view.fed(key) if source in view.activations]
    if came is not None and not came.nonfinite:
        return f"{what} {made} in {here}, whose input is finite, at most {number(came.abs_max)}"
    if not feeders:
        return f"{what} {comes} in at {here}, with the batch or from functions between modules"
    before = quoted(feeders[0].name)
    return f"{what} {made} between {before} (finite, at most {number(feeders[0].abs_max)}) and the output of {here}"


def _remedy(dtype: str, *, fed: bool, backward: bool = False) -> str:
    """Against the first value that is no number, by the dtype it has; ``fed`` tells whether a module gave it its input."""
    if dtype == "float16" and backward:
        return "Lower the loss scale, or compute this layer's backward in float32."
    if dtype == "float16":
        return "Its float16 range ends at 65504: compute this layer in float32 or bfloat16, or scale down its input."
    if backward:
        return "Look at the derivative just behind it: a square root or division at 0, a logarithm, a norm of zeros."
    # functions between the two have no rows of their own in every run
    where = "Look at this layer, and at the functions between it and what feeds it: a root or logarithm of negative numbers."
    return where if fed else "Check the batch with torch.isfinite first."


def _is_mask(view: View, row: Any, every: list[Any]) -> bool:
    """Whether the non-finite values are -inf alone, and whatever takes them is finite, as a softmax over masked logits is."""
    if not _is_neginf(row) or not row.name:
        return False
    takers = view.takers(Key(str(row.name), int(row.call)))
    # nobody knows what takes the output of a container, but all that follows is finite
    return not any(taker.row.nonfinite for taker in takers) if takers else all(r.depth <= row.depth for r in every)


def _is_neginf(row: Any) -> bool:
    return not pd.isna(row.neginf) and bool(row.neginf == row.nonfinite)


def _ends_well(view: View) -> bool:
    """Whether the loss is finite; a probe, which multiplies what it is given, has finite gradients instead."""
    if view.run.get("loss") == "probe":
        return bool(view.gradients)
    losses = view.losses[StepColumn.LOSS].to_numpy(dtype=np.float64)
    return len(losses) > 0 and bool(np.isfinite(losses[-1]))


def _masks(rows: list[Any]) -> Iterator[Finding]:
    for first in rows[:1]:
        share, also = percent(first.nonfinite / first.numel), further(len(rows) - 1, before="; ", after=" likewise")
        yield Finding(
            severity=Severity.NOTE,
            **measured(first, Signal.ACTIVATION, Column.NEGINF, first.neginf, "0"),
            message=f"{quoted(first.name)} ({first.type}) gives out -inf ({share} of its values{also}); what follows is "
            "finite: a mask.",
            remedy="Nothing, where that is meant.",
        )


def _leaves_first(rows: Iterable[Any]) -> list[Any]:
    """Leaves where any are among them: a container holds what its leaves gave."""
    every = list(rows)
    return [row for row in every if row.leaf] or every


@rule("never_ran", source="bookkeeping of the pass")
def never_ran(view: View, at: Any) -> Iterator[Finding]:
    """Modules with trainable parameters that were never called and get no gradient.

    Registered, trainable, and without any effect on the output.
    """
    idle = {str(row.name) for row in view.holes if str(row.reason).startswith(NEVER)}
    trained = {name for name, _ in view.weight_gradients}
    names = [n for n, row in view.facts.items() if n == row.name and n in idle - trained and row.trainable]
    if names:
        lost = sum(_trainable(view, name) for name in names)
        yield Finding(
            # What runs in training alone, such as a head beside the output, is idle in evaluation.
            severity=Severity.WARNING if view.trained("") else Severity.NOTE,
            name=names[0],
            statistic="parameters",
            value=float(lost),
            expected="0",
            message=f"{count(len(names), 'module')} with trainable parameters never ran, {names[0]} first: "
            f"{lost:,} parameters that cannot learn.",
            remedy="Call it in forward, or remove it; a switch may turn it off in this mode.",
            evidence=some(names),
        )


@rule("no_gradient", source="bookkeeping of the pass", follows=("taken",))
def no_gradient(view: View, at: Any) -> Iterator[Finding]:
    """Modules that ran, but whose trainable parameters get no gradient.

    A part the loss does not depend on, or everything before a place where the graph is cut.

    Where it is the network's front that gets nothing, the graph is cut behind it (``detach``, ``no_grad``, an integer cast),
    and the last layer before the cut is named; else the first layer of the part that the loss does not see.
    """
    asked = view.run.get("signals")
    if isinstance(asked, list) and Signal.WEIGHT_GRADIENT not in asked:
        return
    missing = [row for row in view.holes if row.signal == Signal.WEIGHT_GRADIENT]
    if not view.weight_gradients and any(str(row.reason).startswith(NO_BACKWARD) for row in missing):
        yield Finding(
            severity=Severity.ERROR,
            name="",
            signal=Signal.WEIGHT_GRADIENT,
            message="No gradient reaches any parameter: nothing that the loss depends on requires one.",
            remedy="Look for no_grad, detach or integer outputs between the parameters and the loss; unfreeze parameters.",
        )
        return
    missed = {str(row.name) for row in missing if str(row.reason).startswith((UNREACHED, NO_BACKWARD))}
    yield from _unreached(view, missed)


def _unreached(view: View, missed: set[str]) -> Iterator[Finding]:
    """The finding about the layers that ran and are among the ``missed`` ones."""
    trainable = {key.name: n for key in view.leaves if key.call == 0 and (n := _trainable(view, key.name))}
    unreached = [name for name in trainable if name in missed]
    if not unreached:
        return
    cut = [*trainable][: len(unreached)] == unreached != [*trainable]
    name = unreached[-1] if cut else unreached[0]
    share = sum(trainable[n] for n in unreached) / sum(trainable.values())
    verb = "gets" if len(unreached) == 1 else "get"
    yield Finding(
        severity=Severity.ERROR if cut or share >= 0.5 else Severity.WARNING,
        **measured(view.leaves[Key(name)], Signal.WEIGHT_GRADIENT, "share of parameters", share, "0"),
        message=f"{count(len(unreached), 'layer')} ran but {verb} no gradient, {percent(share)} of the trainable "
        f"parameters: {'the graph is cut behind' if cut else 'the loss does not depend on'} {name}.",
        remedy="Look for detach, no_grad or a numpy round trip right behind it."
        if cut
        else "Feed its output to the loss, or freeze or remove it.",
        evidence=some(unreached),
    )


def _trainable(view: View, name: str) -> int:
    """How many trainable parameters a module has."""
    fact = view.facts.get(name)
    return 0 if fact is None else int(fact.trainable)
