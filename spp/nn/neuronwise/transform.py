"""From an ordinary gradient and the statistics of a linear region to the neuron-wise gradient.

A neuron is ``z = w.x + b``. With mean ``M`` and spread ``s`` of its inputs over its region, ``u = (x - M) / s`` and
``z = v.u + c`` where ``v = w s`` and ``c = b + w.M``. The gradient in those coordinates is ``g_v = (gW - M gb) / s`` and
``g_c = gb``, so that the ordinary gradients of weight and bias are enough: no tensor of samples by neurons by features.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from spp.errors import InputError, UnknownNameError

MODES: Mapping[str, str] = MappingProxyType(
    {
        "coords": "gradient descent in standardized coordinates, mapped back; always a descent direction",
        "coords_centre": "the same in centred coordinates, without dividing by the spread",
        "outer": "standardized inputs in the outer product, used on the ordinary weights as they are; can ascend",
        "outer_centre": "centred inputs in the outer product; can ascend",
    }
)
"""Every mode by name, with its meaning."""


def check_mode(mode: str, *, bias: bool) -> None:
    """Raise unless ``mode`` is a name of ``MODES`` that fits a layer with or without a bias.

    Raises:
        UnknownNameError: No mode has that name.
        InputError: ``coords_centre`` without a bias, which has nowhere to put the shift of coordinates.
    """
    if mode not in MODES:
        raise UnknownNameError("mode", str(mode), MODES)
    if mode == "coords_centre" and not bias:
        raise InputError(
            "mode 'coords_centre' moves the bias to make up for the centring, so it needs one",
            received="a layer without bias",
            remedy="Use bias=True, or mode 'coords', which then only divides by the variance.",
        )


def transform_(
    mode: str, weight: Tensor, bias_gradient: Tensor, offset: Tensor, pivot: Tensor, square: Tensor, *, bias: bool
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
        mode: A name of ``MODES``.
        weight: ``(O, *F)``, the gradient of the weight for inputs minus pivot; overwritten with the result.
        bias_gradient: ``(O, 1, ...)``, ``gb = sum_n delta_n``, also where the layer has no bias.
        offset: ``(O, *F)``, the region's mean minus pivot.
        pivot: What was subtracted, broadcast to ``(O, *F)``.
        square: ``(O, *F)``, the region's biased variance plus eps; overwritten.
        bias: Whether the layer has a bias that is trained.
    """
    if mode.startswith("coords") and not bias:
        weight.addcmul_(pivot, bias_gradient)  # gW: without a bias there is no shift of coordinates
    else:
        weight.addcmul_(offset, bias_gradient, value=-1)  # c
    if mode == "outer":
        weight.div_(square.sqrt_())
    elif mode == "coords":
        weight.div_(square)


def row_dot(a: Tensor, weight: Tensor, scratch: Tensor | None = None) -> Tensor:
    """``sum_f a_of weight_of``, shape ``(O,)``; ``a`` may have one row for all neurons, ``scratch (O, *F)`` is overwritten."""
    if a.shape[0] == 1 and a[0].numel() == weight[0].numel():
        return weight.flatten(1).mv(a.flatten())
    return torch.mul(a, weight, out=scratch).flatten(1).sum(1)
