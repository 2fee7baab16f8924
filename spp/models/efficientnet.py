"""EfficientNet (Tan & Le 2019, arXiv 1905.11946): inverted bottlenecks with squeeze-and-excitation, scaled B0 to B7."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from torch import Tensor, nn

from spp.models.config import ConvConfig
from spp.models.parts import Chain, Head, Parts, Stem
from spp.nn.residual import NF_ALPHA, ExpectedVariance, ResidualBlock

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
        preactivation: Whether blocks begin with an activation, as normalizer-free ones do, rather than take the linear
            output of the block before them; the stem then ends without one.
    """

    width_multiplier: float = 1.0
    depth_multiplier: float = 1.0
    dropout: float = 0.2
    drop_path: float = 0.2
    preactivation: bool = False
    se: str = "plain"
    activation: str = "silu"
    init: str = "efficientnet"
    batch_eps: float = 1e-3
    batch_momentum: float = 0.01

    def __post_init__(self) -> None:
        self._need_number("width_multiplier", 1e-3, 100)
        self._need_number("depth_multiplier", 1e-3, 100)
        self._need_number("dropout", 0, 1)
        super().__post_init__()

    @property
    def residuals(self) -> tuple[str, ...]:
        """All rules but Fixup, which is defined for ResNet v1."""
        return (*super().residuals, "nf")

    @property
    def total_stride(self) -> int:
        """2 in the stem and in four of the stages."""
        return 32

    def scale_channels(self, channels: int) -> int:
        """``channels`` times the width, rounded to a multiple of 8 that is not more than 10 % smaller."""
        wanted = channels * self.width_multiplier
        # the reference code's rule, which decides the published parameter counts
        rounded = max(8, int(wanted + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * wanted else rounded

    def scale_repeats(self, repeats: int) -> int:
        """``repeats`` times the depth, rounded up."""
        return ceil(repeats * self.depth_multiplier)


class MBConv(ResidualBlock):
    """Inverted bottleneck: 1x1 expansion, depthwise convolution, squeeze-and-excitation, 1x1 projection.

    The projection is not activated. The input is merged where the shape stays.

    Args:
        parts: Maker of layers.
        inputs: Channels in.
        stage: Expansion, kernel and (unscaled) rest of the stage.
        outputs: Channels out.
        stride: Of the depthwise convolution.
        preactivation: Whether the branch begins with an activation.
        beta: Expected spread of the input, which the branch's input is divided by.
    """

    branch_norm = "project_norm"

    def __init__(
        self,
        parts: Parts,
        inputs: int,
        stage: Stage,
        outputs: int,
        *,
        stride: int,
        preactivation: bool = False,
        beta: float = 1.0,
    ) -> None:
        super().__init__()
        width = inputs * stage.expand
        self.beta = beta
        self.branch = ("depthwise", "project") if stage.expand == 1 else ("expand", "depthwise", "project")
        layers: dict[str, nn.Module | None] = {}
        if stage.expand > 1:
            layers["expand"] = parts.make_conv(inputs, width, 1)
            layers["expand_norm"] = parts.make_norm(width)
            layers["expand_act"] = parts.make_act()
        layers["depthwise"] = parts.make_conv(width, width, stage.kernel, stride=stride, groups=width)
        layers["depthwise_norm"] = parts.make_norm(width)
        layers["depthwise_act"] = parts.make_act()
        layers["se"] = parts.make_se(width, inputs)
        layers["project"] = parts.make_conv(width, outputs, 1)
        layers["project_norm"] = parts.make_norm(outputs, activated=False)
        self.pre_act = parts.make_act(after_norm=False) if preactivation else None
        # added in the order of the forward pass, in which inits draw
        self.layers = tuple(name for name, layer in layers.items() if layer is not None)
        for name in self.layers:
            self.add_module(name, layers[name])

    @property
    def merges(self) -> bool:
        """Whether the block has a skip."""
        return bool(self.rule)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, H, W)`` to ``(N, outputs, H / stride, W / stride)``."""
        out: Tensor = x if self.pre_act is None else self.pre_act(x)
        out = out if self.beta == 1 else out * (1 / self.beta)
        # by name and not by children(), among which pre_act is too
        for name in self.layers:
            out = getattr(self, name)(out)
        if self.merges:
            out = self.weigh_branch(out) + self.weigh_skip(x)
        return out


class EfficientNet(Chain):
    """``stem``, ``stage1`` to ``stage7``, ``final`` (1x1 convolution, norm, activation), ``head``.

    ``(N, C, H, W)`` to ``(N, num_classes)``.
    """

    def __init__(self, config: EfficientNetConfig) -> None:
        super().__init__()
        self.config = config
        parts = Parts(config)
        channels = config.scale_channels(STEM_CHANNELS)
        activated = not config.preactivation
        self.stem = Stem(parts, config.input_shape[0], channels, 3, stride=2, activated=activated, pooled=False)
        options = dict(config.residual_options)
        expected = ExpectedVariance(options.get("alpha", NF_ALPHA))
        blocks = sum(config.scale_repeats(stage.repeats) for stage in STAGES)
        index = 0
        for number, stage in enumerate(STAGES, 1):
            outputs = config.scale_channels(stage.channels)
            members: list[nn.Module] = []
            for repeat in range(config.scale_repeats(stage.repeats)):
                stride = stage.stride if repeat == 0 else 1
                beta = expected.beta() if config.residual == "nf" else 1.0
                member = MBConv(
                    parts, channels, stage, outputs, stride=stride, preactivation=config.preactivation, beta=beta
                )
                # a block that changes width or size has no skip at all, not even a projection
                if stride == 1 and channels == outputs:
                    rate = config.drop_path * index / blocks
                    member.set_residual(config.residual, outputs, options=options, drop_rate=rate)
                    expected.identity_skip()
                else:
                    # the thesis scales by alpha here too, and its variance falls to alpha^2
                    expected.no_skip()
                members.append(member)
                channels, index = outputs, index + 1
            self.add_module(f"stage{number}", nn.Sequential(*members))
        features = config.scale_channels(HEAD_CHANNELS)
        self.final = Stem(parts, channels, features, 1, stride=1, activated=True, pooled=False)
        self.head = Head(parts, features, config.num_classes, dropout=config.dropout)
