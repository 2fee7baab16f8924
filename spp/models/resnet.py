"""ResNet v1.5 (He et al. 2015, arXiv 1512.03385, with the stride on the 3x3 convolution) for ImageNet and CIFAR."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from spp.errors import InputError, UnknownNameError
from spp.models.config import ConvConfig
from spp.models.parts import Head, Parts, Stem

STAGE_WIDTHS = (64, 128, 256, 512)
BLOCKS = ("basic", "bottleneck")
STEMS = ("imagenet", "cifar")


@dataclass(frozen=True, kw_only=True)
class ResNetConfig(ConvConfig):
    """A residual network of four stages.

    Attributes:
        depths: Blocks of each stage.
        block: ``basic`` (two 3x3 convolutions) or ``bottleneck`` (1x1, 3x3, 1x1 with four times the width).
        stem: ``imagenet`` (7x7 with stride 2, then max pooling) or ``cifar`` (3x3 with stride 1, no pooling).
        preactivation: Whether blocks begin with norm and activation (ResNet-V2) rather than end with them.
    """

    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    block: str = "basic"
    stem: str = "imagenet"
    preactivation: bool = False

    fixed = ConvConfig.fixed | {"preactivation"}

    def __post_init__(self) -> None:
        for kind, name, known in (("block", self.block, BLOCKS), ("stem", self.stem, STEMS)):
            if name not in known:
                raise UnknownNameError(kind, str(name), known)
        depths = self.depths
        if (
            not isinstance(depths, tuple | list)
            or len(depths) != 4
            or not all(isinstance(depth, int) and depth >= 1 for depth in depths)
        ):
            raise InputError(
                "depths are four positive integers, as (3, 4, 6, 3)",
                received=repr(depths),
                where=f"model {self.name!r}",
            )
        object.__setattr__(self, "depths", tuple(depths))
        super().__post_init__()

    @property
    def total_stride(self) -> int:
        """32 for the ImageNet stem, 8 for the CIFAR stem."""
        return 32 if self.stem == "imagenet" else 8

    @property
    def expansion(self) -> int:
        """Output channels of a block, in units of its width."""
        return 4 if self.block == "bottleneck" else 1

    def make_stem(self, parts: Parts) -> Stem:
        """The first layers; those of a pre-activation network have neither norm nor activation."""
        imagenet = self.stem == "imagenet"
        kernel, stride = (7, 2) if imagenet else (3, 1)
        return Stem(
            parts,
            self.input_shape[0],
            STAGE_WIDTHS[0],
            kernel,
            stride=stride,
            activated=not self.preactivation,
            pooled=imagenet,
        )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the second norm's output is merged with the shortcut, then activated."""

    def __init__(self, parts: Parts, inputs: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = parts.make_conv(inputs, width, 3, stride=stride)
        self.norm1 = parts.make_norm(width)
        self.act1 = parts.make_act()
        self.conv2 = parts.make_conv(width, width, 3)
        self.norm2 = parts.make_norm(width)
        self.shortcut = _project(parts, inputs, width, stride)
        self.act2 = parts.make_act()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, H, W)`` to ``(N, width, H / stride, W / stride)``."""
        out: Tensor = self.act1(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        shortcut = x if self.shortcut is None else self.shortcut(x)
        out = self.act2(out + shortcut)
        return out


class Bottleneck(nn.Module):
    """1x1 to ``width``, 3x3 with the stride, 1x1 to ``4 width``; merged with the shortcut, then activated."""

    def __init__(self, parts: Parts, inputs: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = parts.make_conv(inputs, width, 1)
        self.norm1 = parts.make_norm(width)
        self.act1 = parts.make_act()
        self.conv2 = parts.make_conv(width, width, 3, stride=stride)
        self.norm2 = parts.make_norm(width)
        self.act2 = parts.make_act()
        self.conv3 = parts.make_conv(width, 4 * width, 1)
        self.norm3 = parts.make_norm(4 * width)
        self.shortcut = _project(parts, inputs, 4 * width, stride)
        self.act3 = parts.make_act()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, H, W)`` to ``(N, 4 width, H / stride, W / stride)``."""
        out: Tensor = self.act1(self.norm1(self.conv1(x)))
        out = self.act2(self.norm2(self.conv2(out)))
        out = self.norm3(self.conv3(out))
        shortcut = x if self.shortcut is None else self.shortcut(x)
        out = self.act3(out + shortcut)
        return out


class Projection(nn.Module):
    """The shortcut where the shape changes: strided 1x1 convolution, then norm."""

    def __init__(self, parts: Parts, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = parts.make_conv(inputs, outputs, 1, stride=stride)
        self.norm = parts.make_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, H, W)`` to ``(N, outputs, H / stride, W / stride)``."""
        out: Tensor = self.norm(self.conv(x))
        return out


class ResNet(nn.Module):
    """``stem``, ``stage1`` to ``stage4``, ``head``."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        parts = Parts.of(config)
        block = Bottleneck if config.block == "bottleneck" else BasicBlock
        self.stem = config.make_stem(parts)
        channels = add_stages(self, config, parts, block)
        self.head = Head(channels, config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, num_classes)``."""
        for part in self.children():
            x = part(x)
        return x


def add_stages(network: nn.Module, config: ResNetConfig, parts: Parts, block: Callable[..., nn.Module]) -> int:
    """Give ``network`` its children ``stage1`` to ``stage4``; all but the first halve the map in their first block.

    Returns:
        The channels that the last stage ends with.
    """
    channels = STAGE_WIDTHS[0]
    for stage, (width, depth) in enumerate(zip(STAGE_WIDTHS, config.depths, strict=True), 1):
        blocks: list[nn.Module] = []
        for index in range(depth):
            stride = 2 if stage > 1 and index == 0 else 1
            blocks.append(block(parts, channels, width, stride=stride))
            channels = width * config.expansion
        network.add_module(f"stage{stage}", nn.Sequential(*blocks))
    return channels


def _project(parts: Parts, inputs: int, outputs: int, stride: int) -> Projection | None:
    return None if stride == 1 and inputs == outputs else Projection(parts, inputs, outputs, stride)
