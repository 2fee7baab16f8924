"""SIGKILL at random moments and at every file-system call: nothing is lost, and a run goes on to the same bits.

    python benchmarks/kills.py
    python benchmarks/kills.py --what watch --kills 20 --calls 10 --seed 3

Four tasks that can be taken up again: a loop with ``spp.watch`` and checkpoints of its own (*watch*), ``spp train``
(*train*), the same with ``--every never`` (*plain*), and a study of four cells (*study*). A child process is killed

- *at call n*: before the n-th file that it opens for writing, forces to disk, renames, cuts off or removes and the n-th
  folder that it makes or removes, for n = 1, 2, ... until it ends unharmed; once where the task begins, and once where it
  goes on with what a killed one left (*resumed*);
- *at random*: each run up to four times, before it may end.

After each kill the folder is read, and held against what the child had said was written and against a twin that ran
through. Then the task is given the same call again, goes on to its end, and what it leaves is the twin's to the bit, with
no half-written file beside it. Exit code 1 on a loss, whose folder stays.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

import spp
from spp.frame.runs import holds_something
from spp.models import MODELS, Model
from spp.models.ffn import FFN, FFNConfig
from spp.studies import Cell, Claim, Outcome, Results, Setup, Study, Verdict
from spp.studies import run as run_study
from spp.studies.run import Shelf
from spp.studies.trials import drawn, images, traced, trained
from spp.training import Recipe
from spp_cli import training_report
from spp_cli.main import cli

Tell = Callable[[int], None]
State = dict[str, Any]
EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}
TIMES = ("seconds", "next_step", "sessions", "arguments", "argv", "versions")
"""Facts that differ between a run and its twin: how long it took, where it lies, how often it was begun."""


@dataclass(frozen=True)
class Task:
    """What is killed.

    Attributes:
        run: Does it in a folder, or goes on with it, and tells how much is on disk whenever it can rely on that.
        held: What a folder holds, by name, as far as it has come, and how far that is; before anything is there, -1.
        upto: Of a finished one's tables, those of a run that came so far.
    """

    run: Callable[[Path, Tell], None]
    held: Callable[[Path], tuple[int, State]]
    upto: Callable[[State, State], State]


# -- watch --------------------------------------------------------------------------------------------------------------------

STEPS = 9


class Net(nn.Module):
    """BatchNorm, dropout, a residual block that is skipped now and then, and a layer that is used now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.drop = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.2)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.expert, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(torch.relu(self.norm(self.stem(x))))
        if not self.training or torch.rand(()) < 0.5:
            x = x + self.block(x)
        if not self.training or torch.rand(()) < 0.5:
            x = self.expert(x)
        return self.head(x)


def run_watch(folder: Path, tell: Tell) -> None:
    torch.manual_seed(2)
    model, saved = Net(), folder.with_suffix(".pt")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    begin = 0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        begin = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
    data = torch.randn(STEPS, 12, 6, generator=torch.Generator().manual_seed(1))
    with spp.watch(model, optimizer, every=2, flush=0, path=folder, resume=True, start=begin):
        for step in range(begin, STEPS):
            model.train()
            optimizer.zero_grad()
            model(data[step]).square().mean().backward()
            optimizer.step()
            tell(step - step % 2)
            if step % 3 == 2:
                model.eval()
                with torch.no_grad():
                    model(data[0])
            state = {"step": step + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "random": torch.get_rng_state()}, saved.with_suffix(".draft"))
            saved.with_suffix(".draft").replace(saved)


def held_by_run(folder: Path) -> tuple[int, State]:
    """The tables and facts of a run; how far is the last step that was trained."""
    if not holds_something(folder):
        return -1, {}
    run = spp.load(folder)
    tables = {name: getattr(run, name) for name in ("frame", "blocks", "modules", "unmeasured")}
    facts = {name: value for name, value in run.info.items() if name not in TIMES}
    return int(run.frame.loc[run.frame["mode"] == "train", "step"].max()) if len(run.frame) else -1, {**tables, **facts}


def held_by_watch(folder: Path) -> tuple[int, State]:
    reached, state = held_by_run(folder)
    saved = folder.with_suffix(".pt")
    return reached, {**state, "weights": torch.load(saved, weights_only=True)} if saved.exists() else state


