"""Convolutions and Linear layers that standardize their weight: ``StandardizedConv2d(64, 128, 3, rule="scaled_ws")``.

``WEIGHT_NORMS`` has the rules. The learned ``weight`` is as in torch's own layers; ``layer.effective_weight()`` is what the
layer computes with. Rules with a gain have one more parameter, ``gain`` of shape ``(C_out,)``, that starts at 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from spp.errors import InputError, UnknownNameError
from spp.nn import functional
from spp.registry import Registry


@dataclass(frozen=True, slots=True)
class WeightNorm:
    """A row of ``WEIGHT_NORMS``.

    Attributes:
        standardize: From a layer's weight, its gain (or None) and the options to the weight it computes with.
        description: One line.
        gain: Whether the rule has a learned gain, and a bias, for each output unit, as BatchNorm has scale and shift.
        centred: Whether rows are made to sum to zero.
        activation_gain: The gain that the activations want under this rule: ``none``, ``gamma`` or ``rms``.
        options: Names of the options that it takes.
    """

    standardize: Callable[..., Tensor]
    description: str
    gain: bool = False
    centred: bool = True
    activation_gain: str = "none"
    options: tuple[str, ...] = ()


WEIGHT_NORMS = Registry[WeightNorm](
    "weight norm",
    {
        "ws": WeightNorm(
            lambda weight, gain, **options: functional.standardized_weight(weight, **options),
            "weight standardization: rows of mean 0 and spread 1 (Qiao et al. 2019)",
            options=("eps",),
        ),
        "scaled_ws": WeightNorm(
            functional.scaled_standardized_weight,
            "scaled weight standardization: rows of mean 0 and norm gain, gamma in the activations (Brock et al. 2021)",
            gain=True,
            activation_gain="gamma",
            options=("gamma", "floor", "eps"),
        ),
        "centred_wn": WeightNorm(
            functional.centred_normalized_weight,
            "centred weight normalization: rows of mean 0 and norm gain (Huang et al. 2017)",
            gain=True,
        ),
        "mp": WeightNorm(
            lambda weight, gain, **options: functional.magnitude_preserving_weight(weight, **options),
            "magnitude-preserving weights: rows of norm 1, rms gain in the activations (Karras et al. 2023)",
            centred=False,
            activation_gain="rms",
            options=("gamma", "eps"),
        ),
    },
    of=WeightNorm,
)
"""Every rule for weights by name."""


def check_options(rule: str, options: Mapping[str, float]) -> None:
    """Raise unless the rule takes these options.

    Raises:
        UnknownNameError: The rule or an option does not exist.
        InputError: A value is no number at or above 0.
    """
    known = WEIGHT_NORMS.row(rule).options
    for key, value in options.items():
        if key not in known:
            raise UnknownNameError("option", key, known, where=f"weight norm {rule!r}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise InputError(
                f"option {key!r} is a number, at least 0", received=repr(value), where=f"weight norm {rule!r}"
            )


class _Standardized(nn.Module):
    """What the four layers share; it stands before torch's layer among their bases.

    Args:
        args: As for torch's layer.
        rule: A name of ``WEIGHT_NORMS``.
        gain: Whether there is a learned gain; None for as the rule has it.
        options: Of the rule, as ``gamma`` for ``scaled_ws``.
        kwargs: As for torch's layer.

    Raises:
        UnknownNameError: No rule, or none of its options, has that name.
        InputError: The rule has no gain, or an output unit has a single input, which centring would make zero.
    """

    weight: Tensor
    gain: nn.Parameter | None

    def __init__(
        self, *args: Any, rule: str, gain: bool | None = None, options: Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        row = WEIGHT_NORMS.row(rule)
        check_options(rule, options or {})
        if functional.fan_in(self.weight) == 1 and row.centred:
            raise InputError(
                f"weight norm {rule!r} centres the inputs of each output unit, so there are at least two",
                received=f"a weight of shape {tuple(self.weight.shape)}",
                remedy="Leave this layer unstandardized, or take a larger kernel.",
            )
        if gain and not row.gain:
            fit = ", ".join(name for name, other in WEIGHT_NORMS.items() if other.gain)
            raise InputError(f"weight norm {rule!r} has no gain", remedy=f"Rules with a gain: {fit}.")
        # by name, so that layers can be pickled although rules are lambdas
        self.rule, self.options = rule, dict(options or {})
        wanted = row.gain if gain is None else gain
        self.gain = nn.Parameter(self.weight.detach().new_ones(len(self.weight))) if wanted else None

    def effective_weight(self) -> Tensor:
        """The weight that the layer computes with, of the same shape as ``weight``."""
        return WEIGHT_NORMS[self.rule].standardize(self.weight, self.gain, **self.options)

    def reset_parameters(self) -> None:
        """Draw the weight (and bias) as torch does, and set the gain to 1."""
        super().reset_parameters()  # type: ignore[misc]
        # torch's constructors call this before there is a gain
        gain = getattr(self, "gain", None)
        if gain is not None:
            nn.init.ones_(gain)

    def extra_repr(self) -> str:
        """Show the arguments of torch's layer, the rule and its options."""
        options = "".join(f", {key}={value:g}" for key, value in self.options.items())
        gain = "" if self.gain is not None or not WEIGHT_NORMS[self.rule].gain else ", gain=False"
        return f"{super().extra_repr()}, rule={self.rule!r}{gain}{options}"


class _StandardizedConv(_Standardized):
    bias: Tensor | None
    _conv_forward: Callable[[Tensor, Tensor, Tensor | None], Tensor]

    def forward(self, input: Tensor) -> Tensor:
        """Convolve with the effective weight."""
        return self._conv_forward(input, self.effective_weight(), self.bias)


class StandardizedConv1d(_StandardizedConv, nn.Conv1d):
    """``torch.nn.Conv1d`` with a standardized weight: its arguments, and ``rule``, ``gain``, ``options`` by keyword."""


class StandardizedConv2d(_StandardizedConv, nn.Conv2d):
    """``torch.nn.Conv2d`` with a standardized weight: its arguments, and ``rule``, ``gain``, ``options`` by keyword."""


class StandardizedConv3d(_StandardizedConv, nn.Conv3d):
    """``torch.nn.Conv3d`` with a standardized weight: its arguments, and ``rule``, ``gain``, ``options`` by keyword."""


class StandardizedLinear(_Standardized, nn.Linear):
    """``torch.nn.Linear`` with a standardized weight: its arguments, and ``rule``, ``gain``, ``options`` by keyword."""

    def forward(self, input: Tensor) -> Tensor:
        """Multiply with the effective weight."""
        return F.linear(input, self.effective_weight(), self.bias)


STANDARDIZED: Mapping[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: StandardizedConv1d,
    nn.Conv2d: StandardizedConv2d,
    nn.Conv3d: StandardizedConv3d,
    nn.Linear: StandardizedLinear,
}
"""Standardized layers by the torch layer they stand for."""
