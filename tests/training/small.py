"""The smallest run that has everything: digits, a network with BatchNorm and dropout."""

from typing import Any

import torch
from torch import nn

import spp
from spp.data import Splits


def digits(**options: Any) -> Splits:
    return spp.data.splits("digits", **options)


def network(seed: int = 0, **changes: Any) -> nn.Module:
    torch.manual_seed(seed)
    row = {"depth": 3, "width": 16, "norm": "batch", "dropout": 0.2, "input_shape": (1, 8, 8), "num_classes": 10}
    return spp.models.build("ffn", **{**row, **changes})


def same(a: Any, b: Any) -> bool:
    """Whether two nested states are equal to the bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)
