"""A Lightning ``Callback`` that watches the training.

trainer = Trainer(callbacks=[SignalPropagation(every=100, path="runs/mine")])
trainer.fit(module)
spp.load("runs/mine").plot("evolution")
"""

from __future__ import annotations

from typing import Any

from torch import nn

from spp.errors import InputError, MissingExtraError
from spp.integrations.boards import SHOWN, Board, Shown
from spp.watching import Watch, watch

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise MissingExtraError("lightning", "lightning", purpose="spp.integrations.lightning") from error


class SignalPropagation(Callback):
    """Watches the module that is trained, or one inside it.

    Args:
        network: Name of the module whose calls are watched, as ``"net"`` where ``training_step`` calls ``self.net(x)``. Left
            out, the LightningModule where it has a ``forward`` of its own, else its only child with parameters.
        optimizer: Which of the trainer's optimizers takes the steps that are counted.
        log: Whether the trainer's loggers get ``shown`` at every sampled step.
        shown: Pairs of a signal and a column of the frame; a number for each and every leaf module or parameter.
        options: Everything else that :func:`spp.watch` takes: ``every``, ``path``, ``include``, ...

    Attributes:
        watch: The watch, once training has begun; ``watch.frame`` stays when it has ended.
    """

    watch: Watch | None = None

    def __init__(
        self,
        *,
        network: str | None = None,
        optimizer: int = 0,
        log: bool = True,
        shown: Shown = SHOWN,
        **options: Any,
    ) -> None:
        self._network, self._optimizer, self._log, self._shown, self._options = network, optimizer, log, shown, options
        self._board: Board | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to watch, after the sanity check of the validation."""
        # Not in setup: the sanity check of the validation would be watched, and a resumed trainer has no global step yet.
        model = _network(pl_module, self._network)
        options = {"start": trainer.global_step, **self._options}
        self.watch = watch(model, trainer.optimizers[self._optimizer], **options).start()
        if self._log and trainer.loggers:

            def send(step: int, values: dict[str, float]) -> None:
                for logger in trainer.loggers:
                    logger.log_metrics(values, step=step)

            self._board = Board(self.watch, send, self._shown)

    def on_train_batch_end(self, *_: Any) -> None:
        """Hand what was sampled to the trainer's loggers."""
        if self._board is not None:
            self._board.update()

    def on_train_end(self, *_: Any) -> None:
        """Stop watching; what was measured stays."""
        if self.watch is not None:
            self.watch.close()

    def on_exception(self, *_: Any) -> None:
        """Stop watching; what was measured stays."""
        self.on_train_end()


def _network(module: Any, name: str | None) -> nn.Module:
    """The module whose calls are the forward passes."""
    if name is not None:
        try:
            found: nn.Module = module.get_submodule(name)
        except AttributeError as error:
            raise InputError(
                "the network needs to be a module inside the LightningModule", received=repr(name), where="network"
            ) from error
        return found
    # A forward that is Lightning's own raises; training_step then calls a child, whose calls are the passes.
    if type(module).forward is not LightningModule.forward:
        return module  # type: ignore[no-any-return]
    children = [child for _, child in module.named_children() if any(True for _ in child.parameters())]
    if len(children) == 1:
        return children[0]  # type: ignore[no-any-return]
    raise InputError(
        "the network needs to be known",
        received=f"a {type(module).__name__} without a forward and with {len(children)} modules that have parameters",
        where="network",
        remedy="Name the one that training_step calls, as network='net'.",
    )
