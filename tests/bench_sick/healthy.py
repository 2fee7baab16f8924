"""Healthy networks: bundled ones and torchvision's, each at its own init."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import spp
from tests import foreign

SMALL, IMAGE = (3, 32, 32), (3, 64, 64)


def _bundled(name: str, shape: tuple[int, ...] = SMALL, samples: int = 16, **changes: Any) -> Callable[[], Any]:
    return lambda: (spp.models.build(name, **changes), spp.data.gaussian(samples, shape, seed=0))


def _torchvision(name: str, samples: int = 8) -> Callable[[], Any]:
    def make() -> tuple[nn.Module, torch.Tensor]:
        models: Any = foreign.torchvision().models
        return getattr(models, name)(), spp.data.gaussian(samples, IMAGE, seed=0)

    return make


HEALTHY: dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]] = {
    "ffn": _bundled("ffn"),
    "ffn, no norm, He": _bundled("ffn", norm="none", init="he"),
    "ffn, SELU, 30 layers": _bundled("ffn", norm="none", activation="selu", init="lecun", depth=30),
    "resnet18_cifar": _bundled("resnet18_cifar"),
    "resnet20, GroupNorm": _bundled("resnet20", norm="group"),
    "resnet56": _bundled("resnet56"),
    "resnet50": _bundled("resnet50", IMAGE, 8),
    "resnetv2_50": _bundled("resnetv2_50", IMAGE, 8),
    "nf_resnet50": _bundled("nf_resnet50", IMAGE, 8),
    "fixup_resnet50": _bundled("fixup_resnet50", IMAGE, 8),
    "effnet_b0": _bundled("effnet_b0", IMAGE, 8),
    "effnet_b0_nf": _bundled("effnet_b0_nf", IMAGE, 8),
    "torchvision alexnet": _torchvision("alexnet"),
    "torchvision vgg11_bn": _torchvision("vgg11_bn", 4),
    "torchvision squeezenet1_1": _torchvision("squeezenet1_1"),
    "torchvision mobilenet_v2": _torchvision("mobilenet_v2"),
    "torchvision efficientnet_b0": _torchvision("efficientnet_b0"),
    "torchvision densenet121": _torchvision("densenet121"),
    "torchvision convnext_tiny": _torchvision("convnext_tiny", 4),
    "torchvision regnet_y_400mf": _torchvision("regnet_y_400mf"),
    "torchvision shufflenet_v2_x0_5": _torchvision("shufflenet_v2_x0_5"),
}
