"""Another norm in any model: ``spp.nn.replace_norm(model, "dyt")`` for torchvision's, timm's, transformers' or your own."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from spp.errors import InputError
from spp.layers import layer_of
from spp.nn.activations import ACTIVATIONS
from spp.nn.norm_layers import AffineLayer, BatchRenorm, ChannelLayerNorm, ChannelRMSNorm, ChannelsFirst, ChannelsLast
from spp.nn.norms import NEURONWISE, NORMS, Norm, check_norm_options, make_norm
from spp.nn.recognize import Recognized, recognize
from spp.nn.weight_norms import STANDARDIZED, WEIGHT_NORMS
from spp.vocabulary import LayerKind

M = TypeVar("M", bound=nn.Module)

SAME_EPS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _InstanceNorm, ChannelLayerNorm, ChannelRMSNorm)
"""Norms whose eps means the same: it is added to a variance or mean square, and is not part of a paper's recipe."""


@dataclass(frozen=True, slots=True)
class Swap:
    """A layer that was replaced.

    Attributes:
        name: Its qualified name.
        before: Class of the old layer.
        after: Class of the new one.
        kept: What of the old layer the new one took over: ``weight``, ``bias``, ``running statistics``,
            ``eps``.
        lost: What it had no place for.
    """

    name: str
    before: str
    after: str
    kept: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Left:
    """A layer that was left as it is.

    Attributes:
        name: Its qualified name.
        type: Its class.
        reason: Why, as half a sentence.
    """

    name: str
    type: str
    reason: str


