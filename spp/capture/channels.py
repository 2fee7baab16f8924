"""Where a tensor has its channels, and which activations are bounded.

Axis 1 for channels-first modules of rank >= 3 (axis 0 for an unbatched input), the last axis for linear layers, layer norms,
embeddings, attention and anything of rank 2. Every other module follows: its input where that is known and of the same rank,
else what the call before it gave out, else what its rank suggests.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import lru_cache

import torch
from torch import Tensor, nn

ChannelAxis = int | Callable[[nn.Module, Tensor], int | None] | None


class Layout(Enum):
    """How a module's outputs lay out their channels."""

    FIRST = "channels first"
    LAST = "channels last"
    FOLLOW = "as its input"


_NORMS_FIRST = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LocalResponseNorm, nn.CrossMapLRN2d)
_CONVOLUTIONS = (nn.modules.conv._ConvNd,)
_LAST = (
    nn.Linear,
    nn.Bilinear,
    nn.RMSNorm,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.Transformer,
    nn.TransformerEncoder,
    nn.TransformerDecoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
    nn.Flatten,
)
_SHUFFLES = (nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.Upsample)

_BOUNDED: dict[type[nn.Module], tuple[float, float]] = {
    nn.Sigmoid: (0.0, 1.0),
    nn.Tanh: (-1.0, 1.0),
    nn.ReLU6: (0.0, 6.0),
    nn.Hardsigmoid: (0.0, 1.0),
    nn.Softsign: (-1.0, 1.0),
}
NEAR = 0.01
"""A value is saturated within this share of the larger end's magnitude of either end."""


@lru_cache(maxsize=1024)
def layout_of(kind: type[nn.Module]) -> Layout:
    """The layout a class of modules stands for; subclasses named ``...2d`` of a layer norm are channels-first."""
    if issubclass(kind, nn.LayerNorm | nn.RMSNorm):
        return Layout.FIRST if kind.__name__.lower().endswith("2d") else Layout.LAST
    if issubclass(kind, (*_CONVOLUTIONS, *_NORMS_FIRST, *_SHUFFLES)) or _pools(kind):
        return Layout.FIRST
    return Layout.LAST if issubclass(kind, _LAST) else Layout.FOLLOW


def range_of(module: nn.Module) -> tuple[float, float] | None:
    """The values at or beyond which a bounded activation counts as saturated; None for unbounded ones."""
    if type(module) is nn.Hardtanh:
        low, high = float(module.min_val), float(module.max_val)
    elif type(module) in _BOUNDED:
        low, high = _BOUNDED[type(module)]
    else:
        return None
    margin = NEAR * max(abs(low), abs(high))
    return low + margin, high - margin


def channel_axis(
    module: nn.Module,
    layout: Layout,
    tensor: Tensor,
    source: tuple[int, int | None] | None,
    before: tuple[int, int | None, int] | None,
    override: ChannelAxis = None,
) -> int | None:
    """The channel axis of an output, non-negative; None for a scalar.

    Args:
        module: Whose output it is.
        layout: Its layout.
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
    if layout is Layout.LAST:
        return rank - 1
    if layout is Layout.FIRST:
        if rank == _unbatched_rank(module):
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


def weight_axis(module: nn.Module, parameter: str, rank: int) -> int | None:
    """Axis 0, the output units; axis 1 for the kernel of a transposed convolution; None for a scalar."""
    if rank == 0:
        return None
    transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
    return 1 if transposed and rank > 2 and parameter.startswith("weight") else 0


def _pools(kind: type[nn.Module]) -> bool:
    return kind.__module__ == nn.modules.pooling.__name__ or issubclass(
        kind, nn.modules.pooling._MaxPoolNd | nn.modules.pooling._AvgPoolNd | nn.modules.pooling._AdaptiveAvgPoolNd
    )


def _unbatched_rank(module: nn.Module) -> int | None:
    """Rank of an output without a batch axis, where the module takes such inputs."""
    if isinstance(module, _CONVOLUTIONS):
        return len(module.kernel_size) + 1
    if _pools(type(module)):
        digits = [c for c in type(module).__name__ if c.isdigit()]
        return int(digits[0]) + 1 if digits else None
    return None


_PLAIN_DISPATCH = Tensor.__torch_dispatch__
_ORDINARY = frozenset({Tensor, nn.Parameter})
_is_transformed = torch._C._functorch.is_functorch_wrapped_tensor


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
