"""What the diagnosis says of healthy networks at their own init, in train and in eval mode.

    python benchmarks/healthy.py                       # one seed: a table, and healthy.json
    python benchmarks/healthy.py --seeds 3 --page      # as in the documentation, into docs/benches.md
    python benchmarks/healthy.py --only "timm:*" --mode eval --out timm.json

The smallest members of the families of torchvision and timm on crops of photographs, small networks of transformers on the
words of this repository's pages (masks and lengths as they come), and some that people write themselves. Libraries that are
missing are left out. No weights are loaded. Every row is one trace; an error or a warning there is a false alarm.
"""

from __future__ import annotations

import argparse
import fnmatch
import gc
import importlib.util
import itertools
import json
import math
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "cli")]

import spp  # noqa: E402  (the path is set above)
from spp.diagnosis import Finding, Severity, find  # noqa: E402
from tests import foreign  # noqa: E402
from tests.bench_sick.bench import put, where  # noqa: E402

SAMPLES, CLASSES = 8, 10
Made = tuple[nn.Module, Any, Callable[..., Tensor] | None]
"""A network, its batch, and its loss where it is not the usual one."""

# -- what goes in ---------------------------------------------------------------------------------------------------------


@cache
def photographs() -> list[np.ndarray]:
    """Two photographs, 427 x 640."""
    from sklearn.datasets import load_sample_images

    return [image.astype(np.float32) / 255 for image in load_sample_images().images]


def images(side: int, samples: int = SAMPLES, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Crops of photographs, resized and standardized as for ImageNet, and class labels."""
    draw, crops = np.random.default_rng(seed), []
    for i in range(samples):
        image = photographs()[i % 2]
        size = int(draw.integers(min(side, 200), 400))
        top, left = (int(draw.integers(0, n - size + 1)) for n in image.shape[:2])
        crop = torch.from_numpy(image[top : top + size, left : left + size].copy()).permute(2, 0, 1)
        crops.append(F.interpolate(crop[None], (side, side), mode="area")[0])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (torch.stack(crops) - mean[:, None, None]) / std[:, None, None]
    return x, torch.from_numpy(draw.integers(0, CLASSES, samples))


@cache
def words() -> list[int]:
    """The words of this repository's pages as ids from 5 on, the most frequent first: 0 is padding, 1 to 4 are special."""
    text = " ".join(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))
    found = re.findall(r"\w+|[^\w\s]", text.lower())
    rank = {word: i for i, (word, _) in enumerate(Counter(found).most_common())}
    return [5 + rank[word] for word in found]


