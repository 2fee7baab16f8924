"""The layers that blocks are made of, with norm and activation as the configuration says."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from spp.models.config import Config, ConvConfig
from spp.nn.activations import make_activation
from spp.nn.norms import NORMS, make_norm
from spp.nn.squeeze_excite import SqueezeExcite
from spp.nn.weight_norms import WEIGHT_NORMS, StandardizedConv2d, StandardizedLinear


@dataclass(frozen=True, slots=True)
class Parts:
    """A maker of layers. Blocks ask it for all of theirs, so that a norm or an activation is decided in one place.

    Attributes:
        config: What the network is.
        dims: Spatial axes of the tensors, 2 for images and 0 for vectors.
        norm: Name of ``spp.nn.NORMS`` where it is not the configuration's.
    """

    config: Config
    dims: int = 2
    norm: str | None = None

    @property
    def _norm(self) -> str:
        return self.config.norm if self.norm is None else self.norm

    def make_conv(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Module:
        """A convolution that keeps the size of the map but for its stride (``kernel`` is odd).

        It has no bias under any norm, ``none`` included, so that arms differ in the norm alone. Where the rule for weights
        has a gain, the convolution has gain and bias, which are to it what scale and shift are to BatchNorm.
        """
        rule, options = self._weights()
        padding = kernel // 2
        if rule is None:
            return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, groups=groups, bias=False)
        return StandardizedConv2d(
            inputs,
            outputs,
            kernel,
            stride=stride,
            padding=padding,
            groups=groups,
            bias=WEIGHT_NORMS[rule].gain,
            rule=rule,
            options=options,
        )

    def make_linear(self, inputs: int, outputs: int) -> nn.Module:
        """A Linear layer with bias."""
        rule, options = self._weights()
        if rule is None:
            return nn.Linear(inputs, outputs)
        return StandardizedLinear(inputs, outputs, rule=rule, options=options)

    def make_norm(self, channels: int, *, activated: bool = True) -> nn.Module:
        """The norm for ``channels``; ``activated`` says whether ``make_act`` follows directly."""
        config = self.config
        # options are the configuration's norm's: they mean nothing to another, and those of rules go to the convolutions
        own = self._norm == config.norm and NORMS[config.norm].weights is None
        return make_norm(
            self._norm,
            channels,
            dims=self.dims,
            batch_eps=config.batch_eps,
            batch_momentum=config.batch_momentum,
            activated=activated,
            **(dict(config.norm_options) if own else {}),
        )

    def make_act(self, *, after_norm: bool = True) -> nn.Module:
        """A fresh activation; directly behind a norm that brings its own, an identity."""
        # an identity and not None: the place keeps its name in state dicts and traces
        if after_norm and NORMS[self._norm].activates:
            return nn.Identity()
        return make_activation(self.config.activation, self.config.activation_gain)

    def make_se(self, channels: int, block_channels: int) -> nn.Module | None:
        """Squeeze-and-excitation of ``channels``, squeezed to a share of ``block_channels``; None where there is none."""
        config = self.config
        if not isinstance(config, ConvConfig) or config.se == "none" or not config.se_ratio:
            return None
        # EfficientNet counts from the block's input, not from the expanded width
        squeezed = max(1, int(block_channels * config.se_ratio))
        return SqueezeExcite(channels, squeezed, config.activation, scale=config.se, weight_norm=config.se_weight_norm)

    def make_dropout(self, rate: float) -> nn.Module | None:
        """Dropout, or SELU's own where the configuration says so; None at rate 0."""
        if not rate:
            return None
        return nn.AlphaDropout(rate) if self.config.alpha_dropout else nn.Dropout(rate)

    def _weights(self) -> tuple[str | None, dict[str, float]]:
        rule = self.config.weight_rule
        return rule, dict(self.config.norm_options) if NORMS[self.config.norm].weights == rule else {}


class Chain(nn.Module):
    """Children that are called one after the other, in the order in which they were added."""

    def forward(self, x: Tensor) -> Tensor:
        """From the first child's input to the last one's output."""
        for child in self.children():
            x = child(x)
        return x


class Stem(Chain):
    """The first layers of an image network: convolution, then norm and activation or neither, then pooling or none.

    ``(N, inputs, H, W)`` to ``(N, outputs, H', W')``.

    Args:
        parts: Maker of layers.
        inputs: Channels of the images.
        outputs: Channels of the maps.
        kernel: Side of the kernel.
        stride: Of the convolution.
        activated: Whether norm and activation follow; pre-activation networks begin their blocks with them instead.
        pooled: Whether 3x3 max pooling with stride 2 ends it.
    """

    def __init__(
        self, parts: Parts, inputs: int, outputs: int, kernel: int, *, stride: int, activated: bool, pooled: bool
    ) -> None:
        super().__init__()
        self.conv = parts.make_conv(inputs, outputs, kernel, stride=stride)
        # children are called in the order in which they are added
        if activated:
            self.norm = parts.make_norm(outputs)
            self.act = parts.make_act()
        if pooled:
            self.pool = nn.MaxPool2d(3, stride=2, padding=1)


class Head(Chain):
    """The classifier of an image network: mean over space, dropout if any, Linear.

    ``(N, inputs, H, W)`` to ``(N, num_classes)``.

    Args:
        parts: Maker of layers.
        inputs: Channels of the maps.
        num_classes: Outputs.
        dropout: Probability that a feature is dropped while training; 0 leaves the layer out.
    """

    def __init__(self, parts: Parts, inputs: int, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        # left out at rate 0, so that a trace has no row for a layer that does nothing
        drop = parts.make_dropout(dropout)
        if drop is not None:
            self.dropout = drop
        self.fc = nn.Linear(inputs, num_classes)
