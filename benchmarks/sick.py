"""Sick networks of many families: what the diagnosis says first of each, beside the bench in the tests.

    python benchmarks/sick.py                  # every one, those of the tests too; a line each, the counts, sick.json
    python benchmarks/sick.py --only "*GPT*"   # some, with all that was said

One disease is planted in a network that is healthy without it (most come from ``healthy.py``); the answer is a rule and a leaf.
The training stories of ``faulty.py`` are the rest of the bench. A fast share runs in the tests.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "cli")]

import spp  # noqa: E402  (the path is set above)
from benchmarks import faulty, healthy  # noqa: E402
from spp.nn import initialize_  # noqa: E402
from tests.bench_sick import parts  # noqa: E402
from tests.bench_sick.bench import examine, put, where  # noqa: E402
from tests.bench_sick.patients import PATIENTS, Patient, biased, rescaled, scaled  # noqa: E402

FAMILIES: list[Patient] = []
STORIES = ("rate", "decay", "optimizer", "norm", "recurrence")
"""Kinds of the programs of ``faulty.py`` that are ill over time."""


def sick(
    family: str, disease: str, rule: str, name: str, *, quick: bool = False, **options: Any
) -> Callable[[Callable[[], tuple[nn.Module, Any]]], None]:
    """Register the network that a function makes; ``quick`` ones run in the tests."""

    def register(make: Callable[[], tuple[nn.Module, Any]]) -> None:
        FAMILIES.append(Patient(f"{family}: {disease}", make, rule, name, options, family, quick))

    return register


def planted(
    family: str,
    disease: str,
    rule: str,
    name: str,
    network: Callable[[int], healthy.Made],
    change: Callable[[Any], Any],
    *,
    quick: bool = False,
    on: Callable[[Any], Any] = lambda batch: batch,
    **options: Any,
) -> None:
    """Register a healthy network with something done to it, or to its batch."""

    def make() -> healthy.Made:
        torch.manual_seed(0)
        net, batch, loss = network(0)
        change(net)
        return net, on(batch), loss

    FAMILIES.append(Patient(f"{family}: {disease}", make, rule, name, options, family, quick))


def transformers(name: str) -> Callable[[int], healthy.Made]:
    """A network of ``healthy.py`` of 6 layers: an outlier needs four others of its kind."""
    made = healthy.NETWORKS[f"transformers:{name}"]
    layers = {key: 6 for key in ("n_layer", "num_hidden_layers", "num_layers") if key in made.keywords}
    return partial(made, **layers)


def weight(layer: str, factor: float) -> Callable[[nn.Module], None]:
    return lambda net: scaled(net, layer, factor)


def bias(layer: str, value: float | Tensor) -> Callable[[nn.Module], None]:
    return lambda net: biased(net, layer, value)


def filled(name: str, value: float) -> Callable[[nn.Module], None]:
    """One number of a parameter set."""

    def fill(net: nn.Module) -> None:
        with torch.no_grad():
            net.get_parameter(name).view(-1)[5] = value

    return fill


def swapped(kind: type[nn.Module], make: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], None]:
    """Every module of a kind replaced."""

    def swap(net: nn.Module) -> None:
        for module in list(net.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, kind):
                    setattr(module, name, make(child))

    return swap


def both(*changes: Callable[[Any], Any]) -> Callable[[nn.Module], None]:
    def do(net: nn.Module) -> None:
        for change in changes:
            change(net)

    return do


def he(net: nn.Module) -> None:
    initialize_(net, "he")


unnormed = swapped(nn.BatchNorm2d, lambda _: nn.Identity())
own = healthy.OWN

# -- Transformers ---------------------------------------------------------------------------------------------------------

GPT2, BERT, LLAMA = transformers("GPT-2"), transformers("BERT, classes"), transformers("Llama")
PRE, POST = own["Transformer encoder, pre-norm"], own["Transformer encoder, post-norm"]

planted(
    "GPT-2",
    "a NaN in the embedding of places",
    "nonfinite",
    "transformer.wpe",
    GPT2,
    filled("transformer.wpe.weight", torch.nan),
)
planted(
    "GPT-2",
    "one projection of an MLP 100 times too large",
    "branch_dominates",
    "transformer.h.2.mlp.c_proj",
    GPT2,
    weight("transformer.h.2.mlp.c_proj", 100),
)
planted(
    "GPT-2",
    "one projection of attention 1000 times too large",
    "branch_dominates",
    "transformer.h.1.attn.c_proj",
    GPT2,
    weight("transformer.h.1.attn.c_proj", 1000),
)
planted(
    "GPT-2",
    "an MLP with a bias of -30 before GELU",
    "dead_layer",
    "transformer.h.1.mlp.c_fc",
    GPT2,
    bias("transformer.h.1.mlp.c_fc", -30.0),
)
planted("GPT-2", "a layer norm with a scale of 300", "cliff", "transformer.ln_f", GPT2, weight("transformer.ln_f", 300))
planted(
    "BERT",
    "one projection of an MLP 300 times too large",
    "branch_dominates",
    "bert.encoder.layer.1.output.dense",
    BERT,
    weight("bert.encoder.layer.1.output.dense", 300),
)
planted(
    "BERT",
    "one layer detached from what is before",
    "no_gradient",
    "bert.encoder.layer.1.output.LayerNorm",
    BERT,
    lambda net: net.bert.encoder.layer[2].register_forward_pre_hook(lambda m, a: (a[0].detach(), *a[1:])),
)
planted(
    "Llama",
    "embeddings of 1e-6 before RMSNorm",
    "norm_input",
    "model.embed_tokens",
    LLAMA,
    weight("model.embed_tokens", 5e-5),
)
planted(
    "Llama",
    "one down projection 300 times too large",
    "branch_dominates",
    "model.layers.2.mlp.down_proj",
    LLAMA,
    weight("model.layers.2.mlp.down_proj", 300),
)
planted(
    "Llama",
    "a NaN in one norm",
    "nonfinite",
    "model.layers.1.input_layernorm",
    LLAMA,
    filled("model.layers.1.input_layernorm.weight", torch.nan),
)
planted(
    "T5",
    "one feed-forward output 300 times too large",
    "branch_dominates",
    "encoder.block.1.layer.1.DenseReluDense.wo",
    transformers("T5"),
    weight("encoder.block.1.layer.1.DenseReluDense.wo", 300),
)
planted(
    "ViT",
    "one feed-forward output 1000 times too small",
    "branch_vanishes",
    "vit.layers.3.mlp.fc2",
    transformers("ViT"),
    both(weight("vit.layers.3.mlp.fc2", 1e-4), bias("vit.layers.3.mlp.fc2", 0.0)),
)
planted(
    "Swin",
    "one projection of attention 300 times too large",
    "branch_dominates",
    "swin.encoder.layers.1.blocks.0.attention.o_proj",
    transformers("Swin"),
    weight("swin.encoder.layers.1.blocks.0.attention.o_proj", 300),
)
planted(
    "ConvNeXt",
    "one depthwise convolution with a NaN",
    "nonfinite",
    "convnext.encoder.stages.1.layers.1.dwconv",
    transformers("ConvNeXt"),
    filled("convnext.encoder.stages.1.layers.1.dwconv.weight", torch.nan),
)
planted(
    "Mamba",
    "one output projection 1000 times too large",
    "branch_dominates",
    "backbone.layers.2.mixer.out_proj",
    transformers("Mamba"),
    weight("backbone.layers.2.mixer.out_proj", 1000),
)
planted(
    "Transformer encoder, pre-norm",
    "70 % of the units of one MLP dead",
    "dead_channels",
    "encoder.layers.1.linear1",
    PRE,
    bias("encoder.layers.1.linear1", torch.where(torch.arange(256) < 180, -20.0, 0.0)),
    quick=True,
)
planted(
    "Transformer encoder, pre-norm",
    "one feed-forward output 100 times too large",
    "branch_dominates",
    "encoder.layers.2.linear2",
    PRE,
    weight("encoder.layers.2.linear2", 100),
)
planted("Transformer encoder, pre-norm", "embeddings of exact zeros", "dead_layer", "embed", PRE, weight("embed", 0.0))
planted(
    "Transformer encoder, post-norm",
    "an MLP of zeros",
    "dead_layer",
    "encoder.layers.1.linear1",
    POST,
    both(weight("encoder.layers.1.linear1", 0.0), bias("encoder.layers.1.linear1", 0.0)),
    quick=True,
)
planted(
    "Transformer encoder, post-norm",
    "a bias of 100 in one MLP",
    "bias_outlier",
    "encoder.layers.2.linear1",
    POST,
    bias("encoder.layers.2.linear1", 100.0),
)


@sick("Transformer encoder without norms", "branches that nothing scales", "residual_growth", "", quick=True)
def _() -> tuple[nn.Module, Any]:
    net = parts.encoder(10)
    swapped(nn.LayerNorm, lambda _: nn.Identity())(net)
    for parameter in net.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, 0, 1.6 / parameter.shape[1] ** 0.5)
    return net, spp.data.gaussian(8, (10, 64), seed=0)


class Masked(nn.Module):
    """Attention in which one sample has nothing to look at."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.softmax, self.out = nn.Linear(32, 96), nn.Softmax(-1), nn.Linear(32, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        weights = self.softmax((q @ k.transpose(1, 2)).masked_fill(mask[:, None], -torch.inf))
        return self.out((weights @ v).mean(1))


