"""Files as a paper needs them: real letters, searchable text, the facts inside, the same bytes each time."""

import base64
import re
import shutil
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
from fontTools.ttLib import TTFont

from spp import plot
from spp.errors import InputError
from spp.plot import SignalPlot, signal_plot
from spp.plot.draw_cells import MOST_CELLS
from spp.plot.export import latex_figure, tex_text

from .frames import RUN, block_frame, network


@pytest.fixture(scope="module")
def figures() -> dict[str, SignalPlot]:
    frames = {"one_layer": network(lambda t: 10.0 ** (-9 * t)), "b": network(lambda t: 1 + t, steps=(0, 1))}
    facts = {"blocks": block_frame(), "run": RUN, "style": "paper", "width": "single"}
    return {
        "layers": signal_plot("layers", frame=frames["one_layer"], signals="gradient", **facts),  # type: ignore[arg-type]
        "compare": plot.compare(frames, signals="activation", style="paper", width="single"),
        "evolution": signal_plot("evolution", frame=frames["b"], signals="activation", **facts),  # type: ignore[arg-type]
    }


KINDS = ("layers", "compare", "evolution")


@pytest.mark.parametrize("kind", KINDS)
def test_no_type_3_font_is_in_a_pdf(figures: dict[str, SignalPlot], kind: str, tmp_path: Path) -> None:
    if shutil.which("pdffonts") is None:
        pytest.skip("pdffonts of poppler-utils is not installed")
    file = figures[kind].save(tmp_path / "a.pdf")
    listed = subprocess.run(["pdffonts", str(file)], capture_output=True, text=True, check=True).stdout.splitlines()[2:]
    assert listed
    for line in listed:
        assert "TrueType" in line and "Type 3" not in line
        assert re.search(r"yes yes yes", line), "embedded, a subset, and with its letters' meaning for searching"


def test_a_pdf_can_be_searched_and_carries_the_facts(figures: dict[str, SignalPlot], tmp_path: Path) -> None:
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext of poppler-utils is not installed")
    file = str(figures["compare"].save(tmp_path / "a.pdf"))
    text = subprocess.run(["pdftotext", file, "-"], capture_output=True, text=True, check=True).stdout
    assert "average channel variance" in text and "one_layer" in text
    about = subprocess.run(["pdfinfo", file], capture_output=True, text=True, check=True).stdout
    assert "one_layer and b compared" in about.replace("\n", " ")


@pytest.mark.parametrize("kind", KINDS)
def test_an_svg_has_text_and_the_letters_it_is_written_in(
    figures: dict[str, SignalPlot], kind: str, tmp_path: Path
) -> None:
    svg = figures[kind].save(tmp_path / "a.svg").read_text()
    found = re.search(r"@font-face\{font-family:'DejaVu Sans';src:url\(data:font/woff;base64,([^)]+)\)", svg)
    assert found is not None
    font = TTFont(BytesIO(base64.b64decode(found[1])))
    letters = {ord(letter) for text in re.findall(r"<(?:text|tspan)[^>]*>([^<]*)<", svg) for letter in text}
    assert letters - {ord("\n")} <= set(font.getBestCmap())
    assert len(font.getGlyphOrder()) < 120
    families = set(re.findall(r"font-family: *([^;\"]+)", svg.replace(found[0], ""))) | set(
        re.findall(r"font: [^;\"]*?px ([^;\"]+)", svg)
    )
    assert all("DejaVu Sans" in family for family in families)
    assert ("<text" in svg and "testnet" in svg) or "one_layer" in svg


