"""What depends on the final size: which x labels and stage names find room, and where long texts break."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import singledispatch
from itertools import pairwise

import matplotlib
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator, NullLocator

from spp.errors import plain
from spp.plot.draw import page_of
from spp.plot.panels import Axis, Bars, Outcomes, Panel
from spp.plot.stages import Span, Tick, shortened
from spp.plot.style import INK, literal

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


def fit_stage_names(axes: Axes, panel: Panel) -> list[Text]:
    """Write the names of the stages over their bands: whole where most of them fit, else shortened.

    A name that finds no room or hangs over the edge is left out, that of the narrowest band first: its layers are named on
    the x axis.
    """
    full = [span.name for span in panel.stages]
    texts = _settled(axes, panel.stages, full)
    if 3 * len(texts) >= 2 * len(full):
        return list(texts.values())
    names = list(shortened(full))
    first = None
    # the first name that stands says what the numbers count, and ousts its neighbour
    for _ in full:
        for text in texts.values():
            text.remove()
        texts = _settled(axes, panel.stages, names, first)
        first = next((index for index in texts if full[index][-1:].isdigit()), None)
        if first is None or names[first] == full[first]:
            break
        names[first] = full[first]
    return list(texts.values())


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


def _settled(axes: Axes, spans: Sequence[Span], names: Sequence[str], kept: int | None = None) -> dict[int, Text]:
    """Write names over their bands and take away those of the narrowest bands, but not ``kept``, until none touches another."""
    texts = _written(axes, spans, names)
    while clash := _overlapping(texts):
        texts.pop(min(clash, key=lambda index: (index == kept, spans[index].stop - spans[index].start))).remove()
    return texts


def _written(axes: Axes, spans: Sequence[Span], names: Sequence[str]) -> dict[int, Text]:
    texts: dict[int, Text] = {}
    for index, (span, name) in enumerate(zip(spans, names, strict=True)):
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
        slack = 0.5 * extent.height
        if extent.x0 < max(room.x0 - slack, page.x0) or extent.x1 > min(room.x1 + slack, page.x1):
            text.remove()
        else:
            texts[index] = text
    return texts


def _overlapping(texts: dict[int, Text]) -> tuple[int, ...]:
    """Return the indices of the first two neighbours that touch, or nothing."""
    seen = [(index, text.get_window_extent()) for index, text in texts.items()]
    for (left, one), (right, other) in pairwise(seen):
        if one.x1 + 0.3 * one.height > other.x0:
            return left, right
    return ()
