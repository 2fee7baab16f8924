import numpy as np
import pytest
import torch

from spp.errors import UnknownNameError
from spp.nn import SE_SCALES, SqueezeExcite, functional


def test_matches_its_formula_in_float64():
    torch.manual_seed(0)
    layer = SqueezeExcite(6, 2, "silu").double()
    x = torch.randn(3, 6, 4, 5, dtype=torch.float64)
    reduce, expand = (conv.weight.detach().numpy()[:, :, 0, 0] for conv in (layer.reduce, layer.expand))
    hidden = x.numpy().mean((2, 3)) @ reduce.T + layer.reduce.bias.detach().numpy()
    hidden = hidden / (1 + np.exp(-hidden))
    gate = 1 / (1 + np.exp(-(hidden @ expand.T + layer.expand.bias.detach().numpy())))
    np.testing.assert_allclose(layer(x).detach().numpy(), x.numpy() * gate[:, :, None, None], rtol=1e-12)


@pytest.mark.parametrize(("scale", "factor"), [("plain", 0.5), ("doubled", 1.0), ("magnitude", 0.5**0.5)])
def test_what_a_gate_of_one_half_does(scale, factor):
    """The variance is quartered, kept, halved."""
    layer = SqueezeExcite(8, 2, scale=scale)
    for parameter in layer.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(layer(x), x * factor)


def test_the_thesis_scaling_in_four_numbers():
    gate = torch.tensor([0.25, 0.5, 0.75, 0.9], dtype=torch.float64).view(1, 4, 1, 1)
    scaled = functional.magnitude_squeeze_excite(torch.ones_like(gate), gate)
    expected = [0.3162277660, 0.7071067812, 0.9486832981, 0.9938837347]
    assert scaled.flatten().tolist() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("scale", "kept"), [("plain", 2.0**-32), ("doubled", 1.0), ("magnitude", 2.0**-16)])
def test_variance_left_after_the_sixteen_gates_of_effnet_b0(scale, kept):
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for _ in range(16):
        x = SE_SCALES[scale].apply(x, torch.full_like(x, 0.5))
    assert x.square().item() == pytest.approx(kept, rel=1e-12)


def test_standardized_maps():
    layer = SqueezeExcite(8, 2, weight_norm="ws")
    assert [conv.rule for conv in (layer.reduce, layer.expand)] == ["ws", "ws"]
    assert type(SqueezeExcite(8, 1, weight_norm="ws").expand) is torch.nn.Conv2d  # a single input cannot be centred


def test_unknown_scalings():
    with pytest.raises(
        UnknownNameError, match=r"unknown squeeze-and-excitation scaling 'double'\. Did you mean 'doubled'"
    ):
        SqueezeExcite(8, 2, scale="double")
    with pytest.raises(UnknownNameError, match=r"unknown gate 'none'\. .*Known: plain, doubled, magnitude\."):
        SqueezeExcite(8, 2, scale="none")
    assert all(row.description for row in SE_SCALES.values())
