"""``predict``: the moments that theory expects at every module's output, and of the gradients there, for a network as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from spp._pytree import walk
from spp.capture.sites import Entry, callable_module, roster
from spp.capture.state import preserved
from spp.errors import InputError
from spp.theory import rules as rules  # enters the rules
from spp.theory.field import FLOAT, Field, Gradient, even, unit
from spp.theory.symbol import Masks, Symbol
from spp.theory.table import table


@dataclass(slots=True, eq=False)
class Visit:
    """One output of one module call.

    Attributes:
        entry: Whose.
        call: 0 for the module's first call.
        output: Path inside the output.
        field: What theory knows of it.
        reason: Why nothing is known.
    """

    entry: Entry
    call: int
    output: str
    field: Field | None
    reason: str


def predict(model: nn.Module, batch: tuple[int, ...] | torch.Size | Tensor) -> pd.DataFrame:
    """What mean-field theory expects of ``model``, layer by layer, forward and backward.

    The model's own ``forward`` runs on tensors without numbers that carry moments (:mod:`spp.theory.field`), so that layers,
    functional code, residual sums and gates are followed as they are written; weights enter by their actual scale and mean.
    Nothing of the model is changed. Gradients are those of a probe: independent, of unit variance, at every output.

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
    symbol = Symbol.of(*_input(batch, model))
    visits: list[Visit] = []
    reason = ""
    entries = roster(model)
    with preserved(model, None, True), torch.no_grad(), _visited(entries, visits), Masks():
        try:
            output = model(symbol)
        except Exception as error:  # whatever a model does that a tensor without numbers cannot
            output, reason = (
                None,
                f"the forward pass could not be followed: {_said(error)}",
            )
    _back([s.field for _, s in walk(output) if isinstance(s, Symbol) and s.field is not None])
    return table(visits, entries, reason)


def _input(batch: tuple[int, ...] | Tensor, model: nn.Module) -> tuple[Tensor, torch.device, Field]:
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
        return torch.empty(batch.shape, dtype=batch.dtype, device="meta"), place, _measured(batch.detach())
    shape = torch.Size(batch) if _is_shape(batch) else None
    if shape is None:
        raise InputError(
            "a prediction starts from the shape of one batch, as (32, 3, 224, 224), or from a tensor",
            received=repr(batch)[:60],
            where="batch",
        )
    space = shape[2:]
    positions = max(space.numel(), 1)
    field = Field(
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
    return torch.empty(shape, dtype=dtype, device="meta"), place, field


def _measured(x: Tensor) -> Field:
    """The field of a tensor that is there."""
    rows = x.to("cpu", FLOAT).reshape(*x.shape[:2], -1)  # (N, C, P)
    n = len(rows)
    profile, channel_means = rows.square().mean((0, 1)), rows.mean((0, 2))
    pooled, acsm = float(rows.mean(2).square().mean()), float(channel_means.square().mean())
    lengths = rows.square().mean(1).clamp(min=1e-300).log()
    return Field(
        shape=x.shape,
        axis=1,
        profile=profile.reshape(x.shape[2:]),
        mean=float(rows.mean()),
        pooled=pooled,
        between=(acsm - pooled / n) / (1 - 1 / n) if n > 1 else 0.0,
        channels=unit(rows.square().mean((0, 2)) - channel_means.square()),
        lengths=float(lengths.var(correction=0)),
    )


def _said(error: Exception) -> str:
    first = str(error).strip().splitlines()[:1]
    return ": ".join([type(error).__name__, *(line[:120] for line in first)])


def _is_shape(batch: object) -> bool:
    return (
        isinstance(batch, tuple | list)
        and len(batch) >= 2
        and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in batch)
    )


@contextmanager
def _visited(entries: list[Entry], visits: list[Visit]) -> Iterator[None]:
    """Note what every module gives out, by a ``forward`` of its own that calls the module's; taken away again afterwards."""
    wrapped: list[tuple[nn.Module, Any, bool]] = []
    calls: dict[str, int] = {}

    def run(entry: Entry, forward: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        number = calls.get(entry.name, 0)
        calls[entry.name] = number + 1
        for path, item in walk(output):
            if isinstance(item, Symbol):
                visits.append(Visit(entry, number, path, item.field, item.reason))
            elif isinstance(item, Tensor):
                visits.append(Visit(entry, number, path, None, "a tensor that does not depend on the input's values"))
        return output

    try:
        for entry in entries:
            module = entry.module
            if not callable_module(module) or isinstance(module, torch.jit.ScriptModule) or entry.weight_of is not None:
                continue
            own = "forward" in module.__dict__
            wrapped.append((module, module.__dict__.get("forward"), own))
            module.__dict__["forward"] = partial(run, entry, module.forward)
        yield
    finally:
        for module, before, own in wrapped:
            if own:
                module.__dict__["forward"] = before
            else:
                module.__dict__.pop("forward", None)


def _back(outputs: list[Field]) -> None:
    """Send unit gradients back from the outputs; every field's is complete when its turn comes, latest first."""
    for field in outputs:
        if field.gradient is None:
            field.gradient = Gradient(torch.ones_like(field.profile), 0.0, torch.ones_like(field.channels))
    waiting = {id(field): field for field in outputs}
    while waiting:
        field = max(waiting.values(), key=lambda f: f.serial)
        del waiting[id(field)]
        gradient = field.gradient
        if gradient is None:
            continue
        for other, send in field.shadows:
            if other.gradient is None:
                other.shown = send(gradient)
        for parent, send in field.parents:
            sent = send(gradient)
            parent.gradient = sent if parent.gradient is None else parent.gradient.plus(sent)
            waiting[id(parent)] = parent
