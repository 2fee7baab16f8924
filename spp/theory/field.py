"""What theory knows of a tensor while a signal is propagated: a handful of moments instead of numbers.

Elements ``x[n, c, p]`` (sample, channel, position) are described by

* ``profile``: the second moment at each position, over samples and channels; zero padding makes it lower near the border;
* ``mean``: the common mean, over everything, which weights of mean zero do not pass on;
* ``pooled``: ``E[(mean_p x)^2]``, the second moment of a channel's mean over space within one sample;
* ``between``: ``E[mean_p x mean_p x']`` for two samples, the channels' squared means;
* ``channels``: the scale of each channel, its mean aside, as a share of the mean one; depthwise convolutions pass it on;
* ``lengths``: the variance of the log of the second moment from one sample (and position) to the next, which finite width makes
  and which some activations amplify;
* ``scatter``: the variance of the cosine of two samples from pair to pair, of which finite width adds some at every layer;
* ``spread``: the variance, over draws of the weights, of the log of the second moment.

So ``ACSM = between (1 - 1/N) + pooled / N`` for a batch of N, and ``ACV`` is the rest of the second moment. In units of the
profile the cross moments are correlations (``within``, ``across``), taken to be alike for all pairs of positions: the c-map
of mean-field theory, once for pairs within a sample and once for pairs of samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from math import exp

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

    @property
    def flat(self) -> float:
        """The squared mean, over positions, of the root of the profile."""
        return float(self.profile.clamp(min=0).sqrt().mean()) ** 2

    def scaled(self, factor: float | Tensor, channels: Tensor | None = None) -> Gradient:
        """Times a factor, by position or as a whole, and by channel."""
        if channels is None:
            return replace(self, profile=self.profile * factor)
        joint = self.channels * channels
        return replace(self, profile=self.profile * factor * float(joint.mean()), channels=unit(joint))

    def placed(self, profile: Tensor, within: float | None = None) -> Gradient:
        """The same on another map."""
        return replace(self, profile=profile, within=self.within if within is None else within)

    def plus(self, other: Gradient) -> Gradient:
        """The sum of two uncorrelated gradients."""
        total = self.second + other.second
        if total == 0:
            return self
        share = self.second / total
        return Gradient(
            self.profile + other.profile,
            share * self.within + (1 - share) * other.within,
            share * self.channels + (1 - share) * other.channels,
            blend(share, self.spread, other.spread),
            share * self.across + (1 - share) * other.across,
        )


Backward = Callable[[Gradient], Gradient]


@dataclass(eq=False, kw_only=True)
class Field:
    """Moments of one tensor, and where it came from.

    Attributes:
        shape: Of the tensor; axis 0 is the batch.
        axis: Where its channels are.
        profile, mean, pooled, between, channels, lengths, scatter, spread: See the module.
        centred: ``lengths`` and ``scatter`` of the tensor without its mean over the batch, for norms that take it out; None if
            they are the same.
        level: Whether a norm has made the sum over channels 0 in every sample, so that it does not vary.
        source: The tensor, taken to be normal, that this one is an element-wise function of.
        function: That function.
        parents: What it was made of, each with the way back for gradients.
        shadows: Tensors whose gradient this one's tells, and which do not pass it on: parts of a function that was composed.
        gradient: Of the loss with respect to it.
        shown: Its gradient where it is a shadow.
        free: Whether the axes may still be named otherwise, as those of an input that is alike in all directions.
        serial: Later fields have larger numbers.
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
    scatter: float = 0.0
    centred: tuple[float, float] | None = None
    level: bool = False
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
        return self.shape[self.axis]

    @property
    def positions(self) -> int:
        """Number of positions, 1 without spatial axes."""
        return self.profile.numel()

    @property
    def second(self) -> float:
        """The second moment over every element."""
        return float(self.profile.mean())

    @property
    def root(self) -> Tensor:
        """The root of the profile."""
        return self.profile.clamp(min=0).sqrt()

    @property
    def flat(self) -> float:
        """The squared mean, over positions, of the root of the profile: what is alike everywhere is this, pooled."""
        return float(self.root.mean()) ** 2

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
    def nu(self) -> float:
        """The common mean in units of the profile's root."""
        return _clip(self.mean / self.flat**0.5) if self.flat else 0.0

    @property
    def within(self) -> float:
        """Correlation (about zero) of two positions of a sample's channel."""
        p, flat, second = self.positions, self.flat, self.second
        if p == 1 or second == 0 or flat - second / p <= 0:
            return 1.0
        return _clip((self.pooled - second / p) / (flat - second / p))

    @property
    def across(self) -> float:
        """Correlation (about zero) of two samples."""
        return _clip(self.between / self.flat) if self.flat else 0.0

    def angle(self, correlation: float) -> float:
        """The cosine of two whose correlation about zero is this: samples of different length have less in common."""
        return _clip(correlation * exp(min(self.lengths, 40.0) / 4)) if correlation < 1 else 1.0

    def overlap(self) -> float:
        """Mean of the squared cosine over all pairs of elements of a channel: how far the batch is one direction."""
        n, p = self.samples, self.positions
        own = self.within**2 * (1 - 1 / p) + 1 / p
        return (self.angle(self.across) ** 2 + self.scatter) * (1 - 1 / n) + own / n

    def like(
        self,
        shape: torch.Size | None = None,
        axis: int | None = None,
        *,
        profile: Tensor | None = None,
        mean: float | None = None,
        pooled: float | None = None,
        between: float | None = None,
        channels: Tensor | None = None,
    ) -> Field:
        """Another tensor that varies from sample to sample and from draw to draw as this one; without a way back yet."""
        return Field(
            shape=self.shape if shape is None else shape,
            axis=self.axis if axis is None else axis,
            profile=self.profile if profile is None else profile,
            mean=self.mean if mean is None else mean,
            pooled=self.pooled if pooled is None else pooled,
            between=self.between if between is None else between,
            channels=self.channels if channels is None else channels,
            spread=self.spread,
            lengths=self.lengths,
            scatter=self.scatter,
            centred=self.centred,
        )

    def on(self, profile: Tensor, shape: torch.Size | None = None) -> Field:
        """The same signal on another map: mean and correlations stay in units of the profile."""
        out = self.like(shape, profile=profile, pooled=0.0)
        out.mean, out.between = self.nu * out.flat**0.5, self.across * out.flat
        out.correlate(self.within)
        return out

    def correlate(self, within: float) -> None:
        """Set ``pooled`` to what positions of this correlation have."""
        self.pooled = within * self.flat + (1 - within) * self.second / self.positions

    def made_of(self, *parents: tuple[Field, Backward]) -> Field:
        """The same with a way back."""
        self.parents = list(parents)
        return self


def unit(channels: Tensor) -> Tensor:
    """Scaled to a mean of 1; all 1 where there is nothing."""
    mean = float(channels.mean()) if channels.numel() else 0.0
    return channels / mean if mean > 0 else torch.ones_like(channels)


def even(n: int) -> Tensor:
    """Channels that are all alike."""
    return torch.ones(n, dtype=FLOAT)


def wide(tensor: Tensor) -> Tensor:
    """A parameter's values in float64, on the CPU."""
    return tensor.detach().to("cpu", FLOAT)


def blend(share: float, a: float, b: float) -> float:
    """Variance of the log of a sum whose first part is this share of it; what both have, they have in common."""
    return share**2 * a + (1 - share) ** 2 * b + 2 * share * (1 - share) * min(a, b)


def _clip(c: float) -> float:
    return min(1.0, max(-1.0, c))
