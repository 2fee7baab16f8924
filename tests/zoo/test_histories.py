"""What a forward writes in place comes with its graph; after a trace no graph of its own hangs on anything."""

import copy
from collections import deque
from types import FunctionType
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import spp
from tests.zoo.fingerprint import unmoved
from tests.zoo.harness import make, x


class Two(NamedTuple):
    """A named tuple of memories."""

    a: Tensor
    b: Tensor


class Memory(nn.Module):
    """Remembers in one of many places, and writes there in place, graph and all."""

    def __init__(self, where: str, write: str) -> None:
        super().__init__()
        self.fc, self.where, self.write = nn.Linear(4, 4), where, write
        state = x(3, 4, seed=5)
        if where == "buffer":
            self.register_buffer("state", state)
        elif where == "child":
            self.child = nn.Module()
            self.child.register_buffer("state", state)
        elif where == "hidden module":
            self.parts = [nn.Module()]
            self.parts[0].state = state
        elif where == "view":
            self.whole = torch.stack([state, state])
            self.state = self.whole[1]
        elif where == "view without its base":
            self.state = torch.stack([state, state]).transpose(0, 1)[:, 0]
        elif where == "flattened view of a buffer":
            self.register_buffer("base", state)
            self.state = self.base.view(-1).view(3, 4)
        elif where == "data of a parameter":
            self.fc2 = nn.Linear(4, 3)
            self.state = self.fc2.weight.data
        elif where == "class":
            self.__class__ = type("Own", (Memory,), {"state": state})
        elif where == "closure":
            self.__class__ = type("Own", (Memory,), {"memory": lambda self: state})
        elif where == "global":
            named = FunctionType((lambda self: KEPT).__code__, {"KEPT": state})  # noqa: F821
            self.__class__ = type("Own", (Memory,), {"memory": named})
        else:
            kinds = {
                "attribute": state,
                "list": [state],
                "dictionary": {"a": {"b": state}},
                "tuple": (1, (state,)),
                "named tuple": Two(state, state),
                "deque": deque([state]),
            }
            self.state = kinds[where]

    def memory(self) -> Tensor:
        """The tensor that is written to."""
        match self.where:
            case "child":
                return self.child.state
            case "hidden module":
                return self.parts[0].state
            case "list" | "deque":
                return self.state[0]
            case "dictionary":
                return self.state["a"]["b"]
            case "tuple":
                return self.state[1][0]
            case "named tuple":
                return self.state.b
        return self.state

    def forward(self, x: Tensor) -> Tensor:
        memory = self.memory()
        h = torch.tanh(self.fc(x) + memory[1])
        match self.write:
            case "lerp_":
                memory.lerp_(h.mean(0).expand(3, 4), 0.1)
            case "index":
                memory[0] = h.mean(0)
            case "through a view":
                memory.view(-1)[:4].copy_(h.sum(0))
            case "twice":
                memory.mul_(0.9).add_(0.1 * h.mean(0))
                h = h + memory.mean(0)
            case "requires_grad_":
                memory.requires_grad_()
                h = h * memory[0]
        return h

    def detach(self) -> None:
        """What the loop does after each step."""
        memory = self.memory()
        if memory._is_view():
            with torch.no_grad():
                (self.whole if self.where == "view" else memory._base).detach_()
            if self.where == "view":
                self.state = self.whole[1]
            elif self.where == "flattened view of a buffer":
                self.state = self.base.view(3, 4)
            else:
                self.state = memory.detach()
        elif memory.grad_fn is not None:
            memory.detach_()
        elif memory.requires_grad:
            memory.requires_grad_(False)


