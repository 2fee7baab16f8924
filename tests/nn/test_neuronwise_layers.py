"""The layers as a user meets them: torch's own forward and input gradient, worked numbers, degenerate cases, errors."""

import copy
import pickle
import re

import pytest
import torch
from torch import nn

from spp.errors import InputError, UnknownNameError
from spp.nn.neuronwise import (
    MODES,
    NeuronwiseConv1d,
    NeuronwiseConv2d,
    NeuronwiseLinear,
    Nonlinearity,
)

DOUBLE = torch.float64


def close(found, expected):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=0, atol=1e-12)


def linear(weight, bias=None, **options):
    weight = torch.as_tensor(weight, dtype=DOUBLE)
    layer = NeuronwiseLinear(weight.shape[1], len(weight), bias is not None, dtype=DOUBLE, **options)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(torch.as_tensor(bias, dtype=DOUBLE))
    return layer


# The seven numeric laws of the derivation -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["relu", "tanh", "softplus", "silu", "gelu"])
def test_a_constant_upstream_gradient_leaves_nothing_after_centring(name):
    layer = NeuronwiseLinear(5, 4, activation=name, mode="outer_centre", dtype=DOUBLE)
    activation = {"relu": nn.ReLU, "tanh": nn.Tanh, "softplus": nn.Softplus, "silu": nn.SiLU, "gelu": nn.GELU}[name]()
    if name in ("silu", "gelu"):
        layer.bias.data += 10  # where the derivative is positive, P is the derivative itself
    activation(layer(torch.randn(30, 5, dtype=DOUBLE) + 2)).backward(torch.randn(4, dtype=DOUBLE).expand(30, 4))
    close(layer.weight.grad, torch.zeros(4, 5))
    assert layer.bias.grad.abs().max() > 0


@pytest.mark.parametrize("mode", ["outer", "outer_centre", "coords", "coords_centre"])
def test_one_active_sample_has_no_weight_gradient(mode):
    x = torch.tensor([[1.0, 2.0], [-1.0, 0.3], [-2.0, 5.0]], dtype=DOUBLE)
    layer = linear([[1.0, 0.0]], [0.0], activation="relu", mode=mode)
    torch.relu(layer(x)).sum().backward()
    close(layer.weight.grad, [[0.0, 0.0]])
    close(layer.bias.grad, [1.0])


def test_one_active_sample_has_one_with_running_statistics():
    layer = linear([[1.0, 0.0]], [0.0], activation="relu", mode="outer_centre", statistics="running", momentum=0.5)
    torch.relu(layer(torch.tensor([[3.0, 0.0]], dtype=DOUBLE))).sum().backward()
    layer.weight.grad = None
    torch.relu(layer(torch.tensor([[1.0, 2.0]], dtype=DOUBLE))).sum().backward()
    # shares 0.5 then 0.75, so the first sample weighs 1/3 in the mean: (5/3, 4/3)
    close(layer.weight.grad, [[1 - 5 / 3, 2 - 4 / 3]])


@pytest.mark.parametrize("mode", list(MODES))
def test_standardized_inputs_everywhere_active_give_the_ordinary_gradient(mode):
    x = torch.randn(50, 4, dtype=DOUBLE)
    x = (x - x.mean(0)) / x.std(0, correction=0)
    layer = NeuronwiseLinear(4, 3, activation="identity", mode=mode, eps=0, dtype=DOUBLE)
    upstream = torch.randn(50, 3, dtype=DOUBLE)
    layer(x).backward(upstream)
    close(layer.weight.grad, upstream.T @ x)
    close(layer.bias.grad, upstream.sum(0))


@pytest.mark.parametrize(
    ("mode", "weight", "bias", "product"), [("outer", -1.0, 1.0, -9.0), ("coords", -1.0, 12.0, 2.0)]
)
def test_outer_can_ascend_and_coords_cannot(mode, weight, bias, product):
    layer = linear([[1.0]], [0.0], activation="identity", mode=mode, eps=0)
    layer(torch.tensor([[10.0], [12.0]], dtype=DOUBLE)).backward(torch.tensor([[1.0], [0.0]], dtype=DOUBLE))
    close(layer.weight.grad, [[weight]])
    close(layer.bias.grad, [bias])
    # the ordinary gradient is (10, 1): a step against ours changes the loss by minus this, to first order
    assert 10 * layer.weight.grad.item() + layer.bias.grad.item() == pytest.approx(product, abs=1e-12)