@sick("attention", "one sample whose mask leaves nothing", "nonfinite", "softmax", quick=True)
def _() -> tuple[nn.Module, Any]:
    mask = torch.zeros(8, 10, dtype=torch.bool)
    mask[3] = True
    return Masked(), ((spp.data.gaussian(8, (10, 32), seed=0), mask), torch.arange(8) % 4)


# -- recurrent ------------------------------------------------------------------------------------------------------------

planted(
    "LSTM language model",
    "a NaN in the recurrent weights",
    "nonfinite",
    "rnn",
    own["LSTM language model"],
    filled("rnn.weight_hh_l0", torch.nan),
    quick=True,
)
planted(
    "LSTM language model",
    "embeddings of zeros",
    "dead_layer",
    "embed",
    own["LSTM language model"],
    weight("embed", 0.0),
)
planted(
    "GRU language model",
    "the readout 3000 times too large",
    "first_loss",
    "head",
    own["GRU language model"],
    weight("head", 3000),
)
planted(
    "bidirectional LSTM",
    "a bias of -50 before the ReLU of its head",
    "dead_layer",
    "head.0",
    own["bidirectional LSTM of packed texts"],
    bias("head.0", -50.0),
    quick=True,
)


class Spiking(nn.Module):
    """A recurrence of hard thresholds without a surrogate gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.fire, self.out = nn.Linear(32, 64), Threshold(), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.fire(self.inner(x)))


class Threshold(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sign(x)


@sick("binarized network", "signs without a straight-through gradient", "blocked_gradient", "fire", quick=True)
def _() -> tuple[nn.Module, Any]:
    return Spiking(), (spp.data.gaussian(32, (32,), seed=0), torch.arange(32) % 4)


class Codebook(nn.Module):
    """The nearest of learned vectors, without the gradient put through."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.codes[torch.cdist(x, self.codes).argmin(-1)]


