"""What the cells of several studies do: draw a network from its seed, train it, trace it, and keep the numbers as tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pandas as pd
import torch
from torch import Tensor, nn

from spp.data import Part, Splits, batches, splits
from spp.errors import MissingExtraError
from spp.frame.schema import Column
from spp.models import build
from spp.studies.study import Setup, Size, Tables
from spp.tracing import trace
from spp.training import News, Recipe, fit
from spp.training.loop import evaluating
from spp.training.results import History
from spp.watching import Every

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Arm:
    """A network that a study compares with others.

    Attributes:
        label: As figures and tables call it.
        about: What it is, for the description of the study.
        model: Name of the bundled network.
        changes: What is changed about it, as ``spp.models.build`` takes it.
        padding: By kernel size, what convolutions pad with in place of zeros, which lose variance, as ``circular``.
    """

    label: str
    about: str = ""
    model: str = "ffn"
    changes: Mapping[str, Any] = field(default_factory=dict)
    padding: Mapping[int, str] = field(default_factory=dict)

    def build(self, **size: Any) -> nn.Module:
        """The network, from torch's global random state."""
        model = build(self.model, **size, **self.changes)
        for layer in model.modules():
            # kernels of the bundled networks are square
            if isinstance(layer, nn.Conv2d) and layer.kernel_size[0] in self.padding:
                layer.padding_mode = self.padding[layer.kernel_size[0]]  # type: ignore[assignment]
        return model


def images(
    setup: Setup,
    full: str,
    *,
    seed: int,
    shape: Sequence[int] | None = None,
    validation: float = 0.2,
    **options: Any,
) -> Splits:
    """The images to train on: scikit-learn's digits, Fashion-MNIST, or ``full``, a CIFAR set.

    Args:
        setup: At which size.
        full: ``cifar10`` or ``cifar100``.
        seed: Of the choice of validation images.
        shape: ``(C, H, W)`` that the images are brought to; their own if left out.
        validation: Share held back, or an int, their number.
        options: What else ``spp.data.splits`` takes: ``train``, ``resize``, ``standardize``.

    Raises:
        InputError: The data are not there.
    """
    name = {Size.TINY: "digits", Size.REAL: "fashion_mnist", Size.FULL: full}[setup.size]
    wanted = None if shape is None else tuple(shape)
    return splits(name, folder=setup.data, shape=wanted, validation=validation, seed=seed, **options)


def drawn(build: Callable[[], T], seed: int) -> T:
    """What ``build`` makes when the global random state starts from ``seed``; the state is put back.

    A network draws its weights from it, and a trace of a network with dropout its masks.
    """
    # devices=(): without it torch forks every GPU there is, with a warning where there are many
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return build()


def trained(
    model: nn.Module,
    data: Splits,
    recipe: Recipe,
    setup: Setup,
    *,
    every: Every | None = None,
    watch: Mapping[str, Any] | None = None,
    report: Callable[[News], None] | None = None,
) -> Tables:
    """Train a network and keep what came of it; ``report`` is told after each step and each epoch.

    Returns:
        ``history``, a row per epoch (without the seconds, which are not reproducible); ``test``, one row with ``accuracy``
        and ``loss`` of the last weights on the test images and whether the run ``finished`` (a loss that is not finite ends
        it); and, where ``every`` says which steps to measure, and ``watch`` what of them, ``evolution``, their frame.
    """
    # nothing is written: a cell is kept whole by its study, or not at all
    fitted = fit(model, data, recipe, every=every, watch=watch, device=setup.device, report=report)
    # the last weights, so that no arm gains by choosing among its epochs
    last = fitted.test["last"]
    tables = {
        "history": fitted.history.drop(columns=str(History.SECONDS)),
        "test": pd.DataFrame(
            {"accuracy": [last["accuracy"]], "loss": [last["loss"]], "finished": [fitted.stopped is None]}
        ),
    }
    return tables if fitted.watch is None else {**tables, "evolution": fitted.watch.frame}


