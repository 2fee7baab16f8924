"""How time and memory grow: 20,000 modules, 2 million rows, 2,000 parts, 5,000 watched steps, 2^31 + 8 elements.

    python benchmarks/load.py
    python benchmarks/load.py --what blocks,rows --share 0.1

Each case is done at a quarter, a half and the whole of its size, in a process of its own each time, and prints seconds of
CPU time, the highest memory so far (of the whole process), and the exponent of the growth from a quarter to the whole: 1
where four times as much takes four times as long. ``elements`` needs 9 GB and is done at its whole size alone: what is
looked for there is an index of 32 bits that overflows.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

import spp
from spp.frame.runs import RunWriter

Phase = tuple[str, Callable[[], Any]]
Case = Callable[[int, Path], Iterator[Phase]]


class Block(nn.Module):
    """``x + tanh(linear(x))``, four modules."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act, self.norm = nn.Linear(4, 4), nn.Tanh(), nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.act(self.linear(self.norm(x)))


class Wide(nn.Module):
    """Modules side by side."""

    def __init__(self, modules: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(4, 4) for _ in range(modules))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([part(x) for part in self.parts]).sum(0)


class Gated(nn.Module):
    """Squeeze and excitation without the squeeze, five modules; without the norm 4,000 of them overflow."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gate(self.linear(nn.functional.layer_norm(x, (4,))))


class Gate(nn.Module):
    """A gate."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(4, 1), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.act(self.fc(x))


