"""A ``TrainerCallback`` for transformers that watches the training.

trainer = Trainer(model, arguments, train_dataset=data, callbacks=[SignalPropagation(every=100, path="runs/mine")])
trainer.train()
spp.load("runs/mine").plot("evolution")
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spp.errors import MissingExtraError
from spp.integrations.boards import Board
from spp.watching import Watch, watch

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise MissingExtraError("transformers", "transformers", purpose="spp.integrations.transformers") from error


class SignalPropagation(TrainerCallback):
    """Watches the model that is trained.

    Args:
        board: Makes the board that is updated after each step: ``WandB``, ``lambda watch: TensorBoard(watch, writer)``, or
            ``spp.integrations.board(send)``.
        options: Everything that :func:`spp.watch` takes: ``every``, ``path``, ``include``, ...

    Attributes:
        watch: The watch, once training has begun; ``watch.frame`` stays when it has ended.
    """

    watch: Watch | None = None

    def __init__(self, *, board: Callable[[Watch], Board] | None = None, **options: Any) -> None:
        self._make_board, self._options = board, options
        self._board: Board | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Begin to watch."""
        options = {"start": state.global_step, **self._options}
        self.watch = watch(given["model"], given["optimizer"], **options).start()
        self._board = None if self._make_board is None else self._make_board(self.watch)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Send what was sampled to the board."""
        if self._board is not None:
            self._board.update()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Stop watching; what was measured stays."""
        if self.watch is not None:
            self.watch.close()
