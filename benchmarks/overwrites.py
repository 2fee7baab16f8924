"""A run folder whose writer dies at each file-system call of an overwrite holds the old run or the new one, whole.

    python benchmarks/overwrites.py
    python benchmarks/overwrites.py trace --every 3

A run is overwritten that was saved by a trace (*trace*) or written by a watch (*watch*), or a run is removed (*removed*). The
writer, a child process, ends before the n-th file that it opens for writing, renames, removes or copies and the n-th folder
that it makes or removes, for n = 1, 2, ... until it ends unharmed. What lies in the folder besides the run stays, and
nothing that is left stands in the way of the next attempt.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

import spp
from spp.frame.runs import check_writable, remove

CALLS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.copyfile"}
KINDS = ("trace", "watch", "removed")


def saved(folder: Path, width: int) -> spp.Trace:
    """The run of a small trace, saved in a folder and loaded again."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))
    spp.trace(model, torch.randn(5, 3)).save(folder)
    return spp.load(folder)


def watched(folder: Path) -> spp.Trace:
    """The run of a watch of six steps, loaded again."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with spp.watch(model, optimizer, every=2, flush=0, path=folder):
        for _ in range(6):
            optimizer.zero_grad()
            model(torch.randn(5, 3)).square().sum().backward()
            optimizer.step()
    return spp.load(folder)


def die_at(number: int) -> None:
    """End this process before that file-system call."""
    left = number

    def call(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in CALLS or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            left -= 1
            if left < 0:
                os._exit(9)

    sys.addaudithook(call)


def sweep(kind: str, every: int, here: Path) -> int:
    """Let a writer die at each ``every``-th call, and look at what it leaves; the call that it outlived."""
    old, new = saved(here / "old", 4) if kind == "trace" else watched(here / "old"), saved(here / "new", 8)
    folder = here / "run"
    for number in range(1, 500, every):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(here / "old", folder)
        (folder / "src.py").write_text("mine")
        child = os.fork()
        if not child:
            die_at(number)
            remove(folder) if kind == "removed" else new.save(folder, overwrite=True)
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert (folder / "src.py").read_text() == "mine"
        if kind == "removed":
            if ended:
                return number
            remove(check_writable(folder, overwrite=True))
            assert {path.name for path in folder.iterdir()} == {".lock", "src.py"}
            continue
        loaded = spp.load(folder)
        whole = old if loaded.frame.equals(old.frame) else new
        assert loaded.frame.equals(whole.frame) and len(loaded.modules) == len(whole.modules), number
        if ended:
            assert whole is new
            return number
        new.save(folder, overwrite=True)
        assert spp.load(folder).frame.equals(new.frame)
        assert not [*folder.glob(".new*"), *folder.glob(".draft*")]
    raise AssertionError("it never ended unharmed")


def main() -> None:
    """Sweep over the kinds that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--every", type=int, default=1, help="take each such call only")
    asked = parser.parse_args()
    for kind in asked.kinds:
        with tempfile.TemporaryDirectory() as here:
            print(kind, sweep(kind, asked.every, Path(here)), flush=True)


if __name__ == "__main__":
    main()
