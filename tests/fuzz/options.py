"""Random calls of the command line: options that are right, wrong, too many or missing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from click.testing import CliRunner, Result

from spp_cli.main import COMMANDS, cli
from tests.fuzz.frames import real
from tests.fuzz.measured import expect

ODD = (
    "",
    " ",
    "-1",
    "0",
    "nan",
    "inf",
    "1e9x",
    "x" * 300,
    "../..",
    "é层",
    "$HOME",
    "a\nb",
    "--",
    "-",
    "None",
    "[",
    "*",
    "\udce9",
)
SMALL = ("1", "2", "3")
PATHS = (
    "trace",
    "watch",
    "nothing",
    "empty",
    "text.txt",
    "damaged",
    "array.npy",
    "state.pt",
    ".",
    "trace/frame.parquet",
    "new/run",
)
VALUES: dict[str, tuple[str, ...]] = {
    "model": (
        "ffn",
        "ffn",
        "ffn",
        "ffn",
        "ffnn",
        "torch.nn:Identity",
        "json:loads",
        "timm:no",
        "nowhere:thing",
        "transformers:no.json",
    ),
    "norm": ("none", "bn", "ln", "gn", "batchnorm"),
    "activation": ("relu", "gelu", "rellu", "tanh"),
    "init": ("he", "lecun", "orthogonal", "hee"),
    "residual": ("none", "fixup", "skipinit"),
    "se": ("none", "nf"),
    "data": ("gaussian", "gaussian", "uniform", "cifar10", "array.npy", "empty", "text.txt"),
    "image_size": ("4", "4x6", "0", "4x4x4"),
    "include": ("*", "fc*", "[", "0"),
    "exclude": ("*", "fc*", "nothing"),
    "statistics": ("kurtosis", "acsm", "acv", "spread", "mean"),
    "signals": ("activation", "gradient", "weight", "weights"),
    "kind": ("layers", "blocks", "evolution", "theory", "channels", "distribution", "compare", "norms", "rules", "pie"),
    "steps": ("0", "1", "2", "77"),
    "layers": ("head", "stem.0", "nothing"),
    "width": ("single", "double", "3.2", "-1"),
    "every": ("1", "2", "log", "0", "often"),
    "optimizer": ("sgd", "adamw", "adam", "none"),
    "schedule": ("constant", "cosine", "step", "no"),
    "augment": ("none", "flip", "no"),
    "plugin": ("json", "nowhere", "os.path"),
    "epochs": ("1",),
}


def furnish(folder: Path) -> None:
    """What the calls find where they run."""
    trace, watch = real()
    trace.save(folder / "trace")
    watch.save(folder / "watch")
    trace.save(folder / "damaged")
    (folder / "damaged" / "run.json").write_text("{")
    (folder / "empty").mkdir()
    (folder / "text.txt").write_text("nothing\n")
    np.save(folder / "array.npy", np.zeros((6, 3, 4, 4), dtype=np.float32))
    torch.save(torch.nn.Linear(2, 2).state_dict(), folder / "state.pt")


@lru_cache(maxsize=1)
def commands() -> dict[str, click.Command]:
    context = click.Context(cli)
    return {name: command for name in COMMANDS if (command := cli.get_command(context, name)) is not None}


def call(seed: int, number: int) -> list[str]:
    """The words of a number."""
    rng = np.random.default_rng([seed, number])

    def one(*choices: str) -> str:
        return choices[int(rng.integers(len(choices)))]

    name = one(
        "analyze",
        "analyze",
        "compare",
        "compare",
        "train",
        "plot",
        "plot",
        "report",
        "check",
        "check",
        "study",
        "list",
        "info",
        "nothing",
    )
    command = commands().get(name)
    if command is None or name == "study":
        return [
            name,
            *(one("list", "run", "show", "--help", "thesis-ffn", "--json", *ODD) for _ in range(int(rng.integers(3)))),
            "--wrong",
        ]
    words, needed = [name], {"model", "batch_size", "epochs", "run", "runs", "baseline"}
    for option in command.params:
        key = str(option.name)
        if rng.random() > (0.93 if key in needed else 0.13):
            continue
        for _ in range(int(rng.integers(1, 4)) if option.multiple or option.nargs < 0 else 1):
            value = _value(key, option, one, odd=bool(rng.random() < 0.08))
            if isinstance(option, click.Option):
                words.append(option.opts[0])
            if not getattr(option, "is_flag", False):
                words.append(value)
    if name == "train":
        words += ["--data", "array.npy"] * (rng.random() < 0.3)
    if name in ("analyze", "compare") and rng.random() < 0.9 and "--no-figures" not in words:
        words.append("--no-figures")
    if rng.random() < 0.04:
        words.insert(int(rng.integers(len(words) + 1)), one("--wrong", "extra", *ODD))
    return words


def _value(key: str, option: Any, one: Any, odd: bool) -> str:
    if odd:
        return one(*ODD)
    if isinstance(option.type, click.Choice):
        return one(*map(str, option.type.choices))
    if key in VALUES:
        return one(*VALUES[key])
    if isinstance(option.type, click.Path):
        return one(*PATHS)
    return one(*SMALL, "0.1", "4")


def run(words: list[str], folder: Path, whole: bool) -> tuple[int, str, str]:
    """Call ``spp`` there, in this process or in one of its own."""
    if whole:
        code = "import sys; from spp_cli.main import cli; sys.argv[0] = 'spp'; cli()"
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=300,
        )
        return done.returncode, done.stdout, done.stderr
    here = Path.cwd()
    os.chdir(folder)
    try:
        result: Result = CliRunner().invoke(cli, words)
    finally:
        os.chdir(here)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"{type(result.exception).__name__}: {result.exception}") from result.exception
    return result.exit_code, result.stdout, result.stderr


def answer(number: int, words: list[str], folder: Path, codes: Counter[str], every: int = 50) -> None:
    """Call it, and look at the answer: 0; 1 for what was found; 2 and one line for what cannot be done."""
    whole = number % every == every - 1 and not any("\udce9" in w for w in words)
    code, out, err = run(words, folder, whole)
    codes[f"exit {code}{' (a process)' if whole else ''}"] += 1
    expect("Traceback" not in out + err, "a traceback:", words, err[-400:])
    expect(code in (0, 1, 2), "exit code", code)
    errors = [i for i, line in enumerate(err.split("\n")) if line.startswith("Error: ")]
    if code == 2:
        lines = err.rstrip("\n").split("\n")
        expect(len(errors) == 1 and errors[0] == len(lines) - 1, "not one line:", words, err[-600:])
    else:
        expect(not errors, "an error and exit code", code, ":", words, err[-400:])
