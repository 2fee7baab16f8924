"""Adaptive gradient clipping (Brock, De, Smith & Simonyan 2021, arXiv 2102.06171), which lets NFNets train on big batches."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from spp.errors import InputError
from spp.nn.functional import wide

AGC_CLIP, AGC_EPS, AGC_FLOOR = 0.01, 1e-3, 1e-6
"""The paper's threshold, the least norm of a unit's weights, and the least norm of a gradient that is divided by."""


@torch.no_grad()
def clip_grad_agc_(
    parameters: nn.Module | Tensor | Iterable[Tensor],
    clip: float = AGC_CLIP,
    *,
    eps: float = AGC_EPS,
    exclude: Iterable[str] = (),
) -> int:
    """Shrink, in place, the gradient of each unit to at most ``clip`` times the norm of its weights.

    ``G_i <- clip * max(||W_i||, eps) / ||G_i|| * G_i`` where ``||G_i||`` is larger than that. A unit is a row: all that
    feeds one output of a Linear layer or convolution (axis 0 of its weight). Vectors and scalars, as biases and gains, are
    one unit each. Call it after ``backward`` and before the optimizer's step (hence before momentum and weight decay).

    Args:
        parameters: A model, or some of its parameters; those without a gradient are passed over.
        clip: Largest ratio of the norms, above 0.
        eps: Norm that the weights are taken to have at least, so that units which start at zero can move.
        exclude: Glob patterns over parameters' names, with a model; the paper leaves out the classifier, ``head.fc.*``
            in bundled networks.

    Returns:
        The number of units whose gradient was shrunk.

    Raises:
        InputError: ``clip`` or ``eps`` is not positive, names came without a model, or a pattern fits none.
    """
    if not (clip > 0 and eps > 0):
        raise InputError("clip and eps are positive", received=f"clip={clip!r}, eps={eps!r}")
    clipped = 0
    for parameter in _chosen(parameters, tuple(exclude)):
        if parameter.grad is None:
            continue
        limit = _unit_norm(parameter).clamp_(min=eps) * clip
        norm = _unit_norm(parameter.grad)
        over = norm > limit
        scale = torch.where(over, limit / norm.clamp(min=AGC_FLOOR), torch.ones_like(norm))
        parameter.grad.mul_(scale.to(parameter.grad.dtype))
        clipped += int(over.sum())
    return clipped


def _unit_norm(x: Tensor) -> Tensor:
    axes = tuple(range(1, x.ndim)) if x.ndim > 1 else None
    norm: Tensor = torch.linalg.vector_norm(wide(x), dim=axes, keepdim=True)
    return norm


def _chosen(parameters: nn.Module | Tensor | Iterable[Tensor], exclude: tuple[str, ...]) -> list[Tensor]:
    if isinstance(parameters, nn.Module):
        named = dict(parameters.named_parameters())
        for pattern in exclude:
            if not any(fnmatchcase(name, pattern) for name in named):
                raise InputError("a pattern to exclude needs to fit a parameter's name", received=repr(pattern))
        return [p for name, p in named.items() if not any(fnmatchcase(name, pattern) for pattern in exclude)]
    if exclude:
        raise InputError("names to exclude need a model", received="bare parameters", remedy="Give the model itself.")
    return [parameters] if isinstance(parameters, Tensor) else list(parameters)
