"""Norms of classes that are known by what they compute alone, and those that are left where they are."""

import re

import pytest
import torch
from torch import nn

from spp.nn import EvoNormS0, replace_norm


class Gemma(nn.Module):
    """RMSNorm whose scale is one more than its parameter."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-0.3, 0.4, 6))


class GemmaRMSNorm(Gemma):
    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)


class LlamaRMSNorm(Gemma):
    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))


class FirstLayerNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class PlainLayerNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.normalized_shape = (6,)

    def forward(self, x):
        return nn.functional.layer_norm(x, (6,))


class GatedRMSNorm(Gemma):
    def forward(self, x, gate):
        return gate * x


class CosineNorm(Gemma):
    def forward(self, x):
        return torch.cos(x) * self.weight


class ThreeNorm(Gemma):
    def __init__(self):
        super().__init__()
        self.tau = nn.Parameter(torch.zeros(6))

    def forward(self, x):
        return x


class UnknownSizeNorm(nn.Module):
    def forward(self, x):
        return x / x.norm()


@pytest.mark.parametrize(
    ("old", "last", "rms"),
    [
        (GemmaRMSNorm, True, True),
        (LlamaRMSNorm, True, True),
        (lambda: FirstLayerNorm(6), False, False),
        (PlainLayerNorm, True, False),
    ],
)
def test_replacing_a_norm_by_the_same_norm_changes_nothing(old, last, rms):
    torch.manual_seed(0)
    layer = old()
    if isinstance(layer, nn.LayerNorm):
        nn.init.uniform_(layer.bias)
    shape = (2, 5, 6) if last else (2, 6, 4, 4)
    x = torch.randn(shape)
    expected = layer(x)
    model = nn.Sequential(layer)
    result = replace_norm(model, "rms" if rms else "layer")
    assert len(result.replaced) == 1
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)


def test_gemmas_scale_becomes_a_parameter_of_its_own():
    model = nn.Sequential(GemmaRMSNorm())
    old = model[0].weight
    replace_norm(model, "dyt")
    torch.testing.assert_close(model[0].weight, 1 + old)
    assert model[0].weight is not old


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (GatedRMSNorm(), "it computes neither LayerNorm nor RMSNorm of one input"),
        (CosineNorm(), "it computes neither LayerNorm nor RMSNorm of one input"),
        (ThreeNorm(), "it has parameters beyond scale and shift: tau"),
        (UnknownSizeNorm(), "it does not say its number of channels"),
        (nn.LayerNorm((3, 4)), r"it normalizes over several axes, \(3, 4\)"),
        (nn.LocalResponseNorm(2), "it normalizes over neighbouring channels"),
        (nn.LazyBatchNorm2d(), "it is lazy"),
        (EvoNormS0(32), "it is norm and activation in one, and the activation would be lost"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_is_left_says_why(layer, reason):
    model = nn.Sequential(layer)
    result = replace_norm(model, "rms")
    assert model[0] is layer
    assert [left.name for left in result.left] == ["0"]
    assert re.match(reason, result.left[0].reason)
    assert f"left: 1 {type(layer).__name__} (0): " in str(result)


def test_trying_a_norm_disturbs_nothing():
    layer = CosineNorm().train()
    called = []
    layer.register_forward_hook(lambda *_: called.append(1))
    state = torch.get_rng_state()
    replace_norm(nn.Sequential(layer), "rms")
    assert layer.training
    assert not called
    assert torch.equal(torch.get_rng_state(), state)


def test_scripted_norms_are_left():
    with pytest.warns(DeprecationWarning):
        scripted = torch.jit.script(nn.BatchNorm2d(3))
    result = replace_norm(nn.Sequential(scripted), "rms")
    assert result.left[0].reason == "it is compiled by TorchScript"
