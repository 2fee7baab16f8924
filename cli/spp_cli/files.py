"""Files that torch.save wrote, read without running any code in them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any


def load(path: Path, rule: str, remedy: str) -> Any:
    """Return what the file holds, on the CPU; only tensors and plain containers of them are unpickled.

    Args:
        path: The file.
        rule: What the error says must hold.
        remedy: What the error says to do.

    Raises:
        InputError: It is no such file; the message gives the first line of torch's own.
    """
    import torch

    from spp.errors import InputError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks about the pickle's protocol; the error says what matters
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError("there is a file of that name", received=str(path), where="--data") from None
    except Exception as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise InputError(rule, received=reason, where=str(path), remedy=remedy) from error
