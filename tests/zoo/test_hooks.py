"""The users' own hooks, of every kind: kept, in order, fired once."""

from contextlib import nullcontext

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import spp
from tests.zoo.fingerprint import unmoved
from tests.zoo.harness import examine, make, square, x


def test_every_hook_of_the_users_fires_once_in_order_and_stays():
    log: list[str] = []

    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 4))
        first = model[0]
        first.register_forward_pre_hook(lambda m, a: log.append("pre"))
        first.register_forward_hook(lambda m, a, o: log.append("forward") or o * 2)
        first.register_forward_hook(lambda m, a, o: log.append("second"), always_call=True)
        first.register_full_backward_pre_hook(lambda m, g: log.append("backward pre"))
        first.register_full_backward_hook(lambda m, i, o: log.append("backward"))
        first.weight.register_hook(lambda g: log.append("weight") or g * 3)
        return model

    model, given = make(build), x(5, 6).requires_grad_()
    square(model(given)).backward()
    plain, weight = list(log), model[0].weight.grad.clone()
    model.zero_grad()
    given.grad = None
    log.clear()
    with unmoved(model, given):
        trace = spp.trace(model, given, loss=square)
    assert log == plain and sorted(log) == sorted(["pre", "forward", "second", "backward pre", "backward", "weight"])
    row = trace.frame.query("name == '0' and output == 'weight' and signal == 'weight_gradient'").iloc[0]
    assert row["abs_max"] == pytest.approx(weight.abs().max().item())
    examine(build, lambda: x(5, 6).requires_grad_())


def consumes(parameter: nn.Parameter, at: str, nodes: list) -> None:
    """Take the gradient away as it arrives, as an optimizer inside the backward pass does."""

    def take(*_: object) -> None:
        with torch.no_grad():
            parameter.sub_(0.1 * parameter.grad)
        parameter.grad = None

    if at == "post-accumulate hook":
        parameter.register_post_accumulate_grad_hook(take)
    else:
        # where torch.distributed.optim._apply_optimizer_in_backward hangs its optimizers
        nodes.append(parameter.view_as(parameter).grad_fn.next_functions[0][0])
        nodes[-1].register_hook(take)


@pytest.mark.parametrize("at", ["post-accumulate hook", "accumulation node"])
@pytest.mark.parametrize("optimizer", [False, True])
def test_a_watch_has_the_gradients_that_a_hook_takes_away(at, optimizer):
    def train(consumed: bool, watched: bool) -> tuple[list[Tensor], spp.Run | None]:
        torch.manual_seed(5)
        model, nodes = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4)), []
        model[2].weight = nn.Parameter(model[0].weight[:4].detach().clone())
        step = torch.optim.SGD(model.parameters(), 0.1)
        if consumed:
            for parameter in model.parameters():
                consumes(parameter, at, nodes)
        # an optimizer that finds nothing left to do
        watch = spp.watch(model, step if optimizer else None, every=1) if watched else nullcontext()
        with watch:
            for seed in range(3):
                square(model(x(5, 6, seed=seed))).backward()
                step.step()
                step.zero_grad()
        return [p.detach().clone() for p in model.parameters()], watch if watched else None

    alone, (weights, watch), (_, plain) = train(True, False)[0], train(True, True), train(False, True)
    assert all(map(torch.equal, alone, weights))
    keys = ["step", "name", "output", "signal"]
    found, wanted = (w.frame.query("signal == 'weight_gradient'").set_index(keys) for w in (watch, plain))
    assert len(found) == 12 and not len(watch.unmeasured)
    assert found["mean_square"].to_numpy() == pytest.approx(wanted["mean_square"].to_numpy(), rel=1e-5)
    assert found["acsm"].to_numpy() == pytest.approx(wanted["acsm"].to_numpy(), rel=1e-5)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradients_inside_a_checkpoint_that_a_hook_takes_away(reentrant):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(checkpoint(self.a, x, use_reentrant=reentrant))

    rows = []
    for consumed in (True, False):
        torch.manual_seed(2)
        model = Net()
        for parameter in model.parameters() if consumed else ():
            consumes(parameter, "post-accumulate hook", [])
        with spp.watch(model, every=1) as watch:
            square(model(x(5, 6).requires_grad_())).backward()
        assert watch.unmeasured.empty
        rows.append(watch.frame.query("signal == 'weight_gradient'"))
    pd.testing.assert_frame_equal(*rows)


def test_gradients_that_are_taken_away_in_parts_say_so():
    model, nodes = nn.Linear(6, 4), []
    consumes(model.weight, "post-accumulate hook", nodes)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with spp.watch(model, optimizer, every=1) as watch:
        for half in x(6, 6).chunk(2):
            square(model(half)).backward()
        optimizer.step()
    assert watch.frame.query("signal == 'weight_gradient'")["output"].tolist() == ["bias"]
    assert watch.unmeasured["reason"].tolist() == [
        "its gradient arrived in parts, in several backward passes, and a hook took them away"
    ]


def test_a_trace_has_what_a_hook_at_an_accumulation_node_takes_away():
    model, nodes = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4)), []
    plain = spp.trace(model, x(5, 6), loss=square)
    for parameter in model.parameters():
        node = parameter.view_as(parameter).grad_fn.next_functions[0][0]
        node.register_hook(lambda *_, parameter=parameter: setattr(parameter, "grad", None))
        nodes.append(node)
    pd.testing.assert_frame_equal(spp.trace(model, x(5, 6), loss=square).frame, plain.frame)


def test_rows_hold_what_the_rest_of_the_model_receives():
    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
        model[0].register_forward_hook(lambda m, a, o: o * 0 + 3)
        return model

    frame = spp.trace(build(), x(5, 6), loss=square).frame.query("signal == 'activation'").set_index("name")
    assert frame.loc["0", "mean"] == frame.loc["1", "mean"] == 3


def test_global_module_hooks_are_kept_and_fire():
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, a, o: seen.append(type(m).__name__))
    try:
        examine(lambda: nn.Sequential(nn.Linear(6, 6)), lambda: x(5, 6), interrupted=False, rows=False)
    finally:
        handle.remove()
    assert seen[:2] == ["Linear", "Sequential"] and len(seen) == 6
