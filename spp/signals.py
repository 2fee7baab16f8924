"""The vocabulary: which signals are observed, and which part a tensor plays at a residual merge."""

from collections.abc import Iterable
from enum import StrEnum

from spp.errors import InputError, UnknownNameError


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


def chosen(signals: Iterable[Signal | str] | str) -> frozenset[Signal]:
    """The signals that are named, one or several.

    Raises:
        UnknownNameError: There is no such signal.
        InputError: None is named.
    """
    names = [signals] if isinstance(signals, str) else list(signals)
    for name in names:
        if name not in set(ALL):
            raise UnknownNameError("signal", str(name), [str(s) for s in ALL], where="signals")
    if not names:
        raise InputError("at least one signal is measured", received="none", where="signals")
    return frozenset(Signal(name) for name in names)


class Role(StrEnum):
    """Which part a module's output plays at a residual merge."""

    BRANCH = "residual_branch"
    SKIP = "residual_skip"
    SUM = "residual_sum"


LEARNED = "neuronwise."
"""What the output is called, up to here, in rows about what neuron-wise layers learned of their inputs."""
