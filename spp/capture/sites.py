"""Which modules are observed and under which names; a call of one, and a tensor that a call gave out.

Where a tensor has its channels is decided here too. :mod:`spp.layers` knows the layout of a layer's class: axis 1 for
channels-first modules of rank >= 3 (axis 0 for an unbatched input), the last axis for linear layers, layer norms, embeddings,
attention. Anything of rank 2 has it last. Every other module follows: its input where that is known and of the same rank, else
what the call before it gave out, else what its rank suggests.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from spp import _torch
from spp.errors import InputError, UnknownNameError
from spp.layers import FUNCTIONS, Layer, is_scripted, layer_of, own, type_name
from spp.vocabulary import LayerKind, Signal

ChannelAxis = int | Callable[[nn.Module, Tensor], int | None] | None
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
        entered: What entered a leaf, where that was one tensor: the output that it was, or a site of its own.
    """

    entry: Entry
    number: int
    start: int
    inputs: list[Any]
    leaves: int = 0
    depth: int = -1
    sites: list[Site] = field(default_factory=list)
    last_child: Call | None = None
    entered: Site | None = None


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


Placed = tuple[int, int | None, int]
"""Rank, channel axis and number of channels of a tensor."""


class Placer:
    """Decides the channel axis of each output, remembering the one before it."""

    def __init__(self, override: ChannelAxis) -> None:
        self._override = override
        self._before: Placed | None = None

    def axis(self, call: Call, tensor: Tensor, value: Any) -> int | None:
        """The axis of a fresh output of ``call``: as before a write, as the last tensor given out inside, or as its inputs."""
        rank = tensor.dim()
        if call.entry.weight_of is not None:
            return 0 if rank else None
        axis = self.entering(call, tensor, value)
        self._before = rank, axis, tensor.shape[axis] if axis is not None else 1
        return axis

    def entering(self, call: Call, tensor: Tensor, value: Any) -> int | None:
        """The axis of what enters ``call``; that of its output is found alike."""
        layer = call.entry.layer
        # for others nobody asks for the source
        follows = layer.channel_layout == "inherit" and tensor.dim() > 2
        source = self._source(call, value, tensor.shape) if follows else None
        return channel_axis(call.entry.module, layer, tensor, source, self._before, self._override)

    def weight_axis(self, entry: Entry, name: str, weight: Tensor) -> int | None:
        """The axis of a parameter's output units."""
        return weight_axis(entry.layer, name, weight.dim())

    @staticmethod
    def _source(call: Call, value: Any, shape: torch.Size) -> Placed | None:
        if call.last_child is not None and call.last_child.sites and not value.sources:
            site = call.last_child.sites[0]
            known, axis = site.shape, site.axis
            # another number of channels or of anything else, and not both
            others = [i for i in range(len(known)) if i != axis]
            fits = len(known) == len(shape) and (
                axis is None or known[axis] == shape[axis] or all(known[i] == shape[i] for i in others)
            )
            return (len(shape), axis, 1 if axis is None else known[axis]) if fits else None
        for source in (*value.sources, *call.inputs):
            # a function between two modules has no reading; what it took has
            while source.reading is None and source.sources:
                source = source.sources[0]
            axis = None if source.reading is None else source.reading.axis
            if axis:
                return len(source.shape), _followed(axis, source.shape, shape), source.shape[axis]
        return None


class Roster(list[Entry]):
    """The modules of a model that a call can reach.

    Attributes:
        selects: Whether ``include`` and ``exclude`` leave in a module, given its names.
    """

    selects: Callable[[Sequence[str], nn.Module], bool]


