"""One run: everything that changes while it trains, how an epoch goes and is scored, and its state as a checkpoint."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from spp.data import Part, Splits, batches, shuffled
from spp.data.parts import count
from spp.errors import InputError, StoreError
from spp.nn.clipping import clip_grad_agc_
from spp.training.checkpoints import Asked
from spp.training.recipe import Recipe, make_optimizer, rate
from spp.training.results import History, News
from spp.watching import Watch

FREE = ("epochs", "keep_going")
"""What a resumed run may be given anew: more epochs, and to go on where it stopped for a loss that is not finite."""

CLASSIFIER = "head.fc.*"
"""Parameters of a bundled network's classifier, which adaptive gradient clipping leaves alone."""

Report = Callable[[News], None]


@dataclass(slots=True)
class Score:
    """Sums over samples, which become a mean loss and an accuracy.

    Attributes:
        loss: Sum of the losses.
        right: Samples whose largest output is that of their class.
        samples: How many there were.
    """

    loss: float = 0.0
    right: int = 0
    samples: int = 0

    def add(self, loss: float, outputs: Tensor, targets: Tensor) -> None:
        """Count one batch in: its mean loss, outputs ``(n, classes)`` and targets ``(n,)``."""
        self.loss += loss * len(targets)
        self.right += int((outputs.detach().argmax(1) == targets).sum())
        self.samples += len(targets)

    @property
    def means(self) -> dict[str, float]:
        """Mean loss and accuracy from 0 to 1; NaN where there was no sample."""
        if not self.samples:
            return {"loss": float("nan"), "accuracy": float("nan")}
        return {"loss": self.loss / self.samples, "accuracy": self.right / self.samples}


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context in which forward passes run; none of its own for float32."""
    return torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32")


@torch.no_grad()
def evaluate(
    model: nn.Module,
    part: Part,
    *,
    batch_size: int = 512,
    device: torch.device | None = None,
    precision: str = "float32",
) -> dict[str, float]:
    """Mean cross-entropy (without label smoothing) and accuracy in evaluation mode.

    Args:
        model: Maps ``(n, *part.shape)`` to ``(n, classes)``; its training flags are put back.
        part: What to measure on.
        batch_size: Samples per forward pass; changes rounding only.
        device: Where the model is; that of its first parameter if left out.
        precision: Of the forward pass, as in a recipe.

    Returns:
        ``loss`` and ``accuracy`` (0 to 1); NaN where ``part`` is empty.
    """
    # a model may be on an accelerator and its data are on the CPU
    where = next(model.parameters()).device if device is None else device
    score = Score()
    with evaluating(model), autocast(where, precision):
        for inputs, targets in batches(part, batch_size) if len(part) else ():
            outputs, targets = model(inputs.to(where)).float(), targets.to(where)
            score.add(F.cross_entropy(outputs, targets).item(), outputs, targets)
    return score.means


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards every module in the mode that it was in."""
    # train() on the root would wake parts that the user had frozen in evaluation
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@dataclass(slots=True)
class Position:
    """Where a run stands: whole epochs done, batches done of the next, steps done in all."""

    epoch: int = 0
    batch: int = 0
    step: int = 0


