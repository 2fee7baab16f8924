"""The conventions for batches and losses: what is fed to the model, and what its backward pass starts from.

A batch is a tensor; a pair ``(inputs, targets)``; a mapping of keyword arguments; any other object, which is the one input of
the model; or an iterable of these, as a DataLoader. Several positional inputs are a tuple in the pair's first place,
``((a, b), target)``, or in a tuple of their own, ``((a, b),)``.

The loss, where none is given, is the output's own ``.loss``; else cross-entropy for class indices and mean squared error for
floats; else the output itself, where it is a scalar, or the scalar in it that is the loss (:func:`_loss_in`); else a *probe*: a
standard-normal cotangent on every floating output, which is what mean-field theory speaks of, and 1 on scalars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader

from spp import _torch
from spp._pytree import describe, tensors_in
from spp.errors import InputError

LossFunction = Callable[[Any, Any], Tensor]

IGNORED = -100
"""Class index that torch's cross-entropy passes over."""

SEVERAL_INPUTS = (
    "Several positional inputs are given as ((a, b), target), or ((a, b),) without a target;"
    " (a, b) and [a, b] are an input and its target"
)
"""What to do where a pair was meant as two inputs."""

_SINGLE = (Tensor, Mapping, PackedSequence)


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch, sorted out.

    Attributes:
        args: Positional inputs of the model.
        kwargs: Keyword inputs of the model.
        target: What the loss compares with, or None.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    target: Any = None

    def tensors(self) -> list[Tensor]:
        """Every tensor of the batch, targets included."""
        return [t for _, t in tensors_in((self.args, self.kwargs, self.target))]

    @property
    def size(self) -> int | None:
        """Length of the first tensor's first axis."""
        with _torch.unseen_by_subclasses():
            return next((len(t) for _, t in tensors_in((self.args, self.kwargs)) if t.dim()), None)


def is_iterable_of_batches(batch: Any) -> bool:
    """Whether ``batch`` gives batches one by one, rather than being one.

    An object that can be moved to a device is one, though it may be iterable, as the graphs of PyG are.
    """
    if isinstance(batch, (*_SINGLE, tuple)) or _is_object(batch):
        return False
    if isinstance(batch, list):
        if len(batch) == 2:  # a DataLoader's default collation turns pairs into lists
            return all(isinstance(item, tuple | list | Mapping) or _is_object(item) for item in batch)
        return True
    return isinstance(batch, Iterable)


def _is_object(value: Any) -> bool:
    moves = callable(getattr(value, "to", None))
    return moves and not isinstance(value, Tensor | PackedSequence | DataLoader | Iterator)


def batches_of(batch: Any) -> Iterator[Batch]:
    """One batch after the other.

    Raises:
        InputError: There is none, or one is none of the forms above.
    """
    if not is_iterable_of_batches(batch):
        yield sort_out(batch)
        return
    empty = True
    for item in batch:
        if empty and isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
            # an object that iterates over its fields by name, as the graphs of PyG do, is one batch
            yield sort_out(batch)
            return
        empty = False
        yield sort_out(item)
    if empty:
        raise InputError("a trace needs at least one batch", received="an iterable that gave none", where="batch")


def sort_out(batch: Any) -> Batch:
    """Split one batch into positional inputs, keyword inputs and target.

    Raises:
        InputError: It is none of the forms above.
    """
    if isinstance(batch, Mapping):
        return Batch((), dict(batch))
    if isinstance(batch, tuple | list) and not isinstance(batch, PackedSequence):
        if len(batch) == 1:
            return sort_out(batch[0]) if isinstance(batch[0], _SINGLE) else Batch(_positional(batch[0]))
        if len(batch) == 2:
            inputs, target = batch
            if isinstance(inputs, Mapping):
                return Batch((), dict(inputs), target)
            return Batch(_positional(inputs), {}, target)
        raise InputError(
            "a batch is a tensor, a pair (inputs, targets), a mapping of keyword arguments, or an iterable of these",
            received=describe(batch),
            where="batch",
            remedy=SEVERAL_INPUTS,
        )
    if batch is None or isinstance(batch, str | bytes | int | float):
        raise InputError(
            "a batch is a tensor, a pair (inputs, targets), a mapping of keyword arguments, or an iterable of these",
            received=describe(batch),
            where="batch",
        )
    return Batch((batch,))


