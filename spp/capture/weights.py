"""Parameters, the effective weights that weight and spectral norms make of them, and the gradients of both.

Parameters are read from ``module._parameters``, never through ``getattr(module, "weight")``: with a parametrization that would
run modules (a spectral norm would advance its power iteration), and on quantized modules ``weight`` is a method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from spp.capture.channels import is_reducible, weight_axis
from spp.capture.gradients import Gradients
from spp.capture.holes import Hole, no_weight_gradient
from spp.capture.sites import Call, Entry, Site
from spp.capture.stage import Stage
from spp.stats.extra import Reduced
from spp.vocabulary import Signal


class Weights:
    """Reads the weights of a pass, and after the backward their gradients.

    Args:
        stage: Reduces tensors unseen.
        signals: Which signals to measure.
        computed: Called with the site and the tensor of a weight that is itself computed (by a weight norm, or handed in by
            ``functional_call``): its gradient arrives like an output's.
    """

    def __init__(self, stage: Stage, signals: frozenset[Signal], computed: Callable[[Site, Tensor], None]) -> None:
        self.wanted = bool(signals & {Signal.WEIGHT, Signal.WEIGHT_GRADIENT})
        self.sites: list[Site] = []
        self._stage, self._signals, self._computed = stage, signals, computed
        self._waiting: list[tuple[Entry, Call | None, list[tuple[str, Tensor]]]] = []
        self._leaves: list[tuple[Site, Tensor]] = []

    def read(self, entry: Entry, call: Call | None) -> None:
        """Note what ``entry`` owns, at its first ``call`` or, where it never ran, at the end of the pass.

        Leaves stay as they are: they wait until the forward has ended, when Python is at home in the caches again.
        """
        leaves = self.computed(entry, call)
        if leaves:
            self._waiting.append((entry, call, leaves))

    def computed(self, entry: Entry, call: Call | None) -> list[tuple[str, Tensor]]:
        """Observe the weights of ``entry`` that are themselves computed; return its other parameters."""
        others = []
        for name, tensor in parameters_of(entry.module):
            if tensor.is_leaf or not tensor.requires_grad or is_reducible(tensor):
                others.append((name, tensor))
            else:
                self._computed(self._site(entry, call, name, tensor), tensor)
        if call is not None and entry.module._forward_pre_hooks:
            for name, tensor in effective_weights(entry.module):
                self._computed(self._site(entry, call, name, tensor), tensor)
        return others

    def noted(self) -> list[Hole]:
        """Make a site of every parameter that has been noted; return those of which none can be made."""
        unmeasured: list[Hole] = []
        for entry, call, own in self._waiting:
            for name, tensor in own:
                if reason := is_reducible(tensor):
                    number = None if call is None else call.number
                    unmeasured.append(Hole(entry, number, name, Signal.WEIGHT, reason.replace("output", "parameter")))
                    continue
                site = self._site(entry, call, name, tensor)
                self.sites.append(site)
                self._leaves.append((site, tensor))
        self._waiting.clear()
        return unmeasured

    def read_values(self) -> None:
        """Reduce every parameter that was noted, as the forward pass has left it, all of them in one go."""
        if Signal.WEIGHT in self._signals:
            found = self._reduced([(site, tensor, tensor) for site, tensor in self._leaves])
            for site, tensor in self._leaves:
                site.value = found[id(tensor), site.axis]

    def read_gradients(self, gradients: Gradients) -> None:
        """Read ``.grad`` of every parameter, while it is the pass's own, and take it away again."""
        if Signal.WEIGHT_GRADIENT not in self._signals:
            return
        arrived = [(s, p, g) for s, p in self._leaves if (g := p.grad) is not None]
        found = self._reduced(arrived)
        for site, parameter, _ in arrived:
            site.gradient = gradients.unscaled(found[id(parameter), site.axis])
        for _, parameter in self._leaves:
            parameter.grad = None

    def _reduced(self, wanted: list[tuple[Site, Tensor, Tensor]]) -> dict[tuple[int, int | None], Reduced]:
        """Reduce the last of each three, by the parameter's identity and axis; what is tied to another only once."""
        once = {(id(parameter), site.axis): tensor for site, parameter, tensor in wanted}
        return dict(zip(once, self._stage.reduce_all(list(once.values()), [axis for _, axis in once]), strict=True))

    def holes(self, backward_ran: bool) -> Iterator[Hole]:
        """The parameters that got no gradient."""
        if Signal.WEIGHT_GRADIENT in self._signals:
            for site, parameter in self._leaves:
                if site.gradient is None:
                    yield no_weight_gradient(site, parameter, backward_ran)

    @staticmethod
    def _site(entry: Entry, call: Call | None, name: str, tensor: Tensor) -> Site:
        axis = weight_axis(entry.layer, name, tensor.dim())
        return Site(entry, call, name, tensor.shape, tensor.dtype, axis, is_weight=True)


def parameters_of(module: nn.Module) -> list[tuple[str, Tensor]]:
    """The parameters a module owns itself, by name; uninitialized ones are passed over."""
    if isinstance(module, torch.jit.ScriptModule):
        return list(module.named_parameters(recurse=False))
    own = module._parameters
    if not own:
        return []
    return [
        (name, parameter)
        for name, parameter in own.items()
        if parameter is not None
        and (type(parameter) is nn.Parameter or not isinstance(parameter, UninitializedParameter))
    ]


def effective_weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights that a forward pre-hook of ``torch.nn.utils.weight_norm`` or ``spectral_norm`` has just computed."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm | SpectralNorm):
            weight = module.__dict__.get(hook.name)
            if isinstance(weight, Tensor):
                yield hook.name, weight


def leaves_outside(roots: list[Tensor], own: set[int]) -> list[Tensor]:
    """The leaves a backward pass from ``roots`` would write ``.grad`` of, other than those whose ids are in ``own``."""
    queue = [root.grad_fn for root in roots if root.grad_fn is not None]
    seen, found = set(queue), []
    while queue:
        node: Any = queue.pop()
        if type(node).__name__ == "AccumulateGrad":
            if id(node.variable) not in own:
                found.append(node.variable)
            continue
        for parent, _ in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                queue.append(parent)
    return found + [root for root in roots if root.grad_fn is None and id(root) not in own]
