"""What ``spp train`` prints: what runs, a line per epoch, a bar on a terminal, and how it ended."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from spp_cli.console import as_json, device_of, tell, tell_path
from spp_cli.options import Call

if TYPE_CHECKING:
    from torch import nn

    from spp.data import Splits
    from spp.training import Fitted, News, Recipe

TITLES = "epoch     loss  accuracy  val. loss  val. accuracy        lr  seconds"


class Report:
    """Called with the news of a run; prints unless ``--json`` or ``--quiet`` were given.

    Args:
        call: The options.
        folder: Of the run.
    """

    def __init__(self, call: Call, folder: Path) -> None:
        self._call, self._folder = call, folder
        self._silent = call.as_json or call.quiet
        self._bar: Any = None

    def begin(self, model: nn.Module, data: Splits, recipe: Recipe, facts: dict[str, Any]) -> None:
        """Say what runs."""
        if not self._silent:
            for line in heading(self._call, model, data, recipe, facts):
                tell(line)
            click.echo()

    def __enter__(self) -> Report:
        if not self._silent:
            click.echo(TITLES)
        if not self._call.quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(unit="step", leave=False, dynamic_ncols=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, news: News) -> None:
        """Move the bar, and print the line of an epoch that has ended."""
        if self._bar is not None:
            done = news.epoch * news.batches + news.batch
            # steps of an earlier session took none of this one's time
            if self._bar.total is None:
                self._bar.total, self._bar.initial = news.epochs * news.batches, done - 1
            self._bar.n = done
            self._bar.set_description(f"epoch {news.epoch}", refresh=False)
            worst = f", {in_short(news.finding)}" if news.finding else ""
            self._bar.set_postfix_str(f"loss {news.loss:.3g}, accuracy {percent(news.accuracy)}{worst}", refresh=False)
            # update(0) draws ten times a second at most, refresh() in any case
            self._bar.refresh() if news.row is not None else self._bar.update(0)
        if news.row is not None and not self._silent:
            line = epoch_line(news.row)
            if self._bar is None:
                click.echo(line)
            else:
                # past the bar, which is drawn again below the line
                self._bar.write(line, file=sys.stdout)

    def end(self, fitted: Fitted) -> None:
        """Say how it went and what lies where."""
        folder = self._folder
        files = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir() if not path.name.startswith("."))
        if self._call.as_json:
            from spp.frame.files import read_facts

            report = {
                "folder": str(folder),
                "files": files,
                # as the training left it on the disk, where the end was written last
                "run": read_facts(folder, str(folder)),
                "history": fitted.history.to_dict(orient="records"),
                "test": fitted.test,
                "finding": fitted.finding,
                "stopped": fitted.stopped,
            }
            click.echo(as_json(report))
            return
        if self._call.quiet:
            tell_path(folder)
        else:
            click.echo()
            for line in (*results(fitted), *finding(fitted)):
                tell(line)
            tell(f"{folder}: {' '.join(files)}")
        if fitted.stopped is not None:
            tell(f"Error: {fitted.stopped}, so the run was stopped there.{_where(fitted)}", err=True)


def heading(call: Call, model: nn.Module, data: Splits, recipe: Recipe, facts: dict[str, Any]) -> list[str]:
    """Three lines that say what runs, on what, and how."""
    from spp.data.parts import count

    parameters = sum(p.numel() for p in model.parameters())
    settings = [f"{key} {facts[key]}" for key in ("norm", "activation", "init") if facts.get(key) is not None]
    shape = "x".join(str(side) for side in data.shape)
    extras = [f"AGC {recipe.agc:g}"] if recipe.agc is not None else []
    if recipe.precision != "float32":
        extras.append(recipe.precision)
    how = ", ".join([f"{recipe.optimizer} at lr {recipe.learning_rate:g}", f"schedule {recipe.schedule}", *extras])
    return [
        ", ".join([f"{call.model}: {parameters:,} parameters", *settings]),
        f"{call.data}: {len(data.train):,} images of {shape} to learn from, {len(data.validation):,} for validation, "
        f"{len(data.test):,} for the test",
        f"{recipe.epochs} epochs of {count(data.train, recipe.batch_size)} steps of {recipe.batch_size} images, {how}, "
        f"seed {recipe.seed}, {device_of(facts)}",
    ]


def epoch_line(row: dict[str, Any]) -> str:
    """One row of the history under ``TITLES``."""
    train = f"{number(row['train_loss']):>7}  {percent(row['train_accuracy']):>8}"
    held_back = f"{number(row['validation_loss']):>9}  {percent(row['validation_accuracy']):>13}"
    return f"{row['epoch']:>5}  {train}  {held_back}  {row['lr']:>8.3g}  {row['seconds']:>7.1f}"


def results(fitted: Fitted) -> list[str]:
    """One line for the last weights, one for the best where they are others."""
    lines = []
    for name, score in fitted.test.items():
        if name == "best" and score["epoch"] == fitted.test["last"]["epoch"]:
            continue
        what = f"{name} weights (epoch {score['epoch']:.0f})"
        lines.append(f"test, {what}: loss {number(score['loss'])}, accuracy {percent(score['accuracy'])}")
    return lines


def number(value: float) -> str:
    """Three digits, as ``0.341``."""
    return f"{value:.3g}" if math.isfinite(value) else str(value)


def percent(share: float) -> str:
    """As ``97.5 %``; empty where there is no such number."""
    return "" if math.isnan(share) else f"{100 * share:.1f} %"


def finding(fitted: Fitted) -> list[str]:
    """The worst finding of the run and what to try; nothing where it was not watched."""
    found = fitted.finding
    if found is None:
        return [] if fitted.watch is None else ["worst finding: none"]
    lines = [f"worst finding, {found['severity']} at step {found['step']}: {found['message']}"]
    return [*lines, f"Try: {found['remedy']}"] if found["remedy"] else lines


def in_short(found: dict[str, Any]) -> str:
    """As ``error at step 40: cliff, layer3.linear``."""
    from spp.errors import plain

    where = f", {plain(found['name'])}" if found["name"] else ""
    return f"{found['severity']} at step {found['step']}: {found['rule']}{where}"


def _where(fitted: Fitted) -> str:
    """The worst finding of the batch that did it."""
    if fitted.trace is None:
        return ""
    said = "".join(f" {message}" for message in fitted.trace.findings["message"].head(1))
    return f"{said} The folder nonfinite holds a trace of that batch; --keep-going trains on."
