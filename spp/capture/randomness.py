"""Every source of randomness a forward pass could draw from, remembered and put back."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


class RandomState:
    """The states of torch, its accelerators, NumPy, Python, and of some generators of their own.

    Args:
        tensors: What the pass runs on; the accelerators these lie on are remembered too.
        generators: Further generators, as modules and loaders hold them.
    """

    def __init__(self, tensors: Iterable[Tensor], generators: Iterable[Any]) -> None:
        self._torch = torch.get_rng_state()
        self._python = random.getstate()
        self._numpy = np.random.get_state(legacy=True)  # noqa: NPY002  (other people's code draws from it)
        self._accelerators = [
            (backend, backend.get_rng_state_all() if hasattr(backend, "get_rng_state_all") else backend.get_rng_state())
            for backend in _accelerators(tensors)
        ]
        self._own = [(g, _state(g)) for g in generators]

    def restore(self) -> None:
        """Set every state back."""
        torch.set_rng_state(self._torch)
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        for backend, state in self._accelerators:
            if hasattr(backend, "set_rng_state_all"):
                backend.set_rng_state_all(state)
            else:
                backend.set_rng_state(state)
        for generator, state in self._own:
            _set_state(generator, state)


def generators_of(loader: object) -> list[Any]:
    """The generators that a DataLoader and its samplers hold."""
    holders = (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None))
    found = [getattr(holder, "generator", None) for holder in holders]
    return [generator for generator in found if isinstance(generator, GENERATORS)]


def _accelerators(tensors: Iterable[Tensor]) -> list[Any]:
    """The accelerator modules of torch that are awake, or that the tensors lie on."""
    kinds = {t.device.type for t in tensors} - {"cpu", "meta"}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        kinds.add("cuda")
    return [backend for kind in sorted(kinds) if hasattr(backend := getattr(torch, kind, None), "get_rng_state")]


def _state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=True)
    return generator.getstate()


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)
