"""Neuron-wise normalization as a norm of the bundled networks, and its statistics as rows of a trace."""

import numpy as np
import pytest
import torch
from torch import nn

import spp

NETWORKS = {
    "ffn": {"depth": 4, "width": 16},
    "resnet18_cifar": {"depths": (1, 1), "widths": (8, 16)},
    "resnetv2_18_cifar": {"depths": (1, 1), "widths": (8, 16)},
    "effnet_b0": {"width_multiplier": 0.25, "depth_multiplier": 0.3},
}


@pytest.mark.parametrize(("name", "changes"), NETWORKS.items(), ids=NETWORKS)
def test_the_forward_pass_is_that_of_no_norm_and_weight_gradients_differ(name, changes):
    shape = (3, 32, 32)
    networks = []
    for norm in ("none", "neuronwise"):
        torch.manual_seed(0)
        networks.append(spp.models.build(name, norm=norm, num_classes=10, input_shape=shape, **changes).eval())
    plain, neuronwise = networks
    x = torch.randn(4, *shape)
    a, b = plain(x), neuronwise(x)
    assert torch.equal(a, b)
    converted = [n for n, m in neuronwise.named_modules() if type(m).__name__.startswith("Neuronwise")]
    assert converted
    cotangent = torch.randn_like(a)
    a.backward(cotangent)
    b.backward(cotangent)
    own = dict(plain.named_parameters())
    changed = {n for n, p in neuronwise.named_parameters() if not torch.equal(p.grad, own[n].grad)}
    assert changed and {n.rpartition(".")[0] for n in changed} <= set(converted)


def test_options_reach_the_layers():
    network = spp.models.build("ffn", norm="neuronwise", norm_options={"mode": "outer", "statistics": "running"})
    layer = next(m for m in network.modules() if type(m).__name__ == "NeuronwiseLinear")
    assert (layer.mode, layer.statistics) == ("outer", "running")


def test_a_trace_has_rows_for_the_statistics():
    layer = spp.nn.NeuronwiseLinear(6, 4, activation="relu", mode="coords")
    model = nn.Sequential(layer, nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(64, 6)
    frame = spp.trace(model, x).frame
    rows = frame.query("name == '0' and output.str.startswith('neuronwise.')").set_index("output")
    assert rows["shape"].to_dict() == {
        "neuronwise.input_mean": "4x6",
        "neuronwise.input_std": "4x6",
        "neuronwise.active_share": "4",
    }
    active = (layer(x) > 0).double()
    mean = (active.T @ x.double()) / active.sum(0)[:, None]
    np.testing.assert_allclose(rows.loc["neuronwise.input_mean", "mean"], mean.mean().item(), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(rows.loc["neuronwise.input_mean", "mean_square"], (mean**2).mean().item(), rtol=1e-5)
    np.testing.assert_allclose(rows.loc["neuronwise.active_share", "mean"], active.mean().item(), rtol=1e-6)
    assert layer.neuronwise_statistics() == {}  # the trace leaves the layer as it was


def test_it_takes_no_norms_place():
    with pytest.raises(
        spp.InputError, match=r"neuron-wise normalization takes no norm's place.*spp\.nn\.neuronwise_\(model\)"
    ):
        spp.nn.replace_norm(nn.Sequential(nn.BatchNorm1d(3)), "neuronwise")
