"""Layer-sequential unit-variance init (Mishkin & Matas 2016, arXiv 1511.06422): the init that looks at a batch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spp.errors import InputError
from spp.nn.inits import initialize_

LSUV_TOLERANCE, LSUV_STEPS = 0.1, 10
"""How far from 1 a variance may stay, and rescalings of a layer at most (the authors' own values)."""


@dataclass(frozen=True, slots=True)
class LayerVariance:
    """What LSUV did to one layer.

    Attributes:
        before: Variance of its output on the batch, with orthogonal weights.
        after: The same at the end.
        steps: Times it was rescaled.
    """

    before: float
    after: float
    steps: int


@torch.no_grad()
def lsuv_(
    model: nn.Module,
    batch: Tensor | tuple[Any, ...] | Mapping[str, Any],
    *,
    tolerance: float = LSUV_TOLERANCE,
    steps: int = LSUV_STEPS,
    orthogonal: bool = True,
) -> dict[str, LayerVariance]:
    """Give every convolution and Linear layer unit output variance on ``batch``, in the order in which they run.

    Weights start orthogonal and biases at zero; then each weight is divided by the standard deviation of its layer's output
    until the variance is within ``tolerance`` of 1. One forward pass suffices, since a layer's rescaled output is what the
    next one sees. Where a weight is standardized its gain is rescaled instead. Buffers, as BatchNorm's statistics, are left
    as they were; training flags are not touched, so dropout is drawn where it is on: call ``model.eval()`` first, or leave
    it out, for the variance of the undisturbed signal.

    Args:
        model: Any module; a layer that runs several times is set at its first call.
        batch: What the model takes: a tensor, several in a tuple, or keyword arguments in a mapping. (Inputs only.)
        tolerance: How far from 1 a variance may stay, above 0.
        steps: Rescalings of a layer at most.
        orthogonal: Whether weights start orthogonal; if not, from what they are.

    Returns:
        What was done to each layer that ran, by name, in order.

    Raises:
        InputError: A layer's output does not vary, or is not finite, on this batch.
    """
    if not tolerance > 0 or steps < 1:
        raise InputError(
            "the tolerance is positive and there is at least one step", received=f"{tolerance!r} and {steps!r}"
        )
    if orthogonal:
        initialize_(model, "orthogonal")
    done: dict[str, LayerVariance] = {}
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with ExitStack() as stack:
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
                hook = _Rescale(name, done, tolerance, steps)
                stack.callback(layer.register_forward_hook(hook, with_kwargs=True).remove)
        if isinstance(batch, Mapping):
            model(**batch)
        else:
            model(*(batch if isinstance(batch, tuple) else (batch,)))
    for buffer, value in kept:
        buffer.copy_(value)
    return done


@dataclass(slots=True)
class _Rescale:
    """A forward hook that rescales its layer and gives the rest of the model the new output."""

    name: str
    done: dict[str, LayerVariance]
    tolerance: float
    steps: int

    def __call__(self, layer: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        if self.name in self.done:
            return output
        gain = getattr(layer, "gain", None)
        scaled = gain if isinstance(gain, Tensor) else layer.get_parameter("weight")
        before = variance = self._variance(output)
        step = 0
        while abs(variance - 1) >= self.tolerance and step < self.steps:
            scaled.div_(variance**0.5)
            output = layer.forward(*args, **kwargs)
            variance, step = self._variance(output), step + 1
        self.done[self.name] = LayerVariance(before, variance, step)
        return output

    def _variance(self, output: Tensor) -> float:
        variance = output.double().var(correction=0).item() if output.numel() else 0.0
        if not 0 < variance < float("inf"):
            raise InputError(
                "LSUV needs outputs that vary and are finite",
                received=f"a variance of {variance:g}",
                where=f"layer {self.name!r}",
                remedy="Give it a batch of several different samples, and a model without dead layers.",
            )
        return variance
