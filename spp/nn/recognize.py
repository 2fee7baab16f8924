"""Which modules of a foreign model are norms, and what they compute.

torch's own norms are known by their class. What else ``spp.layers`` takes for a norm (torchvision, timm and transformers have
dozens) is known by what it does: the module is tried on a small input, and its output is compared with LayerNorm and RMSNorm
along either channel axis, with scale ``w``, ``1 + w`` or none. What fits none of them is left alone, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from spp.layers import layer_of
from spp.nn.norm_layers import (
    AffineLayer,
    BatchRenorm,
    ChannelLayerNorm,
    ChannelRMSNorm,
    ChannelsFirst,
    ChannelsLast,
    DyT,
    EvoNormB0,
    EvoNormS0,
    FilterResponseNorm,
)
from spp.vocabulary import LayerKind

DIMS = {
    nn.BatchNorm2d: 2,
    nn.BatchNorm3d: 3,
    nn.InstanceNorm1d: 1,
    nn.InstanceNorm2d: 2,
    nn.InstanceNorm3d: 3,
}
"""Spatial axes by the class that tells them; BatchNorm1d takes none or one."""
FUSED = ("drop", "act")
"""Children of a norm that timm fuses with what follows."""


@dataclass(frozen=True, slots=True)
class Recognized:
    """What is known of a norm.

    Attributes:
        channels: Size of its channel axis.
        last: Whether that is the last axis.
        dims: Number of spatial axes, where the module's class tells.
        weight: Scale per channel, or None. The module's own parameter where the scale is that.
        bias: Shift per channel, or None.
        running: Running mean and variance, or None.
        drop, act: What is fused behind the norm, or None.
    """

    channels: int
    last: bool
    dims: int | None
    weight: Tensor | None
    bias: Tensor | None
    running: tuple[Tensor, Tensor] | None = None
    drop: nn.Module | None = None
    act: nn.Module | None = None


def recognize(module: nn.Module) -> Recognized | str | None:
    """What ``module`` is: a norm that can be replaced, a norm that cannot with the reason, or None for no norm."""
    norm = layer_of(module).kind is LayerKind.NORM
    if isinstance(module, torch.jit.ScriptModule):
        return "it is compiled by TorchScript" if norm and not list(module.children()) else None
    known = _by_class(module)
    if known is not None or not norm:
        return known
    if any(name not in FUSED for name, _ in module.named_children()):
        # a block with a norm in its name; its parts are looked at one by one
        return None
    return _by_trial(module)


def _by_class(module: nn.Module) -> Recognized | str | None:
    if any(is_lazy(p) for p in module.parameters(recurse=False)):
        return "it is lazy: it knows its channels after a first batch"
    match module:
        case _BatchNorm() | _InstanceNorm():
            dims = next((dims for cls, dims in DIMS.items() if isinstance(module, cls)), None)
            return _described(module, module.num_features, dims=dims)
        case nn.GroupNorm() | BatchRenorm() | ChannelLayerNorm() | ChannelRMSNorm():
            return _described(module, module.num_channels)
        case AffineLayer() | DyT():
            return _described(module, module.num_channels, last=module.channel_axis == -1)
        case FilterResponseNorm() | EvoNormB0() | EvoNormS0():
            return "it is norm and activation in one, and the activation would be lost"
        case ChannelsLast() | ChannelsFirst():
            inner = recognize(module.norm)
            if not isinstance(inner, Recognized):
                return inner
            return Recognized(inner.channels, isinstance(module, ChannelsLast), None, inner.weight, inner.bias)
        case nn.LocalResponseNorm() | nn.CrossMapLRN2d():
            return "it normalizes over neighbouring channels, of whatever number"
    # subclasses of these two may compute something else, so they are tried
    if type(module) in (nn.LayerNorm, nn.RMSNorm):
        shape = module.normalized_shape
        assert isinstance(shape, tuple)
        if len(shape) != 1:
            return f"it normalizes over several axes, {tuple(shape)}"
        return _described(module, int(shape[0]), last=True)
    buffers = dict(module.named_buffers(recurse=False))
    # BatchNorm with everything frozen, which has buffers for parameters
    if {"weight", "bias", "running_mean", "running_var"} <= set(buffers):
        return _described(module, buffers["weight"].numel(), dims=2)
    return None


def _described(module: nn.Module, channels: int, *, last: bool = False, dims: int | None = None) -> Recognized:
    """What a module of a known class is, by the names that torch and timm give its parts."""
    weight, bias, mean, var = (
        tensor if isinstance(tensor := getattr(module, name, None), Tensor) else None
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    drop, act = (child if isinstance(child := getattr(module, name, None), nn.Module) else None for name in FUSED)
    running = None if mean is None or var is None else (mean, var)
    return Recognized(channels, last, dims, weight, bias, running, drop, act)


def _by_trial(module: nn.Module) -> Recognized | str:
    own = dict(module.named_parameters(recurse=False))
    extra = sorted(set(own) - {"weight", "bias"})
    if extra:
        return f"it has parameters beyond scale and shift: {', '.join(extra)}"
    weight, bias = own.get("weight"), own.get("bias")
    if any(p is not None and (p.ndim != 1 or p.is_meta) for p in (weight, bias)):
        return "it is no norm over one channel axis, or lies on the meta device"
    channels = _channels(module, weight, bias)
    if channels is None:
        return "it does not say its number of channels"
    for last in (True, False):
        for scale in _scales(weight):
            if _computes(module, channels, last, scale, bias):
                return replace(_described(module, channels, last=last, dims=None if last else 2), weight=scale)
    return "it computes neither LayerNorm nor RMSNorm of one input"


def _channels(module: nn.Module, weight: Tensor | None, bias: Tensor | None) -> int | None:
    for parameter in (weight, bias):
        if parameter is not None:
            return parameter.numel()
    shape = getattr(module, "normalized_shape", None)
    if isinstance(shape, tuple | list) and len(shape) == 1:
        return int(shape[0])
    return None


def _scales(weight: Tensor | None) -> list[Tensor | None]:
    """The scales that a norm may make of its weight; Gemma's is one more than the parameter."""
    if weight is None:
        return [None]
    return [weight, nn.Parameter(1 + weight.detach(), requires_grad=weight.requires_grad)]


