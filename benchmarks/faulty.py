"""Faulty training programs and their repaired twins: what a watch finds in each after at most 60 steps.

    python benchmarks/faulty.py                     # one seed: a line each, the counts, faulty.json
    python benchmarks/faulty.py --seeds 3 --page    # as in the documentation, into docs/benches.md
    python benchmarks/faulty.py --only "*sigmoid*"  # some, with what was said

A program is a recipe: model, data, loss, optimizer and loop. The faulty one differs from its twin in what the fault is, nothing
else. *Detected* means an error or a warning; *named*, that the first one is of a rule that names this fault, at its place; a
twin that is *left alone* has neither. `fit` is what the program comes to on its training set in evaluation mode: accuracy, or
the share of the target's variance that is explained.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import json
import math
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "cli")]

import spp  # noqa: E402  (the path is set above)
from spp.diagnosis import Finding, Severity, find  # noqa: E402
from tests.bench_sick.bench import put, where  # noqa: E402

STEPS = 60
Data = tuple[Tensor, Tensor]
Make = Callable[[], nn.Module]
Loss = Callable[[Tensor, Tensor], Tensor]
Optimizer = torch.optim.Optimizer

# -- data -----------------------------------------------------------------------------------------------------------------


def _standard(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / (x.std(0) + 1e-8)


@cache
def _digits() -> Data:
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.from_numpy(data.images).float()[:, None] / 16, torch.from_numpy(data.target)


def digits(seed: int) -> Data:
    """800 digits, 1 x 8 x 8, centred and scaled."""
    x, y = _digits()
    pick = torch.randperm(len(x))[:800]
    return (x[pick] - 0.3) / 0.38, y[pick]


def pixels(seed: int) -> Data:
    """The same between 0 and 1, and themselves as targets."""
    x = _digits()[0][torch.randperm(1797)[:800]]
    return x, x.flatten(1)


@cache
def _table(name: str) -> Data:
    from sklearn import datasets

    data = getattr(datasets, f"load_{name}")()
    return torch.from_numpy(data.data).float(), torch.from_numpy(data.target)


def cancer(seed: int) -> Data:
    """569 tumours of 30 standardized features, malignant or not, as floats of shape (N, 1)."""
    x, y = _table("breast_cancer")
    return _standard(x), y.float()[:, None]


def wine(seed: int) -> Data:
    """178 wines of 13 standardized features, three classes."""
    x, y = _table("wine")
    return _standard(x), y


def surface(seed: int) -> Data:
    """A smooth function of five standard normal numbers, standardized, shape (N, 1)."""
    x = torch.randn(800, 5)
    y = torch.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3] + 0.5 * x[:, 3:4]
    return x, _standard(y)


def rings(seed: int) -> Data:
    """Two rings, one inside the other."""
    y, angle = torch.arange(600) % 2, torch.rand(600) * 2 * math.pi
    radius = 0.6 + 0.9 * y + 0.1 * torch.randn(600)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1), y.float()[:, None]


def waves(seed: int) -> Data:
    """Sequences (64, 1) of one of four frequencies."""
    t, y = torch.linspace(0, 1, 64), torch.arange(600) % 4
    x = torch.sin(2 * math.pi * 3 * (1 + y[:, None]) * t + torch.rand(600, 1) * 6) + 0.2 * torch.randn(600, 64)
    return x[..., None], y


def first(seed: int, length: int = 40) -> Data:
    """Sequences of noise that tell their class in the first element only."""
    x, y = torch.randn(600, length, 1), torch.arange(600) % 2
    x[:, 0, 0] = 2.0 * y - 1
    return x, y


@cache
def _letters() -> Tensor:
    text = re.sub(r"\s+", " ", " ".join(page.read_text() for page in sorted((ROOT / "docs").glob("*.md"))).lower())
    known = " abcdefghijklmnopqrstuvwxyz0123456789.,-()`"
    return torch.tensor([known.find(c) for c in text if c in known])


LETTERS = 43


def letters(seed: int) -> Data:
    """Windows of 32 letters of this repository's pages, and the next letter of each."""
    starts = torch.randint(0, len(_letters()) - 33, (600,))
    windows = torch.stack([_letters()[s : s + 33] for s in starts.tolist()])
    return windows[:, :-1], windows[:, 1:]


def words(seed: int) -> Data:
    """Sentences of 20 words out of 200, whose words depend on the class."""
    y = torch.arange(600) % 2
    own = 20 + torch.randint(0, 90, (600, 20)) + 90 * y[:, None]
    return torch.where(torch.rand(600, 20) < 0.3, own, torch.randint(0, 20, (600, 20))), y


