"""Scalars and figures of a watch in Weights & Biases, through its public interface.

run = wandb.init(project="mine")
with spp.watch(model, optimizer, every=100) as watch:
    board = WandB(watch, run)
    for ...:
        optimizer.step()
        board.update()
    board.figure()
"""

from __future__ import annotations

from typing import Any

from spp.errors import InputError, MissingExtraError
from spp.integrations.boards import SHOWN, Board, Shown
from spp.watching import Watch

try:
    import wandb
except ImportError as error:
    raise MissingExtraError("wandb", "wandb", purpose="spp.integrations.wandb") from error

# The axis of everything that is sent: W&B drops a step of its own counter that has passed, and others log to it too.
STEP = "spp/step"


class WandB(Board):
    """Logs what a watch has measured.

    Args:
        watch: What measures.
        run: Where to; the one that ``wandb.init`` began last, if left out.
        shown: Pairs of a signal and a column of the frame; a scalar for each and every leaf module or parameter.

    Raises:
        InputError: There is no run.
    """

    def __init__(self, watch: Watch, run: Any = None, shown: Shown = SHOWN) -> None:
        super().__init__(watch, self._log, shown, self._draw)
        current = wandb.run if run is None else run
        if current is None:
            raise InputError(
                "a run that wandb.init began is needed", received="none", where="run", remedy="Call it first."
            )
        self._run: Any = current
        self._run.define_metric(STEP)
        self._run.define_metric("spp/*", step_metric=STEP)

    def _log(self, step: int, values: dict[str, float]) -> None:
        self._run.log({STEP: step, **{f"spp/{name}": value for name, value in values.items()}})

    def _draw(self, tag: str, image: Any, plot: Any) -> None:
        self._run.log({STEP: self._watch.step, tag: wandb.Image(image, caption=plot.caption)})
