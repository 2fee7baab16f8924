"""The step behind a layer that leaves its outputs alone and computes the gradients of its weight and bias."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from spp.nn.neuronwise.base import NeuronwiseLayer

TWICE = (
    "neuron-wise gradients cannot be differentiated twice: their statistics are constants in the backward pass. "
    "Use the ordinary layer where second derivatives are needed."
)


class WeightGradient(torch.autograd.Function):
    """Identity on the outputs of a layer; gives ``weight`` and ``bias`` the layer's neuron-wise gradient.

    What it keeps goes through ``save_for_backward``, so that checkpointing and offloading see it.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, layer: NeuronwiseLayer) -> Tensor:
        """Return ``z`` itself.

        Args:
            ctx: torch's.
            z: ``(N, O, ...)`` or ``(..., O)``, outputs of the layer.
            x: Its inputs.
            weight: ``(O, *F)``.
            bias: ``(O,)`` or None.
            layer: Whose options and statistics to use.
        """
        # Under autocast the outputs are narrower than the inputs, and torch too would keep the narrow ones.
        # The region is kept rather than z, which an activation may overwrite.
        ctx.save_for_backward(x.to(z.dtype), layer.activation.region(z, layer.weighting))
        ctx.layer, ctx.dtype = layer, weight.dtype
        # Marked as written in place, z is no view of itself, and an activation may write into it.
        ctx.mark_dirty(z)
        return z

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        """``delta`` for the outputs, the neuron-wise gradients for weight and bias."""
        x, p = ctx.saved_tensors
        with torch.no_grad(), torch.autocast(delta.device.type, enabled=False):
            weight, bias = ctx.layer.gradients(x, p, delta, ctx.dtype)
        if torch.is_grad_enabled() and delta.requires_grad:
            delta, weight, bias = _Once.apply(delta, weight, bias)  # type: ignore[no-untyped-call]
        return delta, None, weight, bias if ctx.needs_input_grad[3] else None, None


class _Once(torch.autograd.Function):
    """Identity whose derivative is an error that says why."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(TWICE)
