"""Every norm against float64 NumPy arithmetic, and the laws that tie them together."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spp.errors import InputError, UnknownNameError
from spp.nn import (
    NORMS,
    AffineLayer,
    DyT,
    EvoNormB0,
    EvoNormS0,
    FilterResponseNorm,
    make_norm,
)
from tests import foreign
from tests.nn.batches import SHAPE, batch, scramble


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
        case "none" | "neuronwise":  # the latter changes weight gradients alone
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
        case "batch_renorm":  # BatchNorm for the first 5,000 steps
            return standardize(x, (0, *space), 1e-5) * weight + bias
        case "ghost_batch":
            parts = [standardize(part, (0, *space), 1e-5) for part in np.array_split(x, max(1, len(x) // layer.ghost))]
            return np.concatenate(parts) * weight + bias
        case "frn":
            eps = 1e-6 if space else abs(layer.eps.item())
            out = x / np.sqrt((x**2).mean(space, keepdims=True) + eps) * weight + bias
            return np.maximum(out, layer.tau.detach().numpy().reshape(per_channel))
        case "evonorm_b0":
            v = layer.v.detach().numpy().reshape(per_channel)
            left = np.sqrt(x.var((0, *space), keepdims=True) + 1e-3)
            return x / np.maximum(left, v * x + np.sqrt(x.var(space, keepdims=True) + 1e-3)) * weight + bias
        case "evonorm_s0":
            v = layer.v.detach().numpy().reshape(per_channel)
            var = x.reshape(x.shape[0], layer.groups, -1).var(2).repeat(x.shape[1] // layer.groups, 1)
            return (
                x / (1 + np.exp(-v * x)) / np.sqrt(var.reshape(*x.shape[:2], *(1 for _ in space)) + 1e-5) * weight
                + bias
            )
        case "dyt":
            return weight * np.tanh(layer.alpha.item() * x) + bias
    raise AssertionError(f"no oracle for {name}")


SHAPES = [(6, 64), (4, 64, 7), SHAPE, (2, 64, 3, 2, 2)]
ON_ACTIVATIONS = [name for name, row in NORMS.items() if row.weights is None]
PLACES = [(name, shape) for name in ON_ACTIVATIONS for shape in SHAPES if len(shape) > 2 or not NORMS[name].spatial]


@pytest.mark.parametrize(("name", "shape"), PLACES, ids=str)
def test_matches_its_paper_in_float64(name, shape):
    options = {"ghost": 2} if name == "ghost_batch" else {}
    layer = scramble(make_norm(name, 64, dims=len(shape) - 2, **options).double())
    x = batch(shape)
    np.testing.assert_allclose(layer(x).detach().numpy(), oracle(name, x.numpy(), layer), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(6, 64), (4, 7, 64), (4, 5, 3, 64)], ids=str)
@pytest.mark.parametrize("name", ON_ACTIVATIONS)
def test_channels_last_is_the_same_with_the_axes_moved(name, shape):
    if NORMS[name].spatial and len(shape) == 2:
        return
    dims = len(shape) - 2
    first, last = make_norm(name, 64, dims=dims), make_norm(name, 64, dims=dims, channels_last=True)
    torch.testing.assert_close(sorted(p.shape for p in first.parameters()), sorted(p.shape for p in last.parameters()))
    for one, other in zip(scramble(first).double().parameters(), last.double().parameters(), strict=True):
        other.data.copy_(one)
    x = batch(shape)
    torch.testing.assert_close(last(x), first(x.movedim(-1, 1)).movedim(1, -1), rtol=1e-12, atol=1e-12)


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
        "neuronwise": 0,
        "batch": 128,
        "batch_minus": 0,
        "affine": 128,
        "layer": 128,
        "group": 128,
        "instance": 0,
        "rms": 64,
        "batch_renorm": 128,
        "ghost_batch": 128,
        "frn": 3 * 64,
        "evonorm_b0": 3 * 64,
        "evonorm_s0": 3 * 64,
        "dyt": 129,
        "ws": 0,
        "scaled_ws": 0,
        "centred_wn": 0,
        "mp": 0,
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["layer", "rms", "batch", "group", "instance", "batch_renorm", "ghost_batch"])
def test_unit_second_moment_whatever_the_scale_of_the_input(name, dtype):
    y = make_norm(name, 64).to(dtype)(batch().to(dtype) * 100)
    assert y.dtype == dtype
    assert y.double().square().mean().item() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("name", ["none", "affine"])
def test_and_without_normalization_it_is_not_one(name):
    assert make_norm(name, 64)(batch().float() * 100).square().mean() > 1e4


def test_unknown_norm_names_the_nearest_and_all():
    with pytest.raises(
        UnknownNameError,
        match=r"unknown norm 'bach'\. Did you mean .*'batch'.*\? Known: none, batch, batch_minus, affine, layer, "
        r"group, instance, rms, batch_renorm, ghost_batch, frn, evonorm_b0, evonorm_s0, dyt, ws, scaled_ws, centred_wn, mp, "
        r"neuronwise\.",
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


def column(*values):
    """One sample's one channel of these values in a row, ``(1, 1, 1, n)``."""
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def test_frn_of_the_paper_in_four_numbers():
    x = torch.tensor([[[[1.0, -1.0], [2.0, -2.0]]]], dtype=torch.float64)
    y = FilterResponseNorm(1, eps=0.0).double()(x)
    assert y.flatten().tolist() == pytest.approx([0.6324555320, 0, 1.2649110641, 0], abs=1e-10)
    linear = FilterResponseNorm(1, eps=0.0, activated=False).double()(x)
    assert linear.flatten().tolist() == pytest.approx([0.6324555320, -0.6324555320, 1.2649110641, -1.2649110641])


