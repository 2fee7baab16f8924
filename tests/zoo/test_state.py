"""What a forward pass may change, and a trace may not."""

import contextlib
import random
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import spp
from tests.zoo.fingerprint import fingerprint, unmoved
from tests.zoo.harness import assert_step_identical, examine, make, square, x


class Changes(nn.Module):
    """A linear layer, and something done to the module in every forward."""

    def __init__(self, change) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("empty", None)
        self.plain, self.steps, self.log, self.table = torch.zeros(3), 0, [1], {"a": {"b": [1]}}
        self.array, self.loose = np.zeros(3), [nn.Parameter(torch.ones(2))]
        self.zeros = nn.Parameter(torch.zeros(2))
        self.generator, self.numpy = torch.Generator().manual_seed(3), np.random.default_rng(3)
        self.others = [torch.Generator().manual_seed(4), random.Random(5), np.random.RandomState(6)]
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        extra = self.change(self)
        return self.fc(x) * (1 if extra is None else extra)


def _quiet(_: object) -> None:
    """Give nothing, whatever a change gave."""


def _add(parameter: nn.Parameter) -> None:
    with torch.no_grad():
        parameter.add_(1)


def _noise(m: Changes) -> Tensor:
    drawn = torch.randn(6, generator=m.generator) + torch.randn(6) + float(m.numpy.normal()) + random.random()
    return drawn + float(np.random.randn()) + torch.rand(6, generator=m.others[0]) + m.others[1].random()  # noqa: NPY002


CHANGES = {
    "buffer in place": lambda m: _quiet(m.count.add_(1)),
    "buffer rebound": lambda m: setattr(m, "count", m.count + 1),
    "buffer through .data": lambda m: _quiet(m.count.data.add_(1)),
    "buffer through numpy": lambda m: _quiet(m.count.numpy().__iadd__(1)),
    "buffer made": lambda m: setattr(m, "empty", torch.ones(2)),
    "buffer registered": lambda m: m.register_buffer(f"new{m.steps}", torch.ones(1)),
    "buffer's sign of zero": lambda m: _quiet(m.count.mul_(-1)),
    "parameter through .data": lambda m: _quiet(m.fc.weight.data.clamp_(-0.1, 0.1)),
    "parameter through a view of .data": lambda m: _quiet(m.fc.bias.data[2:].copy_(torch.arange(4.0))),
    "parameter's sign of zero through .data": lambda m: _quiet(m.zeros.data.mul_(-1)),
    "parameter through .data and numpy": lambda m: _quiet(m.fc.weight.data.numpy().__iadd__(1)),
    "parameter through .data and then seen": lambda m: _quiet((m.fc.bias.data.add_(1), _add(m.fc.bias))),
    "parameter in a plain list": lambda m: _quiet((m.loose[0].data.add_(1), _add(m.loose[0]))),
    "plain tensor": lambda m: _quiet(m.plain.add_(1)),
    "counter": lambda m: setattr(m, "steps", m.steps + 1),
    "list": lambda m: m.log.append(2),
    "dictionary in a dictionary": lambda m: m.table["a"]["b"].append(2),
    "numpy array": lambda m: _quiet(m.array.__iadd__(1)),
    "a new attribute": lambda m: setattr(m, "fresh", 3),
    "a lost attribute": lambda m: _quiet(m.__dict__.pop("steps", None)),
    "mode": lambda m: _quiet(m.eval()),
    "mode of a child": lambda m: _quiet(m.fc.train(False)),
    "a new child": lambda m: m.add_module("late", nn.Linear(2, 2)),
    "a hook": lambda m: _quiet(m.fc.register_forward_hook(lambda *_: None)),
    "requires_grad": lambda m: _quiet(m.fc.bias.requires_grad_(False)),
    "a hook on a parameter": lambda m: _quiet(m.fc.bias.register_hook(lambda g: g)),
    "an optimizer hook made": lambda m: _quiet(m.fc.bias.register_post_accumulate_grad_hook(lambda p: None)),
    "randomness of every kind": _noise,
    "the seed": lambda m: _quiet(torch.manual_seed(5)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_whatever_a_forward_changes_is_put_back(change):
    def build() -> nn.Module:
        return Changes(change)

    model, given = make(build), x(5, 6)
    with unmoved(model, given):
        spp.trace(model, given, loss=square)
    # the fingerprint looks at attributes one level deep
    assert model.table == {"a": {"b": [1]}} and model.log == [1]
    states = [repr(model.others[0].get_state().sum()), model.others[1].getstate(), str(model.others[2].get_state())]
    fresh = make(build)
    assert states == [
        repr(fresh.others[0].get_state().sum()),
        fresh.others[1].getstate(),
        str(fresh.others[2].get_state()),
    ]
    examine(build, lambda: x(5, 6), rows=change is not CHANGES["a new child"])


def test_grad_mode_is_put_back():
    model = Changes(lambda m: _quiet(torch.set_grad_enabled(False)))
    for before in (True, False):
        with torch.set_grad_enabled(before):
            trace = spp.trace(model, x(5, 6), loss=square)
            assert torch.is_grad_enabled() is before
    assert trace.unmeasured.query("signal == 'gradient'")["reason"].str.startswith("nothing the loss").all()


def test_restore_false_lets_buffers_move():
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    spp.trace(model, x(5, 6), loss=square, restore=False)
    assert model[1].num_batches_tracked.item() == 1 and bool(model[1].running_mean.abs().sum() > 0)
    assert model[0].weight.grad is None


def _clamp(m: Changes) -> None:
    with torch.no_grad():
        m.fc.weight.clamp_(-0.1, 0.1)


def test_a_forward_that_writes_to_a_parameter_is_named():
    model = Changes(_clamp)
    with pytest.warns(spp.SppWarning, match=r"wrote to parameters.*fc\.weight.*restore='all'") as caught:
        spp.trace(model, x(5, 6), loss=square)
    assert caught[0].filename == __file__
    assert model.fc.weight.abs().max() <= 0.1


@pytest.mark.parametrize("where", ["loss", "backward", "raised"])
def test_data_that_is_written_outside_of_the_forward_is_put_back(where):
    model, given = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4)), x(5, 6)

    def write(*_: object) -> None:
        model[2].weight.data.clamp_(-0.05, 0.05)

    def loss(output: Tensor, target: object) -> Tensor:
        if where == "backward":
            output.register_hook(write)
        else:
            write()
        return output.missing if where == "raised" else square(output)

    with unmoved(model, given), pytest.raises(spp.TraceError) if where == "raised" else contextlib.nullcontext():
        spp.trace(model, given, loss=loss)


