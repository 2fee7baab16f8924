"""The networks of ``neuronwise``, and what is measured of them whatever the data.

They are fully connected or convolutional, with a norm or with neuron-wise gradients. Measured is whether the forward pass is
the ordinary one, which way a step goes, and how long it takes.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from spp.models import build
from spp.nn import make_norm
from spp.nn.init import initialize_
from spp.nn.neuronwise import NeuronwiseLayer, neuronwise_

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
        size: dict[str, Any] = {
            "input_shape": sizes.shape,
            "num_classes": classes,
            "depth": sizes.depth,
            "width": sizes.width,
        }
        model = build("ffn", norm=norm, init="he", **size)
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
            # W x + b = (W / a) (a x + d) + b - (W / a) d
            first.weight.div_(self.scale.flatten())
            first.bias.sub_(first.weight @ self.shift.flatten())

    def forward(self, x: Tensor) -> Tensor:
        """``(N, *shape)`` to ``(N, classes)``."""
        outputs: Tensor = self.inner(x * self.scale + self.shift)
        return outputs


ROUNDING = 1e-5
"""A cosine that is closer to zero than this is zero: a sum of float32 products is not known better."""

ROUNDS = 40
"""Steps of each kind that a time is the median of."""


def compared(model: nn.Module, arm: str, batch: tuple[Tensor, Tensor]) -> pd.DataFrame:
    """An ordinary network and its neuron-wise twin on one batch.

    Args:
        model: With ordinary gradients.
        arm: A name of ``MODES``.
        batch: Inputs and class indices.

    Returns:
        A row per converted layer: how many ``neurons`` it has with a gradient; for how many of them a step along the
        neuron-wise gradient goes ``against`` the ordinary one, so that a small step raises the loss; the smallest ``cosine``
        between the two over neurons, weights and bias together; whether ``forward``, the outputs, and ``inputs_gradient``,
        that with respect to the inputs, are the same to the bit.
    """
    twin = convert(copy.deepcopy(model), arm)
    outputs, inputs = _passed(model, batch)
    own_outputs, own_inputs = _passed(twin, batch)
    rows = []
    for (name, layer), own in zip(model.named_modules(), twin.modules(), strict=True):
        if not isinstance(own, NeuronwiseLayer):
            continue
        ordinary, other = _per_neuron(layer), _per_neuron(own)
        lengths = ordinary.norm(dim=1) * other.norm(dim=1)
        # a neuron that no sample activates has no gradient, and so no direction
        alive = lengths > 0
        cosine = ((ordinary * other).sum(1)[alive] / lengths[alive]).cpu()
        rows.append(
            {
                "layer": name,
                "neurons": int(alive.sum()),
                "against": int((cosine < -ROUNDING).sum()),
                "cosine": float(cosine.min()) if len(cosine) else float("nan"),
                "forward": torch.equal(outputs, own_outputs),
                "inputs_gradient": torch.equal(inputs, own_inputs),
            }
        )
    return pd.DataFrame(rows)


def _passed(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Outputs, and the gradient with respect to the inputs; parameters get theirs."""
    # a clone, since modes are compared on the same batch
    inputs = batch[0].clone().requires_grad_()
    model.zero_grad()
    outputs = model(inputs)
    F.cross_entropy(outputs, batch[1]).backward()  # type: ignore[no-untyped-call]
    assert inputs.grad is not None
    return outputs.detach(), inputs.grad


def _per_neuron(layer: nn.Module) -> Tensor:
    """Gradients of weights and bias, a row per neuron, in float64."""
    weight, bias = (layer.get_parameter(name).grad for name in ("weight", "bias"))
    assert weight is not None and bias is not None
    return torch.cat([weight.flatten(1), bias[:, None]], 1).double()


def timed(plain: nn.Module, model: nn.Module, batch: tuple[Tensor, Tensor]) -> pd.DataFrame:
    """Milliseconds of a training step of two networks, taken in turns, and their ratio, one row: medians."""
    steps = [_timed_step(one, batch) for one in (plain, model)]
    # the first quarter warms up
    pairs = pd.DataFrame([[step() for step in steps] for _ in range(ROUNDS)], columns=["plain_ms", "ms"])[ROUNDS // 4 :]
    return pairs.assign(ratio=pairs["ms"] / pairs["plain_ms"]).median().to_frame().T


def _timed_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Callable[[], float]:
    """A training step that says how many milliseconds it took; its rate is 0, so that every step is the same."""
    device = next(model.parameters()).device
    # on a CPU the process's own time, which does not count what else the machine does
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    inputs, targets = (tensor.to(device) for tensor in batch)
    # at a rate of 0 every step does the same work on the same weights
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def step() -> float:
        started = clock()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        # an accelerator is waited for
        loss.item()
        return 1e3 * (clock() - started)

    return step
