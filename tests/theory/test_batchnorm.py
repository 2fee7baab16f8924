"""BatchNorm's gradient explosion: the paper's closed forms, the reference sheet's measurements, and networks measured here."""

from math import acos, asin, inf, pi, sqrt

import pytest
import torch
from torch import nn

from spp.errors import InputError
from spp.theory.mean_field import batchnorm_gradient_factor, batchnorm_gradient_norm_factor


def measured(activation, batch, *, width=1000, layers=16, seed=0):
    """Geometric mean over layers of the growth of the gradient's mean square, going back, in a real network."""
    torch.manual_seed(seed)
    blocks = [
        nn.Sequential(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width, eps=1e-12, affine=False), activation())
        for _ in range(layers + 1)
    ]
    for block in blocks:
        nn.init.normal_(block[0].weight, std=sqrt(2 / width))
    x = torch.randn(batch, width)
    signals = []
    for block in blocks:
        z = block[0](x)
        z.retain_grad()
        signals.append(z)
        x = block[2](block[1](z))
    x.backward(torch.randn_like(x))
    squares = [float(z.grad.double().square().mean()) for z in signals]
    return (squares[1] / squares[-1]) ** (1 / (layers - 1))  # the first layer sees the input, not an activation


def test_infinite_batch():
    assert batchnorm_gradient_factor("relu") == pytest.approx(1.46694220692426, abs=1e-14)
    assert batchnorm_gradient_factor("relu") == pytest.approx(pi / (pi - 1), rel=1e-14)
    assert batchnorm_gradient_norm_factor("relu") == pytest.approx(1.2111738962363165, abs=1e-15)
    assert batchnorm_gradient_factor("identity") == pytest.approx(1)


@pytest.mark.parametrize(("batch", "sheet"), [(8, 1.2), (16, 1.0769), (64, 1.01639)])
def test_linear_networks_have_the_papers_factor(batch, sheet):
    assert batchnorm_gradient_factor("identity", batch) == pytest.approx((batch - 2) / (batch - 3), rel=1e-12)
    assert batchnorm_gradient_factor("identity", batch) == pytest.approx(sheet, abs=5e-5)


@pytest.mark.parametrize("batch", [8, 16, 64, 512])
def test_relu_over_a_finite_batch_in_closed_form(batch):
    """On the sphere, what is homogeneous of degree 2 has the Gaussian's expectation, and signs depend on the angle alone."""
    rho = -1 / (batch - 1)
    product, both = (sqrt(1 - rho**2) + rho * (pi - acos(rho))) / (2 * pi), 0.25 + asin(rho) / (2 * pi)
    kept = (batch - 2) / 2 - (batch / 2 - 1 - (batch - 1) * (both + product)) / batch
    closed = batch / ((batch - 3) * (batch - 1)) * kept / (0.5 - product)
    assert batchnorm_gradient_factor("relu", batch) == pytest.approx(closed, rel=1e-10)


@pytest.mark.parametrize(("batch", "sheet"), [(512, 1.4660), (64, 1.494), (16, 1.583)])
def test_relu_is_within_one_percent_of_the_sheets_measurements(batch, sheet):
    assert batchnorm_gradient_factor("relu", batch) == pytest.approx(sheet, rel=0.01)


@pytest.mark.parametrize("activation", ["tanh", "selu", "gelu", "relu6"])
def test_large_batches_approach_the_infinite_one(activation):
    limit = batchnorm_gradient_factor(activation)
    gaps = [batchnorm_gradient_factor(activation, batch) - limit for batch in (1e3, 1e4, 1e5)]
    assert gaps[0] == pytest.approx(10 * gaps[1], rel=0.05)
    assert gaps[1] == pytest.approx(10 * gaps[2], rel=0.05)


@pytest.mark.parametrize(("activation", "name"), [(nn.ReLU, "relu"), (nn.Tanh, "tanh")])
def test_a_real_network_within_three_percent(activation, name):
    found = measured(activation, 512)
    assert found == pytest.approx(batchnorm_gradient_factor(name, 512), rel=0.03)
    assert found == pytest.approx(batchnorm_gradient_factor(name), rel=0.03)


@pytest.mark.parametrize(
    ("activation", "name", "batch"),
    [(nn.ReLU, "relu", 64), (nn.ReLU, "relu", 16), (nn.Identity, "identity", 16), (nn.Identity, "identity", 64)],
)
def test_small_batches_within_three_percent(activation, name, batch):
    found = measured(activation, batch)
    assert found == pytest.approx(batchnorm_gradient_factor(name, batch), rel=0.03)
    if name == "relu" and batch == 16:
        assert found > 1.03 * batchnorm_gradient_factor(name)  # which an infinite batch would not explain


def test_what_has_no_factor():
    with pytest.raises(InputError, match="batch: the factor is finite for batches above 4; got 3"):
        batchnorm_gradient_factor("relu", 3)
    with pytest.raises(InputError, match="passes a signal on; got a constant one"):
        batchnorm_gradient_factor(torch.ones_like)
    assert batchnorm_gradient_factor("relu", inf) == batchnorm_gradient_factor("relu")
