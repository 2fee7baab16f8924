"""What theory knows of a tensor while a signal is propagated: a handful of moments instead of numbers.

Elements ``x[n, c, p]`` (sample, channel, position) are described by

* ``profile``: the second moment at each position, over samples and channels; zero padding makes it lower near the border;
* ``mean``: the common mean, over everything, which weights of mean zero do not pass on;
* ``pooled``: ``E[(mean_p x)^2]``, the second moment of a channel's mean over space within one sample;
* ``between``: ``E[mean_p x mean_p x']`` for two samples, the channels' squared means;
* ``lengths``: the variance of the log of the second moment from one sample (and position) to the next, which finite width makes
  and which some activations amplify;
* ``channels``: the scale of each channel, its own mean aside, as a share of the mean one; depthwise convolutions pass it on.

So ``ACSM = between (1 - 1/N) + pooled / N`` for a batch of N, and ``ACV`` is the rest of the second moment. In units of the profile the
cross moments are correlations (``within``, ``across``), taken to be alike for all pairs of positions: the c-map of mean-field
theory, once for pairs within a sample and once for pairs of samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count

import torch
from torch import Tensor

from spp.theory.gaussian import Nonlinearity

_SERIAL = count()
FLOAT = torch.float64


@dataclass(eq=False)
class Gradient:
    """What is known of the loss's gradient with respect to a tensor.

    Attributes:
        profile: Second moment at each position.
        within: Correlation of two positions of one sample and channel.
        channels: Second moment of each channel in units of the mean one.
        spread: Variance, over draws of the weights, of the log of the second moment.
        across: Correlation of two samples; below 0 where norms over the batch have taken the mean out.
    """

    profile: Tensor
    within: float
    channels: Tensor
    spread: float = 0.0
    across: float = 0.0

    @property
    def second(self) -> float:
        """The second moment over every element."""
        return float(self.profile.mean())

    def scaled(self, factor: float | Tensor, channels: Tensor | None = None) -> Gradient:
        """Times a factor, by position or as a whole, and by channel."""
        kept = self.channels if channels is None else unit(self.channels * channels)
        return replace(self, profile=self.profile * factor, channels=kept)

    def plus(self, other: Gradient) -> Gradient:
        """The sum of two uncorrelated gradients."""
        a, b = self.second, other.second
        if a + b == 0:
            return self
        share = a / (a + b)
        return Gradient(
            self.profile + other.profile,
            share * self.within + (1 - share) * other.within,
            share * self.channels + (1 - share) * other.channels,
            blend(share, self.spread, other.spread),
            share * self.across + (1 - share) * other.across,
        )


Backward = Callable[[Gradient], Gradient]


@dataclass(eq=False)
class Field:
    """Moments of one tensor, and where it came from.

    Attributes:
        shape: Of the tensor; axis 0 is the batch.
        axis: Where its channels are.
        profile, mean, pooled, between, channels: See the module.
        spread: Variance, over draws of the weights, of the log of the second moment.
        lengths: See the module.
        centred: ``lengths`` of the tensor without its mean over the batch, for a norm that takes it out; None where it is the same.
        fresh: Whether it comes from a layer with weights, whose finite width has just added to ``lengths``.
        source: The tensor, taken to be normal, that this one is an element-wise function of.
        function: That function.
        parents: What it was made of, each with the way back for gradients; None is for tensors that only show theirs.
        gradient: Of the loss with respect to it.
        shown: A gradient that is another's to pass on, see :meth:`spp.theory.walk.back`.
        free: Whether the axes may still be named otherwise, as an input's, which is alike in all directions.
    """

    shape: torch.Size
    axis: int
    profile: Tensor
    mean: float
    pooled: float
    between: float
    channels: Tensor
    spread: float = 0.0
    lengths: float = 0.0
    centred: float | None = None
    fresh: bool = False
    source: Field | None = None
    function: Nonlinearity | None = None
    parents: list[tuple[Field, Backward]] = field(default_factory=list)
    shadows: list[tuple[Field, Backward]] = field(default_factory=list)
    gradient: Gradient | None = None
    shown: Gradient | None = None
    free: bool = False
    serial: int = field(default_factory=lambda: next(_SERIAL))

    @property
    def samples(self) -> int:
        """``N``."""
        return self.shape[0]

    @property
    def width(self) -> int:
        """Number of channels."""
        return self.shape[self.axis] if len(self.shape) > 1 else 1

    @property
    def positions(self) -> int:
        """Number of positions, 1 without spatial axes."""
        return self.profile.numel()

    @property
    def second(self) -> float:
        """The second moment over every element."""
        return float(self.profile.mean())

    @property
    def rms(self) -> float:
        """Mean over positions of the root of the profile."""
        return float(self.profile.clamp(min=0).sqrt().mean())

    @property
    def acsm(self) -> float:
        """Average channel squared mean, as a batch of N has it."""
        n = self.samples
        return max(self.between * (1 - 1 / n) + self.pooled / n, 0.0)

    @property
    def acv(self) -> float:
        """Average channel variance, as a batch of N has it."""
        return max(self.second - self.acsm, 0.0)

    @property
    def relative_mean(self) -> float:
        """The common mean in units of the profile's root."""
        return _clip(self.mean / self.rms) if self.rms else 0.0

    @property
    def within(self) -> float:
        """Correlation (about zero) of two positions of a sample's channel."""
        p, rms, second = self.positions, self.rms**2, self.second
        if p == 1 or second == 0 or rms - second / p <= 0:
            return 1.0
        return _clip((self.pooled - second / p) / (rms - second / p))

    @property
    def across(self) -> float:
        """Correlation (about zero) of two samples."""
        return _clip(self.between / self.rms**2) if self.rms else 0.0

    def overlap(self) -> float:
        """Mean of the squared correlation over all pairs of elements of a channel: how far the batch is one direction."""
        n, p = self.samples, self.positions
        return self.across**2 * (1 - 1 / n) + (self.within**2 * (1 - 1 / p) + 1 / p) / n


def unit(channels: Tensor) -> Tensor:
    """Scaled to a mean of 1; all 1 where there is nothing."""
    mean = float(channels.mean()) if channels.numel() else 0.0
    return channels / mean if mean > 0 else torch.ones_like(channels)


def blend(share: float, a: float, b: float) -> float:
    """Variance of the log of a sum whose first part is this share of it; what both have, they have in common."""
    return share**2 * a + (1 - share) ** 2 * b + 2 * share * (1 - share) * min(a, b)


def even(n: int) -> Tensor:
    """Channels that are all alike."""
    return torch.ones(n, dtype=FLOAT)


def _clip(c: float) -> float:
    return min(1.0, max(-1.0, c))
