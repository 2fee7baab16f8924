"""Everything that a pass could disturb, remembered, and put back into the original objects on every way out."""

from __future__ import annotations

import gc
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from spp import _torch
from spp.capture.interception import data_told
from spp.capture.module_state import GENERATORS, IN_A_BATCH, ModuleState
from spp.capture.tensor_state import TensorState
from spp.errors import SppWarning

Restore = bool | Literal["all"]

PATIENCE = 100_000
"""Objects that may come to be before the collector looks for cycles among them; as many as 5,000 module calls note."""


@dataclass(frozen=True, slots=True)
class Preserved:
    """What :func:`preserved` has taken hold of."""

    held: ModuleState
    tensors: TensorState
    parameters: TensorState

    @property
    def has_history(self) -> bool:
        """Whether the model holds tensors that hang on a graph of the user's, which a backward pass may not use up."""
        return self.tensors.has_history

    def cut(self) -> None:
        """Take the graph of a pass off whatever modules hold: it has been used up, and a further pass would run into it."""
        with _torch.unseen_by_subclasses():
            self.tensors.cut()
            self.parameters.cut()
            self.held.cut(self.tensors)


@contextmanager
def preserved(model: nn.Module, loader: object, restore: Restore) -> Iterator[Preserved]:
    """Run the body with the model ready to be measured; leave everything as it was.

    Inside, every parameter's ``.grad`` is None and its post-accumulate hooks are silent (an optimizer may live there).
    Afterwards, also when the body raises, these are put back: ``.grad`` objects, hooks and requires_grad flags of parameters,
    every module's attributes (buffers, training flags, hooks and plain Python state), values and histories of buffers and of
    other tensors that modules hold, and the random states of torch, its accelerators, NumPy, Python and every generator that
    a module or loader holds. Modules that the model keeps in plain lists are treated alike.

    Args:
        model: The model about to be run.
        loader: Where batches come from; the generators it holds are put back too.
        restore: False leaves module attributes and buffers as the forward left them, but for its graph; "all" also copies and
            restores parameters, which otherwise are only watched: one that the forward writes to is named in a warning, unless
            it does so through ``.data``, before which the values are copied and put back.
    """
    # a subclass of Tensor sees what the model does with it, not what is noted about it
    with _torch.unseen_by_subclasses():
        held = ModuleState(model)
        parameters = TensorState(held.parameters.values(), values=restore == "all", storage=True)
        state = Preserved(held, TensorState(held.tensors, values=bool(restore)), parameters)
        random_state = RandomState(parameters.alive, [*held.generators, *generators_of(loader)])
    written: list[Tensor] = []
    try:
        parameters.set_aside()
        state.tensors.set_aside()
        with data_told(parameters.keep_values):
            yield state
    finally:
        # one that fails does not keep the others from running; the last that is named runs first
        with _torch.unseen_by_subclasses(), ExitStack() as stack:
            stack.callback(random_state.restore)
            stack.callback(lambda: written.extend(parameters.restore()))
            stack.callback(state.tensors.restore)
            stack.callback(held.restore if restore else state.cut)
    if written:
        moved = set(map(id, written))
        names = [name for name, parameter in held.parameters.items() if id(parameter) in moved]
        warnings.warn(
            f"the forward pass wrote to parameters, which a trace does not copy: {', '.join(names[:5])}"
            f"{f' and {len(names) - 5} more' if len(names) > 5 else ''}. Pass restore='all' to undo that too.",
            SppWarning,
            stacklevel=4,
        )


@contextmanager
def kept(batch: Sequence[Tensor], structure: Any = None) -> Iterator[bool]:
    """Put a batch back afterwards: its tensors' values, histories, flags, hooks, ``.grad``, and what holds them.

    Args:
        batch: The batch's own tensors.
        structure: What they came in: containers, and objects such as a cache, with the attributes and tensors of these.

    Yields:
        Whether such an object holds tensors that hang on a graph of the user's, which a backward pass may not use up.
    """
    with _torch.unseen_by_subclasses():
        containers = ModuleState(structure, objects=IN_A_BATCH)
        tensors = TensorState([*batch, *containers.tensors], values=True)
    try:
        tensors.set_aside()
        own = set(map(id, batch))
        yield any(tensor.grad_fn is not None for tensor in containers.tensors if id(tensor) not in own)
    finally:
        with _torch.unseen_by_subclasses(), ExitStack() as stack:
            stack.callback(tensors.restore)
            stack.callback(containers.restore)


@contextmanager
def set_aside(leaves: Iterable[Tensor]) -> Iterator[None]:
    """Keep the ``.grad`` and post-accumulate hooks of further leaves (another network in the loss, say) out of a backward."""
    others = TensorState(leaves, values=False)
    try:
        others.set_aside()
        yield
    finally:
        others.restore()


class RandomState:
    """The states of torch, its accelerators, NumPy, Python, and of some generators of their own.

    Args:
        tensors: What the pass runs on; the accelerators these lie on are remembered too.
        generators: Further generators, as modules and loaders hold them.
    """

    def __init__(self, tensors: Iterable[Tensor], generators: Iterable[Any]) -> None:
        self._states: list[tuple[Callable[[Any], object], Any]] = [
            (torch.set_rng_state, torch.get_rng_state()),
            (random.setstate, random.getstate()),
            (np.random.set_state, np.random.get_state()),  # noqa: NPY002  (other people's code draws from it)
        ]
        kinds = {t.device.type for t in tensors} - {"cpu", "meta"}
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            kinds.add("cuda")
        for kind in sorted(kinds):
            backend: Any = getattr(torch, kind, None)
            every = "_all" if hasattr(backend, "get_rng_state_all") else ""  # of every device of the kind
            if hasattr(backend, f"get_rng_state{every}"):
                put, get = (getattr(backend, f"{verb}_rng_state{every}") for verb in ("set", "get"))
                self._states.append((put, get()))
        for g in generators:
            if isinstance(g, np.random.Generator):
                self._states.append((partial(setattr, g.bit_generator, "state"), g.bit_generator.state))
            elif isinstance(g, random.Random):
                self._states.append((g.setstate, g.getstate()))
            else:
                self._states.append((g.set_state, g.get_state()))

    def restore(self) -> None:
        """Set every state back."""
        for put, state in self._states:
            put(state)


def generators_of(loader: object) -> list[Any]:
    """The generators that a DataLoader and its samplers hold."""
    holders = (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None))
    found = [getattr(holder, "generator", None) for holder in holders]
    return [generator for generator in found if isinstance(generator, GENERATORS)]


@contextmanager
def patient_collector() -> Iterator[None]:
    """Let the body allocate many small objects that all live to its end, with the collector's threshold raised meanwhile.

    Thousands of them would otherwise set off the collector dozens of times, each time in vain, and each full collection looks
    at every object of the process: up to a third of what a trace's Python costs. Garbage of the model's own is still
    collected, only later; a collector that the user has switched off, or made more patient, is left alone.
    """
    before = gc.get_threshold()
    if not gc.isenabled() or not 0 < before[0] < PATIENCE:
        yield
        return
    gc.set_threshold(PATIENCE, *before[1:])
    try:
        yield
    finally:
        if gc.get_threshold() == (PATIENCE, *before[1:]):  # unless the body has set its own
            gc.set_threshold(*before)
