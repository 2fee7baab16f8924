import numpy as np
import torch
from torch import nn

from spp import models


def test_matches_numpy_in_float64():
    torch.manual_seed(0)
    model = models.build("ffn", norm="none", depth=4, width=11, input_shape=(2, 3, 3), num_classes=5).double()
    x = torch.randn(6, 2, 3, 3, dtype=torch.float64)
    out = x.numpy().reshape(6, -1)
    matrices = [p.detach().numpy() for p in model.parameters() if p.ndim == 2]
    for matrix in matrices[:-1]:
        out = np.maximum(out @ matrix.T, 0)
    np.testing.assert_allclose(model(x).detach().numpy(), out @ matrices[-1].T, rtol=1e-12, atol=1e-14)


def test_the_default_is_the_thesis_network():
    model = models.build("ffn")
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert [tuple(linear.weight.shape) for linear in linears] == [(100, 3072)] + 9 * [(100, 100)]
    assert [norm.affine for norm in model.modules() if isinstance(norm, nn.BatchNorm1d)] == [True] + 8 * [False]
    assert all(linear.bias.abs().max() == 0 for linear in linears)
    for linear in linears:  # He, fan_out
        assert abs(linear.weight.std().item() / (2 / 100) ** 0.5 - 1) < 0.05


def test_a_new_norm_goes_everywhere_unless_the_first_is_named():
    assert all(norm.affine for norm in models.build("ffn", norm="batch").modules() if isinstance(norm, nn.BatchNorm1d))
    mixed = models.build("ffn", norm="rms", first_norm="layer", depth=4)
    assert isinstance(mixed.layer1.norm, nn.LayerNorm)
    assert isinstance(mixed.layer2.norm, nn.RMSNorm)


def test_names_read_well():
    names = [name for name, module in models.build("ffn", depth=3).named_modules() if not list(module.children())]
    assert names == [
        "flatten",
        *(f"layer{index}.{part}" for index in (1, 2) for part in ("linear", "norm", "act")),
        "head.fc",
    ]


def test_depth_one_is_a_linear_classifier():
    model = models.build("ffn", depth=1, input_shape=(4,), num_classes=2)
    x = torch.randn(3, 4)
    torch.testing.assert_close(model(x), model.head.fc(x), rtol=0, atol=0)


def test_a_self_normalizing_network_drops_by_its_own_rule():
    torch.manual_seed(0)
    arguments = {"norm": "none", "activation": "selu", "init": "lecun", "width": 400, "depth": 12, "dropout": 0.1}
    found = {}
    for alpha in (True, False):
        model = models.build("ffn", alpha_dropout=alpha, **arguments)
        assert sum(isinstance(m, nn.AlphaDropout) for m in model.modules()) == (11 if alpha else 0)
        model.head.register_forward_pre_hook(lambda _m, x, alpha=alpha: found.__setitem__(alpha, x[0].var().item()))
        with torch.no_grad():
            model(torch.randn(256, 3, 32, 32))
    assert abs(found[True] - 1) < 0.15 < abs(found[False] - 1)


def test_standardized_weights():
    model = models.build("ffn", norm="scaled_ws", width=50, depth=4)
    rules = [getattr(m, "rule", None) for m in model.modules() if isinstance(m, nn.Linear)]
    assert rules == ["scaled_ws", "scaled_ws", "scaled_ws", None]
