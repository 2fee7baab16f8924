"""ResNets that end their blocks with an activation, and pre-activation ResNets that begin them with it.

The first are ResNet v1.5 (He et al. 2015, arXiv 1512.03385, with the stride on the 3x3 convolution) for ImageNet and CIFAR, the
others those of He et al. 2016 (arXiv 1603.05027).

The CIFAR networks of the first paper (20 to 110 layers) have three stages of widths 16, 32 and 64.

A pre-activation block that changes the shape feeds its projection with the normalized activation too, so that the variance of
the signal starts anew there. With BatchNorm, ReLU and weights of variance 2/fan_in, the average channel variance after
block k of such a stage is (k + 1)(1 - 1/pi), the curve that Signal Propagation Plots are read against
(Brock et al. 2021, arXiv 2101.08692). With the norm behind the activation (``order="act_norm"``) branches have no mean.
Under the rule ``nf`` the same blocks make their NF-ResNet: the activated input is divided by its expected spread, and the
branch is scaled by alpha.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from spp.errors import UnknownNameError
from spp.models.config import ConvConfig, are_counts
from spp.models.parts import Chain, Head, Parts, Stem
from spp.nn.residual import NF_ALPHA, ExpectedVariance, ResidualBlock

BLOCKS = ("basic", "bottleneck")
STEMS = ("imagenet", "cifar")
SHORTCUTS = ("projection", "pool", "pad")
ORDERS = ("norm_act", "act_norm")


@dataclass(frozen=True, kw_only=True)
class ResNetConfig(ConvConfig):
    """A residual network.

    Attributes:
        depths: Blocks of each stage.
        widths: Width of each stage.
        block: ``basic`` (two 3x3 convolutions) or ``bottleneck`` (1x1, 3x3, 1x1 with four times the width).
        stem: ``imagenet`` (7x7 with stride 2, then max pooling) or ``cifar`` (3x3 with stride 1, no pooling).
        preactivation: Whether blocks begin with norm and activation (ResNet-V2) rather than end with them.
        shortcut: What a skip does where the shape changes: ``projection`` (1x1 convolution with the stride), ``pool`` (2x2
            average pooling, then a 1x1 convolution) or ``pad`` (every second pixel, zeros for the new channels; option A
            of He et al., without parameters; not with ``preactivation``).
        order: Of norm and activation in blocks that begin with them: ``norm_act`` (norm, activation, convolution), or
            ``act_norm`` (activation, norm, convolution), whose branches have no mean shift (Brock et al. 2021).
    """

    depths: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    block: str = "basic"
    stem: str = "imagenet"
    preactivation: bool = False
    shortcut: str = "projection"
    order: str = "norm_act"

    # it chooses the class of the network, so it is not to be changed by an argument of build
    fixed = ConvConfig.fixed | {"preactivation"}

    def __post_init__(self) -> None:
        known = SHORTCUTS[:2] if self.preactivation else SHORTCUTS
        for kind, name, names in (
            ("block", self.block, BLOCKS),
            ("stem", self.stem, STEMS),
            ("shortcut", self.shortcut, known),
            ("order", self.order, ORDERS if self.preactivation else ORDERS[:1]),
        ):
            if name not in names:
                raise UnknownNameError(kind, str(name), names, where=f"model {self.name!r}")
        for key in ("depths", "widths"):
            self._need_counts(key)
        if len(self.depths) != len(self.widths):
            raise self._error(
                "depths and widths have one number for each stage",
                received=f"depths={self.depths} and widths={self.widths}",
                remedy="Change both together.",
            )
        super().__post_init__()

    def _need_counts(self, key: str) -> None:
        value = getattr(self, key)
        if not are_counts(value):
            example = "(3, 4, 6, 3)" if key == "depths" else "(64, 128, 256, 512)"
            raise self._error(f"{key} are positive integers, one for each stage, as {example}", received=repr(value))
        object.__setattr__(self, key, tuple(value))

    @property
    def residuals(self) -> tuple[str, ...]:
        """All rules but those of the other kind of block: Fixup is defined for ResNet v1, NF for pre-activation."""
        return (*super().residuals, "nf" if self.preactivation else "fixup")

    @property
    def total_stride(self) -> int:
        """4 in the ImageNet stem and 2 in each stage but the first."""
        return (4 if self.stem == "imagenet" else 1) << (len(self.widths) - 1)

    def make_stem(self, parts: Parts) -> Stem:
        """The first layers; those of a pre-activation network have neither norm nor activation."""
        imagenet = self.stem == "imagenet"
        kernel, stride = (7, 2) if imagenet else (3, 1)
        return Stem(
            parts,
            self.input_shape[0],
            self.widths[0],
            kernel,
            stride=stride,
            activated=not self.preactivation,
            pooled=imagenet,
        )


class Block(ResidualBlock):
    """What all blocks are made by: the convolutions of their branch."""

    kernels: ClassVar[tuple[int, ...]]
    expansion: ClassVar[int] = 1
    shortcut: nn.Module | None

    def convolutions(self, width: int, stride: int) -> list[tuple[int, int, int, int]]:
        """Number (from 1), side, outputs and stride of each; the first 3x3 has the stride, the last is expanded."""
        last, strided = len(self.kernels), 1 + self.kernels.index(3)
        return [
            (n, side, width * (self.expansion if n == last else 1), stride if n == strided else 1)
            for n, side in enumerate(self.kernels, 1)
        ]

    def layers(self, n: int) -> tuple[nn.Module, ...]:
        """Convolution, norm and activation of that number."""
        # by name: rows of a trace and of a state dict are called conv1, norm1, act1 and so on
        return tuple(getattr(self, f"{kind}{n}") for kind in ("conv", "norm", "act"))


class PostBlock(Block):
    """Convolution and norm for each of ``kernels``, activations between; merged with the shortcut, then activated.

    Args:
        parts: Maker of layers.
        inputs: Channels in.
        width: Channels inside the branch, of which there are ``expansion`` times as many behind it.
        stride: Of the 3x3 convolution that the block begins with.
    """

    def __init__(self, parts: Parts, inputs: int, width: int, *, stride: int) -> None:
        super().__init__()
        channels = inputs
        for n, side, outputs, step in self.convolutions(width, stride):
            within = n < len(self.kernels)
            self.add_module(f"conv{n}", parts.make_conv(channels, outputs, side, stride=step))
            self.add_module(f"norm{n}", parts.make_norm(outputs, activated=within))
            if not within:
                self.se = parts.make_se(outputs, outputs)
                self.shortcut = _shortcut(parts, inputs, outputs, stride)
            self.add_module(f"act{n}", parts.make_act(after_norm=within))
            channels = outputs

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, H, W)`` to ``(N, expansion width, H / stride, W / stride)``."""
        out: Tensor = self.enter(x)
        x = out
        for n in range(1, len(self.kernels) + 1):
            conv, norm, act = self.layers(n)
            out = norm(conv(out if n == 1 else self.between(2 * n - 3, out)))
            if n < len(self.kernels):
                out = act(self.between(2 * n - 2, out))
        out = out if self.se is None else self.se(out)
        shortcut = x if self.shortcut is None else self.shortcut(x)
        out = self.weigh_branch(out) + self.weigh_skip(shortcut)
        out = act(out)
        return out


