"""Boards: the numbers of a watch as named scalars, each sent once to where runs are looked at.

send = lambda step, values: mlflow.log_metrics(values, step=step)
with spp.watch(model, optimizer, every=100) as watch:
    board = spp.integrations.board(send)(watch)
    for ...:
        optimizer.step()
        board.update()
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd

from spp.errors import InputError
from spp.frame.schema import Column
from spp.vocabulary import Signal
from spp.watching import Watch

Send = Callable[[int, dict[str, float]], object]
# The last is the plot; its class is not imported, because drawing loads matplotlib.
Show = Callable[[str, Any, Any], object]
Shown = Sequence[tuple[str, str]]

SHOWN: Shown = (
    (Signal.ACTIVATION, Column.RMS),
    (Signal.GRADIENT, Column.RMS),
    (Signal.WEIGHT, Column.UPDATE_RATIO),
)
"""Pairs of signal and statistic that are sent unless others are asked for: three numbers per layer."""


class Board:
    """Sends the scalars of every step that a watch samples from now on.

    Args:
        watch: The watch that measures.
        send: Called with the step and ``{"gradient_rms/layer1.linear": 0.03, ...}``, for leaf modules and parameters while
            training. Numbers that are not finite are left out.
        shown: Pairs of a signal and a column of the frame; a scalar for each and every leaf module or parameter.
        show: Called with a figure's name, its image and the plot, for boards that take figures.
    """

    def __init__(self, watch: Watch, send: Send, shown: Shown = SHOWN, show: Show | None = None) -> None:
        self._watch, self._send, self._shown, self._show = watch, send, tuple(shown), show
        self._waiting: deque[tuple[int, dict[str, float]]] = deque()
        watch.listen(self._sampled)

    def update(self) -> None:
        """Send the scalars of steps that were sampled since the last call; costs nothing where there are none."""
        for step, values in self.take():
            self._send(step, values)

    def take(self) -> Iterator[tuple[int, dict[str, float]]]:
        """The steps and scalars that ``update`` would send, taken out one by one."""
        while self._waiting:
            yield self._waiting.popleft()

    def figure(self, kind: str = "evolution", *, tag: str | None = None, **options: Any) -> None:
        """Show a figure as an image, at the step that is going on.

        Args:
            kind: Kind of the figure, as for ``watch.plot``.
            tag: Its name; ``spp/KIND`` if left out.
            options: As for ``watch.plot``.

        Raises:
            InputError: The board takes no figures.
        """
        if self._show is None:
            raise InputError("a board that shows figures has a function for them", received="none", where="show")
        from PIL import Image

        plot = self._watch.plot(kind, **options)
        self._show(tag or f"spp/{kind}", Image.open(BytesIO(plot.png())).convert("RGB"), plot)

    def _sampled(self, frame: pd.DataFrame, _: pd.DataFrame) -> None:
        # The rows are kept as numbers, not as a frame: a listener runs inside the training step.
        if len(frame) and frame[Column.MODE].iloc[0] == "train":
            self._waiting.append((int(frame[Column.STEP].iloc[0]), self._values(frame)))

    def _values(self, rows: pd.DataFrame) -> dict[str, float]:
        found: dict[str, float] = {}
        for signal, statistic in self._shown:
            of_weights = signal in (Signal.WEIGHT, Signal.WEIGHT_GRADIENT)
            chosen = rows[(rows[Column.SIGNAL] == signal) & (rows[Column.LEAF] | of_weights)]
            columns = (chosen[c] for c in (Column.NAME, Column.CALL, Column.OUTPUT, statistic))
            for name, call, output, value in zip(*columns, strict=True):
                if np.isfinite(value):
                    where = f"{name}.{output}".strip(".") or "model"
                    again = f" (call {call})" if not of_weights and call else ""
                    found[f"{signal}_{statistic}/{where}{again}"] = float(value)
        return found


def board(send: Send, *, shown: Shown = SHOWN, show: Show | None = None) -> Callable[[Watch], Board]:
    """What makes a :class:`Board` of any function: call it with a watch, or hand it to a callback as ``board=``.

    Args:
        send: Called with a step and its scalars by name, once for every sampled step, when the board is updated.
        shown: Pairs of a signal and a column of the frame.
        show: Called with a figure's name, its image (of PIL, RGB) and the plot, when the board is asked for a figure.
    """
    return lambda watch: Board(watch, send, shown, show)
