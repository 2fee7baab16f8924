"""Networks of the user's own: ``--model package.module:factory``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spp_cli.networks import Plan

if TYPE_CHECKING:
    from torch import nn

    from spp_cli.network_request import NetworkRequest as Request

SHAPE = (3, 224, 224)
"""Shape of a sample, unless ``--image-size`` or a data file says otherwise."""


def plan(request: Request, changes: dict[str, Any], shape: tuple[int, ...] | None) -> Plan:
    """Look up a factory, without calling it.

    Args:
        request: The options.
        changes: Those of them that are keyword arguments of the factory.
        shape: Shape of one sample where a data file fixes it.

    Raises:
        InputError: There is no such factory, or it does not take the arguments.
    """
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
        return swapped(model, request.norm, facts) if swap and request.norm is not None else model

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


def swapped(model: nn.Module, norm: str, facts: dict[str, Any]) -> nn.Module:
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