def train(model: Memory, steps: int = 3) -> list[Tensor]:
    """Some steps with the memory detached after each."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(steps):
        optimizer.zero_grad()
        model(x(5, 4, seed=step)).square().mean().backward()
        optimizer.step()
        model.detach()
    return [t.detach().clone() for t in (*model.parameters(), model.memory())]


PLACES = (
    "buffer",
    "child",
    "hidden module",
    "attribute",
    "list",
    "dictionary",
    "tuple",
    "named tuple",
    "deque",
    "view",
    "view without its base",
    "flattened view of a buffer",
    "data of a parameter",
    "class",
    "closure",
    "global",
)
WRITES = ("lerp_", "index", "through a view", "twice", "requires_grad_")


def assert_plain(model: nn.Module, *tensors: Tensor) -> None:
    for tensor in tensors:
        assert tensor.is_leaf and tensor.grad_fn is None and not tensor.requires_grad and tensor.grad is None
    copy.deepcopy(model)


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("where", PLACES)
def test_a_memory_that_is_written_in_place(where, write):
    if write == "requires_grad_" and "view" in where:
        pytest.skip("a view of a leaf becomes no leaf of its own here")
    model, twin = (make(lambda: Memory(where, write)) for _ in range(2))
    memory, whole = model.memory(), getattr(model, "whole", None)
    for _ in range(2):
        with unmoved(model, None):
            spp.trace(model, x(5, 4))
        assert model.memory() is memory
        assert_plain(model, memory, *([] if whole is None else [whole]))
    for wanted, got in zip(train(twin), train(model), strict=True):
        assert torch.equal(wanted, got)


@pytest.mark.parametrize("where", ["buffer", "list", "view"])
@pytest.mark.parametrize("broken", ["forward", "loss", "backward"])
def test_a_pass_that_breaks_leaves_no_history_either(where, broken):
    model, twin = (make(lambda: Memory(where, "lerp_")) for _ in range(2))

    def bomb(*_: object) -> None:
        raise KeyboardInterrupt

    if broken == "forward":
        handle = model.register_forward_hook(bomb)
    elif broken == "backward":
        handle = model.fc.register_forward_hook(lambda m, a, out: out.register_hook(bomb) and None)
    with unmoved(model, None), pytest.raises(KeyboardInterrupt):
        spp.trace(model, x(5, 4), loss=bomb if broken == "loss" else None)
    if broken != "loss":
        handle.remove()
    assert_plain(model, model.memory())
    for wanted, got in zip(train(twin), train(model), strict=True):
        assert torch.equal(wanted, got)


@pytest.mark.parametrize("where", [place for place in PLACES if "view" not in place])
def test_without_restoring_values_move_and_no_graph_stays(where):
    model, twin = (make(lambda: Memory(where, "lerp_")) for _ in range(2))
    memory = model.memory()
    spp.trace(model, x(5, 4), restore=False)
    twin(x(5, 4))
    assert model.memory() is memory
    assert torch.equal(memory, twin.memory().detach())
    assert_plain(model, memory)
    twin.detach()
    for wanted, got in zip(train(twin), train(model), strict=True):
        assert torch.equal(wanted, got)


def test_a_frozen_parameter_that_is_written_in_place():
    model = make(lambda: Memory("attribute", "lerp_"))
    model.state = nn.Parameter(model.state, requires_grad=False)
    with pytest.warns(spp.SppWarning, match="wrote to parameters.* state"):
        spp.trace(model, iter([x(5, 4), x(5, 4)]))
    assert_plain(model, model.state)


class Rebinds(nn.Module):
    """Keeps its state as recurrent networks do: a new tensor each time, in a tuple, a list or alone."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4, 4)
        self.state = (torch.zeros(5, 4), torch.zeros(5, 4))
        self.last, self.seen = None, []

    def forward(self, x: Tensor) -> Tensor:
        self.state = self.cell(x, self.state)
        self.last = self.state[0][:, :2]
        self.seen.append(self.last)
        return self.state[0]


