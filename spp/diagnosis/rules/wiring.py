"""Parts that take no part: modules that never ran, parameters that get no gradient, layers that let none through."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from spp.diagnosis.findings import Finding
from spp.diagnosis.registry import rule
from spp.diagnosis.view import Key, View, records
from spp.diagnosis.words import count, percent, some
from spp.vocabulary import Severity, Signal

NEVER = "never called in this pass"
UNREACHED = "no gradient arrived: the loss does not depend on this parameter"
NO_BACKWARD = "nothing the loss depends on requires a gradient"


@rule(
    "never_ran",
    "modules with trainable parameters that were never called and get no gradient",
    source="bookkeeping of the pass",
)
def never_ran(view: View, at: Any) -> Iterator[Finding]:
    """Registered, trainable, and without any effect on the output."""
    idle = {str(row.name) for row in records(view.unmeasured) if str(row.reason).startswith(NEVER)}
    trained = {name for name, _ in view.weight_gradients}
    names = [n for n in idle if n in view.facts and view.facts[n].trainable > 0 and n not in trained]
    names = [name for name in view.facts if name in names]  # in the order of the model
    if names:
        lost = sum(int(view.facts[name].trainable) for name in names)
        yield Finding(
            severity=Severity.WARNING,
            name=names[0],
            statistic="parameters",
            value=float(lost),
            expected="0",
            message=f"{count(len(names), 'module')} with trainable parameters never ran, {names[0]} first: {lost:,} parameters "
            "that cannot learn.",
            remedy="Call it in forward, or remove it; a switch may turn it off in this mode.",
            evidence=some(names),
        )


@rule(
    "no_gradient",
    "modules that ran, but whose trainable parameters get no gradient",
    source="bookkeeping of the pass",
)
def no_gradient(view: View, at: Any) -> Iterator[Finding]:
    """A part the loss does not depend on, or everything before a place where the graph is cut.

    Where it is the network's front that gets nothing, the graph is cut behind it (``detach``, ``no_grad``, an integer cast),
    and the last layer before the cut is named; else the first layer of the part that the loss does not see.
    """
    if "weight_gradient" not in view.run.get("signals", ["weight_gradient"]):
        return
    holes = [row for row in records(view.unmeasured) if row.signal == Signal.WEIGHT_GRADIENT]
    if any(row.reason == NO_BACKWARD for row in holes) and not view.weight_gradients:
        yield Finding(
            severity=Severity.ERROR,
            name="",
            signal=Signal.WEIGHT_GRADIENT,
            message="No gradient reaches any parameter: nothing that the loss depends on requires one.",
            remedy="Look for no_grad, detach or integer outputs between the parameters and the loss; unfreeze parameters.",
        )
        return
    missed = {str(row.name) for row in holes if row.reason in (UNREACHED, NO_BACKWARD)}
    ran = [key.name for key in view.leaves if key.call == 0]
    trainable = [name for name in ran if name in view.facts and view.facts[name].trainable > 0]
    unreached = [name for name in trainable if name in missed]
    if not unreached:
        return
    cut = trainable[: len(unreached)] == unreached and len(unreached) < len(trainable)
    name = unreached[-1] if cut else unreached[0]
    lost = sum(int(view.facts[n].trainable) for n in unreached)
    share = lost / max(1, sum(int(view.facts[n].trainable) for n in trainable))
    where = "the graph is cut behind" if cut else "the loss does not depend on"
    yield Finding(
        severity=Severity.ERROR if cut or share >= 0.5 else Severity.WARNING,
        name=name,
        depth=view.leaves[Key(name)].depth,
        signal=Signal.WEIGHT_GRADIENT,
        statistic="share of parameters",
        value=share,
        expected="0",
        message=f"{count(len(unreached), 'layer')} ran but get no gradient, {percent(share)} of the trainable parameters: "
        f"{where} {name}.",
        remedy="Look for detach, no_grad or a numpy round trip right behind it."
        if cut
        else "Feed its output to the loss, or freeze or remove it.",
        evidence=some(unreached),
    )
