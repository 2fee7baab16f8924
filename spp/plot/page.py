"""``SignalPlot``: panels laid out on a page, with a caption, ready for a notebook, a paper or a slide."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from spp.errors import InputError, plain
from spp.plot import captions
from spp.plot.draw import NONFINITE, ZERO, Drawn, marker_of, nonfinite_mark, page_of, transition_mark, zero_mark
from spp.plot.draw_cells import draw_panel
from spp.plot.export import FORMATS, latex_figure, rendered
from spp.plot.label_layout import fit_ends, fit_labels, fit_marks, fit_stage_names, fit_text
from spp.plot.panels import Family, Grid, Heat, Panel
from spp.plot.style import FAINT, INK, Look, Style, applied, fonts_for, literal, style_named

GREY = Look(INK, "#BBBBBB", "-", "o")
"""The legend stands for all rows, so it has no hue."""

NARROWEST = 19.0
"""Width of a column of panels, in letters' heights, below which columns are stacked."""

NOTE = 1.3
"""Height of a line of a note, in letters' heights."""

HIGH, LOW = 1.3, 0.82
"""A single row is higher by this factor; more than three rows are lower, so that the figure fits on a page."""

MOST, STACKED = 4.5 / 3.35, 5
"""Height of a figure over one column of up to so many panels, in widths of the column: a caption finds room below it."""


class SignalPlot:
    """A drawn figure.

    Attributes:
        figure_: The matplotlib figure.
        axes_: One Axes per panel, in the order of ``panels``.
        artists_: What was drawn on each Axes, in the same order.
        panels: What is drawn, row by row; ``data`` has their numbers in one table.
        caption: One sentence for below the figure.
        kind: A name of ``spp.plot.FIGURES``, or ``outcomes``.
        step: The training step shown; 0 for a trace.
    """

    figure_: Figure
    axes_: tuple[Axes, ...]
    artists_: tuple[Drawn, ...]

    def __init__(
        self,
        grid: Grid,
        kind: str,
        step: int,
        run: captions.Facts,
        style: str = "notebook",
        width: str | float = "double",
        says: str = "",
    ) -> None:
        self.kind, self.step, self.run = kind, step, dict(run)
        self.panels: tuple[Panel, ...] = tuple(panel for row in grid for panel in row)
        self.caption = captions.caption(run, grid, kind, step, says)
        self._grid, self._style, self._width = grid, style, width
        self._heading = captions.heading(run, step)
        self._words = "".join((self._heading, *_texts(grid)))
        self.figure_, self.axes_, self.artists_ = _make(grid, self._looks(style), width, self._heading)

    def save(self, path: str | Path, *, style: str | None = None, width: str | float | None = None) -> Path:
        """Write the figure to ``path`` and return that path; the suffix (png, pdf, svg or pgf) is the format.

        The same panels always give the same bytes. The caption and the run's facts go into the file's metadata.

        Args:
            path: File to write; one that exists is replaced.
            style: ``paper``, ``notebook`` or ``slides``; that of the figure when left out.
            width: ``single``, ``double`` or inches; that of the figure when left out.

        Raises:
            InputError: Another suffix, or a folder that is not there.
        """
        target = Path(path)
        form = target.suffix.lower().removeprefix(".")
        if form not in FORMATS:
            raise InputError(
                f"a figure is saved as {', '.join(FORMATS)}", received=f"the suffix {target.suffix!r}", where=str(path)
            )
        # all of it before the file is opened: what fails leaves no half-written one
        content = self._rendered(form, style or self._style, self._width if width is None else width)
        try:
            target.write_bytes(content)
        except OSError as error:
            raise InputError(
                "a figure is saved where one can write", received=error.strerror or str(error), where=str(path)
            ) from error
        return target

    def png(self) -> bytes:
        """The picture as it stands, in the bytes of a PNG file; for logs that take images."""
        return self._rendered("png", self._style, self._width)

    def latex(self, path: str | Path, *, width: str | float | None = None) -> str:
        """Return the LaTeX environment for a figure that was saved to ``path``, with the caption.

        Args:
            path: As it should stand in the document.
            width: That of the file; over both columns (``figure*``) for ``double`` or more than the paper's column.

        Raises:
            InputError: LaTeX cannot read the file's name.
        """
        asked = self._width if width is None else width
        paper = style_named("paper")
        return latex_figure(path, self.caption, double=paper.width(asked) > 1.2 * paper.single)

    @property
    def data(self) -> pd.DataFrame:
        """The numbers that are drawn, exactly, in the order of the panels.

        Returns:
            One row per point, cell or bar: ``panel`` (from 0), ``signal``, ``statistic``, where the panel has them ``name``,
            ``line`` and ``step``, then ``x``, ``y`` and for bands ``low`` and ``high``. What is zero or not finite is there as
            it is, though a log axis has no place for it.
        """
        parts = [
            pd.DataFrame({"panel": at, "signal": panel.signal, "statistic": panel.statistic, **numbers})
            for at, panel in enumerate(self.panels)
            for numbers in panel.numbers()
        ]
        first = ["panel", "signal", "statistic", "name", "line", "step", "x", "y", "low", "high"]
        found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=first)
        return found[[column for column in first if column in found]]

    def __repr__(self) -> str:
        return f"<SignalPlot {self.kind}: {self.caption}>"

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """What a notebook shows: the picture, sharp also on a dense screen, and the caption for those who cannot see it."""
        # a notebook shows a picture pixel by pixel, half as large on a dense screen, unless told its size (96 to the inch)
        width, height = (round(96 * inches) for inches in self.figure_.get_size_inches())
        picture = base64.b64encode(self.png()).decode()
        return (
            {"image/png": picture, "text/plain": repr(self)},
            {"image/png": {"width": width, "height": height, "alt": self.caption}},
        )

    def _looks(self, style: str) -> Style:
        """The style, with fonts for all letters."""
        return replace(style_named(style), fonts=fonts_for(self._words))

    def _rendered(self, form: str, style: str, width: str | float) -> bytes:
        chosen = self._looks(style)
        # fonts and line widths are fixed when artists are made, so that another style needs new ones
        if (style, width) == (self._style, self._width):
            figure = self.figure_
        else:
            figure, _, _ = _make(self._grid, chosen, width, self._heading)
        about = {
            "title": self._heading or "signal propagation plot",
            "caption": self.caption,
            "keywords": captions.entries(self.run),
        }
        with applied(chosen):
            return rendered(figure, form, about)


