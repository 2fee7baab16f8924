"""Inits that look at the residual branches of a network: Fixup and zero-gamma."""

from typing import TypeVar

import torch
from torch import nn

from spp.errors import InputError
from spp.nn.residual import residual_blocks

M = TypeVar("M", bound=nn.Module)


def fixup_scale(branches: int, layers: int) -> float:
    """What Fixup multiplies the weights inside a branch with: ``L^(-1 / (2 m - 2))`` (Zhang et al. 2019).

    Args:
        branches: Residual branches of the network, ``L``.
        layers: Layers of a branch, ``m``, at least 2.
    """
    return float(branches ** (-1 / (2 * layers - 2)))


@torch.no_grad()
def finish_fixup(model: nn.Module) -> None:
    """Turn He's init (fan_out) into Fixup's, in place: branches scaled, their last layers and the classifier zero.

    Raises:
        InputError: The model has no residual blocks of spp's.
    """
    blocks = residual_blocks(model).values()
    if not blocks:
        raise InputError(
            "init 'fixup' scales residual branches, so the network has residual blocks of spp's",
            received=type(model).__name__,
            remedy="Take a bundled residual network, as resnet50.",
        )
    for block in blocks:
        *inner, last = (block.get_submodule(name) for name in block.branch)
        for layer in inner:
            layer.get_parameter("weight").mul_(fixup_scale(len(blocks), len(block.branch)))
        last.get_parameter("weight").zero_()
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if linears:
        linears[-1].weight.zero_()  # the classifier


@torch.no_grad()
def zero_gamma_(model: M) -> M:
    """Set the scale of the norm that ends each residual branch to zero, in place (Goyal et al. 2017, arXiv 1706.02677).

    Each block then starts as its shortcut. Where the weights are standardized, the gain of the last convolution is the
    scale.

    Args:
        model: A network of ``spp.models``.

    Returns:
        The model.

    Raises:
        InputError: It has no such block, or the branch ends without a scale.
    """
    blocks = residual_blocks(model)
    if not blocks:
        raise InputError(
            "zero-gamma needs a network with residual blocks of spp's",
            received=type(model).__name__,
            remedy="Take a bundled residual network, as resnet50.",
        )
    for name, block in blocks.items():
        norm = block.get_submodule(block.branch_norm) if block.branch_norm else None
        scale = getattr(norm, "weight", None)
        if scale is None:
            scale = getattr(block.get_submodule(block.branch[-1]), "gain", None)
        if scale is None:
            raise InputError(
                "zero-gamma needs a scale at the end of each residual branch",
                received=f"{type(norm).__name__} and a plain convolution",
                where=name,
                remedy="Take a norm with a scale behind the branch, as norm='batch' in resnet50, or norm='scaled_ws'.",
            )
        scale.zero_()
    return model
