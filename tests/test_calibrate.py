"""``spp.calibrate``: a signal that keeps its variance along the network, and everything back by one call."""

import copy

import pytest
import torch
from torch import nn

import spp
from spp.errors import InputError

BATCH = torch.randn(128, 32, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.act, self.outer = nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32)

    def forward(self, x):
        return x + self.outer(self.act(self.inner(x)))


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize("std", [0.001, 1.0])
def test_every_layer_of_a_plain_network_has_unit_channel_variance_and_all_of_it_can_be_undone(std):
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Sequential(nn.Linear(32, 32), nn.Tanh()) for _ in range(12)])
    for layer in model:
        nn.init.normal_(layer[0].weight, std=std)
    before, drawn = state(model), torch.get_rng_state()
    done = spp.calibrate(model, BATCH, tolerance=0.01)
    assert torch.equal(drawn, torch.get_rng_state())
    assert list(done.layers.after) == pytest.approx([1.0] * 12, abs=0.01)
    for index, row in enumerate(done.layers.itertuples()):
        weight = before[f"{index}.0.weight"] * row.factor
        torch.testing.assert_close(model[index][0].weight.detach(), weight, rtol=1e-3, atol=0)
    done.undo()
    assert same(before, state(model))


@pytest.mark.parametrize(("target", "last"), [("flat", (1 + 1 / 16) ** 16), ("theory", 17.0)])
def test_branches_add_up_to_the_target_curve(target, last):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), *[Block() for _ in range(16)], nn.Linear(32, 4))
    spp.nn.initialize_(model, "he")
    done = spp.calibrate(model, BATCH, target=target, tolerance=0.01)
    curve = done.components.set_index("name")
    assert curve.acv_before["16"] > 1e4
    # branch and skip are correlated a little
    assert curve.acv_after["16"] == pytest.approx(last, rel=0.25)


def test_what_cannot_or_need_not_be_scaled_is_left():
    torch.manual_seed(0)
    shared = nn.Linear(32, 32)
    model = nn.Sequential(shared, nn.ReLU(), nn.Linear(32, 32), nn.BatchNorm1d(32), nn.Linear(32, 8), nn.Linear(8, 32))
    model.append(nn.Linear(32, 32)).append(nn.Linear(32, 4))
    model[6].weight = shared.weight
    nn.init.zeros_(model[7].weight)
    before = state(model)
    done = spp.calibrate(model, (BATCH, torch.zeros(128, dtype=torch.long)))
    assert list(done.layers.name) == ["4", "5", "7"]
    assert done.layers.set_index("name").factor["7"] == 1
    changed = [name for name, value in before.items() if not torch.equal(value, state(model)[name])]
    assert changed == ["4.weight", "5.weight"]


def test_dropout_and_bad_input():
    model = nn.Sequential(nn.Linear(32, 32), nn.Dropout(), nn.Linear(32, 4))
    twin = copy.deepcopy(model)
    drawn = torch.get_rng_state()
    spp.calibrate(model, BATCH)
    assert torch.equal(drawn, torch.get_rng_state()) and model.training
    with pytest.raises(InputError, match="a target is one of flat, theory; got 'steep'"):
        spp.calibrate(twin, BATCH, target="steep")
