"""What a trace costs: plain step against traced step, interleaved, as ratios of CPU time and of wall time.

    python benchmarks/overhead.py                      # ResNet-50 and EfficientNet-B0, both paths, one thread
    python benchmarks/overhead.py --threads 2 --runs 15 --models resnet50 vit gpt2
    python benchmarks/overhead.py --scaling            # cost against number of layers and size of activations

A plain step is forward, backward from the same cotangent, and setting the gradients to None. A traced step is ``spp.trace``:
the same forward and backward, every signal of every module, weights, residual merges, putting everything back, and the frames.
Pairs are interleaved so that a slow stretch of the machine hits both, and the ratio is taken pair by pair. The floor is the
plain step plus one read of as much memory as is measured. ``benchmarks/parts.py`` takes a trace apart.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor, nn

import spp
from spp.stats.backends import native


class Attention(nn.Module):
    """Causal or full self-attention of a transformer block."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.causal = heads, causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, w = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(n, t, w))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads, causal)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """ViT-S/16 by its sizes: width 384, 12 blocks, 6 heads."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 384, 16, 16)
        self.blocks = nn.Sequential(*[Block(384, 6, False) for _ in range(12)])
        self.norm, self.head = nn.LayerNorm(384), nn.Linear(384, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.patch(x).flatten(2).transpose(1, 2))).mean(1))


