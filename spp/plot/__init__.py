"""Signal Propagation Plots from a frame, without a model or torch work.

Data first: a kind of figure (``spp.plot.kinds``) turns tables into panels, ``draw`` puts one panel on one Axes, ``page`` lays
them out::

    plot = signal_plot("layers", frame=trace.frame, blocks=trace.blocks, run=trace.run)
    plot.save("figure.pdf", style="paper", width="double")

A kind of your own is a function that makes panels; ``run.plot("mykind")`` and ``spp plot RUN --kind mykind`` then draw it::

    @spp.plot.figure("mykind")
    def mykind(request: spp.plot.Request) -> spp.plot.Drawing: ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from spp.plot.kinds import FIGURES as FIGURES
from spp.plot.kinds import Drawing as Drawing
from spp.plot.kinds import Request as Request
from spp.plot.kinds import figure as figure

# isort: off
# each registers its kind when it is imported; the order is that of listings and error messages
from spp.plot.kinds.components import by_component
import spp.plot.kinds.layers
import spp.plot.kinds.blocks
from spp.plot.kinds.compare import comparison
from spp.plot.kinds.evolution import side_by_side
import spp.plot.kinds.channels
import spp.plot.kinds.distribution
import spp.plot.kinds.theory  # noqa: F401

# isort: on
from spp.diagnosis.findings import Finding
from spp.errors import UnknownNameError
from spp.frame.schema import one_mode
from spp.plot.kinds.outcomes import outcomes as outcomes
from spp.plot.runs import arms_of

if TYPE_CHECKING:
    from spp.plot.page import SignalPlot as SignalPlot


def signal_plot(
    kind: str = "layers",
    *,
    frame: pd.DataFrame,
    blocks: pd.DataFrame,
    run: Mapping[str, object],
    signals: Sequence[str] | str | None = None,
    statistics: Sequence[str] | str | None = None,
    step: int | None = None,
    steps: Sequence[int] | None = None,
    layer: str | Sequence[str] | None = None,
    others: Mapping[str, Any] | Sequence[Any] = (),
    unmeasured: pd.DataFrame | None = None,
    channels: pd.DataFrame | None = None,
    exponents: pd.DataFrame | None = None,
    training: pd.DataFrame | None = None,
    findings: Callable[..., Iterable[Finding]] | Iterable[Finding] = (),
    style: str = "notebook",
    width: str | float = "double",
    **options: Any,
) -> SignalPlot:
    """Draw a Signal Propagation Plot.

    Args:
        kind: ``components``, the stream from component to component; ``layers``, leaf modules in execution order;
            ``blocks``, the plot of Brock, De & Smith (2021); ``evolution``, depth over training steps; ``compare``, this run
            beside ``others``; ``channels``, the spread over channels; ``distribution``, one layer's values; ``theory``,
            predictions over measurements; or any other of ``FIGURES``.
        frame: Table with the columns of ``spp.frame.schema.COLUMNS``.
        blocks: Table with the columns of ``spp.frame.schema.BLOCK_COLUMNS``.
        run: Facts for caption, heading and metadata; any of model, norm, init, activation, data, batch_size, input_shape,
            seed, parameters, loss.
        signals: Which signals; for ``layers`` activation, weight and gradient when left out, for ``blocks`` activation, else
            activation and gradient.
        statistics: Which statistics; ACSM and ACV when left out, for ``blocks`` the branch ACV too, for ``evolution`` ACV, for
            ``channels`` mean and var of a channel. A ``distribution`` has none.
        step: Which step; the last one when left out.
        steps: For ``evolution``, the steps to draw as lines; the first, the middle and the last one when left out.
        layer: For ``distribution``, the module whose values to draw, or several.
        others: For ``compare``, the runs to draw beside this one, as ``compare`` takes them.
        unmeasured: Why signals are missing (``trace.unmeasured``), shown where a panel would be empty.
        channels: The spread over channels (``trace.channels``).
        exponents: The counts by power of two (``trace.exponents``).
        training: The loss at each step (``run.steps``); ``evolution`` draws it.
        findings: What is wrong with the run, or what finds it; ``components`` marks where it begins.
        style: ``paper``, ``notebook`` or ``slides``.
        width: ``single``, ``double`` or inches.
        options: Keyword arguments of a kind of your own.

    Raises:
        TypeError: An option that the kind does not take.
        UnknownNameError: A kind, signal, statistic, style or width that does not exist; the message lists the valid ones.
        InputError: Nothing to draw: an empty frame, a step that was not measured, or a kind that needs what the trace does
            not hold.
    """
    request = Request(
        frame=one_mode(frame),
        blocks=one_mode(blocks),
        run=run,
        unmeasured=_table(unmeasured),
        channels=_table(channels),
        exponents=_table(exponents),
        signals=signals,
        statistics=statistics,
        step=step,
        steps=steps,
        layer=layer,
        others=others,
        training=_table(training),
        findings=findings if callable(findings) else lambda: findings,
    )
    return FIGURES.row(kind, where="kind")(request, **options).plot(kind, run, style, width)


def default_kind(options: Mapping[str, Any], detailed: str = "layers") -> str:
    """By component, but ``detailed`` where signals or statistics are asked for, which figures by component have none of."""
    return detailed if options.get("signals") or options.get("statistics") else "components"


def _table(table: pd.DataFrame | None) -> pd.DataFrame:
    return pd.DataFrame() if table is None else table


def compare(
    runs: Mapping[str, Any] | Sequence[Any],
    kind: str | None = None,
    *,
    signals: Sequence[str] | str | None = None,
    statistics: Sequence[str] | str | None = None,
    step: int | None = None,
    style: str = "notebook",
    width: str | float = "double",
) -> SignalPlot:
    """Draw several runs in one figure: one line per label, runs of the same label as median and range.

    By component that is the stream from stem to head, branches and gradients. By layer (``kind="compare"``) a smaller panel
    under each divides every line by the first and names the layer from which on they differ by more than a factor of two.

    Layers (and components) are aligned by name (``encoder.0.fc``, and which call of it) where at least half of every
    network's are, by name, in the longest network; what one of them lacks is missing from its line. Otherwise they are
    aligned by relative depth, from 0 at the first to 1 at the last layer.

    Args:
        runs: ``{label: run}``, ``{label: [run, run, ...]}`` for several seeds of a label, or a list of runs, whose labels are
            then the facts in which they differ. A run is a trace, a run folder or a frame.
        kind: ``components`` or ``compare``; ``compare`` where signals or statistics are asked for when left out, else
            ``components``.
        signals: For ``compare``; activations and gradients when left out.
        statistics: For ``compare``; ACSM and ACV when left out.
        step: Which step of each run; its last one when left out.
        style: ``paper``, ``notebook`` or ``slides``.
        width: ``single``, ``double`` or inches.

    Raises:
        InputError: Nothing to draw, more labels than can be told apart, or a run that is none.
        StoreError: A folder that is no run, or of a later version.
        UnknownNameError: A signal, statistic, style or width that does not exist.
    """
    arms = arms_of(runs)
    if kind is None:
        kind = default_kind({"signals": signals, "statistics": statistics}, "compare")
    if kind == "components":
        return by_component(arms, step).plot(kind, {}, style, width)
    if kind != "compare":
        raise UnknownNameError("kind", kind, ("components", "compare"), where="kind")
    return comparison(arms, signals, statistics, step).plot(kind, {}, style, width)


def evolutions(
    runs: Mapping[str, Any] | Sequence[Any],
    *,
    signals: Sequence[str] | str | None = None,
    statistics: Sequence[str] | str | None = None,
    steps: Sequence[int] | None = None,
    style: str = "notebook",
    width: str | float = "double",
) -> SignalPlot:
    """Draw several training runs beside each other: a column for each run, a line for each step, one scale for all.

    Args:
        runs: ``{label: run}``, or a list of runs, whose labels are then the facts in which they differ. A run is a watch, a run
            folder or a frame.
        signals: Activations and gradients when left out.
        statistics: ACV when left out.
        steps: Steps to draw; the first, the middle and the last one that all runs have when left out.
        style: ``paper``, ``notebook`` or ``slides``.
        width: ``single``, ``double`` or inches.

    Raises:
        InputError: Nothing to draw, too many runs or steps, a step that was not measured, or a run that is none.
        StoreError: A folder that is no run, or of a later version.
        UnknownNameError: A signal, statistic, style or width that does not exist.
    """
    return side_by_side(arms_of(runs), signals, statistics, steps).plot("evolution", {}, style, width)


def __getattr__(name: str) -> object:
    """Load ``SignalPlot``, and with it matplotlib, when it is asked for: panels are to be had without."""
    if name == "SignalPlot":
        from spp.plot.page import SignalPlot

        return SignalPlot
    if name == "KINDS":
        return FIGURES.names
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