@sick("VQ-VAE", "codes without a straight-through gradient", "no_gradient", "2", quick=True)
def _() -> tuple[nn.Module, Any]:
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16), Codebook(), nn.Linear(16, 64))
    return net, spp.data.gaussian(32, (64,), seed=0)


# -- images ---------------------------------------------------------------------------------------------------------------

planted("U-Net", "one convolution of zeros", "dead_layer", "down.2.0", own["U-Net"], weight("down.2.0", 0.0))
planted(
    "U-Net",
    "80 % of the rows of one convolution are zero",
    "dead_channels",
    "down.1.3",
    own["U-Net"],
    lambda net: net.down[1][3].weight.data[:26].zero_(),
    quick=True,
)
planted("U-Net", "a NaN in an upsampling", "nonfinite", "up.1", own["U-Net"], filled("up.1.weight", torch.nan))
planted(
    "U-Net without norms",
    "one convolution 100 times too large",
    "cliff",
    "down.2.3",
    own["U-Net"],
    both(unnormed, he, weight("down.2.3", 100)),
    quick=True,
)
planted(
    "U-Net without norms",
    "a bias of -30 before ReLU",
    "dead_layer",
    "down.1.0",
    own["U-Net"],
    both(
        unnormed,
        he,
        lambda net: setattr(net.down[1][0], "bias", nn.Parameter(torch.full((32,), -30.0))),
    ),
)
planted(
    "diffusion U-Net",
    "a square root of the noise",
    "nonfinite",
    "stem",
    own["diffusion U-Net, zero convolutions"],
    lambda net: None,
    on=lambda batch: ((batch[0][0].clone().sqrt(), batch[0][1]), batch[1]),
)
planted(
    "DCGAN",
    "the generator's weights of N(0, 1), without norms",
    "exploding",
    "generator.*",
    own["DCGAN, the generator's step"],
    both(unnormed, lambda net: [nn.init.normal_(p) for p in net.parameters() if p.dim() > 1]),
    quick=True,
)
planted(
    "DCGAN",
    "the generator's output detached",
    "no_gradient",
    "generator.9",
    own["DCGAN, the generator's step"],
    lambda net: net.discriminator.register_forward_pre_hook(lambda m, a: (a[0].detach(),)),
)
planted("VAE", "the layer behind the latent 100 times too large", "cliff", "expand", own["VAE"], weight("expand", 100))
planted(
    "VAE",
    "log-variances of 200 overflow",
    "nonfinite",
    "expand",
    own["VAE"],
    bias("logvar", 200.0),
    loss=lambda output, target: F.mse_loss(output[0], target),
)
planted(
    "autoencoder",
    "a bottleneck of zeros",
    "dead_layer",
    "5",
    own["autoencoder, linear"],
    both(weight("5", 0.0), bias("5", 0.0)),
    quick=True,
)
planted(
    "PointNet",
    "BatchNorm on one cloud",
    "batch_of_one",
    "shared.1",
    own["PointNet"],
    lambda net: setattr(net.head, "1", nn.Identity()),
    on=lambda batch: (batch[0][:1], batch[1][:1]),
    quick=True,
)
planted(
    "PointNet",
    "one shared layer with 80 % of its rows zero",
    "dead_channels",
    "shared.6",
    own["PointNet"],
    lambda net: (net.shared[6].weight.data[:104].zero_(), net.shared[6].bias.data[:104].zero_()),
)
planted(
    "the tutorial's digits",
    "a bias of -50 before F.relu",
    "dead_layer",
    "conv2",
    own["the tutorial's digits, functions"],
    bias("conv2", -50.0),
    quick=True,
)
planted(
    "the tutorial's digits",
    "the second convolution 300 times too large",
    "cliff",
    "conv2",
    own["the tutorial's digits, functions"],
    weight("conv2", 300),
)
planted(
    "the tutorial's digits",
    "70 % of the units of a linear layer dead",
    "dead_channels",
    "fc1",
    own["the tutorial's digits, functions"],
    bias("fc1", torch.where(torch.arange(128) < 90, -20.0, 0.0)),
    quick=True,
)
planted(
    "torchvision's ResNet-18",
    "BatchNorm on one image",
    "batch_of_one",
    "bn1",
    healthy.NETWORKS["torchvision:resnet18"],
    lambda net: None,
    on=lambda batch: (batch[0][:1], batch[1][:1]),
)
planted(
    "torchvision's MobileNetV2",
    "without norms, its init ignores groups",
    "groups_init",
    "features.1.conv.0.0",
    healthy.NETWORKS["torchvision:mobilenet_v2"],
    unnormed,
)
planted(
    "timm's ConvMixer",
    "a NaN in one convolution",
    "nonfinite",
    "blocks.3.1",
    healthy.NETWORKS["timm:convmixer_768_32"],
    filled("blocks.3.1.weight", torch.nan),
)
planted(
    "timm's MLP-Mixer",
    "one channel MLP 300 times too large",
    "branch_dominates",
    "blocks.4.mlp_channels.fc2",
    healthy.NETWORKS["timm:mixer_s16_224"],
    weight("blocks.4.mlp_channels.fc2", 300),
)


