"""What a run tells while it goes, and what it leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from spp.run import Run
from spp.training.recipe import Recipe
from spp.watching import Watch


class History(StrEnum):
    """Columns of ``fitted.history``, one row per epoch."""

    EPOCH = "epoch"
    """From 0."""
    STEP = "step"
    """Steps done when the epoch ended."""
    LR = "lr"
    """Of the epoch's last step."""
    TRAIN_LOSS = "train_loss"
    """Mean over the epoch's batches, as trained: augmented, smoothed, with dropout, while the weights moved."""
    TRAIN_ACCURACY = "train_accuracy"
    """The same for accuracy, 0 to 1."""
    VALIDATION_LOSS = "validation_loss"
    """Cross-entropy at the epoch's end, in evaluation mode."""
    VALIDATION_ACCURACY = "validation_accuracy"
    """The same for accuracy, 0 to 1."""
    SECONDS = "seconds"
    """Time of the epoch with its validation."""


@dataclass(frozen=True, slots=True)
class News:
    """Where a run stands, after each step and each epoch.

    Attributes:
        epoch: From 0.
        epochs: How many there will be.
        batch: Batches of this epoch that are done.
        batches: Batches in an epoch.
        loss: Mean of this epoch so far.
        accuracy: The same, 0 to 1.
        row: The epoch's row of the history once it has ended, else None.
        finding: The worst finding so far, where the run is watched and there is one; see ``Fitted.finding``.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float
    accuracy: float
    row: dict[str, float] | None = None
    finding: dict[str, Any] | None = None


@dataclass(slots=True)
class Fitted:
    """A run that has ended.

    Attributes:
        model: With the last weights, in the mode it came in.
        recipe: How it was trained.
        history: One row per epoch, columns of ``History``.
        test: For ``last`` and ``best``: ``epoch``, ``loss`` and ``accuracy`` on the test images. The best epoch is the one
            with the highest validation accuracy, of equal ones the lowest loss; without validation images, the last.
        stopped: Why the run ended before its last epoch; None where it did not.
        folder: Where it was written, or None.
        trace: Where the loss was not finite: a trace of the batch that did it, else None.
        finding: Of a watched run: the worst finding of what was measured last in each epoch, of equally bad ones the first:
            ``step``, ``severity`` (``error`` or ``warning``), ``rule``, ``name`` of the layer, ``message``, ``remedy``.
        watch: What was measured on the way, where the run was watched; None where it was not, or had ended before.
    """

    model: nn.Module
    recipe: Recipe
    history: pd.DataFrame
    test: dict[str, dict[str, float]]
    stopped: str | None = None
    folder: Path | None = None
    trace: Run | None = field(default=None, repr=False)
    finding: dict[str, Any] | None = None
    watch: Watch | None = field(default=None, repr=False)


def history_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows as a frame; whole numbers stay whole, also of an empty one."""
    whole = (History.EPOCH, History.STEP)
    # without rows pandas would make every column an object
    kinds = {str(column): "int64" if column in whole else "float64" for column in History}
    return pd.DataFrame(rows, columns=list(kinds)).astype(kinds)
