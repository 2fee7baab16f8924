"""What depends on the final size: which x labels and stage names find room, and where long texts break."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import singledispatch
from itertools import pairwise

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.text import Annotation, Text
from matplotlib.ticker import MaxNLocator, NullLocator

from spp.errors import plain
from spp.plot.draw import page_of
from spp.plot.panels import Axis, Bars, Outcomes, Panel
from spp.plot.stages import ENDS, Span, Tick, shortened
from spp.plot.style import INK, literal

SIDES, HEIGHTS = {1: "left", -1: "right"}, {1: "bottom", -1: "top"}
"""How a text is aligned that stands to the right or left of its place, above or below it."""

LONGEST = 22
"""Characters of an x label; longer names lose their middle."""


@singledispatch
def fit_labels(panel: Panel, axes: Axes, labelled: bool) -> None:
    """Choose the labels of the x axis of one panel for the size that it has now.

    Over layers that is what finds room: every layer, else every block, else stages and the blocks that fit between them. A
    layer's name stands at its tick; a block's stands under its middle, and its ticks are where it begins.
    """
    width = axes.get_window_extent().width
    pixels = width / max(panel.size * 1.02, 1)
    need = 1.05 * matplotlib.rcParams["xtick.labelsize"] * page_of(axes).dpi / 72
    layers = [tick for tick in panel.ticks if tick.level == 2]
    every_layer = pixels >= need
    kept = [(tick.x, tick) for tick in layers] if every_layer else _placed(panel.ticks, panel.size, need / pixels)
    labels = [_ellipsis(tick.text) if labelled else "" for _, tick in kept]
    apart = min((b - a for (a, _), (b, _) in pairwise(kept)), default=panel.size)
    short = max(map(len, labels), default=0) * 0.65 * need < apart * pixels and max(map(len, labels), default=0) <= 4
    axes.set_xticks([place for place, _ in kept], labels)
    _turn(axes, upright=not short)
    if every_layer:
        return
    starts = [tick.start - 0.5 for tick in panel.ticks if tick.level < 2]
    # where a block begins is a minor tick, since major ones carry the labels, which stand under the blocks' middles
    axes.set_xticks(starts if 2 * len(starts) < width / 3 else [], minor=True)
    axes.tick_params(axis="x", which="major", length=0, pad=4)
    axes.tick_params(axis="x", which="minor", length=matplotlib.rcParams["xtick.major.size"])


@fit_labels.register
def _fit_marks(panel: Bars, axes: Axes, labelled: bool) -> None:
    """Name zero and as many powers of two as find room, on both sides the same ones, the outermost first."""
    right = sorted((mark for mark in panel.marks if mark[0] > 0), reverse=True)
    for stride in range(1, len(right) + 2):
        kept = {place for place, _ in right[::stride]}
        marks = [mark for mark in panel.marks if mark[0] == 0 or abs(mark[0]) in kept]
        axes.set_xticks([place for place, _ in marks], [text for _, text in marks])
        if _side_by_side(axes):
            return


@fit_labels.register
def _fit_places(panel: Outcomes, axes: Axes, labelled: bool) -> None:
    """Name the places at which there are results where the names fit side by side; else turn categories and thin numbers."""
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks([place for place, _ in panel.places], [literal(plain(text)) for _, text in panel.places])
    _turn(axes, upright=False)
    if _side_by_side(axes):
        return
    if panel.axis is Axis.CATEGORY:
        axes.set_xticklabels([_ellipsis(text) for _, text in panel.places])
        _turn(axes, upright=True)
    elif panel.axis is Axis.LINEAR:
        whole = all(place == int(place) for place, _ in panel.places)
        ticks = MaxNLocator(6, steps=[1, 2, 5, 10], integer=whole).tick_values(*axes.get_xlim())
        low, high = axes.get_xlim()
        axes.set_xticks([tick for tick in ticks if low <= tick <= high])
        # matplotlib writes a true minus sign on the axes that it labels itself
        axes.set_xticklabels([f"{tick:g}".replace("-", "−") for tick in axes.get_xticks()])
    else:
        for stride in range(2, len(panel.places) + 2):
            kept = panel.places[::stride]
            axes.set_xticks([place for place, _ in kept], [literal(plain(text)) for _, text in kept])
            if _side_by_side(axes):
                return


def _side_by_side(axes: Axes) -> bool:
    # measured in pixels by the renderer, since letters differ in width
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    return all(one.x1 + 0.4 * one.height < other.x0 for one, other in pairwise(boxes))


def _turn(axes: Axes, *, upright: bool) -> None:
    """Turn the labels of x about their ends, so that LaTeX's letters, of another width, hang there too."""
    turned = {"rotation": 90, "rotation_mode": "anchor", "ha": "right", "va": "center"}
    flat = {"rotation": 0, "rotation_mode": "default", "ha": "center", "va": "top"}
    for label in axes.get_xticklabels():
        label.set(**(turned if upright else flat))


