"""Kinds of figures: a row of ``FIGURES`` for each, one file a kind.

A kind is a function from a ``Request`` to a ``Drawing``; options of its own are keyword arguments. It is registered under the
name that users ask for it by, from inside or outside the package::

    @spp.plot.figure("mykind")
    def mykind(request: Request, *, smooth: bool = False) -> Drawing:
        \"\"\"One line, for listings.\"\"\"
        rows, step = request.at_step()
        ...
        return Drawing(((panel,),), step)

``run.plot("mykind", smooth=True)`` and ``spp plot RUN --kind mykind`` then draw it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from spp.diagnosis.findings import Finding
from spp.plot.captions import Facts
from spp.plot.panels import Grid
from spp.plot.series import at_step
from spp.registry import Registry

if TYPE_CHECKING:
    from spp.plot.page import SignalPlot


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Request:
    """What a figure is made from; a kind takes of it what it has a use for.

    Attributes:
        frame: Table with the columns of ``spp.frame.schema.COLUMNS``.
        blocks: Table with the columns of ``spp.frame.schema.BLOCK_COLUMNS``.
        run: Facts about the run.
        unmeasured: Why signals are missing.
        channels: The spread over channels; empty where the trace kept none.
        exponents: The counts by power of two; empty where the trace kept none.
        signals: Which signals; the kind's own choice where None, as for all that follow.
        statistics: Which statistics.
        step: Which step.
        steps: Which steps.
        layer: Which module, or modules.
        others: Further runs.
        training: The loss at each step; empty where it is not known.
        findings: What is wrong with the run, which is found when it is asked for.
    """

    frame: pd.DataFrame
    blocks: pd.DataFrame = field(default_factory=pd.DataFrame)
    run: Facts = field(default_factory=dict)
    unmeasured: pd.DataFrame = field(default_factory=pd.DataFrame)
    channels: pd.DataFrame = field(default_factory=pd.DataFrame)
    exponents: pd.DataFrame = field(default_factory=pd.DataFrame)
    signals: Sequence[str] | str | None = None
    statistics: Sequence[str] | str | None = None
    step: int | None = None
    steps: Sequence[int] | None = None
    layer: str | Sequence[str] | None = None
    others: Mapping[str, Any] | Sequence[Any] = ()
    training: pd.DataFrame = field(default_factory=pd.DataFrame)
    findings: Callable[..., Iterable[Finding]] = tuple

    def at_step(self) -> tuple[pd.DataFrame, int]:
        """Return the rows of the step asked for, the last one unless told otherwise, and that step."""
        return at_step(self.frame, self.step)


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """What a kind makes of a request.

    Attributes:
        grid: The panels, row by row.
        step: The step they show; 0 where they show several.
        says: What the caption says is drawn; made from the panels when left out.
        run: Facts for caption, heading and metadata; those of the request when left out.
    """

    grid: Grid
    step: int = 0
    says: str = ""
    run: Facts | None = None

    def plot(self, kind: str, run: Facts, style: str, width: str | float) -> SignalPlot:
        """Lay the panels out on a page; arguments as for ``spp.plot.signal_plot``."""
        # matplotlib takes half a second to load, which those who want no figure are spared
        from spp.plot.page import SignalPlot

        facts = run if self.run is None else self.run
        return SignalPlot(self.grid, kind, self.step, facts, style, width, self.says)


Kind = Callable[..., Drawing]
"""Takes a ``Request``, and as keyword arguments what it can be asked for beyond that."""

FIGURES: Registry[Kind] = Registry("kind", of=Callable)
"""Every kind of figure, by name."""


def figure(name: str, *, replace: bool = False) -> Callable[[Kind], Kind]:
    """Register the decorated function as the kind of figure called ``name``; raises as ``Registry.register`` does."""
    return lambda kind: FIGURES.register(name, kind, replace=replace)
