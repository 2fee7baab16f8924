"""Make the gallery: every kind of figure for six networks, as pictures in ``docs/gallery`` and a page around some of them.

python docs/make_gallery.py               # all of it; a few minutes on one core
python docs/make_gallery.py ffn gpt2      # some of the networks; the page is written with those of ``KEPT``

Git keeps the pictures of ``KEPT`` alone: all of them would be a quarter of the repository.

The tests draw the same figures from smaller inputs and look for texts that overlap.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

import spp
from spp.plot import SignalPlot, signal_plot
from spp.plot import compare as compared

HERE = Path(__file__).resolve().parent
KINDS = ("components", "runs", "layers", "blocks", "compare", "evolution", "channels", "distribution", "theory")
WIDTHS = {"blocks": "single", "distribution": "single", "channels": "single"}
"""Width of each kind's pictures; the others go over both columns."""

KEPT = ("effnet_b0-none",)
"""Networks whose pictures are kept in the repository and shown on the page; the others are made by who wants to see them."""

STEPS = (0, 1, 2, 4, 8)
"""Training steps of the evolution figures."""


@dataclass
class Network:
    """One network of the gallery.

    Attributes:
        title: How the page calls it.
        build: Makes it from the name of a variant.
        batch: Makes a batch, small or as large as on the page.
        variants: The lines of its comparison, the first being the network itself.
        layer: The layer whose values are shown.
        seeds: How many of them a comparison has.
        facts: What its captions state.
    """

    title: str
    build: Callable[[str], nn.Module]
    batch: Callable[[bool], Any]
    variants: tuple[str, ...]
    layer: str
    seeds: int = 1
    fact: str = "norm"
    facts: dict[str, Any] = field(default_factory=dict)
    small: bool = False

    def traced(self, variant: str, seed: int = 0, **more: bool) -> spp.Trace:
        """Build one variant under a seed and trace it."""
        torch.manual_seed(seed)
        batch = self.batch(self.small)
        trace = spp.trace(self.build(variant), batch, seed=seed, **more)
        first = batch if isinstance(batch, torch.Tensor) else next(iter(batch.values()))
        trace.run["input_shape"] = list(first.shape[1:])
        trace.run.update(self.facts, **{self.fact: variant})
        return trace

    @cached_property
    def trace(self) -> spp.Trace:
        """The network itself, in every way that a figure needs."""
        return self.traced(self.variants[0], channels=True, exponents=True)

    @cached_property
    def beside(self) -> list[spp.Trace]:
        """The network and its variants, each under every seed."""
        arms = [(variant, seed) for variant in self.variants for seed in range(self.seeds)]
        return [self.trace, *(self.traced(*arm) for arm in arms[1:])]

    def figure(self, kind: str) -> SignalPlot | None:
        """Draw one kind; None where the network has nothing to show for it."""
        size: dict[str, Any] = {"style": "paper", "width": WIDTHS.get(kind, "double")}
        if kind == "blocks" and self.trace.blocks.empty:
            return None
        if kind in ("runs", "compare"):
            return compared(self.beside, "components" if kind == "runs" else kind, **size)
        if kind == "evolution":
            return signal_plot(kind, frame=self._trained(), blocks=self.trace.blocks, run=self.trace.run, **size)
        if kind == "theory":
            return self._theory(size)
        return self.trace.plot(kind, **size, **({"layer": self.layer} if kind == "distribution" else {}))

    def _trained(self) -> pd.DataFrame:
        """The frame at some steps of a few steps of plain gradient descent on one batch."""
        torch.manual_seed(0)
        model, batch = self.build(self.variants[0]), self.batch(self.small)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        frames = []
        steps = STEPS[:2] if self.small else STEPS
        for step in range(max(steps) + 1):
            if step in steps:
                frames.append(spp.trace(model, batch).frame.assign(step=np.int64(step)))
            optimizer.zero_grad()
            _loss(model, batch).backward()
            optimizer.step()
        return pd.concat(frames, ignore_index=True)

    def _theory(self, size: dict[str, Any]) -> SignalPlot | None:
        if importlib.util.find_spec("spp.theory.table") is None:
            return None
        from spp.theory import predict
        from spp.theory.table import attach

        batch = self.batch(self.small)
        if not isinstance(batch, torch.Tensor):
            return None  # whole numbers have no moments to begin with
        torch.manual_seed(0)
        frame = attach(self.trace.frame, predict(self.build(self.variants[0]), batch))
        if frame["acv_predicted"].isna().all():
            return None
        return signal_plot("theory", frame=frame, blocks=self.trace.blocks, run=self.trace.run, **size)


def _loss(model: nn.Module, batch: Any) -> torch.Tensor:
    """The model's own loss, or how far its output is from one."""
    if isinstance(batch, dict):
        loss: torch.Tensor = model(**batch).loss
        return loss
    return ((model(batch) - 1) ** 2).mean()


def _images(pixels: int) -> Callable[[bool], torch.Tensor]:
    return lambda small: spp.data.gaussian(2 if small else 16, (3, *[32 if small else pixels] * 2), seed=0)


def _bundled(name: str, **changes: Any) -> Callable[[str], nn.Module]:
    return lambda norm: spp.models.build(name, norm=norm, **changes)


