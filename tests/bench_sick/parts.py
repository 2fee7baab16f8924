"""Small networks to plant a disease in, and the modules that are diseases themselves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import spp
from spp.nn import initialize_

WIDTH, DEPTH, SAMPLES = 64, 12, 64


def vectors(samples: int = SAMPLES, mean: float = 0.0) -> Tensor:
    """Unit normal vectors."""
    return spp.data.gaussian(samples, (WIDTH,), seed=0) + mean


def images(samples: int = 8, side: int = 16) -> Tensor:
    """Unit normal images."""
    return spp.data.gaussian(samples, (3, side, side), seed=0)


def plain(
    act: Callable[[], nn.Module] = nn.ReLU, init: str = "he", depth: int = DEPTH, norm: bool = False
) -> nn.Sequential:
    """``depth`` Linear layers with activations, ``lin0``, ``act0``, ``lin1``, ... and a readout ``head``."""
    net = nn.Sequential()
    for i in range(depth):
        net.add_module(f"lin{i}", nn.Linear(WIDTH, WIDTH))
        if norm:
            net.add_module(f"norm{i}", nn.BatchNorm1d(WIDTH))
        net.add_module(f"act{i}", act())
    net.add_module("head", nn.Linear(WIDTH, 10))
    return initialize_(net, init)


def convolutional(norm: bool = False, depth: int = 8) -> nn.Sequential:
    """``depth`` 3x3 convolutions of 16 channels, ``conv0``, ``act0``, ..., pooling and a readout."""
    net = nn.Sequential()
    for i in range(depth):
        net.add_module(f"conv{i}", nn.Conv2d(3 if i == 0 else 16, 16, 3, padding=1))
        if norm:
            net.add_module(f"norm{i}", nn.BatchNorm2d(16))
        net.add_module(f"act{i}", nn.ReLU())
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flatten", nn.Flatten())
    net.add_module("head", nn.Linear(16, 10))
    return initialize_(net, "he")


def separable(depth: int = 6, channels: int = 32) -> nn.Sequential:
    """Pairs of a depthwise and a pointwise convolution without norms."""
    net = nn.Sequential()
    net.add_module("stem", nn.Conv2d(3, channels, 1))
    for i in range(depth):
        net.add_module(f"depthwise{i}", nn.Conv2d(channels, channels, 3, padding=1, groups=channels))
        net.add_module(f"act{i}", nn.ReLU())
        net.add_module(f"pointwise{i}", nn.Conv2d(channels, channels, 1))
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flatten", nn.Flatten())
    net.add_module("head", nn.Linear(channels, 10))
    return initialize_(net, "he")


def encoder(layers: int = 6) -> nn.Module:
    """A pre-norm Transformer encoder of width 64."""
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 128, dropout=0.0, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


class Heads(nn.Module):
    """A body and two heads; the second one's output goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.body = plain(depth=4)
        self.head = nn.Linear(10, 5)
        self.aux = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 64)`` to ``(N, 5)``."""
        x = self.body(x)
        self.seen = self.aux(x).detach()
        return self.head(x)


class Cut(nn.Module):
    """Two parts with the graph cut between them."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.back = plain(depth=4), nn.Sequential(nn.ReLU(), nn.Linear(10, 10))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 64)`` to ``(N, 10)``."""
        return self.back(self.front(x).detach())


class Forgotten(nn.Module):
    """A branch that is built and never called."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.branch = plain(depth=4), nn.Sequential(nn.Linear(10, 10), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 64)`` to ``(N, 10)``."""
        return self.body(x)


class Ungraphed(nn.Module):
    """A network that runs under ``no_grad`` though it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.body = plain(depth=4)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 64)`` to ``(N, 10)``."""
        with torch.no_grad():
            return self.body(x)


class Round(nn.Module):
    """Quantization without a straight-through gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """Round to quarters."""
        return torch.round(4 * x) / 4


class Log(nn.Module):
    """A logarithm of what may be negative."""

    def forward(self, x: Tensor) -> Tensor:
        """NaN below zero."""
        return torch.log(x)


class Root(nn.Module):
    """A square root, whose derivative at zero is infinite."""

    def forward(self, x: Tensor) -> Tensor:
        """Finite for what a ReLU gives out."""
        return torch.sqrt(x)


class Scale(nn.Module):
    """A constant factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Multiply."""
        return self.factor * x


class Damped(torch.autograd.Function):
    """The identity, with the gradient scaled down."""

    @staticmethod
    def forward(ctx, x: Tensor, factor: float) -> Tensor:  # type: ignore[override, no-untyped-def]
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override, no-untyped-def]
        return ctx.factor * gradient, None


class Damp(nn.Module):
    """A module around ``Damped``, as gradient-reversal layers have."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """The identity."""
        return Damped.apply(x, self.factor)


def inserted(net: nn.Sequential, behind: str, name: str, module: nn.Module) -> nn.Sequential:
    """``net`` with ``module`` behind the child called ``behind``."""
    out = nn.Sequential()
    for key, child in net.named_children():
        out.add_module(key, child)
        if key == behind:
            out.add_module(name, module)
    return out
