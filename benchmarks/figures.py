"""How long figures take to draw: python benchmarks/figures.py [repeats].

Six panels of 300 layers should take less than 3 seconds, and those of 10,000 rows less than 5. Drawing keeps one core busy, so
its seconds of computing are the time it takes on a machine that has nothing else to do.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

import spp
import spp.plot


def network(layers: int) -> nn.Module:
    """Blocks of a linear layer, a norm and an activation, ``layers`` leaves in all."""
    blocks = []
    for _ in range(layers // 3):
        blocks.append(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU()))
    return nn.Sequential(*blocks)


def main(repeats: int) -> None:
    torch.manual_seed(0)
    print(f"{'figure':<34}{'rows':>8}{'draw':>9}{'to png':>9}{'to pdf':>9}   (best of {repeats}, seconds of computing)")
    for layers, limit in ((300, 3.0), (2501, 5.0)):
        trace = spp.trace(
            network(layers), torch.randn(4, 8), channels=True, signals=("activation", "gradient", "weight")
        )
        step = trace.frame.assign(step=1)
        runs = {"a": trace, "b": SimpleNamespace(frame=step, run={})}
        for name, draw in (
            ("layers", lambda t=trace: t.plot(style="paper")),
            ("compare", lambda r=runs: spp.plot.compare(r, style="paper")),
            ("channels", lambda t=trace: t.plot("channels", style="paper")),
        ):
            drawn, png, pdf = [], [], []
            for _ in range(repeats):
                started = time.process_time()
                figure = draw()
                drawn.append(time.process_time() - started)
                with tempfile.TemporaryDirectory() as folder:
                    for times, suffix in ((png, "png"), (pdf, "pdf")):
                        started = time.process_time()
                        figure.save(Path(folder) / f"x.{suffix}")
                        times.append(time.process_time() - started)
            numbers = (min(drawn), min(png), min(pdf))
            late = "" if name != "layers" or numbers[0] + numbers[1] < limit else f"   over {limit:g} s"
            text = "".join(f"{number:>9.2f}" for number in numbers)
            print(f"{f'{name} of {layers} layers':<34}{len(trace.frame):>8}{text}{late}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
