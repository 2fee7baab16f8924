"""What was measured of the twelve networks: by a trace, over two batches, in half precision, by a watch.

python -m tests.golden.cases     # writes the golden tables anew, after a change of the numbers that is meant
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

import spp
from tests.golden.networks import NETWORKS, batch, built

FOLDER = Path(__file__).parent
TABLES = ("frame", "blocks", "modules")
INTEGER_INPUTS = ("tokens",)
NO_HALF = ("recurrent", "normalized")
"""Networks whose operations torch lacks in half precision on the CPU, or computes differently from machine to machine."""


def traced(name: str) -> spp.Trace:
    torch.manual_seed(11)
    return spp.trace(built(name), batch(name), exponents=False, functions=False)


def over_two_batches(name: str) -> spp.Trace:
    torch.manual_seed(11)
    return spp.trace(built(name), iter([batch(name, 0), batch(name, 1)]), moments=4, functions=False)


def half(name: str, dtype: torch.dtype) -> spp.Trace:
    model, one = built(name).to(dtype), batch(name)
    if isinstance(one, tuple):
        one = (one[0].to(dtype), one[1])
    elif name not in INTEGER_INPUTS:
        one = one.to(dtype)
    torch.manual_seed(11)
    return spp.trace(model, one, functions=False)


def watched(name: str) -> spp.Watch:
    model = built(name)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.05)
    torch.manual_seed(11)
    with contextlib.ExitStack() as stack:
        watch = stack.enter_context(spp.watch(model, optimizer, every=2, functions=False))
        for step in range(3):
            one = batch(name, step)
            output = model(one[0] if isinstance(one, tuple) else one)
            output = output["main"] + output["aux"].sum() if isinstance(output, dict) else output
            output.float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return watch


CASES: dict[str, Callable[[str], spp.Trace | spp.Watch | None]] = {
    "trace": traced,
    "batches": over_two_batches,
    "float16": lambda name: None if name in NO_HALF else half(name, torch.float16),
    "bfloat16": lambda name: None if name in NO_HALF else half(name, torch.bfloat16),
    "watch": watched,
}


def tables(case: str, name: str) -> dict[str, pd.DataFrame] | None:
    """What the case gives for one network; None where it has none."""
    run = CASES[case](name)
    if run is None:
        return None
    return {table: getattr(run, table).reset_index(drop=True) for table in TABLES}


def golden_file(case: str, table: str) -> Path:
    return FOLDER / f"{case}-{table}.parquet"


def write() -> None:
    for case in CASES:
        found = {name: tables(case, name) for name in NETWORKS}
        for table in TABLES:
            parts = [t[table].assign(network=name) for name, t in found.items() if t is not None]
            whole = pd.concat([part.astype(dict.fromkeys(part.select_dtypes("category"), "str")) for part in parts])
            # seven digits are more than any of the tolerances asks for
            numbers = whole.select_dtypes("float64").columns
            whole = whole.astype(dict.fromkeys(numbers, "float32"))
            whole.to_parquet(golden_file(case, table), compression="brotli", index=False)


if __name__ == "__main__":
    write()
