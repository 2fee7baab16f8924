"""Optimizers by name, and one step of any of them: unscaled, clipped, applied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from spp.nn import clip_grad_agc_

if TYPE_CHECKING:
    from spp.training.recipe import Recipe

CLASSIFIER = "head.fc.*"
"""Parameters of a bundled network's classifier, which adaptive gradient clipping leaves alone."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A row of ``OPTIMIZERS``.

    Attributes:
        make: Builds it for a model.
        lr: Its own learning rate.
        weight_decay: Its own weight decay.
        description: One line.
    """

    make: Callable[[nn.Module, Recipe, float], Optimizer]
    lr: float
    weight_decay: float
    description: str


def _sgd(model: nn.Module, recipe: Recipe, decay: float) -> Optimizer:
    return torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=decay,
    )


def _adam(model: nn.Module, recipe: Recipe, decay: float) -> Optimizer:
    return torch.optim.Adam(model.parameters(), lr=recipe.learning_rate, weight_decay=decay)


def _adamw(model: nn.Module, recipe: Recipe, decay: float) -> Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=decay)


OPTIMIZERS: Mapping[str, Choice] = MappingProxyType(
    {
        "sgd": Choice(_sgd, 0.1, 0.0, "stochastic gradient descent with momentum"),
        "adam": Choice(_adam, 1e-3, 0.0, "Adam (Kingma & Ba 2015, arXiv 1412.6980)"),
        "adamw": Choice(
            _adamw, 1e-3, 0.01, "Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101)"
        ),
    }
)
"""Every optimizer by name."""


def make_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """The optimizer of a recipe, for all parameters of ``model``."""
    row = OPTIMIZERS[recipe.optimizer]
    return row.make(model, recipe, row.weight_decay if recipe.weight_decay is None else recipe.weight_decay)


def apply_step(
    model: nn.Module, loss: Tensor, optimizer: Optimizer, scaler: torch.amp.GradScaler, recipe: Recipe, lr: float
) -> None:
    """One backward pass and one step of the optimizer at the rate ``lr``, clipped where the recipe asks for it."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    if recipe.agc is not None:
        scaler.unscale_(optimizer)
        names = {name for name, _ in model.named_parameters()}
        exclude = (CLASSIFIER,) if any(name.startswith(CLASSIFIER[:-1]) for name in names) else ()
        clip_grad_agc_(model, recipe.agc, exclude=exclude)
    scaler.step(optimizer)
    scaler.update()
