"""Modules of users that register things: norms, networks, data, rules, figures.

A plugin is a module; importing it registers what it has. An installed one is found by its entry point in the group
``spp.plugins``, any other by its name: ``spp analyze --plugin mymodule``, or the variable ``SPP_PLUGINS``. In Python, importing
the module is enough.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from spp.errors import InputError, said

GROUP = "spp.plugins"
VARIABLE = "SPP_PLUGINS"

_loaded: set[str] = set()
"""What was loaded already, by where it was named and its name."""


def load_plugins(names: Iterable[str] = (), *, where: str = "plugin") -> None:
    """Import the plugins that are installed, those that ``SPP_PLUGINS`` names, and ``names``; each one once.

    Args:
        names: Modules, as ``mypackage.norms``.
        where: What named them, for errors.

    Raises:
        InputError: One cannot be imported; the message says which and why.
    """
    for point in entry_points(group=GROUP):
        package = point.dist.name if point.dist is not None else point.value
        _load(f"entry point {point.name} of {package}", point.value, point.load)
    named = [(VARIABLE, name) for name in re.split(r"[\s,]+", os.environ.get(VARIABLE, "")) if name]
    for origin, name in [*named, *((where, name) for name in names)]:
        _load(origin, name, partial(import_module, name))


def _load(origin: str, name: str, load: Callable[[], Any]) -> None:
    if name in _loaded:
        return
    try:
        load()
    # whatever a module of somebody else's raises: it is neither ours nor the user's next step
    except Exception as error:
        raise InputError(
            "a plugin is a module that can be imported",
            received=f"{name!r}, which raises {said(error)}",
            where=origin,
        ) from error
    _loaded.add(name)
