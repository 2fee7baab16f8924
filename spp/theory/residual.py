"""How the signal grows along residual blocks, and what zero padding takes from it.

All curves are of average channel variance (ACV) and average channel squared mean (ACSM) for unit normal inputs and weights of
mean zero, in the limit of many channels. ``gain`` is the variance of the weights times their fan-in: 2 for He's init, 1 for
LeCun's.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from spp.errors import InputError, UnknownNameError
from spp.nn.residual import NF_ALPHA, ExpectedVariance
from spp.theory.gaussian import Activation, moments

GROWTH = ("plain", "sqrt2", "normalized", "skipinit")


class ChannelMoments(NamedTuple):
    """Average channel squared mean and average channel variance."""

    acsm: float
    acv: float


def normalized_branch(activation: Activation = "relu", gain: float = 1.0, *, norm_last: bool = False) -> ChannelMoments:
    """The end of a branch whose last layers are norm, activation, convolution (Brock et al. 2021, section 2).

    A channel of the normalized, activated signal has mean ``E[phi]`` and variance ``Var[phi]``; the convolution sums over
    channels with random signs, which turns the common mean into one that differs from channel to channel, the mean shift:
    ``ACSM = gain E[phi]^2``, ``ACV = gain Var[phi]``. For ReLU and ``gain=2`` these are ``1 / pi`` and ``1 - 1 / pi``. With
    activation, norm, convolution (``norm_last``) there is no mean to turn: 0 and ``gain``.

    Args:
        activation: Before the convolution.
        gain: Variance of the convolution's weights times their fan-in.
        norm_last: Whether the norm stands behind the activation.
    """
    if norm_last:
        return ChannelMoments(0.0, gain)
    mean, second = moments(activation)
    return ChannelMoments(gain * mean**2, gain * (second - mean**2))


def stage_curve(branch: ChannelMoments, blocks: int, *, start: ChannelMoments | None = None) -> list[ChannelMoments]:
    """The stream after each block of a stage: what a norm's scale does not touch adds up, ``x + f(x)``.

    Args:
        branch: The end of every branch, as :func:`normalized_branch` gives it.
        blocks: Of the stage.
        start: The stream before the first block, for identity skips throughout; left out, the first block's shortcut is a
            projection of the same normalized activation (ResNet-V2), so that block ``k`` has ``k + 1`` times the branch.
    """
    first = branch if start is None else start
    return [ChannelMoments(first.acsm + k * branch.acsm, first.acv + k * branch.acv) for k in range(1, blocks + 1)]


def growth(rule: str, blocks: int) -> list[float]:
    """Second moment after each block, in units of the input's, for branches that keep the second moment of what they get.

    Args:
        rule: ``plain`` is ``x + f(x)`` without norm, which doubles: ``2^l``. ``sqrt2`` is ``(x + f(x)) / sqrt(2)``: 1.
            ``normalized`` has a norm in the branch: ``1 + l``, of which the newest branch is ``1 / (l + 1)`` (Balduzzi et al.
            2017; De & Smith 2020, arXiv 2002.10444). ``skipinit`` is ``x + a f(x)`` with ``a = 0``, and Fixup at init: 1.
        blocks: How many.

    Raises:
        UnknownNameError: No rule has that name.
    """
    if rule not in GROWTH:
        raise UnknownNameError("growth rule", str(rule), GROWTH)
    number = range(1, blocks + 1)
    if rule == "plain":
        return [2.0**block for block in number]
    return [1.0 + block if rule == "normalized" else 1.0 for block in number]


def branch_share(block: int) -> float:
    """Share of block ``l = 1, 2, ...`` in the second moment behind it, in a normalized network: ``1 / (l + 1)``."""
    if block < 1:
        raise InputError("blocks count from 1", received=repr(block))
    return 1 / (block + 1)


def nf_resnet_variances(depths: Sequence[int], alpha: float = NF_ALPHA) -> list[list[tuple[float, float]]]:
    """``(beta, variance behind the block)`` of every block of an NF-ResNet, by stage (Brock et al. 2021, section 3).

    ``x_{l+1} = x_l + alpha f(x_l / beta_l)`` with ``beta_l = sqrt(Var(x_l))``; the first block of a stage projects its shortcut
    from the branch's unit-variance input, so that the variance starts anew at ``1 + alpha^2``.

    Args:
        depths: Blocks of each stage.
        alpha: Scale of the branches.
    """
    expected = ExpectedVariance(alpha)
    stages = []
    for depth in depths:
        stage = []
        for block in range(depth):
            beta = expected.beta()
            expected.identity_skip() if block else expected.projected_skip()
            stage.append((beta, expected.variance))
        stages.append(stage)
    return stages


def padding_loss(
    size: int | Sequence[int],
    kernel: int | Sequence[int],
    *,
    stride: int = 1,
    padding: int | None = None,
    dilation: int = 1,
    axes: int = 2,
) -> float:
    """Share of a convolution's taps that lie on the map, not on its zero padding: the factor of the mean square behind it.

    Over each axis it is the mean over outputs of the taps in bounds; ``((3 H - 2) / (3 H))^2`` for a 3x3 kernel on an H x H
    map. It holds for weights of mean zero and equal variance and a signal that is alike everywhere.

    Args:
        size: Of the map, along one axis or each.
        kernel: Of the convolution, along one axis or each.
        stride: Of the convolution.
        padding: Zeros on each side; left out, ``dilation * (kernel - 1) // 2``.
        dilation: Of the kernel.
        axes: Spatial axes where ``size`` is one number.

    Raises:
        InputError: No output is left.
    """
    sizes = [size] * axes if isinstance(size, int) else list(size)
    kernels = [kernel] * len(sizes) if isinstance(kernel, int) else list(kernel)
    return prod(_axis(n, k, stride, padding, dilation) for n, k in zip(sizes, kernels, strict=True))


def _axis(size: int, kernel: int, stride: int, padding: int | None, dilation: int) -> float:
    reach = dilation * (kernel - 1)
    pad = reach // 2 if padding is None else padding
    starts = range(-pad, size + pad - reach, stride)
    if not starts:
        raise InputError(
            "a convolution has at least one output", received=f"kernel {kernel} and padding {pad} on {size} pixels"
        )
    inside = sum(0 <= start + dilation * tap < size for start in starts for tap in range(kernel))
    return inside / (len(starts) * kernel)
