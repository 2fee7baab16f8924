"""The notes: on frames written by hand, where the sentence is known, and on real traces."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import spp
from spp.diagnosis import notes
from spp.errors import InputError
from spp.vocabulary import Signal


def by_theme(frame) -> dict[str, str]:
    return {fact.statistic: fact.message for fact in notes(frame, limit=99)}


def both(name: str, acv: float, gradient: float, **more) -> list[dict]:
    """A layer's activation and gradient, without a mean."""
    activation = {"name": name, "acsm": 0.0, "acv": acv, **more}
    return [activation, {"name": name, "acsm": 0.0, "acv": gradient, "signal": "gradient"}]


def deep(rows: list[dict]) -> list[dict]:
    """Give every row of a layer the layer's depth."""
    order = list(dict.fromkeys(row["name"] for row in rows))
    return [{**row, "depth": order.index(row["name"])} for row in rows]


def test_collapse_names_both_ends_and_the_steepest_step(frame_of):
    frame = frame_of([{"name": n, "acsm": 0.0, "acv": v} for n, v in zip("abcd", (1.0, 0.5, 1e-5, 5e-6), strict=True)])
    assert by_theme(frame)["activations"] == (
        "Activations fall: mean square 1 (a) -> 5e-06 (d), ÷2e+05; most at c (÷5e+04)."
    )


def test_a_mild_change_is_said_mildly(frame_of):
    frame = frame_of([{"name": n, "acsm": 0.0, "acv": v} for n, v in zip("abc", (1.0, 4.0, 64.0), strict=True)])
    assert by_theme(frame)["activations"] == ("Activations rise: mean square 1 (a) -> 64 (c), ×64; most at c (×16).")


def test_a_kept_scale_is_a_fact_too(frame_of):
    frame = frame_of([{"name": n, "acsm": 0.0, "acv": v} for n, v in zip("abc", (1.0, 2.0, 1.5), strict=True)])
    assert by_theme(frame)["activations"] == ("Activations keep their scale: mean square from 1 (a) to 2 (b).")


def test_gradients_are_followed_backwards(frame_of):
    frame = frame_of(deep([*both("a", 1, 1e-8), *both("b", 1, 1e-4), *both("c", 1, 1.0)]))
    assert by_theme(frame)["gradients"] == (
        "Gradients, followed backwards, fall: squared norm 32 (c) -> 3.2e-07 (a), ÷1e+08; most at b (÷1e+04)."
    )


def test_the_first_non_finite_layer_is_named_in_the_direction_of_the_signal(frame_of):
    rows = [*both("a", 1, 1), *both("b", 1, 1), *both("c", 1, 1)]
    for row in rows:
        broken = "ab" if row.get("signal") == "gradient" else "bc"
        row["nonfinite"] = 8 if row["name"] in broken else 0
    facts = notes(frame_of(deep(rows)))
    assert [fact.message for fact in facts[:2]] == [
        "Non-finite activations appear first in b (25 % of them), and 1 further layer after it.",
        "Non-finite gradients appear first in b (25 % of them), and 1 further layer after it.",
    ]


def test_what_pooling_does_by_its_size_is_no_fall(frame_of):
    """A mean over 100 places divides the squared norm by 100, in front of it."""
    rows = deep([*both("a", 1, 1.0), *both("pool", 1, 100.0), *both("head", 1, 100.0)])
    for row in rows:
        row["type"] = "AvgPool2d" if row["name"] == "pool" else "Linear"
    assert by_theme(frame_of(rows))["gradients"].startswith("Gradients, followed backwards, keep their scale")


def test_exact_zeros_are_named_and_leave_the_ratio_finite(frame_of):
    frame = frame_of([{"name": n, "acsm": 0.0, "acv": v} for n, v in zip("abcd", (1.0, 2.0, 0.0, 0.0), strict=True)])
    facts = by_theme(frame)
    assert facts["zero activations"] == "All activations at the end of c and of 1 further component are exactly zero."
    assert facts["activations"].startswith("Activations keep their scale")


def test_dead_channels_saturation_and_mean_shift(frame_of):
    frame = frame_of(
        [
            {"name": "a", "dead_fraction": 0.75, "acsm": 6.0, "acv": 2.0},
            {"name": "b", "dead_fraction": 0.25, "saturated_fraction": 0.5},
            {"name": "c", "acsm": 3.0, "acv": 2.0},
        ]
    )
    facts = by_theme(frame)
    assert facts["dead"] == (
        "75 % of the channels of a are dead (constant over the batch); in 1 further layer it is 5 % or more."
    )
    assert facts["saturated"] == "50 % of the values of b are saturated."
    assert facts["mean shift"] == (
        "The mean dominates in a: ACSM is 3 times ACV, and outweighs it in 1 further component."
    )


