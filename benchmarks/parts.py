"""Where the cost of a trace goes: a plain step, and the same step with one part after the other added, interleaved.

    python benchmarks/parts.py
    python benchmarks/parts.py --models effnet_b0 --runs 31

Each row is a step of its own, and its ratio is to the plain step of the same turn:

- *every byte read once*: the plain step, and ``torch.sum`` over as much memory as a trace reads, cold;
- *empty hooks*: forward hooks on all leaves and a gradient hook on all their outputs that do nothing;
- *hooks, a sum each*: the same, with ``torch.sum`` of every output, gradient, parameter and parameter's gradient in its place;
- *hooks and sweeps*: the same with the statistics, which are kept nowhere: a trace without names, lineage, restoring and frame;
- *trace*: all modules and signals, lineage, residual merges, everything put back, and the frame.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from overhead import CASES, Timer, as_much_memory, plain_step, quartiles, read_step
from torch import Tensor, nn

import spp
from spp.stats import backends
from spp.stats.backends import native
from spp.stats.sums import Room

Read = Callable[[Tensor], object]


def hooked_step(
    model: nn.Module, batch: Tensor, cotangent: Tensor, read: Read, read_all: Callable[[list[Tensor]], object]
) -> Callable[[], object]:
    """A step with ``read`` on every leaf's output and its gradient, and ``read_all`` on parameters and theirs."""
    leaves = [m for m in model.modules() if next(m.children(), None) is None]

    def on_gradient(gradient: Tensor) -> None:
        read(gradient)

    def on_output(module: nn.Module, args: object, output: Tensor) -> None:
        read(output.detach())
        if output.requires_grad:
            output.register_hook(on_gradient)

    def step() -> None:
        handles = [leaf.register_forward_hook(on_output) for leaf in leaves]
        model(batch).backward(cotangent)
        parameters = list(model.parameters())
        read_all([p.detach() for p in parameters] + [p.grad for p in parameters if p.grad is not None])
        for handle in handles:
            handle.remove()
        for parameter in parameters:
            parameter.grad = None

    return step


def swept(tensor: Tensor) -> object:
    """The statistics of an output or its gradient."""
    return native.reduce(tensor, 1 if tensor.dim() > 3 else tensor.dim() - 1, None, Room(15), whole=True)


def measure(name: str, args: argparse.Namespace) -> None:
    """Print the rows of one network."""
    torch.manual_seed(0)
    model, batch = CASES[name](args)
    with torch.no_grad():
        cotangent = torch.randn_like(model(batch))
    plain = plain_step(model, batch, cotangent)
    sizes = as_much_memory(spp.trace(model, batch).frame, "cpu")
    steps: dict[str, Callable[[], object]] = {
        "plain step": plain,
        "every byte read once": read_step(plain, sizes),
        "empty hooks": hooked_step(model, batch, cotangent, lambda _: None, lambda _: None),
        "hooks, a sum each": hooked_step(model, batch, cotangent, torch.sum, lambda all_: [t.sum() for t in all_]),
        "hooks and sweeps": hooked_step(
            model,
            batch,
            cotangent,
            swept,
            lambda all_: backends.reduce_all(all_, [0 if t.dim() else None for t in all_], Room()),
        ),
        "trace": lambda: spp.trace(model, batch),
    }
    timers = {what: Timer(step, "cpu") for what, step in steps.items()}
    for _ in range(2 + args.runs):
        for timer in timers.values():
            timer()
    base = timers["plain step"].cpu[2:]
    for what, timer in timers.items():
        cpu = timer.cpu[2:]
        ratio = quartiles([t / p for t, p in zip(cpu, base, strict=True)])
        fast = lowest_third(cpu)
        print(f"| {name} | {what} | {ratio} | {fast * 1e3:.0f} | {(fast - lowest_third(base)) * 1e3:.0f} |", flush=True)


def lowest_third(seconds: list[float]) -> float:
    """The mean of the fastest third: what the machine can do when it is left alone."""
    return statistics.fmean(sorted(seconds)[: max(1, len(seconds) // 3)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet50", "effnet_b0"], choices=list(CASES))
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--tokens", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not backends.choose().native:
        parser.error(f"the parts are those of the C sweep, and there is none: {backends.choose().reason}")
    print(f"torch {torch.__version__}, one thread")
    print("| network | step | CPU ratio | fastest third, ms | adds, ms |\n|---|---|---|---|---|")
    for name in args.models:
        measure(name, args)


if __name__ == "__main__":
    main()