def texts(vocabulary: int, length: int = 48, samples: int = SAMPLES, seed: int = 0) -> dict[str, Tensor]:
    """``input_ids`` and ``attention_mask`` of sentences of different lengths, padded on the right."""
    draw, ids = np.random.default_rng(seed), torch.zeros(samples, length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i in range(samples):
        n = length if i == 0 else int(draw.integers(length // 3, length + 1))
        start = int(draw.integers(0, len(words()) - n))
        ids[i, :n] = torch.tensor(words()[start : start + n]).clamp(max=vocabulary - 1)
        mask[i, :n] = 1
    return {"input_ids": ids, "attention_mask": mask}


def causal(vocabulary: int, seed: int, **more: Any) -> dict[str, Tensor]:
    """A batch of a language model: labels are the ids, padding left out."""
    batch = texts(vocabulary, seed=seed, **more)
    return batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


# -- losses ---------------------------------------------------------------------------------------------------------------


def classified(output: Any, target: Tensor) -> Tensor:
    """Cross-entropy; of several outputs (auxiliary heads, a distilled token) the mean."""
    outputs = [output] if isinstance(output, Tensor) else [one for one in output if isinstance(one, Tensor)]
    return torch.stack([F.cross_entropy(one, target) for one in outputs]).mean()


# -- libraries ------------------------------------------------------------------------------------------------------------

TORCHVISION = {
    "alexnet": 64,
    "convnext_tiny": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "efficientnet_v2_s": 64,
    "googlenet": 64,
    "inception_v3": 299,
    "maxvit_t": 224,
    "mnasnet0_5": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "regnet_x_400mf": 64,
    "regnet_y_400mf": 64,
    "resnet18": 64,
    "resnet50": 64,
    "resnext50_32x4d": 64,
    "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 64,
    "swin_t": 64,
    "swin_v2_t": 64,
    "vgg11": 64,
    "vgg11_bn": 64,
    "vit_b_16": 64,
    "wide_resnet50_2": 64,
}
"""Pixels each one is given."""
FEW = ("maxvit_t", "crossvit_tiny_240", "gcvit_xxtiny", "efficientformer_l1")
"""Networks that are slow at the size they are made for: half as many samples."""

TIMM = {
    "mobileone_s0": 64,
    "repvgg_a0": 64,
    "gernet_s": 64,
    "beit_base_patch16_224": 64,
    "eca_botnext26ts_256": 64,
    "lambda_resnet26t": 64,
    "poolformer_s12": 64,
    "convformer_s18": 64,
    "cait_xxs24_224": 64,
    "coat_lite_tiny": 64,
    "coatnet_nano_rw_224": 64,
    "maxvit_pico_rw_256": 64,
    "convit_tiny": 64,
    "convmixer_768_32": 64,
    "convnext_atto": 64,
    "convnextv2_atto": 64,
    "crossvit_tiny_240": 240,
    "cs3darknet_s": 64,
    "cspresnet50": 64,
    "davit_tiny": 64,
    "deit_tiny_patch16_224": 64,
    "deit_tiny_distilled_patch16_224": 64,
    "dla46_c": 64,
    "nf_regnet_b0": 64,
    "dm_nfnet_f0": 64,
    "nf_resnet26": 64,
    "dpn48b": 64,
    "ese_vovnet19b_slim": 64,
    "resnet26d": 64,
    "seresnet18": 64,
    "resnetblur18": 64,
    "edgenext_xx_small": 64,
    "efficientformer_l1": 224,
    "efficientformerv2_s0": 64,
    "tf_efficientnet_lite0": 64,
    "mixnet_s": 64,
    "efficientnetv2_rw_t": 64,
    "spnasnet_100": 64,
    "efficientvim_m1": 64,
    "efficientvit_b0": 64,
    "efficientvit_m0": 224,
    "eva02_tiny_patch14_224": 56,
    "fasternet_t0": 64,
    "fastvit_t8": 64,
    "mobilenetv3_small_050": 64,
    "lcnet_050": 64,
    "focalnet_tiny_srf": 64,
    "gcvit_xxtiny": 224,
    "ghostnet_050": 64,
    "gmlp_ti16_224": 64,
    "mixer_s16_224": 64,
    "resmlp_12_224": 64,
    "hardcorenas_a": 64,
    "hgnetv2_b0": 64,
    "hrnet_w18_small": 64,
    "iformer_t": 64,
    "inception_next_atto": 64,
    "levit_128s": 224,
    "mambaout_femto": 64,
    "mobilevit_xxs": 64,
    "mobilevitv2_050": 64,
    "mvitv2_tiny": 64,
    "nest_tiny": 64,
    "pit_ti_224": 64,
    "pvt_v2_b0": 64,
    "rdnet_tiny": 64,
    "regnetx_002": 64,
    "repghostnet_050": 64,
    "repvit_m0_9": 64,
    "res2net50_14w_8s": 64,
    "resnest14d": 64,
    "resnetv2_50": 64,
    "rexnet_100": 64,
    "selecsls42": 64,
    "sequencer2d_s": 64,
    "shvit_s1": 64,
    "skresnet18": 64,
    "starnet_s1": 64,
    "swiftformer_xs": 64,
    "swin_tiny_patch4_window7_224": 56,
    "swinv2_cr_tiny_ns_224": 56,
    "tiny_vit_5m_224": 64,
    "tnt_s_patch16_224": 64,
    "tresnet_m": 64,
    "twins_svt_small": 64,
    "vgg11": 64,
    "visformer_tiny": 64,
    "vit_tiny_patch16_224": 64,
    "vit_relpos_small_patch16_224": 64,
    "volo_d1_224": 64,
    "xception41": 64,
    "xcit_nano_12_p16_224": 64,
}


def from_torchvision(name: str, side: int, seed: int) -> Made:
    """A classifier of torchvision, of ten classes."""
    models, options = foreign.torchvision().models, dict[str, Any](num_classes=CLASSES)
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = True
    if name.startswith("vit_"):
        options["image_size"] = side
    return models.get_model(name, weights=None, **options), _photographs(name, side, seed), classified


def from_timm(name: str, side: int, seed: int) -> Made:
    """A classifier of timm, of ten classes; those that are made for one size are made for this one."""
    library = foreign.timm()
    own, options = library.get_pretrained_cfg(name), dict[str, Any](num_classes=CLASSES)
    if own is not None and own.fixed_input_size and own.input_size[-1] != side:
        options["img_size"] = side
    model = library.create_model(name, pretrained=False, **options)
    return model, _photographs(name, side, seed), classified


def _photographs(name: str, side: int, seed: int) -> tuple[Tensor, Tensor]:
    return images(side, SAMPLES // 2 if name in FEW else SAMPLES, seed)


def transformer(kind: str, config: str, seed: int, make_batch: Callable[..., Any], **fields: Any) -> Made:
    """A network of transformers from a configuration."""
    library = foreign.transformers()
    made = getattr(library, config)(**fields)
    made.use_cache = False
    return getattr(library, kind)(made), make_batch(made, seed), None


def _causal(config: Any, seed: int) -> dict[str, Tensor]:
    return causal(config.vocab_size, seed)


def _masked(config: Any, seed: int) -> dict[str, Tensor]:
    """Fifteen in a hundred words are to be guessed; the second half is another sentence."""
    batch = texts(config.vocab_size, seed=seed)
    chosen = (torch.rand(batch["input_ids"].shape) < 0.15) & (batch["attention_mask"] == 1)
    labels = batch["input_ids"].masked_fill(~chosen, -100)
    half = torch.arange(batch["input_ids"].shape[1]) >= batch["attention_mask"].sum(1, keepdim=True) // 2
    batch["token_type_ids"] = (half & (batch["attention_mask"] == 1)).long()
    batch["input_ids"] = batch["input_ids"].masked_fill(chosen, 3)
    return batch | {"labels": labels}


def _sequence_labels(config: Any, seed: int) -> dict[str, Tensor]:
    return texts(config.vocab_size, seed=seed) | {"labels": torch.arange(SAMPLES) % 2}


def _translated(config: Any, seed: int) -> dict[str, Tensor]:
    goal = texts(config.vocab_size, 24, seed=seed + 100)
    return texts(config.vocab_size, seed=seed) | {
        "labels": goal["input_ids"].masked_fill(goal["attention_mask"] == 0, -100)
    }


def _spoken(config: Any, seed: int) -> dict[str, Tensor]:
    """Log-mel-like features: smooth in time and over bands, between -1 and 1, silent at the end."""
    noise = torch.from_numpy(np.random.default_rng(seed).normal(size=(4, 1, config.num_mel_bins, 200))).float()
    smooth = F.avg_pool2d(noise, (9, 9), 1, 4, count_include_pad=False)[:, 0] * 4
    smooth[:, :, 160:] = -1.5
    said = texts(config.vocab_size, 16, 4, seed)
    labels = said["input_ids"].masked_fill(said["attention_mask"] == 0, -100)
    return {"input_features": (smooth / 2).clamp(-1, 1), "labels": labels}


def _seen(config: Any, seed: int) -> dict[str, Tensor]:
    x, y = images(config.image_size, seed=seed)
    return {"pixel_values": x, "labels": y}


V, W = 1000, 64
_DECODER = {"vocab_size": V, "hidden_size": W, "num_hidden_layers": 4, "num_attention_heads": 4} | {
    "num_key_value_heads": 2,
    "intermediate_size": 160,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_ENCODER = {"vocab_size": V, "hidden_size": W, "num_hidden_layers": 4, "num_attention_heads": 4} | {
    "intermediate_size": 256,
    "max_position_embeddings": 64,
}
_VISION = {"image_size": 64, "num_labels": CLASSES}
_T5 = {"vocab_size": V, "d_model": W, "d_kv": 16, "d_ff": 160, "num_layers": 3, "num_heads": 4, "pad_token_id": 0} | {
    "decoder_start_token_id": 0
}
_BART = {"vocab_size": V, "d_model": W, "encoder_layers": 3, "decoder_layers": 3, "encoder_ffn_dim": 256} | {
    "decoder_ffn_dim": 256,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}

TRANSFORMERS: dict[str, tuple[str, str, Callable[..., Any], dict[str, Any]]] = {
    "GPT-2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        _causal,
        {"vocab_size": V, "n_positions": 64, "n_embd": W, "n_layer": 4, "n_head": 4},
    ),
    "GPT-Neo-X": (
        "GPTNeoXForCausalLM",
        "GPTNeoXConfig",
        _causal,
        _ENCODER,
    ),
    "OPT": (
        "OPTForCausalLM",
        "OPTConfig",
        _causal,
        _ENCODER | {"ffn_dim": 256, "word_embed_proj_dim": W, "pad_token_id": 0},
    ),
    "Llama": ("LlamaForCausalLM", "LlamaConfig", _causal, _DECODER),
    "Mistral": ("MistralForCausalLM", "MistralConfig", _causal, _DECODER),
    "Qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _causal, _DECODER),
    "Qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _causal, _DECODER | {"head_dim": 16}),
    "Gemma": ("GemmaForCausalLM", "GemmaConfig", _causal, _DECODER | {"head_dim": 16}),
    "Mixtral": (
        "MixtralForCausalLM",
        "MixtralConfig",
        _causal,
        _DECODER | {"num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "Mamba": (
        "MambaForCausalLM",
        "MambaConfig",
        _causal,
        {"vocab_size": V, "hidden_size": W, "num_hidden_layers": 4, "state_size": 8, "pad_token_id": 0},
    ),
    "BERT, masked words": ("BertForMaskedLM", "BertConfig", _masked, _ENCODER),
    "BERT, classes": ("BertForSequenceClassification", "BertConfig", _sequence_labels, _ENCODER),
    "DistilBERT": (
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        _sequence_labels,
        {"vocab_size": V, "dim": W, "n_layers": 4, "n_heads": 4, "hidden_dim": 256, "max_position_embeddings": 64},
    ),
    "RoBERTa": ("RobertaForSequenceClassification", "RobertaConfig", _sequence_labels, _ENCODER | {"pad_token_id": 0}),
    "ELECTRA": (
        "ElectraForSequenceClassification",
        "ElectraConfig",
        _sequence_labels,
        _ENCODER | {"embedding_size": 32},
    ),
    "T5": ("T5ForConditionalGeneration", "T5Config", _translated, _T5),
    "T5 v1.1": (
        "T5ForConditionalGeneration",
        "T5Config",
        _translated,
        _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "BART": ("BartForConditionalGeneration", "BartConfig", _translated, _BART),
    "Whisper": (
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        _spoken,
        _BART
        | {"num_mel_bins": 40, "max_source_positions": 100, "max_target_positions": 32, "pad_token_id": 0}
        | {"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "begin_suppress_tokens": None},
    ),
    "ViT": (
        "ViTForImageClassification",
        "ViTConfig",
        _seen,
        _VISION
        | {"hidden_size": W, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 256}
        | {"patch_size": 8},
    ),
    "Swin": (
        "SwinForImageClassification",
        "SwinConfig",
        _seen,
        _VISION | {"embed_dim": 24, "depths": [2, 2, 2], "num_heads": [2, 2, 4], "window_size": 4, "patch_size": 4},
    ),
    "DeiT": (
        "DeiTForImageClassification",
        "DeiTConfig",
        _seen,
        _VISION
        | {"hidden_size": W, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 256}
        | {"patch_size": 8},
    ),
    "ConvNeXt": (
        "ConvNextForImageClassification",
        "ConvNextConfig",
        _seen,
        _VISION | {"depths": [2, 2, 4, 2], "hidden_sizes": [16, 32, 64, 128]},
    ),
}

# -- what people write themselves -----------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """A language model: embedding, two LSTM or GRU layers, a readout."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM) -> None:
        super().__init__()
        self.embed = nn.Embedding(V, 64, padding_idx=0)
        self.rnn = kind(64, 128, 2, batch_first=True, dropout=0.2)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(128, V)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.drop(self.rnn(self.embed(ids))[0]))


def _words_loss(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output.transpose(1, 2), target, ignore_index=0)


def language_model(kind: type[nn.RNNBase], seed: int) -> Made:
    ids = texts(V, 33, seed=seed)["input_ids"]
    return Recurrent(kind), (ids[:, :-1], ids[:, 1:]), _words_loss


class Reviews(nn.Module):
    """A classifier of packed sequences: the last state of a bidirectional LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(V, 50, padding_idx=0)
        self.rnn = nn.LSTM(50, 64, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 2))

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(self.embed(ids), lengths, batch_first=True, enforce_sorted=False)
        state = self.rnn(packed)[1][0]
        return self.head(torch.cat([state[-2], state[-1]], 1))


def reviews(seed: int) -> Made:
    batch = texts(V, seed=seed)
    return Reviews(), ((batch["input_ids"], batch["attention_mask"].sum(1)), torch.arange(SAMPLES) % 2), None


def _double(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
        nn.Conv2d(c_out, c_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """Ronneberger et al. 2015, with BatchNorm, as most people write it."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128), classes: int = 3) -> None:
        super().__init__()
        self.down = nn.ModuleList(_double(a, b) for a, b in zip((3, *widths), widths, strict=False))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(b, a, 2, 2) for a, b in zip(widths[::-1][1:], widths[::-1], strict=False)
        )
        self.merge = nn.ModuleList(_double(2 * a, a) for a in widths[::-1][1:])
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else F.max_pool2d(x, 2))
            kept.append(x)
        for up, merge, skip in zip(self.up, self.merge, kept[::-1][1:], strict=True):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.head(x)


def unet(seed: int) -> Made:
    x, _ = images(64, seed=seed)
    return UNet(), (x, (x.mean(1) > 0).long() + (x[:, 0] > 1).long()), None


class VAE(nn.Module):
    """Kingma & Welling 2014, of images between 0 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU())
        self.mu, self.logvar = nn.Linear(64 * 64, 16), nn.Linear(64 * 64, 16)
        self.expand = nn.Linear(16, 64 * 64)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 3, 4, 2, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x).flatten(1)
        mu, logvar = self.mu(h), self.logvar(h)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        return self.decoder(F.relu(self.expand(z)).unflatten(1, (64, 8, 8))), mu, logvar


def _elbo(output: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
    reconstructed, mu, logvar = output
    kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(1).mean()
    return F.binary_cross_entropy(reconstructed, x, reduction="sum") / len(x) + kl


def _between(x: Tensor) -> Tensor:
    """From 0 to 1."""
    return (x - x.amin()) / (x.amax() - x.amin())


def vae(seed: int) -> Made:
    x = _between(images(32, seed=seed)[0])
    return VAE(), (x, x), _elbo


def autoencoder(seed: int) -> Made:
    net = nn.Sequential(nn.Flatten())
    sizes = (3072, 256, 64, 16, 64, 256)
    for a, b in itertools.pairwise(sizes):
        net.extend([nn.Linear(a, b), nn.ReLU()])
    net.extend([nn.Linear(256, 3072), nn.Sigmoid()])
    x = _between(images(32, 32, seed)[0])
    return net, (x, x.flatten(1)), None


def _zeroed(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class Residual(nn.Module):
    """A block of a diffusion U-Net: GroupNorm, SiLU, convolution, the time added, and a last convolution of zeros."""

    def __init__(self, c_in: int, c_out: int, time: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.time = nn.Sequential(nn.SiLU(), nn.Linear(time, c_out))
        self.last = nn.Sequential(nn.GroupNorm(8, c_out), nn.SiLU(), nn.Dropout(0.1))
        self.last.append(_zeroed(nn.Conv2d(c_out, c_out, 3, padding=1)))
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.first(x) + self.time(t)[:, :, None, None]
        return self.skip(x) + self.last(h)


class Attention(nn.Module):
    """Self-attention over pixels, its projection of zeros."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv = nn.GroupNorm(8, width), nn.Conv1d(width, 3 * width, 1)
        self.out = _zeroed(nn.Conv1d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x).flatten(2)).chunk(3, 1)
        weight = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(q.shape[1]), -1)
        return x + self.out(v @ weight.transpose(1, 2)).view_as(x)


class Diffusion(nn.Module):
    """Ho et al. 2020 and Dhariwal & Nichol 2021: last convolutions, projections and readout begin at zero."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 64)) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(32, 128), nn.SiLU(), nn.Linear(128, 128))
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down = nn.ModuleList(Residual(a, b, 128) for a, b in zip((widths[0], *widths), widths, strict=False))
        self.sample = nn.ModuleList(nn.Conv2d(w, w, 3, 2, 1) for w in widths[:-1])
        self.attention = Attention(widths[-1])
        self.up = nn.ModuleList(
            Residual(a + b, b, 128) for a, b in zip((widths[-1], *widths[::-1]), widths[::-1], strict=False)
        )
        self.head = nn.Sequential(nn.GroupNorm(8, widths[0]), nn.SiLU(), _zeroed(nn.Conv2d(widths[0], 3, 3, padding=1)))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t[:, None] * torch.exp(-math.log(1e4) * torch.arange(16) / 16)
        t, x, kept = self.time(torch.cat([angles.sin(), angles.cos()], 1)), self.stem(x), []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else self.sample[i - 1](x), t)
            kept.append(x)
        x = self.attention(x)
        for i, (block, skip) in enumerate(zip(self.up, kept[::-1], strict=True)):
            x = block(torch.cat([x if i == 0 else F.interpolate(x, scale_factor=2.0), skip], 1), t)
        return self.head(x)


def diffusion(seed: int) -> Made:
    x, t = images(32, seed=seed)[0], torch.randint(0, 1000, (SAMPLES,))
    noise, kept = torch.randn_like(x), torch.cos(t / 1000 * math.pi / 2)[:, None, None, None]
    return Diffusion(), ((kept * x + (1 - kept**2).sqrt() * noise, t), noise), None


class Graph(nn.Module):
    """Kipf & Welling 2017, in plain torch."""

    def __init__(self, features: int, width: int = 32, layers: int = 2) -> None:
        super().__init__()
        sizes = (features, *[width] * (layers - 1), 4)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = adjacency @ layer(x if i == 0 else F.dropout(F.relu(x), 0.5, self.training))
        return x


class Gat(nn.Module):
    """A graph attention layer (Velickovic et al. 2018) and a readout, in plain torch."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.embed, self.score, self.head = nn.Linear(features, 32), nn.Linear(64, 1), nn.Linear(32, 4)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        h = self.embed(x)
        n = len(h)
        pairs = torch.cat([h[:, None].expand(n, n, -1), h[None].expand(n, n, -1)], -1)
        logits = F.leaky_relu(self.score(pairs)[..., 0], 0.2).masked_fill(adjacency == 0, -torch.inf)
        return self.head(F.elu(torch.softmax(logits, -1) @ h))


def graph(kind: Callable[[int], nn.Module], seed: int) -> Made:
    """A citation-like graph: bags of words, four classes, neighbours mostly of one class."""
    draw = np.random.default_rng(seed)
    n, features = 120, 60
    classes = draw.integers(0, 4, n)
    alike = classes[:, None] == classes[None]
    edges = draw.random((n, n)) < np.where(alike, 0.08, 0.01)
    adjacency = torch.from_numpy((edges | edges.T) | np.eye(n, dtype=bool)).float()
    degree = adjacency.sum(1).rsqrt()
    often = 0.02 + 0.2 * (np.arange(features)[None] % 4 == classes[:, None])
    x = torch.from_numpy(draw.random((n, features)) < often).float()
    return kind(features), ((x, degree[:, None] * adjacency * degree[None]), torch.from_numpy(classes)), None


class Gan(nn.Module):
    """Radford et al. 2016, N(0, 0.02) and BatchNorm, both networks in one module."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        w = width
        self.generator = nn.Sequential(
            nn.ConvTranspose2d(64, 4 * w, 4, 1, 0, bias=False), nn.BatchNorm2d(4 * w), nn.ReLU(True),
            nn.ConvTranspose2d(4 * w, 2 * w, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * w), nn.ReLU(True),
            nn.ConvTranspose2d(2 * w, w, 4, 2, 1, bias=False), nn.BatchNorm2d(w), nn.ReLU(True),
            nn.ConvTranspose2d(w, 3, 4, 2, 1, bias=False), nn.Tanh(),
        )  # fmt: skip
        self.discriminator = nn.Sequential(
            nn.Conv2d(3, w, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True),
            nn.Conv2d(w, 2 * w, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * w), nn.LeakyReLU(0.2, True),
            nn.Conv2d(2 * w, 4 * w, 4, 2, 1, bias=False), nn.BatchNorm2d(4 * w), nn.LeakyReLU(0.2, True),
            nn.Conv2d(4 * w, 1, 4, 1, 0, bias=False), nn.Flatten(),
        )  # fmt: skip
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1, 0.02)

    def forward(self, z: Tensor) -> Tensor:
        return self.discriminator(self.generator(z))


def gan_generator(seed: int) -> Made:
    """The step of the generator: through both networks."""
    return Gan(), (torch.randn(16, 64, 1, 1), torch.ones(16, 1)), F.binary_cross_entropy_with_logits


def gan_discriminator(seed: int) -> Made:
    """The step of the discriminator on photographs."""
    x = _between(images(32, 16, seed)[0]) * 2 - 1
    return Gan().discriminator, (x, torch.ones(16, 1)), F.binary_cross_entropy_with_logits


class Points(nn.Module):
    """Qi et al. 2017: shared layers over points, and the largest of each feature."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Sequential()
        for a, b in ((3, 64), (64, 64), (64, 128), (128, 256)):
            self.shared.extend([nn.Conv1d(a, b, 1), nn.BatchNorm1d(b), nn.ReLU()])
        self.head = nn.Sequential(nn.Linear(256, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.3))
        self.head.append(nn.Linear(128, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.shared(x).amax(2))


def points(seed: int) -> Made:
    x = F.normalize(torch.randn(16, 3, 128), dim=1) * torch.rand(16, 3, 1)
    return Points(), (x, torch.arange(16) % CLASSES), None


class Digits(nn.Module):
    """The tutorial's network for digits, of functions: two convolutions, pooling, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3, 1), nn.Conv2d(32, 64, 3, 1)
        self.fc1, self.fc2 = nn.Linear(64 * 4, 128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        x = F.dropout(torch.flatten(x, 1), 0.25, self.training)
        return F.log_softmax(self.fc2(F.dropout(F.relu(self.fc1(x)), 0.5, self.training)), 1)


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Scikit-learn's digits, 8 x 8, between 0 and 1."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.from_numpy(data.images).float()[:, None] / 16, torch.from_numpy(data.target)


def tutorial(seed: int) -> Made:
    x, y = digits()
    return Digits(), (x[64 * seed : 64 * seed + 64], y[64 * seed : 64 * seed + 64]), F.nll_loss


def table(seed: int) -> Made:
    """An MLP that regresses standardized features."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes(scaled=True)
    x = torch.from_numpy(data.data).float()
    y = torch.from_numpy(data.target).float()[:, None]
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    pick = torch.randperm(len(x))[:64]
    net = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    return net, (x[pick], y[pick]), None


def physics(seed: int) -> Made:
    """A network of tanh that fits a function, as those that solve equations."""
    net = nn.Sequential(nn.Linear(2, 32))
    for _ in range(4):
        net.extend([nn.Tanh(), nn.Linear(32, 32)])
    net.extend([nn.Tanh(), nn.Linear(32, 1)])
    for module in net:
        if isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight)
            nn.init.zeros_(module.bias)
    x = torch.rand(128, 2) * 2 - 1
    return net, (x, torch.sin(math.pi * x[:, :1]) * x[:, 1:]), None


class Waves(nn.Module):
    """A one-dimensional residual network over signals."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 32, 7, 2, 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 32, 3, padding=1)) for _ in range(6)
        )
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(F.relu(x).mean(2))


def waves(seed: int) -> Made:
    t, rates = torch.linspace(0, 1, 200), 1 + torch.arange(16) % 5
    x = torch.sin(2 * math.pi * 3 * rates[:, None] * t + torch.rand(16, 1) * 6) + 0.3 * torch.randn(16, 200)
    return Waves(), (x[:, None], rates - 1), None


class Embedded(nn.Module):
    """Two towers of a recommender: embeddings, an MLP over both, one logit."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(500, 32), nn.Embedding(300, 32)
        self.mlp = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return self.mlp(torch.cat([self.users(user), self.items(item)], 1))[:, 0]


def recommender(seed: int) -> Made:
    user, item = torch.randint(0, 500, (64,)), torch.randint(0, 300, (64,))
    return Embedded(), ((user, item), ((user + item) % 2).float()), F.binary_cross_entropy_with_logits


def torch_encoder(first: bool, seed: int) -> Made:
    """torch's own Transformer encoder over embedded words, pre- or post-norm."""
    layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True, norm_first=first)

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.place = nn.Embedding(V, 64, padding_idx=0), nn.Embedding(48, 64)
            self.encoder = nn.TransformerEncoder(layer, 4, nn.LayerNorm(64) if first else None, False)
            self.head = nn.Linear(64, 2)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.embed(ids) + self.place(torch.arange(ids.shape[1]))
            return self.head(self.encoder(x, src_key_padding_mask=ids == 0)[:, 0])

    return Classifier(), (texts(V, seed=seed)["input_ids"], torch.arange(SAMPLES) % 2), None


OWN: dict[str, Callable[[int], Made]] = {
    "LSTM language model": partial(language_model, nn.LSTM),
    "GRU language model": partial(language_model, nn.GRU),
    "bidirectional LSTM of packed texts": reviews,
    "Transformer encoder, pre-norm": partial(torch_encoder, True),
    "Transformer encoder, post-norm": partial(torch_encoder, False),
    "U-Net": unet,
    "VAE": vae,
    "autoencoder, linear": autoencoder,
    "diffusion U-Net, zero convolutions": diffusion,
    "graph convolutions": partial(graph, Graph),
    "graph attention": partial(graph, Gat),
    "DCGAN, the generator's step": gan_generator,
    "DCGAN, the discriminator's step": gan_discriminator,
    "PointNet": points,
    "the tutorial's digits, functions": tutorial,
    "MLP on a table, regression": table,
    "tanh network that fits a function": physics,
    "one-dimensional ResNet": waves,
    "recommender of two embeddings": recommender,
}

NETWORKS: dict[str, Callable[[int], Made]] = {
    **{f"torchvision:{name}": partial(from_torchvision, name, side) for name, side in TORCHVISION.items()},
    **{f"timm:{name}": partial(from_timm, name, side) for name, side in TIMM.items()},
    **{
        f"transformers:{name}": partial(transformer, kind, config, make_batch=batch, **fields)
        for name, (kind, config, batch, fields) in TRANSFORMERS.items()
    },
    **{f"own:{name}": make for name, make in OWN.items()},
}


# -- the run --------------------------------------------------------------------------------------------------------------


def examine(name: str, mode: str, seed: int) -> dict[str, Any]:
    """One network in one mode: what was found, what it took, or why it could not be traced."""
    row: dict[str, Any] = {"network": name, "mode": mode, "seed": seed, "findings": [], "failed": None}
    begin = time.process_time()
    with warnings.catch_warnings():
        # torchvision's about options of its own
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        try:
            model, batch, loss = NETWORKS[name](seed)
            model.train(mode == "train")
            row["made"], begin = round(time.process_time() - begin, 2), time.process_time()
            run = spp.trace(model, batch, loss=loss, seed=seed)
            row["traced"], begin = round(time.process_time() - begin, 2), time.process_time()
            row["findings"] = [told(finding) for finding in find(run)]
            row["diagnosed"] = round(time.process_time() - begin, 2)
        # a network that cannot be traced is a row of its own, and the others go on
        except Exception as error:
            row["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return row


def told(finding: Finding) -> dict[str, str]:
    return {"rule": finding.rule, "severity": str(finding.severity), "name": finding.name, "message": finding.message}


def missing(name: str) -> bool:
    library = name.partition(":")[0]
    return library != "own" and importlib.util.find_spec(library) is None


def alarms(row: dict[str, Any], severity: Severity) -> list[dict[str, str]]:
    return [finding for finding in row["findings"] if finding["severity"] == severity]


def summary(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Counts, by library and mode."""
    yield f"{'':28} {'traces':>7} {'failed':>7} {'with an error':>14} {'with a warning':>15}"
    libraries = dict.fromkeys(row["network"].partition(":")[0] for row in rows)
    for library in (*libraries, "all"):
        for mode in dict.fromkeys(row["mode"] for row in rows):
            own = [r for r in rows if library in ("all", r["network"].partition(":")[0]) and r["mode"] == mode]
            errors, warned = (sum(bool(alarms(r, s)) for r in own) for s in (Severity.ERROR, Severity.WARNING))
            failed = sum(r["failed"] is not None for r in own)
            yield f"{library + ', ' + mode:28} {len(own):>7} {failed:>7} {errors:>14} {warned:>15}"


def tables(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The rows of the two tables of the page: counts, and every network with an alarm."""
    counted, told = [], dict[tuple[str, str], list[str]]()
    for library in (*dict.fromkeys(row["network"].partition(":")[0] for row in rows), "all"):
        own = [row for row in rows if library in ("all", row["network"].partition(":")[0])]
        cells = [library, str(len({row["network"] for row in own}))]
        for mode in ("train", "eval"):
            part = [row for row in own if row["mode"] == mode and not row["failed"]]
            errors, warned = (sum(bool(alarms(row, s)) for row in part) for s in (Severity.ERROR, Severity.WARNING))
            cells += [str(len(part)), str(errors), str(warned)]
        counted.append(f"| {' | '.join(cells)} |")
    for row in rows:
        for finding in row["findings"]:
            if finding["severity"] != Severity.NOTE:
                said = f"{finding['severity']}: `{finding['rule']}` {where(finding['name'])}"
                told.setdefault((row["network"], said), []).append(f"{row['mode']} {row['seed']}")
    alarmed = [f"| {network} | {said} | {', '.join(runs)} |" for (network, said), runs in told.items()]
    return {"HEALTHY COUNTS": counted, "HEALTHY ALARMS": alarmed}


def shown(row: dict[str, Any]) -> str:
    """A line of the table: what is an alarm, in words."""
    if row["failed"]:
        return f"failed: {row['failed']}"
    bad = [f for f in row["findings"] if f["severity"] != Severity.NOTE]
    return "; ".join(f"{f['severity']}: {f['rule']} {f['name'] or '(everywhere)'}" for f in bad) or "nothing"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", default="*", help="glob over library:name")
    parser.add_argument("--mode", choices=["train", "eval", "both"], default="both")
    parser.add_argument("--out", type=Path, default=Path("healthy.json"))
    parser.add_argument("--page", action="store_true", help="write the tables into docs/benches.md")
    parser.add_argument(
        "--read", type=Path, nargs="+", metavar="JSON", help="take the rows of earlier runs, run nothing"
    )
    parser.add_argument("--all", action="store_true", help="print the lines without an alarm too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    begin = time.process_time()
    for file in args.read or ():
        rows += json.loads(file.read_text())
    names = [name for name in NETWORKS if not args.read and fnmatch.fnmatchcase(name, args.only)]
    if absent := {name.partition(":")[0] for name in names if missing(name)}:
        print(f"not installed, left out: {', '.join(sorted(absent))}")
    for name in (name for name in names if not missing(name)):
        for seed in range(args.seeds):
            for mode in ("train", "eval") if args.mode == "both" else (args.mode,):
                row = examine(name, mode, seed)
                rows.append(row)
                if args.all or shown(row) != "nothing":
                    print(f"{name:44} {mode:5} {seed}  {shown(row)}", flush=True)
        args.out.write_text(json.dumps(rows, indent=1))
        gc.collect()
    if args.page:
        put(ROOT / "docs" / "benches.md", tables(rows))
    print("\n".join(summary(rows)))
    print(f"{len({row['network'] for row in rows})} networks, {time.process_time() - begin:.0f} s of CPU; {args.out}")


if __name__ == "__main__":
    main()
