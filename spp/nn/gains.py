"""Gains: what an activation is multiplied with so that it keeps the scale of a standard normal signal.

Two conventions are in use, and both are here under their own names:

* ``gamma`` keeps the *variance*: ``Var(g(z))^(-1/2)`` (Brock et al. 2021, arXiv 2101.08692). It fits weights whose rows sum
  to zero, which do not pass a mean on.
* ``rms`` keeps the *second moment*: ``E[g(z)^2]^(-1/2)`` (He et al. 2015; Karras et al. 2023; Dewyse 2025). It fits weights
  of zero mean on average only, as He's and LeCun's inits draw them.

They are computed by Gauss-Legendre quadrature between the activation's kinks, to twelve digits. The constants in released
code (``PUBLISHED_GAMMAS``) were sampled and differ from these in the fourth digit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import pi, sqrt

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spp.errors import InputError
from spp.registry import Registry

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Gain:
    """A row of ``GAINS``.

    Attributes:
        kept: From mean and second moment of the activation to what becomes 1; None for no gain.
        description: One line.
    """

    kept: Callable[[float, float], float] | None
    description: str


GAINS = Registry[Gain](
    "gain",
    {
        "none": Gain(None, "no gain: the activation as it is"),
        "gamma": Gain(
            lambda mean, second: second - mean**2,
            "Var(g(z))^(-1/2): unit variance in, unit variance out (Brock et al. 2021)",
        ),
        "rms": Gain(
            lambda mean, second: second,
            "E[g(z)^2]^(-1/2): unit second moment in, unit second moment out (Karras et al. 2023; Dewyse 2025)",
        ),
    },
    of=Gain,
)
"""Every kind of gain by name."""

PUBLISHED_GAMMAS: Mapping[str, float] = {
    "identity": 1.0,
    "celu": 1.270926833152771,
    "elu": 1.2716004848480225,
    "gelu": 1.7015043497085571,
    "leaky_relu": 1.70590341091156,
    "log_sigmoid": 1.9193484783172607,
    "relu": 1.7139588594436646,
    "relu6": 1.7131484746932983,
    "selu": 1.0008515119552612,
    "sigmoid": 4.803835391998291,
    "silu": 1.7881293296813965,
    "softsign": 2.338853120803833,
    "softplus": 1.9203323125839233,
    "tanh": 1.5939117670059204,
}
"""The sampled constants of Brock et al.'s released code, within 1.5e-3 of the exact ones; for comparison with networks that
were built with them. (It also has log_softmax 1.0002083778381348 and glu 1.8484294414520264, which are not element-wise.)"""

REACH, NODES, WIDEST = 12.0, 40, 1.0
"""Integration ends where the normal density is below 1e-31; nodes of each panel; widest panel."""


def moments(
    function: Callable[[Tensor], Tensor], *, kinks: Iterable[float] = (), scale: float = 1.0
) -> tuple[float, float]:
    """Mean and second moment of ``function(scale * z)`` for ``z`` standard normal.

    Args:
        function: Element-wise, from a float64 tensor to one of the same shape.
        kinks: Where it, or its derivative, jumps.
        scale: Standard deviation of the input.
    """
    z, density = normal_nodes([kink / scale for kink in kinks])
    # a network may be built under another default device, meta included
    with torch.no_grad(), torch.device("cpu"):
        values = function(torch.from_numpy(z * scale)).numpy()
    return float(values @ density), float(values**2 @ density)


def normal_nodes(kinks: Iterable[float] = (), *, widest: float = WIDEST) -> tuple[Array, Array]:
    """Nodes ``z`` and weights of Gauss-Legendre quadrature against the standard normal density, panel by panel.

    Args:
        kinks: Points of ``z`` that no panel has inside it.
        widest: Width of the widest panel.
    """
    ends = sorted({-REACH, REACH, *(kink for kink in kinks if abs(kink) < REACH)})
    # A panel ends at each kink: Gauss-Legendre converges fast on smooth pieces only.
    edges = np.concatenate([np.linspace(a, b, max(2, int(np.ceil((b - a) / widest)) + 1)) for a, b in pairwise(ends)])
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    half, middle = np.diff(edges) / 2, (edges[1:] + edges[:-1]) / 2
    z = (middle[:, None] + half[:, None] * nodes).ravel()
    return z, (half[:, None] * weights).ravel() * np.exp(-(z**2) / 2) / sqrt(2 * pi)


def gain_of(function: Callable[[Tensor], Tensor], kind: str, *, kinks: Iterable[float] = ()) -> float:
    """The gain of any element-wise function.

    Args:
        function: From a float64 tensor to one of the same shape.
        kind: A name of ``GAINS``.
        kinks: Where it, or its derivative, jumps; without them a kinked function's gain is right to a few digits only.

    Raises:
        UnknownNameError: No kind of gain has that name.
        InputError: The function is constant (``gamma``) or zero (``rms``).
    """
    row = GAINS.row(kind)
    if row.kept is None:
        return 1.0
    kept = row.kept(*moments(function, kinks=kinks))
    # also where it is NaN
    if not kept > 1e-12:
        raise InputError(f"gain {kind!r} needs an activation that passes a signal on", received=f"{kept:g} of it")
    return float(kept**-0.5)
