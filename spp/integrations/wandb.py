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

from io import BytesIO
from typing import Any

from spp.errors import InputError, MissingExtraError
from spp.integrations.scalars import SHOWN, Scalars, Shown
from spp.watching import Watch

try:
    import wandb
except ImportError as error:
    raise MissingExtraError("wandb", "wandb", purpose="spp.integrations.wandb") from error

STEP = "spp/step"
"""The axis of everything that is sent: the run's own counter is left to whoever else logs to it."""


class WandB:
    """Logs what a watch has measured.

    Args:
        watch: What measures.
        run: Where to; the one that ``wandb.init`` began last, if left out.
        shown: Pairs of a signal and a column of the frame; a scalar for each and every leaf module or parameter.

    Raises:
        InputError: There is no run.
    """

    def __init__(self, watch: Watch, run: Any = None, shown: Shown = SHOWN) -> None:
        self._watch, self._scalars = watch, Scalars(watch, shown)
        current = wandb.run if run is None else run
        if current is None:
            raise InputError("wandb.init has begun a run", received="none", where="run", remedy="Call it first.")
        self._run: Any = current
        self._run.define_metric(STEP)
        self._run.define_metric("spp/*", step_metric=STEP)

    def update(self) -> None:
        """Log the scalars of steps that were sampled since the last call; costs nothing where there are none."""
        for step, values in self._scalars.take():
            self._run.log({STEP: step, **{f"spp/{name}": value for name, value in values.items()}})

    def figure(self, kind: str = "evolution", *, tag: str | None = None, **options: Any) -> None:
        """Log a figure as an image, at the step that is going on.

        Args:
            kind: Of the figure, as for ``watch.plot``.
            tag: Its name; ``spp/KIND`` if left out.
            options: As for ``watch.plot``.
        """
        from PIL import Image

        plot = self._watch.plot(kind, **options)
        image = wandb.Image(Image.open(BytesIO(plot.png())), caption=plot.caption)
        self._run.log({STEP: self._watch.step, tag or f"spp/{kind}": image})
