"""Every picture of the gallery, from small inputs: nothing overlaps, nothing is clipped, and the page has them all."""

import re
from types import ModuleType

import pytest
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from spp.plot import SignalPlot
from tests.scripts import DOCS, script

from .test_figure import shrunk

NAMES = ("ffn", "resnet50", "effnet_b0-none", "effnet_b0-batch", "deep2000", "gpt2")


@pytest.fixture(scope="module")
def gallery() -> ModuleType:
    return script("make_gallery.py")


def texts(plot: SignalPlot) -> list[tuple[str, Text]]:
    """Every text on the page, colour bars included, once it is drawn."""
    plot.figure_.draw_without_rendering()
    found = [text for legend in plot.figure_.legends for text in legend.get_texts()]
    for axes in plot.figure_.axes:
        found += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            slack = 1e-9 * (high - low)
            ticks = [t for t in axis.get_major_ticks() if low - slack <= t.get_loc() <= high + slack]
            found += [text for tick in ticks for text in (tick.label1, tick.label2)]
    return [(text.get_text(), text) for text in found if text.get_visible() and text.get_text().strip()]


def overlaps(plot: SignalPlot) -> list[str]:
    """What touches something else or leaves the page, in words."""
    page = plot.figure_.bbox
    boxes = [(words, text.get_window_extent()) for words, text in texts(plot)]
    wrong = [
        f"{words!r} leaves the page"
        for words, box in boxes
        if box.x0 < page.x0 - 0.5 or box.x1 > page.x1 + 0.5 or box.y0 < page.y0 - 0.5 or box.y1 > page.y1 + 0.5
    ]
    for i, (words, box) in enumerate(boxes):
        wrong += [f"{words!r} on {others!r}" for others, other in boxes[i + 1 :] if shrunk(box).overlaps(shrunk(other))]
    for legend in plot.figure_.legends:
        frame = legend.get_window_extent()
        wrong += ["the legend is on a panel" for axes in plot.figure_.axes if frame.overlaps(axes.get_window_extent())]
    return wrong


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in NAMES])
def test_nothing_overlaps_in_any_picture(gallery: ModuleType, name: str) -> None:
    if name == "gpt2":
        from tests import foreign

        foreign.transformers()
    network = gallery.networks(small=True)[name]
    kinds = {}
    for kind, figure in gallery.figures(network):
        assert not overlaps(figure), (name, kind)
        assert figure.caption.startswith(f"Signal propagation plot of {network.facts['model']}")
        kinds[kind] = figure
    expected = {"components", "runs", "layers", "compare", "evolution", "channels", "distribution"}
    assert expected <= set(kinds)
    assert ("blocks" in kinds) == (name not in ("ffn", "deep2000"))


def test_the_check_can_fail(gallery: ModuleType) -> None:
    figure = gallery.networks(small=True)["ffn"].figure("channels")
    axes = figure.axes_[0]
    axes.set_title("two words that stand in each other's way " * 6)
    assert any("leaves the page" in words for words in overlaps(figure))
    axes.set_title("")
    axes.text(0.5, 0.5, "here", transform=axes.transAxes)
    axes.text(0.52, 0.5, "there", transform=axes.transAxes)
    assert overlaps(figure) == ["'here' on 'there'"]
    figure.figure_.legends[0].set_loc("center")
    assert "the legend is on a panel" in overlaps(figure)
    assert isinstance(axes.patch, Rectangle)


def test_the_page_shows_every_picture_that_is_kept(gallery: ModuleType) -> None:
    page = (DOCS / "gallery.md").read_text()
    shown = set(re.findall(r"\(gallery/([^)]+)\)", page))
    kept = [path for name in gallery.KEPT for path in (DOCS / "gallery").glob(f"{name}-*.png")]
    assert shown == {path.name for path in kept}
    for name in gallery.KEPT:
        kinds = ("components", "runs", "layers", "compare", "evolution", "channels", "distribution")
        assert {f"{name}-{kind}.png" for kind in kinds} <= shown


def test_the_pictures_of_all_pages_are_small() -> None:
    sizes = {
        path: path.stat().st_size
        for folder in ("gallery", "images", "studies")
        for path in (DOCS / folder).glob("*.png")
    }
    assert sizes and max(sizes.values()) <= 60_000
