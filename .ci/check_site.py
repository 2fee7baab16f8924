"""Every picture, script, style and link of a built site leads to a file of it: ``python .ci/check_site.py SITE``."""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class References(HTMLParser):
    """What a page refers to, and the places on it that others can refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.places: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the tag names."""
        for name, value in attrs:
            if value and name in ("src", "href"):
                self.found.append(value)
            elif value and name in ("id", "name"):
                self.places.add(value)


def broken(site: Path) -> list[str]:
    """Each reference that leads nowhere, with the page it stands on; addresses of other sites are not looked up."""
    pages = {}
    for path in site.rglob("*.html"):
        pages[path.resolve()] = page = References()
        page.feed(path.read_text(encoding="utf-8"))
    wrong = []
    for path, page in pages.items():
        for reference in page.found:
            parts = urlsplit(reference)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            # the way back from source names an object by its module, which a page of public names has no place for
            placed = bool(parts.fragment) and target in pages and "_modules" not in path.parts
            if not target.is_file() or (placed and unquote(parts.fragment) not in pages[target].places):
                wrong.append(f"{path.relative_to(site.resolve())}: {reference}")
    return wrong


if __name__ == "__main__":
    found = broken(Path(sys.argv[1]))
    print(*found or ["every picture and link of the site leads to a file of it"], sep="\n")
    sys.exit(bool(found))
