"""Every bundled network, one row each. A new variant is a new row; a new kind of network is a new family.

A network of one's own is one more row, of a configuration and of what builds the network from it::

    MODELS.register("mine", Model(Config(name="mine", description="...", input_shape=(3, 32, 32)), MyNet))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from spp.models.config import Config
from spp.models.efficientnet import EfficientNet, EfficientNetConfig
from spp.models.ffn import FFN, FFNConfig
from spp.models.resnet import PreResNet, ResNet, ResNetConfig
from spp.registry import Registry

#          blocks of each stage, kind of block
RESNETS = {
    18: ((2, 2, 2, 2), "basic"),
    34: ((3, 4, 6, 3), "basic"),
    50: ((3, 4, 6, 3), "bottleneck"),
    101: ((3, 4, 23, 3), "bottleneck"),
    152: ((3, 8, 36, 3), "bottleneck"),
}

#          width, depth, image side, dropout
EFFICIENTNETS = {
    0: (1.0, 1.0, 224, 0.2),
    1: (1.0, 1.1, 240, 0.2),
    2: (1.1, 1.2, 260, 0.3),
    3: (1.2, 1.4, 300, 0.3),
    4: (1.4, 1.8, 380, 0.4),
    5: (1.6, 2.2, 456, 0.4),
    6: (1.8, 2.6, 528, 0.5),
    7: (2.0, 3.1, 600, 0.5),
}


CIFAR_RESNETS = (20, 32, 44, 56, 110)
"""Depths of the CIFAR networks of He et al. 2015: 6n + 2 layers."""

#          what each of the thesis' arms (Dewyse 2025) changes about EfficientNet-B0, and its description
SELU = {"activation": "selu", "init": "lecun"}
MAGNITUDE = {"residual": "mp", "se": "magnitude", "head_init": "small_normal"}
EFFNET_ARMS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "sn": ("self-normalizing: SELU, LeCun init, no norm", {"norm": "none", **SELU}),
    "snmp": ("sn with magnitude-preserving sums and squeeze-and-excitation", {"norm": "none", **SELU, **MAGNITUDE}),
    "snmp_learned": (
        "snmp with learned sums",
        {"norm": "none", **SELU, **MAGNITUDE, "residual": "mp_learned"},
    ),
    "dyt": ("DyT in place of BatchNorm", {"norm": "dyt"}),
    "dyt_sn": ("DyT, alpha 1, with SELU and LeCun init", {"norm": "dyt", "norm_options": {"alpha": 1.0}, **SELU}),
    "ws": ("weight standardization everywhere, no norm", {"norm": "ws", "se_weight_norm": "ws"}),
    "ws_sn": ("ws with SELU and LeCun init", {"norm": "ws", "se_weight_norm": "ws", **SELU}),
    "ws_se_sn": (
        "sn with weight standardization in squeeze-and-excitation alone",
        {"norm": "none", "se_weight_norm": "ws", **SELU},
    ),
    "nf": (
        "normalizer-free after Brock et al. 2021, betas reset where a block has no skip",
        {"residual": "nf", "norm": "scaled_ws", "se": "doubled", "preactivation": True, "init": "lecun"},
    ),
    "gain": (
        "no norm, but an init that counts groups and the activation's gain: the control of norm=none",
        {"norm": "none", "init": "lecun", "gain": "rms"},
    ),
}


@dataclass(frozen=True, slots=True)
class Model:
    """A row of ``MODELS``.

    Attributes:
        config: What ``build`` can change about the network, with its defaults; a ``Config`` or a subclass with more fields.
        network: Builds the network from the (changed) configuration. Initializing it is ``build``'s part.
    """

    config: Config
    network: Callable[[Any], nn.Module]


def _rows() -> list[Model]:
    ffn = FFNConfig(
        name="ffn",
        description="fully connected, 10 layers of width 100 on 3x32x32 images (Dewyse 2025)",
        input_shape=(3, 32, 32),
        num_classes=100,
        norm="batch_minus",
        first_norm="batch",
    )
    resnets = [
        *_resnets("resnet", "ResNet v1.5"),
        *_resnets("resnetv2_", "pre-activation ResNet", preactivation=True),
        *_cifar_resnets(),
        *_normalizer_free_resnets(),
    ]
    return [
        Model(ffn, FFN),
        *(Model(row, PreResNet if row.preactivation else ResNet) for row in resnets),
        *(Model(row, EfficientNet) for row in _efficientnets()),
    ]


def _resnets(version: str, kind: str, **fields: Any) -> list[ResNetConfig]:
    rows = []
    cifar: dict[str, Any] = {"stem": "cifar", "input_shape": (3, 32, 32), "num_classes": 10}
    for suffix, more, where in (("", dict[str, Any](), ""), ("_cifar", cifar, ", with the stem for 32x32 images")):
        for depth, (depths, block) in RESNETS.items():
            rows.append(
                ResNetConfig(
                    name=f"{version}{depth}{suffix}",
                    description=f"{kind}, {depth} layers{where}",
                    depths=depths,
                    block=block,
                    **fields,
                    **more,
                )
            )
    return rows


def _cifar_resnets() -> list[ResNetConfig]:
    return [
        ResNetConfig(
            name=f"resnet{depth}",
            description=f"ResNet for CIFAR, {depth} layers of width 16 to 64 (He et al. 2015)",
            depths=((depth - 2) // 6,) * 3,
            widths=(16, 32, 64),
            stem="cifar",
            shortcut="pad",
            input_shape=(3, 32, 32),
            num_classes=10,
        )
        for depth in CIFAR_RESNETS
    ]


def _normalizer_free_resnets() -> list[ResNetConfig]:
    rows = [
        ResNetConfig(
            name=f"nf_resnet{depth}",
            description=f"NF-ResNet, {depth} layers: scaled weight standardization, no norm (Brock et al. 2021)",
            depths=RESNETS[depth][0],
            block="bottleneck",
            preactivation=True,
            norm="scaled_ws",
            residual="nf",
            init="lecun",
            head_init="small_normal",
            drop_path=0.1,
        )
        for depth in (50, 101)
    ]
    fixup = ResNetConfig(
        name="fixup_resnet50",
        description="ResNet v1.5, 50 layers, with Fixup in place of norms (Zhang et al. 2019)",
        depths=RESNETS[50][0],
        block="bottleneck",
        norm="none",
        residual="fixup",
        init="fixup",
    )
    return [*rows, fixup]


def _efficientnets() -> list[EfficientNetConfig]:
    rows = [
        EfficientNetConfig(
            name=f"effnet_b{number}",
            description=f"EfficientNet-B{number} at {side}x{side} (Tan & Le 2019)",
            width_multiplier=width,
            depth_multiplier=depth_multiplier,
            dropout=dropout,
            input_shape=(3, side, side),
        )
        for number, (width, depth_multiplier, side, dropout) in EFFICIENTNETS.items()
    ]
    # the thesis' arms are all of B0
    b0 = rows[0]
    arms = [
        replace(b0, name=f"{b0.name}_{arm}", description=f"EfficientNet-B0, {description}", **fields)
        for arm, (description, fields) in EFFNET_ARMS.items()
    ]
    return [*rows, *arms]


MODELS = Registry[Model](
    "model", {row.config.name: row for row in _rows()}, of=Model, describe=lambda row: row.config.description
)
"""Every network by name."""

ALIASES = {f"efficientnet_b{number}": f"effnet_b{number}" for number in EFFICIENTNETS}
"""Other names of the same rows."""