def roster(model: nn.Module, include: Selection = None, exclude: Selection = None) -> Roster:
    """All modules of ``model`` that a call can reach, in the order of ``named_modules``.

    Args:
        model: The root; its own name is "".
        include: Glob patterns over qualified names, module classes, or predicates ``(name, module) -> bool``; one or
            several, of which any must hold. None takes all. A pattern may be about functions that are called between
            modules, whose names end in the function's.
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

    def selects(names: Sequence[str], module: nn.Module) -> bool:
        return (takes is None or any(takes(n, module) for n in names)) and not (
            drops is not None and any(drops(n, module) for n in names)
        )

    entries = Roster()
    entries.selects = selects
    taken: Counter[str] = Counter()
    for key, module in modules.items():
        first, *others = names[key]
        # a child "a.b" and the child "b" of "a" are two modules, and rows are told apart by name
        taken[first] += 1
        if taken[first] > 1:
            first = f"{first}#{taken[first]}"
        children: Iterable[nn.Module | None] = module.children() if is_scripted(module) else module._modules.values()
        layer = layer_of(module)
        entries.append(
            Entry(
                module,
                first,
                tuple(others),
                type_name(module),
                next(iter(children), None) is None,
                selects(names[key], module),
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
    selectors = _several(selection)
    every = dict.fromkeys(name for several in names.values() for name in several)

    def fits(name: str, pattern: str) -> bool:
        # the name of a module means that module, also where it could be read as a pattern: [0]
        return name == pattern if pattern in every else fnmatchcase(name, pattern)

    for selector in selectors:
        if isinstance(selector, str):
            # which functions a forward calls is not known before it runs
            calls = (f"{name}.{function}".lstrip(".") for name in every for function in FUNCTIONS)
            if not any(fits(name, selector) for name in itertools.chain(every, calls)):
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


def _several(selection: Any) -> list[Any]:
    one = isinstance(selection, str | type) or callable(selection) or not isinstance(selection, Iterable)
    return [selection] if one else list(selection)


def _abridged(names: list[str]) -> list[str]:
    return names if len(names) <= 40 else [*names[:40], f"... ({len(names)} modules)"]


# -- channels -----------------------------------------------------------------------------------------------------------------

NEAR = 0.01
"""A value is saturated within this share of the larger end's magnitude of either end."""


def saturation(layer: Layer) -> tuple[float, float] | None:
    """The values at or beyond which the output of a bounded activation counts as saturated; None for unbounded ones."""
    if layer.output_range is None:
        return None
    low, high = layer.output_range
    margin = NEAR * max(abs(low), abs(high))
    return low + margin, high - margin


def channel_axis(
    module: nn.Module,
    layer: Layer,
    tensor: Tensor,
    source: Placed | None,
    before: Placed | None,
    override: ChannelAxis = None,
) -> int | None:
    """The channel axis of an output, non-negative; None for a scalar.

    Args:
        module: Whose output it is.
        layer: What is known of it.
        tensor: The output.
        source: What it follows, where that is known.
        before: The last output before it, where there is one.
        override: The user's ``channel_axis``; where it does not fit the tensor's rank the rule decides.
    """
    rank = tensor.dim()
    if rank == 0:
        return None
    if override is not None:
        axis = override if isinstance(override, int) else override(module, tensor)
        if axis is not None and -rank <= axis < rank:
            return axis % rank
    if layer.channel_layout == "last":
        return rank - 1
    if layer.channel_layout == "first":
        if rank == _unbatched_rank(module, layer):
            return 0
        return 1 if rank >= 3 else rank - 1
    if rank <= 2:
        return rank - 1
    if source is not None and source[0] == rank:
        dims = getattr(module, "dims", None) if type(module).__name__ == "Permute" else None
        if dims is None or source[1] is None:
            return source[1]
        return [d % rank for d in dims].index(source[1])
    for known in (source, before):
        if known is not None:
            first, last = tensor.shape[1] == known[2], tensor.shape[-1] == known[2]
            if first != last:
                return 1 if first else rank - 1
            if known[0] == rank:
                return known[1]
    return 1 if rank >= 4 else rank - 1