class GPT2(nn.Module):
    """GPT-2 by its sizes (124M parameters: width 768, 12 blocks, 12 heads, 50,257 tokens, 1,024 positions)."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(50257, 768), nn.Embedding(1024, 768)
        self.blocks = nn.Sequential(*[Block(768, 12, True) for _ in range(12)])
        self.norm = nn.LayerNorm(768)
        self.head = nn.Linear(768, 50257, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        return self.head(self.norm(self.blocks(x)))


def images(n: int, size: int) -> torch.Tensor:
    return spp.data.gaussian(n, (3, size, size), seed=0)  # type: ignore[return-value]


CASES: dict[str, Callable[[argparse.Namespace], tuple[nn.Module, torch.Tensor]]] = {
    "resnet50": lambda a: (spp.models.build("resnet50"), images(a.batch, a.size)),
    "effnet_b0": lambda a: (spp.models.build("effnet_b0"), images(a.batch, a.size)),
    "vit": lambda a: (ViT(), images(a.batch, 224)),
    "gpt2": lambda a: (GPT2(), torch.randint(0, 50257, (max(1, a.batch // 8), a.tokens))),
}


class Timer:
    """Runs a step and keeps CPU and wall seconds; waits for the accelerator where there is one."""

    def __init__(self, step: Callable[[], object], device: str) -> None:
        self.step, self.device, self.cpu, self.wall = step, device, [], []

    def __call__(self) -> None:
        gc.collect()
        gc.disable()  # a collection would hit whichever side it falls into
        cpu, wall = time.process_time(), time.perf_counter()
        self.step()
        if self.device != "cpu":
            torch.cuda.synchronize()
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)
        gc.enable()


def quartiles(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


def plain_step(model: nn.Module, batch: torch.Tensor, cotangent: torch.Tensor) -> Callable[[], object]:
    def step() -> None:
        model(batch).backward(cotangent)
        for parameter in model.parameters():
            parameter.grad = None

    return step


def as_much_memory(frame: pd.DataFrame, device: str) -> list[Tensor]:
    """Other tensors of the sizes that a trace has read.

    They are written to: memory that never was is one page of zeros over and over, which the first cache holds.
    """
    return [torch.ones(int(n), device=device) for n in frame.loc[frame["leaf"], "numel"]]


def read_step(plain: Callable[[], object], sizes: list[torch.Tensor]) -> Callable[[], object]:
    """The floor: the plain step, and one sum over as many bytes as a trace reads."""

    def step() -> None:
        plain()
        for tensor in sizes:
            tensor.sum()

    return step


def measure(name: str, args: argparse.Namespace) -> dict[str, object]:
    """Paired ratios of one network on one path."""
    torch.manual_seed(0)
    model, batch = CASES[name](args)
    model, batch = model.to(args.device), batch.to(args.device)
    with torch.no_grad():
        cotangent = torch.randn_like(model(batch))
    plain = plain_step(model, batch, cotangent)
    frame = spp.trace(model, batch).frame
    sizes = as_much_memory(frame, args.device)
    timers = {
        "plain": Timer(plain, args.device),
        "traced": Timer(lambda: spp.trace(model, batch), args.device),
        "floor": Timer(read_step(plain, sizes), args.device),
    }
    for _ in range(2 + args.runs):
        for timer in timers.values():
            timer()
    cpu = {k: t.cpu[2:] for k, t in timers.items()}
    wall = {k: t.wall[2:] for k, t in timers.items()}
    return {
        "network": name,
        "path": "C sweep" if native.status().native else "reference",
        "rows": len(frame),
        "plain_s": statistics.median(cpu["plain"]),
        "cpu": [t / p for t, p in zip(cpu["traced"], cpu["plain"], strict=True)],
        "wall": [t / p for t, p in zip(wall["traced"], wall["plain"], strict=True)],
        "floor": [t / p for t, p in zip(cpu["floor"], cpu["plain"], strict=True)],
    }


def peak_memory(name: str, args: argparse.Namespace, traced: bool) -> float:
    """Peak resident memory in MiB of a process that takes three steps of one kind."""
    torch.manual_seed(0)
    model, batch = CASES[name](args)
    with torch.no_grad():
        cotangent = torch.randn_like(model(batch))
    plain = plain_step(model, batch, cotangent)
    plain()
    for _ in range(3):
        spp.trace(model, batch) if traced else plain()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(args: argparse.Namespace, *extra: str, kernels: str) -> dict[str, object]:
    command = [sys.executable, __file__, "--child", *extra, "--runs", str(args.runs), "--batch", str(args.batch)]
    command += [
        "--size",
        str(args.size),
        "--threads",
        str(args.threads),
        "--device",
        args.device,
        "--tokens",
        str(args.tokens),
    ]
    environment = {**os.environ, "SPP_KERNELS": kernels, "OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def scaling(args: argparse.Namespace) -> None:
    """Seconds of a trace against layers (width 32) and against activation size (8 layers)."""
    print("| layers | trace, ms | ms a layer |\n|---|---|---|")
    for depth in (50, 100, 500, 1000, 2000, 5000):
        model = nn.Sequential(*[layer for _ in range(depth // 2) for layer in (nn.Linear(32, 32), nn.Tanh())])
        timer = Timer(lambda m=model: spp.trace(m, torch.randn(16, 32)), "cpu")
        for _ in range(3):
            timer()
        print(f"| {depth} | {min(timer.cpu) * 1e3:.1f} | {min(timer.cpu) * 1e3 / depth:.3f} |")
    print("\n| elements of an activation | trace minus plain step, ms | ns an element |\n|---|---|---|")
    for size in (16, 32, 64, 128, 256):
        model = nn.Sequential(*[nn.ReLU() for _ in range(8)])
        batch = torch.randn(8, 16, size, size, requires_grad=True)
        plain, traced = (
            Timer(lambda b=batch, m=model: m(b).sum().backward(), "cpu"),
            Timer(lambda b=batch, m=model: spp.trace(m, b), "cpu"),
        )
        for _ in range(5):
            plain()
            traced()
        extra = min(traced.cpu) - min(plain.cpu)
        print(f"| {batch.numel():,} | {extra * 1e3:.1f} | {extra * 1e9 / (16 * batch.numel()):.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet50", "effnet_b0"], choices=list(CASES))
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        kind, name = args.child
        print(json.dumps(measure(name, args) if kind == "time" else {"mib": peak_memory(name, args, kind == "traced")}))
        return
    if args.scaling:
        scaling(args)
        return
    print(
        f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {args.threads} thread(s), {args.device}"
    )
    print("| network | path | rows | plain step, s | CPU ratio | wall ratio | floor | extra peak memory, MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for name in args.models:
        for kernels in ("auto", "off") if args.device == "cpu" else ("auto",):
            row = child(args, "time", name, kernels=kernels)
            memory = [child(args, kind, name, kernels=kernels)["mib"] for kind in ("plain", "traced")]
            cells = [quartiles(row[k]) for k in ("cpu", "wall", "floor")]  # type: ignore[arg-type]
            print(
                f"| {name} | {row['path']} | {row['rows']} | {row['plain_s']:.3f} | {cells[0]} | {cells[1]} | {cells[2]} "
                f"| {memory[1] - memory[0]:.0f} |",  # type: ignore[operator]
                flush=True,
            )


if __name__ == "__main__":
    main()