@sick("residual squeeze-and-excitation", "gates in a network without norms", "se_gates", "blocks.0.se", quick=True)
def _() -> tuple[nn.Module, Any]:
    return Gated(), spp.data.gaussian(8, (3, 16, 16), seed=0)


class Gate(nn.Module):
    """Hu et al. 2018."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width // 4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))


class Gated(nn.Module):
    """Plain convolutions with gates between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 32, 3, padding=1), nn.Linear(32, 10)
        self.blocks = nn.ModuleList()
        for _ in range(10):
            block = nn.Module()
            block.conv, block.act, block.se = nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), Gate(32)
            self.blocks.append(block)
        initialize_(self, "he")

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block.se(block.act(block.conv(x)))
        return self.head(x.mean((2, 3)))


# -- graphs, tables, signals, functions -----------------------------------------------------------------------------------


class DeepGraph(nn.Module):
    """Many graph convolutions: everything comes to look alike (Li, Han & Wu 2018)."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(60 if i == 0 else 32, 32) for i in range(layers))
        self.head = nn.Linear(32, 4)
        initialize_(self, "he")

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.relu(adjacency @ layer(x))
        return self.head(x)


@sick("graph convolutions", "24 layers smooth everything out", "mean_shift", "layers.*", quick=True)
def _() -> tuple[nn.Module, Any]:
    _, batch, _ = healthy.graph(healthy.Graph, 0)
    return DeepGraph(24), batch


planted(
    "graph convolutions",
    "a bias of 50 in the first layer",
    "bias_outlier",
    "layers.0",
    own["graph convolutions"],
    bias("layers.0", 50.0),
)
planted(
    "graph attention",
    "a NaN in the scores",
    "nonfinite",
    "score",
    own["graph attention"],
    filled("score.weight", torch.nan),
    quick=True,
)
planted(
    "MLP on a table",
    "a bias of -50 before ReLU",
    "dead_layer",
    "2",
    own["MLP on a table, regression"],
    bias("2", -50.0),
    quick=True,
)
planted(
    "tanh network that fits a function",
    "weights 30 times too large",
    "saturation",
    "0",
    own["tanh network that fits a function"],
    lambda net: rescaled(net, 30),
    quick=True,
)
planted(
    "tanh network that fits a function",
    "one layer 1000 times too small",
    "cliff",
    "4",
    own["tanh network that fits a function"],
    weight("4", 1e-3),
)
planted(
    "one-dimensional ResNet",
    "one branch 1000 times too large",
    "branch_dominates",
    "blocks.3.2",
    own["one-dimensional ResNet"],
    weight("blocks.3.2", 1000),
    quick=True,
)
planted(
    "one-dimensional ResNet",
    "one branch 1000 times too small",
    "branch_vanishes",
    "blocks.2.2",
    own["one-dimensional ResNet"],
    both(weight("blocks.2.2", 1e-3), bias("blocks.2.2", 0.0)),
)
planted(
    "recommender",
    "item vectors of zeros",
    "dead_layer",
    "items",
    own["recommender of two embeddings"],
    weight("items", 0.0),
    quick=True,
)
planted(
    "recommender",
    "user vectors detached",
    "no_gradient",
    "users",
    own["recommender of two embeddings"],
    lambda net: net.users.register_forward_hook(lambda m, a, out: out.detach()),
    quick=True,
)


class Experts(nn.Module):
    """Four experts, of which the choice never falls on the last."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(32, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32)) for _ in range(4))
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        share, chosen = torch.softmax(self.gate(x), -1)[:, :3].max(-1)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            if (chosen == i).any():
                out[chosen == i] = share[chosen == i, None] * expert(x[chosen == i])
        return self.head(x + out)


