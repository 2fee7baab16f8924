"""``fit``: train a network, epoch by epoch, so that nothing is lost when it is interrupted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spp.capture.schedule import Every
from spp.data import Splits
from spp.errors import InputError
from spp.models.config import Config
from spp.run import Trace
from spp.tracing import trace as trace_of
from spp.training.checkpoints import BEST, LAST, Checkpoints, write_history
from spp.training.evaluate import autocast, evaluate
from spp.training.folders import check_folder, complete, observed
from spp.training.interrupts import Interrupted, deferred
from spp.training.loop import Report, Run
from spp.training.randomness import seeded
from spp.training.recipe import Recipe
from spp.training.results import Fitted, History, News, history_frame

NONFINITE = "nonfinite"
"""Where a run keeps the trace of the batch that ended it."""

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
        Interrupted: Ctrl-C or SIGTERM, a KeyboardInterrupt: raised after the step is whole and everything is saved. A second
            Ctrl-C raises at once.
    """
    place = check_fit(model, data, recipe, device)
    path = None if folder is None else Path(folder).expanduser()
    check_folder(path, resume=resume)
    report = report or _silent
    modes = [(module, module.training) for module in model.modules()]
    with seeded(recipe.seed, place):
        run = Run(model.to(place), data, recipe, place)
        kept = Checkpoints(path)
        if resume and (state := kept.read(LAST)) is not None:
            run.load(state)
        with (
            deferred() as asked,
            observed(run, path, every=every, options=watch or {}, facts=facts or {}, resume=resume),
        ):
            while not run.done and run.culprit is None:
                run.train_epoch(asked, report)
                if asked.number is None or run.position.batch >= run.batches:
                    _end_epoch(run, kept, path, report)
                if asked.number is not None and not run.done:
                    _keep_last(run, kept)
                    raise Interrupted(asked.number)
        trace = _trace_culprit(run)
        test = _test(run, kept)
    finding = run.found if run.worst is None else run.worst.found
    for module, mode in modes:
        module.training = mode
    if path is not None:
        complete(path, test=test, stopped=_reason(run), finding=finding)
        if trace is not None:
            trace.save(path / NONFINITE, overwrite=(path / NONFINITE).exists())
    return Fitted(model, recipe, history_frame(run.rows), test, _reason(run), path, trace, finding, run.watch)


def _end_epoch(run: Run, kept: Checkpoints, path: Path | None, report: Report) -> None:
    row = run.end_epoch()
    if run.worst is not None:
        run.worst.look()
    if run.culprit is None and run.is_best(row):
        kept.keep(BEST, {"model": run.model.state_dict(), "row": row})  # before the last: else a kill could lose it
    _keep_last(run, kept)
    if path is not None:
        write_history(path, history_frame(run.rows))
    report(run.news(row))


def _keep_last(run: Run, kept: Checkpoints) -> None:
    """Save the run; first what was measured, since a run that goes on from here does not measure it again."""
    if run.watch is not None:
        run.watch.flush()
    kept.keep(LAST, run.state())


def _reason(run: Run) -> str | None:
    if run.culprit is None:
        return None
    at = run.position
    return f"the loss is not finite at step {at.step}, in epoch {at.epoch}"


def _trace_culprit(run: Run) -> Trace | None:
    """A trace of the batch whose loss was not finite, to see where it begins."""
    if run.culprit is None:
        return None
    run.model.train()
    with autocast(run.device, run.recipe.precision):
        return trace_of(run.model, run.culprit, seed=run.recipe.seed)


def _test(run: Run, kept: Checkpoints) -> dict[str, dict[str, float]]:
    """Loss and accuracy on the test images with the last and with the best weights; the model keeps the last."""

    def score(epoch: float) -> dict[str, float]:
        return {"epoch": epoch, **evaluate(run.model, run.data.test, device=run.device, precision=run.recipe.precision)}

    last = int(run.rows[-1][History.EPOCH]) if run.rows else 0
    scores = {"last": score(last)}
    best = kept.read(BEST)
    if run.best is None or best is None or run.best["epoch"] == last:
        return {**scores, "best": dict(scores["last"])}
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
        raise InputError("there are images to learn from", received="none", where="data")
    config = getattr(model, "config", None)
    if isinstance(config, Config):
        config.check_input(data.shape, batch=min(recipe.batch_size, len(data.train)))
        if config.num_classes < len(data.classes):
            raise InputError(
                f"the network has an output for each of the {len(data.classes)} classes",
                received=f"{config.num_classes} outputs",
                remedy=f"Build it with num_classes={len(data.classes)}.",
            )
    return place


def _silent(news: News) -> None:
    """Tell nobody."""
