"""The networks of ``neuronwise``: fully connected and convolutional, with a norm or with neuron-wise gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from spp.models import build
from spp.nn import make_norm
from spp.nn.init import initialize_
from spp.nn.neuronwise import neuronwise_

DEFAULT_EPS, DAMPED_EPS = 1e-5, 0.1
"""Added to the variance: the library's own value, and one that keeps steps along features of small variance small."""

PLAIN, BATCH, LAYER, COORDS, DAMPED = "plain", "batch", "layer", "coords", "coords_damped"
NORMS = {PLAIN: "none", BATCH: "batch", LAYER: "layer"}
"""Arms with ordinary gradients: what stands between layer and nonlinearity."""

MODES = {
    COORDS: ("coords", DEFAULT_EPS),
    DAMPED: ("coords", DAMPED_EPS),
    "coords_centre": ("coords_centre", DEFAULT_EPS),
    "outer": ("outer", DEFAULT_EPS),
    "outer_centre": ("outer_centre", DEFAULT_EPS),
}
"""Arms with neuron-wise gradients: their mode and what is added to the variance."""

ARMS = (*NORMS, *MODES)

FFN, CNN = "ffn", "cnn"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the networks are.

    Attributes:
        shape: Of an image, ``(C, H, W)``.
        depth: Linear layers of the fully connected network.
        width: Features of each.
        channels: Of each convolution.
        hidden: Features between the convolutions and the classifier.
    """

    shape: tuple[int, int, int]
    depth: int
    width: int
    channels: tuple[int, ...]
    hidden: int


def make(net: str, arm: str, sizes: Sizes, classes: int) -> nn.Module:
    """A network from torch's global random state, with He's weights and zero biases, and the norm or gradients of an arm."""
    norm = NORMS.get(arm, "none")
    if net == FFN:
        model = build(
            "ffn",
            norm=norm,
            init="he",
            input_shape=sizes.shape,
            num_classes=classes,
            depth=sizes.depth,
            width=sizes.width,
        )
    else:
        model = initialize_(_convolutional(norm, sizes, classes), "he")
    return convert(model, arm) if arm in MODES else model


def convert(model: nn.Module, arm: str) -> nn.Module:
    """Give every layer but the classifier, which no nonlinearity follows, neuron-wise gradients."""
    mode, eps = MODES[arm]
    neuronwise_(model, mode=mode, eps=eps)
    return model


def _convolutional(norm: str, sizes: Sizes, classes: int) -> nn.Sequential:
    """3x3 convolutions with norm and ReLU, halved by max pooling in between; a hidden layer; the classifier."""
    layers: list[nn.Module] = []
    inputs, side = sizes.shape[0], sizes.shape[1]
    for number, outputs in enumerate(sizes.channels):
        if number:
            layers.append(nn.MaxPool2d(2))
            side //= 2
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), make_norm(norm, outputs), nn.ReLU()]
        inputs = outputs
    features = inputs * side * side
    layers += [nn.Flatten(), nn.Linear(features, sizes.hidden), make_norm(norm, sizes.hidden, dims=0), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes.hidden, classes))


class Changed(nn.Module):
    """A fully connected network behind inputs of other units and origins, made to begin as the same function.

    Each feature x becomes a x + d, with a from 1/3 to 3, evenly in its logarithm, and d from a normal distribution of standard
    deviation 2; the first layer's weights and bias are changed so that its outputs are what they were.

    Args:
        model: A network of ``make("ffn", ...)``; its first layer is changed.
        sizes: Of that network.
        generator: What a and d are drawn from.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, sizes: Sizes, generator: Generator) -> None:
        super().__init__()
        self.inner = model
        self.register_buffer("scale", 3 ** (2 * torch.rand(sizes.shape, generator=generator) - 1))
        self.register_buffer("shift", 2 * torch.randn(sizes.shape, generator=generator))
        first = model.get_submodule("layer1.linear")
        assert isinstance(first, nn.Linear)
        with torch.no_grad():
            first.weight.div_(self.scale.flatten())
            first.bias.sub_(first.weight @ self.shift.flatten())

    def forward(self, x: Tensor) -> Tensor:
        """``(N, *shape)`` to ``(N, classes)``."""
        outputs: Tensor = self.inner(x * self.scale + self.shift)
        return outputs
