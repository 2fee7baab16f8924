"""One HTML file from its parts: the style, the data, the scripts and plotly.js, behind a policy that forbids any request.

plotly.js is taken from the installed plotly package. It is 4.8 MB of text, which would be nearly the whole page; compressed
and in base64 it is 2 MB, and every browser since 2023 unpacks it in some 50 ms.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from spp.errors import MissingExtraError
from spp.report.markup import tag, text

SCRIPTS = ("data", "numbers", "scale", "panels", "figure", "tooltip", "filter", "table", "explorer", "main")
"""The files of the page's script, in the order in which they are put together."""


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
    # found, not imported: its file is wanted, its Python takes half a second to load
    spec = find_spec("plotly")
    if spec is None or spec.origin is None:
        raise MissingExtraError("plotly", "report", purpose="an HTML report")
    raw = (Path(spec.origin).parent / "package_data" / "plotly.min.js").read_bytes()
    text = raw.decode("utf-8")
    notice = text.partition("*/")[0].removeprefix("/**") if text.startswith("/**") else "plotly.js"
    lines = (line.strip(" *") for line in notice.splitlines())
    # gzip writes the time into its header unless told another, and other bytes come each time
    packed = base64.b64encode(gzip.compress(raw, 9, mtime=0)).decode("ascii")
    return Bundle(". ".join(line for line in lines if line), text, packed)


def page(title: str, parts: dict[str, str], data: str, bundle: Bundle) -> str:
    """Return the whole page.

    Args:
        title: Of the page, in plain text.
        parts: HTML of ``header``, ``glance``, ``findings``, ``unmeasured`` and ``run``.
        data: The payload as JSON that is safe inside a ``script`` element.
        bundle: plotly.js.
    """
    theme = _asset("theme.js")
    # inside one function, so that nothing of it is global
    script = "\n".join(('(() => {\n"use strict";', *(_asset(f"{name}.js") for name in SCRIPTS), "})();"))
    head = "\n".join(
        (
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_policy(theme, script, bundle.text)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<meta name="generator" content="spp">',
            '<link rel="icon" href="data:,">',
            tag("title", text(f"{title} · spp")),
            tag("style", _asset("style.css")),
            tag("script", theme),
        )
    )
    body = _filled(_asset("body.html"), parts)
    tail = "\n".join(
        (
            tag("script", data, type="application/json", id="data"),
            # two hyphens would end the comment
            f"<!-- The next element holds, compressed: {bundle.notice.replace('--', '- -')} -->",
            tag("script", bundle.packed, type="text/plain", id="plotly"),
            tag("script", script),
        )
    )
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n{tail}\n</body>\n</html>\n'


def _filled(template: str, slots: dict[str, str]) -> str:
    """Put each slot in the place of its comment; in one pass, so that a slot's own text is never taken for a place."""
    pieces = template.split("<!-- slot: ")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition(" -->")
        filled += [slots[name], rest]
    return "".join(filled)


def _policy(*scripts: str) -> str:
    """Nothing is fetched from anywhere, and no script runs but these: also not one that a name would smuggle in."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _asset(name: str) -> str:
    return (files("spp.report") / "assets" / name).read_text(encoding="utf-8")
