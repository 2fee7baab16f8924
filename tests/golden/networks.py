"""Twelve small networks, each with a batch: what golden frames are about. Nothing here depends on how spp is built."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """Two basic blocks, in place wherever a network of today is."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.first, self.second = Block(8, 8), Block(8, 12, stride=2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(self.stem(x)))
        return self.head(x.mean((2, 3)))


class Block(nn.Module):
    """Convolution, norm and in-place activation, twice, beside a skip."""

    def __init__(self, inside: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Identity() if inside == out else nn.Conv2d(inside, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.downsample(x)
        return self.relu(out)


class Gated(nn.Module):
    """Depthwise convolutions with squeeze-and-excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.depthwise = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.act, self.pool = nn.SiLU(inplace=True), nn.AdaptiveAvgPool2d(1)
        self.reduce, self.gate = nn.Conv2d(12, 3, 1), nn.Conv2d(3, 12, 1)
        self.sigmoid, self.head = nn.Sigmoid(), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.depthwise(self.act(self.expand(x))))
        x = x * self.sigmoid(self.gate(self.act(self.reduce(self.pool(x)))))
        return self.head(torch.flatten(self.pool(x), 1))


class Tokens(nn.Module):
    """An embedding, a transformer layer (without biases: the gradient of a key's is rounding), a tied readout."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True, bias=False)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.layer(self.embed(ids))))


class Recurrent(nn.Module):
    """An LSTM, whose output is a tuple in a tuple, and a cell that is called in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.cell, self.head = nn.LSTM(6, 8, batch_first=True), nn.GRUCell(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.lstm(x)
        state = torch.zeros_like(out[:, 0])
        for t in range(out.shape[1]):
            state = self.cell(out[:, t], state)
        return self.head(state)


class Shared(nn.Module):
    """One layer three times, and outputs in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.act, self.aux = nn.Linear(10, 10), nn.Tanh(), nn.Linear(10, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        for _ in range(3):
            x = x + self.act(self.layer(x))
        return {"main": x, "aux": self.aux(x)}


class Normalized(nn.Module):
    """Weights computed on the way, by a parametrization and by a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Linear(10, 12))
        self.second = nn.utils.parametrizations.spectral_norm(nn.Linear(12, 12))
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.second(torch.tanh(self.first(x)))))


class Skipping(nn.Module):
    """A layer that never runs, one that is frozen, one without a gradient, NaN in one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.unused, self.frozen = nn.Linear(10, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.frozen.requires_grad_(False)
        self.act, self.head = nn.ReLU6(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.frozen(self.first(x)))
        with torch.no_grad():
            self.act(x.log())
        return self.head(x)


def mlp(*between: Callable[[], nn.Module]) -> nn.Sequential:
    widths = (10, 16, 16, 4)
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        layers += [nn.Linear(a, b), *(make() for make in between if i < 2)]
    return nn.Sequential(*layers)


def _images(seed: int) -> Any:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(6, 3, 8, 8, generator=g), torch.randint(4, (6,), generator=g)


def _vectors(seed: int) -> Any:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(8, 10, generator=g), torch.randint(3, (8,), generator=g)


def _lone(seed: int) -> Any:
    return _vectors(seed)[0]


def _ids(seed: int) -> Any:
    return torch.randint(11, (4, 7), generator=torch.Generator().manual_seed(seed))


def _sequences(seed: int) -> Any:
    return torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(seed))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Any]]] = {
    "mlp-relu": (lambda: mlp(nn.ReLU), _vectors),
    "mlp-batchnorm": (lambda: mlp(lambda: nn.BatchNorm1d(16), lambda: nn.ReLU(inplace=True)), _vectors),
    "mlp-rms-gelu": (lambda: mlp(lambda: nn.RMSNorm(16), nn.GELU, lambda: nn.Dropout(0.2)), _lone),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3),
            nn.GroupNorm(2, 6),
            nn.Hardtanh(),
            nn.ConvTranspose2d(6, 4, 2),
            nn.MaxPool2d(2),
            nn.Flatten(),
        ),
        lambda seed: _images(seed)[0],
    ),
    "residual": (Residual, _images),
    "gated": (Gated, _images),
    "tokens": (Tokens, _ids),
    "recurrent": (Recurrent, _sequences),
    "shared": (Shared, _lone),
    "normalized": (Normalized, _vectors),
    "skipping": (Skipping, _vectors),
    "softmax": (lambda: nn.Sequential(nn.Linear(10, 6), nn.Sigmoid(), nn.Linear(6, 4), nn.Softmax(-1)), _lone),
}


def built(name: str) -> nn.Module:
    """The network called ``name``, always with the same weights."""
    torch.manual_seed(7)
    return NETWORKS[name][0]().train()


def batch(name: str, seed: int = 0) -> Any:
    """Its batch number ``seed``."""
    return NETWORKS[name][1](seed)
