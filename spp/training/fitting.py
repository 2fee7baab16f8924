"""``fit``: train a network, epoch by epoch, so that nothing is lost when it is interrupted."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from spp.capture.state import RandomState
from spp.data import Splits
from spp.diagnosis import Severity, find
from spp.diagnosis.findings import RANK
from spp.errors import InputError
from spp.frame.build import build_exponents
from spp.frame.files import locked, put_facts
from spp.frame.runs import sweep
from spp.frame.schema import Column
from spp.models.config import Config
from spp.run import Run, describe_model
from spp.tracing import trace as trace_of
from spp.training.checkpoints import (
    BEST,
    LAST,
    Asked,
    Checkpoints,
    Interrupted,
    check_folder,
    complete,
    deferred,
    refused,
    write_history,
)
from spp.training.loop import Report, Trainer, autocast, evaluate
from spp.training.recipe import Recipe
from spp.training.results import Fitted, History, history_frame
from spp.watching import Every, Watch, watch

NONFINITE = "nonfinite"
"""Where a run keeps the trace of the batch that ended it."""

TRAIN = "train"
"""The ``kind`` of a run that was not watched."""

EPOCH = "epoch"
"""The value of ``every`` that samples the first step of each epoch."""

DEFAULT = Recipe()


def fit(
    model: nn.Module,
    data: Splits,
    recipe: Recipe = DEFAULT,
    *,
    every: Every | None = None,
    watch: Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    facts: Mapping[str, Any] | None = None,
    device: torch.device | str | None = None,
    report: Report | None = None,
) -> Fitted:
    """Train ``model`` as the recipe says, and test it.

    Order, augmentation and dropout follow from the recipe's seed; the global random states are put back afterwards. On a
    CPU, with the same number of threads, two runs give the same bits, also where one was watched, or interrupted and resumed.

    Args:
        model: Maps ``(n, *data.shape)`` to ``(n, classes)``; trained in place and moved to ``device``.
        data: As ``spp.data.splits`` gives it.
        recipe: How to train.
        every: Which steps are measured, as for :func:`spp.watch`; or ``"epoch"``, the first step of each epoch. None for no
            watching.
        watch: Further arguments of :func:`spp.watch`, as ``{"include": ["*.act"]}``.
        folder: Where the run is written, a new or empty one: ``history.parquet``, ``history.csv`` and ``checkpoints/last.pt``
            and ``best.pt`` (each loadable with ``weights_only=True``, the weights under ``model``), after every epoch and when
            it is interrupted; ``run.json``, and what is measured. Left out, nothing is written.
        resume: Go on with the run that is in ``folder``, to the bit on CPU; from the start where there is none yet.
        facts: Further facts for ``run.json``.
        device: Where to train; where the model's first parameter is, if left out.
        report: Called after each step and each epoch.

    Returns:
        The run. A loss that is not finite ends it early (``stopped`` says so) unless the recipe keeps going.

    Raises:
        InputError: Recipe, data and model do not fit each other, or the run in ``folder`` is another one.
        StoreError: The folder holds something else or cannot be written, or its checkpoint is damaged.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP, a KeyboardInterrupt: raised after the step is whole and everything is saved. A
            second Ctrl-C raises at once.
    """
    place = check_fit(model, data, recipe, device)
    path = None if folder is None else Path(folder).expanduser()
    check_folder(path, resume=resume)
    report = report or (lambda news: None)
    modes = [(module, module.training) for module in model.modules()]
    with seeded(recipe.seed, place):
        run = Trainer(model.to(place), data, recipe, place)
        kept = Checkpoints(path)
        if resume and (state := kept.read(LAST)) is not None:
            run.load(state)
        begun = {} if path is None else {"path": path, "resume": resume}
        with deferred() as asked, observed(run, path, every, {**begun, **(watch or {})}, facts or {}) as worst:
            _train(run, asked, kept, path, worst, report)
        trace = _trace_culprit(run)
        test = _test(run, kept)
    for module, mode in modes:
        module.training = mode
    at = run.position
    stopped = None if run.culprit is None else f"the loss is not finite at step {at.step}, in epoch {at.epoch}"
    if path is not None:
        # once more: of the last epoch a kill may have left the checkpoint alone, and a run that has ended trains no other
        write_history(path, history_frame(run.rows))
        complete(path, test=test, stopped=stopped, finding=run.found)
        if trace is not None:
            trace.save(path / NONFINITE, overwrite=(path / NONFINITE).exists())
    return Fitted(model, recipe, history_frame(run.rows), test, stopped, path, trace, run.found, run.watch)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Every global random state started from ``seed``, and put back as it was afterwards."""
    # an empty tensor names the accelerator whose state is kept
    before = RandomState([torch.empty(0, device=device)], [])
    torch.manual_seed(seed)
    random.seed(seed)
    # NumPy takes 32 bits, torch 64
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        before.restore()


