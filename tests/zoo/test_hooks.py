"""The users' own hooks, of every kind: kept, in order, fired once."""

import pytest
from torch import nn

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
