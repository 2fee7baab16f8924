"""Where a tensor has its channels, and where bounded activations are saturated.

:mod:`spp.layers` knows the layout of a layer's class: axis 1 for channels-first modules of rank >= 3 (axis 0 for an unbatched
input), the last axis for linear layers, layer norms, embeddings, attention. Anything of rank 2 has it last. Every other module
follows: its input where that is known and of the same rank, else what the call before it gave out, else what its rank suggests.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from spp import _torch
from spp.layers import Layer, own
from spp.vocabulary import LayerKind

ChannelAxis = int | Callable[[nn.Module, Tensor], int | None] | None


NEAR = 0.01
"""A value is saturated within this share of the larger end's magnitude of either end."""


def saturation(layer: Layer) -> tuple[float, float] | None:
    """The values at or beyond which the output of a bounded activation counts as saturated; None for unbounded ones."""
    if layer.output_range is None:
        return None
    low, high = layer.output_range
    margin = NEAR * max(abs(low), abs(high))
    return low + margin, high - margin


def channel_axis(
    module: nn.Module,
    layer: Layer,
    tensor: Tensor,
    source: tuple[int, int | None] | None,
    before: tuple[int, int | None, int] | None,
    override: ChannelAxis = None,
) -> int | None:
    """The channel axis of an output, non-negative; None for a scalar.

    Args:
        module: Whose output it is.
        layer: What is known of it.
        tensor: The output.
        source: Rank and axis of what it follows, where known.
        before: Rank, axis and number of channels of the last output before it, where there is one.
        override: The user's ``channel_axis``; where it does not fit the tensor's rank the rule decides.
    """
    rank = tensor.dim()
    if rank == 0:
        return None
    if override is not None:
        axis = override if isinstance(override, int) else override(module, tensor)
        if axis is not None and -rank <= axis < rank:
            return axis % rank
    if layer.channel_layout == "last":
        return rank - 1
    if layer.channel_layout == "first":
        if rank == _unbatched_rank(module, layer):
            return 0
        return 1 if rank >= 3 else rank - 1
    if rank <= 2:
        return rank - 1
    if source is not None and source[0] == rank:
        dims = getattr(module, "dims", None) if type(module).__name__ == "Permute" else None
        if dims is None or source[1] is None:
            return source[1]
        return [d % rank for d in dims].index(source[1])
    if before is not None:
        first, last = tensor.shape[1] == before[2], tensor.shape[-1] == before[2]
        if first != last:
            return 1 if first else rank - 1
        if before[0] == rank:
            return before[1]
    return 1 if rank >= 4 else rank - 1


def weight_axis(layer: Layer, parameter: str, rank: int) -> int | None:
    """The axis of a parameter along which the output units lie; None for a scalar."""
    if rank == 0:
        return None
    return layer.unit_axis if rank > 1 and parameter.startswith("weight") else 0


def _unbatched_rank(module: nn.Module, layer: Layer) -> int | None:
    """Rank of an output without a batch axis, where the module takes such inputs."""
    if layer.kind is LayerKind.CONVOLUTION:
        kernel = own(module, "kernel_size")
        return len(kernel) + 1 if isinstance(kernel, tuple) else None
    if layer.kind is LayerKind.POOLING:
        digits = [c for c in type(module).__name__ if c.isdigit()]
        return int(digits[0]) + 1 if digits else None
    return None


_PLAIN_DISPATCH = Tensor.__torch_dispatch__
_ORDINARY = frozenset({Tensor, nn.Parameter})
_is_transformed = _torch.is_transformed


def is_reducible(tensor: Tensor) -> str:
    """Why a tensor cannot be reduced, or "" when it can."""
    if type(tensor) in _ORDINARY and tensor.is_cpu and tensor.is_floating_point() and tensor.layout is torch.strided:
        return "" if not (_is_transformed(tensor) or tensor.is_nested) else _irreducible(tensor)
    return _irreducible(tensor)


def _irreducible(tensor: Tensor) -> str:
    if _is_transformed(tensor):
        return "inside a functorch transform (vmap, grad, jvp) a tensor stands for a batch of tensors"
    if tensor.device.type == "meta":
        return "tensors on the meta device have no values"
    if type(tensor).__torch_dispatch__ is not _PLAIN_DISPATCH and _is_wrapper(tensor):
        return f"a {type(tensor).__name__} wraps other tensors and has no values of its own"
    if tensor.is_nested:
        return "nested tensors have no common shape"
    if tensor.dtype is torch.bool or not (tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized):
        return f"{'boolean' if tensor.dtype is torch.bool else 'integer'} output"
    return ""


def _is_wrapper(tensor: Tensor) -> bool:
    """Whether a tensor is but a handle on others, as distributed, fake and many user-made ones are."""
    if hasattr(tensor, "fake_mode"):
        return True
    try:
        return tensor.numel() > 0 and tensor.untyped_storage().data_ptr() == 0
    except RuntimeError:
        return True
