"""Weights from a file: ``spp.models.build("ffn", checkpoint="weights.pt")``. No code in the file is run."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spp.errors import InputError, first_line
from spp.models.sources import RECIPE

SHOWN = 5
"""Names of misfits that are listed before the rest is counted."""

STRUCTURE = 1 << 28
"""Bytes of names and structure that a file may have: millions of tensors."""

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
    # names and shapes first, for which torch reads no numbers: a file may claim any size
    for device in ("meta", "cpu"):
        state = _weights(Path(path), device, spelled)
        if received := _misfits(model.state_dict(), state):
            raise InputError(
                "a checkpoint needs the keys of the network",
                received=received,
                where=str(path),
                remedy=f"Build the network as it was when it was saved ({spelled('norm')}, {spelled('num_classes')}, ...).",
            )
    model.load_state_dict(state)
    if RECIPE in vars(model):
        vars(model)[RECIPE]["checkpoint"] = str(path)


def _weights(path: Path, device: str, spelled: Callable[[str], str]) -> dict[str, Tensor]:
    """The tensors of a file by their names, on ``cpu``, or on ``meta`` without their numbers."""
    state = read_tensors(
        path,
        "a checkpoint is a state dict saved by torch.save",
        "Save it with torch.save(model.state_dict(), file).",
        where=spelled("checkpoint"),
        device=device,
        mapped=True,
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
    # what is saved of a model on the meta device is there in both passes
    if empty := [key for key, v in state.items() if v.layout is not torch.strided or v.device.type != device]:
        received = f"{len(empty)} that are sparse or on the meta device: {_list(empty)}"
        raise InputError("a checkpoint holds tensors of plain numbers", received=received, where=str(path))
    return state


def _misfits(own: dict[str, Tensor], state: dict[str, Tensor]) -> str:
    """Which keys do not fit, in words; torch's own message lists every key over hundreds of lines."""
    shapes = [
        f"{key} {_shape(state[key])} instead of {_shape(own[key])}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    misfits = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "of another shape": shapes,
        # torch would leave the imaginary parts out
        "complex": [key for key in own if key in state and state[key].is_complex() and not own[key].is_complex()],
    }
    return "; ".join(f"{len(keys)} {what}: {_list(keys)}" for what, keys in misfits.items() if keys)


def read_tensors(path: Path, rule: str, remedy: str, *, where: str, device: str = "cpu", mapped: bool = False) -> Any:
    """What a file of torch.save holds; only tensors and plain containers of them are unpickled.

    Args:
        path: The file.
        rule: What the error says must hold.
        remedy: What the error says to do.
        where: The argument that named the file.
        device: ``cpu``, or ``meta`` to leave out the numbers.
        mapped: Whether numbers may stay in the file until they are read.

    Raises:
        InputError: It is no such file; the message gives the first line of torch's own.
    """
    try:
        with warnings.catch_warnings():
            # remarks about the pickle's protocol; the error says what matters
            warnings.simplefilter("ignore")
            check_size(path)
            # torch before 1.6 wrote no zip archives, which alone can be mapped
            mapped = mapped and device == "cpu" and zipfile.is_zipfile(path)
            return torch.load(path, map_location=device, weights_only=True, mmap=mapped)
    except FileNotFoundError:
        raise InputError("a file of that name is needed", received=str(path), where=where) from None
    except Exception as error:
        raise InputError(rule, received=first_line(error), where=str(path), remedy=remedy) from error


def check_size(path: Path) -> None:
    """Refuse a file of torch.save that would unpack to more than it is, since torch compresses nothing, or to a huge pickle.

    Raises:
        ValueError: It would.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            sizes = [(entry.filename, entry.file_size) for entry in file.infolist()]
        size = sum(size for _, size in sizes)
        if size > path.stat().st_size:
            raise ValueError(f"{path.stat().st_size:,} bytes that unpack to {size:,}")
        # numbers lie in NAME/data; torch reads everything else whole
        if (rest := sum(size for name, size in sizes if "/data/" not in name)) > STRUCTURE:
            raise ValueError(f"{rest:,} bytes beside the numbers, {STRUCTURE:,} at most")


def _list(keys: list[str]) -> str:
    shown = ", ".join(keys[:SHOWN])
    return f"{shown} and {len(keys) - SHOWN} more" if len(keys) > SHOWN else shown


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "scalar"
