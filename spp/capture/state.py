"""Remembers everything a trace could disturb, and puts it back into the original objects on every way out."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spp.capture.belongings import Belongings, containers_in, put_back
from spp.capture.randomness import RandomState, generators_of
from spp.capture.snapshots import Leaves, Parameters, Values
from spp.errors import SppWarning

Restore = bool | Literal["all"]


@contextmanager
def preserved(model: nn.Module, loader: object, restore: Restore) -> Iterator[None]:
    """Run the body with the model ready to be measured; leave everything as it was.

    Inside, every parameter's ``.grad`` is None and its post-accumulate hooks are silent (an optimizer may live there).
    Afterwards, also when the body raises, these are put back: ``.grad`` objects, hooks and requires_grad flags of parameters,
    every module's attributes (buffers, training flags, hooks and plain Python state), values of buffers and of other tensors
    that modules hold, and the random states of torch, its accelerators, NumPy, Python and every generator that a module or
    loader holds. Modules that the model keeps in plain lists are treated alike.

    Args:
        model: The model about to be run.
        loader: Where batches come from; the generators it holds are put back too.
        restore: False leaves module attributes and buffers as the forward left them; "all" also copies and restores
            parameters, which otherwise are only watched: one that the forward writes to is named in a warning.
    """
    written: list[str] = []
    with torch._C.DisableTorchFunctionSubclass():
        held = Belongings(model)
        parameters = Parameters(held.parameters, copy=restore == "all")
        values = Values(held.tensors) if restore else None
        leaves = Leaves([*parameters.alive(), *(t for t in held.tensors if t.is_leaf and t.requires_grad)])
        random_state = RandomState(parameters.alive(), [*held.generators, *generators_of(loader)])
    try:
        leaves.set_aside()
        yield
    finally:
        with (
            ExitStack() as stack,
            torch._C.DisableTorchFunctionSubclass(),
        ):  # one that fails must not keep the others from running
            stack.callback(random_state.restore)
            stack.callback(leaves.restore)
            stack.callback(lambda: written.extend(parameters.restore()))
            if values is not None:
                stack.callback(values.restore)
                stack.callback(held.restore)
    if written:
        warnings.warn(
            f"the forward pass wrote to parameters, which a trace does not copy: {', '.join(written[:5])}"
            f"{f' and {len(written) - 5} more' if len(written) > 5 else ''}. Pass restore='all' to undo that too.",
            SppWarning,
            stacklevel=4,
        )


@contextmanager
def kept(batch: Iterable[Tensor], structure: Any = None) -> Iterator[None]:
    """Put a batch back afterwards: its tensors' values, flags, hooks and ``.grad``, and the entries of its containers.

    Args:
        batch: The batch's own tensors.
        structure: The containers they came in.
    """
    with torch._C.DisableTorchFunctionSubclass():
        tensors = list(batch)
        values = Values(tensors)
        leaves = Leaves([t for t in tensors if t.is_leaf])
        containers = containers_in(structure)
    try:
        leaves.set_aside()
        yield
    finally:
        with torch._C.DisableTorchFunctionSubclass(), ExitStack() as stack:
            stack.callback(leaves.restore)
            stack.callback(values.restore)
            stack.callback(put_back, containers)


@contextmanager
def set_aside(leaves: Iterable[Tensor]) -> Iterator[None]:
    """Keep the ``.grad`` and post-accumulate hooks of further leaves (another network in the loss, say) out of a backward."""
    others = Leaves(leaves)
    try:
        others.set_aside()
        yield
    finally:
        others.restore()
