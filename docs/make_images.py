"""The figures of the README, the tutorial and the page on training, made by what these say: ``python docs/make_images.py``.

The first is what ``spp analyze`` draws for the command at the head of the README; the others are what the blocks of
``tutorial.md`` save, and what the commands under "The thesis' figure" in ``training.md`` draw. Takes about a minute, and needs
the extra ``data``.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent
IMAGES = DOCS / "images"
README_RUN = ("analyze", "--model", "effnet_b0", "--norm", "none", "--quiet")


def blocks(page: Path) -> list[str]:
    """The Python blocks of a page, in order."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def run_blocks(page: Path) -> dict[str, object]:
    """Run the Python blocks of ``page`` one after the other in the current folder; what they leave behind is returned.

    A block that begins with ``# NAME.py`` is written to that file instead, as a reader would do.
    """
    names: dict[str, object] = {"__name__": "__main__"}
    sys.path.insert(0, str(Path.cwd()))
    try:
        for number, text in enumerate(blocks(page), 1):
            if file := re.match(r"# (\w+\.py)\n", text):
                Path(file[1]).write_text(text)
            else:
                exec(compile(text, f"{page.name}, block {number}", "exec"), names)
    finally:
        sys.path.remove(str(Path.cwd()))
    return names


def shown(page: Path) -> set[str]:
    """Names of the files in the folder of images that ``page`` shows."""
    return set(re.findall(r"\]\(images/([^)]+)\)", page.read_text()))


def commands(page: Path, heading: str) -> list[list[str]]:
    """The words after ``spp`` of each command line under a heading of ``page``."""
    section = page.read_text().split(f"# {heading}\n")[1].split("\n#")[0]
    return [shlex.split(line) for line in re.findall(r"^    spp (.*)$", section, re.MULTILINE)]


def keep(file: Path) -> None:
    """Put a figure into the folder of images."""
    from pictures import small_png  # beside this file

    small_png(file, IMAGES / file.name)


def main() -> None:
    """Make every figure anew."""
    import matplotlib

    matplotlib.use("Agg")
    from spp_cli.main import cli

    tutorial = DOCS / "tutorial.md"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        cli(README_RUN, standalone_mode=False)
        keep(Path("runs/effnet_b0-none/spp.png").rename("effnet_b0-none.png"))
        run_blocks(tutorial)
        for name in shown(tutorial):
            keep(Path(name))
        training = DOCS / "training.md"
        for words in commands(training, "The thesis' figure"):
            cli(words, standalone_mode=False)
        for name in shown(training):
            keep(Path(name))
        os.chdir(DOCS)


if __name__ == "__main__":
    main()
