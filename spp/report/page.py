"""One HTML file from its parts: the style, the data, the scripts and plotly.js, behind a policy that forbids any request."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from spp.report.library import Bundle
from spp.report.markup import tag, text

SCRIPTS = ("data", "numbers", "scale", "panels", "figure", "tooltip", "filter", "table", "explorer", "main")
"""The files of the page's script, in the order in which they are put together."""


def page(title: str, parts: dict[str, str], data: str, bundle: Bundle) -> str:
    """Return the whole page.

    Args:
        title: Of the page, in plain text.
        parts: HTML of ``header``, ``glance``, ``findings``, ``unmeasured`` and ``run``.
        data: The payload as JSON that is safe inside a ``script`` element.
        bundle: plotly.js.
    """
    theme, script = _asset("theme.js"), _script()
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
    slots = {name: parts[name] for name in ("header", "glance", "findings", "unmeasured", "run")}
    body = _filled(_asset("body.html"), slots)
    tail = "\n".join(
        (
            tag("script", data, type="application/json", id="data"),
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


def _script() -> str:
    """The page's own script: its files inside one function, so that nothing of it is global."""
    return "\n".join(('(() => {\n"use strict";', *(_asset(f"{name}.js") for name in SCRIPTS), "})();"))


def _asset(name: str) -> str:
    return (files("spp.report") / "assets" / name).read_text(encoding="utf-8")
