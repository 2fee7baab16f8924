"""Batches of a part of the data: in their order, or in one that follows from seed and epoch alone.

Nothing is drawn from torch's global random state and nothing is carried from one batch to the next, so that a run which was
stopped after any batch goes on with exactly the batches that it would have had.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from spp.data.images import AUGMENTATIONS, Pixels, Scale, to_shape
from spp.errors import InputError


@dataclass(frozen=True, slots=True)
class Part(Dataset[tuple[Tensor, Tensor]]):
    """Some of the images of a set, standardized and brought to one shape; a data set that torch's DataLoader takes.

    Attributes:
        pixels: All images of the set.
        indices: Which of them, ``(n,)``.
        scale: Standardizes them.
        shape: Of one sample.
    """

    pixels: Pixels
    indices: Tensor
    scale: Scale
    shape: tuple[int, ...]

    @classmethod
    def whole(cls, pixels: Pixels, scale: Scale, shape: tuple[int, ...]) -> Part:
        """All images of ``pixels``."""
        return cls(pixels, torch.arange(len(pixels.targets)), scale, shape)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        # range() counts negative indices from the end and raises IndexError beyond it, which ends a loop over a data set.
        inputs, targets = self.batch(torch.tensor([range(len(self))[index]]))
        return inputs[0], targets[0]

    @property
    def targets(self) -> Tensor:
        """Class indices ``(n,)``."""
        return self.pixels.targets[self.indices]

    def batch(
        self, positions: Tensor, *, augment: str = "none", generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Samples of this part by their positions in it.

        Args:
            positions: ``(m,)``, each from 0 to n - 1.
            augment: A name of ``spp.data.AUGMENTATIONS``.
            generator: What augmentation draws from; needed by any other than ``none``.

        Returns:
            Inputs ``(m, *shape)`` in float32 and class indices ``(m,)``.
        """
        chosen = self.indices[positions]
        taken = self.pixels.take(chosen)
        change = AUGMENTATIONS.row(augment, where="augment")
        if change is not None:
            if generator is None:
                raise InputError("an augmentation draws from a generator", received="none", where="generator")
            taken = change(taken, generator)
        return to_shape(self.scale(taken), self.shape), self.pixels.targets[chosen]


def batches(part: Part, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The samples of ``part`` in their order, ``size`` at a time, as they are stored; the last batch may be smaller."""
    _check(part, size)
    for first in range(0, len(part), size):
        yield part.batch(torch.arange(first, min(first + size, len(part))))


def shuffled(
    part: Part, size: int, *, seed: int, epoch: int, augment: str = "none", start: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """The samples of ``part`` in the order that ``seed`` and ``epoch`` decide, ``size`` at a time.

    The last batch may be smaller, but is left out where it would be a single sample and not the only one, since BatchNorm
    cannot train on one; another epoch brings that sample.

    Args:
        part: What to draw from.
        size: Samples per batch.
        seed: Of the run.
        epoch: From 0.
        augment: A name of ``spp.data.AUGMENTATIONS``; draws follow from seed, epoch and batch.
        start: Batches to leave out at the beginning, for a run that goes on in the middle of an epoch.

    Yields:
        Inputs ``(m, *part.shape)`` in float32 and class indices ``(m,)``.

    Raises:
        InputError: The part is empty, or ``size`` is not positive.
    """
    _check(part, size)
    order = torch.randperm(len(part), generator=generator_of(seed, epoch))
    for number in range(start, count(part, size)):
        positions = order[number * size : (number + 1) * size]
        yield part.batch(positions, augment=augment, generator=generator_of(seed, epoch, number))


def count(part: Part, size: int) -> int:
    """How many batches ``shuffled`` gives."""
    whole, rest = divmod(len(part), size)
    return whole + (rest > (1 if whole else 0))


def generator_of(*numbers: int) -> Generator:
    """A generator whose seed is mixed from ``numbers``, so that neighbours have nothing in common."""
    digest = hashlib.sha256(",".join(map(str, numbers)).encode()).digest()
    # manual_seed takes seeds below 2**63.
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _check(part: Part, size: int) -> None:
    if size < 1:
        raise InputError("a batch has at least one sample", received=f"size={size}")
    if not len(part):
        raise InputError("batches need samples", received="an empty part of the data")
