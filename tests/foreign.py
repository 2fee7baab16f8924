"""Libraries of networks that are no dependency of the tests: each function gives the module, or skips with the reason.

torchvision's compiled operators do not load beside a CPU-only torch; its Python half does, once the operators that it
registers shape functions for are declared.
"""

import importlib
import importlib.util
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

_DECLARED: list[torch.library.Library] = []
"""A library's declarations last as long as the object."""


def torchvision() -> ModuleType:
    """``torchvision`` with its ``models``; skips where it is not installed."""
    _wanted("torchvision")
    _declare_torchvision_operators()
    importlib.import_module("torchvision.models")
    return importlib.import_module("torchvision")


def timm() -> ModuleType:
    """``timm``, which imports torchvision; skips where either is not installed."""
    _wanted("timm")
    torchvision()
    return importlib.import_module("timm")


def transformers() -> ModuleType:
    """``transformers``, with what it takes of torchvision declared; skips where it is not installed."""
    _wanted("transformers")
    if importlib.util.find_spec("torchvision") is not None:
        _declare_torchvision_operators()
    return importlib.import_module("transformers")


def _wanted(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed; it is no dependency of the tests")


@cache
def _declare_torchvision_operators() -> None:
    """Declare, without an implementation, every operator that torchvision's own Python code registers something for."""
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None and spec.submodule_search_locations
    root = Path(next(iter(spec.submodule_search_locations)))
    if any(root.glob("_C*.so")) and torch.version.cuda is not None:
        return  # a torchvision whose operators load defines them itself
    source = (root / "_meta_registrations.py").read_text()
    names = set(re.findall(r'register_meta\("(\w+)"\)', source)) | set(re.findall(r"torchvision::(\w+)", source))
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in sorted(names):
        library.define(f"{name}() -> ()")
    _DECLARED.append(library)
