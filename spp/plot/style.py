"""How figures look: one style per occasion, as a context, and one palette for the signals.

A style is a set of matplotlib parameters that holds inside a ``with`` block and nowhere else::

    with applied(STYLES["paper"]):
        figure = Figure(figsize=(6.75, 5.0))

The hues are those of Okabe and Ito (2008), which remain apart under the common forms of colour blindness. A line style and a
marker go with each, so that signals can be told apart in a grey print too.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from unicodedata import bidirectional

import matplotlib.style
from matplotlib.font_manager import findfont, fontManager
from matplotlib.ft2font import FT2Font

from spp.errors import InputError, SppWarning, UnknownNameError, plain
from spp.plot.panels import Family
from spp.vocabulary import Signal

FONT = "DejaVu Sans"
"""It comes with matplotlib, so it is there on every machine; see ``fonts_for`` for letters that it lacks."""


@dataclass(frozen=True, slots=True)
class Look:
    """How one signal is drawn: ``colour`` for points, ``tint`` for what should stay in the background."""

    colour: str
    tint: str
    line: str | tuple[float, tuple[float, ...]]
    marker: str


PALETTE: dict[Signal, Look] = {
    Signal.ACTIVATION: Look("#0072B2", "#8CC4E4", "-", "o"),
    Signal.WEIGHT: Look("#B34700", "#EBB48C", "--", "s"),
    Signal.GRADIENT: Look("#007A5A", "#8ACDB9", "-.", "^"),
    Signal.WEIGHT_GRADIENT: Look("#A8437F", "#E3B0CE", ":", "D"),
}

CURVES: tuple[Look, ...] = (
    Look("#332288", "#ADA7CF", "-", "o"),
    Look("#E07B39", "#F3CAB0", "--", "s"),
    Look("#00A6A6", "#99DBDB", "-.", "^"),
    Look("#7A5C3E", "#CABEB2", ":", "D"),
    Look("#222222", "#A7A7A7", (0, (6, 1.5, 1, 1.5, 1, 1.5)), "v"),
    Look("#665191", "#C2B9D3", (0, (1, 1.2)), "P"),
    Look("#C49A6C", "#E7D7C4", (0, (8, 2)), "X"),
    Look("#D99A00", "#F0D799", (0, (3, 1, 1, 1)), "<"),
)
"""Looks of curves that stand side by side, as runs do; more than these could not be told apart. Their hues are those of no
signal, and each is far from those before it in CIELAB, also under the common forms of colour blindness."""

STEPS: tuple[Look, ...] = (
    Look("#FA9207", "#FDCE90", "-", "o"),
    Look("#EC6726", "#F7BB9D", "--", "s"),
    Look("#D24644", "#EBACAB", "-.", "^"),
    Look("#AE305C", "#DBA2B6", ":", "D"),
    Look("#88226A", "#CA9BBC", (0, (6, 1.5, 1, 1.5, 1, 1.5)), "v"),
    Look("#61136E", "#B895BE", (0, (1, 1.2)), "P"),
    Look("#380962", "#A590B8", (0, (8, 2)), "X"),
    Look("#10092D", "#9390A1", (0, (3, 1, 1, 1)), "<"),
)
"""Looks of training steps, from the first, which is light, to the last."""

PREDICTED = Look("#222222", "#BBBBBB", "--", "")
"""The look of what theory says."""

FAMILY_MARKERS: dict[Family, str] = {
    Family.WEIGHTED: "o",
    Family.NORM: "s",
    Family.ACTIVATION: "^",
    Family.OTHER: "+",
}
"""Marker by layer family; ``draw`` adds whether it is filled."""

INK, FAINT, BAND, ALARM = "#222222", "#8C8C8C", "#EFEFEF", "#C00000"
"""Text, secondary lines, stage bands, and what must not be overlooked."""


@dataclass(frozen=True, slots=True)
class Style:
    """One occasion.

    Attributes:
        name: Name to ask for it by.
        font: Size of labels in points; ticks and stage names are ``small``.
        small: The smaller size, in points.
        dpi: Dots per inch of a PNG.
        single: Width of a figure over one column, in inches.
        double: Width of a figure over the whole page, in inches.
        row: Height of one row of panels, in inches.
        title: Whether the facts stand over the figure; in a paper they belong into the caption.
        fonts: Families that letters are looked for in, one after the other.
    """

    name: str
    font: float
    small: float
    dpi: int
    single: float
    double: float
    row: float
    title: bool
    fonts: tuple[str, ...] = (FONT,)

    def width(self, width: str | float) -> float:
        """Return ``width`` in inches, where it may be ``"single"`` or ``"double"``.

        Raises:
            InputError: A number that is not between 1 and 50 inches.
            UnknownNameError: Another word.
        """
        if isinstance(width, str):
            if width not in ("single", "double"):
                raise UnknownNameError("width", width, ("single", "double"), where="width")
            return self.single if width == "single" else self.double
        if not 1.0 <= width <= 50.0:
            raise InputError("a width is between 1 and 50 inches", received=repr(width), where="width")
        return float(width)


STYLES: dict[str, Style] = {
    "paper": Style("paper", font=8.0, small=7.0, dpi=300, single=3.35, double=6.75, row=1.35, title=False),
    "notebook": Style("notebook", font=9.0, small=8.0, dpi=150, single=5.0, double=9.0, row=1.75, title=True),
    "slides": Style("slides", font=14.0, small=12.0, dpi=150, single=6.5, double=12.8, row=2.1, title=True),
}


def literal(words: str) -> str:
    """Return ``words`` as matplotlib writes them letter by letter, line by line; a word as long as a page loses its middle."""
    lines = [_UNBROKEN.sub(lambda found: f"{found[0][:_HALF]}…{found[0][-_HALF:]}", line) for line in words.split("\n")]
    # of two dollars matplotlib would make mathematics
    return "\n".join(_directed(plain(line)) for line in lines).replace("$", r"\$")


_HALF = 24
_UNBROKEN = re.compile(rf"\S{{{2 * _HALF + 2},}}")


def _directed(line: str) -> str:
    """A line that is written from left to right as a whole, also where it begins with a Hebrew or Arabic name."""
    return f"\u200e{line}" if any(bidirectional(letter) in ("R", "AL") for letter in line) else line


def style_named(name: str) -> Style:
    """Return the style called ``name``; raises ``UnknownNameError`` with the ones there are."""
    if name not in STYLES:
        raise UnknownNameError("style", name, STYLES, where="style")
    return STYLES[name]


@contextmanager
def applied(style: Style) -> Iterator[None]:
    """Hold the style's parameters, over matplotlib's own defaults, for the length of a ``with`` block.

    The reader's own settings are left out on purpose, so that the same frame gives the same bytes everywhere, and come back
    unchanged afterwards.
    """
    thin = style.font / 14
    ticks = {
        "labelsize": style.small,
        "color": INK,
        "major.width": thin,
        "minor.width": thin * 0.8,
        "major.size": style.font * 0.35,
        "minor.size": style.font * 0.2,
    }
    parameters: dict[str, object] = {f"{axis}tick.{name}": value for axis in "xy" for name, value in ticks.items()}
    parameters |= dict.fromkeys(("font.size", "axes.labelsize", "axes.titlesize"), style.font)
    parameters |= dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK)
    parameters |= dict.fromkeys(("figure.dpi", "savefig.dpi"), style.dpi)
    parameters |= {
        "font.family": list(style.fonts),
        "figure.titlesize": style.font + 1,
        "legend.fontsize": style.small,
        "axes.linewidth": thin,
        "lines.linewidth": style.font / 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "legend.frameon": False,
        "savefig.facecolor": "white",
        # TrueType: Type 3 fonts, matplotlib's default, are refused by publishers
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
        # text remains text, where matplotlib would draw outlines
        "svg.fonttype": "none",
        # else the ids in an SVG are drawn anew at each save
        "svg.hashsalt": "spp",
    }
    with matplotlib.style.context(["default", parameters]), warnings.catch_warnings():
        # of every such letter, each time that it is measured; ``fonts_for`` has warned of them all
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def fonts_for(words: str) -> tuple[str, ...]:
    """Return ``FONT`` and, of the fonts that are installed here, those with the letters of ``words`` that it lacks."""
    return (FONT, *_further(frozenset(map(ord, plain(words))) - _letters(findfont(FONT))))


@lru_cache(maxsize=64)
def _further(missing: frozenset[int]) -> tuple[str, ...]:
    found = []
    for font in sorted(fontManager.ttflist, key=lambda font: font.name) if missing else ():
        # the last resort has a box for every letter, and of pictures in colour matplotlib draws none
        if font.weight == 400 and font.style == "normal" and not re.search("Last Resort|Color", font.name):
            with suppress(OSError, RuntimeError):
                if there := missing & _letters(font.fname):
                    found.append(font.name)
                    missing -= there
    if missing:
        letters = "".join(map(chr, sorted(missing)[:20]))
        words = f"no font that is installed here has {letters}: boxes stand for them in PNG and PDF, but not in SVG"
        warnings.warn(f"{words}. Noto Sans CJK and Noto Emoji have most letters.", SppWarning, stacklevel=2)
    return tuple(found)


@lru_cache(maxsize=64)
def _letters(file: str) -> frozenset[int]:
    font = FT2Font(file)
    return frozenset(font.get_charmap()) if font.scalable else frozenset()
