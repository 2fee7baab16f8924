"""What was not measured, and why: the reasons behind ``trace.unmeasured``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from spp.measure.sites import Entry, Site, callable_module
from spp.signals import Signal


@dataclass(slots=True, eq=False)
class Hole:
    """Something that was not measured: whose, which call and output, which signal, and the reason."""

    entry: Entry
    call: int | None
    output: str
    signal: Signal
    reason: str

    @property
    def key(self) -> tuple[str, int | None, str, Signal]:
        """What makes holes of several batches one row."""
        return self.entry.name, self.call, self.output, self.signal


def no_gradient(site: Site, backward_ran: bool) -> Hole:
    """Why a wanted activation gradient is missing."""
    if not backward_ran:
        reason = "nothing the loss depends on requires a gradient"
    elif not site.hooked:
        reason = "output needs no gradient: computed under no_grad, detached, or from frozen parameters and inputs only"
    elif site.is_view:
        reason = (
            "no gradient arrived: the loss does not depend on this view, or its base or itself was written to in place later,"
            " which gives it a new place in the graph"
        )
    else:
        reason = "no gradient arrived: the loss does not depend on this output"
    return Hole(site.entry, site.call.number if site.call else None, site.output, site.signals[1], reason)


def no_weight_gradient(site: Site, parameter: Tensor, backward_ran: bool) -> Hole:
    """Why a parameter has no gradient."""
    if not parameter.requires_grad:
        reason = "frozen: requires_grad is False"
    elif not backward_ran:
        reason = "nothing the loss depends on requires a gradient"
    else:
        reason = "no gradient arrived: the loss does not depend on this parameter"
    return Hole(
        site.entry, None if site.call is None else site.call.number, site.output, Signal.WEIGHT_GRADIENT, reason
    )


def never_called(entries: list[Entry]) -> Iterator[Hole]:
    """Selected modules that could have been called and were not; lists and dictionaries of modules cannot be."""
    scripted = [e.name for e in entries if isinstance(e.module, torch.jit.ScriptModule)]
    for entry in entries:
        if entry.calls or not entry.selected or not callable_module(entry.module):
            continue
        if any(entry.name != name and entry.name.startswith(f"{name}." if name else "") for name in scripted):
            reason = "never called where it can be seen: calls inside a scripted module are not Python calls"
        else:
            reason = "never called in this pass; its parent may use its parameters directly"
        yield Hole(entry, None, "", Signal.ACTIVATION, reason)
