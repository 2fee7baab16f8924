"""Densities of logs: what widening keeps, the samples behind BatchNorm by their length, and the draws of a network."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import spp
from spp.nn import make_activation
from spp.theory import density, predict
from spp.theory.cohort import Activated, Cohort
from spp.theory.draws import LEVELS, OFTEN, Draws
from spp.theory.gaussian import nonlinearity

DRAWS = 40000


@given(
    st.lists(st.floats(-3, 3), min_size=2, max_size=30, unique=True),
    st.floats(1e-3, 0.5),
    st.integers(0, 2**32 - 1),
)
def test_widening_keeps_the_mean_and_adds_the_variance(points, noise, seed):
    """Exactly, whatever the grid; what is carried keeps its mean too."""
    logs = np.array(points)
    weights, carried = np.random.default_rng(seed).random((2, len(logs))) + 0.01
    weights /= weights.sum()
    at, (found,), (had,) = density.widened(logs[None], weights[None], np.full((1, len(logs)), noise), carried[None])
    assert found.sum() == pytest.approx(1)
    assert found @ at == pytest.approx(weights @ logs, abs=1e-5)
    assert found @ had == pytest.approx(weights @ carried, abs=1e-5)
    step = at[1] - at[0] if len(at) > 1 else 1.0
    assert density.variance_of(at, found) == pytest.approx(
        density.variance_of(logs, weights) + noise, rel=0.01, abs=step**2 / 4
    )


def test_a_constant_stays_one():
    at, found, had = density.widened(np.zeros((2, 1)), np.ones((2, 1)), np.zeros((2, 1)))
    assert at.tolist() == [0]
    assert found.tolist() == [[1], [1]]
    assert had.tolist() == [[0], [0]]


def test_the_way_back_through_widening_is_a_mean_around_each_point():
    logs, noise = np.array([0.0, 1.0]), np.array([0.04, 0.09])
    at = np.linspace(-4, 4, 4001)
    assert density.around(logs, noise, at, at**2) == pytest.approx(logs**2 + noise, abs=1e-5)


def channels(lengths, common, count, rng):
    """Units of so many channels behind a norm over the batch: samples of these lengths, with this cosine in common."""
    s, z = rng.standard_normal((count, 1)), rng.standard_normal((count, len(lengths)))
    x = (common * s + np.sqrt(1 - common**2) * z) * np.sqrt(lengths)
    x -= x.mean(1, keepdims=True)
    return x / np.sqrt((x**2).mean(1, keepdims=True))


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "selu"])
@pytest.mark.parametrize("long", [1.0, 4.0, 12.0])
def test_samples_behind_batchnorm_against_sampling(name, long):
    """One sample in eight is longer, and points the other way in what channels have in common."""
    batch, width = 64, 512
    lengths = np.where(np.arange(batch) % 8 == 0, long, 1.0)
    share = 0.0 if long == 1 else 0.6
    common = np.where(lengths > 1, share, -share / 7 * np.sqrt(long))  # of mean 0 over the batch
    x = channels(lengths, common, DRAWS, np.random.default_rng(0))
    phi = nonlinearity(name)
    value = phi.value(x)
    logs, first = np.log(np.array([1.0, long])), [1, 0]
    cohort = Cohort(logs, np.array([7 / 8, 1 / 8]), common[first], np.full(2, 1e-6), batch).normalized()
    found = Activated(cohort, phi, 1.0, width)
    squares = (value**2).mean(1)
    assert found.second == pytest.approx(squares.mean(), rel=0.01)
    assert found.mean == pytest.approx(value.mean(), abs=0.01)
    assert found.between == pytest.approx(
        (value.mean(1) ** 2).mean() * batch / (batch - 1) - squares.mean() / (batch - 1), abs=0.01
    )
    at_length = (value**2).mean(0)[[1, 0]] - (phi.value(x) * phi.slope(x) * x).mean() * (x**2).mean(0)[[1, 0]]
    weights = np.array([7 / 8, 1 / 8])
    samples = weights @ (at_length - weights @ at_length) ** 2 / batch / squares.mean() ** 2
    assert found.spread == pytest.approx(np.log(squares).var() / width + samples, rel=0.25)
    centred = value - value.mean(1, keepdims=True)
    passed = (centred**2).mean(0)[[1, 0]]
    behind = found.cohort
    edges = behind.logs[[0, -1]]
    assert edges[1] - edges[0] == pytest.approx(np.log(passed[1] / passed[0]), abs=0.06)
    slopes = phi.slope(x) ** 2
    assert found.sent_back(None)[0] == pytest.approx(slopes.mean(), rel=0.01)


def test_the_inverse_variance_of_channels_against_sampling():
    lengths = np.where(np.arange(64) % 8 == 0, 6.0, 1.0)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((DRAWS, 64)) * np.sqrt(lengths)
    found = (1 / x.var(1)).mean() * (lengths.mean() * 63 / 64)
    cohort = Cohort(np.log([1.0, 6.0]), np.array([7 / 8, 1 / 8]), np.zeros(2), np.full(2, 1e-6), 64).normalized()
    factor, along, _ = cohort.sent_through_norm(cohort, None)
    assert along == 1
    assert factor == pytest.approx(found, rel=0.03)
    assert factor > 1.04  # equal lengths would have 63 / 61


def test_the_log_of_a_mean_over_few_heavy_tailed_samples():
    """Two kinds of samples, one in a hundred 1000 times larger: of 64, often none, which no variance of the mean tells."""
    at, samples = np.array([0.0, np.log(1000.0)]), np.array([0.99, 0.01])
    draws = Draws(np.zeros(1), np.ones(1), at, np.tile(samples, (len(LEVELS), 1)), 64)
    counts = np.random.default_rng(2).binomial(64, 0.01, 200_000)
    logs = np.log((64 - counts + 1000 * counts) / 64)
    assert draws.variance == pytest.approx(logs.var(), rel=0.01)
    mean, _ = draws.batches()
    assert mean[0] == pytest.approx(logs.mean(), abs=0.01)


def test_draws_that_are_moved_as_they_are_gain_what_is_added():
    """A homogeneous activation moves logs as they are: the variance grows by the noise, and the mean stays."""
    draws = Draws.normal(0.1, 0.02, 128)
    for _ in range(20):
        draws = draws.moved(lambda logs: (logs, np.full_like(logs, 5 / 512), np.zeros_like(logs)))
    assert draws.variance == pytest.approx(0.1 + 20 * 5 / 512, rel=0.02)
    mean, _ = draws.batches()
    assert draws.weights @ np.exp(draws.levels) == pytest.approx(1, rel=0.01)
    assert OFTEN @ mean == pytest.approx(0, abs=0.01)


@pytest.mark.slow
def test_long_samples_carry_the_gradient_through_gelu():
    """Behind BatchNorm it grows by 1.37 a layer, where 1.32 would be right for samples of one length."""
    model = spp.models.build(
        "ffn", norm="batch", activation="gelu", width=512, depth=30, input_shape=(512,), num_classes=100
    )
    torch.manual_seed(3)
    spp.nn.initialize_(model, "he")
    seen = []

    def keep(module, args, output):
        output.retain_grad()
        seen.append(output)

    hooks = [module.register_forward_hook(keep) for name, module in model.named_modules() if name.endswith(".act")]
    out = model(torch.randn(256, 512))
    out.backward(torch.randn_like(out))
    for hook in hooks:
        hook.remove()
    measured = np.log([output.grad.square().mean().item() for output in seen])
    table = predict(model, (256, 512))
    predicted = np.log(table.loc[table["name"].str.endswith(".act"), "gradient_predicted"].to_numpy())
    growth = np.exp(-np.diff([measured, predicted], axis=1)[:, :15].mean(1))
    assert growth[0] == pytest.approx(growth[1], rel=0.025)
    assert growth[1] > 1.35


@pytest.mark.parametrize("name", ["gelu", "silu"])
@pytest.mark.parametrize("norm", ["batch", "none", "twice"])
def test_three_units_a_layer_are_followed_to_the_end(name, norm):
    """Where draws differ by decades of decades, and where norms follow each other: finite, and no warning."""
    torch.manual_seed(0)
    layers = []
    for _ in range(40):
        linear = nn.Linear(3, 3, bias=False)
        nn.init.normal_(linear.weight, std=3**0.5)
        again = [nn.BatchNorm1d(3), nn.Linear(3, 3, bias=False)] if norm == "twice" else []
        layers += [linear, *again, *([] if norm == "none" else [nn.BatchNorm1d(3)]), make_activation(name)]
    table = predict(nn.Sequential(*layers), (64, 3))
    assert (table["reason"] == "").all()
    columns = ["acsm_predicted", "acv_predicted", "gradient_predicted", "log_spread_predicted"]
    assert np.isfinite(table[columns].to_numpy(float)).all()
