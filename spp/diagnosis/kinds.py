"""What a module does to the signal, as far as its row of ``trace.modules`` tells."""

from __future__ import annotations

from enum import StrEnum
from numbers import Integral
from typing import Any

NORM_WORDS = ("norm", "responsenorm", "dyt")
"""What the class name of a norm contains, in small letters."""
GATES = ("sigmoid", "hardsigmoid")
"""Classes of the activations that make a gate, in small letters."""
PLAIN = ("pool", "flatten", "identity", "dropout", "permute", "upsample", "pad", "droppath", "stochasticdepth")
"""Class names of steps whose gain follows from what they do, not from what they are set to."""


class Kind(StrEnum):
    """What a step is."""

    WEIGHTED = "weighted layer"
    """A convolution or Linear layer."""
    DEPTHWISE = "depthwise convolution"
    NORM = "norm"
    ACTIVATION = "activation"
    GATE = "gate"
    """A squeeze-and-excitation block or the like, as a whole."""
    PLAIN = "pooling and the like"
    OTHER = "other"


def kind_of(fact: Any, weight: Any) -> Kind:
    """The kind of a leaf.

    Args:
        fact: Its row of ``modules``, or None.
        weight: The row of its parameter ``weight``, or None.
    """
    if fact is None:
        return Kind.OTHER
    word = str(fact.type).lower()
    if _number(fact.fan_in):
        return Kind.DEPTHWISE if is_depthwise(fact, weight) else Kind.WEIGHTED
    if any(part in word for part in NORM_WORDS):
        return Kind.NORM
    if any(part in word for part in PLAIN):
        return Kind.PLAIN
    if isinstance(fact.activation, str):
        return Kind.ACTIVATION
    return Kind.OTHER


def is_depthwise(fact: Any, weight: Any) -> bool:
    """Whether a convolution has a group for every input channel, and more than one."""
    if not _number(fact.groups) or fact.groups < 2:
        return False
    sides = str(getattr(weight, "shape", "")).split("x")
    return len(sides) > 2 and sides[1] == "1"


def is_batch_norm(fact: Any) -> bool:
    """Whether a norm takes its statistics over the batch."""
    word = str(fact.type).lower()
    return "batch" in word and "norm" in word


def _number(value: Any) -> bool:
    return isinstance(value, Integral)
