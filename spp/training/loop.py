"""One run: everything that changes while it trains, how an epoch goes, and its state as a checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spp.data import Splits, shuffled
from spp.data.parts import count
from spp.errors import InputError, StoreError
from spp.training.evaluate import Score, autocast, evaluate
from spp.training.interrupts import Asked
from spp.training.optimizers import apply_step, make_optimizer
from spp.training.randomness import random_state, set_random_state
from spp.training.recipe import Recipe
from spp.training.results import History, News
from spp.training.schedules import rate

if TYPE_CHECKING:
    from spp.training.worst import Worst
    from spp.watching import Watch

FREE = ("epochs", "keep_going")
"""What a resumed run may be given anew: more epochs, and to go on where it stopped for a loss that is not finite."""

Report = Callable[[News], None]


@dataclass(slots=True)
class Position:
    """Where a run stands: whole epochs done, batches done of the next, steps done in all."""

    epoch: int = 0
    batch: int = 0
    step: int = 0


class Run:
    """A model on its way.

    Args:
        model: On ``device`` already.
        data: What it learns from.
        recipe: How.
        device: Where.
    """

    def __init__(self, model: nn.Module, data: Splits, recipe: Recipe, device: torch.device) -> None:
        self.model, self.data, self.recipe, self.device = model, data, recipe, device
        self.augment = data.augment if recipe.augment is None else recipe.augment
        self.optimizer = make_optimizer(model, recipe)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "float16")
        self.batches = count(data.train, recipe.batch_size)
        self.position, self.score, self.seconds = Position(), Score(), 0.0
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, float] | None = None
        self.watch: Watch | None = None
        self.worst: Worst | None = None
        self.found: dict[str, Any] | None = None
        """What ``worst`` had found when the run was saved."""
        self.watched = 0
        """Steps of the optimizer that a watch had counted when the run was saved; a scaled step that overflows is none."""
        self.culprit: tuple[Tensor, Tensor] | None = None
        """The batch whose loss was not finite, where the run stopped for it."""

    @property
    def done(self) -> bool:
        """Whether every epoch was trained."""
        return self.position.epoch >= self.recipe.epochs

    def train_epoch(self, asked: Asked, report: Report) -> None:
        """Train until the epoch ends, somebody asks to stop, or the loss is not finite and that ends the run."""
        self.model.train()
        at = self.position
        order = shuffled(
            self.data.train,
            self.recipe.batch_size,
            seed=self.recipe.seed,
            epoch=at.epoch,
            augment=self.augment,
            start=at.batch,
        )
        started = time.perf_counter() - self.seconds
        for inputs, targets in order:
            if asked.number is not None or not self._step(inputs.to(self.device), targets.to(self.device)):
                break
            at.batch, at.step = at.batch + 1, at.step + 1
            self.seconds = time.perf_counter() - started
            report(self.news())

    def _step(self, inputs: Tensor, targets: Tensor) -> bool:
        """One step; False, and no step, where the loss is not finite and the run shall not keep going."""
        with autocast(self.device, self.recipe.precision):
            outputs = self.model(inputs)
        loss = F.cross_entropy(outputs.float(), targets, label_smoothing=self.recipe.label_smoothing)
        value = loss.item()
        if not (math.isfinite(value) or self.recipe.keep_going):
            self.culprit = (inputs, targets)
            return False
        self.score.add(value, outputs, targets)
        lr = rate(self.recipe, self.position.step, self.batches)
        apply_step(self.model, loss, self.optimizer, self.scaler, self.recipe, lr)
        return True

    def end_epoch(self) -> dict[str, Any]:
        """Validate, write the epoch's row, and stand at the beginning of the next epoch; returns the row."""
        started, at = time.perf_counter(), self.position
        train = self.score.means
        held_back = evaluate(self.model, self.data.validation, device=self.device, precision=self.recipe.precision)
        row = {
            History.EPOCH: at.epoch,
            History.STEP: at.step,
            History.LR: rate(self.recipe, max(at.step - 1, 0), self.batches),
            History.TRAIN_LOSS: train["loss"] if self.culprit is None else math.nan,
            History.TRAIN_ACCURACY: train["accuracy"],
            History.VALIDATION_LOSS: held_back["loss"],
            History.VALIDATION_ACCURACY: held_back["accuracy"],
            History.SECONDS: self.seconds + time.perf_counter() - started,
        }
        plain: dict[str, Any] = {str(column): value for column, value in row.items()}
        self.rows.append(plain)
        if self.culprit is None:
            at.epoch, at.batch, self.score, self.seconds = at.epoch + 1, 0, Score(), 0.0
        return plain

    def is_best(self, row: dict[str, Any]) -> bool:
        """Whether the epoch of ``row`` is the best so far; it is remembered if so."""
        accuracy, loss = row[History.VALIDATION_ACCURACY], row[History.VALIDATION_LOSS]
        if math.isnan(accuracy):  # no validation images: the last is the best
            better = True
        else:
            key = (accuracy, -math.inf if math.isnan(loss) else -loss)
            better = self.best is None or key > (self.best["accuracy"], -self.best["loss"])
        if better:
            self.best = {
                "epoch": row[History.EPOCH],
                "accuracy": accuracy,
                "loss": math.inf if math.isnan(loss) else loss,
            }
        return better

    def news(self, row: dict[str, Any] | None = None) -> News:
        """Where the run stands."""
        found = self.found if self.worst is None else self.worst.found
        means = self.score.means
        if row is not None:
            means = {"loss": row[History.TRAIN_LOSS], "accuracy": row[History.TRAIN_ACCURACY]}
        epoch = self.position.epoch if row is None else int(row[History.EPOCH])
        batch = self.position.batch if row is None else self.batches
        return News(epoch, self.recipe.epochs, batch, self.batches, means["loss"], means["accuracy"], row, found)

    def state(self) -> dict[str, Any]:
        """Everything it takes to go on as if nothing had happened: tensors, numbers, strings and containers of them."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": random_state(self.device),
            "position": asdict(self.position),
            "watched": self.position.step if self.watch is None else self.watch.step,
            "score": asdict(self.score),
            "seconds": self.seconds,
            "history": self.rows,
            "best": self.best,
            "found": self.found if self.worst is None else self.worst.found,
            "recipe": asdict(self.recipe),
            "data": self._data_facts(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` returned.

        Raises:
            InputError: It is of a run with another recipe, other data or another model.
            StoreError: It is no such state.
        """
        try:
            stored, data = state["recipe"], state["data"]
            self._compare({k: v for k, v in self.recipe.differences(stored).items() if k not in FREE}, "recipe")
            facts = self._data_facts()
            self._compare({k: (data.get(k), v) for k, v in facts.items() if data.get(k) != v}, "data")
            try:
                self.model.load_state_dict(state["model"])
            except RuntimeError as error:
                raise InputError(
                    "a resumed run has the model it began with",
                    received=str(error).splitlines()[-1].strip().rstrip("."),
                    where="resume",
                ) from error
            self.optimizer.load_state_dict(state["optimizer"])
            if self.scaler.is_enabled():
                self.scaler.load_state_dict(state["scaler"])
            set_random_state(state["random"], self.device)
            self.position, self.score = Position(**state["position"]), Score(**state["score"])
            self.seconds, self.best = state["seconds"], state["best"]
            self.watched, self.found = state["watched"], state["found"]
            self.rows = [row for row in state["history"] if row[History.EPOCH] < self.position.epoch]
        except (KeyError, TypeError) as error:
            raise StoreError("a checkpoint of a run holds its state", received=f"{error!r}", where="resume") from error

    def _data_facts(self) -> dict[str, Any]:
        splits = self.data
        return {
            "name": splits.name,
            "shape": tuple(splits.shape),
            "train": len(splits.train),
            "validation": len(splits.validation),
            "seed": splits.seed,
        }

    @staticmethod
    def _compare(differences: dict[str, tuple[Any, Any]], what: str) -> None:
        if differences:
            pairs = [f"{name} {own!r} instead of {stored!r}" for name, (stored, own) in differences.items()]
            raise InputError(f"a resumed run has the {what} it began with", received="; ".join(pairs), where="resume")
