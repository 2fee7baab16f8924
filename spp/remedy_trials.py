"""Remedies that are tried: ``run.try_remedies(model, batch)``, and the one of last resort, ``spp.calibrate(model, batch)``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from spp.diagnosis.remedies import calibrate_
from spp.frame.schema import CALIBRATION_COLUMNS, CalibrationColumn, ComponentColumn, check
from spp.tracing import trace

# -- calibration --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Calibration:
    """What :func:`calibrate` changed.

    Attributes:
        layers: One row per layer that was looked at, see :data:`spp.frame.schema.CALIBRATION_COLUMNS`.
        components: ACV along the network before and after, by component.
    """

    layers: pd.DataFrame
    components: pd.DataFrame
    _kept: dict[nn.Parameter, Tensor] = field(repr=False)

    def undo(self) -> None:
        """Put every weight back, bit by bit."""
        with torch.no_grad():
            for parameter, value in self._kept.items():
                parameter.copy_(value)

    def __str__(self) -> str:
        changed = self.layers[self.layers[CalibrationColumn.FACTOR] != 1]
        head = f"{len(changed)} of {len(self.layers)} layers scaled"
        return f"{head}\n{self.components.to_string(index=False, float_format='{:.3g}'.format)}"

    def _repr_html_(self) -> str:
        return self.components.to_html(index=False, border=0, float_format="{:.3g}".format)


def calibrate(
    model: nn.Module, batch: Any, *, target: str = "flat", tolerance: float = 0.1, steps: int = 10
) -> Calibration:
    """Scale the weight of each layer, in place, until the signal keeps its variance along the network on this batch.

    LSUV (Mishkin & Matas 2016, arXiv 1511.06422) for any network: in the order in which they run, each convolution and Linear
    layer's weight is scaled so that the average channel variance (ACV) of its output is 1, and at the end of a residual branch
    a share of its skip's. Directions of weights, biases and norms stay as they are; so do layers in front of a norm, which
    takes their scale away, layers inside gates, weights that several modules share, and layers whose output does not vary.

    Args:
        model: Any module, in the mode it is in. It may have been trained: what it has learnt is scaled with it.
        batch: As for :func:`spp.trace`; the first one counts.
        target: What ACV is to do along residual blocks. ``flat``: each of L branches has 1/L of its skip's variance, so that
            it grows e-fold at most over all of them. ``theory``: every branch has the variance of the first block's input,
            so that it grows as behind norms, ``1 + l`` after l blocks (De & Smith 2020, arXiv 2002.10444). Sums that weigh
            their branches themselves, as those of SkipInit, have branches of ACV 1.
        tolerance: How far from its target a variance may stay, relative to it.
        steps: Rescalings of a layer at most.

    Returns:
        What was changed; ``undo()`` of it puts all of it back.

    Raises:
        InputError: The target is none of these, or the tolerance is not positive.
        TraceError: The model raises.

    Examples:
        >>> model = nn.Sequential(*[nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(20)])
        >>> done = calibrate(model, torch.randn(256, 64))
        >>> bool((done.components.acv_after > 0.3).all()), bool((done.components.acv_before > 0.3).all())
        (True, False)
    """
    before = trace(model, batch, batches=1, signals=("activation", "weight"))
    kept = {parameter: parameter.detach().clone() for parameter in model.parameters()}
    with torch.random.fork_rng(devices={p.device.index for p in kept if p.device.type == "cuda"}):
        done = calibrate_(model, before, batch, target=target, tolerance=tolerance, steps=steps)
    after = trace(model, batch, batches=1, signals=("activation",))
    kept = {parameter: value for parameter, value in kept.items() if not torch.equal(parameter, value)}
    rows = [
        {
            CalibrationColumn.NAME: name,
            CalibrationColumn.BEFORE: one.before,
            CalibrationColumn.TARGET: one.target,
            CalibrationColumn.AFTER: one.after,
            CalibrationColumn.FACTOR: (one.after / one.before) ** 0.5 if one.steps else 1.0,
        }
        for name, one in done.items()
    ]
    layers = pd.DataFrame(rows, columns=list(map(str, CalibrationColumn)))
    layers = check(layers.astype({str(c): s.dtype for c, s in CALIBRATION_COLUMNS.items()}), CALIBRATION_COLUMNS)
    pair = [run.components[[ComponentColumn.NAME, ComponentColumn.ACV]] for run in (before, after)]
    components = pair[0].merge(pair[1], on=str(ComponentColumn.NAME), suffixes=("_before", "_after"))
    return Calibration(layers, components, kept)
