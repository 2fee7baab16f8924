"""What neuron-wise gradients promise whatever the data: an ordinary forward pass, and which way a step goes; and times."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from statistics import median

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spp.nn.neuronwise import NeuronwiseLayer
from spp.studies.neuronwise_networks import convert

ROUNDING = 1e-5
"""A cosine that is closer to zero than this is zero: a sum of float32 products is not known better."""

ROUNDS = 40
"""Steps of each kind that a time is the median of."""


def compared(model: nn.Module, arm: str, batch: tuple[Tensor, Tensor]) -> pd.DataFrame:
    """An ordinary network and its neuron-wise twin on one batch.

    Args:
        model: With ordinary gradients.
        arm: A name of ``neuronwise_networks.MODES``.
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
    """Milliseconds of a training step of two networks, taken in turns, and their ratio, one row: medians.

    On a CPU it is the process's own time, which does not count what else the machine does.
    """
    clock = time.process_time if next(plain.parameters()).device.type == "cpu" else time.perf_counter
    steps = [_step(one, batch) for one in (plain, model)]
    pairs = [[_milliseconds(step, clock) for step in steps] for _ in range(ROUNDS)][ROUNDS // 4 :]
    return pd.DataFrame(
        [
            {
                "plain_ms": median(pair[0] for pair in pairs),
                "ms": median(pair[1] for pair in pairs),
                "ratio": median(pair[1] / pair[0] for pair in pairs),
            }
        ]
    )


def _step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Callable[[], float]:
    device = next(model.parameters()).device
    inputs, targets = (tensor.to(device) for tensor in batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.item()  # on an accelerator, waits for it

    return step


def _milliseconds(step: Callable[[], float], clock: Callable[[], float]) -> float:
    started = clock()
    step()
    return 1e3 * (clock() - started)
