"""Networks of the user's own: ``package.module:factory``, anything that can be called and returns a torch module."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import PurePath
from typing import Any

from torch import nn

from spp.errors import InputError, said
from spp.models.sources import VARIED, Asked, Plan, built

SHAPE = (3, 224, 224)
"""Shape of a sample, unless the caller says otherwise."""


def factory(asked: Asked) -> Plan:
    """A callable of the user's, which the changes go to as keyword arguments.

    A norm that it does not take is put in place of the norms of what it returns.

    Raises:
        InputError: There is no such factory, or it does not take the arguments.
    """
    found, changes, norm = _find(asked), dict(asked.changes), None
    if "norm" in changes and not _takes(found, "norm"):
        norm = changes.pop("norm")
    # before the call: a TypeError from inside the factory is another trouble
    try:
        inspect.signature(found).bind(**changes)
    except TypeError as error:
        given = ", ".join(f"{key}={value!r}" for key, value in changes.items()) or "no arguments"
        raise InputError(f"the factory needs to take {given}", received=str(error), where=asked.model) from error

    def make() -> nn.Module:
        model = built(asked.model, lambda: found(**changes), "the factory needs to return a model")
        if not isinstance(model, nn.Module):
            raise InputError(
                "the factory needs to return a torch module", received=type(model).__name__, where=asked.model
            )
        return model

    label = asked.label(asked.name.rpartition(".")[2])
    options = tuple(name for name in VARIED if name in inspect.signature(found).parameters)
    return Plan(label, asked.facts(), asked.shape or SHAPE, make, norm, asked.spelled, options=options)


def _find(asked: Asked) -> Callable[..., Any]:
    module = asked.model.partition(":")[0]
    try:
        found = import_module(module)
        for part in asked.name.split("."):
            found = getattr(found, part)
    except Exception as error:
        # that of the standard library or of an installed package comes before one in the current folder
        file = getattr(sys.modules.get(module), "__file__", None)
        raise InputError(
            f"{asked.spelled('model')} names a factory as package.module:factory",
            received=said(error),
            where=asked.model,
            remedy=f"The module is {file}." if isinstance(error, AttributeError) and file else "",
        ) from error
    if not callable(found):
        raise InputError("the factory needs to be something to call", received=type(found).__name__, where=asked.model)
    return found


def refuse_file(model: str, argument: str) -> None:
    """Raise where a file is named in the place of a module.

    Raises:
        InputError: It is, as in ``mymod.py`` or ``nets/mymod.py:Net``; the message says how it is named.
    """
    file, _, name = model.partition(":")
    if file.endswith(".py"):
        path = PurePath(file).with_suffix("")
        module = path.name if path.is_absolute() or ".." in path.parts else ".".join(path.parts)
        raise InputError(
            f"{argument} names a network of one's own as module:factory",
            received=model,
            remedy=f"Write {module}:{name or 'Net'}, with the class or function that makes it after the colon.",
        )


def _takes(found: Callable[..., Any], argument: str) -> bool:
    """Whether a factory has an argument of that name, or takes any."""
    kinds = {name: parameter.kind for name, parameter in inspect.signature(found).parameters.items()}
    return argument in kinds or inspect.Parameter.VAR_KEYWORD in kinds.values()
