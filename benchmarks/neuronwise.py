"""What neuron-wise gradients cost: backward of an ordinary layer against a neuron-wise one, interleaved, and extra memory.

    python benchmarks/neuronwise.py
    python benchmarks/neuronwise.py --activations relu gelu --statistics batch running --runs 31

A run is the backward pass of a layer and its activation from a given gradient, with respect to input, weight and bias, or
forward and backward together. The ratio is taken pair by pair, of CPU time, so that a slow stretch of a shared machine hits
both sides; the table has the median and quartiles. Extra memory is what the neuron-wise backward allocates at its peak over
what the ordinary one does, and what it keeps from forward to backward, in bytes that torch's profiler counts.
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from spp.nn import make_activation
from spp.nn.neuronwise import MODES, NeuronwiseConv2d, NeuronwiseLinear

LIMIT = 2.2
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[..., nn.Module], tuple[int, ...]]] = {
    "Linear(1024, 1024), batch 512": (
        lambda: nn.Linear(1024, 1024),
        lambda **options: NeuronwiseLinear(1024, 1024, **options),
        (512, 1024),
    ),
    "Conv2d(64, 64, 3), 32x32, batch 32": (
        lambda: nn.Conv2d(64, 64, 3, padding=1),
        lambda **options: NeuronwiseConv2d(64, 64, 3, padding=1, **options),
        (32, 64, 32, 32),
    ),
}


class Side:
    """One of the two layers, with its activation, input and upstream gradient; times forward and backward."""

    def __init__(self, layer: nn.Module, activation: str, x: Tensor) -> None:
        self.layer, self.activation = layer, make_activation(activation)
        self.x = x.clone().requires_grad_()
        self.upstream = torch.randn_like(self.forward())
        self.leaves = (self.x, *layer.parameters())
        self.both: list[float] = []
        self.backward_only: list[float] = []

    def forward(self) -> Tensor:
        y: Tensor = self.activation(self.layer(self.x))
        return y

    def backward(self, y: Tensor) -> None:
        torch.autograd.grad(y, self.leaves, self.upstream)

    def run(self) -> None:
        begin = time.process_time()
        y = self.forward()
        middle = time.process_time()
        self.backward(y)
        end = time.process_time()
        self.both.append(end - begin)
        self.backward_only.append(end - middle)

    def memory(self) -> tuple[int, int]:
        """Bytes kept by a forward pass, and the backward pass's peak over its start."""
        self.run()  # what is allocated once is there
        gc.collect()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watch:
            y = self.forward()
        kept = sum(event.nbytes() for event in watch.profiler.kineto_results.events() if event.name() == "[memory]")
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watch:
            gradients = torch.autograd.grad(y, self.leaves, self.upstream)
        level = peak = 0
        events = [event for event in watch.profiler.kineto_results.events() if event.name() == "[memory]"]
        for event in sorted(events, key=lambda event: event.start_ns()):
            level += event.nbytes()
            peak = max(peak, level)
        del gradients
        return kept, peak


def quartiles(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def compare(case: str, activation: str, args: argparse.Namespace, statistics_of: str) -> tuple[str, float]:
    """One row of the table, and the median ratio of the backward pass."""
    torch.manual_seed(0)
    ordinary, neuronwise, shape = CASES[case]
    x = torch.randn(shape)
    layers = ordinary(), neuronwise(activation=activation, mode=args.mode, statistics=statistics_of)
    layers[1].load_state_dict(layers[0].state_dict())
    plain, changed = (Side(layer, activation, x) for layer in layers)
    for index in range(args.runs + 2):
        for side in (plain, changed) if index % 2 else (changed, plain):
            side.run()
    ratios = {
        name: [b / a for a, b in zip(getattr(plain, name)[2:], getattr(changed, name)[2:], strict=True)]
        for name in ("backward_only", "both")
    }
    (kept, peak), (more_kept, higher) = plain.memory(), changed.memory()
    weight, mask = layers[0].weight.nbytes, plain.upstream.numel()
    row = (
        f"| {case} | {activation} | {statistics_of} | {statistics.median(plain.backward_only) * 1e3:.1f} "
        f"| {quartiles(ratios['backward_only'])} | {quartiles(ratios['both'])} "
        f"| {(more_kept - kept) / mask:.2f} B | {(higher - peak) / weight:.2f} | {(higher - peak) / 2**20:.1f} |"
    )
    return row, statistics.median(ratios["backward_only"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--activations", nargs="+", default=["relu", "gelu"])
    parser.add_argument("--statistics", nargs="+", default=["batch", "running"])
    parser.add_argument("--mode", default="coords", choices=list(MODES))
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {platform.machine()}, {args.threads} thread(s), float32, mode {args.mode}\n")
    print("| layer | activation | statistics | plain backward, ms | backward ratio | forward + backward ratio "
          "| kept per output | extra peak, weights | extra peak, MiB |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    worst = 0.0
    for case in CASES:
        for activation in args.activations:
            for statistics_of in args.statistics:
                row, ratio = compare(case, activation, args, statistics_of)
                worst = max(worst, ratio)
                print(row, flush=True)
    print(f"\nlargest median backward ratio {worst:.2f}, limit {LIMIT}")
    return 0 if worst <= LIMIT else 1


if __name__ == "__main__":
    raise SystemExit(main())