def test_evonorm_in_four_numbers():
    x = column(1, 2, 3, 4)
    s0 = EvoNormS0(1, 1, eps=0.0).double()(x)
    b0 = EvoNormB0(1, eps=0.0).double()(x)
    assert s0.flatten().tolist() == pytest.approx([0.6538786709, 1.5756177126, 2.5560246014, 3.5133593430], abs=1e-10)
    assert b0.flatten().tolist() == pytest.approx([0.4721359550, 0.6414298264, 0.7285029721, 0.7815501047], abs=1e-10)


def test_evonorm_b0_keeps_the_unbiased_variance_and_uses_it():
    layer = EvoNormB0(1, momentum=0.25).double()
    layer(column(1, 2, 3, 4))
    assert layer.running_var.item() == pytest.approx(0.75 + 0.25 * 5 / 3)
    x = column(-5, -6, -7)  # where the batch's spread decides
    expected = x / np.sqrt(layer.running_var.item() + 1e-3)
    torch.testing.assert_close(layer.eval()(x), expected, rtol=1e-12, atol=0)


def test_dyt_in_three_numbers():
    y = DyT(1).double()(torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64))
    assert y.flatten().tolist() == pytest.approx([0, 0.4621171573, 0.7615941560], abs=1e-10)


@pytest.mark.parametrize("name", ["frn", "evonorm_b0", "evonorm_s0"])
def test_without_an_activation_the_nonlinear_part_is_gone(name):
    layer = scramble(make_norm(name, 8, activated=False).double())
    x = batch((4, 8, 3, 3))
    odd = layer(x) + layer(-x)
    torch.testing.assert_close(odd, (2 * layer.bias.view(-1, 1, 1)).expand_as(odd))
    assert make_norm(name, 8)(x.float()).add(make_norm(name, 8)(-x.float())).abs().max() > 0.1
    if name != "frn":
        torch.testing.assert_close(layer(2 * x) - layer(x), x * layer.weight.view(-1, 1, 1))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dyt", {"alfa": 1.0}, r"norm 'dyt': unknown option 'alfa'\. Did you mean 'alpha'\? Known: alpha\."),
        ("batch", {"alpha": 1.0}, r"norm 'batch': unknown option 'alpha'\. Known: none\."),
        (
            "group",
            {"groups": 7},
            r"norm 'group' of 64 channels: an option is not possible there; got groups=7\. num_ch",
        ),
        ("evonorm_s0", {"groups": 7}, r"the groups of EvoNorm-S0 need to divide the channels; got 7 for 64"),
        ("dyt", {"alpha": "x"}, r"norm 'dyt' of 64 channels: an option is not possible there; got alpha='x'"),
        ("scaled_ws", {"alpha": 1}, r"weight norm 'scaled_ws': unknown option 'alpha'\. .*Known: gamma, floor, eps\."),
    ],
)
def test_impossible_options(name, options, message):
    with pytest.raises(InputError, match=message):
        make_norm(name, 64, **options)


def test_options_reach_the_layer():
    assert make_norm("dyt", 4, alpha=1.0).alpha.item() == 1
    assert make_norm("group", 64, groups=4).num_groups == 4
    assert make_norm("ghost_batch", 4, ghost=7).ghost == 7
    assert make_norm("instance", 4, affine=True).affine
    assert make_norm("batch_renorm", 4, r_max=2.0, ramp=False).bounds() == (2.0, 5.0)
    assert isinstance(make_norm("frn", 4, learned_eps=True).eps, nn.Parameter)


def test_frn_learns_its_eps_where_maps_have_one_element():
    assert isinstance(make_norm("frn", 4, dims=0).eps, nn.Parameter)
    assert isinstance(make_norm("frn", 4).eps, float)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.5, 100))
def test_norms_of_activations_do_not_see_the_scale_of_their_input(seed, scale):
    x = batch((4, 8, 5, 5), seed)
    for name in ("batch", "group", "layer", "rms", "instance", "ghost_batch", "frn"):
        layer = make_norm(name, 8, activated=False).double()
        torch.testing.assert_close(layer(x * scale), layer(x), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ["dyt", "affine", "none"])
def test_and_those_without_statistics_do(name):
    x = batch((4, 8, 5, 5)).float()
    layer = make_norm(name, 8)
    assert (layer(x * 10) - layer(x)).abs().max() > 0.1


class TestAgainstTimm:
    """The modules that timm has too, with its own eps where it differs."""

    def compare(self, ours, theirs):
        ours, theirs = ours.double(), theirs.double()
        scramble(theirs)
        with torch.no_grad():
            for key, value in theirs.named_parameters():
                dict(ours.named_parameters())[key].copy_(value)
        x, cotangent = batch((5, 8, 4, 3)).requires_grad_(), batch((5, 8, 4, 3), 7)
        for training in (True, False):
            one, other = ours.train(training)(x), theirs.train(training)(x)
            # timm takes statistics in float32
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(
                *(torch.autograd.grad(y, x, cotangent)[0] for y in (one, other)), rtol=1e-4, atol=1e-5
            )

    def test_evonorm_b0(self):
        layers = foreign.timm().layers
        self.compare(EvoNormB0(8), layers.EvoNorm2dB0(8))

    def test_evonorm_s0(self):
        layers = foreign.timm().layers
        self.compare(EvoNormS0(8, 4), layers.EvoNorm2dS0(8, groups=4))

    def test_frn(self):
        layers = foreign.timm().layers
        self.compare(FilterResponseNorm(8, eps=1e-5), layers.FilterResponseNormTlu2d(8))