def _deep(activation: str, linears: int) -> nn.Module:
    """So many times a linear layer of sixteen units and an activation."""
    gain = nn.init.calculate_gain(activation)
    layers: list[nn.Module] = []
    for _ in range(linears):
        linear = nn.Linear(16, 16)
        nn.init.normal_(linear.weight, std=gain / 4)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU() if activation == "relu" else nn.Tanh()]
    return nn.Sequential(*layers)


def _gpt2(activation: str) -> nn.Module:
    import transformers

    config = transformers.GPT2Config(
        n_layer=6, n_head=4, n_embd=64, vocab_size=200, n_positions=64, activation_function=activation
    )
    model: nn.Module = transformers.GPT2LMHeadModel(config)
    return model.train()


def _tokens(small: bool) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 200, (2 if small else 8, 16 if small else 48), generator=generator)
    return {"input_ids": tokens, "labels": tokens}


def networks(*, small: bool = False) -> dict[str, Network]:
    """Every network of the gallery by its short name; GPT-2 only where transformers is installed.

    Args:
        small: Take smaller inputs, and narrower or fewer layers, where a test needs the figures and nobody reads
            the numbers.
    """
    image: dict[str, Any] = {"data": "gaussian", "init": "he"}
    resnet: dict[str, Any] = {"widths": (8, 16, 32, 64)} if small else {}
    effnet: dict[str, Any] = {"width_multiplier": 0.25} if small else {}
    linears = 400 if small else 1000
    found = {
        "ffn": Network(
            "A fully connected network of ten layers",
            _bundled("ffn"),
            _images(32),
            ("none", "batch", "layer"),
            "layer5.act",
            seeds=2 if small else 5,
            facts={"model": "ffn", "data": "gaussian"},
        ),
        "resnet50": Network(
            "ResNet-50",
            _bundled("resnet50", init="he", **resnet),
            _images(64),
            ("batch", "none"),
            "stage3.0.act1",
            facts={"model": "resnet50"} | image,
        ),
        "effnet_b0-none": Network(
            "EfficientNet-B0 without normalization",
            _bundled("effnet_b0", **effnet),
            _images(64),
            ("none", "batch"),
            "stage4.1.se.gate",
            facts={"model": "effnet_b0", "data": "gaussian"},
        ),
        "effnet_b0-batch": Network(
            "EfficientNet-B0 with BatchNorm",
            _bundled("effnet_b0", **effnet),
            _images(64),
            ("batch", "affine", "group"),
            "stage4.1.se.gate",
            facts={"model": "effnet_b0", "data": "gaussian"},
        ),
        "deep2000": Network(
            "Two thousand layers of sixteen units",
            lambda activation: _deep(activation, linears),
            lambda small: spp.data.gaussian(16 if small else 64, (16,), seed=0),
            ("relu", "tanh"),
            str(2 * linears - 1),
            fact="activation",
            facts={"model": "deep2000", "data": "gaussian"},
        ),
    }
    if importlib.util.find_spec("transformers") is not None:
        found["gpt2"] = Network(
            "GPT-2 of six blocks, as the transformers library builds it",
            _gpt2,
            _tokens,
            ("gelu_new", "relu"),
            "transformer.h.2.mlp.act",
            fact="activation",
            facts={"model": "GPT2LMHeadModel", "data": "random tokens"},
        )
    for network in found.values():
        network.small = small
    return found


def figures(network: Network) -> Iterator[tuple[str, SignalPlot]]:
    """Draw every kind that the network has something to show for."""
    for kind in KINDS:
        figure = network.figure(kind)
        if figure is not None:
            yield kind, figure


def page(captions: dict[str, dict[str, str]], titles: dict[str, str]) -> str:
    """The text of ``docs/gallery.md`` around the pictures."""
    parts = [
        '# Gallery\n\nEvery kind of figure, at the size that a page gives it: `style="paper"`, one or both '
        "columns wide. The sentence under a picture is its `caption`. Made by `python docs/make_gallery.py`, which makes "
        "the same figures of five further networks (`ffn`, `resnet50`, `effnet_b0-batch`, `deep2000`, `gpt2`) beside them; "
        "[figures.md](figures.md) says how to draw each.\n"
    ]
    for name, of_kind in captions.items():
        parts.append(f"## {titles[name]}\n")
        for kind, caption in of_kind.items():
            # as Markdown, since Sphinx copies no picture of raw HTML
            parts.append(f"### {titles[name]}: {kind}\n\n![{kind}](gallery/{name}-{kind}.png)\n\n{caption}\n")
    return "\n".join(parts)


def main(wanted: list[str]) -> None:
    """Make the pictures of the networks ``wanted``, all of them where none is named, and then the page too."""
    from pictures import small_png  # beside this file

    folder = HERE / "gallery"
    folder.mkdir(exist_ok=True)
    captions: dict[str, dict[str, str]] = {}
    found = networks()
    for name, network in found.items():
        if wanted and name not in wanted:
            continue
        for kind, figure in figures(network):
            target = folder / f"{name}-{kind}.png"
            figure.save(target)
            small_png(target, target)
            if name in KEPT:
                captions.setdefault(name, {})[kind] = figure.caption
            print(name, kind, flush=True)
    if set(KEPT) <= set(captions):
        titles = {name: network.title for name, network in found.items()}
        (HERE / "gallery.md").write_text(page(captions, titles), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
