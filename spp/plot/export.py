"""A drawn figure as the bytes of a file: PNG, PDF, SVG or PGF, always the same ones for the same figure.

PDF takes its letters along as TrueType. SVG keeps text as text, to be searched and edited, and takes along the letters it
uses as a font of its own, so that it looks the same where DejaVu Sans is not installed. PGF leaves the letters to the LaTeX
document that takes it in; neither LaTeX nor anything else beside matplotlib is needed to write it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from functools import lru_cache
from html import unescape
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.backends.backend_pgf import RendererPgf
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont

from spp.errors import InputError
from spp.plot.style import FONT, literal

FORMATS = ("png", "pdf", "svg", "pgf")
"""Suffixes that a figure can be saved under."""


def rendered(figure: Figure, form: str, facts: Mapping[str, str]) -> bytes:
    """Return the file's content; to be called while the style is applied.

    Args:
        figure: The figure, laid out.
        form: One of ``FORMATS``.
        facts: ``title``, ``caption`` and ``keywords`` for the file's metadata.

    Raises:
        InputError: A figure with more cells than vector formats take is asked for as PGF.
    """
    # savefig(format="pgf") would start LaTeX to measure text
    if form == "pgf":
        return _pgf(figure, facts).encode()
    buffer = BytesIO()
    figure.savefig(buffer, format=form, metadata=_metadata(form, facts))
    content = buffer.getvalue()
    return _with_font(content.decode()).encode() if form == "svg" else content


def _metadata(form: str, facts: Mapping[str, str]) -> dict[str, str | None]:
    title, caption, keywords = facts["title"], facts["caption"], facts["keywords"]
    # matplotlib stamps PDF and SVG with the time unless told that there is none, and other bytes come each time
    if form == "pdf":
        return {"Title": title, "Subject": caption, "Keywords": keywords, "Creator": "spp", "CreationDate": None}
    if form == "svg":
        return {"Title": title, "Description": caption, "Keywords": keywords, "Creator": "spp", "Date": None}
    return {"Title": title, "Description": caption, "Comment": keywords, "Software": "spp"}


def _with_font(svg: str) -> str:
    """Put the letters that an SVG uses into it, as a font under the name that its text asks for."""
    texts = re.findall(r"<(?:text|tspan)[^>]*>([^<]*)<", svg)
    letters = "".join(sorted(set(unescape("".join(texts))) - set("\n")))
    if not letters:
        return svg
    # a subset: all of DejaVu Sans is 740 kB
    face = f"@font-face{{font-family:'{FONT}';src:url(data:font/woff;base64,{_subset(letters)}) format('woff')}}"
    return svg.replace("<defs>", f'<defs>\n  <style type="text/css">{face}</style>\n </defs>\n <defs>', 1)


# the letters of a figure's kind are mostly the same, and cutting the font takes longer than drawing
@lru_cache(maxsize=64)
def _subset(letters: str) -> str:
    """The font with no more than these letters, as WOFF in base64."""
    from fontTools import subset
    from fontTools.ttLib import TTFont

    options = subset.Options(
        flavor="woff",
        hinting=False,
        layout_features=["kern"],
        notdef_outline=True,
        recalc_timestamp=False,
        # the font editor's own time stamps would make other bytes of another build of the font
        drop_tables=[*subset.Options().drop_tables, "FFTM"],
    )
    with TTFont(findfont(FONT), recalcTimestamp=False) as font:
        made = subset.Subsetter(options)
        made.populate(text=letters)
        made.subset(font)
        buffer = BytesIO()
        subset.save_font(font, buffer, options)
    return base64.b64encode(buffer.getvalue()).decode()


class _Measured(RendererPgf):
    """Matplotlib's PGF writer, with text measured in matplotlib's own font instead of by a LaTeX process.

    Measures place only text that is rotated other than about its anchor, and figures have none; what is anchored is placed by
    LaTeX itself, in the document's font.
    """

    def __init__(self, figure: Figure, handle: StringIO) -> None:
        super().__init__(figure, handle)  # type: ignore[no-untyped-call]
        self._ruler = RendererAgg(1, 1, figure.dpi)  # type: ignore[no-untyped-call]

    def get_text_width_height_descent(self, s: str, prop: Any, ismath: Any) -> Any:
        """Return width, height and descent in pixels."""
        return self._ruler.get_text_width_height_descent(s, prop, ismath)  # type: ignore[no-untyped-call]

    def draw_text(
        self, gc: Any, x: float, y: float, s: str, prop: Any, angle: float, ismath: Any = False, mtext: Any = None
    ) -> None:
        """Write text with LaTeX's special characters escaped, so that the document needs no further package."""
        super().draw_text(gc, x, y, tex_text(s) if ismath else tex_text(literal(s)), prop, angle, ismath, mtext)  # type: ignore[no-untyped-call]

    def draw_image(self, gc: Any, x: float, y: float, im: Any, transform: Any = None) -> None:
        """Refuse: PGF would need a picture beside the file."""
        raise InputError(
            "a PGF figure is made of lines and text alone",
            received="so many cells that they are one picture",
            where="the file's suffix",
            remedy="Save it as pdf.",
        )


