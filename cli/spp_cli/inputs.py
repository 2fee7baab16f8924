"""What a call names, found and made: the network of ``--model``, the samples of ``--data``, the device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spp_cli.options import Call, import_from_here

if TYPE_CHECKING:
    from torch import Tensor, nn

    from spp.models.sources import Plan

FILES = (".npy", ".pt")
"""Endings of the files that ``--data`` takes."""


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
        raise InputError(
            "--device cuda needs a CUDA device that torch sees",
            received="none",
            where="--device",
            remedy="Use --device cpu.",
        )
    return name


def plan_network(call: Call, shape: tuple[int, ...] | None) -> Plan:
    """Look up what ``--model`` names, without building it.

    Args:
        call: The options.
        shape: Shape of one sample where the data fix it.

    Raises:
        InputError: No such network or factory, or it cannot be changed or fed as asked.
        MissingExtraError: The library that it is from is not installed.
    """
    from spp import models
    from spp.models.sources.transformers import only_tokens

    if ":" in call.model:
        import_from_here()
        # libraries of networks ask their hub for news where nothing tells them not to
        os.environ.setdefault("HF_HUB_OFFLINE", "1")

    def spelled(name: str) -> str:
        return f"--data {call.data}" if name == "input_shape" else f"--{name.replace('_', '-')}"

    asked = {name: getattr(call, name) for name in ("norm", "activation", "init", "residual", "se", "num_classes")}
    asked |= {"image_size": call.image_size, "input_shape": None if call.image_size is not None else shape}
    given = {name: value for name, value in asked.items() if value is not None}
    plan = models.plan(call.model, tokens=getattr(call, "tokens", None), spelled=spelled, **given)
    if plan.vocabulary is not None and call.data != "gaussian":
        raise only_tokens(call.model, f"--data {call.data}")
    if plan.config is not None:
        plan.config.check_input(plan.shape, batch=None if getattr(call, "eval_mode", False) else call.batch_size)
    return plan


def build_network(call: Call, plan: Plan, device: str) -> nn.Module:
    """Build the network of ``plan`` from ``--seed``, load ``--checkpoint``, and move it to ``device``."""
    import torch

    from spp.models.sources.checkpoint import load_checkpoint

    # just before building: whatever a library drew while it was looked up does not count
    torch.manual_seed(call.seed)
    model = plan.build()
    if call.checkpoint is not None:
        load_checkpoint(model, call.checkpoint, plan.spelled)
    if getattr(call, "eval_mode", False):
        model.eval()
    return model.to(device)


@dataclass(frozen=True, slots=True)
class Samples:
    """Inputs ``(N, *shape)`` and, where there are any, classes ``(N,)``."""

    inputs: Tensor
    targets: Tensor | None


@dataclass(frozen=True, slots=True)
class Batches:
    """Samples in order, ``size`` at a time: a tensor, or a pair where there are targets.

    Attributes:
        samples: All of them.
        size: Of one batch.
        names: Keyword arguments that each batch goes in as, rather than as a tensor.
    """

    samples: Samples
    size: int
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return -(-len(self.samples.inputs) // self.size)

    def __iter__(self) -> Iterator[Any]:
        inputs, targets = self.samples.inputs, self.samples.targets
        for start in range(0, len(inputs), self.size):
            part = slice(start, start + self.size)
            fed = dict.fromkeys(self.names, inputs[part]) if self.names else inputs[part]
            yield fed if targets is None else (fed, targets[part])


def read_file(call: Call) -> Samples | None:
    """The first ``batch_size * batches`` samples of the file that ``--data`` names, or None where it names no file.

    Raises:
        InputError: There is no such file, it holds no samples of floating point or too few of them, or no targets
            although ``--loss cross_entropy`` needs them.
    """
    from spp.errors import InputError

    path = Path(call.data)
    # by the suffix alone, so that a file that is missing is said to be missing, rather than an unknown data set
    if path.suffix not in FILES:
        return None
    inputs, targets = _load(path)
    need = call.batch_size * call.batches
    if inputs.ndim < 2 or not inputs.is_floating_point():
        raise InputError(
            "data need to be samples of floating point along the first axis",
            received=f"shape {tuple(inputs.shape)}, dtype {str(inputs.dtype).removeprefix('torch.')}",
            where=str(path),
        )
    if len(inputs) < need:
        raise InputError(
            f"--batch-size {call.batch_size} and --batches {call.batches} need {need} samples",
            received=f"{len(inputs)}",
            where=str(path),
            remedy="Ask for fewer.",
        )
    if targets is None and call.loss == "cross_entropy":
        raise InputError(
            "cross_entropy needs targets",
            received="inputs only",
            where=str(path),
            remedy="Save the pair (inputs, targets) with torch.save.",
        )
    return Samples(inputs[:need].float(), None if targets is None else targets[:need])


def fitting(call: Call, plan: Plan) -> Samples:
    """Samples for the network of ``plan``: random token ids for a text model, else what ``--data`` names.

    Raises:
        InputError: As in ``draw``.
    """
    import torch

    if plan.vocabulary is None:
        return draw(call, plan.shape, plan.facts.get("num_classes"))
    number = call.batch_size * call.batches
    # a generator of its own: drawing samples must not move the random state that dropout reads
    generator = torch.Generator().manual_seed(call.seed)
    return Samples(torch.randint(plan.vocabulary, (number, *plan.shape), generator=generator), None)


def draw(call: Call, shape: tuple[int, ...], num_classes: int | None) -> Samples:
    """Draw ``batch_size * batches`` samples of ``shape`` from the set that ``--data`` names.

    Raises:
        UnknownNameError: ``--data`` names neither a set nor a folder or file.
        InputError: ``--loss cross_entropy`` needs classes, and nobody says how many; or the data are not where they should be.
    """
    from spp import data
    from spp.data.folder import is_folder
    from spp.errors import InputError, UnknownNameError

    if call.data not in data.names() and not is_folder(call.data):
        known = (*data.names(), "FOLDER", *(f"FILE{end}" for end in FILES))
        raise UnknownNameError("data", call.data, known, where="--data")
    if call.loss == "cross_entropy" and num_classes is None:
        raise InputError("cross_entropy needs the number of outputs", where="--loss", remedy="Add --num-classes.")
    with_classes = num_classes if call.loss == "cross_entropy" or call.data != "gaussian" else None
    number = call.batch_size * call.batches
    # all at once, so that four batches of 16 hold what one batch of 64 holds
    inputs, targets = data.load(
        call.data, number, shape, seed=call.seed, num_classes=with_classes, folder=call.data_dir
    )
    return Samples(inputs, targets)


def _load(path: Path) -> tuple[Tensor, Tensor | None]:
    import numpy as np
    import torch

    from spp.errors import InputError, first_line
    from spp.models.sources.checkpoint import read_tensors

    if path.suffix == ".npy":
        try:
            return torch.from_numpy(np.load(path, allow_pickle=False)), None
        except FileNotFoundError:
            raise InputError("a file of that name is needed", received=str(path), where="--data") from None
        # numpy evaluates the header and lets through whatever it meets there, a MemoryError for a shape too large too
        except Exception as error:
            raise InputError(
                "a .npy file needs to hold an array", received=first_line(error), where=str(path)
            ) from error
    found = read_tensors(
        path,
        "a .pt file needs to hold tensors saved by torch.save",
        "Save it with torch.save((inputs, targets), file).",
        where="--data",
    )
    pair = tuple(found) if isinstance(found, tuple | list) else (found, None)
    if len(pair) == 2 and isinstance(pair[0], torch.Tensor) and isinstance(pair[1], torch.Tensor | None):
        return pair
    raise InputError(
        "a .pt file needs to hold a tensor, or a pair of inputs and targets",
        received=type(found).__name__,
        where=str(path),
    )
