"""Every bundled network, one row each. A new variant is a new row; a new kind of network is a new family."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from spp.models.config import Config
from spp.models.efficientnet import EfficientNetConfig
from spp.models.ffn import FFNConfig
from spp.models.resnet import ResNetConfig

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


def _rows() -> list[Config]:
    rows: list[Config] = [
        FFNConfig(
            name="ffn",
            description="fully connected, 10 layers of width 100 on 3x32x32 images (Dewyse 2025)",
            input_shape=(3, 32, 32),
            num_classes=100,
            norm="batch_minus",
            first_norm="batch",
        )
    ]
    for version, preactivation in (("resnet", False), ("resnetv2_", True)):
        kind = "pre-activation ResNet" if preactivation else "ResNet v1.5"
        for depth, (depths, block) in RESNETS.items():
            rows.append(
                ResNetConfig(
                    name=f"{version}{depth}",
                    description=f"{kind}, {depth} layers",
                    depths=depths,
                    block=block,
                    preactivation=preactivation,
                )
            )
        for depth, (depths, block) in RESNETS.items():
            rows.append(
                ResNetConfig(
                    name=f"{version}{depth}_cifar",
                    description=f"{kind}, {depth} layers, with the stem for 32x32 images",
                    depths=depths,
                    block=block,
                    preactivation=preactivation,
                    stem="cifar",
                    input_shape=(3, 32, 32),
                    num_classes=10,
                )
            )
    for number, (width, depth_multiplier, side, dropout) in EFFICIENTNETS.items():
        rows.append(
            EfficientNetConfig(
                name=f"effnet_b{number}",
                description=f"EfficientNet-B{number} at {side}x{side} (Tan & Le 2019)",
                width_multiplier=width,
                depth_multiplier=depth_multiplier,
                dropout=dropout,
                input_shape=(3, side, side),
            )
        )
    return rows


VARIANTS: Mapping[str, Config] = MappingProxyType({row.name: row for row in _rows()})
"""Every network by name."""

ALIASES: Mapping[str, str] = MappingProxyType(
    {f"efficientnet_b{number}": f"effnet_b{number}" for number in EFFICIENTNETS}
)
"""Other names of the same rows."""