@pytest.mark.filterwarnings("ignore")
def test_data_that_is_read_inside_a_transform_and_written_later_is_put_back():
    def write(m: Changes) -> Tensor:
        scale = torch.func.grad(lambda v: (v.square() * m.fc.weight.data[0]).sum())(torch.ones(6))
        m.fc.weight.data.mul_(0.5)
        return scale

    examine(lambda: Changes(write), lambda: x(5, 6), rows=False, interrupted=False)


def test_data_that_is_written_after_a_write_that_is_seen_is_named():
    model = Changes(lambda m: _quiet((_add(m.fc.bias), m.fc.bias.data.add_(1))))
    with pytest.warns(spp.SppWarning, match=r"wrote to parameters.*fc\.bias"):
        spp.trace(model, x(5, 6), loss=square)


def test_parameters_that_are_read_through_data_are_what_modes_and_subclasses_see():
    seen = []

    class Sees(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    model = Changes(lambda m: _quiet((seen.clear(), m.fc.weight.data, found.append(list(seen)))))
    found: list[list[object]] = []
    with Sees():
        model(x(5, 6))
        spp.trace(model, x(5, 6), loss=square)
    assert found[0] == found[1] == [torch.Tensor.data.__get__]


def test_restore_all_undoes_that_too():
    examine(lambda: Changes(_clamp), lambda: x(5, 6), restore="all", interrupted=False)


def test_a_parameter_whose_data_is_replaced_has_its_own_again():
    def swap(m: Changes) -> None:
        m.fc.weight.data = m.fc.weight.data * 2

    examine(lambda: Changes(swap), lambda: x(5, 6))


def test_a_parameter_that_is_replaced_is_itself_again():
    def replace(m: Changes) -> None:
        m.fc.weight = nn.Parameter(m.fc.weight.detach() * 2)

    model, given = make(lambda: Changes(replace)), x(5, 6)
    with unmoved(model, given):
        trace = spp.trace(model, given, loss=square)
    assert len(trace.frame.query("signal == 'weight_gradient'")) == 2


def test_parameters_are_not_copied():
    model = nn.Linear(6, 6)
    where, version = model.weight.data_ptr(), model.weight._version
    spp.trace(model, x(5, 6), loss=square)
    assert model.weight.data_ptr() == where and model.weight._version == version


def test_gradients_that_are_there_stay_the_same_objects():
    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 4))
        for i, parameter in enumerate(model.parameters()):
            if i != 2:
                parameter.grad = torch.full_like(parameter, float(i))
        return model

    trace = examine(build, lambda: x(5, 6), rows=False)
    assert trace.frame.query("signal == 'weight_gradient'")["abs_max"].max() < 1  # none of what was there


