"""EfficientNet (Tan & Le 2019, arXiv 1905.11946): inverted bottlenecks with squeeze-and-excitation, scaled B0 to B7."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from torch import Tensor, nn

from spp.models.config import ConvConfig
from spp.models.parts import Head, Parts, Stem
from spp.nn.residual import StochasticDepth
from spp.nn.squeeze_excite import SqueezeExcite

STEM_CHANNELS, HEAD_CHANNELS = 32, 1280


class Stage(NamedTuple):
    """A row of the paper's Table 1, before scaling."""

    expand: int
    kernel: int
    stride: int
    channels: int
    repeats: int


STAGES = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)


@dataclass(frozen=True, kw_only=True)
class EfficientNetConfig(ConvConfig):
    """EfficientNet-B0, scaled.

    Attributes:
        width_multiplier: Of the channels of stem, stages and head.
        depth_multiplier: Of the blocks of each stage.
        dropout: Before the classifier.
        drop_path: Rate of stochastic depth at the last block; it grows linearly from 0 at the first.
        se_ratio: Squeezed channels as a share of the channels that enter the block; 0 leaves SE out.
    """

    width_multiplier: float = 1.0
    depth_multiplier: float = 1.0
    dropout: float = 0.2
    drop_path: float = 0.2
    se_ratio: float = 0.25
    activation: str = "silu"
    init: str = "efficientnet"
    batch_eps: float = 1e-3
    batch_momentum: float = 0.01

    def __post_init__(self) -> None:
        self._need_number("width_multiplier", 1e-3, 100)
        self._need_number("depth_multiplier", 1e-3, 100)
        self._need_number("dropout", 0, 1)
        self._need_number("drop_path", 0, 1 - 1e-6)
        self._need_number("se_ratio", 0, 1)
        super().__post_init__()

    @property
    def total_stride(self) -> int:
        """2 in the stem and in four of the stages."""
        return 32

    def scale_channels(self, channels: int) -> int:
        """``channels`` times the width, rounded to a multiple of 8 that is not more than 10 % smaller."""
        wanted = channels * self.width_multiplier
        rounded = max(8, int(wanted + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * wanted else rounded

    def scale_repeats(self, repeats: int) -> int:
        """``repeats`` times the depth, rounded up."""
        return ceil(repeats * self.depth_multiplier)


class MBConv(nn.Module):
    """Inverted bottleneck: 1x1 expansion, depthwise convolution, squeeze-and-excitation, 1x1 projection.

    The projection is not activated. The input is added where the shape stays, after stochastic depth.

    Args:
        parts: Maker of layers.
        inputs: Channels in.
        stage: Expansion, kernel and (unscaled) rest of the stage.
        outputs: Channels out.
        stride: Of the depthwise convolution.
        squeezed: Channels inside squeeze-and-excitation; 0 leaves it out.
        drop: Rate of stochastic depth.
    """

    def __init__(
        self, parts: Parts, inputs: int, stage: Stage, outputs: int, *, stride: int, squeezed: int, drop: float
    ) -> None:
        super().__init__()
        width = inputs * stage.expand
        self.merges = stride == 1 and inputs == outputs
        layers: dict[str, nn.Module] = {}
        if stage.expand > 1:
            layers["expand"] = parts.make_conv(inputs, width, 1)
            layers["expand_norm"] = parts.make_norm(width)
            layers["expand_act"] = parts.make_act()
        layers["depthwise"] = parts.make_conv(width, width, stage.kernel, stride=stride, groups=width)
        layers["depthwise_norm"] = parts.make_norm(width)
        layers["depthwise_act"] = parts.make_act()
        if squeezed:
            layers["se"] = SqueezeExcite(width, squeezed, parts.activation)
        layers["project"] = parts.make_conv(width, outputs, 1)
        layers["project_norm"] = parts.make_norm(outputs)
        if self.merges:
            layers["drop"] = StochasticDepth(drop)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, H, W)`` to ``(N, outputs, H / stride, W / stride)``."""
        out = x
        for layer in self.children():
            out = layer(out)
        if self.merges:
            out = out + x
        return out


class EfficientNet(nn.Module):
    """``stem``, ``stage1`` to ``stage7``, ``final`` (1x1 convolution, norm, activation), ``head``."""

    def __init__(self, config: EfficientNetConfig) -> None:
        super().__init__()
        self.config = config
        parts = Parts.of(config)
        channels = config.scale_channels(STEM_CHANNELS)
        self.stem = Stem(parts, config.input_shape[0], channels, 3, stride=2, activated=True, pooled=False)
        blocks = sum(config.scale_repeats(stage.repeats) for stage in STAGES)
        index = 0
        for number, stage in enumerate(STAGES, 1):
            outputs = config.scale_channels(stage.channels)
            members: list[nn.Module] = []
            for repeat in range(config.scale_repeats(stage.repeats)):
                squeezed = max(1, int(channels * config.se_ratio)) if config.se_ratio else 0
                stride = stage.stride if repeat == 0 else 1
                drop = config.drop_path * index / blocks
                members.append(MBConv(parts, channels, stage, outputs, stride=stride, squeezed=squeezed, drop=drop))
                channels, index = outputs, index + 1
            self.add_module(f"stage{number}", nn.Sequential(*members))
        features = config.scale_channels(HEAD_CHANNELS)
        self.final = Stem(parts, channels, features, 1, stride=1, activated=True, pooled=False)
        self.head = Head(features, config.num_classes, dropout=config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, num_classes)``."""
        for part in self.children():
            x = part(x)
        return x
