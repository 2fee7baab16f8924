"""What a watch costs: a step that is not sampled, one that is, and the share of a run's time at ``every=100``.

    python benchmarks/watch.py                          # ResNet-50, EfficientNet-B0 and a small network, one thread
    python benchmarks/watch.py --models ffn --runs 31

A step is zero_grad, forward, cross-entropy, backward, SGD on one batch that is there: the harshest loop to watch. Plain and
sampled steps of the same model are interleaved, so that a slow stretch of the machine hits both, each after steps that have
filled the caches with the network; differences are taken pair by pair, medians of CPU time with their quartiles. A sampled
step is set beside a trace, which makes a forward and a backward of its own: what is
compared is what each adds to them. Writing is timed apart: a part is written at the first sampled step after 10 seconds, and
holds the steps that were sampled meanwhile, whose tables are made then. Share = (sampled / 100 + not sampled) / plain +
writing / seconds between two parts.
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

import spp

CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ffn": (lambda: spp.models.build("ffn"), (128, 3, 32, 32)),
    "resnet50": (lambda: spp.models.build("resnet50"), (8, 3, 96, 96)),
    "effnet_b0": (lambda: spp.models.build("effnet_b0"), (8, 3, 96, 96)),
}


EVERY, PATIENCE = 100, 10.0
"""Steps from one sampled step to the next, and seconds that rows wait at least."""
WARM = 5
"""Steps before those that are timed."""


class Loop:
    """One training loop, step by step."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        build, shape = CASES[name]
        self.model = build()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        self.x = torch.randn(shape)
        self.y = torch.randint(0, 10, shape[:1])

    def step(self) -> None:
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(self.x), self.y).backward()
        self.optimizer.step()

    def pass_only(self) -> None:
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(self.x), self.y).backward()


@contextmanager
def no_collector() -> Iterator[None]:
    """Collect now and not in the body: a collection would hit whichever side it falls into, and empties the caches."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def seconds(act: Callable[[], object]) -> float:
    started = time.process_time()
    act()
    return time.process_time() - started


def middle(values: list[float]) -> str:
    low, mid, high = statistics.quantiles(values, n=4)
    return f"{mid * 1e3:.2f} [{low * 1e3:.2f}, {high * 1e3:.2f}]"


def idle_cost(repeats: int = 20_000) -> float:
    """Seconds that a step which is not sampled costs, from a model and an optimizer that do next to nothing."""

    class Nothing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return x

    model = Nothing()
    optimizer = torch.optim.SGD(model.parameters())  # without gradients, its step is a loop over nothing
    x = torch.zeros(1)

    def steps() -> None:
        for _ in range(repeats):
            model(x)
            optimizer.step()

    plain, watched = [], []
    for _ in range(5):
        plain.append(seconds(steps))
        with spp.watch(model, optimizer, schedule=lambda step: False):
            watched.append(seconds(steps))
    return (min(watched) - min(plain)) / repeats


def measure(name: str, runs: int, idle: float) -> str:
    """One row of the table."""
    loop = Loop(name)
    loop.step()
    plain: list[float] = []
    sampled: list[float] = []
    passes: list[float] = []
    traced: list[float] = []
    due = False
    with spp.watch(loop.model, loop.optimizer, schedule=lambda step: due) as watch:
        for turn in range(runs + 2):
            with no_collector():
                for _ in range(WARM):
                    loop.step()
                before = seconds(loop.step)
                due = True
                opening = seconds(loop.step)  # at whose end the next step's sample is opened
                due = False
                one = opening + seconds(loop.step)
                loop.step()
                two = (before + seconds(loop.step)) / 2
                loop.pass_only()
                three = seconds(loop.pass_only)
                four = seconds(lambda: spp.trace(loop.model, (loop.x, loop.y)))
            if turn >= 2:
                sampled.append(one - two), plain.append(two), passes.append(three), traced.append(four)
        rows = int(watch.frame.groupby("step").size().iloc[-1])
    extra = [s - p for s, p in zip(sampled, plain, strict=True)]
    trace = [t - p for t, p in zip(traced, passes, strict=True)]
    between = max(PATIENCE, EVERY * statistics.median(plain))
    write = writing(loop, round(between / (EVERY * statistics.median(plain))))
    share = (statistics.median(extra) / EVERY + idle) / statistics.median(plain) + write / between
    return (
        f"| {name} | {rows} | {middle(plain)} | {middle(extra)} | {middle(trace)} | "
        f"{statistics.median(sampled) / statistics.median(plain):.2f} | {write * 1e3:.0f} | {share:.2%} |"
    )


def writing(loop: Loop, steps: int) -> float:
    """CPU seconds to make the tables of so many sampled steps and to write them."""
    taken = []
    with (
        tempfile.TemporaryDirectory() as folder,
        spp.watch(loop.model, loop.optimizer, every=1, path=Path(folder) / "run", flush=math.inf) as watch,
    ):
        for _ in range(6):
            for _ in range(steps):
                loop.step()
            with no_collector():
                taken.append(seconds(watch.flush))
    return statistics.median(taken[1:])  # the first writes the facts about the modules too


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    idle = idle_cost()
    print(
        f"torch {torch.__version__}, {args.threads} thread(s); a step that is not sampled costs {idle * 1e6:.1f} us\n"
    )
    print(
        "| network | rows | plain step, ms | sampled step adds, ms | a trace adds, ms | ratio | writing, ms | share |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in args.models:
        print(measure(name, args.runs, idle), flush=True)


if __name__ == "__main__":
    main()