def fit_stage_names(axes: Axes, panel: Panel) -> Sequence[Text]:
    """Write the names of the stages over their bands: all of them whole, else all shortened, else none.

    What stands before the first stage and after the last one is named where there is room for it.
    """
    full = [span.name for span in panel.stages]
    for names in (full, shortened(full)):
        every = list(zip(panel.stages, names, strict=True))
        for named in (every, [one for one in every if one[0].name not in ENDS]):
            texts = _written(axes, named)
            if len(texts) == len(named) and not _overlapping(texts):
                return texts
            for text in texts:
                text.remove()
    return []


def fit_ends(axes: Axes, ends: Sequence[tuple[Text, float]]) -> None:
    """Put what stands at the ends of lines beside those ends, as near as letters that do not touch can be.

    Args:
        axes: Where the lines are.
        ends: The texts, and where in data their lines end.
    """
    if not ends:
        return
    box = axes.get_window_extent()
    ends = sorted(ends, key=lambda end: end[1])
    heights = axes.transData.transform([(0.0, height) for _, height in ends])[:, 1]
    gap = 1.02 * max(text.get_window_extent().height for text, _ in ends)
    places = spread([float(min(max(height, box.y0), box.y1)) for height in heights], gap)
    # lines that end close together at an edge of the axes do so inside of it
    shift = max(box.y0 - places[0], 0.0) or min(box.y1 - places[-1], 0.0)
    for (text, _), place in zip(ends, places, strict=True):
        text.set_y((place + shift - box.y0) / box.height)


def fit_marks(axes: Axes, marks: Sequence[Artist], lines: Sequence[Line2D]) -> None:
    """Put the word for each marked place on the side of it where it covers the least of the lines."""
    box = axes.get_window_extent()
    points = [
        # between two points of a line there is line too
        np.column_stack([np.interp(np.linspace(0, 1, 400), np.linspace(0, 1, len(pixels)), side) for side in pixels.T])
        for line in lines
        if len(pixels := axes.transData.transform(line.get_xydata()))
    ]
    for word in (mark for mark in marks if isinstance(mark, Annotation)):
        far = abs(word.xyann[0])

        def covered(place: tuple[int, int], word: Annotation = word, far: float = far) -> tuple[float, int]:
            word.set(position=(far * place[0], far * place[1]), ha=SIDES[place[0]], va=HEIGHTS[place[1]])
            own = word.get_window_extent()
            outside = max(box.x0 - own.x0, own.x1 - box.x1, box.y0 - own.y0, own.y1 - box.y1, 0.0)
            return outside, sum(int(own.count_contains(side)) for side in points)

        covered(min(((1, 1), (1, -1), (-1, -1), (-1, 1)), key=covered))