def colours(seed: int) -> Data:
    """Images (3, 12, 12): which of four corners is bright, in a colour that says nothing."""
    x, y = 0.5 * torch.randn(600, 3, 12, 12), torch.arange(600) % 4
    for i in range(600):
        r, c = 6 * (int(y[i]) // 2), 6 * (int(y[i]) % 2)
        x[i, :, r : r + 6, c : c + 6] += torch.rand(3, 1, 1) + 0.5
    return x, y


def changed(data: Callable[[int], Data], x: Callable[[Tensor], Tensor] = lambda x: x, y: Any = None) -> Any:
    """``data`` with inputs and targets put through functions."""

    def make(seed: int) -> Data:
        inputs, targets = data(seed)
        return x(inputs), targets if y is None else y(targets)

    return make


# -- models ---------------------------------------------------------------------------------------------------------------


def mlp(
    sizes: tuple[int, ...], act: Make | None = nn.ReLU, norm: bool = False, drop: float = 0.0, last: Make | None = None
) -> nn.Sequential:
    """``fc1``, ``act1``, ..., and a readout ``out``; images are flattened."""
    net = nn.Sequential()
    net.add_module("flat", nn.Flatten())
    for i, (a, b) in enumerate(itertools.pairwise(sizes[:-1]), 1):
        net.add_module(f"fc{i}", nn.Linear(a, b))
        if norm:
            net.add_module(f"norm{i}", nn.BatchNorm1d(b))
        if act is not None:
            net.add_module(f"act{i}", act())
        if drop:
            net.add_module(f"drop{i}", nn.Dropout(drop))
    net.add_module("out", nn.Linear(*sizes[-2:]))
    if last is not None:
        net.add_module("last", last())
    return net


def cnn(channels: int = 1, classes: int = 10, norm: bool = True, last: Make | None = None) -> nn.Sequential:
    """Three convolutions ``conv1`` to ``conv3``, pooling and ``out``."""
    net = nn.Sequential()
    for i, (a, b) in enumerate(((channels, 16), (16, 32), (32, 32)), 1):
        net.add_module(f"conv{i}", nn.Conv2d(a, b, 3, padding=1))
        if norm:
            net.add_module(f"norm{i}", nn.BatchNorm2d(b))
        net.add_module(f"act{i}", nn.ReLU())
    net.add_module("pool", nn.AdaptiveAvgPool2d(2))
    net.add_module("flat", nn.Flatten())
    net.add_module("out", nn.Linear(128, classes))
    if last is not None:
        net.add_module("last", last())
    return net


class Functional(nn.Module):
    """A network of functions, as most tutorials write it."""

    def __init__(self, classes: int = 10, softmax: bool = False) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.fc1, self.fc2, self.softmax = nn.Linear(512, 64), nn.Linear(64, classes), softmax

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = self.fc2(F.relu(self.fc1(torch.flatten(x, 1))))
        return F.softmax(x, dim=1) if self.softmax else x


class ResNet(nn.Module):
    """Four residual blocks of 16 channels with BatchNorm (or a norm of one's own)."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), norm(16), nn.ReLU())
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(16, 16, 3, padding=1), norm(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), norm(16)
            )
            for _ in range(4)
        )
        self.out = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = F.relu(x + block(x))
        return self.out(x.mean((2, 3)))


class Recurrent(nn.Module):
    """A recurrent layer and a readout of its last output, or of all."""

    def __init__(self, kind: Callable[..., nn.RNNBase], classes: int, width: int = 32, embed: int = 0) -> None:
        super().__init__()
        self.embed = nn.Embedding(embed, width) if embed else nn.Identity()
        self.rnn, self.out = kind(width if embed else 1, width, batch_first=True), nn.Linear(width, classes)
        self.every = bool(embed)

    def forward(self, x: Tensor) -> Tensor:
        h = self.rnn(self.embed(x))[0]
        return self.out(h if self.every else h[:, -1])


class Cells(nn.Module):
    """The same of a cell that is called once for each element."""

    def __init__(self, kind: Callable[..., nn.RNNCellBase], classes: int, width: int = 32) -> None:
        super().__init__()
        self.rnn, self.out = kind(1, width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        for t in range(x.shape[1]):
            state = self.rnn(x[:, t], state)
        return self.out(state[0] if isinstance(state, tuple) else state)


def remembering(make: Make, bias: float = 3.0) -> Make:
    """An LSTM whose forget gates start open or shut."""

    def made() -> nn.Module:
        net: Any = make()
        with torch.no_grad():
            for name, parameter in net.rnn.named_parameters():
                if name.startswith("bias"):
                    n = net.rnn.hidden_size
                    parameter[n : 2 * n] = bias if name.startswith("bias_ih") else 0
        return net

    return made


class Gpt(nn.Module):
    """A small causal Transformer over letters, its readout tied to the embedding or not."""

    def __init__(self, first: bool = True, std: float = 0.1, layers: int = 2, tied: bool = True) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(LETTERS, 32), nn.Embedding(32, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=first)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        for parameter in self.body.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self.norm, self.out = nn.LayerNorm(32), nn.Linear(32, LETTERS, bias=False)
        nn.init.normal_(self.embed.weight, 0, std)
        nn.init.normal_(self.place.weight, 0, std)
        if tied:
            self.out.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        n = ids.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(n)
        x = self.embed(ids) + self.place(torch.arange(n))
        return self.out(self.norm(self.body(x, mask=mask, is_causal=True)))


class Bag(nn.Module):
    """The mean of word vectors, and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc1, self.out = nn.Embedding(200, 32), nn.Linear(32, 32), nn.Linear(32, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(F.relu(self.fc1(self.embed(ids).mean(1))))


class Listed(nn.Module):
    """Hidden layers in a plain list, which registers none of them; or in a ModuleList."""

    def __init__(self, kind: Callable[[list[nn.Module]], Any]) -> None:
        super().__init__()
        self.stem, self.out = nn.Linear(64, 64), nn.Linear(64, 10)
        self.hidden = kind([nn.Linear(64, 64) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(1))
        for layer in self.hidden:
            x = layer(F.relu(x))
        return self.out(F.relu(x))


class Cut(nn.Module):
    """Two parts, and what stands between them."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.front, self.back, self.between = cnn(1, 32), mlp((32, 32, 10)), between

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.between(F.relu(self.front(x))))


class Root(nn.Module):
    """Distances to ten learned centres."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.body, self.centres, self.eps = mlp((64, 64, 10)), nn.Parameter(torch.zeros(10, 10)), eps
        nn.init.zeros_(self.body.out.weight)
        nn.init.zeros_(self.body.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        # nothing tells the centres apart where they begin alike
        centres = self.centres + torch.eye(10) * (0.0 if self.eps == 0 else 1.0)
        return -((h[:, None] - centres) ** 2).sum(-1).add(self.eps).sqrt()


class Segment(nn.Module):
    """Classes of pixels: is it inked."""

    def __init__(self, last: Make | None = None) -> None:
        super().__init__()
        self.conv1, self.conv2, self.out = nn.Conv2d(1, 16, 3, 1, 1), nn.Conv2d(16, 16, 3, 1, 1), nn.Conv2d(16, 1, 1)
        self.last = last() if last is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.out(F.relu(self.conv2(F.relu(self.conv1(x))))))


def initialized(make: Make, init: Callable[[Tensor], object], bias: float | None = 0.0) -> Make:
    """``make`` with every weight matrix filled by ``init``, and biases set."""

    def made() -> nn.Module:
        net = make()
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if parameter.dim() > 1:
                    init(parameter)
                elif bias is not None and name.endswith("bias"):
                    parameter.fill_(bias)
        return net

    return made


def altered(make: Make, change: Callable[[Any], object]) -> Make:
    """``make`` with something done to what it made."""

    def made() -> nn.Module:
        net = make()
        change(net)
        return net

    return made


def frozen(*prefixes: str) -> Callable[[nn.Module], None]:
    def freeze(net: nn.Module) -> None:
        for name, parameter in net.named_parameters():
            if name.startswith(prefixes):
                parameter.requires_grad_(False)

    return freeze


def he(parameter: Tensor) -> None:
    nn.init.kaiming_normal_(parameter)


# -- losses, optimizers, loops --------------------------------------------------------------------------------------------


def onehot(loss: Loss, classes: int = 10) -> Loss:
    return lambda output, target: loss(output, F.one_hot(target, classes).float())


def words_loss(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, 1), target.flatten())


def sgd(rate: float, **more: Any) -> Callable[[nn.Module], Optimizer]:
    return lambda net: torch.optim.SGD((p for p in net.parameters() if p.requires_grad), rate, **more)


def adam(rate: float, **more: Any) -> Callable[[nn.Module], Optimizer]:
    return lambda net: torch.optim.Adam((p for p in net.parameters() if p.requires_grad), rate, **more)


def some(*prefixes: str, rate: float = 3e-3) -> Callable[[nn.Module], Optimizer]:
    """Adam over the parameters whose names begin so."""
    return lambda net: torch.optim.Adam((p for n, p in net.named_parameters() if n.startswith(prefixes)), rate)


class Loop:
    """One step; the usual one, and what people do instead."""

    def __init__(self, recipe: Recipe, net: nn.Module, optimizer: Optimizer) -> None:
        self.recipe, self.net, self.optimizer = recipe, net, optimizer

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self.recipe.loss(self.net(x), y)

    def __call__(self, x: Tensor, y: Tensor) -> float:
        self.optimizer.zero_grad()
        loss = self.loss(x, y)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


class WithoutZeroGrad(Loop):
    def __call__(self, x: Tensor, y: Tensor) -> float:
        loss = self.loss(x, y)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


class ClearedTooLate(Loop):
    def __call__(self, x: Tensor, y: Tensor) -> float:
        loss = self.loss(x, y)
        loss.backward()
        self.optimizer.zero_grad()
        self.optimizer.step()
        return float(loss.detach())


class ZeroedTooLate(Loop):
    def __call__(self, x: Tensor, y: Tensor) -> float:
        loss = self.loss(x, y)
        loss.backward()
        self.optimizer.zero_grad(set_to_none=False)
        self.optimizer.step()
        return float(loss.detach())


class Rewrapped(Loop):
    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.tensor(super().loss(x, y).item(), requires_grad=True)


class Clipped(Loop):
    to = 1e-5

    def __call__(self, x: Tensor, y: Tensor) -> float:
        self.optimizer.zero_grad()
        loss = self.loss(x, y)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self.to)
        self.optimizer.step()
        return float(loss.detach())


class ClippedAtOne(Clipped):
    to = 1.0


class Decayed(Loop):
    """A schedule for epochs that is stepped for each batch."""

    every = 1

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.schedule, self.taken = torch.optim.lr_scheduler.StepLR(self.optimizer, 1, 0.3), 0

    def __call__(self, x: Tensor, y: Tensor) -> float:
        loss = super().__call__(x, y)
        self.taken += 1
        if self.taken % self.every == 0:
            self.schedule.step()
        return loss


class DecayedByEpoch(Decayed):
    every = 50


class InEval(Loop):
    def __call__(self, x: Tensor, y: Tensor) -> float:
        self.net.eval()
        return super().__call__(x, y)


class LeftInEval(Loop):
    """An evaluation after ten steps, from which nothing leads back."""

    taken = 0

    def __call__(self, x: Tensor, y: Tensor) -> float:
        self.taken += 1
        self.net.train(self.taken <= 10)
        return super().__call__(x, y)


class Evaluated(Loop):
    """Every ten steps an evaluation of the same batch."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.taken = 0

    def __call__(self, x: Tensor, y: Tensor) -> float:
        loss = super().__call__(x, y)
        self.taken += 1
        if self.taken % 10 == 0:
            self.net.eval()
            with torch.no_grad():
                self.net(x)
            self.net.train()
        return loss


# -- programs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """A training program.

    Attributes:
        model: Makes the network.
        data: Makes the training set of a seed.
        loss: Of output and target.
        optimizer: Of the network.
        batch: Samples a step.
        loop: What a step is.
        ordered: Whether the batches come as the data lie, sorted by class.
    """

    model: Make
    data: Callable[[int], Data]
    loss: Loss = F.cross_entropy
    optimizer: Callable[[nn.Module], Optimizer] = adam(3e-3)  # noqa: RUF009
    batch: int = 32
    loop: type[Loop] = Loop
    ordered: bool = False


@dataclass(frozen=True)
class Program:
    """A fault.

    Attributes:
        name: The fault in words.
        kind: Which part of the program it is in.
        twin: The repaired program.
        faulty: What the fault changes.
        right: Rules that name it.
        places: Where; globs of names, "" for the whole network; None where any will do.
    """

    name: str
    kind: str
    twin: Recipe
    faulty: Recipe
    right: tuple[str, ...]
    places: tuple[str, ...] | None


PROGRAMS: list[Program] = []
OUTPUT = "last|softmax|out|fc2|"
"""The place of a fault of the loss: the last layers, or the whole network."""


def fault(
    name: str, kind: str, twin: Recipe, right: str | tuple[str, ...], places: str | None = OUTPUT, **changes: Any
) -> None:
    """Register a fault: ``twin`` with ``changes`` made."""
    rules = (right,) if isinstance(right, str) else right
    where = None if places is None else tuple(places.split("|"))
    PROGRAMS.append(Program(name, kind, twin, replace(twin, **changes), rules, where))


DIGITS = Recipe(lambda: mlp((64, 64, 64, 10)), digits)
PLAIN = replace(DIGITS, model=initialized(lambda: mlp((64, 64, 64, 64, 64, 10)), he), optimizer=sgd(0.05))
IMAGES = Recipe(cnn, digits)
FUNCTIONS = Recipe(Functional, digits)
RESNET = Recipe(ResNet, digits)
BINARY = Recipe(lambda: mlp((30, 32, 16, 1)), cancer, F.binary_cross_entropy_with_logits)
WINE = Recipe(lambda: mlp((13, 32, 3)), wine, optimizer=adam(1e-2))
RINGS = Recipe(lambda: mlp((2, 32, 32, 1)), rings, F.binary_cross_entropy_with_logits, adam(1e-2))
SURFACE = Recipe(lambda: mlp((5, 64, 64, 1)), surface, F.mse_loss, adam(1e-2))
CODE = Recipe(lambda: mlp((64, 32, 16, 32, 64), last=nn.Sigmoid), pixels, F.mse_loss, adam(3e-3))
WAVES = Recipe(lambda: Recurrent(nn.GRU, 4), waves, optimizer=adam(1e-2), loop=ClippedAtOne)
FIRST = Recipe(remembering(lambda: Recurrent(nn.LSTM, 2)), first, optimizer=adam(1e-2), loop=ClippedAtOne)
GPT = Recipe(Gpt, letters, words_loss)
LSTM = Recipe(lambda: Recurrent(nn.LSTM, LETTERS, embed=LETTERS), letters, words_loss, adam(1e-2))
BAG = Recipe(Bag, words, optimizer=adam(1e-2))
COLOURS = Recipe(lambda: cnn(3, 4), colours)
INK = Recipe(
    Segment, lambda seed: ((d := pixels(seed))[0] - 0.3, (d[0] > 0.5).float()), F.binary_cross_entropy_with_logits
)

# -- the loss: how it is wired


def _nll(output: Tensor, target: Tensor) -> Tensor:
    return F.nll_loss(output, target)


def _wrong_axis(output: Tensor, target: Tensor) -> Tensor:
    return F.nll_loss(F.log_softmax(output, 0), target)


fault(
    "softmax before cross-entropy, MLP",
    "loss",
    DIGITS,
    "softmax",
    model=lambda: mlp((64, 64, 64, 10), last=lambda: nn.Softmax(1)),
)
fault("softmax before cross-entropy, CNN", "loss", IMAGES, "softmax", model=lambda: cnn(last=lambda: nn.Softmax(1)))
fault("F.softmax before cross-entropy, functions", "loss", FUNCTIONS, "softmax", model=lambda: Functional(softmax=True))
fault(
    "softmax before cross-entropy, wine",
    "loss",
    WINE,
    "softmax",
    model=lambda: mlp((13, 32, 3), last=lambda: nn.Softmax(1)),
)
fault("sigmoid before BCE with logits", "loss", BINARY, "sigmoid", model=lambda: mlp((30, 32, 16, 1), last=nn.Sigmoid))
fault("sigmoid before BCE with logits, pixels", "loss", INK, "sigmoid", model=lambda: Segment(nn.Sigmoid))
fault(
    "sigmoid on logits before cross-entropy",
    "loss",
    DIGITS,
    "sigmoid",
    model=lambda: mlp((64, 64, 64, 10), last=nn.Sigmoid),
)
fault(
    "mean squared error on a softmax",
    "loss",
    DIGITS,
    "squared",
    model=lambda: mlp((64, 64, 64, 10), last=lambda: nn.Softmax(1)),
    loss=onehot(F.mse_loss),
    optimizer=sgd(0.05),
)
fault(
    "mean squared error on a softmax, CNN",
    "loss",
    IMAGES,
    "squared",
    model=lambda: cnn(last=lambda: nn.Softmax(1)),
    loss=onehot(F.mse_loss),
    optimizer=sgd(0.05),
)
fault(
    "mean squared error on a sigmoid, binary",
    "loss",
    BINARY,
    "squared",
    model=lambda: mlp((30, 32, 16, 1), last=nn.Sigmoid),
    loss=F.mse_loss,
    optimizer=sgd(0.02),
)
fault(
    "softmax over one unit",
    "loss",
    BINARY,
    "single",
    model=lambda: mlp((30, 32, 16, 1), last=lambda: nn.Softmax(1)),
    loss=F.binary_cross_entropy,
)
fault(
    "softmax over one unit, mean squared error",
    "loss",
    RINGS,
    "single",
    model=lambda: mlp((2, 32, 32, 1), last=lambda: nn.Softmax(1)),
    loss=F.mse_loss,
)
fault("log-softmax over the batch", "loss", DIGITS, "axis", loss=_wrong_axis)
fault("NLL of raw logits", "loss", DIGITS, "nll", loss=_nll)
fault(
    "NLL of probabilities without a logarithm",
    "loss",
    DIGITS,
    "nll",
    loss=_nll,
    model=lambda: mlp((64, 64, 64, 10), last=lambda: nn.Softmax(1)),
)
fault(
    "Kullback-Leibler divergence of probabilities",
    "loss",
    DIGITS,
    "nll",
    loss=onehot(lambda o, t: F.kl_div(o.softmax(1), t, reduction="batchmean")),
)
fault("the loss ascended, classifier", "loss", DIGITS, "ascent", loss=lambda o, t: -F.cross_entropy(o, t))
fault(
    "the loss ascended, regression",
    "loss",
    SURFACE,
    "ascent",
    loss=lambda o, t: -F.mse_loss(o, t),
    optimizer=adam(1e-2),
)
fault("maximize=True in the optimizer", "loss", BINARY, "ascent", optimizer=adam(3e-3, maximize=True))
fault(
    "sum over the batch where the rate is for a mean",
    "loss",
    PLAIN,
    "sum",
    loss=partial(F.cross_entropy, reduction="sum"),
)
fault(
    "sum of squares over the batch, SGD",
    "loss",
    replace(SURFACE, optimizer=sgd(0.05)),
    "sum",
    loss=partial(F.mse_loss, reduction="sum"),
)
fault(
    "a target of shape (N,) beside an output of (N, 1)",
    "loss",
    SURFACE,
    "broadcast",
    data=changed(surface, y=lambda y: y[:, 0]),
)
fault("a loss made anew of its number", "loss", DIGITS, "no_gradient", places=None, loop=Rewrapped)
fault(
    "the square root of a distance of zero",
    "loss",
    replace(DIGITS, model=lambda: Root(1.0)),
    "nonfinite",
    places=None,
    model=lambda: Root(0.0),
)
fault(
    "a logarithm of exact zeros",
    "loss",
    replace(DIGITS, loss=lambda o, t: F.nll_loss((o.softmax(1) + 1e-6).log(), t)),
    "nonfinite",
    places=None,
    loss=lambda o, t: F.nll_loss(o.relu().log(), t),
)

# -- the output beside the targets

fault(
    "ReLU as output, standardized targets",
    "loss",
    SURFACE,
    "range",
    places="last|out|",
    model=lambda: mlp((5, 64, 64, 1), last=nn.ReLU),
)
fault(
    "sigmoid as output, standardized targets",
    "loss",
    SURFACE,
    "range",
    places="last|out|",
    model=lambda: mlp((5, 64, 64, 1), last=nn.Sigmoid),
)
fault(
    "tanh as output, targets of 10 to 50",
    "loss",
    replace(SURFACE, data=surface),
    "range",
    places="last|out|",
    model=lambda: mlp((5, 64, 64, 1), last=nn.Tanh),
    data=changed(surface, y=lambda y: 30 + 10 * y),
)
fault(
    "sigmoid as output, targets of 0 to 255",
    "loss",
    CODE,
    "range",
    places="last|out|",
    data=changed(pixels, y=lambda y: 255 * y),
)
fault(
    "ReLU on the logits",
    "loss",
    DIGITS,
    ("range", "relu_logits"),
    places="last|out|",
    model=lambda: mlp((64, 64, 64, 10), last=nn.ReLU),
)
fault("targets of 100,000 and more", "data", SURFACE, "target_scale", data=changed(surface, y=lambda y: 2e5 + 8e4 * y))
fault(
    "targets of one millionth",
    "data",
    replace(SURFACE, optimizer=sgd(0.05)),
    "target_scale",
    data=changed(surface, y=lambda y: 1e-6 * y),
)

# -- data


def _raw(name: str) -> Callable[[int], Data]:
    return lambda seed: ((d := _table(name))[0], d[1].float()[:, None] if name == "breast_cancer" else d[1])


fault(
    "pixels of 0 to 255",
    "data",
    FUNCTIONS,
    "inputs",
    places=None,
    data=changed(digits, lambda x: (0.38 * x + 0.3) * 255),
)
fault(
    "pixels of 0 to 255, MLP and SGD",
    "data",
    PLAIN,
    "inputs",
    places=None,
    data=changed(digits, lambda x: (0.38 * x + 0.3) * 255),
)
fault(
    "pixels divided by 255 twice",
    "data",
    replace(PLAIN, optimizer=sgd(0.05)),
    "inputs",
    places=None,
    data=changed(digits, lambda x: (0.38 * x + 0.3) / 255),
)
fault("features of scales from 1e-3 to 1e3", "data", BINARY, "inputs", places=None, data=_raw("breast_cancer"))
fault("features of scales from 0.1 to 1000, wine", "data", WINE, "inputs", places=None, data=_raw("wine"))
fault(
    "inputs with a mean of 100 standard deviations",
    "data",
    SURFACE,
    "inputs",
    places=None,
    data=changed(surface, lambda x: x + 100),
)
fault(
    "two of three colours are constant",
    "data",
    COLOURS,
    "inputs",
    places=None,
    data=changed(colours, lambda x: x * torch.tensor([1.0, 0, 0])[:, None, None]),
)
fault(
    "every sample is the same image",
    "data",
    IMAGES,
    "inputs",
    places=None,
    data=changed(digits, lambda x: x[:1].expand_as(x).clone()),
)
fault("inputs of zeros", "data", DIGITS, "inputs", places=None, data=changed(digits, torch.zeros_like))
fault(
    "NaN in one feature of some samples",
    "data",
    BINARY,
    "nonfinite",
    places="fc1|flat",
    data=changed(
        cancer, lambda x: torch.where((torch.arange(len(x)) % 10 == 0)[:, None] & (torch.arange(30) == 3), torch.nan, x)
    ),
)
fault(
    "labels shuffled", "data", DIGITS, "stuck", places=None, data=changed(digits, y=lambda y: y[torch.randperm(len(y))])
)
fault(
    "targets shuffled, regression",
    "data",
    SURFACE,
    "stuck",
    places=None,
    data=changed(surface, y=lambda y: y[torch.randperm(len(y))]),
)
fault("all labels the same", "data", DIGITS, "target", data=changed(digits, y=torch.zeros_like))
fault("all targets the same, binary", "data", BINARY, "target", data=changed(cancer, y=torch.ones_like))
fault("batches sorted by class", "data", DIGITS, "target", places=None, ordered=True)

# -- the rate

fault("SGD at 1e-6", "rate", PLAIN, "low", places=None, optimizer=sgd(1e-6))
fault("Adam at 1e-7, CNN", "rate", IMAGES, "low", places=None, optimizer=adam(1e-7))
fault(
    "SGD at 1e-5, residual network",
    "rate",
    replace(RESNET, optimizer=sgd(0.1)),
    "low",
    places=None,
    optimizer=sgd(1e-5),
)
fault("Adam at 1e-6, LSTM", "rate", LSTM, "low", places=None, optimizer=adam(1e-6))
fault("Adam with an eps of 1", "rate", DIGITS, "eps", places=None, optimizer=adam(3e-3, eps=1.0))
fault("Adam with an eps of 1, letters", "rate", GPT, "eps", places=None, optimizer=adam(3e-3, eps=1.0))
fault("gradients clipped to a norm of 1e-5, SGD", "rate", PLAIN, "low", places=None, loop=Clipped)
fault(
    "a schedule for epochs stepped for each batch",
    "rate",
    replace(PLAIN, loop=DecayedByEpoch),
    "low",
    places=None,
    loop=Decayed,
)
fault("SGD at 10", "rate", PLAIN, "high", places=None, optimizer=sgd(10.0))
fault("SGD at 5, regression", "rate", replace(SURFACE, optimizer=sgd(0.05)), "high", places=None, optimizer=sgd(5.0))
fault("Adam at 0.3, MLP", "rate", DIGITS, "high", places=None, optimizer=adam(0.3))
fault("Adam at 1, CNN with BatchNorm", "rate", IMAGES, "high", places=None, optimizer=adam(1.0))
fault("Adam at 0.3, Transformer", "rate", GPT, "high", places=None, optimizer=adam(0.3))
fault("Adam at 0.5, LSTM", "rate", LSTM, "high", places=None, optimizer=adam(0.5))
fault(
    "SGD at 3 kills the ReLUs",
    "rate",
    replace(FUNCTIONS, optimizer=sgd(0.1)),
    ("high", "died"),
    places=None,
    optimizer=sgd(3.0),
)
fault("Adam at 0.2 kills the ReLUs", "rate", FUNCTIONS, ("high", "died"), places=None, optimizer=adam(0.2))
fault(
    "momentum of 0.999 at a rate for none",
    "rate",
    replace(PLAIN, optimizer=sgd(0.05, momentum=0.9)),
    ("high", "momentum"),
    places=None,
    optimizer=sgd(0.3, momentum=0.999),
)
fault(
    "momentum of 0.99 at a rate for none, regression",
    "rate",
    replace(SURFACE, optimizer=sgd(0.05)),
    ("high", "momentum"),
    places=None,
    optimizer=sgd(0.3, momentum=0.99),
)
fault(
    "post-norm Transformer of 6 layers without warm-up",
    "rate",
    replace(GPT, model=lambda: Gpt(True, layers=6)),
    ("high", "warmup"),
    places=None,
    model=lambda: Gpt(False, layers=6),
    optimizer=adam(2e-2),
)
fault("weight decay of 1, SGD", "decay", PLAIN, "decay", places=None, optimizer=sgd(0.05, weight_decay=1.0))
fault("weight decay of 0.5 in Adam", "decay", DIGITS, "decay", places=None, optimizer=adam(3e-3, weight_decay=0.5))
fault(
    "weight decay of 30 in AdamW",
    "decay",
    IMAGES,
    "decay",
    places=None,
    optimizer=lambda net: torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=30.0),
)

# -- parameters that will not learn

fault("the optimizer has the readout only", "optimizer", DIGITS, "missing", places="fc1|fc2|", optimizer=some("out"))
fault(
    "the optimizer lacks the second convolution",
    "optimizer",
    IMAGES,
    "missing",
    places="conv2",
    optimizer=some("conv1", "conv3", "norm", "out"),
)
fault(
    "the optimizer lacks the embedding",
    "optimizer",
    BAG,
    "missing",
    places="embed",
    optimizer=some("fc1", "out", rate=1e-2),
)
fault(
    "the optimizer of another model",
    "optimizer",
    DIGITS,
    "other",
    places=None,
    optimizer=lambda net: torch.optim.Adam(mlp((64, 64, 64, 10)).parameters(), 3e-3),
)
fault(
    "hidden layers in a plain list",
    "optimizer",
    replace(DIGITS, model=lambda: Listed(nn.ModuleList)),
    "unregistered",
    places=None,
    model=lambda: Listed(list),
)
fault(
    "the readout frozen by mistake",
    "optimizer",
    DIGITS,
    "frozen",
    places="out",
    model=altered(lambda: mlp((64, 64, 64, 10)), frozen("out")),
)
fault(
    "a random body frozen by mistake",
    "optimizer",
    IMAGES,
    "frozen",
    places="conv*|norm*|",
    model=altered(cnn, frozen("conv", "norm")),
)
fault(
    "a random embedding frozen by mistake",
    "optimizer",
    LSTM,
    "frozen",
    places="embed",
    model=altered(lambda: Recurrent(nn.LSTM, LETTERS, embed=LETTERS), frozen("embed")),
)
fault(
    "random word vectors frozen by mistake",
    "optimizer",
    BAG,
    "frozen",
    places="embed",
    model=altered(Bag, frozen("embed")),
)
fault(
    "detach between two parts",
    "wiring",
    replace(DIGITS, model=lambda: Cut(lambda x: x)),
    "no_gradient",
    places="front*",
    model=lambda: Cut(lambda x: x.detach()),
)
fault(
    "a tensor made anew between two parts",
    "wiring",
    replace(DIGITS, model=lambda: Cut(lambda x: x)),
    "no_gradient",
    places="front*",
    model=lambda: Cut(lambda x: torch.tensor(x.tolist())),
)
fault(
    "rounding between two parts",
    "wiring",
    replace(DIGITS, model=lambda: Cut(lambda x: x)),
    ("blocked_gradient", "no_gradient"),
    places="front*|back*|",
    model=lambda: Cut(torch.round),
)
fault("gradients never cleared", "optimizer", PLAIN, "accumulates", places=None, loop=WithoutZeroGrad)
fault("gradients never cleared, Adam", "optimizer", IMAGES, "accumulates", places=None, loop=WithoutZeroGrad)
fault("gradients cleared between backward and step", "optimizer", DIGITS, "cleared", places=None, loop=ClearedTooLate)
fault("gradients zeroed between backward and step", "optimizer", IMAGES, "cleared", places=None, loop=ZeroedTooLate)

# -- wiring and activations

fault(
    "nothing between the linear layers",
    "wiring",
    RINGS,
    "linear",
    places="fc*|act*|out",
    model=lambda: mlp((2, 32, 32, 1), act=None),
)
fault(
    "nothing between the linear layers, regression",
    "wiring",
    SURFACE,
    "linear",
    places="fc*|act*|out",
    model=lambda: mlp((5, 64, 64, 1), act=nn.Identity),
)
fault(
    "two activations in a row",
    "wiring",
    DIGITS,
    "redundant",
    places="act*|fc*",
    model=lambda: mlp((64, 64, 64, 10), act=lambda: nn.Sequential(nn.ReLU(), nn.Sigmoid())),
)
fault(
    "softmax as a hidden activation",
    "wiring",
    DIGITS,
    "hidden_softmax",
    places="act*|fc*|",
    model=lambda: mlp((64, 64, 64, 64, 10), act=lambda: nn.Softmax(1)),
)
fault(
    "dropout of 0.9 everywhere",
    "wiring",
    DIGITS,
    "dropout",
    places="drop*|",
    model=lambda: mlp((64, 64, 64, 10), drop=0.9),
)
fault(
    "dropout of 1",
    "wiring",
    DIGITS,
    ("dead_layer", "dropout"),
    places="drop*",
    model=lambda: mlp((64, 64, 64, 10), drop=1.0),
)
fault(
    "dropout on the logits",
    "wiring",
    IMAGES,
    "dropout",
    places="last|",
    model=lambda: cnn(last=lambda: nn.Dropout(0.5)),
)

# -- inits

INIT_LOW = ("vanishing", "vanishing_gradient", "cliff")
INIT_HIGH = ("exploding", "exploding_gradient", "saturation", "first_loss")
fault(
    "weights of zero",
    "init",
    DIGITS,
    ("dead_layer", "blocked_gradient"),
    places=None,
    model=initialized(DIGITS.model, nn.init.zeros_),
)
fault(
    "all weights alike",
    "init",
    DIGITS,
    "symmetry",
    places=None,
    model=initialized(DIGITS.model, lambda p: p.fill_(0.05)),
)
fault(
    "weights of N(0, 1), 5 layers",
    "init",
    PLAIN,
    INIT_HIGH,
    places=None,
    model=initialized(PLAIN.model, nn.init.normal_),
)
fault(
    "weights of N(0, 1), CNN",
    "init",
    replace(IMAGES, model=initialized(lambda: cnn(norm=False), he)),
    INIT_HIGH,
    places=None,
    model=initialized(lambda: cnn(norm=False), nn.init.normal_),
)
fault(
    "weights of N(0, 0.01), 10 layers",
    "init",
    replace(DIGITS, model=initialized(lambda: mlp((64,) * 10 + (10,)), he), optimizer=adam(1e-3)),
    INIT_LOW,
    places=None,
    model=initialized(lambda: mlp((64,) * 10 + (10,)), lambda p: nn.init.normal_(p, 0, 0.01)),
)
fault(
    "weights of U(0, 1)",
    "init",
    DIGITS,
    (*INIT_HIGH, "mean_shift"),
    places=None,
    model=initialized(DIGITS.model, nn.init.uniform_),
)
fault(
    "10 layers of sigmoids",
    "init",
    replace(DIGITS, model=initialized(lambda: mlp((64,) * 10 + (10,)), he), optimizer=adam(1e-3)),
    ("vanishing", "vanishing_gradient", "saturation"),
    places=None,
    model=lambda: mlp((64,) * 10 + (10,), act=nn.Sigmoid),
)
fault(
    "tanh with weights of N(0, 1)",
    "init",
    replace(DIGITS, model=initialized(lambda: mlp((64, 64, 64, 64, 10), nn.Tanh), nn.init.xavier_normal_)),
    "saturation",
    places=None,
    model=initialized(lambda: mlp((64, 64, 64, 64, 10), nn.Tanh), nn.init.normal_),
)
fault(
    "biases of -10 before ReLU",
    "init",
    DIGITS,
    ("dead_layer", "dead_channels"),
    places="fc*|act*",
    model=initialized(DIGITS.model, he, -10.0),
)
fault("tied embeddings of N(0, 1)", "init", GPT, "first_loss", places=None, model=lambda: Gpt(std=1.0))
fault(
    "20 layers of 1.5 times He",
    "init",
    replace(DIGITS, model=initialized(lambda: mlp((64,) * 20 + (10,)), he), optimizer=adam(3e-4)),
    INIT_HIGH,
    places=None,
    model=initialized(lambda: mlp((64,) * 20 + (10,)), lambda p: he(p) or p.mul_(1.5)),
)

# -- norms


def lagging(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.momentum = 1e-3


def unscaled(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.weight)


fault("BatchNorm on batches of one", "norm", IMAGES, "batch_of_one", places="norm*", batch=1)
fault(
    "BatchNorm on batches of two, MLP",
    "norm",
    replace(DIGITS, model=lambda: mlp((64, 64, 64, 10), norm=True)),
    ("batch_of_one", "small_batch"),
    places="norm*|",
    batch=2,
)
fault(
    "running statistics that lag",
    "norm",
    replace(RESNET, loop=Evaluated),
    "lag",
    places=None,
    model=altered(ResNet, lagging),
)
fault(
    "running statistics that lag, CNN",
    "norm",
    replace(IMAGES, loop=Evaluated),
    "lag",
    places=None,
    model=altered(cnn, lagging),
)
fault("trained in eval mode", "norm", RESNET, "eval_mode", places=None, loop=InEval)
fault(
    "trained in eval mode, MLP",
    "norm",
    replace(DIGITS, model=lambda: mlp((64, 64, 64, 10), norm=True, drop=0.2)),
    "eval_mode",
    places=None,
    loop=InEval,
)
fault("left in eval mode after an evaluation", "norm", IMAGES, "eval_mode", places=None, loop=LeftInEval)
fault(
    "a norm of single pixels",
    "norm",
    replace(
        IMAGES,
        model=lambda: altered(cnn, lambda net: setattr(net, "act3", nn.Sequential(nn.ReLU(), nn.GroupNorm(4, 32))))(),
    ),
    "dead_layer",
    places=None,
    model=altered(
        cnn,
        lambda net: setattr(
            net,
            "flat",
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.GroupNorm(32, 32), nn.Upsample(scale_factor=2), nn.Flatten()),
        ),
    ),
)
fault(
    "BatchNorms whose scale is zero",
    "norm",
    RESNET,
    ("dead_layer", "branch_vanishes", "blocked_gradient"),
    places=None,
    model=altered(ResNet, unscaled),
)

# -- recurrence and depth

CELLS = replace(FIRST, model=remembering(lambda: Cells(nn.LSTMCell, 2)), data=partial(first, length=24))
RNN_CELLS = replace(WAVES, model=lambda: Cells(nn.RNNCell, 4), data=changed(waves, lambda x: x[:, ::3]), loop=Loop)


def scaled_recurrence(std: float) -> Callable[[Any], None]:
    def scale(net: Any) -> None:
        for name, parameter in net.rnn.named_parameters():
            if name.startswith("weight_hh"):
                nn.init.normal_(parameter, 0, std)

    return scale


fault(
    "an LSTM that forgets",
    "recurrence",
    FIRST,
    "recurrent",
    places="rnn",
    model=remembering(lambda: Recurrent(nn.LSTM, 2), -4.0),
)
fault(
    "an LSTM cell that forgets",
    "recurrence",
    CELLS,
    "recurrent",
    places="rnn",
    model=remembering(lambda: Cells(nn.LSTMCell, 2), -4.0),
)
fault(
    "a tanh RNN cell that forgets",
    "recurrence",
    CELLS,
    "recurrent",
    places="rnn",
    model=altered(lambda: Cells(nn.RNNCell, 2), scaled_recurrence(0.02)),
)
fault(
    "a tanh RNN cell that explodes",
    "recurrence",
    RNN_CELLS,
    ("recurrent", "saturation"),
    places="rnn",
    model=altered(lambda: Cells(nn.RNNCell, 4), scaled_recurrence(1.5)),
)
fault(
    "40 layers without a skip",
    "depth",
    replace(DIGITS, model=lambda: mlp((64, 64, 64, 10))),
    ("vanishing", "vanishing_gradient"),
    places=None,
    model=lambda: mlp((64,) * 40 + (10,)),
)
fault(
    "50 layers of BatchNorm without a skip",
    "depth",
    replace(DIGITS, model=lambda: mlp((64, 64, 64, 10), norm=True)),
    "exploding_gradient",
    places=None,
    model=lambda: mlp((64,) * 50 + (10,), norm=True),
)

RULES: dict[str, tuple[str, ...]] = {
    "low": ("update_too_small",),
    "eps": ("eps_outweighs",),
    "high": ("update_too_large", "died_in_training"),
    "died": ("died_in_training",),
    "momentum": ("update_too_large",),
    "warmup": ("no_warmup",),
    "decay": ("decay_outweighs",),
    "missing": ("not_optimized",),
    "other": ("not_optimized",),
    "frozen": ("frozen_at_init",),
    "accumulates": ("gradients_not_cleared",),
    "cleared": ("cleared_too_early",),
    "lag": ("running_statistics",),
    "eval_mode": ("trained_in_eval_mode",),
    "recurrent": ("forgetting",),
    "small_batch": ("batch_of_one",),
    "softmax": ("output_activation",),
    "sigmoid": ("output_activation",),
    "squared": ("output_activation",),
    "axis": ("output_activation",),
    "nll": ("output_activation",),
    "single": ("one_unit_softmax",),
    "ascent": ("ascended",),
    "sum": ("loss_sum",),
    "broadcast": ("targets",),
    "range": ("output_range",),
    "relu_logits": ("output_activation",),
    "target": ("targets",),
    "target_scale": ("target_scale", "first_loss"),
    "stuck": ("loss_stuck",),
    "linear": ("linear_pair",),
    "redundant": ("activation_pair",),
    "nonfinite": ("nonfinite", "loss_nonfinite"),
}
"""From the faults as they are called above to the rules that name them, where a rule is not called so itself."""

# -- the run --------------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What came of one program."""

    findings: list[dict[str, str]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    fit: float = float("nan")
    failed: str | None = None


def fit(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Accuracy, or the share of the variance that is explained, over the training set in evaluation mode."""
    was = net.training
    net.eval()
    with torch.no_grad():
        output = net(x)
    net.train(was)
    if y.dtype == torch.long:
        return float((output.argmax(-1) == y).float().mean())
    if set(y.unique().tolist()) <= {0.0, 1.0}:
        ends = 0.5 if float(output.min()) >= 0 and float(output.max()) <= 1 else 0.0
        return float(((output > ends) == (y > 0.5)).float().mean())
    return float(1 - ((output - y) ** 2).mean() / y.var())


def run(recipe: Recipe, seed: int) -> Outcome:
    """Train, watched."""
    torch.manual_seed(seed)
    x, y = recipe.data(seed)
    net, out = recipe.model(), Outcome()
    optimizer = recipe.optimizer(net)
    order = torch.argsort(y, stable=True) if recipe.ordered else torch.cat([torch.randperm(len(x)) for _ in range(4)])
    watch = None
    try:
        watch = spp.watch(net, optimizer, every=1)
        with watch:
            step = recipe.loop(recipe, net, optimizer)
            for i in range(STEPS):
                part = order[i * recipe.batch % len(x) :][: recipe.batch]
                out.losses.append(step(x[part], y[part]))
    # what is refused outright is told as an error is
    except Exception as error:
        out.failed = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if watch is not None:
        out.findings = [told(finding) for finding in find(watch)]
    out.fit = round(fit(net, x, y), 3)
    return out


def told(finding: Finding) -> dict[str, str]:
    return {"rule": finding.rule, "severity": str(finding.severity), "name": finding.name, "message": finding.message}


def alarms(outcome: Outcome) -> list[dict[str, str]]:
    """Errors and warnings, the first one first; what a program or the watch was refused for comes before."""
    refused = (
        [{"rule": "refused", "severity": "error", "name": "", "message": outcome.failed}] if outcome.failed else []
    )
    return refused + [finding for finding in outcome.findings if finding["severity"] != Severity.NOTE]


def names(program: Program, finding: dict[str, str]) -> bool:
    """Whether a finding is of a rule that names the fault, at its place."""
    rules = {rule for right in program.right for rule in RULES.get(right, (right,))}
    places = program.places
    return finding["rule"] in rules and (places is None or any(fnmatch.fnmatchcase(finding["name"], p) for p in places))


def judged(program: Program, seed: int) -> dict[str, Any]:
    """A row: both programs, and whether they were told right."""
    begin = time.process_time()
    faulty, twin = run(program.faulty, seed), run(program.twin, seed)
    said = alarms(faulty)
    return {
        "program": program.name,
        "kind": program.kind,
        "seed": seed,
        "fit": faulty.fit,
        "twin fit": twin.fit,
        "losses": faulty.losses[:1] + faulty.losses[-1:],
        "detected": bool(said),
        "named": bool(said) and names(program, said[0]),
        "among": any(names(program, finding) for finding in said),
        "left alone": not alarms(twin),
        "said": said,
        "twin said": alarms(twin),
        "seconds": round(time.process_time() - begin, 1),
    }


def line(row: dict[str, Any]) -> str:
    """One program in a line."""
    word = "named" if row["named"] else "among" if row["among"] else "detected" if row["detected"] else "missed"
    told = "; ".join(f"{f['severity'][0]} {f['rule']} {f['name']}" for f in row["said"])[:150]
    twin = "; ".join(f"{f['severity'][0]} {f['rule']} {f['name']}" for f in row["twin said"])[:100]
    return (
        f"{row['program'][:54]:54} {row['seed']}  {row['fit']:6.2f} {row['twin fit']:5.2f}  {word:8} {told}"
        f"{' | TWIN ' + twin if twin else ''}"
    )


def summary(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Counts by kind."""
    words = ("detected", "named", "among", "left alone")
    yield f"{'':12} {'programs':>9} {'detected':>9} {'named':>9} {'among':>9} {'twins left alone':>17}"
    for kind in (*dict.fromkeys(row["kind"] for row in rows), "all"):
        own = [row for row in rows if kind in ("all", row["kind"])]
        counts = [sum(row[word] for row in own) for word in words]
        yield f"{kind:12} {len(own):>9} {counts[0]:>9} {counts[1]:>9} {counts[2]:>9} {counts[3]:>17}"
    yield "shares:      " + ", ".join(
        f"{word} {100 * sum(r[word] for r in rows) / max(1, len(rows)):.1f} %" for word in words
    )


def tables(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The rows of the two tables of the page: counts by kind, and every program."""
    words, counted, listed = ("detected", "named", "among", "left alone"), [], []
    for kind in (*dict.fromkeys(row["kind"] for row in rows), "all"):
        own = [row for row in rows if kind in ("all", row["kind"])]
        cells = [f"{sum(row[word] for row in own)} of {len(own)}" for word in words]
        counted.append(f"| {kind} | {len({row['program'] for row in own})} | {' | '.join(cells)} |")
    for name in dict.fromkeys(row["program"] for row in rows):
        own = [row for row in rows if row["program"] == name]
        first = [
            f"`{row['said'][0]['rule']}` {where(row['said'][0]['name'])}" if row["said"] else "nothing" for row in own
        ]
        fits = f"{sum(row['fit'] for row in own) / len(own):.2f} ({sum(row['twin fit'] for row in own) / len(own):.2f})"
        cells = [", ".join(dict.fromkeys(first)), *(str(sum(row[word] for row in own)) for word in words[:2])]
        listed.append(f"| {name} | {fits} | {' | '.join(cells)} | {sum(row['left alone'] for row in own)} |")
    return {"FAULTY COUNTS": counted, "FAULTY": listed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", default="*", help="glob over the names")
    parser.add_argument("--kind", default="*", help="glob over the kinds")
    parser.add_argument("--out", type=Path, default=Path("faulty.json"))
    parser.add_argument(
        "--read", type=Path, nargs="+", metavar="JSON", help="take the rows of earlier runs, run nothing"
    )
    parser.add_argument("--page", action="store_true", help="write the tables into docs/benches.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    for file in args.read or ():
        rows += json.loads(file.read_text())
    for program in () if args.read else PROGRAMS:
        if fnmatch.fnmatchcase(program.name, args.only) and fnmatch.fnmatchcase(program.kind, args.kind):
            for seed in range(args.seeds):
                rows.append(judged(program, seed))
                print(line(rows[-1]), flush=True)
            args.out.write_text(json.dumps(rows, indent=1))
    if args.page:
        put(ROOT / "docs" / "benches.md", tables(rows))
    print("\n".join(summary(rows)))
    print(f"{len(rows)} pairs, {sum(row['seconds'] for row in rows):.0f} s of CPU; {args.out}")


if __name__ == "__main__":
    main()