def test_an_optimizer_in_a_post_accumulate_hook_does_not_step():
    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 4))
        for parameter in model.parameters():
            optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)

            def step(p: Tensor, optimizer: torch.optim.Optimizer = optimizer) -> None:
                optimizer.step()
                optimizer.zero_grad()

            parameter.register_post_accumulate_grad_hook(step)
        return model

    trace = examine(build, lambda: x(5, 6), rows=False)
    assert len(trace.frame.query("signal == 'weight_gradient'")) == 4


def test_an_optimizer_behind_an_accumulation_node_cannot_be_silenced_and_is_named():
    """Hooks on autograd's own accumulation nodes are nowhere listed: they run, and what they wrote to is said."""
    model = nn.Linear(6, 4)
    node = model.weight.view_as(model.weight).grad_fn.next_functions[0][0]

    def step(*_: object) -> None:
        with torch.no_grad():
            model.weight -= 0.1

    node.register_hook(step)
    with pytest.warns(spp.SppWarning, match="weight"):
        spp.trace(model, x(5, 6), loss=square)
    del node


def test_modules_that_cannot_be_copied():
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lock = nn.Linear(6, 4), contextlib.ExitStack()

        def __deepcopy__(self, memo: object) -> None:
            raise TypeError("no copies")

        def __getstate__(self) -> None:
            raise TypeError("no pickles")

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x)

    examine(Stubborn, lambda: x(5, 6))


def test_a_trace_that_fails_in_restoring_one_thing_restores_the_others(monkeypatch):
    model, given = nn.Linear(6, 4), x(5, 6)
    before = fingerprint(model, given)
    from spp.capture.module_state import ModuleState

    def broken(_: object) -> None:
        raise OSError("cannot")

    monkeypatch.setattr(ModuleState, "restore", broken)
    with pytest.raises(OSError, match="cannot"):
        spp.trace(model, given, loss=square)
    assert fingerprint(model, given) == before


def test_a_module_whose_graph_outlives_the_pass():
    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.raw = nn.Linear(6, 6), nn.Parameter(torch.randn(6))
            self.scale = self.raw.exp()  # a graph made once

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) * self.scale + x

    model, twin = make(Cached), make(Cached)
    for _ in range(2):  # in training the first backward uses its graph up; a trace leaves it whole
        spp.trace(model, x(5, 6), loss=square)
    assert_step_identical(twin, model, lambda: x(5, 6), square)

    model = Cached()
    first = spp.trace(model, x(5, 6), loss=square, signals=["activation"])
    node = model.scale.grad_fn
    assert not any(node.metadata.values())
    assert spp.trace(model, x(5, 6), loss=square, signals=["activation"]).blocks.equals(first.blocks)
    assert len(first.blocks) == 1


def test_the_model_trains_on_after_many_traces():
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 4))

    twin, traced = make(build), make(build)
    for _ in range(3):
        spp.trace(traced, [x(5, 6), x(4, 6)], loss=square)
        assert_step_identical(twin, traced, lambda: x(5, 6), square)


def test_warnings_of_the_users_model_pass_through():
    def warn(m: Changes) -> None:
        warnings.warn("mine", UserWarning, stacklevel=1)

    with pytest.warns(UserWarning, match="mine"):
        spp.trace(Changes(warn), x(5, 6), loss=square)


def test_a_weight_that_its_forward_replaces_is_measured_as_it_was_used():
    class MaxNorm(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            self.weight.data = torch.renorm(self.weight.data, 2, 0, 0.1)
            self.bias.data.clamp_(min=0.25)
            return super().forward(x)

    layer = MaxNorm(6, 4)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    used = torch.renorm(weight, 2, 0, 0.1), bias.clamp(min=0.25)
    trace = spp.trace(layer, x(5, 6), restore="all")
    rows = trace.frame.query("signal == 'weight'").set_index("output")
    for name, tensor in zip(("weight", "bias"), used, strict=True):
        assert rows.loc[name, "mean_square"] == pytest.approx(tensor.square().mean().item(), rel=1e-6)
    assert torch.equal(layer.weight, weight) and torch.equal(layer.bias, bias)
