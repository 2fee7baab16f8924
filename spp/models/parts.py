"""The layers that blocks are made of, with norm and activation as the configuration says."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from spp.models.config import Config
from spp.nn.activations import make_activation
from spp.nn.norms import BATCH_EPS, BATCH_MOMENTUM, make_norm


@dataclass(frozen=True, slots=True)
class Parts:
    """A maker of layers. Blocks ask it for all of theirs, so that a norm or an activation is decided in one place.

    Attributes:
        norm: Name of ``spp.nn.NORMS``.
        activation: Name of ``spp.nn.ACTIVATIONS``.
        batch_eps: What norms with batch statistics add to the variance.
        batch_momentum: Weight of the newest batch in their running statistics.
        dims: Spatial axes of the tensors, 2 for images and 0 for vectors.
    """

    norm: str
    activation: str
    batch_eps: float = BATCH_EPS
    batch_momentum: float = BATCH_MOMENTUM
    dims: int = 2

    @classmethod
    def of(cls, config: Config, *, dims: int = 2) -> Parts:
        """The parts that ``config`` asks for."""
        return cls(config.norm, config.activation, config.batch_eps, config.batch_momentum, dims)

    def make_conv(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Module:
        """A convolution without bias that keeps the size of the map but for its stride (``kernel`` is odd).

        It has no bias under any norm, ``none`` included, so that arms differ in the norm alone.
        """
        return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)

    def make_norm(self, channels: int) -> nn.Module:
        """The norm for ``channels``."""
        return make_norm(
            self.norm, channels, dims=self.dims, batch_eps=self.batch_eps, batch_momentum=self.batch_momentum
        )

    def make_act(self) -> nn.Module:
        """A fresh activation."""
        return make_activation(self.activation)


class Stem(nn.Module):
    """The first layers of an image network: convolution, then norm and activation or neither, then pooling or none.

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
        if activated:
            self.norm = parts.make_norm(outputs)
            self.act = parts.make_act()
        if pooled:
            self.pool = nn.MaxPool2d(3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, H, W)`` to ``(N, outputs, H', W')``."""
        for layer in self.children():
            x = layer(x)
        return x


class Head(nn.Module):
    """The classifier of an image network: mean over space, dropout if any, Linear.

    Args:
        inputs: Channels of the maps.
        num_classes: Outputs.
        dropout: Probability that a feature is dropped while training; 0 leaves the layer out.
    """

    def __init__(self, inputs: int, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        if dropout:
            self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, H, W)`` to ``(N, num_classes)``."""
        for layer in self.children():
            x = layer(x)
        return x
