"""What ``--model`` names: a bundled network or a user's factory, built and loaded from a checkpoint."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from spp_cli.options import NetworkRequest as Request

SHAPE = (3, 224, 224)
"""Shape of a sample for a user's own network, unless ``--image-size`` or a data file says otherwise."""

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
    """

    label: str
    facts: dict[str, Any]
    shape: tuple[int, ...]
    make: Callable[[], nn.Module]


def plan(request: Request, shape: tuple[int, ...] | None) -> Plan:
    """Look up what ``--model`` names, without building it.

    Args:
        request: The options.
        shape: Shape of one sample where a data file fixes it.

    Raises:
        InputError: No such network or factory, or it cannot be changed or fed as asked.
    """
    asked = {
        "norm": request.norm,
        "activation": request.activation,
        "init": request.init,
        "residual": request.residual,
        "se": request.se,
        "num_classes": request.num_classes,
    }
    changes = {key: value for key, value in asked.items() if value is not None}
    return _factory(request, changes, shape) if ":" in request.model else _bundled(request, changes, shape)


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


def _factory(request: Request, changes: dict[str, Any], shape: tuple[int, ...] | None) -> Plan:
    from torch import nn

    from spp.errors import InputError, TraceError

    module_name, _, attribute = request.model.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)  # a console script's path begins at its own folder, not at the user's
    try:
        factory = import_module(module_name)
        for part in attribute.split("."):
            factory = getattr(factory, part)
    except Exception as error:
        raise InputError(
            "--model names a factory as package.module:factory",
            received=f"{type(error).__name__}: {error}",
            where=request.model,
        ) from error
    if not callable(factory):
        raise InputError("the factory can be called", received=type(factory).__name__, where=request.model)
    swap = "norm" in changes and not _takes(factory, "norm")
    if swap:
        changes = {key: value for key, value in changes.items() if key != "norm"}
    try:
        inspect.signature(factory).bind(**changes)
    except TypeError as error:
        given = ", ".join(f"{key}={value!r}" for key, value in changes.items()) or "no arguments"
        raise InputError(f"the factory can be called with {given}", received=str(error), where=request.model) from error

    def make() -> nn.Module:
        try:
            model = factory(**changes)
        except Exception as error:
            raise TraceError(
                "the factory returns a model", received=f"{type(error).__name__}: {error}", where=request.model
            ) from error
        if not isinstance(model, nn.Module):
            raise InputError("the factory returns a torch module", received=type(model).__name__, where=request.model)
        return _swapped(model, request.norm, facts) if swap and request.norm is not None else model

    if request.image_size is not None:
        shape = (SHAPE[0], *request.image_size)
    asked: dict[str, Any] = {**changes, "norm": request.norm}
    facts: dict[str, Any] = {
        "model": request.model,
        **{key: asked.get(key) for key in ("norm", "activation", "init", "num_classes")},
        **{key: asked[key] for key in ("residual", "se") if key in asked},
    }
    label = "-".join(part for part in (attribute.rpartition(".")[2], request.norm) if part)
    return Plan(label, facts, shape or SHAPE, make)


def _takes(factory: Callable[..., Any], argument: str) -> bool:
    """Whether a factory has an argument of that name, or takes any."""
    kinds = {name: parameter.kind for name, parameter in inspect.signature(factory).parameters.items()}
    return argument in kinds or inspect.Parameter.VAR_KEYWORD in kinds.values()


def _swapped(model: nn.Module, norm: str, facts: dict[str, Any]) -> nn.Module:
    """``norm`` in place of the norms of a user's own network; what was left, and why, goes into the facts.

    Raises:
        InputError: There was nothing to replace.
    """
    from spp.errors import InputError
    from spp.nn import neuronwise_, replace_norm

    if norm == "neuronwise":
        conversion = neuronwise_(model)
        facts["replaced"], facts["left"] = len(conversion.converted), dict(conversion.left)
    else:
        done = replace_norm(model, norm)
        model, facts["replaced"] = done.model, len(done.replaced)
        facts["left"] = {left.name: left.reason for left in done.left}
    if not facts["replaced"]:
        raise InputError(
            f"--norm {norm} finds layers to replace",
            received=f"a {type(model).__name__} with none that can be",
            where=str(facts["model"]),
            remedy="Leave --norm out, or build the network with another norm in the factory.",
        )
    return model


def _list(keys: list[str]) -> str:
    shown = ", ".join(keys[:_SHOWN])
    return f"{shown} and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else shown


def _shape(tensor: Any) -> str:
    return "x".join(str(size) for size in tensor.shape) or "scalar"