@dataclass(frozen=True, slots=True)
class Replacement:
    """What ``replace_norm`` did; ``str()`` of it is an account for people.

    Attributes:
        model: The model, the same object unless it was itself a norm.
        norm: Name of the new norm.
        replaced: The layers that were replaced, in the model's order.
        left: The norms, and for rules of weights the convolutions, that were not.
        notes: What else was changed.
    """

    model: nn.Module
    norm: str
    replaced: tuple[Swap, ...]
    left: tuple[Left, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        counts = Counter((swap.before, swap.after) for swap in self.replaced)
        lines = [f"{self.norm}: {len(self.replaced)} layers replaced, {len(self.left)} left"]
        lines += [f"  {number} {before} -> {after}" for (before, after), number in counts.items()]
        lost = Counter(name for swap in self.replaced for name in swap.lost)
        lines += [f"  without a place in the new layer: {number} {name}" for name, number in lost.items()]
        for kind, reason in Counter((left.type, left.reason) for left in self.left):
            names = [left.name or "the model" for left in self.left if (left.type, left.reason) == (kind, reason)]
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            lines.append(f"  left: {len(names)} {kind} ({shown}): {reason}")
        return "\n".join(lines + [f"  {note}" for note in self.notes])


def replace_norm(model: nn.Module, name: str, **options: Any) -> Replacement:
    """Put the norm called ``name`` in place of every norm of ``model``, in place.

    New layers have the channels, axis, device, precision and training flag of the old ones. Scale and shift are kept, as the
    very same parameters where that is possible, so that an optimizer still holds them; running statistics are kept where
    both layers have them. Activations that timm fuses with a norm stay behind the new one, or give way to norms that bring
    their own. Rules for weights (``ws``, ``scaled_ws``, ``centred_wn``, ``mp``) standardize the convolutions, and leave of
    each norm its scale and shift, as ``AffineLayer``; the activations' gain goes into the weights by the option ``gamma``,
    as ``gamma=spp.nn.gain("relu")``.

    Args:
        model: Any module. Bundled networks take ``norm=`` when they are built, which does more (biases, activations).
        name: A name of ``NORMS``.
        options: The norm's own, as ``alpha`` for ``dyt``.

    Returns:
        What was replaced, what was left and why, and the model (another object only if it was itself a norm).

    Raises:
        UnknownNameError: No norm, or none of its options, has that name.
        InputError: An option's value is not possible.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8))
        >>> print(replace_norm(model, "rms"))
        rms: 2 layers replaced, 0 left
          2 BatchNorm1d -> ChannelRMSNorm
          without a place in the new layer: 2 bias
    """
    row = NORMS.row(name)
    if name == NEURONWISE:
        raise InputError(
            "neuron-wise normalization takes no norm's place",
            received=repr(name),
            where="norm",
            remedy="Convert the layers themselves with spp.nn.neuronwise_(model)",
        )
    check_norm_options(name, options)
    replaced: list[Swap] = []
    left: list[Left] = []
    new: dict[int, nn.Module] = {}
    inside: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if inside and path.startswith(inside):
            continue
        if row.weights is not None and isinstance(module, nn.modules.conv._ConvNd):
            outcome = _standardize(path, module, row.weights, options)
        else:
            found = recognize(module)
            if found is None:
                continue
            inside = (*inside, f"{path}." if path else "")
            outcome = found if isinstance(found, str) else _swap(path, module, found, name, row, options)
        if isinstance(outcome, str):
            left.append(Left(path, type(module).__name__, outcome))
            continue
        new[id(module)], swap = outcome
        replaced.append(swap)
    notes = _keep_off_the_fast_path(model, new)
    _exchange(model, new)
    return Replacement(new.get(id(model), model), name, tuple(replaced), tuple(left), notes)


def put_norm(model: nn.Module, name: str, **options: Any) -> Replacement:
    """Give ``model`` the norm called ``name``, in place: for its norms, or where it has none behind its weighted layers.

    Where it has norms, or the norm is a rule for weights, this is :func:`replace_norm`. Else every convolution and Linear
    layer but the last becomes a ``Sequential`` of itself and the norm; those of squeeze-and-excitation blocks and of torch's
    own attention stay as they are.

    Args:
        model: Any module.
        name: A name of ``NORMS``.
        options: The norm's own.

    Raises:
        UnknownNameError: No norm, or none of its options, has that name.
        InputError: An option's value is not possible, or the model has neither norms nor two weighted layers.
    """
    done = replace_norm(model, name, **options)
    if done.replaced or done.left or NORMS[name].weights is not None:
        return done
    new: dict[int, nn.Module] = {}
    swaps = []
    for path, layer in _weighted_layers(model)[:-1]:
        last = isinstance(layer, nn.Linear)
        channels, dims = (layer.out_features, 1) if last else (layer.out_channels, layer.weight.dim() - 2)
        norm = make_norm(name, channels, dims=dims, channels_last=last, **options)
        norm.to(layer.weight.device, layer.weight.dtype).train(layer.training)
        new[id(layer)] = nn.Sequential(OrderedDict(layer=layer, norm=norm)).train(layer.training)
        swaps.append(Swap(path, type(layer).__name__, f"{type(layer).__name__} and {_inner(norm)}", ("weight", "bias")))
    if not new:
        raise InputError("a norm is put behind a weighted layer that others follow", received="none", where="model")
    _exchange(model, new)
    return Replacement(model, name, tuple(swaps), ())


def _weighted_layers(model: nn.Module) -> list[tuple[str, Any]]:
    """The convolutions and Linear layers of the stream: not those of gates, nor those whose weights attention reads itself."""
    around = [module for module in model.modules() if _is_closed(module)]
    inside = {id(layer) for module in around for layer in module.modules()}
    kinds = nn.modules.conv._ConvNd | nn.Linear
    return [(path, m) for path, m in model.named_modules() if isinstance(m, kinds) and id(m) not in inside and path]


def _is_closed(module: nn.Module) -> bool:
    return isinstance(module, nn.MultiheadAttention) or "squeeze" in type(module).__name__.lower()


def put_activation(model: M, name: str) -> M:
    """Put the activation called ``name`` in place of every activation module of ``model``, in place, and return it.

    The gates of squeeze-and-excitation blocks and softmaxes stay; functions (``F.relu`` in a forward) cannot be replaced.

    Args:
        model: Any module.
        name: A name of ``ACTIVATIONS``.

    Raises:
        UnknownNameError: No activation has that name.
        InputError: The model has no activation that is a module.
    """
    row = ACTIVATIONS.row(name)
    closed = {id(part) for module in model.modules() if _is_closed(module) for part in module.modules()}
    new = {
        id(module): row.make().train(module.training)
        for module in model.modules()
        if id(module) not in closed and module is not model and _is_activation(module)
    }
    if not new:
        raise InputError("an activation that is replaced is a module", received="none in the model", where="model")
    _exchange(model, new)
    return model


def _is_activation(module: nn.Module) -> bool:
    found = layer_of(module)
    return found.kind is LayerKind.ACTIVATION and not any(True for _ in module.parameters())


def _exchange(model: nn.Module, new: Mapping[int, nn.Module]) -> None:
    """Put new modules in the places of old ones, last and by identity: a shared one has several places."""
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if child is not None and id(child) in new:
                parent._modules[key] = new[id(child)]


def _swap(
    path: str, module: nn.Module, found: Recognized, name: str, row: Norm, options: dict[str, Any]
) -> tuple[nn.Module, Swap] | str:
    fused = found.act is not None and not isinstance(found.act, nn.Identity)
    if row.activates and not fused and not row.normalizes_alone:
        return f"{name} is norm and activation in one, and no activation is fused with this norm"
    if row.spatial and found.dims is None:
        return f"{name} takes statistics over space, and the module does not say that it has any"
    layer = _stand_in(module, found, name, row, options, fused=fused)
    kept, lost = _take_over(layer, found, module)
    layer = _like(layer, module, found)
    if found.drop is not None or found.act is not None:
        act = nn.Identity() if row.activates and fused else found.act
        parts = OrderedDict(norm=layer, drop=found.drop, act=act)
        layer = nn.Sequential(OrderedDict((key, part) for key, part in parts.items() if part is not None))
    layer.train(module.training)
    return layer, Swap(path, type(module).__name__, _inner(layer), kept, lost)


def _stand_in(
    module: nn.Module, found: Recognized, name: str, row: Norm, options: dict[str, Any], *, fused: bool
) -> nn.Module:
    """A new layer for the place of the old one, with its own parameters still."""
    if row.weights is not None:
        bare = found.weight is None and found.bias is None
        return nn.Identity() if bare else AffineLayer(found.channels, channel_axis=-1 if found.last else 1)
    own = {}
    # BatchNorm's eps and momentum are right for another norm of that family alone
    if row.batch and isinstance(module, _BatchNorm):
        own = {"batch_eps": module.eps} | ({} if module.momentum is None else {"batch_momentum": module.momentum})
    dims = 1 if found.dims is None else found.dims
    layer = make_norm(name, found.channels, dims=dims, activated=fused, channels_last=found.last, **own, **options)
    # the old norm does not say its number of axes, and torch's BatchNorm1d refuses maps
    lost = isinstance(layer, nn.BatchNorm1d) and not isinstance(module, nn.BatchNorm1d)
    return ChannelsFirst(layer) if lost else layer


@torch.no_grad()
def _take_over(layer: nn.Module, found: Recognized, module: nn.Module) -> tuple[tuple[str, ...], tuple[str, ...]]:
    kept, lost = [], []
    target = layer.norm if isinstance(layer, ChannelsLast | ChannelsFirst) else layer
    for key, value in (("weight", found.weight), ("bias", found.bias)):
        if value is None:
            continue
        if isinstance(getattr(target, key, None), nn.Parameter):
            # a frozen norm's scale is a buffer, which stays untrained as a parameter without gradient
            frozen = not isinstance(value, nn.Parameter)
            setattr(target, key, nn.Parameter(value.clone(), requires_grad=False) if frozen else value)
            kept.append(key)
        else:
            lost.append(key)
    if found.running is not None and isinstance(getattr(target, "running_mean", None), Tensor):
        mean, var = found.running
        target.get_buffer("running_mean").data = mean.clone()
        # its running scale is a mean of standard deviations, as in the paper
        if isinstance(target, BatchRenorm):
            target.running_std.data = (var + target.eps).sqrt()
        else:
            target.get_buffer("running_var").data = var.clone()
        kept.append("running statistics")
    eps = next(
        (value for name in ("eps", "variance_epsilon") if isinstance(value := getattr(module, name, None), float)), None
    )
    if isinstance(target, SAME_EPS) and eps is not None:
        target.eps = eps
        kept.append("eps")
    return tuple(kept), tuple(lost)


def _like(layer: nn.Module, module: nn.Module, found: Recognized) -> nn.Module:
    """``layer`` where the old one lies, in its precision."""
    tensors = [found.weight, found.bias, *(found.running or ()), *module.parameters(), *module.buffers()]
    like = next((t for t in tensors if t is not None and t.is_floating_point()), None)
    return layer if like is None else layer.to(like.device, like.dtype)


def _inner(layer: nn.Module) -> str:
    """Class of the norm within its adapters, with theirs in front."""
    inner = layer.get_submodule("norm") if isinstance(layer, nn.Sequential | ChannelsLast | ChannelsFirst) else None
    return type(layer).__name__ if inner is None else f"{type(layer).__name__}({_inner(inner)})"


def _standardize(
    path: str, conv: nn.modules.conv._ConvNd, rule: str, options: dict[str, Any]
) -> tuple[nn.Module, Swap] | str:
    cls = STANDARDIZED.get(type(conv))
    if cls is None:
        return "its class is not one of torch's plain convolutions"
    if conv.weight[0].numel() == 1 and WEIGHT_NORMS[rule].centred:
        return "each output has a single input, which centring would make zero"
    # nothing is allocated or drawn: its tensors are the old layer's
    with torch.device("meta"):
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,
            rule=rule,
            gain=False,
            options=options,
        )
    for key, parameter in conv.named_parameters(recurse=False):
        layer.register_parameter(key, parameter)
    layer.train(conv.training)
    kept = ("weight",) if conv.bias is None else ("weight", "bias")
    return layer, Swap(path, type(conv).__name__, f"{cls.__name__}({rule})", kept)


def _keep_off_the_fast_path(model: nn.Module, new: dict[int, nn.Module]) -> tuple[str, ...]:
    """Switch off the kernel that TransformerEncoderLayer evaluates with: it would take the new weights for LayerNorm's."""
    changed = 0
    for layer in model.modules():
        if isinstance(layer, nn.TransformerEncoderLayer) and {id(layer.norm1), id(layer.norm2)} & set(new):
            # 0 is torch's own mark for an activation that the fused kernel does not have (torch 2.13)
            layer.activation_relu_or_gelu = 0
            changed += 1
    return (f"fused evaluation switched off in {changed} TransformerEncoderLayer",) if changed else ()