@sick("mixture of experts", "an expert that is never chosen", "never_ran", "experts.3.0", quick=True)
def _() -> tuple[nn.Module, Any]:
    return Experts(), (spp.data.gaussian(64, (32,), seed=0), torch.arange(64) % 4)


class Unused(nn.Module):
    """A network whose auxiliary head is built and forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.aux = parts.convolutional(), nn.Sequential(nn.Conv2d(16, 16, 1), nn.ReLU(), nn.Conv2d(16, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@sick("convolutional network with a second head", "the head is never called", "never_ran", "aux.0", quick=True)
def _() -> tuple[nn.Module, Any]:
    return Unused(), parts.images()


# -- plain chains of other kinds ------------------------------------------------------------------------------------------


@sick("depthwise one-dimensional network", "an init that ignores groups", "groups_init", "depth0", quick=True)
def _() -> tuple[nn.Module, Any]:
    net = nn.Sequential()
    net.add_module("stem", nn.Conv1d(1, 32, 1))
    for i in range(6):
        net.add_module(f"depth{i}", nn.Conv1d(32, 32, 5, padding=2, groups=32))
        net.add_module(f"act{i}", nn.ReLU())
        net.add_module(f"point{i}", nn.Conv1d(32, 32, 1))
    net.add_module("head", nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 5)))
    return initialize_(net, "he_groups_blind"), spp.data.gaussian(8, (1, 64), seed=0)


@sick("convolutional network", "torch's default init, 16 layers", "vanishing", "")
def _() -> tuple[nn.Module, Any]:
    return initialize_(parts.convolutional(depth=16), "default"), parts.images()


@sick("convolutional network", "every convolution twice too large", "exploding", "", quick=True)
def _() -> tuple[nn.Module, Any]:
    return rescaled(parts.convolutional(depth=12), 2.0), parts.images()


@sick("convolutional network with BatchNorm", "60 layers without skips", "exploding_gradient", "")
def _() -> tuple[nn.Module, Any]:
    return parts.convolutional(norm=True, depth=60), parts.images()


@sick(
    "convolutional network",
    "a backward that lets a twentieth through at every layer",
    "vanishing_gradient",
    "",
    quick=True,
)
def _() -> tuple[nn.Module, Any]:
    net = parts.convolutional(depth=12)
    for i in range(12):
        net = parts.inserted(net, f"act{i}", f"damp{i}", parts.Damp(0.05))
    return net, parts.images()


@sick(
    "convolutional network",
    "a reversal layer that scales gradients by -10,000",
    "gradient_cliff",
    "reverse",
    quick=True,
)
def _() -> tuple[nn.Module, Any]:
    return parts.inserted(parts.convolutional(), "act4", "reverse", parts.Damp(-1e4)), parts.images()


@sick("convolutional network", "images of 0 to 255", "inputs", "conv0")
def _() -> tuple[nn.Module, Any]:
    return parts.convolutional(), 128 + 2 * parts.images()


@sick(
    "convolutional network with GroupNorm",
    "one convolution 1e-5 times as large before a norm",
    "norm_input",
    "conv3",
    quick=True,
)
def _() -> tuple[nn.Module, Any]:
    net = scaled(parts.convolutional(), "conv3", 1e-5)
    return parts.inserted(net, "conv3", "norm", nn.GroupNorm(4, 16)), parts.images()


class Twice(nn.Linear):
    """A weight that is a ten-thousandth of what is meant, and multiplied by as much."""

    factor = 1e4

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * super().forward(x)


@sick("plain network", "one weight scaled down, its output up, by 10,000", "gradient_imbalance", "lin4", quick=True)
def _() -> tuple[nn.Module, Any]:
    net = parts.plain()
    net.lin4 = Twice(64, 64)
    initialize_(net, "he")
    return scaled(net, "lin4", 1e-4), parts.vectors()


class TwiceConv(nn.Conv2d):
    """The same of a convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return 1e4 * super().forward(x)