class BasicBlock(PostBlock):
    """Two 3x3 convolutions; the second norm's output is merged with the shortcut, then activated."""

    branch, kernels = ("conv1", "conv2"), (3, 3)
    branch_norm = "norm2"


class Bottleneck(PostBlock):
    """1x1 to ``width``, 3x3 with the stride, 1x1 to ``4 width``; merged with the shortcut, then activated."""

    branch, kernels = ("conv1", "conv2", "conv3"), (1, 3, 1)
    branch_norm, expansion = "norm3", 4


class Projection(Chain):
    """The shortcut where the shape changes: 1x1 convolution with the stride, then norm; or pooling in place of the stride."""

    def __init__(self, parts: Parts, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        # where only the width changes there is nothing to pool
        pooled = stride > 1 and _config(parts).shortcut == "pool"
        if pooled:
            self.pool = _pool(stride)
        self.conv = parts.make_conv(inputs, outputs, 1, stride=1 if pooled else stride)
        self.norm = parts.make_norm(outputs, activated=False)


class Pad(nn.Module):
    """The shortcut without parameters: every ``stride``-th pixel, and zeros for the channels that are new."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, H, W)`` to ``(N, inputs + channels, H / stride, W / stride)``."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.channels))

    def extra_repr(self) -> str:
        """Show new channels and stride."""
        return f"{self.channels}, stride={self.stride}"


def _config(parts: Parts) -> ResNetConfig:
    assert isinstance(parts.config, ResNetConfig)
    return parts.config


def _pool(stride: int) -> nn.Module:
    """Average pooling over the pixels that a stride would choose from."""
    # as a stride does, ceil_mode keeps the last row of a map with an odd side, and padding is not counted
    return nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)


def _shortcut(parts: Parts, inputs: int, outputs: int, stride: int) -> nn.Module | None:
    if stride == 1 and inputs == outputs:
        return None
    if _config(parts).shortcut == "pad":
        return Pad(outputs - inputs, stride)
    return Projection(parts, inputs, outputs, stride)


class PreBlock(Block):
    """Norm, activation and convolution for each of ``kernels``; the last one's output is merged with the shortcut.

    Args:
        parts: Maker of layers.
        inputs: Channels in.
        width: Channels inside the branch, of which there are ``expansion`` times as many behind it.
        stride: Of the 3x3 convolution that the block begins with.
    """

    def __init__(self, parts: Parts, inputs: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.norm_last = _config(parts).order == "act_norm"
        channels = inputs
        for n, side, outputs, step in self.convolutions(width, stride):
            norm, act = _norm_act(parts, channels)
            self.add_module(f"norm{n}", norm)
            self.add_module(f"act{n}", act)
            if n == 1:
                self.shortcut = _projection(parts, inputs, width * self.expansion, stride)
            self.add_module(f"conv{n}", parts.make_conv(channels, outputs, side, stride=step))
            channels = outputs
        self.se = parts.make_se(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, H, W)`` to ``(N, expansion width, H / stride, W / stride)``."""
        out = shortcut = x
        for n in range(1, len(self.kernels) + 1):
            conv, norm, act = self.layers(n)
            out = norm(act(out)) if self.norm_last else act(norm(out))
            if n == 1:
                # the projection sees the divided input too: its variance is 1 again
                out = out if self.beta == 1 else out * (1 / self.beta)
                shortcut = x if self.shortcut is None else self.shortcut(out)
            out = conv(out)
        out = out if self.se is None else self.se(out)
        out = self.weigh_branch(out) + self.weigh_skip(shortcut)
        return out


class PreBasicBlock(PreBlock):
    """Norm, activation, 3x3 convolution, twice over; the last convolution's output is merged with the shortcut."""

    branch, kernels = ("conv1", "conv2"), (3, 3)


class PreBottleneck(PreBlock):
    """Norm and activation before each of 1x1, 3x3 with the stride, and 1x1 to ``4 width``; then the merge."""

    branch, kernels, expansion = ("conv1", "conv2", "conv3"), (1, 3, 1), 4


def _norm_act(parts: Parts, channels: int) -> tuple[nn.Module, nn.Module]:
    """A norm and an activation; a norm that is its own activation is none where the activation stands before it."""
    last = _config(parts).order == "act_norm"
    return parts.make_norm(channels, activated=not last), parts.make_act(after_norm=not last)


def _projection(parts: Parts, inputs: int, outputs: int, stride: int) -> nn.Module | None:
    if stride == 1 and inputs == outputs:
        return None
    if stride > 1 and _config(parts).shortcut == "pool":
        return nn.Sequential(OrderedDict(pool=_pool(stride), conv=parts.make_conv(inputs, outputs, 1)))
    return parts.make_conv(inputs, outputs, 1, stride=stride)


class NormAct(nn.Module):
    """Norm and activation of ``(N, channels, H, W)``, or the other way round, as the configuration's ``order`` says."""

    def __init__(self, parts: Parts, channels: int) -> None:
        super().__init__()
        self.norm, self.act = _norm_act(parts, channels)
        self.norm_last = _config(parts).order == "act_norm"

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, H, W)`` to the same shape."""
        out: Tensor = self.norm(self.act(x)) if self.norm_last else self.act(self.norm(x))
        return out


class ResNet(Chain):
    """``(N, C, H, W)`` to ``(N, num_classes)``: ``stem``, ``stage1`` and so on, ``head``."""

    blocks: ClassVar[dict[str, type[PostBlock | PreBlock]]] = {"basic": BasicBlock, "bottleneck": Bottleneck}

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        parts, options = Parts(config), dict(config.residual_options)
        expected = ExpectedVariance(options.get("alpha", NF_ALPHA))
        self.stem = config.make_stem(parts)
        channels, index, total = config.widths[0], 0, sum(config.depths)
        for stage, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True), 1):
            members: list[nn.Module] = []
            for number in range(depth):
                # all stages but the first halve the map in their first block
                stride = 2 if stage > 1 and number == 0 else 1
                member = self.blocks[config.block](parts, channels, width, stride=stride)
                channels = width * member.expansion
                rate = config.drop_path * index / total
                member.set_residual(config.residual, channels, options=options, drop_rate=rate)
                if config.residual == "nf":
                    member.beta = expected.beta()
                    if member.shortcut is None:
                        expected.identity_skip()
                    else:
                        expected.projected_skip()
                members.append(member)
                index += 1
            self.add_module(f"stage{stage}", nn.Sequential(*members))
        if config.preactivation:
            self.final = NormAct(parts, channels)
        self.head = Head(parts, channels, config.num_classes)


class PreResNet(ResNet):
    """``stem``, ``stage1`` and so on, ``final.norm`` and ``final.act``, ``head``."""

    blocks: ClassVar[dict[str, type[PostBlock | PreBlock]]] = {"basic": PreBasicBlock, "bottleneck": PreBottleneck}
