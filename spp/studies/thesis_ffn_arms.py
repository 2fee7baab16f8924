"""The arms of ``thesis-ffn``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

ARMS: Mapping[str, tuple[str, Mapping[str, str]]] = MappingProxyType(
    {
        "none": ("no norm", {"norm": "none"}),
        "selu": ("SELU", {"norm": "none", "activation": "selu", "init": "lecun"}),
        "batch_minus": ("BN without scale and shift", {"norm": "batch_minus"}),
        "batch": ("BN", {"norm": "batch"}),
    }
)
"""By name, what a reader calls the arm and what of the bundled ``ffn`` it changes."""

SCALED = ("batch_minus", "batch")
