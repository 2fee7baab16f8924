"""A pass that fails keeps what it measured, and one that is told to ends at the first NaN or infinity."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import spp
from tests.zoo.fingerprint import unmoved
from tests.zoo.harness import square, x

KEYS = ["name", "call", "output", "signal"]


class Does(nn.Module):
    """A module of one function."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Backfires(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        raise ArithmeticError("backfired")


def backfires(x: Tensor) -> Tensor:
    return Backfires.apply(x)


def raises(_: object) -> Tensor:
    raise ValueError("no")


def allocates(x: Tensor) -> Tensor:
    return x + torch.empty(1 << 55)


def network(*ends: Callable[[Tensor], Any]) -> nn.Module:
    torch.manual_seed(3)
    blocks = [nn.Sequential(nn.Linear(6, 6), Does(end), nn.BatchNorm1d(6)) for end in (*ends, torch.tanh)]
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), *blocks)


def fails(model: nn.Module, batch: Any, **options: Any) -> spp.TraceError:
    with unmoved(model, batch), pytest.raises(spp.TraceError) as caught:
        spp.trace(model, batch, **options)
    assert all(p.grad is None for p in model.parameters())
    return caught.value


def rows(run: spp.Run, *signals: str) -> pd.DataFrame:
    # a module that was not reached has no depth and no calls, but its weights have their rows
    return (
        run.frame[run.frame["signal"].isin(signals)]
        .astype({"type": str, "kind": str})
        .set_index(KEYS)
        .drop(columns="depth")
    )


def assert_rows_of(part: spp.Run, whole: spp.Run, *signals: str) -> None:
    """The rows of these signals are there, and they are those of a trace in which nothing failed, bit for bit."""
    found, whole_rows = (rows(run, *signals).drop(columns=["called"]) for run in (part, whole))
    assert set(found.index.get_level_values("signal")) == set(signals)
    pd.testing.assert_frame_equal(found, whole_rows.loc[found.index], check_exact=True)


@pytest.mark.parametrize("breaks", [raises, allocates, backfires])
def test_the_rows_so_far_are_those_of_a_pass_that_does_not_fail(breaks):
    error = fails(network(breaks), x(5, 6), loss=square)
    backward = breaks is backfires
    whole = spp.trace(network(lambda x: x.clone()), x(5, 6), loss=square)
    assert_rows_of(error.partial, whole, "activation", "weight")
    names = set(rows(error.partial, "activation").index.get_level_values("name"))
    assert names == ({*whole.frame["name"]} if backward else {"0", "1", "2.0"})
    # what is behind the place that broke has its gradients, of the parameters too
    late = set(rows(error.partial, "gradient", "weight_gradient").index.get_level_values("name"))
    assert late == ({"", "2", "2.1", "2.2", "3", "3.0", "3.1", "3.1.tanh", "3.2"} if backward else set())
    assert error.partial.info["partial"] == f"batch 1: {error.headline}" and error.headline in str(error.partial)


def test_a_loss_that_fails_keeps_the_forward():
    error = fails(network(torch.relu), x(5, 6), loss=lambda output, target: raises(output))
    whole = spp.trace(network(torch.relu), x(5, 6), loss=square)
    assert_rows_of(error.partial, whole, "activation", "weight")
    assert len(rows(error.partial, "activation")) == len(rows(whole, "activation"))
    reasons = set(error.partial.unmeasured["reason"])
    assert reasons == {"not reached: the loss raised ValueError: no"}


def test_targets_that_do_not_fit_keep_the_forward_too():
    with pytest.raises(spp.InputError) as caught:
        spp.trace(network(torch.relu), (x(5, 6), x(5, 7)))
    assert len(rows(caught.value.partial, "activation")) == 13
    with pytest.raises(spp.InputError) as caught:
        spp.trace(network(torch.relu), 3)
    assert caught.value.partial is None


def test_batches_before_the_one_that_fails_are_merged():
    def third(x: Tensor) -> Tensor:
        return raises(x) if len(x) == 3 else x.clone()

    batches = [x(5, 6), x(4, 6, seed=2), x(3, 6, seed=4)]
    error = fails(network(third), batches, loss=square)
    found = rows(error.partial, "activation")["called"]
    assert found["0", 0, "", "activation"] == 3 and found["3.2", 0, "", "activation"] == 2
    whole = spp.trace(network(third), iter(batches[:2]), loss=square)
    behind = rows(whole, "gradient").loc["3.2"]
    pd.testing.assert_frame_equal(rows(error.partial, "gradient").loc["3.2"], behind, check_exact=True)
    assert "batch 3" in error.partial.info["partial"] and error.partial.info["batches"] == 3

    def stops() -> Any:
        yield from batches[:2]
        raise KeyError("third.png")

    error = fails(network(third), stops(), loss=square)
    assert str(error).startswith("batch: the iterable of batches raised KeyError: 'third.png'.")
    pd.testing.assert_frame_equal(error.partial.frame, whole.frame)
    assert isinstance(error.__cause__, KeyError)


