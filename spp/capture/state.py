"""Everything that a pass could disturb, remembered, and put back into the original objects on every way out."""

from __future__ import annotations

import gc
import random
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from spp.capture.module_state import GENERATORS, ModuleState, containers_in, put_back
from spp.capture.tensor_state import TensorState
from spp.errors import SppWarning

Restore = bool | Literal["all"]

PATIENCE = 100_000
"""Objects that may come to be before the collector looks for cycles among them; as many as 5,000 module calls note."""


class Preserved:
    """A model that is put back at the end.

    Attributes:
        has_history: Whether it holds tensors that hang on a graph of the user's, which a backward pass may not use up.
    """

    def __init__(self, model: nn.Module, loader: object, restore: Restore) -> None:
        self.restores = restore
        with torch._C.DisableTorchFunctionSubclass():
            self._held = ModuleState(model)
            self._parameters = TensorState(self._held.parameters.values(), values=restore == "all", storage=True)
            self._tensors = TensorState(self._held.tensors, values=bool(restore))
            self._random = RandomState(self._parameters.alive, [*self._held.generators, *generators_of(loader)])
        self.has_history = self._tensors.has_history

    def set_aside(self) -> None:
        """Take the gradients of leaves away and silence their post-accumulate hooks."""
        self._parameters.set_aside()
        self._tensors.set_aside()

    def cut(self) -> None:
        """Take the graph of a pass off whatever modules hold: it has been used up, and a further pass would run into it."""
        with torch._C.DisableTorchFunctionSubclass():
            self._tensors.cut()
            self._held.cut(self._tensors)

    def restore(self) -> list[str]:
        """Put everything back; return the names of parameters that were written to and stay so."""
        written: list[Tensor] = []
        # one that fails does not keep the others from running
        with torch._C.DisableTorchFunctionSubclass(), ExitStack() as stack:
            stack.callback(self._random.restore)
            stack.callback(lambda: written.extend(self._parameters.restore()))
            stack.callback(self._tensors.restore)
            stack.callback(self._held.restore if self.restores else self.cut)
        moved = set(map(id, written))
        return [name for name, parameter in self._held.parameters.items() if id(parameter) in moved]


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
            restores parameters, which otherwise are only watched: one that the forward writes to is named in a warning.
    """
    state = Preserved(model, loader, restore)
    written: list[str] = []
    try:
        state.set_aside()
        yield state
    finally:
        written = state.restore()
    if written:
        warnings.warn(
            f"the forward pass wrote to parameters, which a trace does not copy: {', '.join(written[:5])}"
            f"{f' and {len(written) - 5} more' if len(written) > 5 else ''}. Pass restore='all' to undo that too.",
            SppWarning,
            stacklevel=4,
        )


@contextmanager
def kept(batch: Iterable[Tensor], structure: Any = None) -> Iterator[None]:
    """Put a batch back afterwards: its tensors' values, histories, flags, hooks, ``.grad``, and its containers' entries.

    Args:
        batch: The batch's own tensors.
        structure: The containers they came in.
    """
    with torch._C.DisableTorchFunctionSubclass():
        tensors, containers = TensorState(batch, values=True), containers_in(structure)
    try:
        tensors.set_aside()
        yield
    finally:
        with torch._C.DisableTorchFunctionSubclass(), ExitStack() as stack:
            stack.callback(tensors.restore)
            stack.callback(put_back, containers)


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
        self._torch = torch.get_rng_state()
        self._python = random.getstate()
        self._numpy = np.random.get_state(legacy=True)  # noqa: NPY002  (other people's code draws from it)
        self._accelerators = [
            (backend, backend.get_rng_state_all() if hasattr(backend, "get_rng_state_all") else backend.get_rng_state())
            for backend in _accelerators(tensors)
        ]
        self._own = [(g, _state(g)) for g in generators]

    def restore(self) -> None:
        """Set every state back."""
        torch.set_rng_state(self._torch)
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        for backend, state in self._accelerators:
            if hasattr(backend, "set_rng_state_all"):
                backend.set_rng_state_all(state)
            else:
                backend.set_rng_state(state)
        for generator, state in self._own:
            _set_state(generator, state)


def generators_of(loader: object) -> list[Any]:
    """The generators that a DataLoader and its samplers hold."""
    holders = (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None))
    found = [getattr(holder, "generator", None) for holder in holders]
    return [generator for generator in found if isinstance(generator, GENERATORS)]


def _accelerators(tensors: Iterable[Tensor]) -> list[Any]:
    """The accelerator modules of torch that are awake, or that the tensors lie on."""
    kinds = {t.device.type for t in tensors} - {"cpu", "meta"}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        kinds.add("cuda")
    return [backend for kind in sorted(kinds) if hasattr(backend := getattr(torch, kind, None), "get_rng_state")]


def _state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=True)
    return generator.getstate()


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)


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
