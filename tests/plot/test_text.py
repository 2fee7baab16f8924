"""Names, whatever they hold, are text in a figure, in its files and in what stands beside it."""

import re
import xml.dom.minidom
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager

from spp import plot
from spp.errors import InputError, SppWarning
from spp.plot import SignalPlot, signal_plot, style
from spp.plot.export import latex_figure
from spp.vocabulary import Signal

from .frames import block_frame, network

NO_LETTERS = ("\x1b[31mb", "a\0b", "a\tb", "a\n\nb", "a\u202eb", "a\x85b", "a\u2028b")


def _layers(name: str) -> SignalPlot:
    """One panel in which a layer, the model and the data bear the name."""
    frame = network(lambda t: 1 + t, named=[("stem", "Linear"), (name, "Linear")], signals=(Signal.ACTIVATION,))
    run = {"model": name, "norm": "none", "data": name, "batch_size": 3}
    return signal_plot("layers", frame=frame, blocks=block_frame(), run=run, signals="activation", statistics="acv")


def _compared(name: str) -> SignalPlot:
    """Two runs with the name in their labels."""
    frame = network(lambda t: 1 + t, named=[("stem", "Linear"), (name, "Linear")], signals=(Signal.ACTIVATION,))
    return plot.compare({name: frame, f"{name}2": frame}, signals="activation", statistics="acv")


def _results(name: str) -> SignalPlot:
    """A table of results with the name in it, and over its columns."""
    table = pd.DataFrame({name: [name, "b"] * 2, "y": [1.0, 2.0, 3.0, 4.0], "arm": [name, name, "c", "c"]})
    return plot.outcomes(table, x=name, y="y", by="arm", panels="arm", run={"model": name})


FIGURES = (_layers, _compared, _results)


@pytest.mark.parametrize("figure_of", FIGURES)
def test_what_is_no_letter_is_escaped(figure_of: Callable[[str], SignalPlot], tmp_path: Path) -> None:
    """A control character is no XML and has no glyph, a line end ends a LaTeX paragraph in a caption."""
    name = ".".join(part.replace(".", "") for part in NO_LETTERS) if figure_of is _layers else "".join(NO_LETTERS)
    shown = [part.encode("unicode_escape").decode() for part in NO_LETTERS]
    figure = figure_of(name)
    assert all(part in figure.caption for part in shown)
    for form in ("png", "pdf", "pgf", "svg"):
        file = figure.save(tmp_path / f"a.{form}")
    texts = xml.dom.minidom.parse(str(file)).getElementsByTagName("text")
    words = " ".join(text.firstChild.data for text in texts if text.firstChild)  # type: ignore[union-attr]
    assert shown[0] in words and not re.search(r"[\x00-\x08\x1b]", words)


@pytest.mark.parametrize("figure_of", FIGURES)
@pytest.mark.parametrize("name", ["x" * 10_000, "layer_" * 40])
def test_a_name_longer_than_the_page_loses_its_middle(figure_of: Callable[[str], SignalPlot], name: str) -> None:
    figure = figure_of(name)
    # legends are placed when they are drawn
    figure.png()
    page = figure.figure_
    width = page.bbox.width
    texts = [t for legend in page.legends for t in legend.get_texts()] + [ax.title for ax in figure.axes_]
    texts += [page._suptitle] if page._suptitle else []  # type: ignore[attr-defined]
    extents = [text.get_window_extent() for text in texts if text.get_text()]
    assert any("…" in text.get_text() for text in texts)
    assert all(extent.x0 > 0 and extent.x1 < width for extent in extents)


def _font(path: Path, family: str, letters: str) -> None:
    """A font in which every letter is a triangle."""
    builder, names = FontBuilder(1000), [".notdef", *(f"u{ord(letter):X}" for letter in letters)]
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): f"u{ord(letter):X}" for letter in letters})
    glyphs = {}
    for name in names:
        pen = TTGlyphPen(None)
        pen.moveTo((100, 0))
        pen.lineTo((500, 800))
        pen.lineTo((900, 0))
        pen.closePath()
        glyphs[name] = pen.glyph()
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular", "psName": family.replace(" ", "")})
    builder.setupOS2(sTypoAscender=800)
    builder.setupPost()
    builder.save(path)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Installs a font for the length of a test: its family and the letters that it has."""
    monkeypatch.setattr(fontManager, "ttflist", list(fontManager.ttflist))

    def install(family: str, letters: str) -> None:
        _font(tmp_path / f"{family}.ttf", family, letters)
        fontManager.addfont(tmp_path / f"{family}.ttf")
        style._further.cache_clear()

    yield install
    style._further.cache_clear()


@pytest.mark.parametrize("name", ["层注意力", "\U0001f525block", "한국어"])
def test_letters_come_from_a_font_that_has_them(
    name: str, tmp_path: Path, installed: Callable[[str, str], None]
) -> None:
    installed("Letters Of A Test", name)
    figure = _compared(name)
    assert tuple(figure.axes_[0].title.get_fontfamily()) == ("DejaVu Sans", "Letters Of A Test")
    # in another style it is laid out anew
    for form, style_ in (("pdf", "paper"), ("svg", None), ("png", None)):
        content = figure.save(tmp_path / f"a.{form}", style=style_).read_bytes()
        assert form == "png" or b"LettersOfATest" in content.replace(b" ", b"")


@pytest.mark.parametrize("name", ["\U00012000", "\U0001b170x", "\U00013000\U00013001"])
def test_letters_that_no_font_has_are_told_of_once(name: str, tmp_path: Path) -> None:
    """Cuneiform, Nushu and hieroglyphs: the figure is drawn all the same, with one warning for all that is drawn."""
    style._further.cache_clear()
    with pytest.warns(SppWarning, match=f"no font .* {name[0]}") as seen:
        figure = _compared(name)
        for form in ("png", "pdf", "svg"):
            file = figure.save(tmp_path / f"a.{form}")
    assert len(seen) == 1
    assert name in file.read_text()


@pytest.mark.parametrize("name", ["שלום", "مرحبا", "e\u0301\u0301a\u0338"])
def test_other_directions_and_combining_letters(name: str, tmp_path: Path) -> None:
    """A line whose first letter is Hebrew was written from right to left, the batch before the model."""
    figure = _layers(name)
    assert name in figure.save(tmp_path / "a.svg").read_text()
    heading = figure.figure_._suptitle.get_text()  # type: ignore[attr-defined]
    assert heading.removeprefix("\u200e").startswith(f"{name} · norm none")
    assert heading.startswith("\u200e") == (name[0] != "e")


def test_what_is_installed_does_not_change_a_figure_of_plain_letters(installed: Callable[[str, str], None]) -> None:
    before = _compared("plain").png()
    installed("AAA First", "plaincomred")
    assert _compared("plain").png() == before


def test_a_caption_is_text_to_latex() -> None:
    environment = latex_figure("a.pdf", "50 % of a^b & #1 ~ $\\input{x}$", double=False)
    words = r"50 \% of a\textasciicircum{}b \& \#1 \textasciitilde{} \$\textbackslash{}input\{x\}\$"
    assert rf"\caption{{{words}}}" in environment


@pytest.mark.parametrize("path", ["a}\\input{x}{b.pdf", "50%.pdf", "#1.pgf", "a^^5cinput.pdf", "a\nb.pdf"])
def test_a_path_runs_no_commands_in_latex(path: str) -> None:
    with pytest.raises(InputError, match="LaTeX takes files without"):
        latex_figure(path, "", double=False)