def epoch_means(evolution: pd.DataFrame, steps: int) -> pd.DataFrame:
    """A row for each signal, mode and ``epoch`` of so many steps: each statistic is its mean over the steps that were measured.

    Counts are the first step's.
    """
    found = evolution.assign(epoch=evolution[str(Column.STEP)] // steps)
    same = ["epoch", *(str(one) for one in (Column.MODE, Column.NAME, Column.CALL, Column.OUTPUT, Column.SIGNAL))]
    # codes of modes are a category, of which only those that are there make groups
    groups = found.groupby(same, sort=False, dropna=False, observed=True)
    means = [str(name) for name, kind in found.dtypes.items() if kind.kind == "f"]
    return found.assign(**groups[means].transform("mean")).drop_duplicates(same).reset_index(drop=True)


def outcome(tables: Tables, target: float | None = None) -> pd.DataFrame:
    """What a run came to, one row.

    Args:
        tables: Of ``trained``.
        target: Accuracy on the validation images, and the epochs until it is reached are looked for.

    Returns:
        ``validation`` and ``validation_loss``, of the last weights; ``accuracy``, ``loss`` and ``finished``, on the test
        images; with a target, ``epochs``, how many it took, linearly between two of them, infinite where it was not reached.
    """
    history = tables["history"]
    last = history.iloc[-1]
    row: dict[str, Any] = {
        "validation": last[History.VALIDATION_ACCURACY],
        "validation_loss": last[History.VALIDATION_LOSS],
        **{str(name): value for name, value in tables["test"].iloc[0].items()},
    }
    if target is not None:
        # from none at the beginning on
        scores = [0.0, *history[History.VALIDATION_ACCURACY]]
        at = next((epoch for epoch, score in enumerate(scores) if score >= target), None)
        row["epochs"] = math.inf if at is None else at - (scores[at] - target) / (scores[at] - scores[at - 1])
    return pd.DataFrame([row])


SCORES = ("balanced_accuracy", "precision", "recall", "f1", "roc_auc")
"""What the thesis reports beside accuracy: means over classes."""


def scores(model: nn.Module, part: Part) -> dict[str, float]:
    """``SCORES`` of a network in evaluation mode, from 0 to 1; NaN of outputs that are not finite.

    Precision, recall and F1 of a class that is never told count as 0; the area under the ROC curve is of each class beside all
    others, and NaN where images of a class are missing.

    Raises:
        MissingExtraError: scikit-learn is not installed (extra ``data``).
    """
    try:
        from sklearn import metrics
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "data", purpose="scores beside accuracy") from error
    where = next(model.parameters()).device
    with torch.no_grad(), evaluating(model):
        outputs = torch.cat([model(inputs.to(where)).double().cpu() for inputs, _ in batches(part, 512)])
    if not outputs.isfinite().all():
        return dict.fromkeys(SCORES, math.nan)
    targets, told = part.targets.numpy(), outputs.argmax(1).numpy()
    average: dict[str, Any] = {"average": "macro", "zero_division": 0.0}
    *means, _ = metrics.precision_recall_fscore_support(targets, told, **average)
    balanced, area = metrics.recall_score(targets, told, labels=sorted(set(targets)), **average), math.nan
    if len(set(targets)) == outputs.shape[1]:
        area = metrics.roc_auc_score(targets, outputs.softmax(1).numpy(), multi_class="ovr")
    return dict(zip(SCORES, map(float, (balanced, *means, area)), strict=True))


def traced(model: nn.Module, batch: Any, setup: Setup, **options: Any) -> Tables:
    """Trace a network: ``signals``, its frame, and ``blocks``."""
    found = trace(model.to(setup.device), batch, **options)
    return {"signals": found.frame, "blocks": found.blocks}


def first(part: Part, count: int) -> tuple[Tensor, Tensor]:
    """The first ``count`` images of a part and their classes, as they are stored: in an order that follows from the seed."""
    return part.batch(torch.arange(min(count, len(part))))


def commas(values: Iterable[object]) -> str:
    """Values between commas; numbers as short as they can be."""
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
