"""Pre-activation ResNets (He et al. 2016, arXiv 1603.05027): blocks begin with norm and activation.

A block that changes the shape feeds its projection with the normalized activation too, so that the variance of the
signal starts anew there. With BatchNorm, ReLU and weights of variance 2/fan_in, the average channel variance after
block k of such a stage is (k + 1)(1 - 1/pi), the curve that Signal Propagation Plots are read against
(Brock et al. 2021, arXiv 2101.08692). With the norm behind the activation (``order="act_norm"``) branches have no mean.
Under the rule ``nf`` the same blocks make their NF-ResNet: the activated input is divided by its expected spread, and the
branch is scaled by alpha.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from spp.models.parts import Head, Parts
from spp.models.resnet import ResNetConfig, add_stages, make_pool, shortcut_of
from spp.nn.residual import ResidualBlock


class NormAct(nn.Module):
    """Norm and activation, or the other way round, as the configuration's ``order`` says."""

    def __init__(self, parts: Parts, channels: int) -> None:
        super().__init__()
        self.norm, self.act = make_norm_act(parts, channels)
        self.norm_last = norm_last(parts)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, H, W)`` to the same shape."""
        return activated(self.norm, self.act, x, norm_last=self.norm_last)


class PreBlock(ResidualBlock):
    """What the two kinds of blocks have in common: the order of norm and activation."""

    norm_last: bool

    def activated(self, norm: nn.Module, act: nn.Module, x: Tensor) -> Tensor:
        """Norm and activation of ``x``, in the block's order."""
        return activated(norm, act, x, norm_last=self.norm_last)


class PreBasicBlock(PreBlock):
    """Norm, activation, 3x3 convolution, twice over; the last convolution's output is merged with the shortcut."""

    branch = ("conv1", "conv2")

    def __init__(self, parts: Parts, inputs: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.norm_last = norm_last(parts)
        self.norm1, self.act1 = make_norm_act(parts, inputs)
        self.shortcut = _project(parts, inputs, width, stride)
        self.conv1 = parts.make_conv(inputs, width, 3, stride=stride)
        self.norm2, self.act2 = make_norm_act(parts, width)
        self.conv2 = parts.make_conv(width, width, 3)
        self.se = parts.make_se(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, H, W)`` to ``(N, width, H / stride, W / stride)``."""
        out = self.activated(self.norm1, self.act1, x)
        out = out if self.beta == 1 else out * (1 / self.beta)
        shortcut = x if self.shortcut is None else self.shortcut(out)
        out = self.conv1(out)
        out = self.conv2(self.activated(self.norm2, self.act2, out))
        out = out if self.se is None else self.se(out)
        out = self.weigh_branch(out) + self.weigh_skip(shortcut)
        return out


class PreBottleneck(PreBlock):
    """Norm and activation before each of 1x1, 3x3 with the stride, and 1x1 to ``4 width``; then the merge."""

    branch = ("conv1", "conv2", "conv3")

    def __init__(self, parts: Parts, inputs: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.norm_last = norm_last(parts)
        self.norm1, self.act1 = make_norm_act(parts, inputs)
        self.shortcut = _project(parts, inputs, 4 * width, stride)
        self.conv1 = parts.make_conv(inputs, width, 1)
        self.norm2, self.act2 = make_norm_act(parts, width)
        self.conv2 = parts.make_conv(width, width, 3, stride=stride)
        self.norm3, self.act3 = make_norm_act(parts, width)
        self.conv3 = parts.make_conv(width, 4 * width, 1)
        self.se = parts.make_se(4 * width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, H, W)`` to ``(N, 4 width, H / stride, W / stride)``."""
        out = self.activated(self.norm1, self.act1, x)
        out = out if self.beta == 1 else out * (1 / self.beta)
        shortcut = x if self.shortcut is None else self.shortcut(out)
        out = self.conv1(out)
        out = self.conv2(self.activated(self.norm2, self.act2, out))
        out = self.conv3(self.activated(self.norm3, self.act3, out))
        out = out if self.se is None else self.se(out)
        out = self.weigh_branch(out) + self.weigh_skip(shortcut)
        return out


class PreResNet(nn.Module):
    """``stem``, ``stage1`` and so on, ``final.norm`` and ``final.act``, ``head``."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        parts = Parts(config)
        block = PreBottleneck if config.block == "bottleneck" else PreBasicBlock
        self.stem = config.make_stem(parts)
        channels = add_stages(self, config, parts, block)
        self.final = NormAct(parts, channels)
        self.head = Head(parts, channels, config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, num_classes)``."""
        for part in self.children():
            x = part(x)
        return x


def activated(norm: nn.Module, act: nn.Module, x: Tensor, *, norm_last: bool) -> Tensor:
    """``act(norm(x))``, or ``norm(act(x))`` where the norm stands last."""
    out: Tensor = norm(act(x)) if norm_last else act(norm(x))
    return out


def norm_last(parts: Parts) -> bool:
    """Whether norms stand behind activations."""
    return isinstance(parts.config, ResNetConfig) and parts.config.order == "act_norm"


def make_norm_act(parts: Parts, channels: int) -> tuple[nn.Module, nn.Module]:
    """A norm and an activation; a norm that is its own activation is none where the activation stands before it."""
    last = norm_last(parts)
    return parts.make_norm(channels, activated=not last), parts.make_act(after_norm=not last)


def _project(parts: Parts, inputs: int, outputs: int, stride: int) -> nn.Module | None:
    if stride == 1 and inputs == outputs:
        return None
    if stride > 1 and shortcut_of(parts) == "pool":
        return nn.Sequential(OrderedDict(pool=make_pool(stride), conv=parts.make_conv(inputs, outputs, 1)))
    return parts.make_conv(inputs, outputs, 1, stride=stride)
