"""Every norm against float64 NumPy arithmetic, and the laws that tie them together."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spp.errors import InputError, UnknownNameError
from spp.nn import NORMS, AffineLayer, ChannelLayerNorm, ChannelRMSNorm, make_norm

SHAPE = (4, 64, 5, 3)


def batch(shape=SHAPE, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(1.5, 2.0, shape))


def scramble(layer, seed=1):
    """Give the affine parameters values that a wrong formula would show."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.from_numpy(rng.normal(size=parameter.shape)))
    return layer


def standardize(x, axes, eps):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def oracle(name, x, layer):
    """What the norm's paper says, in NumPy; ``x`` has shape (N, C, *spatial)."""
    space = tuple(range(2, x.ndim))
    per_channel = (1, -1) + (1,) * len(space)
    weight, bias = (
        getattr(layer, key).detach().numpy().reshape(per_channel) if getattr(layer, key, None) is not None else default
        for key, default in (("weight", 1.0), ("bias", 0.0))
    )
    match name:
        case "none":
            return x
        case "batch":
            return standardize(x, (0, *space), 1e-5) * weight + bias
        case "batch_minus":
            return standardize(x, (0, *space), 1e-5)
        case "affine":
            return x * weight + bias
        case "layer":
            return standardize(x, 1, 1e-5) * weight + bias
        case "group":
            groups = x.reshape(x.shape[0], layer.num_groups, -1)
            return standardize(groups, 2, 1e-5).reshape(x.shape) * weight + bias
        case "instance":
            return standardize(x, space, 1e-5)
        case "rms":
            eps = np.finfo(x.dtype).eps
            return x / np.sqrt((x**2).mean(1, keepdims=True) + eps) * weight
    raise AssertionError(f"no oracle for {name}")


SHAPES = [(6, 64), (4, 64, 7), SHAPE, (2, 64, 3, 2, 2)]
PLACES = [(name, shape) for name, row in NORMS.items() for shape in SHAPES if len(shape) > 2 or not row.spatial]


@pytest.mark.parametrize(("name", "shape"), PLACES, ids=str)
def test_matches_its_paper_in_float64(name, shape):
    layer = scramble(make_norm(name, 64, dims=len(shape) - 2).double())
    x = batch(shape)
    np.testing.assert_allclose(layer(x).detach().numpy(), oracle(name, x.numpy(), layer), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("layer", [-1.3416407865, -0.4472135955, 0.4472135955, 1.3416407865]),
        ("rms", [0.3651483717, 0.7302967433, 1.0954451150, 1.4605934867]),
        ("group", [-1.0, 1.0, -1.0, 1.0]),
    ],
)
@pytest.mark.parametrize("spatial", [(), (1, 1)], ids=["vector", "image"])
def test_published_four_numbers(name, expected, spatial):
    layer = nn.GroupNorm(2, 4, eps=0) if name == "group" else make_norm(name, 4, dims=len(spatial))
    layer.eps = 0.0
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64).view(1, 4, *spatial)
    torch.testing.assert_close(layer.double()(x).flatten(), torch.tensor(expected, dtype=torch.float64))


def test_batch_norm_running_statistics_are_torchs():
    layer = make_norm("batch", 2, dims=0).double()
    layer(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]], dtype=torch.float64))
    torch.testing.assert_close(layer.running_mean, torch.tensor([0.3, 0.5], dtype=torch.float64))
    torch.testing.assert_close(layer.running_var, torch.tensor([1.3, 2.2], dtype=torch.float64))


def test_batch_norm_takes_eps_and_momentum_and_the_others_do_not():
    for name in ("batch", "batch_minus"):
        layer = make_norm(name, 8, batch_eps=1e-3, batch_momentum=0.01)
        assert (layer.eps, layer.momentum) == (1e-3, 0.01)
    assert make_norm("group", 8, batch_eps=1e-3).eps == 1e-5


@pytest.mark.parametrize("dims", [0, 1, 2, 3])
def test_affine_layer_is_the_identity_at_init_bit_for_bit(dims):
    x = batch((4, 3, 2, 2, 2)[: dims + 2]).float()
    x.view(-1)[:6] = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), 1e-45, float("nan")])
    y = AffineLayer(3)(x)
    assert torch.equal(y.view(torch.int32), x.view(torch.int32))