def to_device(batch: Batch, device: torch.device | None) -> Batch:
    """The batch on the model's device (None: where it is), cut off from any graph it hangs on.

    A leaf that requires a gradient stays the user's own tensor; an output of another network is detached, so that the
    backward pass ends at the model's input; inference tensors are cloned, since autograd cannot take them. Any other tensor
    is handed over as a second handle on the same memory, to which the forward may give a history by writing in place.
    """
    handles: dict[int, Tensor] = {}

    def moved(tensor: Tensor) -> Tensor:
        if id(tensor) not in handles:  # a tensor that is input and target stays one tensor
            handles[id(tensor)] = _handle(tensor, device)
        return handles[id(tensor)]

    with torch.inference_mode(False):
        args, kwargs, target = torch.utils._pytree.tree_map_only(
            Tensor, moved, (batch.args, batch.kwargs, batch.target)
        )
    return Batch(args, kwargs, target)


def _handle(tensor: Tensor, device: torch.device | None) -> Tensor:
    with _torch.unseen_by_subclasses():  # subclasses see what the model does, not what is asked about them
        moves, inference = device is not None and tensor.device != device, tensor.is_inference()
        leaf, wanted = tensor.is_leaf, tensor.requires_grad
        if tensor.is_meta or hasattr(tensor, "fake_mode"):
            raise InputError(
                "a batch that is traced has values",
                received="a tensor on the meta device or under a FakeTensorMode",
                where="batch",
                remedy="Draw one, for example with spp.data.gaussian",
            )
        # a subclass, or a tensor with attributes of the user's, would lose them
        plain = type(tensor) is Tensor and not tensor.__dict__
    if moves:
        tensor = tensor.to(device)
    if inference:
        return tensor.clone()
    if wanted and not leaf:
        # no leaf, since a forward may write into an output of another network in place, and not into a leaf
        return tensor.detach().requires_grad_().clone()
    return tensor.detach() if plain and not wanted else tensor


class Objective:
    """Where the backward pass starts; one for all batches of a trace.

    Args:
        loss: The user's ``(output, target) -> scalar``, or None for the conventions of this module.
        seed: Seed of the private generator that draws the probe's cotangents.
    """

    def __init__(self, loss: LossFunction | None, seed: int) -> None:
        self._loss = loss
        self._generator = torch.Generator().manual_seed(seed)
        self.kind = ""
        self.value: float | None = None

    def __call__(self, output: Any, target: Any) -> tuple[list[Tensor], list[Tensor | None]]:
        """The tensors to run backward from and their cotangents; none where nothing requires a gradient."""
        if self._loss is not None:
            self.kind = getattr(self._loss, "__name__", type(self._loss).__name__)
            loss: Any = self._loss(output, target)
        elif isinstance(own := _field(output, "loss"), Tensor):
            self.kind, loss = "model", own
        elif target is not None and (prediction := _prediction(output, target)) is not None:
            self.kind, loss = _supervised(prediction, target)
        elif (found := _loss_in(output)) is not None:
            self.kind, loss = found
        else:
            self.kind = "probe"
            return self._probe(output)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
            raise InputError(
                "a loss is a floating scalar tensor",
                received=describe(loss),
                where="loss",
                remedy="Reduce it, for example with .mean()",
            )
        self.value = float(loss.detach())
        return ([loss], [None]) if loss.requires_grad else ([], [])

    def _probe(self, output: Any) -> tuple[list[Tensor], list[Tensor | None]]:
        roots: list[Tensor] = []
        cotangents: list[Tensor | None] = []
        for _, tensor in tensors_in(output):
            if not tensor.is_floating_point():
                continue
            if not tensor.dim() and tensor.requires_grad:
                # a penalty beside the outputs is part of a loss, and a random factor would turn its sign
                roots.append(tensor)
                cotangents.append(None)
                continue
            if tensor.is_nested:
                # a nested tensor has no shape that numbers could be drawn in
                tensor = tensor.values()
            normal = torch.randn(tensor.shape, generator=self._generator, dtype=torch.float32)
            if tensor.requires_grad:
                roots.append(tensor)
                cotangents.append(normal.to(tensor))
        return roots, cotangents


def _positional(inputs: Any) -> tuple[Any, ...]:
    return tuple(inputs) if isinstance(inputs, tuple | list) and not isinstance(inputs, PackedSequence) else (inputs,)


def _field(output: Any, name: str) -> Any:
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)


