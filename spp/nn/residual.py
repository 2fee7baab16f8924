"""Residual branches: the rules by which branch and skip are weighted, and blocks that follow them.

``RESIDUALS`` has the rules by name. A block derives from ``ResidualBlock``, asks for a rule once, and ends with::

    out = self.weigh_branch(out) + self.weigh_skip(shortcut)

so that the merge stays an addition of two tensors in the block's own ``forward``, and the branch ends, for whoever watches,
before it is dropped, gained or scaled: that is where Brock et al. (2021) take its variance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spp.errors import InputError, UnknownNameError
from spp.nn import functional
from spp.registry import Registry

NF_ALPHA = 0.2
"""Scale of the branches of an NF-ResNet (Brock et al. 2021)."""
LAYER_SCALE = 1e-5
"""Where LayerScale starts (Touvron et al. 2021; deeper networks start lower)."""


def no_parameters(channels: int, options: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The parameters of a rule that learns nothing."""
    return {}


def no_weights(block: ResidualBlock, options: Mapping[str, Any]) -> tuple[Any, Any]:
    """The plain sum: neither branch nor skip is multiplied with anything."""
    return None, None


@dataclass(frozen=True, slots=True)
class Residual:
    """A row of ``RESIDUALS``.

    Attributes:
        description: One line.
        parameters: From channels and options to the values that the rule's parameters start with, by name.
        weights: From the block and the options to what branch and skip are multiplied with; None for 1.
        defaults: The options with their defaults.
        biased: Whether the rule has scalar biases before and behind each layer of the branch.
        rescales: Whether stochastic depth scales the kept samples.
        implies: What a network takes along with the rule unless told otherwise: norm, init.
    """

    description: str
    parameters: Callable[[int, Mapping[str, Any]], Mapping[str, Tensor]] = no_parameters
    weights: Callable[[ResidualBlock, Mapping[str, Any]], tuple[Any, Any]] = no_weights
    defaults: Mapping[str, Any] = field(default_factory=dict)
    biased: bool = False
    rescales: bool = True
    implies: Mapping[str, str] = field(default_factory=dict)


def _scalar(value: float) -> Tensor:
    return torch.full((), float(value))


def _start_at_gain(channels: int, options: Mapping[str, Any]) -> Mapping[str, Tensor]:
    return {"skip_gain": _scalar(options["gain"])}


def _gain(block: ResidualBlock, options: Mapping[str, Any]) -> tuple[Any, Any]:
    return block.skip_gain, None


RESIDUALS = Registry[Residual](
    "residual rule",
    {
        "plain": Residual("x + f(x) (He et al. 2015)"),
        "skipinit": Residual(
            "SkipInit: x + a f(x), a learned from 0 (De & Smith 2020)", _start_at_gain, _gain, defaults={"gain": 0.0}
        ),
        "rezero": Residual(
            "ReZero: x + a f(x), a learned from 0 (Bachlechner et al. 2020)",
            _start_at_gain,
            _gain,
            defaults={"gain": 0.0},
        ),
        "layerscale": Residual(
            "LayerScale: x + diag(l) f(x), l learned from 1e-5 (Touvron et al. 2021)",
            lambda channels, options: {"layer_scale": torch.full((channels, 1, 1), float(options["gain"]))},
            lambda block, options: (block.layer_scale, None),
            defaults={"gain": LAYER_SCALE},
        ),
        "fixup": Residual(
            "Fixup: scalar biases and one scale instead of norms (Zhang, Dauphin & Ma 2019)",
            lambda channels, options: {"bias_in": _scalar(0), "skip_gain": _scalar(1), "bias_out": _scalar(0)},
            _gain,
            biased=True,
            implies={"norm": "none", "init": "fixup"},
        ),
        "nf": Residual(
            "NF-ResNet: x + alpha a f(x / beta), beta the expected spread, a learned from 0 (Brock et al. 2021)",
            _start_at_gain,
            lambda block, options: (block.skip_gain * options["alpha"], None),
            defaults={"alpha": NF_ALPHA, "gain": 0.0},
            rescales=False,
            implies={"norm": "scaled_ws"},
        ),
        "sqrt2": Residual("(x + f(x)) / sqrt(2)", weights=lambda block, options: (1 / sqrt(2), 1 / sqrt(2))),
        "mp": Residual(
            "magnitude-preserving sum: ((1-w) x + w f(x)) / sqrt((1-w)^2 + w^2), w = 0.5 (Karras et al. 2023; Dewyse 2025)",
            weights=lambda block, options: functional.mp_weights(options["weight"])[::-1],
            defaults={"weight": 0.5},
        ),
        "mp_learned": Residual(
            "magnitude-preserving sum with a learned w for each block (Dewyse 2025)",
            lambda channels, options: {"share": _scalar(options["weight"])},
            lambda block, options: functional.mp_weights(block.share)[::-1],
            defaults={"weight": 0.5},
        ),
    },
    of=Residual,
)
"""Every rule by name."""


def check_residual_options(name: str, options: Mapping[str, Any]) -> dict[str, float]:
    """The options of a rule, defaults included.

    Raises:
        UnknownNameError: The rule or an option does not exist.
        InputError: A value is no finite number.
    """
    defaults = RESIDUALS.row(name).defaults
    where = f"residual {name!r}"
    for key, value in options.items():
        if key not in defaults:
            raise UnknownNameError("option", key, defaults, where=where)
        # True is an int to Python, and nobody means it as 1
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
            raise InputError(f"option {key!r} is a finite number", received=repr(value), where=where)
    return {**defaults, **options}


class ExpectedVariance:
    """Bookkeeping of an NF-ResNet: the variance that the signal is expected to have (Brock et al. 2021, section 3).

    It starts at 1. A block sees ``beta = sqrt(variance)``; an identity skip adds ``alpha^2``; where the skip is projected
    from the (unit variance) input of the branch, the variance starts anew at ``1 + alpha^2``; where there is no skip the
    branch alone is left, at 1.

    Args:
        alpha: Scale of the branches.
    """

    def __init__(self, alpha: float = NF_ALPHA) -> None:
        self.alpha, self.variance = alpha, 1.0

    def beta(self) -> float:
        """What the next block's input is divided by."""
        return sqrt(self.variance)

    def identity_skip(self) -> None:
        """Note a block with an identity skip."""
        self.variance += self.alpha**2

    def projected_skip(self) -> None:
        """Note a block with a projection on its skip."""
        self.variance = 1 + self.alpha**2

    def no_skip(self) -> None:
        """Note a block without a skip, whose branch is not scaled by alpha either."""
        self.variance = 1.0


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
        row = RESIDUALS.row(rule)
        self.rule, self.drop_rate = rule, checked_rate(drop_rate)
        self.residual_options = check_residual_options(rule, options or {})
        for name, value in row.parameters(channels, self.residual_options).items():
            self.register_parameter(name, nn.Parameter(value))
        # one before and one behind each layer, but for the ends, which bias_in and bias_out are
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
        # Dropped before it is scaled, as in Brock et al.'s code.
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
