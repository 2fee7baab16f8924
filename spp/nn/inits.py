"""Weight initializations by name: ``initialize_(model, "he")``.

An init governs the weight of every convolution and Linear layer of the model and sets their biases to zero (except
``default``, which is torch's own for both); norms and everything else stay as they are. Variances are stated for one
weight, with ``k`` kernel elements, ``g`` groups, ``fan_in = C_in / g * k`` inputs of an output unit and
``fan_out = C_out / g * k`` output units that an input reaches. torch's own ``fan_out`` forgets ``g``: equal for g = 1,
and the whole difference for depthwise convolutions, as ``he_groups_blind`` shows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from types import MappingProxyType
from typing import TypeVar

import torch
from torch import nn

from spp.errors import InputError
from spp.nn.branch_inits import finish_fixup
from spp.nn.rows import row_of

Weighted = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
"""The layers whose weight an init governs."""

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Init:
    """A row of ``INITS``.

    Attributes:
        fill: Fills one layer's weight in place.
        description: One line.
        zero_bias: Whether biases become zero.
        finish: Looks at the whole model once all of its layers are filled.
    """

    fill: Callable[[Weighted], object]
    description: str
    zero_bias: bool = True
    finish: Callable[[nn.Module], object] | None = None


def fans(layer: Weighted) -> tuple[int, int]:
    """``(fan_in, fan_out)`` of a layer, groups counted.

    Args:
        layer: A convolution ``(C_out, C_in / g, *kernel)`` or Linear layer ``(out, in)``.
    """
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    kernel = layer.weight[0, 0].numel()
    return layer.weight.shape[1] * kernel, layer.weight.shape[0] // groups * kernel


def _normal(layer: Weighted, variance: float) -> None:
    nn.init.normal_(layer.weight, std=sqrt(variance))


def _he(layer: Weighted) -> None:
    _normal(layer, 2 / fans(layer)[0])


def _he_fan_out(layer: Weighted) -> None:
    _normal(layer, 2 / fans(layer)[1])


def _he_groups_blind(layer: Weighted) -> None:
    _normal(layer, 2 / (layer.weight.shape[0] * layer.weight[0, 0].numel()))


def _lecun(layer: Weighted) -> None:
    _normal(layer, 1 / fans(layer)[0])


def _xavier(layer: Weighted) -> None:
    bound = sqrt(6 / sum(fans(layer)))
    nn.init.uniform_(layer.weight, -bound, bound)


def _orthogonal(layer: Weighted) -> None:
    # Groups see disjoint inputs: one matrix over all of them would share its unit norm among channels that never meet.
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    with torch.no_grad():
        for block in layer.weight.chunk(groups):
            nn.init.orthogonal_(block)


@torch.no_grad()
def delta_orthogonal_(weight: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
    """Fill a convolution's weight with zeros but for an orthogonal centre tap (Xiao et al. 2018, arXiv 1806.05393).

    With stride 1, and padding that keeps the map, the norm of every position is multiplied by ``gain``.

    Args:
        weight: ``(C_out, C_in, *kernel)``, kernel sides odd.
        gain: Scale of the orthogonal matrix.

    Raises:
        InputError: ``C_in`` is larger than ``C_out``, or a side of the kernel is even.
    """
    outputs, inputs, *kernel = weight.shape
    if inputs > outputs:
        raise InputError(
            "a delta-orthogonal convolution has at least as many outputs as inputs",
            received=f"{inputs} to {outputs} channels",
            remedy="Take init='orthogonal', or a network that never narrows.",
        )
    if any(side % 2 == 0 for side in kernel):
        raise InputError("a delta-orthogonal kernel has a centre, so its sides are odd", received=str(tuple(kernel)))
    centre = torch.empty(outputs, inputs, dtype=weight.dtype, device=weight.device)
    nn.init.orthogonal_(centre, gain)
    weight.zero_()
    flat = weight.view(outputs, inputs, -1)
    flat[:, :, flat.shape[2] // 2] = centre  # the middle of the flattened kernel, its sides being odd
    return weight


def _delta_orthogonal(layer: Weighted) -> None:
    if isinstance(layer, nn.Linear):
        _orthogonal(layer)
        return
    with torch.no_grad():
        for block in layer.weight.chunk(layer.groups):
            delta_orthogonal_(block)


def _efficientnet(layer: Weighted) -> None:
    if isinstance(layer, nn.Linear):
        bound = 1 / sqrt(layer.out_features)
        nn.init.uniform_(layer.weight, -bound, bound)
    else:
        _he_fan_out(layer)


INITS: Mapping[str, Init] = MappingProxyType(
    {
        "default": Init(
            lambda layer: layer.reset_parameters(), "torch's own: uniform, variance 1/(3 fan_in)", zero_bias=False
        ),
        "he": Init(_he, "normal, variance 2/fan_in, depthwise included (He et al. 2015)"),
        "he_fan_out": Init(_he_fan_out, "normal, variance 2/fan_out, depthwise included (He et al. 2015)"),
        "he_groups_blind": Init(
            _he_groups_blind, "normal, variance 2/(k C_out) also for depthwise convolutions (Dewyse 2025)"
        ),
        "lecun": Init(_lecun, "normal, variance 1/fan_in (LeCun et al. 1998); what SELU wants"),
        "xavier": Init(_xavier, "uniform, variance 2/(fan_in + fan_out) (Glorot & Bengio 2010)"),
        "orthogonal": Init(_orthogonal, "orthogonal rows or columns, within each group (Saxe et al. 2013)"),
        "delta_orthogonal": Init(
            _delta_orthogonal, "orthogonal centre tap, the rest of the kernel zero (Xiao et al. 2018)"
        ),
        "small_normal": Init(
            lambda layer: _normal(layer, 1e-4), "normal, standard deviation 0.01; for classifiers (Brock et al. 2021)"
        ),
        "fixup": Init(
            _he_fan_out,
            "he_fan_out, branches times L^(-1/(2m-2)), their last layer and the classifier 0 (Zhang et al. 2019)",
            finish=finish_fixup,
        ),
        "efficientnet": Init(
            _efficientnet, "EfficientNet's own: he_fan_out, and uniform +-1/sqrt(out) for Linear (Tan & Le 2019)"
        ),
    }
)
"""Every init by name."""


def find_init(name: str) -> Init:
    """The row of ``INITS`` called ``name``.

    Raises:
        UnknownNameError: There is none; the message lists them.
    """
    return row_of(INITS, name, "init")


@torch.no_grad()
def initialize_(model: M, name: str) -> M:
    """Initialize every convolution and Linear layer of ``model`` in place, and return it.

    Random numbers come from torch's global generator, as in torch's own layers: ``torch.manual_seed`` rules them.

    Args:
        model: Any module; layers of other kinds are left alone.
        name: A name of ``INITS``.

    Raises:
        UnknownNameError: No init has that name.
        InputError: The init does not fit a layer, as ``delta_orthogonal`` one with fewer outputs than inputs.
    """
    row = find_init(name)
    for path, layer in model.named_modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            try:
                row.fill(layer)
            except InputError as error:
                error.where = f"init {name!r} of layer {path!r}"
                raise
            if row.zero_bias and layer.bias is not None:
                nn.init.zeros_(layer.bias)
    if row.finish is not None:
        row.finish(model)
    return model
