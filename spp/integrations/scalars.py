"""The numbers of a watch as named scalars, each handed out once: what dashboards take."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from spp.frame.schema import Column
from spp.vocabulary import Signal
from spp.watching import Watch

Shown = Sequence[tuple[str, str]]

SHOWN: Shown = (
    (Signal.ACTIVATION, Column.RMS),
    (Signal.GRADIENT, Column.RMS),
    (Signal.WEIGHT, Column.UPDATE_RATIO),
)
"""Pairs of signal and statistic that are sent unless others are asked for: three numbers per layer."""


class Scalars:
    """The scalars of the steps that were sampled since they were last taken, from now on.

    Args:
        watch: What measures.
        shown: Pairs of a signal and a column of the frame.
    """

    def __init__(self, watch: Watch, shown: Shown = SHOWN) -> None:
        self._shown = tuple(shown)
        self._waiting: deque[tuple[int, dict[str, float]]] = deque()
        watch.listen(self._sampled)

    def take(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Step by step, ``{"gradient_rms/layer1.linear": 0.03, ...}`` for leaf modules and parameters while training."""
        while self._waiting:
            yield self._waiting.popleft()

    def _sampled(self, frame: pd.DataFrame, _: pd.DataFrame) -> None:
        if len(frame) and frame[Column.MODE].iloc[0] == "train":
            self._waiting.append((int(frame[Column.STEP].iloc[0]), self._values(frame)))

    def _values(self, rows: pd.DataFrame) -> dict[str, float]:
        found: dict[str, float] = {}
        for signal, statistic in self._shown:
            of_weights = signal in (Signal.WEIGHT, Signal.WEIGHT_GRADIENT)
            chosen = rows[(rows[Column.SIGNAL] == signal) & (rows[Column.LEAF] | of_weights)]
            for name, call, output, value in zip(
                chosen[Column.NAME], chosen[Column.CALL], chosen[Column.OUTPUT], chosen[statistic], strict=True
            ):
                if np.isfinite(value):
                    where = f"{name}.{output}".strip(".") or "model"
                    again = f" (call {call})" if not of_weights and call else ""
                    found[f"{signal}_{statistic}/{where}{again}"] = float(value)
        return found
