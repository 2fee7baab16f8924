"""What neuron-wise layers learned of their inputs in a backward pass, as rows of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from spp.capture.sites import Entry, Site
from spp.capture.stage import Stage
from spp.vocabulary import LEARNED


def learned_statistics(entries: Iterable[Entry], stage: Stage) -> list[Site]:
    """Sites of what the selected modules that ran have kept.

    A module that keeps such statistics offers them by ``neuronwise_statistics() -> dict[str, Tensor]``, neurons on axis 0.
    """
    found = []
    for entry in entries:
        if entry.selected and entry.calls and hasattr(type(entry.module), "neuronwise_statistics"):
            module: Any = entry.module
            for name, tensor in module.neuronwise_statistics().items():
                site = Site(entry, entry.calls[0], f"{LEARNED}{name}", tensor.shape, tensor.dtype, 0)
                site.value = stage.reduce(tensor, 0)
                found.append(site)
    return found