class Worst:
    """Diagnoses the last training sample of a watch, when asked, and keeps the worst finding; notes are passed over.

    Args:
        watch: What samples.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._fresh: tuple[pd.DataFrame, pd.DataFrame] | None = None
        watch.listen(self._sampled)

    def _sampled(self, frame: pd.DataFrame, blocks: pd.DataFrame) -> None:
        if len(frame) and frame[Column.MODE].iloc[0] == "train":
            self._fresh = (frame, blocks)

    def look(self, known: dict[str, Any] | None) -> dict[str, Any] | None:
        """Diagnose what was sampled since the last look.

        Returns:
            The worst finding with its ``step``, ``severity``, ``rule``, ``name``, ``message`` and ``remedy``, or ``known``
            where that is as bad: what came first is the cause.
        """
        if self._fresh is None:
            return known
        (frame, blocks), self._fresh = self._fresh, None
        watch = self._watch
        tables = {"modules": watch.modules, "unmeasured": watch.unmeasured, "exponents": build_exponents([])}
        tables["steps"] = watch.steps
        worst = next(iter(find(SimpleNamespace(frame=frame, blocks=blocks, run=watch.run, **tables))), None)
        if worst is None or worst.severity is Severity.NOTE:
            return known
        if known is not None and RANK[known["severity"]] <= RANK[worst.severity]:
            return known
        told = {name: getattr(worst, name) for name in ("rule", "name", "message", "remedy")}
        return {"step": int(frame[Column.STEP].iloc[0]), "severity": str(worst.severity), **told}


@contextmanager
def observed(
    run: Trainer, folder: Path | None, every: Every | None, options: dict[str, Any], facts: Mapping[str, Any]
) -> Iterator[Worst | None]:
    """Begin or continue the folder of ``run``, and watch it where ``every`` says which steps to sample."""
    known = {**_facts(run), **facts}
    if every is None or run.done:
        with ExitStack() as held:
            if folder is not None:
                with refused(folder):
                    folder.mkdir(parents=True, exist_ok=True)
                    held.callback(locked(folder, str(folder)).release)
                    sweep(folder)
                    if not run.done:
                        put_facts(folder, {"kind": TRAIN, **describe_model(run.model), **known})
            yield None
        return
    steps = run.batches if every == EPOCH else every
    run.watch = watch(run.model, run.optimizer, **{"every": steps, "start": run.watched, **options})
    run.watch.run.update(known)
    with run.watch:
        yield Worst(run.watch)


def _facts(run: Trainer) -> dict[str, Any]:
    """What the figures and a later reader want to know of any run."""
    data = run.data
    return {
        "data": data.name,
        "input_shape": list(data.shape),
        "images": {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
        "batch_size": run.recipe.batch_size,
        "steps_per_epoch": run.batches,
        "recipe": asdict(run.recipe),
        "lr": run.recipe.learning_rate,
        "loss": "cross_entropy",
        "seed": run.recipe.seed,
    }


def _train(
    run: Trainer, asked: Asked, kept: Checkpoints, path: Path | None, worst: Worst | None, report: Report
) -> None:
    """Epoch by epoch, until all are done, the loss is not finite or somebody asks to stop."""
    while not run.done and run.culprit is None:
        run.train_epoch(asked, report)
        if asked.number is None or run.position.batch >= run.batches:
            _end_epoch(run, kept, path, worst, report)
        if asked.number is not None and not run.done:
            _keep_last(run, kept)
            raise Interrupted(asked.number)


def _end_epoch(run: Trainer, kept: Checkpoints, path: Path | None, worst: Worst | None, report: Report) -> None:
    row = run.end_epoch()
    if worst is not None:
        run.found = worst.look(run.found)
    # the best before the last: a kill in between would lose it, since the last says that there is one
    if run.culprit is None and run.is_best(row):
        kept.keep(BEST, {"model": run.model.state_dict(), "row": row})
    _keep_last(run, kept)
    if path is not None:
        write_history(path, history_frame(run.rows))
    report(run.news(row))


def _keep_last(run: Trainer, kept: Checkpoints) -> None:
    # first what was measured, since a run that goes on from this checkpoint does not measure it again
    if run.watch is not None:
        run.watch.flush()
    kept.keep(LAST, run.state())


def _trace_culprit(run: Trainer) -> Run | None:
    """A trace of the batch whose loss was not finite, to see where it begins."""
    if run.culprit is None:
        return None
    run.model.train()
    with autocast(run.device, run.recipe.precision):
        return trace_of(run.model, run.culprit, seed=run.recipe.seed)


def _test(run: Trainer, kept: Checkpoints) -> dict[str, dict[str, float]]:
    """Loss and accuracy on the test images with the last and with the best weights; the model keeps the last."""

    def score(epoch: float) -> dict[str, float]:
        return {"epoch": epoch, **evaluate(run.model, run.data.test, device=run.device, precision=run.recipe.precision)}

    last = int(run.rows[-1][History.EPOCH]) if run.rows else 0
    scores = {"last": score(last)}
    best = kept.read(BEST)
    if run.best is None or best is None or run.best["epoch"] == last:
        return {**scores, "best": dict(scores["last"])}
    # a state dict shares its tensors with the model: without clones the last weights would be lost
    weights = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.model.load_state_dict(best["model"])
    scores["best"] = score(run.best["epoch"])
    run.model.load_state_dict(weights)
    return scores


def check_fit(model: nn.Module, data: Splits, recipe: Recipe, device: torch.device | str | None = None) -> torch.device:
    """The device that ``fit`` would train on; to be asked before anything is written.

    Raises:
        InputError: Recipe, data and model do not fit each other.
    """
    first = next(model.parameters(), None)
    if first is None:
        raise InputError("a model that is trained has parameters", received=f"{type(model).__name__} without any")
    place = first.device if device is None else torch.device(device)
    if recipe.precision == "float16" and place.type == "cpu":
        raise InputError(
            "float16 is for accelerators", received="cpu", where="precision", remedy="Use bfloat16 or float32 there."
        )
    if not len(data.train):
        raise InputError("training needs images to learn from", received="none", where="data")
    config = getattr(model, "config", None)
    if isinstance(config, Config):
        config.check_input(data.shape, batch=min(recipe.batch_size, len(data.train)))
        if config.num_classes < len(data.classes):
            raise InputError(
                f"the network needs an output for each of the {len(data.classes)} classes",
                received=f"{config.num_classes} outputs",
                remedy=f"Build it with num_classes={len(data.classes)}.",
            )
    return place
