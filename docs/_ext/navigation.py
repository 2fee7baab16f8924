"""The navigation: which page stands in which group, and what a link out of the docs folder leads to.

``docs/index.md`` ends with ``<!-- navigation -->``, and every group becomes a table of contents there. A page that is in no
group stands under "More", so that a new one can be reached before anybody has thought about its place.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

GROUPS = {
    "First steps": ("install", "tutorial", "reading-a-plot", "figures", "gallery", "report"),
    "In use": ("rules", "benches", "watch", "training", "integrations", "extending", "studies", "theory"),
    "What is bundled": ("networks", "norms", "neuronwise"),
    "Reference": ("cli", "api", "statistics", "compatibility", "performance"),
    "The project": ("comparison", "contributing", "changes", "dev/design", "dev/lab-notes", "dev/structure"),
}
"""Pages by group, in order. A name without a page is left out: a group may be written down before its last page is."""

MARK = "<!-- navigation -->"
OUTSIDE = {"../CONTRIBUTING.md": "contributing.md", "../CHANGELOG.md": "changes.md"}
"""Files beside the docs folder that have a page of their own here; in the repository their links work as they are."""


def grouped(pages: set[str]) -> dict[str, list[str]]:
    """The groups that have pages, and those pages; ``index`` and pages in folders are in none."""
    named = {page for group in GROUPS.values() for page in group}
    groups = {title: [page for page in group if page in pages] for title, group in GROUPS.items()}
    groups["More"] = sorted(page for page in pages - named - {"index"} if "/" not in page)
    return {title: group for title, group in groups.items() if group}


def toctrees(pages: set[str]) -> str:
    """The groups as directives of MyST."""
    return "\n\n".join(
        "\n".join(["```{toctree}", ":hidden:", f":caption: {title}", "", *group, "```"])
        for title, group in grouped(pages).items()
    )


def _read(app: Sphinx, page: str, source: list[str]) -> None:
    text = source[0]
    for target, here in OUTSIDE.items():
        text = text.replace(f"]({target})", f"]({here})")
    text = re.sub(r"\[([^]]*)\]\(\.\./([^)]*\.ipynb)\)", r"{download}`\1 <../\2>`", text)
    if page == app.config.root_doc:
        text = text.replace(MARK, toctrees(set(app.env.found_docs)))
    source[0] = text


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