def rows_upto(whole: State, part: State) -> State:
    """The rows of the steps that a part of a run has; of the last one's evaluation there may be none yet."""
    out = {}
    for name in ("frame", "blocks"):
        one, other = whole[name], part[name]
        out[name] = one[one["step"] <= other["step"].max()].head(len(other)) if len(other) else one.head(0)
    return out


# -- train --------------------------------------------------------------------------------------------------------------------

EPOCHS = 3
REPORT = training_report.Report.__call__


def run_train(every: str, folder: Path, tell: Tell) -> None:
    def told(self: Any, news: Any) -> None:
        REPORT(self, news)
        if news.row is not None:
            tell(news.epoch)

    training_report.Report.__call__ = told  # type: ignore[method-assign]
    words = ["--model", "kills", "--data", "digits", "--epochs", str(EPOCHS), "--batch-size", "400", "--lr", "0.01"]
    cli(["train", *words, "--every", every, "--out", str(folder), "--resume", "--quiet"], standalone_mode=False)


def held_by_training(folder: Path) -> tuple[int, State]:
    """The checkpoints, the history, what was measured, and the facts; how far is the last epoch that ended."""
    if not holds_something(folder):
        return -1, {}
    state: State = {}
    if (folder / "parts").exists():
        state = held_by_run(folder)[1]
    else:
        facts = spp.frame.files.read_facts(folder, str(folder))
        state = {name: value for name, value in facts.items() if name not in TIMES}
    for name in ("last", "best"):
        file = folder / "checkpoints" / f"{name}.pt"
        state[name] = torch.load(file, weights_only=True) if file.exists() else {"position": {"epoch": 0}}
        state[name].pop("seconds", None)
        for row in (*state[name].get("history", ()), state[name].get("row", {})):
            row.pop("seconds", None)
    for end, read in (("parquet", pd.read_parquet), ("csv", pd.read_csv)):
        file = folder / f"history.{end}"
        state[end] = read(file).drop(columns="seconds") if file.exists() else pd.DataFrame()
    return state["last"]["position"]["epoch"] - 1, state


def epochs_upto(whole: State, part: State) -> State:
    out = rows_upto(whole, part) if "frame" in part else {}
    return {**out, **{end: whole[end].head(len(part[end])) for end in ("parquet", "csv") if len(part[end])}}


# -- study --------------------------------------------------------------------------------------------------------------------


def measure(cell: Cell, setup: Setup) -> dict[str, pd.DataFrame]:
    seed = cell["seed"]
    model = drawn(lambda: spp.models.build("kills", norm=cell["norm"], input_shape=(1, 8, 8), num_classes=10), seed)
    data = images(setup, "cifar10", seed=seed)
    out = traced(model, data.train.batch(torch.arange(16)), setup)
    return {**out, **trained(model, data, Recipe(epochs=1, batch_size=600), setup, every=1)}


def judge(results: Results, setup: Setup) -> Verdict:
    accuracy = float(results["test"]["accuracy"].mean())
    return Verdict(Outcome.CONFIRMED, f"{accuracy:.3f}", {"accuracy": accuracy})


STUDY = Study(
    name="kills",
    title="A study that is killed",
    source="nobody",
    question="Does it go on?",
    arrangement=lambda setup: ["two networks"],
    claims=(Claim("K1", "It learns.", "nobody", "always", judge),),
    cells=lambda setup: [Cell.of(norm=norm, seed=seed) for norm in ("none", "batch") for seed in setup.seed_list(2)],
    measure=measure,
    tables=lambda results, setup: {"table": results["test"].groupby("norm", as_index=False)["accuracy"].mean()},
)


def do_study(folder: Path, tell: Tell) -> None:
    run_study(STUDY, folder, report=lambda progress: tell(progress.done - 1))


def held_by_study(folder: Path) -> tuple[int, State]:
    """The tables of the cells and what was published; how far is the number of cells."""
    if not holds_something(folder):
        return -1, {}
    setup = Setup()
    results = Shelf(folder, STUDY, setup).read(list(STUDY.cells(setup)))
    state: State = {f"{cell} {name}": table for cell in results.cells for name, table in results.tables[cell].items()}
    return len(results.cells) - 1, state


def published(folder: Path) -> tuple[int, State]:
    reached, state = held_by_study(folder)
    for file in sorted(folder.glob("*.*")):
        if file.suffix == ".parquet":
            state[file.name] = pd.read_parquet(file)
        elif file.name != "README.md" and not file.name.startswith("."):
            # the page, and the line of the verdicts, tell how long it took
            state[file.name] = [line for line in file.read_text().splitlines() if '"seconds"' not in line]
    return reached, state