def test_state_that_is_rebound_over_several_batches_and_without_restoring():
    model = make(Rebinds)
    batches = [x(5, 4, seed=i) for i in range(3)]
    with unmoved(model, None):
        run = spp.trace(model, batches)
    assert run.run["batches"] == 3
    spp.trace(model, batches[0], restore=False)
    for tensor in (*model.state, model.last, *model.seen):
        assert tensor.grad_fn is None
    twin = make(Rebinds)
    twin(batches[0])
    assert torch.equal(model.state[1], twin.state[1].detach())
    model(batches[1]).sum().backward()  # nothing that was used up is in its way


@pytest.mark.parametrize("where", ["buffer", "attribute", "list", "view"])
def test_several_batches_see_what_the_ones_before_have_left(where):
    model, twin = (make(lambda: Memory(where, "lerp_")) for _ in range(2))
    batches = [x(5, 4, seed=i) for i in range(3)]
    with unmoved(model, None):
        run = spp.trace(model, batches)
    outputs = []
    for one in batches:
        outputs.append(twin(one).detach())
        twin.detach()
    row = run.frame.query("name == '' and signal == 'activation'").iloc[0]
    wanted = torch.cat(outputs).double()
    assert row.mean_square == pytest.approx(float(wanted.square().mean()), rel=1e-6)
    assert_plain(model, model.memory())


def test_a_history_from_before_the_trace_is_back_and_not_used_up():
    class Carries(nn.Module):
        def __init__(self, writes: bool) -> None:
            super().__init__()
            self.fc, self.mem, self.writes = nn.Linear(4, 4), torch.zeros(5, 4), writes

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.fc(x) + self.mem.exp())
            if self.writes:
                self.mem.mul_(0.5).add_(h)
            else:
                self.mem = 0.5 * self.mem + h
            return h

    for writes in (True, False):
        for restore in (True, "all"):
            gradients = []
            for traced in (True, False):
                model = make(lambda writes=writes: Carries(writes))
                outputs = [model(x(5, 4, seed=1))]
                before = model.mem
                node = before.grad_fn
                if traced:
                    with unmoved(model, None):
                        spp.trace(model, x(5, 4, seed=2), restore=restore)
                    assert model.mem is before and not before.is_leaf
                    assert writes or before.grad_fn is node
                outputs.append(model(x(5, 4, seed=3)))
                sum(o.square().sum() for o in outputs).backward()  # truncated backpropagation over two steps
                gradients.append([p.grad for p in model.parameters()])
            assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


class Writes(nn.Module):
    """Writes into its inputs in place."""

    def __init__(self, write) -> None:
        super().__init__()
        self.gain, self.fc, self.write = nn.Parameter(torch.full((4,), 2.0)), nn.Linear(4, 2), write

    def forward(self, *args, **kwargs) -> Tensor:
        return self.fc(self.write(self.gain, *args, **kwargs))


def _inputs(kind: str) -> tuple[object, object]:
    """A batch with a tensor in it that can be written to, and what finds that tensor in the arguments."""
    t = x(5, 4)
    if kind == "view":
        t = x(10, 4)[::2]
    if kind == "transposed":
        t = x(4, 5).t()
    if kind == "reversed view of a larger one":
        t = x(2, 5, 8)[1, :, 2:6]
    batches = {
        "keyword": ({"a": t}, lambda a: a),
        "nested": ((({"a": [t, 3]},), None), lambda d: d["a"][0]),
        "several": (((t, x(5, 4)), None), lambda a, b: a),
        "target": ((t, x(5, 2)), lambda a: a),
        "named tuple": (((Two(t, t),), None), lambda p: p.a),
    }
    return batches.get(kind, (t, lambda a: a))


