"""The parameters of the observed modules: their values, their gradients, and what an optimizer made of them.

Parameters are read from ``module._parameters``, never through ``getattr(module, "weight")``: with a parametrization that would
run modules (a spectral norm would advance its power iteration), and on quantized modules ``weight`` is a method.

Where several processes hold parts of a parameter (FSDP2, any sharded or replicated ``DTensor``), what lies here is measured
where it lies. The sums of a part stand at their own channels in a table of all channels of the whole parameter, so that
merging the tables of all processes gives the sums of the whole, whichever axis was cut.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from spp import _torch
from spp.capture.sites import Call, Entry, Site, is_reducible, weight_axis
from spp.capture.stage import Depth, Stage
from spp.capture.unmeasured import Unmeasured, no_weight_gradient, unmeasured
from spp.stats import backends
from spp.stats.backends.native import Copies
from spp.stats.sums import Sums, Total, empty_table, totals
from spp.vocabulary import Signal

UpdateSums = dict[tuple[str, str], tuple[float, float]]
"""By module and parameter: the sums of squares of the update and of the weight before it, over the values that count here."""
Readings = dict[Site, Sums]
Taken = dict[tuple[int, int | None], list[Sums]]
"""By parameter and channel axis: gradients that were taken out of ``.grad`` as they arrived, each once."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What this process holds of a parameter.

    Attributes:
        local: The values that lie here, an ordinary tensor.
        offset: The first of its channels among those of the whole.
        channels: Channels of the whole.
        counts: False where another process holds the same values and counts them.
    """

    local: Tensor
    offset: int
    channels: int
    counts: bool

    def whole(self, sums: Sums) -> Sums:
        """The sums of the local values at their place among all channels; of nothing where they do not count."""
        if self.counts and sums.channels == self.channels:
            return sums
        table = empty_table(self.channels, sums.table.device)
        if self.counts and self.local.numel():
            table[:, self.offset : self.offset + sums.channels] = sums.table
        return Sums.of_table(table)


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """One parameter: its site, itself, and the part of it that lies here (None for all of it)."""

    site: Site
    parameter: Tensor
    part: Part | None

    @property
    def key(self) -> tuple[int, int | None]:
        """The parameter and its channel axis: what makes two readings one."""
        return id(self.parameter), self.site.axis

    @property
    def local(self) -> Tensor:
        return self.parameter if self.part is None else self.part.local


class ParameterReader:
    """Reads parameters that are leaves of the graph; computed weights are observed like outputs, see :func:`computed_weights`.

    Args:
        stage: Reduces tensors unseen.
        signals: Which signals to measure.

    Attributes:
        unmeasured: What could not be read, and why.
    """

    def __init__(self, stage: Stage, signals: frozenset[Signal]) -> None:
        self.wanted = bool(signals & {Signal.WEIGHT, Signal.WEIGHT_GRADIENT})
        self.unmeasured: list[Unmeasured] = []
        self._stage, self._signals = stage, signals
        self._parts = Stage(Depth(mergeable=True))
        self._noted: list[tuple[Entry, Call | None, list[tuple[str, Tensor]]]] = []
        self._sharded: dict[tuple[Entry, str], Tensor] = {}
        self._read: list[_Read] = []
        self._before: dict[int, Tensor] = {}
        self._copied: tuple[list[_Read], Copies] | None = None

    @property
    def sites(self) -> list[Site]:
        """What was looked at."""
        return [r.site for r in self._read]

    def expect(self, entries: Iterable[Entry]) -> None:
        """Keep the sharded parameters of modules: FSDP2 puts whole ones in their place for the length of a pass."""
        if _distributed_tensor() is not None:
            named = ((entry, *own) for entry in entries for own in parameters_of(entry.module))
            self._sharded = {(entry, name): tensor for entry, name, tensor in named if is_sharded(tensor)}

    def note(self, entry: Entry, call: Call | None, parameters: list[tuple[str, Tensor]]) -> None:
        """Remember which parameters a module has, at its first ``call`` or, where it never ran, at the end of the pass."""
        if parameters:
            self._noted.append((entry, call, parameters))

    def look(self) -> None:
        """Make a site of every parameter that was noted."""
        for entry, call, parameters in self._noted:
            for name, tensor in parameters:
                self._look(entry, call, name, self._sharded.get((entry, name), tensor))
        self._noted.clear()

    def values(self) -> Readings:
        """Reduce every parameter, all of them in one go; one that is tied to another is reduced once."""
        if Signal.WEIGHT not in self._signals:
            return {}
        return self._reduced([(read, read.local, read.part) for read in self._read])

    def gradients(self, scale: float = 1.0, only: set[int] | None = None, taken: Taken | None = None) -> Readings:
        """Reduce every ``.grad`` as it stands, divided by ``scale``.

        Args:
            scale: What the gradients were multiplied by.
            only: Identities of the parameters that are wanted; None for all.
            taken: Gradients that hooks of the user's have taken away by now.
        """
        if Signal.WEIGHT_GRADIENT not in self._signals:
            return {}
        arrived: list[tuple[_Read, Tensor, Part | None]] = []
        found: Readings = {}
        for read in self._read:
            gradient = read.parameter.grad
            if only is not None and id(read.parameter) not in only:
                continue
            if gradient is None:
                sums = [] if taken is None else taken.get(read.key, [])
                if len(sums) == 1:
                    found[read.site] = sums[0]
                continue
            if read.part is not None:
                part = part_of(gradient, read.site.axis) if is_sharded(gradient) else "no part"
                if isinstance(part, Part):
                    arrived.append((read, part.local, part))
            elif not is_reducible(gradient):
                arrived.append((read, gradient, None))
        found |= self._reduced(arrived)
        return found if scale == 1.0 else {site: sums.scaled(1.0 / scale) for site, sums in found.items()}

    def clear_gradients(self) -> None:
        """Take away what a backward pass of one's own has left in ``.grad``."""
        for read in self._read:
            read.parameter.grad = None

    def missing(self, gradients: Readings, backward_ran: bool, unfinished: str, taken: Taken) -> Iterator[Unmeasured]:
        """Which parameters got no gradient, and why."""
        if Signal.WEIGHT_GRADIENT in self._signals:
            for read in self._read:
                if read.site not in gradients:
                    yield no_weight_gradient(read.site, read.parameter, backward_ran, unfinished, read.key in taken)

    # -- around an optimizer's step -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def remember(self, updated: set[int]) -> None:
        """Copy the parameters whose identities are in ``updated``, for :meth:`updates`."""
        if Signal.WEIGHT not in self._signals:
            return
        reads = {id(read.parameter): read for read in reversed(self._read) if id(read.parameter) in updated}
        copies = backends.copies([read.local for read in reads.values()])
        if copies is not None:
            self._copied = list(reads.values()), copies
        else:
            self._before = {key: read.local.detach().clone() for key, read in reads.items()}

    @torch.no_grad()
    def updates(self, values: Readings) -> UpdateSums:
        """The squared sizes of the updates since :meth:`remember`, and of the weights before them."""
        moved = self._moved() if self._copied is None else self._moved_natively(*self._copied)
        rows = [read for read in self._read if id(read.parameter) in moved and read.site in values]
        sizes = squares([values[read.site] for read in rows])
        return {
            (r.site.entry.name, r.site.output): (
                # another process counts the update of values that it holds too
                0.0 if r.part is not None and not r.part.counts else moved[id(r.parameter)],
                size,
            )
            for r, size in zip(rows, sizes, strict=True)
        }

    def _now(self, read: _Read) -> Tensor | None:
        """What lies here of a parameter by now."""
        part = part_of(read.parameter, read.site.axis) if read.part is not None else None
        return read.parameter if part is None else part.local if isinstance(part, Part) else None

    def _moved_natively(self, reads: list[_Read], copies: Copies) -> dict[int, float]:
        """By the parameter's identity, the sum of squares of its update, where the C library has compared the two."""
        self._copied = None
        now = [(read, self._now(read)) for read in reads]
        found = copies.moved([read.local if tensor is None else tensor for read, tensor in now])
        return {id(r.parameter): move for r, move in zip(reads, found, strict=True) if not math.isnan(move)}

    def _moved(self) -> dict[int, float]:
        """The same in torch operations."""
        known: dict[int, Tensor] = {}
        for read in self._read:
            before = self._before.pop(id(read.parameter), None)
            now = None if before is None else self._now(read)
            if before is not None and (now is None or now.shape == before.shape):
                # half precision would round the difference of values that are far apart
                before = before.to(torch.promote_types(before.dtype, torch.float32))
                known[id(read.parameter)] = before.zero_() if now is None else before.sub_(now.detach())
        moves = self._stage.reduce_all(list(known.values()), [None] * len(known))
        return dict(zip(known, squares(moves), strict=True))

    # -- reading ------------------------------------------------------------------------------------------------------------

    def _look(self, entry: Entry, call: Call | None, name: str, tensor: Tensor) -> None:
        axis = weight_axis(entry.layer, name, tensor.dim())
        part, sharded = None, is_sharded(tensor)
        reason = "" if sharded else is_reducible(tensor)
        if sharded:
            found = part_of(tensor, axis)
            part, reason = (found, "") if isinstance(found, Part) else (None, found)
        if reason:
            self.unmeasured.append(unmeasured(entry, call, name, Signal.WEIGHT, reason.replace("output", "parameter")))
            return
        site = Site(entry, call, name, tensor.shape, tensor.dtype, axis, is_weight=True, sharded=sharded)
        self._read.append(_Read(site, tensor, part))

    def _reduced(self, wanted: list[tuple[_Read, Tensor, Part | None]]) -> Readings:
        """Reduce the tensor of each three, by parameter and axis."""
        keys = [read.key for read, _, _ in wanted]
        once = {key: (tensor, part) for key, (_, tensor, part) in zip(keys, wanted, strict=True)}
        whole = {key: tensor for key, (tensor, part) in once.items() if part is None}
        found = dict(zip(whole, self._stage.reduce_all(list(whole.values()), [axis for _, axis in whole]), strict=True))
        for key, (tensor, part) in once.items():
            if part is not None:
                found[key] = part.whole(self._parts.reduce(tensor, key[1]))
        return {read.site: found[key] for key, (read, _, _) in zip(keys, wanted, strict=True)}