def test_what_was_not_reached_says_so_and_nothing_is_blamed_for_it():
    class Tries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.bad, self.late = nn.Linear(6, 6), Does(raises), nn.Linear(6, 6)
            self.frozen = nn.Linear(6, 6).requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.late(self.bad(self.first(self.frozen(x))))

    part = fails(Tries(), x(5, 6)).partial
    reasons = part.unmeasured.set_index(["name", "signal"])["reason"]
    ended = "not reached: the forward pass raised ValueError: no"
    assert reasons["late", "activation"] == reasons["first", "gradient"] == ended
    assert set(reasons["first", "weight_gradient"]) == {ended}
    assert set(reasons["frozen", "weight_gradient"]) == {"frozen: requires_grad is False"}
    assert reasons["bad", "activation"] == reasons["", "activation"] == "the call raised ValueError"
    assert not part.findings.worst("warning")


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x: x / 0, r"First not finite: NaN or infinity in the activation of module '2\.1' \(Does\)\. Check"),
        (
            lambda x: x.abs().log() - torch.inf,
            r"First not finite: -inf in the activation of module '2\.1' \(Does\), NaN or infinity in the act.* '2\.2'",
        ),
        (lambda x: (x, [x.sqrt()]), r"NaN or infinity in the activation '1\.0' of module '2\.1'"),
    ],
)
def test_the_first_row_that_is_not_finite_is_named(function, named):
    model = network(function, raises)
    if "1\\.0" in named:
        model[2][2] = Does(lambda pair: pair[0])
    with pytest.raises(spp.TraceError, match=named):
        spp.trace(model, x(5, 6))


def test_a_weight_comes_before_what_is_made_of_it_and_gradients_last():
    model = network(raises)
    nn.init.constant_(model[2][0].weight, torch.nan)
    with pytest.raises(spp.TraceError, match=r"in the weight 'weight' of module '2\.0'"):
        spp.trace(model, x(5, 6))
    with pytest.raises(spp.TraceError, match=r"out of memory.*First not finite: NaN or infinity in the .* '2\.1'"):
        spp.trace(network(lambda x: x / 0, allocates), x(5, 6))
    with pytest.raises(spp.TraceError, match=r"backfired.*in the gradient of module '3\.0'"):
        spp.trace(network(backfires, lambda x: (x * 0).abs().sqrt()), x(5, 6), loss=square)


@pytest.mark.parametrize("after", [raises, torch.tanh])
def test_stop_at_nonfinite_ends_at_the_first(after):
    error = fails(network(lambda x: x / 0, after), x(5, 6), stop_at_nonfinite=True)
    assert str(error) == (
        "module '2.1' (Does): the pass ends at its first non-finite activation: 30 of 30 values. "
        "Look at what it is given"
    )
    assert isinstance(error.__cause__, FloatingPointError)
    assert list(rows(error.partial, "activation").index.get_level_values("name")) == ["0", "1", "2.0", "2.1"]
    first = next(iter(error.partial.findings))
    assert (first.rule, first.name) == ("nonfinite", "2.1")


def test_stop_at_nonfinite_ends_at_the_first_gradient():
    error = fails(network(lambda x: (x * 0).abs().sqrt()), x(5, 6), loss=square, stop_at_nonfinite=True)
    assert str(error).startswith("module '2.0' (Linear): the pass ends at its first non-finite gradient: 30 of 30 ")
    late = rows(error.partial, "gradient").reset_index()
    assert late[late["nonfinite"] > 0]["name"].tolist() == ["2.0"] and "0" not in set(late["name"])

    class Overflows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            # the gradient of the parameter alone is infinite
            return x.detach() * self.gain * 1e30

    whole = {"loss": lambda output, target: (output.double() * 1e10).sum().float(), "stop_at_nonfinite": True}
    with pytest.raises(spp.TraceError, match=r"\(Overflows\): .* first non-finite weight gradient 'gain': 1 of 1"):
        spp.trace(Overflows(), x(5, 6).abs(), **whole)


def test_stop_at_nonfinite_ends_though_the_model_catches_what_is_raised():
    class Tries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network(lambda x: x / 0)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.inner(x)
            except ArithmeticError:
                return x * self.inner[0].bias

    error = fails(Tries(), x(5, 6), stop_at_nonfinite=True)
    assert str(error).startswith("module 'inner.2.1' (Does): the pass ends at its first non-finite activation")


def test_a_mask_ends_nothing_and_a_finite_pass_is_what_it_is_without():
    def masked(x: Tensor) -> Tensor:
        return x.masked_fill(x < x.amax(-1, keepdim=True), -torch.inf)

    model = network(torch.relu)
    model[2].insert(2, nn.Sequential(Does(masked), nn.Softmax(-1)))
    plain, stopped = spp.trace(model, x(5, 6)), spp.trace(model, x(5, 6), stop_at_nonfinite=True)
    assert plain.frame["neginf"].sum() > 0
    pd.testing.assert_frame_equal(plain.frame, stopped.frame)
    assert "partial" not in plain.info


def test_a_partial_run_is_saved_drawn_and_diagnosed(tmp_path):
    part = fails(network(torch.relu, raises), x(5, 6)).partial
    assert spp.load(part.save(tmp_path / "part")).info["partial"] == part.info["partial"]
    part.plot().save(tmp_path / "part.png")
    assert "partial, batch 1: module '3.1' (Does): the forward pass raised" in str(part)
