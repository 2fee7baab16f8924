"""From an ordinary gradient and the statistics of a linear region to the neuron-wise gradient.

A neuron is ``z = w.x + b``. With mean ``M`` and spread ``s`` of its inputs over its region, ``u = (x - M) / s`` and
``z = v.u + c`` where ``v = w s`` and ``c = b + w.M``. The gradient in those coordinates is ``g_v = (gW - M gb) / s`` and
``g_c = gb``, so that the ordinary gradients of weight and bias are enough: no tensor of samples by neurons by features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spp.errors import InputError
from spp.registry import Registry


@dataclass(frozen=True, slots=True)
class Mode:
    """A row of ``MODES``.

    Attributes:
        description: One line.
        coords: Whether the step is one in the neuron's own coordinates, which moves the bias too.
        power: Of the spread that the centred gradient is divided by: 0, 1 or 2.
    """

    description: str
    coords: bool
    power: int


MODES = Registry[Mode](
    "mode",
    {
        "coords": Mode(
            "gradient descent in standardized coordinates, mapped back; always a descent direction", True, 2
        ),
        "coords_centre": Mode("the same in centred coordinates, without dividing by the spread", True, 0),
        "outer": Mode("standardized inputs in the outer product, used on ordinary weights as is; can ascend", False, 1),
        "outer_centre": Mode("centred inputs in the outer product; can ascend", False, 0),
    },
    of=Mode,
)
"""Every mode by name, with its meaning."""

TWICE = (
    "neuron-wise gradients cannot be differentiated twice: their statistics are constants in the backward pass. "
    "Use the ordinary layer where second derivatives are needed."
)


def check_mode(mode: str, *, bias: bool) -> None:
    """Raise unless ``mode`` is a name of ``MODES`` that fits a layer with or without a bias.

    Raises:
        UnknownNameError: No mode has that name.
        InputError: ``coords_centre`` without a bias, which has nowhere to put the shift of coordinates.
    """
    row = MODES.row(mode)
    if row.coords and row.power == 0 and not bias:
        raise InputError(
            f"mode {mode!r} moves the bias to make up for the centring, so it needs one",
            received="a layer without bias",
            remedy="Use bias=True, or mode 'coords', which then only divides by the variance.",
        )


def transform_(
    mode: Mode, weight: Tensor, bias_gradient: Tensor, offset: Tensor, pivot: Tensor, square: Tensor, *, bias: bool
) -> None:
    """From the ordinary weight gradient to the neuron-wise one, in place.

    The ordinary one comes as ``sum_n delta_n (x_n - pivot)``, which loses nothing to cancellation when inputs are far from
    zero. In the table ``c = gW - M gb`` and ``s^2 = square``:

    | mode | weight | bias (which is not computed here) | weight without bias |
    |---|---|---|---|
    | ``outer_centre`` | c | gb | c |
    | ``outer`` | c / s | gb | c / s |
    | ``coords_centre`` | c | gb - sum_f M_f c_f | gW |
    | ``coords`` | c / s^2 | gb - sum_f M_f c_f / s_f^2 | gW / s^2 |

    Args:
        mode: A row of ``MODES``.
        weight: ``(O, *F)``, the gradient of the weight for inputs minus pivot; overwritten with the result.
        bias_gradient: ``(O, 1, ...)``, ``gb = sum_n delta_n``, also where the layer has no bias.
        offset: ``(O, *F)``, the region's mean minus pivot.
        pivot: What was subtracted, broadcast to ``(O, *F)``.
        square: ``(O, *F)``, the region's biased variance plus eps; overwritten.
        bias: Whether the layer has a bias that is trained.
    """
    if mode.coords and not bias:
        # Without a bias there is no shift of coordinates to undo, so this gives gW.
        weight.addcmul_(pivot, bias_gradient)
    else:
        weight.addcmul_(offset, bias_gradient, value=-1)
    if mode.power:
        weight.div_(square if mode.power == 2 else square.sqrt_())


def row_dot(a: Tensor, weight: Tensor, scratch: Tensor | None = None) -> Tensor:
    """``sum_f a_of weight_of``, shape ``(O,)``; ``a`` may have one row for all neurons, ``scratch (O, *F)`` is overwritten."""
    if a.shape[0] == 1 and a[0].numel() == weight[0].numel():
        return weight.flatten(1).mv(a.flatten())
    return torch.mul(a, weight, out=scratch).flatten(1).sum(1)


class WeightGradient(torch.autograd.Function):
    """Identity on the outputs of a layer; gives ``weight`` and ``bias`` the layer's neuron-wise gradient."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, layer: Any) -> Tensor:
        """Return ``z`` itself.

        Args:
            ctx: torch's.
            z: ``(N, O, ...)`` or ``(..., O)``, outputs of the layer.
            x: Its inputs.
            weight: ``(O, *F)``.
            bias: ``(O,)`` or None.
            layer: The ``NeuronwiseLayer``, whose options and statistics to use.
        """
        # Under autocast the outputs are narrower than the inputs, and torch too would keep the narrow ones.
        # The region is kept rather than z, which an activation may overwrite in place.
        # save_for_backward, and not an attribute, lets checkpointing and offloading see what is kept.
        ctx.save_for_backward(x.to(z.dtype), layer.activation.region(z, layer.weighting))
        ctx.layer, ctx.dtype = layer, weight.dtype
        # Marked as written in place, z is no view of itself, and an activation may write into it.
        ctx.mark_dirty(z)
        return z

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        """``delta`` for the outputs, the neuron-wise gradients for weight and bias."""
        x, p = ctx.saved_tensors
        # Autocast would turn the sums over samples into half precision where backward runs inside its region.
        with torch.no_grad(), torch.autocast(delta.device.type, enabled=False):
            weight, bias = ctx.layer.gradients(x, p, delta, ctx.dtype)
        if torch.is_grad_enabled() and delta.requires_grad:
            delta, weight, bias = _Once.apply(delta, weight, bias)  # type: ignore[no-untyped-call]
        return delta, None, weight, bias if ctx.needs_input_grad[3] else None, None


class _Once(torch.autograd.Function):
    """Identity whose derivative is an error that says why."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        # Returned as they are, inputs would be outputs without a node of this function.
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(TWICE)
