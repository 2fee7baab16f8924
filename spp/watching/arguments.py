"""What a watch is given, looked at before the loop runs."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from spp.errors import InputError, SppWarning


def give_up(error: Exception) -> None:
    """Say that the watching has ended."""
    message = " ".join(str(error).split())
    warnings.warn(
        f"the watching has ended, the training goes on: {type(error).__name__}: {message}", SppWarning, stacklevel=4
    )


def network_inside(model: object) -> nn.Module:
    """The network inside what the loop calls."""
    if not isinstance(model, nn.Module):
        raise InputError("a model is a torch.nn.Module", received=f"a {type(model).__name__}", where="model")
    root = model
    while True:
        inner = root.module if isinstance(root, DistributedDataParallel) else root._modules.get("_orig_mod")
        if inner is None:
            return root
        root = inner


def optimizer_of(optimizer: Any, root: nn.Module) -> torch.optim.Optimizer | None:
    """The optimizer itself, if it trains any of the model's parameters."""
    if optimizer is None:
        return None
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner  # as accelerate wraps it
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(
            "an optimizer is a torch.optim.Optimizer", received=f"a {type(optimizer).__name__}", where="optimizer"
        )
    own = {id(p) for p in root.parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise InputError(
            "the optimizer trains the model that is watched",
            received=f"{type(optimizer).__name__} of other parameters",
            where="optimizer",
            remedy="Pass the optimizer of this model, made after the model was moved, sharded or replaced",
        )
    return optimizer
