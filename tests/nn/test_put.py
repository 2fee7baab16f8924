"""Norms and activations put into networks that have none, or others."""

import pytest
import torch
from torch import nn

from spp.errors import InputError
from spp.nn import SqueezeExcite, put_activation, put_norm


def network():
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 8, 3), nn.ReLU(), SqueezeExcite(8, 2), nn.Conv2d(8, 4, 3), nn.Tanh(), nn.Flatten()]
    return nn.Sequential(*convolutions, nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 2))


def test_a_norm_stands_behind_every_weighted_layer_of_the_stream_but_the_last():
    model, x = network(), torch.randn(16, 3, 8, 8)
    kept = dict(model.named_parameters())
    done = put_norm(model, "batch")
    assert [swap.name for swap in done.replaced] == ["0", "3", "6"]
    assert "se.norm" not in str(model[2]) and isinstance(model[8], nn.Linear)
    assert model[0].layer.weight is kept["0.weight"]
    out = model[0](x)
    torch.testing.assert_close(out.var((0, 2, 3), correction=0), torch.ones(8), rtol=1e-3, atol=1e-3)
    assert model(x).shape == (16, 2)


def test_a_linear_layer_of_tokens_is_normed_along_its_last_axis():
    model = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3)).double()
    put_norm(model, "layer")
    out = model[0](torch.randn(4, 6, 5, dtype=torch.float64))
    torch.testing.assert_close(out.mean(-1), torch.zeros(4, 6, dtype=torch.float64))


def test_where_there_are_norms_they_are_replaced_and_nothing_is_added():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4))
    put_norm(model, "layer")
    assert [type(part).__name__ for part in model] == ["Linear", "ChannelLayerNorm", "ReLU", "Linear"]


def test_activations_are_replaced_but_for_gates():
    model = network()
    assert put_activation(model, "gelu") is model
    assert [type(model[i]).__name__ for i in (1, 4, 7)] == ["GELU", "GELU", "GELU"]
    assert isinstance(model[2].gate, nn.Sigmoid)


def test_where_nothing_can_be_put():
    with pytest.raises(InputError, match="a norm is put behind a weighted layer that others follow; got none"):
        put_norm(nn.Sequential(nn.Linear(2, 2)), "batch")
    with pytest.raises(InputError, match="an activation that is replaced is a module; got none in the model"):
        put_activation(nn.Sequential(nn.Linear(2, 2)), "relu")
