"""Loss and accuracy of a model on a part of the data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spp.data import Part, batches


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
