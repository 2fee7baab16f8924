"""The folder of a run: begun once, watched while it goes, its facts completed when it has ended."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spp.capture.schedule import Every
from spp.errors import InputError
from spp.facts import model_facts
from spp.frame.files import RUN_FILE, put_facts, read_facts
from spp.frame.store import check_writable
from spp.training.checkpoints import refused
from spp.training.loop import Run
from spp.training.worst import Worst
from spp.watching import watch

TRAIN = "train"
"""The ``kind`` of a run that was not watched."""

EPOCH = "epoch"
"""The value of ``every`` that samples the first step of each epoch."""


def check_folder(folder: Path | None, *, resume: bool) -> None:
    """Raise unless a run can be written there; to be asked before any work is done.

    Raises:
        InputError: A run shall be resumed and there is no folder.
        StoreError: The folder holds something, and no run that shall be resumed; or it cannot be written.
    """
    if resume and folder is None:
        raise InputError("a run is resumed from its folder", received="no folder", where="resume")
    if folder is not None and not (resume and (folder / RUN_FILE).is_file()):
        check_writable(folder)


@contextmanager
def observed(
    run: Run,
    folder: Path | None,
    *,
    every: Every | None,
    options: Mapping[str, Any],
    facts: Mapping[str, Any],
    resume: bool,
) -> Iterator[None]:
    """Begin or continue the folder of ``run``, and watch it where ``every`` says which steps to sample."""
    known = {**_facts(run), **facts}
    if run.done:
        yield
        return
    if every is None:
        if folder is not None:
            with refused(folder):
                folder.mkdir(parents=True, exist_ok=True)
                put_facts(folder, {"kind": TRAIN, **model_facts(run.model), **known})
        yield
        return
    steps = run.batches if every == EPOCH else every
    begun = {} if folder is None else {"path": folder, "resume": resume}
    given: dict[str, Any] = {"every": steps, "start": run.watched, **begun, **options}
    run.watch = watch(run.model, run.optimizer, **given)
    run.watch.run.update(known)
    run.worst = Worst(run.watch, run.found)
    with run.watch:
        yield


def complete(folder: Path, **facts: Any) -> None:
    """Add facts to ``run.json``.

    Raises:
        StoreError: It cannot be read or written.
    """
    with refused(folder):
        put_facts(folder, {**read_facts(folder, str(folder)), **_plain(facts)})


def _facts(run: Run) -> dict[str, Any]:
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


def _plain(value: Any) -> Any:
    """``value`` with null for numbers that are not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
