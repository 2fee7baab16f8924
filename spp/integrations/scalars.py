"""The numbers of a watch as named scalars, each handed out once: what dashboards take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from spp.frame.schema import Column
from spp.signals import Signal
from spp.watching import Watch

Shown = Sequence[tuple[str, str]]

SHOWN: Shown = (
    (Signal.ACTIVATION, Column.RMS),
    (Signal.GRADIENT, Column.RMS),
    (Signal.WEIGHT, Column.UPDATE_RATIO),
)
"""Pairs of signal and statistic that are sent unless others are asked for: three numbers per layer."""


class Scalars:
    """The scalars of the sampled steps that were not handed out before.

    Args:
        watch: What measures.
        shown: Pairs of a signal and a column of the frame.
    """

    def __init__(self, watch: Watch, shown: Shown = SHOWN) -> None:
        self.watch, self._shown = watch, tuple(shown)
        self._rows, self._steps = 0, set[int]()

    def take(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Step by step, ``{"gradient_rms/layer1.linear": 0.03, ...}`` for leaf modules and parameters while training."""
        frame = self.watch.frame
        if len(frame) == self._rows:
            return
        self._rows = len(frame)
        training = frame[Column.MODE] == "train"
        fresh = frame[training & ~frame[Column.STEP].isin(self._steps)]
        for step in sorted({int(number) for number in fresh[Column.STEP]}):
            self._steps.add(step)
            yield step, self._values(fresh[fresh[Column.STEP] == step])

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