def cells_upto(whole: State, part: State) -> State:
    return {name: whole[name] for name in part}


# -- kills --------------------------------------------------------------------------------------------------------------------

TASKS = {
    "watch": Task(run_watch, held_by_watch, rows_upto),
    "train": Task(lambda folder, tell: run_train("2", folder, tell), held_by_training, epochs_upto),
    "plain": Task(lambda folder, tell: run_train("never", folder, tell), held_by_training, epochs_upto),
    "study": Task(do_study, held_by_study, cells_upto),
}


class Child:
    """A forked process that does a task, and tells how far it has come.

    Args:
        task: Which.
        folder: Where.
        calls: Before which file-system call it kills itself; 0 counts them, None does not.
    """

    def __init__(self, task: Task, folder: Path, calls: int | None = None) -> None:
        self._reading, writing = os.pipe()
        self._started = time.perf_counter()
        self.pid = os.fork()
        if self.pid:
            os.close(writing)
            return
        code = 1
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            count = _die_at(calls) if calls is not None else lambda: 0
            task.run(folder, lambda far: os.write(writing, f"{far}\n".encode()) and None)
            os.write(writing, f"calls {count()}\n".encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def wait(self, seconds: float | None = None) -> tuple[int, int]:
        """Its exit code, after a kill when that time is over, and how far it had said that it had come, -1 for nowhere."""
        if seconds is not None:
            time.sleep(seconds)
            os.kill(self.pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.seconds = time.perf_counter() - self._started
        with os.fdopen(self._reading) as pipe:
            told = pipe.read().splitlines()
        if not code:
            self.calls = int(told.pop().split()[1])
        return code, int(told[-1]) if told else -1


def _die_at(number: int) -> Callable[[], int]:
    """Kill this process before that file-system call; what is returned tells how many there were."""
    count = 0

    def call(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in EVENTS or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sync = os.fsync

    def fsync(handle: int) -> None:
        # no event of its own
        call("os.rename", ())
        sync(handle)

    os.fsync = fsync
    sys.addaudithook(call)
    return lambda: count


class Killer:
    """Kills a task, and looks at what it left.

    Args:
        name: Of the task.
        place: For the folders.
    """

    def __init__(self, name: str, place: Path) -> None:
        self.name, self.place, self.task = name, place, TASKS[name]
        self.end = published if name == "study" else self.task.held
        # in this process, which is warm by it: whoever is forked from it has everything loaded
        with redirect_stdout(io.StringIO()):
            self.task.run(place / "twin", lambda far: None)
        self.twin = self.end(place / "twin")[1]
        again = Child(self.task, place / "again")
        again.wait()
        self.seconds = again.seconds
        same(self.twin, self.end(place / "again")[1])
        self.kills = self.early = self.within = 0
        self.losses: list[str] = []

    def at_calls(self, label: str, most: int | None, begun: Callable[[Path], None]) -> int:
        """Kill at each call, or at so many of them that are spread evenly; how many calls there are."""
        total = self._calls(begun)
        for number in range(1, total + 1) if most is None or most >= total else spread(total, most):
            with self._folder(f"{label}-{number}") as folder:
                begun(folder)
                code, told = Child(self.task, folder, number).wait()
                self._look(folder, code, told)
                self._finish(folder)
        return total

    def at_random(self, kills: int, chance: random.Random) -> None:
        """Kill at random moments, each run up to four times."""
        until = self.kills + kills
        while self.kills < until:
            with self._folder(f"random-{self.kills}") as folder:
                for _ in range(chance.randint(1, min(4, until - self.kills))):
                    code, told = Child(self.task, folder).wait(chance.uniform(0, self.seconds))
                    self._look(folder, code, told)
                    if not code:
                        break
                self._finish(folder)

    def _calls(self, begun: Callable[[Path], None]) -> int:
        """How many calls a run makes that is not killed."""
        folder = self.place / "probe"
        begun(folder)
        child = Child(self.task, folder, 0)
        child.wait()
        self._remove(folder)
        return child.calls

    @contextmanager
    def _folder(self, name: str) -> Iterator[Path]:
        folder, before = self.place / name, len(self.losses)
        try:
            yield folder
        except Exception as error:
            self.losses.append(f"{folder}: {type(error).__name__}: {error}")
        if len(self.losses) == before:
            self._remove(folder)
        else:
            print(self.losses[-1], file=sys.stderr, flush=True)

    def _remove(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        for beside in folder.parent.glob(f"{folder.name}.*"):
            beside.unlink()

    def _look(self, folder: Path, code: int, told: int) -> None:
        """After a kill."""
        if code not in (0, -signal.SIGKILL):
            raise AssertionError(f"ended with {code}")
        self.kills += code != 0
        self.early += code != 0 and told < 0
        self.within += code != 0 and any(".draft" in file.name for file in folder.rglob("*"))
        reached, state = self.task.held(folder) if folder.exists() else (-1, {})
        if reached < told:
            raise AssertionError(f"what was written up to {told} is there up to {reached}")
        if state:
            same(self.task.upto(self.twin, state), {k: state[k] for k in self.task.upto(self.twin, state)})

    def _finish(self, folder: Path) -> None:
        """The same call once more, without a kill."""
        code, _ = Child(self.task, folder).wait()
        if code:
            raise AssertionError(f"does not go on: ended with {code}")
        same(self.twin, self.end(folder)[1])
        if left := [file.name for file in folder.rglob(".*") if file.name != ".lock"]:
            raise AssertionError(f"left behind: {left}")


def spread(total: int, many: int) -> list[int]:
    """So many of the numbers 1 to ``total``, evenly spread."""
    return sorted({1 + round(i * (total - 1) / max(many - 1, 1)) for i in range(many)}) if many else []


def words(table: pd.DataFrame) -> dict[str, str]:
    """Categories as what they are."""
    return {name: "str" for name, dtype in table.dtypes.items() if dtype == "category"}


def same(one: Any, other: Any, where: str = "") -> None:
    """Raise where two nested states differ in one bit."""
    if isinstance(one, dict):
        if one.keys() != other.keys():
            raise AssertionError(f"{where}: {sorted(map(str, one.keys() ^ other.keys()))}")
        for key in one:
            same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, pd.DataFrame):
        # a part of a frame has fewer types of modules
        one, other = (table.reset_index(drop=True).astype(words(table)) for table in (one, other))
        try:
            pd.testing.assert_frame_equal(one, other, check_exact=True)
        except AssertionError as error:
            raise AssertionError(f"{where}: {' '.join(str(error).split())[:300]}") from error
    elif isinstance(one, Tensor):
        if not torch.equal(one, other):
            raise AssertionError(f"{where}: other numbers")
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            raise AssertionError(f"{where}: {len(one)} and {len(other)}")
        for i, pair in enumerate(zip(one, other, strict=True)):
            same(*pair, f"{where}/{i}")
    elif one != other and not (one != one and other != other):
        raise AssertionError(f"{where}: {one!r} and {other!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", default="watch,train,plain,study", help="tasks, between commas")
    parser.add_argument("--kills", type=int, default=200, help="at random moments, of each task")
    parser.add_argument("--calls", type=int, help="how many of the file-system calls, evenly spread; all if left out")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    MODELS.register(
        "kills", Model(FFNConfig(name="kills", description="small", depth=3, width=8, norm="batch", dropout=0.2), FFN)
    )
    place = Path(tempfile.mkdtemp(prefix="spp-kills-"))
    print("| task | calls begun | calls resumed | kills | before the first flush | within a file | lost |")
    print("|---|---|---|---|---|---|---|")
    losses: list[str] = []
    for name in args.what.split(","):
        killer = Killer(name, place / name)
        begun = killer.at_calls("begun", args.calls, lambda folder: None)
        half = killer.place / "half"
        Child(killer.task, half, begun // 2).wait()

        def resume(folder: Path, half: Path = half) -> None:
            for file in half.parent.glob(f"{half.name}*"):
                to = folder.parent / file.name.replace(half.name, folder.name)
                shutil.copytree(file, to) if file.is_dir() else shutil.copyfile(file, to)

        resumed = killer.at_calls("resumed", args.calls, resume)
        killer.at_random(args.kills, random.Random(args.seed))
        row = (name, begun, resumed, killer.kills, killer.early, killer.within, len(killer.losses))
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
        losses += killer.losses
    if losses:
        sys.exit(f"{len(losses)} losses, in {place}")
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