def fit_text(text: Text, words: str, length: float) -> None:
    """Set ``text`` to ``words``, broken between words into as few lines of at most ``length`` pixels as there can be.

    Lines are about equally long, so that no last word stands alone.
    """
    upright = text.get_rotation() == 90
    lines = []
    for line in words.split("\n"):
        text.set_text(line)
        extent = text.get_window_extent()
        needed = extent.height if upright else extent.width
        lines += [line] if needed <= length else _broken(line, int(0.97 * len(line) * length / needed))
    text.set_text("\n".join(lines))


def _broken(line: str, characters: int) -> list[str]:
    def broken(width: int) -> list[str]:
        # names of layers are no words: a break inside would make two of one
        return textwrap.wrap(line, max(width, 1), break_long_words=False, break_on_hyphens=False)

    best = broken(characters)
    while characters > 1 and len(narrower := broken(characters - 1)) == len(best):
        best, characters = narrower, characters - 1
    return best


def _placed(candidates: Sequence[Tick], size: int, gap: float) -> list[tuple[float, Tick]]:
    """Choose which stages and blocks are named, and where: each as near to its middle as a distance of ``gap`` allows."""
    chosen = [tick for tick in candidates if tick.level < 2]
    if len(chosen) * gap > size + gap:
        chosen = _thinned(chosen, gap)
    chosen.sort(key=lambda tick: tick.x)
    while chosen:
        places = spread([tick.x for tick in chosen], gap)
        moved = [abs(place - tick.x) for place, tick in zip(places, chosen, strict=True)]
        if max(moved) <= 0.75 * gap:
            return list(zip(places, chosen, strict=True))
        worst = max(range(len(chosen)), key=lambda index: (moved[index] > 0, chosen[index].level, moved[index]))
        chosen.pop(worst)
    return []


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Return the places nearest to ``wanted`` (ascending) in the least-squares sense that are at least ``gap`` apart.

    Less ``gap`` times the rank, this is isotonic regression: neighbours out of order share the mean of their places.
    """
    # mean and number of members
    pools: list[tuple[float, int]] = []
    for rank, place in enumerate(wanted):
        mean, count = place - rank * gap, 1
        while pools and pools[-1][0] >= mean:
            other, members = pools.pop()
            mean, count = (mean * count + other * members) / (count + members), count + members
        pools.append((mean, count))
    means = [mean for mean, count in pools for _ in range(count)]
    return [mean + rank * gap for rank, mean in enumerate(means)]


def _thinned(candidates: Sequence[Tick], gap: float) -> list[Tick]:
    """Keep, from the most important on, what is ``gap`` away from all that is kept."""
    kept: list[Tick] = []
    for tick in candidates:
        if all(abs(tick.x - other.x) >= gap for other in kept):
            kept.append(tick)
    return kept


def _ellipsis(text: str) -> str:
    text = plain(text)
    return literal(text if len(text) <= LONGEST else f"{text[: LONGEST // 2 - 1]}…{text[-LONGEST // 2 :]}")


def _written(axes: Axes, named: Sequence[tuple[Span, str]]) -> Sequence[Text]:
    """The names that do not hang far over an edge."""
    texts = []
    for span, name in named:
        text = axes.annotate(
            literal(plain(name)),
            ((span.start + span.stop - 1) / 2, 1.0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 3.5),
            textcoords="offset points",
            ha="center",
            va="baseline",
            fontsize=matplotlib.rcParams["xtick.labelsize"],
            color=INK,
            annotation_clip=False,
        )
        # the layout is settled before the names are written, and must not move again for them
        text.set_in_layout(False)
        extent, room, page = text.get_window_extent(), axes.get_window_extent(), page_of(axes).bbox
        slack = extent.height
        if extent.x0 < max(room.x0 - slack, page.x0) or extent.x1 > min(room.x1 + slack, page.x1):
            text.remove()
        else:
            texts.append(text)
    return texts


def _overlapping(texts: Sequence[Text]) -> bool:
    """Whether two neighbours touch."""
    seen = [text.get_window_extent() for text in texts]
    return any(one.x1 + 0.3 * one.height > other.x0 for one, other in pairwise(seen))
