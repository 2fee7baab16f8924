"""Adaptive gradient clipping: the sheet's numbers, the law, timm's function."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spp import models
from spp.errors import InputError
from spp.nn import clip_grad_agc_
from tests import foreign


def parameter(weight, grad):
    p = nn.Parameter(torch.tensor(weight, dtype=torch.float64))
    p.grad = torch.tensor(grad, dtype=torch.float64)
    return p


def test_the_sheets_numbers():
    p = parameter([[3.0, 4.0], [0.0, 0.0]], [[0.3, 0.4], [0.003, 0.004]])
    assert clip_grad_agc_(p) == 2
    torch.testing.assert_close(p.grad, torch.tensor([[0.03, 0.04], [6e-6, 8e-6]], dtype=torch.float64))


def test_vectors_and_scalars_are_one_unit():
    vector, scalar = parameter([3.0, 4.0], [0.3, 0.4]), parameter(2.0, 1.0)
    assert clip_grad_agc_([vector, scalar]) == 2
    torch.testing.assert_close(vector.grad, torch.tensor([0.03, 0.04], dtype=torch.float64))
    assert scalar.grad.item() == pytest.approx(0.02)


def test_small_gradients_and_missing_ones_stay():
    p = parameter([[3.0, 4.0]], [[0.03, 0.04]])
    kept = p.grad.clone()
    assert clip_grad_agc_([p, nn.Parameter(torch.ones(3))]) == 0
    assert torch.equal(p.grad, kept)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), clip=st.floats(1e-3, 1), size=st.floats(1e-4, 1e3))
def test_no_unit_is_left_above_the_limit_and_directions_stay(seed, clip, size):
    generator = torch.Generator().manual_seed(seed)
    p = nn.Parameter(torch.randn(6, 4, 3, 3, generator=generator, dtype=torch.float64))
    grad = size * torch.randn(6, 4, 3, 3, generator=generator, dtype=torch.float64)
    p.grad = grad.clone()
    clipped = clip_grad_agc_(p, clip)
    rows, before, weights = p.grad.flatten(1), grad.flatten(1), p.detach().flatten(1)
    assert (rows.norm(dim=1) <= clip * weights.norm(dim=1) * (1 + 1e-12)).all()
    torch.testing.assert_close(nn.functional.cosine_similarity(rows, before), torch.ones(6, dtype=torch.float64))
    assert clipped == int((rows.norm(dim=1) < before.norm(dim=1) * (1 - 1e-12)).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision(dtype):
    p = nn.Parameter(torch.full((4, 512), 200.0, dtype=dtype))
    p.grad = torch.full((4, 512), 200.0, dtype=dtype)
    assert clip_grad_agc_(p) == 4
    torch.testing.assert_close(p.grad, torch.full((4, 512), 2.0, dtype=dtype), rtol=0.01, atol=0)


def test_the_classifier_is_left_out_by_name():
    model = models.build("nf_resnet50", depths=(1, 1, 1, 1), num_classes=5, input_shape=(3, 32, 32))
    model(torch.randn(2, 3, 32, 32)).square().sum().mul(1e6).backward()
    kept = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    assert clip_grad_agc_(model, exclude=["head.fc.*"]) > 0
    changed = {key for key, p in model.named_parameters() if p.grad is not None and not torch.equal(p.grad, kept[key])}
    assert changed
    assert not any(key.startswith("head.") for key in changed)


def test_is_timms():
    utils = foreign.timm().utils
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in ((8, 3, 3, 3), (5, 7), (9,))]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    for one, other in zip(ours, theirs, strict=True):
        one.grad = torch.randn_like(one)
        other.grad = one.grad.clone()
    clip_grad_agc_(ours, 0.05)
    utils.adaptive_clip_grad(theirs, 0.05)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: clip_grad_agc_(m, 0), r"clip and eps are positive; got clip=0"),
        (
            lambda m: clip_grad_agc_(m, exclude=["fc*"]),
            r"a pattern to exclude needs to fit a parameter's name; got 'fc\*'",
        ),
        (lambda m: clip_grad_agc_(m.parameters(), exclude=["weight"]), r"names to exclude need a model; got bare"),
    ],
)
def test_impossible_arguments(call, message):
    with pytest.raises(InputError, match=message):
        call(nn.Linear(2, 2))
