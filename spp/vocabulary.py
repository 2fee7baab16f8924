"""The words that every room shares: signals, roles at a residual merge, kinds of layers, severities."""

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


class LayerKind(StrEnum):
    """What a layer does to a signal; :mod:`spp.layers` says which layer is of which kind."""

    CONVOLUTION = "convolution"
    LINEAR = "linear"
    EMBEDDING = "embedding"
    NORM = "norm"
    ACTIVATION = "activation"
    ATTENTION = "attention"
    SOFTMAX = "softmax"
    POOLING = "pooling"
    DROPOUT = "dropout"
    GATE = "gate"
    """A product with a bounded function of the signal, such as squeeze-and-excitation."""
    RECURRENT = "recurrent"
    CONTAINER = "container"
    """A module whose children do the work."""
    RESHAPE = "reshape"
    """Flattening, permuting, padding, concatenating: values move, none changes."""
    OTHER = "other"


class Severity(StrEnum):
    """How bad a finding is, the worst first."""

    ERROR = "error"
    """Training will fail or waste most of the network."""
    WARNING = "warning"
    """Likely to slow or break training; look at it."""
    NOTE = "note"
    """Worth knowing, and often on purpose."""


LEARNED = "neuronwise."
"""What the output is called, up to here, in rows about what neuron-wise layers learned of their inputs."""
