"""What is said when the user's model fails: which module, what arrived, what to do, and the original as the cause."""

import pytest
import torch
from torch import Tensor, nn

import spp
from tests.zoo.harness import square, x


class Fails(nn.Module):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        raise self.error


class Odd:
    @property
    def shape(self) -> None:
        raise RuntimeError("not even this")

    def __len__(self) -> int:
        raise RuntimeError("nor that")


def nested(error: BaseException) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.ReLU(), Fails(error)))


def test_the_innermost_module_is_named_with_what_arrived():
    error = ValueError("too\n  bad")
    with pytest.raises(spp.TraceError) as caught:
        spp.trace(nested(error), x(5, 6))
    assert str(caught.value) == (
        "module '1.1' (Fails): the forward pass raised ValueError: too bad; got float32 tensor of shape (5, 6). "
        "Check that the model runs on this batch by itself; the original exception is the cause of this one"
    )
    assert caught.value.__cause__ is error


def test_an_error_that_is_raised_from_another_names_the_first_ones_module():
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nested(ValueError("deep"))

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.inner(x)
            except ValueError as error:
                raise RuntimeError("shallow") from error

    with pytest.raises(spp.TraceError, match=r"module 'inner\.1\.1' \(Fails\)|the model \(Outer\)"):
        spp.trace(Outer(), x(5, 6))


def test_an_error_that_the_model_catches_is_a_hole_and_the_pass_goes_on():
    class Tries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bad, self.good = nn.Sequential(nn.Linear(6, 6), Fails(ValueError("no"))), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.bad(x)
            except ValueError:
                return self.good(x)

    trace = spp.trace(Tries(), x(5, 6), loss=square)
    caught = trace.unmeasured.query("signal == 'activation'").set_index("name")["reason"]
    assert caught["bad"] == caught["bad.1"] == "the call raised ValueError, which its caller caught"
    assert trace.modules.set_index("name")["depth"].isna().to_dict() == {
        "": False,
        "bad": True,
        "bad.0": False,
        "bad.1": True,
        "good": False,
    }
    assert trace.frame.query("name == 'good' and signal == 'activation'")["depth"].item() == 1


def test_arguments_that_cannot_be_described():
    class Passes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fails = Fails(ValueError("no"))

        def forward(self, x: Tensor) -> Tensor:
            return self.fails([Odd(), *range(9)], key=Odd(), more={1: Odd()})

    with pytest.raises(spp.TraceError, match="module 'fails'"):
        spp.trace(Passes(), x(5, 6))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_interrupts_are_not_turned_into_errors(error):
    with pytest.raises(error):
        spp.trace(nested(error()), x(5, 6))
    assert "__call__" in vars(nn.Module) and "__add__" not in vars(torch.Tensor)


def test_a_loss_that_fails_says_what_it_was_given():
    with pytest.raises(
        spp.TraceError, match=r"^the loss raised KeyError: 'x'; got dict of \{y: float32 tensor of shape"
    ):

        class Gives(nn.Module):
            def forward(self, x: Tensor) -> dict[str, Tensor]:
                return {"y": x}

        spp.trace(Gives(), x(5, 6), loss=lambda output, target: output["x"])


def test_a_backward_that_fails_says_how_far_it_came():
    class Backfires(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx, gradient: Tensor) -> Tensor:
            raise ArithmeticError("backfired")

    class Layer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Backfires.apply(x)

    model = nn.Sequential(nn.Linear(6, 6), Layer(), nn.ReLU())
    with pytest.raises(
        spp.TraceError,
        match=r"^the backward pass, after it had left module '1' \(Layer\), raised ArithmeticError: backfired; got",
    ) as caught:
        spp.trace(model, x(5, 6), loss=square)
    assert isinstance(caught.value.__cause__, ArithmeticError)
    assert all(p.grad is None for p in model.parameters())


def test_a_graph_that_is_used_up_in_the_loss():
    def loss(output: Tensor, target: object) -> Tensor:
        value = output.square().mean()
        value.backward()
        return value

    model = nn.Linear(6, 4)
    with pytest.raises(spp.TraceError, match=r"the backward pass.*raised RuntimeError.*second time"):
        spp.trace(model, x(5, 6), loss=loss)
    assert model.weight.grad is None


def test_infinite_recursion_is_still_an_error():
    class Endless(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return self(x)

    with pytest.raises(spp.TraceError, match="RecursionError"):
        spp.trace(Endless(), x(5, 6))
