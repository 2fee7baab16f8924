import numpy as np
import torch

from spp.nn import SqueezeExcite


def test_matches_its_formula_in_float64():
    torch.manual_seed(0)
    layer = SqueezeExcite(6, 2, "silu").double()
    x = torch.randn(3, 6, 4, 5, dtype=torch.float64)
    reduce, expand = (conv.weight.detach().numpy()[:, :, 0, 0] for conv in (layer.reduce, layer.expand))
    hidden = x.numpy().mean((2, 3)) @ reduce.T + layer.reduce.bias.detach().numpy()
    hidden = hidden / (1 + np.exp(-hidden))
    gate = 1 / (1 + np.exp(-(hidden @ expand.T + layer.expand.bias.detach().numpy())))
    np.testing.assert_allclose(layer(x).detach().numpy(), x.numpy() * gate[:, :, None, None], rtol=1e-12)


def test_a_gate_of_one_half_quarters_the_variance():
    layer = SqueezeExcite(8, 2)
    for parameter in layer.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(layer(x), x / 2)
