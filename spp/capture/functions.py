"""Functions that are layers: ``F.relu(x)`` between two modules has rows as ``nn.ReLU()`` has.

A function is a layer where :mod:`spp.layers` would know the module that does the same, and where it is called by a module
that is no layer itself: a block, a network, an attention. ``nn.ReLU`` calls ``F.relu`` too, and that is one layer and not two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import chain, count, product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from spp.capture.sites import Entry, Roster, saturation
from spp.layers import FUNCTIONS, is_scripted, layer_of, twin_of
from spp.vocabulary import LayerKind

TYPE = "function"
"""The type of such a layer in the frame."""

_SIGNALS = {"scaled_dot_product_attention": ("query", "key", "value")}
"""Which arguments are signals, where that is not the first alone."""
_HOSTS = {LayerKind.CONTAINER, LayerKind.OTHER, LayerKind.ATTENTION, LayerKind.GATE}
"""Kinds of modules that are made of layers; in others a function is how the layer itself is computed."""


def functions() -> Iterator[tuple[str, Any, str, Any]]:
    """Every function that is a layer: the layer's name, where it is found, under which name there, and itself."""
    for name, owner, attribute in _places():
        yield name, owner, attribute, getattr(owner, attribute)


@cache
def _places() -> list[tuple[str, Any, str]]:
    everywhere = product(FUNCTIONS, (functional, torch, Tensor), ("", "_"))
    return [(name, owner, name + end) for name, owner, end in everywhere if hasattr(owner, name + end)]


def signals_of(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """The arguments that are signals; none where the first is no tensor, or is a parameter that is only looked up."""
    names = _SIGNALS.get(name, ("input",))
    found = (*args[: len(names)], *(kwargs[one] for one in names[len(args) :] if one in kwargs))
    return found if found and isinstance(found[0], Tensor) and not isinstance(found[0], nn.Parameter) else ()


class Functions:
    """The functions that the modules of a roster call, as entries; each is made when it is first called.

    Args:
        roster: The modules.

    Attributes:
        entries: Those that were called, in the order of their first calls.
    """

    def __init__(self, roster: Roster) -> None:
        self.entries: list[Entry] = []
        self._taken = {entry.name for entry in roster}
        self._selects = roster.selects
        self._known: dict[tuple[Entry, str], Entry | None] = {}

    def of(self, host: Entry, function: str) -> Entry | None:
        """The entry of a function that ``host`` calls; None where it is no layer of its own there."""
        key = host, function
        if key not in self._known:
            self._known[key] = self._made(host, function) if _hosts(host) else None
        return self._known[key]

    def _made(self, host: Entry, function: str) -> Entry:
        plain = f"{host.name}.{function}" if host.name else function
        # a child of that name is another layer
        name = next(name for name in chain([plain], (f"{plain}#{n}" for n in count(2))) if name not in self._taken)
        self._taken.add(name)
        # what the arguments of a call decide, as a norm's eps, is not known of it
        twin = twin_of(function, host.module.training)
        layer = layer_of(twin)
        entry = Entry(twin, name, (), TYPE, True, self._selects([name], twin), layer, saturation(layer))
        self.entries.append(entry)
        return entry


def _hosts(entry: Entry) -> bool:
    """Whether what a module calls are layers of their own."""
    whole = entry.layer.kind is LayerKind.ATTENTION and type(entry.module).__module__.startswith("torch.nn.modules")
    return entry.layer.kind in _HOSTS and not whole and entry.weight_of is None and not is_scripted(entry.module)
