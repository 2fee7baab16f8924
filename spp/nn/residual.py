"""Residual branches: blocks that weigh branch and skip by a rule before they add them.

``spp.nn.residual_rules`` has the rules. A block derives from ``ResidualBlock``, asks for a rule once, and ends with::

    out = self.weigh_branch(out) + self.weigh_skip(shortcut)

so that the merge stays an addition of two tensors in the block's own ``forward``, and the branch ends, for whoever watches,
before it is dropped, gained or scaled: that is where Brock et al. (2021) take its variance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spp.errors import InputError
from spp.nn import functional
from spp.nn.residual_rules import NF_ALPHA as NF_ALPHA
from spp.nn.residual_rules import RESIDUALS as RESIDUALS
from spp.nn.residual_rules import ExpectedVariance as ExpectedVariance
from spp.nn.residual_rules import Residual as Residual
from spp.nn.residual_rules import check_residual_options as check_residual_options
from spp.nn.residual_rules import find_residual as find_residual


class StochasticDepth(nn.Module):
    """Drop the branch of whole samples while training, and scale the kept ones by ``1 / (1 - rate)``.

    The identity in evaluation mode and for ``rate=0``. Source: Huang et al. 2016, arXiv 1603.09382; EfficientNet calls
    it drop connect.

    Args:
        rate: Probability that a sample's branch is dropped, in ``[0, 1)``.
        rescale: Whether kept samples are scaled.

    Raises:
        InputError: The rate is outside ``[0, 1)``.
    """

    def __init__(self, rate: float, *, rescale: bool = True) -> None:
        super().__init__()
        self.rate, self.rescale = checked_rate(rate), rescale

    def forward(self, x: Tensor) -> Tensor:
        """Drop samples of ``x``, of shape ``(N, ...)``."""
        return functional.stochastic_depth(x, self.rate, training=self.training, rescale=self.rescale)

    def extra_repr(self) -> str:
        """Show the rate, and whether kept samples stay as they are."""
        return f"rate={self.rate:g}" + ("" if self.rescale else ", rescale=False")


def checked_rate(rate: float) -> float:
    """``rate``, if it is a drop rate.

    Raises:
        InputError: It is outside ``[0, 1)``.
    """
    if not 0 <= rate < 1:
        raise InputError("a drop rate is at least 0 and below 1", received=repr(rate))
    return rate


class ResidualBlock(nn.Module):
    """Base of blocks with a residual branch; ``set_residual`` once in the constructor, the two ``weigh`` at the merge.

    Attributes:
        branch: Names of the convolutions or Linear layers of the branch, in order.
        branch_norm: Name of the norm that ends the branch; empty for blocks whose branch ends with a convolution.
        rule: Name of the rule; empty for a block of this kind without a skip.
        drop_rate: Rate of stochastic depth.
        beta: Expected spread of the input, which ``nf`` divides the branch's input by.
        residual_options: The rule's options, defaults included.

    The parameters ``skip_gain``, ``layer_scale``, ``share``, ``bias_in``, ``bias_out`` and ``biases`` are there where the rule
    has them.
    """

    branch: tuple[str, ...] = ()
    branch_norm: ClassVar[str] = ""
    rule: str = ""
    drop_rate: float
    beta: float = 1.0
    residual_options: Mapping[str, float]
    skip_gain: nn.Parameter
    layer_scale: nn.Parameter
    share: nn.Parameter
    bias_in: nn.Parameter
    bias_out: nn.Parameter
    biases: nn.Parameter

    def set_residual(
        self, rule: str, channels: int, *, options: Mapping[str, Any] | None = None, drop_rate: float = 0.0
    ) -> None:
        """Take a rule, with its parameters as the block's own.

        Args:
            rule: A name of ``RESIDUALS``.
            channels: Of the block's output.
            options: Of the rule.
            drop_rate: Rate of stochastic depth.

        Raises:
            UnknownNameError: The rule, or one of its options, does not exist.
            InputError: A value is not possible.
        """
        row = find_residual(rule)
        self.rule, self.drop_rate = rule, checked_rate(drop_rate)
        self.residual_options = check_residual_options(rule, options or {})
        for name, value in row.parameters(channels, self.residual_options).items():
            self.register_parameter(name, nn.Parameter(value))
        if row.biased:
            self.biases = nn.Parameter(torch.zeros(2 * len(self.branch) - 2))

    def enter(self, x: Tensor) -> Tensor:
        """The block's input as it goes to branch and skip; Fixup adds a scalar."""
        return x + self.bias_in if RESIDUALS[self.rule].biased else x

    def between(self, index: int, x: Tensor) -> Tensor:
        """A tensor on its way through the branch; Fixup adds a scalar.

        Args:
            index: Counts from 0 at the first layer's output, then the second's input and so on.
            x: The tensor.
        """
        return x + self.biases[index] if RESIDUALS[self.rule].biased else x

    def weigh_branch(self, x: Tensor) -> Tensor:
        """The branch as it is added: dropped, then weighted."""
        row = RESIDUALS[self.rule]
        x = functional.stochastic_depth(x, self.drop_rate, training=self.training, rescale=row.rescales)
        weight = row.weights(self, self.residual_options)[0]
        x = x if weight is None else x * weight
        return x + self.bias_out if row.biased else x

    def weigh_skip(self, x: Tensor) -> Tensor:
        """The skip as it is added."""
        weight = RESIDUALS[self.rule].weights(self, self.residual_options)[1]
        return x if weight is None else x * weight

    def extra_repr(self) -> str:
        """Show the rule where it is not the plain sum, its options and the drop rate."""
        if not self.rule:
            return ""
        options = [f"{key}={value:g}" for key, value in self.residual_options.items()]
        parts = [] if self.rule == "plain" else [f"residual={self.rule!r}", *options]
        return ", ".join(parts + ([f"drop_rate={self.drop_rate:g}"] if self.drop_rate else []))


def residual_blocks(model: nn.Module) -> dict[str, ResidualBlock]:
    """The blocks of ``model`` that have a skip, by name, in order."""
    return {name: m for name, m in model.named_modules() if isinstance(m, ResidualBlock) and m.rule}
