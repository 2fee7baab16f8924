"""Tensor subclasses: stripped for measuring, called for nothing else, and holes where they hold no values."""

import pytest
import torch
from torch import Tensor, nn

import spp
from tests.zoo.harness import examine, make, square, x


class Logged(Tensor):
    """A subclass that follows every operation and counts them."""

    seen = 0

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        Logged.seen += 1
        return super().__torch_function__(function, types, args, kwargs or {})


def test_tensor_subclasses_are_stripped_for_measuring_only():
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4))

    def batch() -> Tensor:
        return x(5, 6).as_subclass(Logged)

    trace = examine(build, batch)
    plain = spp.trace(make(build), x(5, 6), loss=square, channel_axis=lambda m, t: t.dim() - 1)
    assert trace.frame.drop(columns="channels").equals(plain.frame.drop(columns="channels"))


def test_measuring_calls_nothing_of_a_subclass():
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
    given = x(5, 6).as_subclass(Logged)
    Logged.seen = 0
    output = model(given)
    plain = Logged.seen
    loss = torch.zeros((), requires_grad=True)
    Logged.seen = 0
    spp.trace(model, given, loss=lambda output, target: loss * 1, signals=["activation", "gradient"])
    assert Logged.seen == plain and isinstance(output, Logged)


def test_a_wrapper_without_values_of_its_own_is_a_hole():
    class Wrapper(Tensor):
        @staticmethod
        def __new__(cls, inner: Tensor):
            made = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
            made.inner = inner
            return made

        @classmethod
        def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
            plain = torch.utils._pytree.tree_map_only(Wrapper, lambda t: t.inner, (args, kwargs or {}))
            return function(*plain[0], **plain[1])

    class Wraps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Wrapper(x.detach())

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.wraps = nn.Linear(6, 4), Wraps()

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) + self.wraps(x)[:, :4]

    trace = examine(Net, lambda: x(5, 6), rows=False)
    assert trace.unmeasured.query("name == 'wraps'")["reason"].tolist() == [
        "a Wrapper wraps other tensors and has no values of its own"
    ]


def test_fake_tensors_are_refused():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        model, given = nn.Linear(6, 4), torch.randn(5, 6)
        with pytest.raises(spp.InputError, match="under a FakeTensorMode"):
            spp.trace(model, given, loss=square)