@sick(
    "convolutional network",
    "one weight scaled down, its output up, by 10,000",
    "gradient_imbalance",
    "conv3",
    quick=True,
)
def _() -> tuple[nn.Module, Any]:
    net = parts.convolutional()
    net.conv3 = TwiceConv(16, 16, 3, padding=1)
    initialize_(net, "he")
    return scaled(net, "conv3", 1e-4), parts.images()


@sick("convolutional network in float16", "values that nearly fill the format", "number_format", "conv3", quick=True)
def _() -> tuple[nn.Module, Any]:
    net = scaled(scaled(parts.convolutional(), "conv3", 4.0), "conv4", 0.25)
    return net.half(), parts.images().half() * 1500


@sick("residual network without norms", "20 branches that nothing scales", "residual_growth", "")
def _() -> tuple[nn.Module, Any]:
    _, batch, _ = own["one-dimensional ResNet"](0)
    net = healthy.Waves()
    net.blocks = nn.ModuleList(nn.Sequential(nn.ReLU(), nn.Conv1d(32, 32, 3, padding=1)) for _ in range(20))
    return initialize_(net, "he"), batch


def table(rows: list[dict[str, Any]]) -> list[str]:
    """By rule: how many are ill of it, of which families, how many are told right, and what is told of the others."""
    rules = dict[str, list[dict[str, Any]]]()
    for row in rows:
        rules.setdefault(row["rule"] if isinstance(row["rule"], str) else " or ".join(row["rule"]), []).append(row)
    lines = []
    for rule, own in rules.items():
        wrong = [f"{r['disease']}: {r['said'][0] if r['said'] else 'nothing'}" for r in own if not r["right"]]
        families = len({r["family"] for r in own})
        lines.append(f"| `{rule}` | {len(own)} | {families} | {len(own) - len(wrong)} | {'; '.join(wrong) or 'none'} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="glob over what was done")
    parser.add_argument("--out", type=Path, default=Path("sick.json"))
    parser.add_argument("--page", action="store_true", help="write the table into docs/benches.md")
    args = parser.parse_args()
    chosen = [patient for patient in (*PATIENTS, *FAMILIES) if fnmatch.fnmatchcase(patient.disease, args.only)]
    rows = []
    for patient in chosen:
        begin = time.process_time()
        try:
            found = [f for f in examine(patient.make, **patient.options) if f.severity != "note"]
        # one that cannot be examined is a row of its own
        except Exception as error:
            found = []
            print(f"failed: {patient.disease}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        first = found[0] if found else None
        said = [f"{f.severity}: {f.rule} {where(f.name)}" for f in found]
        right = first is not None and patient.answers(first)
        row = {"disease": patient.disease, "family": patient.family, "rule": patient.rule, "name": patient.name}
        rows.append(row | {"right": right, "said": said, "seconds": round(time.process_time() - begin, 2)})
        if not right or args.only != "*":
            shown = (
                said if args.only == "*" else [f"{f.severity}: {f.rule} {where(f.name)}: {f.message}" for f in found]
            )
            word, answer = "right" if right else "WRONG", f"{patient.rule} {where(patient.name)}"
            print(f"{word}: {patient.disease} | {answer} | {shown or 'nothing'}")
    stories = [p for p in faulty.PROGRAMS if p.kind in STORIES and fnmatch.fnmatchcase(p.name, args.only)]
    for program in stories:
        begin = time.process_time()
        alarms = faulty.alarms(faulty.run(program.faulty, 0))
        said = [f"{f['severity']}: {f['rule']} {where(f['name'])}" for f in alarms]
        right = bool(alarms) and faulty.names(program, alarms[0])
        row = {
            "disease": program.name,
            "family": f"story: {program.kind}",
            "rule": tuple(dict.fromkeys(rule for one in program.right for rule in faulty.RULES.get(one, (one,)))),
            "name": program.places,
        }
        rows.append(row | {"right": right, "said": said, "seconds": round(time.process_time() - begin, 2)})
        if not right:
            print(f"WRONG: {program.name} | {program.right} {program.places} | {said or 'nothing'}")
    args.out.write_text(json.dumps(rows, indent=1))
    if args.page:
        put(ROOT / "docs" / "benches.md", {"SICK FAMILIES": table(rows)})
    rules, families = Counter(p.rule for p in chosen), {p.family or p.disease for p in chosen}
    print("rules:", ", ".join(f"{rule} {n}" for rule, n in rules.most_common()))
    print(
        f"{sum(row['right'] for row in rows)} of {len(rows)} right, {len(families)} families, {len(stories)} stories; "
        f"{sum(row['seconds'] for row in rows):.0f} s of CPU; {args.out}"
    )


if __name__ == "__main__":
    main()
