"""The global random states, in a form that a checkpoint can hold without pickled code."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from spp.capture.randomness import RandomState


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of torch, the accelerator, Python and NumPy as tensors, numbers and tuples."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002 (a forward may draw from it)
    return {
        "torch": torch.get_rng_state(),
        "accelerator": None if device.type == "cpu" else getattr(torch, device.type).get_rng_state(device),
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss),
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Put back what ``random_state`` returned; an accelerator that was not there before keeps its own."""
    torch.set_rng_state(state["torch"].cpu())
    if device.type != "cpu" and state["accelerator"] is not None:
        getattr(torch, device.type).set_rng_state(state["accelerator"].cpu(), device)
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Every global random state started from ``seed``, and put back as it was afterwards."""
    before = RandomState([torch.empty(0, device=device)], [])
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        before.restore()
