"""Signal Propagation Plots from a frame, without a model or torch work.

Data first: ``layers`` and ``blocks`` turn frames into panels, ``draw`` puts one panel on one Axes, ``figure`` lays them out::

    plot = signal_plot("layers", frame=trace.frame, blocks=trace.blocks, run=trace.run)
    plot.save("figure.pdf", style="paper", width="double")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from spp.errors import UnknownNameError
from spp.plot.blocks import block_panels
from spp.plot.layers import layer_panels
from spp.plot.panels import Grid

if TYPE_CHECKING:
    from spp.plot.figure import SignalPlot as SignalPlot

KINDS = ("layers", "blocks")
"""Every kind of figure."""


def signal_plot(
    kind: str = "layers",
    *,
    frame: pd.DataFrame,
    blocks: pd.DataFrame,
    run: Mapping[str, object],
    signals: Sequence[str] | str | None = None,
    statistics: Sequence[str] | str | None = None,
    step: int | None = None,
    unmeasured: pd.DataFrame | None = None,
    style: str = "notebook",
    width: str | float = "double",
) -> SignalPlot:
    """Draw a Signal Propagation Plot.

    Args:
        kind: ``layers``, leaf modules in execution order, or ``blocks``, the plot of Brock, De & Smith (2021).
        frame: Table with the columns of ``spp.frame.schema.COLUMNS``.
        blocks: Table with the columns of ``spp.frame.schema.BLOCK_COLUMNS``.
        run: Facts for caption, heading and metadata; any of model, norm, init, activation, data, batch_size, input_shape,
            seed, parameters, loss.
        signals: Which signals; for ``layers`` activation, weight and gradient when left out, for ``blocks`` activation.
        statistics: Which statistics; ACSM and ACV when left out, for ``blocks`` the branch ACV too.
        step: Which step; the last one when left out.
        unmeasured: Why signals are missing (``trace.unmeasured``), shown where a panel would be empty.
        style: ``paper``, ``notebook`` or ``slides``.
        width: ``single``, ``double`` or inches.

    Raises:
        UnknownNameError: A kind, signal, statistic, style or width that does not exist; the message lists the valid ones.
        InputError: Nothing to draw: an empty frame, a step that was not measured, or no residual merges for ``blocks``.
    """
    builders: dict[str, Callable[[], tuple[Grid, int]]] = {
        "layers": lambda: layer_panels(frame, signals=signals, statistics=statistics, step=step, unmeasured=unmeasured),
        "blocks": lambda: block_panels(blocks, signals=signals, statistics=statistics, step=step),
    }
    if kind not in builders:
        raise UnknownNameError("kind", kind, KINDS, where="kind")
    grid, shown = builders[kind]()
    from spp.plot.figure import SignalPlot

    return SignalPlot(grid, kind=kind, step=shown, run=run, style=style, width=width)


def __getattr__(name: str) -> object:
    """Load ``SignalPlot``, and with it matplotlib, when it is asked for: panels are to be had without."""
    if name == "SignalPlot":
        from spp.plot.figure import SignalPlot

        return SignalPlot
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
