"""HTML from data: everything that comes from a name, a message or a run is escaped here, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

from spp.errors import plain

_CODE = re.compile(r"`([^`]+)`")
_NUMBER = re.compile(r"\b[0-9][0-9.,]*(?:e[-+][0-9]+(?:-fold)?|-fold)\b")


def tag(name: str, *children: str, **attributes: object) -> str:
    """Return one element; ``children`` are HTML already, attribute values are escaped.

    ``class_`` and ``for_`` lose their underscore, other underscores become hyphens; attributes that are None are left out.
    """
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            words.append(f'{key.rstrip("_").replace("_", "-")}="{text(value)}"')
    return f"<{' '.join(words)}>{''.join(children)}</{name}>"


def text(value: object) -> str:
    """Return ``value`` as text that a browser shows as it is; what is no letter, as any name may hold, is escaped."""
    return escape(plain(value))


def prose(value: object) -> str:
    """Return a sentence, with what stands between backticks as code, and numbers like 1e-12 or 30-fold in one piece."""
    return _CODE.sub(r"<code>\1</code>", _NUMBER.sub(r'<span class="nowrap">\g<0></span>', text(value)))


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """Return a list of terms (plain text) and what they mean (HTML)."""
    return tag("dl", *(tag("div", tag("dt", text(term)), tag("dd", meaning)) for term, meaning in pairs))


def layer(name: object) -> str:
    """Return a button that shows the layer called ``name`` in the plot and in the table."""
    # browsers break lines at spaces alone, and names of layers have none
    shown = text(name).replace(".", ".<wbr>") or "the model itself"
    return tag("button", shown, type="button", class_="layer", data_layer=name, title="Show this layer")
