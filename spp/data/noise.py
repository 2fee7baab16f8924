"""Unit normal noise, which signal propagation plots are drawn from."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor

from spp.data.shapes import check_draw
from spp.errors import InputError


@overload
def gaussian(n: int, shape: tuple[int, ...], *, seed: int = ..., num_classes: None = ...) -> Tensor: ...
@overload
def gaussian(n: int, shape: tuple[int, ...], *, seed: int = ..., num_classes: int) -> tuple[Tensor, Tensor]: ...
def gaussian(
    n: int, shape: tuple[int, ...], *, seed: int = 0, num_classes: int | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """Independent standard-normal inputs, as Brock et al. 2021 (arXiv 2101.08692) draw their plots from.

    Numbers come from a private generator: the global random state is neither read nor moved.

    Args:
        n: Samples, at least 1.
        shape: Shape of one sample, as ``(3, 224, 224)``.
        seed: Of the generator; the inputs do not depend on ``num_classes``.
        num_classes: Where given, uniform class indices come with the inputs.

    Returns:
        ``(n, *shape)`` in float32, or the pair of it and targets ``(n,)`` in int64.

    Raises:
        InputError: ``n``, ``shape`` or ``num_classes`` is not positive.
    """
    shape = check_draw(n, shape)
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn((n, *shape), generator=generator)
    if num_classes is None:
        return inputs
    if num_classes < 1:
        raise InputError("num_classes is a positive integer", received=repr(num_classes))
    return inputs, torch.randint(num_classes, (n,), generator=generator)
