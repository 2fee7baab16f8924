"""Linear and convolution layers whose weight gradients are taken in each neuron's own coordinates.

Forward and input gradient are torch's own: the layer is called with its weight detached, and a step behind it, which leaves
the values alone, hands the gradient on and computes those of weight and bias.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spp.nn.neuronwise.base import NeuronwiseLayer
from spp.nn.neuronwise.outer import ConvOuter, LinearOuter, Outer
from spp.nn.neuronwise.regions import Nonlinearity


class NeuronwiseLinear(NeuronwiseLayer, nn.Linear):
    """``torch.nn.Linear`` with neuron-wise weight gradients.

    Forward and input gradient are bit-identical to torch's. With gradient ``delta (N, O)`` with respect to the outputs,
    region weights ``P = phi'(z)`` and the mean ``M`` and spread ``s`` of the inputs over ``P``, the weight gradient is, by
    ``mode``, ``(gW - M gb) / s^2`` (``coords``), ``(gW - M gb) / s`` (``outer``), or ``gW - M gb`` (``*_centre``); ``coords*``
    changes the bias gradient as well. See ``docs/neuronwise.md``.

    A frozen weight makes it an ordinary layer. Under autocast and for half precision the weight gradient is computed in
    float32. Differentiating twice raises.

    Args:
        in_features: Size of the last axis of the input.
        out_features: Size of the last axis of the output.
        bias: Whether there is a bias; without one ``coords`` only divides by the variance.
        activation: The nonlinearity that follows the layer, which stays a module of its own: a name of
            ``spp.nn.ACTIVATIONS``, a module, or a ``Nonlinearity``.
        mode: ``coords``, ``coords_centre``, ``outer`` or ``outer_centre``.
        statistics: ``batch``, or ``running`` for moving averages, updated in every backward pass in training mode.
        weighting: What negative derivatives count: ``clamp`` (nothing), ``abs``, or ``square`` for ``phi'^2``.
        eps: Added to the variance.
        momentum: Weight of the newest pass in running statistics.
        sync: Take statistics over all ranks of the default process group rather than per rank.
        device: As torch has it.
        dtype: As torch has it.

    Raises:
        UnknownNameError: A name is in none of the tables.
        InputError: ``coords_centre`` without bias, an unknown kind of activation, or a number out of range.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        activation: str | nn.Module | Nonlinearity,
        mode: str = "coords",
        statistics: str = "batch",
        weighting: str = "clamp",
        eps: float = 1e-5,
        momentum: float = 0.1,
        sync: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias, device=device, dtype=dtype)
        self.set_neuronwise(
            activation,
            mode=mode,
            statistics=statistics,
            weighting=weighting,
            eps=eps,
            momentum=momentum,
            sync=sync,
        )

    def outer(self) -> Outer:
        """Sums over rows."""
        return LinearOuter()

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in_features)`` to ``(..., out_features)``."""
        weight = self.weight
        if not (torch.is_grad_enabled() and weight.requires_grad):
            return F.linear(x, weight, self.bias)
        fixed, bias = weight.detach(), None if self.bias is None else self.bias.detach()
        if x.ndim < 3 or x.is_contiguous():
            return self.tap(x, F.linear(x, fixed, bias), weight)
        # Here torch asks whether the weight needs a gradient, and takes other kernels, with other bits, where it does not.
        z = F.linear(x.contiguous(), fixed)
        return self.tap(x, z if bias is None else z.add_(bias), weight)


class _Conv(NeuronwiseLayer, nn.modules.conv._ConvNd):
    """What convolutions of one and two axes share."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        *args: Any,
        activation: str | nn.Module | Nonlinearity,
        mode: str = "coords",
        statistics: str = "batch",
        weighting: str = "clamp",
        eps: float = 1e-5,
        momentum: float = 0.1,
        sync: bool = False,
        **kwargs: Any,
    ) -> None:
        kind: Any = nn.Conv1d if isinstance(self, nn.Conv1d) else nn.Conv2d
        kind.__init__(self, in_channels, out_channels, kernel_size, *args, **kwargs)
        self.set_neuronwise(
            activation,
            mode=mode,
            statistics=statistics,
            weighting=weighting,
            eps=eps,
            momentum=momentum,
            sync=sync,
        )

    def outer(self) -> Outer:
        """Sums over positions of all images, features being patches."""
        padding = tuple(self._reversed_padding_repeated_twice)
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        return ConvOuter(shape, self.stride, self.dilation, self.groups, padding, self.padding_mode)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, *S)`` to ``(N, out_channels, *S')``, with or without ``N``."""
        convolve: Any = self._conv_forward
        weight = self.weight
        if not (torch.is_grad_enabled() and weight.requires_grad):
            plain: Tensor = convolve(x, weight, self.bias)
            return plain
        z = convolve(x, weight.detach(), None if self.bias is None else self.bias.detach())
        return self.tap(x, z, weight)


class NeuronwiseConv1d(_Conv, nn.Conv1d):
    """``torch.nn.Conv1d`` with neuron-wise weight gradients: its arguments, and the options of ``NeuronwiseLinear``."""


class NeuronwiseConv2d(_Conv, nn.Conv2d):
    """``torch.nn.Conv2d`` with neuron-wise weight gradients: its arguments, and the options of ``NeuronwiseLinear``.

    Each position of each image is a sample, and its features are the patch under the kernel, padding included.
    """
