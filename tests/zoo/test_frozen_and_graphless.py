"""Parts without a graph: frozen, detached, under no_grad, in inference mode, with inner backward passes."""

import pytest
import torch
from torch import Tensor, nn

import spp
from tests.zoo.harness import examine, square, x


class Parts(nn.Module):
    """Three layers; how the first reaches the second is open."""

    def __init__(self, way) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.way(self, x))


def _no_grad(net: Parts, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = net.first(x)
    return net.second(y)


def _inference(net: Parts, x: Tensor) -> Tensor:
    with torch.inference_mode():
        y = net.first(x)
        y.add_(1)
    return net.second(y.clone())


WAYS = {
    "detach": lambda net, x: net.second(net.first(x).detach()),
    "detach in place": lambda net, x: net.second(net.first(x).detach_()),
    "no_grad": _no_grad,
    "inference_mode": _inference,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_what_has_no_graph_has_values_and_a_reason(way):
    trace = examine(lambda: Parts(way), lambda: x(5, 6))
    hole = trace.unmeasured.query("name == 'first' and signal == 'gradient'")["reason"].item()
    assert hole.startswith(("output needs no gradient", "no gradient arrived"))
    assert len(trace.unmeasured.query("name == 'first' and signal == 'weight_gradient'")) == 2
    assert set(trace.frame.query("signal == 'gradient'")["name"]) == {"", "second", "third"}


def test_a_value_changed_inside_inference_mode_is_reduced_anew():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.fc = Inner(), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.inner(x).clone())

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            with torch.inference_mode():
                return self.fc(x).add_(100)

    examine(Net, lambda: x(5, 6))


@pytest.mark.parametrize("frozen", ["first", "second", "third"])
def test_frozen_parts(frozen):
    def build() -> nn.Module:
        net = Parts(lambda net, x: net.second(net.first(x)))
        getattr(net, frozen).requires_grad_(False)
        return net

    trace = examine(build, lambda: x(5, 6))
    holes = trace.unmeasured.query("signal == 'weight_gradient'")
    assert holes["name"].tolist() == [frozen] * 2 and (holes["reason"] == "frozen: requires_grad is False").all()
    assert not getattr(build(), frozen).weight.requires_grad


def test_all_frozen():
    trace = examine(
        lambda: nn.Sequential(nn.Linear(6, 6), nn.ReLU()).requires_grad_(False), lambda: x(5, 6), interrupted=False
    )
    assert set(trace.frame["signal"]) == {"activation", "weight"}
    assert (trace.unmeasured.query("signal == 'gradient'")["reason"].str.startswith("nothing the loss depends")).all()


def test_a_trace_under_no_grad_or_inference_mode_has_gradients_all_the_same():
    model, batch = nn.Sequential(nn.Linear(6, 6), nn.ReLU()), x(5, 6)
    plain = spp.trace(model, batch, loss=square).frame
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            frame = spp.trace(model, batch, loss=square).frame
            assert torch.is_grad_enabled() is False
        assert frame.equals(plain)


def test_an_inference_tensor_as_a_batch():
    with torch.inference_mode():
        batch = x(5, 6) * 1
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    assert spp.trace(model, batch, loss=square).frame.equals(spp.trace(model, batch.clone(), loss=square).frame)
    assert batch.is_inference()


def test_a_batch_that_hangs_on_another_graph_is_cut_off_and_that_graph_still_works():
    weight = torch.ones(6, requires_grad=True)
    batch = x(5, 6) * weight
    model = nn.Linear(6, 4)
    trace = spp.trace(model, batch, loss=square)
    assert weight.grad is None and len(trace.frame.query("signal == 'gradient'")) == 1
    model(batch).sum().backward()
    assert weight.grad is not None


class Forces(nn.Module):
    """The gradient of an energy, taken inside forward."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = self.fc2(self.act(self.fc1(x))).sum()
            return torch.autograd.grad(energy, x, create_graph=True)[0]


def test_a_gradient_inside_forward_is_not_the_traces_own():
    examine(Forces, lambda: x(5, 6))


def test_a_gradient_penalty_in_the_loss():
    def penalty(output: Tensor, target: object) -> Tensor:
        inner = torch.autograd.grad(output.sum(), batch, create_graph=True)[0]
        return output.square().mean() + inner.square().sum()

    batch = x(5, 6).requires_grad_()
    build = lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))  # noqa: E731
    trace = examine(build, lambda: batch, loss=penalty, interrupted=False)
    assert batch.grad is not None  # from the steps taken after the trace
    assert len(trace.frame.query("signal == 'gradient'")) == 4


def test_a_backward_inside_the_loss_leaves_the_outer_gradients():
    other = nn.Linear(4, 1)

    def loss(output: Tensor, target: object) -> Tensor:
        other(output.detach()).sum().backward()
        return output.square().mean() + other(output).mean()

    other.weight.grad = torch.full((1, 4), 5.0)
    kept = other.weight.grad
    model = nn.Linear(6, 4)
    trace = spp.trace(model, x(5, 6), loss=loss)
    assert other.weight.grad is kept and model.weight.grad is None
    assert len(trace.frame.query("signal == 'weight_gradient'")) == 2