@pytest.mark.parametrize("kind", KINDS)
def test_pgf_is_written_without_latex(
    figures: dict[str, SignalPlot], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    pgf = figures[kind].save(tmp_path / "a.pgf").read_text()
    lines = pgf.splitlines()
    assert lines[0].startswith("% spp") and lines[-1] == r"\endgroup"
    assert pgf.count(r"\begin{pgfpicture}") == pgf.count(r"\end{pgfpicture}") == 1
    assert pgf.count(r"\begin{pgfscope}") == pgf.count(r"\end{pgfscope}") > 10
    assert f"% caption: {figures[kind].caption}" in lines
    assert r"\setmainfont" not in pgf
    assert not re.search(r"(?<!\\)_", "".join(re.findall(r"selectfont ?([^$]*?)\}", pgf)))
    if kind == "compare":
        assert r"one\_layer" in pgf


@pytest.fixture
def latex(tmp_path: Path) -> Iterator[Path]:
    if shutil.which("pdflatex") is None or subprocess.run(["kpsewhich", "pgf.sty"], capture_output=True).returncode:
        pytest.skip("pdflatex with pgf is not installed")
    yield tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_latex_takes_a_pgf_with_no_other_package(figures: dict[str, SignalPlot], kind: str, latex: Path) -> None:
    figures[kind].save(latex / "figure.pgf")
    body = figures[kind].latex("figure.pgf")
    (latex / "paper.tex").write_text(
        "\\documentclass{article}\n\\usepackage{pgf}\n\\begin{document}\n" + body + "\n\\end{document}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=latex,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_a_picture_of_many_cells_is_no_pgf(tmp_path: Path) -> None:
    named = [(f"layer{i}", "Linear") for i in range(MOST_CELLS // 50 + 1)]
    frame = network(lambda t: 1 + t, named=named, signals=["activation"], steps=range(50))  # type: ignore[list-item]
    figure = signal_plot("evolution", frame=frame, blocks=block_frame(), run=RUN, signals="activation")
    with pytest.raises(InputError, match=r"lines and text alone; got so many cells.*Save it as pdf\."):
        figure.save(tmp_path / "a.pgf")
    assert not (tmp_path / "a.pgf").exists()
    assert figure.save(tmp_path / "a.pdf").stat().st_size > 1000


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg", "pgf"])
def test_every_kind_of_panel_gives_the_same_bytes(figures: dict[str, SignalPlot], suffix: str, tmp_path: Path) -> None:
    for kind in ("compare", "evolution"):
        one, two = (figures[kind].save(tmp_path / f"{kind}{i}.{suffix}").read_bytes() for i in (1, 2))
        assert one == two


def test_a_png_has_300_dots_per_inch_in_a_paper(figures: dict[str, SignalPlot], tmp_path: Path) -> None:
    png = figures["layers"].save(tmp_path / "a.png").read_bytes()
    assert int.from_bytes(png[16:20], "big") == pytest.approx(3.35 * 300, abs=1)
    at = png.index(b"pHYs")
    assert int.from_bytes(png[at + 4 : at + 8], "big") == pytest.approx(300 / 0.0254, abs=1)


def test_fonts_have_seven_to_nine_points(figures: dict[str, SignalPlot]) -> None:
    for figure in figures.values():
        texts = [text for legend in figure.figure_.legends for text in legend.get_texts()]
        for axes in figure.figure_.axes:
            texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts, *axes.get_xticklabels()]
            texts += axes.get_yticklabels()
        sizes = [text.get_fontsize() for text in texts if text.get_text()]
        assert min(sizes) >= 7 and max(sizes) <= 9


def test_the_latex_environment(figures: dict[str, SignalPlot]) -> None:
    assert figures["layers"].latex("figs/my_run.pdf").splitlines() == [
        r"\begin{figure}[t]",
        r"  \centering",
        r"  \includegraphics[width=\columnwidth]{figs/my_run.pdf}",
        rf"  \caption{{{tex_text(figures['layers'].caption)}}}",
        r"  \label{fig:my-run}",
        r"\end{figure}",
    ]
    wide = latex_figure("a.pgf", "50 % of x_1 & y", double=True)
    assert r"\begin{figure*}[t]" in wide and r"\input{a.pgf}" in wide
    assert r"\caption{50 \% of x\_1 \& y}" in wide


def test_what_latex_would_not_print_is_escaped() -> None:
    assert tex_text("a_b #1 {c} ~d × $x_1$ −3") == (
        r"a\_b \#1 \{c\} \textasciitilde{}d \ensuremath{\times} $x_1$ \ensuremath{-}3"
    )
    assert tex_text("5 $ each_") == r"5 \$ each\_"
    assert np.all([tex_text(word) == word for word in ("plain", "stage1.0")])
    assert tex_text("12 % of a^b") == r"12 \% of a\textasciicircum{}b"


NAMES = ("a$b$c", "cost$_$x", "p$^$", "lone$", r"back\$slash$s$", "{brace}$$")


def test_names_are_text_and_no_mathematics(tmp_path: Path) -> None:
    """Names of modules, of runs and of models, wherever a figure writes them."""
    frame = network(lambda t: 1 + t, named=[(name, "Linear") for name in NAMES], steps=(0, 1))
    facts = {"blocks": block_frame(), "run": RUN | {"model": " ".join(NAMES)}, "style": "notebook"}
    figures = {
        "layers": signal_plot("layers", frame=frame[frame["step"] == 0], signals="activation", step=0, **facts),  # type: ignore[arg-type]
        "evolution": signal_plot("evolution", frame=frame, signals="activation", **facts),  # type: ignore[arg-type]
        "compare": plot.compare(dict.fromkeys(NAMES, frame), signals="activation", step=0, style="notebook"),
    }
    for kind, figure in figures.items():
        for form in ("svg", "pdf", "pgf"):
            file = figure.save(tmp_path / f"{kind}.{form}")
            for name in NAMES:
                if form == "svg":
                    assert escape(name) in file.read_text(), (kind, name)
                if form == "pgf":
                    assert _tex(name) in file.read_text(), (kind, name)


def _tex(name: str) -> str:
    marks = {"^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "$": r"\$", "_": r"\_", "{": r"\{", "}": r"\}"}
    return "".join(marks.get(letter, letter) for letter in name)


def test_a_caption_runs_no_commands() -> None:
    environment = latex_figure("a.pdf", r"of $\input{secret}$ and a_b", double=False)
    assert r"\caption{of \$\textbackslash{}input\{secret\}\$ and a\_b}" in environment
