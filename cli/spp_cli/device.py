"""What ``--device`` names."""

from __future__ import annotations


def pick_device(name: str) -> str:
    """``cpu`` or ``cuda``; ``auto`` is a GPU where torch sees one.

    Raises:
        InputError: A GPU was asked for, and torch sees none.
    """
    import torch

    from spp.errors import InputError

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("torch sees a CUDA device", received="none", where="--device", remedy="Use --device cpu.")
    return name
