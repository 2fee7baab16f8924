"""The conventions for batches and losses: what is fed to the model, and what its backward pass starts from.

A batch is a tensor; a pair ``(inputs, targets)``; a mapping of keyword arguments; any other object, which is the one input of
the model; or an iterable of these, as a DataLoader. Several positional inputs are a tuple in the pair's first place,
``((a, b), target)``, or in a tuple of their own, ``((a, b),)``.

The loss, where none is given, is the output's own ``.loss``; else cross-entropy for class indices and mean squared error for
floats; else the output itself, where it is a scalar, or the scalar in it that is the loss (:func:`_loss_in`); else a *probe*: a
standard-normal cotangent on every floating output, which is what mean-field theory speaks of, and 1 on scalars.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader

from spp import _torch
from spp._pytree import describe, dtype_name, tensors_in
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
            return next((t.size(0) for _, t in tensors_in((self.args, self.kwargs)) if t.dim()), None)


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


MOST_NODES = 256
"""Nodes looked at between output and loss; a criterion has a dozen."""
_MOVES = frozenset(
    str.split(
        "view unsafe_view reshape_alias squeeze unsqueeze transpose permute t expand clone alias to_copy slice select index"
        " masked_fill _ddpsink"
    )
)
"""Operations that hand values on, or some of them."""
_ELEMENTWISE = frozenset(
    str.split(
        "softmax log_softmax sigmoid log_sigmoid tanh relu elu gelu silu softplus leaky_relu hardtanh hardsigmoid hardswish"
        " threshold clamp clamp_min log exp add sub"
    )
)
"""Operations that say something of the values that a criterion is given."""
_LAYERS = frozenset(str.split("addmm mm bmm baddbmm convolution embedding native_layer_norm native_batch_norm"))
_CRITERIA = frozenset(
    str.split(
        "mse_loss smooth_l1_loss huber_loss binary_cross_entropy binary_cross_entropy_with_logits soft_margin_loss"
        " multi_margin_loss multilabel_margin_loss"
    )
)
CROSS_ENTROPY, NLL = "cross_entropy", "nll_loss"
_SUM = 2
"""How torch writes ``reduction="sum"``."""


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """One criterion of a loss.

    Attributes:
        criterion: Its name, or that of an operation that is no known criterion.
        factor: What the loss has it times, taken as the mean over its elements; NaN where that is not known.
        elements: How many elements it compares.
        takes: The operations that its input comes from, the nearest first, up to one that is not element-wise.
        units: Length of the shortest axis that a softmax of these runs over.
        repeated: How often each element of the output is compared, where it was broadcast against the target.
        target: What it compares with, where autograd keeps that.
        ignored: The class index that is passed over.
    """

    criterion: str
    factor: float
    elements: int = 0
    takes: tuple[str, ...] = ()
    units: int | None = None
    repeated: int = 1
    target: Tensor | None = None
    ignored: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LossGraph:
    """The autograd graph between the outputs of a model and a loss.

    Attributes:
        operations: Their names, from the outputs to the loss, without those that move values.
        terms: The criteria that it is made of.
        further: Whether something is added that does not come from the outputs, as a penalty.
    """

    operations: list[str]
    terms: list[Term]
    further: bool


def loss_graph(root: Tensor, is_output: Callable[[Any], bool], *, scaled: bool = False) -> LossGraph | None:
    """Describe the graph of a loss before its backward pass; None where it does not hang on the outputs, or is too large.

    Args:
        root: The loss.
        is_output: Whether a node of the graph is that of an output.
        scaled: Whether its last operation is a gradient scaler's, which is passed over.
    """
    first: Any = root.grad_fn
    if scaled and first is not None:
        first = first.next_functions[0][0]
    if first is None:
        return None
    # the graph of a model that gives out its loss begins at its last layer
    ends = _is_layer if is_output(first) else is_output
    between = _between(first, ends)
    if not between:
        return None
    inside = set(between)
    terms, further = [], False
    queue: list[tuple[Any, float]] = [(first, 1.0)]
    for node, factor in queue:
        parents = [p for p, _ in node.next_functions if p is not None]
        reaching = [p for p in parents if p in inside or ends(p)]
        factors = _handed_on(node, factor) if node in inside else None
        if factors is None or not reaching:
            terms.append(_term(node, factor))
            continue
        further |= len(reaching) < len(parents)
        known = [f for (p, _), f in zip(node.next_functions, factors, strict=False) if p in reaching]
        queue += zip(reaching, known, strict=True)
    names = [name for name in map(operation, between) if name not in _MOVES]
    return LossGraph(names, terms, further)


def operation(node: Any) -> str:
    """The name of what a node of autograd's graph stands for, as ``log_softmax``."""
    name = re.sub(r"Backward\d*$", "", node.name().rpartition("::")[2])
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("nll_loss2_d", "nll_loss")


