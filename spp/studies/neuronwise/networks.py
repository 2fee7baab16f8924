"""The networks of ``neuronwise``, what is measured of them whatever the data, and the task without a batch.

They are fully connected or convolutional, with a norm or with neuron-wise gradients. Measured is whether the forward pass is
the ordinary one, which way a step goes, and how long it takes. The task is cart-pole, learned from one state at a time.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spp.models import build
from spp.nn import NORMS, WEIGHT_NORMS, StandardizedConv2d, StandardizedLinear, make_activation, make_norm
from spp.nn.init import initialize_
from spp.nn.neuronwise import NeuronwiseLayer, neuronwise_
from spp.studies.trials import drawn

DEFAULT_EPS, DAMPED_EPS = 1e-5, 0.1
"""Added to the variance: the library's own value, and one that keeps steps along features of small variance small."""

PLAIN, BATCH, LAYER, GROUP, SCALED = "plain", "batch", "layer", "group", "scaled_ws"
NORMS_BY_ARM = {PLAIN: "none", BATCH: "batch", LAYER: "layer", GROUP: "group", SCALED: "scaled_ws"}
"""Arms with ordinary gradients: what stands between layer and nonlinearity, or what weights are standardized by."""

GROUPS = 4
"""Of GroupNorm: of 32, its usual number, a hidden layer would have two numbers each, and of two only signs are left."""

COORDS, DAMPED, CENTRE, OUTER = "coords", "coords_damped", "coords_centre", "outer"
WHOLE_DAMPED, WHOLE_CENTRE = "whole_damped", "whole_centre"
MODES = {
    COORDS: ("coords", DEFAULT_EPS),
    DAMPED: ("coords", DAMPED_EPS),
    CENTRE: ("coords_centre", DEFAULT_EPS),
    OUTER: ("outer", DEFAULT_EPS),
    "outer_centre": ("outer_centre", DEFAULT_EPS),
    WHOLE_DAMPED: ("coords", DAMPED_EPS),
    WHOLE_CENTRE: ("coords_centre", DEFAULT_EPS),
}
"""Arms with neuron-wise gradients: their mode and what is added to the variance."""

WHOLE = (WHOLE_DAMPED, WHOLE_CENTRE)
"""The rivals: ``coords_damped`` and ``coords_centre`` with every sample in every neuron's region (P = 1)."""

ARMS = (*NORMS_BY_ARM, *MODES)

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
    norm = NORMS_BY_ARM.get(arm, "none")
    options: dict[str, Any] = {"groups": GROUPS} if norm == GROUP else {}
    if net == FFN:
        size: dict[str, Any] = {
            "norm_options": options,
            "input_shape": sizes.shape,
            "num_classes": classes,
            "depth": sizes.depth,
            "width": sizes.width,
        }
        model = build("ffn", norm=norm, init="he", **size)
    else:
        model = initialize_(_convolutional(norm, options, sizes, classes), "he")
    return convert(model, arm) if arm in MODES else model


def convert(model: nn.Module, arm: str, **options: Any) -> nn.Module:
    """Give every layer but the classifier, which no nonlinearity follows, neuron-wise gradients.

    ``options`` are those of ``neuronwise_`` beside the arm's mode.
    """
    mode, eps = MODES[arm]
    options = {"mode": mode, "eps": eps, **options}
    neuronwise_(model, **options)
    for layer in model.modules():
        if arm in WHOLE and isinstance(layer, NeuronwiseLayer):
            # an identity is the one nonlinearity on whose linear region all samples lie
            layer.set_neuronwise(nn.Identity(), **options)
    return model


def _convolutional(norm: str, options: dict[str, Any], sizes: Sizes, classes: int) -> nn.Sequential:
    """3x3 convolutions with norm and ReLU, halved by max pooling in between; a hidden layer; the classifier."""
    rule = NORMS[norm].weights
    conv: Callable[..., nn.Module] = nn.Conv2d if rule is None else partial(StandardizedConv2d, rule=rule)
    linear: Callable[..., nn.Module] = nn.Linear if rule is None else partial(StandardizedLinear, rule=rule)
    gain = "none" if rule is None else WEIGHT_NORMS[rule].activation_gain
    layers: list[nn.Module] = []
    inputs, side = sizes.shape[0], sizes.shape[1]
    for number, outputs in enumerate(sizes.channels):
        if number:
            layers.append(nn.MaxPool2d(2))
            side //= 2
        layers += [
            conv(inputs, outputs, 3, padding=1),
            make_norm(norm, outputs, **options),
            make_activation("relu", gain),
        ]
        inputs = outputs
    layers += [
        nn.Flatten(),
        linear(inputs * side * side, sizes.hidden),
        make_norm(norm, sizes.hidden, dims=0, **options),
    ]
    return nn.Sequential(*layers, make_activation("relu", gain), nn.Linear(sizes.hidden, classes))