def tex_text(text: str) -> str:
    r"""Escape what LaTeX would not print as it stands, outside of ``$...$``: ``fc_1`` becomes ``fc\_1``."""
    # a dollar with a backslash is a dollar, and so is a lone one
    parts = re.split(r"(?<!\\)\$", text)
    if len(parts) % 2 == 0:
        parts = [text]
    return "$".join(part if index % 2 else _escaped(part.replace(r"\$", "$")) for index, part in enumerate(parts))


_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "_": r"\_",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "×": r"\ensuremath{\times}",
    "·": r"\ensuremath{\cdot}",
    "−": r"\ensuremath{-}",
    "…": r"\ldots{}",
    "<": r"\ensuremath{<}",
    ">": r"\ensuremath{>}",
}


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


def _pgf(figure: Figure, facts: Mapping[str, str]) -> str:
    r"""The figure as a ``pgfpicture``; the document needs ``\usepackage{pgf}`` and nothing more."""
    width, height = figure.get_size_inches()
    out = StringIO()
    about = "\n".join(f"% {name}: {' '.join(text.split())}" for name, text in facts.items())
    out.write(f"% spp; \\usepackage{{pgf}} in the preamble, then \\input this file\n{about}\n")
    out.write("\\begingroup\n\\makeatletter\n\\providecommand{\\mathdefault}[1]{#1}\n\\begin{pgfpicture}\n")
    out.write(f"\\pgfpathrectangle{{\\pgfpointorigin}}{{\\pgfqpoint{{{width:f}in}}{{{height:f}in}}}}\n")
    out.write("\\pgfusepath{use as bounding box, clip}\n")
    # else matplotlib writes the fonts of its own parameters into the picture, in commands that pdflatex does not know
    with matplotlib.rc_context({"pgf.rcfonts": False}):
        figure.draw(_Measured(figure, out))
    out.write("\\end{pgfpicture}\n\\makeatother\n\\endgroup\n")
    return out.getvalue()


def latex_figure(path: str | Path, caption: str, *, double: bool) -> str:
    """Return the LaTeX environment that puts a saved figure into a paper.

    Args:
        path: The file; a ``.pgf`` is taken in, anything else included as a picture.
        caption: The caption, unescaped.
        double: Whether it goes over both columns of a page.

    Raises:
        InputError: LaTeX cannot read the file's name.
    """
    file = Path(path)
    name = file.as_posix()
    # LaTeX reads commands and comments in names of files too, and has no way to write these letters there
    if wrong := re.findall(r'[\\{}%#"\x00-\x1f]|\^\^', name):
        raise InputError(
            'LaTeX takes files without \\ { } % # " and ^^ in their names',
            received=" ".join(dict.fromkeys(wrong)),
            where=str(path),
            remedy="Save the figure under another name.",
        )
    environment, width = ("figure*", r"\textwidth") if double else ("figure", r"\columnwidth")
    # a PGF has its final size, which scaling would take from its letters
    pgf = file.suffix.lower() == ".pgf"
    body = rf"\input{{{name}}}" if pgf else rf"\includegraphics[width={width}]{{{name}}}"
    label = re.sub(r"[^A-Za-z0-9]+", "-", file.stem).strip("-")
    # names in a caption are no mathematics, and no commands that a document would run
    words = _escaped(caption)
    return (
        f"\\begin{{{environment}}}[t]\n  \\centering\n  {body}\n  \\caption{{{words}}}\n  \\label{{fig:{label}}}\n"
        f"\\end{{{environment}}}"
    )
