"""What ``--data`` names: samples, with their classes where the data have them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from spp.models.sources import Plan
    from spp_cli.options import Request

FILES = (".npy", ".pt")
"""Endings of the files that ``--data`` takes."""


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


def read_file(request: Request) -> Samples | None:
    """The first ``batch_size * batches`` samples of the file that ``--data`` names, or None where it names no file.

    Raises:
        InputError: There is no such file, it holds no samples of floating point or too few of them, or no targets
            although ``--loss cross_entropy`` needs them.
    """
    from spp.errors import InputError

    path = Path(request.data)
    if path.suffix not in FILES:
        return None
    inputs, targets = _load(path)
    need = request.batch_size * request.batches
    if inputs.ndim < 2 or not inputs.is_floating_point():
        raise InputError(
            "the data are samples of floating point along the first axis",
            received=f"shape {tuple(inputs.shape)}, dtype {str(inputs.dtype).removeprefix('torch.')}",
            where=str(path),
        )
    if len(inputs) < need:
        raise InputError(
            f"--batch-size {request.batch_size} and --batches {request.batches} need {need} samples",
            received=f"{len(inputs)}",
            where=str(path),
            remedy="Ask for fewer.",
        )
    if targets is None and request.loss == "cross_entropy":
        raise InputError(
            "cross_entropy needs targets",
            received="inputs only",
            where=str(path),
            remedy="Save the pair (inputs, targets) with torch.save.",
        )
    return Samples(inputs[:need].float(), None if targets is None else targets[:need])


def fitting(request: Request, plan: Plan) -> Samples:
    """Samples for the network of ``plan``: random token ids for a text model, else what ``--data`` names.

    Raises:
        InputError: As in ``draw``.
    """
    import torch

    if plan.vocabulary is None:
        return draw(request, plan.shape, plan.facts["num_classes"])
    number = request.batch_size * request.batches
    generator = torch.Generator().manual_seed(request.seed)
    return Samples(torch.randint(plan.vocabulary, (number, *plan.shape), generator=generator), None)


def draw(request: Request, shape: tuple[int, ...], num_classes: int | None) -> Samples:
    """Draw ``batch_size * batches`` samples of ``shape`` from the set that ``--data`` names.

    They are drawn at once, so that four batches of 16 hold what one batch of 64 holds.

    Raises:
        UnknownNameError: ``--data`` names neither a set nor a folder or file.
        InputError: ``--loss cross_entropy`` needs classes, and nobody says how many; or the data are not where they should be.
    """
    from spp import data
    from spp.errors import InputError, UnknownNameError

    if request.data not in data.names() and not Path(request.data).expanduser().is_dir():
        known = (*data.names(), "FOLDER", *(f"FILE{end}" for end in FILES))
        raise UnknownNameError("data", request.data, known, where="--data")
    if request.loss == "cross_entropy" and num_classes is None:
        raise InputError("cross_entropy needs the number of outputs", where="--loss", remedy="Add --num-classes.")
    with_classes = num_classes if request.loss == "cross_entropy" or request.data != "gaussian" else None
    number = request.batch_size * request.batches
    inputs, targets = data.load(
        request.data, number, shape, seed=request.seed, num_classes=with_classes, folder=request.data_dir
    )
    return Samples(inputs, targets)


def _load(path: Path) -> tuple[Tensor, Tensor | None]:
    import numpy as np
    import torch

    from spp.errors import InputError
    from spp.models.sources.checkpoint import read_tensors

    if path.suffix == ".npy":
        try:
            return torch.from_numpy(np.load(path, allow_pickle=False)), None
        except FileNotFoundError:
            raise InputError("there is a file of that name", received=str(path), where="--data") from None
        except (OSError, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise InputError("the file holds an array of numbers", received=reason, where=str(path)) from error
    found = read_tensors(
        path,
        "the file holds tensors saved by torch.save",
        "Save it with torch.save((inputs, targets), file).",
        where="--data",
    )
    pair = tuple(found) if isinstance(found, tuple | list) else (found, None)
    if len(pair) == 2 and isinstance(pair[0], torch.Tensor) and isinstance(pair[1], torch.Tensor | None):
        return pair
    raise InputError(
        "the file holds a tensor, or a pair of inputs and targets", received=type(found).__name__, where=str(path)
    )