@pytest.mark.parametrize(
    ("mode", "weight", "bias"),
    [
        ("outer_centre", (1, 28 / 3), 2),
        ("outer", (1.2247448713915887, 3.7416573867739418), 2),
        ("coords", (1.5, 1.5), -3),
        ("coords_centre", (1, 28 / 3), -12.444444444444445),
    ],
)
def test_worked_example(mode, weight, bias):
    x = torch.tensor([[1.0, 2], [3, 4], [-1, 0], [2, -2]], dtype=DOUBLE)
    layer = linear([[1.0, 0.0]], [0.0], activation="relu", mode=mode, eps=0)
    torch.relu(layer(x)).backward(torch.tensor([[1.0], [2], [5], [-1]], dtype=DOUBLE))
    close(layer.weight.grad, [weight])
    close(layer.bias.grad, [bias])
    kept = layer.neuronwise_statistics()
    close(kept["input_mean"], [(2, 4 / 3)])
    close(kept["input_std"].square(), [(2 / 3, 56 / 9)])
    close(kept["active_share"], [0.75])


# The remaining two laws: explicit coordinates are in test_neuronwise_oracle.py, bit identity is here ------------------

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU}
TWINS = {
    "linear": (lambda **o: NeuronwiseLinear(8, 6, **o), lambda: nn.Linear(8, 6), (7, 8)),
    "linear-vector": (lambda **o: NeuronwiseLinear(8, 6, **o), lambda: nn.Linear(8, 6), (8,)),
    "linear-tokens": (lambda **o: NeuronwiseLinear(8, 6, **o), lambda: nn.Linear(8, 6), (3, 5, 8)),
    "linear-4d": (lambda **o: NeuronwiseLinear(8, 6, **o), lambda: nn.Linear(8, 6), (2, 3, 4, 8)),
    "linear-no-bias": (lambda **o: NeuronwiseLinear(8, 6, False, **o), lambda: nn.Linear(8, 6, False), (3, 5, 8)),
    "conv1d": (lambda **o: NeuronwiseConv1d(4, 6, 3, 2, 1, **o), lambda: nn.Conv1d(4, 6, 3, 2, 1), (3, 4, 12)),
    "conv2d": (lambda **o: NeuronwiseConv2d(4, 6, 3, 1, 1, **o), lambda: nn.Conv2d(4, 6, 3, 1, 1), (3, 4, 9, 9)),
    "conv2d-image": (lambda **o: NeuronwiseConv2d(4, 6, 3, **o), lambda: nn.Conv2d(4, 6, 3), (4, 9, 9)),
    "conv2d-groups": (
        lambda **o: NeuronwiseConv2d(4, 6, 3, 2, 1, 2, 2, False, **o),
        lambda: nn.Conv2d(4, 6, 3, 2, 1, 2, 2, False),
        (3, 4, 9, 9),
    ),
    "depthwise": (
        lambda **o: NeuronwiseConv2d(4, 4, 5, padding="same", groups=4, padding_mode="reflect", **o),
        lambda: nn.Conv2d(4, 4, 5, padding="same", groups=4, padding_mode="reflect"),
        (3, 4, 9, 9),
    ),
}


def twins(kind, **options):
    make, ordinary, shape = TWINS[kind]
    layer, other = make(**options), ordinary()
    other.load_state_dict({key: value for key, value in layer.state_dict().items() if "running" not in key})
    return layer, other, shape


def layouts(x):
    """The same shape in memory as it comes, transposed, and repeated without copies."""
    yield x
    yield x.permute(*reversed(range(x.ndim))).contiguous().permute(*reversed(range(x.ndim)))
    yield x[:1].expand(x.shape)
    if x.ndim == 4:
        yield x.contiguous(memory_format=torch.channels_last)


def passes(layer, activation, x, upstream):
    x = x.detach().requires_grad_()
    y = activation(layer(x))
    y.backward(upstream)
    return y.detach(), x.grad