@torch.no_grad()
def _computes(module: nn.Module, channels: int, last: bool, scale: Tensor | None, bias: Tensor | None) -> bool:
    like = next((t for t in (scale, bias) if t is not None), torch.empty(0, device="cpu"))
    shape = (2, 3, channels) if last else (2, 3, 2, channels)
    count = torch.arange(prod(shape), dtype=torch.float64)
    # Large, so that no eps matters, and with a mean, which tells LayerNorm from RMSNorm.
    x = (10 * torch.sin(1.7 * count + 0.3) + 4).reshape(shape).to(like)  # (..., channels)
    given = x if last else x.movedim(-1, 1)
    out, act = _output(module, given), getattr(module, "act", None)
    if not isinstance(out, Tensor) or out.shape != given.shape:
        return False
    expected = _norms(x.double(), scale, bias)
    if not last:
        expected = [candidate.movedim(-1, 1) for candidate in expected]
    if isinstance(act, nn.Module):
        expected = [act(candidate.to(like)).double() for candidate in expected]
    # half precision keeps three digits; a wrong formula is off by tens of percent
    tolerance = 2e-2 if like.dtype in (torch.float16, torch.bfloat16) else 1e-3
    return any(torch.allclose(out.double(), candidate, rtol=tolerance, atol=tolerance) for candidate in expected)


def _norms(x: Tensor, scale: Tensor | None, bias: Tensor | None) -> list[Tensor]:
    """LayerNorm and RMSNorm of float64 numbers over their last axis."""
    weight, shift = (None if t is None else t.detach().double() for t in (scale, bias))
    rms = F.rms_norm(x, x.shape[-1:], weight, 0.0)
    return [F.layer_norm(x, x.shape[-1:], weight, shift, 0.0), rms if shift is None else rms + shift]


def _output(module: nn.Module, x: Tensor) -> Any:
    """What the module makes of ``x`` in evaluation mode; None where it raises."""
    flags = {m: m.training for m in module.modules()}
    module.eval()
    try:
        # forward and not a call, which would run the user's hooks
        return module.forward(x.clone())
    except Exception:
        return None
    finally:
        for m, training in flags.items():
            m.training = training
