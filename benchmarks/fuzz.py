"""Random networks, calls of the command line and frames, with a seed: nothing differs and nothing raises.

    python benchmarks/fuzz.py                                         # 2,000 networks, 1,000 calls, 500 frames
    python benchmarks/fuzz.py --networks 100 --options 0 --frames 0   # some of them
    python benchmarks/fuzz.py --seed 1 --first 300 --networks 100     # those from number 300 on
    python benchmarks/fuzz.py --case network:1345                     # one again, with its traceback

Networks: every row of a trace (and of a watched step, for each fifth) with what plain hooks on an untouched twin hear, computed
in NumPy; every row that is missing with its reason; model, batch, random states and the next training step to the bit. Each
fourth takes the reference in place of the C kernel. Calls: no traceback, documented exit codes, one line for an error. Frames:
every kind of figure, the report, compare, check, save and load.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "cli")]

from tests.fuzz import frames, measured, networks, options  # noqa: E402  (the path is set above)

Counts = Counter[str]


def one_network(seed: int, number: int, counts: Counts) -> None:
    """A trace of the network of a number, and for each fifth a watch."""
    os.environ["SPP_KERNELS"] = "off" if number % 4 == 0 else "auto"
    case = networks.network(seed, number)
    rows = measured.examine(case, number, counts)
    if rows >= 0 and number % 5 == 0:
        rows += measured.watched(case, number, counts)
    counts["rows compared" if rows >= 0 else "networks that raise by themselves"] += abs(rows)


def one_call(seed: int, number: int, counts: Counts) -> None:
    """One call of the command line, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        options.furnish(Path(folder))
        options.answer(number, options.call(seed, number), Path(folder), counts)


def one_frame(seed: int, number: int, counts: Counts) -> None:
    """One frame through everything that reads frames."""
    with tempfile.TemporaryDirectory() as folder:
        frames.survive(frames.frame(seed, number), number, Path(folder), counts)


KINDS: dict[str, Callable[[int, int, Counts], None]] = {
    "network": one_network,
    "option": one_call,
    "frame": one_frame,
}


def main() -> int:
    """Run what was asked for; 1 where something differs or raises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--networks", type=int, default=2000)
    parser.add_argument("--options", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="number of the first of each kind")
    parser.add_argument("--case", metavar="KIND:NUMBER", help=f"one alone; KIND is one of {', '.join(KINDS)}")
    args = parser.parse_args()
    matplotlib.use("Agg")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if args.case:
        kind, _, number = args.case.partition(":")
        KINDS[kind](args.seed, int(number), Counter())
        print(f"{args.case}: no difference")
        return 0
    differences = 0
    for kind, many in zip(KINDS, (args.networks, args.options, args.frames), strict=True):
        counts: Counts = Counter()
        begin, bad = time.perf_counter(), 0
        for number in range(args.first, args.first + many):
            try:
                KINDS[kind](args.seed, number, counts)
            except Exception as error:
                bad += 1
                said = " ".join(str(error).split())[:300]
                last = traceback.extract_tb((error.__cause__ or error).__traceback__)[-1]
                print(
                    f"{kind}:{number} {type(error).__name__}: {said} ({Path(last.filename).name}:{last.lineno})",
                    flush=True,
                )
        differences += bad
        print(f"{many:,} {kind}s, seed {args.seed}: {bad} differences, {time.perf_counter() - begin:.0f} s", flush=True)
        for what, count in counts.most_common():
            print(f"  {count:>9,} {what}")
    return int(differences > 0)


if __name__ == "__main__":
    sys.exit(main())
