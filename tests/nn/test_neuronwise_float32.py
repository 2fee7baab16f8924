"""Float32 against float64 where the region is given, for every kind of layer, layout of memory and block of samples."""

import copy
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from spp.nn.neuronwise import MODES, NeuronwiseConv1d, NeuronwiseConv2d, NeuronwiseLinear, gradient

DOUBLE = torch.float64


def assert_near(found, expected, share=1e-5):
    """To ``share`` of the largest element: a sum of many terms is no better than its terms are large."""
    expected = expected.double()
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=share * float(expected.abs().max()))


LAYERS = {
    "linear": (lambda **o: NeuronwiseLinear(35, 45, **o), (70, 35)),
    "tokens": (lambda **o: NeuronwiseLinear(17, 32, **o), (5, 30, 17)),
    "conv2d": (lambda **o: NeuronwiseConv2d(10, 12, 3, padding=1, **o), (4, 10, 9, 11)),
    "dilated": (lambda **o: NeuronwiseConv2d(6, 15, (3, 2), dilation=(2, 1), **o), (4, 6, 13, 16)),
    "conv1d": (lambda **o: NeuronwiseConv1d(10, 17, 7, padding=3, padding_mode="circular", **o), (4, 10, 40)),
    "strided": (lambda **o: NeuronwiseConv2d(8, 12, 3, stride=2, padding=1, **o), (6, 8, 9, 11)),
    "grouped": (lambda **o: NeuronwiseConv2d(12, 12, 3, groups=2, **o), (4, 12, 9, 11)),
}


@cache
def passes(kind, activation):
    """Two batches of inputs, regions and gradients, the same whatever the dtype and the options."""
    batches = []
    make, shape = LAYERS[kind]
    torch.manual_seed(0)
    layer = make(activation=activation)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        x = torch.randn(shape, generator=generator) + 1
        p = layer.activation.region(layer(x).detach(), "clamp")
        if p.dtype == torch.bool:  # each neuron is active about half of the time
            p = torch.rand(p.shape, generator=generator) > 0.5
        delta = torch.randn(p.shape, generator=generator) * p
        batches.append((x, p, delta))
    return batches


def after_two_passes(kind, dtype=torch.float32, layout=None, **options):
    """Gradients and statistics of a layer whose region is given."""
    torch.manual_seed(0)
    layer = LAYERS[kind][0](eps=1e-3, **options).to(dtype)
    for batch in passes(kind, options["activation"]):
        tensors = [tensor if tensor.dtype == torch.bool else tensor.to(dtype) for tensor in batch]
        if layout is not None:
            layer, *tensors = (each.to(memory_format=layout) for each in (layer, *tensors))
        gradients = layer.gradients(*tensors, dtype)
    return [tensor.clone() for tensor in (*gradients, *layer.neuronwise_statistics().values())]


@pytest.mark.parametrize("statistics", ["batch", "running"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("kind", list(LAYERS))
def test_float32_is_as_exact_as_float32_can_be(kind, activation, statistics):
    variants = [(mode, True) for mode in MODES] + [(mode, False) for mode in MODES if mode != "coords_centre"]
    # what a mode does with the sums has nothing to do with how a kind of layer takes them: all are tried on two
    for mode, bias in variants if kind in ("linear", "conv2d") else [("coords", True), ("outer", False)]:
        options = {"activation": activation, "statistics": statistics, "mode": mode, "bias": bias}
        exact = after_two_passes(kind, DOUBLE, **options)
        for found, wanted in zip(after_two_passes(kind, **options), exact, strict=True):
            assert_near(found, wanted)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_several_blocks_are_added_up(activation, monkeypatch):
    whole = after_two_passes("conv2d", activation=activation)
    monkeypatch.setattr(gradient, "BLOCK", 1)
    assert len(list(gradient.blocks(4, 4 * 12 * 9 * 11, 120))) > 2
    for new, old in zip(after_two_passes("conv2d", activation=activation), whole, strict=True):
        assert_near(new, old)


@pytest.mark.parametrize("kind", ["linear", "conv2d"])
def test_parts_of_the_weight_change_no_bit_of_it(kind, monkeypatch):
    """What does not fit the cache is worked on some neurons at a time."""
    for options in ({"statistics": "batch"}, {"statistics": "running"}):
        whole = after_two_passes(kind, activation="relu", **options)
        monkeypatch.setattr(gradient, "CACHED", 100)
        parts = after_two_passes(kind, activation="relu", **options)
        monkeypatch.undo()
        assert torch.equal(parts[0], whole[0])
        for new, old in zip(parts[1:], whole[1:], strict=True):
            assert_near(new, old)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_channels_last(activation):
    wanted = after_two_passes("conv2d", activation=activation)
    found = after_two_passes("conv2d", layout=torch.channels_last, activation=activation)
    for new, old in zip(found, wanted, strict=True):
        assert_near(new, old)


@pytest.mark.parametrize("kind", ["linear", "conv2d"])
def test_dead_neurons(kind):
    make, shape = LAYERS[kind]
    layer = make(activation="relu")
    with torch.no_grad():
        layer.bias[:3] = -1000  # dead
    exact, x = copy.deepcopy(layer).double(), torch.randn(shape)
    upstream = torch.randn_like(layer(x))
    for each in (layer, exact):
        dtype = each.weight.dtype
        torch.relu(each(x.to(dtype))).backward(upstream.to(dtype))
        assert not each.weight.grad[:3].any() and each.neuronwise_statistics()["input_mean"][:3].isnan().all()
    found, wanted = (
        [each.weight.grad, each.bias.grad, *each.neuronwise_statistics().values()] for each in (layer, exact)
    )
    for new, old in zip(found, wanted, strict=True):
        assert torch.equal(new.isnan(), old.isnan())
        assert_near(new.nan_to_num(), old.nan_to_num())


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_is_seen(value):
    layer = NeuronwiseLinear(35, 45, activation="relu")
    x = torch.randn(75, 35)
    z = layer(x)
    upstream = torch.ones_like(z)
    upstream[0, 0] = value  # as an overflow does, which a loss scaler looks for
    torch.relu(z).backward(upstream)
    assert layer.weight.grad[1:].isfinite().all()
    assert z[0, 0] <= 0 or not layer.weight.grad[0].isfinite().all()
    x[3, 5] = value
    layer.weight.grad = None
    torch.relu(layer(x)).sum().backward()
    assert not layer.weight.grad[:, 5].isfinite().any()


def test_a_mode_that_sees_every_operation_sees_all_of_them():
    layer = NeuronwiseLinear(16, 16, activation="relu", bias=False)
    x = torch.randn(16, 16, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        F.relu(layer(x)).sum().backward()
    assert counter.get_total_flops() == 5 * 2 * 16**3
