"""What ``--model`` names, built and loaded from a checkpoint: a bundled network, one of a library, or a user's factory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from spp_cli.network_request import NetworkRequest as Request

_SHOWN = 5
"""Names of a checkpoint's misfits that are listed before the rest is counted."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A network to be built.

    Attributes:
        label: Name for people and for the run folder, as ``effnet_b0-none``.
        facts: What describes it: model, norm, activation, init, num_classes; None where it is not known.
        shape: Shape of one sample.
        make: Builds it.
        names: Keyword arguments of its forward that the samples go in as; positional where there are none.
        vocabulary: Samples are whole numbers below this, tokens of a text; None where they are images or features.
    """

    label: str
    facts: dict[str, Any]
    shape: tuple[int, ...]
    make: Callable[[], nn.Module]
    names: tuple[str, ...] = ()
    vocabulary: int | None = None


def plan(request: Request, shape: tuple[int, ...] | None) -> Plan:
    """Look up what ``--model`` names, without building it.

    Args:
        request: The options.
        shape: Shape of one sample where a data file fixes it.

    Raises:
        InputError: No such network or factory, or it cannot be changed or fed as asked.
        MissingExtraError: The library that it is from is not installed.
    """
    from spp_cli import configurations, factories, libraries

    library, _, name = request.model.partition(":")
    asked = {
        "norm": request.norm,
        "activation": request.activation,
        "init": request.init,
        "residual": request.residual,
        "se": request.se,
        "num_classes": request.num_classes,
    }
    changes = {key: value for key, value in asked.items() if value is not None}
    if library in libraries.LIBRARIES and name:
        return libraries.plan(request, library, name, changes, shape)
    if library == "transformers" and name:
        return configurations.plan(request, name, changes, shape)
    return factories.plan(request, changes, shape) if name else _bundled(request, changes, shape)


def build(request: Request, plan: Plan, device: str) -> nn.Module:
    """Build the network of ``plan`` from ``--seed``, load ``--checkpoint``, and move it to ``device``."""
    import torch

    torch.manual_seed(request.seed)
    model = plan.make()
    if request.checkpoint is not None:
        load_checkpoint(model, request.checkpoint)
    if request.eval_mode:
        model.eval()
    return model.to(device)


def load_checkpoint(model: nn.Module, path: str) -> None:
    """Load a state dict into ``model``; with ``weights_only=True``, so that no code in the file runs.

    Raises:
        InputError: The file holds no state dict, or one of other keys or shapes; the message names them.
    """
    import torch

    from spp.errors import InputError
    from spp_cli import files

    rule, remedy = (
        "a checkpoint is a state dict saved by torch.save",
        "Save it with torch.save(model.state_dict(), file).",
    )
    state = files.load(Path(path), rule, remedy)
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError("a checkpoint is a mapping of names to tensors", received=type(state).__name__, where=path)
    own = model.state_dict()
    shapes = [
        f"{key} {_shape(state[key])} instead of {_shape(own[key])}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    misfits = (
        ("missing", [key for key in own if key not in state]),
        ("unexpected", [key for key in state if key not in own]),
        ("of another shape", shapes),
    )
    received = "; ".join(f"{len(keys)} {what}: {_list(keys)}" for what, keys in misfits if keys)
    if received:
        raise InputError(
            "the checkpoint's keys fit the network",
            received=received,
            where=path,
            remedy="Build the network as it was when it was saved (--norm, --num-classes, ...).",
        )
    model.load_state_dict(state)


def _bundled(request: Request, changes: dict[str, Any], shape: tuple[int, ...] | None) -> Plan:
    from spp import models

    config = models.config(request.model)
    if request.image_size is not None:
        shape = (*config.input_shape[:1], *request.image_size)
    if shape is not None:
        changes = {**changes, "input_shape": shape}
    config = config.change(**changes)
    config.check_input(config.input_shape, batch=None if request.eval_mode else request.batch_size)
    facts: dict[str, Any] = {
        "model": request.model,
        "norm": config.norm,
        "activation": config.activation,
        "init": config.init,
        "num_classes": config.num_classes,
        **{key: changes[key] for key in ("residual", "se") if key in changes},
    }
    label = f"{request.model}-{config.norm}"
    return Plan(label, facts, config.input_shape, lambda: models.build(request.model, **changes))


def _list(keys: list[str]) -> str:
    shown = ", ".join(keys[:_SHOWN])
    return f"{shown} and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else shown


def _shape(tensor: Any) -> str:
    return "x".join(str(size) for size in tensor.shape) or "scalar"
