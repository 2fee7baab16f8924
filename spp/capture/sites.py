"""Which modules are observed and under which names; a call of one, and a tensor that a call gave out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from spp.capture.channels import ChannelAxis, channel_axis, saturation
from spp.capture.walk import named_modules
from spp.errors import InputError, UnknownNameError
from spp.layers import Layer, is_scripted, layer_of, type_name
from spp.stats.extra import Reduced
from spp.vocabulary import Role, Signal

Predicate = Callable[[str, nn.Module], bool]
Selector = str | type[nn.Module] | Predicate
Selection = Selector | Iterable[Selector] | None


@dataclass(slots=True, eq=False)
class Entry:
    """One module of the model.

    Attributes:
        module: The module itself.
        name: Its qualified name; the first one where it has several.
        aliases: Its further names.
        type: Its class name.
        leaf: Whether it has no children.
        selected: Whether ``include`` and ``exclude`` leave it in.
        layer: What is known of it.
        ends: Values at or beyond which its output counts as saturated, if it is a bounded activation.
        weight_of: For a module inside a parametrization, the module and parameter it makes; its outputs are weights.
        calls: Its calls in the current pass, in order.
        elsewhere: Whether it was called on another thread in the current pass.
    """

    module: nn.Module
    name: str
    aliases: tuple[str, ...]
    type: str
    leaf: bool
    selected: bool
    layer: Layer
    ends: tuple[float, float] | None
    weight_of: tuple[str, str] | None = None
    calls: list[Call] = field(default_factory=list)
    elsewhere: bool = False


@dataclass(slots=True, eq=False)
class Call:
    """One call of one module in a pass.

    Attributes:
        entry: Whose call.
        number: 0 for the module's first call in the pass.
        start: Tick at which it began.
        inputs: What flowed in, as the lineage knows it (see :mod:`spp.capture.residual`).
        leaves: How many leaf calls ran inside it, itself included if it is a leaf.
        depth: Order in which it finished; -1 while it runs.
        sites: The tensors it gave out.
        last_child: The axis rule's memory: the last call that finished inside it.
    """

    entry: Entry
    number: int
    start: int
    inputs: list[Any]
    leaves: int = 0
    depth: int = -1
    sites: list[Site] = field(default_factory=list)
    last_child: Call | None = None


@dataclass(slots=True, eq=False)
class Site:
    """One tensor given out by a call, or one parameter: what a row of the frame is about.

    Attributes:
        entry: Whose.
        call: Which call; None for a parameter of a module that never ran.
        output: Path inside the output, or the parameter's name.
        shape: The tensor's.
        dtype: The tensor's.
        axis: Channel axis, None for one channel.
        is_weight: Whether its signals are weight and weight gradient rather than activation and gradient.
        role: Its part at a residual merge.
        value: What was measured of it.
        gradient: What was measured of its gradient.
        waits: Whether a gradient is wanted.
        hooked: Whether a hook waits for that gradient.
        is_view: Whether the tensor is a view, whose node autograd replaces when the base is written to.
        round: Which backward pass of several brought the gradient.
        divided: Whether several backward passes brought parts of the gradient, whose sum nobody has.
        sharded: Whether other processes hold other parts of the same parameter.
    """

    entry: Entry
    call: Call | None
    output: str
    shape: torch.Size
    dtype: torch.dtype
    axis: int | None
    is_weight: bool = False
    role: Role | None = None
    value: Reduced | None = None
    gradient: Reduced | None = None
    waits: bool = False
    hooked: bool = False
    is_view: bool = False
    round: int = 0
    divided: bool = False
    sharded: bool = False

    @property
    def key(self) -> tuple[str, int, str]:
        """Name, call number and output: what makes rows of several batches one row."""
        return self.entry.name, self.call.number if self.call is not None else 0, self.output

    @property
    def signals(self) -> tuple[Signal, Signal]:
        """The signal of its value and that of its gradient."""
        if self.is_weight:
            return Signal.WEIGHT, Signal.WEIGHT_GRADIENT
        return Signal.ACTIVATION, Signal.GRADIENT


class Placer:
    """Decides the channel axis of each output, remembering the one before it."""

    def __init__(self, override: ChannelAxis) -> None:
        self._override = override
        self._before: tuple[int, int | None, int] | None = None

    def axis(self, call: Call, tensor: Tensor) -> int | None:
        """The axis of a fresh output of ``call``: as the last tensor given out inside it, else as its inputs."""
        entry, rank = call.entry, tensor.dim()
        if entry.weight_of is not None:
            return 0 if rank else None
        follows = entry.layer.channel_layout == "inherit" and rank > 2  # else nobody asks for the source
        source = self._source(call, tensor) if follows else None
        axis = channel_axis(entry.module, entry.layer, tensor, source, self._before, self._override)
        self._before = rank, axis, tensor.shape[axis] if axis is not None else 1
        return axis

    @staticmethod
    def _source(call: Call, tensor: Tensor) -> tuple[int, int | None] | None:
        rank = tensor.dim()
        if call.last_child is not None and call.last_child.sites:
            site = call.last_child.sites[0]
            fits = len(site.shape) == rank and (site.axis is None or site.shape[site.axis] == tensor.shape[site.axis])
            return (rank, site.axis) if fits else None
        return next(((rank, value.axis) for value in call.inputs if value.placed and value.rank == rank), None)


def roster(model: nn.Module, include: Selection = None, exclude: Selection = None) -> list[Entry]:
    """All modules of ``model`` that a call can reach, in the order of ``named_modules``.

    Args:
        model: The root; its own name is "".
        include: Glob patterns over qualified names, module classes, or predicates ``(name, module) -> bool``; one or
            several, of which any must hold. None takes all.
        exclude: The same; modules for which any holds are left out.

    Raises:
        UnknownNameError: A pattern matches no module.
        InputError: A selector is none of the above.
    """
    names: dict[int, list[str]] = {}
    modules: dict[int, nn.Module] = {}
    for name, module in named_modules(model, duplicates=True):
        names.setdefault(id(module), []).append(name)
        modules[id(module)] = module
    takes = _matcher("include", include, modules, names)
    drops = _matcher("exclude", exclude, modules, names)
    entries = []
    for key, module in modules.items():
        selected = (takes is None or any(takes(n, module) for n in names[key])) and not (
            drops is not None and any(drops(n, module) for n in names[key])
        )
        first, *others = names[key]
        children: Iterable[nn.Module | None] = module.children() if is_scripted(module) else module._modules.values()
        layer = layer_of(module)
        entries.append(
            Entry(
                module,
                first,
                tuple(others),
                type_name(module),
                next(iter(children), None) is None,
                selected,
                layer,
                saturation(layer),
                _parametrized(first) if "parametrizations" in first else None,
            )
        )
    return entries


def callable_module(module: nn.Module) -> bool:
    """Whether the module has a forward at all; containers such as ModuleList have none."""
    return getattr(type(module), "forward", None) is not nn.Module.forward


def _parametrized(name: str) -> tuple[str, str] | None:
    """``("conv", "weight")`` for ``conv.parametrizations.weight`` and what lies below it."""
    parts = name.split(".")
    if "parametrizations" not in parts[:-1]:
        return None
    at = parts.index("parametrizations")
    return ".".join(parts[:at]), parts[at + 1]


def _matcher(
    where: str, selection: Selection, modules: dict[int, nn.Module], names: dict[int, list[str]]
) -> Predicate | None:
    if selection is None:
        return None
    one = isinstance(selection, str | type) or callable(selection)
    selectors: list[Any] = [selection] if one or not isinstance(selection, Iterable) else list(selection)
    every = [name for several in names.values() for name in several]
    for selector in selectors:
        if isinstance(selector, str):
            if not any(fnmatchcase(name, selector) for name in every):
                raise UnknownNameError("module pattern", selector, _abridged(every), where=where)
        elif not (callable(selector) or (isinstance(selector, type) and issubclass(selector, nn.Module))):
            raise InputError(
                "a selector is a glob pattern, a module class or a predicate (name, module) -> bool",
                received=repr(selector),
                where=where,
            )

    def matches(name: str, module: nn.Module) -> bool:
        return any(
            fnmatchcase(name, s)
            if isinstance(s, str)
            else isinstance(module, s)
            if isinstance(s, type)
            else bool(s(name, module))
            for s in selectors
        )

    return matches


def _abridged(names: list[str]) -> list[str]:
    return names if len(names) <= 40 else [*names[:40], f"... ({len(names)} modules)"]