class Changed(nn.Module):
    """A fully connected network behind inputs of another unit and origin, made to begin as the same function.

    Each feature x becomes a x + d; the first layer's weights and bias are changed so that its outputs are what they were.

    Args:
        model: A network of ``make("ffn", ...)``; its first layer is changed.
        scale: a, that of a sample or what can be expanded to it.
        shift: d, likewise.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.inner = model
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        first = model.get_submodule("layer1.linear")
        assert isinstance(first, nn.Linear)
        with torch.no_grad():
            # W x + b = (W / a) (a x + d) + b - (W / a) d
            first.weight.div_(scale.flatten())
            first.bias.sub_((first.weight * shift.flatten()).sum(1))

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


# --- cart-pole, from one state at a time -------------------------------------------------------------------------------

State = npt.NDArray[np.float64]
"""Position and velocity of the cart, angle of the pole from upright and its rate: metres, radians, seconds."""

GRAVITY, CART, POLE, HALF_LENGTH, FORCE, TICK = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
"""Constants of Barto, Sutton & Anderson (1983), in SI units, but that nothing rubs: those of Gym's CartPole-v1."""

FARTHEST, STEEPEST, LONGEST = 2.4, math.radians(12), 500
"""Where an episode ends: position, angle, and steps of balancing."""

DISCOUNT, TRACE, POLICY = 0.99, 0.9, 20.0
"""Of the learner: discount, decay of its traces, and weight of the policy's gradient beside the value's."""


def moved(state: State, force: float) -> State:
    """The state a tick later, by Euler's method."""
    _, speed, angle, spin = state
    sine, cosine, mass = math.sin(angle), math.cos(angle), CART + POLE
    push = (force + POLE * HALF_LENGTH * spin**2 * sine) / mass
    turn = (GRAVITY * sine - cosine * push) / (HALF_LENGTH * (4 / 3 - POLE * cosine**2 / mass))
    return state + TICK * np.array([speed, push - POLE * HALF_LENGTH * turn * cosine / mass, spin, turn])


def learner(arm: str, seed: int, width: int) -> nn.Module:
    """A network of one hidden layer, from 4 numbers to preferences for left and right and the value of the state.

    The last layer begins at zero, so that the first policy is a fair coin. Statistics are running ones, since a batch of one
    has no variance.
    """
    size: dict[str, Any] = {"input_shape": (4,), "num_classes": 3, "depth": 2, "width": width}
    model = drawn(lambda: build("ffn", norm=NORMS_BY_ARM.get(arm, "none"), init="he", **size), seed)
    nn.init.zeros_(model.get_parameter("head.fc.weight"))
    return convert(model, arm, statistics="running", momentum=0.01, eps=0.01) if arm in MODES else model


def balanced(model: nn.Module, lr: float, steps: int, seed: int) -> Iterator[int]:
    """Let a network learn to balance the pole, and yield how many steps each episode took; the last one is cut short.

    It learns after every step from that step alone: actor-critic with eligibility traces (Sutton & Barto 2018, section 13.5)
    of value and policy in one network. With reward 1 - ``DISCOUNT`` a step, the value is from 0 to 1.
    """
    rng, weights = np.random.default_rng(seed), list(model.parameters())
    traces = [torch.zeros_like(weight) for weight in weights]
    state, length = rng.uniform(-0.05, 0.05, 4), 0
    for _ in range(steps):
        left, right, value = model(_batch_of_one(state))[0]
        act = bool(rng.random() < torch.sigmoid(right - left).item())
        state, length = moved(state, FORCE if act else -FORCE), length + 1
        chosen = F.logsigmoid(right - left if act else left - right)
        gradients = torch.autograd.grad(value + POLICY * chosen, weights)
        fell = abs(state[0]) > FARTHEST or abs(state[2]) > STEEPEST
        with torch.no_grad():
            later = 0.0 if fell else model(_batch_of_one(state))[0, 2].item()
            surprise = 1 - DISCOUNT + DISCOUNT * later - value.item()
            for weight, trace, gradient in zip(weights, traces, gradients, strict=True):
                trace.mul_(DISCOUNT * TRACE).add_(gradient)
                weight.add_(trace, alpha=lr * surprise)
        if fell or length == LONGEST:
            yield length
            state, length = rng.uniform(-0.05, 0.05, 4), 0
            torch._foreach_zero_(traces)
    if length:
        yield length


def _batch_of_one(state: State) -> Tensor:
    return torch.from_numpy(state).float()[None]
