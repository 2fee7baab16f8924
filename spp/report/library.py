"""plotly.js as it stands inside a page: taken from the installed plotly package, compressed, unpacked by the browser.

The bundle is 4.8 MB of text, which would be nearly the whole page; compressed and in base64 it is 2 MB, and every browser
since 2023 unpacks it in some 50 ms.
"""

from __future__ import annotations

import base64
import gzip
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from spp.errors import MissingExtraError


@dataclass(frozen=True, slots=True)
class Bundle:
    """One build of plotly.js.

    Attributes:
        notice: Its own licence comment, without the comment marks.
        text: The script.
        packed: The script, compressed by gzip, in base64.
    """

    notice: str
    text: str
    packed: str


def available() -> bool:
    """Whether a report can be written here."""
    return find_spec("plotly") is not None


@cache
def bundle() -> Bundle:
    """Return the bundle of the installed plotly package.

    Raises:
        MissingExtraError: There is none; names the extra that brings it.
    """
    spec = find_spec("plotly")  # found, not imported: its file is wanted, its Python takes half a second to load
    if spec is None or spec.origin is None:
        raise MissingExtraError("plotly", "report", purpose="an HTML report")
    raw = (Path(spec.origin).parent / "package_data" / "plotly.min.js").read_bytes()
    text = raw.decode("utf-8")
    notice = text.partition("*/")[0].removeprefix("/**") if text.startswith("/**") else "plotly.js"
    lines = (line.strip(" *") for line in notice.splitlines())
    packed = base64.b64encode(gzip.compress(raw, 9, mtime=0)).decode("ascii")
    return Bundle(". ".join(line for line in lines if line), text, packed)