def test_affine_layer_is_no_longer_the_identity_once_trained():
    layer = AffineLayer(3)
    layer(torch.ones(2, 3, 4, 4)).sum().backward()
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    assert not torch.equal(layer(torch.ones(2, 3, 4, 4)), torch.ones(2, 3, 4, 4))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), channels=st.integers(1, 6), side=st.integers(1, 4), n=st.integers(2, 5))
def test_batch_norm_is_affine_layer_after_batch_norm_minus(seed, channels, side, n):
    whole = scramble(make_norm("batch", channels).double(), seed)
    minus, affine = make_norm("batch_minus", channels).double(), make_norm("affine", channels).double()
    affine.load_state_dict({"weight": whole.weight, "bias": whole.bias})
    x = batch((n, channels, side, side), seed).requires_grad_()
    cotangent = batch((n, channels, side, side), seed + 1)

    whole_out, parts_out = whole(x), affine(minus(x))
    torch.testing.assert_close(whole_out, parts_out, rtol=1e-12, atol=1e-12)
    whole_grads = torch.autograd.grad(whole_out, [x, whole.weight, whole.bias], cotangent)
    parts_grads = torch.autograd.grad(parts_out, [x, affine.weight, affine.bias], cotangent)
    for one, other in zip(whole_grads, parts_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert torch.equal(whole.running_var, minus.running_var)


@pytest.mark.parametrize(
    ("name", "parameters"),
    {
        "none": 0,
        "batch": 128,
        "batch_minus": 0,
        "affine": 128,
        "layer": 128,
        "group": 128,
        "instance": 0,
        "rms": 64,
    }.items(),
)
def test_parameter_counts(name, parameters):
    assert sum(p.numel() for p in make_norm(name, 64).parameters()) == parameters


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (32, 32), (24, 8), (40, 8), (112, 16), (7, 1)])
def test_group_norm_takes_at_most_32_groups_that_divide(channels, groups):
    assert make_norm("group", channels).num_groups == groups


@pytest.mark.parametrize("channels", [2, 16, 32, 100])
def test_group_norm_of_vectors_never_normalizes_a_lone_value_to_zero(channels):
    assert make_norm("group", channels, dims=0)(batch((3, channels)).float()).abs().min() > 0


@pytest.mark.parametrize("name", [name for name in NORMS if name != "none"])
def test_gradcheck(name):
    layer = scramble(make_norm(name, 4).double())
    x = batch((3, 4, 2, 2)).requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["layer", "rms", "batch", "group", "instance"])
def test_unit_second_moment_whatever_the_scale_of_the_input(name, dtype):
    y = make_norm(name, 64).to(dtype)(batch().to(dtype) * 100)
    assert y.dtype == dtype
    assert y.double().square().mean().item() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("name", ["none", "affine"])
def test_and_without_normalization_it_is_not_one(name):
    assert make_norm(name, 64)(batch().float() * 100).square().mean() > 1e4


@pytest.mark.parametrize("layer", [AffineLayer(3), ChannelLayerNorm(3), ChannelRMSNorm(3)], ids=lambda x: str(x))
def test_reset_parameters_restores_the_state_at_construction(layer):
    fresh = {key: value.clone() for key, value in layer.state_dict().items()}
    scramble(layer).reset_parameters()
    assert all(torch.equal(fresh[key], value) for key, value in layer.state_dict().items())
    assert "3" in repr(layer)


def test_unknown_norm_names_the_nearest_and_all():
    with pytest.raises(
        UnknownNameError,
        match=r"unknown norm 'bach'\. Did you mean .*'batch'.*\? Known: none, batch, batch_minus, affine, layer, "
        r"group, instance, rms\.",
    ):
        make_norm("bach", 3)


def test_instance_norm_of_vectors_is_refused_with_the_alternatives():
    with pytest.raises(InputError, match=r"norm 'instance' takes statistics over space.*got \(N, C\)\. Norms for.*rms"):
        make_norm("instance", 3, dims=0)


@pytest.mark.parametrize("arguments", [{"channels": 0}, {"channels": 3, "dims": 4}])
def test_impossible_places_are_refused(arguments):
    with pytest.raises(InputError, match=r"got (channels=0|dims=4)"):
        make_norm("batch", **arguments)


def test_every_norm_has_a_description():
    assert all(row.description for row in NORMS.values())
