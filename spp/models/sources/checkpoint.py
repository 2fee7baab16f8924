"""Weights from a file: ``spp.models.build("ffn", checkpoint="weights.pt")``. No code in the file is run."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spp.errors import InputError
from spp.models.sources import RECIPE, first_line

SHOWN = 5
"""Names of misfits that are listed before the rest is counted."""

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Under which of its keys a file of a training run keeps the weights."""


def load_checkpoint(model: nn.Module, path: str | Path, spelled: Callable[[str], str] = str) -> None:
    """Load a state dict into ``model``, whose recipe then names the file.

    Args:
        model: A network.
        path: A file of torch.save.
        spelled: How the caller writes the name of an argument, for errors.

    Raises:
        InputError: The file holds no state dict, or one of other keys or shapes; the message names them.
    """
    state = read_tensors(
        Path(path),
        "a checkpoint is a state dict saved by torch.save",
        "Save it with torch.save(model.state_dict(), file).",
        where=spelled("checkpoint"),
    )
    for key in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(
            "a checkpoint is a mapping of names to tensors", received=type(state).__name__, where=str(path)
        )
    if wrong := [key for key in state if not isinstance(key, str)]:
        received = f"the key {str(wrong[0])[:40]}, a {type(wrong[0]).__name__}"
        raise InputError("a checkpoint is a mapping of names to tensors", received=received, where=str(path))
    # torch's own message lists every key over hundreds of lines
    own = model.state_dict()
    shapes = [
        f"{key} {_shape(state[key])} instead of {_shape(own[key])}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    misfits = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "of another shape": shapes,
    }
    received = "; ".join(f"{len(keys)} {what}: {_list(keys)}" for what, keys in misfits.items() if keys)
    if received:
        raise InputError(
            "the checkpoint's keys fit the network",
            received=received,
            where=str(path),
            remedy=f"Build the network as it was when it was saved ({spelled('norm')}, {spelled('num_classes')}, ...).",
        )
    model.load_state_dict(state)
    if RECIPE in vars(model):
        vars(model)[RECIPE]["checkpoint"] = str(path)


def read_tensors(path: Path, rule: str, remedy: str, *, where: str) -> Any:
    """What a file of torch.save holds, on the CPU; only tensors and plain containers of them are unpickled.

    Args:
        path: The file.
        rule: What the error says must hold.
        remedy: What the error says to do.
        where: The argument that named the file.

    Raises:
        InputError: It is no such file; the message gives the first line of torch's own.
    """
    try:
        with warnings.catch_warnings():
            # remarks about the pickle's protocol; the error says what matters
            warnings.simplefilter("ignore")
            check_size(path)
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError("there is a file of that name", received=str(path), where=where) from None
    except Exception as error:
        reason = first_line(error) or type(error).__name__
        raise InputError(rule, received=reason, where=str(path), remedy=remedy) from error


def check_size(path: Path) -> None:
    """Refuse a file of torch.save that would unpack to more than it is: torch compresses nothing.

    Raises:
        ValueError: It would.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            size = sum(entry.file_size for entry in file.infolist())
        if size > path.stat().st_size:
            raise ValueError(f"{path.stat().st_size:,} bytes that unpack to {size:,}")


def _list(keys: list[str]) -> str:
    shown = ", ".join(keys[:SHOWN])
    return f"{shown} and {len(keys) - SHOWN} more" if len(keys) > SHOWN else shown


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "scalar"
