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
from typing import Any

import torch
from torch import Tensor

from spp.theory.gaussian import IDENTITY, Nonlinearity

_SERIAL = count()
# Moments span hundreds of decades over a deep network: float32 would underflow where the network itself does not.
FLOAT = torch.float64


@dataclass(eq=False)
class OnMap:
    """Second moments by position.

    Attributes:
        profile: Second moment at each position.
    """

    profile: Tensor

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
        """The squared mean, over positions, of the root of the profile: ``pooled`` of a signal that is alike everywhere."""
        return float(self.root.mean()) ** 2


@dataclass(eq=False)
class Gradient(OnMap):
    """Moments of the loss's gradient with respect to a tensor.

    Attributes:
        within: Correlation of two positions of one sample and channel.
        channels: Second moment of each channel in units of the mean one.
        spread: Variance, over draws of the weights, of the log of the second moment.
        across: Correlation of two samples; below 0 where norms over the batch have taken the mean out.
    """

    within: float
    channels: Tensor
    spread: float = 0.0
    across: float = 0.0

    def scaled(self, factor: float | Tensor, channels: Tensor | None = None) -> Gradient:
        """Times a factor, by position or as a whole, and by channel."""
        if channels is None:
            return replace(self, profile=self.profile * factor)
        joint = self.channels * channels
        return replace(self, profile=self.profile * factor * float(joint.mean()), channels=unit(joint))

    def placed(self, profile: Tensor, within: float | None = None) -> Gradient:
        """The same gradient on another map."""
        return replace(self, profile=profile, within=self.within if within is None else within)

    def with_channels(self, channels: Tensor) -> Gradient:
        """The same gradient over channels of these scales."""
        return replace(self, channels=unit(channels))

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
class MomentsState(OnMap):
    """Moments of one tensor, and the tensors that it was computed from.

    Attributes:
        shape: Shape of the tensor; axis 0 is the batch.
        axis: The axis of its channels.
        profile, mean, pooled, between, channels, lengths, scatter, spread: See the module.
        centred: ``lengths`` and ``scatter`` of the tensor without its mean over the batch, for norms that take it out; None if
            they are the same.
        level: Whether a norm has made the sum over channels 0 in every sample, so that it does not vary.
        source: The tensor, taken to be normal, that this one is an element-wise function of.
        function: That function.
        parents: The operands, each with the way back for gradients.
        shadows: Tensors whose gradient follows from this one's and which do not pass it on: parts of a composed function.
        gradient: Gradient of the loss with respect to it.
        shown: Its gradient where it is a shadow.
        free: Whether the axes may still be named otherwise, as those of an input that is alike in all directions.
        serial: Later states have larger numbers.
    """

    shape: torch.Size
    axis: int
    mean: float
    pooled: float
    between: float
    channels: Tensor
    spread: float = 0.0
    lengths: float = 0.0
    scatter: float = 0.0
    centred: tuple[float, float] | None = None
    level: bool = False
    source: MomentsState | None = None
    function: Nonlinearity | None = None
    parents: list[tuple[MomentsState, Backward]] = field(default_factory=list)
    shadows: list[tuple[MomentsState, Backward]] = field(default_factory=list)
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
        return clip(self.mean / self.flat**0.5) if self.flat else 0.0

    @property
    def within(self) -> float:
        """Correlation (about zero) of two positions of a sample's channel."""
        p, flat, second = self.positions, self.flat, self.second
        if p == 1 or second == 0 or flat - second / p <= 0:
            return 1.0
        return clip((self.pooled - second / p) / (flat - second / p))

    @property
    def across(self) -> float:
        """Correlation (about zero) of two samples."""
        return clip(self.between / self.flat) if self.flat else 0.0

    def as_function(self) -> tuple[MomentsState, Nonlinearity]:
        """The tensor, taken to be normal, and the function of it that this one is; itself and the identity if none is known."""
        return self.source or self, self.function or IDENTITY

    def is_map(self, dims: int) -> bool:
        """Whether channels come first and ``dims`` spatial axes follow, as convolutions and pooling take them."""
        return self.axis == 1 and len(self.shape) == dims + 2

    def angle(self, correlation: float) -> float:
        """The cosine of two whose correlation about zero is this: samples of different length have less in common."""
        return clip(correlation * exp(min(self.lengths, 40.0) / 4)) if correlation < 1 else 1.0

    def overlap(self) -> float:
        """Mean of the squared cosine over all pairs of elements of a channel: how far the batch is one direction."""
        n, p = self.samples, self.positions
        own = self.within**2 * (1 - 1 / p) + 1 / p
        return (self.angle(self.across) ** 2 + self.scatter) * (1 - 1 / n) + own / n

    def like(self, **changes: Any) -> MomentsState:
        """Another tensor, equal but for ``changes`` (attributes by name), without a way back yet."""
        # replace() alone would share the lists, so that a way back of the one would become the other's.
        fresh: dict[str, Any] = {"parents": [], "shadows": [], "gradient": None, "shown": None, "serial": next(_SERIAL)}
        fresh |= {"level": False, "source": None, "function": None, "free": False}
        return replace(self, **(fresh | changes))

    def on(self, profile: Tensor, shape: torch.Size | None = None) -> MomentsState:
        """The same signal on another map: mean and correlations stay in units of the profile."""
        out = self.like(shape=self.shape if shape is None else shape, profile=profile, pooled=0.0)
        return out.correlated(self.nu, self.within, self.across)

    def correlated(self, nu: float, within: float, across: float) -> MomentsState:
        """This state with the mean and the cross moments set to what these correlations give."""
        self.mean, self.between = nu * self.flat**0.5, across * self.flat
        return self.correlate(within)

    def correlate(self, within: float) -> MomentsState:
        """This state with ``pooled`` set to what positions of this correlation give."""
        self.pooled = within * self.flat + (1 - within) * self.second / self.positions
        return self

    def made_of(self, *parents: tuple[MomentsState, Backward]) -> MomentsState:
        """This state with a way back."""
        self.parents = list(parents)
        return self

    def channels_last(self) -> MomentsState:
        """This state, with its channels on the last axis if its axes are still free to be named."""
        axis = len(self.shape) - 1
        if not self.free or self.axis == axis:
            return self
        space = self.shape[1:-1]
        profile = torch.full(space, self.second, dtype=FLOAT)
        out = self.like(
            axis=axis, profile=profile, pooled=self.second / max(space.numel(), 1), channels=even(self.shape[axis])
        )

        def back(g: Gradient) -> Gradient:
            return Gradient(torch.full(self.profile.shape, g.second, dtype=FLOAT), 0.0, self.channels)

        return out.made_of((self, back))


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


def clip(correlation: float) -> float:
    """A correlation that rounding may have carried beyond its ends."""
    return min(1.0, max(-1.0, correlation))