class Trainer:
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
        self.found: dict[str, Any] | None = None
        """The worst finding so far, of a watched run."""
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
        at, seed = self.position, self.recipe.seed
        order = shuffled(
            self.data.train, self.recipe.batch_size, seed=seed, epoch=at.epoch, augment=self.augment, start=at.batch
        )
        # an epoch that goes on after an interruption has its earlier seconds
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
        # the loss is taken in float32 outside of autocast: in half precision label smoothing loses small differences
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
        # .value, a plain string: torch.load(weights_only=True) refuses an enum
        row: dict[str, Any] = {
            History.EPOCH.value: at.epoch,
            History.STEP.value: at.step,
            History.LR.value: rate(self.recipe, max(at.step - 1, 0), self.batches),
            History.TRAIN_LOSS.value: train["loss"] if self.culprit is None else math.nan,
            History.TRAIN_ACCURACY.value: train["accuracy"],
            History.VALIDATION_LOSS.value: held_back["loss"],
            History.VALIDATION_ACCURACY.value: held_back["accuracy"],
            History.SECONDS.value: self.seconds + time.perf_counter() - started,
        }
        self.rows.append(row)
        if self.culprit is None:
            at.epoch, at.batch, self.score, self.seconds = at.epoch + 1, 0, Score(), 0.0
        return row

    def is_best(self, row: dict[str, Any]) -> bool:
        """Whether the epoch of ``row`` is the best so far; it is remembered if so."""
        accuracy, loss = row[History.VALIDATION_ACCURACY], row[History.VALIDATION_LOSS]
        loss = math.inf if math.isnan(loss) else loss
        # a NaN accuracy: there are no validation images, and the last epoch is the best
        better = self.best is None or math.isnan(accuracy)
        if self.best is not None and not better:
            better = (accuracy, -loss) > (self.best["accuracy"], -self.best["loss"])
        if better:
            self.best = {"epoch": row[History.EPOCH], "accuracy": accuracy, "loss": loss}
        return better

    def news(self, row: dict[str, Any] | None = None) -> News:
        """Where the run stands; ``row`` is that of the epoch that has just ended."""
        at, means = self.position, self.score.means
        epoch, batch, loss, accuracy = at.epoch, at.batch, means["loss"], means["accuracy"]
        if row is not None:
            epoch, batch = int(row[History.EPOCH]), self.batches
            loss, accuracy = row[History.TRAIN_LOSS], row[History.TRAIN_ACCURACY]
        return News(epoch, self.recipe.epochs, batch, self.batches, loss, accuracy, row, self.found)

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
            "found": self.found,
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
            recipe, data = self.recipe.differences(state["recipe"]), state["data"]
            _compare("recipe", {name: pair for name, pair in recipe.items() if name not in FREE})
            _compare("data", {k: (data.get(k), v) for k, v in self._data_facts().items() if data.get(k) != v})
            try:
                self.model.load_state_dict(state["model"])
            except RuntimeError as error:
                raise InputError(
                    "a resumed run needs the model it began with",
                    received=str(error).splitlines()[-1].strip().rstrip("."),
                    where="resume",
                ) from error
            self.optimizer.load_state_dict(state["optimizer"])
            # the state of a disabled scaler is empty, and refused when it is loaded
            if self.scaler.is_enabled():
                self.scaler.load_state_dict(state["scaler"])
            set_random_state(state["random"], self.device)
            self.position, self.score = Position(**state["position"]), Score(**state["score"])
            self.seconds, self.best = state["seconds"], state["best"]
            self.watched, self.found = state["watched"], state["found"]
            self.rows = [row for row in state["history"] if row[History.EPOCH] < self.position.epoch]
        except InputError:
            raise
        # whatever torch meets in a state that is none
        except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            raise StoreError(
                "a checkpoint of a run needs to hold its state", received=f"{error!r}", where="resume"
            ) from error

    def _data_facts(self) -> dict[str, Any]:
        splits = self.data
        facts = {"name": splits.name, "shape": tuple(splits.shape), "seed": splits.seed}
        return facts | {"train": len(splits.train), "validation": len(splits.validation)}


def _compare(what: str, differences: dict[str, tuple[Any, Any]]) -> None:
    """Raise where a resumed run differs from the stored one: ``{name: (stored, own)}``."""
    if differences:
        pairs = [f"{name} {own!r} instead of {stored!r}" for name, (stored, own) in differences.items()]
        raise InputError(f"a resumed run needs the {what} it began with", received="; ".join(pairs), where="resume")


def apply_step(
    model: nn.Module, loss: Tensor, optimizer: Optimizer, scaler: torch.amp.GradScaler, recipe: Recipe, lr: float
) -> None:
    """One backward pass and one step of the optimizer at the rate ``lr``, clipped where the recipe asks for it."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    # a parameter that this loss does not reach stands still: with zeros it would move by momentum and decay
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    if recipe.agc is not None:
        # clipping compares gradients with weights, so that the scale of the loss must be out of them first
        scaler.unscale_(optimizer)
        own = any(name.startswith(CLASSIFIER[:-1]) for name, _ in model.named_parameters())
        clip_grad_agc_(model, recipe.agc, exclude=(CLASSIFIER,) if own else ())
    scaler.step(optimizer)
    scaler.update()


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of torch, the accelerator, Python and NumPy as tensors, numbers and tuples."""
    # a forward may draw from NumPy's global state; its array becomes a tensor, since weights_only refuses arrays
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "accelerator": None if device.type == "cpu" else getattr(torch, device.type).get_rng_state(device),
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss),
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Put back what ``random_state`` returned; an accelerator that was not there before keeps its own."""
    # random states live on the CPU whatever map_location put the rest on
    torch.set_rng_state(state["torch"].cpu())
    if device.type != "cpu" and state["accelerator"] is not None:
        getattr(torch, device.type).set_rng_state(state["accelerator"].cpu(), device)
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