def parameters_of(module: nn.Module) -> list[tuple[str, Tensor]]:
    """The parameters a module owns itself, by name; uninitialized ones are passed over."""
    if isinstance(module, torch.jit.ScriptModule):
        return list(module.named_parameters(recurse=False))
    return [
        (name, parameter)
        for name, parameter in module._parameters.items()
        if parameter is not None
        and (type(parameter) is nn.Parameter or not isinstance(parameter, UninitializedParameter))
    ]


def parameters_in(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Every parameter of ``modules`` once, in their order."""
    found: dict[int, nn.Parameter] = {}
    for module in modules:
        scripted = isinstance(module, torch.jit.ScriptModule)
        own = dict(module.named_parameters(recurse=False)) if scripted else module._parameters
        found.update((id(p), p) for p in own.values() if p is not None and id(p) not in found)
    return list(found.values())


def computed_weights(module: nn.Module, called: bool) -> tuple[list[tuple[str, Tensor]], list[tuple[str, Tensor]]]:
    """The weights of a module that are computed in the forward, and its other parameters.

    Computed are those that ``functional_call`` hands in, and what a forward pre-hook has just made, where the module was
    ``called``: torch's pruning, the old ``weight_norm`` and ``spectral_norm``, an equalized learning rate.
    """
    computed: list[tuple[str, Tensor]] = []
    leaves: list[tuple[str, Tensor]] = []
    for name, tensor in parameters_of(module):
        is_leaf = tensor.is_leaf or not tensor.requires_grad or is_reducible(tensor)
        (leaves if is_leaf else computed).append((name, tensor))
    # nobody has made one where no hook runs before the forward and no parameter is called after another
    made = module._forward_pre_hooks or any("_" in name for name, _ in (*computed, *leaves))
    if called and leaves and made and not isinstance(module, torch.jit.ScriptModule):
        for name, value in module.__dict__.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and _made_of(module, name, value):
                computed.append((name, value))
    return computed, leaves


def _made_of(module: nn.Module, name: str, value: Tensor) -> bool:
    """Whether a tensor attribute is a weight made of the module's parameters, and nothing that it remembers of its inputs."""
    own = {n: p for n, p in module._parameters.items() if p is not None}
    if not value.is_floating_point():
        return False
    # weight_orig, weight_v: a hook of the module or of one around it has made them, by torch's own convention
    if any(n.startswith(f"{name}_") and p.shape == value.shape for n, p in own.items()):
        return True
    if not module._forward_pre_hooks or not any(p.shape == value.shape for p in own.values()):
        return False
    if name in ("weight", "bias"):
        return True
    # under another name only a matrix or a kernel: a vector in the shape of a bias may be a mean of outputs that is kept
    leaves = {id(p) for p in own.values()}
    return value.dim() > 1 and value.requires_grad and not leaves_outside([value], accumulators([value]), leaves)


def leaves_outside(roots: list[Tensor], nodes: list[Any], own: set[int]) -> list[Tensor]:
    """The leaves a backward pass from ``roots`` to ``nodes`` would write ``.grad`` of, but for those whose ids are ``own``."""
    leaves = [node.variable for node in nodes] + [root for root in roots if root.grad_fn is None]
    return [leaf for leaf in leaves if id(leaf) not in own]


def accumulator(leaf: Tensor) -> Any:
    """The node at which every graph writes to the ``.grad`` of a leaf, as long as anybody holds it."""
    with torch.enable_grad(), _torch.unseen_functions(), _torch.without_modes():
        node: Any = leaf.view_as(leaf).grad_fn
    return node.next_functions[0][0]


def accumulators(roots: list[Tensor]) -> list[Any]:
    """The nodes at which a backward pass from ``roots`` would write to the ``.grad`` of leaves."""
    queue: list[Any] = [root.grad_fn for root in roots if root.grad_fn is not None]
    seen, found = set(queue), []
    while queue:
        node = queue.pop()
        if type(node).__name__ == "AccumulateGrad":
            found.append(node)
            continue
        for parent, _ in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                queue.append(parent)
    return found


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a handle on parts that several processes hold."""
    module = _distributed_tensor()
    return module is not None and isinstance(tensor, module.DTensor)


def _distributed_tensor() -> Any:
    # whoever has a DTensor has imported this; importing it here would cost everybody half a second
    return sys.modules.get("torch.distributed.tensor")


def part_of(tensor: Any, axis: int | None) -> Part | str:
    """The local part of a ``DTensor`` whose channels lie along ``axis``, or why it cannot be measured."""
    from torch.distributed.tensor import Replicate, Shard

    mesh, placements = tensor.device_mesh, tensor.placements
    unknown = [str(p) for p in placements if type(p) not in (Shard, Replicate)]
    if unknown:
        return f"a DTensor placed as {unknown[0]} has no part of its own here"
    coordinate = mesh.get_coordinate()
    with torch.no_grad():
        local = tensor.to_local()
    channels = tensor.shape[axis] if axis is not None else 1
    if coordinate is None:
        nothing = local.flatten()[:0].reshape([0 if i == axis else 1 for i in range(tensor.dim())])
        return Part(nothing, 0, channels, False)
    _, offset = _torch.local_shape_and_offset(tensor)
    copies = (c for c, p in zip(coordinate, placements, strict=True) if isinstance(p, Replicate))
    return Part(local, offset[axis] if axis is not None else 0, channels, not any(copies))


def squares(readings: Sequence[Sums]) -> list[float]:
    """The sum of the squares of the finite elements of each reading."""
    return list(map(float, totals(readings)[:, Total.SQUARES]))