def _followed(axis: int | None, before: torch.Size, after: torch.Size) -> int | None:
    """Where an axis is after its tensor's axes were permuted, as their lengths tell."""
    if axis is None or len(before) != len(after) or before[axis] == after[axis] or sorted(before) != sorted(after):
        return axis
    places = [i for i, length in enumerate(after) if i and length == before[axis]]
    return places[0] if len(places) == 1 else axis


def weight_axis(layer: Layer, parameter: str, rank: int) -> int | None:
    """The axis of a parameter along which the output units lie; None for a scalar."""
    if rank == 0:
        return None
    # a linear layer found by its structure may call its matrix anything
    called = parameter.startswith("weight") or layer.kind is LayerKind.LINEAR
    return layer.unit_axis if rank > 1 and called else 0


def _unbatched_rank(module: nn.Module, layer: Layer) -> int | None:
    """Rank of an output without a batch axis, where the module takes such inputs."""
    kernel = own(module, "kernel_size") if layer.kind is LayerKind.CONVOLUTION else None
    if isinstance(kernel, tuple):
        return len(kernel) + 1
    if layer.kind in (LayerKind.CONVOLUTION, LayerKind.POOLING):
        digits = [c for c in type(module).__name__ if c.isdigit()]
        return int(digits[0]) + 1 if digits else None
    return None


_PLAIN_DISPATCH = Tensor.__torch_dispatch__
_ORDINARY = frozenset({Tensor, nn.Parameter})
_is_transformed = _torch.is_transformed


def is_reducible(tensor: Tensor) -> str:
    """Why a tensor cannot be reduced, or "" when it can."""
    if type(tensor) in _ORDINARY and tensor.is_cpu and tensor.is_floating_point() and tensor.layout is torch.strided:
        return "" if not (_is_transformed(tensor) or tensor.is_nested) else _irreducible(tensor)
    return _irreducible(tensor)


def _irreducible(tensor: Tensor) -> str:
    if _is_transformed(tensor):
        return "inside a functorch transform (vmap, grad, jvp) a tensor stands for a batch of tensors"
    if tensor.device.type == "meta":
        return "tensors on the meta device have no values"
    if not tensor.is_nested and type(tensor).__torch_dispatch__ is not _PLAIN_DISPATCH and _is_wrapper(tensor):
        return f"a {type(tensor).__name__} wraps other tensors and has no values of its own"
    if tensor.is_nested and (reason := _ragged(tensor)):
        return reason
    if tensor.dtype is torch.bool or not (tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized):
        return f"{'boolean' if tensor.dtype is torch.bool else 'integer'} output"
    return ""


def _ragged(tensor: Tensor) -> str:
    """Why the values of a nested tensor cannot be laid in one row."""
    if tensor.layout is torch.jagged:
        lengths: Any = tensor.lengths()  # type: ignore[attr-defined]
        return "" if lengths is None else "a jagged tensor with lengths of its own has values between its rows"
    sizes = {(part.dim(), part.shape[-1:]) for part in tensor.unbind()}
    return (
        ""
        if len(sizes) == 1 and tensor.is_contiguous()
        else "the parts of a nested tensor differ in their last axis, or lie apart"
    )


def values_of(tensor: Tensor) -> Tensor:
    """What is reduced of a tensor: itself; of a nested one the values of all its parts, ``(values, ..., channels)``."""
    if not tensor.is_nested:
        return tensor
    if tensor.layout is torch.jagged:
        ragged = next(i for i, size in enumerate(tensor.shape) if not isinstance(size, int))
        return tensor.detach().values().movedim(ragged - 1, 0)
    return tensor.detach().values().view(-1, tensor.size(-1))


def _is_wrapper(tensor: Tensor) -> bool:
    """Whether a tensor is but a handle on others, as distributed, fake and many user-made ones are."""
    if hasattr(tensor, "fake_mode"):
        return True
    try:
        return tensor.numel() > 0 and tensor.untyped_storage().data_ptr() == 0
    except RuntimeError:
        return True