def _between(first: Any, ends: Callable[[Any], bool]) -> list[Any]:
    """The nodes on the way from ``first`` to the ends, those at the ends first; none where there are too many."""
    order: list[Any] = []
    seen: set[Any] = set()
    stack = [(first, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            if not ends(node):
                stack += [(parent, False) for parent, _ in node.next_functions if parent is not None]
        if len(seen) > MOST_NODES:
            return []
    reaching = {node for node in order if ends(node)}
    # whatever a node was made of stands before it
    for node in order:
        if not reaching.isdisjoint(parent for parent, _ in node.next_functions):
            reaching.add(node)
    return [node for node in order if node in reaching and not ends(node)]


def _handed_on(node: Any, factor: float) -> list[float] | None:
    """What a loss has each input of a node times, given what it has its output times; None where it is not linear in them."""
    name = operation(node)
    if name in _MOVES or name == "mean":
        return [factor]
    if name == "neg":
        return [-factor]
    if name == "sqrt":
        return [math.nan]
    if name == "sum":
        source, number = node.next_functions[0]
        return [factor * _size(source, number) / _size(node)]
    if name in ("add", "sub"):
        alpha = getattr(node, "_saved_alpha", 1)
        return [factor, factor * alpha * (1 if name == "add" else -1)]
    if name in ("mul", "div") and sum(parent is not None for parent, _ in node.next_functions) == 1:
        other = _other(node)
        classes = isinstance(other, Tensor) and other.dim() and _is_log_softmax(node.next_functions[0][0])
        return None if classes else [_scaled(factor, _number(other), name)] * 2
    return None


def _scaled(factor: float, number: float, name: str) -> float:
    if name == "mul":
        return factor * number
    return factor / number if number else math.nan


def _number(value: Any) -> float:
    """A factor as a number; NaN where it is none, or lies on another device: to read it would wait for that."""
    if isinstance(value, Tensor) and (value.numel() != 1 or value.device.type != "cpu"):
        return math.nan
    return math.nan if value is None else float(value)


def _other(node: Any) -> Any:
    """The second factor of a product, or the divisor: a number, or a tensor."""
    is_tensor = hasattr(node, "_raw_saved_other")
    return _torch.saved(node, "other") if is_tensor else getattr(node, "_saved_other", None)


def _parent(node: Any) -> Any:
    """The first input of a node that hangs on the graph."""
    return next((parent for parent, _ in node.next_functions if parent is not None), None)


def _is_log_softmax(node: Any) -> bool:
    return node is not None and operation(_behind_moves(node)) == "log_softmax"


def _is_layer(node: Any) -> bool:
    return operation(node) in _LAYERS


def _behind_moves(node: Any) -> Any:
    while operation(node) in _MOVES and (parent := _parent(node)) is not None:
        node = parent
    return node


def _size(node: Any, number: int = 0) -> float:
    shape = _torch.shape_at(node, number)
    return math.nan if shape is None else shape.numel()


def _term(node: Any, factor: float) -> Term:
    """The criterion that a node is."""
    name, source, target, elements = _compared(node)
    chain = _sources(node if name == "log_softmax" else source)
    axes = [_axis_length(one) for one in chain if operation(one) in ("softmax", "log_softmax")]
    units = min(axes, default=None)
    if name == "mul" and _is_log_softmax(source):
        # classes are added up, and their mean is the loss over their number
        name, factor, elements = CROSS_ENTROPY, -factor / (units or math.nan), elements / (units or math.nan)
        target, chain = _other(node), chain[1:]
    elif name in (NLL, "log_softmax") and _is_first(chain, "log_softmax") and _over_classes(source):
        factor = -factor if name == "log_softmax" else factor
        name, chain = CROSS_ENTROPY, chain[1:]
    factor *= elements if getattr(node, "_saved_reduction", None) == _SUM else 1
    count = int(elements) if math.isfinite(elements) else 0
    repeated = elements / _size(_before_expand(source)) if name in _CRITERIA | {"l1_loss"} else 1
    times = int(repeated) if repeated > 1 else 1
    return Term(name, factor, count, tuple(map(operation, chain)), units, times, target, _ignored(node))


def _compared(node: Any) -> tuple[str, Any, Tensor | None, float]:
    """The criterion's name as far as one node tells, the node of its input, its target, and how many elements it compares."""
    name, source = operation(node), _parent(node)
    if name in _CRITERIA:
        # the two may be given the other way round
        second = "target" if node.next_functions[0][0] is not None else "self"
        return name, source, _torch.saved(node, second), _size(source)
    if name == NLL:
        target = _torch.saved(node, "target")
        return name, source, target, math.nan if target is None else target.numel()
    if name in ("abs", "pow") and _is_difference(source) and getattr(node, "_saved_exponent", 2) == 2:
        name, source = "l1_loss" if name == "abs" else "mse_loss", _parent(_behind_moves(source))
    return name, source, None, _size(node)


def _ignored(node: Any) -> int | None:
    """The class index that a negative log-likelihood passes over."""
    index = getattr(node, "_saved_ignore_index", None) if operation(node) == NLL else None
    # torch shows a negative index as unsigned
    return index - 2**64 if index is not None and index >= 2**63 else index


def _is_first(chain: list[Any], name: str) -> bool:
    return bool(chain) and operation(chain[0]) == name


def _before_expand(node: Any) -> Any:
    """What was broadcast, where a node hands that on."""
    while node is not None and operation(node) in ("expand", "view", "squeeze", "unsqueeze"):
        node = _parent(node)
    return node


def _over_classes(node: Any) -> bool:
    """Whether a log-softmax right before a criterion runs over classes, which are on axis 1 where there are several."""
    shape, axis = _torch.shape_at(node, 0) or (), getattr(node, "_saved_dim", 1)
    return operation(node) != "log_softmax" or len(shape) < 2 or axis in (1, 1 - len(shape) + 2**64)


def _is_difference(node: Any) -> bool:
    return node is not None and operation(_behind_moves(node)) == "sub"


def _sources(node: Any) -> list[Any]:
    """What a criterion's input comes from: element-wise operations, the nearest first, and the one before them."""
    found: list[Any] = []
    while node is not None and len(found) < 8:
        name, parents = operation(node), [parent for parent, _ in node.next_functions if parent is not None]
        found += [node] if name not in _MOVES else []
        if name not in _MOVES | _ELEMENTWISE or len(parents) != 1:
            break
        node = parents[0]
    return found


def _axis_length(node: Any) -> int:
    shape, axis = _torch.shape_at(node, 0) or (0,), int(getattr(node, "_saved_dim", -1))
    return int(shape[axis - 2**64 if axis >= 2**63 else axis])


def loss_facts(graphs: Sequence[LossGraph | None], target: Any = None) -> dict[str, Any]:
    """What the graphs of a step's losses tell of a run.

    Args:
        graphs: One for each backward pass.
        target: What the loss was given to compare with, where autograd keeps it nowhere.

    Returns:
        ``loss_graph``: names of operations between output and loss. ``loss_terms``: for each criterion its name, the ``factor``
        that the loss has its mean times (None where unknown), how many ``elements`` it compares, the operations that it
        ``takes`` values from, the ``units`` of a softmax among these and how often each output was ``repeated``.
        ``loss_further``: whether there is more in the loss. ``target``: ``dtype``, ``distinct`` values (of the first 65,536),
        ``mean``, ``var``, ``min`` and ``max`` of finite ones, how many are ``nonfinite``, and ``classes``. Empty where a
        graph is not known.
    """
    known = [graph for graph in graphs if graph is not None]
    if not known or len(known) < len(graphs):
        return {}
    terms: dict[tuple[Any, ...], dict[str, Any]] = {}
    targets = []
    for term in (term for graph in known for term in graph.terms):
        key = term.criterion, term.takes, term.units, term.repeated, term.factor < 0
        one = terms.setdefault(
            key,
            dict(
                zip(("criterion", "takes", "units", "repeated"), (key[0], [*term.takes], *key[2:4]), strict=True),
                factor=0.0,
                elements=0,
            ),
        )
        one["factor"] += term.factor
        one["elements"] += term.elements
        if term.target is not None:
            targets.append(_target_facts(term.target, term))
    if not targets and isinstance(target, Tensor):
        targets.append(_target_facts(target, known[0].terms[0]))
    told = [one | {"factor": one["factor"] if math.isfinite(one["factor"]) else None} for one in terms.values()]
    facts: dict[str, Any] = {"loss_graph": known[0].operations, "loss_terms": told}
    facts["loss_further"] = any(graph.further for graph in known)
    return facts | ({"target": reduce(_both, targets)} if targets else {})


def input_facts(given: Any) -> list[dict[str, Any]]:
    """Facts of the floating tensors and images among a model's inputs, of 64 samples at most.

    Args:
        given: Positional and keyword arguments.

    Returns:
        Of each: its ``name``, ``shape`` and ``dtype``, ``mean``, ``std``, ``min`` and ``max``, whether it is ``whole`` numbers,
        whether samples are ``alike``, how many ``features`` (channels of images, else the last axis) there are and how many are
        ``constant``, of the others the median of mean over std (``offset``) and the ratio of the largest to the smallest std,
        of many that of their 5 % quantiles (``scales``).
    """
    found = []
    with _torch.unseen_functions(), _torch.without_modes(), torch.no_grad():
        for name, tensor in tensors_in(given):
            image = tensor.dim() >= 4
            plain = tensor.layout is torch.strided and not tensor.is_nested and not hasattr(tensor, "device_mesh")
            usable = plain and (tensor.is_floating_point() or (image and tensor.dtype is torch.uint8))
            if usable and tensor.dim() > 1 and tensor.numel() and len(tensor) > 1 and not _torch.is_transformed(tensor):
                found.append(
                    {"name": name, "shape": list(tensor.shape), **_moments(tensor.detach()[:64], 1 if image else -1)}
                )
    return found


def _moments(tensor: Tensor, axis: int) -> dict[str, Any]:
    values = tensor.float()
    features = values.movedim(axis, 0).flatten(1)
    means, stds = features.mean(1), features.std(1, correction=0)
    varying = stds > 1e-6 * features.abs().amax(1)
    edge = 0.0 if len(stds) <= 32 else 0.05
    known = {
        "mean": values.mean(),
        "std": values.std(correction=0),
        "min": values.min(),
        "max": values.max(),
        "whole": (values == values.round()).all(),
        "alike": (values == values[:1]).all(),
        "constant": (~varying).sum(),
    }
    facts = {"dtype": dtype_name(tensor.dtype), "features": len(stds), **{k: v.item() for k, v in known.items()}}
    if facts["constant"] != len(stds):
        means, stds = means[varying], stds[varying]
        low, high = torch.quantile(stds, edge), torch.quantile(stds, 1 - edge)
        facts |= {"offset": float((means.abs() / stds).median()), "scales": float(high / low)}
    return facts


def _target_facts(target: Tensor, term: Term) -> dict[str, Any]:
    """Facts of what a criterion compares with; modes and subclasses of the user's see nothing of it."""
    with _torch.unseen_functions(), _torch.without_modes(), torch.no_grad():
        facts: dict[str, Any] = {"dtype": dtype_name(target.dtype)}
        if term.criterion == "cross_entropy":
            facts["classes"] = term.units
        if target.layout is not torch.strided or target.is_complex():
            return facts
        values = target.detach().reshape(-1)
        values = values if term.ignored is None else values[values != term.ignored]
        # MPS has no float64
        numbers = values.to(torch.float32 if values.device.type == "mps" else torch.float64)
        finite = numbers[numbers.isfinite()]
        facts |= {"numel": values.numel(), "nonfinite": numbers.numel() - finite.numel()}
        if finite.numel():
            distinct = torch.unique(finite[:65_536]).numel()
            known = {"mean": finite.mean(), "var": finite.var(correction=0), "min": finite.min(), "max": finite.max()}
            facts |= {"distinct": distinct, **{name: float(value) for name, value in known.items()}}
        return facts


def _both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Facts of two targets as of one."""
    if "mean" not in one or "mean" not in other:
        return one if "mean" in one else other
    (n, m), low, high = (one["numel"], other["numel"]), min(one["min"], other["min"]), max(one["max"], other["max"])
    mean = (n * one["mean"] + m * other["mean"]) / (n + m)
    square = sum(k * (f["var"] + (f["mean"] - mean) ** 2) for k, f in ((n, one), (m, other)))
    distinct = max(one["distinct"], other["distinct"], 1 + (low < high))
    both = {"distinct": distinct, "mean": mean, "var": square / (n + m), "min": low, "max": high}
    return one | both | {name: one[name] + other[name] for name in ("numel", "nonfinite")}


class Objective:
    """Where the backward pass starts; one for all batches of a trace.

    Args:
        loss: The user's ``(output, target) -> scalar``, or None for the conventions of this module.
        seed: Seed of the private generator that draws the probe's cotangents.

    Attributes:
        kind: Which loss it is.
        value: That of the last batch; None for a probe.
        facts: What the graph of the first batch's loss tells, see :func:`loss_facts`.
    """

    def __init__(self, loss: LossFunction | None, seed: int) -> None:
        self._loss = loss
        self._generator = torch.Generator().manual_seed(seed)
        self.kind = ""
        self.value: float | None = None
        self.facts: dict[str, Any] = {}

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
        if not self.facts and loss.requires_grad:
            # a subclass hears of every attribute that is read
            with _torch.unseen_by_subclasses():
                nodes = {tensor.grad_fn for _, tensor in tensors_in(output)}
                self.facts = loss_facts([loss_graph(loss, nodes.__contains__)], target)
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