def _texts(part: object) -> Iterator[str]:
    """Every text of a part of a figure."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, tuple):
        for one in part:
            yield from _texts(one)
    elif is_dataclass(part):
        for one in fields(part):
            yield from _texts(getattr(part, one.name))


def _make(
    grid: Grid, style: Style, width: str | float, title: str
) -> tuple[Figure, tuple[Axes, ...], tuple[Drawn, ...]]:
    """Lay out, draw, let matplotlib settle the margins, then fit in what depends on the size."""
    inches = style.width(width)
    page = _arranged(grid, inches, style)
    with applied(style):
        figure, axes = _empty(page, inches, style)
        drawn = {panel: draw_panel(panel, ax) for panel, ax in axes.items()}
        _dress(page, axes, style)
        _legend(figure, tuple(drawn.values()), style, inches)
        if style.title and title:
            words = literal(title)
            fit_text(figure.suptitle(words, fontsize=style.font), words, 0.98 * figure.bbox.width)
        _settle(figure, page, axes)
        for panel, ax in axes.items():
            fit_ends(ax, drawn[panel].ends)
            fit_marks(ax, drawn[panel].marks, drawn[panel].curves)
    ordered = [panel for row in grid for panel in row]
    return figure, tuple(axes[panel] for panel in ordered), tuple(drawn[panel] for panel in ordered)


def _empty(page: Grid, inches: float, style: Style) -> tuple[Figure, dict[Panel, Axes]]:
    """Make a figure as high as its panels and notes ask, with an Axes for each panel."""
    heights = [max(panel.height for panel in row) for row in page]
    row = style.row * (HIGH if len(page) == 1 else 1.0 if sum(heights) < 3.9 else LOW)
    notes = sum(max(len(panel.note.splitlines()) for panel in line) for line in page)
    # a note mostly breaks into two lines
    over = 2 * NOTE * notes * style.small / 72
    # without pyplot, which would choose a backend, hold the figure and show it
    height = sum(heights) * row + style.font * 0.09 + over
    # more panels than that stay as high as they can be read
    if inches <= style.single and len(page) <= STACKED:
        height = min(height, MOST * style.single)
    figure = Figure(figsize=(inches, height))
    # its canvas keeps the renderer that measures texts; without it matplotlib 3.11 makes one for each measure
    FigureCanvasAgg(figure)
    # the one layout that leaves room for a legend outside of the axes
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.03, hspace=0.02, wspace=0.02)
    cells = figure.add_gridspec(len(page), max(len(row) for row in page), height_ratios=heights)
    # a panel alone in its row takes all of it
    at = {panel: cells[r, c] if row[1:] else cells[r, :] for r, row in enumerate(page) for c, panel in enumerate(row)}
    return figure, {panel: figure.add_subplot(cell) for panel, cell in at.items()}


def _settle(figure: Figure, page: Grid, axes: dict[Panel, Axes]) -> None:
    """Let matplotlib lay the page out and fit texts and labels into it."""
    texts = [text for ax in axes.values() for text in (ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts)]
    words = {text: text.get_text() for text in texts}
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    _fit(page, axes, words)
    before = _chosen(axes)
    # each column's labels on one line, however wide the numbers beside the axes are; to look for them takes a layout's time
    figure.align_ylabels()
    engine.execute(figure)
    _fit(page, axes, words)
    # what is fitted in changes the margins, and margins change what fits
    if _chosen(axes) != before:
        engine.execute(figure)
    # each later draw would lay the page out anew, without the texts' breaks being fitted to it; where there is any engine,
    # that of "none" too, saving draws everything twice
    figure.set_layout_engine(None)
    for panel in page[0]:
        fit_stage_names(axes[panel], panel)


def _arranged(grid: Grid, inches: float, style: Style) -> Grid:
    """Return the grid as it is where columns are wide enough to be read, else one column, statistic by statistic."""
    columns = max(len(row) for row in grid)
    if columns == 1 or 72 * inches / columns >= NARROWEST * style.font:
        return grid
    stacked = [(row[c],) for c in range(columns) for row in grid if c < len(row) > 1]
    return (*stacked, *(row for row in grid if len(row) == 1))


def _lowest(page: Grid, r: int) -> bool:
    """Whether the x axis of a row is not that of the row below it."""
    return r == len(page) - 1 or page[r][0].xlabel != page[r + 1][0].xlabel


def _dress(page: Grid, axes: dict[Panel, Axes], style: Style) -> None:
    """Say each thing once: the statistic over its first panel, the signal at its row, what x is under the last row."""
    said = {""}
    for r, row in enumerate(page):
        for c, panel in enumerate(row):
            ax = axes[panel]
            if panel.title not in said:
                words = panel.title[:1].upper() + panel.title[1:] + (f"\n{panel.note}" if panel.note else "")
                ax.set_title(literal(words), pad=style.small + 6 if panel.stages and r == 0 else 4)
            elif panel.note:
                ax.set_title(literal(panel.note), fontsize=style.small, pad=3)
            said.add(panel.title)
            if c and row[0].signal is panel.signal:
                ax.set_ylabel(ax.get_ylabel().partition("\n")[2])
            if not _lowest(page, r) or (len(row) > 2 and c != len(row) // 2):
                ax.set_xlabel("")


def _room(extents: list[Bbox], column: int, width: float) -> float:
    """Return how wide a text may be that is centred on one Axes of a row, up to its neighbours' texts and the page's edges."""
    centres = [float(extent.x0 + extent.x1) / 2 for extent in extents]
    centre = centres[column]
    edges = [centre, width - centre, *(abs(other - centre) / 2 for other in centres if other != centre)]
    return 1.94 * min(edges)


def _fit(page: Grid, axes: dict[Panel, Axes], words: dict[Text, str]) -> None:
    """Break texts and choose labels so that they fit the Axes as they now are; ``words`` are the texts unbroken."""
    for r, row in enumerate(page):
        extents = [axes[panel].get_window_extent() for panel in row]
        for c, panel in enumerate(row):
            ax = axes[panel]
            fit_labels(panel, ax, _lowest(page, r))
            room = _room(extents, c, page_of(ax).bbox.width)
            over = room
            if isinstance(panel, Heat):
                # beside it stands a colour bar, whose uppermost number may be as high as a title
                over = min(room, extents[c].width)
            elif not panel.title:
                over = min(room, 1.15 * extents[c].width)
            rooms = {ax.title: over, ax.xaxis.label: room, ax.yaxis.label: extents[c].height}
            rooms |= dict.fromkeys(ax.texts, 0.95 * extents[c].width)
            for text, length in rooms.items():
                fit_text(text, words[text], length)


def _chosen(axes: dict[Panel, Axes]) -> list[object]:
    """The words on the page, and where those of the x axes stand."""
    texts = [text for ax in axes.values() for text in (ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts)]
    ticks = [(label.get_text(), label.get_rotation()) for ax in axes.values() for label in ax.get_xticklabels()]
    return [*(text.get_text() for text in texts), *ticks, *(tuple(ax.get_xticks()) for ax in axes.values())]


def _legend(figure: Figure, drawn: tuple[Drawn, ...], style: Style, inches: float) -> None:
    size = 0.5 * style.font
    handles: list[Artist] = list({label: handle for one in drawn for label, handle in one.handles.items()}.values())
    handles.sort(key=_rank)
    for family in Family:
        if any(family in one.points for one in drawn):
            handles.append(_handle(str(family), marker_of(family, GREY, size)))
    marks = {
        "transitions": ("transition block", transition_mark(size)),
        "zeros": (ZERO, zero_mark(GREY, size)),
        "nonfinite": (NONFINITE, nonfinite_mark(size)),
    }
    named = {handle.get_label() for handle in handles}
    for kind, (name, look) in marks.items():
        if name not in named and any(getattr(one, kind) for one in drawn):
            handles.append(_handle(name, look))
    if handles:
        labels = [literal(plain(handle.get_label())) for handle in handles]
        # about, in points: a legend has no size before it is drawn
        lengths = [0.55 * style.small * (len(label) + 5) for label in labels]
        columns = len(handles) if sum(lengths) < 72 * inches else max(1, int(72 * inches / max(lengths)))
        figure.legend(
            handles=handles,
            labels=labels,
            loc="outside lower center",
            ncols=columns,
            handletextpad=0.5,
            columnspacing=1.2,
            borderpad=0.1,
        )


def _rank(handle: Artist) -> int:
    """Lines come first in a legend, then bands, then marks."""
    return 1 if not isinstance(handle, Line2D) else 0 if handle.get_linestyle() != "None" else 2


def _handle(name: str, look: dict[str, Any]) -> Line2D:
    return Line2D([], [], linestyle="none", color=FAINT, label=name, **look)
