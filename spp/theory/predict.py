"""``predict``: the moments that theory expects at every module's output, and of the gradients there, for a network as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from spp._pytree import walk
from spp.capture.functions import Functions, functions, signals_of
from spp.capture.sites import Entry, Roster, callable_module, roster
from spp.capture.state import preserved
from spp.errors import InputError
from spp.theory.moments_state import FLOAT, Gradient, MomentsState, even, unit

# Importing the modules enters their rules.
from spp.theory.rules import HEARD, Symbol, arithmetic, elementwise, linear, norms, pooling, shapes
from spp.theory.table import Visit, table

RULE_MODULES = (arithmetic, elementwise, linear, norms, pooling, shapes)


def predict(model: nn.Module, batch: tuple[int, ...] | torch.Size | Tensor) -> pd.DataFrame:
    """What mean-field theory expects of ``model``, layer by layer, forward and backward.

    The model's own ``forward`` runs on tensors without numbers that carry moments (:mod:`spp.theory.moments_state`), so that
    layers, functional code, residual sums and gates are followed as they are written; weights enter by their actual scale
    and mean. Nothing of the model is changed. Gradients are those of a probe: independent, of unit variance, at every output.

    Args:
        model: Any ``torch.nn.Module``, in the mode (train or eval) it is in.
        batch: The shape of one input, ``(N, C, H, W)`` or ``(N, F)``, which then is unit normal noise; or such a tensor,
            whose own moments are taken.

    Returns:
        One row per output of a module call, see :data:`spp.theory.table.PREDICTION_COLUMNS`; where nothing could be
        predicted, ``reason`` says why.

    Raises:
        InputError: The model is no module or the shape is none.
    """
    if not isinstance(model, nn.Module):
        raise InputError("a model is a torch.nn.Module", received=f"a {type(model).__name__}", where="model")
    symbol = _input(batch, model)
    visits: list[Visit] = []
    reason, output = "", None
    entries = roster(model)
    with preserved(model, None, True), torch.no_grad(), _visited(entries, visits), arithmetic.RandomMasks():
        try:
            output = model(symbol)
        except Exception as error:  # whatever a model does that a tensor without numbers cannot
            first = [line[:120] for line in str(error).strip().splitlines()[:1]]
            reason = f"the forward pass could not be followed: {': '.join([type(error).__name__, *first])}"
    _back([s.state for _, s in walk(output) if isinstance(s, Symbol) and s.state is not None])
    return table(visits, entries, reason)


def _input(batch: object, model: nn.Module) -> Symbol:
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    place = torch.device("cpu") if parameter is None else parameter.device
    dtype = torch.float32 if parameter is None else parameter.dtype
    if isinstance(batch, Tensor):
        if batch.dim() < 2 or not batch.is_floating_point():
            raise InputError(
                "a prediction starts from a floating tensor (N, C, ...)",
                received=f"{batch.dtype} of shape {tuple(batch.shape)}",
                where="batch",
            )
        state, dtype = _measured(batch.detach()), batch.dtype
    elif isinstance(batch, tuple | list) and _is_shape(batch):
        state = _noise(torch.Size(batch))
    else:
        raise InputError(
            "a prediction starts from the shape of one batch, as (32, 3, 224, 224), or from a tensor",
            received=repr(batch)[:60],
            where="batch",
        )
    return Symbol.of(torch.empty(state.shape, dtype=dtype, device="meta"), place, state)


def _noise(shape: torch.Size) -> MomentsState:
    """Unit normal noise."""
    space = shape[2:]
    positions = max(space.numel(), 1)
    return MomentsState(
        shape=shape,
        axis=1,
        profile=torch.ones(space, dtype=FLOAT),
        mean=0.0,
        pooled=1 / positions,
        between=0.0,
        channels=even(shape[1]),
        lengths=2 / shape[1],
        scatter=1 / (shape[1] * positions),
        free=len(shape) > 2,
    )


def _measured(x: Tensor) -> MomentsState:
    """The moments of a tensor that is there."""
    rows = x.to("cpu", FLOAT).reshape(*x.shape[:2], -1)  # (N, C, P)
    n = len(rows)
    profile, channel_means = rows.square().mean((0, 1)), rows.mean((0, 2))
    pooled, acsm = float(rows.mean(2).square().mean()), float(channel_means.square().mean())
    lengths = rows.square().mean(1).clamp(min=1e-300).log()
    return MomentsState(
        shape=x.shape,
        axis=1,
        profile=profile.reshape(x.shape[2:]),
        mean=float(rows.mean()),
        pooled=pooled,
        between=(acsm - pooled / n) / (1 - 1 / n) if n > 1 else 0.0,
        channels=unit(rows.square().mean((0, 2)) - channel_means.square()),
        lengths=float(lengths.var(correction=0)),
    )


def _is_shape(batch: Sequence[object]) -> bool:
    # True is an int to isinstance, but no length of an axis.
    return len(batch) >= 2 and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in batch)


@contextmanager
def _visited(entries: Roster, visits: list[Visit]) -> Iterator[None]:
    """Note the outputs of every module, by a ``forward`` of its own that calls the module's; taken away again afterwards.

    Those of functions that are layers are noted too.
    """
    wrapped: list[tuple[nn.Module, dict[str, Any]]] = []
    calls: dict[str, int] = {}
    stack: list[Entry] = []
    layers, names = Functions(entries), {function: name for name, *_, function in functions()}

    def run(entry: Entry, forward: Any, *args: Any, **kwargs: Any) -> Any:
        stack.append(entry)
        try:
            output = forward(*args, **kwargs)
        finally:
            stack.pop()
        return note(entry, output)

    def heard(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        name = names.get(function)
        entry = layers.of(stack[-1], name) if name is not None and stack else None
        if entry is not None and signals_of(str(name), args, kwargs):
            note(entry, output)

    def note(entry: Entry, output: Any) -> Any:
        number = calls.get(entry.name, 0)
        calls[entry.name] = number + 1
        for path, item in walk(output):
            if isinstance(item, Symbol):
                visits.append(Visit(entry, number, path, item.state, item.reason))
            elif isinstance(item, Tensor):
                visits.append(Visit(entry, number, path, None, "a tensor that does not depend on the input's values"))
        return output

    token = HEARD.set(heard)
    try:
        for entry in entries:
            module = entry.module
            # ScriptModules run in C++ and refuse attributes; a parametrization's output is a weight, not a signal.
            if not callable_module(module) or isinstance(module, torch.jit.ScriptModule) or entry.weight_of is not None:
                continue
            # Through __dict__: nn.Module.__setattr__ would make a module of a forward that is one.
            wrapped.append((module, {k: v for k, v in module.__dict__.items() if k == "forward"}))
            module.__dict__["forward"] = partial(run, entry, module.forward)
        yield
    finally:
        HEARD.reset(token)
        for module, before in wrapped:
            del module.__dict__["forward"]
            module.__dict__.update(before)


def _back(outputs: list[MomentsState]) -> None:
    """Send unit gradients back from the outputs; every state's is complete when its turn comes, latest first."""
    for state in outputs:
        if state.gradient is None:
            state.gradient = Gradient(torch.ones_like(state.profile), 0.0, torch.ones_like(state.channels))
    waiting = {id(state): state for state in outputs}
    while waiting:
        state = max(waiting.values(), key=lambda s: s.serial)
        del waiting[id(state)]
        gradient = state.gradient
        if gradient is None:
            continue
        for other, send in state.shadows:
            if other.gradient is None:
                other.shown = send(gradient)
        for parent, send in state.parents:
            sent = send(gradient)
            parent.gradient = sent if parent.gradient is None else parent.gradient.plus(sent)
            waiting[id(parent)] = parent