@pytest.mark.parametrize(
    ("dtype", "name", "inplace"),
    [
        (torch.float32, "relu", True),
        (torch.float32, "silu", True),
        (DOUBLE, "relu", False),
        (torch.bfloat16, "silu", False),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", list(TWINS))
def test_outputs_and_input_gradients_are_torchs_bit_for_bit(kind, dtype, name, inplace):
    layer, other, shape = twins(kind, activation=name)
    layer, other, activation = layer.to(dtype), other.to(dtype), ACTIVATIONS[name](inplace=inplace)
    for x in layouts(torch.randn(shape).to(dtype)):
        upstream = torch.randn_like(other(x))
        for found, expected in zip(
            passes(layer, activation, x, upstream), passes(other, activation, x, upstream), strict=True
        ):
            assert torch.equal(found, expected)
        assert not torch.equal(layer.weight.grad, other.weight.grad)
        assert layer.weight.grad.dtype == dtype


@pytest.mark.parametrize("kind", ["linear", "conv2d"])
def test_without_gradients_it_is_the_ordinary_layer(kind):
    layer, other, shape = twins(kind, activation="relu")
    x = torch.randn(shape)
    with torch.no_grad():
        assert torch.equal(layer(x), other(x))
    layer.weight.requires_grad_(False)
    torch.relu(layer(x)).sum().backward()
    torch.relu(other(x)).sum().backward()
    assert layer.weight.grad is None and torch.equal(layer.bias.grad, other.bias.grad)
    assert layer.neuronwise_statistics() == {}


def test_gradcheck_of_the_input_path():
    layer = NeuronwiseConv2d(2, 3, 3, activation="tanh", dtype=DOUBLE)
    x = torch.randn(2, 2, 5, 5, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: torch.tanh(layer(x)), x)


def test_a_frozen_bias_counts_as_none():
    x, upstream = torch.randn(9, 3, dtype=DOUBLE), torch.randn(9, 2, dtype=DOUBLE)
    frozen = NeuronwiseLinear(3, 2, activation="relu", dtype=DOUBLE)
    with torch.no_grad():
        frozen.bias.zero_().requires_grad_(False)
    without = linear(frozen.weight.detach(), activation="relu")
    for layer in (frozen, without):
        torch.relu(layer(x)).backward(upstream)
    close(frozen.weight.grad, without.weight.grad)
    assert frozen.bias.grad is None


def test_double_backward_says_why_not():
    layer = NeuronwiseLinear(3, 2, activation="tanh")
    x = torch.randn(5, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(torch.tanh(layer(x)).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated twice: their statistics are constants"):
        gradient.sum().backward()


# Degenerate cases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statistics", ["batch", "running"])
@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dead_constant_and_lone_inputs_give_finite_gradients(dtype, mode, statistics):
    layer = NeuronwiseLinear(4, 3, activation="relu", mode=mode, statistics=statistics).to(dtype)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([-1000.0, 0.0, 1000.0]))  # dead, sometimes active, always active
    x = torch.randn(6, 4)
    x[:, 1] = 300.0  # constant, and beyond half precision when squared
    layer.weight.data[1, 1] = 0
    for batch in (x, x[:1], torch.zeros(5, 4), x[:0]):
        layer.weight.grad = layer.bias.grad = None
        torch.relu(layer(batch.to(dtype))).sum().backward()
        assert layer.weight.grad.isfinite().all() and layer.bias.grad.isfinite().all()
        assert not layer.weight.grad[0].any() and not layer.bias.grad[0].any()
    kept = layer.neuronwise_statistics()
    if kept:
        assert kept["input_mean"][0].isnan().all() and kept["active_share"][0] == 0


def test_a_feature_without_spread_has_no_gradient():
    x = torch.randn(64, 3)
    x[:, 1] = 1234.5
    layer = NeuronwiseLinear(3, 8, activation="softplus", mode="coords")
    nn.functional.softplus(layer(x)).backward(torch.randn(64, 8))
    assert layer.weight.grad[:, 1].abs().max() < 1e-3 * layer.weight.grad[:, [0, 2]].abs().max()


def test_far_from_zero_nothing_is_lost():
    x, upstream = torch.randn(200, 3, dtype=DOUBLE), torch.randn(200, 4, dtype=DOUBLE)
    exact = NeuronwiseLinear(3, 4, activation="relu", dtype=DOUBLE)
    narrow = copy.deepcopy(exact).float()
    far = x + 1000
    exact.bias.data -= exact.weight.detach().sum(1) * 1000
    narrow.bias.data.copy_(exact.bias)
    for layer, inputs, top in ((exact, far, upstream), (narrow, far.float(), upstream.float())):
        # the region is given, so that rounding of z does not move a sample across zero
        layer.gradient = layer.gradients(inputs, torch.ones_like(top) > 0, top, top.dtype)[0]
        layer.std = layer.neuronwise_statistics()["input_std"]
    torch.testing.assert_close(narrow.gradient.double(), exact.gradient, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(narrow.std.double(), exact.std, rtol=1e-4, atol=0)


# Running statistics ---------------------------------------------------------------------------------------------------


def test_running_statistics_are_ratios_of_moving_averages_of_sums():
    momentum = 0.3
    layer = NeuronwiseLinear(3, 4, activation="tanh", statistics="running", momentum=momentum, dtype=DOUBLE)
    share, first, second = torch.zeros(4, 1), torch.zeros(4, 3), torch.zeros(4, 3)
    for size in (20, 7, 31):
        x = torch.randn(size, 3, dtype=DOUBLE) + size
        z = layer(x)
        p = 1 - torch.tanh(z.detach()) ** 2
        share = (1 - momentum) * share + momentum * p.mean(0)[:, None]
        first = (1 - momentum) * first + momentum * p.T @ x / size
        second = (1 - momentum) * second + momentum * p.T @ x**2 / size
        torch.tanh(z).sum().backward()
    mean = first / share
    torch.testing.assert_close(layer.running_mean, mean, rtol=1e-10, atol=0)
    torch.testing.assert_close(layer.running_var, second / share - mean**2, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(layer.running_share, share[:, 0], rtol=1e-12, atol=0)


def test_evaluation_and_a_momentum_of_zero_freeze_running_statistics():
    layer = NeuronwiseLinear(3, 4, activation="relu", statistics="running")
    torch.relu(layer(torch.randn(20, 3))).sum().backward()
    before = {name: value.clone() for name, value in layer.named_buffers()}
    layer.momentum = 0
    torch.relu(layer(torch.randn(20, 3))).sum().backward()
    layer.momentum = 0.5
    torch.relu(layer.eval()(torch.randn(20, 3))).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in layer.named_buffers())
    torch.relu(layer.train()(torch.randn(20, 3))).sum().backward()
    assert not torch.equal(layer.running_mean, before["running_mean"])


def test_running_statistics_never_seen_give_the_ordinary_gradient():
    layer = NeuronwiseLinear(3, 4, activation="relu", statistics="running", eps=0).eval()
    x, upstream = torch.randn(20, 3), torch.randn(20, 4)
    z = layer(x)
    torch.relu(z).backward(upstream)
    torch.testing.assert_close(layer.weight.grad, ((z > 0) * upstream).T @ x)


def test_state_dicts():
    ordinary = nn.Linear(3, 4)
    batch = NeuronwiseLinear(3, 4, activation="relu")
    batch.load_state_dict(ordinary.state_dict())
    ordinary.load_state_dict(batch.state_dict())
    running = NeuronwiseLinear(3, 4, activation="relu", statistics="running")
    running.load_state_dict(ordinary.state_dict())
    assert torch.equal(running.weight, ordinary.weight)
    torch.relu(running(torch.randn(9, 3))).sum().backward()
    again = NeuronwiseLinear(3, 4, activation="relu", statistics="running")
    again.load_state_dict(running.state_dict())
    assert torch.equal(again.running_mean, running.running_mean) and again.running_share.any()
    with pytest.raises(RuntimeError, match="running_var"):
        again.load_state_dict({k: v for k, v in running.state_dict().items() if k != "running_var"})


@pytest.mark.parametrize("name", ["relu", "gelu", "softplus", "leaky_relu"])
@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_copies_and_pickles(name, statistics):
    layer = NeuronwiseLinear(3, 4, activation=name, statistics=statistics)
    torch.relu(layer(torch.randn(9, 3))).sum().backward()
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        for key, value in layer.neuronwise_statistics().items():
            torch.testing.assert_close(other.neuronwise_statistics()[key], value, equal_nan=True)
        assert repr(other) == repr(layer)


# Invariance and descent -----------------------------------------------------------------------------------------------


def test_coords_does_not_mind_units_and_origins_of_features_and_outer_does():
    x, upstream = torch.randn(40, 3, dtype=DOUBLE), torch.randn(40, 4, dtype=DOUBLE)
    scale, shift = torch.tensor([0.01, 3.0, 50.0], dtype=DOUBLE), torch.tensor([5.0, -2.0, 100.0], dtype=DOUBLE)
    moved = {}
    for mode in ("coords", "outer"):
        plain = NeuronwiseLinear(3, 4, activation="tanh", mode=mode, eps=0, dtype=DOUBLE)
        weight = plain.weight.detach() / scale
        other = linear(weight, plain.bias.detach() - weight @ shift, activation="tanh", mode=mode, eps=0)
        steps = []
        for layer, inputs in ((plain, x), (other, x * scale + shift)):
            torch.tanh(layer(inputs)).backward(upstream)
            steps.append(inputs @ layer.weight.grad.T + layer.bias.grad)  # how the outputs move
        moved[mode] = float((steps[0] - steps[1]).abs().max() / steps[0].abs().max())
    assert moved["coords"] < 1e-9
    assert moved["outer"] > 1e-2


@pytest.mark.parametrize("mode", ["coords", "coords_centre"])
@pytest.mark.parametrize("seed", range(5))
def test_coords_is_always_a_descent_direction(mode, seed):
    torch.manual_seed(seed)
    x, upstream = torch.randn(12, 6, dtype=DOUBLE) * 3 + 20, torch.randn(12, 4, dtype=DOUBLE)
    layer = NeuronwiseLinear(6, 4, activation="gelu", mode=mode, dtype=DOUBLE)
    ordinary = nn.Linear(6, 4, dtype=DOUBLE)
    ordinary.load_state_dict(layer.state_dict())
    for each in (layer, ordinary):
        nn.functional.gelu(each(x)).backward(upstream)
    products = (layer.weight.grad * ordinary.weight.grad).sum(1) + layer.bias.grad * ordinary.bias.grad
    assert (products > 0).all()  # neuron by neuron


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"activation": "rlu"}, UnknownNameError, "unknown activation 'rlu'. Did you mean 'relu'"),
        ({"mode": "coord"}, UnknownNameError, "unknown mode 'coord'. Did you mean 'coords'"),
        ({"statistics": "epoch"}, UnknownNameError, "unknown statistics 'epoch'. Known: batch, running."),
        ({"weighting": "clam"}, UnknownNameError, "unknown weighting 'clam'. Did you mean 'clamp'"),
        ({"eps": -1}, InputError, "eps is at least 0; got -1."),
        ({"eps": float("nan")}, InputError, "eps is at least 0; got nan."),
        ({"momentum": 1.5}, InputError, "momentum is in [0, 1]; got 1.5."),
        ({"activation": nn.PReLU()}, InputError, "a module of a kind whose derivative is known; got PReLU."),
        (
            {"mode": "coords_centre", "bias": False},
            InputError,
            "mode 'coords_centre' moves the bias to make up for the centring, so it needs one; got a layer without bias. "
            "Use bias=True, or mode 'coords', which then only divides by the variance.",
        ),
    ],
)
def test_errors_say_what_to_do(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        NeuronwiseLinear(3, 4, **{"activation": "relu", **options})


def cube(z):
    return 3 * z**2


def test_a_nonlinearity_of_ones_own():
    layer = NeuronwiseLinear(3, 4, activation=Nonlinearity("cube", cube), dtype=DOUBLE)
    x = torch.randn(30, 3, dtype=DOUBLE)
    z = layer(x)
    (z**3).sum().backward()
    p = cube(z.detach())
    close(layer.neuronwise_statistics()["input_mean"], p.T @ x / p.sum(0)[:, None])
    assert "activation=cube, mode=coords, statistics=batch" in repr(layer)
