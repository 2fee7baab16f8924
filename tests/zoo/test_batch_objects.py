"""Objects in a batch, a cache above all: a trace leaves them as they were, at any depth that a cache has."""

from collections import UserDict
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import spp
from tests.zoo.harness import square, x


class Layer:
    """Keys of one layer, as they have come so far, and a buffer of fixed length that is written in place."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.static, self.filled = torch.zeros(16, 6), 0


class Cache:
    def __init__(self) -> None:
        self.layers, self.seen, self.table = [Layer()], 0, UserDict({"last": x(2, 6, seed=3)})

    def add(self, keys: Tensor) -> Tensor:
        layer = self.layers[0]
        layer.keys = keys if layer.keys is None else torch.cat([layer.keys, keys])
        layer.static[layer.filled : layer.filled + len(keys)] = keys
        layer.filled += len(keys)
        self.layers.append(Layer())
        self.table["last"], self.table["more"], self.late = keys, keys, keys
        self.seen += len(keys)
        return layer.keys


class Slotted:
    """Keeps what a step left behind in slots."""

    __slots__ = ("__hidden", "last", "seen")

    def __init__(self) -> None:
        self.__hidden, self.last = [], x(6, seed=4)

    def add(self, keys: Tensor) -> Tensor:
        self.__hidden.append(keys)
        self.last = self.last.mul_(0.9) + keys
        self.seen = keys.mean()
        return self.last


class Entries(list):
    """A list of a class of its own, which knows how often it was extended."""

    def append(self, item: Any) -> None:
        self.times = getattr(self, "times", 0) + 1
        super().append(item)

    def clear(self) -> None:
        raise TypeError("only ever longer")


class Attends(nn.Module):
    def __init__(self, use) -> None:
        super().__init__()
        self.fc, self.use = nn.Linear(6, 6), use

    def forward(self, x: Tensor, cache: Any = None) -> Tensor:
        return self.use(cache, self.fc(x))


def state(value: Any) -> Any:
    """What an object holds, at any depth, with its identity and the values of its tensors."""
    if isinstance(value, Tensor):
        return id(value), value.detach().clone().tolist(), value._version, value.is_leaf, value.requires_grad
    inside = [state(v) for v in value.values()] if isinstance(value, dict) else []
    inside += [state(v) for v in value] if isinstance(value, list | tuple | set) else []
    own = {k: state(v) for k, v in vars(value).items()} if hasattr(value, "__dict__") else value
    if isinstance(value, Slotted):
        own = {k: state(getattr(value, k)) for k in ("_Slotted__hidden", "last", "seen") if hasattr(value, k)}
    return id(value), list(value) if isinstance(value, dict) else None, inside, own


def appended(cache: Any, keys: Tensor) -> Tensor:
    cache.append(keys)
    return sum(cache)


def written(cache: Any, keys: Tensor) -> Tensor:
    for tensor in cache:
        tensor.mul_(keys[0])
    return keys * sum(cache)


MAKE = {
    "a cache": (Cache, lambda cache, keys: cache.add(keys).sum(0)),
    "slots": (Slotted, lambda cache, keys: cache.add(keys).sum(0)),
    "a list of a class of its own": (lambda: Entries([x(5, 6)]), appended),
    "a set of tensors": (lambda: {x(6), x(6, seed=2)}, written),
    "a tuple of caches": (lambda: (Cache(), {"b": Cache()}), lambda c, k: c[0].add(k).sum(0) + c[1]["b"].add(k).sum(0)),
}


@pytest.mark.parametrize(("make", "use"), MAKE.values(), ids=MAKE.keys())
@pytest.mark.parametrize("options", [{}, {"restore": False}, {"batches": 2}, {"loss": lambda output, target: 1 / 0}])
def test_an_object_in_a_batch_is_left_as_it_was(make, use, options):
    cache, model = make(), Attends(use)
    before, batch = state(cache), {"x": x(5, 6), "cache": cache}
    try:
        run = spp.trace(model, iter([batch] * 3) if "batches" in options else batch, **{"loss": square, **options})
    except spp.TraceError as error:
        run = error.partial
    assert state(cache) == before
    assert run.frame.query("name == 'fc' and signal == 'activation'")["called"].tolist() == [options.get("batches", 1)]


@pytest.mark.parametrize(
    "make", [Cache, Slotted, lambda: {"b": Slotted()}], ids=["attributes", "slots", "in a dictionary"]
)
@pytest.mark.parametrize("options", [{}, {"loss": lambda output, target: 1 / 0}])
def test_an_object_that_a_module_holds_is_left_as_it_was(make, options):
    model = Attends(lambda _, keys: (memory["b"] if isinstance(memory, dict) else memory).add(keys))
    model.memory = memory = make()
    before = state(memory)
    for _ in range(2):
        try:
            spp.trace(model, x(5, 6), **{"loss": square, **options})
        except spp.TraceError as error:
            assert "division" in str(error)
        assert state(memory) == before
    deepcopy(model)


def test_what_stays_in_an_object_of_a_module_has_no_graph():
    model = Attends(lambda _, keys: model.memory.add(keys))
    model.memory = Slotted()
    for _ in range(2):
        spp.trace(model, x(5, 6), loss=square, restore=False)
    assert model.memory.last.grad_fn is None and model.memory.seen.is_leaf
    model(x(5, 6)).sum().backward()


def test_a_history_in_a_cache_is_not_used_up():
    cache, model = Cache(), Attends(lambda cache, keys: cache.add(keys).sum(0))
    model(x(5, 6), cache)
    before = state(cache)
    spp.trace(model, {"x": x(5, 6), "cache": cache}, loss=square)
    assert state(cache) == before
    (cache.layers[0].keys.sum() + cache.layers[0].static.sum()).backward()
    assert model.fc.weight.grad is not None


def test_the_model_that_an_object_knows_is_no_part_of_the_batch():
    class Knows:
        def __init__(self, model: nn.Module) -> None:
            self.model, self.used = model, 0

    def use(knows: Knows, keys: Tensor) -> Tensor:
        knows.used += 1
        return knows.model(keys)

    norm = nn.BatchNorm1d(6)
    knows, model = Knows(norm), Attends(use)
    model.norm = norm
    spp.trace(model, {"x": x(5, 6), "cache": knows}, loss=square, restore=False)
    assert knows.used == 0 and norm.num_batches_tracked == 1


def test_the_cache_of_transformers():
    transformers = pytest.importorskip("transformers")
    cache = transformers.DynamicCache()
    cache.update(x(2, 1, 3, 6), x(2, 1, 3, 6, seed=2), 0)

    def use(cache: Any, keys: Tensor) -> Tensor:
        keys, values = cache.update(keys, keys, 0)
        more = cache.update(values, keys, 1)
        return keys @ values.transpose(2, 3) + more[0].sum()

    model, before = Attends(use), state(cache)
    spp.trace(model, {"x": x(2, 1, 4, 6), "cache": cache}, loss=square)
    assert cache.get_seq_length() == 3 and len(cache.layers) == 1 and state(cache) == before