def test_one_value_per_channel_has_no_spread_to_judge(frame_of):
    frame = frame_of([{"name": "a", "numel": 4, "shape": "1x4", "dead_fraction": 1.0, "acsm": 1.0, "acv": 0.0}])
    assert not {"dead", "mean shift"} & set(by_theme(frame))


def weight(name: str, rms: float, gradient: float) -> list[dict]:
    return [
        {"name": name, "output": "weight", "signal": signal, "acsm": 0.0, "acv": value**2}
        for signal, value in (("weight", rms), ("weight_gradient", gradient))
    ]


def test_relative_gradients_and_weights_that_none_reaches(frame_of):
    frame = frame_of([*weight("a", 1.0, 1e-6), *weight("b", 0.1, 1e-3), *weight("c", 1.0, 0.0)])
    facts = by_theme(frame)
    assert facts["relative gradients"] == (
        "Relative to its weight, the gradient of a.weight is the smallest, that of b.weight the largest, "
        "a factor 1e+04 apart (by rms)."
    )
    assert facts["unreached weights"] == "No gradient reaches c.weight: it is exactly zero."


def test_several_steps_and_negative_limits_are_refused(frame_of):
    frame = frame_of([{"name": "a"}, {"name": "b"}])
    with pytest.raises(InputError, match=r"limit: limit is a number of facts; got -1\."):
        notes(frame, limit=-1)
    with pytest.raises(InputError, match=r"frame: facts are told of one step; got several steps\. Select one\."):
        notes(frame.assign(step=range(2)))


def test_an_empty_frame_has_no_facts(frame_of):
    assert notes(frame_of([])) == []


@cache
def frame_and_facts(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    frame = spp.trace(model, torch.randn(16, 6)).frame
    return frame, notes(frame, limit=99)


@settings(deadline=None, max_examples=20)
@given(power=st.integers(-20, 20), seed=st.integers(0, 5))
def test_scaling_a_signal_changes_no_fact(power, seed):
    """Ratios within a network do not see a factor on every activation, gradient or weight gradient."""
    frame, before = frame_and_facts(seed)
    scaled = frame.copy()
    squares, plain = ["var", "mean_square", "acsm", "acv"], ["mean", "std", "rms", "min", "max", "abs_max"]
    for signal in (Signal.ACTIVATION, Signal.GRADIENT, Signal.WEIGHT_GRADIENT):
        rows = scaled["signal"] == signal
        scaled.loc[rows, squares] *= 4.0**power
        scaled.loc[rows, plain] *= 2.0**power
    after = notes(scaled, limit=99)
    assert [(fact.statistic, fact.name) for fact in before] == [(fact.statistic, fact.name) for fact in after]
    assert [fact.value for fact in before] == pytest.approx([fact.value for fact in after])


def test_real_traces_tell_a_collapse_from_a_kept_scale():
    batch = spp.data.gaussian(4, (3, 32, 32), seed=0)
    worst = {}
    for norm in ("none", "batch"):
        torch.manual_seed(0)
        worst[norm] = by_theme(spp.trace(spp.models.build("effnet_b0", norm=norm), batch).frame)["activations"]
    assert worst["none"].startswith("Activations fall: mean square 0.05")
    assert "e+10" in worst["none"]
    assert "e+" not in worst["batch"]


def test_a_nan_in_the_data_is_the_first_fact():
    batch = spp.data.gaussian(4, (5,), seed=0)
    batch[1, 2] = float("nan")
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    first = notes(spp.trace(model, batch).frame)[0]
    assert first.statistic == "non-finite activations"
    assert first.name == "0"
    assert first.message.startswith("Non-finite activations appear first in 0 (25 % of them)")


def test_what_neuron_wise_layers_learned_is_no_signal():
    """Neurons that are never active have NaN there, by design; the activations themselves are finite."""
    torch.manual_seed(0)
    model = spp.models.build("ffn", input_shape=(8,), num_classes=4, width=16, depth=3, norm="neuronwise")
    with torch.no_grad():
        next(m for m in model.modules() if hasattr(m, "neuronwise_statistics")).bias[0] = -1e3  # a dead neuron
    frame = spp.trace(model, torch.randn(32, 8)).frame
    assert frame.loc[frame["output"].str.startswith("neuronwise."), "nonfinite"].sum() > 0
    assert not any("non-finite" in fact.statistic for fact in notes(frame, 20))
