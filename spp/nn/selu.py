"""Self-normalizing networks: the constants, the moment map and alpha dropout (Klambauer et al. 2017, arXiv 1706.02515).

SELU has the fixed point (mean 0, variance 1) for weights of sum 0 and sum of squares 1, which LeCun's init draws on average.
The module is ``torch.nn.SELU`` and its dropout ``torch.nn.AlphaDropout``; what torch calls SELU's gain, 3/4, is another
thing.
"""

from math import erf, erfc, exp, pi, sqrt

ALPHA = 1.6732632423543772
LAMBDA = 1.0507009873554805
"""The two constants of SELU, to float64."""


def selu_moments(mean: float, omega: float, variance: float, tau: float) -> tuple[float, float]:
    """Mean and variance of ``selu(w . x)`` for ``w . x`` normal, from those of ``x``.

    Args:
        mean: Of each input.
        omega: Sum of the unit's weights.
        variance: Of each input, above 0.
        tau: Sum of their squares, above 0.

    Returns:
        ``(mean', variance')``, equations 4 and 5 of the paper.
    """
    m, v = mean * omega, variance * tau
    s = sqrt(2 * v)
    pdf = sqrt(2 / pi) * sqrt(v) * exp(-(m**2) / (2 * v))
    first = m * erf(m / s) + ALPHA * exp(m + v / 2) * erfc((m + v) / s) - ALPHA * erfc(m / s) + pdf + m
    negative = -2 * exp(m + v / 2) * erfc((m + v) / s) + exp(2 * (m + v)) * erfc((m + 2 * v) / s) + erfc(m / s)
    second = (m**2 + v) * (2 - erfc(m / s)) + ALPHA**2 * negative + m * pdf
    new_mean = LAMBDA / 2 * first
    return new_mean, LAMBDA**2 / 2 * second - new_mean**2


def selu_gradient_factor() -> float:
    """What a layer at the fixed point multiplies the second moment of the gradient with, going back: 1.0716."""
    return LAMBDA**2 / 2 * (1 + ALPHA**2 * exp(2) * erfc(sqrt(2)))


def alpha_dropout_affine(rate: float) -> tuple[float, float]:
    """``(a, b)`` of alpha dropout, which keeps mean 0 and variance 1: ``y = a (x d + alpha' (1 - d)) + b``.

    ``d`` is 1 with probability ``1 - rate`` and ``alpha' = -LAMBDA * ALPHA`` is SELU's lowest value.

    Args:
        rate: Probability that a value is dropped, in ``[0, 1)``.
    """
    keep, lowest = 1 - rate, -LAMBDA * ALPHA
    a = (keep + lowest**2 * keep * rate) ** -0.5
    return a, -a * rate * lowest
