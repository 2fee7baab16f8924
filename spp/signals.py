"""The vocabulary: which signals are observed, and which part a tensor plays at a residual merge."""

from enum import StrEnum


class Signal(StrEnum):
    """What a row of the frame is about."""

    ACTIVATION = "activation"
    """An output of a module call."""
    GRADIENT = "gradient"
    """The gradient of the loss with respect to that output."""
    WEIGHT = "weight"
    """A parameter (or the effective weight that a parametrization makes of it)."""
    WEIGHT_GRADIENT = "weight_gradient"
    """The gradient of the loss with respect to that parameter, summed over all its uses."""


ALL: tuple[Signal, ...] = tuple(Signal)
"""Every signal, in the order of the frame."""


class Role(StrEnum):
    """Which part a module's output plays at a residual merge."""

    BRANCH = "residual_branch"
    SKIP = "residual_skip"
    SUM = "residual_sum"