def _loss_in(output: Any) -> tuple[str, Tensor] | None:
    """The loss that an output is or holds, and how it came to be; None where none of its scalars is known to be one.

    A scalar that needs a gradient is the loss where it is the output; where it comes first in a tuple, is called a loss or is
    all that needs a gradient; and where it was computed from the other outputs. Of several scalars that is the one made of all
    the others; a mapping of scalars without one (a detector's losses) is their sum.
    """
    if isinstance(output, Tensor):
        return ("model", output) if _is_scalar(output) else None
    floating = [(name, t) for name, t in tensors_in(output) if t.is_floating_point() and t.requires_grad]
    scalars = {name: t for name, t in floating if _is_scalar(t)}
    if not scalars:
        return None
    nodes = {name: _nodes(t) for name, t in scalars.items()}
    whole = next((n for n in scalars if all(t.grad_fn in nodes[n] for t in scalars.values())), None)
    others = [t for _, t in floating if not _is_scalar(t)]
    if whole is None:
        return None if others else (f"sum of {', '.join(scalars)}", sum(scalars.values(), torch.tensor(0.0)))
    first = isinstance(output, tuple | list) and len(output) > 0 and output[0] is scalars[whole]
    made_of = any(t.grad_fn in nodes[whole] for t in others)
    is_loss = first or made_of or not others or "loss" in whole.lower()
    return ("model", scalars[whole]) if is_loss else None


def _is_scalar(tensor: Tensor) -> bool:
    # a leaf is a parameter that the model gives out, as a temperature
    return not tensor.dim() and tensor.is_floating_point() and (tensor.grad_fn is not None or not tensor.requires_grad)


def _nodes(tensor: Tensor) -> set[Any]:
    """What a tensor was computed by."""
    queue, seen = [tensor.grad_fn], {tensor.grad_fn}
    while queue:
        node: Any = queue.pop()
        new = {parent for parent, _ in node.next_functions if parent is not None} - seen
        seen |= new
        queue += new
    return seen


def _prediction(output: Any, target: Any) -> Tensor | None:
    """The tensor a target is compared with: the output, its ``logits`` or ``out``, else its first floating tensor.

    None where there are scalars alone, and the target is none.
    """
    for name in ("logits", "out"):
        found = _field(output, name)
        if isinstance(found, Tensor):
            return found
    floating = [tensor for _, tensor in tensors_in(output) if tensor.is_floating_point()]
    whole = [tensor for tensor in floating if tensor.dim()]
    if not floating:
        raise InputError(
            "a target needs a floating tensor in the output to be compared with",
            received=describe(output),
            where="loss",
            remedy="Pass loss=, a callable (output, target) -> scalar",
        )
    if not whole and not (isinstance(target, Tensor) and target.dim() == 0):
        return None
    return (whole or floating)[0]


def _supervised(output: Tensor, target: Any) -> tuple[str, Tensor]:
    if isinstance(target, Tensor) and not target.is_floating_point() and not target.is_complex():
        classes = 0 if output.dim() == 1 else 1
        expected = output.shape[:classes] + output.shape[classes + 1 :]
        if output.dim() == 0 or target.shape != expected:
            raise InputError(
                f"class indices for an output of shape {tuple(output.shape)} have shape {tuple(expected)}",
                received=describe(target),
                where="targets",
                remedy=f"Pass loss= for another loss. {SEVERAL_INPUTS}",
            )
        counted = target[target != IGNORED]
        if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < output.shape[classes]:
            raise InputError(
                f"class indices lie between 0 and {output.shape[classes] - 1}",
                received=f"values from {int(counted.min())} to {int(counted.max())}",
                where="targets",
            )
        return "cross_entropy", nn.functional.cross_entropy(output.float(), target.long())
    if isinstance(target, Tensor) and target.is_floating_point():
        if target.shape != output.shape:
            raise InputError(
                "float targets have the output's shape",
                received=f"{tuple(target.shape)} for an output of {tuple(output.shape)}",
                where="targets",
                remedy=f"Pass loss= for another loss. {SEVERAL_INPUTS}",
            )
        return "mse", nn.functional.mse_loss(output, target.to(output.dtype))
    raise InputError(
        "targets are a tensor of class indices or of floats",
        received=describe(target),
        where="targets",
        remedy="Pass loss=, a callable (output, target) -> scalar",
    )
