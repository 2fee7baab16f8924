"""Signal Propagation Plots from a frame, without a model or torch work.

Data first: ``layers`` and ``blocks`` turn frames into panels, ``draw`` puts one panel on one Axes, ``figure`` lays them out::

    plot = signal_plot("layers", frame=trace.frame, blocks=trace.blocks, run=trace.run)
    plot.save("figure.pdf", style="paper", width="double")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from spp.errors import InputError, UnknownNameError
from spp.plot import abreast, distribution, evolution, results, theory
from spp.plot import channels as channel
from spp.plot.blocks import block_panels
from spp.plot.comparison import compare_panels
from spp.plot.facts import by_depth, listed
from spp.plot.layers import layer_panels
from spp.plot.modes import one_mode
from spp.plot.runs import Beside, arms_of, shared
from spp.plot.shapes import AnyGrid

if TYPE_CHECKING:
    from spp.plot.figure import SignalPlot as SignalPlot

KINDS = ("layers", "blocks", "compare", "evolution", "channels", "distribution", "theory")
"""Every kind of figure."""

Built = tuple[AnyGrid, int, str]
"""Panels, the step they show (0 where they show several), and what the caption says of them where they do not say it."""


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
    style: str = "notebook",
    width: str | float = "double",
) -> SignalPlot:
    """Draw a Signal Propagation Plot.

    Args:
        kind: ``layers``, leaf modules in execution order; ``blocks``, the plot of Brock, De & Smith (2021); ``evolution``,
            depth over training steps; ``compare``, this run beside ``others``; ``channels``, the spread over channels;
            ``distribution``, one layer's values; ``theory``, predictions over measurements.
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
        style: ``paper``, ``notebook`` or ``slides``.
        width: ``single``, ``double`` or inches.

    Raises:
        UnknownNameError: A kind, signal, statistic, style or width that does not exist; the message lists the valid ones.
        InputError: Nothing to draw: an empty frame, a step that was not measured, or a kind that needs what the trace does
            not hold.
    """
    frame, blocks = one_mode(frame), one_mode(blocks)
    builders: dict[str, Callable[[], Built]] = {
        "layers": lambda: (
            *layer_panels(frame, signals=signals, statistics=statistics, step=step, unmeasured=unmeasured),
            "",
        ),
        "blocks": lambda: (*block_panels(blocks, signals=signals, statistics=statistics, step=step), ""),
        "evolution": lambda: _told(
            evolution.phrase,
            run,
            evolution.evolution_panels(frame, signals=signals, statistics=statistics, steps=steps),
        ),
        "channels": lambda: _told(
            channel.phrase,
            run,
            *channel.channel_panels(frame, _table(channels), signals=signals, statistics=statistics, step=step),
        ),
        "distribution": lambda: _told(
            distribution.phrase,
            run,
            *distribution.distribution_panels(frame, _table(exponents), layer=layer, signals=signals, step=step),
        ),
        "theory": lambda: _told(
            theory.phrase, run, *theory.theory_panels(frame, signals=signals, statistics=statistics, step=step)
        ),
    }
    if kind == "compare":
        mine = Beside(frame, run)
        runs: Any = {**others} if isinstance(others, Mapping) else [mine, *others]
        if isinstance(others, Mapping):
            runs = {str(run.get("model") or "this run"): mine} | runs
        if len(runs) < 2:
            raise InputError(
                "a comparison needs another run",
                received="none",
                where="others",
                remedy="Pass others={label: trace}, or call spp.plot.compare.",
            )
        return compare(runs, signals=signals, statistics=statistics, step=step, style=style, width=width)
    if kind not in builders:
        raise UnknownNameError("kind", kind, KINDS, where="kind")
    grid, shown, drawn = builders[kind]()
    from spp.plot.figure import SignalPlot

    return SignalPlot(grid, kind=kind, step=shown, run=run, style=style, width=width, drawn=drawn)


def _told(
    phrase: Callable[[Mapping[str, object], AnyGrid], str], run: Mapping[str, object], grid: AnyGrid, step: int = 0
) -> Built:
    return grid, step, phrase(run, grid)


def _table(table: pd.DataFrame | None) -> pd.DataFrame:
    return pd.DataFrame() if table is None else table


def compare(
    runs: Mapping[str, Any] | Sequence[Any],
    *,
    signals: Sequence[str] | str | None = None,
    statistics: Sequence[str] | str | None = None,
    step: int | None = None,
    style: str = "notebook",
    width: str | float = "double",
) -> SignalPlot:
    """Draw several runs in one figure: one line per label, runs of the same label as median and range.

    Layers are aligned by name (``encoder.0.fc``, and which call of it) where at least half of every network's layers are,
    by name, in the longest network; what one of them lacks is missing from its line. Otherwise they are aligned by relative
    depth, from 0 at the first to 1 at the last layer. Under each panel a smaller one divides every line by the first and
    names the layer from which on they differ by more than a factor of two.

    Args:
        runs: ``{label: run}``, ``{label: [run, run, ...]}`` for several seeds of a label, or a list of runs, whose labels are
            then the facts in which they differ. A run is a trace, a run folder or a frame.
        signals: Activations and gradients when left out.
        statistics: ACSM and ACV when left out.
        step: Which step of each run; its last one when left out.
        style: ``paper``, ``notebook`` or ``slides``.
        width: ``single``, ``double`` or inches.

    Raises:
        InputError: Nothing to draw, more labels than can be told apart, or a run that is none.
        StoreError: A folder that is no run, or of a later version.
        UnknownNameError: A signal, statistic, style or width that does not exist.
    """
    arms = arms_of(runs)
    grid, shown = compare_panels(arms, signals=signals, statistics=statistics, step=step)
    from spp.plot.figure import SignalPlot

    facts = shared(arms)
    drawn = f"{listed(dict.fromkeys(arm.label for arm in arms))} compared, {by_depth(facts, grid, 'compare')}"
    return SignalPlot(grid, kind="compare", step=shown, run=facts, style=style, width=width, drawn=drawn)


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
    arms = arms_of(runs)
    grid = abreast.abreast_panels(arms, signals=signals, statistics=statistics, steps=steps)
    from spp.plot.figure import SignalPlot

    facts = shared(arms)
    drawn = abreast.phrase(facts, arms, grid)
    return SignalPlot(grid, kind="evolution", step=0, run=facts, style=style, width=width, drawn=drawn)


def outcomes(
    table: pd.DataFrame,
    *,
    x: str,
    y: str,
    by: str | None = None,
    panels: str | None = None,
    chance: float | None = None,
    names: Mapping[str, str] | None = None,
    xscale: str | None = None,
    yscale: str = "linear",
    xlabel: str | None = None,
    ylabel: str | None = None,
    run: Mapping[str, object] | None = None,
    style: str = "notebook",
    width: str | float = "double",
) -> SignalPlot:
    """Draw results rather than signals, as accuracy against learning rate: a line for each arm, seeds as median and range.

    Args:
        table: One row per run (or per run and epoch), with the columns named below.
        x: Column on the x axis, as a learning rate, a batch size, an epoch or a name. Rows where it is missing are left out.
        y: Column of the results, as an accuracy or a loss. What is not finite is left out of medians and ranges, and marked.
        by: Column that tells the lines apart, in the order of its categories, else of the rows; one line when left out.
        panels: Column that tells panels apart; one panel when left out. All panels have the same axes.
        chance: A level to compare with, in units of ``y``: a thin line.
        names: What to call values of ``by``, ``panels`` and of an ``x`` of words, as ``{"batch": "BatchNorm"}``.
        xscale: ``linear``, ``log`` or ``category`` (evenly spaced); when left out, ``category`` for words and for numbers the
            axis on which they are spaced more evenly.
        yscale: ``linear``, with limits close around the results, or ``log``.
        xlabel: The column's name when left out.
        ylabel: The column's name when left out.
        run: Facts for caption, heading and metadata, as ``signal_plot`` takes them; those that all rows share.
        style: ``paper``, ``notebook`` or ``slides``.
        width: ``single``, ``double`` or inches.

    Raises:
        InputError: Nothing to draw, results that are no numbers, more lines or panels than can be told apart, or numbers that
            have no place on the axis.
        UnknownNameError: A column, scale, style or width that does not exist; the message lists the valid ones.
    """
    words = None if x not in table.columns or pd.api.types.is_numeric_dtype(table[x]) else x
    table = results.labels_of(table, names, (words, by, panels))
    grid = results.outcome_panels(
        table,
        x=x,
        y=y,
        by=by,
        panels=panels,
        chance=chance,
        xscale=xscale,
        yscale=yscale,
        xlabel=xlabel,
        ylabel=ylabel,
    )
    from spp.plot.figure import SignalPlot

    drawn = results.phrase(table, grid, x=x, y=y, by=by, panels=panels)
    return SignalPlot(grid, kind="outcomes", step=0, run=run or {}, style=style, width=width, drawn=drawn)


def __getattr__(name: str) -> object:
    """Load ``SignalPlot``, and with it matplotlib, when it is asked for: panels are to be had without."""
    if name == "SignalPlot":
        from spp.plot.figure import SignalPlot

        return SignalPlot
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
