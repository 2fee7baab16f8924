"""What was not measured, and why: the reasons behind ``run.unmeasured``."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spp.capture.sites import Call, Entry, Site, callable_module, named_modules
from spp.vocabulary import Signal

CAUGHT = ", which its caller caught"
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
UNUSED = "nothing the loss depends on requires a gradient"
VARYING = (
    "acsm, acv and dead_fraction are missing: the channel axis has another length in other batches; pass channel_axis="
)
"""Why a row has the statistics of its whole tensor alone."""


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """Something that was not measured: of which module, call, output and signal, and the reason."""

    name: str
    type: str
    call: int | None
    output: str
    signal: Signal
    reason: str

    @property
    def partial(self) -> bool:
        """Whether the row is there, with a part of its statistics."""
        return self.reason == VARYING

    @property
    def key(self) -> tuple[str, int | None, str, Signal, bool]:
        """What makes those of several batches one row; parameters are the same whether or not their module was called."""
        call = self.call if self.signal is Signal.ACTIVATION else self.call or 0
        return self.name, call, self.output, self.signal, self.partial


def unmeasured(entry: Entry, call: Call | None, output: str, signal: Signal, reason: str) -> Unmeasured:
    """A row of ``run.unmeasured``, which holds no module."""
    return Unmeasured(entry.name, entry.type, None if call is None else call.number, output, signal, reason)


def no_gradient(site: Site, backward_ran: bool, hooked: bool, divided: bool, unfinished: str) -> Unmeasured:
    """Why a wanted activation gradient is missing."""
    if divided:
        reason = (
            "its gradient arrived in parts, in several backward passes; moments of parts are not those of their sum"
        )
    elif unfinished and hooked:
        reason = _not_reached(unfinished)
    elif not backward_ran:
        reason = UNUSED
    elif not hooked:
        reason = "output needs no gradient: computed under no_grad, detached, or from frozen parameters and inputs only"
    elif site.is_view:
        reason = (
            "no gradient arrived: the loss does not depend on this view, or its base or itself was written to in place later,"
            " which gives it a new place in the graph"
        )
    else:
        reason = "no gradient arrived: the loss does not depend on this output"
    return unmeasured(site.entry, site.call, site.output, site.signals[1], reason)


def no_weight_gradient(site: Site, parameter: Tensor, backward_ran: bool, unfinished: str, taken: bool) -> Unmeasured:
    """Why a parameter has no gradient."""
    if not parameter.requires_grad:
        reason = "frozen: requires_grad is False"
    elif unfinished:
        reason = _not_reached(unfinished)
    elif not backward_ran:
        reason = UNUSED
    elif taken:
        reason = "its gradient arrived in parts, in several backward passes, and a hook took them away"
    else:
        reason = "no gradient arrived: the loss does not depend on this parameter"
    return unmeasured(site.entry, site.call, site.output, Signal.WEIGHT_GRADIENT, reason)


def _not_reached(unfinished: str) -> str:
    return f"not reached: {unfinished}"


def never_called(
    entries: Collection[Entry], called: Collection[Entry], elsewhere: set[Entry], unfinished: str
) -> Iterator[Unmeasured]:
    """Selected modules that could have been called and were not seen to be; lists and dictionaries of modules cannot be.

    Args:
        entries: The roster.
        called: Those that were.
        elsewhere: Those that were called on another thread.
        unfinished: What ended the pass early.
    """
    scripted = [e.name for e in entries if isinstance(e.module, torch.jit.ScriptModule)]
    for entry in entries:
        if entry in called or not entry.selected or _is_mere_container(entry.module):
            continue
        if any(entry.name != name and entry.name.startswith(f"{name}." if name else "") for name in scripted):
            reason = "never called where it can be seen: calls inside a scripted module are not Python calls"
        elif entry in elsewhere:
            reason = "called on another thread only; a trace follows the thread that calls the model"
        elif entry.name.rpartition(".")[2] == "_orig_mod":
            reason = "runs as a part of the wrapper that torch.compile put around it, whose rows are its own"
        elif _own_call(type(entry.module)):
            reason = (
                "never called where it can be seen: its class replaces __call__ and does not go through nn.Module's"
            )
        elif not callable_module(entry.module):
            reason = "has no forward that could be called: others use what it holds, or its methods"
        elif unfinished:
            reason = _not_reached(unfinished)
        else:
            reason = "never called in this pass; its parent may use its parameters or call its forward directly"
        yield unmeasured(entry, None, "", Signal.ACTIVATION, reason)


def unregistered(modules: Collection[tuple[nn.Module, Entry, bool]], root: nn.Module) -> Iterator[Unmeasured]:
    """Modules that ran inside the model without being part of it, under the module that called them.

    Args:
        modules: Each with what called it, and whether gradients were enabled.
        root: The model.
    """
    own = {id(p) for p in root.parameters()} if modules else set()
    since = {id(module): name for name, module in named_modules(root)} if modules else {}
    for module, caller, learns in modules:
        kind, name = type(module).__name__, since.get(id(module), "")
        why = (
            f"was registered after the measuring had begun, as {name!r}; one that stays is measured after a first call"
        )
        if not name:
            name = next((f"{key}" for key, value in _reach(vars(caller.module)) if value is module), kind)
            lost = [p for p in module.parameters(recurse=False) if learns and p.requires_grad and id(p) not in own]
            why = "is not registered: model.modules() does not know it (a plain list, a closure)"
            why += f"; {sum(p.numel() for p in lost):,} parameters that would learn are not the model's"
        yield unmeasured(caller, None, name, Signal.ACTIVATION, f"the {kind} called here {why}")


def _reach(attributes: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in attributes.items():
        yield name, value
        if isinstance(value, list | tuple):
            yield from ((f"{name}.{i}", item) for i, item in enumerate(value))
        elif isinstance(value, dict):
            yield from ((f"{name}.{key}", item) for key, item in value.items())


def _is_mere_container(module: nn.Module) -> bool:
    """Whether a module has no forward, and neither methods nor tensors of its own that could be used instead."""
    if callable_module(module) or type(module) in _CONTAINERS:
        return type(module) in _CONTAINERS
    kinds = [kind for kind in type(module).__mro__ if kind.__module__.partition(".")[0] != "torch"]
    has_methods = any(callable(own) and not name.startswith("_") for kind in kinds for name, own in vars(kind).items())
    return not (has_methods or module._parameters or module._buffers)


def _own_call(kind: type) -> bool:
    return any("__call__" in vars(c) for c in kind.__mro__[: kind.__mro__.index(nn.Module)])
