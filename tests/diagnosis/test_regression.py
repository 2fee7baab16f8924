"""Two runs side by side: the same, another seed, another init, another network."""

import numpy as np
import pytest
import torch
from torch import nn

import spp
from spp.diagnosis import compare
from spp.errors import InputError


def run(seed: int = 0, factor: float = 1.0, width: int = 128, norm: str = "none") -> spp.Trace:
    torch.manual_seed(seed)
    model = spp.models.build("ffn", norm=norm, init="he", depth=5, width=width, input_shape=(3, 8, 8))
    with torch.no_grad():
        model.get_submodule("layer2.linear").weight.mul_(factor)
    return spp.trace(model, spp.data.gaussian(32, (3, 8, 8), seed=seed), seed=seed)


@pytest.fixture(scope="module")
def runs():
    return [run(seed) for seed in range(8)]


def test_a_run_equals_itself(runs):
    found = compare(run(0), runs[0])
    assert found.same and found.spread == "none" and not found.differing
    assert np.allclose(found.layers["change"], 0)
    assert (found.layers["allowed"] - 0.01).abs().max() < 1e-12


def test_one_seed_shows_any_change_above_tolerance(runs):
    found = compare(run(0, factor=1.02), runs[0])
    assert found.moved.iloc[0]["name"] == "layer2.linear"
    assert found.moved.iloc[0]["change"] == pytest.approx(0.02, rel=1e-3)
    assert "layer1.linear" not in set(found.moved[found.moved.signal == "activation"].name)
    assert compare(run(0, factor=1.02), runs[0], tolerance=0.1).same


def test_other_seeds_are_no_change_by_the_width_rule(runs):
    for other in runs[1:]:
        found = compare(other, runs[0])
        assert found.same, found.moved
        assert (found.spread, found.differing) == ("width", (f"seed: 0 -> {other.run['seed']}",))


def test_other_seeds_are_no_change_by_the_seeds_given(runs):
    for i, other in enumerate(runs[4:]):
        found = compare(other, runs[0], seeds=runs[1:4])
        assert found.same, (i, found.moved)
        assert found.spread == "seeds"


def test_a_layer_twice_as_large_is_found_across_seeds(runs):
    for seeds in ((), runs[1:4]):
        found = compare(run(9, factor=2.0), runs[0], seeds=seeds)
        weights = found.moved[found.moved.signal == "weight"]
        assert list(weights.name) == ["layer2.linear"]
        assert weights.change.iloc[0] == pytest.approx(1.0, abs=0.05)
        assert "layer1.linear" not in set(found.moved[found.moved.signal == "activation"].name)


def test_layers_that_came_and_went_are_told(runs):
    found = compare(run(norm="batch"), runs[0])
    assert not found.same
    assert "weight layer1.norm.weight" in found.added
    assert not found.missing
    assert "weight layer1.norm.weight" in compare(runs[0], run(norm="batch")).missing


def test_what_is_not_finite_has_moved(runs):
    sick = run(0)
    sick.frame.loc[sick.frame.name == "layer3.linear", "nonfinite"] = 1
    assert set(compare(sick, runs[0]).moved.name) == {"layer3.linear"}
    assert compare(sick, sick).same


def test_a_layer_that_fell_silent_has_moved(runs):
    found = compare(run(0, factor=0.0), runs[0]).moved.set_index(["signal", "name", "output"])
    assert np.isinf(found.loc[("activation", "layer2.linear", ""), "change"])
    assert found.loc[("weight", "layer2.linear", "weight"), "now"] == 0


def test_bad_input():
    with pytest.raises(InputError, match=r"tolerance: a tolerance is positive; got 0"):
        compare(run(), run(), tolerance=0)
    other = spp.trace(nn.Sequential(nn.Linear(4, 2)), torch.randn(3, 4))
    with pytest.raises(InputError, match=r"baseline: a check needs runs with layers in common; got none"):
        compare(other, run())


def test_a_watch_that_evaluates_is_checked_by_its_training():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)), torch.randn(8, 4)
    trace = spp.trace(model, x)
    optimizer = torch.optim.SGD(model.parameters(), 1e-9)
    with spp.watch(model, optimizer, every=1) as watch:
        for _ in range(2):
            with torch.no_grad():
                model.eval()(x)
            model.train()(x).square().sum().backward()
            optimizer.step()
    assert set(watch.frame["mode"]) == {"train", "eval"}
    for run, baseline in ((watch, trace), (trace, watch)):
        found = spp.check(run, baseline).layers
        activations = found[found["signal"] == "activation"]
        assert len(activations) and not activations["moved"].any()
