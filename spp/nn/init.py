"""Initializations: by name (``initialize_``), by batch (``lsuv_``) and by residual branch (``zero_gamma_``).

``INITS`` has the named ones, each a rule for one layer. ``lsuv_`` is no row, since it needs a batch (and stands on
``rescale_``, as ``spp.calibrate`` does); ``zero_gamma_`` is none
either, since it comes after any of them. ``initialize_(model, "he")`` governs the weight of every convolution and Linear layer
of the model and sets their biases to zero (except ``default``, which is torch's own for both); norms and everything else stay
as they are.

Variances are stated for one weight, with ``k`` kernel elements, ``g`` groups, ``fan_in = C_in / g * k`` inputs of an output
unit and ``fan_out = C_out / g * k`` output units that an input reaches. torch's own ``fan_out`` forgets ``g``: equal for g = 1,
and the whole difference for depthwise convolutions, as ``he_groups_blind`` shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from math import prod, sqrt
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from spp.errors import InputError
from spp.nn.residual import ResidualBlock, residual_blocks
from spp.registry import Registry

Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
Weighted = nn.Conv1d | nn.Conv2d | nn.Conv3d | Transposed | nn.Linear
"""The layers whose weight an init governs."""

LSUV_TOLERANCE, LSUV_STEPS = 0.1, 10
"""How far from 1 a variance may stay, and rescalings of a layer at most (the authors' own values)."""

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
    """``(fan_in, fan_out)`` of a layer, groups counted; an output of a transposed convolution sees one tap per stride.

    Args:
        layer: A convolution ``(C_out, C_in / g, *kernel)``, transposed ``(C_in, C_out / g, *kernel)``, or Linear layer
            ``(out, in)``.
    """
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    kernel = layer.weight[0, 0].numel()
    if isinstance(layer, Transposed):
        taps = max(1, round(kernel / prod(layer.stride)))
        return layer.weight.shape[0] // groups * taps, layer.weight.shape[1] * kernel
    return layer.weight.shape[1] * kernel, layer.weight.shape[0] // groups * kernel


def _normal(variance: Callable[[Weighted], float]) -> Callable[[Weighted], object]:
    return lambda layer: nn.init.normal_(layer.weight, std=sqrt(variance(layer)))


_he_fan_out = _normal(lambda layer: 2 / fans(layer)[1])


def _xavier(layer: Weighted) -> None:
    bound = sqrt(6 / sum(fans(layer)))
    nn.init.uniform_(layer.weight, -bound, bound)


def _groups(layer: Weighted) -> tuple[Tensor, ...]:
    """The weight of each group as a view: groups see disjoint inputs."""
    return layer.weight.detach().chunk(1 if isinstance(layer, nn.Linear) else layer.groups)


def _orthogonal(layer: Weighted) -> None:
    # One matrix over all groups would share its unit norm among channels that never meet.
    for block in _groups(layer):
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
    # the middle of the flattened kernel is its centre, its sides being odd
    flat[:, :, flat.shape[2] // 2] = centre
    return weight


def _delta_orthogonal(layer: Weighted) -> None:
    if isinstance(layer, nn.Linear):
        _orthogonal(layer)
        return
    for block in _groups(layer):
        # a transposed convolution has its inputs first
        turned = block.transpose(0, 1) if isinstance(layer, Transposed) else block
        turned.copy_(delta_orthogonal_(turned.clone(memory_format=torch.contiguous_format)))


def _efficientnet(layer: Weighted) -> None:
    if isinstance(layer, nn.Linear):
        bound = 1 / sqrt(layer.out_features)
        nn.init.uniform_(layer.weight, -bound, bound)
    else:
        _he_fan_out(layer)


def fixup_scale(branches: int, layers: int) -> float:
    """What Fixup multiplies the weights inside a branch with: ``L^(-1 / (2 m - 2))`` (Zhang et al. 2019).

    Args:
        branches: Residual branches of the network, ``L``.
        layers: Layers of a branch, ``m``, at least 2.
    """
    return float(branches ** (-1 / (2 * layers - 2)))


def _blocks(model: nn.Module, what: str) -> dict[str, ResidualBlock]:
    """The residual blocks of ``model``, or the error that ``what`` needs some."""
    blocks = residual_blocks(model)
    if not blocks:
        raise InputError(
            f"{what} residual blocks of spp's",
            received=type(model).__name__,
            remedy="Take a bundled residual network, as resnet50.",
        )
    return blocks


def _finish_fixup(model: nn.Module) -> None:
    """Turn He's init (fan_out) into Fixup's, in place: branches scaled, their last layers and the classifier zero."""
    blocks = _blocks(model, "init 'fixup' scales residual branches, so the network has").values()
    for block in blocks:
        *inner, last = (block.get_submodule(name) for name in block.branch)
        for layer in inner:
            layer.get_parameter("weight").mul_(fixup_scale(len(blocks), len(block.branch)))
        last.get_parameter("weight").zero_()
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if linears:
        # the classifier
        linears[-1].weight.zero_()


INITS = Registry[Init](
    "init",
    {
        "default": Init(
            lambda layer: layer.reset_parameters(), "torch's own: uniform, variance 1/(3 fan_in)", zero_bias=False
        ),
        "he": Init(
            _normal(lambda layer: 2 / fans(layer)[0]),
            "normal, variance 2/fan_in, depthwise included (He et al. 2015)",
        ),
        "he_fan_out": Init(_he_fan_out, "normal, variance 2/fan_out, depthwise included (He et al. 2015)"),
        "he_groups_blind": Init(
            _normal(lambda layer: 2 / (fans(layer)[1] * (1 if isinstance(layer, nn.Linear) else layer.groups))),
            "normal, variance 2/(k C_out) also for depthwise convolutions (Dewyse 2025)",
        ),
        "lecun": Init(
            _normal(lambda layer: 1 / fans(layer)[0]),
            "normal, variance 1/fan_in (LeCun et al. 1998); what SELU wants",
        ),
        "xavier": Init(_xavier, "uniform, variance 2/(fan_in + fan_out) (Glorot & Bengio 2010)"),
        "orthogonal": Init(_orthogonal, "orthogonal rows or columns, within each group (Saxe et al. 2013)"),
        "delta_orthogonal": Init(
            _delta_orthogonal, "orthogonal centre tap, the rest of the kernel zero (Xiao et al. 2018)"
        ),
        "small_normal": Init(
            _normal(lambda layer: 1e-4), "normal, standard deviation 0.01; for classifiers (Brock et al. 2021)"
        ),
        "fixup": Init(
            _he_fan_out,
            "he_fan_out, branches times L^(-1/(2m-2)), their last layer and the classifier 0 (Zhang et al. 2019)",
            finish=_finish_fixup,
        ),
        "efficientnet": Init(
            _efficientnet, "EfficientNet's own: he_fan_out, and uniform +-1/sqrt(out) for Linear (Tan & Le 2019)"
        ),
    },
    of=Init,
)
"""Every init by name."""


def find_init(name: str) -> Init:
    """The row of ``INITS`` called ``name``.

    Raises:
        UnknownNameError: There is none; the message lists them.
    """
    return INITS.row(name)


@torch.no_grad()
def initialize_(model: M, name: str) -> M:
    """Initialize every convolution and Linear layer of ``model`` in place, and return it.

    Random numbers come from torch's global generator, as in torch's own layers: ``torch.manual_seed`` rules them.

    Args:
        model: Any module; transposed convolutions count as convolutions, layers of other kinds are left alone.
        name: A name of ``INITS``.

    Raises:
        UnknownNameError: No init has that name.
        InputError: The init does not fit a layer, as ``delta_orthogonal`` one with fewer outputs than inputs.
    """
    row = INITS.row(name)
    for path, layer in model.named_modules():
        if isinstance(layer, Weighted):
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


@torch.no_grad()
def zero_gamma_(model: M) -> M:
    """Set the scale of the norm that ends each residual branch to zero, in place (Goyal et al. 2017, arXiv 1706.02677).

    Each block then starts as its shortcut. Where the weights are standardized, the gain of the last convolution is the
    scale.

    Args:
        model: A network of ``spp.models``.

    Returns:
        The model.

    Raises:
        InputError: It has no such block, or the branch ends without a scale.
    """
    for name, block in _blocks(model, "zero-gamma needs a network with").items():
        norm = block.get_submodule(block.branch_norm) if block.branch_norm else None
        scale = getattr(norm, "weight", None)
        # where the weights are standardized, the gain of the last convolution is the branch's scale
        if scale is None:
            scale = getattr(block.get_submodule(block.branch[-1]), "gain", None)
        if scale is None:
            raise InputError(
                "zero-gamma needs a scale at the end of each residual branch",
                received=f"{type(norm).__name__} and a plain convolution",
                where=name,
                remedy="Take a norm with a scale behind the branch, as norm='batch' in resnet50, or norm='scaled_ws'.",
            )
        scale.zero_()
    return model


@dataclass(frozen=True, slots=True)
class LayerVariance:
    """What a rescaling did to one layer.

    Attributes:
        before: Variance of its output on the batch (for LSUV with orthogonal weights).
        after: The same at the end.
        steps: Times it was rescaled.
        target: What the variance was to be.
    """

    before: float
    after: float
    steps: int
    target: float = 1.0


@dataclass(frozen=True, slots=True)
class VarianceTarget:
    """What the variance of a layer's output is to be: ``share``, or so much of what the signal has elsewhere in the pass.

    Attributes:
        share: The variance, or the share.
        of: Name of the module whose output it is a share of; None for a variance.
        entering: Whether it is that module's input instead.
    """

    share: float = 1.0
    of: str | None = None
    entering: bool = False


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
    until the variance is within ``tolerance`` of 1 (see :func:`rescale_`). ``spp.calibrate`` does this for any network: it
    looks at residual branches, and can be undone.

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
    if orthogonal:
        initialize_(model, "orthogonal")
    layers = (name for name, layer in model.named_modules() if isinstance(layer, Weighted))
    args, kwargs = ((), batch) if isinstance(batch, Mapping) else (batch if isinstance(batch, tuple) else (batch,), {})
    targets = dict.fromkeys(layers, VarianceTarget())
    return rescale_(model, partial(model, *args, **kwargs), targets, tolerance=tolerance, steps=steps)


@torch.no_grad()
def rescale_(
    model: nn.Module,
    forward: Callable[[], object],
    targets: Mapping[str, VarianceTarget],
    *,
    tolerance: float = LSUV_TOLERANCE,
    steps: int = LSUV_STEPS,
    by_channel: bool = False,
    strict: bool = True,
) -> dict[str, LayerVariance]:
    """Scale the weights of layers in place until each one's output has the variance that it is to have on a batch.

    One forward pass suffices, since a layer's rescaled output is what the next one sees. Where a weight is standardized its
    gain is rescaled instead. Buffers, as BatchNorm's statistics, are left as they were; training flags are not touched, so
    dropout is drawn where it is on: call ``model.eval()`` first, or leave it out, for the variance of the undisturbed signal.

    Args:
        model: Any module.
        forward: Runs it once.
        targets: By name of layer; it has a ``weight``, which its output is linear in.
        tolerance: How far from its target a variance may stay, relative to it, above 0.
        steps: Rescalings of a layer at most.
        by_channel: Take the average channel variance (ACV) rather than the variance of all elements.
        strict: Raise where an output does not vary; else such a layer is left as it is.

    Raises:
        InputError: A layer's output does not vary, or is not finite, on this batch.
    """
    if not tolerance > 0 or steps < 1:
        raise InputError(
            "the tolerance is positive and there is at least one step", received=f"{tolerance!r} and {steps!r}"
        )
    work = _Rescaling(targets, tolerance, steps, by_channel, strict)
    # in training mode the pass moves BatchNorm's statistics
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    looked_at = {(target.of, target.entering) for target in targets.values()}
    with ExitStack() as stack:
        for name, module in model.named_modules():
            # layers of torch's own attention are rescaled, but read by a kernel of torch's that calls no hook: nothing is done
            if name in targets:
                hook = partial(work.rescale, name)
                stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
            if (name, True) in looked_at:
                look = partial(work.enter, name)
                stack.callback(module.register_forward_pre_hook(look, with_kwargs=True).remove)
            if (name, False) in looked_at:
                stack.callback(module.register_forward_hook(partial(work.leave, name)).remove)
        forward()
    for buffer, value in kept:
        buffer.copy_(value)
    return work.done


@dataclass(slots=True)
class _Rescaling:
    """The forward hooks of one pass: they rescale layers and give the rest of the model the new output."""

    targets: Mapping[str, VarianceTarget]
    tolerance: float
    steps: int
    by_channel: bool
    strict: bool
    done: dict[str, LayerVariance] = field(default_factory=dict)
    seen: dict[tuple[str, bool], Tensor] = field(default_factory=dict)

    def enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._look(name, True, (*args, *kwargs.values()))

    def leave(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        self._look(name, False, output)

    def _look(self, name: str, entering: bool, values: Any) -> None:
        given = values if isinstance(values, tuple | list) else (values,)
        tensor = next((t for t in given if isinstance(t, Tensor) and t.is_floating_point()), None)
        if tensor is not None:
            self.seen.setdefault((name, entering), tensor)

    def rescale(self, name: str, layer: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        # a layer that runs several times is set at its first call
        if name in self.done:
            return output
        gain = getattr(layer, "gain", None)
        scaled = gain if isinstance(gain, Tensor) else layer.get_parameter("weight")
        axis = 1 if isinstance(layer, nn.modules.conv._ConvNd) else -1
        before = variance = self._variance(output, axis)
        wanted = self._wanted(self.targets[name], axis)
        if not (0 < variance < float("inf") and 0 < wanted < float("inf")):
            if self.strict:
                raise InputError(
                    "LSUV needs outputs that vary and are finite",
                    received=f"a variance of {variance:g}",
                    where=f"layer {name!r}",
                    remedy="Give it a batch of several different samples, and a model without dead layers.",
                )
            self.done[name] = LayerVariance(before, variance, 0, wanted)
            return output
        step = 0
        while abs(variance / wanted - 1) >= self.tolerance and step < self.steps:
            scaled.mul_((wanted / variance) ** 0.5)
            # forward and not a call, which would come here again
            output = layer.forward(*args, **kwargs)
            variance, step = self._variance(output, axis), step + 1
        self.done[name] = LayerVariance(before, variance, step, wanted)
        return output

    def _wanted(self, target: VarianceTarget, axis: int) -> float:
        if target.of is None:
            return target.share
        level = self.seen.get((target.of, target.entering))
        return float("nan") if level is None else target.share * self._variance(level, axis)

    def _variance(self, output: Tensor, axis: int) -> float:
        if not output.numel():
            return 0.0
        if not self.by_channel or output.dim() < 2:
            return output.double().var(correction=0).item()
        rows = output.double().movedim(axis, -1).flatten(0, -2)
        return rows.var(dim=0, correction=0).mean().item()
