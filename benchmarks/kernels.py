"""What a reduction costs: nanoseconds an element, for the layouts that networks have, beside one ``torch.sum``.

    python benchmarks/kernels.py                        # the path that a trace takes, one thread
    python benchmarks/kernels.py --threads 2 --dtype bfloat16
    SPP_KERNELS=off python benchmarks/kernels.py        # the reference

"Again" reduces one tensor over and over, so that what fits a cache is read from there; "afresh" goes through copies that
together are larger than any cache, as a trace's weights are. Each number is the fastest of several turns, each of which
is long enough for the clock. On an accelerator (``--device cuda``) the turns end with a synchronization.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from itertools import cycle

import torch
from torch import Tensor

from spp.stats import backends
from spp.stats.sums import Room

CASES: tuple[tuple[str, tuple[int, ...], int | None, bool], ...] = (
    ("maps of 48 x 48", (8, 96, 48, 48), 1, False),
    ("maps of 24 x 24", (8, 144, 24, 24), 1, False),
    ("maps of 12 x 12", (8, 240, 12, 12), 1, False),
    ("maps of 6 x 6", (8, 672, 6, 6), 1, False),
    ("maps of 3 x 3", (8, 1152, 3, 3), 1, False),
    ("maps of 1 x 1", (8, 1152, 1, 1), 1, False),
    ("channels last", (8, 144, 24, 24), 1, True),
    ("tokens", (8, 197, 384), 2, False),
    ("features", (128, 1000), 1, False),
    ("weight of a 3 x 3 convolution", (512, 512, 3, 3), 0, False),
    ("weight of a depthwise convolution", (1152, 1, 5, 5), 0, False),
    ("weight of a linear layer", (1000, 2048), 0, False),
    ("scale of a norm", (512,), 0, False),
)
BEYOND_CACHES = 1 << 29
"""Bytes of all copies together."""
MOST_COPIES = 4096
TURN = 0.02
"""Seconds of a turn at least."""


def fastest(act: Callable[[Tensor], object], tensors: list[Tensor], turns: int) -> float:
    """Seconds of one call on one of ``tensors``, at best."""
    rounds, following = 1, cycle(tensors)
    while True:
        best = float("inf")
        for _ in range(turns):
            started = time.perf_counter()
            for _ in range(rounds):
                act(next(following))
            if tensors[0].is_cuda:
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - started)
        if best >= TURN:
            return best / rounds
        rounds = max(rounds * 2, int(rounds * 1.2 * TURN / max(best, 1e-9)))


def reduction(axis: int | None, mergeable: bool) -> Callable[[Tensor], object]:
    """As a trace of one batch reduces, or as one of several does."""
    room = Room()
    return lambda tensor: backends.reduce(tensor, axis, whole=not mergeable, room=room)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=["float16", "bfloat16", "float32", "float64"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument(
        "--mergeable", action="store_true", help="keep each channel's sums, as a trace of several batches"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    backends.choose()
    torch.manual_seed(0)
    path, processor = backends.path_of(args.device), platform.processor() or platform.machine()
    print(
        f"torch {torch.__version__}, {processor}, {args.threads} thread(s), {args.device}, {args.dtype}, path: {path}\n"
    )
    print(
        "| tensor | elements | again, ns an element | afresh | torch.sum again | torch.sum afresh | us a tensor again |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, shape, axis, last in CASES:
        one = torch.randn(shape).to(args.device, getattr(torch, args.dtype))
        if last:
            one = one.contiguous(memory_format=torch.channels_last)
        size = one.numel() * one.element_size()
        copies = [one.clone() for _ in range(min(MOST_COPIES, max(2, BEYOND_CACHES // size)))]
        reduce = reduction(axis, args.mergeable)
        numbers = [fastest(act, tensors, args.turns) for act in (reduce, torch.sum) for tensors in ([one], copies)]
        cells = " | ".join(f"{seconds * 1e9 / one.numel():.3f}" for seconds in numbers)
        print(f"| {name} | {one.numel():,} | {cells} | {numbers[0] * 1e6:.1f} |", flush=True)


if __name__ == "__main__":
    main()
