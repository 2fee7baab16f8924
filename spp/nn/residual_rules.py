"""The rules by which a branch and its skip are weighted before they are added, and what an NF-ResNet expects of it.

``RESIDUALS`` has the rules by name; ``spp.nn.residual`` has the blocks that follow them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import sqrt
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spp.errors import InputError, UnknownNameError
from spp.nn import functional
from spp.nn.rows import row_of

if TYPE_CHECKING:
    from spp.nn.residual import ResidualBlock

NF_ALPHA = 0.2
"""Scale of the branches of an NF-ResNet (Brock et al. 2021)."""
LAYER_SCALE = 1e-5
"""Where LayerScale starts (Touvron et al. 2021; deeper networks start lower)."""


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
    parameters: Callable[[int, Mapping[str, Any]], Mapping[str, Tensor]] = lambda channels, options: {}
    weights: Callable[[ResidualBlock, Mapping[str, Any]], tuple[Any, Any]] = lambda block, options: (None, None)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    biased: bool = False
    rescales: bool = True
    implies: Mapping[str, str] = field(default_factory=dict)


def _scalar(value: float) -> Tensor:
    return torch.full((), float(value))


def _skipinit(channels: int, options: Mapping[str, Any]) -> Mapping[str, Tensor]:
    return {"skip_gain": _scalar(options["gain"])}


def _layer_scale(channels: int, options: Mapping[str, Any]) -> Mapping[str, Tensor]:
    return {"layer_scale": torch.full((channels, 1, 1), float(options["gain"]))}


def _fixup(channels: int, options: Mapping[str, Any]) -> Mapping[str, Tensor]:
    return {"bias_in": _scalar(0), "skip_gain": _scalar(1), "bias_out": _scalar(0)}


def _learned(channels: int, options: Mapping[str, Any]) -> Mapping[str, Tensor]:
    return {"share": _scalar(options["weight"])}


def _gain(block: ResidualBlock, options: Mapping[str, Any]) -> tuple[Any, Any]:
    return block.skip_gain, None


def _nf(block: ResidualBlock, options: Mapping[str, Any]) -> tuple[Any, Any]:
    return block.skip_gain * options["alpha"], None


def _mp(block: ResidualBlock, options: Mapping[str, Any]) -> tuple[Any, Any]:
    return functional.mp_weights(options["weight"])[::-1]


def _mp_learned(block: ResidualBlock, options: Mapping[str, Any]) -> tuple[Any, Any]:
    return functional.mp_weights(block.share)[::-1]


RESIDUALS: Mapping[str, Residual] = MappingProxyType(
    {
        "plain": Residual("x + f(x) (He et al. 2015)"),
        "skipinit": Residual(
            "SkipInit: x + a f(x), a learned from 0 (De & Smith 2020)", _skipinit, _gain, defaults={"gain": 0.0}
        ),
        "rezero": Residual(
            "ReZero: x + a f(x), a learned from 0 (Bachlechner et al. 2020)", _skipinit, _gain, defaults={"gain": 0.0}
        ),
        "layerscale": Residual(
            "LayerScale: x + diag(l) f(x), l learned from 1e-5 (Touvron et al. 2021)",
            _layer_scale,
            lambda block, options: (block.layer_scale, None),
            defaults={"gain": LAYER_SCALE},
        ),
        "fixup": Residual(
            "Fixup: scalar biases and one scale instead of norms (Zhang, Dauphin & Ma 2019)",
            _fixup,
            _gain,
            biased=True,
            implies={"norm": "none", "init": "fixup"},
        ),
        "nf": Residual(
            "NF-ResNet: x + alpha a f(x / beta), beta the expected spread, a learned from 0 (Brock et al. 2021)",
            _skipinit,
            _nf,
            defaults={"alpha": NF_ALPHA, "gain": 0.0},
            rescales=False,
            implies={"norm": "scaled_ws"},
        ),
        "sqrt2": Residual("(x + f(x)) / sqrt(2)", weights=lambda block, options: (1 / sqrt(2), 1 / sqrt(2))),
        "mp": Residual(
            "magnitude-preserving sum: ((1-w) x + w f(x)) / sqrt((1-w)^2 + w^2), w = 0.5 (Karras et al. 2023; Dewyse 2025)",
            weights=_mp,
            defaults={"weight": 0.5},
        ),
        "mp_learned": Residual(
            "magnitude-preserving sum with a learned w for each block (Dewyse 2025)",
            _learned,
            _mp_learned,
            defaults={"weight": 0.5},
        ),
    }
)
"""Every rule by name."""


def find_residual(name: str) -> Residual:
    """The row of ``RESIDUALS`` called ``name``.

    Raises:
        UnknownNameError: There is none; the message lists them.
    """
    return row_of(RESIDUALS, name, "residual rule")


def check_residual_options(name: str, options: Mapping[str, Any]) -> dict[str, float]:
    """The options of a rule, defaults included.

    Raises:
        UnknownNameError: The rule or an option does not exist.
        InputError: A value is no finite number.
    """
    defaults = find_residual(name).defaults
    where = f"residual {name!r}"
    for key, value in options.items():
        if key not in defaults:
            raise UnknownNameError("option", key, defaults, where=where)
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
