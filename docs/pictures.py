"""Pictures for the pages of the documentation: few colours and few bytes, so that the repository stays small.

Figures have a dozen hues and the greys of smoothed letters: a palette of 32 colours shows all of it, and one of 96 a colour
scale. The files that a user saves are not made by this; they have every colour, and 300 dots per inch in a paper.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from PIL import Image

ENOUGH, MOST_BYTES = 30_000, 60_000
"""Size of a file from which on it is not made narrower, and that which no file may have."""

PIXELS = {"single": 425, "double": 850}
"""Width of a figure over one and over both columns, at which seven points are still twelve pixels high."""

TRIES = ((1.0, 0), (0.9, 0), (0.8, 0), (0.8, 10))
"""Share of that width, and colours in place of ``OTHERS``, in the order in which they are tried."""

FREQUENT, OTHERS, SHADED = 6, 26, 90
"""Colours of a palette: the most frequent ones as they are; others; and others of a picture with a colour scale."""


def small_png(source: Path, target: Path) -> None:
    """Write a figure as a PNG with a palette, at the width of a page.

    Args:
        source: The figure; one wider than 700 pixels is taken to go over both columns.
        target: The file to write, which may be the same.

    Raises:
        ValueError: It has more than ``MOST_BYTES``, however it is written.
    """
    with Image.open(source) as picture:
        full = picture.convert("RGB")
    widest = min(full.width, PIXELS["double" if full.width > 700 else "single"])
    for share, few in TRIES:
        width = round(share * widest)
        fitted = full
        if width < full.width:
            fitted = full.resize((width, round(full.height * width / full.width)), Image.Resampling.LANCZOS)
        buffer = BytesIO()
        # without dithering, whose dots would cost more bytes than the colours they save
        fitted.quantize(palette=_palette(fitted, few), dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        size = len(buffer.getvalue())
        if size <= (MOST_BYTES if share == TRIES[-1][0] else ENOUGH):
            break
    if size > MOST_BYTES:
        raise ValueError(f"{source} has {size:,} bytes, and a figure of a page at most {MOST_BYTES:,}")
    target.write_bytes(buffer.getvalue())


def _palette(picture: Image.Image, few: int) -> Image.Image:
    """The colours that show ``picture``.

    Pillow's choices give the white of the paper and the pale bands of the stages one colour, since they lie close together;
    both are among the most frequent ones.
    """
    pixels = picture.width * picture.height
    counted = sorted(picture.getcolors(pixels) or [], reverse=True)
    frequent = [channel for _, colour in counted[:FREQUENT] for channel in colour]
    # lines and letters leave most of the paper free; where they do not, it is a heat map, whose shades are read
    rare = sum(count for count, _ in counted[FREQUENT:])
    others = few or (SHADED if rare > 0.2 * pixels else OTHERS)
    rest = picture.quantize(others, Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(frequent + rest[: 3 * others])
    return palette