@pytest.mark.parametrize(
    "kind",
    [
        "plain",
        "view",
        "transposed",
        "reversed view of a larger one",
        "keyword",
        "nested",
        "several",
        "target",
        "named tuple",
    ],
)
def test_a_batch_that_is_written_in_place(kind):
    batch, find = _inputs(kind)

    def build() -> nn.Module:
        return Writes(lambda gain, *args, **kwargs: find(*args, **kwargs).mul_(gain))

    model, twin = make(build), make(build)
    tensors = [t for _, t in _leaves(batch)]
    bases = [t._base for t in tensors if t._is_view()]
    with unmoved(model, batch):
        run = spp.trace(model, batch)
    assert all(t.is_leaf and t.grad_fn is None and not t.requires_grad for t in (*tensors, *bases))
    assert run.frame.query("name == '' and signal == 'weight_gradient' and output == 'gain'").rms.notna().all()
    for m in (twin, model):
        m(x(5, 4)) if kind in {"plain", "view"} else None


def _leaves(batch):
    from tests.oracle import leaves

    return list(leaves(batch))


def test_batches_with_gradients_and_histories_of_their_own():
    def scaled(gain: Tensor, a: Tensor) -> Tensor:
        return (a * 1).mul_(gain)

    leaf = x(5, 4).requires_grad_()
    leaf.grad = torch.ones(5, 4)
    model = make(lambda: Writes(scaled))
    with unmoved(model, leaf):
        spp.trace(model, leaf)
    assert leaf.is_leaf and leaf.requires_grad and torch.equal(leaf.grad, torch.ones(5, 4))

    encoder = make(lambda: nn.Linear(4, 4))
    features = encoder(x(5, 4)).tanh()
    node = features.grad_fn
    model = make(lambda: Writes(lambda gain, a: a.mul_(gain)))
    with unmoved(model, features):
        spp.trace(model, features)
    assert features.grad_fn is node
    features.sum().backward()  # the encoder's graph is whole

    model = make(lambda: Writes(lambda gain, a: a.requires_grad_() * gain))
    batch = x(5, 4)
    with unmoved(model, batch):
        spp.trace(model, batch)
    assert not batch.requires_grad and batch.grad is None

    model = make(lambda: Writes(lambda gain, a: a.mul_(gain)))
    expanded = x(1, 4).expand(5, 4)  # torch refuses to write there
    with unmoved(model, expanded), pytest.raises(spp.TraceError, match="single memory location"):
        spp.trace(model, expanded)


@pytest.mark.parametrize("split", [lambda t: t.split(3), lambda t: t.unbind(), lambda t: t.chunk(2)])
@pytest.mark.parametrize("options", [{}, {"restore": False}, {"batches": 2}])
def test_views_that_autograd_has_given_up(split, options):
    class Holds(nn.Module):
        """As FSDP1 leaves views of its flat parameter in the modules between their forwards."""

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 4)
            base = torch.ones(6, requires_grad=True) * 1
            self.first, *self.others = split(base)
            base.mul_(2)
            self.base = base

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x * self.base)

    model = Holds()
    with pytest.raises(RuntimeError, match="output of a function that returns multiple views"):
        _ = model.first.grad_fn
    first, node, version = model.first, model.base.grad_fn, model.base._version
    given = iter([x(5, 6)] * 3) if "batches" in options else x(5, 6)
    assert len(spp.trace(model, given, **options).frame) == 8
    assert model.first is first and model.base.grad_fn is node and model.base._version == version


def test_input_and_target_stay_one_tensor():
    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.given = x
            return self.fc(x)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        assert target is model.given
        return (output - target).square().mean()

    model, batch = make(Same), x(5, 4)
    spp.trace(model, (batch, batch), loss=loss)


def test_a_watch_changes_nothing_of_a_memory():
    for where in ("buffer", "list", "view"):
        model, twin = (make(lambda where=where: Memory(where, "lerp_")) for _ in range(2))
        wanted = train(twin, 4)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        with spp.watch(model, optimizer=optimizer, every=2) as watch:
            for step in range(4):
                optimizer.zero_grad()
                model(x(5, 4, seed=step)).square().mean().backward()
                optimizer.step()
                model.detach()
        assert len(watch.frame)
        got = [t.detach() for t in (*model.parameters(), model.memory())]
        assert all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True))
