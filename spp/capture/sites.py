"""Which modules are observed and under which names; a call of one, and a tensor that a call gave out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from spp.capture.channels import ChannelAxis, channel_axis, saturation, weight_axis
from spp.errors import InputError, UnknownNameError
from spp.layers import Layer, is_scripted, layer_of, type_name
from spp.vocabulary import Signal

Predicate = Callable[[str, nn.Module], bool]
Selector = str | type[nn.Module] | Predicate
Selection = Selector | Iterable[Selector] | None


@dataclass(frozen=True, slots=True, eq=False)
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


@dataclass(slots=True, eq=False)
class Call:
    """One call of one module in a pass; the recorder fills it in as the call goes on.

    Attributes:
        entry: Whose call.
        number: 0 for the module's first call in the pass.
        start: Tick at which it began.
        inputs: The values that flowed in (see :mod:`spp.capture.dataflow`).
        leaves: How many leaf calls ran inside it, itself included if it is a leaf.
        depth: Order in which it finished; -1 while it runs.
        sites: The tensors it gave out.
        last_child: The last call that finished inside it; its channel axis is the container's.
    """

    entry: Entry
    number: int
    start: int
    inputs: list[Any]
    leaves: int = 0
    depth: int = -1
    sites: list[Site] = field(default_factory=list)
    last_child: Call | None = None


@dataclass(frozen=True, slots=True, eq=False)
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
        is_view: Whether the tensor is a view, whose node autograd replaces when the base is written to.
        sharded: Whether other processes hold other parts of the same parameter.
    """

    entry: Entry
    call: Call | None
    output: str
    shape: torch.Size
    dtype: torch.dtype
    axis: int | None
    is_weight: bool = False
    is_view: bool = False
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
        # for others nobody asks for the source
        follows = entry.layer.channel_layout == "inherit" and rank > 2
        source = self._source(call, tensor) if follows else None
        axis = channel_axis(entry.module, entry.layer, tensor, source, self._before, self._override)
        self._before = rank, axis, tensor.shape[axis] if axis is not None else 1
        return axis

    def weight_axis(self, entry: Entry, name: str, weight: Tensor) -> int | None:
        """The axis of a parameter's output units."""
        return weight_axis(entry.layer, name, weight.dim())

    @staticmethod
    def _source(call: Call, tensor: Tensor) -> tuple[int, int | None] | None:
        rank = tensor.dim()
        if call.last_child is not None and call.last_child.sites:
            site = call.last_child.sites[0]
            fits = len(site.shape) == rank and (site.axis is None or site.shape[site.axis] == tensor.shape[site.axis])
            return (rank, site.axis) if fits else None
        return next(((rank, v.reading.axis) for v in call.inputs if v.reading is not None and v.rank == rank), None)


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


def named_modules(root: nn.Module, *, duplicates: bool = False) -> Iterable[tuple[str, nn.Module]]:
    """Names and modules in the order of ``root.named_modules(remove_duplicate=not duplicates)``.

    ``named_modules`` hands each module up through a generator for every level of nesting; here there is one stack. Where a
    class has a ``named_modules`` of its own, torch does the walk.

    Args:
        root: Where to begin; its own name is "".
        duplicates: Whether a module that is reached by several names comes once for each.
    """
    found: list[tuple[str, nn.Module]] = []
    seen: set[nn.Module] = set()
    waiting: list[tuple[str, nn.Module]] = [("", root)]
    while waiting:
        name, module = waiting.pop()
        if not duplicates:
            if module in seen:
                continue
            seen.add(module)
        if type(module).named_modules is not nn.Module.named_modules:
            return list(root.named_modules(remove_duplicate=not duplicates))
        found.append((name, module))
        if children := module._modules:
            start = f"{name}." if name else ""
            waiting += [(start + key, child) for key, child in reversed(children.items()) if child is not None]
    return found


def parameters_in(root: nn.Module) -> list[nn.Parameter]:
    """``list(root.parameters())``."""
    found: dict[int, nn.Parameter] = {}
    for _, module in named_modules(root):
        scripted = isinstance(module, torch.jit.ScriptModule)
        own = dict(module.named_parameters(recurse=False)) if scripted else module._parameters
        for parameter in own.values():
            if parameter is not None:
                found.setdefault(id(parameter), parameter)
    return list(found.values())


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
    every = dict.fromkeys(name for several in names.values() for name in several)

    def fits(name: str, pattern: str) -> bool:
        # the name of a module means that module, also where it could be read as a pattern: [0]
        return name == pattern if pattern in every else fnmatchcase(name, pattern)

    for selector in selectors:
        if isinstance(selector, str):
            if not any(fits(name, selector) for name in every):
                raise UnknownNameError("module pattern", selector, _abridged(list(every)), where=where)
        elif not (callable(selector) or (isinstance(selector, type) and issubclass(selector, nn.Module))):
            raise InputError(
                "a selector is a glob pattern, a module class or a predicate (name, module) -> bool",
                received=repr(selector),
                where=where,
            )

    def matches(name: str, module: nn.Module) -> bool:
        return any(
            fits(name, s)
            if isinstance(s, str)
            else isinstance(module, s)
            if isinstance(s, type)
            else bool(s(name, module))
            for s in selectors
        )

    return matches


def _abridged(names: list[str]) -> list[str]:
    return names if len(names) <= 40 else [*names[:40], f"... ({len(names)} modules)"]