NETWORKS: dict[str, tuple[int, Callable[[int], nn.Module]]] = {
    "deep": (20_000, lambda n: nn.Sequential(*(nn.Linear(4, 4) if i % 2 else nn.Tanh() for i in range(n)))),
    "wide": (20_000, Wide),
    "blocks": (20_000, lambda n: nn.Sequential(*(Block() for _ in range(n // 4)))),
    "gates": (20_000, lambda n: nn.Sequential(*(Gated() for _ in range(n // 5)))),
}


def modules(make: Callable[[int], nn.Module]) -> Case:
    """All that can be done with a network of many modules."""

    def case(n: int, place: Path) -> Iterator[Phase]:
        torch.manual_seed(0)
        model, kept, x = make(n), dict[str, spp.Run](), torch.randn(3, 4)
        yield "trace", lambda: kept.update(run=spp.trace(model, x))
        yield "watch, a step", lambda: watched(model, x, kept)
        yield from looked_at(kept["run"], place)

    return case


def watched(model: nn.Module, x: Tensor, kept: dict[str, spp.Run], steps: int = 1, **options: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    with spp.watch(model, optimizer, every=1, **options) as watch:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            model(x).square().mean().backward()
            optimizer.step()
    kept["watch"] = watch
    watch.frame  # noqa: B018


def looked_at(run: spp.Run, place: Path, kinds: tuple[str, ...] = ("layers", "blocks")) -> Iterator[Phase]:
    """What is done with a run."""
    yield "summary", lambda: str(run)
    yield "findings", lambda: run.findings
    yield "save", lambda: run.save(place / "run")
    yield "load", lambda: spp.load(place / "run").frame
    yield "check", lambda: spp.check(run, run)
    for kind in kinds:
        if kind != "blocks" or len(run.blocks):
            yield f"plot {kind}", lambda kind=kind: run.plot(kind).save(place / f"{kind}.png")
    yield "plot compare", lambda: spp.compare({"a": run, "b": run}).plot().save(place / "compare.png")
    yield "report", lambda: run.report(place / "report.html")


def rows(n: int, place: Path) -> Iterator[Phase]:
    """A frame of many rows: a watched network whose steps are repeated."""
    kept: dict[str, spp.Run] = {}
    watched(NETWORKS["blocks"][1](400), torch.randn(3, 4), kept, 2)
    watch = kept["watch"]
    one = watch.frame[watch.frame["step"] == 1]
    step = pd.Series(range(n // len(one))).repeat(len(one)).reset_index(drop=True)
    again = pd.concat([one] * (n // len(one)), ignore_index=True).assign(step=step)
    run = spp.Run(again, watch.blocks, watch.modules, watch.unmeasured, dict(watch.info))
    yield from looked_at(run, place, ("evolution", "layers"))


def parts(n: int, place: Path) -> Iterator[Phase]:
    """A run folder of many parts."""
    kept: dict[str, spp.Run] = {}
    model, x = NETWORKS["blocks"][1](40), torch.randn(3, 4)
    watched(model, x, kept)
    watch = kept["watch"]

    def write() -> None:
        writer = RunWriter(place / "run")
        writer.open(watch.info, 0)
        for step in range(n):
            writer.append(watch.frame.assign(step=step), watch.blocks.assign(step=step), next_step=step + 1)
        writer.close()

    yield "write", write
    yield "load", lambda: spp.load(place / "run").frame
    yield "resume and a step", lambda: watched(model, x, kept, path=place / "run", resume=True)


def steps(n: int, place: Path) -> Iterator[Phase]:
    """Many watched steps."""
    kept: dict[str, spp.Run] = {}
    model, x = NETWORKS["blocks"][1](40), torch.randn(3, 4)
    yield "in memory", lambda: watched(model, x, kept, n)
    yield "to a folder", lambda: watched(model, x, kept, n, path=place / "run", flush=0.2)


def elements(n: int, place: Path) -> Iterator[Phase]:
    """Tensors of more elements than 32 bits can count, with all that is not zero at their ends."""
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        for shape in ((n // 8, 8), (1, 4, 2, n // 8)):
            name = f"{str(dtype).removeprefix('torch.')}, {len(shape)} dimensions"
            yield name, lambda dtype=dtype, shape=shape: one_tensor(shape, dtype)


class Made(nn.Module):
    """A module that makes the tensor: a batch would be copied, to be put back."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        out = x.new_zeros(self.shape)
        out.view(-1)[0], out.view(-1)[-1] = 1, -2
        return out


def one_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    n = math.prod(shape)
    row = spp.trace(Made(shape), torch.zeros(2, dtype=dtype), signals=["activation"]).frame.iloc[0]
    found = (int(row["numel"]), row["mean"] * n, row["mean_square"] * n, row["abs_max"])
    if any(not math.isclose(*pair, rel_tol=1e-7) for pair in zip(found, (n, -1.0, 5.0, 2.0), strict=True)):
        raise SystemExit(f"{dtype}: {found}, not {(n, -1.0, 5.0, 2.0)}")


CASES: dict[str, tuple[int, Case]] = {
    **{name: (most, modules(make)) for name, (most, make) in NETWORKS.items()},
    "rows": (2_000_000, rows),
    "parts": (2_000, parts),
    "steps": (5_000, steps),
    "elements": (2**31 + 8, elements),
}


def measured(case: Case, n: int) -> dict[str, tuple[float, float]]:
    """Seconds and MiB of each phase, in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        place, code = Path(tempfile.mkdtemp(prefix="spp-load-")), 1
        try:
            for name, phase in case(n, place):
                begun = time.process_time()
                phase()
                told = name, time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                os.write(writing, json.dumps(told).encode() + b"\n")
            code = 0
        finally:
            shutil.rmtree(place, ignore_errors=True)
            if code:
                import traceback

                traceback.print_exc()
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found = {name: (seconds, memory) for name, seconds, memory in map(json.loads, pipe)}
    if os.waitpid(child, 0)[1]:
        print(f"failed at {n:,} after {list(found)}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", default=",".join(CASES), help="cases, between commas")
    parser.add_argument("--share", type=float, default=1.0, help="of the sizes")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(
        "| case | size | | seconds, at 1/4, 1/2, 1 | exponent | highest MiB, at 1/4, 1/2, 1 |\n|---|---|---|---|---|---|"
    )
    for name in args.what.split(","):
        most, case = CASES[name]
        sizes = [most] if name == "elements" else [max(4, int(most * args.share * part)) for part in (0.25, 0.5, 1)]
        found = [measured(case, n) for n in sizes]
        for phase in found[-1]:
            seconds = [one[phase][0] for one in found]
            growth = f"{math.log(seconds[-1] / seconds[0]) / math.log(4):.2f}" if len(found) > 1 else ""
            times = ", ".join(f"{one:.2f}" for one in seconds)
            memory = ", ".join(f"{one[phase][1]:,.0f}" for one in found)
            print(f"| {name} | {sizes[-1]:,} | {phase} | {times} | {growth} | {memory} |", flush=True)


if __name__ == "__main__":
    main()
