"""Fingerprints of networks: numbers that one forward and backward pass with known weights leaves behind.

Weights come from a formula rather than a file (``fill_``), so that the same network of another library, whose parameters lie
in the same order, has the same fingerprint. ``fingerprints.json`` was made from torchvision's and timm's networks by

    python -m tests.models.fingerprints

and is compared with ours wherever the tests run; where the libraries are installed the networks themselves are compared too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spp import models
from spp.nn import PUBLISHED_GAMMAS
from tests import foreign

FILE = Path(__file__).with_name("fingerprints.json")
SIDE, BATCH, CLASSES = 33, 2, 10

BARE = {"dropout": 0.0, "drop_path": 0.0}
TIMM_NF = {
    "norm_options": {"gamma": PUBLISHED_GAMMAS["relu"], "eps": 1e-5, "floor": 0.0},  # timm has both in its weights
    "gain": "none",
    "shortcut": "pool",
    "drop_path": 0.0,
    "residual_options": {"gain": 1.0},  # timm leaves the gain of the branch out
}
NETWORKS: dict[str, tuple[dict[str, Any], Callable[[], nn.Module]]] = {
    "resnet18": ({}, lambda: foreign.torchvision().models.resnet18(num_classes=CLASSES)),
    "resnet50": ({}, lambda: foreign.torchvision().models.resnet50(num_classes=CLASSES)),
    "resnet101": ({}, lambda: foreign.torchvision().models.resnet101(num_classes=CLASSES)),
    "effnet_b0": (
        {**BARE, "batch_eps": 1e-5, "batch_momentum": 0.1},
        lambda: foreign.torchvision().models.efficientnet_b0(
            num_classes=CLASSES, dropout=0.0, stochastic_depth_prob=0.0
        ),
    ),
    "effnet_b4": (
        {**BARE, "batch_eps": 1e-5, "batch_momentum": 0.1},
        lambda: foreign.torchvision().models.efficientnet_b4(
            num_classes=CLASSES, dropout=0.0, stochastic_depth_prob=0.0
        ),
    ),
    "nf_resnet50": (TIMM_NF, lambda: foreign.timm().create_model("nf_resnet50", num_classes=CLASSES)),
}
"""Name in our table, what is changed about it, and the other library's network."""


def ours(name: str) -> nn.Module:
    """Our network, as the other library has it."""
    changes, _ = NETWORKS[name]
    return models.build(name, num_classes=CLASSES, input_shape=(3, SIDE, SIDE), **changes)


@torch.no_grad()
def fill_(model: nn.Module) -> nn.Module:
    """Set every parameter, in order, from a running index ``i``, and make the model float64.

    Weights (of more than one axis, axes of size 1 aside) are ``sin(1 + i^2 / 7) * sqrt(4 / fan_in)``, which has about the
    variance that He's init has; other parameters are ``base + 0.2 sin(1 + i^2 / 7)`` where base is what they start with, 0
    or 1. Gains that start at 0 count as 1. The one scalar of a residual block stays as it is and is not counted.
    """
    model.double()
    start = 0
    for name, parameter in model.named_parameters():
        if parameter.ndim == 0:
            continue
        index = torch.arange(start, start + parameter.numel(), dtype=torch.float64)
        start += parameter.numel()
        wave = torch.sin(1 + (index % 100_003) ** 2 / 7).view_as(parameter)
        if parameter.numel() > len(parameter):
            parameter.copy_(wave * (4 / parameter[0].numel()) ** 0.5)
        else:
            base = 0.0 if name.endswith("bias") else 1.0
            parameter.copy_(base + 0.2 * wave)
    return model


def sample() -> Tensor:
    """The input: a wave over all pixels of the batch, ``(2, 3, 33, 33)``."""
    count = torch.arange(BATCH * 3 * SIDE * SIDE, dtype=torch.float64)
    return torch.cos(count**1.5 / 50).view(BATCH, 3, SIDE, SIDE)


def measure(model: nn.Module) -> dict[str, list[float]]:
    """Outputs in training and evaluation, and projections of gradients, of a filled model.

    A gradient's projection is its product with a wave, summed: it sees every element, and the sign of each.
    """
    x = sample().requires_grad_()
    model.train()
    out = model(x)
    (out * torch.cos(torch.arange(out.numel(), dtype=torch.float64)).view_as(out)).sum().backward()
    assert x.grad is not None
    gradients = [p.grad for p in model.parameters() if p.grad is not None and p.ndim > 0]
    with torch.no_grad():
        evaluated = model.eval()(x)
    return {
        "train": out.flatten().tolist(),
        "eval": evaluated.flatten().tolist(),
        "input gradient": [_project(x.grad), x.grad.norm().item()],
        "parameter gradients": [_project(g) for g in (*gradients[:4], gradients[len(gradients) // 2], *gradients[-4:])],
        "norm of all gradients": [torch.stack([g.norm() for g in gradients]).norm().item()],
    }


def _project(gradient: Tensor) -> float:
    wave = torch.cos(torch.arange(gradient.numel(), dtype=torch.float64) * 0.7)
    return float(gradient.flatten() @ wave)


def make() -> dict[str, dict[str, list[float]]]:
    """The fingerprints of the other libraries' networks."""
    return {name: measure(fill_(theirs())) for name, (_, theirs) in NETWORKS.items()}


if __name__ == "__main__":
    FILE.write_text(json.dumps(make(), indent=1) + "\n")
